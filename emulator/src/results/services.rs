//! Latency of services: over the whole run, and before, during and after each migration of a VM at
//! either end.
//!
//! A request belongs to the window in which it was due. Quantiles are HDR histograms' (three digits);
//! nothing is dropped, and what was never answered is counted beside them.

use super::collect::Collected;
use super::run_json::RunHeader;
use crate::migration::record::MigrationRecord;
use crate::scenario::{Endpoint, INTERNET};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Length of the windows before and after a migration; the clock runs so long for them.
pub const MARGIN_NS: u64 = crate::run::SERVICE_MARGIN_NS;

/// A day: beyond it only the maximum is exact.
const LATENCY_MAX_US: u64 = 86_400_000_000;

/// Requests of a service, as the events tell them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Requests {
    /// When each was due, monotonic ns, and its latency, µs.
    pub answered: Vec<(u64, u64)>,
    /// When those were due that nobody answered before the clock stopped.
    pub cut: Vec<u64>,
    /// Connections that were opened.
    pub connections: u64,
}

/// A service in a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// By name.
    pub service: String,
    /// VM that answers.
    pub server: String,
    /// VM that asks, or `internet`.
    pub client: String,
    /// `run`, or `before`, `during`, `after` of a migration.
    pub window: String,
    /// Its number; `None` for the whole run.
    pub migration: Option<u32>,
    /// Begin of the window, monotonic ns.
    pub from_mono_ns: u64,
    /// Its length, seconds.
    pub span_s: f64,
    /// Requests due in it and answered.
    pub answered: u64,
    /// Requests due in it and not answered when the clock stopped.
    pub cut: u64,
    /// Connections its client opened, in the whole run; `None` in other windows. More than it has, times how often the
    /// clock began to run, are reconnects.
    #[serde(default)]
    pub connections: Option<u64>,
    /// Latency; `None` when nothing was answered.
    pub latency: Option<Latency>,
}

/// Latency from when requests were due, ms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Mean.
    pub mean_ms: f64,
    /// Median.
    pub p50_ms: f64,
    /// 90th percentile.
    pub p90_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// 99.9th percentile.
    pub p999_ms: f64,
    /// Highest.
    pub max_ms: f64,
}

/// Every service in every window that is its.
#[must_use]
pub fn rows(header: &RunHeader, all: &Collected) -> Vec<ServiceRow> {
    let scenario = &header.scenario;
    let mut rows = Vec::new();
    for (id, spec) in (0..).map(crate::ids::ServiceId).zip(&scenario.services) {
        let none = Requests::default();
        let requests = all.requests.get(&id).unwrap_or(&none);
        let server = header.vm_name(spec.server);
        let client = match spec.client {
            Endpoint::Vm(vm) => header.vm_name(vm),
            Endpoint::Internet => INTERNET.to_owned(),
        };
        let mut add = |window: &str, migration: Option<u32>, (from_ns, to_ns): (u64, u64)| {
            let inside = |due_ns: u64| (from_ns..to_ns).contains(&due_ns);
            let answered = requests
                .answered
                .iter()
                .filter(|(due_ns, _)| inside(*due_ns));
            let latencies: Vec<u64> = answered.map(|&(_, us)| us).collect();
            rows.push(ServiceRow {
                service: spec.name.clone(),
                server: server.clone(),
                client: client.clone(),
                window: window.to_owned(),
                migration,
                from_mono_ns: from_ns,
                span_s: to_ns.saturating_sub(from_ns) as f64 / 1e9,
                answered: latencies.len() as u64,
                cut: requests
                    .cut
                    .iter()
                    .filter(|&&due_ns| inside(due_ns))
                    .count() as u64,
                connections: migration.is_none().then_some(requests.connections),
                latency: latency(&latencies),
            });
        };
        add("run", None, (all.begin_mono_ns, all.end_mono_ns + 1));
        let of_ends = all.migrations.iter().map(|ended| &ended.record);
        for record in of_ends.filter(|record| [&server, &client].contains(&&record.vm)) {
            let (from_ns, to_ns) = span(record);
            let number = Some(record.id);
            add(
                "before",
                number,
                (from_ns.saturating_sub(MARGIN_NS), from_ns),
            );
            add("during", number, (from_ns, to_ns));
            add("after", number, (to_ns, to_ns + MARGIN_NS));
        }
    }
    rows
}

/// From the source's begin, or the request if it never began, to the release of the source.
fn span(record: &MigrationRecord) -> (u64, u64) {
    let begun = record.source_report.as_ref().map(|source| source.begin_ns);
    let took_ns = traces::units::round_u64(record.request_to_release_ms * 1e6);
    let from_ns = begun.unwrap_or(record.requested_ns);
    (from_ns, (record.requested_ns + took_ns).max(from_ns))
}

fn latency(us: &[u64]) -> Option<Latency> {
    let bounds = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX_US, 3);
    let mut histogram = bounds.expect("a lowest value of 1, and three digits, are allowed");
    for &us in us {
        histogram.saturating_record(us);
    }
    let ms = |us: u64| us as f64 / 1e3;
    let max_us = us.iter().copied().max().unwrap_or(0);
    // A histogram gives the highest value its bucket holds.
    let at = |share: f64| ms(histogram.value_at_quantile(share).min(max_us));
    (!us.is_empty()).then(|| Latency {
        mean_ms: histogram.mean() / 1e3,
        p50_ms: at(0.5),
        p90_ms: at(0.9),
        p99_ms: at(0.99),
        p999_ms: at(0.999),
        max_ms: ms(max_us),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_all_requests() {
        let us: Vec<u64> = (1..=1000).map(|n| n * 1000).collect();
        let found = latency(&us).unwrap();
        // To three digits.
        for (got, wanted) in [
            (found.p50_ms, 500.0),
            (found.p90_ms, 900.0),
            (found.p99_ms, 990.0),
            (found.p999_ms, 999.0),
            (found.mean_ms, 500.5),
        ] {
            assert!((got / wanted - 1.0).abs() < 0.001, "{got}, not {wanted}");
        }
        assert_eq!(found.max_ms, 1000.0);
        assert_eq!(latency(&[]), None);
    }
}
