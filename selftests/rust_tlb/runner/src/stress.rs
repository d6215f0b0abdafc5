// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Stress, for as long as one likes: the guest's binary does it, in a session of its own.

use std::time::Duration;

use crate::guest;
use crate::output;
use crate::places::Places;
use crate::vm::{Machine, Session};

const BINARY: &str = "rust-tlb-stress";
/// Seconds, if nothing else is asked for.
const DURATION: u64 = 600;
const MAX_DURATION: u64 = 7 * 24 * 3600;
/// Seconds that the machine may take beside that, to boot and to end.
const MARGIN: u64 = 180;

/// What replays the choices of an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(Option<u64>);

impl Seed {
    /// `make` hands on `SEED=` when it is not set.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self(None)),
            _ => match text.parse() {
                Ok(seed) => Ok(Self(Some(seed))),
                Err(_) => Err("SEED is a number, as an earlier run printed it".into()),
            },
        }
    }
}

/// `make` hands on `DURATION=` when it is not set.
pub fn parse_duration(text: &str) -> Result<u64, String> {
    match text {
        "" => Ok(DURATION),
        _ => match text.parse() {
            Ok(duration @ 1..=MAX_DURATION) => Ok(duration),
            _ => Err(format!(
                "DURATION is a number of seconds from 1 to {MAX_DURATION}"
            )),
        },
    }
}

/// A session of `duration` seconds.
pub fn session(machine: &Machine, places: &Places, duration: u64, seed: Seed) -> Session {
    output::step(&format!("{duration} s of stress"));
    let binary = places.bin.join(BINARY).display().to_string();
    let mut command = vec![binary, "--duration".into(), duration.to_string()];
    if let Some(seed) = seed.0 {
        command.extend(["--seed".into(), seed.to_string()]);
    }
    Session {
        name: "stress".into(),
        script: guest::command_script(Some(&machine.kernel.module()), &command),
        limit: Duration::from_secs(duration + MARGIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_is_chosen() {
        assert_eq!(parse_duration(""), Ok(DURATION));
        assert_eq!(parse_duration("60"), Ok(60));
        assert!(parse_duration("0").is_err());
        assert!(parse_duration("1 min").is_err());
        assert_eq!(Seed::parse(""), Ok(Seed(None)));
        assert_eq!(Seed::parse("0"), Ok(Seed(Some(0))));
        assert!(Seed::parse("-1").is_err());
    }
}
