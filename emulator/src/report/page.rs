//! The page: its sections in order.

use super::html::{Cell, escape, json_for_script, table, tag};
use super::{certificate, hosts, migrations, tables};
use crate::results::collect::{Collected, Move};
use crate::results::summary::figure;
use crate::results::{RunHeader, Summary};
use crate::scenario::origin::{Origin, who, word};
use std::fmt::Write;

/// What a report is made of.
pub(super) struct Report<'a> {
    pub(super) header: &'a RunHeader,
    pub(super) summary: &'a Summary,
    pub(super) all: &'a Collected,
}

impl Report<'_> {
    /// Mean of granted over capacity of a host, over what was sampled.
    pub(super) fn mean_load(&self, host: usize) -> Option<f64> {
        let capacity_milli = self.header.scenario.hosts.get(host)?.capacity_milli();
        let cores = capacity_milli.max(1) as f64 / 1000.0;
        let bins = self.all.bins.hosts.get(host)?;
        let granted: f64 = bins.iter().map(|b| b.granted as f64).sum();
        let span: f64 = bins.iter().map(|b| b.span_ns as f64).sum();
        (span > 0.0).then(|| granted / (cores * span))
    }
}

/// The whole document.
pub(super) fn page(r: &Report<'_>) -> String {
    let s = r.summary;
    let json = serde_json::to_string(s).expect("a summary is plain data");
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{} · migbed</title><style>{}</style></head><body><main>",
        escape(&s.scenario),
        include_str!("style.css")
    );
    out.push_str(&head(r));
    out.push_str(&cards(s));
    section(&mut out, "Hosts' load", HOSTS_NOTE, &hosts::section(r));
    migrations_sections(&mut out, r);
    section(&mut out, "Certificate", "", &certificate::glance(r));
    section(
        &mut out,
        "Certificate: links",
        LINKS_NOTE,
        &tables::links(s),
    );
    if r.all.changes.total > 0 {
        let body = certificate::changes(r);
        section(
            &mut out,
            "Certificate: changes of links",
            CHANGES_NOTE,
            &body,
        );
    }
    if !r.all.migrations.is_empty() {
        let body = certificate::budgets(r);
        section(&mut out, "Certificate: migrations", BUDGETS_NOTE, &body);
    }
    if !s.flows.is_empty() {
        section(&mut out, "Tenant flows", FLOWS_NOTE, &flows(s));
    }
    if !s.services.is_empty() {
        let body = services(s) + &super::clients::plots(r);
        section(&mut out, "Services", SERVICES_NOTE, &body);
    }
    section(
        &mut out,
        "Models against this run",
        MODELS_NOTE,
        &tables::models(s),
    );
    section(
        &mut out,
        "Metrics and their definitions",
        "",
        &tables::metrics(s),
    );
    section(&mut out, "How to read this", "", HOW_TO_READ);
    section(&mut out, "Provenance", "", &provenance(r));
    let _ = write!(
        out,
        "</main><script type=\"application/json\" id=\"summary\">{}</script><script>{}</script>\
         </body></html>",
        json_for_script(&json),
        include_str!("sort.js")
    );
    out
}

const HOSTS_NOTE: &str = "Grant (filled) and demand (line) over capacity (dashed: 100 %), by trace \
    time; what was asked for and not granted is steal (red). Triangles: a VM left (▼) or \
    arrived (▲). CPU shares are modelled from the traces.";
const CHANGES_NOTE: &str = "As the scenario's schedule asks: made in place, so that nothing waiting \
    was lost and nothing passed unshaped. A jump over several changes shows the last, at its landing.";
const DEEDS_NOTE: &str = "Its decisions as it made them. The iteration is QMP's dirty-sync-count and what \
    was left what it was shown then; limits are downtime limits.";
const BUDGETS_NOTE: &str = "What the emulation itself added, by migration: how far its links were off \
    their rates while full, over windows of three sizes (95th percentile, worst link); delay as \
    calibrated; lateness of departures; time in which TCP was held up by this computer; time in which \
    no link of the path was busy, whoever's fault; time the relay waited for a CPU; CPU time taken \
    away by a hypervisor. Point at a grade for its reasons.";
