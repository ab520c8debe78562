//! Replays migrations that were measured on real QEMU, and says how far off the emulation is.
//!
//! Inside: what the columns of a ground-truth file mean for an emulated migration (`input`), the
//! errors and their quantiles (`errors`), which lines are wanted (`select`). Never inside: printing (the command line), constants
//! tuned to single runs: what describes the guest image is one set of figures for all runs.

pub mod errors;
pub mod input;
pub mod select;

use crate::migration::record::{MigrationRecord, Status};
use crate::run::progress::Show;
use anyhow::Result;
use errors::{Comparison, Measured};
use input::{Configuration, RealRun};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

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
    let lone = configuration.lone(seed);
    let (records, _) = lone.run(out, Show::Quiet)?;
    let mut emulated: Vec<Emulated> = records
        .into_iter()
        .map(|record| {
            let figure = |value: &Value| value.as_f64().unwrap_or(0.0);
            let (qmp, ram) = (&record.query_migrate, &record.query_migrate["ram"]);
            let measured = Measured {
                completed: record.status == Status::Completed,
                total_time_ms: figure(&qmp["total-time"]),
                bytes: figure(&ram["transferred"]),
                normal: figure(&ram["normal"]),
                zero: figure(&ram["duplicate"]),
                outage_ms: record.observed_outage_ms.unwrap_or(0.0),
                downtime_ms: figure(&qmp["downtime"]),
                rounds: figure(&ram["dirty-sync-count"]),
            };
            Emulated { record, measured }
        })
        .collect();
    emulated.sort_by(|a, b| {
        let (a, b) = (a.measured.total_time_ms, b.measured.total_time_ms);
        a.total_cmp(&b)
    });
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
        runs.sort_by(|a, b| {
            let (a, b) = (a.measured.total_time_ms, b.measured.total_time_ms);
            a.total_cmp(&b)
        });
        for (rank, (run, emulated)) in runs.into_iter().zip(emulated).enumerate() {
            comparisons.push(Comparison {
                run_id: run.run_id.clone(),
                config_id: configuration.config_id.clone(),
                rank,
                kind: configuration.kind.clone(),
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
