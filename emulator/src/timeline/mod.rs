//! What happens when. A pure state machine: what has happened goes in with the time, what to do
//! comes out. The emulator and a simulator drive the same one.
//!
//! Inside: the order of things. Never inside: sockets, clocks, policies, hosts.
//!
//! ```text
//!             Reached                Decided, nothing moves
//!  ┌─Advance──────────► Deciding ───────────────────────────┐
//!  │                      │ moves                           │
//!  │                      ▼                                 │
//!  │   flows steady    Holding ── no flow shares a link ─┐  │
//!  │  ◄─────────────────  │                              │  │
//!  │                      ▼                              ▼  │
//!  │                   Running ◄─────────────────────────┘  │
//!  │                      │ nothing left to move            │
//!  │                      ▼                                 │
//!  └──────────────── Draining ◄─────────────────────────────┘ (pace `real`: always Running)
//! ```

mod steady;

pub use steady::{SteadyDetector, SteadyParams};

use crate::scenario::Pace;

/// When the timeline has to act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// How trace time follows wall time.
    pub pace: Pace,
    /// End of the run, trace ns.
    pub end_ns: u64,
    /// Between two decisions of the balancer; 0: it is never asked.
    pub tick_ns: u64,
    /// Between two samples of every host's and VM's load.
    pub sample_ns: u64,
    /// Trace instants at which the scenario itself asks for migrations, ascending.
    pub planned_ns: Vec<u64>,
    /// With pace `warp`: the clock runs so long before the first migration of a span begins, and
    /// goes on so long after its last, for services to be seen before and after.
    pub margin_ns: u64,
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The run can begin; everything is built.
    Start,
    /// Every agent has reached the instant asked for and has been sampled.
    Reached,
    /// The balancer has been asked; this many migrations are queued or under way now.
    Decided {
        /// Queued or under way.
        open_migrations: u32,
    },
    /// Tenant flows that share a link with the moves have settled, or there are none.
    Steady,
    /// A migration ended, or was queued; this many are left.
    Migrations {
        /// Queued or under way.
        open_migrations: u32,
    },
    /// The instant asked for with [`Command::WakeAt`] has come.
    Woke,
    /// The network is empty and the clock is held again.
    Drained,
    /// The user wants to stop.
    Interrupt,
}

/// What to do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Nothing real is on the wire: jump every agent to this trace instant, sample it, answer
    /// [`Input::Reached`].
    Jump {
        /// Trace ns.
        to_trace_ns: u64,
    },
    /// Sample every agent now, the clock running, answer [`Input::Reached`].
    Sample,
    /// Ask the balancer (and add migrations planned up to now), answer [`Input::Decided`].
    Decide {
        /// Whether it is the balancer's turn, or only the scenario's own migrations are due.
        balancer: bool,
    },
    /// Hold the clock, open the tenant flows that share a link with the moves, answer
    /// [`Input::Steady`].
    Hold,
    /// Open tenant flows that newly share a link with moves while the clock runs.
    OpenFlows,
    /// Let the clock run from here.
    Run,
    /// Start what may start of the queued migrations.
    StartMigrations,
    /// Answer [`Input::Woke`] when the running clock reaches this trace instant.
    WakeAt {
        /// Trace ns.
        trace_ns: u64,
    },
    /// Close all flows, wait for the network to be empty, hold the clock, answer
    /// [`Input::Drained`].
    Drain,
    /// Cancel what is under way.
    CancelMigrations,
    /// The run is over.
    End {
        /// By the user.
        interrupted: bool,
    },
}

/// Where the run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Created,
    /// Waiting for `Reached` after a jump.
    Jumping,
    /// Waiting for `Decided`, clock held.
    Deciding,
    /// Waiting for `Steady`, clock held.
    Holding,
    /// The clock runs; waiting for the next instant or for migrations.
    Running,
    /// The clock runs; waiting for `Reached`.
    Sampling,
    /// The clock runs; waiting for `Decided`.
    DecidingLive,
    /// Waiting for `Drained`.
    Draining,
    Ended,
}

/// The state machine.
#[derive(Debug)]
pub struct Timeline {
    schedule: Schedule,
    state: State,
    /// Last instant that was reached and sampled.
    at_ns: u64,
    /// The instant asked for last.
    next_ns: u64,
    planned_done: usize,
    open_migrations: u32,
    /// While the clock runs: no migration begins before this instant.
    begin_ns: u64,
    /// The clock runs up to this instant, as nothing moves any more.
    leave_ns: Option<u64>,
    interrupted: bool,
}

