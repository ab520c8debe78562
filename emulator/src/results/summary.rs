//! `summary.json`: the metrics of a run with units, definitions and tags, its links, the errors of
//! the models, and the sentence that says what the balancer achieved.

use super::collect::{Collected, Ended, LinkOutcome};
use super::columns::Tag;
use super::metrics::quantile;
use super::run_json::RunHeader;
use super::tables::{downtime_ms, sent_bytes, total_time_ms};
use crate::event::{LinkCalibration, LinkSample};
use crate::migration::record::{Owner, Prediction, Status};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

mod definitions;
pub use definitions::DEFINITIONS;

/// Version of `summary.json`.
pub const SCHEMA: u32 = 1;

/// The content of `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Of the scenario.
    pub scenario: String,
    /// Of the balancer.
    pub policy: String,
    /// `measured`, or of a simulation `modelled`.
    pub tag: String,
    /// `completed`, `interrupted`, `failed`.
    pub outcome: String,
    /// The events end in the middle: the writer was killed.
    pub log_cut: bool,
    /// A, B, C, invalid, or `not audited`.
    pub grade: String,
    /// Reasons for anything but A.
    pub grade_reasons: Vec<String>,
    /// Trace seconds reached.
    pub trace_s: f64,
    /// Wall seconds from the first event to the last.
    pub wall_s: f64,
    /// Space scale.
    pub k: u32,
    /// The metrics, by name.
    pub metrics: BTreeMap<String, Metric>,
    /// The same demand under `none`, by the same names; `None` if it was not computed.
    pub baseline: Option<BTreeMap<String, f64>>,
    /// Links asked against got.
    pub links: Vec<LinkRow>,
    /// Errors of the models whose guesses were recorded, by model.
    pub model_errors: Vec<ModelErrors>,
    /// Payload of tenant flows.
    pub flows: Vec<FlowRow>,
    /// Latency of services, as in `services.parquet`.
    #[serde(default)]
    pub services: Vec<super::services::ServiceRow>,
    /// Refused moves by reason.
    pub rejections: BTreeMap<String, u64>,
    /// What to read before trusting the numbers.
    pub warnings: Vec<String>,
    /// [`verdict`].
    pub verdict: String,
}

/// A number that says what it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// `None`: there was nothing to compute it from.
    pub value: Option<f64>,
    /// `ms`, `bytes`, `core-s`, `1` (a ratio), `count`.
    pub unit: String,
    /// How it came to be.
    pub tag: Tag,
    /// What it is.
    pub definition: String,
}

/// A link direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkRow {
    /// `h1-up`, `h1-down` or `a>b`.
    pub link: String,
    /// Before the run.
    pub calibration: Option<LinkCalibration>,
    /// Counters at the end.
    pub counters: Option<LinkSample>,
}

/// A model's guesses against what was then measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelErrors {
    /// Which model.
    pub model: String,
    /// Completed migrations it guessed.
    pub migrations: u64,
    /// Of the total time: median and 90th percentile of |guess − measured| / measured.
    pub total_time: Option<[f64; 2]>,
    /// The same of the outage.
    pub downtime: Option<[f64; 2]>,
    /// The same of the bytes.
    pub bytes: Option<[f64; 2]>,
    /// Median of the signed error of the total time: which way it leans.
    pub total_time_bias: Option<f64>,
}

/// A tenant flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowRow {
    /// `vm1>vm2`.
    pub flow: String,
    /// Payload received.
    pub received_bytes: u64,
    /// How long it was open on the wire.
    pub open_s: f64,
}

/// Sums a run up.
#[must_use]
pub fn summarise(header: &RunHeader, all: &Collected) -> Summary {
    let audited = all.audit.clone();
    let graded = audited.or_else(|| Some((header.grade.clone()?, header.grade_reasons.clone())));
    let (grade, grade_reasons) = graded.unwrap_or(("not audited".into(), Vec::new()));
    let mut summary = Summary {
        schema: SCHEMA,
        scenario: header.scenario.name.clone(),
        policy: header.scenario.balancer.policy.clone(),
        tag: all.tag.clone(),
        // A log without its last event is of a run that was killed, whatever run.json still says.
        outcome: all.outcome.clone().unwrap_or_else(|| "interrupted".into()),
        log_cut: all.cut,
        grade,
        grade_reasons,
        trace_s: all.end_trace_ns as f64 / 1e9,
        wall_s: all.end_mono_ns.saturating_sub(all.begin_mono_ns) as f64 / 1e9,
        k: header.k,
        metrics: metrics(header, all),
        baseline: all.baseline.clone(),
        links: all.links.iter().map(link_row).collect(),
        model_errors: model_errors(&all.migrations),
        flows: flows(header, all),
        services: super::services::rows(header, all),
        rejections: all.rejections.clone(),
        warnings: warnings(header, all),
        verdict: String::new(),
    };
    summary.verdict = verdict(&summary);
    summary
}

