//! A synthetic run for tests of tables and reports: 6 hosts, 30 VMs, a balancer that moves 15 of
//! them in warp pace. Everything in it is arithmetic of the indices: the same bytes every time.

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
        network: NetworkSpec {
            backend: Some(BackendKind::Relay),
            topology: Topology::star(
                (0..e.hosts.max(2)).map(|h| (format!("h{}", h + 1), Cable::default())),
            )
            .unwrap(),
            internet: None,
            schedule: Schedule::default(),
            congestion: "cubic".into(),
            send_buffer: None,
        },
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

struct Maker {
    e: Example,
    log: EventLog,
    mono: u64,
    trace: u64,
    places: Vec<u32>,
    made: u32,
    wire: u64,
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

impl Maker {
    fn put(&mut self, kind: EventKind) {
        self.mono += 1000;
        let event = Event {
            mono_ns: self.mono,
            trace_ns: self.trace,
            kind,
        };
        self.log.append(&event).unwrap();
    }

    fn begin(&mut self) {
        self.put(EventKind::RunStarted {
            schema: SCHEMA,
            version: "0.1.0".into(),
            started_unix_s: 1_790_000_000,
            tag: "measured".into(),
        });
        for link in self.links() {
            let up = link.starts_with('h');
            self.put(EventKind::LinkCalibrated(LinkCalibration {
                link,
                asked_rate_bps: Some(1_000_000_000),
                got_rate_bps: if up { 998_700_000.0 } else { 999_400_000.0 },
                asked_delay_us: 100.0,
                rate_error: Some(if up { -0.0013 } else { -0.0006 }),
                window_errors: [Some(0.004), Some(0.002), None],
                got_delay_us: Some(if up { 131.0 } else { 118.5 }),
                queue_bytes: 512 << 10,
                ok: true,
                ..LinkCalibration::default()
            }));
        }
        for vm in 0..self.e.vms {
            let host = HostId(self.places[vm as usize]);
            self.put(EventKind::Placed { vm: VmId(vm), host });
        }
    }

    fn links(&self) -> Vec<String> {
        (1..=self.e.hosts.min(40))
            .flat_map(|h| [format!("h{h}>switch"), format!("switch>h{h}")])
            .collect()
    }

    fn tick(&mut self, tick: u32) {
        self.put(EventKind::Segment {
            number: u64::from(tick) * 2 + 1,
            span: SpanKind::Hold,
        });
        self.put(EventKind::Tick {
            tick: u64::from(tick),
            took_ns: 2 * MS,
            moves: 1,
        });
        let wanted = if tick < 2 {
            0
        } else {
            self.e.migrations.div_ceil(self.e.ticks - 2)
        };
        let count = wanted.min(self.e.migrations - self.made);
        if count > 0 {
            self.mono += 2 * S;
        }
        let begin = self.mono;
        self.put(EventKind::Segment {
            number: u64::from(tick) * 2 + 2,
            span: SpanKind::Run,
        });
        for n in 0..count {
            self.migrate(begin, n);
        }
        let end = u64::from(tick + 1) * TICK_NS;
        let from = self.trace;
        self.trace = self.trace.max(end);
        self.put(EventKind::Jumped {
            from_trace_ns: from,
        });
        self.samples(TICK_NS);
        if tick == 4 {
            self.put(EventKind::MoveRejected {
                vm: VmId(1),
                destination: HostId(0),
                reason: "no RAM at the destination".into(),
            });
        }
    }

    /// Samples of the span that ends now, in steps of 10 s.
    fn samples(&mut self, span: u64) {
        let end = self.trace;
        for step in (0..span / (10 * S)).rev() {
            self.trace = end - step * 10 * S;
            let t_s = self.trace / S;
            let demands: Vec<u64> = (0..self.e.vms)
                .map(|v| demand_milli(v, t_s) * 10 * MS)
                .collect();
            for h in 0..self.e.hosts {
                let on: Vec<usize> = (0..self.places.len())
                    .filter(|v| self.places[*v] == h)
                    .collect();
                let demand: u64 = on.iter().map(|v| demands[*v]).sum();
                let capacity = u64::from(CORES) * 10 * S;
                let granted = demand.min(capacity);
                self.put(EventKind::HostSample(HostSample {
                    host: HostId(h),
                    span_ns: 10 * S,
                    demand_core_ns: demand,
                    granted_core_ns: granted,
                    pressure_some_ns: if demand > capacity { 10 * S } else { 0 },
                    ram_used_bytes: on.len() as u64 * (512 << 20),
                    vms: u32::try_from(on.len()).unwrap(),
                }));
                for v in on {
                    self.put(EventKind::VmSample(VmSample {
                        vm: VmId(u32::try_from(v).unwrap()),
                        host: HostId(h),
                        span_ns: 10 * S,
                        demand_core_ns: demands[v],
                        granted_core_ns: demands[v]
                            .min(demands[v] / 1000 * (granted * 1000 / demand.max(1))),
                        lost_core_ns: 0,
                        paused_ns: 0,
                        guest_cpu_ns: self.trace,
                    }));
                }
            }
        }
    }

