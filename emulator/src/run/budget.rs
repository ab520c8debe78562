//! A migration's error budget: what the emulation itself added to it (DESIGN §5). Pure.
//!
//! Inside: the figures of one migration out of what was seen of its path, its source's report and
//! the calibration of its links. Never inside: what is good enough (`grade`).

use super::grade::emulator_limited_share;
use crate::control::message::{PathSeen, Sending};
use crate::event::LinkCalibration;
use crate::migration::record::{ErrorBudget, MigrationRecord, Phase, RateError, SourceReport};
use netmodel::residual::WINDOWS;

/// When a source had something to send: from its first round until the last page was handed over.
/// What follows (device state, the destination's loading and its answer) leaves links idle by
/// intention. `None` if it did not get to its first round.
#[must_use]
pub fn sending(source: &SourceReport) -> Option<Sending> {
    let span = |phase: Phase| source.phases.iter().find(|span| span.phase == phase);
    let from_ns = span(Phase::Rounds)?.begin_ns;
    let to_ns = span(Phase::FinalRound).map_or(source.end_ns, |span| span.end_ns);
    Some(Sending {
        from_ns,
        to_ns: to_ns.max(from_ns),
        tcp: source.tcp.clone(),
    })
}

/// The budget of a migration. `path` is the calibration of the links its bytes crossed.
#[must_use]
pub fn budget(record: &MigrationRecord, path: &[&LinkCalibration], seen: &PathSeen) -> ErrorBudget {
    let us = |ns: u64| ns as f64 / 1e3;
    let limited = record.source_report.as_ref().map(|source| {
        let capped = record.pauses_on_purpose();
        emulator_limited_share(source, capped)
    });
    ErrorBudget {
        rate: (0..WINDOWS.len())
            .filter_map(|n| rate_error(seen, n))
            .collect(),
        delay_error_us: path
            .iter()
            .filter_map(|link| link.delay_error_us())
            .reduce(f64::max),
        late_us_mean: seen.late_mean_ns / 1e3,
        late_us_p99: us(seen.late_p99_ns),
        late_us_max: us(seen.late_max_ns),
        run_delay_share: seen
            .run_delay_ns
            .map(|ns| ns as f64 / seen.span_ns.max(1) as f64),
        emulator_limited_share: limited.unwrap_or(0.0),
        path_idle_share: seen.idle.map(|idle| idle.idle_share),
        path_idle_window_share: seen.idle.map(|idle| idle.window_share),
        path_idle_emulator_share: seen.idle.map(|idle| idle.emulator_share),
        steal_share: seen.steal_share,
        samples: seen.samples,
    }
}

/// The worst link's errors over windows of one size; `None` if no window could be judged.
fn rate_error(seen: &PathSeen, size: usize) -> Option<RateError> {
    let judged = seen
        .links
        .iter()
        .map(|link| (link, link.residuals.windows[size]));
    let judged = judged.filter(|(_, errors)| errors.windows > 0);
    let (link, errors) = judged.max_by(|(_, a), (_, b)| a.p95.total_cmp(&b.p95))?;
    Some(RateError {
        window_ms: errors.window_ms,
        link: link.link.clone(),
        windows: u32::try_from(errors.windows).unwrap_or(u32::MAX),
        median: errors.median,
        p95: errors.p95,
        worst: errors.worst,
    })
}