const LINKS_NOTE: &str = "What the scenario asks, what was measured under load before the run, and \
    the counters after it. Rates on the wire; lateness of departures is the emulation's own.";
const FLOWS_NOTE: &str =
    "Real TCP beside the migrations; open only while something was on the wire.";
const SERVICES_NOTE: &str = "Latency of real requests from when they were due, ms: over the run, and \
    before (2 s), during and after (2 s) each migration of the VM that answers. Bars go from the median \
    to the 99th percentile, the tick is the highest; the scale is logarithmic.";
const MODELS_NOTE: &str = "What each model said before a migration began against what was then \
    measured: median and 90th percentile of |guess − measured| / measured; “leans” is the median \
    with its sign.";
const HOW_TO_READ: &str = "<p><span class=\"tag measured\">measured</span> was read off clocks, \
    sockets and counters while real bytes crossed the emulated network: durations, rounds, bytes, \
    outages, links. <span class=\"tag modelled\">modelled</span> was computed: CPU shares and steal \
    by weighted fair shares over the traces, and everything under <code>none</code>. <span \
    class=\"tag synthesised\">synthesised</span> was made up by a named profile.</p><p><b>Outage</b> \
    is the time from the guest's stop at the source to its resumption at the destination, on one \
    clock; <b>downtime</b> and <b>total time</b> are what the engine reports, as QMP defines them. A \
    <b>round</b> is what is sent between two readings of the dirty log; the final one is sent with \
    the guest paused. <b>Verified</b>: every page at the destination is in the version that the \
    guest's own time says. The <b>grade</b> says how far the emulation itself can be trusted: A \
    (links within 1 %), B (3 %), C (10 %), invalid beyond.</p>";

pub(super) fn section(out: &mut String, title: &str, note: &str, body: &str) {
    let _ = write!(out, "<section><h2>{}</h2>", escape(title));
    if !note.is_empty() {
        let _ = write!(out, "<p class=\"note\">{}</p>", escape(note));
    }
    out.push_str(body);
    out.push_str("</section>");
}

fn head(r: &Report<'_>) -> String {
    let (s, h) = (r.summary, r.header);
    let mut out = format!(
        "<header><p class=\"kicker\">migbed · {} · balancer <b>{}</b> · {} hosts, {} VMs</p>\
         <h1>{}</h1>",
        escape(&s.scenario),
        escape(&s.policy),
        h.scenario.hosts.len(),
        h.scenario.vms.len(),
        escape(&s.verdict)
    );
    if s.outcome != "completed" {
        let _ = write!(
            out,
            "<p class=\"alert\">The run was {}.</p>",
            escape(&s.outcome)
        );
    }
    let warnings: Vec<&String> = s.grade_reasons.iter().chain(&s.warnings).collect();
    if !warnings.is_empty() {
        out.push_str("<details class=\"warn\" open><summary>Read before trusting the numbers");
        let _ = write!(out, " ({})</summary><ul>", warnings.len());
        for w in warnings {
            let _ = write!(out, "<li>{}</li>", escape(w));
        }
        out.push_str("</ul></details>");
    }
    out.push_str("</header>");
    out
}

