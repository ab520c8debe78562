//! Replays migrations that were measured on real QEMU, and says how far off the emulation is.
//!
//! Inside: what the columns of a ground-truth file mean for an emulated migration (`input`), the
//! errors and their quantiles (`errors`). Never inside: printing (the command line), constants
//! tuned to single runs: what describes the guest image is one set of figures for all runs.

pub mod errors;
pub mod input;

use crate::migration::record::{MigrationRecord, Status};
use crate::run::progress::Show;
use anyhow::Result;
use errors::{Comparison, Measured};
use input::{Configuration, RealRun};
use std::path::Path;

/// Emulates a configuration once and compares it with the real runs of it.
///
/// # Errors
/// When the emulation itself does not get to a result.
pub fn emulate(
    configuration: &Configuration,
    seed: u64,
    out: &Path,
) -> Result<(MigrationRecord, Measured)> {
    let lone = configuration.lone(seed);
    let (record, _) = lone.run(out, Show::Quiet)?;
    let bytes = record.query_migrate["ram"]["transferred"]
        .as_f64()
        .unwrap_or(0.0);
    let measured = Measured {
        completed: record.status == Status::Completed,
        total_time_ms: record.query_migrate["total-time"].as_f64().unwrap_or(0.0),
        bytes,
        outage_ms: record.observed_outage_ms.unwrap_or(0.0),
        downtime_ms: record.query_migrate["downtime"].as_f64().unwrap_or(0.0),
        rounds: record.query_migrate["ram"]["dirty-sync-count"]
            .as_f64()
            .unwrap_or(0.0),
    };
    Ok((record, measured))
}

/// The comparisons of one emulated migration with every real run of its configuration.
#[must_use]
pub fn compare(
    configuration: &Configuration,
    runs: &[&RealRun],
    record: &MigrationRecord,
    emulated: &Measured,
) -> Vec<Comparison> {
    runs.iter()
        .map(|run| Comparison {
            run_id: run.run_id.clone(),
            config_id: configuration.config_id.clone(),
            lambda: configuration.lambda,
            real: run.measured,
            emulated: *emulated,
            models: record.predictions.clone(),
            grade: record.grade.clone(),
            verified: record.verified,
        })
        .collect()
}
