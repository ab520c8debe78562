//! The table: every byte and page constant, whether k divides it, and why. Never inside: dividing.

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
/// `qemu-rounds` stops at so many dirty pages.
pub const ROUNDS_STOP_PAGES: Constant = fixed(
    "dirty pages at which `qemu-rounds` stops",
    5000,
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
        "page tables that TCG walks",
        "bytes",
        true,
        "pages of the guest, as its RAM",
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
        "buffers of sockets, where given",
        "bytes",
        true,
        "as their limits",
    ),
    CHECK_PAGES,
    FILE_BUFFER,
    MULTIFD_PACKET,
    REPROTECT_CHUNK,
    CLH_CHUNK,
    XEN_STOP_PAGES,
    ROUNDS_STOP_PAGES,
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
