// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Reads KTAP (`Documentation/dev-tools/ktap.rst`): from our guest binaries, and from the kernel's
//! log for KUnit.

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed,
    /// With the reason given.
    Skipped(String),
}

/// One result line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestResult {
    /// Names of the suites around it and its own, outermost first.
    pub path: Vec<String>,
    pub outcome: Outcome,
    /// Whether other results are nested in it.
    pub is_suite: bool,
}

/// Reads a log line by line.
#[derive(Default)]
pub struct Reader {
    /// For each level of nesting that is open: its suite's name, as far as known.
    open: Vec<Level>,
}

#[derive(Default)]
struct Level {
    indent: usize,
    name: Option<String>,
    planned: Option<usize>,
    seen: usize,
}

impl Reader {
    /// Takes the next line; returns the result that it states, if it states one. Anything that is
    /// not KTAP is passed over.
    pub fn line(&mut self, line: &str) -> Option<TestResult> {
        let text = line.trim_start_matches(' ');
        let indent = line.len() - text.len();
        if text.starts_with("KTAP version") || text.starts_with("TAP version") {
            self.enter(indent);
        } else if let Some(name) = text.strip_prefix("# Subtest: ") {
            self.level(indent).name = Some(name.trim_end().into());
        } else if let Some(count) = text.strip_prefix("1..") {
            self.level(indent).planned = count.trim_end().parse().ok();
        } else if let Some((passed, rest)) = result_line(text) {
            return Some(self.result(indent, passed, rest));
        }
        None
    }

    /// Whether the outermost level has promised results that did not come.
    pub fn missing(&self) -> usize {
        self.open.first().map_or(0, |level| {
            level.planned.unwrap_or(0).saturating_sub(level.seen)
        })
    }

    fn enter(&mut self, indent: usize) {
        self.open.retain(|level| level.indent < indent);
        self.open.push(Level {
            indent,
            ..Level::default()
        });
    }

    fn level(&mut self, indent: usize) -> &mut Level {
        if !self.open.iter().any(|level| level.indent == indent) {
            self.enter(indent);
        }
        let at = self.open.iter().position(|level| level.indent == indent);
        &mut self.open[at.expect("entered above")]
    }

    fn result(&mut self, indent: usize, passed: bool, rest: &str) -> TestResult {
        let is_suite = self.open.last().is_some_and(|level| level.indent > indent);
        self.open.retain(|level| level.indent <= indent);
        self.level(indent).seen += 1;
        let (name, outcome) = name_and_outcome(passed, rest);
        let mut path: Vec<String> = self.open.iter().filter_map(|l| l.name.clone()).collect();
        path.push(name);
        TestResult {
            path,
            outcome,
            is_suite,
        }
    }
}

/// Splits `ok 3 - name # SKIP why` after its number.
fn result_line(text: &str) -> Option<(bool, &str)> {
    let (passed, rest) = match text.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, text.strip_prefix("ok ")?),
    };
    let (number, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    number.trim_end().parse::<usize>().ok()?;
    Some((passed, rest))
}

fn name_and_outcome(passed: bool, rest: &str) -> (String, Outcome) {
    let (name, directive) = rest.split_once('#').unwrap_or((rest, ""));
    let name = name.trim().trim_start_matches("- ").to_string();
    let directive = directive.trim();
    let outcome = match directive.get(..4) {
        Some(skip) if skip.eq_ignore_ascii_case("skip") => {
            Outcome::Skipped(directive[4..].trim().into())
        }
        _ if passed => Outcome::Passed,
        _ => Outcome::Failed,
    };
    (name, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<TestResult>, usize) {
        let mut reader = Reader::default();
        let results = text.lines().filter_map(|line| reader.line(line)).collect();
        (results, reader.missing())
    }

    #[test]
    fn flat_results_with_all_outcomes() {
        let (results, missing) =
            read("KTAP version 1\n1..4\n# hello\nok 1 a\nnot ok 2 b\nok 3 c # SKIP no such CPU\n");
        let flat: Vec<_> = results
            .iter()
            .map(|r| (r.path.join("/"), r.outcome.clone()))
            .collect();
        assert_eq!(
            flat,
            [
                ("a".into(), Outcome::Passed),
                ("b".into(), Outcome::Failed),
                ("c".into(), Outcome::Skipped("no such CPU".into())),
            ]
        );
        assert_eq!(missing, 1);
    }

    #[test]
    fn nested_results_carry_their_suites() {
        let (results, missing) = read(
            "KTAP version 1\n1..2\n    KTAP version 1\n    # Subtest: rust_tlb\n    1..2\n    \
             ok 1 first\n    # first: a note\n    not ok 2 second\nnot ok 1 rust_tlb\n    \
             KTAP version 1\n    # Subtest: other\n    1..1\n    ok 1 only\nok 2 other\n",
        );
        let paths: Vec<_> = results
            .iter()
            .map(|r| (r.path.join("/"), r.is_suite))
            .collect();
        assert_eq!(
            paths,
            [
                ("rust_tlb/first".into(), false),
                ("rust_tlb/second".into(), false),
                ("rust_tlb".into(), true),
                ("other/only".into(), false),
                ("other".into(), true),
            ]
        );
        assert_eq!(missing, 0);
    }

    #[test]
    fn prose_is_not_a_result() {
        let (results, _) = read("ok then\nnot ok at all\nokay 1\nok\n");
        assert_eq!(results, []);
    }

    #[test]
    fn a_name_may_have_a_dash_before_it() {
        let (results, _) = read("ok 1 - dashed name\n");
        assert_eq!(results[0].path, ["dashed name"]);
    }
}
