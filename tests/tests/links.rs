//! Many links at once: eight migrations share an oversubscribed uplink of a rack.

use std::collections::BTreeMap;

use migbed::event::{EventKind, LinkSample};
use migbed::migration::record::{MigrationRecord, Status};
use migbed_tests::{Sandbox, Seen, one_of, records, repository, seen, turn, within};

/// `examples/rack.toml`: sixteen hosts in two racks, whose uplinks have half of what their hosts' links have together.
fn scenario() -> std::path::PathBuf {
    repository().join("examples/rack.toml")
}

/// Rate of the uplinks, bit/s.
fn uplink_bps() -> f64 {
    let loaded = migbed::scenario::load(&scenario()).expect("an example can be run");
    let topology = loaded.scenario.network.topology;
    let uplink = topology
        .link_named("rack1-up")
        .expect("a rack has an uplink");
    uplink.spec.rate.expect("it is shaped").bps() as f64
}

fn rack() -> (Vec<MigrationRecord>, Seen) {
    let sandbox = Sandbox::new();
    let scenario = scenario();
    let scenario = scenario.to_str().expect("paths are text");
    // Whether this computer was calm enough to be trusted with figures is not the question here.
    let options = [
        "run",
        scenario,
        "--out",
        "out",
        "--no-calibration",
        "--force",
        "--quiet",
    ];
    let finished = sandbox.run(&options);
    assert!(matches!(finished.code, Some(0 | 4)), "{finished:?}");
    let out = sandbox.work().join("out");
    (records(&out), seen(&out))
}

/// The last sample of every link.
fn links(events: &Seen) -> BTreeMap<String, LinkSample> {
    let sample = |event: &migbed::event::Event| match &event.kind {
        EventKind::LinkSample(sample) => Some((sample.link.clone(), sample.clone())),
        _ => None,
    };
    events.0.iter().filter_map(sample).collect()
}

/// When the first began and how long until the last had ended, by the records' own clocks.
fn span_s(records: &[MigrationRecord]) -> f64 {
    let sources = || {
        records
            .iter()
            .filter_map(|record| record.source_report.as_ref())
    };
    let begin = sources().map(|source| source.setup_end_ns).min();
    let end = sources()
        .flat_map(|source| source.tcp.iter().map(|tcp| tcp.at_ns))
        .max();
    let (begin, end) = begin.zip(end).expect("migrations that were carried out");
    end.saturating_sub(begin) as f64 / 1e9
}

#[test]
fn eight_migrations_share_an_oversubscribed_uplink() {
    let Some(_turn) = turn("eight_migrations_share_an_oversubscribed_uplink") else {
        return;
    };
    let uplink_bps = uplink_bps();
    one_of(|| {
        let (records, events) = rack();
        assert_eq!(records.len(), 8);
        for record in &records {
            assert_eq!(record.status, Status::Completed, "{record:?}");
            assert!(record.verified, "{record:?}");
        }
        let links = links(&events);
        // 16 hosts and 2 racks, both ways.
        assert_eq!(links.len(), 36);
        for (name, link) in &links {
            let accounted =
                link.wire_bytes_out + link.dropped_bytes + link.lost_bytes + link.queued_bytes;
            assert_eq!(link.wire_bytes_in, accounted, "{name}");
            assert_eq!(link.queued_bytes, 0, "{name}");
        }
        let (up, down) = (&links["rack1-up"], &links["rack2-down"]);
        // What left one rack entered the other.
        assert_eq!(up.wire_bytes_out, down.wire_bytes_in);
        let carried_bps = up.wire_bytes_out as f64 * 8.0 / span_s(&records);
        // A full queue may leave behind the last look at TCP: 60 ms of some forty seconds.
        assert!(carried_bps < uplink_bps * 1.01, "{carried_bps}");
        let total_ms = |record: &MigrationRecord| record.query_migrate["total-time"].as_f64();
        let speeds: Vec<f64> = records
            .iter()
            .filter_map(|r| total_ms(r).map(f64::recip))
            .collect();
        let (sum, squares) = speeds
            .iter()
            .fold((0.0, 0.0), |(s, q), v| (s + v, q + v * v));
        // Until four are left the uplink is the bottleneck, and then the hosts' links: with shares as uneven as Jain's
        // index 0.8 it is full for four fifths of the time or more.
        within("uplink, of its rate", carried_bps / uplink_bps, [0.8, 1.01])?;
        within(
            "Jain's index of eight shares",
            sum * sum / (8.0 * squares),
            [0.8, 1.0],
        )
    });
}
