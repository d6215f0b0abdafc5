// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What was aimed at, and whether it was met.

use rust_tlb_results::names::Layout;
use rust_tlb_results::written::{Row, Target};

/// Pages at which a batch is compared.
const MANY: u64 = 512;
/// Axes on which one thing is other than elsewhere.
const PFNMAP: &str = "pfnmap";
const BYSTANDERS: &str = "bystanders";
const FOLIOS: &str = "folios";
const PFN_FOLIOS: &str = "pfn_folios";
const PFN_BUNDLES: &str = "pfn_bundles";

/// All aims.
pub fn judge(rows: &[Row]) -> Vec<Target> {
    let most_rounds = rows.iter().filter(|row| row.strategy == "broadcast");
    let most_rounds = most_rounds.map(|row| row.rounds_max).max();
    let on = |axis, layout, nr| Place {
        rows,
        axis,
        layout,
        nr,
    };
    let of = |layout, nr| on("pages", layout, nr);
    let mut targets = vec![
        target(
            "flush rounds of a broadcast, the most of all numbers of pages, processes and CPUs",
            1.0,
            most_rounds.map(|rounds| rounds as f64),
        ),
        of(Layout::Scattered, MANY).compare("broadcast", "zap", 0.5),
        of(Layout::Contiguous, MANY).compare("broadcast", "unmap_mapping", 1.05),
        of(Layout::Contiguous, 1).compare("broadcast", "zap", 1.0),
        of(Layout::Contiguous, 1).compare("precise", "zap", 1.0),
    ];
    targets.extend(EXACT.iter().flat_map(|place| place.judge(rows)));
    // Only the full bench has these.
    for (axis, aim) in [(FOLIOS, 1.0), (PFN_FOLIOS, 0.5)] {
        if rows.iter().any(|row| row.axis == axis) {
            targets.push(on(axis, Layout::Contiguous, MANY).compare(
                "broadcast",
                "unmap_mapping",
                aim,
            ));
        }
    }
    if rows.iter().any(|row| row.axis == PFNMAP) {
        targets.push(on(PFNMAP, Layout::Contiguous, MANY).compare(
            "broadcast",
            "unmap_mapping",
            0.5,
        ));
        targets.push(of(Layout::Contiguous, MANY).with_bystanders("broadcast"));
    }
    if rows.iter().any(|row| row.axis == PFN_BUNDLES) {
        targets
            .push(on(PFNMAP, Layout::Contiguous, MANY).with_bundles("broadcast", "unmap_mapping"));
    }
    targets
}

/// Where the ring is to be both: one round, and exact.
struct Exact {
    what: &'static str,
    axis: &'static str,
    nr_mms: u64,
    nr_pages: u64,
}

const EXACT: [Exact; 3] = [
    Exact {
        what: "4 processes, 8 scattered pages",
        axis: "exact",
        nr_mms: 4,
        nr_pages: 8,
    },
    Exact {
        what: "32 pages over a gigabyte",
        axis: "exact",
        nr_mms: 1,
        nr_pages: 32,
    },
    Exact {
        what: "4 processes, 128 contiguous pages, ceiling at 256",
        axis: "exact_256",
        nr_mms: 4,
        nr_pages: 128,
    },
];

/// Translations of the victim that are looked at.
const NR_HOT: f64 = 64.0;

impl Exact {
    fn judge(&self, rows: &[Row]) -> [Target; 3] {
        let is_here = |row: &&Row| {
            row.strategy == "ring"
                && row.axis == self.axis
                && (row.nr_mms, row.nr_pages) == (self.nr_mms, self.nr_pages)
        };
        let row = rows.iter().find(is_here);
        let aim = |what: &str, aim: f64, value: fn(&Row) -> f64| {
            let name = format!("ring, {}: {what}", self.what);
            target(&name, aim, row.map(value))
        };
        [
            aim("rounds", 1.0, |row| row.rounds as f64),
            aim("full flushes here", 0.0, |row| {
                row.local_full_flushes as f64
            }),
            aim("of 64 hot translations, those lost", 0.0, |row| {
                (1.0 - row.victim_translations_kept) * NR_HOT
            }),
        ]
    }
}

pub fn target(name: &str, aim: f64, measured: Option<f64>) -> Target {
    Target {
        name: name.into(),
        aim,
        measured,
        met: measured.is_some_and(|measured| measured <= aim),
        measured_own: None,
        measured_with_release: None,
    }
}

/// Whether instructions are judged with what all strategies of the device do beside unmapping and
/// flushing. Both are told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Release {
    Counts,
    IsLeftOut,
}

/// Instructions per page of one row as a part of another one's. Of the least of the rounds, in which
/// no timer ticked: a tick is more than what is compared.
fn instructions(what: &str, aim: f64, judged: Release, pair: Option<(&Row, &Row)>) -> Target {
    let ratio = |value: fn(&Row) -> f64| pair.map(|(ours, theirs)| value(ours) / value(theirs));
    let with = ratio(|row| row.instructions_per_page_min);
    let own = ratio(Row::own_instructions_per_page);
    let (how, measured) = match judged {
        Release::Counts => ("with", with),
        Release::IsLeftOut => ("without", own),
    };
    let name = format!("instructions per page {how} the release, {what}");
    Target {
        measured_own: own,
        measured_with_release: with,
        ..target(&name, aim, measured)
    }
}

/// Where two strategies are compared: in one process, all CPUs busy.
struct Place<'a> {
    rows: &'a [Row],
    axis: &'static str,
    layout: Layout,
    nr: u64,
}

