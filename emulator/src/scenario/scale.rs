//! Space scale k: what is divided by it, what is not, and why. The one place that knows.
//!
//! To carry more cluster than the computer can push bytes for, space is divided by k and time is
//! not: passes, rounds, downtime and round trips then last as long as at full size. Bytes are
//! reported as carried and multiplied back. Never inside: time constants (all of them stay).

use super::{NetworkSpec, Scenario, VmSpec, WriteSource};
use crate::migration::faults::Action;
use netmodel::link::{LinkSpec, MTU, ShaperAt};
use netmodel::schedule::Amount;
use netmodel::topology::{Link, Place, Topology};
use netmodel::units::{BitRate, ByteSize};
use std::collections::BTreeMap;
use std::time::Duration;
use traces::class::PhasedClasses;
use traces::units::PAGE_SIZE;

/// A byte or page constant of an engine, of the kernel or of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Constant {
    /// What it is.
    pub name: &'static str,
    /// Its full size; `None` when the scenario gives it.
    pub value: Option<u64>,
    /// Of what.
    pub unit: &'static str,
    /// Whether k divides it.
    pub scales: bool,
    /// Why, or why not.
    pub why: &'static str,
}

impl Constant {
    /// Its size at k, rounded up and so never zero. `None` when the scenario gives it.
    #[must_use]
    pub fn carried(&self, k: u32) -> Option<u64> {
        let divisor = if self.scales { u64::from(k.max(1)) } else { 1 };
        self.value.map(|value| value.div_ceil(divisor))
    }
}

const fn fixed(
    name: &'static str,
    value: u64,
    unit: &'static str,
    scales: bool,
    why: &'static str,
) -> Constant {
    Constant {
        name,
        value: Some(value),
        unit,
        scales,
        why,
    }
}

const fn given(
    name: &'static str,
    unit: &'static str,
    scales: bool,
    why: &'static str,
) -> Constant {
    Constant {
        name,
        value: None,
        unit,
        scales,
        why,
    }
}

/// Pages between two looks at the clock in QEMU's `ram_save_iterate`.
pub const CHECK_PAGES: Constant = fixed(
    "pages between two looks at the clock (QEMU)",
    64,
    "pages",
    true,
    "at rate/k as many pages take k times as long, and the 50 ms slice would be overrun",
);
/// QEMUFile's buffer.
pub const FILE_BUFFER: Constant = fixed(
    "QEMUFile buffer",
    32 << 10,
    "bytes",
    true,
    "what is handed to the socket at once must stay the same time on the wire",
);
/// A multifd packet.
pub const MULTIFD_PACKET: Constant = fixed(
    "multifd packet (QEMU)",
    512 << 10,
    "bytes",
    true,
    "128 pages: a channel's turn must last as long as at full size",
);
/// What QEMU re-protects at once.
pub const REPROTECT_CHUNK: Constant = fixed(
    "re-protect chunk (QEMU clear-bitmap)",
    (1 << 30) / PAGE_SIZE,
    "pages",
    true,
    "1 GiB of guest RAM; as many chunks a guest, each sent for as long",
);
/// Cloud Hypervisor's unit of parallel sending.
pub const CLH_CHUNK: Constant = fixed(
    "chunk (Cloud Hypervisor)",
    64 << 20,
    "bytes",
    true,
    "unit of parallel sending; its time on the wire decides how connections share the work",
);
/// Xen stops below so many dirty pages.
pub const XEN_STOP_PAGES: Constant = fixed(
    "dirty pages at which Xen stops",
    50,
    "pages",
    true,
    "a threshold on what is left to send is a time at a given rate",
);
/// Xen's batch.
pub const XEN_BATCH: Constant = fixed(
    "page batch (Xen)",
    1024,
    "pages",
    true,
    "unit of sending, as the multifd packet",
);
/// QEMU's cache of old page contents.
pub const XBZRLE_CACHE: Constant = fixed(
    "XBZRLE cache (QEMU)",
    64 << 20,
    "bytes",
    true,
    "hits depend on its share of the working set, which is divided",
);
/// The kernel's bound on bytes of one socket in device queues.
pub const TCP_LIMIT_OUTPUT: Constant = fixed(
    "tcp_limit_output_bytes",
    4 << 20,
    "bytes",
    true,
    "data accepted but not yet on the wire is counted as sent by QEMU's estimate of the bandwidth",
);
/// What a page is.
pub const PAGE: Constant = fixed(
    "page",
    PAGE_SIZE,
    "bytes",
    false,
    "the unit of the dirty log and of the stream; its 8-byte header must keep its share",
);

