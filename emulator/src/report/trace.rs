//! The HTML of `migbed trace stats`: one self-contained file about a trace.
//!
//! Never inside: anything computed that the document does not say, but curves to be drawn.

use super::html::{Cell, escape, json_for_script, table};
use super::page::section;
use super::plot::{Curve, Plot, Scale, short};
use crate::characterise::{Document, FleetQuantity, Page, Vm};
use std::fmt::Write;
use traces::class::{Coupling, unique_pages};
use traces::stats::distribution::cumulative;
use traces::stats::{Quantity, QuantityStats, Sampled, autocorrelations, periodogram, quantile};

/// Curves of one VM and quantity, made while its samples are at hand.
#[derive(Debug)]
pub struct Curves {
    quantity: Quantity,
    course: Vec<(f64, f64)>,
    acf: Vec<(f64, f64)>,
    spectrum: Vec<(f64, f64)>,
    ecdf: Vec<(f64, f64)>,
}

/// Points of a curve.
const POINTS: usize = 500;

impl Curves {
    /// Draws from a series.
    #[must_use]
    pub fn of(quantity: Quantity, sampled: &Sampled) -> Self {
        let step_s = sampled.step_s();
        let count = sampled.values.len();
        let every = count.div_ceil(POINTS).max(1);
        let mean = |(index, part): (usize, &[Option<f64>])| {
            let known: Vec<f64> = part.iter().flatten().copied().collect();
            let mean = known.iter().sum::<f64>() / known.len() as f64;
            (!known.is_empty()).then(|| (index as f64 * every as f64 * step_s, mean))
        };
        let acf = autocorrelations(&sampled.values, count / 3);
        let skip = acf.len().div_ceil(2 * POINTS).max(1);
        let lagged = acf.iter().enumerate().step_by(skip);
        let mut sorted = sampled.known();
        sorted.sort_unstable_by(f64::total_cmp);
        let share = |i: usize| i as f64 / 200.0;
        Self {
            quantity,
            course: sampled
                .values
                .chunks(every)
                .enumerate()
                .filter_map(mean)
                .collect(),
            acf: lagged
                .filter_map(|(lag, r)| Some((lag as f64 * step_s, (*r)?)))
                .collect(),
            spectrum: spectrum(&periodogram(&sampled.values), count as f64 * step_s),
            ecdf: (0..=200)
                .filter_map(|i| Some((quantile(&sorted, share(i))?, share(i))))
                .collect(),
        }
    }
}

/// The largest power within each of some equal parts of the logarithm of the period.
fn spectrum(powers: &[f64], length_s: f64) -> Vec<(f64, f64)> {
    let mut out: Vec<(f64, f64)> = Vec::new();
    let mut bin = i64::MIN;
    for (index, &power) in powers.iter().enumerate() {
        let cycles = index as f64 + 1.0;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a logarithm of a count, times a small number"
        )]
        let place = (cycles.ln() * 60.0) as i64;
        match out.last_mut() {
            Some(last) if place == bin => {
                if power > last.1 {
                    *last = (length_s / cycles, power);
                }
            }
            _ => out.push((length_s / cycles, power)),
        }
        bin = place;
    }
    out
}

/// The whole page. `curves` are of the first VMs of the document, in their order.
#[must_use]
pub fn page(document: &Document, curves: &[Vec<Curves>]) -> String {
    let title = escape(&document.source);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title} · migbed</title><style>{}</style></head><body><main>\
         <header><p class=\"kicker\">migbed · trace · {} · {} VMs</p><h1>{title}</h1></header>",
        include_str!("style.css"),
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
        include_str!("sort.js")
    );
    out
}

const FLEET_NOTE: &str = "Median over the VMs that have the figure (10th to 90th percentile). The gain of \
    sharing is the sum of the VMs' peaks over the peak of their sum; correlation is over pairs of VMs.";
const VMS_NOTE: &str = "Definitions and sources: docs/characterisation.md. ACF is the autocorrelation at \
    one step, an hour, a day; DFA the exponent of detrended fluctuations (0.5: no memory). ADF and KPSS ask \
    whether the series is stationary, from opposite sides. Click a heading to sort.";

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
    let headings = [
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
    table(&headings, &rows, false)
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
        out.push_str(&pages(page));
    }
    for curves in curves {
        let wanted = [Quantity::Cpu, Quantity::Net, Quantity::PageWrites];
        let stats = vm.quantities.iter().find(|s| s.quantity == curves.quantity);
        if let Some(stats) = stats.filter(|s| wanted.contains(&s.quantity)) {
            let name = stats.quantity.name();
            let _ = write!(out, "<details open><summary>{name}</summary>");
            for plot in quantity_plots(stats, curves) {
                out.push_str(&plot.draw());
            }
            out.push_str("</details>");
        }
    }
    out
}

fn curve(class: &'static str, label: &str, points: Vec<(f64, f64)>) -> Curve {
    Curve {
        class,
        label: label.to_owned(),
        points,
        dots: false,
    }
}

