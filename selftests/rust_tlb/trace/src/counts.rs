// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What `perf stat` printed.

use rust_tlb_results::text;

/// Events, and how often each happened; [`None`] if the machine cannot count it.
#[derive(Clone, Debug, Default)]
pub struct Counts(Vec<(String, Option<u64>)>);

impl Counts {
    /// Reads perf's table.
    pub fn read(text: &str) -> Self {
        Self(text.lines().filter_map(line).collect())
    }

    /// How often `event` happened.
    pub fn of(&self, event: &str) -> Option<u64> {
        let found = self.0.iter().find(|(name, _)| name == event);
        found.and_then(|(_, count)| *count)
    }
}

/// `1,234      tlb:tlb_flush    # ...`, or `<not supported>      instructions`.
fn line(text: &str) -> Option<(String, Option<u64>)> {
    let text = text.trim();
    let (count, rest) = match text.strip_prefix("<not ") {
        Some(rest) => (None, rest.split_once('>')?.1),
        None => {
            let (number, rest) = text.split_once(char::is_whitespace)?;
            (Some(number.replace(',', "").parse().ok()?), rest)
        }
    };
    let name = rest.split_whitespace().next()?;
    Some((name.into(), count))
}

/// A line for each event that anyone counted, a column for each of them.
pub fn table(counted: &[(&str, Counts)]) -> String {
    let mut events: Vec<&String> = Vec::new();
    for (name, _) in counted.iter().flat_map(|(_, counts)| &counts.0) {
        if !events.contains(&name) {
            events.push(name);
        }
    }
    let heads = counted.iter().map(|(name, _)| (*name).into());
    let row = |event: &String| {
        let cells = counted.iter().map(|(_, counts)| match counts.of(event) {
            Some(count) => count.to_string(),
            None => "-".into(),
        });
        [event.clone()].into_iter().chain(cells).collect()
    };
    let heads = ["event".into()].into_iter().chain(heads).collect();
    text::table(heads, events.into_iter().map(row)) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "# started on Sat Nov 21\n\n Performance counter stats for 'system wide':\n\n\
        \x20       12,581      tlb:tlb_flush\n\
        \x20             460      context-switches     #    2.1 K/sec\n\
        \x20  <not supported>      instructions\n\n       0.250911854 seconds time elapsed\n";

    #[test]
    fn counts_are_read() {
        let counts = Counts::read(STAT);
        assert_eq!(counts.of("tlb:tlb_flush"), Some(12_581));
        assert_eq!(counts.of("context-switches"), Some(460));
        assert_eq!(counts.of("instructions"), None);
        assert_eq!(counts.0.len(), 3, "{counts:?}");
    }

    #[test]
    fn every_event_has_a_line() {
        let counted = [("page", Counts::read(STAT)), ("zap", Counts::default())];
        let table = table(&counted);
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(table.contains("tlb:tlb_flush     12581    -\n"), "{table}");
    }
}