/// Linux's limit of a receive buffer, per namespace.
pub const RECEIVE_BUFFER: Constant = fixed(
    "receive buffer limit (tcp_rmem)",
    6 << 20,
    "bytes",
    true,
    "a buffer drains in buffer / rate, which is part of the downtime",
);
/// Linux's limit of a send buffer, per namespace.
pub const SEND_BUFFER: Constant = fixed(
    "send buffer limit (tcp_wmem)",
    4 << 20,
    "bytes",
    true,
    "what it holds QEMU counts as sent; it drains while the guest is stopped",
);

/// Every byte and page constant: name, full size, whether k divides it, and why.
pub const TABLE: &[Constant] = &[
    given(
        "RAM of hosts and VMs",
        "pages",
        true,
        "space; rounded up to whole pages",
    ),
    given(
        "resident and written pages",
        "pages",
        true,
        "the working set keeps its share of the RAM",
    ),
    given(
        "page-write and page-read rate of a VM",
        "pages/s",
        true,
        "divided through the number of pages: the rate of each page stays, so D(t)/k at every t",
    ),
    given(
        "first page of a phase",
        "pages",
        true,
        "phases go on sharing the same share of their pages",
    ),
    given(
        "recorded page sets",
        "pages",
        true,
        "every k-th page of the recording is kept: a sample that keeps each page's instants",
    ),
    given(
        "block of a class of runs",
        "pages",
        false,
        "neighbours written together stay so",
    ),
    given("link rate", "bit/s", true, "space over time"),
    given(
        "link queue",
        "bytes",
        true,
        "queueing delay is queue / rate",
    ),
    given(
        "packet-delivery trace of a link",
        "opportunities",
        true,
        "one of k is kept, at its instant",
    ),
    given(
        "ECN threshold of a link",
        "bytes",
        true,
        "a queue in which marking begins, as the queue itself",
    ),
    given(
        "tenant traffic",
        "bit/s",
        true,
        "its share of the link stays",
    ),
    given(
        "request and answer of a service",
        "bytes",
        true,
        "their time on the wire stays; CPU time and rate of requests are times",
    ),
    given(
        "max-bandwidth, avail-switchover-bandwidth, max-postcopy-bandwidth",
        "bytes/s",
        true,
        "shares of a link",
    ),
    given(
        "device state",
        "bytes",
        true,
        "its time on the wire is part of the downtime",
    ),
    RECEIVE_BUFFER,
    SEND_BUFFER,
    given(
        "send buffer to begin with",
        "bytes",
        true,
        "as its limit",
    ),
    CHECK_PAGES,
    FILE_BUFFER,
    MULTIFD_PACKET,
    REPROTECT_CHUNK,
    CLH_CHUNK,
    XEN_STOP_PAGES,
    XEN_BATCH,
    XBZRLE_CACHE,
    TCP_LIMIT_OUTPUT,
    PAGE,
    fixed(
        "MTU",
        1500,
        "bytes",
        false,
        "the kernel's TCP sends real segments: sets the limits on k",
    ),
    fixed("MSS", 1448, "bytes", false, "follows from the MTU"),
    fixed(
        "initial window",
        10,
        "segments",
        false,
        "the kernel's; slow start begins relatively higher",
    ),
    given(
        "link super_frame",
        "s",
        false,
        "a time, like every other: frames shrink with the rate, down to two segments",
    ),
    given(
        "link overhead_bytes",
        "bytes",
        false,
        "per segment, and segments stay",
    ),
    given(
        "link burst (source-egress)",
        "bytes",
        true,
        "a token bucket is a time of the link's rate",
    ),
];

