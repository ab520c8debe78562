//! Reading what the relay must know of a frame: where it goes, what it weighs, and where its headers end.
//!
//! A frame is the virtio-net header, the Ethernet header on ports that have one, and the IP packet. Decoding is total: any
//! bytes give a value or an error, and every length is checked before use. Nothing is verified; splitting is `split`'s.

use std::net::Ipv4Addr;

use crate::link::PacketSize;

/// Length of `struct virtio_net_hdr`.
pub(super) const VNET_BYTES: usize = 10;
pub(super) const ETHERNET_BYTES: usize = 14;
/// Room a frame can need: headers and the largest IPv4 packet.
pub(super) const FRAME_MAX: usize = VNET_BYTES + ETHERNET_BYTES + 65_535;

const ETHERTYPE_IPV4: u16 = 0x0800;
pub(super) const TCP: u8 = 6;
const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
/// VIRTIO_NET_HDR_GSO_TCPV4 and _UDP_L4; the highest bit of the type says that the first segment carries CWR.
const GSO_TCP: u8 = 1;
const GSO_UDP: u8 = 5;
pub(super) const GSO_ECN: u8 = 0x80;
/// As many losses of one frame are remembered; UDP_MAX_SEGMENTS is the same, TCP has more only with tiny segments.
pub(super) const SEGMENTS_DIVISIBLE: u32 = u128::BITS;

/// What lies between the virtio-net header and the IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    /// An Ethernet header: AF_PACKET.
    Ethernet,
    /// Nothing: TUN.
    Ip,
}

impl Layer {
    /// Where the IP packet begins.
    pub(super) fn ip_at(self) -> usize {
        match self {
            Self::Ethernet => VNET_BYTES + ETHERNET_BYTES,
            Self::Ip => VNET_BYTES,
        }
    }
}

/// What the relay knows of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) size: PacketSize,
    /// Payload of each segment but the last; 0 for a frame that cannot be divided.
    pub(super) segment_payload: u32,
    /// Its sender can be told of congestion, and has not been yet (ECT in RFC 3168).
    pub(super) ecn_capable: bool,
    /// Length of the IP header.
    pub(super) ip_header: usize,
    pub(super) protocol: u8,
}

/// Why a frame is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameError {
    NotIpv4,
    Malformed,
}

/// Reads a frame that starts with its virtio-net header.
pub(super) fn parse(frame: &[u8], layer: Layer) -> Result<Frame, FrameError> {
    let (vnet, rest) = frame
        .split_at_checked(VNET_BYTES)
        .ok_or(FrameError::Malformed)?;
    let ip = match layer {
        Layer::Ip => rest,
        Layer::Ethernet => {
            let (header, ip) = rest
                .split_at_checked(ETHERNET_BYTES)
                .ok_or(FrameError::Malformed)?;
            if u16::from_be_bytes([header[12], header[13]]) != ETHERTYPE_IPV4 {
                return Err(FrameError::NotIpv4);
            }
            ip
        }
    };
    let first = *ip.first().ok_or(FrameError::Malformed)?;
    if first >> 4 != 4 {
        return Err(FrameError::NotIpv4);
    }
    let ip_header = usize::from(first & 0x0f) * 4;
    let total = u16::from_be_bytes(fixed(ip, 2).ok_or(FrameError::Malformed)?);
    let total_bytes = usize::from(total);
    if ip_header < 20 || total_bytes < ip_header || total_bytes > ip.len() {
        return Err(FrameError::Malformed);
    }
    let packet = &ip[..total_bytes];
    let sizes = sizes(vnet, packet, ip_header).ok_or(FrameError::Malformed)?;
    let (size, segment_payload) = sizes;
    Ok(Frame {
        source: Ipv4Addr::from(fixed::<4>(ip, 12).ok_or(FrameError::Malformed)?),
        destination: Ipv4Addr::from(fixed::<4>(ip, 16).ok_or(FrameError::Malformed)?),
        size,
        segment_payload,
        ecn_capable: matches!(ip[1] & 3, 1 | 2),
        ip_header,
        protocol: ip[9],
    })
}