fn cards(s: &Summary) -> String {
    let value = |name| s.value(name).unwrap_or(0.0);
    let dash = || "–".to_owned();
    let ms = |name| s.value(name).map_or_else(dash, |v| format!("{v:.0} ms"));
    let measured = if s.tag == "modelled" {
        "modelled"
    } else {
        "measured"
    };
    let mut out = String::from("<div class=\"cards\">");
    let mut card = |label: &str, big: &str, small: &str, tagged: &str| {
        let _ = write!(
            out,
            "<div class=\"card\"><div class=\"label\">{} {}</div><div class=\"big\">{big}</div>\
             <div class=\"small\">{}</div></div>",
            escape(label),
            if tagged.is_empty() {
                String::new()
            } else {
                tag(tagged)
            },
            escape(small)
        );
    };
    let why = if s.grade_reasons.is_empty() {
        "certificate of the run"
    } else {
        "reasons above"
    };
    card("grade", &tables::grade(&s.grade), why, "");
    let done = format!(
        "{:.0}<span class=\"of\"> of {:.0}</span>",
        value("migrations_completed"),
        value("migrations_requested")
    );
    let others = format!(
        "{:.0} failed, {:.0} cancelled, {:.0} verified",
        value("migrations_failed"),
        value("migrations_cancelled"),
        value("migrations_verified")
    );
    card("migrations", &done, &others, measured);
    let gib = figure(value("migration_bytes") / f64::from(1 << 30));
    let times = s
        .value("migration_amplification")
        .map_or_else(dash, |a| format!("{a:.2} × RAM"));
    let scaled = if s.k > 1 {
        format!("{times}, scaled back by k = {}", s.k)
    } else {
        times
    };
    card("sent", &format!("{gib} GiB"), &scaled, measured);
    let max = format!("{} at most", ms("observed_outage_ms_max"));
    card(
        "outage, median",
        &ms("observed_outage_ms_p50"),
        &max,
        measured,
    );
    let max = format!("{} at most", ms("total_time_ms_max"));
    card(
        "total time, median",
        &ms("total_time_ms_p50"),
        &max,
        measured,
    );
    let (steal, none) = steal(s);
    card("steal", &steal, &none, "modelled");
    out.push_str("</div>");
    out
}

fn steal(s: &Summary) -> (String, String) {
    let unit = |v| format!("{}<span class=\"of\"> core-s</span>", figure(v));
    let steal = s.value("steal_core_s").map_or_else(|| "–".to_owned(), unit);
    let none = s.under_none("steal_core_s").map_or_else(
        || "under none: not computed".to_owned(),
        |v| format!("{} core-s under none", figure(v)),
    );
    (steal, none)
}

fn migrations_sections(out: &mut String, r: &Report<'_>) {
    if r.all.migrations.is_empty() {
        section(
            out,
            "Migrations",
            "",
            "<p class=\"note\">No VM was migrated.</p>",
        );
    } else {
        let mut note = "Over wall time. Behind the bars, what trace time did: ran with the clock \
                        (green), was held (amber), skipped ahead (grey line)."
            .to_owned();
        if r.all.migrations.len() > migrations::BARS_MAX {
            let _ = write!(note, " The first {} are drawn.", migrations::BARS_MAX);
        }
        let body = format!("{LEGEND}{}", migrations::timeline(r));
        section(out, "Migrations: when", &note, &body);
        let note = "Each from its own begin: rounds by turns, the final round, and the outage.";
        section(out, "Migrations: rounds", note, &migrations::anatomy(r));
        let note = "A click on a heading sorts. Units as the engine reports them; sent at the carried scale.";
        section(out, "Outcomes", note, &tables::outcomes(r));
        if let Some(deeds) = tables::deeds(r) {
            section(out, "What the orchestrator did", DEEDS_NOTE, &deeds);
        }
    }
    if !r.summary.rejections.is_empty() {
        let row = |(reason, n): (&String, &u64)| {
            vec![
                Cell::number(Some(*n as f64), |v| format!("{v:.0}")),
                Cell::text(reason),
            ]
        };
        let rows: Vec<_> = r.summary.rejections.iter().map(row).collect();
        section(
            out,
            "Refused moves",
            "",
            &table(&["times", "why"], &rows, false),
        );
    }
}

const LEGEND: &str = "<p class=\"legend\"><i class=\"k even\"></i>round <i class=\"k odd\"></i>next \
    round <i class=\"k paused\"></i>final round, guest paused <i class=\"k pull\"></i>pulled, \
    guest at the destination <i class=\"k outage\"></i>outage \
    <i class=\"k failed\"></i>failed</p>";

fn flows(s: &Summary) -> String {
    let row = |f: &crate::results::summary::FlowRow| {
        let mbit = (f.open_s > 0.0).then(|| f.received_bytes as f64 * 8.0 / f.open_s / 1e6);
        vec![
            Cell::text(&f.flow),
            Cell::number(Some(f.received_bytes as f64 / f64::from(1 << 20)), figure),
            Cell::number(Some(f.open_s), figure),
            Cell::number(mbit, figure),
        ]
    };
    let rows: Vec<_> = s.flows.iter().take(200).map(row).collect();
    table(
        &["flow", "received, MiB", "open, s", "mean, Mbit/s"],
        &rows,
        true,
    )
}

