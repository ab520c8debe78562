//! Builds a two-tier network of many hosts, prints how long it took and what it holds, and whether it carries packets.
//!
//!     many_hosts [--racks 40] [--hosts 25] [--backend htb]
//!
//! Needs no privileges. Prints one JSON object; everything is gone when it ends.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use netmodel::backend::{BackendKind, Fabric};
use netmodel::link::LinkSpec;
use netmodel::plan::{Plan, TcpSettings};
use netmodel::sys::clock::now_ns;
use netmodel::sys::netns::{create_netns, enter_machine, with_netns};
use netmodel::topology::{Cable, HostId, Rack, Topology, host_address, vm_address};
use netmodel::units::BitRate;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let (racks, hosts, backend) = arguments()?;
    enter_machine()?;
    let topology = two_tier(racks, hosts)?;
    let memory_before = available_kib()?;
    let started = now_ns();
    let ids = topology.hosts().map(|(id, _)| Ok((id, create_netns()?)));
    let namespaces = ids.collect::<Result<BTreeMap<_, _>, Failure>>()?;
    let made = now_ns();
    let plan = Plan::new(topology, &TcpSettings::default(), backend);
    let planned = now_ns();
    let fabric = Fabric::build(&plan, &namespaces)?;
    let built = now_ns();
    let memory_after = available_kib()?;
    let count = fabric.plan().topology().host_count();
    let answered = reach(&fabric, &namespaces)?;
    let routed = now_ns();
    let last = HostId(u32::try_from(count - 1)?);
    for n in 1..=1000 {
        let vm = vm_address(n).ok_or("no address")?;
        fabric.route(vm, last)?;
    }
    let counting = now_ns();
    let counters = fabric.counters()?;
    let counted = now_ns();
    let ms = |from: u64, to: u64| (to - from) as f64 / 1e6;
    println!(
        "{}",
        serde_json::json!({
            "backend": backend.name(), "hosts": count, "steps": plan.steps().len(),
            "namespaces_ms": ms(started, made), "plan_ms": ms(made, planned), "build_ms": ms(planned, built),
            "kib_per_host": memory_before.saturating_sub(memory_after) / count as u64,
            "answered": answered, "us_per_route": ms(routed, counting), "counters_ms": ms(counting, counted),
            "links_counted": counters.links.len(),
        })
    );
    Ok(())
}

fn two_tier(racks: u32, hosts: u32) -> Result<Topology, Failure> {
    let rate = |bps| BitRate::from_bps(bps).map(LinkSpec::with_rate);
    let near = Cable::symmetric(rate(1_000_000_000).ok_or("no rate")?);
    let up = Cable::symmetric(rate(10_000_000_000).ok_or("no rate")?);
    let rack = |r| Rack {
        name: format!("rack{r}"),
        uplink: up,
        hosts: (0..hosts).map(|h| (format!("h{r}-{h}"), near)).collect(),
    };
    Ok(Topology::two_tier((0..racks).map(rack))?)
}

fn arguments() -> Result<(u32, u32, BackendKind), Failure> {
    let (mut racks, mut hosts, mut backend) = (40, 25, BackendKind::Htb);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--racks" => racks = value.parse()?,
            "--hosts" => hosts = value.parse()?,
            "--backend" => backend = value.parse()?,
            _ => return Err(format!("unknown option {name}").into()),
        }
    }
    Ok((racks, hosts, backend))
}

/// Hosts that a datagram from the first host reached: one of each rack.
fn reach(fabric: &Fabric, namespaces: &BTreeMap<HostId, OwnedFd>) -> Result<usize, Failure> {
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    let client = with_netns(namespaces[&HostId(0)].as_fd(), || UdpSocket::bind(any))??;
    let hosts = fabric.plan().topology().host_count();
    let mut answered = 0;
    for host in (1..u32::try_from(hosts)?).step_by(25) {
        let address = SocketAddr::from((host_address(HostId(host)), 7));
        let server = with_netns(namespaces[&HostId(host)].as_fd(), || {
            UdpSocket::bind(address)
        })??;
        server.set_read_timeout(Some(Duration::from_secs(2)))?;
        client.send_to(b"here?", address)?;
        answered += usize::from(server.recv(&mut [0; 8]).is_ok());
    }
    Ok(answered)
}

fn available_kib() -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable"));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(value.ok_or("no MemAvailable")?.parse()?)
}
