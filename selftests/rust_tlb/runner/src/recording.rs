// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Records, in the machine, what the demo does by each strategy, and brings the recordings out.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, ensure, Result};

use crate::guest;
use crate::listener::Said;
use crate::places::Places;
use crate::vm::{Ending, Machine, Session};

const DEMO: &str = "rust-tlb-demo";
const LIMIT: Duration = Duration::from_secs(300);

/// The strategies, in the order of the tables.
pub const STRATEGIES: [&str; 5] = ["page", "zap", "unmap_mapping", "broadcast", "precise"];

/// What is recorded of each strategy, and by which script.
pub struct Recorder {
    /// Names the session, and the folder in `build/`.
    pub name: &'static str,
    /// In the folder `trace/scripts`, with its arguments. It prints the recording.
    pub script: &'static [&'static str],
    /// Pages of an unmap.
    pub nr_pages: u32,
    pub nr_rounds: u32,
}

/// What a script printed.
pub struct Recorded {
    pub strategy: &'static str,
    pub text: String,
    /// Where it is kept.
    pub path: PathBuf,
}

impl Recorder {
    /// Boots once, and records one strategy after the other.
    ///
    /// # Errors
    ///
    /// If one of them did not end well, or the kernel complained.
    pub fn record(&self, machine: &Machine, places: &Places) -> Result<Vec<Recorded>> {
        let session = Session {
            name: self.name.into(),
            script: self.guest_script(machine, places),
            limit: LIMIT,
        };
        let mut said = Vec::new();
        let ended = machine.run(&session, places, &mut |line| {
            if let Said::Guest(line) = line {
                said.push(line.clone());
            }
        })?;
        let clean = ended.show_problems();
        let recorded = STRATEGIES
            .into_iter()
            .map(|strategy| self.keep(strategy, &said, places))
            .collect::<Result<_>>()?;
        ensure!(ended.ending == Ending::Exited(0), "{:?}", ended.ending);
        ensure!(clean, "the kernel complained");
        Ok(recorded)
    }

    fn guest_script(&self, machine: &Machine, places: &Places) -> String {
        let mut script = guest::load(Some(&machine.kernel.module()));
        for strategy in STRATEGIES {
            let command: Vec<String> = self
                .command(strategy, places)
                .iter()
                .map(|word| guest::quote(word))
                .collect();
            let command = command.join(" ");
            script += &format!(
                "echo '{}{strategy}'\n{command} </dev/null 2>/tmp/errors\nstatus=$?\n\
                 echo \"{}$status {strategy}\"\n[ $status = 0 ] || cat /tmp/errors\n",
                guest::SUITE_STARTS,
                guest::SUITE_ENDS,
            );
        }
        script
    }

    fn command(&self, strategy: &str, places: &Places) -> Vec<String> {
        let script = places
            .workspace()
            .join("trace/scripts")
            .join(self.script[0]);
        let demo = places.bin.join(DEMO);
        let mut words = vec!["bash".into(), show(&script)];
        words.extend(self.script[1..].iter().map(|word| word.to_string()));
        words.extend([show(&demo), "--count-only".into()]);
        for (option, value) in [
            ("--strategy", strategy),
            ("--mapped-by", "processes"),
            ("--pages", &self.nr_pages.to_string()),
            ("--rounds", &self.nr_rounds.to_string()),
        ] {
            words.extend([option.into(), value.into()]);
        }
        words
    }

    /// Writes down what was said between the two marks.
    fn keep(&self, strategy: &'static str, said: &[String], places: &Places) -> Result<Recorded> {
        let text = between(strategy, said)?;
        let folder = places.out.join("trace");
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{}-{strategy}.txt", self.name));
        fs::write(&path, &text)?;
        Ok(Recorded {
            strategy,
            text,
            path,
        })
    }
}

/// What was said while one strategy was recorded; an error, with the last of it, if that failed.
fn between(strategy: &str, said: &[String]) -> Result<String> {
    let starts = format!("{}{strategy}", guest::SUITE_STARTS);
    let ended = |status: &str| format!("{}{status} {strategy}", guest::SUITE_ENDS);
    let mut lines = said.iter().skip_while(|line| **line != starts).skip(1);
    let mut text = String::new();
    for line in lines.by_ref() {
        if *line == ended("0") {
            return Ok(text);
        }
        if line.starts_with(guest::SUITE_ENDS) {
            break;
        }
        text += line;
        text.push('\n');
    }
    let why: Vec<&str> = lines.take(5).map(String::as_str).collect();
    bail!("{strategy} was not recorded: {}", why.join("; "))
}

/// Where a file is, as the user would type it.
pub fn shown(path: &Path, places: &Places) -> String {
    show(path.strip_prefix(&places.top).unwrap_or(path))
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<String> {
        text.lines().map(String::from).collect()
    }

    #[test]
    fn what_is_between_the_marks_is_the_recording() {
        let said = said("x\n# suite starts: zap\na\nb\n# suite ends: 0 zap\ny\n");
        assert_eq!(between("zap", &said).unwrap(), "a\nb\n");
        assert!(between("page", &said).is_err());
    }

    #[test]
    fn a_failure_is_told() {
        let said =
            said("# suite starts: zap\na\n# suite ends: 1 zap\nno perf\n# suite starts: x\n");
        let error = between("zap", &said).unwrap_err().to_string();
        assert!(error.contains("no perf"), "{error}");
    }
}
