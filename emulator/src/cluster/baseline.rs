//! What the same demand would have come to without a balancer.

use super::{Cluster, ClusterError};
use crate::balance::metrics::{ClusterMetrics, MetricsBuilder};
use crate::ids::HostId;
use serde::{Deserialize, Serialize};

/// The run's demand under `none`. Always labelled *modelled*, though for CPU shares that is what
/// the measured run is too: the same scheduler on the same traces.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Trace ns covered.
    pub span_ns: u64,
    /// The metrics, by the code that computes the measured ones.
    pub metrics: ClusterMetrics,
}

/// Every VM stays where it starts, from trace instant 0 to `span_ns`, sampled every `step_ns`.
///
/// Averages of imbalance depend a little on how often loads are sampled: take the step of the run
/// it is compared with (its balancer's interval).
///
/// # Errors
/// When the placement is impossible.
pub fn baseline(
    hosts: &[replay::HostSpec],
    vms: &[(replay::VmSpec, HostId)],
    span_ns: u64,
    step_ns: u64,
) -> Result<Baseline, ClusterError> {
    let mut cluster = Cluster::new(hosts, vms, 0)?;
    let capacity_milli =
        |host: &replay::HostSpec| u64::from(host.cores) * u64::from(host.speed_milli);
    let capacity: Vec<u64> = hosts.iter().map(capacity_milli).collect();
    let mut metrics = MetricsBuilder::new(&capacity, vms.len());
    while cluster.now_ns() < span_ns {
        let next_ns = cluster.now_ns().saturating_add(step_ns.max(1)).min(span_ns);
        cluster.advance(next_ns)?;
        metrics.add_samples(&cluster.samples());
    }
    Ok(Baseline {
        span_ns,
        metrics: metrics.finish(),
    })
}
