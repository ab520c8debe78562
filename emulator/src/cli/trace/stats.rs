//! `migbed trace stats`: what a trace is like, as a table, JSON or HTML.

use super::Source;
use super::each::each_vm;
use crate::characterise::{Characterise, Document, Page, Vm};
use crate::cli::Exit;
use crate::cli::output::say;
use crate::report::trace::{Curves, FLEET, best_fit, duration, page, stationary};
use crate::results::write_atomically;
use crate::run::Unusable;
use anyhow::Result;
use clap::Args;
use comfy_table::Table;
use std::path::PathBuf;
use traces::class::Coupling;
use traces::stats::{QuantityStats, Spread};

#[derive(Debug, Args)]
pub(in crate::cli) struct StatsArgs {
    #[command(flatten)]
    source: Source,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
    /// Write one self-contained HTML file with the figures and their curves.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// VMs whose curves are drawn in the HTML.
    #[arg(long, default_value_t = 8, value_name = "N")]
    draw: usize,
}

/// Rows of the table; more are told to be there.
const ROWS: usize = 60;

impl StatsArgs {
    pub(super) fn execute(&self) -> Result<Exit> {
        let mut all = Characterise::default();
        let mut curves = Vec::new();
        let streamed = each_vm(&self.source, |meta, series, recording| {
            let sampled = all.add(meta, series, recording);
            if self.html.is_some() && !sampled.is_empty() && curves.len() < self.draw {
                let drawn = sampled.iter().map(|(quantity, s)| Curves::of(*quantity, s));
                curves.push(drawn.collect::<Vec<_>>());
            }
        })?;
        let Some(streamed) = streamed else {
            return Ok(Exit::Interrupted);
        };
        let document = all.finish(
            self.source.name(),
            streamed.format.name().to_owned(),
            self.source.origins(&streamed),
        );
        if let Some(file) = &self.html {
            write_atomically(file, page(&document, &curves).as_bytes())
                .map_err(|error| Unusable(error.to_string()))?;
        }
        if self.json {
            say!("{}", serde_json::to_string_pretty(&document)?);
        } else {
            print(&document);
        }
        if let Some(file) = &self.html {
            eprintln!("{}", file.display());
        }
        Ok(Exit::Done)
    }
}

fn print(document: &Document) {
    say!(
        "{}: {}, {} VMs",
        document.source,
        document.format,
        document.vms.len()
    );
    for line in &document.columns {
        say!("{line}");
    }
    say!("{}", vm_table(document));
    if document.vms.len() > 1 {
        say!("fleet: median over VMs (10th – 90th percentile)");
        say!("{}", fleet_table(document));
    }
    for vm in &document.vms {
        if let Some(page) = &vm.pages {
            print_pages(vm, page);
        }
    }
}

fn two(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |v| format!("{v:.2}"))
}

