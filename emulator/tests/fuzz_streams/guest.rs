//! The guests: one that runs by the clock, at most one copy of it, and what its memory is.
//!
//! Never inside: streams, connections.

use std::sync::{Arc, Mutex};

use migbed::clock::mono_ns;
use migbed::migration::guest::{
    CommitRefused, DestinationGuest, GuestMemory, SourceGuest, Standing, Stopped, VcpuStanding,
};
use migbed::migration::upcoming::Limit;
use replay::content::{ContentProfile, PagePool, Recipe};
use replay::host::CoreWork;
use replay::{Behaviour, GuestTime, MemorySpec, VmState};
use traces::class::{Coupling, PageClass};

pub(crate) const RAM_PAGES: u32 = 192;
pub(crate) const VM: u64 = 9;

#[derive(Debug, Clone, Copy, Default)]
struct Clock {
    /// Since when it has run; `None`: it does not.
    since_ns: Option<u64>,
    before_ns: u64,
    limit: Limit,
}

impl Clock {
    /// How far its limit lets it come, and by which clock; both of them are one.
    fn most(&self) -> Option<(u64, Coupling)> {
        let cpu = self.limit.cpu_ns.map(|ns| (ns - 1, Coupling::Cpu));
        let run = self.limit.run_ns.map(|ns| (ns - 1, Coupling::Time));
        cpu.into_iter().chain(run).min_by_key(|(ns, _)| *ns)
    }

    fn ran_ns(&self) -> u64 {
        let free_ns = self.before_ns + self.since_ns.map_or(0, |since| mono_ns() - since);
        let most = self.most().map_or(u64::MAX, |(ns, _)| ns);
        free_ns.min(most.max(self.before_ns))
    }
}

fn time(ns: u64) -> GuestTime {
    GuestTime {
        cpu_ns: ns,
        run_ns: ns,
    }
}

/// A guest that runs by the clock.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    clock: Mutex<Clock>,
    pub(crate) committed: Mutex<Option<VmState>>,
}

impl Guest {
    pub(crate) fn running(&self) -> bool {
        self.clock.lock().unwrap().since_ns.is_some()
    }

    fn ran_ns(&self) -> u64 {
        self.clock.lock().unwrap().ran_ns()
    }

    fn set(&self, runs: bool) -> u64 {
        let mut clock = self.clock.lock().unwrap();
        clock.before_ns = clock.ran_ns();
        clock.since_ns = runs.then(mono_ns);
        clock.before_ns
    }
}

impl SourceGuest for Guest {
    fn guest_time(&self) -> GuestTime {
        time(self.ran_ns())
    }

    fn pause(&self) -> GuestTime {
        time(self.set(false))
    }

    fn resume(&self) {
        self.set(true);
    }

    fn throttle(&self, _percent: u8) {}

    fn take_state(&self) -> VmState {
        let run_ns = self.ran_ns();
        VmState {
            run_ns,
            cpu: CoreWork(u128::from(run_ns) * 1_000_000_000),
            ..VmState::default()
        }
    }

    fn crash(&self) {
        self.set(false);
    }
}

impl DestinationGuest for Guest {
    fn run_within(&self, limits: &[(usize, Limit)]) {
        let Some(&(_, limit)) = limits.last() else {
            return;
        };
        let mut clock = self.clock.lock().unwrap();
        clock.before_ns = clock.ran_ns();
        clock.since_ns = clock.since_ns.map(|_| mono_ns());
        clock.limit = limit;
    }

    fn standing(&self) -> Standing {
        let clock = *self.clock.lock().unwrap();
        let Some(since_ns) = clock.since_ns else {
            return Standing::Gone;
        };
        let time = time(clock.ran_ns());
        let (mut stopped, mut until_ns) = (None, u64::MAX);
        if let Some((most, by)) = clock.most() {
            let at_ns = since_ns + most.saturating_sub(clock.before_ns);
            match time.run_ns >= most {
                true => {
                    stopped = Some(Stopped {
                        clock: by,
                        since_ns: at_ns,
                    });
                }
                false => until_ns = at_ns,
            }
        }
        Standing::Here {
            vcpus: vec![VcpuStanding { time, stopped }],
            until_ns,
        }
    }

    fn give_up(&self) {
        self.set(false);
    }

    fn commit_and_resume(&self, state: VmState) -> Result<u64, CommitRefused> {
        let mut clock = self.clock.lock().unwrap();
        assert!(clock.since_ns.is_none(), "committed twice");
        (clock.before_ns, clock.since_ns) = (state.run_ns, Some(mono_ns()));
        let before = self.committed.lock().unwrap().replace(state);
        assert!(before.is_none(), "committed twice");
        Ok(mono_ns())
    }
}

/// A quarter of RAM is written, each page so many times a second, a third of it is in use.
pub(crate) fn memory(rate: f64, content: ContentProfile) -> GuestMemory {
    let spec = MemorySpec {
        ram_pages: RAM_PAGES,
        resident_pages: 64,
        high_pages: 0,
        behaviours: vec![Behaviour::Classes(vec![PageClass::new(48, rate)])],
        fresh: false,
        content,
    };
    GuestMemory::new(&spec, 5, VM, |profile| {
        let recipe = Recipe::of(profile)?;
        Ok(Arc::new(PagePool::new(&recipe, 5, 64)))
    })
    .expect("a small guest")
}

/// Pages that are random, a few of them zero.
pub(crate) fn random() -> ContentProfile {
    ContentProfile {
        zero_share: 0.05,
        ..ContentProfile::RANDOM
    }
}
