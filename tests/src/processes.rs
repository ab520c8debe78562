//! Processes as /proc shows them: who descends from whom, and who still lives.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// A process, told apart from later ones of the same number by its start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Clock ticks since boot; first, so that processes sort in the order they started in.
    pub started_ticks: u64,
    /// Its number.
    pub pid: i32,
    /// Its parent's number.
    pub parent: i32,
    /// Its arguments, by spaces.
    pub arguments: String,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in brackets and may hold anything, brackets too.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // Dead and waiting for its parent to look: holds nothing any more.
        if matches!(*fields.first()?, "Z" | "X") {
            return None;
        }
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        Some(Self {
            started_ticks: fields.get(19)?.parse().ok()?,
            pid,
            parent: fields.get(1)?.parse().ok()?,
            arguments: arguments.trim_end().to_owned(),
        })
    }

    /// Whether it still runs.
    #[must_use]
    pub fn lives(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.started_ticks == self.started_ticks)
    }

    /// Ends it with SIGKILL.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn kill(&self) {
        self.signal(nix::sys::signal::Signal::SIGKILL);
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has gone, or the kernel refuses.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        assert!(self.lives(), "{self:?} has gone");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), signal)
            .expect("a process of our own takes signals");
    }

    /// What a link in its folder of /proc points to, where we may look.
    pub(crate) fn link(&self, name: &str) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/{name}", self.pid)).ok()
    }
}

/// Every process that lives.
pub(crate) fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc is there");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(Process::read).collect()
}

/// The processes of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// `migbed` itself.
    pub migbed: Process,
    /// The machine's outer process, which only waits.
    pub launcher: Option<Process>,
    /// Process 1 of the machine's namespaces.
    pub init: Option<Process>,
    /// In the order of the scenario's hosts.
    pub agents: Vec<Process>,
}

impl Tree {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> BTreeSet<Process> {
        let above = [
            Some(&self.migbed),
            self.launcher.as_ref(),
            self.init.as_ref(),
        ];
        let above = above.into_iter().flatten();
        above.chain(&self.agents).cloned().collect()
    }
}

/// The processes below `migbed`, which has this number; `None` when it does not live.
#[must_use]
pub fn tree_of(pid: i32) -> Option<Tree> {
    let migbed = Process::read(pid)?;
    let everyone = all();
    let below = |parent: i32, what: &str| -> Vec<Process> {
        let mut found: Vec<Process> = everyone
            .iter()
            .filter(|process| process.parent == parent && process.arguments.ends_with(what))
            .cloned()
            .collect();
        found.sort();
        found
    };
    let launcher = below(pid, " machine").into_iter().next();
    let init = launcher
        .as_ref()
        .and_then(|launcher| below(launcher.pid, " machine").into_iter().next());
    let agents = init
        .as_ref()
        .map_or_else(Vec::new, |init| below(init.pid, " agent"));
    Some(Tree {
        migbed,
        launcher,
        init,
        agents,
    })
}
