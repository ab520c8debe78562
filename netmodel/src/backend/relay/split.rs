//! Taking lost segments out of a super-frame: what is left becomes smaller frames, each as the kernel would have made it.
//!
//! A piece is a run of segments that survived. Its headers are the frame's with what segmentation changes put right; its
//! payload stays where it is. Any bytes give pieces or an error.

use super::frame::{
    ETHERNET_BYTES, FrameError, GSO_ECN, Layer, TCP, VNET_BYTES, fixed, fold, parse, replace_word,
};

/// virtio-net, Ethernet, the longest IPv4 and TCP headers.
const HEADERS_MAX: usize = VNET_BYTES + ETHERNET_BYTES + 60 + 60;

/// A super-frame that can be divided.
struct Divisible<'f> {
    layer: Layer,
    headers: &'f [u8],
    payload: &'f [u8],
    segment_payload: usize,
    segments: u32,
    ip_header: usize,
    protocol: u8,
}

/// Hands `emit` headers and payload of each run of segments that is not lost, in order.
///
/// # Errors
/// [`FrameError`] for what is no super-frame that can be divided; nothing was emitted then.
pub(super) fn split(
    frame: &[u8],
    layer: Layer,
    lost: u128,
    mut emit: impl FnMut(&[u8], &[u8]),
) -> Result<(), FrameError> {
    let frame = Divisible::of(frame, layer)?;
    let is_lost = |segment: u32| lost >> segment & 1 == 1;
    let mut from = 0;
    while from < frame.segments {
        if is_lost(from) {
            from += 1;
            continue;
        }
        let to = (from..frame.segments).find(|&segment| is_lost(segment));
        let to = to.unwrap_or(frame.segments);
        frame.piece(from, to, &mut emit);
        from = to;
    }
    Ok(())
}

impl<'f> Divisible<'f> {
    fn of(bytes: &'f [u8], layer: Layer) -> Result<Self, FrameError> {
        let frame = parse(bytes, layer)?;
        if frame.segment_payload == 0 {
            return Err(FrameError::Malformed);
        }
        let at = |ip_bytes: u32| layer.ip_at() + ip_bytes as usize;
        let (headers, rest) = bytes.split_at(at(frame.size.header_bytes));
        let payload = &rest[..at(frame.size.ip_bytes) - headers.len()];
        Ok(Self {
            layer,
            headers,
            payload,
            segment_payload: frame.segment_payload as usize,
            segments: frame.size.segments,
            ip_header: frame.ip_header,
            protocol: frame.protocol,
        })
    }

    /// Segments `from` to before `to`.
    fn piece(&self, from: u32, to: u32, emit: &mut impl FnMut(&[u8], &[u8])) {
        let begin = from as usize * self.segment_payload;
        let end = (to as usize * self.segment_payload).min(self.payload.len());
        let payload = &self.payload[begin..end];
        let mut room = [0; HEADERS_MAX];
        let headers = &mut room[..self.headers.len()];
        headers.copy_from_slice(self.headers);
        self.correct_vnet(headers, from, to);
        let ip = &mut headers[self.layer.ip_at()..];
        let total = u16::try_from(ip.len() + payload.len());
        replace_word(
            ip,
            2,
            total.expect("a part of a packet that had 16 bits of length"),
        );
        let id = u16::from_be_bytes([ip[4], ip[5]]);
        let nth = u16::try_from(from).expect("at most 128 segments");
        // As inet_gso_segment counts.
        replace_word(ip, 4, id.wrapping_add(nth));
        let (ip, transport) = ip.split_at_mut(self.ip_header);
        let length = transport.len() + payload.len();
        let length = u16::try_from(length).expect("less than the packet's");
        let sum = pseudo_header_sum(ip, self.protocol, length).to_be_bytes();
        if self.protocol == TCP {
            self.correct_tcp(transport, begin, (from, to));
            transport[16..18].copy_from_slice(&sum);
        } else {
            transport[4..6].copy_from_slice(&length.to_be_bytes());
            transport[6..8].copy_from_slice(&sum);
        }
        emit(headers, payload);
    }

