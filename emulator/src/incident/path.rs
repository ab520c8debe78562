//! The link of an incident, and QEMU's limit before it. Pure.
//!
//! Never inside: what the guest writes.

use super::IncidentError;
use netmodel::flow::segment_payload;
use netmodel::link::{MTU, OVERHEAD_ETHERNET};
use netmodel::units::BitRate;
use traces::migration_log::MigrationLog;
use traces::units::round_u64;

/// A last burst so much faster than the rest was let off a limit; one that is not came over the same link.
const LET_OFF: f64 = 1.25;
/// No more of it is believed: a burst of some milliseconds fills buffers, and sets nothing but its own length.
const BURST_MOST: f64 = 8.0;

/// What QEMU's figures are of payload is more on the wire, with headers.
fn on_wire(bytes_per_s: f64) -> BitRate {
    let wire = f64::from(MTU + OVERHEAD_ETHERNET) / segment_payload() as f64;
    let bps = round_u64(bytes_per_s * 8.0 * wire).max(1);
    BitRate::from_bps(bps).expect("not 0")
}

/// The link of a guest that was switched to post-copy, where no limit holds, and the limit before.
pub(super) fn pulled(
    log: &MigrationLog,
    bytes_per_s: f64,
    at_ms: u64,
    notes: &mut Vec<String>,
) -> Result<(BitRate, Option<u64>), IncidentError> {
    let no_end = || IncidentError::PostCopy {
        name: log.name.clone(),
        at_ms,
    };
    let pulled = log.pulled_bytes_per_s().ok_or_else(no_end)?;
    let mbit = |bytes_per_s: f64| bytes_per_s * 8.0 / 1e6;
    notes.push(format!(
        "post-copy after {at_ms} ms; the link carries {:.0} Mbit/s, what came from then to the end on average, the search for zero pages \
         included",
        mbit(pulled)
    ));
    let limit = (pulled > LET_OFF * bytes_per_s).then(|| round_u64(bytes_per_s));
    if limit.is_some() {
        let before = mbit(bytes_per_s);
        notes.push(format!(
            "max-bandwidth {before:.0} Mbit/s: what QEMU sent with before"
        ));
    }
    Ok((on_wire(pulled.max(bytes_per_s)), limit))
}

/// The link, and QEMU's limit where it was one: the last burst, sent with the guest stopped, knows no limit.
pub(super) fn path(
    log: &MigrationLog,
    bytes_per_s: f64,
    notes: &mut Vec<String>,
) -> (BitRate, Option<u64>) {
    let mbit = |bytes_per_s: f64| bytes_per_s * 8.0 / 1e6;
    let burst = log
        .burst_bytes_per_s()
        .filter(|burst| *burst > LET_OFF * bytes_per_s);
    let Some(burst) = burst.filter(|_| !log.was_stopped()) else {
        notes.push(format!(
            "the link carries {:.0} Mbit/s of payload, what QEMU sent with; whether that was the link or max-bandwidth the log does \
             not say",
            mbit(bytes_per_s)
        ));
        return (on_wire(bytes_per_s), None);
    };
    let link = burst.min(BURST_MOST * bytes_per_s);
    notes.push(format!(
        "max-bandwidth {:.0} Mbit/s: what QEMU sent with while the guest ran; its last burst came at {:.0}, of which {:.0} are taken for \
         the link",
        mbit(bytes_per_s),
        mbit(burst),
        mbit(link)
    ));
    (on_wire(link), Some(round_u64(bytes_per_s)))
}
