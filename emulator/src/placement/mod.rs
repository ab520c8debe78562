//! Where VMs start when the scenario does not say: initial placement, pure.
//!
//! Inside: three rules over RAM and mean CPU. Never inside: moves at run time (`balance`).

use crate::ids::HostId;
use serde::{Deserialize, Serialize};

/// The rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Each VM on the next host round the list that has room.
    #[default]
    RoundRobin,
    /// Each VM on the first host that has room.
    FirstFit,
    /// Each VM on the host whose RAM it fills best among those whose cores also carry its mean
    /// demand; when no host's do, on the one least overbooked.
    BestFit,
}

impl Rule {
    /// Names as in scenarios.
    pub const NAMES: [(&'static str, Self); 3] = [
        ("round-robin", Self::RoundRobin),
        ("first-fit", Self::FirstFit),
        ("best-fit", Self::BestFit),
    ];

    /// The rule of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|&(_, rule)| rule)
    }
}

/// What a host offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoom {
    /// For messages.
    pub name: String,
    /// What its cores come to, thousandths of the reference core.
    pub capacity_milli: u64,
    /// RAM of VMs that is admitted, bytes.
    pub ram_bytes: u64,
    /// vCPUs that are admitted; `None`: any number.
    pub vcpus: Option<u64>,
}

/// What a VM needs.
#[derive(Debug, Clone, PartialEq)]
pub struct VmNeed {
    /// For messages.
    pub name: String,
    /// RAM, bytes.
    pub ram_bytes: u64,
    /// Its vCPUs.
    pub vcpus: u32,
    /// Mean demand, cores.
    pub cpu_mean: f64,
    /// The host the scenario names, if it names one.
    pub pinned: Option<HostId>,
}

/// A VM that fits nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// No host has the RAM.
    #[error(
        "VM {index} `{vm}` needs {needed_bytes} bytes of RAM; the emptiest host, `{host}`, has \
         {free_bytes} left of {ram_bytes}"
    )]
    NoRoom {
        /// Index of the VM.
        index: usize,
        /// Its name.
        vm: String,
        /// What it needs.
        needed_bytes: u64,
        /// The host with most RAM left.
        host: String,
        /// What it has left.
        free_bytes: u64,
        /// What it had.
        ram_bytes: u64,
    },
    /// The host the scenario names has not got the RAM.
    #[error(
        "VM {index} `{vm}` needs {needed_bytes} bytes of RAM; `{host}`, where it is to start, has \
         {free_bytes} left of {ram_bytes}"
    )]
    PinnedFull {
        /// Index of the VM.
        index: usize,
        /// Its name.
        vm: String,
        /// What it needs.
        needed_bytes: u64,
        /// The host.
        host: String,
        /// What it has left.
        free_bytes: u64,
        /// What it had.
        ram_bytes: u64,
    },
    /// No host that has the RAM admits its vCPUs.
    #[error("VM {index} `{vm}` has {vcpus} vCPUs; no host with RAM for it admits so many more")]
    NoVcpus {
        /// Index of the VM.
        index: usize,
        /// Its name.
        vm: String,
        /// Its vCPUs.
        vcpus: u32,
    },
    /// The host the scenario names does not admit its vCPUs.
    #[error(
        "VM {index} `{vm}` has {vcpus} vCPUs; `{host}`, where it is to start, admits {left} more \
         of {admitted}"
    )]
    PinnedVcpus {
        /// Index of the VM.
        index: usize,
        /// Its name.
        vm: String,
        /// Its vCPUs.
        vcpus: u32,
        /// The host.
        host: String,
        /// What it still admits.
        left: u64,
        /// What it admits when empty.
        admitted: u64,
    },
    /// The scenario names a host that does not exist.
    #[error("VM {index} `{vm}` is to start on {host}, which does not exist")]
    UnknownHost {
        /// Index of the VM.
        index: usize,
        /// Its name.
        vm: String,
        /// The host.
        host: HostId,
    },
    /// There is no host at all.
    #[error("there is no host to place VMs on")]
    NoHosts,
}

struct Filling {
    ram_left: u64,
    /// `None`: any number.
    vcpus_left: Option<u64>,
    cpu: f64,
}

impl Filling {
    fn fits(&self, vm: &VmNeed) -> bool {
        self.ram_left >= vm.ram_bytes && self.admits(vm)
    }

    fn admits(&self, vm: &VmNeed) -> bool {
        self.vcpus_left
            .is_none_or(|left| left >= u64::from(vm.vcpus))
    }
}