    /// From the fullest host to the emptiest; the fifth fails.
    fn migrate(&mut self, begin: u64, n: u32) {
        let count = |h: u32| self.places.iter().filter(|p| **p == h).count();
        let source = (0..self.e.hosts).max_by_key(|h| count(*h)).unwrap();
        let destination = (0..self.e.hosts).min_by_key(|h| count(*h)).unwrap();
        let v = (0..self.places.len())
            .filter(|v| self.places[*v] == source)
            .nth(self.made as usize % 3)
            .unwrap_or(0);
        self.made += 1;
        let id = self.made;
        let (vm, source, destination) = (
            VmId(u32::try_from(v).unwrap()),
            HostId(source),
            HostId(destination),
        );
        let reason = format!("gap of load {:.2} > 0.10", 0.2 + f64::from(id) / 100.0);
        self.mono = begin + u64::from(n) * 20 * MS;
        let migration = MigrationId(id);
        self.put(EventKind::MigrationRequested {
            migration,
            vm,
            source,
            destination,
            reason: reason.clone(),
        });
        let names = header(self.e);
        let record = record(Facts {
            id,
            vm: names.vm_name(vm),
            source: names.host_name(source),
            destination: names.host_name(destination),
            reason,
            begin: self.mono,
            trace: self.trace,
            failed: id == 5,
        });
        let end = record.source_report.as_ref().unwrap().end_ns;
        self.wire += sent(&record);
        self.trace += end - self.mono;
        self.mono = end;
        self.put(EventKind::MigrationEnded(Box::new(record)));
        if id != 5 {
            self.places[v] = destination.0;
            self.put(EventKind::Placed {
                vm,
                host: destination,
            });
        }
    }

