//! Builds a two-tier fabric over the relay in namespaces of its own: how long it takes, what it weighs, whether it carries.
//!
//!     fabric_size [--hosts 1000] [--racks 25] [--ports auto]
//!
//! Needs no privileges. Prints one JSON object.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use netmodel::backend::{BackendKind, Fabric};
use netmodel::link::LinkSpec;
use netmodel::plan::{Plan, PortKind, TcpSettings};
use netmodel::sys::clock::{now_ns, wait_until};
use netmodel::sys::netns::{create_netns, enter_machine, with_netns};
use netmodel::topology::{Cable, HostId, Rack, Topology, host_address};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let (mut hosts, mut racks, mut ports) = (1000_u32, 25_u32, PortKind::Auto);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--hosts" => hosts = value.parse()?,
            "--racks" => racks = value.parse()?,
            "--ports" => ports = value.parse()?,
            _ => return Err(format!("unknown option {name}").into()),
        }
    }
    enter_machine()?;
    let topology = two_tier(hosts, racks)?;
    let ids: Vec<HostId> = topology.hosts().map(|(id, _)| id).collect();
    let started = now_ns();
    let plan = Plan::new(topology, &TcpSettings::default(), BackendKind::Relay).with_ports(ports);
    let planned = now_ns();
    let spaces = ids.iter().map(|id| Ok((*id, create_netns()?)));
    let spaces = spaces.collect::<Result<BTreeMap<_, _>, Failure>>()?;
    let namespaced = now_ns();
    let before_kib = resident_kib()?;
    let fabric = Fabric::build(&plan, &spaces)?;
    let built = now_ns();
    let after_kib = resident_kib()?;
    let crossed = cross(&spaces, &ids)?;
    let counting = now_ns();
    let idle_before = fabric.counters()?;
    let counted = now_ns();
    wait_until(counted + 1_000_000_000)?;
    let idle_after = fabric.counters()?;
    let idle_ns = idle_after.relay.run_ns.zip(idle_before.relay.run_ns);
    let ending = now_ns();
    drop(fabric);
    let ended = now_ns();
    drop(spaces);
    let ms = |from: u64, to: u64| (to - from) as f64 / 1e6;
    println!(
        "{}",
        serde_json::json!({
            "hosts": hosts, "racks": racks, "ports": ports.name(), "steps": plan.steps().len(),
            "plan_ms": ms(started, planned), "namespaces_ms": ms(planned, namespaced),
            "build_ms": ms(namespaced, built), "counters_ms": ms(counting, counted),
            "end_ms": ms(ending, ended), "namespaces_end_ms": ms(ended, now_ns()),
            "resident_kib_before": before_kib, "resident_kib_after": after_kib, "pairs_crossed": crossed,
            "idle_relay_us_per_s": idle_ns.map(|(after, before)| (after - before) / 1000),
        })
    );
    Ok(())
}

fn two_tier(hosts: u32, racks: u32) -> Result<Topology, Failure> {
    let link = |rate: &str| -> Result<Cable, Failure> {
        Ok(Cable::symmetric(LinkSpec {
            delay: Duration::from_micros(50),
            ..LinkSpec::with_rate(rate.parse()?)
        }))
    };
    let (up, down) = (link("10Gbit")?, link("1Gbit")?);
    let rack = |n: u32| Rack {
        name: format!("rack{n}"),
        uplink: up,
        hosts: (n..hosts)
            .step_by(racks as usize)
            .map(|h| (format!("h{h}"), down))
            .collect(),
    };
    Ok(Topology::two_tier((0..racks).map(rack))?)
}

/// Sends a datagram between each 50th host and the one half the fabric away; how many arrived.
fn cross(hosts: &BTreeMap<HostId, OwnedFd>, ids: &[HostId]) -> Result<usize, Failure> {
    let mut arrived = 0;
    for (n, from) in ids.iter().enumerate().step_by(50) {
        let to = ids[(n + ids.len() / 2) % ids.len()];
        let address = SocketAddr::from((host_address(to), 7));
        let server = with_netns(hosts[&to].as_fd(), || UdpSocket::bind(address))??;
        server.set_read_timeout(Some(Duration::from_secs(2)))?;
        let client = with_netns(hosts[from].as_fd(), || UdpSocket::bind("0.0.0.0:0"))??;
        client.send_to(b"ping", address)?;
        arrived += usize::from(server.recv(&mut [0; 4]).is_ok());
    }
    Ok(arrived)
}

fn resident_kib() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let field = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(field.ok_or("no VmRSS")?.parse()?)
}
