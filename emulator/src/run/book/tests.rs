//! Everything that can be heard of a migration, and who owns its guest then.

use super::*;
use crate::ids::{HostId, MigrationId, VmId};

fn ongoing() -> Ongoing {
    let of = Move {
        id: MigrationId(1),
        vm: VmId(0),
        source: HostId(0),
        destination: HostId(1),
        reason: String::new(),
        running: true,
    };
    let mut migration = Ongoing::new(of, 0, 0);
    migration.watched = true;
    migration
}

fn source(ending: SourceEnding) -> SourceDone {
    let report = SourceReport::unsent(0, 0, String::new());
    SourceDone {
        ending,
        report,
        released_ns: 0,
    }
}

fn destination() -> DestinationReport {
    DestinationReport::empty()
}

/// Everything that can be heard of a migration, in every order: the guest never has two
/// owners, a source in doubt is told exactly once, and every story ends.
#[test]
fn every_story_ends_with_one_owner() {
    let endings = [
        SourceEnding::Completed,
        SourceEnding::Cancelled,
        SourceEnding::Failed,
        SourceEnding::Undecided,
    ];
    for source_says in endings.into_iter().map(Some).chain([None]) {
        for committed in [false, true] {
            for destination_lives in [false, true] {
                for source_first in [false, true] {
                    story(source_says, committed, destination_lives, source_first);
                }
            }
        }
    }
}

fn story(source_says: Option<SourceEnding>, committed: bool, lives: bool, source_first: bool) {
    // A source that still owns the guest cannot have a committed destination: the destination
    // commits only on a complete stream, whose last byte ends the source's right to fail.
    if committed
        && matches!(
            source_says,
            Some(SourceEnding::Cancelled | SourceEnding::Failed)
        )
    {
        return;
    }
    let mut migration = ongoing();
    let mut told = Vec::new();
    let mut told_gone = 0;
    let mut over = None;
    let mut settle = |migration: &mut Ongoing| {
        loop {
            match migration.verdict() {
                Verdict::Open => break,
                Verdict::Tell { committed } => told.push(committed),
                Verdict::TellGone => told_gone += 1,
                Verdict::Over { owner } => {
                    over = Some(owner);
                    break;
                }
            }
        }
    };
    let source_speaks = |migration: &mut Ongoing| match source_says {
        Some(ending) => migration.source_done(source(ending)),
        None => migration.source_lost(),
    };
    if source_first {
        source_speaks(&mut migration);
        settle(&mut migration);
    }
    if committed {
        migration.committed(5);
        settle(&mut migration);
    }
    if lives {
        migration.destination_done(destination());
    } else {
        migration.destination_lost();
    }
    settle(&mut migration);
    if !source_first {
        source_speaks(&mut migration);
        settle(&mut migration);
    }
    let owner = over.expect("the story ends");
    // A source that still waits, for a destination that will never commit, is told so once.
    assert_eq!(told_gone, u32::from(!source_first && !committed));
    let in_doubt = matches!(
        source_says,
        Some(SourceEnding::Completed | SourceEnding::Undecided)
    );
    assert_eq!(told, if in_doubt { vec![committed] } else { vec![] });
    let expected = match (committed, source_says, lives) {
        (true, _, true) => Owner::Destination,
        (true, _, false) | (false, None, _) => Owner::Lost,
        (false, Some(_), _) => Owner::Source,
    };
    assert_eq!(
        owner, expected,
        "{source_says:?} {committed} {lives} {source_first}"
    );
}

/// What nobody can vouch for is stranded; what a host's death or a crash took is lost.
#[test]
fn who_is_silent_and_who_has_died_is_told_apart() {
    use SourceEnding::{Completed, Crashed, Failed, Undecided};
    let owner = |hear: &dyn Fn(&mut Ongoing)| {
        let mut migration = ongoing();
        hear(&mut migration);
        loop {
            match migration.verdict() {
                Verdict::Open => return None,
                Verdict::Tell { .. } | Verdict::TellGone => {}
                Verdict::Over { owner } => return Some(owner),
            }
        }
    };
    let with = |ending| move |m: &mut Ongoing| m.source_done(source(ending));
    for (ending, expected) in [
        (Failed, Owner::Source),
        (Undecided, Owner::Stranded),
        (Completed, Owner::Stranded),
        (Crashed, Owner::Stranded),
    ] {
        let silent = owner(&|m| {
            with(ending)(m);
            m.destination_silent();
        });
        assert_eq!(silent, Some(expected), "{ending:?}, destination silent");
    }
    // Known to be dead: the source in doubt is told, and runs it.
    let dead = |m: &mut Ongoing| {
        with(Undecided)(m);
        m.destination_lost();
    };
    assert_eq!(owner(&dead), Some(Owner::Source));
    let source_silent = |committed: bool| {
        owner(&|m| {
            m.source_silent();
            if committed {
                m.committed(3);
            }
            m.destination_done(destination());
        })
    };
    assert_eq!(source_silent(false), Some(Owner::Stranded));
    assert_eq!(source_silent(true), Some(Owner::Destination));
    let ran_there = |how: fn(&mut Ongoing)| {
        owner(&|m| {
            m.committed(3);
            with(Completed)(m);
            how(m);
        })
    };
    let through = |m: &mut Ongoing| m.destination_done(destination());
    assert_eq!(ran_there(through), Some(Owner::Destination));
    let crashed = |m: &mut Ongoing| {
        m.crashed_there();
        m.destination_done(destination());
    };
    assert_eq!(ran_there(crashed), Some(Owner::Lost));
    assert_eq!(ran_there(Ongoing::destination_lost), Some(Owner::Lost));
    assert_eq!(
        ran_there(Ongoing::destination_silent),
        Some(Owner::Stranded)
    );
    let crashed = |m: &mut Ongoing| {
        with(Crashed)(m);
        m.destination_done(destination());
    };
    assert_eq!(owner(&crashed), Some(Owner::Lost));
}

