//! From samples to what a balancer sees. The real run and the modelled cluster feed the same one.

use super::Samples;
use crate::balance::moves::{Placement, Room};
use crate::balance::view::{HostView, MigrationView, View, VmView};
use crate::event::{HostSample, VmSample};
use crate::ids::{HostId, VmId};
use std::collections::{BTreeSet, VecDeque};

/// Samples kept per host and per VM. Beyond it the two oldest are merged, which keeps averages
/// right and blurs only where in their common span the load was. 1,024 is a day of 90 s samples.
const SAMPLES_MAX: usize = 1024;

/// Loads kept for policies that look at history, one per tick: CloudSim's need 10 to 12.
const HISTORY_MAX: usize = 64;

/// What is known of a host without sampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostFacts {
    /// Cores.
    pub cores: u32,
    /// Speed of a core, thousandths of the reference core.
    pub speed_milli: u32,
    /// RAM, bytes.
    pub ram_bytes: u64,
    /// What it admits.
    pub room: Room,
    /// Bits a second of its link; `None` is unshaped.
    pub link_bps: Option<u64>,
}

impl HostFacts {
    /// What a scenario says of a host.
    #[must_use]
    pub fn new(host: &crate::scenario::HostSpec, link_bps: Option<u64>) -> Self {
        Self {
            cores: host.cores,
            speed_milli: host.speed_milli,
            ram_bytes: host.ram_bytes,
            room: Room::of(host),
            link_bps,
        }
    }

    /// What its cores come to, in reference cores.
    fn capacity(&self) -> f64 {
        f64::from(self.cores.max(1)) * f64::from(self.speed_milli) / 1000.0
    }
}

/// Integrals over `(end_ns - span_ns, end_ns]`.
#[derive(Debug, Clone, Copy)]
struct Slot {
    end_ns: u64,
    span_ns: u64,
    demand_core_ns: u64,
    granted_core_ns: u64,
    pressure_ns: u64,
}

/// Means over a window.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    demand_cores: f64,
    granted_cores: f64,
    pressure: f64,
}

#[derive(Debug, Clone, Default)]
struct Ring(VecDeque<Slot>);

impl Ring {
    fn push(&mut self, slot: Slot, window_ns: u64) {
        if slot.span_ns == 0 {
            return;
        }
        let horizon = slot.end_ns.saturating_sub(window_ns);
        while self.0.front().is_some_and(|old| old.end_ns <= horizon) {
            self.0.pop_front();
        }
        if self.0.len() >= SAMPLES_MAX
            && let Some(oldest) = self.0.pop_front()
            && let Some(next) = self.0.front_mut()
        {
            next.span_ns += oldest.span_ns;
            next.demand_core_ns += oldest.demand_core_ns;
            next.granted_core_ns += oldest.granted_core_ns;
            next.pressure_ns += oldest.pressure_ns;
        }
        self.0.push_back(slot);
    }

    /// Averages over `(now - window, now]`. A sample that reaches over the window's edge counts
    /// with the share of it that is inside; what no sample covers is left out of the average.
    fn mean(&self, now_ns: u64, window_ns: u64) -> Mean {
        let from_ns = now_ns.saturating_sub(window_ns);
        let (mut covered, mut sum) = (0.0, Mean::default());
        for slot in &self.0 {
            let begin_ns = slot.end_ns.saturating_sub(slot.span_ns).max(from_ns);
            let inside_ns = slot.end_ns.min(now_ns).saturating_sub(begin_ns);
            let share = inside_ns as f64 / slot.span_ns as f64;
            covered += inside_ns as f64;
            sum.demand_cores += share * slot.demand_core_ns as f64;
            sum.granted_cores += share * slot.granted_core_ns as f64;
            sum.pressure += share * slot.pressure_ns as f64;
        }
        if covered == 0.0 {
            return Mean::default();
        }
        Mean {
            demand_cores: sum.demand_cores / covered,
            granted_cores: sum.granted_cores / covered,
            pressure: sum.pressure / covered,
        }
    }
}

/// Collects samples, answers with views. Memory is bounded whatever is fed.
#[derive(Debug, Clone)]
pub struct ViewBuilder {
    window_ns: u64,
    hosts: Vec<(HostFacts, Ring, VecDeque<f64>)>,
    vms: Vec<(u32, Ring)>,
    last_tick: Option<u64>,
}

