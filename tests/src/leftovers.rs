//! What a run could leave behind: processes, network namespaces, devices, files.

use crate::processes::{self, Process};
use crate::sandbox::Sandbox;
use crate::wait::wait_for;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the kernel may take to tear down what a killed run held.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// The machine before a run.
#[derive(Debug)]
pub struct Before {
    devices: BTreeSet<String>,
    named_namespaces: BTreeSet<String>,
    mounts: BTreeSet<String>,
    shared_memory: BTreeSet<String>,
}

impl Before {
    /// As it is now.
    #[must_use]
    pub fn now() -> Self {
        Self {
            devices: names(Path::new("/sys/class/net")),
            named_namespaces: names(Path::new("/run/netns")),
            mounts: namespace_mounts(),
            shared_memory: ours_in(Path::new("/dev/shm")),
        }
    }

    /// Fails unless everything a run made is gone within five seconds, but for its run directories
    /// (`keep`, names in the sandbox's working folder) and what its test put there itself.
    /// `processes` and `namespaces` are what was seen of the run while it ran.
    ///
    /// # Panics
    /// With what is left.
    pub fn nothing_left(
        &self,
        sandbox: &Sandbox,
        processes: &BTreeSet<Process>,
        namespaces: &BTreeSet<PathBuf>,
        keep: &[&str],
    ) {
        let mut left = Vec::new();
        let gone = wait_for(GONE_WITHIN, || {
            left = self.left(sandbox, processes, namespaces, keep);
            left.is_empty().then_some(())
        });
        assert!(
            gone.is_some(),
            "left behind after {GONE_WITHIN:?}: {left:#?}"
        );
    }

    /// What is there now that was not before, and is neither kept nor gone.
    #[must_use]
    pub fn left(
        &self,
        sandbox: &Sandbox,
        processes: &BTreeSet<Process>,
        namespaces: &BTreeSet<PathBuf>,
        keep: &[&str],
    ) -> Vec<String> {
        let now = Self::now();
        let mut left: Vec<String> = processes
            .iter()
            .filter(|process| process.lives())
            .map(|process| format!("process {process:?}"))
            .collect();
        for process in processes::all() {
            match marked(&process, sandbox.marker()) {
                Some(true) => left.push(format!("process {process:?}")),
                // Somebody else's: the kernel gives numbers of namespaces again at once.
                Some(false) => {}
                None => left.extend(holds(&process, namespaces)),
            }
        }
        let new = |what: &str, now: &BTreeSet<String>, before: &BTreeSet<String>| -> Vec<String> {
            let new = now.difference(before);
            new.map(|name| format!("{what} {name}")).collect()
        };
        left.extend(new("device", &now.devices, &self.devices));
        left.extend(new(
            "namespace",
            &now.named_namespaces,
            &self.named_namespaces,
        ));
        left.extend(new("mount", &now.mounts, &self.mounts));
        left.extend(new(
            "shared memory",
            &now.shared_memory,
            &self.shared_memory,
        ));
        let kept: BTreeSet<String> = keep.iter().map(|&name| name.to_owned()).collect();
        left.extend(new("file", &names(&sandbox.work()), &kept));
        for empty in [sandbox.temporary(), sandbox.home()] {
            left.extend(new("file", &names(&empty), &BTreeSet::new()));
        }
        left
    }
}

/// The network namespaces some processes are in.
pub(crate) fn namespaces(processes: &BTreeSet<Process>) -> BTreeSet<PathBuf> {
    let links = processes.iter().filter_map(|p| p.link("ns/net"));
    let own = fs::read_link("/proc/self/ns/net").ok();
    links.filter(|link| Some(link) != own.as_ref()).collect()
}

/// Whether a process has the sandbox's mark in its environment; `None` where we may not look.
fn marked(process: &Process, marker: &str) -> Option<bool> {
    let environment = fs::read(format!("/proc/{}/environ", process.pid)).ok()?;
    let mut entries = environment.split(|&byte| byte == 0);
    Some(entries.any(|entry| entry == marker.as_bytes()))
}

fn holds(process: &Process, namespaces: &BTreeSet<PathBuf>) -> Option<String> {
    let held = process.link("ns/net")?;
    let ours = namespaces.contains(&held);
    ours.then(|| format!("namespace {} held by {process:?}", held.display()))
}

/// Names in a folder; none when it is not there.
fn names(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return BTreeSet::new();
    };
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    entries.filter_map(Result::ok).map(name).collect()
}

fn ours_in(folder: &Path) -> BTreeSet<String> {
    let all = names(folder);
    all.into_iter()
        .filter(|name| name.contains("migbed"))
        .collect()
}

/// Namespaces that are kept by mounting them somewhere.
fn namespace_mounts() -> BTreeSet<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let kept = mounts.lines().filter(|line| line.contains(" - nsfs "));
    kept.map(str::to_owned).collect()
}
