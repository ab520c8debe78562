//! The record of a migration that has ended.

use crate::event::LinkCalibration;
use crate::ids::{HostId, ProbeId};
use crate::migration::metrics::{self, RecordParts};
use crate::migration::record::{MigrationRecord, Owner, ProbeRecord, Status};
use crate::run::book::Ongoing;
use crate::run::driver::Driver;
use crate::run::{budget, grade};
use crate::scenario::INTERNET;

impl Driver<'_> {
    pub(super) fn record(&self, ongoing: &Ongoing, owner: Owner) -> MigrationRecord {
        let of = &ongoing.of;
        let name = |host: HostId| self.scenario.hosts[host.index()].name.clone();
        let vm = &self.scenario.vms[of.vm.index()];
        let source = ongoing.source();
        let mut record = metrics::assemble(RecordParts {
            id: of.id.0,
            vm: vm.name.clone(),
            source: name(of.source),
            destination: name(of.destination),
            reason: of.reason.clone(),
            params: self.scenario.migration.clone(),
            owner: Some(owner),
            error: if owner == Owner::Destination {
                None
            } else {
                ongoing.error()
            },
            side: None,
            ram_bytes: vm.ram_bytes,
            requested_trace_s: ongoing.requested_trace_ns as f64 / 1e9,
            requested_ns: ongoing.requested_ns,
            released_ns: source.map(|done| done.released_ns),
            predictions: ongoing.predictions.clone(),
            source_report: source.map(|done| done.report.clone()),
            destination_report: ongoing.destination().cloned(),
        });
        let names = grade::path_links(self.scenario, of.source, of.destination);
        let on_path = |link: &&LinkCalibration| names.contains(&link.link);
        let path: Vec<&LinkCalibration> = self.ready.calibration.iter().filter(on_path).collect();
        if ongoing.was_cancelled_late(owner) {
            record.status = Status::Cancelled;
        }
        self.note_probes(&mut record, ongoing);
        let seen = ongoing.path.as_ref().and_then(Option::as_deref);
        record.error_budget = seen.map(|seen| budget::budget(&record, &path, seen));
        let (grade, reasons) = grade::migration_grade(&record, &path);
        record.grade = grade.name().to_owned();
        record.grade_reasons = reasons;
        record
    }

    /// What clients of the VM's address saw of its move.
    pub(super) fn note_probes(&self, record: &mut MigrationRecord, ongoing: &Ongoing) {
        let name = |probe: ProbeId| {
            let from = self.scenario.probes[probe.index()].from;
            let host = self.scenario.hosts.get(from.index());
            host.map_or(INTERNET, |host| &host.name).to_owned()
        };
        let ms = |ns: u64| ns as f64 / 1e6;
        let mut probes: Vec<(ProbeId, ProbeRecord)> = ongoing
            .probed
            .iter()
            .map(|&(probe, seen)| {
                let record = ProbeRecord {
                    from: name(probe),
                    network_downtime_ms: seen
                        .map(|it| ms(it.first_destination_ns.saturating_sub(it.last_source_ns))),
                    lost: seen.map(|it| it.lost),
                    interval_ms: ms(self.scenario.probes[probe.index()].interval_ns),
                };
                (probe, record)
            })
            .collect();
        probes.sort_by_key(|(probe, _)| *probe);
        record.probes = probes.into_iter().map(|(_, record)| record).collect();
        let first = record.probes.first();
        record.network_downtime_ms = first.and_then(|probe| probe.network_downtime_ms);
    }
}
