//! A page-level recording: its figures, D(t) with its fit, forms, halves, the working set.

use super::super::html::{Cell, escape, table};
use super::super::plot::{Curve, Plot, Scale, short};
use super::curves::curve;
use super::duration;
use crate::characterise::Page;
use traces::class::{Coupling, unique_pages};

pub(super) fn pages(page: &Page) -> String {
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