/// A host for every VM, in the order of the VMs. Pinned VMs are placed first, whatever their place
/// in the list, so that none is turned away by one that could have gone elsewhere.
///
/// # Errors
/// The first VM that does not fit, with figures.
pub fn place(
    rule: Rule,
    hosts: &[HostRoom],
    vms: &[VmNeed],
) -> Result<Vec<HostId>, PlacementError> {
    if hosts.is_empty() && !vms.is_empty() {
        return Err(PlacementError::NoHosts);
    }
    let mut state: Vec<Filling> = hosts
        .iter()
        .map(|host| Filling {
            ram_left: host.ram_bytes,
            vcpus_left: host.vcpus,
            cpu: 0.0,
        })
        .collect();
    let mut placed: Vec<Option<usize>> = vec![None; vms.len()];
    for (index, vm) in vms.iter().enumerate() {
        let Some(host) = vm.pinned else { continue };
        let filling = state
            .get_mut(host.index())
            .ok_or_else(|| PlacementError::UnknownHost {
                index,
                vm: vm.name.clone(),
                host,
            })?;
        if filling.ram_left < vm.ram_bytes {
            return Err(PlacementError::PinnedFull {
                index,
                vm: vm.name.clone(),
                needed_bytes: vm.ram_bytes,
                host: hosts[host.index()].name.clone(),
                free_bytes: filling.ram_left,
                ram_bytes: hosts[host.index()].ram_bytes,
            });
        }
        if !filling.admits(vm) {
            return Err(PlacementError::PinnedVcpus {
                index,
                vm: vm.name.clone(),
                vcpus: vm.vcpus,
                host: hosts[host.index()].name.clone(),
                left: filling.vcpus_left.unwrap_or(u64::MAX),
                admitted: hosts[host.index()].vcpus.unwrap_or(u64::MAX),
            });
        }
        take(filling, vm);
        placed[index] = Some(host.index());
    }
    let mut next = 0;
    for (index, vm) in vms.iter().enumerate().filter(|(_, vm)| vm.pinned.is_none()) {
        let chosen = choose(rule, hosts, &state, vm, next);
        let host = chosen.ok_or_else(|| no_room(index, vm, hosts, &state))?;
        take(&mut state[host], vm);
        placed[index] = Some(host);
        next = (host + 1) % hosts.len();
    }
    let ids = placed
        .into_iter()
        .flatten()
        .map(|host| u32::try_from(host).map(HostId));
    Ok(ids
        .collect::<Result<_, _>>()
        .expect("host indices came from 32-bit ids"))
}

fn take(filling: &mut Filling, vm: &VmNeed) {
    filling.ram_left -= vm.ram_bytes;
    filling.vcpus_left = filling.vcpus_left.map(|left| left - u64::from(vm.vcpus));
    filling.cpu += vm.cpu_mean;
}

fn choose(
    rule: Rule,
    hosts: &[HostRoom],
    state: &[Filling],
    vm: &VmNeed,
    next: usize,
) -> Option<usize> {
    let mut fitting = (0..state.len()).filter(|&i| state[i].fits(vm));
    match rule {
        Rule::FirstFit => fitting.next(),
        // Distance round the list from where the last one left off.
        Rule::RoundRobin => fitting.min_by_key(|&i| (i + hosts.len() - next) % hosts.len()),
        Rule::BestFit => {
            // Booked share of the cores once it is there; all that stay within count as equal.
            let over = |i: usize| {
                let cores = hosts[i].capacity_milli.max(1) as f64 / 1000.0;
                ((state[i].cpu + vm.cpu_mean) / cores).max(1.0)
            };
            fitting.min_by(|&a, &b| {
                over(a)
                    .total_cmp(&over(b))
                    .then(state[a].ram_left.cmp(&state[b].ram_left))
            })
        }
    }
}

