//! Recordings as bundles of one VM.

use std::collections::BTreeMap;

use crate::recording::{Recording, Sidecar};
use traces::store::bundle::{Bundle, Importer, Manifest, TimeOrigin, VmMeta};
use traces::store::series::{Interval, Metric, Series};
use traces::units::Provenance;

/// A bundle without VMs, made by one of the recorders here.
pub(crate) fn empty(title: &str, source: &str, recorder: &str) -> Bundle {
    let mut manifest = Manifest::new(title, source, "");
    manifest.time_origin = TimeOrigin::Relative;
    manifest.importer = Some(Importer {
        name: recorder.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        options: BTreeMap::new(),
        seed: None,
    });
    Bundle {
        manifest,
        vms: Vec::new(),
        samples: BTreeMap::new(),
        dirty_profiles: BTreeMap::new(),
        page_writes: BTreeMap::new(),
    }
}

/// Adds a VM with what it used, each column as it was recorded.
pub(crate) fn put(bundle: &mut Bundle, vm: VmMeta, series: Series) {
    for metric in series.metrics() {
        bundle
            .manifest
            .note("samples.parquet", metric.column(), Provenance::Recorded, "");
    }
    bundle.samples.insert(vm.vm_id, series);
    bundle.vms.push(vm);
}

impl Recording {
    /// The recording as a bundle of one VM. What a bundle has no column for (contents, threads, overhead)
    /// is left in [`Recording::sidecar`].
    #[must_use]
    pub fn to_bundle(&self, title: &str) -> Bundle {
        let about = &self.sidecar.about;
        let source = format!("recorded on Linux {}", about.kernel);
        let mut bundle = empty(title, &source, "record");
        bundle.manifest.warnings.clone_from(&self.sidecar.warnings);
        let name = about.command.first().map_or("", String::as_str);
        let mut vm = VmMeta::named(name.rsplit('/').next().unwrap_or(name));
        if let Some(pages) = &self.pages {
            let file = "0.mbpw".to_owned();
            bundle.page_writes.insert(file.clone(), pages.clone());
            vm.page_writes = Some(file);
            vm.mem_bytes = Some(u64::from(pages.pages) * traces::units::PAGE_SIZE);
        }
        put(&mut bundle, vm, series(&self.sidecar));
        bundle
    }
}

fn series(sidecar: &Sidecar) -> Series {
    let samples = &sidecar.samples;
    let mut series = Series::default();
    let mut start = 0;
    for (row, &end) in samples.t_ms.iter().enumerate() {
        let Ok(dur_ms) = u32::try_from(end.saturating_sub(start)) else {
            continue;
        };
        let interval = Interval {
            t_ms: i64::try_from(start).unwrap_or(i64::MAX),
            dur_ms,
            flags: 0,
        };
        start = end;
        let cpu = samples.cpu_ms[row].saturating_mul(1000);
        let values = [
            (Metric::CpuMilli, cpu.checked_div(u64::from(dur_ms))),
            (Metric::MemUsedBytes, samples.resident_bytes[row]),
            (Metric::MemActiveBytes, samples.accessed_bytes[row]),
            (Metric::NetRxBytes, samples.net_rx_bytes[row]),
            (Metric::NetTxBytes, samples.net_tx_bytes[row]),
        ];
        // Only a sample of no length is refused: two within one millisecond, the second says nothing.
        let _ = series.push(interval, &values);
    }
    series
}

#[cfg(test)]
mod tests {
    use crate::run::{Options, record};
    use std::time::Duration;

    #[test]
    fn rates_only_says_so_and_has_no_pages() {
        let options = Options {
            rates_only: true,
            sample: Duration::from_millis(50),
            duration: Some(Duration::from_millis(250)),
            ..Options::default()
        };
        let command = ["sleep".into(), "5".into()];
        let recording = record(&command, &options).unwrap();
        assert!(recording.pages.is_none());
        assert!(recording.sidecar.warnings[0].contains("RATES ONLY"));
        let bundle = recording.to_bundle("a sleep");
        assert_eq!(bundle.vms[0].name, "sleep");
        assert!(bundle.page_writes.is_empty());
        assert!(bundle.samples[&0].intervals().len() >= 4);
        assert!(bundle.manifest.warnings[0].contains("RATES ONLY"));
    }
}
