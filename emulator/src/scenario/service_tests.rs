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
