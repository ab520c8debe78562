//! Migrations as bars: when each was under way (wall time, with what trace time did meanwhile), and
//! what each consisted of, aligned at their beginnings.

use super::certificate;
use super::chart::{Axis, Rect, open};
use super::hosts::short;
use super::html::escape;
use super::page::Report;
use crate::migration::record::{MigrationRecord, Phase, Round, Status};
use crate::results::collect::{Ended, Move};
use std::fmt::Write;

/// Bars in one picture; more are in the table only.
pub(super) const BARS_MAX: usize = 400;
/// Up to so many, bars are as high as text and named.
const NAMED_MAX: usize = 60;
/// Spans drawn behind the bars; a run of many ticks has more than anybody can see.
const SPANS_MAX: usize = 2_000;

fn row_height(bars: usize) -> f64 {
    if bars <= NAMED_MAX { 18.0 } else { 6.0 }
}

fn shown<'a>(r: &'a Report<'_>) -> Vec<&'a Ended> {
    let mut all: Vec<&Ended> = r.all.migrations.iter().collect();
    all.sort_by_key(|m| (begin_ns(m), m.record.id));
    all.truncate(BARS_MAX);
    all
}

fn begin_ns(m: &Ended) -> u64 {
    m.record
        .source_report
        .as_ref()
        .map_or(m.record.requested_ns, |s| s.begin_ns)
}

fn end_ns(m: &Ended) -> u64 {
    let source = m
        .record
        .source_report
        .as_ref()
        .map_or(m.mono_ns, |s| s.end_ns);
    source
        .max(outage_ns(&m.record).map_or(0, |o| o.1))
        .max(begin_ns(m))
}

/// Guest stopped at the source, resumed at the destination.
fn outage_ns(r: &MigrationRecord) -> Option<(u64, u64)> {
    let source = r.source_report.as_ref()?;
    let stop = source.suspended_ns.or(source.stop_ns)?;
    let resumed = r.destination_report.as_ref()?.resumed_ns?;
    (resumed >= stop).then_some((stop, resumed))
}

/// The timeline: wall time from the first event.
pub(super) fn timeline(r: &Report<'_>) -> String {
    let bars = shown(r);
    let begin = r.all.begin_mono_ns;
    let wall = |ns: u64| ns.saturating_sub(begin) as f64 / 1e9;
    let axis = Axis::new(0.0, wall(r.all.end_mono_ns));
    let row = row_height(bars.len());
    let bottom = row * bars.len() as f64 + 22.0;
    let mut out = open(bottom + 34.0, "migrations over wall time");
    spans(&mut out, r, &axis, bottom);
    changes(&mut out, r, &axis, bottom);
    axis.draw(&mut out, 4.0, bottom, "wall time");
    for (n, m) in bars.iter().enumerate() {
        let y = 20.0 + row * n as f64;
        name(&mut out, m, y, row);
        bar(&mut out, m, y, row, &|ns| axis.x(wall(ns)));
        faults(&mut out, &m.record, y, row, &|ns| axis.x(wall(ns)));
    }
    out.push_str("</svg>");
    out
}

/// Faults that struck it, as lines.
fn faults(out: &mut String, r: &MigrationRecord, y: f64, row: f64, x: &dyn Fn(u64) -> f64) {
    for fault in &r.faults {
        let title = format!(
            "fault {}: {}, {}; the VM was the {}'s",
            fault.fault,
            fault.action,
            fault.when,
            fault.owner.name()
        );
        let (x, bottom) = (x(fault.at_ns), y + row - 2.0);
        let _ = write!(
            out,
            "<line class=\"change down\" x1=\"{x:.2}\" x2=\"{x:.2}\" y1=\"{y:.1}\" y2=\"{bottom:.1}\">\
             <title>{}</title></line>",
            escape(&title)
        );
    }
}

/// What trace time did: ran, was held, skipped.
fn spans(out: &mut String, r: &Report<'_>, axis: &Axis, bottom: f64) {
    let begin = r.all.begin_mono_ns;
    let x = |ns: u64| axis.x(ns.saturating_sub(begin) as f64 / 1e9);
    for span in r.all.spans.iter().take(SPANS_MAX) {
        let (from, to) = (span.trace_ns.0 as f64 / 1e9, span.trace_ns.1 as f64 / 1e9);
        let (class, title) = match span.kind {
            Move::Ran => ("ran", format!("ran: trace time {from:.1} s to {to:.1} s")),
            Move::Held => ("held", format!("held at trace time {from:.1} s")),
            Move::Skipped => (
                "skipped",
                format!("skipped: trace time {from:.1} s to {to:.1} s"),
            ),
        };
        let (left, mut right) = (x(span.mono_ns.0), x(span.mono_ns.1));
        if span.kind == Move::Skipped {
            right = left;
        }
        let rect = Rect {
            class,
            x: (left, right),
            y: 4.0,
            height: bottom - 4.0,
            narrowest: 1.2,
            title: &title,
        };
        rect.draw(out);
    }
}

