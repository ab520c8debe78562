//! Services in scenarios: loops, defaults, mistakes, and what k divides.

use super::tests::refused;
use super::{Arrivals, Endpoint, Scenario, explain, parse, scale};
use crate::ids::VmId;
use std::path::Path;

fn text(service: &str) -> String {
    format!(
        "duration = \"1h\"\n[network.internet]\n[[hosts]]\nname = \"h\"\ncount = 2\ncores = 4\nram = \"16GiB\"\n\
         [[vms]]\nname = \"v\"\ncount = 2\nram = \"1GiB\"\n[[services]]\nname = \"shop\"\nserver = \"v1\"\n{service}\n"
    )
}

fn parsed(service: &str) -> Scenario {
    parse(Path::new("t.toml"), &text(service)).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_rate_makes_an_open_loop_and_none_a_closed_one() {
    let open = parsed("client = \"internet\"\nrate = 12.5\ncpu = \"2ms\"\nresponse = \"20KB\"");
    let service = &open.services[0];
    assert_eq!(service.arrivals, Arrivals::Poisson { rate_milli: 12_500 });
    assert_eq!(
        (service.server, service.client),
        (VmId(0), Endpoint::Internet)
    );
    assert_eq!(service.connections, 16);
    assert_eq!(
        (service.request_bytes, service.response_bytes),
        (1000, 20_000)
    );
    assert_eq!(service.cpu_ns, 2_000_000);
    let shown = explain(&open);
    assert!(shown.contains("12.5 a second, poisson"), "{shown}");
    let closed = parsed("client = \"v2\"\nconnections = 4\nthink = \"10ms\"");
    let service = &closed.services[0];
    let think_ns = 10_000_000;
    assert_eq!(service.arrivals, Arrivals::Closed { think_ns });
    assert_eq!(
        (service.client, service.connections),
        (Endpoint::Vm(VmId(1)), 4)
    );
}

#[test]
fn k_divides_bytes_of_requests_and_not_their_cpu() {
    let full = parsed("client = \"v2\"\nrate = 10\ncpu = \"2ms\"\nresponse = \"20001B\"");
    let carried = scale::apply(&full, 4).unwrap();
    let (full, carried) = (&full.services[0], &carried.services[0]);
    assert_eq!((carried.request_bytes, carried.response_bytes), (250, 5001));
    assert_eq!(
        (carried.cpu_ns, carried.arrivals),
        (full.cpu_ns, full.arrivals)
    );
}

#[test]
fn mistakes_are_named() {
    for (service, wanted) in [
        ("client = \"v1\"", "another VM, or the Internet"),
        ("client = \"v3\"", "there is no VM `v3`"),
        ("client = \"v2\"\nrate = 1\nthink = \"1s\"", "a closed loop"),
        ("client = \"v2\"\narrivals = \"paced\"", "an open loop"),
        ("client = \"v2\"\nrate = 0", "a number, 0.001 to 20000"),
        ("client = \"v2\"\nresponse = \"65MiB\"", "at most 64MiB"),
        (
            "client = \"v2\"\nconnections = 257",
            "a whole number, 1 to 256",
        ),
        (
            "client = \"v2\"\n[[services]]\nname = \"shop\"\nserver = \"v1\"\nclient = \"v2\"",
            "shop",
        ),
    ] {
        let shown = refused(&text(service));
        assert!(shown.contains(wanted), "{service}: no {wanted} in\n{shown}");
        assert_eq!(shown.matches("error:").count(), 1, "{shown}");
    }
}

#[test]
fn a_probe_asks_from_a_host_or_from_outside() {
    let probes = "client = \"internet\"\n[[probes]]\nvm = \"v2\"\nfrom = \"internet\"\n\
         [[probes]]\nvm = \"v1\"\nfrom = \"h2\"\ninterval = \"5ms\"";
    let scenario = parsed(probes);
    let found: Vec<_> = scenario
        .probes
        .iter()
        .map(|probe| (probe.vm.0, probe.from.0, probe.interval_ns))
        .collect();
    // Whoever is outside comes after the two hosts.
    assert_eq!(found, [(1, 2, 1_000_000), (0, 1, 5_000_000)]);
    let shown = explain(&scenario);
    assert!(shown.contains("5 ms") || shown.contains("5ms"), "{shown}");
    // VMs at either end, and those that are probed.
    let ports = crate::run::ports(&scenario);
    assert_eq!(ports.into_iter().map(|vm| vm.0).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn probes_that_cannot_be_are_refused() {
    for (probe, why) in [
        ("vm = \"v9\"\nfrom = \"h1\"", "v9"),
        ("vm = \"v1\"\nfrom = \"h9\"", "h9"),
        (
            "vm = \"v1\"\nfrom = \"h1\"\ninterval = \"10us\"",
            "200us to 1s",
        ),
        ("vm = \"v1\"", "from"),
    ] {
        let text = text(&format!("client = \"v2\"\n[[probes]]\n{probe}"));
        let error = refused(&text);
        assert!(error.contains(why), "{probe}: {error}");
    }
}

#[test]
fn announcements_have_qemus_names_bounds_and_defaults() {
    let with = |keys: &str| parsed(&format!("client = \"v2\"\n[migration]\n{keys}")).migration;
    let ms = |params: crate::migration::params::MigrationParams| {
        let instants = params.announcements().instants();
        instants.map(|at| at.as_millis()).collect::<Vec<_>>()
    };
    assert_eq!(ms(with("")), [0, 50, 200, 450, 800]);
    let few = "announce-rounds = 3\nannounce-initial = \"20ms\"\nannounce-step = \"10ms\"\nannounce-max = \"25ms\"";
    assert_eq!(ms(with(few)), [0, 20, 45]);
    assert_eq!(ms(with("engine = \"xen\"")), [0], "the guest itself, once");
    for keys in [
        "announce-step = \"20s\"",
        "announce-rounds = 1001",
        "engine = \"xen\"\nannounce-rounds = 2",
    ] {
        let text = text(&format!("client = \"v2\"\n[migration]\n{keys}"));
        let error = refused(&text);
        assert!(error.contains("announce-"), "{keys}: {error}");
    }
}
