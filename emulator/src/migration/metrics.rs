//! Statistics under their users' names: QMP's `query-migrate`, and the record of a migration.
//!
//! Inside: pure functions of the two ends' reports. Never inside: grades (`measure`), files.

use serde_json::{Value, json};

use super::engine::step::PAGE_BYTES;
use super::ownership::SourceSide;
use super::params::{EngineKind, MigrationParams};
use super::record::{
    DestinationReport, MigrationRecord, Owner, Phase, PostcopyDestination, Prediction, Round,
    SourceReport, Status, VcpuWaits,
};
use super::transport::status_word;

const NS_PER_MS: u64 = 1_000_000;
/// Version of the record's shape.
pub const RECORD_SCHEMA: u32 = 2;

/// The answer of QMP's `query-migrate` once the migration has ended: same keys, same units.
/// `downtime` is there only if it completed; it ends when the source is complete, which without a
/// return path is before the guest runs again (`observed_outage_ms` says when it does).
#[must_use]
pub fn query_migrate(report: &SourceReport, ram_bytes: u64) -> Value {
    let total_ms = ms_between(report.begin_ns, report.end_ns);
    let setup_ms = ms_between(report.begin_ns, report.setup_end_ns);
    let completed = report.status == Status::Completed;
    let transfer_ms = total_ms.saturating_sub(setup_ms).max(1);
    let transferred = report.bytes.total();
    let postcopy = report.postcopy.as_ref();
    let normal: u64 = report.rounds.iter().map(|round| round.normal_pages).sum();
    let duplicate: u64 = report.rounds.iter().map(|round| round.zero_pages).sum();
    let mut answer = json!({
        "status": status_word(report.status),
        "total-time": total_ms,
        "setup-time": setup_ms,
        "ram": {
            "transferred": transferred,
            "remaining": if completed { 0 } else { remaining_bytes(report) },
            "total": ram_bytes,
            "duplicate": duplicate,
            "normal": normal,
            "normal-bytes": normal * PAGE_BYTES,
            "dirty-pages-rate": report.dirty_pages_rate,
            // QEMU computes it anew at the end, over the whole transfer.
            "mbps": transferred as f64 * 8.0 / transfer_ms as f64 / 1000.0,
            "dirty-sync-count": report.dirty_sync_count,
            "postcopy-requests": postcopy.map_or(0, |postcopy| postcopy.requests),
            "page-size": PAGE_BYTES,
            "multifd-bytes": report.multifd_bytes,
            "pages-per-second": report.pages_per_second,
            "precopy-bytes": report.precopy_bytes,
            "downtime-bytes": report.downtime_bytes,
            "postcopy-bytes": postcopy.map_or(0, |postcopy| postcopy.postcopy_bytes),
            "dirty-sync-missed-zero-copy": 0,
        },
    });
    if let Some(xbzrle) = &report.xbzrle {
        answer["xbzrle-cache"] = json!(xbzrle);
    }
    if let (true, Some(stop_ns)) = (completed, report.stop_ns) {
        // In post-copy it ends when the package is sent.
        let end_ns = postcopy.map_or(report.end_ns, |postcopy| postcopy.package_ns);
        answer["downtime"] = json!(ms_between(stop_ns, end_ns));
    }
    if let Some(last) = report.throttles.last() {
        // QEMU tells it while the throttle is on; kept here, so that it can be read afterwards.
        answer["cpu-throttle-percentage"] = json!(last.percent);
    }
    if let Some(error) = &report.error {
        answer["error-desc"] = json!(error);
    }
    answer
}