fn significant(value: f64) -> String {
    match value.abs() {
        v if v == 0.0 || v >= 100.0 => format!("{value:.0}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn vm_table(document: &Document) -> Table {
    let mut table = Table::new();
    table.set_header([
        "VM",
        "quantity",
        "mean",
        "p95",
        "max",
        "CoV",
        "peak/mean",
        "ACF 1",
        "ACF 24 h",
        "period",
        "DFA",
        "stationary",
        "shifts",
        "distribution",
        "missing",
    ]);
    let rows = document
        .vms
        .iter()
        .flat_map(|vm| vm.quantities.iter().map(move |stats| (vm, stats)));
    let total = rows.clone().count();
    for (vm, stats) in rows.take(ROWS) {
        table.add_row(vm_row(vm, stats));
    }
    if total > ROWS {
        let more = format!("… {} more", total - ROWS);
        table.add_row([more, "--json or --html has all".to_owned()]);
    }
    table
}

fn vm_row(vm: &Vm, stats: &QuantityStats) -> Vec<String> {
    let s = &stats.summary;
    let period = stats.periods.first().map(|p| p.length * stats.step_s);
    vec![
        vm.name.clone(),
        format!("{} [{}]", stats.quantity.name(), stats.unit),
        significant(s.mean),
        significant(s.p95),
        significant(s.max),
        two(s.coefficient_of_variation),
        two(s.peak_to_mean),
        two(stats.acf_lag1),
        two(stats.acf_24h),
        period.map_or_else(|| "–".to_owned(), duration),
        two(stats.dfa.map(|d| d.exponent)),
        stationary(stats).to_owned(),
        stats
            .level_shifts
            .map_or_else(|| "–".to_owned(), |n| n.to_string()),
        best_fit(stats),
        format!("{:.1} %", stats.missing_share * 100.0),
    ]
}

fn fleet_table(document: &Document) -> Table {
    let mut table = Table::new();
    table.set_header(FLEET);
    let spread = |s: Option<Spread>| {
        let text = |s: Spread| {
            format!(
                "{} ({} – {})",
                significant(s.p50),
                significant(s.p10),
                significant(s.p90)
            )
        };
        s.map_or_else(|| "–".to_owned(), text)
    };
    for f in &document.fleet.quantities {
        let together = f.together.as_ref();
        let peak = together.and_then(|t| t.sum).map(|s| s.max);
        table.add_row([
            format!("{} [{}]", f.quantity.name(), f.unit),
            f.mean.map_or(0, |m| m.count).to_string(),
            spread(f.mean),
            spread(f.peak_to_mean),
            spread(f.coefficient_of_variation),
            spread(f.acf_lag1),
            spread(f.acf_24h),
            spread(f.dfa),
            peak.map_or_else(|| "–".to_owned(), significant),
            two(together.and_then(|t| t.multiplexing_gain)),
            spread(together.and_then(|t| t.pairwise_correlation)),
        ]);
    }
    table
}

fn print_pages(vm: &Vm, page: &Page) {
    let s = &page.stats;
    say!(
        "{}: {} pages written in {:.0} s, {:.2} cores; {:.0} new pages/s in the second half; hottest \
         1/10/50 % of pages hold {:.0}/{:.0}/{:.0} % of the marks; overlap of ticks {}; runs of {} pages, \
         {} single; CPU against pages r = {}",
        vm.name,
        s.distinct,
        s.duration_s,
        s.cores,
        s.new_pages_per_s,
        s.hottest_share[0] * 100.0,
        s.hottest_share[1] * 100.0,
        s.hottest_share[2] * 100.0,
        two(s.overlap),
        two(s.run_mean),
        two(s.single_run_share),
        two(s.cpu_correlation)
    );
    let mut table = Table::new();
    table.set_header(["phase", "seconds", "cores", "pages/s"]);
    for (index, phase) in page.phases.iter().enumerate() {
        let at = |ns: u64| ns as f64 / 1e9;
        let steady = if phase.range_ns == page.steady_ns {
            " (steady)"
        } else {
            ""
        };
        table.add_row([
            format!("{}{steady}", index + 1),
            format!(
                "{:.1} – {:.1}",
                at(phase.range_ns.start),
                at(phase.range_ns.end)
            ),
            format!("{:.2}", phase.cores),
            format!("{:.0}", phase.pages_per_s),
        ]);
    }
    say!("{table}");
    print_halves(page);
    print_forms(page);
}

fn print_halves(page: &Page) {
    let Some(halves) = &page.halves else { return };
    let varies = page.fit.as_ref().is_some_and(|fit| fit.variation.is_some());
    say!(
        "steady phase, one half against the other: recorded / from classes on {}{}",
        match halves.coupling {
            Coupling::Cpu => "CPU time",
            Coupling::Time => "time",
        },
        if varies { " that vary" } else { "" }
    );
    let mut table = Table::new();
    table.set_header([
        "fitted, scored",
        "window",
        "D(w)",
        "error",
        "p10",
        "p50",
        "p90",
        "p99",
        "disjoint windows",
    ]);
    for (way, direction) in [("1, 2", &halves.forward), ("2, 1", &halves.backward)] {
        for w in &direction.windows {
            let (m, p) = (&w.measured, &w.predicted);
            let pair = |a: f64, b: f64| format!("{a:.0} / {b:.0}");
            table.add_row([
                way.to_owned(),
                format!("{} s", w.window_s),
                pair(m.mean, p.mean),
                format!("{:.1} %", w.error * 100.0),
                pair(m.p10, p.p10),
                pair(m.p50, p.p50),
                pair(m.p90, p.p90),
                pair(m.p99, p.p99),
                m.disjoint.to_string(),
            ]);
        }
    }
    say!("{table}");
}

fn print_forms(page: &Page) {
    let Some(forms) = &page.forms else {
        say!("too short to say which form fits");
        return;
    };
    let mut table = Table::new();
    table.set_header([
        "form",
        "numbers",
        "0.1 s",
        "1 s",
        "10 s",
        "scored time at 10 s",
    ]);
    for score in &forms.scores {
        let error = |i: usize| {
            let error = score.out_of_sample.get(i).and_then(|w| w.error);
            let spread = score.out_of_sample.get(i).and_then(|w| w.spread_error);
            let percent =
                |e: Option<f64>| e.map_or_else(|| "–".to_owned(), |e| format!("{:.1}", e * 100.0));
            format!("{} ({})", percent(error), percent(spread))
        };
        let scored = score.out_of_sample.last().map_or(0.0, |w| w.scored_share);
        table.add_row([
            score.form.name().to_owned(),
            score.parameters.to_string(),
            error(0),
            error(1),
            error(2),
            format!("{:.0} %", scored * 100.0),
        ]);
    }
    say!(
        "whole recording, % error of the mean of D(w) (of its p10, p50, p90, p99) out of sample, fitted on \
         the first half of each phase:"
    );
    say!("{table}");
    let bar = if forms.within_20_per_cent {
        "within"
    } else {
        "not within"
    };
    say!("the form to use: {} ({bar} 20 %)", forms.best.name());
}
