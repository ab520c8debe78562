//! The relay's data thread allocates nothing once it runs: an allocator that counts, and real packets through all of it.
//! Without libtest: see Cargo.toml.

#![expect(
    clippy::unwrap_used,
    reason = "a test; clippy sees that only inside #[test] functions"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use netmodel::backend::{BackendKind, Fabric};
use netmodel::link::{Distribution, Jitter, LinkSpec, Loss};
use netmodel::plan::{Plan, PortKind, TcpSettings};
use netmodel::sys::netns::{create_netns, enter_machine, with_netns};
use netmodel::sys::probe::probe;
use netmodel::topology::{Cable, HostId, LinkId, Topology, host_address};
use netmodel::units::BitRate;
use nix::sys::socket::{setsockopt, sockopt};

static COUNTING: AtomicBool = AtomicBool::new(false);
static COUNTED: AtomicU64 = AtomicU64::new(0);

/// The system's, which counts what the relay's thread asks of it.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    if COUNTING.load(Ordering::Relaxed) && is_relay() {
        COUNTED.fetch_add(1, Ordering::Relaxed);
    }
}

/// By the name the kernel has for this thread, which needs no memory.
fn is_relay() -> bool {
    let mut name = [0_u8; 16];
    // SAFETY: the kernel writes at most 16 bytes into `name`.
    let result = unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    result == 0 && name.starts_with(b"relay\0")
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises, passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn main() {
    let capabilities = probe();
    if let Some(lack) = capabilities.missing().next() {
        skipped(&lack.name);
        return;
    }
    enter_machine().unwrap();
    for kind in [PortKind::Packet, PortKind::Tun] {
        if kind == PortKind::Packet || capabilities.has("tun") {
            nothing_is_allocated_for_a_packet(kind);
            println!(
                "test nothing_is_allocated_for_a_packet ({}) ... ok",
                kind.name()
            );
        }
    }
}

fn skipped(lack: &str) {
    use std::io::Write;
    let line = format!("SKIPPED allocations: missing {lack}\n");
    eprint!("{line}");
    if let Some(log) = std::env::var_os("MIGBED_SKIP_LOG") {
        let mut options = std::fs::OpenOptions::new();
        let mut log = options.create(true).append(true).open(log).unwrap();
        log.write_all(line.as_bytes()).unwrap();
    }
}

/// Super-frames over a link with everything on it: rate, delay, jitter, losses that split frames.
fn nothing_is_allocated_for_a_packet(ports: PortKind) {
    let link = LinkSpec {
        delay: Duration::from_millis(1),
        jitter: Jitter {
            spread: Duration::from_micros(300),
            distribution: Distribution::Normal,
            reorder: true,
        },
        loss: Loss::Independent("5%".parse().unwrap()),
        ..LinkSpec::with_rate(BitRate::from_bps(1_000_000_000).unwrap())
    };
    let hosts = ["a", "b"].map(|name| (name.to_owned(), Cable::symmetric(link)));
    let topology = Topology::star(hosts).unwrap();
    let hosts: BTreeMap<HostId, OwnedFd> = (0..2)
        .map(|n| (HostId(n), create_netns().unwrap()))
        .collect();
    let plan = Plan::new(topology, &TcpSettings::default(), BackendKind::Relay).with_ports(ports);
    let fabric = with_netns(create_netns().unwrap(), || Fabric::build(&plan, &hosts));
    let fabric = fabric.unwrap().unwrap();
    let to = SocketAddr::from((host_address(HostId(1)), 9));
    let inside = |host| hosts[&HostId(host)].as_fd();
    let receiver = with_netns(inside(1), || UdpSocket::bind(to))
        .unwrap()
        .unwrap();
    let sender = with_netns(inside(0), || UdpSocket::bind("0.0.0.0:0")).unwrap();
    let sender = sender.unwrap();
    receiver
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    setsockopt(&sender, sockopt::UdpGsoSegment, &1000).unwrap();
    let burst = |frames: u32| {
        for _ in 0..frames {
            sender.send_to(&[7; 20_000], to).unwrap();
        }
        while receiver.recv(&mut [0; 1000]).is_ok() {}
    };
    // Its containers grow to what a burst needs, and more: a burst held up by others bunches.
    (0..3).for_each(|_| burst(40));
    let before = fabric.sample(&[LinkId(0)]).unwrap().links[0];
    COUNTING.store(true, Ordering::Relaxed);
    (0..10).for_each(|_| burst(10));
    COUNTING.store(false, Ordering::Relaxed);
    let after = fabric.sample(&[LinkId(0)]).unwrap().links[0];
    assert_eq!(after.received.packets - before.received.packets, 100);
    assert!(after.lost.segments > before.lost.segments);
    // None as a rule. Where others held the relay up more is due at once than ever before, and a container doubles; an
    // allocation for each packet would be a hundred.
    let counted = COUNTED.load(Ordering::Relaxed);
    assert!(counted < 10, "{counted}");
}
