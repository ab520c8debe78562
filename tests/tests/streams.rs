//! How pages travel, through the binary: channels and codecs, deltas, Cloud Hypervisor's connections, post-copy. Each
//! byte in the source's account, the destination's and the links', and what clients see whose VM moves that way.

use migbed::migration::params::{Compression, EngineKind};
use migbed::migration::record::{MigrationRecord, Owner, Round, SourceReport};
use migbed_tests::{Sandbox, WEB_PROBED, far_hosts, json_file, moves, records, shop, turn};
use serde_json::Value;

/// Wire bytes a byte of the stream costs at the least: 1448 bytes of payload a segment of 1500, 38 of Ethernet around it.
const WIRE: f64 = 1538.0 / 1448.0;
const PAGES: u64 = 64 * 256;

/// One way, as options of `migrate`, and what its record must say beyond what all must.
struct Case {
    options: &'static [&'static str],
    check: fn(&MigrationRecord, &SourceReport),
}

const fn case(
    options: &'static [&'static str],
    check: fn(&MigrationRecord, &SourceReport),
) -> Case {
    Case { options, check }
}

const CASES: [Case; 11] = [
    case(&["--multifd-channels", "3"], |record, source| {
        channels(record, source, 3, Compression::None);
        assert_eq!(
            source.bytes.normal,
            4096 * sum(source, |round| round.normal_pages)
        );
    }),
    case(&["--multifd-compression", "zlib"], |record, source| {
        channels(record, source, 2, Compression::Zlib);
        packed(source);
    }),
    case(&["--multifd-compression", "zstd"], |record, source| {
        channels(record, source, 2, Compression::Zstd);
        packed(source);
    }),
    case(
        &["--multifd-compression", "lz4", "--multifd-channels", "4"],
        |record, source| {
            channels(record, source, 4, Compression::Lz4);
            packed(source);
        },
    ),
    case(
        &[
            "--xbzrle",
            "--downtime-limit",
            "20ms",
            "--write-rate",
            "2000",
        ],
        deltas,
    ),
    case(
        &["--engine", "cloud-hypervisor", "--connections", "3"],
        |record, source| {
            assert_eq!(record.params.engine, EngineKind::CloudHypervisor);
            assert_eq!((record.params.connections, source.multifd_bytes), (3, 0));
            // Header, Start, Config, Complete; a hello on each connection.
            assert_eq!(source.bytes.control, 48 + 3 * 16 + 3 * 64);
        },
    ),
    case(
        &["--engine", "cloud-hypervisor", "--memory-mode", "postcopy"],
        |record, source| {
            assert_eq!(record.kind, "PostCopy");
            let destination = record.destination_report.as_ref().expect("it ran");
            let there = destination.postcopy.as_ref().expect("it came to it");
            assert_eq!(
                (there.missing_pages, there.never_came, there.overrun),
                (PAGES, 0, Some(0))
            );
            // One answer a page, and each page once; nothing of memory on the main connection.
            let here = source.postcopy.as_ref().expect("it came to it");
            assert_eq!(here.requests, PAGES);
            assert_eq!(ram(record, "postcopy-requests"), there.requests);
            assert_eq!(ram(record, "postcopy-bytes"), PAGES * (16 + 4096));
            assert_eq!(source.bytes.normal, PAGES * 4096);
            assert_eq!(source.bytes.control, 48 + 3 * 16 + 64);
        },
    ),
    case(
        &["--engine", "post-copy", "--postcopy-preempt"],
        |record, source| {
            assert_eq!(pulled(record, source), PAGES);
            assert_eq!(source.precopy_bytes, 0);
        },
    ),
    case(
        &[
            "--postcopy",
            "--postcopy-after-precopy",
            "--downtime-limit",
            "20ms",
            "--write-rate",
            "4000",
        ],
        |record, source| {
            let missing = pulled(record, source);
            assert!(
                missing > 0 && missing < PAGES,
                "{missing} pages missing at the switch"
            );
            assert!(source.precopy_bytes > 16 << 20);
        },
    ),
    case(
        &["--engine", "post-copy", "--memory", "resident"],
        |record, source| {
            assert_eq!(pulled(record, source), PAGES);
            stopped_by_the_kernel(record);
        },
    ),
    case(
        &[
            "--postcopy",
            "--postcopy-after-precopy",
            "--postcopy-preempt",
            "--downtime-limit",
            "20ms",
            "--write-rate",
            "4000",
            "--memory",
            "resident",
        ],
        |record, source| {
            let missing = pulled(record, source);
            assert!(missing > 0 && missing < PAGES, "{missing} pages missing");
            stopped_by_the_kernel(record);
        },
    ),
];

