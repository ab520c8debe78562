//! Routes in tables of their own, and the rule that leads to one: what a host needs to hand frames to its VMs' ports.

use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

use super::{Netlink, NetlinkError};
use crate::sys::attributes::Attributes;

/// A routing table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// What the host itself and its VMs send.
    Main,
    /// What came over the host's link.
    Entered,
}

impl Table {
    fn number(self) -> u8 {
        match self {
            // RT_TABLE_MAIN
            Self::Main => 254,
            Self::Entered => 100,
        }
    }
}

/// A route to an address, or to every address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortRoute {
    /// `None` for all that has no better route.
    pub(crate) to: Option<Ipv4Addr>,
    pub(crate) table: Table,
    /// Number of the device and what stands for its other end; `None` drops silently.
    pub(crate) hop: Option<(u32, Ipv4Addr)>,
    /// Time to live of what is sent by it; `None` leaves the kernel's.
    pub(crate) hop_limit: Option<u32>,
}

/// RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWRULE
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const NEW_RULE: u16 = 32;
/// RTN_UNICAST, RTN_BLACKHOLE
const UNICAST: u8 = 1;
const BLACKHOLE: u8 = 6;
/// AF_INET
const IPV4: u8 = 2;
/// RTPROT_STATIC
const STATIC: u8 = 4;
/// RT_SCOPE_NOWHERE: of any scope, when deleting.
const NOWHERE: u8 = 255;
/// RTNH_F_ONLINK
const ONLINK: u32 = 4;
/// RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_METRICS; RTAX_HOPLIMIT
const TO: u16 = 1;
const DEVICE: u16 = 4;
const GATEWAY: u16 = 5;
const METRICS: u16 = 8;
const HOP_LIMIT: u16 = 10;
/// FR_ACT_TO_TBL; FRA_IIFNAME, FRA_PRIORITY
const TO_TABLE: u8 = 1;
const ENTERS_BY: u16 = 3;
const PRIORITY: u16 = 6;
/// After what is for the host itself (0), before its own table (32766).
const BEFORE_MAIN: u32 = 100;

impl Netlink {
    /// Adds a route of this namespace, in the place of one to the same addresses.
    pub(crate) fn put_route(&mut self, route: PortRoute) -> Result<(), NetlinkError> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let what = format!("add route {route:?}");
        self.raw(&what, NEW_ROUTE, flags, &message(route), |_| Ok(()))
    }

    /// Forgets the route to an address; that there is none is no error.
    pub(crate) fn drop_route(&mut self, to: Ipv4Addr, table: Table) -> Result<(), NetlinkError> {
        let mut message = head(Some(to), table, (0, NOWHERE, 0));
        message.put(TO, &to.octets());
        let what = format!("delete route to {to}");
        match self.raw(&what, DELETE_ROUTE, NLM_F_ACK, &message.0, |_| Ok(())) {
            Err(NetlinkError::Refused { source, .. })
                if source.raw_os_error() == Some(libc::ESRCH) =>
            {
                Ok(())
            }
            done => done,
        }
    }

    /// What comes in by a device and is not for this namespace itself is looked up in [`Table::Entered`] first.
    pub(crate) fn enter_by(&mut self, device: &str) -> Result<(), NetlinkError> {
        let mut message = Attributes(vec![
            IPV4,
            0,
            0,
            0,
            Table::Entered.number(),
            0,
            0,
            TO_TABLE,
            0,
            0,
            0,
            0,
        ]);
        let name: Vec<u8> = device.bytes().chain([0]).collect();
        message.put(ENTERS_BY, &name);
        message.put_u32(PRIORITY, BEFORE_MAIN);
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let what = format!("add the rule for what comes in by {device}");
        self.raw(&what, NEW_RULE, flags, &message.0, |_| Ok(()))
    }
}

fn message(route: PortRoute) -> Vec<u8> {
    let kind = route.hop.map_or(BLACKHOLE, |_| UNICAST);
    let flags = route.hop.map_or(0, |_| ONLINK);
    let mut message = head(route.to, route.table, (kind, 0, flags));
    if let Some(to) = route.to {
        message.put(TO, &to.octets());
    }
    if let Some((device, via)) = route.hop {
        message.put_u32(DEVICE, device);
        message.put(GATEWAY, &via.octets());
    }
    if let Some(limit) = route.hop_limit {
        message.nest(METRICS, |metrics| metrics.put_u32(HOP_LIMIT, limit));
    }
    message.0
}

/// `struct rtmsg`: kind, scope and flags of the route; protocol and kind of 0 match any when deleting.
fn head(to: Option<Ipv4Addr>, table: Table, (kind, scope, flags): (u8, u8, u32)) -> Attributes {
    let bits = if to.is_some() { 32 } else { 0 };
    let protocol = if kind == 0 { 0 } else { STATIC };
    let table = table.number();
    let mut message = Attributes(vec![IPV4, bits, 0, 0, table, protocol, scope, kind]);
    message.words(&[flags]);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_route_has_a_device_a_gateway_and_a_time_to_live() {
        let route = PortRoute {
            to: None,
            table: Table::Main,
            hop: Some((7, Ipv4Addr::new(169, 254, 0, 1))),
            hop_limit: Some(128),
        };
        let mut expected = vec![2, 0, 0, 0, 254, 4, 0, 1];
        expected.extend(4_u32.to_ne_bytes());
        for (kind, value) in [(4_u16, 7_u32.to_ne_bytes()), (5, [169, 254, 0, 1])] {
            expected.extend(8_u16.to_ne_bytes());
            expected.extend(kind.to_ne_bytes());
            expected.extend(value);
        }
        expected.extend(12_u16.to_ne_bytes());
        expected.extend(8_u16.to_ne_bytes());
        expected.extend(8_u16.to_ne_bytes());
        expected.extend(10_u16.to_ne_bytes());
        expected.extend(128_u32.to_ne_bytes());
        assert_eq!(message(route), expected);
        let nowhere = PortRoute {
            to: Some(Ipv4Addr::new(10, 96, 0, 1)),
            table: Table::Entered,
            hop: None,
            hop_limit: None,
        };
        let bytes = message(nowhere);
        assert_eq!((bytes[1], bytes[4], bytes[7]), (32, 100, BLACKHOLE));
    }
}
