//! The traces of a scenario, loaded: from other people's files once, then from the run directory,
//! so that a run can be repeated without the originals.
//!
//! Inside: importing, our own files of a run's `inputs/` (`files`), what a VM replays (`guest`).
//! Never inside: formats of others (`traces::import`) or anything that runs.

mod demand;
mod files;
mod guest;

pub use demand::DemandError;
pub use guest::{SpecError, unfit, vm_key, vm_spec, vm_spec_of, vm_specs};

use super::problem::near_miss;
use super::{CpuDemand, Scenario, TraceSource, VmSpec, WriteSource};
use crate::ids::VmId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use traces::class::{PageClass, Variation};
use traces::cpu::CpuTrace;
use traces::dirty::PageWriteTrace;
use traces::import::{Format, ImportError, ImportErrorKind, ImportOptions, Imported, ImportedVm};
use traces::store::series::{Metric, Series};
use traces::units::Provenance;

/// The traces a run replays, by their names in the scenario.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Inputs {
    traces: BTreeMap<String, Input>,
}

/// One trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// Format it was imported from.
    pub format: String,
    /// CPU demand, without gaps.
    pub cpu: Arc<CpuTrace>,
    /// Pages written, if the source is a page-level recording. `None` too when not asked for.
    pub pages: Option<Arc<PageWriteTrace>>,
    /// Classes fitted to `pages`, when some VM uses them.
    pub fitted: Option<Fitted>,
    /// Memory used, its mean over the trace, where that was recorded.
    pub used_bytes: Option<u64>,
    /// How its CPU demand came to be.
    pub cpu_provenance: Provenance,
    /// To be read before trusting the numbers.
    pub warnings: Vec<String>,
}

/// Page classes fitted to a recording, and how well they describe it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fitted {
    /// The classes.
    pub classes: Vec<PageClass>,
    /// Relative error of D(t) over the part fitted; `None`: of a bundle's profile, which does not say.
    pub in_sample_error: Option<f64>,
    /// Relative error of D(t) over a part not used for the fit.
    pub out_of_sample_error: Option<f64>,
    /// Short-term variation of all its rates, if the source says so.
    #[serde(default)]
    pub variation: Option<Variation>,
    /// How the source came to them: fitted to what was recorded, or made up.
    #[serde(default = "derived")]
    pub provenance: Provenance,
}

fn derived() -> Provenance {
    Provenance::Derived
}

/// A trace that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Its file is not as its format says.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// No such format.
    #[error("there is no trace format `{name}`")]
    Format {
        /// As asked for.
        name: String,
        /// The nearest one.
        near: Option<String>,
    },
    /// The file holds no such VM.
    #[error("{} holds no VM `{vm}`, but {known} others", path.display())]
    NoSuchVm {
        /// The file.
        path: PathBuf,
        /// As asked for.
        vm: String,
        /// The nearest one.
        near: Option<String>,
        /// VMs it holds.
        known: usize,
    },
    /// Page writes are asked for where only CPU was recorded.
    #[error("{} ({format}) holds no page writes", path.display())]
    NoPageWrites {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: String,
    },
    /// Classes cannot be fitted.
    #[error("classes cannot be fitted to {}: {source}", path.display())]
    Fit {
        /// The file.
        path: PathBuf,
        /// Why.
        source: traces::fit::FitError,
    },
    /// A file of a run directory cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The list of inputs of a run directory is not as it was written.
    #[error("{}: {source}", path.display())]
    List {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A list of inputs of another version.
    #[error("{}: version {found}, this migbed reads version {}", path.display(), files::VERSION)]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A page-write file of a run directory is not as it was written.
    #[error("{}: {source}", path.display())]
    PageWrites {
        /// Which.
        path: PathBuf,
        /// Why.
        source: traces::store::page_write::PageWriteError,
    },
    /// A CPU file of a run directory is not as it was written.
    #[error("{}:{line}: {found:?}, expected {expected}", path.display())]
    Cpu {
        /// Which.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is there.
        found: String,
        /// What should be.
        expected: &'static str,
    },
    /// A run directory lacks a trace.
    #[error("{} lists no trace `{name}`", path.display())]
    Missing {
        /// The list.
        path: PathBuf,
        /// The trace.
        name: String,
    },
}

