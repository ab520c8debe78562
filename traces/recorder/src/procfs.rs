//! What `/proc` says of a process beside its pages: memory, threads, network.
//!
//! Texts in, values out, and the reading of the files. A value that is not there is `None`.

use std::collections::BTreeMap;
use std::fs;

/// Memory of a process (`smaps_rollup`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct MemoryUse {
    /// Resident.
    pub(crate) rss_bytes: u64,
    /// Resident, shared pages divided by those who share them: what can be added up.
    pub(crate) pss_bytes: u64,
    /// Accessed since [`clear_accessed`].
    pub(crate) accessed_bytes: u64,
}

pub(crate) fn memory_use(pid: i32) -> Option<MemoryUse> {
    parse_rollup(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

fn parse_rollup(text: &str) -> Option<MemoryUse> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kilobytes.checked_mul(1024)
    };
    Some(MemoryUse {
        rss_bytes: field("Rss:")?,
        pss_bytes: field("Pss:")?,
        accessed_bytes: field("Referenced:")?,
    })
}

/// Clears the accessed bits of a process's pages; false when that is not possible.
pub(crate) fn clear_accessed(pid: i32) -> bool {
    fs::write(format!("/proc/{pid}/clear_refs"), "1").is_ok()
}

/// A thread and the CPU time it has used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ThreadUse {
    pub(crate) tid: i32,
    pub(crate) name: String,
    pub(crate) cpu_ns: u64,
}

/// The threads of a process, those that just ended left out.
pub(crate) fn threads(pid: i32) -> Vec<ThreadUse> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let thread = |tid: i32| {
        let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/task/{tid}/{file}")).ok();
        let cpu_ns = of("schedstat")?.split(' ').next()?.parse().ok()?;
        let name = of("comm")?.trim_end().to_owned();
        Some(ThreadUse { tid, name, cpu_ns })
    };
    tasks
        .flatten()
        .filter_map(|entry| thread(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}

/// Bytes received and sent by a network namespace so far, all its devices together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct NetUse {
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
    /// Of these, over the loopback device, where each byte is both received and sent.
    pub(crate) loopback_bytes: u64,
}

pub(crate) fn net_use(pid: &str) -> Option<NetUse> {
    parse_net_dev(&fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?)
}

fn parse_net_dev(text: &str) -> Option<NetUse> {
    let mut sum = NetUse::default();
    for line in text.lines().skip(2) {
        let (device, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters
            .split_ascii_whitespace()
            .map(|counter| counter.parse().ok())
            .collect::<Option<_>>()?;
        let (rx, tx) = (*counters.first()?, *counters.get(8)?);
        sum.rx_bytes = sum.rx_bytes.checked_add(rx)?;
        sum.tx_bytes = sum.tx_bytes.checked_add(tx)?;
        if device.trim() == "lo" {
            sum.loopback_bytes = rx;
        }
    }
    Some(sum)
}

/// Parents of all processes of this machine that may be seen.
pub(crate) fn parents() -> BTreeMap<i32, i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name is in brackets and may hold anything, brackets too.
            let after = &stat[stat.rfind(')')? + 1..];
            Some((pid, after.split_ascii_whitespace().nth(1)?.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rollup_is_read_in_bytes() {
        let text = "55d0-7ffd ---p 00000000 00:00 0 [rollup]\nRss:   1916 kB\nPss:  300 kB\n\
                    Pss_Anon: 9 kB\nReferenced:     1808 kB\n";
        let memory = parse_rollup(text).unwrap();
        assert_eq!(memory.rss_bytes, 1916 * 1024);
        assert_eq!(memory.pss_bytes, 300 * 1024);
        assert_eq!(memory.accessed_bytes, 1808 * 1024);
        assert_eq!(parse_rollup("Rss: x kB"), None);
    }

    #[test]
    fn network_bytes_of_all_devices() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 100 1 0 0 0 0 0 0 100 1 0 0 0 0 0 0\n\
                    eth0:   7 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n";
        let net = parse_net_dev(text).unwrap();
        assert_eq!(
            (net.rx_bytes, net.tx_bytes, net.loopback_bytes),
            (107, 109, 100)
        );
    }

    #[test]
    fn this_process_has_threads_memory_and_a_parent() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(memory_use(own).unwrap().rss_bytes > 0);
        assert!(threads(own).iter().any(|thread| thread.tid == own));
        assert!(parents().contains_key(&own));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in ".{0,300}") {
            let _ = parse_rollup(&text);
            let _ = parse_net_dev(&text);
        }
    }
}
