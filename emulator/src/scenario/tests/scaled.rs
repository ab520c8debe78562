//! Space scale: what k divides.

use super::*;

#[test]
fn dividing_by_k_divides_space_alone() {
    let full = good();
    let carried = scale::apply(&full, 4).unwrap();
    assert_eq!((carried.scale, carried.divided_by), (4, 4));
    assert_eq!(carried.vms[0].ram_bytes, 128 << 20);
    assert_eq!(carried.vms[0].resident_bytes, 32 << 20);
    let WriteSource::Classes(classes) = &carried.vms[0].writes else {
        panic!("classes")
    };
    assert_eq!((classes[0].pages, classes[1].pages), (250, 3));
    assert!((classes[1].rate - 20.0).abs() < f64::EPSILON);
    assert_eq!(
        carried.network.up(HostId(0)).rate.unwrap().bps(),
        250_000_000
    );
    assert_eq!(
        carried.network.up(HostId(0)).delay,
        full.network.up(HostId(0)).delay
    );
    assert_eq!(carried.network.up(HostId(0)).queue.bytes(), 128_000);
    assert_eq!(carried.flows[0].rate_bps, Some(12_500_000));
    assert_eq!(carried.migration.max_bandwidth, 16 << 20);
    assert_eq!(
        carried.migration.downtime_limit,
        full.migration.downtime_limit
    );
    assert_eq!(carried.duration_ns, full.duration_ns);
    assert_eq!(
        scale::apply(&carried, 2),
        Err(scale::ScaleError::Already { divided_by: 4 })
    );
    assert_eq!(scale::apply(&full, 0), Err(scale::ScaleError::Zero));
    assert!(matches!(
        scale::apply(&full, 1000),
        Err(scale::ScaleError::Ram { .. })
    ));
    let queue = scale::apply(&full, 100);
    assert!(
        matches!(queue, Err(scale::ScaleError::Queue { segments: 3, .. })),
        "{queue:?}"
    );
}

#[test]
fn hosts_that_are_full_stay_so_at_any_k() {
    let text = with("count = 4", "count = 16").replacen("ram = \"512MiB\"", "ram = \"256MiB\"", 1);
    let full = parse(Path::new("x.toml"), &text).unwrap_or_else(|error| panic!("{error}"));
    for k in [2, 3, 7, 11] {
        let carried = scale::apply(&full, k).unwrap();
        let mut used = vec![0; carried.hosts.len()];
        for vm in &carried.vms {
            used[vm.host.index()] += vm.ram_bytes;
        }
        for (host, used) in carried.hosts.iter().zip(used) {
            assert!(
                used <= host.ram_bytes,
                "k = {k}: {} of {}",
                used,
                host.ram_bytes
            );
        }
    }
}

#[test]
fn constants_scale_as_the_table_says() {
    assert_eq!(scale::CHECK_PAGES.carried(10), Some(7));
    assert_eq!(scale::XEN_STOP_PAGES.carried(1000), Some(1));
    assert_eq!(scale::PAGE.carried(16), Some(4096));
    let docs = include_str!("../../../../docs/scenario.md");
    assert!(
        docs.contains(&scale::table_markdown()),
        "put this:\n{}",
        scale::table_markdown()
    );
    for policy in crate::balance::POLICIES {
        assert!(
            docs.contains(&format!("`{}`", policy.name)),
            "{}",
            policy.name
        );
        for option in policy.options {
            let row = format!(
                "| `{}` | `{}` | {} |",
                policy.name, option.name, option.default
            );
            assert!(docs.contains(&row), "{row}");
        }
    }
}
