//! What tests need a process of one thread for: new user namespaces can be entered in no other.
//!
//! Inside: one word each for what `tests/cli.rs` and `tests/kernel.rs` start. Never inside: checks.

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{getegid, geteuid};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let word = arguments.next().context("what to do?")?;
    let rest: Vec<_> = arguments.collect();
    match word.to_str() {
        Some("without-namespaces") => without_namespaces(&rest),
        Some("parent") => parent(),
        Some("machine") => machine(),
        Some("agent") => wait_for_ever(),
        _ => bail!("nothing is called {}", word.display()),
    }
}

/// Becomes a program that may make no namespaces, as on a computer whose administrator forbids it.
/// Works as root and as an ordinary user: the limit is that of a user namespace of our own.
fn without_namespaces(program: &[std::ffi::OsString]) -> Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER).context("a user namespace")?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    std::fs::write("/proc/sys/user/max_user_namespaces", "0").context("its limit")?;
    let (name, arguments) = program.split_first().context("which program?")?;
    Err(Command::new(name).args(arguments).exec()).context("exec")
}

/// Starts a `machine` and waits; stands for `migbed`.
fn parent() -> Result<()> {
    let mut child = Command::new("/proc/self/exe").arg("machine").spawn()?;
    child.wait()?;
    Ok(())
}

/// The way `migbed machine` starts: two agents below process 1 of new namespaces.
fn machine() -> Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    netmodel::sys::netns::enter_machine()?;
    set_pdeathsig(Signal::SIGKILL)?;
    for _ in 0..2 {
        Command::new("/proc/self/exe")
            .arg("agent")
            .stdin(Stdio::piped())
            .spawn()?;
    }
    wait_for_ever()
}

fn wait_for_ever() -> Result<()> {
    std::io::stdout().flush()?;
    // A pipe whose other end is ours too never ends.
    let (mut read, _write) = std::io::pipe()?;
    read.read_to_end(&mut Vec::new())?;
    Ok(())
}
