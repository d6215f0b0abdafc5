// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `tests.list`: the one place that says which tests there are. A test that it names and that did
//! not run is a failure, and so is a test that ran and that it does not name.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{bail, Context, Result};

/// Where a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A cargo package's tests, on the host.
    Host,
    /// A test of the scripts that set up and build.
    Setup,
    /// Of the bindings, on the host, at compile time.
    Bindings,
    /// Of how the kernel's Rust code builds, on the host.
    Build,
    /// A KUnit suite, while the kernel boots.
    Kunit,
    /// A test of a guest binary.
    Vm,
    /// Of the kernel as a whole.
    Kernel,
}

const KINDS: &[(&str, Kind)] = &[
    ("host", Kind::Host),
    ("setup", Kind::Setup),
    ("bindings", Kind::Bindings),
    ("build", Kind::Build),
    ("kunit", Kind::Kunit),
    ("vm", Kind::Vm),
    ("kernel", Kind::Kernel),
];

/// An entry of the list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Test {
    pub kind: Kind,
    pub suite: String,
    /// Of a `vm` suite: which of its tests.
    pub name: Option<String>,
}

impl Test {
    pub fn new(kind: Kind, suite: &str, name: Option<&str>) -> Self {
        Self {
            kind,
            suite: suite.into(),
            name: name.map(Into::into),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = KINDS.iter().find(|(_, kind)| *kind == self.kind);
        let kind = kind.map_or("", |(name, _)| *name);
        write!(f, "{kind} {}", self.suite)?;
        self.name.iter().try_for_each(|name| write!(f, " {name}"))
    }
}

/// Which tests are asked for.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    text: String,
    only_in_booted_kernel: bool,
}

impl Selection {
    /// Those whose line in the list contains `text`; all, if it is empty.
    pub fn new(text: &str) -> Self {
        Self {
            text: text.trim().into(),
            only_in_booted_kernel: false,
        }
    }

    /// Of these, those that run in a kernel when it has booted.
    pub fn in_booted_kernel(self) -> Self {
        Self {
            only_in_booted_kernel: true,
            ..self
        }
    }

    /// Whether this one is.
    pub fn contains(&self, test: &Test) -> bool {
        let is_there = matches!(test.kind, Kind::Vm | Kind::Kernel);
        (is_there || !self.only_in_booted_kernel) && test.to_string().contains(&self.text)
    }
}

/// Reads the list.
///
/// # Errors
///
/// A line that says nothing sensible, or the same as another.
pub fn read(path: &Path) -> Result<Vec<Test>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    parse(&text).with_context(|| format!("in {}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Test>> {
    let mut tests: Vec<Test> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        if line.trim().is_empty() {
            continue;
        }
        let test = parse_line(line).with_context(|| format!("line {}", number + 1))?;
        if tests.contains(&test) {
            bail!("line {}: {test} is there twice", number + 1);
        }
        tests.push(test);
    }
    Ok(tests)
}

fn parse_line(line: &str) -> Result<Test> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let kind = KINDS.iter().find(|(name, _)| words.first() == Some(name));
    match (kind, &words[..]) {
        (Some((_, Kind::Vm)), [_, suite, name]) => Ok(Test::new(Kind::Vm, suite, Some(name))),
        (Some((_, Kind::Vm)), _) => bail!("vm takes a suite and a test"),
        (Some((_, kind)), [_, suite]) => Ok(Test::new(*kind, suite, None)),
        (Some((name, _)), _) => bail!("{name} takes one name"),
        (None, _) => bail!("a line starts with host, setup, bindings, build, kunit, vm or kernel"),
    }
}

/// What is wrong between the list and what ran, one sentence each.
pub fn differences(listed: &[Test], seen: &[Test]) -> Vec<String> {
    let listed: BTreeSet<&Test> = listed.iter().collect();
    let seen: BTreeSet<&Test> = seen.iter().collect();
    let did_not_run = listed
        .difference(&seen)
        .map(|test| format!("{test}: in tests.list, and did not run"));
    let not_listed = seen
        .difference(&listed)
        .map(|test| format!("{test}: ran, and is not in tests.list"));
    did_not_run.chain(not_listed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_kind() {
        let tests = parse(
            "# a comment\n\nhost kernel\nkunit rust_tlb  # ours\nvm abi refuses_flags\n\
             bindings layout\nkernel log\n",
        )
        .unwrap();
        let shown: Vec<String> = tests.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "host kernel",
                "kunit rust_tlb",
                "vm abi refuses_flags",
                "bindings layout",
                "kernel log"
            ]
        );
    }

    #[test]
    fn nonsense_is_refused_with_its_line() {
        for (text, line) in [
            ("guest abi", "line 1"),
            ("\nvm abi", "line 2"),
            ("vm abi a b", "line 1"),
            ("host", "line 1"),
            ("host a\nhost a", "line 2"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(line), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_selection_is_by_any_part_of_the_line() {
        let tests = parse("host a\nvm abi t\nvm abi u\n").unwrap();
        let count = |text| {
            let selection = Selection::new(text);
            tests.iter().filter(|test| selection.contains(test)).count()
        };
        assert_eq!(
            [count(""), count("vm abi"), count(" u "), count("x")],
            [3, 2, 1, 0]
        );
    }

    #[test]
    fn both_differences_are_named() {
        let listed = parse("host a\nvm s t\n").unwrap();
        let seen = parse("host a\nvm s u\n").unwrap();
        assert_eq!(
            differences(&listed, &seen),
            [
                "vm s t: in tests.list, and did not run",
                "vm s u: ran, and is not in tests.list",
            ]
        );
        assert!(differences(&listed, &listed).is_empty());
    }
}