impl Place<'_> {
    fn compare(&self, ours: &str, theirs: &str, aim: f64) -> Target {
        let pages = match self.nr {
            1 => "1 page".into(),
            nr => format!("{nr} {} pages", self.layout),
        };
        // Where it is said how they are mapped, what is aimed at is the unmap by itself.
        let (how, judged) = match self.axis {
            PFNMAP => (" by number", Release::IsLeftOut),
            FOLIOS => (" in folios", Release::IsLeftOut),
            PFN_FOLIOS => (" in folios by number", Release::IsLeftOut),
            _ => ("", Release::Counts),
        };
        let what = format!("{pages}{how}: {ours} / {theirs}");
        let pair = self.row(ours).zip(self.row(theirs));
        instructions(&what, aim, judged, pair)
    }

    /// What mappings cost that have nothing to do with the pages.
    fn with_bystanders(self, strategy: &str) -> Target {
        let without = self.row(strategy);
        let place = Self {
            axis: BYSTANDERS,
            ..self
        };
        let what = format!("{strategy}: with 1000 more mappings / without");
        let pair = place.row(strategy).zip(without);
        instructions(&what, 1.02, Release::Counts, pair)
    }

    /// The same pages, by number, in bundles: as the kernel takes those that are in none. What is
    /// subtracted as the release is that of folios, which is a little less.
    fn with_bundles(self, ours: &str, theirs: &str) -> Target {
        let theirs_row = self.row(theirs);
        let place = Self {
            axis: PFN_BUNDLES,
            ..self
        };
        let what = format!(
            "{} {} pages by number: {ours} of bundles / {theirs}",
            self.nr, self.layout
        );
        let pair = place.row(ours).zip(theirs_row);
        instructions(&what, 0.5, Release::IsLeftOut, pair)
    }

    fn row(&self, strategy: &str) -> Option<&Row> {
        self.rows.iter().find(|row| {
            row.axis == self.axis
                && row.strategy == strategy
                && row.layout == self.layout
                && row.nr_pages == self.nr
        })
    }
}

/// For a terminal.
pub fn as_text(targets: &[Target]) -> String {
    let number = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.2}"));
    let line = |target: &Target| {
        let met = if target.met { "met   " } else { "MISSED" };
        let both = target.measured_with_release.zip(target.measured_own);
        let both = both.map_or(String::new(), |(with, own)| {
            format!(" (with the release: {with:.2}, without: {own:.2})")
        });
        format!(
            "  {met}  {} of at most {}  {}{both}",
            number(target.measured),
            target.aim,
            target.name
        )
    };
    let lines: Vec<String> = targets.iter().map(line).collect();
    format!("\n{}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn each_aim_is_judged() {
        let targets = judge(&sample::results().rows);
        let met: Vec<bool> = targets.iter().map(|target| target.met).collect();
        // One round; 2500 of 5000; 2500 of 2400; and one page: 2500 and 2600 of 5000.
        assert_eq!(met[..5], [true, true, true, true, true]);
        // Where there is a ring, nothing was measured.
        assert!(!met[5..].contains(&true));
        assert_eq!(targets[1].measured, Some(0.5));
        assert_eq!(targets[1].measured_own, Some(500.0 / 3000.0));
        let text = as_text(&targets);
        let line =
            "met     0.50 of at most 0.5  instructions per page with the release, 512 scattered \
                    pages: broadcast / zap (with the release: 0.50, without: 0.17)";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn an_aim_can_be_missed() {
        let mut rows = sample::results().rows;
        for row in rows.iter_mut().filter(|row| row.strategy == "broadcast") {
            row.instructions_per_page_min = 2600.0;
            row.rounds_max = 2;
        }
        let targets = judge(&rows);
        let met: Vec<bool> = targets.iter().map(|target| target.met).collect();
        assert_eq!(met[..5], [false, false, false, true, true]);
        assert!(as_text(&targets).contains("MISSED"));
    }

    #[test]
    fn one_thing_that_is_other_than_elsewhere_is_judged() {
        let mut rows = sample::results().rows;
        let on = |axis: &str, instructions: f64, rows: &[Row]| -> Vec<Row> {
            let many = rows.iter().filter(|row| row.nr_pages == MANY).cloned();
            many.map(|row| Row {
                axis: axis.into(),
                instructions_per_page_min: match row.strategy.as_str() {
                    "broadcast" => instructions,
                    _ => 1100.0,
                },
                instructions_per_page_release: Some(100.0),
                ..row
            })
            .collect()
        };
        let without = rows.iter().find(|row| {
            (row.strategy.as_str(), row.layout, row.nr_pages)
                == ("broadcast", Layout::Contiguous, MANY)
        });
        let without = without.unwrap().instructions_per_page_min;
        let others = [
            on(PFNMAP, 500.0, &rows),
            on(BYSTANDERS, 1.01 * without, &rows),
        ];
        rows.extend(others.concat());
        let bundles = on(PFN_BUNDLES, 600.0, &rows);
        let targets = judge(&[&rows[..], &bundles[..]].concat());
        let of_bundles = targets.last().unwrap();
        assert!(of_bundles.name.contains("of bundles"), "{of_bundles:?}");
        assert_eq!((of_bundles.measured, of_bundles.met), (Some(0.5), true));
        let targets = judge(&rows);
        let last = &targets[targets.len() - 2..];
        assert!(last[0].name.contains("without the release"), "{last:?}");
        assert!(last[0].name.contains("by number"), "{last:?}");
        assert_eq!(last[0].measured, Some(0.4));
        assert_eq!(last[0].measured_own, Some(0.4));
        assert_eq!(last[0].measured_with_release, Some(500.0 / 1100.0));
        assert!(last.iter().all(|target| target.met), "{last:?}");
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        assert!(judge(&[])
            .iter()
            .all(|target| !target.met && target.measured.is_none()));
    }
}