/// Fewest segments a queue must hold: below, bursts of the initial window and of super-frames are
/// dropped that the full-size queue would have taken.
pub const QUEUE_SEGMENTS_MIN: u64 = 16;
/// Fewest segments in bandwidth-delay product and queue together: below, TCP cannot keep a link
/// full and react to a loss without a timeout.
pub const PIPE_SEGMENTS_MIN: u64 = 20;
/// Fewest pages a VM may have when k > 1: rounding up by one page stays below 0.4 %.
pub const RAM_PAGES_MIN: u64 = 256;

/// What cannot be carried at a k.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScaleError {
    /// The scenario has been divided before.
    #[error("the scenario is already divided by {divided_by}")]
    Already {
        /// By how much.
        divided_by: u32,
    },
    /// k is 0.
    #[error("scale k is 0; it divides sizes, 1 leaves them as they are")]
    Zero,
    /// A queue of too few segments.
    #[error(
        "link {link}: at k = {k} its queue of {queue_bytes} B holds {segments} segments of \
         {segment_bytes} B, fewer than {QUEUE_SEGMENTS_MIN}"
    )]
    Queue {
        /// Which.
        link: String,
        /// Scale.
        k: u32,
        /// The queue at k.
        queue_bytes: u64,
        /// Segments in it.
        segments: u64,
        /// Bytes of a full segment on the wire.
        segment_bytes: u64,
    },
    /// A pipe of too few segments.
    #[error(
        "link {link}: at k = {k} its bandwidth-delay product ({bdp_bytes} B over the round trip) and \
         its queue ({queue_bytes} B) hold {segments} segments, fewer than {PIPE_SEGMENTS_MIN}"
    )]
    Pipe {
        /// Which.
        link: String,
        /// Scale.
        k: u32,
        /// Rate × round trip at k.
        bdp_bytes: u64,
        /// The queue at k.
        queue_bytes: u64,
        /// Segments in both.
        segments: u64,
        /// Bytes of a full segment on the wire.
        segment_bytes: u64,
    },
    /// A threshold below one segment.
    #[error(
        "link {link}: at k = {k} its `ecn` of {threshold_bytes} B is less than one segment of \
         {segment_bytes} B, and marks whatever finds anything before it"
    )]
    Threshold {
        /// Which.
        link: String,
        /// Scale.
        k: u32,
        /// The threshold at k.
        threshold_bytes: u64,
        /// Bytes of a full segment on the wire.
        segment_bytes: u64,
    },
    /// A rate that vanishes.
    #[error("{what}: {rate_bps} bit/s divided by k = {k} is nothing")]
    Rate {
        /// Of what.
        what: String,
        /// Full size.
        rate_bps: u64,
        /// Scale.
        k: u32,
    },
    /// A VM of too few pages.
    #[error("VM `{vm}`: at k = {k} its RAM is {pages} pages, fewer than {RAM_PAGES_MIN}")]
    Ram {
        /// Which.
        vm: String,
        /// Scale.
        k: u32,
        /// Pages at k.
        pages: u64,
    },
}

