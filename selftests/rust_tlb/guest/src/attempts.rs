// SPDX-License-Identifier: GPL-2.0

//! Negative controls: attempts to catch a rule that is broken on purpose.
//!
//! An attempt that something spoilt says nothing, and is made again. Of those that count, each has
//! to catch it.

use anyhow::{bail, ensure, Result};

/// What an attempt came to.
#[derive(Debug)]
pub enum Attempt {
    /// The broken rule was noticed.
    Caught,
    /// Not noticed, and no wonder: see [`crate::stillness`].
    Spoilt,
    /// Not noticed, without an excuse.
    Missed(String),
}

impl Attempt {
    /// Judges an attempt; `undisturbed` is whether it counts if nothing was noticed.
    pub fn judge(caught: bool, undisturbed: bool, found: impl FnOnce() -> String) -> Self {
        match (caught, undisturbed) {
            (true, _) => Self::Caught,
            (false, false) => Self::Spoilt,
            (false, true) => Self::Missed(found()),
        }
    }
}

/// Attempts of which one at least has to count: a rule that is never broken spoils all of them.
const MAX_ATTEMPTS_PER_RUN: u32 = 400;

/// Makes attempts until `nr` of them count, and demands that each of those is a catch.
pub fn caught_every_time(nr: u32, mut attempt: impl FnMut() -> Result<Attempt>) -> Result<()> {
    let (mut nr_caught, mut nr_spoilt) = (0, 0);
    while nr_caught < nr {
        match attempt()? {
            Attempt::Caught => nr_caught += 1,
            Attempt::Spoilt => nr_spoilt += 1,
            Attempt::Missed(found) => bail!("run {nr_caught} found nothing: {found}"),
        }
        ensure!(
            nr_spoilt < MAX_ATTEMPTS_PER_RUN * (nr_caught + 1),
            "only {nr_caught} of {} attempts count",
            nr_caught + nr_spoilt
        );
    }
    println!("# {nr_caught} of {nr_caught} runs, {nr_spoilt} more were spoilt");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spoilt_is_made_again() {
        let mut nr = 0;
        caught_every_time(3, || {
            nr += 1;
            Ok(Attempt::judge(nr % 2 == 0, false, String::new))
        })
        .unwrap();
        assert_eq!(nr, 6);
    }

    #[test]
    fn one_that_counts_and_finds_nothing_is_enough() {
        let mut nr = 0;
        let missed = caught_every_time(3, || {
            nr += 1;
            Ok(Attempt::judge(nr < 3, true, || "silence".into()))
        });
        let error = missed.unwrap_err().to_string();
        assert_eq!(error, "run 2 found nothing: silence");
    }

    #[test]
    fn if_all_are_spoilt_that_is_a_failure() {
        assert!(caught_every_time(3, || Ok(Attempt::Spoilt)).is_err());
    }
}
