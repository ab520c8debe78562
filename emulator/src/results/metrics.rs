//! Metrics of a run (reference: `docs/results.md`), computed from samples and records alone, so that
//! a measured run, a simulated one and the baseline under `none` go through the same code.
//!
//! L_i(t) is what host i granted over its capacity, D_j and A_j what VM j asked for and was granted.

use crate::event::{HostSample, VmSample};
use crate::ids::{HostId, VmId};
use std::collections::BTreeMap;

/// Integrals over a run, fed sample by sample in the order of trace time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Usage {
    cores: Vec<u32>,
    active_ns: BTreeMap<HostId, u64>,
    pressure_ns: BTreeMap<HostId, u64>,
    vms: BTreeMap<VmId, VmUsage>,
    /// Loads of the hosts whose samples end at `at_ns`, with their spans.
    group: BTreeMap<HostId, (f64, u64)>,
    at_ns: u64,
    spread: Spread,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct VmUsage {
    demand: u64,
    steal: u64,
    granted: u64,
    lost: u64,
}

/// Time integrals of the spread of loads.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Spread {
    weight_s: f64,
    gap: f64,
    sd: f64,
    cv: f64,
}

impl Usage {
    /// For hosts of so many cores, by id.
    #[must_use]
    pub fn new(cores: Vec<u32>) -> Self {
        Self {
            cores,
            ..Self::default()
        }
    }

    /// A host's sample that ends at this trace instant.
    pub fn add_host(&mut self, trace_ns: u64, s: &HostSample) {
        if trace_ns != self.at_ns {
            self.close();
            self.at_ns = trace_ns;
        }
        *self.pressure_ns.entry(s.host).or_default() += s.pressure_some_ns;
        let active = if s.vms > 0 { s.span_ns } else { 0 };
        *self.active_ns.entry(s.host).or_default() += active;
        let cores = self.cores.get(s.host.index()).copied().unwrap_or(1).max(1);
        if s.span_ns > 0 {
            let load = s.granted_core_ns as f64 / (f64::from(cores) * s.span_ns as f64);
            self.group.insert(s.host, (load, s.span_ns));
        }
    }

    /// A VM's sample.
    pub fn add_vm(&mut self, s: &VmSample) {
        let vm = self.vms.entry(s.vm).or_default();
        vm.demand += s.demand_core_ns;
        vm.granted += s.granted_core_ns;
        vm.steal += s.demand_core_ns.saturating_sub(s.granted_core_ns);
        vm.lost += s.lost_core_ns;
    }

    /// Ends the group of samples of one instant.
    pub fn close(&mut self) {
        let group = std::mem::take(&mut self.group);
        if group.is_empty() {
            return;
        }
        let n = group.len() as f64;
        let loads: Vec<f64> = group.values().map(|(l, _)| *l).collect();
        let span_s = group.values().map(|(_, ns)| *ns as f64 / 1e9).sum::<f64>() / n;
        let mean = loads.iter().sum::<f64>() / n;
        let sd = (loads.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / n).sqrt();
        let max = loads.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let min = loads.iter().copied().fold(f64::INFINITY, f64::min);
        self.spread.weight_s += span_s;
        self.spread.gap += (max - min) * span_s;
        self.spread.sd += sd * span_s;
        self.spread.cv += if mean > 0.0 { sd / mean * span_s } else { 0.0 };
    }

    /// The metrics of load, by name. Those that have no value (nothing sampled) are missing.
    #[must_use]
    pub fn values(&self) -> BTreeMap<String, f64> {
        let sum = |f: fn(&VmUsage) -> u64| self.vms.values().map(|v| f(v) as f64).sum::<f64>();
        let (demand, steal) = (sum(|v| v.demand), sum(|v| v.steal));
        let shares = |v: &VmUsage| (v.demand > 0).then(|| v.steal as f64 / v.demand as f64);
        let mut shares: Vec<f64> = self.vms.values().filter_map(shares).collect();
        shares.sort_by(f64::total_cmp);
        let fractions: Vec<f64> = self
            .active_ns
            .iter()
            .filter(|(_, ns)| **ns > 0)
            .map(|(h, ns)| self.pressure_ns.get(h).copied().unwrap_or(0) as f64 / *ns as f64)
            .collect();
        let total = |m: &BTreeMap<HostId, u64>| m.values().map(|v| *v as f64).sum::<f64>();
        let sampled = !self.vms.is_empty();
        let w = self.spread.weight_s;
        let named = [
            ("steal_core_s", sampled.then_some(steal / 1e9)),
            ("demand_core_s", sampled.then_some(demand / 1e9)),
            (
                "granted_core_s",
                sampled.then_some(sum(|v| v.granted) / 1e9),
            ),
            ("lost_core_s", sampled.then_some(sum(|v| v.lost) / 1e9)),
            ("overall_sla_violation", ratio(steal, demand)),
            ("steal_share_p50", quantile(&shares, 0.5)),
            ("steal_share_p95", quantile(&shares, 0.95)),
            ("steal_share_p99", quantile(&shares, 0.99)),
            (
                "slatah",
                ratio(fractions.iter().sum(), fractions.len() as f64),
            ),
            (
                "otf",
                ratio(total(&self.pressure_ns), total(&self.active_ns)),
            ),
            ("imbalance_gap", ratio(self.spread.gap, w)),
            ("imbalance_sd", ratio(self.spread.sd, w)),
            ("imbalance_cv", ratio(self.spread.cv, w)),
        ];
        named
            .into_iter()
            .filter_map(|(n, v)| Some((n.to_owned(), v?)))
            .collect()
    }
}

fn ratio(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
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

    fn host(host: u32, granted_core_ns: u64, pressure_some_ns: u64) -> HostSample {
        HostSample {
            host: HostId(host),
            span_ns: 1_000,
            demand_core_ns: granted_core_ns,
            granted_core_ns,
            pressure_some_ns,
            ram_used_bytes: 0,
            vms: 1,
        }
    }

    #[test]
    fn spread_of_two_hosts_is_what_the_formulas_say() {
        let mut usage = Usage::new(vec![2, 2]);
        usage.add_host(1_000, &host(0, 2_000, 500));
        usage.add_host(1_000, &host(1, 1_000, 0));
        usage.close();
        let v = usage.values();
        // Loads 1.0 and 0.5: gap 0.5, SD 0.25, CV 0.25 / 0.75.
        assert!((v["imbalance_gap"] - 0.5).abs() < 1e-12);
        assert!((v["imbalance_sd"] - 0.25).abs() < 1e-12);
        assert!((v["imbalance_cv"] - 1.0 / 3.0).abs() < 1e-12);
        assert!((v["otf"] - 0.25).abs() < 1e-12);
        assert!((v["slatah"] - 0.25).abs() < 1e-12);
        assert!(!v.contains_key("steal_core_s"), "no VM was sampled");
    }

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