/// What QEMU tells of a post-copy at its destination under `postcopy-blocktime`, put into the same answer.
fn add_postcopy(answer: &mut Value, postcopy: &PostcopyDestination) {
    let each =
        |figure: fn(&VcpuWaits) -> u64| -> Vec<u64> { postcopy.vcpus.iter().map(figure).collect() };
    answer["postcopy-blocktime"] = json!(postcopy.blocktime_ns / NS_PER_MS);
    answer["postcopy-vcpu-blocktime"] = json!(each(|vcpu| vcpu.blocktime_ns / NS_PER_MS));
    let mean = postcopy.latency_ns_sum.checked_div(postcopy.requests);
    answer["postcopy-latency"] = json!(mean);
    answer["postcopy-latency-dist"] = json!(postcopy.latency_dist);
    // One that never waited has 0 there, as QEMU has it.
    answer["postcopy-vcpu-latency"] = json!(each(|vcpu| vcpu
        .latency_ns_sum
        .checked_div(vcpu.requests)
        .unwrap_or(0)));
    if postcopy.prefaulted_pages.is_some() {
        // Its source cannot tell a page that the guest waits for from another.
        answer["ram"]["postcopy-requests"] = json!(postcopy.requests);
    }
}

/// What Xen's or Cloud Hypervisor's logs tell; null of the others.
fn engine_statistics(
    engine: EngineKind,
    report: &SourceReport,
    pulled: Option<&PostcopyDestination>,
) -> Value {
    let pages = |round: &Round| round.normal_pages + round.zero_pages;
    match engine {
        EngineKind::Qemu
        | EngineKind::QemuRounds
        | EngineKind::StopAndCopy
        | EngineKind::PostCopy => Value::Null,
        // `struct precopy_stats` as the policy last saw it.
        EngineKind::Xen | EngineKind::XenLegacy => {
            let live = || report.rounds.iter().filter(|round| !round.paused);
            json!({
                "iteration": live().count(),
                "total_written": live().map(pages).sum::<u64>(),
                "dirty_count": report.rounds.last().map(|round| round.dirty_pages),
            })
        }
        EngineKind::CloudHypervisor => {
            let mut total = 0;
            let mut before: Option<f64> = None;
            // A post-copy has none: no memory is sent before the guest.
            let rounds: &[Round] = match report.postcopy {
                Some(_) => &[],
                None => &report.rounds,
            };
            let iterations: Vec<Value> = (rounds.iter().enumerate())
                .map(|(number, round)| {
                    let bytes = pages(round) * PAGE_BYTES;
                    let table = round.dirty_pages * PAGE_BYTES;
                    total += bytes;
                    let transfer_s = round.end_ns.saturating_sub(round.begin_ns) as f64 / 1e9;
                    let estimate = before.map(|rate| table as f64 / rate * 1000.0);
                    if bytes > 0 && transfer_s > 0.0 {
                        before = Some(bytes as f64 / transfer_s);
                    }
                    json!({
                        "iteration": number,
                        "current_iteration_total_bytes": bytes,
                        "total_transferred_bytes": total,
                        "bandwidth_bytes_per_s": before,
                        "transfer_ms": transfer_s * 1000.0,
                        "estimated_downtime_ms": estimate,
                        "paused": round.paused,
                    })
                })
                .collect();
            let took_ms = |phase: Phase| {
                let span = report.phases.iter().find(|span| span.phase == phase);
                span.map(|span| span.end_ns.saturating_sub(span.begin_ns) as f64 / 1e6)
            };
            json!({
                "iterations": iterations,
                "downtime_ms": {
                    "final_iteration": took_ms(Phase::FinalRound),
                    "state_send": took_ms(Phase::State),
                    "complete": took_ms(Phase::Switchover),
                },
                "postcopy": pulled.map(fault_statistics),
            })
        }
    }
}

/// What its handler of page faults tells as it ends.
fn fault_statistics(pulled: &PostcopyDestination) -> Value {
    let came = pulled.missing_pages - pulled.never_came;
    let prefaulted = pulled.prefaulted_pages.unwrap_or(0);
    json!({
        "prefaulted": prefaulted,
        "served": came.saturating_sub(prefaulted),
        "total": pulled.missing_pages,
    })
}

/// What was left of the round that the migration ended in.
fn remaining_bytes(report: &SourceReport) -> u64 {
    report.rounds.last().map_or(0, |round| {
        round
            .dirty_pages
            .saturating_sub(round.normal_pages + round.zero_pages + round.xbzrle_pages)
            * PAGE_BYTES
    })
}

