//! An import watched from outside: progress with the time left, and Ctrl-C.
//!
//! Nothing here decides what is imported; the import itself notices at its next read or write that it
//! is to stop, and removes what it has written.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use traces::import::Progress;

/// Shows progress until it is dropped.
pub(super) struct Watch {
    done: Option<SyncSender<()>>,
    shown: Option<JoinHandle<()>>,
}

/// How often a terminal is drawn on.
const TICK: Duration = Duration::from_millis(200);
/// Shorter imports need no progress.
const SHOWN_AFTER: u32 = 10;
/// Ticks between lines where there is no terminal.
const LINE_EVERY: u32 = 50;

impl Watch {
    /// From now on Ctrl-C (and a request to terminate) stops the import instead of ending the program.
    pub(super) fn start(progress: &Arc<Progress>) -> Self {
        let stop = Arc::clone(progress);
        // Without signals an import runs all the same; Ctrl-C then leaves the part directory behind.
        std::thread::spawn(move || wait_for_signal(&stop));
        let (done, wait) = sync_channel::<()>(1);
        let progress = Arc::clone(progress);
        let shown = std::thread::spawn(move || {
            let mut view = View::default();
            while wait.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                view.tick(&progress);
            }
            if let Some(bar) = view.bar {
                bar.finish_and_clear();
            }
        });
        Self {
            done: Some(done),
            shown: Some(shown),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(shown) = self.shown.take() {
            // A panic in the view has been printed and changes nothing about the import.
            let _ = shown.join();
        }
    }
}

fn wait_for_signal(progress: &Progress) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return;
    };
    runtime.block_on(async {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
        let [Ok(mut interrupt), Ok(mut terminate)] = kinds else {
            return;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        progress.stop();
    });
}

#[derive(Default)]
struct View {
    ticks: u32,
    bar: Option<ProgressBar>,
}

impl View {
    fn tick(&mut self, progress: &Progress) {
        self.ticks += 1;
        if self.ticks < SHOWN_AFTER {
            return;
        }
        let (phase, done, total) = stage(progress);
        if !std::io::stderr().is_terminal() {
            if self.ticks.is_multiple_of(LINE_EVERY) {
                eprintln!("{}", line(phase, done, total, self.ticks));
            }
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let template = "{msg} {wide_bar} {percent} %, {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        });
        if bar.message() != phase {
            bar.reset();
            bar.set_message(phase);
        }
        bar.set_length(total);
        bar.set_position(done);
    }
}

/// What is being done, how much of it is, and how much there is.
fn stage(progress: &Progress) -> (&'static str, u64, u64) {
    let (read, total) = (progress.read_bytes(), progress.total_bytes());
    let sorted = progress.samples_written();
    if sorted > 0 && progress.samples_read() > 0 {
        return ("sorting", sorted, progress.samples_read().max(sorted));
    }
    ("reading", read.min(total), total)
}

/// A line for those without a terminal.
fn line(phase: &str, done: u64, total: u64, ticks: u32) -> String {
    let percent = done.saturating_mul(100) / total.max(1);
    let elapsed_s = u64::from(ticks) / 5;
    let left = u128::from(elapsed_s) * u128::from(total.saturating_sub(done));
    let left_s = left / u128::from(done.max(1));
    format!("{phase}: {percent} %, {elapsed_s} s so far, about {left_s} s left")
}
