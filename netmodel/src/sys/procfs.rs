//! Settings and counters the kernel keeps in files.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

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

/// What all CPUs of this computer did since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ComputerTime {
    /// Time of all CPUs together, used or not.
    pub cpu_ns: u64,
    /// Of that, taken by the hypervisor while there was something to do; zero on bare metal.
    pub steal_ns: u64,
    /// Time in which somebody waited for a CPU (pressure stall information), if the kernel tells.
    pub pressure_ns: Option<u64>,
}

/// Reads this computer's CPU time.
#[must_use]
pub fn computer_time() -> Option<ComputerTime> {
    let mut time = parse_stat(&fs::read_to_string("/proc/stat").ok()?)?;
    let pressure = fs::read_to_string("/proc/pressure/cpu").ok();
    time.pressure_ns = pressure.as_deref().and_then(parse_pressure);
    Some(time)
}

/// USER_HZ: the unit of /proc/stat, 100 on every architecture this runs on (the kernel's own HZ does not matter).
const TICK_NS: u64 = 10_000_000;
/// user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user.
const STEAL: usize = 7;

fn parse_stat(text: &str) -> Option<ComputerTime> {
    let all = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks = all.split_whitespace().take(STEAL + 1).map(str::parse);
    let ticks: Vec<u64> = ticks.collect::<Result<_, _>>().ok()?;
    let ns = |ticks: u64| ticks.saturating_mul(TICK_NS);
    Some(ComputerTime {
        cpu_ns: ns(ticks.iter().fold(0, |sum, t| sum.saturating_add(*t))),
        steal_ns: ns(*ticks.get(STEAL)?),
        pressure_ns: None,
    })
}

/// `some avg10=… avg60=… avg300=… total=<µs>`.
fn parse_pressure(text: &str) -> Option<u64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let total = some
        .split_whitespace()
        .find_map(|word| word.strip_prefix("total="))?;
    Some(total.parse::<u64>().ok()?.saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn steal_is_the_eighth_column_in_hundredths_of_a_second() {
        let text = "cpu  136911 0 26177 269019 1410 0 162 290 7 0\ncpu0 66386 0 1 1 1 0 1 1 0 0\n";
        let time = ComputerTime {
            cpu_ns: (136_911 + 26_177 + 269_019 + 1_410 + 162 + 290) * TICK_NS,
            steal_ns: 2_900_000_000,
            pressure_ns: None,
        };
        assert_eq!(parse_stat(text), Some(time));
        assert_eq!(parse_stat("cpu 1 2 3"), None);
    }

    #[test]
    fn pressure_is_the_total_of_those_who_waited() {
        let text =
            "some avg10=99.00 avg60=96.67 avg300=56.60 total=301891440\nfull avg10=0.00 total=9\n";
        assert_eq!(parse_pressure(text), Some(301_891_440_000));
        assert_eq!(parse_pressure("full total=9"), None);
    }

    proptest! {
        #[test]
        fn any_text_gives_a_value_or_nothing(text: String) {
            let _ = parse_stat(&format!("cpu {text}"));
            let _ = parse_pressure(&format!("some {text}"));
            let _ = parse_schedstat(&text);
        }
    }

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
