//! Watches the links of migrations while they are under way: a sample every 10 ms, and what the
//! samples say in the end.
//!
//! Inside: the sampling thread, its bounds, the arithmetic's inputs. Never inside: what is good
//! enough (that is the grade's), the arithmetic itself (`netmodel::residual`).

use crate::clock::{mono_ns, sleep_until};
use crate::control::message::{LinkSeen, PathSeen, Sending};
use crate::ids::MigrationId;
use crate::migration::record::TcpSample;
use netmodel::backend::{Fabric, FabricError};
use netmodel::counters::{RelayCounters, Sample};
use netmodel::link::LinkSpec;
use netmodel::residual::idle::{Watched, path_idle};
use netmodel::residual::{History, largest_frame, residuals};
use netmodel::sys::clock::set_tight_timers;
use netmodel::sys::tcpinfo::TcpInfo;
use netmodel::topology::LinkId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;

/// The smallest window that residuals are computed over (DESIGN §5).
const EVERY_NS: u64 = 10_000_000;
/// Samples kept at one spacing; then the next are ten times as far apart, so that a migration of
/// hours is watched in bounded memory: 2 minutes at 10 ms, 20 at 100 ms, the rest at 1 s.
const AT_A_SPACING: usize = 12_000;
/// A day at 1 s; a migration that takes longer is not watched to its end.
const SAMPLES_MAX: usize = 2 * AT_A_SPACING + 86_400;
/// Answers that may wait: one a migration.
const ANSWERS: usize = 1024;

/// What was seen of a migration's path; `None` if it was not watched.
pub(super) type Answer = (MigrationId, Option<Box<PathSeen>>);

/// A migration that is being watched.
#[derive(Debug)]
struct Watch {
    /// Those its bytes cross, then those its acknowledgements cross.
    links: Vec<LinkId>,
    /// How many its bytes cross.
    path: usize,
    histories: Vec<History>,
    samples: Vec<Sample>,
    next_ns: u64,
    before: (u64, RelayCounters),
    /// When its source was done: nothing is sampled any more.
    after: Option<(u64, RelayCounters)>,
}

#[derive(Debug)]
struct State {
    /// Links as they are.
    specs: Vec<LinkSpec>,
    watches: BTreeMap<MigrationId, Watch>,
    ended: bool,
}

#[derive(Debug)]
pub(super) struct Shared {
    fabric: Arc<Fabric>,
    state: Mutex<State>,
    news: Condvar,
}

/// All watches of a machine. Dropping it ends its thread.
#[derive(Debug)]
pub(super) struct Watches {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    answer: mpsc::Sender<Answer>,
    answers: mpsc::Receiver<Answer>,
}

