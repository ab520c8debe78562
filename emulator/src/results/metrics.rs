//! Metrics of load of a run. The formulas are `balance::metrics`', the same for measured, simulated and
//! baseline runs; here is only what a summary takes from them.

use crate::balance::metrics::MetricsBuilder;
use crate::event::{HostSample, VmSample};
use std::collections::BTreeMap;

/// Integrals over a run, fed sample by sample.
#[derive(Debug, Clone)]
pub struct Usage {
    builder: MetricsBuilder,
    hosts: bool,
    vms: bool,
}

impl Usage {
    /// For hosts by what their cores come to, in thousandths of the reference core, and so many VMs.
    #[must_use]
    pub fn new(capacity_milli: &[u64], vms: usize) -> Self {
        Self {
            builder: MetricsBuilder::new(capacity_milli, vms),
            hosts: false,
            vms: false,
        }
    }

    /// A host's sample that ends at this trace instant.
    pub fn add_host(&mut self, trace_ns: u64, s: &HostSample) {
        self.hosts = true;
        self.builder.add_host_sample(trace_ns, s);
    }

    /// A VM's sample.
    pub fn add_vm(&mut self, s: &VmSample) {
        self.vms = true;
        self.builder.add_vm_sample(s);
    }

    /// The metrics of load, by name. What was never sampled is missing.
    #[must_use]
    pub fn values(&self) -> BTreeMap<String, f64> {
        let m = self.builder.finish();
        let of_vms = [
            ("steal_core_s", m.steal_core_s),
            ("demand_core_s", m.demand_core_s),
            ("granted_core_s", m.granted_core_s),
            ("lost_core_s", m.lost_core_s),
            ("sla_violation", m.sla_violation),
            ("steal_share_p50", m.steal_share_p50),
            ("steal_share_p95", m.steal_share_p95),
            ("steal_share_p99", m.steal_share_p99),
        ];
        let of_hosts = [
            ("slatah", m.slatah),
            ("overload_time_fraction", m.overload_time_fraction),
            ("imbalance_gap", m.imbalance_gap),
            ("imbalance_sd", m.imbalance_sd),
            ("imbalance_cv", m.imbalance_cv),
            ("jain_index", m.jain_index),
        ];
        let vms = of_vms.into_iter().filter(|_| self.vms);
        let hosts = of_hosts.into_iter().filter(|_| self.hosts);
        vms.chain(hosts).map(|(n, v)| (n.to_owned(), v)).collect()
    }
}

/// A quantile of sorted values, interpolated as numpy and pandas do by default.
#[must_use]
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = last as f64 * q.clamp(0.0, 1.0);
    let mut below = 0;
    while below < last && (below + 1) as f64 <= at {
        below += 1;
    }
    let above = (below + 1).min(last);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (at - below as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate_like_numpy() {
        let v = [1.0, 2.0, 3.0, 10.0];
        assert_eq!(quantile(&v, 0.5), Some(2.5));
        assert_eq!(quantile(&v, 1.0), Some(10.0));
        assert_eq!(quantile(&v, 0.0), Some(1.0));
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[7.0], 0.95), Some(7.0));
    }
}
