//! Curves in a frame: two axes, linear or logarithmic, lines, points and marks. Inline SVG.

use super::chart::{LEFT, RIGHT, WIDTH, open};
use super::html::escape;
use std::fmt::Write;

/// How an axis is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    /// Values of 0 and below are left out.
    Log,
}

/// One curve.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    /// Class of the style sheet, `c0` to `c4`.
    pub(super) class: &'static str,
    pub(super) label: String,
    pub(super) points: Vec<(f64, f64)>,
    /// Dots instead of a line.
    pub(super) dots: bool,
}

/// A picture of curves.
#[derive(Debug, Clone)]
pub(super) struct Plot {
    pub(super) title: String,
    pub(super) x: (Scale, &'static str),
    pub(super) y: (Scale, &'static str),
    pub(super) curves: Vec<Curve>,
    /// Vertical marks with their labels.
    pub(super) marks: Vec<(f64, String)>,
}

const TOP: f64 = 14.0;
const HEIGHT: f64 = 300.0;
const BOTTOM: f64 = HEIGHT - 44.0;

/// A range of values on a scale, mapped to pixels.
struct Side {
    scale: Scale,
    from: f64,
    to: f64,
    pixels: (f64, f64),
}

impl Side {
    fn new(scale: Scale, values: impl Iterator<Item = f64>, pixels: (f64, f64)) -> Self {
        let drawn = values.filter(|v| v.is_finite() && (scale == Scale::Linear || *v > 0.0));
        let (mut from, mut to) = drawn.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| {
            (a.min(v), b.max(v))
        });
        if scale == Scale::Linear && from > 0.0 && from < 0.5 * to {
            from = 0.0;
        }
        if from.is_infinite() {
            (from, to) = (if scale == Scale::Log { 1.0 } else { 0.0 }, 1.0);
        }
        if to <= from {
            to = if scale == Scale::Log {
                from * 10.0
            } else {
                from + 1.0
            };
        }
        Self {
            scale,
            from,
            to,
            pixels,
        }
    }

    fn at(&self, value: f64) -> Option<f64> {
        let share = match self.scale {
            Scale::Linear => (value - self.from) / (self.to - self.from),
            Scale::Log if value > 0.0 => (value / self.from).ln() / (self.to / self.from).ln(),
            Scale::Log => return None,
        };
        let at = self.pixels.0 + share * (self.pixels.1 - self.pixels.0);
        at.is_finite().then_some(at)
    }

    /// Round values, about eight.
    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => super::chart::decimal_ticks(self.from, self.to, 7.0),
            Scale::Log => {
                let decades = (self.to / self.from).log10();
                let factors: &[f64] = if decades > 2.5 {
                    &[1.0]
                } else {
                    &[1.0, 2.0, 5.0]
                };
                let mut power = 10f64.powf(self.from.log10().floor());
                let mut ticks = Vec::new();
                // A float spans at most some 600 decades.
                while power <= self.to && ticks.len() < 40 {
                    ticks.extend(factors.iter().map(|f| f * power));
                    power *= 10.0;
                }
                ticks.retain(|t| *t >= self.from * 0.999 && *t <= self.to * 1.001);
                ticks
            }
        }
    }
}

/// A number in few characters: 1200000 is 1.2M.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    let (part, letter) = match size {
        s if s >= 1e12 => (value / 1e12, "T"),
        s if s >= 1e9 => (value / 1e9, "G"),
        s if s >= 1e6 => (value / 1e6, "M"),
        s if s >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match part.abs() {
        p if p == 0.0 || p >= 100.0 => 0,
        p if p >= 10.0 => 1,
        p if p >= 1.0 => 2,
        p if p >= 0.01 => 3,
        _ => 5,
    };
    let text = format!("{part:.digits$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    // A tick at zero may be off by rounding, and below it.
    let text = if text == "-0" { "0" } else { text };
    format!("{text}{letter}")
}

