// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Makes results of what comes out of the machine while it runs the tests.

use crate::guest::{SUITE_ENDS, SUITE_STARTS};
use crate::kernel_log;
use crate::ktap::{Outcome, Reader, TestResult};
use crate::listener::Said;
use crate::output;
use crate::tally::Tally;
use crate::test_list::{Kind, Test};
use crate::vm::{Ended, Ending};

/// Turns what comes out of the machine into results.
pub struct Reading<'a> {
    tally: &'a mut Tally,
    kunit: Reader,
    /// Of the suite that runs, so far.
    kunit_cases: usize,
    suite: Option<Suite>,
    /// In seconds.
    suite_limit: u64,
    judge: kernel_log::Judge,
    complained: bool,
}

/// The suite that runs.
struct Suite {
    name: String,
    reader: Reader,
    any_failed: bool,
}

impl<'a> Reading<'a> {
    pub fn new(tally: &'a mut Tally, suite_limit: u64) -> Self {
        Self {
            tally,
            kunit: Reader::default(),
            kunit_cases: 0,
            suite: None,
            suite_limit,
            judge: kernel_log::Judge::default(),
            complained: false,
        }
    }

    /// Takes the next line that came out of the machine.
    pub fn said(&mut self, said: &Said) {
        match said {
            Said::Guest(line) => self.guest_line(line),
            Said::Kernel(line) => self.console_line(line),
        }
    }

    fn guest_line(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix(SUITE_STARTS) {
            output::note(&format!("suite {name}"));
            self.suite = Some(Suite {
                name: name.into(),
                reader: Reader::default(),
                any_failed: false,
            });
        } else if let Some(rest) = line.strip_prefix(SUITE_ENDS) {
            let mut words = rest.split(' ');
            let status = words.next().unwrap_or_default();
            output::note(&format!("  {} s", words.next().unwrap_or("?")));
            self.suite_ended(status);
        } else if let Some(suite) = &mut self.suite {
            match suite.reader.line(line) {
                Some(result) => {
                    suite.any_failed |= result.outcome == Outcome::Failed;
                    let test = Test::new(Kind::Vm, &suite.name, Some(&result.path.join("/")));
                    self.tally.record(test, &result.outcome);
                }
                None => show_diagnostics(line),
            }
        } else {
            println!("  {line}");
        }
    }

    /// A suite that failed has said so in its results. One that left some out, or ended badly
    /// without a word, is a failure of its own.
    fn suite_ended(&mut self, status: &str) {
        let Some(suite) = self.suite.take() else {
            return;
        };
        let why = match status {
            "124" | "137" => format!("was still running after {} s", self.suite_limit),
            _ => format!("ended with status {status}"),
        };
        let missing = suite.reader.missing();
        if missing > 0 || (status != "0" && !suite.any_failed) {
            let name = suite.name;
            self.tally.fail(format!(
                "vm {name}: {why}, {missing} tests without a result"
            ));
        }
    }

    fn console_line(&mut self, line: &str) {
        let text = kernel_log::without_stamp(line);
        if let Some(result) = self.kunit.line(text) {
            self.kunit_result(&result);
        }
        if self.judge.complaint(line).is_some() {
            if !self.complained {
                let during = self.suite.as_ref().map_or("no suite", |suite| &suite.name);
                println!("  kernel, about when {during} ran: {text}");
            }
            self.complained = true;
        }
    }

    fn kunit_result(&mut self, result: &TestResult) {
        match &result.path[..] {
            [suite] => {
                let verdict = if result.outcome == Outcome::Failed {
                    "FAILED "
                } else {
                    "ok     "
                };
                println!("  {verdict} kunit {suite}, {} tests", self.kunit_cases);
                self.kunit_cases = 0;
            }
            [suite, case @ ..] if !result.is_suite => {
                self.kunit_cases += 1;
                let whole = Test::new(Kind::Kunit, suite, None);
                self.tally
                    .record_quietly(&whole, &case.join("/"), &result.outcome);
            }
            _ => {}
        }
    }

