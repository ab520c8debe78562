//! The metrics of a run. One implementation for measured, simulated and baseline runs: it reads
//! samples and migrations, and never knows which of the three they come from.
//!
//! Notation (reference: balancers §5): hosts i = 1..N, VMs j = 1..M, run \[0, T\]; D_j(t) demand,
//! A_j(t) granted CPU in cores; C_i cores; L_i(t) = granted on i / C_i.
//!
//! Inside: formulas. Never inside: rendering, or reading files.

use crate::cluster::Samples;
use crate::event::{HostSample, VmSample};
use crate::ids::{HostId, VmId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Loads are summed as whole billionths, so that sums are exact and the same in any order.
const UNIT: u64 = 1_000_000_000;

/// A move back to the host it came from counts as returned within this long. 30 min is the cooldown
/// Xen Orchestra introduced against exactly that.
pub const RETURN_WINDOW_NS: u64 = 1_800 * 1_000_000_000;

/// What the metrics need to know of a migration that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MigrationFact {
    /// What.
    pub vm: VmId,
    /// From.
    pub source: HostId,
    /// To.
    pub destination: HostId,
    /// Trace instant of its end.
    pub ended_ns: u64,
    /// The VM runs at the destination.
    pub completed: bool,
    /// Bytes handed to the network.
    pub sent_bytes: u64,
    /// RAM of the VM.
    pub ram_bytes: u64,
    /// Request accepted → source released, ms.
    pub total_ms: f64,
    /// Guest paused → resumed, ms; `None` when it never was.
    pub outage_ms: Option<f64>,
}

/// Metrics of a cluster over a run. `docs/results.md` repeats these definitions.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterMetrics {
    /// Time average of max_i L_i − min_i L_i.
    pub imbalance_gap: f64,
    /// Time average of s = sqrt((1/N) Σ (L_i − mean)²).
    pub imbalance_sd: f64,
    /// Time average of s / mean; instants at which no host has load count as 0.
    pub imbalance_cv: f64,
    /// Time average of Jain's index (Σ L_i)² / (N Σ L_i²); 1 when no host has load.
    pub jain_index: f64,
    /// SLATAH as the paper has it: (1/N) Σ_i Ts_i / Ta_i, Ts_i time in which some VM of host i got
    /// less than it asked for, Ta_i time in which it had VMs.
    pub slatah: f64,
    /// Overload time fraction: Σ Ts_i / Σ Ta_i, which is what CloudSim prints as SLATAH.
    pub overload_time_fraction: f64,
    /// Seconds with overload, Σ Ts_i.
    pub overload_host_s: f64,
    /// Asked: Σ_j ∫ D_j dt, core-seconds.
    pub demand_core_s: f64,
    /// Granted: Σ_j ∫ A_j dt, core-seconds.
    pub granted_core_s: f64,
    /// Contention (steal): Σ_j max(0, ∫ (D_j − A_j) dt), core-seconds. What a backlog made up for
    /// later is not in it; pauses are.
    pub steal_core_s: f64,
    /// Demand dropped from full backlogs, core-seconds.
    pub lost_core_s: f64,
    /// Overall SLA violation: (Σ asked − Σ granted) / Σ asked, not below 0.
    pub sla_violation: f64,
    /// Median over VMs of ∫ (D_j − A_j) dt / ∫ D_j dt.
    pub steal_share_p50: f64,
    /// 95th percentile of it.
    pub steal_share_p95: f64,
    /// 99th percentile of it.
    pub steal_share_p99: f64,
    /// Migrations that have ended.
    pub migrations: u64,
    /// … of them, those that completed.
    pub migrations_completed: u64,
    /// … of those, A→B→A within [`RETURN_WINDOW_NS`].
    pub migrations_returned: u64,
    /// Bytes handed to the network by all migrations, failed ones too.
    pub migration_bytes: u64,
    /// Σ bytes / Σ RAM of the VMs moved; 0 without migrations.
    pub amplification: f64,
    /// Σ durations, s.
    pub migration_s: f64,
    /// Median duration, ms.
    pub migration_ms_p50: f64,
    /// 95th percentile of the durations, ms.
    pub migration_ms_p95: f64,
    /// Longest, ms.
    pub migration_ms_max: f64,
    /// Σ outages, s.
    pub outage_s: f64,
    /// Median outage, ms.
    pub outage_ms_p50: f64,
    /// 95th percentile of the outages, ms.
    pub outage_ms_p95: f64,
    /// Longest outage, ms.
    pub outage_ms_max: f64,
}

