//! Options of a migration, under QEMU's names and with QEMU's defaults.

use netmodel::ports::Announce;
use serde::{Deserialize, Serialize};

use super::wire::hello::{ChannelId, ChannelKind};
use super::wire::{Format, Streams};

mod sockets;
mod streams;

pub use sockets::{KeepAlive, SocketParams};
pub use streams::{
    COMPRESSIONS, Compression, MultifdParams, Refused, XbzrleParams, ZERO_PAGE_DETECTIONS,
    ZeroPageDetection,
};

/// What a migration is run with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct MigrationParams {
    /// Which program's decisions, and its bytes on the wire.
    pub engine: EngineKind,
    /// Bytes a second; 0 is unlimited. QEMU's own default is 128 MiB/s; libvirt normally sets it to
    /// unlimited, and so do we.
    pub max_bandwidth: u64,
    /// Milliseconds. QEMU's default.
    pub downtime_limit: u64,
    /// Bytes a second; replaces the estimate in the switchover decision when not 0.
    pub avail_switchover_bandwidth: u64,
    /// Whether the source waits for the destination's word that everything is loaded.
    pub return_path: bool,
    /// When the log of written pages is armed again after a sync.
    pub reprotect: Reprotect,
    /// Bytes of the guest's page tables that its processors walk as logging begins. TCG marks what it walks as
    /// written, so these pages are found again at the first sync though nothing in them has changed; KVM does
    /// not: 0.
    pub page_tables: u64,
    /// Bytes of them that its processors walk all the time, since TCG keeps translations of fewer pages than they use:
    /// marked again at every sync.
    #[serde(default)]
    pub page_tables_walked: u64,
    /// Bytes of device state sent after the last page. Default: what QEMU 10.0.2 sent besides RAM
    /// in 83 measured migrations of a Linux guest with virtio devices, 78 to 84 kB, median 79.5.
    pub device_state_bytes: u64,
    /// Milliseconds the destination takes to load the device state.
    pub load_time: u64,
    /// Milliseconds after which the orchestrator cancels, since QEMU itself never gives up; 0 is
    /// never. Default: 150 s a GiB as KubeVirt's completionTimeoutPerGiB when `None`.
    pub completion_timeout: Option<u64>,
    /// Milliseconds after which Cloud Hypervisor itself does as `timeout_strategy` says. Its default.
    pub timeout: u64,
    /// What it does then.
    pub timeout_strategy: TimeoutStrategy,
    /// Cloud Hypervisor's `memory_mode`: whether memory comes before the guest or after it.
    pub memory_mode: MemoryMode,
    /// QEMU's auto-converge.
    pub auto_converge: AutoConvergeParams,
    /// QEMU's post-copy.
    #[serde(rename = "postcopy-ram")]
    pub postcopy: PostcopyParams,
    /// QEMU's multifd.
    pub multifd: MultifdParams,
    /// Who looks for zero pages.
    pub zero_page_detection: ZeroPageDetection,
    /// QEMU's XBZRLE.
    pub xbzrle: XbzrleParams,
    /// Cloud Hypervisor's `connections`, 1 to 128: above 1 memory goes over so many of its own.
    pub connections: u8,
    /// When a VM with an address of its own tells the network where it is.
    pub announce: AnnounceParams,
    /// Options of its connections.
    pub sockets: SocketParams,
}

/// QEMU's `announce-*` parameters, with its defaults; milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct AnnounceParams {
    /// Between the first announcement, which comes as the guest runs, and the second.
    pub announce_initial: u64,
    /// Longest gap.
    pub announce_max: u64,
    /// How many.
    pub announce_rounds: u32,
    /// By how much gaps grow.
    pub announce_step: u64,
}

impl Default for AnnounceParams {
    fn default() -> Self {
        Self {
            announce_initial: 50,
            announce_max: 550,
            announce_rounds: 5,
            announce_step: 100,
        }
    }
}

