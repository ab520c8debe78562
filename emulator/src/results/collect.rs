//! One pass over the events of a run, in bounded memory: what the summary and the report need.
//!
//! Loads of hosts are kept in at most [`BINS`] equal parts of the run, whatever its length.

use super::metrics::Usage;
use super::run_json::RunHeader;
use super::services::Requests;
use super::{ResultsError, RunDir};
use crate::event::log::read_events;
use crate::event::{Event, EventKind, HostSample, LinkCalibration, LinkSample, SpanKind};
use crate::ids::{FlowId, HostId, MigrationId, ServiceId, VmId};
use crate::migration::record::MigrationRecord;
use crate::scenario::HostSpec;
use netmodel::link::LinkSpec;
use std::collections::BTreeMap;

/// Parts a run's trace time is cut into for pictures: one part is two pixels of a wide one.
pub const BINS: usize = 480;
/// Warnings and refusals kept by text; the rest is counted.
pub const TEXTS_MAX: usize = 200;

/// Changes of links kept for pictures, the first ones; all are counted.
pub const CHANGES_MAX: usize = 1000;

/// What a pass over the events found.
#[derive(Debug, Clone)]
pub struct Collected {
    /// `measured` or `modelled`, of the first event.
    pub tag: String,
    /// First event, monotonic ns.
    pub begin_mono_ns: u64,
    /// Last event, monotonic ns.
    pub end_mono_ns: u64,
    /// Trace time reached, ns.
    pub end_trace_ns: u64,
    /// How trace time moved, in order.
    pub spans: Vec<Span>,
    /// Loads of hosts by part of the run.
    pub bins: Bins,
    /// Integrals over the whole run.
    pub usage: Usage,
    /// Links by name: as calibrated, and their last counters.
    pub links: BTreeMap<String, LinkOutcome>,
    /// Changes of links that the schedule asked for.
    pub changes: Changes,
    /// Migrations that ended, in the order they did.
    pub migrations: Vec<Ended>,
    /// Migrations asked for that never ended: under way or queued when the run stopped.
    pub unended: BTreeMap<MigrationId, Requested>,
    /// Moves refused: all of them counted.
    pub rejected: u64,
    /// … and why, each reason with its count.
    pub rejections: BTreeMap<String, u64>,
    /// Decisions: wall ns each took.
    pub ticks_ns: Vec<u64>,
    /// Tenant flows: payload received and ns open, summed.
    pub flows: BTreeMap<FlowId, (u64, u64)>,
    /// Requests of services: 16 bytes each.
    pub requests: BTreeMap<ServiceId, Requests>,
    /// Warnings in order, the first [`TEXTS_MAX`].
    pub warnings: Vec<String>,
    /// All warnings.
    pub warnings_total: u64,
    /// Hosts whose process went.
    pub lost_hosts: Vec<HostId>,
    /// Values under `none`.
    pub baseline: Option<BTreeMap<String, f64>>,
    /// Grade and reasons of the audit.
    pub audit: Option<(String, Vec<String>)>,
    /// Outcome of the last event; `None` if the run never got there.
    pub outcome: Option<String>,
    /// The log's tail is missing.
    pub cut: bool,
}

/// A stretch of trace time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Run, hold or jump.
    pub kind: Move,
    /// Monotonic ns.
    pub mono_ns: (u64, u64),
    /// Trace ns.
    pub trace_ns: (u64, u64),
}

/// How trace time moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Move {
    /// With the clock.
    Ran,
    /// Not at all.
    Held,
    /// At once.
    Skipped,
}

/// A migration that ended, without its TCP samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// When its record was written, monotonic ns.
    pub mono_ns: u64,
    /// The same, trace ns.
    pub trace_ns: u64,
    /// The record.
    pub record: MigrationRecord,
}

/// A link that was changed in place.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// Monotonic ns.
    pub mono_ns: u64,
    /// Trace ns.
    pub trace_ns: u64,
    /// By name.
    pub link: String,
    /// What it was from then on.
    pub spec: LinkSpec,
    /// How much later than its instant it was done, µs.
    pub late_us: f64,
}

/// Changes of links over a run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    /// The first [`CHANGES_MAX`], in order.
    pub first: Vec<Changed>,
    /// All of them.
    pub total: u64,
    /// The largest lateness, µs.
    pub late_us_max: f64,
}

impl Changes {
    fn add(&mut self, changed: Changed) {
        self.total += 1;
        self.late_us_max = self.late_us_max.max(changed.late_us);
        if self.first.len() < CHANGES_MAX {
            self.first.push(changed);
        }
    }
}

/// A migration asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requested {
    /// Trace ns.
    pub trace_ns: u64,
    /// VM.
    pub vm: VmId,
    /// From.
    pub source: HostId,
    /// To.
    pub destination: HostId,
}

/// A link direction at the end of the run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LinkOutcome {
    /// Before the run.
    pub calibration: Option<LinkCalibration>,
    /// Its last counters.
    pub last: Option<LinkSample>,
}

