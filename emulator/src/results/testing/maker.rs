//! Writes the events of the example, tick by tick.

use super::records::{Facts, record};
use super::*;

pub(super) struct Maker {
    pub(super) e: Example,
    pub(super) log: EventLog,
    pub(super) mono: u64,
    pub(super) trace: u64,
    pub(super) places: Vec<u32>,
    pub(super) made: u32,
    pub(super) wire: u64,
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

    pub(super) fn begin(&mut self) {
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

    pub(super) fn tick(&mut self, tick: u32) {
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

    pub(super) fn end(&mut self) {
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