/// QEMU's `postcopy-ram` and what belongs to it, with who says when to switch (libvirt's words).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct PostcopyParams {
    /// QEMU's capability `postcopy-ram`: the migration may be switched while it runs. Implied by
    /// `engine = "post-copy"`.
    pub ram: bool,
    /// QEMU's capability `postcopy-preempt`: requested pages cross on a connection of their own.
    pub preempt: bool,
    /// libvirt's VIR_MIGRATE_POSTCOPY with virsh's `--postcopy-after-precopy`: switch once the first
    /// pass of pre-copy is over.
    pub after_precopy: bool,
    /// virsh's `--timeout` with `--timeout-postcopy`: switch so many milliseconds after the start.
    pub timeout: Option<u64>,
    /// QEMU's `max-postcopy-bandwidth`, bytes a second; 0, its default, is unlimited.
    pub max_bandwidth: u64,
    /// Milliseconds without a byte after which a connection counts as broken while pages are pulled.
    /// QEMU itself waits for TCP; libvirt's keep-alive gives up after (5 + 1) x 5 s.
    pub stall_timeout: u64,
    /// How often the source dials again when the connection broke; 0: never. Ours: nobody's
    /// orchestrator does it by itself, and QEMU waits for ever.
    pub recover_tries: u32,
    /// Milliseconds between two tries. Ours.
    pub recover_interval: u64,
    /// Milliseconds after which both ends give the guest up, tried or not. Ours.
    pub recover_timeout: u64,
}

/// Of Cloud Hypervisor's connections: TCP's user-timeout, and as long as its keep-alive takes (60 s + 4 x 15 s).
const CLOUD_HYPERVISOR_STALL_MS: u64 = 120_000;

impl PostcopyParams {
    /// What an engine has by itself.
    #[must_use]
    pub fn of(engine: EngineKind) -> Self {
        let base = Self::default();
        match engine {
            EngineKind::CloudHypervisor => Self {
                stall_timeout: CLOUD_HYPERVISOR_STALL_MS,
                ..base
            },
            _ => base,
        }
    }
}

impl Default for PostcopyParams {
    fn default() -> Self {
        Self {
            ram: false,
            preempt: false,
            after_precopy: false,
            timeout: None,
            max_bandwidth: 0,
            stall_timeout: 30_000,
            recover_tries: 60,
            recover_interval: 1_000,
            recover_timeout: 300_000,
        }
    }
}

/// QEMU's `auto-converge` and its parameters, with its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct AutoConvergeParams {
    /// Whether the capability is on.
    pub enabled: bool,
    /// Percent of what was sent in a period that has to be dirtied in it.
    pub throttle_trigger_threshold: u64,
    /// Percent of the CPUs' time taken first.
    pub cpu_throttle_initial: u8,
    /// … and more each time.
    pub cpu_throttle_increment: u8,
    /// … and at most.
    pub max_cpu_throttle: u8,
    /// Smaller steps near the end.
    pub cpu_throttle_tailslow: bool,
}

impl Default for AutoConvergeParams {
    fn default() -> Self {
        Self {
            enabled: false,
            throttle_trigger_threshold: 50,
            cpu_throttle_initial: 20,
            cpu_throttle_increment: 10,
            max_cpu_throttle: 99,
            cpu_throttle_tailslow: false,
        }
    }
}

/// The program whose decisions are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// QEMU's pre-copy.
    #[default]
    Qemu,
    /// Xen's, since 4.6: at most five passes.
    Xen,
    /// Xen's until 4.5, still the reference of the literature: at most 29 passes, or three times the RAM.
    XenLegacy,
    /// Cloud Hypervisor's.
    CloudHypervisor,
    /// QEMU's stream with the loop of textbooks, as a study patched QEMU 8.1: each round whole, until a reading
    /// finds few pages, or for so many rounds.
    QemuRounds,
    /// No pre-copy: the guest is stopped, sent over QEMU's stream, and started.
    StopAndCopy,
    /// No pre-copy: the guest is stopped, its device state sent, and everything else pulled. QEMU's
    /// post-copy, switched to before the first page.
    PostCopy,
}

/// The engines by their names in scenarios.
pub const ENGINES: &[(&str, EngineKind)] = &[
    ("qemu", EngineKind::Qemu),
    ("xen", EngineKind::Xen),
    ("xen-legacy", EngineKind::XenLegacy),
    ("cloud-hypervisor", EngineKind::CloudHypervisor),
    ("qemu-rounds", EngineKind::QemuRounds),
    ("stop-and-copy", EngineKind::StopAndCopy),
    ("post-copy", EngineKind::PostCopy),
];

/// The strategies by their names in scenarios.
pub const TIMEOUT_STRATEGIES: &[(&str, TimeoutStrategy)] = &[
    ("cancel", TimeoutStrategy::Cancel),
    ("ignore", TimeoutStrategy::Ignore),
];

/// The memory modes by their names in scenarios.
pub const MEMORY_MODES: &[(&str, MemoryMode)] = &[
    ("precopy", MemoryMode::Precopy),
    ("postcopy", MemoryMode::Postcopy),
];

