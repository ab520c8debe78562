//! Page-level recordings as CSV: `t_ms,cpu_ms,maxrss_kb,dirty_pages,runs`.
//!
//! `runs` are space-separated `gap` or `gap+len` over dense page indices; `gap` counts from the end of
//! the run before. `cpu_ms` is cumulative. The first tick holds everything touched so far.

use std::io::BufRead;
use std::path::Path;

use super::files::stem;
use super::lines::{Lines, shortened, whole};
use super::{ImportError, ImportErrorKind, Part};
use crate::dirty::{PageWriteTrace, Run, Tick};
use crate::store::bundle::{TimeOrigin, VmMeta};
use crate::store::page_write::{self, MAX_PAGES};
use crate::store::series::{Interval, Metric, Series};
use crate::units::{NS_PER_MS, PAGE_SIZE};

/// How a recording starts.
pub(super) const COMMENT: &str = "# page-write trace:";

/// Columns computed here.
pub(super) const DERIVED: [(&str, &str); 1] = [(
    "cpu_milli",
    "difference of cumulative CPU time over the length of the tick",
)];

const HEADER: &str = "t_ms,cpu_ms,maxrss_kb,dirty_pages,runs";

/// Reads one recording.
pub(super) fn read(file: &Path, input: impl BufRead) -> Result<Part, ImportError> {
    let mut lines = Lines::new(file, input);
    let Some(comment) = lines.next()? else {
        return Err(lines.error(ImportErrorKind::Empty));
    };
    let mut trace = parse_comment(&comment).map_err(|kind| lines.error(kind))?;
    let header = lines.next()?.unwrap_or_default();
    if header != HEADER {
        return Err(lines.error(ImportErrorKind::Field {
            column: "header",
            value: shortened(&header),
            expected: HEADER,
        }));
    }
    let mut cpu_ms = 0;
    while let Some(line) = lines.next()? {
        if line.is_empty() {
            continue;
        }
        let tick = parse_tick(&line, &trace, &mut cpu_ms).map_err(|kind| lines.error(kind))?;
        trace.ticks.push(tick);
    }
    Ok(part(file, trace))
}

/// Reads a file of our own.
pub(super) fn read_own(file: &Path, input: impl BufRead) -> Result<Part, ImportError> {
    let trace = page_write::read_page_writes(input)
        .map_err(|error| ImportError::new(file, 0, ImportErrorKind::PageWrites(error)))?;
    Ok(part(file, trace))
}

/// A VM that is a page-level recording.
pub(super) fn part(file: &Path, trace: PageWriteTrace) -> Part {
    let name = stem(file);
    let meta = VmMeta {
        source_id: Some(trace.title.clone()),
        ..VmMeta::named(&name)
    };
    Part {
        meta,
        series: series(&trace),
        page_writes: Some(trace),
        time_origin: TimeOrigin::Relative,
        duplicates: 0,
        warnings: Vec::new(),
    }
}

/// The recording by milliseconds. The first tick is no window of anything and gives no sample.
fn series(trace: &PageWriteTrace) -> Series {
    let mut series = Series::default();
    for pair in trace.ticks.windows(2) {
        let (start_ms, end_ms) = (pair[0].t_ns / NS_PER_MS, pair[1].t_ns / NS_PER_MS);
        let Ok(dur_ms) = u32::try_from(end_ms - start_ms) else {
            break;
        };
        let Ok(t_ms) = i64::try_from(start_ms) else {
            break;
        };
        if dur_ms == 0 {
            continue;
        }
        let milli = pair[1].cpu_ns / 1000 / u64::from(dur_ms);
        let values = [
            (Metric::CpuMilli, Some(milli)),
            (Metric::DirtyPagesW1, Some(pair[1].page_count())),
            (Metric::DirtyW1Ms, Some(u64::from(dur_ms))),
        ];
        let interval = Interval {
            t_ms,
            dur_ms,
            flags: 0,
        };
        series
            .push(interval, &values)
            .expect("ticks ascend, so intervals do not overlap");
    }
    series
}

