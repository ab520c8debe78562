//! What this computer offers, found by trying, for `migbed doctor`.
//!
//! Namespaces are tried in a forked child, so that the caller stays where it is. Each lack comes with its remedy.

mod kernel;

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// The name of what post-copy of memory that is there needs.
pub const USERFAULTFD: &str = "userfaultfd";

/// One thing a computer may offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// Stable name.
    pub name: String,
    /// Whether it is there; none for plain facts such as the kernel's release.
    pub present: Option<bool>,
    /// Whether migbed cannot run without it.
    pub required: bool,
    /// What was found, or the kernel's refusal.
    pub detail: String,
    /// What to do about a lack; empty when there is nothing to do.
    pub remedy: String,
}

/// Everything probed, in a fixed order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capabilities(pub Vec<Capability>);

impl Capabilities {
    /// What is required and missing.
    pub fn missing(&self) -> impl Iterator<Item = &Capability> {
        self.0
            .iter()
            .filter(|c| c.required && c.present == Some(false))
    }

    /// Whether a capability is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0
            .iter()
            .any(|c| c.name == name && c.present == Some(true))
    }
}

/// Tries everything; takes some milliseconds and leaves nothing behind.
///
/// Forks, so call it while the process has one thread; with more, the forked child could inherit a held lock.
#[must_use]
pub fn probe() -> Capabilities {
    let mut found = facts();
    found.extend(settings());
    found.extend(kernel::namespaces());
    found.extend(kernel::userfault());
    found.push(congestion_control());
    found.push(cpu_controller());
    Capabilities(found)
}

fn fact(name: &str, detail: String) -> Capability {
    Capability {
        name: name.to_owned(),
        present: None,
        required: false,
        detail,
        remedy: String::new(),
    }
}

/// A capability by the outcome of trying it.
fn tried(name: &str, outcome: Result<String, String>, remedy: &str) -> Capability {
    let present = outcome.is_ok();
    let detail = outcome.unwrap_or_else(|refusal| refusal);
    let remedy = if present {
        String::new()
    } else {
        remedy.to_owned()
    };
    Capability {
        name: name.to_owned(),
        present: Some(present),
        required: false,
        detail,
        remedy,
    }
}

fn facts() -> Vec<Capability> {
    let read = |path: &str| fs::read_to_string(path).map_err(|e| e.to_string());
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_else(|e| e);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = read("/proc/meminfo").unwrap_or_else(|e| e);
    let wanted = |line: &&str| line.starts_with("MemTotal") || line.starts_with("MemAvailable");
    let memory: Vec<String> = memory.lines().filter(wanted).map(squeeze).collect();
    vec![
        fact("kernel", release.trim().to_owned()),
        fact("cpus", cpus.to_string()),
        fact("memory", memory.join(", ")),
    ]
}

fn squeeze(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Settings that forbid user namespaces, with the value that forbids.
const FORBIDDING: [(&str, &str, &str); 3] = [
    (
        "kernel/unprivileged_userns_clone",
        "0",
        "sysctl kernel.unprivileged_userns_clone=1",
    ),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run as root",
    ),
    (
        "user/max_user_namespaces",
        "0",
        "sysctl user.max_user_namespaces=10000",
    ),
];

fn settings() -> Vec<Capability> {
    let check = |&(key, forbids, remedy): &(&str, &str, &str)| {
        let outcome = match fs::read_to_string(format!("/proc/sys/{key}")) {
            Ok(value) if value.trim() == forbids => Err(format!("{key} is {forbids}")),
            Ok(value) => Ok(format!("{key} is {}", value.trim())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok("not on this kernel".to_owned()),
            Err(e) => Err(e.to_string()),
        };
        tried(&format!("sysctl {key}"), outcome, remedy)
    };
    FORBIDDING.iter().map(check).collect()
}

fn congestion_control() -> Capability {
    let available = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
    let outcome = match available {
        Ok(list) if list.split_whitespace().any(|name| name == "cubic") => Ok(squeeze(&list)),
        Ok(list) => Err(format!("no cubic; there is: {}", squeeze(&list))),
        Err(e) => Err(e.to_string()),
    };
    tried(
        "tcp-cubic",
        outcome,
        "modprobe tcp_cubic; without it streams use reno",
    )
}

fn cpu_controller() -> Capability {
    let outcome = match fs::read_to_string("/sys/fs/cgroup/cgroup.controllers") {
        Ok(list) if list.split_whitespace().any(|name| name == "cpu") => Ok(squeeze(&list)),
        Ok(list) => Err(format!(
            "no cpu controller here; there is: {}",
            squeeze(&list)
        )),
        Err(_) => Err("cgroup v2 is not mounted at /sys/fs/cgroup".to_owned()),
    };
    tried(
        "cgroup2-cpu",
        outcome,
        "not needed: CPU contention is modelled",
    )
}