    /// After the machine has gone: what it owes, and whether its kernel was content.
    pub fn finish(mut self, ended: &Ended) {
        let fine = ended.show_problems();
        if let Ending::Exited(97) = ended.ending {
            self.tally.fail("the module does not load".into());
        }
        let outcome = if fine {
            Outcome::Passed
        } else {
            Outcome::Failed
        };
        self.tally
            .record(Test::new(Kind::Kernel, "log", None), &outcome);
        if let Some(suite) = self.suite.take() {
            let name = suite.name;
            self.tally
                .fail(format!("vm {name}: the machine went down in it"));
        }
    }
}

/// A suite's `# …` lines are worth seeing; its plan and version are not.
fn show_diagnostics(line: &str) {
    if !line.starts_with("KTAP version") && !line.starts_with("1..") {
        println!("          {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_list::Selection;
    use std::path::PathBuf;

    /// What becomes of these lines; those of the kernel start with `[`.
    fn read(lines: &str, ending: Ending) -> Tally {
        read_selected("", lines, ending)
    }

    fn read_selected(text: &str, lines: &str, ending: Ending) -> Tally {
        let mut tally = Tally::of(Selection::new(text));
        let mut reading = Reading::new(&mut tally, 180);
        let mut console = Vec::new();
        for line in lines.lines() {
            if line.starts_with('[') {
                console.push(line.to_string());
                reading.said(&Said::Kernel(line.into()));
            } else {
                reading.said(&Said::Guest(line.into()));
            }
        }
        reading.finish(&Ended {
            ending,
            console,
            console_path: PathBuf::from("boot.log"),
        });
        tally
    }

    #[test]
    fn a_good_run_has_kunit_suites_and_the_log() {
        let tally = read(
            "[ 1.0] KTAP version 1\n[ 1.0] 1..1\n[ 1.0]     KTAP version 1\n\
             [ 1.0]     # Subtest: ours\n[ 1.0]     1..1\n[ 1.0]     ok 1 case\n[ 1.0] ok 1 ours\n\
             # suite starts: abi\nKTAP version 1\n1..2\nok 1 a\nok 2 b # SKIP why\n\
             # suite ends: 0 3 abi\n",
            Ending::Exited(0),
        );
        assert_eq!(tally.so_far(), (3, &[][..], 1));
    }

    #[test]
    fn a_complaint_fails_a_run_whose_tests_passed() {
        let tally = read(
            "# suite starts: abi\nKTAP version 1\n1..1\nok 1 a\n[ 9.0] BUG: Bad rss-counter state\n\
             # suite ends: 0 3 abi\n",
            Ending::Exited(0),
        );
        assert_eq!(tally.so_far(), (1, &["kernel log".to_string()][..], 0));
    }

    #[test]
    fn a_complaint_counts_whatever_is_selected() {
        let tally = read_selected(
            "vm abi a",
            "# suite starts: abi\nKTAP version 1\n1..1\nok 1 a\n[ 9.0] BUG: Bad rss-counter state\n\
             # suite ends: 0 3 abi\n",
            Ending::Exited(0),
        );
        assert_eq!(tally.so_far(), (1, &["kernel log".to_string()][..], 0));
    }

    #[test]
    fn a_suite_that_leaves_tests_out_has_failed() {
        let tally = read(
            "# suite starts: abi\nKTAP version 1\n1..3\nok 1 a\n# suite ends: 124 180 abi\n",
            Ending::Exited(0),
        );
        let why = "vm abi: was still running after 180 s, 2 tests without a result";
        assert_eq!(tally.so_far(), (2, &[why.to_string()][..], 0));
    }

    #[test]
    fn a_crash_names_the_suite() {
        let tally = read(
            "# suite starts: abi\nKTAP version 1\n1..1\n[ 9.0] Kernel panic - not syncing\n",
            Ending::Crashed,
        );
        let (passed, failed, _) = tally.so_far();
        assert_eq!(passed, 0);
        assert_eq!(
            failed,
            ["kernel log", "vm abi: the machine went down in it"]
        );
    }
}