impl ScaleError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        let queue = |segments: u64, segment_bytes: u64, k: u32| {
            let bytes = segments * segment_bytes * u64::from(k);
            format!("give the link a `queue` of at least {bytes}B, or lower `scale`")
        };
        match self {
            Self::Already { .. } => "apply k to the scenario as written".into(),
            Self::Zero => "write `scale = 1`".into(),
            Self::Queue {
                segment_bytes, k, ..
            } => queue(QUEUE_SEGMENTS_MIN, *segment_bytes, *k),
            Self::Pipe {
                segment_bytes, k, ..
            } => queue(PIPE_SEGMENTS_MIN, *segment_bytes, *k),
            Self::Threshold {
                segment_bytes, k, ..
            } => {
                let bytes = segment_bytes * u64::from(*k);
                format!("give the link an `ecn` of at least {bytes}B, or lower `scale`")
            }
            Self::Rate { .. } | Self::Ram { .. } => "lower `scale`".into(),
        }
    }
}

/// The scenario as it is carried at k: everything [`TABLE`] says is divided, is.
///
/// # Errors
/// When something cannot be carried at this k, or the scenario has been divided before.
pub fn apply(scenario: &Scenario, k: u32) -> Result<Scenario, ScaleError> {
    if scenario.divided_by != 1 {
        return Err(ScaleError::Already {
            divided_by: scenario.divided_by,
        });
    }
    if k == 0 {
        return Err(ScaleError::Zero);
    }
    let mut carried = scenario.clone();
    (carried.scale, carried.divided_by) = (k, k);
    let slack = slack_pages(scenario, k);
    for host in &mut carried.hosts {
        let pages = (host.ram_bytes / PAGE_SIZE).div_ceil(u64::from(k));
        host.ram_bytes = (pages + slack) * PAGE_SIZE;
    }
    for vm in &mut carried.vms {
        divide_vm(vm, k)?;
    }
    divide_network(&mut carried, k)?;
    for (index, flow) in carried.flows.iter_mut().enumerate() {
        flow.rate_bps = flow
            .rate_bps
            .map(|rate| divided_rate(&format!("flow {}", index + 1), rate, k))
            .transpose()?;
    }
    for service in &mut carried.services {
        for bytes in [&mut service.request_bytes, &mut service.response_bytes] {
            *bytes = bytes.div_ceil(k);
        }
    }
    let migration = &mut carried.migration;
    for bytes in [
        &mut migration.max_bandwidth,
        &mut migration.avail_switchover_bandwidth,
        &mut migration.postcopy.max_bandwidth,
        &mut migration.device_state_bytes,
    ] {
        // Rounding up keeps 0, which means "unlimited" or "none", apart from small values.
        *bytes = bytes.div_ceil(u64::from(k));
    }
    // QEMU takes powers of two only, and a page at least.
    let cache = migration.xbzrle.cache_size.div_ceil(u64::from(k));
    migration.xbzrle.cache_size = cache.next_power_of_two().max(PAGE_SIZE);
    for (index, fault) in carried.faults.iter_mut().enumerate() {
        divide_fault(index, &mut fault.action, k)?;
    }
    Ok(carried)
}

/// Pages a host's RAM is rounded up by, so that VMs that just fit at full size still do: each may
/// have been rounded up by one page.
fn slack_pages(scenario: &Scenario, k: u32) -> u64 {
    let pages = |vm: &VmSpec| vm.ram_bytes / PAGE_SIZE;
    let rounded = scenario
        .vms
        .iter()
        .filter(|vm| !pages(vm).is_multiple_of(u64::from(k)))
        .count();
    let smallest = scenario.vms.iter().map(pages).min().unwrap_or(1).max(1);
    let largest_host = scenario
        .hosts
        .iter()
        .map(|h| h.ram_bytes / PAGE_SIZE)
        .max()
        .unwrap_or(0);
    u64::try_from(rounded)
        .unwrap_or(u64::MAX)
        .min(largest_host / smallest)
}

