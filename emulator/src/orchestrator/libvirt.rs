//! `virsh migrate --timeout`: after so long the guest is suspended, or switched to post-copy. It is
//! done once and never undone, and nothing is cancelled.

use super::{Act, Deed, NS_PER_MS};
use serde::{Deserialize, Serialize};

/// virsh wakes twice a second.
pub(super) const POLL_MS: u64 = 500;

/// Its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct LibvirtParams {
    /// `--timeout`, ms; 0 is never.
    pub timeout: u64,
    /// `--timeout-suspend` or `--timeout-postcopy`.
    pub on_timeout: OnTimeout,
}

/// What happens when the time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnTimeout {
    /// `--timeout-suspend`, the default.
    #[default]
    Suspend,
    /// `--timeout-postcopy`.
    Postcopy,
}

#[derive(Debug, Clone)]
pub(super) struct Libvirt {
    params: LibvirtParams,
    begin_ns: u64,
    done: bool,
}

impl Libvirt {
    pub(super) fn new(params: LibvirtParams, now_ns: u64) -> Self {
        Self {
            params,
            begin_ns: now_ns,
            done: false,
        }
    }

    pub(super) fn look(&mut self, now_ns: u64) -> Option<Deed> {
        let timeout_ns = self.params.timeout.saturating_mul(NS_PER_MS);
        let elapsed_ns = now_ns.saturating_sub(self.begin_ns);
        if self.done || timeout_ns == 0 || elapsed_ns < timeout_ns {
            return None;
        }
        self.done = true;
        let act = match self.params.on_timeout {
            OnTimeout::Suspend => Act::Suspend,
            OnTimeout::Postcopy => Act::StartPostcopy,
        };
        let why = format!("not completed within {} ms (timeout)", self.params.timeout);
        Some(act.since(why))
    }
}