fn metrics(header: &RunHeader, all: &Collected) -> BTreeMap<String, Metric> {
    let mut values = all.usage.values();
    values.extend(migration_values(header, all));
    let mut ticks: Vec<f64> = all.ticks_ns.iter().map(|ns| *ns as f64 / 1e6).collect();
    ticks.sort_by(f64::total_cmp);
    values.insert("ticks".into(), ticks.len() as f64);
    if let Some(max) = ticks.last() {
        values.insert("decision_ms_max".into(), *max);
    }
    let metric = |d: &definitions::Definition| {
        let metric = Metric {
            value: values.get(d.name).copied().filter(|v| v.is_finite()),
            unit: d.unit.into(),
            tag: d.tag.in_run(&all.tag),
            definition: d.text.into(),
        };
        (d.name.to_owned(), metric)
    };
    DEFINITIONS.iter().map(metric).collect()
}

fn migration_values(header: &RunHeader, all: &Collected) -> BTreeMap<String, f64> {
    let records = || all.migrations.iter().map(|m| &m.record);
    let of = |s| records().filter(move |r| r.status == s);
    let completed = || of(Status::Completed);
    let sent: f64 = records().map(|r| sent_bytes(r) as f64).sum();
    let ram: f64 = completed().map(|r| r.ram_bytes as f64).sum();
    let sent_completed: f64 = completed().map(|r| sent_bytes(r) as f64).sum();
    let mut out = BTreeMap::new();
    let mut put = |name: &str, value: f64| {
        out.insert(name.to_owned(), value);
    };
    put(
        "migrations_requested",
        (all.migrations.len() + all.unended.len()) as f64,
    );
    put("migrations_completed", completed().count() as f64);
    put("migrations_failed", of(Status::Failed).count() as f64);
    put("migrations_cancelled", of(Status::Cancelled).count() as f64);
    put("migrations_unended", all.unended.len() as f64);
    put(
        "migrations_verified",
        completed().filter(|r| r.verified).count() as f64,
    );
    let owned = |owner: Owner| records().filter(move |r| r.owner == owner).count();
    put("vms_lost", owned(Owner::Lost) as f64);
    put("vms_stranded", owned(Owner::Stranded) as f64);
    let faults: usize = records().map(|r| r.faults.len()).sum();
    put("faults_struck", faults as f64);
    put("migrations_returned", returned(&all.migrations));
    put("moves_rejected", all.rejected as f64);
    put("migration_bytes", sent * f64::from(header.k));
    put("migration_bytes_carried", sent);
    if ram > 0.0 {
        put("migration_amplification", sent_completed / ram);
    }
    let mut series = |name: &str, values: Vec<f64>| {
        let mut values = values;
        values.sort_by(f64::total_cmp);
        for (suffix, q) in [("p50", 0.5), ("p95", 0.95), ("max", 1.0)] {
            if let Some(v) = quantile(&values, q) {
                put(&format!("{name}_{suffix}"), v);
            }
        }
        put(&format!("{name}_sum"), values.iter().sum());
    };
    series(
        "total_time_ms",
        completed().filter_map(total_time_ms).collect(),
    );
    series("downtime_ms", completed().filter_map(downtime_ms).collect());
    series(
        "observed_outage_ms",
        completed().filter_map(|r| r.observed_outage_ms).collect(),
    );
    out
}

/// Moves straight back: a VM that went A→B and next B→A within the run.
fn returned(migrations: &[Ended]) -> f64 {
    let mut last: BTreeMap<&str, &str> = BTreeMap::new();
    let mut returned = 0_u32;
    for r in migrations
        .iter()
        .map(|m| &m.record)
        .filter(|r| r.status == Status::Completed)
    {
        if last.insert(&r.vm, &r.source) == Some(r.destination.as_str()) {
            returned += 1;
        }
    }
    f64::from(returned)
}

fn link_row((link, outcome): (&String, &LinkOutcome)) -> LinkRow {
    LinkRow {
        link: link.clone(),
        calibration: outcome.calibration.clone(),
        counters: outcome.last.clone(),
    }
}

fn flows(header: &RunHeader, all: &Collected) -> Vec<FlowRow> {
    let row = |(id, (received_bytes, open_ns)): (&crate::ids::FlowId, &(u64, u64))| {
        let name = header.scenario.flows.get(id.index()).map_or_else(
            || id.to_string(),
            |f| format!("{}>{}", header.endpoint(f.from), header.endpoint(f.to)),
        );
        FlowRow {
            flow: name,
            received_bytes: *received_bytes,
            open_s: *open_ns as f64 / 1e9,
        }
    };
    all.flows.iter().map(row).collect()
}

fn warnings(header: &RunHeader, all: &Collected) -> Vec<String> {
    let mut out = all.warnings.clone();
    let more = all.warnings_total - all.warnings.len() as u64;
    if more > 0 {
        out.push(format!("{more} more warnings are in the event log"));
    }
    for host in &all.lost_hosts {
        out.push(format!(
            "the process of {} went during the run",
            header.host_name(*host)
        ));
    }
    if all.cut {
        out.push("the event log ends in the middle: its last moments are missing".into());
    }
    out
}

