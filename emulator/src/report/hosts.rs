//! Hosts' load over trace time: small multiples of demand and grant for a few hosts, a heat strip
//! for many, bands of quantiles for very many.

use super::chart::{Axis, LEFT, RIGHT, Rect, WIDTH, open};
use super::html::escape;
use super::page::Report;
use crate::results::collect::{BINS, Bin};
use crate::results::metrics::quantile;
use std::fmt::Write;

/// Up to so many hosts each gets a curve of its own.
const CURVES_MAX: usize = 16;
/// Up to so many a row of the heat strip; beyond, hosts are aggregated.
const STRIPS_MAX: usize = 120;
/// Cells across a heat strip: SVG of 120 hosts stays under 2 MB.
const CELLS: usize = 160;

pub(super) fn section(r: &Report<'_>) -> String {
    let hosts = r.header.scenario.hosts.len();
    if r.all.bins.hosts.iter().all(Vec::is_empty) {
        return "<p class=\"note\">No host was sampled.</p>".into();
    }
    match hosts {
        0..=CURVES_MAX => curves(r),
        n if n <= STRIPS_MAX => strips(r),
        _ => bands(r),
    }
}

fn axis(r: &Report<'_>) -> Axis {
    let width = r.all.bins.width_ns as f64 / 1e9;
    let bins = r
        .all
        .bins
        .hosts
        .iter()
        .map(Vec::len)
        .max()
        .unwrap_or(0)
        .min(2 * BINS);
    Axis::new(0.0, bins as f64 * width)
}

/// Demand and grant over capacity; `None` where nothing was sampled.
fn loads(bin: &Bin, capacity_milli: u64) -> Option<(f64, f64)> {
    let capacity = capacity_milli.max(1) as f64 / 1000.0 * bin.span_ns as f64;
    (bin.span_ns > 0).then(|| (bin.demand as f64 / capacity, bin.granted as f64 / capacity))
}

fn curves(r: &Report<'_>) -> String {
    const ROW: f64 = 58.0;
    let axis = axis(r);
    let hosts = &r.header.scenario.hosts;
    let bottom = ROW * hosts.len() as f64 + 8.0;
    let mut out = open(bottom + 34.0, "load of each host over trace time");
    axis.draw(&mut out, 4.0, bottom, "trace time");
    let highest = highest(r).clamp(1.0, 3.0);
    for (n, host) in hosts.iter().enumerate() {
        let base = ROW * (n + 1) as f64;
        let y = |load: f64| base - load.min(highest) / highest * (ROW - 12.0);
        row_name(&mut out, &host.name, base - ROW / 2.0 + 6.0, r.mean_load(n));
        if let Some(bins) = r.all.bins.hosts.get(n) {
            out.push_str(&area(r, &axis, (bins, host.capacity_milli()), base, &y));
        }
        let (right, full) = (WIDTH - RIGHT, y(1.0));
        let _ = write!(
            out,
            "<line class=\"capacity\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{full:.1}\" y2=\"{full:.1}\"/>\
             <line class=\"base\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{base:.1}\" y2=\"{base:.1}\"/>"
        );
        marks(&mut out, r, &axis, &host.name, base);
    }
    out.push_str("</svg>");
    out
}

fn highest(r: &Report<'_>) -> f64 {
    let hosts = r.header.scenario.hosts.iter().zip(&r.all.bins.hosts);
    hosts
        .flat_map(|(h, bins)| bins.iter().filter_map(|b| loads(b, h.capacity_milli())))
        .map(|(demand, _)| demand)
        .fold(0.0, f64::max)
}

fn row_name(out: &mut String, name: &str, y: f64, mean: Option<f64>) {
    let _ = write!(
        out,
        "<text class=\"name\" text-anchor=\"end\" x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
        LEFT - 8.0,
        escape(&short(name, 14))
    );
    if let Some(mean) = mean {
        let _ = write!(
            out,
            "<text class=\"axis\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">mean {:.0} %</text>",
            LEFT - 8.0,
            y + 14.0,
            mean * 100.0
        );
    }
}

/// A name cut to what fits.
pub(super) fn short(name: &str, most: usize) -> String {
    if name.chars().count() <= most {
        return name.to_owned();
    }
    name.chars().take(most - 1).chain(['…']).collect()
}

/// The grant as an area, the demand as a line over it; what lies between is steal.
fn area(
    r: &Report<'_>,
    axis: &Axis,
    (bins, capacity_milli): (&[Bin], u64),
    base: f64,
    y: &dyn Fn(f64) -> f64,
) -> String {
    let (mut granted, mut steal, mut demand) = (String::new(), String::new(), String::new());
    let width = r.all.bins.width_ns as f64 / 1e9;
    let mut pen_down = false;
    for (n, bin) in bins.iter().enumerate() {
        let Some((asked, got)) = loads(bin, capacity_milli) else {
            pen_down = false;
            continue;
        };
        let (left, right) = (axis.x(n as f64 * width), axis.x((n + 1) as f64 * width));
        let column = |out: &mut String, from: f64, to: f64| {
            let _ = write!(out, "M{left:.1} {from:.1}V{to:.1}H{right:.1}V{from:.1}Z");
        };
        column(&mut granted, base, y(got));
        if asked > got {
            column(&mut steal, y(got), y(asked));
        }
        let pen = if pen_down { 'L' } else { 'M' };
        let _ = write!(demand, "{pen}{left:.1} {:.1}H{right:.1}", y(asked));
        pen_down = true;
    }
    format!(
        "<path class=\"granted\" d=\"{granted}\"/><path class=\"steal\" d=\"{steal}\"/>\
         <path class=\"demand\" d=\"{demand}\"/>"
    )
}