    fn end(&mut self) {
        let wire = self.wire / u64::from(self.e.hosts.min(40));
        for (n, link) in self.links().into_iter().enumerate() {
            self.put(EventKind::LinkSample(LinkSample {
                link,
                segments_in: wire / 1500,
                wire_bytes_in: wire,
                wire_bytes_out: wire.saturating_sub(3000 * (n as u64 % 2)),
                dropped_bytes: 3000 * (n as u64 % 2),
                dropped_segments: 2 * (n as u64 % 2),
                queued_bytes: 0,
                queue_bytes_max: 480 << 10,
                late_us_mean: 11.0,
                late_us_p99: 63.0,
                late_us_max: 240.0,
                ..LinkSample::default()
            }));
        }
        self.put(EventKind::FlowClosed {
            flow: FlowId(0),
            received_bytes: 1 << 30,
            open_ns: 9 * S,
        });
        let since_ns = 1_000 * S;
        self.put(EventKind::Requests {
            service: ServiceId(0),
            since_ns,
            answered: (0..100).map(|n| (n * 1_000_000, 500 + 10 * n)).collect(),
            cut: vec![100_000_000],
            connections: 1,
        });
        self.put(EventKind::Warning {
            message: "timer lateness <p99> over 50 µs & more".into(),
        });
        self.put(EventKind::Baseline {
            tag: "modelled".into(),
            metrics: BTreeMap::from([
                ("steal_core_s".to_owned(), 2180.0),
                ("imbalance_gap".to_owned(), 0.62),
                ("overload_time_fraction".to_owned(), 0.31),
            ]),
        });
        self.put(EventKind::Audit {
            grade: "B".into(),
            reasons: vec!["h3>switch: rate residual 1.4 % at 10 ms".into()],
        });
        self.put(EventKind::RunEnded {
            outcome: "completed".into(),
        });
    }
}

fn sent(record: &MigrationRecord) -> u64 {
    record.source_report.as_ref().map_or(0, |s| s.bytes.total())
}

struct Facts {
    id: u32,
    vm: String,
    source: String,
    destination: String,
    reason: String,
    begin: u64,
    trace: u64,
    failed: bool,
}

fn record(f: Facts) -> MigrationRecord {
    let id = u64::from(f.id);
    let (rounds, at) = rounds(id, f.begin + 12 * MS, f.failed);
    let stop = (!f.failed).then(|| rounds[3].begin_ns);
    let resumed = stop.map(|_| at + 9 * MS);
    let end = resumed.unwrap_or(at) + MS;
    let total = (end - f.begin) / MS;
    let outage = stop.zip(resumed).map(|(s, r)| (r - s) as f64 / 1e6);
    let normal = rounds.iter().map(|r| r.sent_bytes).sum();
    let query_migrate = serde_json::json!({
        "status": if f.failed { "failed" } else { "completed" },
        "total-time": total, "setup-time": 12, "downtime": outage.map(|o| o - 6.0),
    });
    MigrationRecord {
        faults: Vec::new(),
        deeds: Vec::new(),
        schema: 2,
        id: f.id,
        vm: f.vm,
        source: f.source,
        destination: f.destination,
        reason: f.reason,
        kind: "PreCopy".into(),
        params: MigrationParams::default(),
        status: if f.failed {
            Status::Failed
        } else {
            Status::Completed
        },
        owner: if f.failed {
            Owner::Source
        } else {
            Owner::Destination
        },
        error: f
            .failed
            .then(|| "connection reset in round 1 <by peer>".into()),
        ram_bytes: 512 << 20,
        requested_trace_s: f.trace as f64 / 1e9,
        requested_ns: f.begin,
        request_to_release_ms: total as f64 + 14.0,
        query_migrate,
        engine_statistics: serde_json::Value::Null,
        observed_outage_ms: outage,
        network_downtime_ms: outage.map(|ms| ms + 1.0),
        probes: Vec::new(),
        rounds: u32::try_from(rounds.len()).unwrap(),
        verified: !f.failed,
        grade: if id % 6 == 0 { "B" } else { "A" }.into(),
        grade_reasons: Vec::new(),
        error_budget: (!f.failed).then(budget),
        predictions: predictions(f.id, total, normal),
        source_report: Some(source_report(&f.begin, end, stop, rounds, normal, f.failed)),
        destination_report: Some(DestinationReport {
            resumed_ns: resumed,
            loaded_ns: resumed,
            error: None,
            received_bytes: normal,
            bad_on_receipt: 0,
            torn_on_receipt: 0,
            postcopy: None,
            verification: None,
            cpu_ns: 1,
            run_queue_ns: 1,
        }),
    }
}

fn budget() -> ErrorBudget {
    let rate = |window_ms, p95| RateError {
        window_ms,
        link: "h1-up".into(),
        windows: 150,
        median: 0.0,
        p95,
        worst: 0.012,
    };
    ErrorBudget {
        rate: vec![rate(10, 0.004), rate(100, 0.002)],
        delay_error_us: Some(41.0),
        late_us_mean: 12.0,
        late_us_p99: 60.0,
        late_us_max: 400.0,
        run_delay_share: Some(0.002),
        emulator_limited_share: 0.003,
        path_idle_share: Some(0.02),
        path_idle_window_share: Some(0.015),
        path_idle_emulator_share: Some(0.005),
        steal_share: Some(0.0),
        samples: 180,
    }
}

fn rounds(id: u64, mut at: u64, failed: bool) -> (Vec<Round>, u64) {
    let lengths = [1400 + 60 * id, 500 + 30 * id, 190, 90 + 7 * id];
    let round = |n: usize| {
        let begin_ns = at;
        at += lengths[n] * MS;
        Round {
            number: u32::try_from(n).unwrap(),
            begin_ns,
            end_ns: at,
            dirty_pages: lengths[n] * 28,
            new_dirty_pages: lengths[n] * 20,
            normal_pages: lengths[n] * 27,
            zero_pages: lengths[n],
            xbzrle_pages: 0,
            sent_bytes: lengths[n] * 112_000,
            paused: n == 3,
        }
    };
    let rounds = (0..if failed { 2 } else { lengths.len() })
        .map(round)
        .collect();
    (rounds, at)
}

fn predictions(id: u32, total: u64, normal: u64) -> Vec<Prediction> {
    let prediction = |model: &str, bias: f64| Prediction {
        model: model.into(),
        total_time_ms: total as f64 * (1.0 + bias),
        downtime_ms: None,
        bytes: normal as f64,
        total_time_error: Some(bias),
        downtime_error: (model == "qemu").then_some(bias * 2.0),
        bytes_error: Some(bias / 3.0),
    };
    vec![
        prediction("ram-over-bandwidth", -0.4 + f64::from(id) / 100.0),
        prediction("qemu", 0.004 * f64::from(id) - 0.02),
    ]
}

fn source_report(
    begin: &u64,
    end: u64,
    stop: Option<u64>,
    rounds: Vec<Round>,
    normal: u64,
    failed: bool,
) -> SourceReport {
    SourceReport {
        status: if failed {
            Status::Failed
        } else {
            Status::Completed
        },
        error: None,
        begin_ns: *begin,
        setup_end_ns: begin + 12 * MS,
        stop_ns: stop,
        suspended_ns: None,
        parameters: Vec::new(),
        end_ns: end,
        phases: Vec::new(),
        rounds,
        decisions: Vec::new(),
        throttles: Vec::new(),
        bytes: BytesByKind {
            normal,
            header: 900,
            control: 100,
            device: 64 << 10,
            delta: 0,
        },
        multifd_bytes: 0,
        xbzrle: None,
        precopy_bytes: normal - 1_000_000,
        downtime_bytes: 1_000_000,
        dirty_sync_count: 4,
        dirty_pages_rate: 2000,
        pages_per_second: 28_000,
        tcp: vec![TcpSample::default(); 3],
        cpu_ns: 1,
        run_queue_ns: 1,
        writers: None,
        postcopy: None,
    }
}
