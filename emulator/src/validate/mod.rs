//! Replays migrations that were measured on real QEMU, and says how far off the emulation is.
//!
//! Inside: a ground-truth file (`input`), its columns (`columns`) and what they mean for an emulated migration
//! (`configuration`, `image`); logs of migrations (`logs`); errors and their quantiles (`errors`), who foretold what (`verdicts`), which lines are
//! wanted (`select`). Never inside: printing (the command line), constants tuned to single runs: what describes the
//! guest image is one set of figures for all runs.

pub mod bars;
mod columns;
mod configuration;
pub mod errors;
mod image;
pub mod input;
pub mod logs;
pub mod select;
pub mod verdicts;

use crate::lone::Lone;
use crate::migration::record::{MigrationRecord, Status};
use crate::run::progress::Show;
use anyhow::Result;
pub use configuration::Configuration;
use errors::{Comparison, Measured};
use input::RealRun;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// What a file's migrations came to.
#[derive(Debug, Serialize)]
pub struct Validation {
    /// The bars they have.
    pub bars: Vec<bars::Bar>,
    /// Errors by field and group.
    pub rows: Vec<errors::Row>,
    /// Who foretold whether they complete.
    pub verdicts: Vec<verdicts::Verdict>,
    /// Each real run with each emulation of it.
    pub comparisons: Vec<Comparison>,
    /// Runs that were not replayed, by reason.
    pub left_out: BTreeMap<String, usize>,
}

impl Validation {
    /// The figures of comparisons.
    #[must_use]
    pub fn new(comparisons: Vec<Comparison>, left_out: BTreeMap<String, usize>) -> Self {
        let rows = errors::table(&comparisons);
        Self {
            bars: bars::bars(&rows, &comparisons),
            verdicts: verdicts::verdicts(&comparisons),
            rows,
            comparisons,
            left_out,
        }
    }
}

/// One emulated migration.
#[derive(Debug, Clone)]
pub struct Emulated {
    /// Its record.
    pub record: MigrationRecord,
    /// What is compared of it.
    pub measured: Measured,
}

/// Emulates a configuration once: the VMs that move at once, the quickest first.
///
/// # Errors
/// When the emulation itself does not get to a result.
pub fn emulate(configuration: &Configuration, seed: u64, out: &Path) -> Result<Vec<Emulated>> {
    emulate_lone(&configuration.lone(seed), out)
}

/// Emulates a migration, or several at once; pages and bytes are those of the full size.
fn emulate_lone(lone: &Lone, out: &Path) -> Result<Vec<Emulated>> {
    let records = lone.run(out, Show::Quiet)?.migrations;
    let k = f64::from(lone.scale);
    let mut emulated: Vec<Emulated> = records
        .into_iter()
        .map(|mut record| {
            let (qmp, ram) = (&record.query_migrate, &record.query_migrate["ram"]);
            let full = |value: &Value| value.as_f64().map(|carried| carried * k);
            let measured = Measured {
                completed: record.status == Status::Completed,
                total_time_ms: qmp["total-time"].as_f64(),
                bytes: full(&ram["transferred"]),
                normal: full(&ram["normal"]),
                zero: full(&ram["duplicate"]),
                outage_ms: record.observed_outage_ms,
                downtime_ms: qmp["downtime"].as_f64(),
                syncs: ram["dirty-sync-count"].as_f64(),
                requests: full(&ram["postcopy-requests"]),
            };
            for guess in &mut record.predictions {
                guess.bytes *= k;
            }
            Emulated { record, measured }
        })
        .collect();
    emulated.sort_by(|a, b| quicker(&a.measured, &b.measured));
    Ok(emulated)
}

/// The comparisons of one emulation with every real run of its configuration. Where several VMs
/// move at once the quickest is compared with the quickest, and so on: which of them gets more of
/// the link is chance, there as here.
#[must_use]
pub fn compare(configuration: &Configuration, emulated: &[Emulated]) -> Vec<Comparison> {
    let mut repeats: BTreeMap<u32, Vec<&RealRun>> = BTreeMap::new();
    for run in &configuration.runs {
        repeats.entry(run.repeat).or_default().push(run);
    }
    let mut comparisons = Vec::new();
    for mut runs in repeats.into_values() {
        runs.sort_by(|a, b| quicker(&a.measured, &b.measured));
        for (rank, (run, emulated)) in runs.into_iter().zip(emulated).enumerate() {
            comparisons.push(Comparison {
                run_id: run.run_id.clone(),
                config_id: configuration.config_id.clone(),
                rank,
                kind: configuration.kind.clone(),
                mode: configuration.mode.clone(),
                cancel_after_ms: configuration.cancel_after_ms(),
                lambda: configuration.lambda,
                real: run.measured,
                emulated: emulated.measured,
                models: emulated.record.predictions.clone(),
                grade: emulated.record.grade.clone(),
                verified: emulated.record.verified,
            });
        }
    }
    comparisons
}

/// The one that took less time first; one whose time nobody knows last.
fn quicker(a: &Measured, b: &Measured) -> std::cmp::Ordering {
    let time = |m: &Measured| m.total_time_ms.unwrap_or(f64::INFINITY);
    time(a).total_cmp(&time(b))
}
