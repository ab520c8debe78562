//! Progress of a computation over VMs: nothing for two seconds, then a bar with the time left on a
//! terminal, and a line now and then elsewhere. On standard error.

use crate::clock::mono_ns;
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// How long a command may be silent.
const QUIET_NS: u64 = 2_000_000_000;

pub(super) struct Meter {
    what: &'static str,
    total: usize,
    done: usize,
    begun_ns: u64,
    said_ns: u64,
    bar: Option<ProgressBar>,
}

impl Meter {
    pub(super) fn new(what: &'static str, total: usize) -> Self {
        Self {
            what,
            total,
            done: 0,
            begun_ns: mono_ns(),
            said_ns: 0,
            bar: None,
        }
    }

    /// One more VM is done.
    pub(super) fn step(&mut self) {
        self.done += 1;
        let elapsed = mono_ns().saturating_sub(self.begun_ns);
        if elapsed < QUIET_NS || self.done == self.total {
            return;
        }
        if std::io::stderr().is_terminal() {
            let (total, what) = (self.total as u64, self.what);
            let bar = self.bar.get_or_insert_with(|| new_bar(total, what));
            bar.set_position(self.done as u64);
        } else if elapsed.saturating_sub(self.said_ns) >= 10_000_000_000 {
            self.said_ns = elapsed;
            let left = elapsed as f64 / self.done as f64 * (self.total - self.done) as f64;
            let left = HumanDuration(Duration::from_secs_f64((left / 1e9).max(0.0)));
            eprintln!(
                "{}: {} of {} VMs, {left} left",
                self.what, self.done, self.total
            );
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(total: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} VMs, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(what);
    bar
}
