//! A synthetic run for tests of tables and reports: 6 hosts, 30 VMs, a balancer that moves 15 of
//! them in warp pace. Everything in it is arithmetic of the indices: the same bytes every time.

mod maker;
mod records;

use maker::Maker;

use super::{RunDir, RunHeader, ScenarioFile, run_json};
use crate::event::log::EventLog;
use crate::event::{
    Event, EventKind, HostSample, LinkCalibration, LinkSample, SCHEMA, SpanKind, VmSample,
};
use crate::ids::{FlowId, HostId, MigrationId, ServiceId, VmId};
use crate::migration::params::MigrationParams;
use crate::migration::record::*;
use crate::scenario::*;
use netmodel::backend::BackendKind;
use netmodel::schedule::Schedule;
use netmodel::topology::{Cable, Topology};
use std::collections::BTreeMap;
use std::path::Path;

const S: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

/// What to make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Example {
    pub(crate) hosts: u32,
    pub(crate) vms: u32,
    /// One migration at every tick but the first few, until so many were made.
    pub(crate) migrations: u32,
    pub(crate) ticks: u32,
    /// Stops as if killed: nothing after the last tick.
    pub(crate) interrupted: bool,
}

pub(crate) const TYPICAL: Example = Example {
    hosts: 6,
    vms: 30,
    migrations: 15,
    ticks: 12,
    interrupted: false,
};
const TICK_NS: u64 = 150 * S;
const CORES: u32 = 8;

pub(crate) fn header(e: Example) -> RunHeader {
    let text = "name = \"evening-peak\"\n# <a comment & more>\n".to_owned();
    RunHeader {
        schema: run_json::SCHEMA,
        migbed_version: "0.1.0".into(),
        scenario: scenario(e),
        scenario_file: Some(ScenarioFile {
            name: "evening-peak.toml".into(),
            text,
        }),
        origins: Vec::new(),
        kernel: "Linux 6.12.0 x86_64".into(),
        backend: "relay".into(),
        capabilities: serde_json::json!({"netem": false, "af_packet": true, "cpus": 2}),
        seed: 42,
        k: 2,
        pace: Pace::Warp,
        tag: "measured".into(),
        grade: None,
        grade_reasons: Vec::new(),
        outcome: "running".into(),
        wall_s: 0.0,
        trace_s: 0.0,
        started_unix_s: 1_790_000_000,
    }
}

fn scenario(e: Example) -> Scenario {
    let host = |h| HostSpec::new(format!("h{}", h + 1), CORES, 64 << 30);
    let vm = |v: u32| VmSpec {
        name: if v == 3 {
            "db<3>&co".into()
        } else {
            format!("web{v:02}")
        },
        vcpus: 2,
        weight: 1024,
        ram_bytes: 512 << 20,
        resident_bytes: 128 << 20,
        resident_high_bytes: 0,
        cpu: vec![CpuDemand::constant(0)],
        writes: WriteSource::Idle,
        content: traces::content::ContentProfile::default(),
        memory: Backing::default(),
        offset_ns: 0,
        work: Work::Service,
        host: HostId(first_host(v, e.hosts)),
    };
    Scenario {
        name: "evening-peak".into(),
        seed: 42,
        scale: 2,
        divided_by: 1,
        pace: Pace::Warp,
        duration_ns: u64::from(e.ticks) * TICK_NS,
        traces: BTreeMap::new(),
        hosts: (0..e.hosts).map(host).collect(),
        vms: (0..e.vms).map(vm).collect(),
        flows: vec![FlowSpec {
            from: Endpoint::Vm(VmId(0)),
            to: Endpoint::Vm(VmId(1)),
            rate_bps: None,
        }],
        services: vec![ServiceSpec {
            name: "shop".into(),
            server: VmId(0),
            client: Endpoint::Vm(VmId(1)),
            arrivals: Arrivals::Paced { rate_milli: 1000 },
            connections: 1,
            request_bytes: 100,
            response_bytes: 1000,
            cpu_ns: 0,
        }],
        probes: Vec::new(),
        network: network(e.hosts),
        balancer: BalancerSpec {
            policy: "equalise".into(),
            interval_ns: TICK_NS,
            window_ns: TICK_NS,
            options: BTreeMap::from([("threshold".to_owned(), 0.1)]),
            parallel: 4,
            parallel_per_host: 2,
        },
        migrations: Vec::new(),
        migration: MigrationParams::default(),
        faults: Vec::new(),
        orchestrator: crate::orchestrator::OrchestratorSpec::Timeout,
    }
}

fn network(hosts: u32) -> NetworkSpec {
    NetworkSpec {
        backend: Some(BackendKind::Relay),
        topology: Topology::star(
            (0..hosts.max(2)).map(|h| (format!("h{}", h + 1), Cable::default())),
        )
        .unwrap(),
        internet: None,
        schedule: Schedule::default(),
        congestion: "cubic".into(),
        send_buffer: None,
        send_buffer_max: None,
        receive_buffer_max: None,
    }
}

/// Skewed on purpose: the first hosts get more than their share.
fn first_host(vm: u32, hosts: u32) -> u32 {
    if vm.is_multiple_of(3) {
        vm % 2 % hosts
    } else {
        vm % hosts
    }
}

/// Cores a VM asks for, thousandths: a triangle between 200 and 1800 with a period and a phase of
/// its own, in integers so that it is the same on every machine.
fn demand_milli(vm: u32, t_s: u64) -> u64 {
    let period = 1500 + u64::from(vm) * 57;
    let at = (t_s + u64::from(vm) * 239) % period;
    200 + at.min(period - at) * 3200 / period
}

/// Writes the run and returns its directory; nothing is rebuilt yet.
pub(crate) fn example(path: &Path, e: Example) -> RunDir {
    let run = RunDir::create(path, &header(e)).unwrap();
    let log = EventLog::create(path).unwrap();
    let places = (0..e.vms).map(|v| first_host(v, e.hosts)).collect();
    let mut m = Maker {
        e,
        log,
        mono: 1_000 * S,
        trace: 0,
        places,
        made: 0,
        wire: 0,
    };
    m.begin();
    for tick in 0..e.ticks {
        m.tick(tick);
    }
    if e.interrupted {
        std::mem::forget(m.log);
        return run;
    }
    m.end();
    m.log.finish().unwrap();
    let mut header = run.header().unwrap();
    header.outcome = "completed".into();
    header.grade = Some("B".into());
    header.wall_s = 61.5;
    run.write_header(&header).unwrap();
    run
}
