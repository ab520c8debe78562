//! From a file to a scenario that can be run, with its traces.

use super::{Problem, ProblemKind, Problems, Scenario, ScenarioError, check, inputs};
use crate::ids::VmId;
use std::path::Path;

/// A scenario that can be run, and its traces.
#[derive(Debug)]
pub struct Loaded {
    /// At full size; [`super::scale::apply`] gives what is carried.
    pub scenario: Scenario,
    /// Its traces, at full size.
    pub inputs: inputs::Inputs,
}

/// Longest text taken for a scenario: a thousand times what one is, and read into memory whole.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// Reads and checks a scenario file and every trace it names. A scenario that loads can be run.
///
/// # Errors
/// With everything wrong with it that can be found at once, each with file, line and spot.
pub fn load(path: &Path) -> Result<Loaded, ScenarioError> {
    let text = read_text(path)?;
    let check::Checked {
        mut scenario,
        mut spots,
    } = check::check(path, &text)?;
    let wrong = |list| ScenarioError::Wrong(Problems::new(path, &text, list));
    if let Some(events) = &mut spots.events {
        events.read_traces().map_err(wrong)?;
        events.resolve(&mut scenario.network).map_err(wrong)?;
    }
    let inputs = inputs::Inputs::load(&scenario).map_err(|errors| {
        let spot = |name: &str| spots.traces.get(name).cloned().unwrap_or(0..0);
        let problem = |(name, source): (String, inputs::InputError)| Problem {
            span: spot(&name),
            kind: ProblemKind::Trace { name, source },
        };
        wrong(errors.into_iter().map(problem).collect())
    })?;
    let mean = |name: &str| {
        inputs
            .get(name)
            .map(|input| input.cpu.mean_milli() / 1000.0)
    };
    check::settle_again(&mut scenario, &spots, mean).map_err(|problem| wrong(vec![*problem]))?;
    let unfit = inputs::unfit(&scenario, &inputs);
    if !unfit.is_empty() {
        let problem = |(vm, kind): (VmId, ProblemKind)| Problem {
            span: spots.vms.get(vm.index()).cloned().unwrap_or(0..0),
            kind,
        };
        return Err(wrong(unfit.into_iter().map(problem).collect()));
    }
    Ok(Loaded { scenario, inputs })
}

/// Checks the text of a scenario, without looking at the files it names. `path` is for messages and
/// for the folder that paths in it are relative to.
///
/// # Errors
/// With everything wrong with it that can be found at once.
pub fn parse(path: &Path, text: &str) -> Result<Scenario, ScenarioError> {
    check::check(path, text).map(|checked| checked.scenario)
}

fn read_text(path: &Path) -> Result<String, ScenarioError> {
    let unreadable = |source| ScenarioError::Unreadable {
        path: path.into(),
        source,
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(
        &mut std::io::Read::take(file, TEXT_BYTES_MAX + 1),
        &mut bytes,
    )
    .map_err(unreadable)?;
    if bytes.len() as u64 > TEXT_BYTES_MAX {
        let (path, limit) = (path.into(), TEXT_BYTES_MAX);
        return Err(ScenarioError::TooLong {
            path,
            bytes: bytes.len() as u64,
            limit,
        });
    }
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..offset]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        ScenarioError::NotText {
            path: path.into(),
            line,
            offset,
        }
    })
}
