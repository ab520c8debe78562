//! What the kernel's backends need over netlink: pairs between switches, IFB devices, routes, traffic control, counters.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};

use super::{Netlink, NetlinkError, device_index, end, extended_text};
use crate::plan::{Route, Trunk};
use crate::qdisc::{Handle, Object};
use crate::sys::attributes::Attributes;
use crate::sys::tc::{self, Classifier, Entry};

/// What a device counted, in frames.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct DeviceCounts {
    pub(crate) name: String,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// Either way.
    pub(crate) dropped: u64,
}

/// `struct nlmsghdr`: length, type, flags, sequence, port.
const HEADER: usize = 16;
/// NLMSG_ERROR, NLMSG_DONE
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// NLM_F_REQUEST, NLM_F_ECHO
const REQUEST: u16 = 1;
const ECHO: u16 = 8;
/// RTM_NEWROUTE, RTM_DELROUTE
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;

impl Netlink {
    /// Creates a veth pair between this namespace and another switch's.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`].
    pub(crate) fn create_trunk(
        &mut self,
        trunk: &Trunk,
        peer_netns: BorrowedFd<'_>,
    ) -> Result<(), NetlinkError> {
        let names = (&*trunk.device, &*trunk.peer);
        let size = (trunk.mtu, trunk.txqueuelen);
        self.create_pair(names, trunk.mac, size, peer_netns)
    }

    /// Creates a veth pair between this namespace and another one: the names of both ends, the address they share because
    /// without ARP either end addresses what it sends with its own, MTU and transmit queue length.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`].
    pub(crate) fn create_pair(
        &mut self,
        (device, peer_device): (&str, &str),
        mac: [u8; 6],
        size: (u32, u32),
        peer_netns: BorrowedFd<'_>,
    ) -> Result<(), NetlinkError> {
        let mut peer = end(peer_device, mac, size);
        peer.attributes
            .push(LinkAttribute::NetNsFd(peer_netns.as_raw_fd()));
        let mut link = end(device, mac, size);
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let what = format!("create veth pair {device} and {peer_device}");
        let message = RouteNetlinkMessage::NewLink(link);
        self.acknowledged(&what, message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Creates an IFB device.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`].
    pub(crate) fn create_ifb(&mut self, device: &str) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(device.to_owned()),
            // What its qdisc gave it and it has not handed on stops the qdisc, so this loses nothing: as a veth's.
            LinkAttribute::TxQueueLen(1000),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]),
        ];
        let message = RouteNetlinkMessage::NewLink(link);
        self.acknowledged(
            &format!("create ifb {device}"),
            message,
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Limits the segments of the super-frames a device may be given.
    ///
    /// # Errors
    /// [`NetlinkError::NoDevice`] or [`NetlinkError::Refused`].
    pub fn set_gso_max_segments(
        &mut self,
        device: &str,
        segments: u32,
    ) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.index = device_index(device)?;
        link.attributes.push(LinkAttribute::GsoMaxSegs(segments));
        let what = format!("limit frames of {device} to {segments} segments");
        self.acknowledged(&what, RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Adds a route of this namespace, in the place of one with the same prefix.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`]. `device` is the number of the hop's device.
    pub(crate) fn set_route(&mut self, route: &Route, device: u32) -> Result<(), NetlinkError> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let message = route_message(route, device);
        let what = format!("add route {route}");
        self.raw(&what, NEW_ROUTE, flags, &message, |_| Ok(()))
    }

    /// Forgets the route to one address.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`].
    pub(crate) fn delete_route(&mut self, address: Ipv4Addr) -> Result<(), NetlinkError> {
        let message = destination(address, 32, 0, NOWHERE);
        let what = format!("delete route to {address}");
        self.raw(&what, DELETE_ROUTE, NLM_F_ACK, &message.0, |_| Ok(()))
    }

    /// Makes a qdisc, class or filter on a device of the calling thread's namespace.
    ///
    /// # Errors
    /// [`NetlinkError::NoDevice`] or [`NetlinkError::Refused`].
    pub(crate) fn add_queue(&mut self, device: &str, object: &Object) -> Result<(), NetlinkError> {
        let index = device_index(device)?;
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let what = format!("add to {device}: {object}");
        if let Some((kind, message)) = tc::encode(index, object) {
            return self.raw(&what, kind, flags, &message, |_| Ok(()));
        }
        let (to, sink) = redirected(object)?;
        let mut add = |classifier| {
            let message = tc::encode_redirect(index, classifier, to, sink);
            self.raw(&what, tc::NEW_FILTER, flags, &message, |_| Ok(()))
        };
        match add(Classifier::U32) {
            // Somebody left u32 out of this kernel.
            Err(NetlinkError::Refused { source, .. })
                if source.raw_os_error() == Some(libc::ENOENT) =>
            {
                add(Classifier::Matchall)
            }
            done => done,
        }
    }

