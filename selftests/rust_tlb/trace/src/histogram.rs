// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How many took how long, by powers of two. Few enough are recorded to keep all of them, so that
//! sums and medians are exact; a crate for histograms would round them, and draw no bars.

use std::fmt;

use rust_tlb_results::spread::median;

use crate::us;

/// Columns of the longest bar.
const WIDTH: u64 = 40;

/// Times in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    times: Vec<u64>,
}

impl Histogram {
    pub fn of(times: impl IntoIterator<Item = u64>) -> Self {
        let mut times: Vec<u64> = times.into_iter().collect();
        times.sort_unstable();
        Self { times }
    }

    pub fn len(&self) -> usize {
        self.times.len()
    }

    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    pub fn sum(&self) -> u64 {
        self.times.iter().sum()
    }

    /// The lower one; zero if there is none.
    pub fn median(&self) -> u64 {
        if self.is_empty() {
            return 0;
        }
        median(&self.times)
    }

    pub fn max(&self) -> u64 {
        self.times.last().copied().unwrap_or(0)
    }

    /// Upper ends in microseconds, without gaps, and how many lie below each.
    fn buckets(&self) -> Vec<(u64, u64)> {
        let bucket = |ns: &u64| (ns / 1000).checked_ilog2().map_or(0, |log| log + 1);
        let (Some(first), Some(last)) = (self.times.first(), self.times.last()) else {
            return Vec::new();
        };
        let count = |n| self.times.iter().filter(|ns| bucket(ns) == n).count() as u64;
        (bucket(first)..=bucket(last))
            .map(|n| (1 << n, count(n)))
            .collect()
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (nr, median, max) = (self.len(), us(self.median()), us(self.max()));
        writeln!(f, "{nr}, median {median} us, most {max} us")?;
        let buckets = self.buckets();
        let most = buckets.iter().map(|(_, count)| *count).max().unwrap_or(1);
        for (end, count) in buckets {
            let bar = "#".repeat((count * WIDTH).div_ceil(most) as usize);
            let line = format!("    < {end:>7} us {count:>6} {bar}");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_without_gaps() {
        let histogram = Histogram::of([999, 1000, 1999, 9000]);
        assert_eq!(
            histogram.buckets(),
            [(1, 1), (2, 2), (4, 0), (8, 0), (16, 1)]
        );
        assert_eq!(
            (histogram.median(), histogram.sum(), histogram.max()),
            (1000, 12998, 9000)
        );
    }

    #[test]
    fn nothing_is_no_bar() {
        assert_eq!(
            Histogram::default().to_string(),
            "0, median 0.0 us, most 0.0 us\n"
        );
    }

    #[test]
    fn the_longest_bar_is_full() {
        let shown = Histogram::of([500, 500, 2500]).to_string();
        let lines: Vec<&str> = shown.lines().collect();
        assert!(
            lines[1].ends_with(&"#".repeat(WIDTH as usize)),
            "{}",
            lines[1]
        );
        assert_eq!(lines[2], "    <       2 us      0");
        assert!(lines[3].ends_with(&"#".repeat(WIDTH as usize / 2)));
    }
}
