// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the guest's bench says: lines of a word and a JSON object.

use anyhow::{Context, Result};
use rust_tlb_results::said::{
    Check, Headline, Hooks, Moves, PageTables, Row, Scans, Stale, Told, Victims, PROGRESS,
};
use serde::de::DeserializeOwned;

/// All that was said.
#[derive(Default)]
pub struct Said {
    /// Which part of the bench speaks.
    pub part: &'static str,
    /// Where time passes.
    pub timed: Vec<Row>,
    /// Where instructions are counted.
    pub counted: Vec<Row>,
    /// And in which part of the bench.
    pub checks: Vec<(&'static str, Check)>,
    pub stale: Vec<Stale>,
    pub victims: Vec<Victims>,
    pub headline: Vec<Headline>,
    /// Moves where time passes, and where instructions are counted.
    pub moves: [Vec<Moves>; 2],
    pub page_tables: Vec<PageTables>,
    pub hooks: Vec<Hooks>,
    /// Scans of Rust Binder's shrinker, likewise.
    pub binder: [Vec<Scans>; 2],
}

/// What a line is.
#[derive(Debug, PartialEq)]
pub enum Heard<'a> {
    /// A result, which was kept.
    Result,
    /// So many of so many are done, and which was the last.
    Progress(u64, u64, &'a str),
    /// Something for people.
    Text(&'a str),
}

impl Said {
    /// Takes a line in. `counted` is how the clock runs.
    pub fn hear<'a>(&mut self, line: &'a str, counted: bool) -> Result<Heard<'a>> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            Row::WORD if counted => keep(&mut self.counted, rest),
            Row::WORD => keep(&mut self.timed, rest),
            Check::WORD => read(rest).map(|check| self.checks.push((self.part, check))),
            Stale::WORD => keep(&mut self.stale, rest),
            Moves::WORD => keep(&mut self.moves[usize::from(counted)], rest),
            Scans::WORD => keep(&mut self.binder[usize::from(counted)], rest),
            Victims::WORD => keep(&mut self.victims, rest),
            Headline::WORD => keep(&mut self.headline, rest),
            PageTables::WORD => keep(&mut self.page_tables, rest),
            Hooks::WORD => keep(&mut self.hooks, rest),
            PROGRESS => return progress(rest),
            _ => return Ok(Heard::Text(line)),
        }
        .with_context(|| format!("in the line {line}"))?;
        Ok(Heard::Result)
    }
}

fn keep<T: DeserializeOwned>(all: &mut Vec<T>, text: &str) -> Result<()> {
    all.push(read(text)?);
    Ok(())
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T> {
    Ok(serde_json::from_str(text)?)
}

fn progress(text: &str) -> Result<Heard<'_>> {
    let mut words = text.splitn(3, ' ');
    let mut number = || words.next().unwrap_or_default().parse();
    let (done, all) = (number()?, number()?);
    Ok(Heard::Progress(done, all, words.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_has_its_place() {
        let mut said = Said::default();
        let check = r#"CHECK {"what":"x","ours":1,"kernels":1,"agree":true}"#;
        assert_eq!(said.hear(check, false).unwrap(), Heard::Result);
        assert_eq!(said.checks.len(), 1);
        let progress = said.hear("PROGRESS 3 7 pages: 8", false).unwrap();
        assert_eq!(progress, Heard::Progress(3, 7, "pages: 8"));
        assert_eq!(said.hear("hello", false).unwrap(), Heard::Text("hello"));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let mut said = Said::default();
        for line in [
            "ROW {}",
            "CHECK {",
            r#"CHECK {"what":"x","ours":1,"kernels":1,"agree":true,"more":1}"#,
            "PROGRESS 1",
        ] {
            assert!(said.hear(line, false).is_err(), "{line}");
        }
    }
}