    /// Changes a qdisc or class in place.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`].
    pub(crate) fn change_queue(
        &mut self,
        device: u32,
        object: &Object,
    ) -> Result<(), NetlinkError> {
        let Some((kind, message)) = tc::encode(device, object) else {
            return Ok(());
        };
        let what = format!("change on device {device}: {object}");
        self.raw(&what, kind, NLM_F_ACK, &message, |_| Ok(()))
    }

    /// All qdiscs of this namespace.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub(crate) fn qdiscs(&mut self) -> Result<Vec<Entry>, NetlinkError> {
        let message = tc::query(0, Handle(0), Handle(0));
        self.entries("read qdiscs", (tc::GET_QDISC, NLM_F_DUMP), &message)
    }

    /// All classes of a device.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub(crate) fn classes(&mut self, device: u32) -> Result<Vec<Entry>, NetlinkError> {
        let message = tc::query(device, Handle(0), Handle(0));
        self.entries("read classes", (tc::GET_CLASS, NLM_F_DUMP), &message)
    }

    /// All filters of what a device receives.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub(crate) fn filters(&mut self, device: u32) -> Result<Vec<Entry>, NetlinkError> {
        let message = tc::query_filters(device);
        self.entries("read filters", (tc::GET_FILTER, NLM_F_DUMP), &message)
    }

    /// One qdisc of a device.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub(crate) fn qdisc(&mut self, device: u32, handle: Handle) -> Result<Entry, NetlinkError> {
        let message = tc::query(device, handle, Handle(0));
        let what = "read a qdisc";
        // Echoed, or the answer would go to those who listen to changes only.
        let mut entries = self.entries(what, (tc::GET_QDISC, NLM_F_ACK | ECHO), &message)?;
        entries.pop().ok_or_else(|| NetlinkError::Answer {
            what: format!("{what} of device {device}"),
            detail: "it is empty".to_owned(),
        })
    }

    fn entries(
        &mut self,
        what: &str,
        (kind, flags): (u16, u16),
        message: &[u8],
    ) -> Result<Vec<Entry>, NetlinkError> {
        let mut entries = Vec::new();
        self.raw(what, kind, flags, message, |answer| {
            let entry = tc::decode(answer).map_err(|error| NetlinkError::Answer {
                what: what.to_owned(),
                detail: error.to_string(),
            })?;
            entries.push(entry);
            Ok(())
        })?;
        Ok(entries)
    }

    /// Counters of every device of this namespace, by their numbers.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub(crate) fn device_counts(&mut self) -> Result<BTreeMap<u32, DeviceCounts>, NetlinkError> {
        let mut devices = BTreeMap::new();
        let dump = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.exchange("read device counters", dump, NLM_F_DUMP, |answer| {
            let RouteNetlinkMessage::NewLink(link) = answer else {
                return;
            };
            let mut counts = DeviceCounts::default();
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(text) => counts.name = text,
                    LinkAttribute::Stats64(s) => {
                        counts.received = s.rx_packets;
                        counts.sent = s.tx_packets;
                        counts.dropped = s.rx_dropped + s.tx_dropped;
                    }
                    _ => {}
                }
            }
            devices.insert(link.header.index, counts);
        })?;
        Ok(devices)
    }

    /// Sends one message as it is and hands what is answered to `each`, headers taken off.
    pub(super) fn raw(
        &mut self,
        what: &str,
        kind: u16,
        flags: u16,
        message: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + message.len()).expect("messages are below 64 KiB");
        let mut request = length.to_ne_bytes().to_vec();
        request.extend(kind.to_ne_bytes());
        request.extend((REQUEST | flags).to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend([0; 4]);
        request.extend(message);
        self.socket.send(&request, 0)?;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let (answer, after) = split(rest).ok_or_else(|| NetlinkError::Answer {
                    what: what.to_owned(),
                    detail: format!("{} bytes are no message", rest.len()),
                })?;
                rest = after;
                if answer.sequence != self.sequence {
                    continue;
                }
                match answer.kind {
                    ERROR | DONE => return ended(what, answer.payload),
                    _ => each(answer.payload)?,
                }
            }
        }
    }
}

struct Answer<'a> {
    kind: u16,
    sequence: u32,
    payload: &'a [u8],
}

