//! What a span of load looks like on this computer, by every indicator of the certificate: to choose the audit's limits
//! from, calm and with something else running.
//!
//!     calm_spans [--spans 30] [--seconds 2] [--rate 1Gbit] [--delay 1ms]
//!
//! Needs no privileges. One JSON object per span: one stream from one host to another in each.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use netmodel::audit::{Limits, audit};
use netmodel::backend::{BackendKind, Fabric};
use netmodel::link::LinkSpec;
use netmodel::plan::{Plan, TcpSettings};
use netmodel::residual::idle::{Watched, path_idle};
use netmodel::residual::{History, largest_frame, residuals};
use netmodel::sys::clock::{now_ns, wait_until};
use netmodel::sys::netns::{create_netns, enter_machine, with_netns};
use netmodel::sys::tcpinfo;
use netmodel::topology::{Cable, HostId, LinkId, Topology, host_address};
use netmodel::units::parse_delay;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Hosts = BTreeMap<HostId, OwnedFd>;

const SAMPLE_GAP_NS: u64 = 10_000_000;
const RAMP_NS: u64 = 300_000_000;

fn main() -> Result<(), Failure> {
    let (mut spans, mut seconds) = (30_u32, 2_u64);
    let mut spec = LinkSpec {
        rate: Some("1Gbit".parse()?),
        delay: Duration::from_millis(1),
        ..LinkSpec::default()
    };
    let mut arguments = std::env::args().skip(1);
    while let (Some(name), Some(value)) = (arguments.next(), arguments.next()) {
        match name.as_str() {
            "--spans" => spans = value.parse()?,
            "--seconds" => seconds = value.parse()?,
            "--rate" => spec.rate = Some(value.parse()?),
            "--delay" => spec.delay = parse_delay(&value)?,
            _ => return Err(format!("unknown option {name}").into()),
        }
    }
    enter_machine()?;
    let cable = Cable::symmetric(spec);
    let topology = Topology::star(["a", "b"].map(|name| (name.to_owned(), cable)))?;
    let hosts = topology.hosts().map(|(id, _)| Ok((id, create_netns()?)));
    let hosts = hosts.collect::<Result<Hosts, Failure>>()?;
    let plan = Plan::new(topology, &TcpSettings::default(), BackendKind::Relay);
    let fabric = Fabric::build(&plan, &hosts)?;
    for _ in 0..spans {
        println!("{}", span(&fabric, &hosts, &spec, seconds)?);
        fabric.drained(Duration::from_secs(5))?;
    }
    Ok(())
}

fn span(
    fabric: &Fabric,
    hosts: &Hosts,
    spec: &LinkSpec,
    seconds: u64,
) -> Result<serde_json::Value, Failure> {
    let address = SocketAddr::from((host_address(HostId(1)), 0));
    let listener = with_netns(hosts[&HostId(1)].as_fd(), || TcpListener::bind(address))??;
    let address = listener.local_addr()?;
    let connect = || TcpStream::connect(address);
    let mut sender = with_netns(hosts[&HostId(0)].as_fd(), connect)??;
    let (mut receiver, _) = listener.accept()?;
    tcpinfo::set_congestion_control(&sender, &["cubic", "reno"])?;
    let watched = sender.try_clone()?;
    let start_ns = now_ns() + RAMP_NS;
    let end_ns = start_ns + seconds * 1_000_000_000;
    // The way there, and the way back.
    let path = [LinkId(0), LinkId(3), LinkId(2), LinkId(1)];
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let data = vec![7; 1 << 18];
            while now_ns() < end_ns && sender.write_all(&data).is_ok() {}
            sender.shutdown(std::net::Shutdown::Write)
        });
        scope.spawn(move || {
            let mut buffer = vec![0; 1 << 18];
            while receiver.read(&mut buffer).is_ok_and(|n| n > 0) {}
        });
        wait_until(start_ns)?;
        let before = fabric.counters()?;
        let (mut samples, mut tcp) = (Vec::new(), Vec::new());
        let mut at_ns = start_ns;
        while at_ns < end_ns {
            samples.push(fabric.sample(&path)?);
            tcp.push((now_ns(), tcpinfo::read(&watched)?));
            at_ns = (at_ns + SAMPLE_GAP_NS).max(now_ns());
            wait_until(at_ns)?;
        }
        let after = fabric.counters()?;
        let history = History::new(*spec);
        let frame = largest_frame(fabric.plan(), path[0]);
        let late = after.relay.lateness.since(&before.relay.lateness);
        let span_ns = (after.at_ns - before.at_ns) as f64;
        let per_mille = |ns: u64| ns as f64 * 1000.0 / span_ns;
        let (then, now) = (before.relay.computer, after.relay.computer);
        let computer = then.zip(now).map(|(then, now)| {
            let cpu_ns = (now.cpu_ns - then.cpu_ns).max(1) as f64;
            let pressure = now.pressure_ns.unwrap_or(0) - then.pressure_ns.unwrap_or(0);
            (
                (now.steal_ns - then.steal_ns) as f64 * 1000.0 / cpu_ns,
                per_mille(pressure),
            )
        });
        let waited = |c: &netmodel::counters::Counters| c.relay.run_delay_ns.unwrap_or(0);
        let ran = |c: &netmodel::counters::Counters| c.relay.run_ns.unwrap_or(0);
        let idle = path_idle(&Watched {
            samples: &samples,
            path: &[history.clone(), history.clone()],
            back: &[history.clone(), history.clone()],
            tcp: &tcp,
        });
        let limits = Limits {
            drained: false,
            ..Limits::default()
        };
        Ok(serde_json::json!({
            "late_p50_us": late.quantile_ns(500) / 1000, "late_p99_us": late.quantile_ns(990) / 1000,
            "late_mean_us": late.mean_ns() / 1e3, "late_max_us": late.max_ns() / 1000,
            "run_delay_per_mille": per_mille(waited(&after) - waited(&before)),
            "run_per_mille": per_mille(ran(&after) - ran(&before)),
            "steal_per_mille": computer.map(|c| c.0), "pressure_per_mille": computer.map(|c| c.1),
            "up": residuals(&samples, 0, &history, frame), "down": residuals(&samples, 1, &history, frame),
            "idle": idle, "findings": audit(&before, &after, &limits),
        }))
    })
}