/// What a packet weighs, and the payload of a segment if it can be divided.
fn sizes(vnet: &[u8], ip: &[u8], ip_header: usize) -> Option<(PacketSize, u32)> {
    let ip_bytes = u32::try_from(ip.len()).ok()?;
    // The kernel writes the header in host byte order, which is little-endian wherever this runs unless it is not.
    let gso_payload = u16::from_ne_bytes(fixed(vnet, 4)?);
    if vnet[1] == 0 || gso_payload == 0 {
        return Some((PacketSize::plain(ip_bytes), 0));
    }
    let transport = match ip[9] {
        TCP => usize::from(ip.get(ip_header + 12)? >> 4) * 4,
        UDP => UDP_HEADER,
        _ => 0,
    };
    let headers = ip_header + transport;
    let payload = ip.len().checked_sub(headers)?;
    let segments = payload.div_ceil(usize::from(gso_payload)).max(1);
    let size = PacketSize {
        ip_bytes,
        segments: u32::try_from(segments).ok()?,
        header_bytes: u32::try_from(headers).ok()?,
    };
    let whole = match (vnet[1] & !GSO_ECN, ip[9]) {
        (GSO_TCP, TCP) => transport >= 20,
        (GSO_UDP, UDP) => true,
        _ => false,
    };
    // A fragment's offset and "more fragments": nothing that segmentation makes.
    let fragment = u16::from_be_bytes(fixed(ip, 6)?) & 0x3fff != 0;
    let divisible = whole && !fragment && size.segments <= SEGMENTS_DIVISIBLE;
    Some((size, if divisible { u32::from(gso_payload) } else { 0 }))
}

pub(super) fn fixed<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Puts Ethernet addresses in place; the frame must have been parsed.
pub(super) fn readdress(frame: &mut [u8], to: [u8; 6], from: [u8; 6]) {
    if let Some(addresses) = frame.get_mut(VNET_BYTES..VNET_BYTES + 12) {
        addresses[..6].copy_from_slice(&to);
        addresses[6..].copy_from_slice(&from);
    }
}

/// Says "congestion experienced" in the IP header; the frame must have been parsed.
pub(super) fn mark(frame: &mut [u8], layer: Layer) {
    if let Some(ip) = frame.get_mut(layer.ip_at()..).filter(|ip| ip.len() >= 20) {
        replace_word(ip, 0, u16::from_be_bytes([ip[0], ip[1] | 3]));
    }
}

/// Checksum of the IP header.
const IP_CHECKSUM: usize = 10;

