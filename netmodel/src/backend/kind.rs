//! Which backends there are, and what each can carry. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::link::LinkSpec;
use crate::topology::{Place, Topology};

/// What carries packets over links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendKind {
    /// Our own relay in user space: everything, on every kernel.
    #[default]
    Relay,
    /// The kernel: HTB for rates, netem for delay, jitter and loss.
    Netem,
    /// The kernel: HTB for rates, nothing else.
    Htb,
}

impl BackendKind {
    /// Every backend, in order of what it can carry.
    pub const ALL: [Self; 3] = [Self::Relay, Self::Netem, Self::Htb];

    /// As scenarios spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Netem => "netem",
            Self::Htb => "htb",
        }
    }

    /// Whether the kernel forwards packets; each switch then has a namespace of its own.
    #[must_use]
    pub fn is_kernel(self) -> bool {
        self != Self::Relay
    }

    /// Names of the capabilities (`sys::probe`) it stands on.
    #[must_use]
    pub fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Relay => &["packet-vnet-header"],
            Self::Netem => &["netem", "htb", "redirect"],
            Self::Htb => &["htb", "redirect"],
        }
    }

    /// Whether it can carry a link.
    ///
    /// # Errors
    /// The first property it cannot emulate.
    pub fn check(self, link: &str, spec: &LinkSpec) -> Result<(), CannotCarry> {
        let lacks = |property| CannotCarry {
            backend: self,
            link: link.to_owned(),
            property,
        };
        if self.is_kernel() && spec.ecn_threshold.is_some() {
            return Err(lacks(Property::Ecn));
        }
        if self == Self::Htb {
            if !spec.delay.is_zero() {
                return Err(lacks(Property::Delay));
            }
            if !spec.jitter.spread.is_zero() {
                return Err(lacks(Property::Jitter));
            }
            if !spec.loss.is_none() {
                return Err(lacks(Property::Loss));
            }
        }
        Ok(())
    }

    /// Whether it can serve a link by a packet-delivery trace.
    ///
    /// # Errors
    /// [`Property::DeliveryTrace`] for the kernel's.
    pub fn check_delivery(self, link: &str) -> Result<(), CannotCarry> {
        if self.is_kernel() {
            return Err(CannotCarry {
                backend: self,
                link: link.to_owned(),
                property: Property::DeliveryTrace,
            });
        }
        Ok(())
    }
}

impl BackendKind {
    /// Whether it can carry a whole network.
    ///
    /// # Errors
    /// The first property of the first link it cannot emulate.
    pub fn check_all(self, topology: &Topology) -> Result<(), CannotCarry> {
        for link in topology.links() {
            self.check(&link.name, &link.spec)?;
            if link.delivery.is_some() {
                self.check_delivery(&link.name)?;
            }
        }
        for (host, _) in topology.hosts().filter(|_| self.is_kernel()) {
            let (up, down) = (topology.uplink(host), topology.downlink(host));
            if !matches!((up.to, down.from), (Place::Switch(a), Place::Switch(b)) if a == b) {
                return Err(CannotCarry {
                    backend: self,
                    link: up.name.clone(),
                    property: Property::NoSwitch,
                });
            }
        }
        Ok(())
    }
}

/// What a link may ask for and not every backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    /// `delay`
    Delay,
    /// `jitter`
    Jitter,
    /// `loss`
    Loss,
    /// `ecn`
    Ecn,
    /// Packet-delivery traces.
    DeliveryTrace,
    /// A host that does not hang on one switch both ways.
    NoSwitch,
}

impl Property {
    fn name(self) -> &'static str {
        match self {
            Self::Delay => "a delay",
            Self::Jitter => "jitter",
            Self::Loss => "loss",
            Self::Ecn => "ECN marking",
            Self::DeliveryTrace => "a packet-delivery trace",
            Self::NoSwitch => "a host that is not on one switch with both its links",
        }
    }

    /// The backends that can.
    fn carriers(self) -> &'static str {
        match self {
            Self::Delay | Self::Jitter | Self::Loss => "`netem` and `relay` can",
            Self::Ecn | Self::DeliveryTrace | Self::NoSwitch => "`relay` can",
        }
    }
}

/// A backend cannot do what a link asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CannotCarry {
    /// Which backend.
    pub backend: BackendKind,
    /// Which link.
    pub link: String,
    /// What it asks.
    pub property: Property,
}

impl fmt::Display for CannotCarry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "backend `{}` cannot give link {} {}; {}",
            self.backend.name(),
            self.link,
            self.property.name(),
            self.property.carriers()
        )
    }
}

impl std::error::Error for CannotCarry {}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No backend has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no backend; there are relay, netem and htb")]
pub struct UnknownBackend(String);

impl FromStr for BackendKind {
    type Err = UnknownBackend;

    fn from_str(text: &str) -> Result<Self, UnknownBackend> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or_else(|| UnknownBackend(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::link::{Jitter, Loss};
    use crate::units::{ByteSize, Probability};

    #[test]
    fn the_kernel_needs_a_switch_between_hosts() {
        let mut builder = crate::topology::Builder::new();
        let (a, b) = (builder.host("a"), builder.host("b"));
        builder.cable(a, b, crate::topology::Cable::default());
        let topology = builder.finish().unwrap();
        assert_eq!(BackendKind::Relay.check_all(&topology), Ok(()));
        let refused = BackendKind::Htb.check_all(&topology).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "backend `htb` cannot give link a>b a host that is not on one switch with both its links; `relay` can"
        );
    }

    #[test]
    fn what_a_backend_cannot_do_is_refused_with_the_one_that_can() {
        let plain = LinkSpec::default();
        let delayed = LinkSpec {
            delay: Duration::from_millis(1),
            ..plain
        };
        let jitter = LinkSpec {
            jitter: Jitter {
                spread: Duration::from_millis(1),
                ..Jitter::default()
            },
            ..plain
        };
        let lossy = LinkSpec {
            loss: Loss::Independent(Probability::ONE),
            ..plain
        };
        let marked = LinkSpec {
            ecn_threshold: Some(ByteSize::from_bytes(1)),
            ..plain
        };
        for kind in BackendKind::ALL {
            assert_eq!(kind.check("l", &plain), Ok(()));
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        for spec in [delayed, jitter, lossy, marked] {
            assert_eq!(BackendKind::Relay.check("l", &spec), Ok(()));
            assert!(BackendKind::Htb.check("l", &spec).is_err());
        }
        let refused = BackendKind::Netem.check("h1-up", &marked).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "backend `netem` cannot give link h1-up ECN marking; `relay` can"
        );
        assert_eq!(BackendKind::Relay.check_delivery("l"), Ok(()));
        let refused = BackendKind::Htb.check_delivery("h1-up").unwrap_err();
        assert_eq!(
            refused.to_string(),
            "backend `htb` cannot give link h1-up a packet-delivery trace; `relay` can"
        );
    }
}