fn services(s: &Summary) -> String {
    const ROWS_MAX: usize = 200;
    let row = |r: &crate::results::services::ServiceRow| {
        let ms = |of: fn(&crate::results::services::Latency) -> f64| {
            Cell::number(r.latency.as_ref().map(of), figure)
        };
        let window = match r.migration {
            Some(id) => format!("{} migration {id}", r.window),
            None => "whole run".to_owned(),
        };
        vec![
            Cell::text(&format!("{} ({})", r.service, r.server)),
            Cell::text(&window),
            Cell::number(Some(r.answered as f64), figure),
            Cell::number(Some(r.cut as f64), figure),
            ms(|l| l.p50_ms),
            ms(|l| l.p90_ms),
            ms(|l| l.p99_ms),
            ms(|l| l.p999_ms),
            ms(|l| l.max_ms),
        ]
    };
    let rows: Vec<_> = s.services.iter().take(ROWS_MAX).map(row).collect();
    let head = [
        "service", "window", "answered", "cut", "median", "p90", "p99", "p99.9", "max",
    ];
    let mut out = super::latency::plot(&s.services[..s.services.len().min(ROWS_MAX)]);
    out.push_str(&table(&head, &rows, true));
    out
}

fn provenance(r: &Report<'_>) -> String {
    let (h, s) = (r.header, r.summary);
    let sum = |kind: Move| {
        let spans = r.all.spans.iter().filter(|p| p.kind == kind);
        let (mut wall, mut trace) = (0.0, 0.0);
        for p in spans {
            wall += p.mono_ns.1.saturating_sub(p.mono_ns.0) as f64 / 1e9;
            trace += p.trace_ns.1.saturating_sub(p.trace_ns.0) as f64 / 1e9;
        }
        (wall, trace)
    };
    let skipped = sum(Move::Skipped).1;
    let time = format!(
        "{:.1} s of trace time in {:.1} s of wall time: ran {:.1} s, held {:.1} s, skipped {skipped:.1} s",
        s.trace_s,
        s.wall_s,
        sum(Move::Ran).0,
        sum(Move::Held).0
    );
    let balancer = &h.scenario.balancer;
    let options: Vec<String> = balancer
        .options
        .iter()
        .map(|(k, v)| format!("{k} = {v}"))
        .collect();
    let rows = [
        ("migbed", h.migbed_version.clone()),
        (
            "started",
            format!("{} (Unix seconds, UTC)", h.started_unix_s),
        ),
        ("time", time),
        (
            "pace, k, seed",
            format!("{:?}, {}, {}", h.pace, h.k, h.seed).to_lowercase(),
        ),
        (
            "balancer",
            format!("{} {}", balancer.policy, options.join(", ")),
        ),
        ("kernel, backend", format!("{}, {}", h.kernel, h.backend)),
        ("congestion control", h.scenario.network.congestion.clone()),
        ("capabilities", h.capabilities.to_string()),
        (
            "log",
            if s.log_cut {
                "cut at its tail"
            } else {
                "whole"
            }
            .to_owned(),
        ),
    ];
    let cells: Vec<_> = rows
        .iter()
        .map(|(a, b)| vec![Cell::text(a), Cell::text(b)])
        .collect();
    let mut out = table(&["", ""], &cells, false);
    out.push_str(&origins(&h.origins));
    if let Some(file) = &h.scenario_file {
        let _ = write!(
            out,
            "<details><summary>{}</summary><pre>{}</pre></details>",
            escape(&file.name),
            escape(&file.text)
        );
    }
    out
}

/// Where what the VMs replay is from.
fn origins(origins: &[Origin]) -> String {
    let row = |origin: &Origin| {
        let cells = [
            who(origin),
            origin.column.clone(),
            word(origin.provenance).to_owned(),
            origin.how.clone(),
        ];
        cells.iter().map(|text| Cell::text(text)).collect()
    };
    let rows: Vec<Vec<Cell>> = origins.iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    table(&["VM", "column", "is", "from"], &rows, false)
}
