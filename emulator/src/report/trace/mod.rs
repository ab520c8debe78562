//! The HTML of `migbed trace stats`: one self-contained file about a trace.
//!
//! Never inside: anything computed that the document does not say, but curves to be drawn.

mod curves;
mod pages;

use super::html::{Cell, escape, json_for_script, table};
use super::page::section;
use super::plot::short;
use crate::characterise::{Document, FleetQuantity, Vm};
use std::fmt::Write;
use traces::stats::{Quantity, QuantityStats};

pub use curves::Curves;

/// The whole page. `curves` are of the first VMs of the document, in their order.
#[must_use]
pub fn page(document: &Document, curves: &[Vec<Curves>]) -> String {
    let title = escape(&document.source);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title} · migbed</title><style>{}</style></head><body><main>\
         <header><p class=\"kicker\">migbed · trace · {} · {} VMs</p><h1>{title}</h1></header>",
        include_str!("../style.css"),
        escape(&document.format),
        document.vms.len()
    );
    if document.vms.len() > 1 {
        section(&mut out, "Fleet", FLEET_NOTE, &fleet(document));
    }
    section(&mut out, "VMs", VMS_NOTE, &vms(document));
    for (vm, curves) in document.vms.iter().zip(curves) {
        let body = one(vm, curves);
        section(&mut out, &vm.name, "", &body);
    }
    if curves.len() < document.vms.len() {
        let rest = document.vms.len() - curves.len();
        let note =
            format!("{rest} more VMs are in the table; name them with --vm to see their curves.");
        section(&mut out, "Not drawn", &note, "");
    }
    let json = serde_json::to_string(document).unwrap_or_default();
    let _ = write!(
        out,
        "</main><script type=\"application/json\" id=\"statistics\">{}</script><script>{}</script>\
         </body></html>",
        json_for_script(&json),
        include_str!("../sort.js")
    );
    out
}

const FLEET_NOTE: &str = "Median over the VMs that have the figure (10th to 90th percentile). The gain of \
    sharing is the sum of the VMs' peaks over the peak of their sum; correlation is over pairs of VMs.";
const VMS_NOTE: &str = "Definitions and sources: docs/characterisation.md. ACF is the autocorrelation at \
    one step, an hour, a day; DFA the exponent of detrended fluctuations (0.5: no memory). ADF and KPSS ask \
    whether the series is stationary, from opposite sides. Click a heading to sort.";

/// Columns of the fleet's table, here and on the terminal.
pub(crate) const FLEET: [&str; 11] = [
    "quantity",
    "VMs",
    "mean",
    "peak/mean",
    "CoV",
    "ACF 1",
    "ACF 24 h",
    "DFA",
    "peak of sum",
    "gain",
    "correlation",
];

fn fleet(document: &Document) -> String {
    let row = |f: &FleetQuantity| {
        let spread = |s: Option<traces::stats::Spread>| {
            let text = |s: traces::stats::Spread| {
                format!("{} ({} – {})", short(s.p50), short(s.p10), short(s.p90))
            };
            Cell::text(&s.map_or_else(|| "–".to_owned(), text))
        };
        let together = f.together.as_ref();
        vec![
            Cell::text(&format!("{} [{}]", f.quantity.name(), f.unit)),
            Cell::number(f.mean.map(|m| m.count as f64), |v| format!("{v:.0}")),
            spread(f.mean),
            spread(f.peak_to_mean),
            spread(f.coefficient_of_variation),
            spread(f.acf_lag1),
            spread(f.acf_24h),
            spread(f.dfa),
            Cell::number(together.and_then(|t| t.sum).map(|s| s.max), short),
            Cell::number(together.and_then(|t| t.multiplexing_gain), |v| {
                format!("{v:.2}")
            }),
            spread(together.and_then(|t| t.pairwise_correlation)),
        ]
    };
    let rows: Vec<Vec<Cell>> = document.fleet.quantities.iter().map(row).collect();
    table(&FLEET, &rows, false)
}

fn vms(document: &Document) -> String {
    let mut rows = Vec::new();
    for vm in &document.vms {
        rows.extend(vm.quantities.iter().map(|stats| vm_row(&vm.name, stats)));
    }
    let headings = [
        "VM",
        "quantity",
        "mean",
        "p95",
        "p99",
        "max",
        "CoV",
        "peak/mean",
        "ACF 1",
        "ACF 1 h",
        "ACF 24 h",
        "period",
        "DFA",
        "stationary?",
        "shifts",
        "best fit",
        "missing",
    ];
    table(&headings, &rows, true)
}

