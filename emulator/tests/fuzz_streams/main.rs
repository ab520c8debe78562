//! Damaged streams into both ends of a migration: no panic, no hang, no garbage accepted.
//!
//! *Accepted garbage*, at a destination: it lets a guest run of which a page is missing, or holds
//! bytes that are not this page of this guest, or whose state is not the one that was sent; or it
//! calls a guest verified whose pages are not all of the version that the guest's own time says. (A
//! page that is genuine and old is nobody's damage on the way; comparing finds it, and the migration
//! is unverified.) In a post-copy the guest runs before its pages are there: then it is never let past
//! the access of one that has not come whole, and is given up where one never does. At a source: it
//! takes anything but the destination's own word for one, or lets a guest run that may run elsewhere.
//!
//! ```text
//! destinations   QEMU's, Xen's and Cloud Hypervisor's stream, deltas, channels   (`expect`, `packets`)
//! hellos         what opens channels
//! pulls          post-copy and its recovery;  preempt   requested pages beside it
//! on_demand      Cloud Hypervisor's post-copy, both of its ends
//! answers        return paths and answers into a source;  requests   those of a post-copy
//! ```
//!
//! `MIGBED_FUZZ=10000` sets how many streams of one stream each are tried, and as many of those that
//! came later, a fixed sequence; 600 without it.

#![expect(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "tests: whatever fails fails the test, and its steps are read in order"
)]

mod answers;
mod damage;
mod destinations;
mod draw;
mod ends;
mod expect;
mod guest;
mod hellos;
mod on_demand;
mod packets;
mod preempt;
mod pulls;
mod requests;

/// Nothing here takes longer, but for a computer that is busy with other things.
const HANG_NS: u64 = 20_000_000_000;

fn tries() -> u64 {
    let asked = std::env::var("MIGBED_FUZZ").ok();
    asked.map_or(600, |text| text.parse().expect("MIGBED_FUZZ is a number"))
}