impl InputError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        let did_you_mean =
            |near: &Option<String>| near.as_ref().map(|n| format!("did you mean `{n}`?"));
        match self {
            Self::Import(error) => match &error.kind {
                ImportErrorKind::Io(_) => {
                    Some("`file` is looked for from the folder of the scenario".into())
                }
                ImportErrorKind::UnknownFormat { .. } => Some(
                    "name it with `format`, or convert the file with `migbed trace import`".into(),
                ),
                _ => None,
            },
            Self::Format {
                near: Some(near), ..
            } => Some(format!("did you mean `{near}`?")),
            Self::Format { near: None, .. } => {
                let known: Vec<_> = Format::ALL.iter().map(|f| format!("`{f}`")).collect();
                Some(format!(
                    "there are: {}; without `format` it is detected",
                    known.join(", ")
                ))
            }
            Self::NoSuchVm { near, .. } => did_you_mean(near),
            Self::NoPageWrites { .. } => Some(
                "use a page-level recording, or give the VM `writes = { classes = [ … ] }`".into(),
            ),
            _ => None,
        }
    }
}

/// Which traces, and what of them, some VMs need.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// All of them.
    pub traces: BTreeSet<String>,
    /// Those of which the page sets are replayed.
    pub pages: BTreeSet<String>,
    /// Those of which fitted classes are replayed.
    pub fitted: BTreeSet<String>,
}

impl Needs {
    /// What these VMs replay.
    #[must_use]
    pub fn of(scenario: &Scenario, vms: impl IntoIterator<Item = VmId>) -> Self {
        let mut needs = Self::default();
        for vm in vms.into_iter().map(|id| &scenario.vms[id.index()]) {
            needs.add(vm);
        }
        needs
    }

    /// What one VM replays.
    #[must_use]
    pub fn of_vm(vm: &VmSpec) -> Self {
        let mut needs = Self::default();
        needs.add(vm);
        needs
    }

    fn add(&mut self, vm: &VmSpec) {
        let named = vm.cpu.iter().filter_map(CpuDemand::trace);
        self.traces.extend(named.map(str::to_owned));
        if let WriteSource::Pages(name) = &vm.writes {
            self.traces.insert(name.clone());
            self.pages.insert(name.clone());
        }
        if let WriteSource::Fitted(name) = &vm.writes {
            self.traces.insert(name.clone());
            self.fitted.insert(name.clone());
        }
    }

    /// What all VMs of a scenario replay.
    #[must_use]
    pub fn all(scenario: &Scenario) -> Self {
        Self::of(scenario, (0..).map(VmId).take(scenario.vms.len()))
    }
}

impl Inputs {
    /// A trace by its name in the scenario.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Input> {
        self.traces.get(name)
    }

    /// All traces, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Input)> {
        self.traces
            .iter()
            .map(|(name, input)| (name.as_str(), input))
    }

    /// Imports every trace a scenario declares, and fits classes where some VM uses them.
    ///
    /// # Errors
    /// What is wrong with each trace that cannot be used, by name.
    pub fn load(scenario: &Scenario) -> Result<Self, Vec<(String, InputError)>> {
        let needs = Needs::all(scenario);
        let mut inputs = Self::default();
        let mut errors = Vec::new();
        // Several names may be one file, of which a VM each is wanted: read it once.
        let mut imports: BTreeMap<(&PathBuf, &Option<String>), Imported> = BTreeMap::new();
        for (name, source) in &scenario.traces {
            let key = (&source.path, &source.format);
            let imported = match imports.get(&key) {
                Some(imported) => Ok(imported),
                None => import(source).map(|imported| &*imports.entry(key).or_insert(imported)),
            };
            match imported.and_then(|imported| input(name, source, imported, &needs)) {
                Ok(input) => {
                    inputs.traces.insert(name.clone(), input);
                }
                Err(error) => errors.push((name.clone(), error)),
            }
        }
        if errors.is_empty() {
            Ok(inputs)
        } else {
            Err(errors)
        }
    }
}