fn sum(source: &SourceReport, of: fn(&Round) -> u64) -> u64 {
    source.rounds.iter().map(of).sum()
}

fn ram(record: &MigrationRecord, key: &str) -> u64 {
    let value = record.query_migrate["ram"][key].as_u64();
    value.unwrap_or_else(|| panic!("{key} in {}", record.query_migrate))
}

fn channels(record: &MigrationRecord, source: &SourceReport, count: u8, codec: Compression) {
    let multifd = &record.params.multifd;
    assert!(multifd.enabled);
    assert_eq!((multifd.channels, multifd.compression), (count, codec));
    assert_eq!(ram(record, "multifd-bytes"), source.multifd_bytes);
    // All pages go over channels, and next to nothing over the main stream.
    let main = source.bytes.total() - source.multifd_bytes - source.bytes.device;
    assert!(main < 20_000, "{main}");
    assert!(source.multifd_bytes >= source.bytes.normal + u64::from(count) * 64);
}

/// Pages of a database pack well.
fn packed(source: &SourceReport) {
    let plain = 4096 * sum(source, |round| round.normal_pages);
    let ratio = plain as f64 / source.bytes.normal as f64;
    assert!(ratio > 1.3, "{ratio}");
}

fn deltas(record: &MigrationRecord, source: &SourceReport) {
    assert!(record.params.xbzrle.enabled);
    let cache = source.xbzrle.expect("the capability is on");
    assert!(cache.pages > 0 && source.bytes.delta > 0, "{cache:?}");
    assert_eq!(cache.bytes, source.bytes.delta + 4096 * cache.overflow);
    let told = &record.query_migrate["xbzrle-cache"];
    assert_eq!(told["pages"].as_u64(), Some(cache.pages), "{told}");
}

/// Pages that were missing when the guest went on; each came once, and none was touched before.
fn pulled(record: &MigrationRecord, source: &SourceReport) -> u64 {
    let here = source.postcopy.as_ref().expect("it came to it");
    let destination = record.destination_report.as_ref().expect("it ended");
    let there = destination.postcopy.as_ref().expect("it came to it");
    assert_eq!(here.discarded_pages, there.missing_pages);
    assert_eq!(
        (
            there.never_came,
            there.overrun.unwrap_or(0),
            there.came_twice
        ),
        (0, 0, 0)
    );
    assert_eq!(here.requests, there.requests);
    assert_eq!(ram(record, "postcopy-requests"), here.requests);
    assert!(here.interruptions.is_empty());
    there.missing_pages
}

/// Its threads touched RAM that was not there.
fn stopped_by_the_kernel(record: &MigrationRecord) {
    let destination = record.destination_report.as_ref().expect("it ended");
    let there = destination.postcopy.as_ref().expect("it came to it");
    assert_eq!((there.overrun, there.held_ns), (None, None), "not computed");
    assert!(there.requests > 0 && there.blocktime_ns > 0, "{there:?}");
}

/// What left the far ends of links, by their names.
fn carried(summary: &Value, which: &str) -> f64 {
    let links = summary["links"].as_array().expect("a list");
    let bytes = |link: &Value| {
        let name = link["link"].as_str().filter(|name| name.ends_with(which));
        name.and_then(|_| link["counters"]["wire_bytes_out"].as_f64())
    };
    links.iter().filter_map(bytes).fold(0.0, f64::max)
}

