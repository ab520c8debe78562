//! Metrics against sums done by hand.

use super::*;

const S: u64 = 1_000_000_000;

fn host(id: u32, span_s: u64, granted: u64, pressure_s: u64, vms: u32) -> HostSample {
    HostSample {
        host: HostId(id),
        span_ns: span_s * S,
        demand_core_ns: granted * S,
        granted_core_ns: granted * S,
        pressure_some_ns: pressure_s * S,
        ram_used_bytes: 0,
        vms,
    }
}

fn vm(id: u32, demand: u64, granted: u64) -> VmSample {
    VmSample {
        vm: VmId(id),
        host: HostId(0),
        span_ns: 10 * S,
        demand_core_ns: demand * S,
        granted_core_ns: granted * S,
        lost_core_ns: 0,
        paused_ns: 0,
        guest_cpu_ns: 0,
    }
}

fn close(got: f64, want: f64) {
    assert!((got - want).abs() < 1e-6, "{got} is not {want}");
}

#[test]
fn imbalance_is_averaged_over_time() {
    let mut b = MetricsBuilder::new(&[4000, 2000], 0);
    // 10 s at loads 0.5 and 0.5, then 30 s at 1.0 and 0.5.
    b.add_host_sample(10 * S, &host(0, 10, 20, 0, 1));
    b.add_host_sample(40 * S, &host(0, 30, 120, 30, 1));
    b.add_host_sample(40 * S, &host(1, 40, 40, 0, 1));
    let m = b.finish();
    close(m.imbalance_gap, 0.75 * 0.5);
    close(m.imbalance_sd, 0.75 * 0.25);
    close(m.imbalance_cv, 0.75 / 3.0); // sd 0.25 over mean 0.75
    close(m.jain_index, 0.25 + 0.75 * (2.25 / 2.5));
    close(m.slatah, (0.75 + 0.0) / 2.0);
    close(m.overload_time_fraction, 30.0 / 80.0);
}

#[test]
fn steal_is_what_was_asked_and_never_given() {
    let mut b = MetricsBuilder::new(&[1000], 3);
    b.add_vm_sample(&vm(0, 10, 6));
    b.add_vm_sample(&vm(0, 10, 12)); // the backlog drains
    b.add_vm_sample(&vm(1, 10, 5));
    let m = b.finish();
    close(m.steal_core_s, 2.0 + 5.0);
    close(m.sla_violation, 7.0 / 30.0);
    close(m.steal_share_p50, 0.1);
    close(m.steal_share_p99, 0.5);
}

#[test]
fn returned_moves_are_counted_within_the_window() {
    let fact = |vm, from, to, at_s: u64, completed| MigrationFact {
        vm: VmId(vm),
        source: HostId(from),
        destination: HostId(to),
        ended_ns: at_s * S,
        completed,
        sent_bytes: 150,
        ram_bytes: 100,
        total_ms: at_s as f64,
        outage_ms: completed.then_some(20.0),
    };
    let mut b = MetricsBuilder::new(&[1000; 3], 2);
    b.add_migration(fact(0, 0, 1, 10, true));
    b.add_migration(fact(0, 1, 0, 20, true)); // returned
    b.add_migration(fact(1, 0, 1, 10, true));
    b.add_migration(fact(1, 1, 0, 20, false)); // would have been
    b.add_migration(fact(1, 1, 2, 30, true));
    b.add_migration(fact(1, 2, 1, 4_000, true)); // too late to be the same story
    let m = b.finish();
    assert_eq!(
        (m.migrations, m.migrations_completed, m.migrations_returned),
        (6, 5, 1)
    );
    close(m.amplification, 1.5);
    close(m.migration_ms_max, 4_000.0);
    close(m.outage_s, 0.1);
    assert!(m.to_map().contains_key("outage_ms_p95"));
}

#[test]
fn an_empty_run_has_numbers_too() {
    for (name, value) in MetricsBuilder::new(&[], 0).finish().to_map() {
        assert!(value.is_finite(), "{name} is {value}");
    }
}

#[test]
fn gaps_between_samples_count_as_idle() {
    let mut b = MetricsBuilder::new(&[1000], 0);
    b.add_host_sample(10 * S, &host(0, 10, 10, 0, 1));
    b.add_host_sample(30 * S, &host(0, 10, 10, 0, 1)); // nothing in 10..20
    close(b.finish().jain_index, 1.0);
    close(b.finish().imbalance_gap, 0.0);
}
