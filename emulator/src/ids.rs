//! Identifiers. A scenario gives names; inside a run the index into its lists is the identity.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl $name {
            /// The position in the scenario's list.
            #[must_use]
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

id!(
    /// An emulated host: index into `Scenario::hosts`.
    HostId,
    "host#"
);
id!(
    /// An emulated VM: index into `Scenario::vms`.
    VmId,
    "vm#"
);
id!(
    /// A tenant flow: index into `Scenario::flows`.
    FlowId,
    "flow#"
);
id!(
    /// A service: index into `Scenario::services`.
    ServiceId,
    "service#"
);
id!(
    /// A migration of this run, numbered from 1 in the order of their requests.
    MigrationId,
    "migration#"
);
id!(
    /// A probe: index into `Scenario::probes`.
    ProbeId,
    "probe#"
);