/// Guest stopped at the source → running at the destination, on the one clock, ms.
#[must_use]
pub fn observed_outage_ms(
    source: Option<&SourceReport>,
    destination: Option<&DestinationReport>,
) -> Option<f64> {
    let resumed_ns = destination?.resumed_ns?;
    let source = source?;
    let stop_ns = source.suspended_ns.or(source.stop_ns)?;
    // Signed: a resume before the stop would be our bug, and must not look like 0.
    Some((i128::from(resumed_ns) - i128::from(stop_ns)) as f64 / NS_PER_MS as f64)
}

/// The phases that only the destination sees the end of.
#[must_use]
pub fn resume_span(source: &SourceReport, destination: &DestinationReport) -> Option<(u64, u64)> {
    let state = source
        .phases
        .iter()
        .find(|span| span.phase == Phase::State)?;
    Some((state.end_ns, destination.resumed_ns?))
}

/// What the control plane knows of a migration besides the two reports.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordParts {
    /// Number in the run.
    pub id: u32,
    /// VM by name.
    pub vm: String,
    /// Host by name.
    pub source: String,
    /// Host by name.
    pub destination: String,
    /// Why the balancer asked for it.
    pub reason: String,
    /// With what.
    pub params: MigrationParams,
    /// RAM of the VM.
    pub ram_bytes: u64,
    /// Trace instant of the request, seconds.
    pub requested_trace_s: f64,
    /// Monotonic instant of the request.
    pub requested_ns: u64,
    /// When the source had been released, or had the guest back; the source's end if `None`.
    pub released_ns: Option<u64>,
    /// Who owns the guest, when the control plane knows better than the reports (a host died).
    pub owner: Option<Owner>,
    /// An error that neither end could tell.
    pub error: Option<String>,
    /// What models said before.
    pub predictions: Vec<Prediction>,
    /// The source's claim when it ended, after any `resolve`.
    pub side: Option<SourceSide>,
    /// The source's account.
    pub source_report: Option<SourceReport>,
    /// The destination's account.
    pub destination_report: Option<DestinationReport>,
}

/// The record of a migration that has ended. The grade is left open (empty): it needs the audit.
#[must_use]
pub fn assemble(parts: RecordParts) -> MigrationRecord {
    let source = parts.source_report.as_ref();
    let destination = parts.destination_report.as_ref();
    let owner = parts
        .owner
        .unwrap_or_else(|| owner(parts.side, destination));
    let status = match (owner, source.map(|report| report.status)) {
        (Owner::Destination, _) => Status::Completed,
        (_, Some(Status::Cancelled)) => Status::Cancelled,
        _ => Status::Failed,
    };
    let end_ns = parts.released_ns.or(source.map(|report| report.end_ns));
    let outage = observed_outage_ms(source, destination);
    let verified = destination.is_some_and(is_verified);
    let error = parts
        .error
        .or_else(|| source.and_then(|report| report.error.clone()))
        .or_else(|| destination.and_then(|report| report.error.clone()));
    MigrationRecord {
        schema: RECORD_SCHEMA,
        id: parts.id,
        vm: parts.vm,
        source: parts.source,
        destination: parts.destination,
        reason: parts.reason,
        kind: kind(&parts.params, source).to_owned(),
        status,
        owner,
        error,
        faults: Vec::new(),
        deeds: Vec::new(),
        ram_bytes: parts.ram_bytes,
        requested_trace_s: parts.requested_trace_s,
        requested_ns: parts.requested_ns,
        request_to_release_ms: end_ns.map_or(0.0, |end| {
            end.saturating_sub(parts.requested_ns) as f64 / NS_PER_MS as f64
        }),
        query_migrate: source.map_or(Value::Null, |report| {
            let mut answer = query_migrate(report, parts.ram_bytes);
            let postcopy = destination.and_then(|report| report.postcopy.as_ref());
            if let Some(postcopy) = postcopy {
                add_postcopy(&mut answer, postcopy);
            }
            answer
        }),
        engine_statistics: source.map_or(Value::Null, |report| {
            let pulled = destination.and_then(|report| report.postcopy.as_ref());
            engine_statistics(parts.params.engine, report, pulled)
        }),
        observed_outage_ms: outage,
        network_downtime_ms: None,
        probes: Vec::new(),
        rounds: source.map_or(0, |report| {
            u32::try_from(report.rounds.len()).unwrap_or(u32::MAX)
        }),
        verified,
        grade: String::new(),
        grade_reasons: Vec::new(),
        error_budget: None,
        predictions: source.map_or(parts.predictions.clone(), |report| {
            scored(parts.predictions.clone(), report, outage)
        }),
        params: parts.params,
        source_report: parts.source_report,
        destination_report: parts.destination_report,
    }
}

