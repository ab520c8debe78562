//! Pages read, by accessed bits, of a program whose reads are known.

use recorder::{Options, can_record_pages, record};
use std::ffi::OsString;
use std::time::Duration;
use traces::fit::{Samples, read_windows};

const PAGES: u64 = 8192;
/// Pages of the program's own image and libraries, and of those the stack and heap that it reads.
const OWN: u64 = 1500;

/// Half of what the program has written it reads all the time, the other half never again. Where the machine gives it
/// no CPU for a whole window, it reads less in that one; more than half must be in none.
#[test]
fn pages_read_all_the_time_are_found_and_others_are_not() {
    let test = "pages_read_all_the_time_are_found_and_others_are_not";
    if let Err(missing) = can_record_pages() {
        eprintln!("SKIPPED {test}: missing {missing}");
        return;
    }
    let program = env!("CARGO_BIN_EXE_known-reader");
    let command = [program, &PAGES.to_string(), "5"].map(OsString::from);
    let options = Options {
        sample: Duration::from_millis(250),
        census: Duration::ZERO,
        ..Options::default()
    };
    let recording = record(&command, &options).unwrap();
    let samples = &recording.sidecar.samples;
    if samples.accessed_ms.iter().all(Option::is_none) {
        eprintln!("SKIPPED {test}: missing accessed bits (clear_refs)");
        return;
    }
    let samples = Samples {
        t_ms: &samples.t_ms,
        accessed_ms: &samples.accessed_ms,
        read_only_pages: &samples.read_only_pages,
        census_ms: &[],
    };
    // Its writing is over within the first second unless it has to wait; a window that holds it says less, not more.
    let windows = read_windows(&samples, 0);
    let lengths: Vec<f64> = windows.iter().map(|window| window.window_s).collect();
    let (shortest, longest) = (
        lengths.iter().copied().fold(f64::INFINITY, f64::min),
        lengths.iter().copied().fold(0.0, f64::max),
    );
    assert!(longest > 1.5 * shortest, "{lengths:?}");
    let found: Vec<u64> = windows.iter().map(|window| window.pages).collect();
    let most = found.iter().max().unwrap();
    assert!((PAGES * 95 / 100..PAGES + OWN).contains(most), "{found:?}");
}