fn parse_comment(line: &str) -> Result<PageWriteTrace, ImportErrorKind> {
    let bad = |expected| ImportErrorKind::Field {
        column: "comment",
        value: shortened(line),
        expected,
    };
    let rest = line
        .strip_prefix(COMMENT)
        .ok_or_else(|| bad("\"# page-write trace: …\""))?;
    let mut parts = rest.split(';').map(str::trim);
    let title = parts.next().unwrap_or_default().to_string();
    let (mut page_size, mut pages, mut interval_ms) = (None, None, None);
    for part in parts {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| bad("key=value after each \";\""))?;
        match key {
            "page_size" => page_size = Some(whole("page_size", value)?),
            "pages" => pages = Some(whole("pages", value)?),
            "interval_ms" => interval_ms = Some(whole("interval_ms", value)?),
            _ => {}
        }
    }
    if page_size != Some(PAGE_SIZE) {
        return Err(bad("page_size=4096"));
    }
    let pages = pages
        .and_then(|pages| u32::try_from(pages).ok())
        .filter(|&p| p <= MAX_PAGES);
    let pages = pages.ok_or_else(|| bad("pages=N, at most 2^28"))?;
    let interval_ms = interval_ms.filter(|ms| (1..=3_600_000).contains(ms));
    let interval_ns = interval_ms.ok_or_else(|| bad("interval_ms=1 to 3600000"))? * NS_PER_MS;
    Ok(PageWriteTrace {
        title,
        pages,
        interval_ns,
        ticks: Vec::new(),
    })
}

fn parse_tick(
    line: &str,
    trace: &PageWriteTrace,
    cpu_ms: &mut u64,
) -> Result<Tick, ImportErrorKind> {
    let fields: Vec<&str> = line.split(',').collect();
    let &[t, cpu, rss, dirty, runs] = fields.as_slice() else {
        return Err(ImportErrorKind::Fields {
            found: fields.len(),
            expected: 5,
        });
    };
    let t_ns = nanoseconds("t_ms", t)?;
    if let Some(previous) = trace
        .ticks
        .last()
        .map(|tick| tick.t_ns)
        .filter(|&p| t_ns <= p)
    {
        let (previous, found) = (previous / NS_PER_MS, t_ns / NS_PER_MS);
        return Err(ImportErrorKind::GoesBack {
            column: "t_ms",
            previous,
            found,
        });
    }
    nanoseconds("cpu_ms", cpu)?;
    let found = whole("cpu_ms", cpu)?;
    if found < *cpu_ms {
        return Err(ImportErrorKind::GoesBack {
            column: "cpu_ms",
            previous: *cpu_ms,
            found,
        });
    }
    let cpu_ns = (found - *cpu_ms) * NS_PER_MS;
    *cpu_ms = found;
    whole("maxrss_kb", rss)?;
    let tick = Tick {
        t_ns,
        cpu_ns,
        runs: parse_runs(runs, trace.pages)?,
    };
    let stated = whole("dirty_pages", dirty)?;
    let counted = tick.page_count();
    if stated != counted {
        return Err(ImportErrorKind::Disagrees {
            column: "dirty_pages",
            stated,
            counted,
        });
    }
    Ok(tick)
}

/// Milliseconds as nanoseconds; a value past 584 years is refused.
fn nanoseconds(column: &'static str, value: &str) -> Result<u64, ImportErrorKind> {
    whole(column, value)?
        .checked_mul(NS_PER_MS)
        .ok_or_else(|| ImportErrorKind::Field {
            column,
            value: shortened(value),
            expected: "milliseconds, less than 584 years",
        })
}

fn parse_runs(text: &str, pages: u32) -> Result<Vec<Run>, ImportErrorKind> {
    let mut runs: Vec<Run> = Vec::new();
    let mut end = 0u32;
    for item in text.split_ascii_whitespace() {
        let bad = |expected| ImportErrorKind::Field {
            column: "runs",
            value: shortened(item),
            expected,
        };
        let (gap, len) = item.split_once('+').unwrap_or((item, "1"));
        let parse = |text: &str| text.parse::<u32>().ok();
        let gap = parse(gap).ok_or_else(|| bad("gap or gap+length"))?;
        let len = parse(len)
            .filter(|&len| len > 0)
            .ok_or_else(|| bad("gap or gap+length"))?;
        let start = end.checked_add(gap);
        let run_end = start
            .and_then(|start| start.checked_add(len))
            .filter(|&e| e <= pages);
        let (Some(start), Some(run_end)) = (start, run_end) else {
            return Err(bad("a run within the pages of the trace"));
        };
        // A gap of 0 after the first run only continues it.
        match runs.last_mut().filter(|_| gap == 0) {
            Some(run) => run.len += len,
            None => runs.push(Run { start, len }),
        }
        end = run_end;
    }
    Ok(runs)
}