/// Replaces a word of an IP header and corrects its checksum by the difference (RFC 1624), so that a wrong one stays wrong.
pub(super) fn replace_word(ip: &mut [u8], at: usize, new: u16) {
    let word = |ip: &[u8], at: usize| u16::from_be_bytes([ip[at], ip[at + 1]]);
    let (old, sum) = (word(ip, at), word(ip, IP_CHECKSUM));
    let sum = !fold(u32::from(!sum) + u32::from(!old) + u32::from(new));
    ip[at..at + 2].copy_from_slice(&new.to_be_bytes());
    ip[IP_CHECKSUM..IP_CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
}

/// A one's-complement sum in 16 bits.
pub(super) fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    u16::try_from(twice).expect("two folds of 32 bits leave 16")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A TCP frame with 32 bytes of TCP header, a correct IP checksum and the bytes 0, 1, 2, … as payload.
    pub(in super::super) fn tcp(layer: Layer, payload: u16, gso: u16) -> Vec<u8> {
        let mut frame = vec![0; layer.ip_at()];
        frame[1] = u8::from(gso > 0);
        frame[4..6].copy_from_slice(&gso.to_ne_bytes());
        if layer == Layer::Ethernet {
            frame[VNET_BYTES + 12] = 8;
        }
        let mut packet = vec![0; 52];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(52 + payload).to_be_bytes());
        packet[4..6].copy_from_slice(&0xfffe_u16.to_be_bytes());
        packet[6] = 0x40; // do not fragment
        packet[8] = 64;
        packet[9] = TCP;
        packet[12..20].copy_from_slice(&[10, 64, 0, 1, 10, 64, 0, 2]);
        packet[32] = 8 << 4;
        let sum = !ip_sum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend((0..payload).map(|n| n.to_be_bytes()[1]));
        frame.extend(packet);
        frame
    }

    /// Of a header with its checksum in place it is all ones.
    pub(in super::super) fn ip_sum(header: &[u8]) -> u16 {
        let words = header
            .chunks(2)
            .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
        fold(words.sum())
    }

    #[test]
    fn a_super_frame_is_weighed_by_its_segments() {
        for layer in [Layer::Ethernet, Layer::Ip] {
            let frame = parse(&tcp(layer, 14_480 + 1, 1448), layer).unwrap();
            assert_eq!(frame.destination, Ipv4Addr::new(10, 64, 0, 2));
            let size = PacketSize {
                ip_bytes: 14_533,
                segments: 11,
                header_bytes: 52,
            };
            assert_eq!((frame.size, frame.segment_payload), (size, 1448));
            let plain = parse(&tcp(layer, 1448, 0), layer).unwrap();
            assert_eq!(plain.size, PacketSize::plain(1500));
        }
    }

    #[test]
    fn frames_of_too_many_segments_or_fragments_are_not_divided() {
        let segments = |n: u16| parse(&tcp(Layer::Ip, n * 100, 100), Layer::Ip).unwrap();
        assert_eq!(segments(128).segment_payload, 100);
        assert_eq!(segments(129).segment_payload, 0);
        let mut fragment = tcp(Layer::Ip, 300, 100);
        fragment[VNET_BYTES + 6] |= 0x20;
        assert_eq!(parse(&fragment, Layer::Ip).unwrap().segment_payload, 0);
    }

    #[test]
    fn padding_of_short_frames_weighs_nothing() {
        let mut frame = tcp(Layer::Ethernet, 0, 0);
        frame.extend([0; 8]);
        assert_eq!(parse(&frame, Layer::Ethernet).unwrap().size.ip_bytes, 52);
    }

    #[test]
    fn cut_frames_and_other_protocols_are_told_apart() {
        for layer in [Layer::Ethernet, Layer::Ip] {
            let frame = tcp(layer, 100, 0);
            for end in 0..frame.len() {
                let cut = parse(&frame[..end], layer);
                assert_eq!(cut, Err(FrameError::Malformed), "{end}");
            }
            let mut six = frame;
            six[layer.ip_at()] = 0x60;
            assert_eq!(parse(&six, layer), Err(FrameError::NotIpv4));
        }
        let mut six = tcp(Layer::Ethernet, 100, 0);
        six[VNET_BYTES + 12..VNET_BYTES + 14].copy_from_slice(&[0x86, 0xdd]);
        assert_eq!(parse(&six, Layer::Ethernet), Err(FrameError::NotIpv4));
    }

    #[test]
    fn a_mark_says_congestion_and_keeps_the_checksum() {
        for (ecn, capable) in [(0, false), (1, true), (2, true), (3, false)] {
            let mut frame = tcp(Layer::Ip, 10, 0);
            replace_word(&mut frame[VNET_BYTES..], 0, 0x4500 | ecn);
            assert_eq!(parse(&frame, Layer::Ip).unwrap().ecn_capable, capable);
            mark(&mut frame, Layer::Ip);
            assert_eq!(frame[VNET_BYTES + 1], 3);
            assert_eq!(ip_sum(&frame[VNET_BYTES..VNET_BYTES + 20]), 0xffff);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_value_or_an_error(mut bytes: Vec<u8>, ipv4: bool, l3: bool) {
            let layer = if l3 { Layer::Ip } else { Layer::Ethernet };
            if let Some(head) = bytes.get_mut(22..25).filter(|_| ipv4) {
                head.copy_from_slice(&[8, 0, 0x45]);
            }
            let _ = parse(&bytes, layer);
            mark(&mut bytes, layer);
            readdress(&mut bytes, [0; 6], [0; 6]);
        }
    }
}