impl EngineKind {
    /// Its name in scenarios.
    #[must_use]
    pub fn name(self) -> &'static str {
        ENGINES
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(name, _)| name)
    }

    /// What its stream looks like.
    #[must_use]
    pub fn format(self) -> Format {
        match self {
            Self::Qemu | Self::QemuRounds | Self::StopAndCopy | Self::PostCopy => Format::Qemu,
            Self::Xen | Self::XenLegacy => Format::Xen,
            Self::CloudHypervisor => Format::CloudHypervisor,
        }
    }

    /// Whether it has an option of `[migration]`; those that every engine has are not asked about.
    #[must_use]
    pub fn has(self, option: &str) -> bool {
        match option {
            "max-bandwidth" | "avail-switchover-bandwidth" => self == Self::Qemu,
            "auto-converge"
            | "throttle-trigger-threshold"
            | "cpu-throttle-initial"
            | "cpu-throttle-increment"
            | "max-cpu-throttle"
            | "cpu-throttle-tailslow"
            | "multifd"
            | "multifd-channels"
            | "multifd-compression"
            | "multifd-zlib-level"
            | "multifd-zstd-level"
            | "xbzrle"
            | "xbzrle-cache-size" => self == Self::Qemu,
            "zero-page-detection" => self.format() == Format::Qemu,
            "connections" => self == Self::CloudHypervisor,
            // The others wait for the destination always.
            "return-path" => matches!(self, Self::Qemu | Self::QemuRounds | Self::StopAndCopy),
            "postcopy-ram" | "postcopy-after-precopy" | "timeout-postcopy" => self == Self::Qemu,
            "postcopy-stall-timeout" => {
                matches!(self, Self::Qemu | Self::PostCopy | Self::CloudHypervisor)
            }
            "postcopy-preempt"
            | "max-postcopy-bandwidth"
            | "postcopy-recover-tries"
            | "postcopy-recover-interval"
            | "postcopy-recover-timeout" => matches!(self, Self::Qemu | Self::PostCopy),
            // They re-arm the log as they read it.
            "reprotect" => matches!(self, Self::Qemu | Self::QemuRounds),
            "page-tables" | "page-tables-walked" => self == Self::Qemu,
            "downtime-limit" => matches!(self, Self::Qemu | Self::CloudHypervisor),
            "timeout" | "timeout-strategy" | "memory-mode" => self == Self::CloudHypervisor,
            // Other guests announce themselves.
            "announce-initial" | "announce-max" | "announce-rounds" | "announce-step" => {
                self.format() == Format::Qemu
            }
            _ => true,
        }
    }
}

/// Cloud Hypervisor's `timeout-strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum TimeoutStrategy {
    /// Give up; the guest stays.
    #[default]
    Cancel,
    /// Stop the guest and send what is left, however long that takes.
    Ignore,
}

/// Cloud Hypervisor's `memory_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryMode {
    /// All memory is there before the guest is.
    #[default]
    Precopy,
    /// The guest is there first, and each page comes when it is asked for.
    Postcopy,
}

/// When the dirty log is re-armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Reprotect {
    /// Per 1 GiB chunk when its first page is sent: KVM.
    #[default]
    Lazy,
    /// At every sync: TCG.
    AtSync,
}

impl Default for MigrationParams {
    fn default() -> Self {
        Self {
            engine: EngineKind::Qemu,
            max_bandwidth: 0,
            downtime_limit: 300,
            avail_switchover_bandwidth: 0,
            return_path: true,
            reprotect: Reprotect::Lazy,
            page_tables: 0,
            page_tables_walked: 0,
            device_state_bytes: 79_500,
            load_time: 5,
            completion_timeout: None,
            timeout: 3_600_000,
            timeout_strategy: TimeoutStrategy::Cancel,
            memory_mode: MemoryMode::Precopy,
            auto_converge: AutoConvergeParams::default(),
            postcopy: PostcopyParams::default(),
            announce: AnnounceParams::default(),
            multifd: MultifdParams::default(),
            zero_page_detection: ZeroPageDetection::default(),
            xbzrle: XbzrleParams::default(),
            connections: 1,
            sockets: SocketParams::default(),
        }
    }
}

/// KubeVirt's completionTimeoutPerGiB.
const COMPLETION_TIMEOUT_PER_GIB_MS: u64 = 150_000;

impl MigrationParams {
    /// When the dirty log is re-armed: only QEMU's under KVM waits with it.
    #[must_use]
    pub fn effective_reprotect(&self) -> Reprotect {
        match self.engine {
            EngineKind::Qemu
            | EngineKind::QemuRounds
            | EngineKind::StopAndCopy
            | EngineKind::PostCopy => self.reprotect,
            EngineKind::Xen | EngineKind::XenLegacy | EngineKind::CloudHypervisor => {
                Reprotect::AtSync
            }
        }
    }