/// Whether every page arrived in its right version, and none was touched before it had.
fn is_verified(report: &DestinationReport) -> bool {
    let compared = report.verification.as_ref();
    let postcopy = report.postcopy.as_ref();
    compared.is_some_and(|all| all.pages > 0 && all.bad == 0)
        && report.bad_on_receipt == 0
        && postcopy
            .is_none_or(|postcopy| postcopy.never_came == 0 && postcopy.overrun.unwrap_or(0) == 0)
}

/// What kind of migration it turned out to be.
fn kind(params: &MigrationParams, source: Option<&SourceReport>) -> &'static str {
    let switched = source.is_some_and(|report| report.postcopy.is_some());
    match params.engine {
        EngineKind::StopAndCopy => "StopAndCopy",
        EngineKind::PostCopy => "PostCopy",
        _ if params.pages_on_demand() => "PostCopy",
        _ if switched => "Hybrid",
        _ => "PreCopy",
    }
}

/// Who owns the guest, as far as the two ends tell. A source that waits for a word it never got
/// owns it still, unless the destination runs it.
fn owner(side: Option<SourceSide>, destination: Option<&DestinationReport>) -> Owner {
    if destination.is_some_and(DestinationReport::is_lost) {
        return Owner::Lost;
    }
    if destination.is_some_and(|report| report.resumed_ns.is_some()) {
        return Owner::Destination;
    }
    match side {
        Some(SourceSide::Released) => Owner::Destination,
        Some(SourceSide::Running) => Owner::Source,
        // Paused with nobody to run it: the control plane could not learn what became of it.
        Some(
            SourceSide::Paused
            | SourceSide::Waiting
            | SourceSide::Undecided
            | SourceSide::Handed
            | SourceSide::Doubtful
            | SourceSide::Serving
            | SourceSide::Interrupted,
        )
        | None => Owner::Stranded,
        Some(SourceSide::Dead) => Owner::Lost,
    }
}

/// Predictions beside what was measured: (guess − measured) / measured.
fn scored(
    mut predictions: Vec<Prediction>,
    report: &SourceReport,
    outage_ms: Option<f64>,
) -> Vec<Prediction> {
    if report.status != Status::Completed {
        return predictions;
    }
    let relative = |guess: f64, measured: f64| (measured > 0.0).then(|| guess / measured - 1.0);
    let total_ms = report.end_ns.saturating_sub(report.begin_ns) as f64 / NS_PER_MS as f64;
    let bytes = report.bytes.total() as f64;
    for prediction in &mut predictions {
        prediction.total_time_error = relative(prediction.total_time_ms, total_ms);
        prediction.bytes_error = relative(prediction.bytes, bytes);
        prediction.downtime_error = prediction
            .downtime_ms
            .zip(outage_ms)
            .and_then(|(guess, measured)| relative(guess, measured));
    }
    predictions
}

fn ms_between(from_ns: u64, to_ns: u64) -> u64 {
    // QEMU subtracts two truncated readings of its millisecond clock.
    (to_ns / NS_PER_MS).saturating_sub(from_ns / NS_PER_MS)
}

#[cfg(test)]
mod tests;