fn quantity_plots(stats: &QuantityStats, curves: &Curves) -> Vec<Plot> {
    let name = stats.quantity.name();
    let periods = stats.periods.iter().take(3);
    let marks: Vec<(f64, String)> = periods
        .map(|p| (p.length * stats.step_s, duration(p.length * stats.step_s)))
        .collect();
    let mut spread = vec![curve("c0", "values (share at most)", curves.ecdf.clone())];
    let fits = &stats.distribution;
    if let Some(fit) = fits.fits.first() {
        let verdict = if fits.best().is_some() {
            "fits"
        } else {
            "nearest, does not fit"
        };
        let label = format!("{} ({verdict}, KS {:.3})", fit.family.name(), fit.ks);
        let at = |x: f64| {
            let p = cumulative(fit.family, fit.parameters, fits.bound, x);
            fits.zero_share + (1.0 - fits.zero_share) * p
        };
        let points = curves.ecdf.iter().map(|&(x, _)| (x, at(x))).collect();
        spread.push(curve("c1", &label, points));
    }
    let plot = |title: &str, x, y, curves, marks| Plot {
        title: format!("{name}: {title}"),
        x,
        y,
        curves,
        marks,
    };
    let linear = Scale::Linear;
    vec![
        plot(
            "over time",
            (linear, "s from the start"),
            (linear, stats.unit),
            vec![curve(
                "c0",
                &format!("{name} over time"),
                curves.course.clone(),
            )],
            vec![],
        ),
        plot(
            "autocorrelation",
            (linear, "lag in s"),
            (linear, "r"),
            vec![curve(
                "c0",
                "autocorrelation; marks: periods found",
                curves.acf.clone(),
            )],
            marks.clone(),
        ),
        plot(
            "periodogram",
            (Scale::Log, "period in s"),
            (linear, "share"),
            vec![curve(
                "c4",
                "share of variance by period",
                curves.spectrum.clone(),
            )],
            marks,
        ),
        plot(
            "distribution",
            (linear, stats.unit),
            (linear, "share"),
            spread,
            vec![],
        ),
    ]
}

fn pages(page: &Page) -> String {
    let mut out = page_table(page);
    out.push_str(&dirty_plot(page).draw());
    out.push_str(&forms_table(page));
    out.push_str(&halves_table(page));
    out.push_str(&working_set_plot(page).draw());
    out
}

fn page_table(page: &Page) -> String {
    let s = &page.stats;
    let percent = |v: f64| format!("{:.1} %", v * 100.0);
    let option = |v: Option<f64>, shown: fn(f64) -> String| v.map_or("–".to_owned(), shown);
    let figures = [
        ("length", duration(s.duration_s)),
        ("tick", duration(s.tick_s)),
        ("mean CPU", format!("{:.2} cores", s.cores)),
        ("pages written", short(s.distinct as f64)),
        (
            "growth (second half)",
            format!("{} new pages/s", short(s.new_pages_per_s)),
        ),
        (
            "marks on the hottest 1 / 10 / 50 % of pages",
            s.hottest_share.map(percent).join(" / "),
        ),
        (
            "overlap of neighbouring ticks",
            option(s.overlap, |v| format!("{:.0} %", v * 100.0)),
        ),
        ("mean run", option(s.run_mean, |v| format!("{v:.1} pages"))),
        (
            "runs of one page",
            option(s.single_run_share, |v| format!("{:.0} %", v * 100.0)),
        ),
        (
            "CPU against pages, by tick",
            option(s.cpu_correlation, |v| format!("r = {v:.2}")),
        ),
    ];
    let rows: Vec<Vec<Cell>> = figures
        .iter()
        .map(|(name, value)| vec![Cell::text(name), Cell::text(value)])
        .collect();
    table(&["recording", ""], &rows, false)
}

fn dirty_plot(page: &Page) -> Plot {
    let measured: Vec<(f64, f64)> = page.curve.iter().map(|p| (p.window_s, p.pages)).collect();
    let mut curves = Vec::new();
    let mut marks = Vec::new();
    if let Some(fit) = &page.fit {
        let clock = |p: &traces::stats::CurvePoint| match fit.coupling {
            Coupling::Cpu => p.window_cpu_s,
            Coupling::Time => p.window_s,
        };
        let fitted = page
            .curve
            .iter()
            .map(|p| (p.window_s, unique_pages(&fit.classes, clock(p))));
        let label = format!(
            "{} classes, by {} (error {:.1} % here, {:.1} % from one half to the other)",
            fit.classes.len(),
            if fit.coupling == Coupling::Cpu {
                "CPU time"
            } else {
                "time"
            },
            fit.report.in_sample_error * 100.0,
            fit.report.out_of_sample_error * 100.0
        );
        curves.push(curve("c1", &label, fitted.collect()));
    }
    if let Some(halves) = &page.halves {
        let points = halves
            .forward
            .windows
            .iter()
            .map(|w| (w.window_s, w.predicted.mean));
        curves.push(Curve {
            dots: true,
            ..curve(
                "c3",
                "first half's classes on the second half",
                points.collect(),
            )
        });
        let points = halves
            .forward
            .windows
            .iter()
            .map(|w| (w.window_s, w.measured.mean));
        curves.push(Curve {
            dots: true,
            ..curve("c2", "second half as recorded", points.collect())
        });
        marks = halves
            .forward
            .windows
            .iter()
            .map(|w| (w.window_s, format!("{} s", w.window_s)))
            .collect();
    }
    curves.push(Curve {
        dots: true,
        ..curve("c0", "D(t) as recorded, steady phase", measured)
    });
    Plot {
        title: "D(t) with its fit".to_owned(),
        x: (Scale::Log, "window in s"),
        y: (Scale::Log, "distinct pages"),
        curves,
        marks,
    }
}