/// Changes of links, as lines.
fn changes(out: &mut String, r: &Report<'_>, axis: &Axis, bottom: f64) {
    let begin = r.all.begin_mono_ns;
    for change in &r.all.changes.first {
        let x = axis.x(change.mono_ns.saturating_sub(begin) as f64 / 1e9);
        let class = if change.spec.up {
            "change"
        } else {
            "change down"
        };
        let title = format!(
            "link {}: {} at trace time {:.3} s, {:.0} µs late",
            change.link,
            certificate::spec(&change.spec),
            change.trace_ns as f64 / 1e9,
            change.late_us
        );
        let _ = write!(
            out,
            "<line class=\"{class}\" x1=\"{x:.2}\" x2=\"{x:.2}\" y1=\"4\" y2=\"{bottom:.1}\">\
             <title>{}</title></line>",
            escape(&title)
        );
    }
}

/// What each consisted of, from its begin.
pub(super) fn anatomy(r: &Report<'_>) -> String {
    let bars = shown(r);
    let longest = bars
        .iter()
        .map(|m| end_ns(m) - begin_ns(m))
        .max()
        .unwrap_or(0);
    let axis = Axis::new(0.0, longest as f64 / 1e9);
    let row = row_height(bars.len());
    let bottom = row * bars.len() as f64 + 8.0;
    let mut out = open(bottom + 34.0, "rounds and outage of each migration");
    axis.draw(&mut out, 4.0, bottom, "since its begin");
    for (n, m) in bars.iter().enumerate() {
        let y = 6.0 + row * n as f64;
        let begin = begin_ns(m);
        name(&mut out, m, y, row);
        bar(&mut out, m, y, row, &|ns| {
            axis.x(ns.saturating_sub(begin) as f64 / 1e9)
        });
    }
    out.push_str("</svg>");
    out
}

fn name(out: &mut String, m: &Ended, y: f64, row: f64) {
    if row < 12.0 {
        return;
    }
    let _ = write!(
        out,
        "<text class=\"name\" text-anchor=\"end\" x=\"102\" y=\"{:.1}\">{}</text>",
        y + row - 5.0,
        escape(&format!("#{} {}", m.record.id, short(&m.record.vm, 10)))
    );
}

fn bar(out: &mut String, m: &Ended, y: f64, row: f64, x: &dyn Fn(u64) -> f64) {
    let record = &m.record;
    let height = row * 0.72;
    let class = match record.status {
        Status::Completed => "bar",
        Status::Cancelled => "bar cancelled",
        Status::Failed => "bar failed",
    };
    let rect = |class: &str, from: u64, to: u64, narrowest: f64, title: &str, out: &mut String| {
        Rect {
            class,
            x: (x(from), x(to)),
            y,
            height,
            narrowest,
            title,
        }
        .draw(out);
    };
    rect(class, begin_ns(m), end_ns(m), 1.5, &title(m), out);
    let rounds = record.source_report.as_ref().map_or(&[][..], |s| &s.rounds);
    for round in rounds {
        let class = match (round.paused, round.number % 2) {
            (true, _) => "round paused",
            (false, 0) => "round even",
            (false, _) => "round odd",
        };
        let title = round_title(record, round);
        rect(class, round.begin_ns, round.end_ns, 0.4, &title, out);
        // Of a post-copy most of its last round: the guest runs at the destination.
        if let Some(begin_ns) = pull_ns(record).filter(|_| round.paused) {
            rect("round pull", begin_ns, round.end_ns, 0.4, &title, out);
        }
    }
    if let Some((stop, resumed)) = outage_ns(record) {
        let ms = (resumed - stop) as f64 / 1e6;
        let title = format!("#{} {}: outage {ms:.1} ms", record.id, record.vm);
        let (x, y, height) = ((x(stop), x(resumed)), y + height * 0.5, height * 0.62);
        Rect {
            class: "outage",
            x,
            y,
            height,
            narrowest: 2.5,
            title: &title,
        }
        .draw(out);
    }
    if record.status == Status::Failed {
        let error = record.error.as_deref().unwrap_or("failed");
        let _ = write!(
            out,
            "<text class=\"cross\" x=\"{:.1}\" y=\"{:.1}\">✕<title>{}</title></text>",
            x(end_ns(m)) + 2.0,
            y + height - 1.0,
            escape(error)
        );
    }
}

/// Since when the guest of a post-copy pulled its pages.
fn pull_ns(r: &MigrationRecord) -> Option<u64> {
    let phases = &r.source_report.as_ref()?.phases;
    let pull = phases.iter().find(|span| span.phase == Phase::Pull)?;
    Some(pull.begin_ns)
}

fn title(m: &Ended) -> String {
    let r = &m.record;
    let ms = (end_ns(m) - begin_ns(m)) as f64 / 1e6;
    format!(
        "#{} {}: {} → {}, {ms:.0} ms, {} rounds, grade {}. {}",
        r.id, r.vm, r.source, r.destination, r.rounds, r.grade, r.reason
    )
}

fn round_title(r: &MigrationRecord, round: &Round) -> String {
    let ms = round.end_ns.saturating_sub(round.begin_ns) as f64 / 1e6;
    let mib = round.sent_bytes as f64 / f64::from(1 << 20);
    let paused = match (round.paused, pull_ns(r)) {
        (true, None) => " (final, guest paused)",
        (true, Some(_)) => " (final, then pulled)",
        (false, _) => "",
    };
    format!(
        "#{} {}: round {}{paused}: {ms:.0} ms, {mib:.1} MiB, {} pages whole, {} zero, {} dirty at its begin",
        r.id, r.vm, round.number, round.normal_pages, round.zero_pages, round.dirty_pages
    )
}