/// The first message in some bytes, and what follows.
fn split(bytes: &[u8]) -> Option<(Answer<'_>, &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let sequence = u32::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
    let payload = bytes.get(HEADER..length)?;
    let after = bytes.get(length.checked_next_multiple_of(4)?..);
    let answer = Answer {
        kind,
        sequence,
        payload,
    };
    Some((answer, after.unwrap_or_default()))
}

/// Both an acknowledgement and the end of a dump begin with an error number, zero for none.
fn ended(what: &str, payload: &[u8]) -> Result<(), NetlinkError> {
    let number = payload.first_chunk().map_or(0, |&n| i32::from_ne_bytes(n));
    if number == 0 {
        return Ok(());
    }
    Err(NetlinkError::Refused {
        what: what.to_owned(),
        source: io::Error::from_raw_os_error(number.saturating_neg()),
        kernel_says: extended_text(payload.get(4..).unwrap_or_default()),
    })
}

fn redirected(object: &Object) -> Result<(u32, Option<u32>), NetlinkError> {
    match object {
        Object::Redirect(redirect) => {
            let sink = redirect.sink.as_deref().map(device_index).transpose()?;
            Ok((device_index(&redirect.to)?, sink))
        }
        Object::Qdisc { .. } | Object::Class { .. } => Ok((0, None)),
    }
}

/// RTN_UNICAST, RTN_BLACKHOLE
const UNICAST: u8 = 1;
const BLACKHOLE: u8 = 6;
/// RT_SCOPE_UNIVERSE, RT_SCOPE_NOWHERE: of any scope, when deleting.
const UNIVERSE: u8 = 0;
const NOWHERE: u8 = 255;
/// RTNH_F_ONLINK: the gateway need not be in a network of the device's own.
const ONLINK: u32 = 4;
/// RTA_DST, RTA_OIF, RTA_GATEWAY
const TO: u16 = 1;
const DEVICE: u16 = 4;
const GATEWAY: u16 = 5;

fn route_message(route: &Route, device: u32) -> Vec<u8> {
    let kind = route.hop.as_ref().map_or(BLACKHOLE, |_| UNICAST);
    let mut message = destination(route.to, route.prefix_len, kind, UNIVERSE);
    if let Some(hop) = &route.hop {
        message.put_u32(DEVICE, device);
        message.put(GATEWAY, &hop.via.octets());
    }
    message.0
}

/// `struct rtmsg` and the destination.
fn destination(to: Ipv4Addr, prefix_len: u8, kind: u8, scope: u8) -> Attributes {
    /// AF_INET
    const IPV4: u8 = 2;
    /// RT_TABLE_MAIN
    const MAIN: u8 = 254;
    /// RTPROT_STATIC: an administrator's, as `ip route add` says with `proto static`.
    const STATIC: u8 = 4;
    let flags = if kind == UNICAST { ONLINK } else { 0 };
    // Protocol and type of 0 match any route when deleting.
    let protocol = if kind == 0 { 0 } else { STATIC };
    let mut message = Attributes(vec![IPV4, prefix_len, 0, 0, MAIN, protocol, scope, kind]);
    message.words(&[flags]);
    message.put(TO, &to.octets());
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::Hop;

    #[test]
    fn a_route_is_a_destination_a_device_and_a_gateway() {
        let route = Route {
            to: Ipv4Addr::new(10, 64, 0, 2),
            prefix_len: 31,
            hop: Some(Hop {
                device: "l1".to_owned(),
                via: Ipv4Addr::new(169, 254, 0, 1),
            }),
        };
        let mut expected = vec![2, 31, 0, 0, 254, 4, 0, 1];
        expected.extend(4_u32.to_ne_bytes());
        for (kind, value) in [
            (1_u16, [10, 64, 0, 2]),
            (4, 7_u32.to_ne_bytes()),
            (5, [169, 254, 0, 1]),
        ] {
            expected.extend(8_u16.to_ne_bytes());
            expected.extend(kind.to_ne_bytes());
            expected.extend(value);
        }
        assert_eq!(route_message(&route, 7), expected);
        let nowhere = Route { hop: None, ..route };
        let message = route_message(&nowhere, 0);
        assert_eq!((message[7], message.len()), (BLACKHOLE, 20));
    }

    proptest! {
        #[test]
        fn any_answer_is_split_without_a_panic(bytes: Vec<u8>) {
            let mut rest = bytes.as_slice();
            while let Some((_, after)) = split(rest) {
                prop_assert!(after.len() < rest.len());
                rest = after;
            }
        }
    }
}
