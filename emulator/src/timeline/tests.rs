//! Golden orders of events, in virtual time.

use super::*;

fn schedule(pace: Pace) -> Schedule {
    Schedule {
        pace,
        end_ns: 100,
        tick_ns: 50,
        sample_ns: 25,
        planned_ns: vec![],
        margin_ns: 0,
    }
}

fn jump(to_trace_ns: u64) -> Vec<Command> {
    vec![Command::Jump { to_trace_ns }]
}

#[test]
fn a_quiet_run_jumps_from_sample_to_sample() {
    let mut timeline = Timeline::new(schedule(Pace::Warp));
    assert_eq!(timeline.step(0, Input::Start), jump(0));
    assert_eq!(timeline.step(0, Input::Reached), jump(25));
    assert_eq!(timeline.step(25, Input::Reached), jump(50));
    assert_eq!(
        timeline.step(50, Input::Reached),
        [Command::Decide { balancer: true }]
    );
    assert_eq!(
        timeline.step(50, Input::Decided { open_migrations: 0 }),
        jump(75)
    );
    assert_eq!(timeline.step(75, Input::Reached), jump(100));
    assert_eq!(
        timeline.step(100, Input::Reached),
        [Command::End { interrupted: false }]
    );
}

fn running_at_50(pace: Pace) -> Timeline {
    let mut timeline = Timeline::new(schedule(pace));
    timeline.step(0, Input::Start);
    timeline.step(0, Input::Reached);
    timeline.step(25, Input::Reached);
    timeline.step(50, Input::Reached);
    assert_eq!(
        timeline.step(50, Input::Decided { open_migrations: 2 }),
        [Command::Hold]
    );
    assert_eq!(
        timeline.step(50, Input::Steady),
        [
            Command::Run,
            Command::StartMigrations,
            Command::WakeAt { trace_ns: 75 }
        ]
    );
    timeline
}

#[test]
fn moves_hold_the_clock_then_run_it_until_the_last_has_ended() {
    let mut timeline = running_at_50(Pace::Warp);
    assert_eq!(
        timeline.step(60, Input::Migrations { open_migrations: 1 }),
        [Command::StartMigrations]
    );
    assert_eq!(
        timeline.step(70, Input::Migrations { open_migrations: 0 }),
        [Command::Drain]
    );
    assert_eq!(timeline.step(71, Input::Drained), jump(75));
}

#[test]
fn the_balancer_is_asked_while_migrations_run() {
    let mut timeline = running_at_50(Pace::Warp);
    assert_eq!(timeline.step(75, Input::Woke), [Command::Sample]);
    let on = |to| {
        [
            Command::OpenFlows,
            Command::StartMigrations,
            Command::WakeAt { trace_ns: to },
        ]
    };
    assert_eq!(timeline.step(75, Input::Reached), on(100));
    assert_eq!(timeline.step(100, Input::Woke), [Command::Sample]);
    // The end of the trace has come, but a migration is still on the wire: it is waited for.
    assert_eq!(timeline.step(101, Input::Reached), on(125));
    assert_eq!(
        timeline.step(130, Input::Migrations { open_migrations: 0 }),
        [Command::Drain]
    );
    assert_eq!(
        timeline.step(131, Input::Drained),
        [Command::End { interrupted: false }]
    );
}

#[test]
fn a_late_wake_up_while_sampling_is_ignored() {
    let mut timeline = running_at_50(Pace::Warp);
    timeline.step(75, Input::Woke);
    assert_eq!(timeline.step(76, Input::Woke), []);
}

#[test]
fn planned_migrations_come_at_their_instant_without_a_balancer() {
    let planned = Schedule {
        tick_ns: 0,
        sample_ns: 0,
        planned_ns: vec![0, 10, 10],
        ..schedule(Pace::Warp)
    };
    let mut timeline = Timeline::new(planned);
    timeline.step(0, Input::Start);
    assert_eq!(
        timeline.step(0, Input::Reached),
        [Command::Decide { balancer: false }]
    );
    assert_eq!(
        timeline.step(0, Input::Decided { open_migrations: 0 }),
        jump(10)
    );
    assert_eq!(
        timeline.step(10, Input::Reached),
        [Command::Decide { balancer: false }]
    );
    assert_eq!(
        timeline.step(10, Input::Decided { open_migrations: 0 }),
        jump(100)
    );
}

#[test]
fn an_interrupt_cancels_drains_and_ends() {
    let mut timeline = running_at_50(Pace::Warp);
    assert_eq!(
        timeline.step(60, Input::Interrupt),
        [Command::CancelMigrations]
    );
    assert_eq!(timeline.step(60, Input::Interrupt), []);
    assert_eq!(
        timeline.step(61, Input::Migrations { open_migrations: 0 }),
        [Command::Drain]
    );
    assert_eq!(
        timeline.step(62, Input::Drained),
        [Command::End { interrupted: true }]
    );
    let mut idle = Timeline::new(schedule(Pace::Warp));
    idle.step(0, Input::Start);
    assert_eq!(
        idle.step(0, Input::Interrupt),
        [Command::End { interrupted: true }]
    );
    assert_eq!(idle.step(0, Input::Reached), []);
}

#[test]
fn pace_real_runs_from_the_start_to_the_end() {
    let mut timeline = Timeline::new(schedule(Pace::Real));
    assert_eq!(timeline.step(0, Input::Start), [Command::Hold]);
    assert_eq!(
        timeline.step(0, Input::Steady),
        [
            Command::Run,
            Command::StartMigrations,
            Command::WakeAt { trace_ns: 25 }
        ]
    );
    timeline.step(25, Input::Woke);
    timeline.step(25, Input::Reached);
    timeline.step(50, Input::Woke);
    assert_eq!(
        timeline.step(50, Input::Reached),
        [Command::Decide { balancer: true }]
    );
    timeline.step(50, Input::Decided { open_migrations: 0 });
    timeline.step(75, Input::Woke);
    timeline.step(75, Input::Reached);
    timeline.step(100, Input::Woke);
    assert_eq!(timeline.step(100, Input::Reached), [Command::Drain]);
    assert_eq!(
        timeline.step(101, Input::Drained),
        [Command::End { interrupted: false }]
    );
}

#[test]
fn services_are_seen_before_and_after() {
    let mut timeline = Timeline::new(Schedule {
        margin_ns: 10,
        ..schedule(Pace::Warp)
    });
    timeline.step(0, Input::Start);
    timeline.step(0, Input::Reached);
    timeline.step(25, Input::Reached);
    timeline.step(50, Input::Reached);
    timeline.step(50, Input::Decided { open_migrations: 2 });
    let wake = |trace_ns| Command::WakeAt { trace_ns };
    assert_eq!(timeline.step(50, Input::Steady), [Command::Run, wake(60)]);
    // One is cancelled in the queue meanwhile: the other still waits.
    assert!(
        timeline
            .step(55, Input::Migrations { open_migrations: 1 })
            .is_empty()
    );
    assert_eq!(
        timeline.step(60, Input::Woke),
        [Command::StartMigrations, wake(75)]
    );
    assert_eq!(
        timeline.step(70, Input::Migrations { open_migrations: 0 }),
        [wake(75)],
        "the margin ends at 80, a sample is due before"
    );
    assert_eq!(timeline.step(75, Input::Woke), [Command::Sample]);
    assert_eq!(timeline.step(76, Input::Reached), [wake(80)]);
    assert_eq!(timeline.step(80, Input::Woke), [Command::Drain]);
    assert_eq!(timeline.step(81, Input::Drained), jump(100));
}
