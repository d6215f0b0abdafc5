// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Draws lines with their spread, as SVG. The horizontal axis is one of powers of two.

use std::ops::Range;

use anyhow::{anyhow, Result};
use plotters::coord::ranged1d::{AsRangedCoord, DefaultFormatting, KeyPointHint, ValueFormatter};
use plotters::prelude::*;

const SIZE: (u32, u32) = (760, 420);
const LEGEND_WIDTH: u32 = 150;
const LINE_HEIGHT: i32 = 22;
const GREY: RGBColor = RGBColor(110, 110, 110);

/// What is drawn of one measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    pub min: f64,
    pub max: f64,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    pub color: RGBColor,
    pub points: Vec<Point>,
}

/// The vertical axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Powers of ten. What is zero is not drawn.
    Log,
    /// From 0 to 1.
    Part,
}

/// One picture.
#[derive(Clone, Debug)]
pub struct Chart {
    pub x: &'static str,
    pub y: &'static str,
    pub scale: Scale,
    pub lines: Vec<Line>,
}

impl Chart {
    /// As SVG.
    pub fn draw(&self) -> Result<String> {
        let mut svg = String::new();
        let drawn = match self.scale {
            Scale::Log => self.draw_on(&mut svg, Log::of_decades(self.y_range())),
            Scale::Part => self.draw_on(&mut svg, -0.03..1.03),
        };
        drawn.map_err(|error| anyhow!("drawing {} over {}: {error}", self.y, self.x))?;
        Ok(svg)
    }

    fn draw_on<Y>(&self, svg: &mut String, y: Y) -> Result<(), Box<dyn std::error::Error>>
    where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
    {
        let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (left, right) = area.split_horizontally(SIZE.0 - LEGEND_WIDTH);
        let mut chart = ChartBuilder::on(&left)
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(64)
            .build_cartesian_2d(Log::of_powers(self.x_range()), y)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .axis_style(GREY)
            .label_style(("sans-serif", 13, &GREY))
            .axis_desc_style(("sans-serif", 14))
            .x_desc(self.x)
            .y_desc(self.y)
            .x_labels(14)
            .y_labels(8)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| short(*y))
            .draw()?;
        for (index, line) in self.lines.iter().enumerate() {
            // What is drawn later leaves a rim of what is below it.
            let radius = 3 + (self.lines.len() - index) as i32 / 2;
            let points = self.visible(line);
            let whiskers = points.iter().map(|p| {
                let ends = vec![(p.x, p.min.max(self.floor())), (p.x, p.max)];
                PathElement::new(ends, line.color.mix(0.45))
            });
            chart.draw_series(whiskers)?;
            let path: Vec<(f64, f64)> = points.iter().map(|p| (p.x, p.y)).collect();
            chart.draw_series(LineSeries::new(path.clone(), line.color.stroke_width(2)))?;
            let dots = path
                .into_iter()
                .map(|at| Circle::new(at, radius, line.color.filled()));
            chart.draw_series(dots)?;
        }
        self.draw_legend(&right)?;
        area.present()?;
        Ok(())
    }

    fn draw_legend<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, plotters::coord::Shift>,
    ) -> Result<(), Box<dyn std::error::Error>>
    where
        DB::ErrorType: 'static,
    {
        for (line, y) in self.lines.iter().zip((24..).step_by(LINE_HEIGHT as usize)) {
            let stroke = vec![(4, y), (26, y)];
            area.draw(&PathElement::new(stroke, line.color.stroke_width(3)))?;
            let text = Text::new(line.name.clone(), (34, y - 7), ("sans-serif", 14));
            area.draw(&text)?;
        }
        Ok(())
    }

    /// What can be drawn on the scale.
    fn visible(&self, line: &Line) -> Vec<Point> {
        let points = line.points.iter().copied();
        match self.scale {
            Scale::Log => points.filter(|point| point.y > 0.0).collect(),
            Scale::Part => points.collect(),
        }
    }

    fn floor(&self) -> f64 {
        match self.scale {
            Scale::Log => self.y_range().start,
            Scale::Part => 0.0,
        }
    }

    fn x_range(&self) -> Range<f64> {
        let all = self.lines.iter().flat_map(|line| &line.points);
        let (min, max) = bounds(all.map(|point| point.x));
        min..max.max(2.0 * min)
    }

    fn y_range(&self) -> Range<f64> {
        let all = self.lines.iter().flat_map(|line| self.visible(line));
        let (min, max) = bounds(all.flat_map(|p| [p.y, p.max]));
        min * 0.7..max * 1.4
    }
}

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (min, max) = values.fold((f64::INFINITY, 0.0_f64), |(min, max), value| {
        (min.min(value), max.max(value))
    });
    (if min.is_finite() { min } else { 1.0 }, max.max(1e-9))
}