impl ClusterMetrics {
    /// By name, for tables and events.
    #[must_use]
    pub fn to_map(&self) -> BTreeMap<String, f64> {
        let value = serde_json::to_value(self).expect("a flat struct of numbers is always JSON");
        let fields = value.as_object().into_iter().flatten();
        fields
            .filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)))
            .collect()
    }
}

#[derive(Debug, Clone, Copy)]
struct HostSlot {
    end_ns: u64,
    span_ns: u64,
    /// In units of [`UNIT`].
    load: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct HostSums {
    overload_ns: u64,
    active_ns: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct VmSums {
    demand: u128,
    granted: u128,
    lost: u128,
}

/// Collects samples and migrations; [`finish`](Self::finish) computes.
#[derive(Debug, Clone)]
pub struct MetricsBuilder {
    capacity_milli: Vec<u64>,
    slots: Vec<Vec<HostSlot>>,
    hosts: Vec<HostSums>,
    vms: Vec<VmSums>,
    migrations: Vec<MigrationFact>,
}

impl MetricsBuilder {
    /// Hosts by what their cores come to, in thousandths of the reference core, and the number of
    /// VMs; indices are the ids.
    #[must_use]
    pub fn new(capacity_milli: &[u64], vms: usize) -> Self {
        Self {
            capacity_milli: capacity_milli.to_vec(),
            slots: vec![Vec::new(); capacity_milli.len()],
            hosts: vec![HostSums::default(); capacity_milli.len()],
            vms: vec![VmSums::default(); vms],
            migrations: Vec::new(),
        }
    }

    /// A host's sample that ends at trace instant `t_ns`. Unknown hosts and empty spans are
    /// ignored.
    pub fn add_host_sample(&mut self, t_ns: u64, sample: &HostSample) {
        let index = sample.host.index();
        let capacity = self.capacity_milli.get(index);
        let (Some(&capacity_milli), true) = (capacity, sample.span_ns > 0) else {
            return;
        };
        let capacity = u128::from(sample.span_ns) * u128::from(capacity_milli.max(1));
        let load = u128::from(sample.granted_core_ns) * u128::from(UNIT) * 1000 / capacity;
        self.slots[index].push(HostSlot {
            end_ns: t_ns,
            span_ns: sample.span_ns.min(t_ns),
            load: u64::try_from(load).unwrap_or(u64::MAX),
        });
        if sample.vms > 0 {
            self.hosts[index].active_ns += sample.span_ns;
            self.hosts[index].overload_ns += sample.pressure_some_ns.min(sample.span_ns);
        }
    }

    /// A VM's sample. Unknown VMs are ignored.
    pub fn add_vm_sample(&mut self, sample: &VmSample) {
        if let Some(sums) = self.vms.get_mut(sample.vm.index()) {
            sums.demand += u128::from(sample.demand_core_ns);
            sums.granted += u128::from(sample.granted_core_ns);
            sums.lost += u128::from(sample.lost_core_ns);
        }
    }

    /// Samples of a modelled cluster.
    pub fn add_samples(&mut self, samples: &Samples) {
        samples
            .hosts
            .iter()
            .for_each(|sample| self.add_host_sample(samples.t_ns, sample));
        samples
            .vms
            .iter()
            .for_each(|sample| self.add_vm_sample(sample));
    }

    /// A migration that has ended.
    pub fn add_migration(&mut self, fact: MigrationFact) {
        self.migrations.push(fact);
    }

    /// All metrics. Never NaN: what has no denominator is 0 (Jain's index 1).
    #[must_use]
    pub fn finish(&self) -> ClusterMetrics {
        let mut metrics = ClusterMetrics {
            jain_index: 1.0,
            ..ClusterMetrics::default()
        };
        self.imbalance(&mut metrics);
        self.overload(&mut metrics);
        self.contention(&mut metrics);
        self.moves(&mut metrics);
        metrics
    }

    /// Sweeps over the instants at which some host's load changes. A host counts from its first
    /// sample on, as idle where it has none.
    fn imbalance(&self, metrics: &mut ClusterMetrics) {
        let mut changes: Vec<(u64, usize, u64)> = Vec::new();
        for (host, slots) in self.slots.iter().enumerate() {
            for (i, slot) in slots.iter().enumerate() {
                changes.push((slot.end_ns - slot.span_ns, host, slot.load));
                let next_begin = slots.get(i + 1).map(|next| next.end_ns - next.span_ns);
                if next_begin != Some(slot.end_ns) {
                    changes.push((slot.end_ns, host, 0));
                }
            }
        }
        changes.sort_unstable();
        let mut loads = Loads::new(self.slots.len());
        let (mut last_ns, mut total) = (changes.first().map_or(0, |c| c.0), 0.0);
        let mut sums = [0.0; 4];
        for (at_ns, host, load) in changes {
            if at_ns > last_ns {
                let weight = (at_ns - last_ns) as f64;
                for (sum, value) in sums.iter_mut().zip(loads.measures()) {
                    *sum += weight * value;
                }
                total += weight;
                last_ns = at_ns;
            }
            loads.set(host, load);
        }
        if total > 0.0 {
            [
                metrics.imbalance_gap,
                metrics.imbalance_sd,
                metrics.imbalance_cv,
                metrics.jain_index,
            ] = sums.map(|sum| sum / total);
        }
    }

    fn overload(&self, metrics: &mut ClusterMetrics) {
        let overload_ns: u64 = self.hosts.iter().map(|host| host.overload_ns).sum();
        let active_ns: u64 = self.hosts.iter().map(|host| host.active_ns).sum();
        let each = self
            .hosts
            .iter()
            .map(|h| ratio(h.overload_ns as f64, h.active_ns as f64));
        metrics.slatah = ratio(each.sum(), self.hosts.len() as f64);
        metrics.overload_time_fraction = ratio(overload_ns as f64, active_ns as f64);
        metrics.overload_host_s = overload_ns as f64 / 1e9;
    }

    fn contention(&self, metrics: &mut ClusterMetrics) {
        let mut shares = Vec::with_capacity(self.vms.len());
        let (mut demand, mut granted, mut steal, mut lost) = (0u128, 0u128, 0u128, 0u128);
        for vm in &self.vms {
            let waited = vm.demand.saturating_sub(vm.granted);
            demand += vm.demand;
            granted += vm.granted;
            steal += waited;
            lost += vm.lost;
            if vm.demand > 0 {
                shares.push(waited as f64 / vm.demand as f64);
            }
        }
        metrics.demand_core_s = demand as f64 / 1e9;
        metrics.granted_core_s = granted as f64 / 1e9;
        metrics.steal_core_s = steal as f64 / 1e9;
        metrics.lost_core_s = lost as f64 / 1e9;
        metrics.sla_violation = ratio(demand.saturating_sub(granted) as f64, demand as f64);
        metrics.steal_share_p50 = quantile(&mut shares, 50);
        metrics.steal_share_p95 = quantile(&mut shares, 95);
        metrics.steal_share_p99 = quantile(&mut shares, 99);
    }

    fn moves(&self, metrics: &mut ClusterMetrics) {
        let completed = self.migrations.iter().filter(|m| m.completed);
        metrics.migrations = self.migrations.len() as u64;
        metrics.migrations_completed = completed.count() as u64;
        metrics.migrations_returned = self.returned();
        metrics.migration_bytes = self.migrations.iter().map(|m| m.sent_bytes).sum();
        let ram: u64 = self.migrations.iter().map(|m| m.ram_bytes).sum();
        metrics.amplification = ratio(metrics.migration_bytes as f64, ram as f64);
        let mut totals: Vec<f64> = self.migrations.iter().map(|m| m.total_ms).collect();
        metrics.migration_s = totals.iter().sum::<f64>() / 1e3;
        metrics.migration_ms_p50 = quantile(&mut totals, 50);
        metrics.migration_ms_p95 = quantile(&mut totals, 95);
        metrics.migration_ms_max = quantile(&mut totals, 100);
        let mut outages: Vec<f64> = self.migrations.iter().filter_map(|m| m.outage_ms).collect();
        metrics.outage_s = outages.iter().sum::<f64>() / 1e3;
        metrics.outage_ms_p50 = quantile(&mut outages, 50);
        metrics.outage_ms_p95 = quantile(&mut outages, 95);
        metrics.outage_ms_max = quantile(&mut outages, 100);
    }

    fn returned(&self) -> u64 {
        let mut order: Vec<_> = self.migrations.iter().filter(|m| m.completed).collect();
        order.sort_by_key(|m| m.ended_ns);
        let mut left: BTreeMap<VmId, (HostId, u64)> = BTreeMap::new();
        let mut returned = 0;
        for fact in order {
            let before = left.insert(fact.vm, (fact.source, fact.ended_ns));
            returned += u64::from(before.is_some_and(|(host, at_ns)| {
                host == fact.destination && fact.ended_ns - at_ns <= RETURN_WINDOW_NS
            }));
        }
        returned
    }
}

/// The loads of all hosts at an instant, with their sums kept exactly. Loads are below 2^40 units
/// (1,000 times a host's cores), their squares below 2^80: sums fit 128 bits.
struct Loads {
    now: Vec<u64>,
    ordered: BTreeSet<(u64, usize)>,
    sum: u128,
    squares: u128,
}

impl Loads {
    fn new(hosts: usize) -> Self {
        let ordered = (0..hosts).map(|host| (0, host)).collect();
        Self {
            now: vec![0; hosts],
            ordered,
            sum: 0,
            squares: 0,
        }
    }

    fn set(&mut self, host: usize, load: u64) {
        let load = load.min(1 << 40);
        let old = std::mem::replace(&mut self.now[host], load);
        self.ordered.remove(&(old, host));
        self.ordered.insert((load, host));
        let (old, new) = (u128::from(old), u128::from(load));
        self.sum = self.sum + new - old;
        self.squares = self.squares + new * new - old * old;
    }

    /// Gap, SD, CV, Jain.
    fn measures(&self) -> [f64; 4] {
        let ends = self.ordered.first().zip(self.ordered.last());
        let gap = ends.map_or(0, |(least, most)| most.0 - least.0);
        let n = self.now.len() as u128;
        // N² s² = N Σ L² − (Σ L)², exact and never negative.
        let spread = (n * self.squares).saturating_sub(self.sum * self.sum) as f64;
        let sd = ratio(spread.sqrt(), n as f64);
        let cv = ratio(spread.sqrt(), self.sum as f64);
        let sum = self.sum as f64;
        let jain = if self.squares == 0 {
            1.0
        } else {
            sum * sum / (n * self.squares) as f64
        };
        [gap as f64 / UNIT as f64, sd / UNIT as f64, cv, jain]
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// The smallest value that at least `percent` of all do not exceed (nearest rank); 0 of none.
fn quantile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * percent).div_ceil(100);
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests;
