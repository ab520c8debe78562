//! Options of a migration, under QEMU's names and with QEMU's defaults.

use serde::{Deserialize, Serialize};

/// What a migration is run with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct MigrationParams {
    /// Which program's decisions: `qemu`.
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
    /// Bytes of device state sent after the last page. Default: what QEMU 10.0.2 sent besides RAM
    /// in 83 measured migrations of a Linux guest with virtio devices, 78 to 84 kB, median 79.5.
    pub device_state_bytes: u64,
    /// Milliseconds the destination takes to load the device state.
    pub load_time: u64,
    /// Milliseconds after which the orchestrator cancels, since QEMU itself never gives up; 0 is
    /// never. Default: 150 s a GiB as KubeVirt's completionTimeoutPerGiB when `None`.
    pub completion_timeout: Option<u64>,
}

/// The program whose decisions are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// QEMU's pre-copy.
    #[default]
    Qemu,
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
            device_state_bytes: 79_500,
            load_time: 5,
            completion_timeout: None,
        }
    }
}

/// KubeVirt's completionTimeoutPerGiB.
const COMPLETION_TIMEOUT_PER_GIB_MS: u64 = 150_000;

impl MigrationParams {
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
