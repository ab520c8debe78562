//! Beliefs about the kernel, and the whole path through real namespaces, on every backend this kernel carries. Without
//! libtest: see Cargo.toml.

#![expect(
    clippy::unwrap_used,
    reason = "a test; clippy sees that only inside #[test] functions"
)]

mod carried;
mod changed;
mod links;
mod net;
mod ports;

use std::io::Write;

use netmodel::backend::BackendKind;
use netmodel::plan::PortKind;
use netmodel::sys::netns::enter_machine;
use netmodel::sys::probe::{Capabilities, probe};

use self::net::Net;

type Test = (&'static str, fn(BackendKind));

/// Each builds its own network and tears it down. What a backend cannot carry by design is asked of the others.
const TESTS: [Test; 16] = [
    (
        "settings_are_set_or_reported",
        carried::settings_are_set_or_reported,
    ),
    (
        "a_stream_gets_the_links_rate_and_every_byte",
        carried::a_stream_gets_the_links_rate,
    ),
    (
        "a_datagram_takes_the_paths_delay",
        carried::a_datagram_takes_the_paths_delay,
    ),
    (
        "an_address_follows_its_route",
        carried::an_address_follows_its_route,
    ),
    (
        "an_address_moves_between_racks",
        carried::an_address_moves_between_racks,
    ),
    (
        "a_refused_request_carries_the_kernels_words",
        carried::refusals_carry_the_kernels_words,
    ),
    (
        "a_queue_holds_its_bytes_and_no_more",
        carried::a_queue_holds_its_bytes,
    ),
    (
        "segments_are_lost_in_their_share",
        carried::segments_are_lost_in_their_share,
    ),
    (
        "segments_are_lost_in_bursts_as_long_as_asked",
        carried::segments_are_lost_in_bursts_as_long_as_asked,
    ),
    (
        "jitter_keeps_packets_in_order_unless_asked",
        carried::jitter_keeps_order,
    ),
    (
        "a_change_leaves_no_unshaped_instant",
        changed::a_change_leaves_no_unshaped_instant,
    ),
    (
        "a_link_that_is_down_drops_what_is_offered",
        changed::a_link_that_is_down_drops,
    ),
    (
        "what_is_on_a_link_arrives_when_it_goes_down",
        changed::what_is_on_a_link_arrives,
    ),
    (
        "what_a_backend_cannot_do_is_refused",
        changed::what_it_cannot_do_is_refused,
    ),
    (
        "a_connection_survives_the_move_of_its_vm",
        ports::a_connection_survives_the_move_of_its_vm,
    ),
    (
        "the_network_learns_of_a_move_by_announcements_alone",
        ports::the_network_learns_of_a_move_by_announcements_alone,
    ),
];

fn main() {
    let capabilities = probe();
    let missing: Vec<_> = capabilities.missing().collect();
    if let Some(lack) = missing.first() {
        skipped(&format!(
            "SKIPPED namespaces: missing {} ({})\n",
            lack.name, lack.detail
        ));
        return;
    }
    // `cargo test -p netmodel --test namespaces -- PART`: those whose name has this part.
    let filter = std::env::args()
        .nth(1)
        .filter(|part| !part.starts_with('-'));
    the_probe_finds_what_it_stands_on(&capabilities);
    enter_machine().unwrap();
    for backend in BackendKind::ALL {
        let lack = backend.needs().iter().find(|name| !capabilities.has(name));
        if let Some(lack) = lack {
            skipped(&format!(
                "SKIPPED namespaces-{backend}: missing {lack} of this kernel\n"
            ));
            continue;
        }
        let wanted = |(name, _): &Test| filter.as_deref().is_none_or(|part| name.contains(part));
        for (name, test) in TESTS.into_iter().filter(wanted) {
            test(backend);
            println!("test {backend}::{name} ... ok");
        }
        if capabilities.has("tbf") {
            carried::a_host_shapes_what_it_sends(backend);
            println!("test {backend}::a_host_shapes_what_it_sends ... ok");
        } else {
            skipped("SKIPPED a_host_shapes_what_it_sends: missing tbf of this kernel\n");
        }
    }
    if filter.is_some() {
        return;
    }
    links::run(PortKind::Packet);
    if capabilities.has("tun") {
        links::run(PortKind::Tun);
    } else {
        skipped("SKIPPED links over TUN ports: missing tun\n");
    }
}

/// To the eye, and to the file in which `.ci/run` counts.
fn skipped(line: &str) {
    eprint!("{line}");
    if let Some(log) = std::env::var_os("MIGBED_SKIP_LOG") {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log);
        log.unwrap().write_all(line.as_bytes()).unwrap();
    }
}

fn the_probe_finds_what_it_stands_on(capabilities: &Capabilities) {
    for name in ["namespaces", "pid-namespace", "veth", "packet-vnet-header"] {
        assert!(capabilities.has(name), "{capabilities:?}");
    }
    for lack in capabilities.0.iter().filter(|c| c.present == Some(false)) {
        assert!(!lack.remedy.is_empty(), "{lack:?}");
        assert!(!lack.detail.is_empty(), "{lack:?}");
    }
    println!("test the_probe_finds_what_it_stands_on ... ok");
}
