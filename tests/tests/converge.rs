//! A guest that dirties faster than its link carries, with and without auto-converge.

use migbed::migration::record::{MigrationRecord, Owner, Status};
use migbed_tests::{Sandbox, one_of, records, turn};

/// A busy guest over 200 Mbit/s, that is about 5,700 pages a second, 285 in QEMU's slice of 50 ms. With
/// 1,720 pages left (300 ms) such a slice leaves 4096 (1 − e^(−3.2 · 0.05)) (1 − 1720/4096) = 351 others
/// dirty: it never gets below. At 70 % of its CPU they are 252.
const BUSY: &str = r#"
name = "converge"
seed = 2
duration = "10s"

[network]
link = { rate = "200Mbit", delay = "100us", queue = "128KiB" }

[[hosts]]
name = "h"
count = 2
cores = 1
ram = "256MiB"

[[vms]]
name = "vm"
ram = "64MiB"
cpu = { cores = 1 }
writes = { classes = [{ pages = 4096, rate = 3.2 }] }
host = "h1"

[[migrations]]
at = "5s"
vm = "vm"
to = "h2"

[migration]
completion-timeout = "12s"
"#;

fn run(options: &str, code: i32) -> MigrationRecord {
    let sandbox = Sandbox::new();
    let path = sandbox.file("converge.toml", format!("{BUSY}{options}"));
    sandbox.run_scenario(&path, &[]).expect_code(code);
    let out = sandbox.work().join("out");
    records(&out).into_iter().next().expect("one migration")
}

#[test]
fn auto_converge_slows_a_guest_until_it_can_move() {
    let Some(_turn) = turn("auto_converge_slows_a_guest_until_it_can_move") else {
        return;
    };
    let alone = run("", 0);
    assert_eq!(
        (alone.status, alone.owner),
        (Status::Cancelled, Owner::Source)
    );
    assert_eq!(alone.query_migrate.get("cpu-throttle-percentage"), None);
    one_of(|| {
        let throttled = run("auto-converge = true\n", 0);
        if throttled.status != Status::Completed {
            return Err(format!("{:?}", throttled.query_migrate));
        }
        assert!(throttled.verified);
        let percent = throttled.query_migrate["cpu-throttle-percentage"].as_u64();
        assert!((20..=50).contains(&percent.unwrap_or(0)), "{percent:?}");
        Ok(())
    });
}
