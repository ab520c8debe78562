//! Small clusters for the policies' tests.

use crate::balance::view::{Action, HostView, MigrationView, View, VmView};
use crate::ids::{HostId, MigrationId, VmId};

const GIB: u64 = 1 << 30;

/// Hosts as (cores, GiB free when empty), VMs as (host, cores used, GiB).
pub(super) fn view(hosts: &[(u32, u64)], vms: &[(u32, f64, u64)]) -> View {
    let vms: Vec<VmView> = (0..)
        .zip(vms)
        .map(|(i, &(host, cpu, gib))| VmView {
            id: VmId(i),
            host: HostId(host),
            vcpus: 8,
            ram_bytes: gib * GIB,
            cpu_used: cpu,
            cpu_demand: cpu,
            migrating: false,
            gone: false,
        })
        .collect();
    let hosts = (0..)
        .zip(hosts)
        .map(|(i, &(cores, gib))| {
            let on = |vm: &&VmView| vm.host == HostId(i);
            let cpu = vms.iter().filter(on).map(|vm| vm.cpu_used).sum();
            HostView {
                id: HostId(i),
                cores,
                speed: 1.0,
                ram_bytes: gib * GIB,
                ram_admitted_bytes: gib * GIB,
                vcpus_admitted: None,
                vcpus_used: 0,
                ram_used_bytes: vms.iter().filter(on).map(|vm| vm.ram_bytes).sum(),
                cpu_used: cpu,
                cpu_demand: cpu,
                pressure_some: 0.0,
                link_bps: None,
                history: Vec::new(),
            }
        })
        .collect();
    View {
        tick: 0,
        t_ns: 0,
        hosts,
        vms,
        migrations: Vec::new(),
    }
}

pub(super) fn moves(actions: &[Action]) -> Vec<(u32, u32)> {
    actions
        .iter()
        .map(|action| match action {
            Action::Migrate {
                vm, destination, ..
            } => (vm.0, destination.0),
            Action::Cancel { .. } => panic!("no built-in policy cancels"),
        })
        .collect()
}

/// Marks a VM as being moved.
pub(super) fn migrating(view: &mut View, vm: u32, destination: u32) {
    let moved = &mut view.vms[vm as usize];
    moved.migrating = true;
    view.hosts[destination as usize].ram_used_bytes += moved.ram_bytes;
    view.migrations.push(MigrationView {
        id: MigrationId(vm + 1),
        vm: VmId(vm),
        source: moved.host,
        destination: HostId(destination),
        running: true,
    });
}

/// Carries the moves out.
pub(super) fn apply(view: &mut View, actions: &[Action]) {
    for (vm, destination) in moves(actions) {
        let ram = view.vms[vm as usize].ram_bytes;
        let source = view.vms[vm as usize].host;
        assert_ne!(source, HostId(destination));
        view.vms[vm as usize].host = HostId(destination);
        view.hosts[source.index()].ram_used_bytes -= ram;
        view.hosts[destination as usize].ram_used_bytes += ram;
        let host = &view.hosts[destination as usize];
        assert!(
            host.ram_used_bytes <= host.ram_bytes,
            "RAM of {} overcommitted",
            host.id
        );
    }
}

/// Largest minus smallest load.
pub(super) fn gap(view: &View) -> f64 {
    let loads = view.hosts.iter().map(|host| {
        let on = view.vms.iter().filter(|vm| vm.host == host.id);
        on.map(|vm| vm.cpu_used).sum::<f64>() / host.capacity()
    });
    let loads: Vec<f64> = loads.collect();
    loads.iter().copied().fold(0.0, f64::max) - loads.iter().copied().fold(f64::MAX, f64::min)
}
