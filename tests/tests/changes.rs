//! Links that change while something is on the wire: the schedule of a scenario, carried out.

use migbed::event::EventKind;
use migbed::migration::record::{MigrationRecord, Owner, Status};
use migbed_tests::{Sandbox, Seen, one_of, records, seen, turn, within};

/// `vm` leaves h1 for h2 at 5 s of trace time: 96 MiB over 200 Mbit/s, 4.3 s.
const MOVING: &str = r#"
name = "changes"
seed = 4
duration = "20s"

[network]
link = { rate = "200Mbit", delay = "1ms", queue = "256KiB" }

[[hosts]]
name = "h"
count = 2
cores = 2
ram = "1GiB"

[[vms]]
name = "vm"
ram = "128MiB"
resident = "96MiB"
host = "h1"

[[migrations]]
at = "5s"
vm = "vm"
to = "h2"
"#;

/// Wire bytes a byte of the stream costs: 1448 bytes of payload a segment of 1500, and 38 of
/// Ethernet around it (DESIGN §5).
const WIRE: f64 = 1538.0 / 1448.0;

/// Runs `MOVING` with events.
fn run(events: &str) -> (MigrationRecord, Seen) {
    let sandbox = Sandbox::new();
    let path = sandbox.file("changes.toml", format!("{MOVING}{events}"));
    sandbox.run_scenario(&path, &[]).expect_code(0);
    let out = sandbox.work().join("out");
    let html = std::fs::read_to_string(out.join("report.html")).expect("there is a report");
    assert!(html.contains("changes of links"), "the report shows them");
    let record = records(&out).into_iter().next().expect("one migration");
    assert_eq!(record.status, Status::Completed, "{record:?}");
    assert_eq!(record.owner, Owner::Destination);
    assert!(record.verified);
    (record, seen(&out))
}

/// Link, trace ms, monotonic ns, rate in Mbit/s (0 while it is down), µs late: of every change.
fn changes(events: &Seen) -> Vec<(String, u64, u64, u64, f64)> {
    let change = |event: &migbed::event::Event| match &event.kind {
        EventKind::LinkChanged {
            link,
            spec,
            late_us,
        } => {
            let mbit = spec
                .rate
                .filter(|_| spec.up)
                .map_or(0, |rate| rate.bps() / 1_000_000);
            let at_ms = event.trace_ns / 1_000_000;
            Some((link.clone(), at_ms, event.mono_ns, mbit, *late_us))
        }
        _ => None,
    };
    events.0.iter().filter_map(change).collect()
}

/// From the first byte to the last, ms; and bits that crossed the wire.
fn transfer(record: &MigrationRecord) -> (u64, f64, f64) {
    let source = record.source_report.as_ref().expect("it began");
    let ms = (source.end_ns - source.setup_end_ns) as f64 / 1e6;
    let bits = source.bytes.total() as f64 * WIRE * 8.0;
    (source.setup_end_ns, ms, bits)
}

#[test]
fn a_rate_that_is_halved_on_the_way_halves_what_comes_after() {
    let Some(_turn) = turn("a_rate_that_is_halved_on_the_way_halves_what_comes_after") else {
        return;
    };
    one_of(|| {
        let event = "\n[[events]]\nat = \"7s\"\nlink = \"h1-up\"\nrate = \"50%\"\n";
        let (record, events) = run(event);
        let changes = changes(&events);
        let [(link, at_ms, changed_ns, mbit, late_us)] = changes.as_slice() else {
            panic!("one change: {changes:?}");
        };
        assert_eq!((link.as_str(), *at_ms, *mbit), ("h1-up", 7000, 100));
        let (begun_ns, ms, bits) = transfer(&record);
        let before_ms = (changed_ns - begun_ns) as f64 / 1e6;
        // What has not left when the rate halves takes twice as long; a full queue of 256 KiB is
        // part of that.
        let ideal_ms = before_ms + (bits - before_ms * 200e3) / 100e3;
        // Never faster than the links, but for what the send buffer hides at the end: nothing, as
        // the source waits for the destination's word.
        assert!(ms > ideal_ms * 0.98, "{ms} ms is faster than {ideal_ms}");
        within("late, µs", *late_us, [0.0, 1000.0])?;
        // 2 % for the handshake, slow start and the last acknowledgement, as of any migration.
        within("ms with a halved rate", ms, [0.0, ideal_ms * 1.02])
    });
}

#[test]
fn a_link_that_goes_down_for_a_second_costs_about_that() {
    let Some(_turn) = turn("a_link_that_goes_down_for_a_second_costs_about_that") else {
        return;
    };
    one_of(|| {
        let event = |at: u32, what: &str| {
            format!("\n[[events]]\nat = \"{at}s\"\nlink = \"h1-up\"\n{what} = true\n")
        };
        let (record, events) = run(&(event(7, "down") + &event(8, "up")));
        let rates: Vec<u64> = changes(&events).iter().map(|change| change.3).collect();
        assert_eq!(rates, [0, 200]);
        let (_, ms, bits) = transfer(&record);
        let ideal_ms = bits / 200e3;
        // What is on the link when it goes down still arrives: a queue of 256 KiB, 10 ms.
        assert!(ms > ideal_ms * 0.98 + 990.0, "{ms} ms, {ideal_ms} without");
        // Retransmissions are 200 ms apart and more, doubling each time: the one that gets through
        // comes at most as long after the heal as the link was down, and one timeout. From there
        // slow start takes some round trips of 2 to 12 ms.
        within(
            "ms with a gap",
            ms,
            [0.0, ideal_ms * 1.02 + 2.0 * 1000.0 + 300.0],
        )
    });
}

#[test]
fn a_jump_lands_on_links_as_they_are_by_then() {
    let Some(_turn) = turn("a_jump_lands_on_links_as_they_are_by_then") else {
        return;
    };
    one_of(|| {
        let event = |at: u32, rate: &str| {
            format!("\n[[events]]\nat = \"{at}s\"\nlink = \"h1-up\"\nrate = \"{rate}\"\n")
        };
        // Nothing is on the wire before 5 s: one jump passes all three.
        let events = event(1, "10Mbit") + &event(2, "20Mbit") + &event(3, "100Mbit");
        let (record, events) = run(&events);
        let changes = changes(&events);
        let last = changes.last().expect("the net effect");
        assert_eq!((last.0.as_str(), last.3), ("h1-up", 100), "{changes:?}");
        let (begun_ns, ms, bits) = transfer(&record);
        assert!(last.2 <= begun_ns, "before anything is sent: {changes:?}");
        assert!(
            ms > bits / 100e3 * 0.98,
            "{ms} ms is faster than 100 Mbit/s"
        );
        within("ms at the rate landed on", ms, [0.0, bits / 100e3 * 1.02])
    });
}
