//! The five Parquet tables and `migrations.jsonl`, written while the events pass by.

use super::columns::{HOSTS, LINKS, MIGRATIONS, SERVICES, VMS};
use super::run_json::RunHeader;
use super::services::{Latency, ServiceRow};
use super::table::{TableWriter, Value};
use super::{ResultsError, RunDir, io_error, temporary};
use crate::event::{Event, EventKind, HostSample, LinkCalibration, LinkSample, VmSample};
use crate::migration::record::{
    ErrorBudget, MigrationRecord, Owner, PostcopyDestination, PostcopySource, Status,
};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// Writers of every table; all take their names in [`Tables::finish`].
pub(super) struct Tables<'a> {
    header: &'a RunHeader,
    hosts: TableWriter,
    vms: TableWriter,
    links: TableWriter,
    migrations: TableWriter,
    services: TableWriter,
    jsonl: BufWriter<File>,
    jsonl_path: PathBuf,
    calibrated: BTreeMap<String, LinkCalibration>,
}

impl<'a> Tables<'a> {
    pub(super) fn create(run: &RunDir, header: &'a RunHeader) -> Result<Self, ResultsError> {
        let jsonl_path = run.file("migrations.jsonl");
        let part = temporary(&jsonl_path);
        let jsonl = File::create(&part).map_err(io_error(&part))?;
        let table = |name, columns| TableWriter::create(&run.file(name), columns, &header.tag);
        Ok(Self {
            header,
            hosts: table("hosts.parquet", HOSTS)?,
            vms: table("vms.parquet", VMS)?,
            links: table("links.parquet", LINKS)?,
            migrations: table("migrations.parquet", MIGRATIONS)?,
            services: table("services.parquet", SERVICES)?,
            jsonl: BufWriter::new(jsonl),
            jsonl_path,
            calibrated: BTreeMap::new(),
        })
    }

