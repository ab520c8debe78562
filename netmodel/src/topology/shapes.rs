//! The topologies that have names.

use super::{Builder, Cable, Topology, TopologyError};

/// A rack of a two-tier network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rack {
    /// Name of its switch.
    pub name: String,
    /// From its switch to the core.
    pub uplink: Cable,
    /// Its hosts with their links.
    pub hosts: Vec<(String, Cable)>,
}

/// A site of a wide-area network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Name of its switch.
    pub name: String,
    /// Its hosts with their links.
    pub hosts: Vec<(String, Cable)>,
}

impl Topology {
    /// Every host on one switch. Links come out as up, down of the first host, then of the second, …
    ///
    /// # Errors
    /// [`TopologyError`] when there are too few or too many hosts, or a name is used twice.
    pub fn star(hosts: impl IntoIterator<Item = (String, Cable)>) -> Result<Self, TopologyError> {
        let mut builder = Builder::new();
        let hub = builder.switch("switch");
        for (name, cable) in hosts {
            let host = builder.host(name);
            builder.uplink(host, hub, cable);
        }
        builder.finish()
    }

    /// Racks on one core switch. A rack is oversubscribed by as much as its hosts' links exceed its uplink.
    ///
    /// # Errors
    /// [`TopologyError`].
    pub fn two_tier(racks: impl IntoIterator<Item = Rack>) -> Result<Self, TopologyError> {
        let mut builder = Builder::new();
        let core = builder.switch("core");
        for rack in racks {
            let switch = builder.switch(rack.name);
            builder.uplink(switch, core, rack.uplink);
            for (name, cable) in rack.hosts {
                let host = builder.host(name);
                builder.uplink(host, switch, cable);
            }
        }
        builder.finish()
    }

    /// Sites, and cables between them by their indices: `(a, b, cable)`, `cable.up` from a to b.
    ///
    /// # Errors
    /// [`TopologyError`].
    ///
    /// # Panics
    /// For the index of a site that is not there.
    pub fn wan(
        sites: impl IntoIterator<Item = Site>,
        cables: impl IntoIterator<Item = (usize, usize, Cable)>,
    ) -> Result<Self, TopologyError> {
        let mut builder = Builder::new();
        let mut switches = Vec::new();
        for site in sites {
            let switch = builder.switch(site.name);
            switches.push(switch);
            for (name, cable) in site.hosts {
                let host = builder.host(name);
                builder.uplink(host, switch, cable);
            }
        }
        for (a, b, cable) in cables {
            builder.cable(switches[a], switches[b], cable);
        }
        builder.finish()
    }
}
