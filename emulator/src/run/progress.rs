//! What a person sees while a run goes on: a bar on a terminal, lines when piped, nothing with
//! `--json` or `--quiet`.

use crate::clock::mono_ns;
use crate::migration::record::{MigrationRecord, Status};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// How to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// A bar on a terminal, lines otherwise.
    Auto,
    /// Nothing.
    Quiet,
}

/// The progress of one run.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    lines: bool,
    end_ns: u64,
    begun_ns: u64,
    under_way: u32,
    requested: u32,
    ended: u32,
    last_line_percent: u64,
}

impl Progress {
    /// A run that ends at trace instant `end_ns`.
    #[must_use]
    pub fn new(show: Show, end_ns: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = (show == Show::Auto && terminal).then(|| {
            let bar = ProgressBar::with_draw_target(Some(end_ns), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{spinner} {prefix} [{bar:30}] {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self {
            bar,
            lines: show == Show::Auto && !terminal,
            end_ns,
            begun_ns: mono_ns(),
            under_way: 0,
            requested: 0,
            ended: 0,
            last_line_percent: 0,
        }
    }

    /// What the run is doing.
    pub fn phase(&mut self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_prefix(what.to_owned()),
            None if self.lines => eprintln!("migbed: {what}"),
            None => {}
        }
    }

    /// Something a person should read now.
    pub fn note(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.println(what),
            None if self.lines => eprintln!("migbed: {what}"),
            None => {}
        }
    }

    /// Trace time and migrations under way.
    pub fn trace(&mut self, trace_ns: u64, under_way: u32) {
        self.under_way = under_way;
        let wall_s = (mono_ns() - self.begun_ns) as f64 / 1e9;
        let (trace_s, end_s) = (trace_ns as f64 / 1e9, self.end_ns as f64 / 1e9);
        let speed = if wall_s > 0.0 { trace_s / wall_s } else { 0.0 };
        if let Some(bar) = &self.bar {
            let eta = match speed {
                speed if speed > 0.0 && end_s > trace_s => {
                    format!("{:.0} s left", (end_s - trace_s) / speed)
                }
                _ => "…".to_owned(),
            };
            bar.set_position(trace_ns.min(self.end_ns));
            bar.set_message(format!(
                "{trace_s:.0}/{end_s:.0} s of trace, ×{speed:.0}, {} of {} migrations done, \
                 {under_way} under way, {eta}",
                self.ended, self.requested
            ));
        } else if self.lines {
            let percent =
                u64::try_from(u128::from(trace_ns) * 100 / u128::from(self.end_ns.max(1)))
                    .unwrap_or(100);
            if percent >= self.last_line_percent + 25 && percent <= 100 {
                self.last_line_percent = percent - percent % 25;
                eprintln!("migbed: {trace_s:.0} of {end_s:.0} s of trace after {wall_s:.0} s");
            }
        }
    }

    /// A migration was accepted.
    pub fn requested(&mut self) {
        self.requested += 1;
    }

    /// A migration has ended.
    pub fn migrated(&mut self, record: &MigrationRecord) {
        self.ended += 1;
        let name = format!("{}: {} → {}", record.vm, record.source, record.destination);
        let line = match (record.status, record.observed_outage_ms) {
            (Status::Completed, Some(outage)) => {
                let total = record.request_to_release_ms / 1000.0;
                format!("{name}, {total:.2} s, outage {outage:.0} ms")
            }
            (status, _) => {
                let why = record.error.as_deref().unwrap_or("no reason given");
                format!("{name}, {status:?}: {why}")
            }
        };
        self.note(&line);
    }

    /// The run is over.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
