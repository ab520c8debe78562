//! A whole computer: CPU, memory, network and disk per tick, from `/proc`, as a bundle of one VM.

use std::fs;
use std::time::Duration;

use crate::bundle;
use crate::procfs;
use crate::sys::clock;
use traces::store::bundle::{Bundle, VmMeta};
use traces::store::series::{Interval, Metric, Series};

/// Counters of the computer at one instant. What cannot be read is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counters {
    /// Time the processors were busy, in USER_HZ (100 a second on every Linux there is).
    busy_ticks: Option<u64>,
    mem_used_bytes: Option<u64>,
    mem_active_bytes: Option<u64>,
    net_rx_bytes: Option<u64>,
    net_tx_bytes: Option<u64>,
    disk_rd_bytes: Option<u64>,
    disk_wr_bytes: Option<u64>,
}

/// Why there is no recording of this computer.
#[derive(Debug, thiserror::Error)]
pub enum ProcstatError {
    /// `/proc/stat` is what all of it rests on.
    #[error("/proc/stat: {0}")]
    Stat(std::io::Error),
    /// Nothing was recorded before the end.
    #[error("the recording ended within its first interval of {tick:?}")]
    TooShort {
        /// The interval.
        tick: Duration,
    },
}

/// Records this computer every `tick`, for `duration` or until a signal (INT, TERM, HUP) asks for the end.
/// Network bytes leave the loopback device out: they never leave the computer.
///
/// # Errors
/// When there is no `/proc/stat`, or the end comes within the first interval.
pub fn procstat(
    tick: Duration,
    duration: Option<Duration>,
    title: &str,
) -> Result<Bundle, ProcstatError> {
    let _signals = clock::StopSignals::block();
    let stat = fs::read_to_string("/proc/stat").map_err(ProcstatError::Stat)?;
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let start = clock::now_ns();
    let end = duration.map_or(u64::MAX, |duration| start.saturating_add(nanos(duration)));
    let mut series = Series::default();
    let (mut before, mut before_ms) = (read(), 0u64);
    let mut deadline = start;
    loop {
        deadline = deadline.saturating_add(nanos(tick)).max(clock::now_ns());
        let asked = clock::wait_until(deadline.min(end));
        let now_ms = (clock::now_ns() - start) / 1_000_000;
        let now = read();
        if let Ok(dur_ms) = u32::try_from(now_ms - before_ms) {
            let interval = Interval {
                t_ms: i64::try_from(before_ms).unwrap_or(i64::MAX),
                dur_ms,
                flags: 0,
            };
            // Refuses an interval of no length only, which says nothing.
            let _ = series.push(interval, &values(&before, &now, dur_ms));
        }
        (before, before_ms) = (now, now_ms);
        if asked || clock::now_ns() >= end {
            break;
        }
    }
    if series.intervals().is_empty() {
        return Err(ProcstatError::TooShort { tick });
    }
    let mut bundle = bundle::empty(title, "recorded from /proc of a computer", "procstat");
    let mut vm = VmMeta::named("computer");
    vm.vcpus = u32::try_from(processors(&stat)).ok();
    vm.mem_bytes = meminfo("MemTotal:");
    bundle::put(&mut bundle, vm, series);
    Ok(bundle)
}

fn values(before: &Counters, now: &Counters, dur_ms: u32) -> Vec<(Metric, Option<u64>)> {
    let since = |field: fn(&Counters) -> Option<u64>| field(now)?.checked_sub(field(before)?);
    // 10 ms a tick, thousandths of a core.
    let milli = |ticks: u64| ticks.saturating_mul(10_000).checked_div(u64::from(dur_ms));
    vec![
        (Metric::CpuMilli, since(|c| c.busy_ticks).and_then(milli)),
        (Metric::MemUsedBytes, now.mem_used_bytes),
        (Metric::MemActiveBytes, now.mem_active_bytes),
        (Metric::NetRxBytes, since(|c| c.net_rx_bytes)),
        (Metric::NetTxBytes, since(|c| c.net_tx_bytes)),
        (Metric::DiskRdBytes, since(|c| c.disk_rd_bytes)),
        (Metric::DiskWrBytes, since(|c| c.disk_wr_bytes)),
    ]
}

