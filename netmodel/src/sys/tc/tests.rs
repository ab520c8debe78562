//! Golden bytes written out by hand from the kernel's headers, round trips, and arbitrary bytes.

use proptest::prelude::*;

use super::decode::wanted_redirect;
use super::*;
use crate::link::Distribution;
use crate::qdisc::Redirect;

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Header of an attribute: length and type.
fn attribute(length: u16, kind: u16) -> u32 {
    let mut both = [0; 4];
    both[..2].copy_from_slice(&length.to_ne_bytes());
    both[2..].copy_from_slice(&kind.to_ne_bytes());
    u32::from_ne_bytes(both)
}

fn ascii(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[test]
fn a_bfifo_is_40_bytes() {
    let object = Object::Qdisc {
        parent: Handle::new(2, 1),
        handle: Handle::new(3, 0),
        kind: Qdisc::Bfifo { limit: 500_000 },
    };
    let mut expected = bytes(&[0, 7, 0x3_0000, 0x2_0001, 0, attribute(10, 1)]);
    expected.extend(ascii("bfifo"));
    expected.extend(bytes(&[attribute(8, 2), 500_000]));
    assert_eq!(expected.len(), 40);
    assert_eq!(encode(7, &object), Some((36, expected)));
}

/// What `tc class add dev X parent 2: classid 2:1 htb rate 100mbit burst … quantum 60000` sends, without the table of
/// rates that kernels since 3.8 do not read.
#[test]
fn a_class_is_two_rates_two_buckets_and_a_quantum() {
    let class = HtbClass {
        rate_bytes: 12_500_000,
        burst_ticks: 31_250,
        quantum: 60_000,
        overhead: 24,
    };
    let object = Object::Class {
        parent: Handle::new(2, 0),
        handle: Handle::new(2, 1),
        class,
    };
    let mut expected = bytes(&[0, 7, 0x2_0001, 0x2_0000, 0, attribute(8, 1)]);
    expected.extend(ascii("htb"));
    expected.extend(bytes(&[attribute(52, 2), attribute(48, 1)]));
    let spec = [
        &[0, 1][..],
        &24_u16.to_ne_bytes(),
        &[0; 4],
        &12_500_000_u32.to_ne_bytes(),
    ];
    expected.extend(spec.concat());
    expected.extend(spec.concat());
    expected.extend(bytes(&[31_250, 31_250, 60_000, 0, 0]));
    assert_eq!(encode(7, &object), Some((40, expected)));
}

/// What `tc qdisc add dev X root handle 1: tbf rate 500mbit burst 125000 limit 3250000` sends, without the table of rates.
#[test]
fn a_tbf_is_two_rates_a_limit_and_two_buckets() {
    let tbf = |rate_bytes| Object::Qdisc {
        parent: Handle::ROOT,
        handle: Handle::new(1, 0),
        kind: Qdisc::Tbf(Tbf {
            rate_bytes,
            burst_ticks: 31_250,
            limit: 3_250_000,
        }),
    };
    let mut expected = bytes(&[0, 7, 0x1_0000, 0xFFFF_FFFF, 0, attribute(8, 1)]);
    expected.extend(ascii("tbf"));
    expected.extend(bytes(&[attribute(44, 2), attribute(40, 1)]));
    expected.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    expected.extend(bytes(&[62_500_000, 0, 0, 0, 3_250_000, 31_250, 0]));
    assert_eq!(encode(7, &tbf(62_500_000)), Some((36, expected)));
    for rate_bytes in [62_500_000, 1 << 35] {
        let (_, message) = encode(7, &tbf(rate_bytes)).unwrap();
        let entry = decode(&message).unwrap();
        assert_eq!(wanted(&tbf(rate_bytes), 0, None).differs(&entry), None);
        assert!(wanted(&tbf(1), 0, None).differs(&entry).is_some());
    }
}

#[test]
fn rates_beyond_32_bits_come_with_their_wide_attributes() {
    let object = Object::Class {
        parent: Handle::new(2, 0),
        handle: Handle::new(2, 1),
        class: HtbClass {
            rate_bytes: 1 << 35,
            burst_ticks: 1,
            quantum: 1,
            overhead: 0,
        },
    };
    let (_, message) = encode(1, &object).unwrap();
    let wide = [
        bytes(&[attribute(12, 6)]),
        (1_u64 << 35).to_ne_bytes().to_vec(),
    ]
    .concat();
    assert!(message.windows(wide.len()).any(|window| window == wide));
    assert_eq!(decode(&message).unwrap().facts["rate"], 1 << 35);
}

#[test]
fn a_redirection_is_a_filter_that_matches_everything() {
    let message = encode_redirect(7, Classifier::U32, 9, None);
    let mut expected = bytes(&[0, 7, 0, 0xFFFF_0000, 0x1_0000 | u32::from(3_u16.to_be())]);
    expected.extend(bytes(&[attribute(8, 1)]));
    expected.extend(ascii("u32"));
    // Selector 32 + 4; action list: 4 + one action (4 + kind 12 + options 4 + parms 4 + 28).
    expected.extend(bytes(&[attribute(96, 2), attribute(36, 5)]));
    expected.extend([1, 0, 1, 0]);
    expected.extend([0; 28]);
    expected.extend(bytes(&[
        attribute(56, 7),
        attribute(52, 1),
        attribute(11, 1),
    ]));
    expected.extend(ascii("mirred"));
    expected.extend(bytes(&[attribute(36, 2 | 0x8000), attribute(32, 2)]));
    expected.extend(bytes(&[0, 0, 4, 0, 0, 1, 9]));
    assert_eq!(message, expected);
}

fn netems() -> impl Strategy<Value = Netem> {
    let loss = prop_oneof![
        any::<u32>().prop_map(NetemLoss::Independent),
        any::<(u32, u32, u32, u32)>().prop_map(|(p, r, h, k1)| NetemLoss::GilbertElliott {
            p,
            r,
            h,
            k1
        }),
    ];
    let numbers = any::<(u64, u64, u32, Option<u64>, u64)>();
    (numbers, loss).prop_map(
        |((delay_ns, jitter_ns, limit, rate_bytes, seed), loss)| Netem {
            delay_ns,
            jitter_ns,
            distribution: Distribution::Normal,
            loss,
            limit,
            rate_bytes,
            seed,
        },
    )
}

fn objects() -> impl Strategy<Value = Object> {
    let handle = || any::<u32>().prop_map(Handle);
    let kinds = prop_oneof![
        Just(Qdisc::Ingress),
        any::<u32>().prop_map(|default| Qdisc::Htb { default }),
        any::<u32>().prop_map(|limit| Qdisc::Bfifo { limit }),
        netems().prop_map(Qdisc::Netem),
    ];
    let classes =
        any::<(u64, u32, u32, u16)>().prop_map(|(rate_bytes, burst_ticks, quantum, overhead)| {
            HtbClass {
                rate_bytes,
                burst_ticks,
                quantum,
                overhead,
            }
        });
    prop_oneof![
        (handle(), handle(), kinds).prop_map(|(parent, handle, kind)| Object::Qdisc {
            parent,
            handle,
            kind
        }),
        (handle(), handle(), classes).prop_map(|(parent, handle, class)| Object::Class {
            parent,
            handle,
            class
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_asked_reads_back_as_it_was_asked(object in objects(), device: u32) {
        let (_, message) = encode(device, &object).unwrap();
        let entry = decode(&message).unwrap();
        let wanted = wanted(&object, 0, None);
        prop_assert_eq!(wanted.differs(&entry), None);
        prop_assert_eq!(entry.kind, wanted.kind);
        prop_assert_eq!(entry.device, device);
        prop_assert_eq!(Some(Handle(entry.handle)), wanted.handle);
    }

    #[test]
    fn redirections_read_back_in_their_order(device: u32, to: u32, sink: Option<u32>, u32: bool) {
        let classifier = if u32 { Classifier::U32 } else { Classifier::Matchall };
        let entry = decode(&encode_redirect(device, classifier, to, sink)).unwrap();
        let object = Object::Redirect(Redirect { to: String::new(), sink: None });
        prop_assert_eq!(wanted(&object, to, sink).differs(&entry), None);
        prop_assert_eq!(entry.facts.len(), wanted_redirect(to, sink).len());
    }

    #[test]
    fn another_value_than_asked_is_found(object in objects(), n: prop::sample::Index, by in 1_u64..9) {
        let mut wanted = wanted(&object, 0, None);
        prop_assume!(!wanted.facts.is_empty());
        let (_, message) = encode(1, &object).unwrap();
        let n = n.index(wanted.facts.len());
        wanted.facts[n].1 = wanted.facts[n].1.wrapping_add(by);
        let (name, asked, _) = wanted.differs(&decode(&message).unwrap()).unwrap();
        prop_assert_eq!((name, asked), wanted.facts[n].clone());
    }

    #[test]
    fn any_bytes_decode_or_say_why_not(bytes: Vec<u8>) {
        let _ = decode(&bytes);
    }

    #[test]
    fn damaged_messages_decode_or_say_why_not(object in objects(), at: prop::sample::Index, to: u8) {
        let (_, mut message) = encode(1, &object).unwrap();
        let at = at.index(message.len());
        message[at] = to;
        let _ = decode(&message);
        message.truncate(at);
        let _ = decode(&message);
    }
}

#[test]
fn statistics_count_segments_sent_and_frames_dropped() {
    let mut message = bytes(&[0, 7, 0x1_0000, u32::MAX, 0]);
    // Basic: 8 bytes and 4; queue: qlen, backlog, drops, requeues, overlimits; 64 bits of packets.
    message.extend(bytes(&[attribute(56, 7), attribute(16, 1), 0, 0, 0]));
    let at = message.len() - 12;
    message[at..at + 8].copy_from_slice(&39_209_680_u64.to_ne_bytes());
    message.extend(bytes(&[attribute(24, 3), 2, 3000, 5, 0, 9]));
    message.extend(bytes(&[attribute(12, 8), 0, 0]));
    let at = message.len() - 8;
    message[at..].copy_from_slice(&5_000_000_000_u64.to_ne_bytes());
    let expected = Statistics {
        bytes: 39_209_680,
        segments: 5_000_000_000,
        dropped_frames: 5,
        held_frames: 2,
        held_bytes: 3000,
    };
    assert_eq!(decode(&message).unwrap().statistics, expected);
}
