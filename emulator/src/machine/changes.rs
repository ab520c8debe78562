//! Carries a scenario's schedule out: a thread that changes links at their instants.
//!
//! Inside: waiting for the next instant, changing links in place, telling how late. Never inside:
//! when what is due (that is `timetable`'s).

use super::timetable::{Due, Timetable};
use super::watch;
use crate::clock::mono_ns;
use crate::control::message::LinkChange;
use netmodel::backend::{Fabric, FabricError};
use netmodel::link::LinkSpec;
use netmodel::schedule::{Patch, PatchError};
use netmodel::sys::clock::set_tight_timers;
use netmodel::sys::sched::ask_for_short_slices;
use netmodel::topology::LinkId;
use replay::clock::{ClockError, MonoNs, Segment, TraceNs};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;

/// Changes that may wait to be written down; a schedule's instants are further apart than its
/// reader takes for thousands of them.
const REPORTS: usize = 4096;

/// Why a schedule cannot be carried on with.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChangesError {
    /// A segment that turns time back.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// Packet-delivery traces cannot be told where they begin.
    #[error("aligning delivery traces with trace time: {0}")]
    Align(#[from] FabricError),
    /// A link that cannot be changed.
    #[error("changing {link} at trace instant {trace_ns} ns: {source}")]
    Link {
        /// Its name.
        link: String,
        /// When.
        trace_ns: u64,
        /// Why not.
        source: Box<FabricError>,
    },
    /// A link that a fault makes impossible.
    #[error("fault {fault} on {link}: {source}", fault = .fault + 1)]
    Fault {
        /// Its number, from 0.
        fault: u32,
        /// The link's name.
        link: String,
        /// Why not.
        source: Box<PatchError>,
    },
}

/// What a fault makes of links for as long as it lasts, whatever the schedule says meanwhile.
#[derive(Debug, Clone)]
pub(super) struct Overlay {
    /// Number of the fault.
    pub(super) fault: u32,
    /// Which.
    pub(super) links: Vec<LinkId>,
    /// How; `None`: they carry nothing.
    pub(super) patch: Option<Patch>,
}

impl Overlay {
    fn over(&self, spec: &LinkSpec) -> Result<LinkSpec, PatchError> {
        match &self.patch {
            Some(patch) => patch.apply(spec),
            None => Ok(LinkSpec { up: false, ..*spec }),
        }
    }
}

/// What happened.
pub(super) type Report = Result<Vec<LinkChange>, ChangesError>;

#[derive(Debug)]
struct Shared {
    fabric: Arc<Fabric>,
    /// Whoever judges links has to know what they are.
    watched: Arc<watch::Shared>,
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Debug)]
struct State {
    timetable: Timetable,
    /// Links as the schedule has them, where it has changed them.
    scheduled: BTreeMap<LinkId, LinkSpec>,
    /// Faults under way, in the order in which they struck.
    overlays: Vec<Overlay>,
    ended: bool,
}

/// The schedule being carried out. Dropping it ends its thread.
#[derive(Debug)]
pub(super) struct Changes {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    reports: mpsc::Receiver<Report>,
}