impl Timeline {
    /// A timeline at trace instant 0.
    #[must_use]
    pub fn new(schedule: Schedule) -> Self {
        Self {
            schedule,
            state: State::Created,
            at_ns: 0,
            next_ns: 0,
            planned_done: 0,
            open_migrations: 0,
            begin_ns: 0,
            leave_ns: None,
            interrupted: false,
        }
    }

    /// Takes what happened at trace instant `trace_ns` and says what to do.
    ///
    /// # Panics
    /// When the driver answers something that was not asked: a bug of the driver.
    pub fn step(&mut self, trace_ns: u64, input: Input) -> Vec<Command> {
        match input {
            Input::Interrupt => return self.interrupt(),
            Input::Migrations { open_migrations } => {
                self.open_migrations = open_migrations;
                return self.migrations_changed(trace_ns);
            }
            Input::Woke if self.state != State::Running => return Vec::new(),
            _ => {}
        }
        match (self.state, input) {
            (State::Created, Input::Start) => self.begin(),
            (State::Jumping, Input::Reached) => {
                self.at_ns = self.next_ns;
                self.after_jump()
            }
            (State::Deciding, Input::Decided { open_migrations }) => {
                self.open_migrations = open_migrations;
                if open_migrations > 0 {
                    self.state = State::Holding;
                    vec![Command::Hold]
                } else {
                    self.jump()
                }
            }
            (State::Holding, Input::Steady) => {
                self.state = State::Running;
                self.leave_ns = None;
                if self.schedule.pace == Pace::Warp && self.schedule.margin_ns > 0 {
                    self.begin_ns = trace_ns.saturating_add(self.schedule.margin_ns);
                    return vec![Command::Run, self.wake()];
                }
                vec![Command::Run, Command::StartMigrations, self.wake()]
            }
            (State::Running, Input::Woke) => self.woke(trace_ns),
            (State::Sampling, Input::Reached) => {
                self.at_ns = trace_ns.max(self.next_ns);
                self.after_live_sample()
            }
            (State::DecidingLive, Input::Decided { open_migrations }) => {
                self.open_migrations = open_migrations;
                self.after_live_decision()
            }
            (State::Draining, Input::Drained) => {
                // Between draining and here the clock has run on a little past the last instant.
                self.at_ns = self.at_ns.max(trace_ns);
                if self.interrupted || self.at_ns >= self.schedule.end_ns {
                    self.end()
                } else {
                    self.jump()
                }
            }
            (State::Ended, _) => Vec::new(),
            (state, input) => panic!("timeline: {input:?} does not answer {state:?}"),
        }
    }

    fn begin(&mut self) -> Vec<Command> {
        if self.schedule.pace == Pace::Real {
            // Tenant flows and the clock run from the start and to the end.
            self.state = State::Holding;
            return vec![Command::Hold];
        }
        self.next_ns = 0;
        self.state = State::Jumping;
        vec![Command::Jump { to_trace_ns: 0 }]
    }

    /// The next instant at which something is due after `at_ns`.
    fn next_instant(&self) -> u64 {
        let after = |step: u64| match step {
            0 => u64::MAX,
            step => (self.at_ns / step + 1).saturating_mul(step),
        };
        let planned = self
            .schedule
            .planned_ns
            .get(self.planned_done)
            .copied()
            .unwrap_or(u64::MAX);
        // Past the end only the last migrations are waited for, and sampled.
        let end = match self.schedule.end_ns {
            end if self.at_ns < end => end,
            _ => u64::MAX,
        };
        after(self.schedule.tick_ns)
            .min(after(self.schedule.sample_ns))
            .min(planned.max(self.at_ns))
            .min(end)
    }

    fn jump(&mut self) -> Vec<Command> {
        if self.at_ns >= self.schedule.end_ns {
            return self.end();
        }
        self.next_ns = self.next_instant();
        self.state = State::Jumping;
        vec![Command::Jump {
            to_trace_ns: self.next_ns,
        }]
    }

    fn wake(&mut self) -> Command {
        self.next_ns = self.next_instant();
        let begin = (self.begin_ns > 0).then_some(self.begin_ns);
        let sooner = begin.into_iter().chain(self.leave_ns);
        Command::WakeAt {
            trace_ns: sooner.fold(self.next_ns, u64::min),
        }
    }

