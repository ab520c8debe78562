//! VMs whose addresses move with them: connections survive, probes see the outage, and a migration that fails leaves the
//! port where it was.

use migbed::migration::record::{MigrationRecord, Owner};
use migbed_tests::{Sandbox, WEB_PROBED, far_hosts, json_file, moves, records, shop, turn};

/// `web` answers `user` over four connections and moves; `user` may move as well.
fn scenario(rest: &str) -> String {
    let served = shop("", "connections = 4");
    [&*far_hosts("moved", 4, true), &served, WEB_PROBED, rest].concat()
}

fn web_moves() -> String {
    moves("web", "h2")
}

struct Outcome {
    records: Vec<MigrationRecord>,
    services: Vec<serde_json::Value>,
}

impl Outcome {
    fn of(rest: &str, code: i32) -> Self {
        let sandbox = Sandbox::new();
        let path = sandbox.file("moved.toml", scenario(rest));
        // The sandbox finds processes, namespaces and files that are left behind.
        sandbox.run_scenario(&path, &[]).expect_code(code);
        let out = sandbox.work().join("out");
        let summary = json_file(&out.join("summary.json"));
        let services = summary["services"].as_array().expect("a list").clone();
        Self {
            records: records(&out),
            services,
        }
    }

    fn window(&self, name: &str, migration: Option<u64>) -> &serde_json::Value {
        let wanted = |row: &&serde_json::Value| {
            row["window"] == name && row["migration"].as_u64() == migration
        };
        let row = self.services.iter().find(wanted);
        row.unwrap_or_else(|| panic!("no window {name} in {:?}", self.services))
    }

    fn number(&self, name: &str, migration: Option<u64>, key: &str) -> f64 {
        let row = self.window(name, migration);
        let value = row.pointer(key).and_then(serde_json::Value::as_f64);
        value.unwrap_or_else(|| panic!("no {key} in {row}"))
    }

    /// Four connections were opened at the begin, and no other.
    fn no_connection_broke(&self) {
        assert_eq!(self.number("run", None, "/connections"), 4.0);
        assert!(self.number("run", None, "/cut") <= 4.0);
    }
}

#[test]
fn a_server_that_moves_keeps_its_connections_and_is_seen_away_as_long_as_it_was() {
    let test = "a_server_that_moves_keeps_its_connections_and_is_seen_away_as_long_as_it_was";
    let Some(_turn) = turn(test) else { return };
    let outcome = Outcome::of(&web_moves(), 0);
    let record = &outcome.records[0];
    assert!(record.verified && record.owner == Owner::Destination);
    outcome.no_connection_broke();
    let outage_ms = record.observed_outage_ms.expect("the guest was paused");
    let seen_ms = record.network_downtime_ms.expect("it was probed");
    // Requests are a millisecond apart, and this computer may be late with the port by as long as anybody waits for it.
    assert!(
        seen_ms > outage_ms - 10.0 && seen_ms < outage_ms + 250.0,
        "{seen_ms} ms seen, {outage_ms} ms paused"
    );
    // One a millisecond, and those that were on their way when it stopped: two links of 1 ms each way and what waits there.
    let lost = record.probes[0].lost.expect("it was probed");
    assert!(
        f64::from(lost) <= seen_ms + 50.0,
        "{lost} lost in {seen_ms} ms"
    );
    // Whoever asked in the outage waited for it, and for TCP to send again: 200 ms, 400 ms, … after the first time.
    let max_ms = outcome.number("during", Some(1), "/latency/max_ms");
    assert!(
        max_ms >= outage_ms - 20.0,
        "{max_ms} ms, outage {outage_ms} ms"
    );
    let p50_ms = outcome.number("after", Some(1), "/latency/p50_ms");
    assert!((8.0..200.0).contains(&p50_ms), "{p50_ms} ms");
    assert!(outcome.number("after", Some(1), "/answered") >= 90.0);
}

#[test]
fn both_ends_of_a_connection_may_move_at_once() {
    let Some(_turn) = turn("both_ends_of_a_connection_may_move_at_once") else {
        return;
    };
    let both = [web_moves(), moves("user", "h4")].concat();
    let outcome = Outcome::of(&both, 0);
    assert_eq!(outcome.records.len(), 2);
    for record in &outcome.records {
        assert!(
            record.verified && record.owner == Owner::Destination,
            "{}",
            record.vm
        );
        // Windows of either end's move.
        assert!(outcome.number("during", Some(u64::from(record.id)), "/answered") > 0.0);
        assert_eq!(record.network_downtime_ms.is_some(), record.vm == "web");
    }
    outcome.no_connection_broke();
}

#[test]
fn a_migration_that_fails_leaves_the_port_and_its_connections_at_the_source() {
    let test = "a_migration_that_fails_leaves_the_port_and_its_connections_at_the_source";
    let Some(_turn) = turn(test) else { return };
    // Paused already, and then it runs on at the source; the next one moves it.
    let reset =
        "[[faults]]\nmigration = 1\nat_phase = \"final-round\"\ndo = \"connection-reset\"\n";
    let again = web_moves().replace("10s", "14s");
    let outcome = Outcome::of(&format!("{}{again}{reset}", web_moves()), 0);
    let owners: Vec<Owner> = outcome.records.iter().map(|it| it.owner).collect();
    assert_eq!(owners, [Owner::Source, Owner::Destination]);
    assert_eq!(outcome.records[0].network_downtime_ms, None);
    assert!(outcome.records[1].network_downtime_ms.is_some());
    // The clock may have been held between the two, which opens the client anew.
    let connections = outcome.number("run", None, "/connections");
    assert!([4.0, 8.0].contains(&connections), "{connections}");
    assert!(outcome.number("after", Some(2), "/answered") >= 90.0);
}

#[test]
fn a_vm_that_dies_with_its_destination_answers_nobody() {
    let Some(_turn) = turn("a_vm_that_dies_with_its_destination_answers_nobody") else {
        return;
    };
    let dies = "[[faults]]\nmigration = 1\nat_phase = \"resume\"\ndo = \"host-power-loss\"\nof = \"destination\"\nsilence = \"1s\"\n";
    let outcome = Outcome::of(&format!("{}{dies}", web_moves()), 0);
    assert_eq!(outcome.records[0].owner, Owner::Lost);
    assert_eq!(outcome.records[0].network_downtime_ms, None);
    // What is due afterwards waits for ever: a request under way on each connection, and those behind them.
    assert!(outcome.number("run", None, "/cut") >= 4.0);
}