#[test]
fn every_way_that_pages_travel_is_accounted_for_to_the_byte() {
    let test = "every_way_that_pages_travel_is_accounted_for_to_the_byte";
    let Some(_turn) = turn(test) else { return };
    for case in &CASES {
        let sandbox = Sandbox::new();
        let common = [
            "migrate",
            "--no-calibration",
            "--json",
            "--ram",
            "64MiB",
            "--resident",
            "8MiB",
            "--working-set",
            "8MiB",
            "--content",
            "oltp",
            "--link",
            "200Mbit",
            "--out",
            "kept",
        ];
        let rate: &[&str] = match case.options.contains(&"--write-rate") {
            true => &[],
            false => &["--write-rate", "500"],
        };
        let options: Vec<_> = [&common[..], rate, case.options].concat();
        let answer = sandbox.run(&options).expect_code(0).json();
        let what = case.options.join(" ");
        assert_eq!(answer["verified"], true, "{what}: {answer}");
        let kept = sandbox.work().join("kept");
        let record = records(&kept).into_iter().next().expect("one migration");
        println!("{what}");
        assert!(
            record.verified && record.owner == Owner::Destination,
            "{what}"
        );
        let source = record.source_report.as_ref().expect("it ran");
        let destination = record.destination_report.as_ref().expect("it ran");
        let compared = destination.verification.as_ref().expect("it committed");
        assert_eq!((compared.pages, compared.bad), (PAGES, 0), "{what}");
        let total = source.bytes.total();
        assert_eq!(total, destination.received_bytes, "{what}");
        assert_eq!(ram(&record, "transferred"), total, "{what}");
        (case.check)(&record, source);
        // Every byte crossed the source's link, in whole segments and in some that were not full, or again.
        let summary = json_file(&kept.join("summary.json"));
        let least = total as f64 * WIRE;
        for link in ["-up", "-down"] {
            let wire = carried(&summary, link);
            assert!(
                wire >= least && wire < least * 1.06 + 60_000.0,
                "{what}: {wire} bytes left {link}, {total} of the stream"
            );
        }
    }
}

/// `web` answers `user` over four connections and moves.
fn scenario(migration: &str) -> String {
    let served = shop("content = \"oltp\"", "connections = 4");
    [
        &*far_hosts("moved", 3, true),
        &served,
        WEB_PROBED,
        &moves("web", "h2"),
        "\n[migration]\n",
        migration,
    ]
    .concat()
}

#[test]
fn connections_survive_however_pages_travel() {
    let Some(_turn) = turn("connections_survive_however_pages_travel") else {
        return;
    };
    let ways = [
        "multifd = true\nmultifd-channels = 3\nmultifd-compression = \"zstd\"",
        "engine = \"cloud-hypervisor\"\nconnections = 3",
        "engine = \"post-copy\"\npostcopy-preempt = true",
        "postcopy-ram = true\npostcopy-after-precopy = true\ndowntime-limit = \"20ms\"",
    ];
    for way in ways {
        let sandbox = Sandbox::new();
        let path = sandbox.file("moved.toml", scenario(way));
        sandbox.run_scenario(&path, &[]).expect_code(0);
        let out = sandbox.work().join("out");
        let record = records(&out).into_iter().next().expect("one migration");
        assert!(
            record.verified && record.owner == Owner::Destination,
            "{way}: {record:?}"
        );
        let is_post_copy = way.contains("post");
        let source = record.source_report.as_ref().expect("it ran");
        assert_eq!(source.postcopy.is_some(), is_post_copy, "{way}");
        let summary = json_file(&out.join("summary.json"));
        let rows = summary["services"].as_array().expect("a list");
        let number = |window: &str, key: &str| {
            let row = rows.iter().find(|row| row["window"] == window);
            let value = row.and_then(|row| row.pointer(key)).and_then(Value::as_f64);
            value.unwrap_or_else(|| panic!("{way}: no {key} of {window} in {rows:?}"))
        };
        // Four connections were opened at the begin, and no other.
        assert_eq!(number("run", "/connections"), 4.0, "{way}");
        assert!(number("run", "/cut") <= 4.0, "{way}");
        assert!(number("after", "/answered") >= 90.0, "{way}");
        // The probe's requests are a millisecond apart; this computer may be late with the port.
        let outage_ms = record.observed_outage_ms.expect("the guest was paused");
        let seen_ms = record.network_downtime_ms.expect("it was probed");
        println!("{way:?}: paused {outage_ms:.1} ms, seen away {seen_ms:.1} ms");
        assert!(
            seen_ms > outage_ms - 10.0 && seen_ms < outage_ms + 1000.0,
            "{way}: {seen_ms} ms seen, {outage_ms} ms paused"
        );
    }
}