#[test]
fn a_refused_destination_leaves_the_guest_where_it_is() {
    let mut migration = ongoing();
    migration.refused("no port".to_owned());
    let over = Verdict::Over {
        owner: Owner::Source,
    };
    assert_eq!(migration.verdict(), over);
    assert_eq!(migration.error().as_deref(), Some("no port"));
}

/// The source has sent everything, over a link that is dead. Its guest stands still until it is told.
#[test]
fn a_source_that_waits_in_vain_is_told_so() {
    use SourceEnding::Undecided;
    let told = |hear: &dyn Fn(&mut Ongoing)| {
        let mut migration = ongoing();
        hear(&mut migration);
        migration.verdict() == Verdict::TellGone
    };
    assert!(!told(&|_| {}), "the destination may still commit");
    assert!(told(&|m| m.destination_done(destination())));
    assert!(told(&Ongoing::destination_lost));
    // Not known to be dead: its commit record may have been written and not heard of.
    assert!(!told(&Ongoing::destination_silent));
    let committed_first = |m: &mut Ongoing| {
        m.committed(3);
        m.destination_done(destination());
    };
    assert!(!told(&committed_first), "it runs there");
    let never_started = |m: &mut Ongoing| {
        m.watched = false;
        m.destination_done(destination());
    };
    assert!(!told(&never_started));
    let through = |m: &mut Ongoing| {
        m.source_done(source(Undecided));
        m.destination_done(destination());
    };
    assert!(!told(&through), "it is told what became of it instead");
    // A manager that has forgotten says it again.
    let mut migration = ongoing();
    migration.destination_done(destination());
    assert_eq!(migration.verdict(), Verdict::TellGone);
    assert_eq!(migration.verdict(), Verdict::Open);
    migration.forget();
    migration.destination_done(destination());
    assert_eq!(migration.verdict(), Verdict::TellGone);
}

/// A cancel after the last byte: the destination is asked as long as it can still promise, and what came to
/// nothing by it counts as cancelled.
#[test]
fn a_late_cancel_asks_who_can_still_promise() {
    let mut migration = ongoing();
    assert!(migration.cancelled_late());
    let mut committed = ongoing();
    committed.committed(3);
    assert!(!committed.cancelled_late(), "it runs there");
    assert!(!committed.was_cancelled_late(Owner::Destination));
    let mut ended = ongoing();
    ended.destination_done(destination());
    assert!(!ended.cancelled_late(), "it has given up by itself");
    // The promise, then what the source makes of it.
    migration.destination_done(destination());
    assert_eq!(migration.verdict(), Verdict::TellGone);
    migration.source_done(source(SourceEnding::Undecided));
    let tell = Verdict::Tell { committed: false };
    assert_eq!(migration.verdict(), tell);
    let owner = Owner::Source;
    assert_eq!(migration.verdict(), Verdict::Over { owner });
    assert!(migration.was_cancelled_late(owner));
    assert_eq!(migration.error().as_deref(), Some("cancelled"));
}

/// A cancel when the destination has committed: nobody asks it any more, but its word may have got lost on a link that is
/// dead, and then the source is told.
#[test]
fn a_word_that_got_lost_is_not_waited_for() {
    let mut migration = ongoing();
    migration.committed(3);
    assert_eq!(migration.word_due_ns(), None, "it is on its way");
    assert!(!migration.cancelled_late());
    assert_eq!(migration.word_due_ns(), Some(3 + WORD_NS));
    let mut heard = migration.clone();
    heard.source_done(source(SourceEnding::Completed));
    assert_eq!(heard.word_due_ns(), None, "it came");
    migration.told_runs();
    assert_eq!(migration.word_due_ns(), None, "once");
    migration.source_done(source(SourceEnding::Undecided));
    assert_eq!(migration.verdict(), Verdict::Tell { committed: true });
    migration.destination_done(destination());
    let owner = Owner::Destination;
    assert_eq!(migration.verdict(), Verdict::Over { owner });
}

#[test]
fn who_gave_up_says_why() {
    let with = |mut done: SourceDone, error: Option<String>| {
        done.report.error = error;
        done
    };
    let failed = || source(SourceEnding::Failed);
    let there = || DestinationReport {
        error: Some("a damaged page".to_owned()),
        ..destination()
    };
    let said = |done: SourceDone| {
        let mut migration = ongoing();
        migration.destination_done(there());
        assert_eq!(migration.verdict(), Verdict::TellGone);
        migration.source_done(done);
        migration.error().expect("it failed")
    };
    let gone = SourceError::DestinationGone.to_string();
    assert_eq!(said(with(failed(), Some(gone))), "a damaged page");
    // It was ending by itself when it was told.
    let own = "the process of the VM died at the source".to_owned();
    assert_eq!(said(with(failed(), Some(own.clone()))), own);
}