    /// An instant has come: migrations may begin, all is over, or it is time to sample.
    fn woke(&mut self, trace_ns: u64) -> Vec<Command> {
        if self.begin_ns > 0 && trace_ns >= self.begin_ns {
            self.begin_ns = 0;
            return vec![Command::StartMigrations, self.wake()];
        }
        if self.leave_ns.is_some_and(|leave_ns| trace_ns >= leave_ns) {
            return self.drain();
        }
        self.state = State::Sampling;
        vec![Command::Sample]
    }

    /// What is due at the instant just reached: the balancer's turn, the scenario's own moves.
    fn due(&mut self) -> Option<Command> {
        let tick = self.schedule.tick_ns;
        let balancer = tick > 0 && self.next_ns > 0 && self.next_ns.is_multiple_of(tick);
        let mut planned = false;
        while self
            .schedule
            .planned_ns
            .get(self.planned_done)
            .is_some_and(|&at| at <= self.at_ns)
        {
            self.planned_done += 1;
            planned = true;
        }
        // At the very end a decision could only start what the run would not see end.
        let over = self.at_ns >= self.schedule.end_ns && !planned;
        (!over && (balancer || planned)).then_some(Command::Decide { balancer })
    }

    fn after_jump(&mut self) -> Vec<Command> {
        match self.due() {
            Some(decide) => {
                self.state = State::Deciding;
                vec![decide]
            }
            None => self.jump(),
        }
    }

    fn after_live_sample(&mut self) -> Vec<Command> {
        match self.due() {
            Some(decide) => {
                self.state = State::DecidingLive;
                vec![decide]
            }
            None => self.after_live_decision(),
        }
    }

    fn after_live_decision(&mut self) -> Vec<Command> {
        self.state = State::Running;
        if self.open_migrations == 0 && self.may_leave_running() {
            return self.leave(self.at_ns);
        }
        self.leave_ns = None;
        let mut commands = vec![Command::OpenFlows];
        commands.extend((self.begin_ns == 0).then_some(Command::StartMigrations));
        commands.push(self.wake());
        commands
    }

    /// Nothing moves any more: the clock stops, after the margin that is asked for.
    fn leave(&mut self, now_ns: u64) -> Vec<Command> {
        let margin_ns = match self.schedule.pace {
            Pace::Warp if !self.interrupted => self.schedule.margin_ns,
            _ => 0,
        };
        let leave_ns = self.leave_ns.unwrap_or(now_ns.saturating_add(margin_ns));
        if leave_ns <= now_ns {
            return self.drain();
        }
        self.leave_ns = Some(leave_ns);
        vec![self.wake()]
    }

    /// With pace `real` the clock runs to the end; a run also waits for its last migration.
    fn may_leave_running(&self) -> bool {
        self.interrupted || self.schedule.pace == Pace::Warp || self.at_ns >= self.schedule.end_ns
    }

    fn migrations_changed(&mut self, trace_ns: u64) -> Vec<Command> {
        if self.state != State::Running {
            return Vec::new();
        }
        if self.open_migrations > 0 {
            let begun = self.begin_ns == 0;
            return begun
                .then_some(Command::StartMigrations)
                .into_iter()
                .collect();
        }
        if self.may_leave_running() {
            self.leave(trace_ns)
        } else {
            Vec::new()
        }
    }

    fn drain(&mut self) -> Vec<Command> {
        self.state = State::Draining;
        (self.begin_ns, self.leave_ns) = (0, None);
        vec![Command::Drain]
    }

    fn interrupt(&mut self) -> Vec<Command> {
        if self.interrupted || self.state == State::Ended {
            return Vec::new();
        }
        self.interrupted = true;
        match self.state {
            State::Running | State::Sampling | State::DecidingLive if self.open_migrations > 0 => {
                self.state = State::Running;
                vec![Command::CancelMigrations]
            }
            State::Draining => Vec::new(),
            State::Running | State::Sampling | State::DecidingLive => self.drain(),
            _ => self.end(),
        }
    }

    fn end(&mut self) -> Vec<Command> {
        self.state = State::Ended;
        vec![Command::End {
            interrupted: self.interrupted,
        }]
    }
}

#[cfg(test)]
mod tests;