/// Loads by part of the run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bins {
    /// Trace ns a part.
    pub width_ns: u64,
    /// By host, by part.
    pub hosts: Vec<Vec<Bin>>,
}

/// A host in a part of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bin {
    /// Trace ns sampled.
    pub span_ns: u64,
    /// Core-ns asked for.
    pub demand: u64,
    /// Core-ns granted.
    pub granted: u64,
}

impl Bins {
    fn new(duration_ns: u64, hosts: usize) -> Self {
        let bins = BINS as u64;
        Self {
            width_ns: duration_ns.div_ceil(bins).max(1),
            hosts: vec![Vec::new(); hosts],
        }
    }

    /// Spreads a sample over the parts its span touches, evenly and without losing a ns.
    fn add(&mut self, trace_ns: u64, s: &HostSample) {
        let Some(host) = self.hosts.get_mut(s.host.index()) else {
            return;
        };
        let begin = trace_ns.saturating_sub(s.span_ns);
        let mut at = begin;
        while at < trace_ns {
            let part = usize::try_from(at / self.width_ns).unwrap_or(BINS);
            // A run may overshoot its end by a migration; what is far beyond is no picture.
            if part > 2 * BINS {
                return;
            }
            let end = trace_ns.min((at / self.width_ns + 1) * self.width_ns);
            if host.len() <= part {
                host.resize(part + 1, Bin::default());
            }
            let share = |total: u64| {
                let upto =
                    |t: u64| u128::from(total) * u128::from(t - begin) / u128::from(s.span_ns);
                u64::try_from(upto(end) - upto(at)).expect("a share is at most the whole")
            };
            let bin = &mut host[part];
            bin.span_ns += end - at;
            bin.demand += share(s.demand_core_ns);
            bin.granted += share(s.granted_core_ns);
            at = end;
        }
    }
}

/// Reads the events of a run once; `each` sees every event first.
///
/// # Errors
/// When the log is missing or damaged elsewhere than at its tail, or when `each` fails.
pub fn collect(
    run: &RunDir,
    header: &RunHeader,
    mut each: impl FnMut(&Event) -> Result<(), ResultsError>,
) -> Result<Collected, ResultsError> {
    let mut reader = read_events(run.path())?;
    let scenario = &header.scenario;
    let hosts = scenario.hosts.iter();
    let capacity: Vec<u64> = hosts.map(HostSpec::capacity_milli).collect();
    let mut all = Collected::new(
        Usage::new(&capacity, scenario.vms.len()),
        Bins::new(scenario.duration_ns, scenario.hosts.len()),
    );
    let mut first = true;
    for event in reader.by_ref() {
        let event = event?;
        if first {
            all.begin_mono_ns = event.mono_ns;
            all.end_mono_ns = event.mono_ns;
            first = false;
        }
        each(&event)?;
        all.add(event);
    }
    all.cut = reader.cut();
    if let Some(last) = all.spans.last_mut() {
        close(last, all.end_mono_ns, all.end_trace_ns);
    }
    Ok(all)
}

impl Collected {
    fn new(usage: Usage, bins: Bins) -> Self {
        Self {
            tag: String::new(),
            begin_mono_ns: 0,
            end_mono_ns: 0,
            end_trace_ns: 0,
            spans: Vec::new(),
            bins,
            usage,
            links: BTreeMap::new(),
            changes: Changes::default(),
            migrations: Vec::new(),
            unended: BTreeMap::new(),
            rejected: 0,
            rejections: BTreeMap::new(),
            ticks_ns: Vec::new(),
            flows: BTreeMap::new(),
            requests: BTreeMap::new(),
            warnings: Vec::new(),
            warnings_total: 0,
            lost_hosts: Vec::new(),
            baseline: None,
            audit: None,
            outcome: None,
            cut: false,
        }
    }

    fn requests(&mut self, kind: EventKind) {
        if let EventKind::Requests {
            service,
            since_ns,
            answered,
            cut,
            connections,
        } = kind
        {
            let due_ns = |us: u64| since_ns.saturating_add(us.saturating_mul(1000));
            let of = self.requests.entry(service).or_default();
            let answered = answered.into_iter().map(|(us, took)| (due_ns(us), took));
            of.answered.extend(answered);
            of.cut.extend(cut.into_iter().map(due_ns));
            of.connections += u64::from(connections);
        }
    }