fn model_errors(migrations: &[Ended]) -> Vec<ModelErrors> {
    let mut by_model: BTreeMap<&str, Vec<&Prediction>> = BTreeMap::new();
    let completed = migrations
        .iter()
        .filter(|m| m.record.status == Status::Completed);
    for p in completed.flat_map(|m| &m.record.predictions) {
        by_model.entry(&p.model).or_default().push(p);
    }
    let sorted = |values: Vec<f64>| {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let pair = |values: Vec<f64>| {
        let v = sorted(values.into_iter().map(f64::abs).collect());
        Some([quantile(&v, 0.5)?, quantile(&v, 0.9)?])
    };
    let row = |(model, guesses): (&str, Vec<&Prediction>)| {
        let errors = |f: fn(&Prediction) -> Option<f64>| -> Vec<f64> {
            guesses.iter().filter_map(|p| f(p)).collect()
        };
        ModelErrors {
            model: model.to_owned(),
            migrations: guesses.len() as u64,
            total_time: pair(errors(|p| p.total_time_error)),
            downtime: pair(errors(|p| p.downtime_error)),
            bytes: pair(errors(|p| p.bytes_error)),
            total_time_bias: quantile(&sorted(errors(|p| p.total_time_error)), 0.5),
        }
    };
    by_model.into_iter().map(row).collect()
}

/// The sentence that says what the balancer achieved against `none`, and what it cost.
#[must_use]
pub fn verdict(s: &Summary) -> String {
    let mut text = String::new();
    if s.grade == "invalid" {
        text.push_str("INVALID RUN (see the reasons of its grade). ");
    }
    if s.outcome != "completed" {
        text.push_str(&format!("Partial results, the run was {}. ", s.outcome));
    }
    text.push_str(&achieved(s));
    text.push_str(&cost(s));
    text
}

impl Summary {
    /// The value of a metric.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<f64> {
        self.metrics.get(name)?.value
    }

    /// The same under `none`.
    #[must_use]
    pub fn under_none(&self, name: &str) -> Option<f64> {
        self.baseline
            .as_ref()?
            .get(name)
            .copied()
            .filter(|v| v.is_finite())
    }
}

fn achieved(s: &Summary) -> String {
    let policy = &s.policy;
    if policy == "none" {
        return "No balancer was asked: ".to_owned();
    }
    let Some((got, none)) = s.value("steal_core_s").zip(s.under_none("steal_core_s")) else {
        return format!("{policy}: the same demand under none was not computed; ");
    };
    let steal = if got.max(none) < 0.05 {
        "left no CPU demand waiting, as would none,".to_owned()
    } else {
        format!(
            "left {} core-s of CPU demand waiting against {} under none ({})",
            figure(got),
            figure(none),
            change(got, none)
        )
    };
    let gap = s
        .value("imbalance_gap")
        .zip(s.under_none("imbalance_gap"))
        .map_or_else(String::new, |(got, none)| {
            format!(
                " and a mean load gap between hosts of {:.1} % against {:.1} %",
                got * 100.0,
                none * 100.0
            )
        });
    format!("{policy} {steal}{gap} [modelled on the same demand]; ")
}

fn change(got: f64, none: f64) -> String {
    if none <= 0.0 {
        return "more".into();
    }
    let percent = (got - none) / none * 100.0;
    // Below half a per cent two runs of one policy differ as much.
    if percent.abs() < 0.5 {
        "no difference".into()
    } else if percent <= -99.5 && got > 0.0 {
        // Rounded to 100 it would say that nothing is left.
        format!("{:.1} % less", (-percent).min(99.9))
    } else if percent < 0.0 {
        format!("{:.0} % less", -percent)
    } else {
        format!("{percent:.0} % more")
    }
}

fn cost(s: &Summary) -> String {
    let count = |name| s.value(name).unwrap_or(0.0);
    let completed = count("migrations_completed");
    if count("migrations_requested") == 0.0 {
        return "no VM was migrated.".into();
    }
    let gib = count("migration_bytes") / f64::from(1 << 30);
    let outage = s
        .value("observed_outage_ms_p50")
        .zip(s.value("observed_outage_ms_max"))
        .map_or(String::new(), |(p50, max)| {
            format!(", outage {p50:.0} ms median and {max:.0} ms at most")
        });
    let verified = count("migrations_verified");
    let checked = if completed == 0.0 {
        String::new()
    } else if (verified - completed).abs() < 0.5 {
        ", every page verified".into()
    } else {
        format!(", {:.0} NOT VERIFIED", completed - verified)
    };
    let took = if s.policy == "none" {
        "the scenario's own moves completed"
    } else {
        "it took"
    };
    format!(
        "{took} {completed:.0} of {:.0} migrations, {} GiB on the wire{outage}{checked} [{}].",
        count("migrations_requested"),
        figure(gib),
        s.tag
    )
}

/// Three significant digits or so.
pub(crate) fn figure(v: f64) -> String {
    match v.abs() {
        a if a >= 100.0 => format!("{v:.0}"),
        a if a >= 10.0 => format!("{v:.1}"),
        _ => format!("{v:.2}"),
    }
}