fn vm_row(name: &str, stats: &QuantityStats) -> Vec<Cell> {
    let two = |v: f64| format!("{v:.2}");
    let s = &stats.summary;
    let period = stats.periods.first().map(|p| p.length * stats.step_s);
    vec![
        Cell::text(name),
        Cell::text(&format!("{} [{}]", stats.quantity.name(), stats.unit)),
        Cell::number(Some(s.mean), short),
        Cell::number(Some(s.p95), short),
        Cell::number(Some(s.p99), short),
        Cell::number(Some(s.max), short),
        Cell::number(s.coefficient_of_variation, two),
        Cell::number(s.peak_to_mean, two),
        Cell::number(stats.acf_lag1, two),
        Cell::number(stats.acf_1h, two),
        Cell::number(stats.acf_24h, two),
        Cell::number(period, duration),
        Cell::number(stats.dfa.map(|d| d.exponent), two),
        Cell::text(stationary(stats)),
        Cell::number(stats.level_shifts.map(|n| n as f64), |v| format!("{v:.0}")),
        Cell::text(&best_fit(stats)),
        Cell::number(Some(stats.missing_share * 100.0), |v| format!("{v:.1} %")),
    ]
}

/// What both tests say together.
#[must_use]
pub fn stationary(stats: &QuantityStats) -> &'static str {
    match (
        stats.adf.map(|t| t.rejected),
        stats.kpss.map(|t| t.rejected),
    ) {
        (Some(true), Some(false)) => "yes",
        (Some(false), Some(true)) => "no",
        (Some(true), Some(true)) => "level moves",
        (Some(false), Some(false)) => "undecided",
        _ => "–",
    }
}

/// The best family, or that none fits and which comes nearest.
#[must_use]
pub fn best_fit(stats: &QuantityStats) -> String {
    let fits = &stats.distribution;
    match (fits.best(), fits.fits.first()) {
        (Some(best), _) => format!("{} (KS {:.3})", best.family.name(), best.ks),
        (None, Some(nearest)) => format!("none; {} (KS {:.3})", nearest.family.name(), nearest.ks),
        (None, None) => "–".to_owned(),
    }
}

/// A length of time in the unit people use.
#[must_use]
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s >= 2.0 * 86_400.0 => format!("{:.1} d", s / 86_400.0),
        s if s >= 5400.0 => format!("{:.2} h", s / 3600.0),
        s if s >= 120.0 => format!("{:.1} min", s / 60.0),
        s => format!("{s:.2} s"),
    }
}

fn one(vm: &Vm, curves: &[Curves]) -> String {
    let mut out = String::new();
    if let Some(page) = &vm.pages {
        out.push_str(&pages::pages(page));
    }
    for curves in curves {
        let wanted = [Quantity::Cpu, Quantity::Net, Quantity::PageWrites];
        let stats = vm.quantities.iter().find(|s| s.quantity == curves.quantity);
        if let Some(stats) = stats.filter(|s| wanted.contains(&s.quantity)) {
            let name = stats.quantity.name();
            let _ = write!(out, "<details open><summary>{name}</summary>");
            for plot in curves::quantity_plots(stats, curves) {
                out.push_str(&plot.draw());
            }
            out.push_str("</details>");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::characterise::Characterise;
    use traces::dirty::{PageWriteTrace, Run, Tick};
    use traces::store::bundle::VmMeta;
    use traces::store::series::{Interval, Metric, Series};

    /// What cannot be told is a dash on the page and null in JSON, and names are escaped.
    #[test]
    fn a_page_is_made_of_whatever_was_recorded() {
        let mut all = Characterise::default();
        let mut curves = Vec::new();
        let ticks = (0..400u64).map(|i| Tick {
            t_ns: (i + 1) * 100_000_000,
            cpu_ns: 10_000_000,
            runs: vec![Run {
                start: u32::try_from(i * 13 % 900).unwrap(),
                len: 50,
            }],
        });
        let recording = PageWriteTrace {
            title: String::new(),
            pages: 1000,
            interval_ns: 100_000_000,
            ticks: ticks.collect(),
        };
        for count in [0u32, 1, 300] {
            let mut series = Series::default();
            for i in 0..count {
                let interval = Interval {
                    t_ms: i64::from(i) * 1000,
                    dur_ms: 1000,
                    flags: 0,
                };
                let value = u64::from(i * 37 % 100);
                series
                    .push(interval, &[(Metric::CpuMilli, Some(value))])
                    .unwrap();
            }
            let meta = VmMeta::named(&format!("<b>{count}"));
            let recording = (count == 300).then_some(&recording);
            let sampled = all.add(&meta, &series, recording);
            if !sampled.is_empty() {
                let drawn = sampled.iter().map(|(quantity, s)| Curves::of(*quantity, s));
                curves.push(drawn.collect());
            }
        }
        let document = all.finish("<x>".to_owned(), "test".to_owned(), Vec::new());
        assert_eq!(document.vms.len(), 2, "a VM without samples has no row");
        let json = serde_json::to_value(&document).unwrap();
        assert!(json["vms"][0]["quantities"][0]["dfa"].is_null());
        assert!(json["vms"][1]["pages"]["forms"]["best"].is_string());
        let html = page(&document, &curves);
        assert!(html.contains("&lt;b&gt;300") && !html.contains("<b>300"));
        assert!(!html.contains("NaN") && !html.contains("inf,"));
        assert!(html.contains("D(t) with its fit") && !html.contains("src="));
    }
}