fn import(source: &TraceSource) -> Result<Imported, InputError> {
    let format = source.format.as_ref().map(|name| {
        Format::from_name(name).ok_or_else(|| InputError::Format {
            name: name.clone(),
            near: near_miss(name, Format::ALL.iter().map(|format| format.name())),
        })
    });
    let options = ImportOptions {
        format: format.transpose()?,
        ..ImportOptions::default()
    };
    Ok(traces::import::import_path(&source.path, options)?)
}

fn input(
    name: &str,
    source: &TraceSource,
    imported: &Imported,
    needs: &Needs,
) -> Result<Input, InputError> {
    let vm = choose(source, imported)?;
    let format = imported.format.name().to_owned();
    let pages = vm.page_writes.clone().map(Arc::new);
    let profile = match &pages {
        None if needs.fitted.contains(name) => bundle_profile(source, vm)?,
        _ => None,
    };
    let lacking = needs.pages.contains(name) || (needs.fitted.contains(name) && profile.is_none());
    if pages.is_none() && lacking {
        return Err(InputError::NoPageWrites {
            path: source.path.clone(),
            format,
        });
    }
    let fitted = match &pages {
        Some(pages) if needs.fitted.contains(name) => Some(fit(source, pages)?),
        _ => profile,
    };
    // A file of many VMs has warnings of all of them; the reader of a run wants this one's file.
    let warning = |w: &traces::import::Warning| format!("{}: {}", w.file.display(), w.kind);
    let warnings = imported.warnings.iter().map(warning).collect();
    Ok(Input {
        format,
        cpu: Arc::new(vm.cpu.clone()),
        pages,
        fitted,
        used_bytes: mean_used(&vm.series),
        cpu_provenance: if let Some(stated) =
            traces::import::bundle_column(&source.path, "samples.parquet:cpu_milli")
        {
            stated
        } else if imported
            .derived
            .iter()
            .any(|derived| derived.0 == "cpu_milli")
        {
            Provenance::Derived
        } else {
            Provenance::Recorded
        },
        warnings,
    })
}

fn choose<'i>(source: &TraceSource, imported: &'i Imported) -> Result<&'i ImportedVm, InputError> {
    let Some(wanted) = &source.vm else {
        return Ok(imported
            .vms
            .first()
            .expect("an import holds at least one VM"));
    };
    let found = imported.vms.iter().find(|vm| {
        vm.meta.name == *wanted || vm.meta.source_id.as_deref() == Some(wanted.as_str())
    });
    found.ok_or_else(|| InputError::NoSuchVm {
        path: source.path.clone(),
        vm: wanted.clone(),
        near: near_miss(wanted, imported.vms.iter().map(|vm| vm.meta.name.as_str())),
        known: imported.vms.len(),
    })
}

fn mean_used(series: &Series) -> Option<u64> {
    let (sum, count) = series
        .values(Metric::MemUsedBytes)
        .fold((0u128, 0u128), |(sum, count), used| {
            (sum + u128::from(used), count + 1)
        });
    u64::try_from(sum.checked_div(count)?).ok()
}

/// What a bundle says of how a VM writes, where it holds no pages.
fn bundle_profile(source: &TraceSource, vm: &ImportedVm) -> Result<Option<Fitted>, InputError> {
    let found = traces::import::bundle_profile(&source.path, vm)?;
    Ok(found.map(|found| Fitted {
        classes: found.classes,
        in_sample_error: None,
        out_of_sample_error: None,
        variation: found.variation,
        provenance: found.provenance,
    }))
}

/// Fits classes to the load phase of a recording; to all but its first tick when it has none.
fn fit(source: &TraceSource, pages: &PageWriteTrace) -> Result<Fitted, InputError> {
    let first_ns = pages.ticks.first().map_or(0, |tick| tick.t_ns);
    let phase = traces::fit::load_phase(pages).unwrap_or(first_ns..u64::MAX);
    let (classes, report) =
        traces::fit::fit_recording(pages, phase).map_err(|error| InputError::Fit {
            path: source.path.clone(),
            source: error,
        })?;
    Ok(Fitted {
        classes,
        in_sample_error: Some(report.in_sample_error),
        out_of_sample_error: Some(report.out_of_sample_error),
        variation: None,
        provenance: Provenance::Derived,
    })
}