impl Changes {
    /// Makes links what they are at trace instant 0, and minds the schedule from there.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(
        fabric: Arc<Fabric>,
        watched: Arc<watch::Shared>,
        timetable: Timetable,
    ) -> std::io::Result<Self> {
        let needed = !timetable.is_empty();
        let (report, reports) = mpsc::channel(REPORTS);
        let shared = Arc::new(Shared {
            fabric,
            watched,
            state: Mutex::new(State {
                timetable,
                scheduled: BTreeMap::new(),
                overlays: Vec::new(),
                ended: false,
            }),
            news: Condvar::new(),
        });
        let minded = Arc::clone(&shared);
        let mind = move || minded.mind(&report);
        let thread = needed
            .then(|| {
                std::thread::Builder::new()
                    .name("schedule".into())
                    .spawn(mind)
            })
            .transpose()?;
        Ok(Self {
            shared,
            thread,
            reports,
        })
    }

    /// A segment was announced; changes that are due already are made before this returns, so that
    /// nothing crosses a link as it was before a jump.
    ///
    /// # Errors
    /// When the segment turns time back, or a link cannot be changed.
    pub(super) fn begin(&self, segment: Segment) -> Report {
        self.announce(|timetable| timetable.begin(segment))
    }

    /// Trace time jumps now.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub(super) fn jump(&self, number: u64, to: TraceNs) -> Report {
        self.announce(|timetable| timetable.jump(number, to, MonoNs(mono_ns())))
    }

    /// A fault strikes links.
    ///
    /// # Errors
    /// When a link cannot be what it asks.
    pub(super) fn cover(&self, overlay: Overlay) -> Report {
        let mut state = self.shared.lock();
        let links = overlay.links.clone();
        state.overlays.push(overlay);
        self.shared.remake(&state, &links)
    }

    /// A fault has passed.
    ///
    /// # Errors
    /// When a link cannot be what it was.
    pub(super) fn uncover(&self, fault: u32) -> Report {
        let mut state = self.shared.lock();
        let passed = state.overlays.extract_if(.., |over| over.fault == fault);
        let links: Vec<LinkId> = passed.flat_map(|over| over.links).collect();
        self.shared.remake(&state, &links)
    }

    fn announce(&self, begin: impl FnOnce(&mut Timetable) -> Result<(), ClockError>) -> Report {
        let mut state = self.shared.lock();
        begin(&mut state.timetable)?;
        let made = self.shared.make_due(&mut state);
        self.shared.news.notify_one();
        let origin_ns = state.timetable.origin_ns();
        drop(state);
        self.shared.fabric.align(origin_ns)?;
        made
    }

    /// What the thread did next; `None` if there is nothing it will ever do. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Report> {
        self.reports.recv().await
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.news.notify_one();
        // It may be waiting for room to report in.
        self.reports.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that changes links panicked");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two states of the timetable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's life.
    fn mind(&self, report: &mpsc::Sender<Report>) {
        // Without them it is some 50 µs later, which the reports then say.
        if let Err(error) = set_tight_timers().and_then(|()| ask_for_short_slices()) {
            tracing::debug!(%error, "the schedule's thread keeps the kernel's timer slack");
        }
        let mut state = self.lock();
        while !state.ended {
            let made = self.make_due(&mut state);
            if !matches!(&made, Ok(none) if none.is_empty()) {
                drop(state);
                if report.blocking_send(made).is_err() {
                    return;
                }
                state = self.lock();
                continue;
            }
            let wait = state
                .timetable
                .next_at()
                .map(|at| at.0.saturating_sub(mono_ns()));
            state = match wait {
                None => self
                    .news
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(ns) => {
                    let waited = self.news.wait_timeout(state, Duration::from_nanos(ns));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Makes every change that is due.
    fn make_due(&self, state: &mut State) -> Report {
        let due = state.timetable.take_due(MonoNs(mono_ns()));
        let make = |due: Due| {
            state.scheduled.insert(due.link, due.spec);
            let spec = self.covered(state, due.link)?;
            self.make(&Due { spec, ..due })
        };
        due.into_iter().map(make).collect()
    }

    /// A link as it has to be: as the schedule has it, with the faults that lie over it.
    fn covered(&self, state: &State, link: LinkId) -> Result<LinkSpec, ChangesError> {
        let declared = self.fabric.plan().topology().link(link);
        let scheduled = state.scheduled.get(&link).unwrap_or(&declared.spec);
        let over = state.overlays.iter().filter(|of| of.links.contains(&link));
        over.clone().try_fold(*scheduled, |spec, overlay| {
            overlay.over(&spec).map_err(|source| ChangesError::Fault {
                fault: overlay.fault,
                link: declared.name.clone(),
                source: Box::new(source),
            })
        })
    }

    /// Makes links what they have to be now.
    fn remake(&self, state: &State, links: &[LinkId]) -> Report {
        let at_ns = mono_ns();
        let trace_ns = state.timetable.trace_at(MonoNs(at_ns)).0;
        let make = |&link: &LinkId| {
            self.make(&Due {
                trace_ns,
                at_ns,
                link,
                spec: self.covered(state, link)?,
            })
        };
        links.iter().map(make).collect()
    }

    fn make(&self, due: &Due) -> Result<LinkChange, ChangesError> {
        let link = &self.fabric.plan().topology().link(due.link).name;
        let changed = self.fabric.set_link(due.link, due.spec);
        changed.map_err(|source| ChangesError::Link {
            link: link.clone(),
            trace_ns: due.trace_ns,
            source: Box::new(source),
        })?;
        let now_ns = mono_ns();
        self.watched.changed(due.link, now_ns, due.spec);
        Ok(LinkChange {
            link: link.clone(),
            spec: due.spec,
            trace_ns: due.trace_ns,
            due_ns: due.at_ns,
            late_ns: now_ns.saturating_sub(due.at_ns),
        })
    }
}