fn no_room(index: usize, vm: &VmNeed, hosts: &[HostRoom], state: &[Filling]) -> PlacementError {
    if state.iter().any(|filling| filling.ram_left >= vm.ram_bytes) {
        let (vm, vcpus) = (vm.name.clone(), vm.vcpus);
        return PlacementError::NoVcpus { index, vm, vcpus };
    }
    let emptiest = (0..state.len())
        .rev()
        .max_by_key(|&i| state[i].ram_left)
        .unwrap_or(0);
    PlacementError::NoRoom {
        index,
        vm: vm.name.clone(),
        needed_bytes: vm.ram_bytes,
        host: hosts[emptiest].name.clone(),
        free_bytes: state[emptiest].ram_left,
        ram_bytes: hosts[emptiest].ram_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hosts(rooms: &[(u32, u64)]) -> Vec<HostRoom> {
        let host = |(i, &(cores, ram_bytes)): (usize, &(u32, u64))| HostRoom {
            name: format!("h{}", i + 1),
            capacity_milli: u64::from(cores) * 1000,
            ram_bytes,
            vcpus: None,
        };
        rooms.iter().enumerate().map(host).collect()
    }

    fn vms(needs: &[(u64, f64)]) -> Vec<VmNeed> {
        let vm = |(i, &(ram_bytes, cpu_mean)): (usize, &(u64, f64))| VmNeed {
            name: format!("v{}", i + 1),
            ram_bytes,
            vcpus: 2,
            cpu_mean,
            pinned: None,
        };
        needs.iter().enumerate().map(vm).collect()
    }

    fn run(rule: Rule, rooms: &[(u32, u64)], needs: &[(u64, f64)]) -> Vec<u32> {
        place(rule, &hosts(rooms), &vms(needs))
            .unwrap()
            .iter()
            .map(|h| h.0)
            .collect()
    }

    #[test]
    fn round_robin_goes_round_and_skips_the_full() {
        let placed = run(Rule::RoundRobin, &[(1, 4), (1, 1), (1, 4)], &[(2, 0.0); 4]);
        assert_eq!(placed, [0, 2, 0, 2]);
    }

    #[test]
    fn first_fit_fills_in_order() {
        assert_eq!(
            run(
                Rule::FirstFit,
                &[(1, 4), (1, 4)],
                &[(3, 0.0), (2, 0.0), (1, 0.0)]
            ),
            [0, 1, 0]
        );
    }

    #[test]
    fn best_fit_prefers_the_tightest_host_that_carries_the_load() {
        let rooms = [(4, 16), (4, 6), (4, 8)];
        assert_eq!(run(Rule::BestFit, &rooms, &[(5, 1.0), (5, 1.0)]), [1, 2]);
        // Host 1 is tightest but its cores are booked; with all booked the least booked takes it.
        let heavy = [(2, 3.5), (2, 3.5), (2, 3.5), (2, 0.9)];
        assert_eq!(run(Rule::BestFit, &rooms, &heavy), [1, 2, 0, 1]);
    }

    #[test]
    fn who_does_not_fit_is_named_with_figures() {
        let error = place(
            Rule::FirstFit,
            &hosts(&[(1, 4), (1, 6)]),
            &vms(&[(5, 0.0), (5, 0.0)]),
        );
        assert_eq!(
            error.unwrap_err().to_string(),
            "VM 1 `v2` needs 5 bytes of RAM; the emptiest host, `h1`, has 4 left of 4"
        );
        let mut pinned = vms(&[(3, 0.0), (3, 0.0)]);
        pinned[1].pinned = Some(HostId(0));
        let both = place(Rule::FirstFit, &hosts(&[(1, 4), (1, 6)]), &pinned).unwrap();
        assert_eq!(
            both,
            [HostId(1), HostId(0)],
            "the pinned one has its host kept free"
        );
        pinned[0].pinned = Some(HostId(0));
        let error = place(Rule::FirstFit, &hosts(&[(1, 4)]), &pinned).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`h1`, where it is to start, has 1 left of 4")
        );
        pinned[0].pinned = Some(HostId(8));
        let error = place(Rule::FirstFit, &hosts(&[(1, 4)]), &pinned).unwrap_err();
        assert!(matches!(
            error,
            PlacementError::UnknownHost { index: 0, .. }
        ));
        assert_eq!(
            place(Rule::BestFit, &[], &pinned),
            Err(PlacementError::NoHosts)
        );
    }

    #[test]
    fn vcpus_are_admitted_up_to_the_limit() {
        let mut rooms = hosts(&[(4, 99), (4, 99)]);
        rooms[0].vcpus = Some(3);
        rooms[1].vcpus = Some(4);
        let mut needs = vms(&[(1, 0.0); 3]);
        let placed = place(Rule::FirstFit, &rooms, &needs).unwrap();
        assert_eq!(placed, [HostId(0), HostId(1), HostId(1)]);
        needs.push(needs[0].clone());
        let error = place(Rule::FirstFit, &rooms, &needs).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("no host with RAM for it admits so many"),
            "{error}"
        );
        needs.truncate(2);
        for need in &mut needs {
            need.pinned = Some(HostId(0));
        }
        let error = place(Rule::FirstFit, &rooms, &needs).unwrap_err();
        assert!(error.to_string().contains("admits 1 more of 3"), "{error}");
    }

    #[test]
    fn a_fast_host_carries_more() {
        let mut rooms = hosts(&[(2, 8), (2, 9)]);
        rooms[1].capacity_milli = 6000;
        let placed = place(Rule::BestFit, &rooms, &vms(&[(1, 3.0)])).unwrap();
        assert_eq!(
            placed,
            [HostId(1)],
            "2 cores do not carry 3, 2 of threefold speed do"
        );
    }

    proptest! {
        #[test]
        fn ram_is_never_overcommitted(
            rooms in proptest::collection::vec((1..8u32, 0..20u64), 1..5),
            needs in proptest::collection::vec((1..10u64, 0.0..4.0f64), 0..12),
            which in 0..3usize,
        ) {
            if let Ok(placed) = place(Rule::NAMES[which].1, &hosts(&rooms), &vms(&needs)) {
                prop_assert_eq!(placed.len(), needs.len());
                for (i, room) in rooms.iter().enumerate() {
                    let here = placed.iter().zip(&needs).filter(|(h, _)| h.index() == i);
                    prop_assert!(here.map(|(_, need)| need.0).sum::<u64>() <= room.1);
                }
            }
        }
    }
}
