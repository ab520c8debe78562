//! The process of a VM that has an address of its own: its sockets and the threads that answer and
//! ask. It is born in the VM's network namespace and stays where it is when the VM moves: the
//! namespace is attached to another host, and the CPU time of answers is asked of another agent.
//!
//! Never inside: the guest's memory and its clock (its host's agent has them), the network.

use super::cpu::{Cpu, beside};
use super::ends::Ends;
use super::service::MakeWork;
use crate::control::channel::{BlockingReceiver, BlockingSender, check_protocol, inherited};
use crate::control::message::{FromAgent, PROTOCOL, ToAgent};
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

/// The process of a VM.
///
/// # Errors
/// When it was not started by a machine, or the machine speaks another version.
pub fn vm_main() -> Result<ExitCode> {
    let control = inherited().context("this subcommand is started by migbed itself")?;
    let out = Arc::new(BlockingSender::new(control.try_clone()?));
    let mut messages = BlockingReceiver::<ToAgent>::new(control);
    out.send(&FromAgent::Hello { protocol: PROTOCOL })?;
    let setup = match messages.recv()? {
        Some(ToAgent::BeVm(setup)) => *setup,
        Some(other) => bail!("expected a VM's setup, got {other:?}"),
        None => return Ok(ExitCode::SUCCESS),
    };
    check_protocol(setup.protocol)?;
    let fabric = beside().context("the fabric's namespace")?;
    let cpu = Arc::new(Cpu::new(setup.vm, setup.host, fabric));
    let at = SocketAddr::new(setup.address.into(), 0);
    let mut ends = Ends::new(at, setup.congestion, Arc::clone(&out));
    let unique_bytes = crate::computer::own_unique_bytes().unwrap_or(0);
    out.send(&FromAgent::SetUp(Ok(unique_bytes)))?;
    while let Some(message) = messages.recv()? {
        match message {
            ToAgent::Shutdown => break,
            ToAgent::RunsAt(host) => cpu.runs_on(host),
            ToAgent::Advance { .. } | ToAgent::Sample { .. } => ends.tell()?,
            message => {
                let asks = Arc::clone(&cpu);
                let serves = Arc::clone(&cpu);
                let work: MakeWork = Arc::new(move || serves.work());
                ends.obey(message, Box::new(move || asks.runs()), Some(work))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
