//! What `migbed migrate` prints of its migration.

use crate::cli::output::say;
use crate::migration::record::MigrationRecord;
use anyhow::Result;
use serde_json::json;

pub(super) fn tell(record: &MigrationRecord, as_json: bool) -> Result<()> {
    let answer = json!({
        "query_migrate": record.query_migrate,
        "engine_statistics": record.engine_statistics,
        "observed_outage_ms": record.observed_outage_ms,
        "rounds": record.rounds,
        "verified": record.verified,
        "owner": record.owner,
        "error": record.error,
        "grade": record.grade,
        "grade_reasons": record.grade_reasons,
        "predictions": record.predictions,
    });
    if as_json {
        say!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    say!(
        "query_migrate: {}",
        serde_json::to_string_pretty(&record.query_migrate)?
    );
    if !record.engine_statistics.is_null() {
        let statistics = serde_json::to_string_pretty(&record.engine_statistics)?;
        say!("{}: {statistics}", record.params.engine.name());
    }
    if let Some(outage) = record.observed_outage_ms {
        say!("observed_outage_ms: {outage:.1}");
    }
    say!("rounds: {}", record.rounds);
    say!("verified: {}", record.verified);
    say!("grade: {}", record.grade);
    for reason in &record.grade_reasons {
        say!("  {reason}");
    }
    say!("models (made before, error against what was measured):");
    for guess in &record.predictions {
        let error = |error: Option<f64>| {
            error.map_or_else(
                || "–".to_owned(),
                |error| format!("{:+.0} %", error * 100.0),
            )
        };
        say!(
            "  {:18} {:9.0} ms ({}), downtime {} ({}), {:.1} MiB ({})",
            guess.model,
            guess.total_time_ms,
            error(guess.total_time_error),
            guess
                .downtime_ms
                .map_or_else(|| "–".to_owned(), |ms| format!("{ms:.0} ms")),
            error(guess.downtime_error),
            guess.bytes / f64::from(1 << 20),
            error(guess.bytes_error),
        );
    }
    Ok(())
}
