//! Where pages cannot be recorded: CPU, memory and network of the program and its descendants.
//!
//! Descendants are found by their parents once a sample, so those that live shorter are missed, and
//! what they used with them. Never inside: anything about pages.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use crate::book::Work;
use crate::finish::{about, overhead};
use crate::procfs;
use crate::recording::{Kind, Reads, Recording, Sidecar, Totals};
use crate::run::{Options, RecordError};
use crate::samples::Sampling;
use crate::sys::spawn::unblock_signals;
use crate::sys::{clock, ptrace};

/// Records `command` without its pages; `missing` says why.
pub(crate) fn record(
    command: &[OsString],
    options: &Options,
    missing: &str,
) -> Result<Recording, RecordError> {
    let sample_ns = u64::try_from(options.sample.as_nanos()).unwrap_or(u64::MAX);
    let mut program = Command::new(&command[0]);
    program.args(&command[1..]);
    unblock_signals(&mut program);
    let mut child = program.spawn().map_err(|source| RecordError::Command {
        command: command[0].to_string_lossy().into_owned(),
        source,
    })?;
    let root = i32::try_from(child.id()).unwrap_or(0);
    let (start, started_unix_ms) = (clock::now_ns(), clock::unix_ms());
    let cpu_at_start = clock::thread_cpu_ns();
    let end = options.duration.map_or(u64::MAX, |duration| {
        start.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    });
    let mut sampling = Sampling::start(false);
    let mut cpu = BTreeMap::new();
    let (mut total_ns, mut next, mut seen) = (0u64, start, BTreeSet::new());
    let mut status = None;
    loop {
        next = next.saturating_add(sample_ns);
        let asked = clock::wait_until(next.min(end));
        let pids = family(root);
        seen.extend(pids.iter().copied());
        let used = pids.iter().map(|&pid| since(&mut cpu, pid)).sum::<u64>();
        total_ns += used;
        sampling.take(clock::now_ns() - start, used, &pids);
        // An error here means that it cannot be waited for, so it is over.
        let ended = child.try_wait().unwrap_or(None);
        if ended.is_some() || asked || clock::now_ns() >= end {
            status = ended.map(ExitStatusExt::into_raw).or(status);
            break;
        }
    }
    for pid in family(root) {
        ptrace::kill(pid, libc::SIGTERM);
    }
    // Reaps it; a program that ignores SIGTERM is waited for.
    let _ = child.wait();
    let (samples, threads) = sampling.finish();
    let recorder = clock::thread_cpu_ns().saturating_sub(cpu_at_start);
    let sidecar = Sidecar {
        version: 1,
        about: about(command, options, Kind::RatesOnly, started_unix_ms, status),
        totals: Totals {
            duration_ns: clock::now_ns() - start,
            ticks: samples.t_ms.len() as u64,
            cpu_ns: total_ns,
            processes: seen.len() as u64,
            images: 0,
            pages: None,
            page_marks: None,
            spaces_unwatched: 0,
        },
        overhead: overhead(&Work::default(), recorder, total_ns, 0, None),
        written: None,
        census: Vec::new(),
        reads: Reads {
            unavailable: Some("no pages are recorded".into()),
            ..Reads::default()
        },
        samples,
        threads,
        warnings: vec![format!("RATES ONLY, no pages are recorded: {missing}")],
    };
    Ok(Recording {
        pages: None,
        places: Vec::new(),
        scans: Vec::new(),
        sidecar,
    })
}

fn since(cpu: &mut BTreeMap<i32, u64>, pid: i32) -> u64 {
    let Some(now) = clock::process_cpu_ns(pid) else {
        return 0;
    };
    let before = cpu.insert(pid, now).unwrap_or(0);
    now.saturating_sub(before)
}

/// The process and its descendants.
fn family(root: i32) -> Vec<i32> {
    let parents = procfs::parents();
    let mut family = BTreeSet::from([root]);
    loop {
        let before = family.len();
        for (&pid, parent) in &parents {
            if family.contains(parent) {
                family.insert(pid);
            }
        }
        if family.len() == before {
            return family.into_iter().collect();
        }
    }
}
