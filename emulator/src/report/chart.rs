//! Inline SVG: an axis of time and the ticks on it.

use std::fmt::Write;

/// Width of every picture, user units; the SVG scales with the page.
pub(super) const WIDTH: f64 = 1200.0;
/// Left of it are names.
pub(super) const LEFT: f64 = 110.0;
/// Right of it a margin for the last tick's label.
pub(super) const RIGHT: f64 = 30.0;

/// Maps values onto the width of a picture.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Axis {
    /// Over a range that is never empty.
    pub(super) fn new(from: f64, to: f64) -> Self {
        Self {
            from,
            to: if to > from { to } else { from + 1.0 },
        }
    }

    pub(super) fn x(&self, value: f64) -> f64 {
        let share = ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0);
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    /// Round values, about ten of them: 1, 2 or 5 times a power of ten, or parts of hours and days.
    pub(super) fn ticks(&self) -> Vec<f64> {
        multiples(self.from, self.to, nice_step((self.to - self.from) / 9.0))
    }

    /// Vertical lines from `top` to `bottom`, labelled below.
    pub(super) fn draw(&self, out: &mut String, top: f64, bottom: f64, label: &str) {
        for t in self.ticks() {
            let x = self.x(t);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" \
                 y2=\"{bottom:.1}\"/><text class=\"axis\" text-anchor=\"middle\" x=\"{x:.1}\" \
                 y=\"{:.1}\">{}</text>",
                bottom + 14.0,
                time_label(t, self.to - self.from)
            );
        }
        let _ = write!(
            out,
            "<text class=\"axis\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
            WIDTH - RIGHT,
            bottom + 28.0
        );
    }
}

fn nice_step(at_least: f64) -> f64 {
    const TIMES: [f64; 12] = [
        60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 14400.0, 21600.0, 43200.0,
        86400.0,
    ];
    if at_least > 30.0 {
        if let Some(step) = TIMES.iter().find(|s| **s >= at_least) {
            return *step;
        }
        return (at_least / 86400.0).ceil() * 86400.0;
    }
    decimal_step(at_least)
}

/// 1, 2 or 5 times a power of ten.
fn decimal_step(at_least: f64) -> f64 {
    let power = 10f64.powf(at_least.max(1e-9).log10().floor());
    let factor = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|f| f * power >= at_least)
        .unwrap_or(10.0);
    factor * power
}

fn multiples(from: f64, to: f64, step: f64) -> Vec<f64> {
    let mut ticks = Vec::new();
    let mut at = (from / step).ceil() * step;
    // The step is at least a ninth of the range: 20 is never reached.
    while at <= to + step * 1e-9 && ticks.len() < 20 {
        ticks.push(at);
        at += step;
    }
    ticks
}

/// Round values of a range that is no time, at most about `count`.
pub(super) fn decimal_ticks(from: f64, to: f64, count: f64) -> Vec<f64> {
    multiples(from, to, decimal_step((to - from) / count))
}

/// Seconds, or hours and minutes of a long range.
pub(super) fn time_label(t_s: f64, range_s: f64) -> String {
    if range_s <= 540.0 {
        let decimals = if range_s < 0.1 {
            3
        } else if range_s < 5.0 {
            1
        } else {
            0
        };
        return format!("{t_s:.decimals$} s");
    }
    let minutes = (t_s / 60.0).round();
    let hours = (minutes / 60.0).floor();
    format!("{hours:.0}:{:02.0}", minutes - hours * 60.0)
}

/// Opens a picture of this height that says what it is to those who cannot see it.
pub(super) fn open(height: f64, title: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{}\">",
        super::html::escape(title)
    )
}

/// A filled rectangle with a tooltip; the width is at least `narrowest`.
pub(super) struct Rect<'a> {
    pub(super) class: &'a str,
    pub(super) x: (f64, f64),
    pub(super) y: f64,
    pub(super) height: f64,
    pub(super) narrowest: f64,
    pub(super) title: &'a str,
}

impl Rect<'_> {
    pub(super) fn draw(&self, out: &mut String) {
        let width = (self.x.1 - self.x.0).max(self.narrowest);
        let _ = write!(
            out,
            "<rect class=\"{}\" x=\"{:.2}\" y=\"{:.2}\" width=\"{width:.2}\" height=\"{:.2}\">",
            self.class, self.x.0, self.y, self.height
        );
        if self.title.is_empty() {
            out.push_str("</rect>");
        } else {
            let _ = write!(
                out,
                "<title>{}</title></rect>",
                super::html::escape(self.title)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_few_and_inside_for_any_range() {
        for range in [1e-6, 0.3, 1.0, 7.0, 61.5, 1800.0, 86_400.0, 6e6] {
            let axis = Axis::new(0.0, range);
            let ticks = axis.ticks();
            assert!((2..=11).contains(&ticks.len()), "{range}: {ticks:?}");
            assert!(ticks.iter().all(|t| *t <= range * 1.001));
        }
    }
}
