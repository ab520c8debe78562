//! A run: a scenario emulated on a machine, from its files to its report.
//!
//! Inside: the order of a run (inputs, machine, placement, timeline, results), the driver and its
//! books. Never inside: text for people beyond progress (the command line prints), decisions.

pub mod admission;
pub mod backend;
pub mod book;
pub mod budget;
mod driver;
mod error;
mod faults;
pub mod flows;
mod gate;
pub mod grade;
pub mod links;
mod migrate;
mod needs;
mod patience;
mod predict;
pub mod progress;
mod recover;
mod services;
mod span;
mod traffic;

pub(crate) use self::services::ports;
pub use self::span::SERVICE_MARGIN_NS;
use crate::balance;
use crate::clock::{mono_ns, unix_s};
use crate::control::channel::check_protocol;
use crate::control::message::{
    FromAgent, FromMachine, MachineReady, MachineSetup, PROTOCOL, ToAgent, ToMachine, VmPlacement,
};
use crate::event::log::EventLog;
use crate::event::{Event, EventKind, SCHEMA};
use crate::ids::VmId;
use crate::machine::launch::Machine;
use crate::migration::record::MigrationRecord;
use crate::results::{self, RunDir, RunHeader, ScenarioFile};
use crate::scenario::inputs::Inputs;
use crate::scenario::origin::origins;
use crate::scenario::scale::{self, ScaleError};
use crate::scenario::{HostSpec, INTERNET, Scenario};
use backend::NoBackend;
use driver::{Drive, Driver};
pub use error::{MissingCapability, RunError, Unusable};
use gate::Gate;
use netmodel::backend::BackendKind;
use netmodel::capacity::{Capacity, Demand};
use netmodel::sys::probe::{Capabilities, Capability};
use progress::{Progress, Show};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Starting a machine and measuring its links takes seconds; more means that something hangs.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// What to run, and how.
#[derive(Debug)]
pub struct RunRequest {
    /// At full size.
    pub scenario: Scenario,
    /// Its traces, at full size.
    pub inputs: Inputs,
    /// As a person wrote it.
    pub file: Option<ScenarioFile>,
    /// Where results go; made by the run.
    pub out: PathBuf,
    /// What a person sees.
    pub show: Show,
    /// Whether to measure every link before the run.
    pub calibrate: bool,
    /// Whether to go on although this machine cannot carry it; the run is then invalid.
    pub force: bool,
}

/// What a run came to.
#[derive(Debug)]
pub struct RunOutcome {
    /// Its directory.
    pub dir: RunDir,
    /// Every migration that ended.
    pub migrations: Vec<MigrationRecord>,
    /// `A`, `B`, `C` or `invalid`.
    pub grade: String,
    /// Why not A.
    pub grade_reasons: Vec<String>,
    /// This machine does not carry it, and it was run all the same.
    pub forced: bool,
    /// By the user.
    pub interrupted: bool,
    /// Things to read before trusting the numbers.
    pub warnings: Vec<String>,
}

