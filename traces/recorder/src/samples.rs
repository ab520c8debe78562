//! The samples taken about once a second: memory, accessed bits, threads, network.

use std::collections::BTreeMap;

use crate::procfs::{self, NetUse};
use crate::recording::{Samples, Thread};

/// Bytes of a page.
const PAGE: u64 = traces::units::PAGE_SIZE;
/// Threads named one by one.
const NAMED: usize = 32;

/// Takes samples.
#[derive(Debug)]
pub(crate) struct Sampling {
    columns: Samples,
    /// Of the whole namespace; the program shares ours.
    net: Option<NetUse>,
    accessed: bool,
    threads: BTreeMap<i32, Seen>,
}

#[derive(Debug)]
struct Seen {
    pid: i32,
    name: String,
    first_ns: u64,
    last_ns: u64,
}

impl Sampling {
    pub(crate) fn start() -> Self {
        Self {
            columns: Samples::default(),
            net: procfs::net_use("self"),
            accessed: true,
            threads: BTreeMap::new(),
        }
    }

    /// A sample of these processes; `cpu_ns` used and pages `written` since the one before.
    pub(crate) fn take(&mut self, t_ns: u64, cpu_ns: u64, pids: &[i32], written: Option<u64>) {
        let (mut resident, mut accessed) = (None, None);
        let mut threads = 0u32;
        for &pid in pids {
            if let Some(memory) = procfs::memory_use(pid) {
                *resident.get_or_insert(0) += memory.pss_bytes;
                *accessed.get_or_insert(0) += memory.accessed_bytes;
            }
            self.accessed &= procfs::clear_accessed(pid) || procfs::memory_use(pid).is_none();
            for thread in procfs::threads(pid) {
                threads += 1;
                let (cpu, name) = (thread.cpu_ns, thread.name);
                let seen = self.threads.entry(thread.tid).or_insert_with(|| Seen {
                    pid,
                    name: name.clone(),
                    first_ns: 0,
                    last_ns: 0,
                });
                if cpu < seen.last_ns {
                    // The number was given to another thread.
                    seen.first_ns += seen.last_ns;
                }
                (seen.last_ns, seen.name) = (cpu, name);
            }
        }
        let net = procfs::net_use("self");
        let since = |field: fn(&NetUse) -> u64| {
            let (now, before) = (net.as_ref()?, self.net.as_ref()?);
            field(now).checked_sub(field(before))
        };
        let columns = &mut self.columns;
        columns.net_rx_bytes.push(since(|net| net.rx_bytes));
        columns.net_tx_bytes.push(since(|net| net.tx_bytes));
        columns
            .net_loopback_bytes
            .push(since(|net| net.loopback_bytes));
        self.net = net;
        columns.t_ms.push(t_ns / 1_000_000);
        columns.cpu_ms.push(cpu_ns / 1_000_000);
        columns.resident_bytes.push(resident);
        // The first sample would hold everything accessed before the bits were cleared.
        let first = columns.accessed_bytes.is_empty();
        let accessed = accessed.filter(|_| self.accessed && !first);
        columns.accessed_bytes.push(accessed);
        let read_only = |(bytes, written): (u64, u64)| (bytes / PAGE).saturating_sub(written);
        columns
            .read_only_pages
            .push(accessed.zip(written).map(read_only));
        columns.processes.push(count(pids.len()));
        columns.threads.push(threads);
    }

    /// Whether accessed bits could be cleared.
    pub(crate) fn accessed_works(&self) -> bool {
        self.accessed
    }

    pub(crate) fn finish(self) -> (Samples, Vec<Thread>) {
        let mut threads: Vec<Thread> = self
            .threads
            .into_iter()
            .map(|(tid, seen)| Thread {
                pid: seen.pid,
                tid,
                name: seen.name,
                cpu_ms: (seen.first_ns + seen.last_ns) / 1_000_000,
            })
            .filter(|thread| thread.cpu_ms > 0)
            .collect();
        threads.sort_by_key(|thread| (std::cmp::Reverse(thread.cpu_ms), thread.tid));
        if threads.len() > NAMED {
            let cpu_ms = threads.drain(NAMED..).map(|thread| thread.cpu_ms).sum();
            threads.push(Thread {
                pid: 0,
                tid: 0,
                name: "others".into(),
                cpu_ms,
            });
        }
        (self.columns, threads)
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_a_row_in_every_column() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut sampling = Sampling::start();
        sampling.take(1_000_000_000, 5_000_000, &[own], Some(3));
        sampling.take(2_000_000_000, 7_000_000, &[own, i32::MAX], Some(1));
        let (samples, threads) = sampling.finish();
        assert_eq!(samples.t_ms, [1000, 2000]);
        assert_eq!(samples.cpu_ms, [5, 7]);
        assert!(samples.resident_bytes[1].is_some_and(|bytes| bytes > 0));
        assert_eq!(samples.accessed_bytes[0], None);
        // Where accessed bits can be cleared: what was accessed less the one page written.
        let pages = |bytes: u64| (bytes / PAGE).saturating_sub(1);
        let expected = samples.accessed_bytes.iter().map(|bytes| bytes.map(pages));
        assert_eq!(samples.read_only_pages, expected.collect::<Vec<_>>());
        assert_eq!(samples.net_rx_bytes.len(), 2);
        assert!(threads.len() <= NAMED + 1);
    }
}
