//! What a log says of its guest, as a bundle: RAM and the classes it writes. Pure.

use super::Incident;
use std::collections::BTreeMap;
use traces::store::bundle::{Bundle, Importer, Manifest, TimeOrigin, VmMeta};
use traces::units::Provenance;

/// A bundle of one VM, with a dirty profile where there is a curve.
#[must_use]
pub fn bundle(incident: &Incident, source: &str) -> Bundle {
    let mut manifest = Manifest::new(&incident.name, source, "");
    manifest.time_origin = TimeOrigin::Relative;
    manifest.importer = Some(Importer {
        name: "trace incident".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        options: BTreeMap::new(),
        seed: None,
    });
    manifest.warnings.clone_from(&incident.notes);
    let mut vm = VmMeta::named(&incident.name);
    vm.mem_bytes = Some(incident.ram_bytes);
    let mut dirty_profiles = BTreeMap::new();
    if let Some(curve) = &incident.curve {
        vm.dirty_profile = Some(0);
        dirty_profiles.insert(0, curve.classes.clone());
        let how = "fitted to the pages that readings of the dirty log found";
        manifest.note("dirty_profiles.parquet", "pages", Provenance::Derived, how);
    }
    Bundle {
        manifest,
        samples: BTreeMap::from([(vm.vm_id, traces::store::series::Series::default())]),
        vms: vec![vm],
        dirty_profiles,
        page_writes: BTreeMap::new(),
    }
}
