// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The median of some values, and how far they are apart.
//!
//! There is one median here, the lower one: of an even number of values, the smaller of the two in
//! the middle. So it is always a value that was measured, and half a flush round is never reported.

use serde::{Deserialize, Serialize};

/// The median of some values, their least and their greatest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// # Panics
    ///
    /// If there are no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let sorted = sorted(values);
        Self {
            median: median(&sorted),
            min: sorted[0],
            max: sorted[sorted.len() - 1],
        }
    }
}

/// Puts values in order, for [`quantile`] and [`median`].
pub fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The smallest value that has at least half of all at or below it.
///
/// # Panics
///
/// If there are no values.
pub fn median<T: Copy>(sorted: &[T]) -> T {
    quantile(sorted, 0.5)
}

/// The smallest value that has at least the part `q` of all at or below it.
///
/// # Panics
///
/// If there are no values.
pub fn quantile<T: Copy>(sorted: &[T], q: f64) -> T {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_of_few_values() {
        let spread = |values: &[f64]| {
            let Spread { median, min, max } = Spread::of(values.iter().copied());
            [median, min, max]
        };
        assert_eq!(spread(&[3.0]), [3.0, 3.0, 3.0]);
        assert_eq!(spread(&[5.0, 1.0, 2.0]), [2.0, 1.0, 5.0]);
    }

    /// Not the upper one of the two in the middle, nor what lies between them.
    #[test]
    fn the_median_of_an_even_number_is_the_lower_one() {
        assert_eq!(median(&[1, 2]), 1);
        assert_eq!(median(&[1, 2, 3, 4]), 2);
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).median, 2.0);
    }

    #[test]
    fn the_99th_percentile_of_few_is_the_greatest() {
        let values: Vec<u64> = (1..=200).collect();
        assert_eq!(quantile(&values, 0.99), 198);
        assert_eq!(quantile(&values[..15], 0.99), 15);
    }
}