fn forms_table(page: &Page) -> String {
    let Some(forms) = &page.forms else {
        return "<p class=\"note\">Too short to say which form fits.</p>".to_owned();
    };
    let rows: Vec<Vec<Cell>> = forms
        .scores
        .iter()
        .map(|score| {
            let mut row = vec![
                Cell::text(score.form.name()),
                Cell::number(Some(score.parameters as f64), short),
            ];
            for part in [&score.in_sample, &score.out_of_sample] {
                row.extend(
                    part.iter()
                        .map(|w| Cell::number(w.error.map(|e| e * 100.0), |v| format!("{v:.1} %"))),
                );
            }
            row.push(Cell::text(if score.form == forms.best {
                "chosen"
            } else {
                ""
            }));
            row
        })
        .collect();
    let headings = [
        "form",
        "numbers",
        "0.1 s in",
        "1 s in",
        "10 s in",
        "0.1 s out",
        "1 s out",
        "10 s out",
        "",
    ];
    let verdict = if forms.within_20_per_cent {
        "within 20 %"
    } else {
        "not within 20 %"
    };
    let phases: Vec<String> = page
        .phases
        .iter()
        .map(|p| {
            let at = |ns: u64| ns as f64 / 1e9;
            let (from, to) = (at(p.range_ns.start), at(p.range_ns.end));
            format!(
                "{from:.1} – {to:.1} s: {} pages/s, {:.2} cores",
                short(p.pages_per_s),
                p.cores
            )
        })
        .collect();
    format!(
        "<p class=\"note\">Which form fits the whole recording: error of D(w), in sample (first half of \
         each phase) and out of sample (its second half). Chosen: <b>{}</b>, {verdict} out of sample. \
         Phases: {}.</p>{}",
        forms.best.name(),
        escape(&phases.join("; ")),
        table(&headings, &rows, false)
    )
}

fn halves_table(page: &Page) -> String {
    let Some(halves) = &page.halves else {
        return String::new();
    };
    let mut rows = Vec::new();
    for (way, direction) in [("1 → 2", &halves.forward), ("2 → 1", &halves.backward)] {
        for w in &direction.windows {
            let (m, p) = (&w.measured, &w.predicted);
            let pair = |a: f64, b: f64| Cell::text(&format!("{} / {}", short(a), short(b)));
            rows.push(vec![
                Cell::text(way),
                Cell::number(Some(w.window_s), |v| format!("{v} s")),
                Cell::number(Some(m.disjoint as f64), |v| format!("{v:.0}")),
                pair(m.mean, p.mean),
                Cell::number(Some(w.error * 100.0), |v| format!("{v:.1} %")),
                pair(m.p10, p.p10),
                pair(m.p50, p.p50),
                pair(m.p90, p.p90),
                pair(m.p99, p.p99),
            ]);
        }
    }
    let headings = [
        "fitted → scored",
        "window",
        "disjoint windows",
        "mean",
        "error",
        "p10",
        "p50",
        "p90",
        "p99",
    ];
    format!(
        "<p class=\"note\">One half of the steady phase ({:.1} – {:.1} s) against the other: D(w) as \
         recorded / as the classes give it.</p>{}",
        page.steady_ns.start as f64 / 1e9,
        page.steady_ns.end as f64 / 1e9,
        table(&headings, &rows, false)
    )
}

fn working_set_plot(page: &Page) -> Plot {
    let set = &page.working_set;
    let classes = ["c0", "c2", "c3"];
    let mut curves = vec![curve(
        "c4",
        "since the start",
        set.t_s
            .iter()
            .copied()
            .zip(set.cumulative.iter().map(|&c| c as f64))
            .collect(),
    )];
    for ((window_s, counts), class) in set.windows.iter().zip(classes) {
        let points = set
            .t_s
            .iter()
            .zip(counts)
            .filter_map(|(t, c)| Some((*t, (*c)? as f64)));
        curves.push(curve(
            class,
            &format!("last {window_s} s"),
            points.collect(),
        ));
    }
    Plot {
        title: "Working set over time".to_owned(),
        x: (Scale::Linear, "s from the start"),
        y: (Scale::Linear, "pages"),
        curves,
        marks: page
            .phases
            .iter()
            .skip(1)
            .map(|p| (p.range_ns.start as f64 / 1e9, String::new()))
            .collect(),
    }
}