impl Watches {
    /// Nothing is watched yet.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(fabric: Arc<Fabric>) -> std::io::Result<Self> {
        let links = fabric.plan().topology().links();
        let specs = links.iter().map(|link| link.spec).collect();
        let shared = Arc::new(Shared {
            fabric,
            state: Mutex::new(State {
                specs,
                watches: BTreeMap::new(),
                ended: false,
            }),
            news: Condvar::new(),
        });
        let sampling = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("watch".into());
        let thread = Some(thread.spawn(move || sampling.sample())?);
        let (answer, answers) = mpsc::channel(ANSWERS);
        Ok(Self {
            shared,
            thread,
            answer,
            answers,
        })
    }

    /// For whoever changes links.
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// A migration begins on these links: those its bytes cross, those its acknowledgements cross.
    ///
    /// # Errors
    /// When the fabric does not answer.
    pub(super) fn begin(
        &self,
        migration: MigrationId,
        mut links: Vec<LinkId>,
        back: &[LinkId],
    ) -> Result<(), FabricError> {
        let before = self.shared.relay()?;
        let path = links.len();
        links.extend(back);
        let mut state = self.shared.lock();
        let spec = |link: &LinkId| History::new(state.specs[link.0 as usize]);
        let watch = Watch {
            histories: links.iter().map(spec).collect(),
            links,
            path,
            samples: Vec::new(),
            next_ns: 0,
            before,
            after: None,
        };
        state.watches.insert(migration, watch);
        self.shared.news.notify_one();
        Ok(())
    }

    /// Its source is done: what comes now (verification) is no part of it.
    ///
    /// # Errors
    /// When the fabric does not answer.
    pub(super) fn stop(&self, migration: MigrationId) -> Result<(), FabricError> {
        if !self.shared.lock().watches.contains_key(&migration) {
            return Ok(());
        }
        let after = self.shared.relay()?;
        if let Some(watch) = self.shared.lock().watches.get_mut(&migration) {
            watch.after.get_or_insert(after);
        }
        Ok(())
    }

    /// It is over: what was seen is worked out beside the control thread, and comes from
    /// [`Self::next`].
    ///
    /// # Errors
    /// When the fabric does not answer, or no thread can be started.
    pub(super) fn finish(
        &self,
        migration: MigrationId,
        sending: Option<Sending>,
    ) -> anyhow::Result<()> {
        self.stop(migration)?;
        let watch = self.shared.lock().watches.remove(&migration);
        let (fabric, answer) = (Arc::clone(&self.shared.fabric), self.answer.clone());
        let work_out = move || {
            let seen = watch.map(|watch| Box::new(watch.seen(&fabric, sending.as_ref())));
            // Nobody listens any more once the run has ended.
            let _ = answer.blocking_send((migration, seen));
        };
        std::thread::Builder::new()
            .name("budget".into())
            .spawn(work_out)?;
        Ok(())
    }

    /// The next migration whose budget is worked out. Cancel-safe.
    pub(super) async fn next(&mut self) -> Answer {
        match self.answers.recv().await {
            Some(answer) => answer,
            // `answer` is ours, so the channel cannot be closed.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.news.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that watches links panicked");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two states.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A link was changed at an instant of the machine's clock.
    pub(super) fn changed(&self, link: LinkId, at_ns: u64, spec: LinkSpec) {
        let mut state = self.lock();
        state.specs[link.0 as usize] = spec;
        for watch in state.watches.values_mut() {
            for (_, history) in watch.pairs().filter(|(watched, _)| **watched == link) {
                history.change(at_ns, spec);
            }
        }
    }

    fn relay(&self) -> Result<(u64, RelayCounters), FabricError> {
        let counters = self.fabric.counters()?;
        Ok((counters.at_ns, counters.relay))
    }

    /// The thread's life.
    fn sample(&self) {
        if let Err(error) = set_tight_timers() {
            tracing::debug!(%error, "samples keep the kernel's timer slack");
        }
        loop {
            let mut state = self.lock();
            while !state.ended && !state.watches.values().any(Watch::is_open) {
                state = self
                    .news
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if state.ended {
                return;
            }
            let now_ns = mono_ns();
            let due = |watch: &&Watch| watch.is_open() && watch.next_ns <= now_ns;
            let links: BTreeSet<LinkId> = state
                .watches
                .values()
                .filter(due)
                .flat_map(|watch| watch.links.iter().copied())
                .collect();
            drop(state);
            if !links.is_empty() {
                let links: Vec<LinkId> = links.into_iter().collect();
                match self.fabric.sample(&links) {
                    Ok(sample) => self.hand_out(now_ns, &links, &sample),
                    Err(error) => tracing::warn!(%error, "links cannot be sampled"),
                }
            }
            // On the grid of multiples, so that being late once does not shift what follows.
            sleep_until((mono_ns() / EVERY_NS + 1) * EVERY_NS);
        }
    }

    fn hand_out(&self, now_ns: u64, links: &[LinkId], sample: &Sample) {
        for watch in self.lock().watches.values_mut() {
            if watch.is_open() && watch.next_ns <= now_ns {
                watch.take(now_ns, links, sample);
            }
        }
    }
}

impl Watch {
    fn is_open(&self) -> bool {
        self.after.is_none() && self.samples.len() < SAMPLES_MAX
    }

    fn pairs(&mut self) -> impl Iterator<Item = (&LinkId, &mut History)> {
        self.links.iter().zip(&mut self.histories)
    }

    /// Takes its links out of a sample of several, which are in order.
    fn take(&mut self, now_ns: u64, links: &[LinkId], sample: &Sample) {
        let of = |link: &LinkId| links.binary_search(link).ok().map(|n| sample.links[n]);
        let taken: Vec<_> = self.links.iter().filter_map(of).collect();
        // A watch that began meanwhile is not in this sample.
        if taken.len() == self.links.len() {
            self.samples.push(Sample {
                at_ns: sample.at_ns,
                links: taken,
            });
            let spacing = match self.samples.len() / AT_A_SPACING {
                0 => EVERY_NS,
                1 => 10 * EVERY_NS,
                _ => 100 * EVERY_NS,
            };
            // Half a period early is this one: the grid is the thread's.
            self.next_ns = now_ns + spacing - EVERY_NS / 2;
        }
    }

    /// What the samples say of the time in which the source was sending.
    fn seen(mut self, fabric: &Fabric, sending: Option<&Sending>) -> PathSeen {
        let (from_ns, before) = self.before;
        let (to_ns, after) = self.after.unwrap_or((from_ns, before.clone()));
        if let Some(sending) = sending {
            let span = sending.from_ns..=sending.to_ns;
            self.samples.retain(|sample| span.contains(&sample.at_ns));
        }
        let topology = fabric.plan().topology();
        let (path, back) = self.histories.split_at(self.path);
        let mut links = Vec::with_capacity(path.len());
        for (position, (link, history)) in self.links.iter().zip(path).enumerate() {
            let frame_bytes = largest_frame(fabric.plan(), *link);
            links.push(LinkSeen {
                link: topology.link(*link).name.clone(),
                residuals: residuals(&self.samples, position, history, frame_bytes),
            });
        }
        let tcp: Vec<(u64, TcpInfo)> = sending
            .map(|sending| sending.tcp.iter().map(tcp_info).collect())
            .unwrap_or_default();
        let idle = path_idle(&Watched {
            samples: &self.samples,
            path,
            back,
            tcp: &tcp,
        });
        let late = after.lateness.since(&before.lateness);
        let since = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        let computer = after.computer.zip(before.computer);
        PathSeen {
            links,
            idle,
            samples: u32::try_from(self.samples.len()).unwrap_or(u32::MAX),
            late_mean_ns: late.mean_ns(),
            late_p99_ns: late.quantile_ns(990),
            late_max_ns: late.max_ns(),
            span_ns: to_ns.saturating_sub(from_ns),
            run_delay_ns: since(after.run_delay_ns, before.run_delay_ns),
            steal_share: computer.map(|(now, then)| {
                let cpu_ns = now.cpu_ns.saturating_sub(then.cpu_ns).max(1);
                now.steal_ns.saturating_sub(then.steal_ns) as f64 / cpu_ns as f64
            }),
        }
    }
}

fn tcp_info(sample: &TcpSample) -> (u64, TcpInfo) {
    let us = |us: u64| Duration::from_micros(us);
    let info = TcpInfo {
        rtt: us(u64::from(sample.rtt_us)),
        cwnd_segments: sample.cwnd,
        retransmits: sample.retransmits,
        recovering: sample.recovering,
        busy: us(sample.busy_us),
        window_limited: us(sample.rwnd_limited_us),
        buffer_limited: us(sample.sndbuf_limited_us),
        ..TcpInfo::default()
    };
    (sample.at_ns, info)
}
