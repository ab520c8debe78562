//! The end of a recording: frames numbered for good, sums, and what it took.

use std::ffi::OsString;

use crate::book::{Book, Work};
use crate::frames::{Frames, Place};
use crate::recording::{About, Kind, Overhead, Recording, Sidecar, Totals};
use crate::run::{Options, Ticks, nanos};
use crate::sys::clock;
use traces::dirty::{PageWriteTrace, Run, Tick};

impl Ticks {
    pub(crate) fn finish(
        self,
        command: &[OsString],
        options: &Options,
        status: Option<i32>,
        book: Book,
    ) -> Recording {
        let (work, mut unwatched) = (book.work, book.unwatched);
        unwatched.remove("not executed");
        let mut warnings: Vec<String> = unwatched
            .iter()
            .map(|(reason, spaces)| {
                format!("pages of {spaces} address spaces are not recorded: {reason}")
            })
            .collect();
        let (pages, places) = number_pages(book.frames, self.ticks, &options.title, self.tick_ns);
        if pages.pages >= traces::store::page_write::MAX_PAGES {
            warnings.push("more than 2^28 pages were written: later ones are not recorded".into());
        }
        if !self.sampling.accessed_works() {
            warnings.push("accessed bits cannot be cleared here: no accessed_bytes".into());
        }
        let (samples, threads) = self.sampling.finish();
        let cpu_ns = pages.ticks.iter().map(|tick| tick.cpu_ns).sum();
        let marks = pages.marks();
        let recorder_cpu_ns =
            work.tracer_cpu_ns + clock::thread_cpu_ns().saturating_sub(self.cpu_at_start_ns);
        let sidecar = Sidecar {
            version: 1,
            about: about(
                command,
                options,
                Kind::PageSets,
                self.started_unix_ms,
                status,
            ),
            totals: Totals {
                duration_ns: pages.duration_ns(),
                ticks: pages.ticks.len() as u64,
                cpu_ns,
                processes: work.processes,
                images: work.images,
                pages: Some(u64::from(pages.pages)),
                page_marks: Some(marks),
                spaces_unwatched: unwatched.values().sum(),
            },
            overhead: overhead(
                &work,
                recorder_cpu_ns,
                cpu_ns,
                self.late_ns_max,
                Some(marks),
            ),
            written: Some(self.contents.finish()),
            census: self.census,
            reads: self.reads.finish(),
            samples,
            threads,
            warnings,
        };
        Recording {
            pages: Some(pages),
            places,
            scans: self.scans,
            sidecar,
        }
    }
}

/// Frames as they are called in the file: by place.
fn number_pages(
    frames: Frames,
    ticks: Vec<Tick>,
    title: &str,
    interval_ns: u64,
) -> (PageWriteTrace, Vec<Place>) {
    let (number, places) = frames.renumber();
    let renumbered = |runs: Vec<Run>| {
        let mut frames: Vec<u32> = runs
            .iter()
            .flat_map(|run| run.start..run.start + run.len)
            .filter_map(|frame| number.get(usize::try_from(frame).ok()?).copied())
            .collect();
        crate::frames::runs(&mut frames)
    };
    let ticks = ticks
        .into_iter()
        .map(|tick| Tick {
            runs: renumbered(tick.runs),
            ..tick
        })
        .collect();
    let trace = PageWriteTrace {
        title: title.to_owned(),
        pages: u32::try_from(places.len()).unwrap_or(u32::MAX),
        interval_ns,
        ticks,
    };
    (trace, places)
}

pub(crate) fn about(
    command: &[OsString],
    options: &Options,
    kind: Kind,
    started_unix_ms: u64,
    status: Option<i32>,
) -> About {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    About {
        command: command
            .iter()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect(),
        kind,
        started_unix_ms,
        tick_ns: nanos(options.tick),
        kernel: release.trim().to_owned(),
        huge_pages: options.huge_pages,
        only_shared: options.only_shared,
        exit_code: status
            .filter(|&status| libc::WIFEXITED(status))
            .map(|status| libc::WEXITSTATUS(status)),
    }
}

pub(crate) fn overhead(
    work: &Work,
    recorder_cpu_ns: u64,
    cpu_ns: u64,
    late_ns_max: u64,
    write_faults: Option<u64>,
) -> Overhead {
    Overhead {
        recorder_cpu_ns,
        share_of_program: (cpu_ns > 0).then(|| recorder_cpu_ns as f64 / cpu_ns as f64),
        stops: work.stops,
        scan_ns: work.scan_ns,
        scan_ns_max: work.scan_ns_max,
        failed_scans: work.failed_scans,
        late_ns_max,
        write_faults,
    }
}
