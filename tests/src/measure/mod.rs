//! What the hand-run benchmarks share: a path through a backend, outside tools, figures as text, statistics.
//!
//! Never inside: what is asked, or what is good enough.

pub mod equivalence;
pub mod figures;
pub mod path;
pub mod probe;
pub mod tools;
pub mod usage;

use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use netmodel::sys::clock::{now_ns, wait_until};

/// This very program again, in a process of its own: a machine's namespaces are entered once and for all. The answer
/// is the one line of JSON it prints.
///
/// # Errors
/// When it fails, takes longer than `within_s`, or prints something else.
pub fn cell(arguments: &[&str], within_s: u64) -> Result<serde_json::Value> {
    let mut command = Command::new("/proc/self/exe");
    let child = command.args(arguments).stdout(Stdio::piped()).spawn()?;
    let output = finish(child, within_s)?;
    if !output.status.success() {
        bail!("`{}` ended with {}", arguments.join(" "), output.status);
    }
    let text = String::from_utf8(output.stdout)?;
    serde_json::from_str(&text)
        .with_context(|| format!("`{}` printed {text:?}", arguments.join(" ")))
}

/// Waits for the end of a process that prints less than a pipe holds (64 KiB); one that takes longer is killed.
///
/// # Errors
/// When it cannot be waited for, or took too long.
pub fn finish(mut child: Child, within_s: u64) -> Result<Output> {
    let deadline_ns = now_ns() + within_s * 1_000_000_000;
    while child.try_wait()?.is_none() {
        if now_ns() > deadline_ns {
            child.kill()?;
            child.wait()?;
            bail!(
                "process {} took more than {within_s} s and was killed",
                child.id()
            );
        }
        wait_until(now_ns() + POLL_NS)?;
    }
    Ok(child.wait_with_output()?)
}

/// Fifty looks a second cost nothing that could be measured here.
const POLL_NS: u64 = 20_000_000;

/// Options as `--name value`; what `cargo bench` adds itself is skipped.
#[derive(Debug)]
pub struct Options(Vec<(String, String)>);

impl Options {
    /// Those this program was given.
    ///
    /// # Errors
    /// When the last one has no value.
    pub fn read() -> Result<Self> {
        let mut pairs = Vec::new();
        let mut arguments = std::env::args()
            .skip(1)
            .filter(|argument| argument != "--bench");
        while let Some(name) = arguments.next() {
            let value = arguments.next();
            pairs.push((
                name.clone(),
                value.with_context(|| format!("{name} needs a value"))?,
            ));
        }
        Ok(Self(pairs))
    }

    /// Takes an option out, or its default.
    #[must_use]
    pub fn take(&mut self, name: &str, default: &str) -> String {
        match self.0.iter().position(|(found, _)| found == name) {
            Some(at) => self.0.remove(at).1,
            None => default.to_owned(),
        }
    }

    /// Whatever was not taken is a mistake.
    ///
    /// # Errors
    /// Naming it.
    pub fn done(self) -> Result<()> {
        match self.0.first() {
            Some((name, _)) => bail!("unknown option {name}"),
            None => Ok(()),
        }
    }
}
