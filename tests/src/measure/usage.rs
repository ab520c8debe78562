//! Who used the processors while something ran, from /proc.

use std::path::{Path, PathBuf};

use netmodel::sys::clock::now_ns;

/// Processor time of this computer up to an instant, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Busy {
    /// The instant, monotonic.
    pub at_ns: u64,
    /// User and nice.
    pub user_s: f64,
    /// System, interrupts and softirqs.
    pub system_s: f64,
    /// Idle and waiting for a disk.
    pub idle_s: f64,
    /// Taken by the hypervisor.
    pub stolen_s: f64,
}

impl Busy {
    /// All zero where /proc/stat cannot be read.
    #[must_use]
    pub fn now() -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        // cpu user nice system idle iowait irq softirq steal, in ticks of 10 ms (USER_HZ is 100 on every port).
        let ticks: Vec<f64> = line
            .split_whitespace()
            .skip(1)
            .flat_map(str::parse)
            .collect();
        let s = |field: usize| ticks.get(field).copied().unwrap_or(0.0) / 100.0;
        Self {
            at_ns: now_ns(),
            user_s: s(0) + s(1),
            system_s: s(2) + s(5) + s(6),
            idle_s: s(3) + s(4),
            stolen_s: s(7),
        }
    }

    /// Share of the time since `earlier` in which processors ran anything, 0 to 1.
    #[must_use]
    pub fn share_since(&self, earlier: &Self) -> f64 {
        let idle = self.idle_s - earlier.idle_s;
        let busy = self.user_s + self.system_s - earlier.user_s - earlier.system_s;
        let stolen = self.stolen_s - earlier.stolen_s;
        busy / (busy + idle + stolen).max(f64::MIN_POSITIVE)
    }
}

/// Processor time spent for this process, in seconds: its own threads, and all soft interrupts of this computer, in which
/// the kernel does part of a network's work. On a computer that does other things too that part is too much.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    own_s: f64,
    soft_s: f64,
}

impl Spent {
    /// Up to now.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn now() -> std::io::Result<Self> {
        let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)?;
        let s = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        // cpu user nice system idle iowait irq softirq steal, in ticks of 10 ms.
        let field = |n| line.split_whitespace().nth(n)?.parse::<f64>().ok();
        Ok(Self {
            own_s: s(usage.user_time()) + s(usage.system_time()),
            soft_s: field(7).unwrap_or(0.0) / 100.0,
        })
    }

    /// (own threads, soft interrupts) since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> (f64, f64) {
        (self.own_s - earlier.own_s, self.soft_s - earlier.soft_s)
    }
}

/// A thread seen from outside, by its name, among the descendants of a process.
#[derive(Debug)]
pub struct ThreadWatch {
    name: &'static str,
    schedstat: Option<PathBuf>,
    /// (instant, time on a processor, time waiting for one), ns.
    pub seen: Vec<(u64, u64, u64)>,
}

impl ThreadWatch {
    /// Watches for a thread of this name.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            schedstat: None,
            seen: Vec::new(),
        }
    }

    /// Looks once. A thread that is not there yet, or no more, is no error.
    pub fn look(&mut self, ancestor: u32) {
        if self.schedstat.is_none() {
            self.schedstat = descendants(ancestor)
                .into_iter()
                .find_map(|pid| self.thread_of(pid));
        }
        let Some(path) = &self.schedstat else { return };
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut fields = text.split_whitespace().flat_map(str::parse);
        if let Some((run, wait)) = fields.next().zip(fields.next()) {
            self.seen.push((now_ns(), run, wait));
        }
    }

    /// (on a processor, waiting for one) between two instants, in seconds, by the nearest looks outside them.
    #[must_use]
    pub fn between(&self, from_ns: u64, to_ns: u64) -> Option<(f64, f64)> {
        let first = self
            .seen
            .iter()
            .rfind(|(at, ..)| *at <= from_ns)
            .or(self.seen.first())?;
        let last = self
            .seen
            .iter()
            .find(|(at, ..)| *at >= to_ns)
            .or(self.seen.last())?;
        Some((
            (last.1 - first.1) as f64 / 1e9,
            (last.2 - first.2) as f64 / 1e9,
        ))
    }

    fn thread_of(&self, pid: u32) -> Option<PathBuf> {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let named = |task: &Path| {
            std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == self.name)
        };
        let mut paths = tasks.flatten().map(|task| task.path());
        paths
            .find(|task| named(task))
            .map(|task| task.join("schedstat"))
    }
}

/// A process and all below it, by every process's parent in /proc/PID/stat (`children` files are optional in kernels).
fn descendants(ancestor: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let parents: Vec<(u32, u32)> = entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // "pid (name) state parent …"; a name may hold anything, also ") ".
            let parent = stat.rsplit(") ").next()?.split_whitespace().nth(1)?;
            Some((pid, parent.parse().ok()?))
        })
        .collect();
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(&above) = found.get(next) {
        next += 1;
        found.extend(
            parents
                .iter()
                .filter(|(_, parent)| *parent == above)
                .map(|(pid, _)| pid),
        );
    }
    found
}
