//! What this agent's VMs replay, read from the run's inputs as VMs come.

use crate::ids::VmId;
use crate::scenario::VmSpec;
use crate::scenario::inputs::{InputError, Inputs, Needs, SpecError, vm_spec_of};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A VM cannot be emulated here.
#[derive(Debug, thiserror::Error)]
pub(super) enum FactoryError {
    /// Its traces.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Its declaration.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

/// Makes VMs, and remembers them.
#[derive(Debug)]
pub(super) struct VmFactory {
    inputs_dir: PathBuf,
    /// Space scale the scenario was divided by.
    divided_by: u32,
    seed: u64,
    inputs: Inputs,
    known: BTreeMap<VmId, replay::VmSpec>,
}

impl VmFactory {
    pub(super) fn new(inputs_dir: PathBuf, divided_by: u32, seed: u64) -> Self {
        Self {
            inputs_dir,
            divided_by,
            seed,
            inputs: Inputs::default(),
            known: BTreeMap::new(),
        }
    }

    /// What a VM replays; traces are read once.
    pub(super) fn vm_spec(
        &mut self,
        id: VmId,
        vm: &VmSpec,
    ) -> Result<replay::VmSpec, FactoryError> {
        if let Some(spec) = self.known.get(&id) {
            return Ok(spec.clone());
        }
        self.inputs.read_more(&self.inputs_dir, &Needs::of_vm(vm))?;
        let spec = vm_spec_of(&self.inputs, self.divided_by, self.seed, id, vm)?;
        self.known.insert(id, spec.clone());
        Ok(spec)
    }

    /// A VM made before.
    pub(super) fn known(&self, id: VmId) -> Option<&replay::VmSpec> {
        self.known.get(&id)
    }
}
