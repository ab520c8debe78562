//! What a run directory says.

use migbed::event::log::read_events;
use migbed::event::{Event, EventKind, VmSample};
use migbed::ids::VmId;
use migbed::migration::record::MigrationRecord;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The events of a run, as far as they can be read.
#[derive(Debug, Clone, Default)]
pub struct Seen(pub Vec<Event>);

/// The events so far; none while there is no log. A log that is being written has a cut tail.
#[must_use]
pub fn seen(run: &Path) -> Seen {
    let Ok(reader) = read_events(run) else {
        return Seen::default();
    };
    Seen(reader.map_while(Result::ok).collect())
}

impl Seen {
    /// What was written of ended migrations, by their number.
    #[must_use]
    pub fn records(&self) -> BTreeMap<u32, MigrationRecord> {
        let record = |event: &Event| match &event.kind {
            EventKind::MigrationEnded(record) => Some((record.id, (**record).clone())),
            _ => None,
        };
        self.0.iter().filter_map(record).collect()
    }

    /// Who was asked to go where: VM, source, destination, in order.
    #[must_use]
    pub fn moves(&self) -> Vec<(u32, u32, u32)> {
        let asked = |event: &Event| match &event.kind {
            EventKind::MigrationRequested {
                vm,
                source,
                destination,
                ..
            } => Some((vm.0, source.0, destination.0)),
            _ => None,
        };
        self.0.iter().filter_map(asked).collect()
    }

    /// Samples of every VM, in order.
    #[must_use]
    pub fn vm_samples(&self) -> BTreeMap<VmId, Vec<VmSample>> {
        let mut samples: BTreeMap<VmId, Vec<VmSample>> = BTreeMap::new();
        for event in &self.0 {
            if let EventKind::VmSample(sample) = &event.kind {
                samples.entry(sample.vm).or_default().push(sample.clone());
            }
        }
        samples
    }

    /// The first instant at which two copies of a VM run, told from the events alone: where guests are placed, stop
    /// and run, and hosts that go. Must be `None`.
    #[must_use]
    pub fn two_copies(&self) -> Option<String> {
        let mut order: Vec<&Event> = self.0.iter().collect();
        order.sort_by_key(|event| event.mono_ns);
        let mut running: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        let mut placed = BTreeSet::new();
        for event in order {
            match &event.kind {
                // The first says where it begins; later ones where it has come to.
                EventKind::Placed { vm, host } if placed.insert(vm.0) => {
                    running.entry(vm.0).or_default().insert(host.0);
                }
                EventKind::GuestRuns { vm, host, runs } => {
                    let on = running.entry(vm.0).or_default();
                    if *runs {
                        on.insert(host.0);
                    } else {
                        on.remove(&host.0);
                    }
                }
                EventKind::HostLost { host } => {
                    for on in running.values_mut() {
                        on.remove(&host.0);
                    }
                }
                EventKind::FaultStruck { struck, .. } if struck.action == "host-power-loss" => {
                    let dark = struck.host.map(|host| host.0);
                    for on in running.values_mut() {
                        on.retain(|host| Some(*host) != dark);
                    }
                }
                _ => {}
            }
            let doubled = running.iter().find(|(_, on)| on.len() > 1);
            if let Some((vm, on)) = doubled {
                return Some(format!("VM {vm} runs on {on:?} at {} ns", event.mono_ns));
            }
        }
        None
    }

    /// Faults that struck, and when by the plan, in order.
    #[must_use]
    pub fn strikes(&self) -> Vec<(String, String)> {
        let struck = |event: &Event| match &event.kind {
            EventKind::FaultStruck { struck, .. } => {
                Some((struck.action.clone(), struck.when.clone()))
            }
            _ => None,
        };
        self.0.iter().filter_map(struck).collect()
    }

    /// How long the first VM stood still on the first host, ns; nothing if it was not stopped, or never ran again
    /// there.
    #[must_use]
    pub fn stood_still_ns(&self) -> Option<u64> {
        let switched = |wanted: bool| {
            let at = |event: &Event| match event.kind {
                EventKind::GuestRuns { vm, host, runs } => {
                    (vm.0 == 0 && host.0 == 0 && runs == wanted).then_some(event.mono_ns)
                }
                _ => None,
            };
            self.0.iter().find_map(at)
        };
        Some(switched(true)?.saturating_sub(switched(false)?))
    }
}

/// `migrations.jsonl` of a run directory.
///
/// # Panics
/// When it is not there or not what it should be.
#[must_use]
pub fn records(run: &Path) -> Vec<MigrationRecord> {
    let text = fs::read_to_string(run.join("migrations.jsonl")).expect("migrations.jsonl is there");
    let record = |line| serde_json::from_str(line).expect("a line is a record");
    text.lines().map(record).collect()
}

/// A JSON file.
///
/// # Panics
/// When it is not there or not JSON.
#[must_use]
pub fn json_file(path: &Path) -> serde_json::Value {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
