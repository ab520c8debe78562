//! What a run directory says.

use migbed::event::log::read_events;
use migbed::event::{Event, EventKind, VmSample};
use migbed::ids::VmId;
use migbed::migration::record::MigrationRecord;
use std::collections::BTreeMap;
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
