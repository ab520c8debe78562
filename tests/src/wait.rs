//! Waiting for a condition, up to a deadline. Never waiting for a while.

use netmodel::sys::clock::{now_ns, wait_until};
use std::time::Duration;

/// How often a condition is looked at: short beside what tests allow, long beside reading /proc.
const LOOK_NS: u64 = 20_000_000;

/// The first thing `look` finds; `None` when it finds nothing within `limit`.
///
/// # Panics
/// When the clock cannot be waited on.
pub fn wait_for<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = now_ns() + u64::try_from(limit.as_nanos()).expect("a limit of centuries");
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        let now = now_ns();
        if now >= deadline {
            return None;
        }
        wait_until(now + LOOK_NS).expect("the monotonic clock can be waited on");
    }
}
