//! Looks and ticks computed by hand.

use super::*;

fn converge(tailslow: bool) -> AutoConverge {
    let params = AutoConvergeParams {
        cpu_throttle_tailslow: tailslow,
        ..AutoConvergeParams::default()
    };
    AutoConverge::new(params, 0)
}

#[test]
fn the_second_look_above_half_of_what_was_sent_throttles_by_20_then_10_more() {
    let mut it = converge(false);
    // 1000 sent a period; 500 dirtied is not more than half, 501 is.
    assert_eq!(it.look(500, 1000), None);
    assert_eq!(it.look(501, 2000), None, "the first hit");
    assert_eq!(it.look(10, 3000), None, "hits need not be in a row");
    assert_eq!(it.look(501, 4000), Some(20));
    let mut sent = 4000;
    for expected in [30, 40, 50, 60, 70, 80, 90, 99] {
        sent += 1000;
        assert_eq!(it.look(900, sent), None);
        sent += 1000;
        assert_eq!(it.look(900, sent), Some(expected));
    }
    assert_eq!(it.look(900, sent + 1000), None);
    assert_eq!(it.look(900, sent + 2000), None, "99 is the most");
}

#[test]
fn tailslow_takes_no_more_than_brings_the_guest_to_the_threshold() {
    let mut it = converge(true);
    it.look(2000, 1000);
    assert_eq!(
        it.look(2000, 2000),
        Some(20),
        "the first step is the initial one"
    );
    // 500 of 550 dirtied would be the threshold: of 80 % CPU 72 are left, 8 less.
    it.look(550, 3000);
    assert_eq!(it.look(550, 4000), Some(28));
    // 500 of 510: of 72 % 70 are left (70.58 truncated).
    it.look(510, 5000);
    assert_eq!(it.look(510, 6000), Some(30));
    // Far above it the increment bounds.
    it.look(5000, 7000);
    assert_eq!(it.look(5000, 8000), Some(40));
}

#[test]
fn the_timer_asks_for_a_sync_if_there_was_none_for_a_tick_and_not_in_the_first_pass() {
    let mut it = converge(false);
    assert!(!it.wants_sync(4999, 1));
    assert!(!it.wants_sync(5000, 1), "the first pass");
    assert!(!it.wants_sync(10_000, 1), "still the first pass");
    assert!(!it.wants_sync(15_000, 2), "a sync came since the last tick");
    assert!(!it.wants_sync(19_999, 2));
    assert!(it.wants_sync(20_000, 2));
    // That sync was the third; none since.
    assert!(it.wants_sync(25_000, 3));
    assert!(!it.wants_sync(30_000, 5));
}
