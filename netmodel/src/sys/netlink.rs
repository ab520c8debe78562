//! Devices and addresses over netlink, synchronously, with the kernel's own words in every error.

mod policy;
mod switching;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

pub(crate) use self::policy::{PortRoute, Table};
pub(crate) use self::switching::DeviceCounts;
use crate::plan::{HOST_DEVICE, VethPair};

/// Why a request over netlink failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// The socket itself failed.
    #[error("netlink socket: {source}")]
    Socket {
        /// The kernel's answer.
        #[from]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("{what}: {source}{}", explain(.kernel_says))]
    Refused {
        /// What was asked.
        what: String,
        /// The error number.
        source: io::Error,
        /// The extended acknowledgement, if it sent one.
        kernel_says: Option<String>,
    },
    /// An answer that does not decode.
    #[error("{what}: the kernel's answer does not decode: {detail}")]
    Answer {
        /// What was asked.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A TUN device cannot be made.
    #[error("cannot make the TUN device `{name}`: {source}; `ports = packet` needs none")]
    Tun {
        /// The name.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There is no device of this name here.
    #[error("no device `{name}` in this namespace: {source}")]
    NoDevice {
        /// The name.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn explain(kernel_says: &Option<String>) -> String {
    kernel_says
        .as_ref()
        .map_or(String::new(), |text| format!(" (kernel: {text})"))
}

/// A netlink socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket here.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        // Errors then carry the header of the request only, and the text right behind it.
        socket.set_cap_ack(true)?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Creates a veth pair: one end here, the other straight in `peer_netns` as [`HOST_DEVICE`]. Neither does ARP.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`].
    pub fn create_veth(
        &mut self,
        pair: &VethPair,
        peer_netns: BorrowedFd<'_>,
    ) -> Result<(), NetlinkError> {
        let size = (pair.mtu, pair.txqueuelen);
        let mut peer = end(HOST_DEVICE, pair.host_mac, size);
        peer.attributes
            .push(LinkAttribute::NetNsFd(peer_netns.as_raw_fd()));
        let mut link = end(&pair.port, pair.port_mac, size);
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let what = format!("create veth pair {} for {}", pair.port, pair.host);
        self.acknowledged(
            &what,
            RouteNetlinkMessage::NewLink(link),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Brings a device up.
    ///
    /// # Errors
    /// [`NetlinkError::NoDevice`] or [`NetlinkError::Refused`].
    pub fn set_up(&mut self, device: &str) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.index = device_index(device)?;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        let what = format!("bring {device} up");
        self.acknowledged(&what, RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Sets MTU and transmit queue length of a device.
    ///
    /// # Errors
    /// [`NetlinkError::NoDevice`] or [`NetlinkError::Refused`].
    pub fn set_sizes(
        &mut self,
        device: &str,
        mtu: u32,
        txqueuelen: u32,
    ) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.index = device_index(device)?;
        link.attributes = vec![
            LinkAttribute::Mtu(mtu),
            LinkAttribute::TxQueueLen(txqueuelen),
        ];
        let what = format!("give {device} an MTU of {mtu} and a queue of {txqueuelen}");
        self.acknowledged(&what, RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Limits the super-frames a device may be given.
    ///
    /// # Errors
    /// [`NetlinkError::NoDevice`] or [`NetlinkError::Refused`].
    pub fn set_gso_max_size(&mut self, device: &str, bytes: u32) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.index = device_index(device)?;
        link.attributes.push(LinkAttribute::GsoMaxSize(bytes));
        let what = format!("limit super-frames of {device} to {bytes} bytes");
        self.acknowledged(&what, RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Gives a device an address; the kernel adds the route to its prefix. A VM's own address goes in as a /32.
    ///
    /// # Errors
    /// [`NetlinkError::NoDevice`] or [`NetlinkError::Refused`].
    pub fn add_address(
        &mut self,
        device: &str,
        address: Ipv4Addr,
        prefix_len: u8,
    ) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewAddress(ipv4(device, address, prefix_len)?);
        let what = format!("add address {address}/{prefix_len} to {device}");
        self.acknowledged(&what, message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Takes an address away from a device.
    ///
    /// # Errors
    /// [`NetlinkError::NoDevice`] or [`NetlinkError::Refused`].
    pub fn delete_address(
        &mut self,
        device: &str,
        address: Ipv4Addr,
        prefix_len: u8,
    ) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelAddress(ipv4(device, address, prefix_len)?);
        let what = format!("delete address {address}/{prefix_len} of {device}");
        self.acknowledged(&what, message, 0)
    }

    /// Packets each device of this namespace has dropped, either way.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn device_drops(&mut self) -> Result<BTreeMap<String, u64>, NetlinkError> {
        let mut drops = BTreeMap::new();
        let dump = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.exchange("read device counters", dump, NLM_F_DUMP, |answer| {
            let RouteNetlinkMessage::NewLink(link) = answer else {
                return;
            };
            let (mut name, mut dropped) = (None, 0);
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(text) => name = Some(text),
                    LinkAttribute::Stats64(s) => dropped = s.rx_dropped + s.tx_dropped,
                    _ => {}
                }
            }
            drops.extend(name.map(|name| (name, dropped)));
        })?;
        Ok(drops)
    }

    /// Devices of this namespace that are up and have a carrier, as the kernel has noticed.
    ///
    /// A worker of the kernel notices, and now and then takes more than 5 s to on a busy computer when both ends of a pair
    /// have the same number (which hides from the kernel that they are two). Who asks for one device, and not for all, has
    /// it looked at at once, from Linux 6.8 on; before that it only waits.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn usable_devices(&mut self) -> Result<BTreeSet<String>, NetlinkError> {
        let (mut usable, mut unnoticed) = (BTreeSet::new(), Vec::new());
        let all = LinkMessage::default();
        self.device_states(all, NLM_F_DUMP, |link, name| {
            if is_usable(&link) {
                usable.extend(name);
            } else if link.header.flags.contains(LinkFlags::LowerUp) {
                unnoticed.push(link.header.index);
            }
        })?;
        for index in unnoticed {
            let mut one = LinkMessage::default();
            one.header.index = index;
            let asked = self.device_states(one, NLM_F_ACK, |link, name| {
                usable.extend(name.filter(|_| is_usable(&link)));
            });
            match asked {
                // It went meanwhile, with the namespace of its other end.
                Ok(()) | Err(NetlinkError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(usable)
    }

    /// Hands each device asked for to `each`, with its name.
    fn device_states(
        &mut self,
        asked: LinkMessage,
        flags: u16,
        mut each: impl FnMut(LinkMessage, Option<String>),
    ) -> Result<(), NetlinkError> {
        let ask = RouteNetlinkMessage::GetLink(asked);
        self.exchange("read device states", ask, flags, |answer| {
            let RouteNetlinkMessage::NewLink(link) = answer else {
                return;
            };
            let name = link
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(name.clone()),
                    _ => None,
                });
            each(link, name);
        })
    }

    fn acknowledged(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.exchange(what, message, NLM_F_ACK | flags, |_| {})
    }

    /// Sends a request and hands every answer to `each` until the acknowledgement or the end of a dump.
    pub(crate) fn exchange(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            if self.read(what, &datagram, &mut each)? {
                return Ok(());
            }
        }
    }

    /// Reads one datagram; true when it ends the exchange.
    fn read(
        &self,
        what: &str,
        mut rest: &[u8],
        each: &mut impl FnMut(RouteNetlinkMessage),
    ) -> Result<bool, NetlinkError> {
        let bad = |detail: String| NetlinkError::Answer {
            what: what.to_owned(),
            detail,
        };
        while !rest.is_empty() {
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|e| bad(e.to_string()))?;
            let length = answer.header.length as usize;
            // Messages are padded to four bytes; a length of zero would never end.
            let next = length.next_multiple_of(4).min(rest.len());
            if length == 0 {
                return Err(bad("a message of length zero".to_owned()));
            }
            rest = &rest[next..];
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::InnerMessage(message) => each(message),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
                NetlinkPayload::Error(error) => {
                    return Err(NetlinkError::Refused {
                        what: what.to_owned(),
                        source: error.to_io(),
                        kernel_says: extended_text(&error.header),
                    });
                }
                _ => {}
            }
        }
        Ok(false)
    }
}

/// Up, with a carrier, and the kernel knows.
fn is_usable(link: &LinkMessage) -> bool {
    let state = LinkAttribute::OperState(State::Up);
    link.attributes.contains(&state)
}

/// One end of a pair, as both need it.
fn end(name: &str, mac: [u8; 6], (mtu, txqueuelen): (u32, u32)) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.flags = LinkFlags::Noarp;
    link.header.change_mask = LinkFlags::Noarp;
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::TxQueueLen(txqueuelen),
        LinkAttribute::Address(mac.to_vec()),
    ];
    link
}

fn ipv4(device: &str, address: Ipv4Addr, prefix_len: u8) -> Result<AddressMessage, NetlinkError> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix_len;
    message.header.index = device_index(device)?;
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V4(address)),
        AddressAttribute::Address(IpAddr::V4(address)),
    ];
    Ok(message)
}

/// The kernel's number of a device in the calling thread's namespace.
pub(crate) fn device_index(device: &str) -> Result<u32, NetlinkError> {
    nix::net::if_::if_nametoindex(device).map_err(|e| NetlinkError::NoDevice {
        name: device.to_owned(),
        source: e.into(),
    })
}

/// Header of the refused request, behind which the attributes of the acknowledgement follow.
const REQUEST_HEADER: usize = 16;
/// NLMSGERR_ATTR_MSG.
const ATTRIBUTE_TEXT: u16 = 1;

/// The text among the attributes of an extended acknowledgement.
fn extended_text(bytes: &[u8]) -> Option<String> {
    let mut rest = bytes.get(REQUEST_HEADER..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(4..length)?;
        if kind == ATTRIBUTE_TEXT {
            let text = String::from_utf8_lossy(value);
            return Some(text.trim_end_matches('\0').to_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_kernels_words_are_found_behind_other_attributes() {
        let mut bytes = vec![0; REQUEST_HEADER];
        bytes.extend([8, 0, 2, 0, 1, 2, 3, 4]);
        bytes.extend([9, 0, 1, 0]);
        bytes.extend(b"no  \0\0\0\0");
        assert_eq!(extended_text(&bytes).as_deref(), Some("no  "));
        assert_eq!(extended_text(&bytes[..20]), None);
    }

    proptest! {
        #[test]
        fn any_acknowledgement_is_read_without_a_panic(bytes: Vec<u8>) {
            let _ = extended_text(&bytes);
        }
    }
}