    fn add(&mut self, event: Event) {
        let Event {
            mono_ns,
            trace_ns,
            kind,
        } = event;
        self.end_mono_ns = self.end_mono_ns.max(mono_ns);
        self.end_trace_ns = self.end_trace_ns.max(trace_ns);
        match kind {
            EventKind::RunStarted { tag, .. } => self.tag = tag,
            EventKind::Segment { span, .. } => self.segment(mono_ns, trace_ns, span),
            EventKind::Jumped { from_trace_ns } => self.jump(mono_ns, from_trace_ns, trace_ns),
            EventKind::LinkCalibrated(_)
            | EventKind::LinkSample(_)
            | EventKind::LinkChanged { .. } => self.link(mono_ns, trace_ns, kind),
            EventKind::HostSample(s) => {
                self.bins.add(trace_ns, &s);
                self.usage.add_host(trace_ns, &s);
            }
            EventKind::VmSample(s) => self.usage.add_vm(&s),
            EventKind::Tick { took_ns, .. } => self.ticks_ns.push(took_ns),
            EventKind::MigrationRequested {
                migration,
                vm,
                source,
                destination,
                ..
            } => {
                let asked = Requested {
                    trace_ns,
                    vm,
                    source,
                    destination,
                };
                self.unended.insert(migration, asked);
            }
            EventKind::MoveRejected { reason, .. } => self.reject(reason),
            EventKind::MigrationEnded(record) => self.ended(mono_ns, trace_ns, *record),
            EventKind::FlowClosed {
                flow,
                received_bytes,
                open_ns,
            } => {
                let sum = self.flows.entry(flow).or_default();
                sum.0 += received_bytes;
                sum.1 += open_ns;
            }
            EventKind::Requests { .. } => self.requests(kind),
            EventKind::Warning { message } => {
                self.warnings_total += 1;
                if self.warnings.len() < TEXTS_MAX {
                    self.warnings.push(message);
                }
            }
            EventKind::HostLost { host } => self.lost_hosts.push(host),
            EventKind::Baseline { metrics, .. } => self.baseline = Some(metrics),
            EventKind::Audit { grade, reasons } => self.audit = Some((grade, reasons)),
            EventKind::RunEnded { outcome } => self.outcome = Some(outcome),
            EventKind::Placed { .. }
            | EventKind::MigrationPhase { .. }
            | EventKind::GuestRuns { .. }
            | EventKind::FaultStruck { .. }
            | EventKind::ControllerCrashed
            | EventKind::ControllerRecovered { .. }
            | EventKind::FlowOpened { .. }
            | EventKind::FlowMoved { .. } => {}
        }
    }

    fn link(&mut self, mono_ns: u64, trace_ns: u64, kind: EventKind) {
        match kind {
            EventKind::LinkCalibrated(c) => {
                let link = self.links.entry(c.link.clone()).or_default();
                link.calibration = Some(c);
            }
            EventKind::LinkSample(s) => {
                let link = self.links.entry(s.link.clone()).or_default();
                link.last = Some(s);
            }
            EventKind::LinkChanged {
                link,
                spec,
                late_us,
            } => self.changes.add(Changed {
                mono_ns,
                trace_ns,
                link,
                spec,
                late_us,
            }),
            _ => {}
        }
    }

    fn segment(&mut self, mono_ns: u64, trace_ns: u64, span: SpanKind) {
        let kind = match span {
            SpanKind::Run => Move::Ran,
            SpanKind::Hold => Move::Held,
        };
        if let Some(last) = self.spans.last_mut() {
            close(last, mono_ns, trace_ns);
        }
        let span = Span {
            kind,
            mono_ns: (mono_ns, mono_ns),
            trace_ns: (trace_ns, trace_ns),
        };
        self.spans.push(span);
    }

    fn jump(&mut self, mono_ns: u64, from: u64, to: u64) {
        if let Some(last) = self.spans.last_mut() {
            close(last, mono_ns, from);
        }
        let span = Span {
            kind: Move::Skipped,
            mono_ns: (mono_ns, mono_ns),
            trace_ns: (from, to),
        };
        self.spans.push(span);
    }

    fn reject(&mut self, reason: String) {
        self.rejected += 1;
        if self.rejections.len() < TEXTS_MAX || self.rejections.contains_key(&reason) {
            *self.rejections.entry(reason).or_default() += 1;
        }
    }

    fn ended(&mut self, mono_ns: u64, trace_ns: u64, mut record: MigrationRecord) {
        self.unended.remove(&MigrationId(record.id));
        if let Some(source) = &mut record.source_report {
            source.tcp = Vec::new();
        }
        self.migrations.push(Ended {
            mono_ns,
            trace_ns,
            record,
        });
    }
}

/// A run's or hold's end is where the next span begins; a jump took its trace time already.
fn close(span: &mut Span, mono_ns: u64, trace_ns: u64) {
    span.mono_ns.1 = mono_ns;
    match span.kind {
        Move::Ran => span.trace_ns.1 = trace_ns,
        Move::Held | Move::Skipped => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreading_a_sample_keeps_every_core_ns() {
        let mut bins = Bins::new(480_000, 1);
        let sample = HostSample {
            host: HostId(0),
            span_ns: 12_345,
            demand_core_ns: 99_991,
            granted_core_ns: 7,
            pressure_some_ns: 0,
            ram_used_bytes: 0,
            vms: 1,
        };
        bins.add(20_000, &sample);
        let total = bins.hosts[0].iter().fold(Bin::default(), |a, b| Bin {
            span_ns: a.span_ns + b.span_ns,
            demand: a.demand + b.demand,
            granted: a.granted + b.granted,
        });
        assert_eq!(
            total,
            Bin {
                span_ns: 12_345,
                demand: 99_991,
                granted: 7
            }
        );
        assert_eq!(bins.hosts[0].iter().filter(|b| b.span_ns > 0).count(), 13);
    }
}
