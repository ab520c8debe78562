//! `migbed check`: everything that can be known of a scenario without running it.

use super::Exit;
use super::output::say;
use crate::run;
use crate::run::admission::{self, Admission};
use crate::scenario::{self, Scenario, scale};
use anyhow::Result;
use clap::Args;
use netmodel::backend::BackendKind;
use netmodel::sys::probe::Capabilities;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The scenario, a TOML file (docs/scenario.md).
    scenario: PathBuf,
    /// Print the resolved scenario as JSON.
    #[arg(long)]
    json: bool,
    /// Also print, step by step, what will be done to the kernel to build the network.
    #[arg(long)]
    explain: bool,
}

impl CheckArgs {
    pub(super) fn execute(&self) -> Result<Exit> {
        let loaded = scenario::load(&self.scenario)?;
        let carried = scale::apply(&loaded.scenario, loaded.scenario.scale)
            .map_err(|error| run::Unusable(format!("{error}\n  {}", error.remedy())))?;
        if self.json {
            say!("{}", serde_json::to_string_pretty(&loaded.scenario)?);
            return Ok(Exit::Done);
        }
        say!("{}", scenario::explain(&loaded.scenario));
        say!("what the VMs replay:");
        for origin in scenario::origin::origins(&loaded.scenario, &loaded.inputs) {
            say!(
                "  {}: {} {} ({})",
                scenario::origin::who(&origin),
                origin.column,
                scenario::origin::word(origin.provenance),
                origin.how
            );
        }
        for (name, input) in loaded.inputs.iter() {
            for warning in &input.warnings {
                say!("trace {name}: {warning}");
            }
        }
        say!("{}", admission(&carried));
        if self.explain {
            // What this machine would take, and the relay if it could not run any.
            let capabilities = netmodel::sys::probe::probe();
            let backend = chosen(&carried, &capabilities);
            let (network, k) = (&carried.network, carried.divided_by);
            let plan = crate::machine::plan(network, k, backend, carried.seed);
            say!("{plan}");
        }
        Ok(Exit::Done)
    }
}

/// What this machine would take; the relay if it could not run any.
fn chosen(carried: &Scenario, capabilities: &Capabilities) -> BackendKind {
    run::backend::choose(&carried.network, capabilities).unwrap_or_default()
}

/// Whether this machine carries it, by what was measured before.
fn admission(carried: &Scenario) -> String {
    let backend = chosen(carried, &netmodel::sys::probe::probe());
    let (known, others) = admission::cached(backend);
    let demand = admission::demand(carried);
    match admission::judge(&demand, carried.divided_by, known.as_ref(), &others) {
        Admission::Fits(share) => format!(
            "admission: fits, {:.0} % of what `{backend}` may use of this machine",
            share * 100.0
        ),
        Admission::Unknown => "admission: unknown until a run has measured this machine".to_owned(),
        Admission::Refused(why) => format!("admission: refused: {why}"),
    }
}