    /// One segment is no super-frame any more. The checksum stays partial, as any super-frame's is.
    fn correct_vnet(&self, headers: &mut [u8], from: u32, to: u32) {
        const NEEDS_CSUM: u8 = 1;
        headers[0] |= NEEDS_CSUM;
        if to - from == 1 {
            headers[1] = 0;
            headers[4..6].fill(0);
        } else if from > 0 {
            headers[1] &= !GSO_ECN;
        }
        let start = self.layer.ip_at() - VNET_BYTES + self.ip_header;
        let start = u16::try_from(start).expect("at most 74");
        let offset: u16 = if self.protocol == TCP { 16 } else { 6 };
        headers[6..8].copy_from_slice(&start.to_ne_bytes());
        headers[8..10].copy_from_slice(&offset.to_ne_bytes());
    }

    /// As tcp_gso_segment does: FIN and PSH on the last segment, CWR on the first.
    fn correct_tcp(&self, tcp: &mut [u8], begin: usize, (from, to): (u32, u32)) {
        const FIN: u8 = 0x01;
        const PSH: u8 = 0x08;
        const CWR: u8 = 0x80;
        let sequence = u32::from_be_bytes(fixed(tcp, 4).expect("at least 20 bytes of TCP header"));
        let begin = u32::try_from(begin).expect("within a packet");
        tcp[4..8].copy_from_slice(&sequence.wrapping_add(begin).to_be_bytes());
        if to < self.segments {
            tcp[13] &= !(FIN | PSH);
        }
        if from > 0 {
            tcp[13] &= !CWR;
        }
    }
}

/// What the checksum field of a packet holds whose checksum is left to the device: addresses, protocol and length, not
/// complemented.
fn pseudo_header_sum(ip: &[u8], protocol: u8, length: u16) -> u16 {
    let addresses = ip[12..20].chunks(2);
    let words = addresses.map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    fold(words.sum::<u32>() + u32::from(protocol) + u32::from(length))
}

#[cfg(test)]
mod tests {
    use super::super::frame::tests::{ip_sum, tcp};
    use super::*;
    use proptest::prelude::*;

