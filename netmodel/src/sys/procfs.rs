//! Settings and counters the kernel keeps in files.

use std::fs;
use std::io;
use std::path::Path;

/// Writes a setting below /proc/sys in the calling thread's namespace and reads back what the kernel made of it.
///
/// # Errors
/// The kernel's refusal, or that it has no such setting.
pub fn write_sysctl(key: &str, value: &str) -> io::Result<String> {
    let path = Path::new("/proc/sys").join(key);
    fs::write(&path, value)?;
    let now = fs::read_to_string(&path)?;
    Ok(now.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Packets the receive backlogs of all CPUs have dropped since boot.
#[must_use]
pub fn backlog_drops() -> Option<u64> {
    let text = fs::read_to_string("/proc/net/softnet_stat").ok()?;
    let column = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().map(column).sum()
}

/// How long a thread ran and how long it waited for a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedStat {
    /// Time on a CPU.
    pub run_ns: u64,
    /// Time runnable without a CPU.
    pub run_delay_ns: u64,
}

/// The calling thread's own figures; by `/proc/thread-self`, because PIDs differ inside a PID namespace.
#[must_use]
pub fn own_schedstat() -> Option<SchedStat> {
    parse_schedstat(&fs::read_to_string("/proc/thread-self/schedstat").ok()?)
}

fn parse_schedstat(text: &str) -> Option<SchedStat> {
    let mut fields = text.split_whitespace().map(str::parse);
    Some(SchedStat {
        run_ns: fields.next()?.ok()?,
        run_delay_ns: fields.next()?.ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_is_run_then_delay() {
        let stat = SchedStat {
            run_ns: 12,
            run_delay_ns: 34,
        };
        assert_eq!(parse_schedstat("12 34 5\n"), Some(stat));
        assert_eq!(parse_schedstat(""), None);
    }
}