impl ViewBuilder {
    /// `hosts` and the VMs' vCPUs by id; loads are averaged over `window_ns`, at least 1.
    #[must_use]
    pub fn new(hosts: &[HostFacts], vcpus: &[u32], window_ns: u64) -> Self {
        Self {
            window_ns: window_ns.max(1),
            hosts: hosts
                .iter()
                .map(|&facts| (facts, Ring::default(), VecDeque::new()))
                .collect(),
            vms: vcpus
                .iter()
                .map(|&vcpus| (vcpus, Ring::default()))
                .collect(),
            last_tick: None,
        }
    }

    /// A host's sample that ends at trace instant `t_ns`. Unknown hosts are ignored.
    pub fn add_host_sample(&mut self, t_ns: u64, sample: &HostSample) {
        let slot = Slot {
            end_ns: t_ns,
            span_ns: sample.span_ns,
            demand_core_ns: sample.demand_core_ns,
            granted_core_ns: sample.granted_core_ns,
            pressure_ns: sample.pressure_some_ns,
        };
        if let Some((_, ring, _)) = self.hosts.get_mut(sample.host.index()) {
            ring.push(slot, self.window_ns);
        }
    }

    /// A VM's sample that ends at trace instant `t_ns`. Unknown VMs are ignored.
    pub fn add_vm_sample(&mut self, t_ns: u64, sample: &VmSample) {
        let slot = Slot {
            end_ns: t_ns,
            span_ns: sample.span_ns,
            demand_core_ns: sample.demand_core_ns,
            granted_core_ns: sample.granted_core_ns,
            pressure_ns: 0,
        };
        if let Some((_, ring)) = self.vms.get_mut(sample.vm.index()) {
            ring.push(slot, self.window_ns);
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
            .for_each(|sample| self.add_vm_sample(samples.t_ns, sample));
    }

    /// What the balancer sees at trace instant `t_ns`. Each new `tick` adds one load to the hosts'
    /// history; asking again for the same tick does not. A host of `lost` is shown without cores
    /// and RAM, so that nothing fits on it.
    pub fn view(
        &mut self,
        tick: u64,
        t_ns: u64,
        placements: &[Placement],
        migrations: Vec<MigrationView>,
        lost: &[HostId],
    ) -> View {
        let fresh = self.last_tick != Some(tick);
        self.last_tick = Some(tick);
        let taken = taken(self.hosts.len(), placements, &migrations);
        let window_ns = self.window_ns;
        let hosts = (0..).map(HostId).zip(&mut self.hosts).zip(taken);
        let hosts = hosts
            .map(
                |((id, (facts, ring, history)), (ram_used_bytes, vcpus_used))| {
                    let mean = ring.mean(t_ns, window_ns);
                    if fresh {
                        if history.len() == HISTORY_MAX {
                            history.pop_front();
                        }
                        history.push_back(mean.granted_cores / facts.capacity());
                    }
                    let up = !lost.contains(&id);
                    HostView {
                        id,
                        cores: if up { facts.cores } else { 0 },
                        speed: f64::from(facts.speed_milli) / 1000.0,
                        ram_bytes: if up { facts.ram_bytes } else { 0 },
                        ram_admitted_bytes: if up { facts.room.ram_bytes } else { 0 },
                        vcpus_admitted: if up { facts.room.vcpus } else { Some(0) },
                        vcpus_used,
                        ram_used_bytes,
                        cpu_used: mean.granted_cores,
                        cpu_demand: mean.demand_cores,
                        pressure_some: mean.pressure,
                        link_bps: facts.link_bps,
                        history: history.iter().copied().collect(),
                    }
                },
            )
            .collect();
        let moving: BTreeSet<VmId> = migrations.iter().map(|m| m.vm).collect();
        let vms = (0..).map(VmId).zip(&self.vms).zip(placements);
        let vms = vms
            .map(|((id, (vcpus, ring)), placement)| {
                let mean = ring.mean(t_ns, window_ns);
                VmView {
                    id,
                    host: placement.host,
                    vcpus: *vcpus,
                    ram_bytes: placement.ram_bytes,
                    cpu_used: mean.granted_cores,
                    cpu_demand: mean.demand_cores,
                    migrating: moving.contains(&id),
                    gone: placement.gone,
                }
            })
            .collect();
        View {
            tick,
            t_ns,
            hosts,
            vms,
            migrations,
        }
    }
}

/// RAM and vCPUs of the VMs on each host and on their way to it.
fn taken(hosts: usize, placements: &[Placement], migrations: &[MigrationView]) -> Vec<(u64, u64)> {
    let mut taken = vec![(0u64, 0u64); hosts];
    let coming = migrations.iter().filter_map(|migration| {
        let placement = placements.get(migration.vm.index())?;
        Some((migration.destination, placement))
    });
    let here = placements.iter().filter(|placement| !placement.gone);
    let here = here.map(|placement| (placement.host, placement));
    for (host, placement) in here.chain(coming) {
        if let Some((ram, vcpus)) = taken.get_mut(host.index()) {
            *ram = ram.saturating_add(placement.ram_bytes);
            *vcpus = vcpus.saturating_add(u64::from(placement.vcpus));
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::MigrationId;

    const S: u64 = 1_000_000_000;

    fn host_sample(span_s: u64, demand: u64, granted: u64) -> HostSample {
        HostSample {
            host: HostId(0),
            span_ns: span_s * S,
            demand_core_ns: demand * S,
            granted_core_ns: granted * S,
            pressure_some_ns: span_s * S / 2,
            ram_used_bytes: 0,
            vms: 1,
        }
    }

    fn builder(window_s: u64) -> ViewBuilder {
        let facts = HostFacts {
            cores: 4,
            speed_milli: 1000,
            ram_bytes: 100,
            room: Room {
                vcpus: Some(6),
                ..Room::of_ram(150)
            },
            link_bps: Some(1_000_000_000),
        };
        ViewBuilder::new(&[facts, facts], &[2, 2], window_s * S)
    }

    fn placements() -> [Placement; 2] {
        [0, 0].map(|host| Placement {
            host: HostId(host),
            ram_bytes: 10,
            vcpus: 2,
            gone: false,
        })
    }

    #[test]
    fn a_sample_over_the_edge_counts_with_its_share() {
        let mut b = builder(30);
        b.add_host_sample(40 * S, &host_sample(40, 80, 40)); // 2 cores asked, 1 granted
        b.add_host_sample(60 * S, &host_sample(20, 80, 60)); // 4 asked, 3 granted
        let view = b.view(1, 60 * S, &placements(), vec![], &[]);
        // 10 s of the first and 20 s of the second.
        assert!((view.hosts[0].cpu_demand - 100.0 / 30.0).abs() < 1e-9);
        assert!((view.hosts[0].cpu_used - 70.0 / 30.0).abs() < 1e-9);
        assert!((view.hosts[0].pressure_some - 0.5).abs() < 1e-9);
        assert_eq!(view.hosts[0].ram_used_bytes, 20);
        assert!(view.hosts[1].cpu_used.abs() < 1e-12, "no sample: no load");
    }

    #[test]
    fn incoming_vms_take_ram_and_are_marked() {
        let mut b = builder(30);
        let migration = MigrationView {
            id: MigrationId(1),
            vm: VmId(1),
            source: HostId(0),
            destination: HostId(1),
            running: false,
        };
        let view = b.view(1, S, &placements(), vec![migration], &[HostId(1)]);
        assert_eq!(
            (view.hosts[0].ram_used_bytes, view.hosts[1].ram_used_bytes),
            (20, 10)
        );
        let of = |host: usize| {
            let host = &view.hosts[host];
            (
                host.ram_admitted_bytes,
                host.vcpus_admitted,
                host.vcpus_used,
            )
        };
        assert_eq!(of(0), (150, Some(6), 4));
        assert_eq!(of(1), (0, Some(0), 2), "a lost host admits nothing");
        assert_eq!(
            (view.vms[0].migrating, view.vms[1].migrating),
            (false, true)
        );
        assert_eq!(
            (view.hosts[1].cores, view.hosts[1].ram_bytes),
            (0, 0),
            "a lost host"
        );
    }

    #[test]
    fn memory_is_bounded_and_averages_stay_right() {
        let mut b = builder(1_000_000);
        for t in 1..=5_000u64 {
            b.add_host_sample(t * S, &host_sample(1, t % 4, t % 4));
        }
        assert_eq!(b.hosts[0].1.0.len(), SAMPLES_MAX);
        for tick in 0..200 {
            b.view(tick, 5_000 * S, &placements(), vec![], &[]);
        }
        let view = b.view(199, 5_000 * S, &placements(), vec![], &[]);
        assert!((view.hosts[0].cpu_used - 1.5).abs() < 1e-9);
        assert_eq!(view.hosts[0].history.len(), HISTORY_MAX);
    }
}
