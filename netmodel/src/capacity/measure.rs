//! Measuring what this computer carries: two hosts, links faster than any computer, as much TCP as there is, both ways.
//!
//! In network namespaces of its own, on a thread of its own, gone afterwards. Takes about 1.4 s.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::{Capacity, CapacityKey, Throughput, sizes};
use crate::backend::{BackendKind, Fabric, FabricError};
use crate::calibrate::CalibrateError;
use crate::calibrate::load::Load;
use crate::counters::Sample;
use crate::link::{GSO_LARGEST, LinkSpec, OVERHEAD_ETHERNET};
use crate::plan::{HOST_DEVICE, Plan, TcpSettings};
use crate::residual::frame_wire_bytes;
use crate::sys::clock::{now_ns, process_cpu_ns, set_tight_timers, wait_until};
use crate::sys::netlink::{Netlink, NetlinkError};
use crate::sys::netns::{NetnsError, create_netns, unshare_net, with_netns};
use crate::topology::{Cable, HostId, LinkId, Topology, TopologyError};
use crate::units::{BitRate, ByteSize};

/// Why a capacity could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CapacityError {
    /// Its namespaces cannot be made or entered.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    /// Its two hosts are no network.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// Its network cannot be built.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// A card's super-frames cannot be limited.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Its traffic failed.
    #[error("measuring what this computer carries: {0}")]
    Load(#[from] CalibrateError),
    /// Its streams waited for a timeout of TCP, which says nothing about what could be carried.
    #[error(
        "measuring what this computer carries: {frames} frames in {WINDOW_NS} ns, its streams stood still"
    )]
    Stalled {
        /// Frames carried all the same.
        frames: u64,
    },
    /// No timers.
    #[error("measuring how late timers are: {source}")]
    Timers {
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What a capacity measured now would be valid for.
#[must_use]
pub fn key(backend: BackendKind) -> CapacityKey {
    let kernel =
        nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    CapacityKey {
        kernel: kernel.unwrap_or_default(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        backend,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Measures what this computer carries through a backend, in super-frames of `gso_bytes` and of another size.
///
/// The caller must be root in its user namespace ([`crate::sys::netns::enter_machine`]); its network namespace is left
/// alone.
///
/// # Errors
/// [`CapacityError`].
///
/// # Panics
/// When a thread of the measurement does.
pub fn measure(backend: BackendKind, gso_bytes: u32) -> Result<Capacity, CapacityError> {
    // The fabric takes over the namespace of the thread that builds it.
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare_net()?;
            measure_here(backend, gso_bytes)
        });
        match inside.join() {
            Ok(capacity) => capacity,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

const TIMERS: u64 = 100;
const TIMER_GAP_NS: u64 = 1_000_000;
const RAMP_NS: u64 = 150_000_000;
const WINDOW_NS: u64 = 400_000_000;
/// Fewer in a window were stopped by something: the slowest computer tried (one CPU in user mode) carries thousands.
const FRAMES_MIN: u64 = 100;
/// Faster than any computer this runs on (veth alone: 25 Gbit/s, testbeds.md §7), so that the serialiser takes part without
/// limiting anything.
const FASTEST_BPS: u64 = 100_000_000_000;
/// As much as TCP keeps under way with Linux's buffers.
const QUEUE_BYTES: u64 = 8 << 20;
/// Streams are reset before.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// Headers the kernel subtracts from the limit ([`crate::plan`]).
const GSO_HEADROOM: u32 = 320;

fn measure_here(backend: BackendKind, gso_bytes: u32) -> Result<Capacity, CapacityError> {
    let timer_late_p99_ns = timer_lateness().map_err(|source| CapacityError::Timers { source })?;
    let spec = LinkSpec {
        rate: BitRate::from_bps(FASTEST_BPS),
        queue: ByteSize::from_bytes(QUEUE_BYTES),
        ..LinkSpec::default()
    };
    let cable = Cable::symmetric(spec);
    let topology = Topology::star(["a", "b"].map(|name| (name.to_owned(), cable)))?;
    let hosts = topology.hosts().map(|(id, _)| Ok((id, create_netns()?)));
    let hosts = hosts.collect::<Result<BTreeMap<_, _>, NetnsError>>()?;
    let fabric = Fabric::build(
        &Plan::new(topology, &TcpSettings::default(), backend),
        &hosts,
    )?;
    let [small, large] = sizes(gso_bytes);
    let small = throughput(&fabric, &hosts, small)?;
    let large = throughput(&fabric, &hosts, large)?;
    Ok(Capacity {
        key: key(backend),
        measured: [small, large],
        timer_late_p99_ns,
    })
}

/// How late this computer's timers fire, 99th percentile.
fn timer_lateness() -> io::Result<u64> {
    set_tight_timers()?;
    let start_ns = now_ns();
    let mut late: Vec<u64> = Vec::new();
    for n in 1..=TIMERS {
        let at_ns = start_ns + n * TIMER_GAP_NS;
        wait_until(at_ns)?;
        late.push(now_ns().saturating_sub(at_ns));
    }
    late.sort_unstable();
    Ok(late[late.len() * 99 / 100])
}

fn throughput(
    fabric: &Fabric,
    hosts: &BTreeMap<HostId, OwnedFd>,
    gso_bytes: u32,
) -> Result<Throughput, CapacityError> {
    for netns in hosts.values() {
        let limit = (gso_bytes + GSO_HEADROOM).min(GSO_LARGEST);
        let set = || Netlink::open()?.set_gso_max_size(HOST_DEVICE, limit);
        with_netns(netns.as_fd(), set)??;
    }
    let ways = [(HostId(0), HostId(1)), (HostId(1), HostId(0))];
    let load = Load::connect(hosts, &ways)?;
    let start_ns = now_ns() + RAMP_NS;
    let end_ns = start_ns + WINDOW_NS;
    // Into the hosts: once per byte, whatever the way.
    let into = [LinkId(1), LinkId(3)];
    let read = || Ok::<_, CalibrateError>((fabric.sample(&into)?, process_cpu_ns()));
    let ((before, cpu_before), (after, cpu_after)) = load.run(end_ns, |_| {
        wait_until(start_ns)?;
        let before = read()?;
        wait_until(end_ns)?;
        Ok((before, read()?))
    })?;
    fabric.drained(DRAIN_WITHIN)?;
    let bytes = |sample: &Sample| sample.links.iter().map(|l| l.sent.wire_bytes).sum::<u64>();
    let seconds = after.at_ns.saturating_sub(before.at_ns).max(1) as f64 / 1e9;
    let carried = bytes(&after).saturating_sub(bytes(&before)).max(1);
    let frames = carried / frame_wire_bytes(gso_bytes, OVERHEAD_ETHERNET).max(1);
    if frames < FRAMES_MIN {
        return Err(CapacityError::Stalled { frames });
    }
    let bytes_per_s = carried as f64 / seconds;
    let frame_bytes = frame_wire_bytes(gso_bytes, OVERHEAD_ETHERNET) as f64;
    Ok(Throughput {
        frame_bytes,
        bytes_per_s,
        frames_per_s: bytes_per_s / frame_bytes,
        cpu_share: cpu_after.saturating_sub(cpu_before) as f64 / 1e9 / seconds,
    })
}