fn divide_vm(vm: &mut VmSpec, k: u32) -> Result<(), ScaleError> {
    let divided = |bytes: u64| bytes.div_ceil(PAGE_SIZE).div_ceil(u64::from(k));
    let resident = divided(vm.resident_bytes);
    let mut written = 0;
    match &mut vm.writes {
        WriteSource::Classes(classes) => {
            for class in classes {
                class.pages = class.pages.div_ceil(k);
                written += u64::from(class.pages);
            }
        }
        WriteSource::Phases(phased) => {
            divide_phases(phased, k);
            written = phased.pages();
        }
        WriteSource::Idle
        | WriteSource::Pages(_)
        | WriteSource::Fitted(_)
        | WriteSource::FittedPhases(_)
        | WriteSource::FittedBest(_)
        | WriteSource::Profile(_) => {}
    }
    // Parts rounded up must still fit in the whole.
    let ram = divided(vm.ram_bytes).max(resident + written);
    if k > 1 && ram < RAM_PAGES_MIN {
        return Err(ScaleError::Ram {
            vm: vm.name.clone(),
            k,
            pages: ram,
        });
    }
    let high = divided(vm.resident_high_bytes).min(resident);
    (vm.ram_bytes, vm.resident_bytes) = (ram * PAGE_SIZE, resident * PAGE_SIZE);
    vm.resident_high_bytes = high * PAGE_SIZE;
    Ok(())
}

/// The pages of phases at k. Fitted ones are divided where a VM is made of them.
pub(super) fn divide_phases(phased: &mut PhasedClasses, k: u32) {
    for phase in &mut phased.phases {
        phase.first_page /= k;
        for class in &mut phase.classes {
            class.pages = class.pages.div_ceil(k);
        }
    }
}

fn divide_network(scenario: &mut Scenario, k: u32) -> Result<(), ScaleError> {
    let NetworkSpec {
        topology,
        schedule,
        send_buffer,
        ..
    } = &mut scenario.network;
    *send_buffer = send_buffer.map(|b| ByteSize::from_bytes(b.bytes().div_ceil(u64::from(k))));
    let backs = ways_back(topology);
    let divided = |link: &Link, spec: &LinkSpec| {
        check_link(link, spec, backs[link.id.0 as usize], k)?;
        divide_link(&link.name, spec, k)
    };
    *schedule = schedule.with_specs(|change| divided(topology.link(change.link), &change.spec))?;
    let divided = topology.with_specs(|link| divided(link, &link.spec))?;
    let divided = divided.with_deliveries(|trace| trace.divided(k));
    *topology = divided;
    Ok(())
}

/// For every link the delay of the same cable's other direction.
#[must_use]
pub fn ways_back(topology: &Topology) -> Vec<Duration> {
    let mut delays: BTreeMap<(Place, Place), Duration> = BTreeMap::new();
    for link in topology.links() {
        let shortest = delays.entry((link.from, link.to)).or_insert(Duration::MAX);
        *shortest = link.spec.delay.min(*shortest);
    }
    let back = |link: &Link| {
        delays
            .get(&(link.to, link.from))
            .copied()
            .unwrap_or_default()
    };
    topology.links().iter().map(back).collect()
}

/// What a fault changes is bytes where what it changes is.
fn divide_fault(index: usize, action: &mut Action, k: u32) -> Result<(), ScaleError> {
    let divided = |bytes: ByteSize| ByteSize::from_bytes(bytes.bytes().div_ceil(u64::from(k)));
    match action {
        Action::SetParameters(change) => {
            let speeds = [
                &mut change.max_bandwidth,
                &mut change.avail_switchover_bandwidth,
            ];
            for speed in speeds.into_iter().flatten() {
                *speed = speed.div_ceil(u64::from(k));
            }
        }
        Action::LinkChange { patch, .. } => {
            if let Some(Amount::To(Some(rate))) = &mut patch.rate {
                let what = format!("fault {}", index + 1);
                let bps = divided_rate(&what, rate.bps(), k)?;
                *rate = BitRate::from_bps(bps).unwrap_or(*rate);
            }
            if let Some(Amount::To(queue)) = &mut patch.queue {
                *queue = divided(*queue);
            }
            if let Some(Amount::To(Some(threshold))) = &mut patch.ecn_threshold {
                *threshold = divided(*threshold);
            }
        }
        _ => {}
    }
    Ok(())
}

