//! The samples taken about once a second: memory, accessed bits, threads, network.

use std::collections::{BTreeMap, HashSet};

use crate::procfs::{self, NetUse};
use crate::recording::{Samples, Thread};
use traces::dirty::Run;

/// Bytes of a page.
const PAGE: u64 = traces::units::PAGE_SIZE;
/// Threads named one by one.
const NAMED: usize = 32;

/// Samples over which accessed bits gather before they are read and cleared, in turn. One length would not tell
/// pages that are read all the time from others read in their place a moment later.
const WINDOWS: [u32; 5] = [1, 2, 4, 8, 16];

/// Takes samples.
#[derive(Debug)]
pub(crate) struct Sampling {
    columns: Samples,
    /// Of the whole namespace; the program shares ours.
    net: Option<NetUse>,
    accessed: bool,
    /// Samples until the bits are read, and which of [`WINDOWS`] comes then.
    left: u32,
    next: usize,
    /// When they were cleared, in milliseconds; `None` before the first time.
    cleared_ms: Option<u64>,
    /// Pages written since; `None` where no pages are recorded.
    written: Option<HashSet<u32>>,
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
    /// `pages`: whether pages written are recorded.
    pub(crate) fn start(pages: bool) -> Self {
        Self {
            columns: Samples::default(),
            net: procfs::net_use("self"),
            accessed: true,
            left: 1,
            next: 0,
            cleared_ms: None,
            written: pages.then(HashSet::new),
            threads: BTreeMap::new(),
        }
    }

    /// Pages written in a tick.
    pub(crate) fn wrote(&mut self, runs: &[Run]) {
        let pages = runs.iter().flat_map(|run| run.start..run.start + run.len);
        if let Some(written) = &mut self.written {
            written.extend(pages);
        }
    }

    /// A sample of these processes; `cpu_ns` used since the one before.
    pub(crate) fn take(&mut self, t_ns: u64, cpu_ns: u64, pids: &[i32]) {
        let (mut resident, mut accessed) = (None, None);
        self.left -= 1;
        let over = self.left == 0;
        let mut threads = 0u32;
        for &pid in pids {
            if let Some(memory) = procfs::memory_use(pid) {
                *resident.get_or_insert(0) += memory.pss_bytes;
                *accessed.get_or_insert(0) += memory.accessed_bytes;
            }
            if over {
                self.accessed &= procfs::clear_accessed(pid) || procfs::memory_use(pid).is_none();
            }
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
        let t_ms = t_ns / 1_000_000;
        // The first would hold everything accessed before the bits were cleared.
        let since = self.cleared_ms.filter(|_| over && self.accessed);
        let accessed = accessed.filter(|_| since.is_some());
        columns.accessed_bytes.push(accessed);
        columns.accessed_ms.push(since.map(|since| t_ms - since));
        let written = self.written.as_ref().map(|written| written.len() as u64);
        let read_only = |(bytes, written): (u64, u64)| (bytes / PAGE).saturating_sub(written);
        columns
            .read_only_pages
            .push(accessed.zip(written).map(read_only));
        if over {
            (self.left, self.cleared_ms) = (WINDOWS[self.next], Some(t_ms));
            self.next = (self.next + 1) % WINDOWS.len();
            self.written.iter_mut().for_each(HashSet::clear);
        }
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
        let mut sampling = Sampling::start(true);
        let tick = |page| {
            [Run {
                start: page,
                len: 2,
            }]
        };
        for second in 0..9u32 {
            // Pages 0 and 1 before the bits are cleared; then two of their own a sample.
            sampling.wrote(&tick(second * 2));
            sampling.wrote(&tick(second * 2));
            sampling.take(
                u64::from(second + 1) * 1_000_000_000,
                5_000_000,
                &[own, i32::MAX],
            );
        }
        let (samples, threads) = sampling.finish();
        assert_eq!(
            samples.t_ms,
            [1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000]
        );
        assert_eq!(samples.cpu_ms, [5; 9]);
        assert!(samples.resident_bytes[1].is_some_and(|bytes| bytes > 0));
        if samples.accessed_bytes[1].is_some() {
            // Windows of 1, 2 and 4 samples after the first; the fourth is not over.
            let lengths = [
                None,
                Some(1000),
                None,
                Some(2000),
                None,
                None,
                None,
                Some(4000),
                None,
            ];
            assert_eq!(samples.accessed_ms, lengths);
            let written = lengths.map(|length| length.map(|ms| ms / 1000 * 2));
            let bytes = samples.accessed_bytes.iter().zip(written);
            let read_only =
                bytes.map(|(bytes, written)| Some(((*bytes)? / PAGE).saturating_sub(written?)));
            assert_eq!(samples.read_only_pages, read_only.collect::<Vec<_>>());
        } else {
            assert_eq!(
                samples.accessed_ms, [None; 9],
                "where the bits cannot be cleared"
            );
        }
        assert_eq!(samples.net_rx_bytes.len(), 9);
        assert!(threads.len() <= NAMED + 1);
    }

    #[test]
    fn without_pages_nothing_is_called_read() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut sampling = Sampling::start(false);
        sampling.wrote(&[Run { start: 0, len: 9 }]);
        sampling.take(1_000_000_000, 0, &[own]);
        sampling.take(2_000_000_000, 0, &[own]);
        let (samples, _) = sampling.finish();
        assert_eq!(samples.read_only_pages, [None, None]);
    }
}