/// A logarithmic axis.
#[derive(Clone)]
struct Log {
    range: Range<f64>,
    marks: Vec<f64>,
}

impl Log {
    /// Marked at powers of two, with half a step of air at either end.
    fn of_powers(range: Range<f64>) -> Self {
        let marks = (0..=20).map(|power| f64::from(1 << power));
        let air = 2_f64.sqrt().sqrt();
        Self {
            marks: marks
                .filter(|m| range.contains(m) || *m == range.end)
                .collect(),
            range: range.start / air..range.end * air,
        }
    }

    /// Marked at 1, 2 and 5 of each decade, or at 1 if there are many.
    fn of_decades(range: Range<f64>) -> Self {
        let steps: &[f64] = match range.end / range.start {
            ratio if ratio > 1e3 => &[1.0],
            _ => &[1.0, 2.0, 5.0],
        };
        let decades = (-6..=12).map(|power| 10_f64.powi(power));
        let marks = decades.flat_map(|decade| steps.iter().map(move |step| step * decade));
        Self {
            marks: marks.filter(|mark| range.contains(mark)).collect(),
            range,
        }
    }
}

impl Ranged for Log {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let (first, last) = (self.range.start.ln(), self.range.end.ln());
        let part = (value.ln() - first) / (last - first);
        limit.0 + (part * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// A number with a few digits.
pub fn short(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "–".into(),
        0.0 => "0".into(),
        v if v >= 1e6 => format!("{} M", trim(value / 1e6)),
        v if v >= 1e4 => format!("{} k", trim(value / 1e3)),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 0.1 => trim(value),
        _ => format!("{value:.4}").trim_end_matches('0').into(),
    }
}

fn trim(value: f64) -> String {
    let text = format!("{value:.*}", if value.abs() >= 100.0 { 0 } else { 2 });
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').into(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(scale: Scale, ys: &[f64]) -> Chart {
        let point = |(index, &y): (usize, &f64)| Point {
            x: f64::from(1 << index),
            y,
            min: y / 2.0,
            max: y,
        };
        Chart {
            x: "pages",
            y: "rounds",
            scale,
            lines: vec![Line {
                name: "broadcast".into(),
                color: BLUE,
                points: ys.iter().enumerate().map(point).collect(),
            }],
        }
    }

    #[test]
    fn a_chart_names_its_axes_and_lines() {
        let svg = chart(Scale::Log, &[1.0, 30.0, 4000.0]).draw().unwrap();
        for word in [
            "<svg",
            "pages",
            "rounds",
            "broadcast",
            "<polyline",
            "</svg>",
        ] {
            assert!(svg.contains(word), "{word}");
        }
        assert_eq!(svg.matches("<circle").count(), 3);
    }

    #[test]
    fn zero_is_not_on_a_logarithmic_axis() {
        let svg = chart(Scale::Log, &[0.0, 30.0, 40.0]).draw().unwrap();
        assert_eq!(svg.matches("<circle").count(), 2);
        let svg = chart(Scale::Part, &[0.0, 0.5, 1.0]).draw().unwrap();
        assert_eq!(svg.matches("<circle").count(), 3);
    }

    #[test]
    fn axes_are_marked() {
        assert_eq!(Log::of_powers(1.0..8.0).marks, [1.0, 2.0, 4.0, 8.0]);
        assert_eq!(Log::of_powers(2.0..8.0).marks, [2.0, 4.0, 8.0]);
        assert_eq!(
            Log::of_decades(1.5..60.0).marks,
            [2.0, 5.0, 10.0, 20.0, 50.0]
        );
        assert_eq!(Log::of_decades(0.9..2e3).marks, [1.0, 10.0, 100.0, 1000.0]);
    }

    #[test]
    fn charts_of_little_can_be_drawn() {
        assert!(chart(Scale::Log, &[]).draw().is_ok());
        assert!(chart(Scale::Log, &[7.0]).draw().is_ok());
        assert!(chart(Scale::Part, &[0.0]).draw().is_ok());
    }

    #[test]
    fn numbers_are_short() {
        let pairs = [
            (0.0, "0"),
            (0.0059, "0.0059"),
            (0.5, "0.5"),
            (3.0, "3"),
            (3.1234, "3.12"),
            (1536.0, "1536"),
            (23_456.0, "23.46 k"),
            (2_500_000.0, "2.5 M"),
        ];
        for (value, text) in pairs {
            assert_eq!(short(value), text);
        }
    }
}
