//! Reading what the relay must know of a frame: where it goes and what it weighs.
//!
//! A frame is the virtio-net header, the Ethernet header and the IP packet. Decoding is total: any bytes give a value or an
//! error, and every length is checked before use. Nothing is verified or rewritten but the Ethernet addresses.

use std::net::Ipv4Addr;

use crate::link::PacketSize;

/// Length of `struct virtio_net_hdr`.
pub(super) const VNET_BYTES: usize = 10;
const ETHERNET_BYTES: usize = 14;
/// Room a frame can need: headers and the largest IPv4 packet.
pub(super) const FRAME_MAX: usize = VNET_BYTES + ETHERNET_BYTES + 65_535;

const ETHERTYPE_IPV4: u16 = 0x0800;
const TCP: u8 = 6;
const UDP: u8 = 17;
const UDP_HEADER: usize = 8;

/// What the relay knows of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) destination: Ipv4Addr,
    pub(super) size: PacketSize,
}

/// Why a frame is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameError {
    NotIpv4,
    Malformed,
}

/// Reads a frame that starts with its virtio-net header.
pub(super) fn parse(frame: &[u8]) -> Result<Frame, FrameError> {
    let (vnet, ethernet) = frame
        .split_at_checked(VNET_BYTES)
        .ok_or(FrameError::Malformed)?;
    let (header, ip) = ethernet
        .split_at_checked(ETHERNET_BYTES)
        .ok_or(FrameError::Malformed)?;
    if u16::from_be_bytes([header[12], header[13]]) != ETHERTYPE_IPV4 {
        return Err(FrameError::NotIpv4);
    }
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
    let destination = fixed::<4>(ip, 16).ok_or(FrameError::Malformed)?;
    let ip_packet = &ip[..total_bytes];
    let size = size(vnet, ip_packet, ip_header, u32::from(total)).ok_or(FrameError::Malformed)?;
    Ok(Frame {
        destination: Ipv4Addr::from(destination),
        size,
    })
}

fn size(vnet: &[u8], ip: &[u8], ip_header: usize, ip_bytes: u32) -> Option<PacketSize> {
    // The kernel writes the header in host byte order, which is little-endian wherever this runs unless it is not.
    let gso_payload = usize::from(u16::from_ne_bytes(fixed(vnet, 4)?));
    if vnet[1] == 0 || gso_payload == 0 {
        return Some(PacketSize::plain(ip_bytes));
    }
    let transport = match ip[9] {
        TCP => usize::from(ip.get(ip_header + 12)? >> 4) * 4,
        UDP => UDP_HEADER,
        _ => 0,
    };
    let headers = ip_header + transport;
    let payload = ip.len().checked_sub(headers)?;
    Some(PacketSize {
        ip_bytes,
        segments: u32::try_from(payload.div_ceil(gso_payload).max(1)).ok()?,
        header_bytes: u32::try_from(headers).ok()?,
    })
}

fn fixed<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Puts Ethernet addresses in place; the frame must have been parsed.
pub(super) fn readdress(frame: &mut [u8], to: [u8; 6], from: [u8; 6]) {
    if let Some(addresses) = frame.get_mut(VNET_BYTES..VNET_BYTES + 12) {
        addresses[..6].copy_from_slice(&to);
        addresses[6..].copy_from_slice(&from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tcp(payload: u16, gso: u16) -> Vec<u8> {
        let mut frame = vec![0; VNET_BYTES + ETHERNET_BYTES];
        frame[1] = u8::from(gso > 0); // VIRTIO_NET_HDR_GSO_TCPV4
        frame[4..6].copy_from_slice(&gso.to_ne_bytes());
        frame[VNET_BYTES + 12] = 8;
        let mut packet = vec![0; 52 + usize::from(payload)];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(52 + payload).to_be_bytes());
        packet[9] = TCP;
        packet[16..20].copy_from_slice(&[10, 64, 0, 2]);
        packet[32] = 8 << 4; // 32 bytes of TCP header: timestamps
        frame.extend(packet);
        frame
    }

    #[test]
    fn a_super_frame_is_weighed_by_its_segments() {
        let frame = parse(&tcp(14_480 + 1, 1448)).unwrap();
        assert_eq!(frame.destination, Ipv4Addr::new(10, 64, 0, 2));
        let size = PacketSize {
            ip_bytes: 14_533,
            segments: 11,
            header_bytes: 52,
        };
        assert_eq!(frame.size, size);
        assert_eq!(parse(&tcp(1448, 0)).unwrap().size, PacketSize::plain(1500));
    }

    #[test]
    fn padding_of_short_frames_weighs_nothing() {
        let mut frame = tcp(0, 0);
        frame.extend([0; 8]);
        assert_eq!(parse(&frame).unwrap().size.ip_bytes, 52);
    }

    #[test]
    fn cut_frames_and_other_protocols_are_told_apart() {
        let frame = tcp(100, 0);
        for end in 0..frame.len() {
            assert_eq!(parse(&frame[..end]), Err(FrameError::Malformed), "{end}");
        }
        let mut six = frame;
        six[VNET_BYTES + 12..VNET_BYTES + 14].copy_from_slice(&[0x86, 0xdd]);
        assert_eq!(parse(&six), Err(FrameError::NotIpv4));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_value_or_an_error(mut bytes: Vec<u8>, ipv4: bool) {
            if let Some(head) = bytes.get_mut(22..25).filter(|_| ipv4) {
                head.copy_from_slice(&[8, 0, 0x45]);
            }
            let _ = parse(&bytes);
            readdress(&mut bytes, [0; 6], [0; 6]);
        }
    }
}
