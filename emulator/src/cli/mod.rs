//! The command line: what was typed, and which exit code it ends in.
//!
//! Inside: arguments, one file a subcommand, text for people. Never inside: what a run does.

mod backend;
mod check;
mod doctor;
mod links;
mod migrate;
mod output;
mod report;
mod run;
mod trace;
mod validate;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// How a command ended (DESIGN §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// An expectation or a verification failed.
    Failed,
    /// The command line, a scenario or a trace is wrong.
    Usage,
    /// The machine lacks something.
    Missing,
    /// The run is invalid: its audit failed. Wins over `Failed`.
    Invalid,
    /// By the user; partial results are there.
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Missing => 3,
            Exit::Invalid => 4,
            Exit::Interrupted => 130,
        })
    }
}

/// A trace-replay emulation testbed with real networking, for live migration and load balancing of
/// virtual machines.
///
/// Emulated hosts are processes in network namespaces of their own; their VMs replay recorded CPU,
/// page-write and network traces; a migration's pages cross a shaped network as real TCP, so that
/// transfer time and downtime are measured.
#[derive(Debug, Parser)]
#[command(
    name = "migbed",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit codes: 0 done; 1 an expectation or verification failed; 2 usage or \
    scenario error; 3 the machine lacks something; 4 run invalid; 130 interrupted."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a scenario and write a run directory with a report.
    Run(run::RunArgs),
    /// Run again what a run directory holds, from that directory alone.
    Rerun(run::RerunArgs),
    /// Check a scenario and show what it resolves to, without running it.
    Check(check::CheckArgs),
    /// Migrate one VM over one link and print what came out.
    Migrate(Box<migrate::MigrateArgs>),
    /// Build a scenario's network without its VMs, measure it, print asked against got.
    Links(links::LinksArgs),
    /// Rebuild the tables and the report of a run directory from its events.
    Report(report::ReportArgs),
    /// Replay migrations that were measured elsewhere and print the error.
    #[command(subcommand)]
    Validate(validate::ValidateCommand),
    /// Import, record, complete, characterise and foretell traces.
    #[command(subcommand)]
    Trace(Box<trace::TraceCommand>),
    /// Tell what this machine offers and lacks, with the remedy.
    Doctor(doctor::DoctorArgs),
    /// A machine; started by migbed itself.
    #[command(hide = true)]
    Machine,
    /// An emulated host; started by a machine.
    #[command(hide = true)]
    Agent,
    /// A VM that answers and asks; started by a machine.
    #[command(hide = true)]
    Vm,
}

/// Parses the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log();
    let done = match cli.command {
        Command::Machine => return hidden(crate::machine::machine_main()),
        Command::Agent => return hidden(crate::agent::agent_main()),
        Command::Vm => return hidden(crate::agent::vm_main()),
        Command::Run(args) => args.execute(),
        Command::Rerun(args) => args.execute(),
        Command::Check(args) => args.execute(),
        Command::Migrate(args) => args.execute(),
        Command::Links(args) => args.execute(),
        Command::Report(args) => args.execute(),
        Command::Validate(command) => command.execute(),
        Command::Trace(command) => command.execute(),
        Command::Doctor(args) => Ok(args.execute()),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(error) => fail(&error).into(),
    }
}

/// Logs are for people: warnings by default, more with MIGBED_LOG. Measurements never go there.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MIGBED_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
}

/// Prints an error with its causes and picks the exit code from its kind.
fn fail(error: &anyhow::Error) -> Exit {
    if let Some(problem) = error.downcast_ref::<crate::scenario::ScenarioError>() {
        eprintln!("{problem}");
        return Exit::Usage;
    }
    eprintln!("migbed: {error:#}");
    if error.is::<crate::run::MissingCapability>() {
        Exit::Missing
    } else if error.is::<crate::run::Unusable>() {
        Exit::Usage
    } else {
        Exit::Failed
    }
}

fn hidden(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("migbed (internal process): {error:#}");
        ExitCode::FAILURE
    })
}