fn read() -> Counters {
    let stat = fs::read_to_string("/proc/stat").ok();
    let disks = fs::read_to_string("/proc/diskstats").ok();
    let disks = disks.as_deref().and_then(|text| {
        sectors(text, |name| {
            fs::metadata(format!("/sys/block/{name}")).is_ok()
        })
    });
    let net = procfs::net_use("self");
    let external = |field: fn(&procfs::NetUse) -> u64| {
        let net = net.as_ref()?;
        field(net).checked_sub(net.loopback_bytes)
    };
    let used = meminfo("MemTotal:").zip(meminfo("MemAvailable:"));
    Counters {
        busy_ticks: stat.as_deref().and_then(busy),
        mem_used_bytes: used.and_then(|(total, available)| total.checked_sub(available)),
        mem_active_bytes: meminfo("Active:"),
        net_rx_bytes: external(|net| net.rx_bytes),
        net_tx_bytes: external(|net| net.tx_bytes),
        disk_rd_bytes: disks.map(|(read, _)| read * 512),
        disk_wr_bytes: disks.map(|(_, written)| written * 512),
    }
}

/// Busy time of all processors: everything but idle and waiting for disks. Time stolen by the
/// hypervisor is not use, time of guests is in user time already.
fn busy(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line
        .split_ascii_whitespace()
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields[..] else {
        return None;
    };
    [nice, system, irq, softirq]
        .into_iter()
        .try_fold(user, u64::checked_add)
}

fn processors(stat: &str) -> usize {
    let digit = |line: &&str| {
        line.strip_prefix("cpu")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    stat.lines().filter(digit).count()
}

fn meminfo(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Sectors (of 512 bytes, whatever the disk's) read and written by whole disks. Partitions repeat what
/// their disk counts; devices stacked on others (`dm-`, `md`) and in memory (`loop`, `ram`, `zram`) too.
fn sectors(text: &str, is_disk: impl Fn(&str) -> bool) -> Option<(u64, u64)> {
    let mut sum = (0u64, 0u64);
    for line in text.lines() {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let name = *fields.get(2)?;
        let stacked = ["dm-", "md", "loop", "ram", "zram"];
        if stacked.iter().any(|kind| name.starts_with(kind)) || !is_disk(name) {
            continue;
        }
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        sum.0 = sum.0.checked_add(number(5)?)?;
        sum.1 = sum.1.checked_add(number(9)?)?;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn busy_time_leaves_idle_waiting_and_steal_out() {
        let stat = "cpu  100 5 30 1000 50 2 3 400 70 0\ncpu0 1 1 1 1 1 1 1 1 1 1\ncpu1 1\nctxt 7\n";
        assert_eq!(busy(stat), Some(140));
        assert_eq!(processors(stat), 2);
        assert_eq!(busy("cpu  1 2\n"), None);
    }

    #[test]
    fn disks_are_counted_once() {
        let text = " 8 0 sda 1 0 10 0 1 0 20 0 0 0 0\n 8 1 sda1 1 0 10 0 1 0 20 0 0 0 0\n\
                    253 0 dm-0 1 0 10 0 1 0 20 0 0 0 0\n";
        assert_eq!(
            sectors(text, |name| name == "sda" || name == "dm-0"),
            Some((10, 20))
        );
    }

    #[test]
    fn this_computer_is_recorded() {
        let (tick, duration) = (Duration::from_millis(40), Some(Duration::from_millis(130)));
        let bundle = procstat(tick, duration, "here").unwrap();
        let series = &bundle.samples[&0];
        assert!((3..=5).contains(&series.intervals().len()));
        assert!(series.values(Metric::MemUsedBytes).all(|bytes| bytes > 0));
        assert!(series.values(Metric::CpuMilli).count() >= 3);
        assert!(bundle.vms[0].vcpus.is_some_and(|vcpus| vcpus > 0));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[a-z0-9 \n-]{0,300}") {
            let _ = busy(&text);
            let _ = sectors(&text, |_| true);
        }
    }
}