/// Triangles where migrations left (down) and arrived (up).
fn marks(out: &mut String, r: &Report<'_>, axis: &Axis, host: &str, base: f64) {
    for m in &r.all.migrations {
        let record = &m.record;
        let (class, up) = if record.source == host {
            ("out", false)
        } else if record.destination == host {
            ("in", true)
        } else {
            continue;
        };
        let x = axis.x(record.requested_trace_s);
        let (tip, foot) = if up {
            (base - 9.0, base)
        } else {
            (base, base - 9.0)
        };
        let _ = write!(
            out,
            "<path class=\"mark {class}\" d=\"M{x:.1} {tip:.1}l-4.5 {0:.1}h9Z\"><title>{1}</title></path>",
            foot - tip,
            escape(&format!(
                "#{} {} {} → {} at {:.1} s",
                record.id, record.vm, record.source, record.destination, record.requested_trace_s
            ))
        );
    }
}

fn strips(r: &Report<'_>) -> String {
    let hosts = &r.header.scenario.hosts;
    let row = if hosts.len() > 40 { 8.0 } else { 16.0 };
    let axis = axis(r);
    let bottom = row * hosts.len() as f64 + 8.0;
    let mut out = open(
        bottom + 34.0,
        "load of each host over trace time, as a heat strip",
    );
    for (n, host) in hosts.iter().enumerate() {
        let y = 4.0 + row * n as f64;
        if row > 10.0 || n % 5 == 0 {
            row_name(&mut out, &host.name, y + row - 1.0, None);
        }
        let Some(bins) = r.all.bins.hosts.get(n) else {
            continue;
        };
        let per_cell = bins.len().div_ceil(CELLS).max(1);
        for (c, cell) in bins.chunks(per_cell).enumerate() {
            heat_cell(&mut out, r, &axis, (c * per_cell, cell), (host, y, row));
        }
    }
    axis.draw(&mut out, bottom - 4.0, bottom, "trace time");
    out.push_str("</svg>");
    out
}

fn heat_cell(
    out: &mut String,
    r: &Report<'_>,
    axis: &Axis,
    (first, bins): (usize, &[Bin]),
    (host, y, row): (&crate::scenario::HostSpec, f64, f64),
) {
    let total = bins.iter().fold(Bin::default(), |a, b| Bin {
        span_ns: a.span_ns + b.span_ns,
        demand: a.demand + b.demand,
        granted: a.granted + b.granted,
    });
    let Some((demand, granted)) = loads(&total, host.capacity_milli()) else {
        return;
    };
    let width = r.all.bins.width_ns as f64 / 1e9;
    let x = (
        axis.x(first as f64 * width),
        axis.x((first + bins.len()) as f64 * width),
    );
    let class = match demand {
        d if d > 1.0 => "heat h5",
        d if d > 0.8 => "heat h4",
        d if d > 0.6 => "heat h3",
        d if d > 0.4 => "heat h2",
        d if d > 0.2 => "heat h1",
        _ => "heat h0",
    };
    let (demand, granted) = (demand * 100.0, granted * 100.0);
    let title = format!(
        "{}: demand {demand:.0} %, granted {granted:.0} %",
        host.name
    );
    Rect {
        class,
        x,
        y,
        height: row - 1.0,
        narrowest: 0.5,
        title: &title,
    }
    .draw(out);
}

/// Quantiles over hosts: what 1,000 curves would show.
fn bands(r: &Report<'_>) -> String {
    const HEIGHT: f64 = 220.0;
    let axis = axis(r);
    let highest = highest(r).clamp(1.0, 2.0);
    let y = |load: f64| HEIGHT - load.min(highest) / highest * (HEIGHT - 14.0);
    let bins = r.all.bins.hosts.iter().map(Vec::len).max().unwrap_or(0);
    let width = r.all.bins.width_ns as f64 / 1e9;
    let mut paths = [String::new(), String::new(), String::new()];
    for n in 0..bins {
        let hosts = r.header.scenario.hosts.iter().zip(&r.all.bins.hosts);
        let mut at: Vec<f64> = hosts
            .filter_map(|(h, b)| loads(b.get(n)?, h.capacity_milli()))
            .map(|(d, _)| d)
            .collect();
        at.sort_by(f64::total_cmp);
        let q = |q| quantile(&at, q).map(&y);
        let (left, right) = (axis.x(n as f64 * width), axis.x((n + 1) as f64 * width));
        for (path, (low, high)) in paths.iter_mut().zip([(0.0, 1.0), (0.1, 0.9), (0.5, 0.5)]) {
            let Some((low, high)) = q(low).zip(q(high)) else {
                continue;
            };
            let low = low.max(high + 1.5);
            let _ = write!(path, "M{left:.1} {low:.1}V{high:.1}H{right:.1}V{low:.1}Z");
        }
    }
    let mut out = open(HEIGHT + 34.0, "quantiles of hosts' demand over trace time");
    axis.draw(&mut out, 4.0, HEIGHT, "trace time");
    for (class, path) in ["band all", "band most", "band middle"].iter().zip(&paths) {
        let _ = write!(out, "<path class=\"{class}\" d=\"{path}\"/>");
    }
    let _ = write!(
        out,
        "<line class=\"capacity\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{1:.1}\" y2=\"{1:.1}\"/>",
        WIDTH - RIGHT,
        y(1.0)
    );
    row_name(&mut out, "100 %", y(1.0) + 4.0, None);
    out.push_str("</svg><p class=\"note\">Demand over capacity, all hosts together: lightest the ");
    out.push_str("range, darker the middle 80 % of hosts, line the median.</p>");
    out
}
