//! Where VMs start, and whether they fit there.

use super::guests::Guests;
use super::machines::Machines;
use crate::ids::HostId;
use crate::scenario::problem::ProblemKind;
use crate::scenario::raw::Table;
use crate::units::show_size;

/// How VMs that name no host are placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Placement {
    /// On the next host in turn that has room.
    #[default]
    RoundRobin,
    /// On the first host that has room.
    FirstFit,
    /// On the host that has room and least of it.
    BestFit,
}

const PLACEMENTS: &[(&str, Placement)] = &[
    ("round-robin", Placement::RoundRobin),
    ("first-fit", Placement::FirstFit),
    ("best-fit", Placement::BestFit),
];

/// Gives every VM its host: the one it asks for, or one the placement finds.
pub(super) fn settle(root: &Table<'_>, machines: &Machines, guests: &mut Guests) {
    let key = root.get("placement");
    let placement = key.as_ref().and_then(|v| v.word("placement", PLACEMENTS)).unwrap_or_default();
    // With anything wrong so far, what does not fit would only be a consequence of it.
    if !root.log.is_empty() {
        return;
    }
    let mut free: Vec<u64> = machines.hosts.iter().map(|host| host.ram_bytes).collect();
    if !wanted_fit(root, machines, guests, &mut free) {
        return;
    }
    let mut turn = 0;
    for (index, vm) in guests.list.iter_mut().enumerate() {
        if let Some(host) = guests.wanted[index] {
            vm.host = host;
            continue;
        }
        let Some(host) = find(placement, &free, vm.ram_bytes, &mut turn) else {
            let why = format!(
                "no host has {} left for VM `{}`; the most is {}",
                show_size(vm.ram_bytes),
                vm.name,
                show_size(free.iter().copied().max().unwrap_or(0))
            );
            let placement = PLACEMENTS.iter().find(|p| p.1 == placement).map_or("", |p| p.0);
            root.log.add(&guests.spans[index], ProblemKind::NoRoom { placement, why });
            return;
        };
        free[host] -= vm.ram_bytes;
        vm.host = HostId(u32::try_from(host).expect("hosts are bounded by HOSTS_MAX"));
    }
}

fn find(placement: Placement, free: &[u64], ram_bytes: u64, turn: &mut usize) -> Option<usize> {
    let fits = |host: &usize| free[*host] >= ram_bytes;
    match placement {
        Placement::RoundRobin => {
            let host = (0..free.len()).map(|i| (*turn + i) % free.len()).find(fits)?;
            *turn = host + 1;
            Some(host)
        }
        Placement::FirstFit => (0..free.len()).find(fits),
        Placement::BestFit => (0..free.len()).filter(fits).min_by_key(|host| free[*host]),
    }
}

/// Whether the VMs that name their host fit there; takes their RAM from what is `free`.
fn wanted_fit(root: &Table<'_>, machines: &Machines, guests: &Guests, free: &mut [u64]) -> bool {
    let mut ok = true;
    for (id, host) in (0..).map(HostId).zip(&machines.hosts) {
        let on_it = || guests.wanted.iter().enumerate().filter(|(_, wanted)| **wanted == Some(id));
        let needed = on_it().fold(0u64, |sum, (vm, _)| sum.saturating_add(guests.list[vm].ram_bytes));
        if needed <= host.ram_bytes {
            free[id.index()] -= needed;
            continue;
        }
        // The spot is the declaration of the VM that is one too many.
        let mut left = host.ram_bytes;
        let too_many = on_it().find(|(vm, _)| {
            let fits = left.checked_sub(guests.list[*vm].ram_bytes);
            left = fits.unwrap_or(0);
            fits.is_none()
        });
        let span = too_many.map_or(0..0, |(vm, _)| guests.spans[vm].clone());
        let (vms, host_name) = (on_it().count(), host.name.clone());
        let kind = ProblemKind::HostFull {
            host: host_name,
            vms,
            needed_bytes: needed,
            ram_bytes: host.ram_bytes,
        };
        root.log.add(&span, kind);
        ok = false;
    }
    ok
}
