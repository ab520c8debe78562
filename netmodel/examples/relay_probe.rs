//! Asks a backend for a link and measures what it gives: TCP goodput and added round-trip delay, in its own namespaces.
//!
//!     relay_probe [--rate 1Gbit] [--delay 10ms] [--queue 512KiB] [--seconds 3] [--hosts 2] [--ports auto]
//!         [--backend relay] [--loss 1%] [--seed 0] [--calibrate true]
//!     relay_probe --doctor true
//!
//! Needs no privileges. Prints one JSON object.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use netmodel::backend::{BackendKind, Fabric};
use netmodel::calibrate::{Settings, calibrate};
use netmodel::flow::goodput_bps;
use netmodel::link::{LinkSpec, Loss};
use netmodel::plan::{Plan, PortKind, TcpSettings};
use netmodel::sys::clock::now_ns;
use netmodel::sys::netns::{create_netns, enter_machine, with_netns};
use netmodel::sys::probe::probe;
use netmodel::sys::tcpinfo;
use netmodel::topology::{Cable, HostId, LinkId, Topology, host_address};
use netmodel::units::parse_delay;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Asked {
    spec: LinkSpec,
    seconds: u64,
    hosts: u32,
    ports: PortKind,
    seed: u64,
    calibrate: bool,
    doctor: bool,
    backend: BackendKind,
}

fn main() -> Result<(), Failure> {
    let asked = arguments()?;
    if asked.doctor {
        println!("{}", serde_json::to_string_pretty(&probe())?);
        return Ok(());
    }
    enter_machine()?;
    let link = Cable::symmetric(asked.spec);
    let topology = Topology::star((1..=asked.hosts).map(|n| (format!("h{n}"), link)))?;
    let ids: Vec<HostId> = topology.hosts().map(|(id, _)| id).collect();
    let hosts = ids.iter().map(|id| Ok((*id, create_netns()?)));
    let hosts = hosts.collect::<Result<BTreeMap<_, _>, Failure>>()?;
    let plan = Plan::new(topology, &TcpSettings::default(), asked.backend);
    let plan = plan.with_ports(asked.ports).with_seed(asked.seed);
    let fabric = Fabric::build(&plan, &hosts)?;
    if asked.calibrate {
        let result = calibrate(&fabric, &hosts, &Settings::default())?;
        println!("{}", serde_json::to_string_pretty(&result)?);
        return Ok(());
    }
    let rtt = ping(&hosts, asked.spec.delay * 4)?;
    let flow = stream(&hosts, &fabric, asked.seconds)?;
    let drained = fabric.drained(Duration::from_secs(5))?;
    let counters = fabric.counters()?;
    let up = counters.links[&LinkId(0)];
    let lateness = &counters.relay.lateness;
    let ideal = goodput_bps(&asked.spec);
    println!(
        "{}",
        serde_json::json!({
            "asked_rate_bps": asked.spec.rate.map(|rate| rate.bps()),
            "asked_rtt_us": 4 * asked.spec.delay.as_micros(),
            "got_rtt_us_min": rtt[0], "got_rtt_us_median": rtt[rtt.len() / 2],
            "ideal_goodput_bps": ideal, "goodput_bps": flow.goodput_bps,
            "goodput_error": ideal.map(|ideal| flow.goodput_bps / ideal - 1.0),
            "wire_bps": flow.wire_bps,
            "relay_ms_per_gbit": flow.relay_ms / flow.gbit, "process_ms_per_gbit": flow.process_ms / flow.gbit,
            "wire_error": asked.spec.rate.map(|rate| flow.wire_bps / rate.bps() as f64 - 1.0),
            "congestion_control": flow.congestion_control, "retransmits": flow.retransmits,
            "mean_frame_segments": up.received.segments as f64 / up.received.packets.max(1) as f64,
            "queue_bytes_max": up.queue_bytes_max, "dropped_packets": up.dropped.packets,
            "lost_share": up.lost.segments as f64 / up.received.segments.max(1) as f64,
            "lateness_us": { "mean": lateness.mean_ns() / 1e3, "p50": lateness.quantile_ns(500) / 1000,
                "p99": lateness.quantile_ns(990) / 1000, "max": lateness.max_ns() / 1000 },
            "run_ms": counters.relay.run_ns.map(|ns| ns / 1_000_000),
            "run_delay_ms": counters.relay.run_delay_ns.map(|ns| ns / 1_000_000),
            "ports": counters.ports, "no_room": counters.relay.no_room,
            "backlog_drops": counters.relay.backlog_drops, "drained": drained,
            "sysctls_refused": fabric.sysctls().iter().filter(|s| s.got.is_err()).collect::<Vec<_>>(),
        })
    );
    Ok(())
}

