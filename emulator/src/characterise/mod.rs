//! What `migbed trace stats` says of a trace: one document, from which the table, the JSON and the HTML
//! are made.
//!
//! Inside: which figures of `traces::stats` and `traces::fit` are taken of what. Never inside: formulas,
//! files, text for people.

mod pages;

use serde::Serialize;
use traces::dirty::PageWriteTrace;
use traces::stats::{
    Cross, Gather, Lives, Quantity, QuantityStats, Sampled, Spread, Steps, Together,
    cross_correlations, lives, quantity_stats, spread, steps,
};
use traces::store::bundle::VmMeta;
use traces::store::series::Series;

pub use pages::{Page, page};

/// All of a trace.
#[derive(Debug, Serialize)]
pub struct Document {
    /// Version of this document's shape.
    pub version: u32,
    /// What was read.
    pub source: String,
    /// Its format.
    pub format: String,
    /// How its columns came to be: `recorded: …`, `derived: …`, `synthesised: …`.
    pub columns: Vec<String>,
    /// VM by VM.
    pub vms: Vec<Vm>,
    /// All of them together.
    pub fleet: Fleet,
}

/// One VM.
#[derive(Debug, Serialize)]
pub struct Vm {
    /// Its name.
    pub name: String,
    /// Virtual CPUs, where the source says.
    pub vcpus: Option<u32>,
    /// How its samples follow one another.
    pub steps: Steps,
    /// By quantity.
    pub quantities: Vec<QuantityStats>,
    /// CPU against the others.
    pub cross_correlations: Vec<Cross>,
    /// Its page-level recording.
    pub pages: Option<Page>,
}

/// The fleet.
#[derive(Debug, Serialize)]
pub struct Fleet {
    /// By quantity.
    pub quantities: Vec<FleetQuantity>,
    /// Arrivals and lifetimes, where the source has them.
    pub lives: Option<Lives>,
}

/// One quantity over the VMs that have it: spreads of the VMs' figures, and the VMs' sum.
#[derive(Debug, Serialize)]
pub struct FleetQuantity {
    /// Which.
    pub quantity: Quantity,
    /// Unit of mean.
    pub unit: &'static str,
    /// Means.
    pub mean: Option<Spread>,
    /// Peak over mean.
    pub peak_to_mean: Option<Spread>,
    /// Deviation over mean.
    pub coefficient_of_variation: Option<Spread>,
    /// Autocorrelation at one step.
    pub acf_lag1: Option<Spread>,
    /// At a day.
    pub acf_24h: Option<Spread>,
    /// Exponent of detrended fluctuations.
    pub dfa: Option<Spread>,
    /// The sum, and how alike the VMs move.
    pub together: Option<Together>,
}

/// Gathers a document VM by VM.
#[derive(Debug, Default)]
pub struct Characterise {
    vms: Vec<Vm>,
    gathers: Vec<(Quantity, Gather)>,
    /// Starts and ends, also of VMs without samples.
    lives: Vec<(Option<i64>, Option<i64>)>,
}

impl Characterise {
    /// Adds a VM; one without samples has only its life. Returns the series its figures are of, for plots.
    pub fn add(
        &mut self,
        meta: &VmMeta,
        series: &Series,
        recording: Option<&PageWriteTrace>,
    ) -> Vec<(Quantity, Sampled)> {
        self.lives.push((meta.start_ms, meta.stop_ms));
        let sampled = sampled(series, recording, WINDOW_MS);
        if sampled.is_empty() {
            return sampled;
        }
        let quantities = sampled.iter().filter_map(|(quantity, sampled)| {
            let bound = match quantity {
                Quantity::Cpu => meta.vcpus.map(f64::from),
                Quantity::Memory => meta.mem_bytes.map(|bytes| bytes as f64),
                _ => None,
            };
            quantity_stats(sampled, *quantity, bound)
        });
        let quantities = quantities.collect();
        // Correlations need one grid: that of the samples, also where page writes have a wider one.
        let grid: Vec<(Quantity, Sampled)> = Quantity::ALL
            .into_iter()
            .filter_map(|quantity| Some((quantity, Sampled::of(series, quantity)?)))
            .collect();
        for (quantity, sampled) in &sampled {
            let found = self.gathers.iter().position(|(q, _)| q == quantity);
            let index = found.unwrap_or_else(|| {
                self.gathers.push((*quantity, Gather::new(sampled.step_ms)));
                self.gathers.len() - 1
            });
            self.gathers[index].1.add(sampled);
        }
        self.vms.push(Vm {
            name: meta.name.clone(),
            vcpus: meta.vcpus,
            steps: steps(series),
            quantities,
            cross_correlations: cross_correlations(&grid),
            pages: recording.and_then(page),
        });
        sampled
    }

    /// The document.
    #[must_use]
    pub fn finish(self, source: String, format: String, columns: Vec<String>) -> Document {
        let quantities = Quantity::ALL.into_iter().filter_map(|quantity| {
            let of: Vec<&QuantityStats> = self
                .vms
                .iter()
                .flat_map(|vm| &vm.quantities)
                .filter(|stats| stats.quantity == quantity)
                .collect();
            let unit = of.first()?.unit;
            let over = |figure: &dyn Fn(&QuantityStats) -> Option<f64>| {
                spread(of.iter().map(|stats| figure(stats)))
            };
            let gather = self.gathers.iter().find(|(q, _)| *q == quantity);
            Some(FleetQuantity {
                quantity,
                unit,
                mean: over(&|s| Some(s.summary.mean)),
                peak_to_mean: over(&|s| s.summary.peak_to_mean),
                coefficient_of_variation: over(&|s| s.summary.coefficient_of_variation),
                acf_lag1: over(&|s| s.acf_lag1),
                acf_24h: over(&|s| s.acf_24h),
                dfa: over(&|s| s.dfa.map(|d| d.exponent)),
                together: gather.and_then(|(_, gather)| gather.finish()),
            })
        });
        let fleet = Fleet {
            quantities: quantities.collect(),
            lives: lives(self.lives.iter().copied()),
        };
        Document {
            version: 1,
            source,
            format,
            columns,
            vms: self.vms,
            fleet,
        }
    }
}

/// Windows that page writes of a recording are counted in unless asked otherwise.
pub const WINDOW_MS: u32 = 1000;

/// The quantities a VM has, on their grids; page writes of a recording in windows of `window_ms`.
#[must_use]
pub fn sampled(
    series: &Series,
    recording: Option<&PageWriteTrace>,
    window_ms: u32,
) -> Vec<(Quantity, Sampled)> {
    let one = |quantity: Quantity| {
        let sampled = match (quantity, recording) {
            (Quantity::PageWrites, Some(trace)) => Sampled::page_writes(trace, window_ms),
            _ => Sampled::of(series, quantity),
        };
        Some((quantity, sampled?))
    };
    Quantity::ALL.into_iter().filter_map(one).collect()
}
