//! Traffic of a scenario's VMs: flows, services and who asks them, probes.

use crate::ids::{HostId, VmId};
use serde::{Deserialize, Serialize};

/// An end of a tenant flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Endpoint {
    /// A VM, on whichever host it is.
    Vm(VmId),
    /// Whoever is outside: [`NetworkSpec::internet`](super::NetworkSpec::internet), which is there when a flow names it.
    Internet,
}

/// A tenant flow; one of its ends at least is a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSpec {
    /// Sends.
    pub from: Endpoint,
    /// Receives.
    pub to: Endpoint,
    /// Bits a second of payload; `None` is elastic: as much as TCP gives.
    pub rate_bps: Option<u64>,
}

/// Requests that a VM answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Unique name.
    pub name: String,
    /// The VM that answers.
    pub server: VmId,
    /// Who asks.
    pub client: Endpoint,
    /// When.
    pub arrivals: Arrivals,
    /// Most requests under way at once; in closed loop, as many as there are.
    pub connections: u32,
    /// Bytes of a request.
    pub request_bytes: u32,
    /// Bytes of an answer.
    pub response_bytes: u32,
    /// CPU time a request takes of the server, of a reference core.
    pub cpu_ns: u64,
}

/// Echo requests to a VM's address, from a host or from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeSpec {
    /// The VM.
    pub vm: VmId,
    /// The host that asks; the one that stands for the Internet, too.
    pub from: HostId,
    /// From one request to the next, ns.
    pub interval_ns: u64,
}

/// When requests are made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arrivals {
    /// Whatever becomes of those before, at random: a Poisson process of so many a thousand
    /// seconds.
    Poisson {
        /// Thousandths of a request a second.
        rate_milli: u64,
    },
    /// The same, evenly.
    Paced {
        /// Thousandths of a request a second.
        rate_milli: u64,
    },
    /// On each connection so long after the answer to the one before.
    Closed {
        /// ns.
        think_ns: u64,
    },
}