impl Plot {
    /// The picture with its legend.
    pub(super) fn draw(&self) -> String {
        let all = || self.curves.iter().flat_map(|curve| curve.points.iter());
        let marks = self.marks.iter().map(|mark| mark.0);
        let x = Side::new(
            self.x.0,
            all().map(|p| p.0).chain(marks),
            (LEFT, WIDTH - RIGHT),
        );
        let y = Side::new(self.y.0, all().map(|p| p.1), (BOTTOM, TOP));
        let mut out = open(HEIGHT, &self.title);
        self.frame(&mut out, &x, &y);
        for (at, label) in &self.marks {
            let Some(at) = x.at(*at) else { continue };
            // Labels of marks at the right stand to their left.
            let (side, beside) = if at > 0.75 * WIDTH {
                (" text-anchor=\"end\"", at - 4.0)
            } else {
                ("", at + 4.0)
            };
            let _ = write!(
                out,
                "<line class=\"change\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>\
                 <text class=\"axis\"{side} x=\"{beside:.1}\" y=\"{:.1}\">{}</text>",
                TOP + 10.0,
                escape(label)
            );
        }
        for curve in &self.curves {
            curve.draw(&mut out, &x, &y);
        }
        out.push_str("</svg><p class=\"legend\">");
        for curve in &self.curves {
            let (class, label) = (curve.class, escape(&curve.label));
            let _ = write!(out, "<span class=\"k {class}\"></span>{label}");
        }
        out.push_str("</p>");
        out
    }

    fn frame(&self, out: &mut String, x: &Side, y: &Side) {
        for tick in x.ticks() {
            let Some(at) = x.at(tick) else { continue };
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>\
                 <text class=\"axis\" text-anchor=\"middle\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
                BOTTOM + 15.0,
                short(tick)
            );
        }
        for tick in y.ticks() {
            let Some(at) = y.at(tick) else { continue };
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"axis\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                short(tick)
            );
        }
        let _ = write!(
            out,
            "<text class=\"axis\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <text class=\"axis\" x=\"2\" y=\"{:.1}\">{}</text>",
            WIDTH - RIGHT,
            BOTTOM + 32.0,
            escape(self.x.1),
            TOP + 10.0,
            escape(self.y.1)
        );
    }
}

impl Curve {
    fn draw(&self, out: &mut String, x: &Side, y: &Side) {
        let at = |&(a, b): &(f64, f64)| Some((x.at(a)?, y.at(b)?));
        let points: Vec<(f64, f64)> = self.points.iter().filter_map(at).collect();
        if self.dots {
            for (a, b) in points {
                let _ = write!(
                    out,
                    "<circle class=\"dot {}\" cx=\"{a:.1}\" cy=\"{b:.1}\" r=\"3.5\"/>",
                    self.class
                );
            }
            return;
        }
        let _ = write!(out, "<polyline class=\"curve {}\" points=\"", self.class);
        for (a, b) in points {
            let _ = write!(out, "{a:.1},{b:.1} ");
        }
        out.push_str("\"/>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (-0.5, "-0.5"),
            (-2.8e-17, "0"),
            (12.0, "12"),
            (100.0, "100"),
            (1_200_000.0, "1.2M"),
            (0.00001, "0.00001"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn any_curve_can_be_drawn() {
        for points in [
            vec![],
            vec![(0.0, 0.0)],
            vec![(1e-9, f64::NAN), (1e300, 5.0)],
        ] {
            for scale in [Scale::Linear, Scale::Log] {
                let plot = Plot {
                    title: "<x>".into(),
                    x: (scale, "s"),
                    y: (scale, "pages"),
                    curves: vec![Curve {
                        class: "c0",
                        label: "<b>".into(),
                        points: points.clone(),
                        dots: false,
                    }],
                    marks: vec![(0.0, "&".into())],
                };
                let drawn = plot.draw();
                assert!(
                    drawn.contains("&lt;b&gt;") && !drawn.contains("NaN"),
                    "{drawn}"
                );
            }
        }
    }
}