    pub(super) fn event(&mut self, event: &Event) -> Result<(), ResultsError> {
        let at = [seconds(event.trace_ns).into(), event.mono_ns.into()];
        match &event.kind {
            EventKind::HostSample(s) => self.hosts.row(host_row(at, s, self.header)),
            EventKind::VmSample(s) => self.vms.row(vm_row(at, s, self.header)),
            EventKind::LinkSample(s) => {
                self.links
                    .row(link_row(at, s, self.calibrated.get(&s.link)))
            }
            EventKind::LinkCalibrated(c) => {
                self.calibrated.insert(c.link.clone(), c.clone());
                Ok(())
            }
            EventKind::MigrationEnded(record) => {
                self.migrations
                    .row(migration_row(at, record, self.header.k))?;
                serde_json::to_writer(&mut self.jsonl, record)
                    .map_err(std::io::Error::from)
                    .and_then(|()| self.jsonl.write_all(b"\n"))
                    .map_err(io_error(&self.jsonl_path))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn finish(self, rows: &[ServiceRow]) -> Result<(), ResultsError> {
        let Self {
            hosts,
            vms,
            links,
            migrations,
            mut services,
            mut jsonl,
            jsonl_path,
            ..
        } = self;
        for row in rows {
            services.row(service_row(row))?;
        }
        for table in [hosts, vms, links, migrations, services] {
            table.finish()?;
        }
        jsonl.flush().map_err(io_error(&jsonl_path))?;
        fs::rename(temporary(&jsonl_path), &jsonl_path).map_err(io_error(&jsonl_path))
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn host_row(at: [Value; 2], s: &HostSample, header: &RunHeader) -> Vec<Value> {
    let host = header.scenario.hosts.get(s.host.index());
    let (cores, speed_milli) = host.map_or((0, 0), |h| (h.cores, h.speed_milli));
    let speed = f64::from(speed_milli) / 1000.0;
    let capacity = f64::from(cores) * speed * s.span_ns as f64;
    let mut row = Vec::from(at);
    row.extend([
        header.host_name(s.host).as_str().into(),
        seconds(s.span_ns).into(),
        cores.into(),
        speed.into(),
        seconds(s.demand_core_ns).into(),
        seconds(s.granted_core_ns).into(),
        seconds(s.demand_core_ns.saturating_sub(s.granted_core_ns)).into(),
        (capacity > 0.0)
            .then(|| s.granted_core_ns as f64 / capacity)
            .into(),
        seconds(s.pressure_some_ns).into(),
        s.ram_used_bytes.into(),
        s.vms.into(),
    ]);
    row
}

fn vm_row(at: [Value; 2], s: &VmSample, header: &RunHeader) -> Vec<Value> {
    let mut row = Vec::from(at);
    row.extend([
        header.vm_name(s.vm).as_str().into(),
        header.host_name(s.host).as_str().into(),
        seconds(s.span_ns).into(),
        seconds(s.demand_core_ns).into(),
        seconds(s.granted_core_ns).into(),
        seconds(s.demand_core_ns.saturating_sub(s.granted_core_ns)).into(),
        seconds(s.lost_core_ns).into(),
        seconds(s.paused_ns).into(),
        seconds(s.guest_cpu_ns).into(),
    ]);
    row
}

fn link_row(at: [Value; 2], s: &LinkSample, asked: Option<&LinkCalibration>) -> Vec<Value> {
    let mut row = Vec::from(at);
    row.extend([
        s.link.as_str().into(),
        s.segments_in.into(),
        s.wire_bytes_in.into(),
        s.wire_bytes_out.into(),
        s.dropped_bytes.into(),
        s.dropped_segments.into(),
        s.lost_bytes.into(),
        s.lost_segments.into(),
        s.marked_packets.into(),
        s.queued_bytes.into(),
        s.queue_bytes_max.into(),
        s.late_us_mean.into(),
        s.late_us_p99.into(),
        s.late_us_max.into(),
        asked
            .and_then(|c| c.asked_rate_bps)
            .map(|r| r as f64)
            .into(),
        asked.map(|c| c.got_rate_bps).into(),
        asked.map(|c| c.asked_delay_us).into(),
        asked.and_then(|c| c.got_delay_us).into(),
    ]);
    row
}

fn migration_row(at: [Value; 2], r: &MigrationRecord, k: u32) -> Vec<Value> {
    let [ended_t_s, ended_mono_ns] = at;
    let source = r.source_report.as_ref();
    let pages = |f: fn(&crate::migration::record::Round) -> u64| {
        source.map_or(0, |s| s.rounds.iter().map(f).sum::<u64>())
    };
    let sent = sent_bytes(r);
    let mut row = vec![
        r.id.into(),
        r.requested_trace_s.into(),
        r.requested_ns.into(),
        ended_t_s,
        ended_mono_ns,
        r.vm.as_str().into(),
        r.source.as_str().into(),
        r.destination.as_str().into(),
        r.reason.as_str().into(),
        r.kind.as_str().into(),
        status_name(r.status).into(),
        owner_name(r.owner).into(),
        r.error.as_deref().unwrap_or("").into(),
        r.ram_bytes.into(),
        total_time_ms(r).into(),
        qmp(r, "setup-time").into(),
        downtime_ms(r).into(),
        r.observed_outage_ms.into(),
        r.network_downtime_ms.into(),
        r.request_to_release_ms.into(),
        r.rounds.into(),
        sent.into(),
        (sent as f64 * f64::from(k)).into(),
        source.map_or(0, |s| s.precopy_bytes).into(),
        source.map_or(0, |s| s.downtime_bytes).into(),
        pages(|r| r.normal_pages).into(),
        pages(|r| r.zero_pages).into(),
        sent_rate_bps(r).into(),
        r.verified.into(),
        r.grade.as_str().into(),
        r.grade_reasons.join("; ").as_str().into(),
    ];
    row.extend(budget_row(r.error_budget.as_ref()));
    row.extend(postcopy_row(r));
    row
}

/// Pages that were asked for because the guest touched them: where all are asked for only the destination knows.
fn touched(served: &PostcopySource, pulled: Option<&PostcopyDestination>) -> u64 {
    let pulled = pulled.filter(|pulled| pulled.prefaulted_pages.is_some());
    pulled.map_or(served.requests, |pulled| pulled.requests)
}

fn postcopy_row(r: &MigrationRecord) -> [Value; 4] {
    let served = r.source_report.as_ref().and_then(|s| s.postcopy.as_ref());
    let pulled = r.destination_report.as_ref();
    let pulled = pulled.and_then(|d| d.postcopy.as_ref());
    let mean_us = |p: &PostcopyDestination| {
        (p.requests > 0).then(|| p.latency_ns_sum as f64 / p.requests as f64 / 1e3)
    };
    [
        served.map(|s| s.postcopy_bytes as f64).into(),
        served.map(|s| touched(s, pulled) as f64).into(),
        pulled.and_then(mean_us).into(),
        pulled.map(|p| p.blocktime_ns as f64 / 1e6).into(),
    ]
}

fn budget_row(budget: Option<&ErrorBudget>) -> [Value; 11] {
    let rate = |window_ms: u64| {
        let errors = budget?.rate.iter().find(|rate| rate.window_ms == window_ms);
        Some(errors?.p95)
    };
    let of = |figure: fn(&ErrorBudget) -> Option<f64>| budget.and_then(figure).into();
    [
        rate(10).into(),
        rate(100).into(),
        rate(1000).into(),
        of(|b| b.delay_error_us),
        of(|b| Some(b.late_us_mean)),
        of(|b| Some(b.late_us_p99)),
        of(|b| b.run_delay_share),
        of(|b| Some(b.emulator_limited_share)),
        of(|b| b.path_idle_share),
        of(|b| b.path_idle_emulator_share),
        of(|b| b.steal_share),
    ]
}

fn service_row(r: &ServiceRow) -> Vec<Value> {
    let ms = |figure: fn(&Latency) -> f64| r.latency.as_ref().map(figure).into();
    vec![
        r.service.as_str().into(),
        r.server.as_str().into(),
        r.client.as_str().into(),
        r.window.as_str().into(),
        r.migration.unwrap_or(0).into(),
        r.from_mono_ns.into(),
        r.span_s.into(),
        r.answered.into(),
        r.cut.into(),
        r.connections.map(|n| n as f64).into(),
        ms(|l| l.mean_ms),
        ms(|l| l.p50_ms),
        ms(|l| l.p90_ms),
        ms(|l| l.p99_ms),
        ms(|l| l.p999_ms),
        ms(|l| l.max_ms),
    ]
}

fn qmp(r: &MigrationRecord, key: &str) -> Option<f64> {
    r.query_migrate.get(key).and_then(serde_json::Value::as_f64)
}

/// QMP's total-time.
pub(crate) fn total_time_ms(r: &MigrationRecord) -> Option<f64> {
    qmp(r, "total-time")
}

/// QMP's downtime.
pub(crate) fn downtime_ms(r: &MigrationRecord) -> Option<f64> {
    qmp(r, "downtime")
}

/// Bytes handed to the socket; 0 if it never began.
pub(crate) fn sent_bytes(r: &MigrationRecord) -> u64 {
    r.source_report.as_ref().map_or(0, |s| s.bytes.total())
}

fn sent_rate_bps(r: &MigrationRecord) -> Option<f64> {
    let active_ms = total_time_ms(r)? - qmp(r, "setup-time").unwrap_or(0.0);
    (active_ms > 0.0).then(|| sent_bytes(r) as f64 * 8.0 / active_ms * 1e3)
}

/// A status as the files name it.
pub(crate) fn status_name(status: Status) -> &'static str {
    match status {
        Status::Completed => "completed",
        Status::Cancelled => "cancelled",
        Status::Failed => "failed",
    }
}

fn owner_name(owner: Owner) -> &'static str {
    match owner {
        Owner::Source => "source",
        Owner::Destination => "destination",
        Owner::Lost => "lost",
        Owner::Stranded => "stranded",
    }
}