/// Interrupts of the user: Ctrl-C and a polite kill.
fn interrupts() -> Result<tokio::sync::mpsc::Receiver<()>, RunError> {
    let (send, receive) = tokio::sync::mpsc::channel(1);
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let (mut signals, send) = (signal(kind)?, send.clone());
        tokio::spawn(async move {
            let mut before = 0;
            while signals.recv().await.is_some() {
                before += 1;
                if before > 1 {
                    // The second one means now; the machine goes with us.
                    std::process::exit(130);
                }
                if send.send(()).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(receive)
}

/// Runs a scenario to its report. To be called from the main thread.
///
/// # Errors
/// [`MissingCapability`], [`Unusable`], or whatever stopped it; results up to there are kept and
/// labelled.
pub fn run(request: &RunRequest) -> anyhow::Result<RunOutcome> {
    // Probing forks, so it comes before any thread.
    let capabilities = netmodel::sys::probe::probe();
    lacks_nothing(&capabilities)?;
    needs::lacks_nothing_for(&request.scenario, &capabilities)?;
    let backend = backend::choose(&request.scenario.network, &capabilities).map_err(unchosen)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(execute(request, &capabilities, backend));
    // Signal tasks still wait; there is nothing to wait for.
    runtime.shutdown_background();
    done
}

/// The kind of error decides about the exit code.
pub(crate) fn unchosen(error: NoBackend) -> anyhow::Error {
    match error {
        NoBackend::Asked(error) => error.into(),
        NoBackend::Missing(error) => error.into(),
    }
}

/// What any run needs of this computer, before anything is started.
pub(crate) fn lacks_nothing(capabilities: &Capabilities) -> Result<(), MissingCapability> {
    let missing = || {
        capabilities
            .missing()
            .filter(|c| !backend::is_of_a_backend(c))
    };
    if missing().next().is_none() {
        return Ok(());
    }
    // A setting that forbids is not required by itself, but it is what has to be changed.
    let forbids = |c: &&Capability| c.present == Some(false) && c.name.starts_with("sysctl ");
    let settings = capabilities.0.iter().filter(forbids);
    let lacks: Vec<String> = missing().chain(settings).map(backend::lack).collect();
    Err(MissingCapability {
        message: lacks.join("\n"),
    })
}

async fn execute(
    request: &RunRequest,
    capabilities: &Capabilities,
    backend: BackendKind,
) -> anyhow::Result<RunOutcome> {
    let scenario = carried(&request.scenario)?;
    let policy = match scenario.balancer.policy.as_str() {
        "none" => None,
        _ => Some(balance::policy::policy(&scenario.balancer)?),
    };
    let mut header = header(request, &scenario, capabilities, backend);
    let dir = RunDir::create(&request.out, &header)?;
    request.inputs.write(&dir.inputs())?;
    let begun_ns = mono_ns();
    let result = emulate(request, &scenario, backend, policy, &dir).await;
    header.wall_s = (mono_ns() - begun_ns) as f64 / 1e9;
    let drive = match result {
        Ok(drive) => {
            header.trace_s = drive.trace_ns as f64 / 1e9;
            header.outcome = outcome_name(&drive).to_owned();
            drive
        }
        Err(refused @ RunError::Refused(_)) => {
            // Nothing was run; what was begun to be written is ours, and would be in the way.
            let _ = std::fs::remove_dir_all(dir.path());
            return Err(explain(refused));
        }
        Err(error) => {
            "failed".clone_into(&mut header.outcome);
            dir.write_header(&header)?;
            return Err(explain(error));
        }
    };
    let (grade, reasons) = drive.grade;
    let grade = grade.name().to_owned();
    header.grade = Some(grade.clone());
    header.grade_reasons.clone_from(&reasons);
    dir.write_header(&header)?;
    results::rebuild(&dir)?;
    crate::report::write(&dir)?;
    Ok(RunOutcome {
        dir,
        migrations: drive.migrations,
        grade,
        grade_reasons: reasons,
        forced: drive.forced,
        interrupted: drive.interrupted,
        warnings: drive.warnings,
    })
}

fn outcome_name(drive: &Drive) -> &'static str {
    match (drive.interrupted, drive.hosts_lost) {
        (true, _) => "interrupted",
        (false, 0) => "completed",
        (false, _) => "completed, hosts lost",
    }
}

/// The scenario at the size the machine carries.
pub(crate) fn carried(scenario: &Scenario) -> anyhow::Result<Scenario> {
    let refused = |error: ScaleError| Unusable(format!("{error}\n  {}", error.remedy()));
    Ok(scale::apply(scenario, scenario.scale).map_err(refused)?)
}

fn header(
    request: &RunRequest,
    scenario: &Scenario,
    capabilities: &Capabilities,
    backend: BackendKind,
) -> RunHeader {
    RunHeader {
        schema: results::run_json::SCHEMA,
        migbed_version: env!("CARGO_PKG_VERSION").to_owned(),
        scenario: request.scenario.clone(),
        scenario_file: request.file.clone(),
        origins: origins(&request.scenario, &request.inputs),
        kernel: kernel(),
        backend: backend.name().to_owned(),
        capabilities: serde_json::to_value(capabilities).unwrap_or_default(),
        seed: scenario.seed,
        k: scenario.scale,
        pace: scenario.pace,
        tag: "measured".to_owned(),
        grade: None,
        grade_reasons: Vec::new(),
        outcome: "running".to_owned(),
        wall_s: 0.0,
        trace_s: 0.0,
        started_unix_s: unix_s(),
    }
}

fn kernel() -> String {
    let name = nix::sys::utsname::uname();
    name.map_or_else(
        |_| "unknown".to_owned(),
        |name| {
            let text = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
            format!(
                "{} {} {}",
                text(name.sysname()),
                text(name.release()),
                text(name.machine())
            )
        },
    )
}

/// A missing capability keeps its type, so that the exit code can tell.
fn explain(error: RunError) -> anyhow::Error {
    match error {
        RunError::Machine {
            message,
            missing_capability: true,
        } => MissingCapability { message }.into(),
        refused @ RunError::Refused(_) => Unusable(refused.to_string()).into(),
        other => other.into(),
    }
}

/// Builds the machine, places the VMs, drives the timeline.
async fn emulate(
    request: &RunRequest,
    scenario: &Scenario,
    backend: BackendKind,
    policy: Option<Box<dyn balance::view::Policy>>,
    dir: &RunDir,
) -> Result<Drive, RunError> {
    let mut progress = Progress::new(request.show, scenario.duration_ns);
    let mut log = EventLog::create(dir.path())?;
    let mut event = |trace_ns: u64, kind: EventKind| {
        log.append(&Event {
            mono_ns: mono_ns(),
            trace_ns,
            kind,
        })
    };
    event(
        0,
        EventKind::RunStarted {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_unix_s: unix_s(),
            tag: "measured".to_owned(),
        },
    )?;
    let mut gate = Gate::new(request, scenario, backend)?;
    let mut machine = Machine::launch()?;
    let started = tokio::time::timeout(START_TIMEOUT, async {
        let setup = setup(request, scenario, backend, dir, gate.to_measure())?;
        let admit = |capacity| gate.measured(capacity);
        let ready = build(&mut machine, setup, &mut progress, admit).await?;
        place(&mut machine, scenario, &mut progress).await?;
        open_ports(&mut machine, scenario, &mut progress).await?;
        Ok::<_, RunError>(ready)
    });
    let ready = started.await.map_err(|_| RunError::Silent)??;
    for link in &ready.calibration {
        event(0, EventKind::LinkCalibrated(link.clone()))?;
    }
    for warning in &ready.warnings {
        event(
            0,
            EventKind::Warning {
                message: warning.clone(),
            },
        )?;
    }
    for (vm, spec) in (0u32..).map(VmId).zip(&scenario.vms) {
        event(
            0,
            EventKind::Placed {
                vm,
                host: spec.host,
            },
        )?;
    }
    progress.phase("running");
    let predictor = predict::Predictor::new(scenario, &request.inputs);
    let driver = Driver::new(scenario, machine, ready, log, policy, progress, predictor);
    driver.drive(gate.forced()).await
}

fn setup(
    request: &RunRequest,
    scenario: &Scenario,
    backend: BackendKind,
    dir: &RunDir,
    demand: Option<Demand>,
) -> Result<MachineSetup, RunError> {
    Ok(MachineSetup {
        protocol: PROTOCOL,
        hosts: processes(scenario),
        network: scenario.network.clone(),
        inputs: absolute(&dir.inputs())?,
        seed: scenario.seed,
        divided_by: scenario.divided_by,
        calibrate: request.calibrate,
        backend,
        demand,
        agents: true,
    })
}

/// Has a machine build what it is asked for.
async fn build(
    machine: &mut Machine,
    setup: MachineSetup,
    progress: &mut Progress,
    mut admit: impl FnMut(Capacity) -> Result<(), RunError>,
) -> Result<MachineReady, RunError> {
    machine.send(&ToMachine::Setup(Box::new(setup))).await?;
    loop {
        match machine.recv().await?.ok_or(RunError::MachineGone)? {
            FromMachine::Hello { protocol, .. } => check_protocol(protocol)?,
            FromMachine::Progress(what) => progress.phase(&what),
            FromMachine::Capacity(capacity) => admit(*capacity)?,
            FromMachine::Ready(ready) => return Ok(*ready),
            FromMachine::Failed {
                message,
                missing_capability,
            } => {
                return Err(RunError::Machine {
                    message,
                    missing_capability,
                });
            }
            other => tracing::debug!(?other, "before the machine is ready"),
        }
    }
}

/// A process each: the emulated hosts, and whoever stands for everything outside.
fn processes(scenario: &Scenario) -> Vec<HostSpec> {
    let outside = scenario.network.internet;
    let outside = outside.map(|_| HostSpec::new(INTERNET, 1, 0));
    scenario.hosts.iter().cloned().chain(outside).collect()
}

/// Agents run in the same file system, but not necessarily in the same folder.
fn absolute(path: &Path) -> Result<PathBuf, RunError> {
    Ok(std::path::absolute(path)?)
}

/// Gives VMs their addresses and processes; an error of the machine comes as its last word.
async fn open_ports(
    machine: &mut Machine,
    scenario: &Scenario,
    progress: &mut Progress,
) -> Result<(), RunError> {
    let vms = ports(scenario);
    if !vms.is_empty() {
        progress.phase("giving VMs their addresses");
    }
    let mut waiting = vms.len();
    for vm in vms {
        let host = scenario.vms[vm.index()].host;
        machine.send(&ToMachine::OpenPort { vm, host }).await?;
    }
    while waiting > 0 {
        match machine.recv().await?.ok_or(RunError::MachineGone)? {
            FromMachine::Vm(vm, message) => {
                if let FromAgent::SetUp(done) = *message {
                    waiting -= 1;
                    done.map_err(|reason| RunError::Placement {
                        vm: scenario.vms[vm.index()].name.clone(),
                        reason,
                    })?;
                }
            }
            FromMachine::Failed {
                message,
                missing_capability,
            } => {
                return Err(RunError::Machine {
                    message,
                    missing_capability,
                });
            }
            other => tracing::debug!(?other, "while ports are opened"),
        }
    }
    Ok(())
}

async fn place(
    machine: &mut Machine,
    scenario: &Scenario,
    progress: &mut Progress,
) -> Result<(), RunError> {
    progress.phase("placing VMs");
    let mut waiting = scenario.vms.len();
    for (vm, spec) in (0u32..).map(VmId).zip(&scenario.vms) {
        let placement = ToAgent::Place(Box::new(VmPlacement {
            vm,
            spec: spec.clone(),
        }));
        machine
            .send(&ToMachine::Agent(spec.host, Box::new(placement)))
            .await?;
    }
    while waiting > 0 {
        let message = machine.recv().await?.ok_or(RunError::MachineGone)?;
        if let FromMachine::Agent(_, message) = message
            && let FromAgent::Placed(vm, placed) = *message
        {
            waiting -= 1;
            placed.map_err(|reason| RunError::Placement {
                vm: scenario.vms[vm.index()].name.clone(),
                reason,
            })?;
        }
    }
    Ok(())
}