fn divide_link(name: &str, link: &LinkSpec, k: u32) -> Result<LinkSpec, ScaleError> {
    let rate = link
        .rate
        .map(|rate| divided_rate(&format!("link {name}"), rate.bps(), k));
    let divided = |bytes: ByteSize| ByteSize::from_bytes(bytes.bytes().div_ceil(u64::from(k)));
    Ok(LinkSpec {
        rate: rate.transpose()?.and_then(BitRate::from_bps),
        queue: divided(link.queue),
        ecn_threshold: link.ecn_threshold.map(divided),
        shaper_at: match link.shaper_at {
            ShaperAt::SourceEgress { burst } => ShaperAt::SourceEgress {
                burst: divided(burst),
            },
            ShaperAt::Fabric => ShaperAt::Fabric,
        },
        ..*link
    })
}

fn divided_rate(what: &str, rate_bps: u64, k: u32) -> Result<u64, ScaleError> {
    match rate_bps / u64::from(k) {
        0 => Err(ScaleError::Rate {
            what: what.into(),
            rate_bps,
            k,
        }),
        rate => Ok(rate),
    }
}

/// Whether a direction of a link can be carried at k when it is `link`.
///
/// The round trip is the shortest the link can be part of: its own delay and that of its way `back`.
///
/// # Errors
/// When it is shaped and holds too few segments.
pub fn check_link(of: &Link, link: &LinkSpec, back: Duration, k: u32) -> Result<(), ScaleError> {
    let name = of.name.as_str();
    if k == 0 {
        return Err(ScaleError::Zero);
    }
    let rate = link
        .rate
        .or_else(|| of.delivery.as_ref().map(|trace| trace.mean_rate()));
    let Some(rate) = rate else {
        return Ok(());
    };
    let segment_bytes = u64::from(MTU) + u64::from(link.overhead_bytes);
    let queue_bytes = link.queue.bytes() / u64::from(k);
    let segments = queue_bytes / segment_bytes;
    if segments < QUEUE_SEGMENTS_MIN {
        return Err(ScaleError::Queue {
            link: name.into(),
            k,
            queue_bytes,
            segments,
            segment_bytes,
        });
    }
    let threshold_bytes = link.ecn_threshold.map(|bytes| bytes.bytes() / u64::from(k));
    if let Some(threshold_bytes) = threshold_bytes.filter(|bytes| *bytes < segment_bytes) {
        return Err(ScaleError::Threshold {
            link: name.into(),
            k,
            threshold_bytes,
            segment_bytes,
        });
    }
    let round_trip = link.delay.saturating_add(back);
    let bdp_bytes = rate.bytes_in(round_trip) / u64::from(k);
    let segments = bdp_bytes.saturating_add(queue_bytes) / segment_bytes;
    if segments < PIPE_SEGMENTS_MIN {
        return Err(ScaleError::Pipe {
            link: name.into(),
            k,
            bdp_bytes,
            queue_bytes,
            segments,
            segment_bytes,
        });
    }
    Ok(())
}

/// [`TABLE`] as Markdown: `docs/scenario.md` holds it, and a test compares.
#[must_use]
pub fn table_markdown() -> String {
    let mut text = String::from("| what | full size | divided by k | why |\n|---|---|---|---|\n");
    for Constant {
        name,
        value,
        unit,
        scales,
        why,
    } in TABLE
    {
        let size = value.map_or_else(
            || format!("given, {unit}"),
            |value| format!("{value} {unit}"),
        );
        let scales = if *scales { "yes" } else { "no" };
        text += &format!("| {name} | {size} | {scales} | {why} |\n");
    }
    text
}
