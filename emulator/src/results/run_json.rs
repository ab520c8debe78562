//! `run.json`: what was run, on what, and how it ended. Written when a run begins (outcome
//! `running`) and replaced when it ends; with `inputs/` it is enough to run the same again.

use super::{ResultsError, read_upgraded, upgrade};
use crate::scenario::origin::Origin;
use crate::scenario::{Endpoint, INTERNET, Pace, Scenario};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Version of `run.json`.
pub const SCHEMA: u32 = 3;

/// The content of `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunHeader {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of migbed.
    pub migbed_version: String,
    /// The scenario, resolved; trace paths point into `inputs/`.
    pub scenario: Scenario,
    /// The scenario as written.
    pub scenario_file: Option<ScenarioFile>,
    /// Where what the VMs replay is from, column by column; empty in runs of earlier schemas.
    #[serde(default)]
    pub origins: Vec<Origin>,
    /// `uname -srm` of the machine.
    pub kernel: String,
    /// What carried the bytes: `relay`, …; of a simulation, `none`.
    pub backend: String,
    /// What the machine offered, as `migbed doctor --json` says it.
    pub capabilities: serde_json::Value,
    /// The seed used (the command line may replace the scenario's).
    pub seed: u64,
    /// The space scale used.
    pub k: u32,
    /// The pace used.
    pub pace: Pace,
    /// `measured`; of a simulation, `modelled`.
    pub tag: String,
    /// A, B, C or invalid; `None` until audited.
    pub grade: Option<String>,
    /// Reasons for anything but A.
    pub grade_reasons: Vec<String>,
    /// `running`, `completed`, `interrupted`, `failed`.
    pub outcome: String,
    /// Wall time from the first segment to the end, seconds; 0 until the end.
    pub wall_s: f64,
    /// Trace time reached, seconds; 0 until the end.
    pub trace_s: f64,
    /// Seconds since 1970, UTC.
    pub started_unix_s: u64,
}

/// A scenario as a person wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScenarioFile {
    /// Its name, without folders.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl RunHeader {
    /// Reads `run.json`, that of the version before too.
    ///
    /// # Errors
    /// When it cannot be read, or is of a schema that is not read.
    pub fn read(path: &Path) -> Result<Self, ResultsError> {
        read_upgraded(path, SCHEMA, upgrade::run_json)
    }

    /// Name of a host; events of another run could name one that is not there.
    #[must_use]
    pub fn host_name(&self, id: crate::ids::HostId) -> String {
        self.scenario
            .hosts
            .get(id.index())
            .map(|host| host.name.as_str())
            .or_else(|| self.scenario.network.outside_name(id))
            .map_or_else(|| id.to_string(), str::to_owned)
    }

    /// Name of an end of a tenant flow.
    #[must_use]
    pub fn endpoint(&self, end: Endpoint) -> String {
        match end {
            Endpoint::Vm(vm) => self.vm_name(vm),
            Endpoint::Internet => INTERNET.to_owned(),
        }
    }

    /// Name of a VM.
    #[must_use]
    pub fn vm_name(&self, id: crate::ids::VmId) -> String {
        self.scenario
            .vms
            .get(id.index())
            .map_or_else(|| id.to_string(), |v| v.name.clone())
    }
}