    /// Whether the source waits for the destination's word: always, but for a QEMU without a return
    /// path. QEMU opens one for `postcopy-ram` whether or not it was asked to.
    #[must_use]
    pub fn waits_for_destination(&self) -> bool {
        self.return_path || self.engine.format() != Format::Qemu || self.may_postcopy()
    }

    /// Whether the guest may run at the destination before all of its pages are there.
    #[must_use]
    pub fn may_postcopy(&self) -> bool {
        self.postcopy.ram || self.engine == EngineKind::PostCopy || self.pages_on_demand()
    }

    /// Whether that is Cloud Hypervisor's way: no memory is sent, the destination asks for every page.
    #[must_use]
    pub fn pages_on_demand(&self) -> bool {
        self.engine == EngineKind::CloudHypervisor && self.memory_mode == MemoryMode::Postcopy
    }

    /// The option that QEMU or libvirt refuse to combine with the others, with the reason.
    #[must_use]
    pub fn refused(&self) -> Option<(&'static str, &'static str)> {
        if self.may_postcopy() {
            return None;
        }
        let postcopy = &self.postcopy;
        let needs = "it requires postcopy-ram";
        if postcopy.preempt {
            Some(("postcopy-preempt", "Postcopy preempt requires postcopy-ram"))
        } else if postcopy.after_precopy {
            Some(("postcopy-after-precopy", needs))
        } else {
            postcopy.timeout.map(|_| ("timeout-postcopy", needs))
        }
    }

    /// When announcements are sent. Where the hypervisor sends none, the guest's driver does, once, as it resumes: Xen's
    /// netfront does (`NETDEV_NOTIFY_PEERS`), and we take it that a guest of Cloud Hypervisor does.
    #[must_use]
    pub fn announcements(&self) -> Announce {
        if self.engine.format() != Format::Qemu {
            return Announce::ONCE;
        }
        let ms = std::time::Duration::from_millis;
        Announce {
            initial: ms(self.announce.announce_initial),
            max: ms(self.announce.announce_max),
            rounds: self.announce.announce_rounds,
            step: ms(self.announce.announce_step),
        }
    }

    /// The connections beside the main one.
    #[must_use]
    pub fn channels(&self) -> Vec<ChannelId> {
        let multifd = if self.multifd.enabled {
            self.multifd.channels
        } else {
            0
        };
        // As the original's, a post-copy has one connection whatever was asked for, and that for faults.
        let data = if self.connections > 1 && !self.pages_on_demand() {
            self.connections
        } else {
            0
        };
        let preempt = u8::from(self.postcopy.preempt && self.may_postcopy());
        streams::channels(ChannelKind::Multifd, multifd)
            .chain(streams::channels(ChannelKind::Data, data))
            .chain(streams::channels(ChannelKind::Preempt, preempt))
            .collect()
    }

    /// How pages travel, as both ends must know it.
    #[must_use]
    pub fn streams(&self) -> Streams {
        let of = |kind| {
            let channels = self.channels();
            let count = channels.iter().filter(|id| id.kind == kind).count();
            u8::try_from(count).unwrap_or(u8::MAX)
        };
        let multifd = of(ChannelKind::Multifd);
        Streams {
            multifd,
            compression: if multifd > 0 {
                self.multifd.compression
            } else {
                Compression::None
            },
            xbzrle: self.xbzrle.enabled,
            data: of(ChannelKind::Data),
        }
    }

    /// Looks whether the options go together, as QEMU does before it takes them.
    ///
    /// # Errors
    /// The first reason why not.
    pub fn check(&self) -> Result<(), Refused> {
        if !(1..=128).contains(&self.connections) {
            return Err(Refused::Connections);
        }
        if self.multifd.enabled && self.may_postcopy() {
            return Err(Refused::MultifdPostcopy);
        }
        streams::check(&self.multifd, &self.xbzrle)
    }

    /// Milliseconds after which the orchestrator cancels a migration of that much RAM; `None`:
    /// never. At least the time of 1 GiB, so that small guests are not cut off by their setup.
    #[must_use]
    pub fn completion_timeout_ms(&self, ram_bytes: u64) -> Option<u64> {
        match self.completion_timeout {
            Some(0) => None,
            Some(ms) => Some(ms),
            None => {
                let gib = ram_bytes.div_ceil(1 << 30).max(1);
                Some(gib.saturating_mul(COMPLETION_TIMEOUT_PER_GIB_MS))
            }
        }
    }
}