fn arguments() -> Result<Asked, Failure> {
    let mut asked = Asked {
        spec: LinkSpec::default(),
        seconds: 3,
        hosts: 2,
        ports: PortKind::Auto,
        seed: 0,
        calibrate: false,
        doctor: false,
        backend: BackendKind::Relay,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--rate" => asked.spec.rate = Some(value.parse()?),
            "--delay" => asked.spec.delay = parse_delay(&value)?,
            "--queue" => asked.spec.queue = value.parse()?,
            "--seconds" => asked.seconds = value.parse()?,
            "--calibrate" => asked.calibrate = value.parse()?,
            "--doctor" => asked.doctor = value.parse()?,
            "--ports" => asked.ports = value.parse()?,
            "--seed" => asked.seed = value.parse()?,
            "--loss" => asked.spec.loss = Loss::Independent(value.parse()?),
            "--backend" => asked.backend = value.parse()?,
            "--hosts" => asked.hosts = value.parse()?,
            _ => return Err(format!("unknown option {name}").into()),
        }
    }
    Ok(asked)
}

/// Round trips of up to 200 small datagrams from the first host to the second, sorted, in microseconds.
fn ping(hosts: &BTreeMap<HostId, OwnedFd>, expected: Duration) -> Result<Vec<u64>, Failure> {
    let address = SocketAddr::from((host_address(HostId(1)), 7));
    let server = with_netns(hosts[&HostId(1)].as_fd(), || UdpSocket::bind(address))??;
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    let client = with_netns(hosts[&HostId(0)].as_fd(), || UdpSocket::bind(any))??;
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    }
    // Some three seconds' worth.
    let rounds = (3000 / expected.as_millis().max(1)).clamp(10, 200) as u32;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut word = [0; 4];
            for _ in 0..rounds {
                let Ok((_, from)) = server.recv_from(&mut word) else {
                    return;
                };
                if server.send_to(&word, from).is_err() {
                    return;
                }
            }
        });
        let mut rtt = Vec::new();
        for n in 0..rounds {
            let before = now_ns();
            client.send_to(&n.to_ne_bytes(), address)?;
            client.recv(&mut [0; 4])?;
            rtt.push((now_ns() - before) / 1000);
        }
        rtt.sort_unstable();
        Ok(rtt)
    })
}

struct Flow {
    goodput_bps: f64,
    wire_bps: f64,
    congestion_control: String,
    retransmits: u32,
    gbit: f64,
    /// Processor time of the data thread, what the kernel does in its calls included.
    relay_ms: f64,
    /// Of the whole process: sender, relay and receiver.
    process_ms: f64,
}

fn process_ms() -> Result<f64, Failure> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let ms = |time: TimeVal| time.tv_sec() as f64 * 1e3 + time.tv_usec() as f64 / 1e3;
    Ok(ms(usage.user_time()) + ms(usage.system_time()))
}

/// One TCP stream from the first host to the second; measured after one second of warm-up.
fn stream(
    hosts: &BTreeMap<HostId, OwnedFd>,
    fabric: &Fabric,
    seconds: u64,
) -> Result<Flow, Failure> {
    let address = SocketAddr::from((host_address(HostId(1)), 5001));
    let listener = with_netns(hosts[&HostId(1)].as_fd(), || TcpListener::bind(address))??;
    let mut sender = with_netns(hosts[&HostId(0)].as_fd(), || TcpStream::connect(address))??;
    let congestion_control = tcpinfo::set_congestion_control(&sender, &["cubic", "reno"])?;
    let (mut receiver, _) = listener.accept()?;
    sender.set_write_timeout(Some(Duration::from_secs(5)))?;
    let start = now_ns() + 1_000_000_000;
    let end = start + seconds * 1_000_000_000;
    std::thread::scope(|scope| {
        let pump = scope.spawn(move || {
            let data = vec![7; 1 << 20];
            while now_ns() < end && sender.write_all(&data).is_ok() {}
            tcpinfo::read(&sender).map(|info| info.retransmits)
        });
        let mut buffer = vec![0; 1 << 20];
        let mut read_until = |at: u64| -> Result<(u64, u64), std::io::Error> {
            let mut total = 0;
            while now_ns() < at {
                let n = receiver.read(&mut buffer)?;
                if n == 0 {
                    break;
                }
                total += n as u64;
            }
            Ok((total, now_ns()))
        };
        let (_, from) = read_until(start)?;
        let (before, process_before) = (fabric.counters()?, process_ms()?);
        let (bytes, to) = read_until(end)?;
        let (after, process_after) = (fabric.counters()?, process_ms()?);
        drop(read_until(to + 1_000_000_000));
        let wire = |c: &netmodel::counters::Counters| c.links[&LinkId(0)].sent.wire_bytes;
        let retransmits = pump.join().map_err(|_| "the sender panicked")??;
        let run_ms = |c: &netmodel::counters::Counters| c.relay.run_ns.unwrap_or(0) as f64 / 1e6;
        let wire_span = (after.at_ns - before.at_ns) as f64;
        Ok(Flow {
            goodput_bps: bytes as f64 * 8e9 / (to - from) as f64,
            wire_bps: (wire(&after) - wire(&before)) as f64 * 8e9 / wire_span,
            congestion_control,
            retransmits,
            gbit: bytes as f64 * 8e-9,
            relay_ms: run_ms(&after) - run_ms(&before),
            process_ms: process_after - process_before,
        })
    })
}
