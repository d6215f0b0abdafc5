// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which pictures are drawn of the rows.

use anyhow::Result;
use plotters::style::RGBColor;
use rust_tlb_results::names::Layout;
use rust_tlb_results::strategies::{self, Strategy};
use rust_tlb_results::written::{Results, Row};

use super::chart::{Chart, Line, Point, Scale};

/// A picture, and what it shows.
pub struct Plot {
    /// Of the file, without `.svg`.
    pub name: &'static str,
    pub caption: &'static str,
    pub svg: String,
}

/// What is on the vertical axis: its value, least and greatest.
type Value = fn(&Row) -> [f64; 3];

struct Plan {
    name: &'static str,
    caption: &'static str,
    axis: &'static str,
    layout: Layout,
    y: &'static str,
    scale: Scale,
    value: Value,
}

const PLANS: [Plan; 9] = [
    Plan {
        name: "ipis-by-pages",
        caption: "Interrupts for each page, over the number of scattered pages unmapped together",
        axis: "pages",
        layout: Layout::Scattered,
        y: "IPIs received a page",
        scale: Scale::Log,
        value: ipis_per_page,
    },
    Plan {
        name: "instructions-by-pages",
        caption: "Instructions of all CPUs for each page, over the number of scattered pages",
        axis: "pages",
        layout: Layout::Scattered,
        y: "instructions per page",
        scale: Scale::Log,
        value: instructions,
    },
    Plan {
        name: "instructions-by-contiguous-pages",
        caption: "Instructions of all CPUs for each page, over the length of one contiguous run",
        axis: "pages",
        layout: Layout::Contiguous,
        y: "instructions per page",
        scale: Scale::Log,
        value: instructions,
    },
    Plan {
        name: "time-by-pages",
        caption:
            "Time for each page, over the number of scattered pages (emulated: the shape counts)",
        axis: "pages",
        layout: Layout::Scattered,
        y: "ns per page",
        scale: Scale::Log,
        value: time,
    },
    Plan {
        name: "kept-by-pages",
        caption:
            "What is left of a victim's 64 hot translations, over the length of one contiguous run",
        axis: "pages",
        layout: Layout::Contiguous,
        y: "part kept",
        scale: Scale::Part,
        value: kept,
    },
    Plan {
        name: "rounds-by-mms",
        caption: "Flush rounds for 512 scattered pages, over the number of processes that map them",
        axis: "mms",
        layout: Layout::Scattered,
        y: "flush rounds",
        scale: Scale::Log,
        value: rounds,
    },
    Plan {
        name: "instructions-by-mms",
        caption:
            "Instructions of all CPUs for each of 512 scattered pages, over the number of processes",
        axis: "mms",
        layout: Layout::Scattered,
        y: "instructions per page",
        scale: Scale::Log,
        value: instructions,
    },
    Plan {
        name: "ipis-by-cpus",
        caption: "Interrupts for 512 scattered pages, over the number of busy CPUs",
        axis: "cpus",
        layout: Layout::Scattered,
        y: "IPIs received",
        scale: Scale::Log,
        value: ipis,
    },
    Plan {
        name: "instructions-by-cpus",
        caption:
            "Instructions of all CPUs for each of 512 scattered pages, over the number of busy CPUs",
        axis: "cpus",
        layout: Layout::Scattered,
        y: "instructions per page",
        scale: Scale::Log,
        value: instructions,
    },
];

fn rounds(row: &Row) -> [f64; 3] {
    [row.rounds, row.rounds_min, row.rounds_max].map(|nr| nr as f64)
}

fn ipis(row: &Row) -> [f64; 3] {
    [
        row.ipis_received,
        row.ipis_received_min,
        row.ipis_received_max,
    ]
    .map(|nr| nr as f64)
}

fn ipis_per_page(row: &Row) -> [f64; 3] {
    ipis(row).map(|nr| nr / row.nr_pages as f64)
}

fn instructions(row: &Row) -> [f64; 3] {
    [
        row.instructions_per_page,
        row.instructions_per_page_min,
        row.instructions_per_page_max,
    ]
}

fn time(row: &Row) -> [f64; 3] {
    [row.ns_per_page, row.ns_per_page_min, row.ns_per_page_max]
}

fn kept(row: &Row) -> [f64; 3] {
    [
        row.victim_translations_kept,
        row.victim_translations_kept_min,
        row.victim_translations_kept_max,
    ]
}

/// All pictures.
pub fn all(results: &Results) -> Result<Vec<Plot>> {
    PLANS.iter().map(|plan| plan.draw(&results.rows)).collect()
}

impl Plan {
    fn draw(&self, rows: &[Row]) -> Result<Plot> {
        let chart = Chart {
            x: self.x_name(),
            y: self.y,
            scale: self.scale,
            lines: self.lines(rows),
        };
        Ok(Plot {
            name: self.name,
            caption: self.caption,
            svg: chart.draw()?,
        })
    }

    fn x_name(&self) -> &'static str {
        match self.axis {
            "mms" => "processes",
            "cpus" => "CPUs",
            _ => "pages",
        }
    }

    fn lines(&self, rows: &[Row]) -> Vec<Line> {
        let line = |strategy: &Strategy| {
            let (red, green, blue) = strategy.color;
            Line {
                name: strategy.name.into(),
                color: RGBColor(red, green, blue),
                points: self.points(rows, strategy.name),
            }
        };
        let lines = strategies::ALL.iter().map(line);
        lines.filter(|line| !line.points.is_empty()).collect()
    }

    fn points(&self, rows: &[Row], strategy: &str) -> Vec<Point> {
        let of_line = rows.iter().filter(|row| {
            row.axis == self.axis && row.layout == self.layout && row.strategy == strategy
        });
        let point = |row: &Row| {
            let [y, min, max] = (self.value)(row);
            let x = match self.axis {
                "mms" => row.nr_mms,
                "cpus" => row.nr_cpus,
                _ => row.nr_pages,
            };
            let x = x as f64;
            Point { x, y, min, max }
        };
        of_line.map(point).collect()
    }
}