    /// Each piece as one frame.
    fn pieces(frame: &[u8], layer: Layer, lost: u128) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        let take = |headers: &[u8], payload: &[u8]| pieces.push([headers, payload].concat());
        split(frame, layer, lost, take).unwrap();
        pieces
    }

    fn word(bytes: &[u8], at: usize) -> u16 {
        u16::from_be_bytes([bytes[at], bytes[at + 1]])
    }

    #[test]
    fn what_segmentation_changes_is_put_right() {
        // Five segments, the last of 10 bytes; the second is lost. FIN, PSH, ACK, CWR; sequence near its end.
        let layer = Layer::Ip;
        let mut frame = tcp(layer, 410, 100);
        frame[1] |= GSO_ECN;
        frame[VNET_BYTES + 20 + 13] = 0x99;
        frame[VNET_BYTES + 24..VNET_BYTES + 28].copy_from_slice(&0xffff_ff9c_u32.to_be_bytes());
        let pieces = pieces(&frame, layer, 0b10);
        assert_eq!(pieces.len(), 2);
        let (first, rest) = (&pieces[0], &pieces[1]);
        // The first stands alone: no super-frame, CWR stays, FIN and PSH go.
        assert_eq!((first[1], word(first, 4)), (0, 0));
        assert_eq!(first[VNET_BYTES + 33], 0x90);
        assert_eq!(word(first, VNET_BYTES + 2), 152);
        assert_eq!(word(first, VNET_BYTES + 4), 0xfffe);
        // The rest is one of three segments: id and sequence go on (both wrap), CWR goes.
        assert_eq!(rest[1], 1);
        assert_eq!(u16::from_ne_bytes([rest[4], rest[5]]), 100);
        assert_eq!(rest[VNET_BYTES + 33], 0x19);
        assert_eq!(word(rest, VNET_BYTES + 2), 52 + 210);
        assert_eq!(word(rest, VNET_BYTES + 4), 0);
        assert_eq!(rest[VNET_BYTES + 24..VNET_BYTES + 28], [0, 0, 0, 100]);
        // 10.64.0.1, 10.64.0.2, TCP, 242 bytes: 0a40 + 0001 + 0a40 + 0002 + 0006 + 00f2.
        assert_eq!(
            word(rest, VNET_BYTES + 36),
            0x0a40 + 1 + 0x0a40 + 2 + 6 + 242
        );
        assert_eq!(u16::from_ne_bytes([rest[6], rest[7]]), 20);
        assert_eq!(u16::from_ne_bytes([rest[8], rest[9]]), 16);
        for piece in [first, rest] {
            assert_eq!(ip_sum(&piece[VNET_BYTES..VNET_BYTES + 20]), 0xffff);
        }
    }

    #[test]
    fn datagrams_in_one_frame_get_lengths_of_their_own() {
        let layer = Layer::Ethernet;
        let mut frame = tcp(layer, 0, 100);
        (frame[1], frame[layer.ip_at() + 9]) = (5, 17);
        frame.truncate(layer.ip_at() + 20);
        frame.extend([0, 1, 0, 2, 1, 4, 0, 0]);
        frame.extend((0..252).map(|n: u8| n));
        replace_word(&mut frame[layer.ip_at()..], 2, 280);
        let pieces = pieces(&frame, layer, 0b001);
        assert_eq!(pieces.len(), 1);
        let udp = &pieces[0][layer.ip_at() + 20..];
        assert_eq!((word(udp, 4), udp.len()), (8 + 152, 8 + 152));
        assert_eq!(udp[8], 100);
        assert_eq!(u16::from_ne_bytes([pieces[0][6], pieces[0][7]]), 34);
    }

    proptest! {
        #[test]
        fn rejoined_pieces_give_what_was_not_lost(
            payload in 1_u16..12_000, gso in 100_u16..1500, lost: u128, l3: bool,
        ) {
            let layer = if l3 { Layer::Ip } else { Layer::Ethernet };
            let frame = tcp(layer, payload, gso);
            let whole = parse(&frame, layer).unwrap();
            let mut expected = Vec::new();
            let data = &frame[layer.ip_at() + 52..];
            for (n, segment) in data.chunks(usize::from(gso)).enumerate() {
                if lost >> n & 1 == 0 {
                    expected.extend_from_slice(segment);
                }
            }
            let (mut got, mut segments) = (Vec::new(), 0);
            for piece in pieces(&frame, layer, lost) {
                let parsed = parse(&piece, layer).unwrap();
                prop_assert_eq!(layer.ip_at() + parsed.size.ip_bytes as usize, piece.len());
                let ip = &piece[layer.ip_at()..];
                prop_assert_eq!(ip_sum(&ip[..20]), 0xffff);
                // The sequence says where in the stream the payload belongs.
                let sequence = u32::from_be_bytes(fixed(ip, 24).unwrap()) as usize;
                prop_assert_eq!(&ip[52..], &data[sequence..sequence + ip.len() - 52]);
                got.extend_from_slice(&ip[52..]);
                segments += parsed.size.segments;
            }
            prop_assert_eq!(got, expected);
            let mask = if whole.size.segments == 128 { u128::MAX } else { (1 << whole.size.segments) - 1 };
            prop_assert_eq!(segments, whole.size.segments - (lost & mask).count_ones());
        }

        #[test]
        fn any_bytes_give_pieces_or_an_error(
            mut bytes: Vec<u8>, lost: u128, l3: bool, kind in 0..8_u8,
        ) {
            let layer = if l3 { Layer::Ip } else { Layer::Ethernet };
            // Likely enough a super-frame to get past the first checks.
            if bytes.len() >= layer.ip_at() + 20 {
                if !l3 {
                    bytes[VNET_BYTES + 12..VNET_BYTES + 14].copy_from_slice(&[8, 0]);
                }
                bytes[1] = kind;
                bytes[4..6].copy_from_slice(&3_u16.to_ne_bytes());
                let length = u16::try_from(bytes.len() - layer.ip_at()).unwrap();
                let ip = &mut bytes[layer.ip_at()..];
                (ip[0], ip[9]) = (0x45, if kind == 5 { 17 } else { TCP });
                ip[2..4].copy_from_slice(&length.to_be_bytes());
                ip[6..8].fill(0);
            }
            let mut total = 0;
            let _ = split(&bytes, layer, lost, |_, payload| total += payload.len());
            prop_assert!(total <= bytes.len());
        }
    }
}
