use super::*;
use crate::migration::params::Compression;
use proptest::prelude::*;

const HEADER: Header = Header {
    migration: 7,
    vm_key: 42,
    memory_check: 0xABCD,
    ram_pages: 64,
    return_path: true,
    postcopy: false,
    format: Format::Qemu,
    streams: Streams {
        multifd: 0,
        compression: Compression::None,
        xbzrle: true,
        data: 0,
    },
};

/// A small stream: two slices, pages and zero pages, a padded state.
fn stream() -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    encoder.setup(&HEADER, &mut out);
    encoder.section(false, &mut out);
    for page in 0..3_u8 {
        encoder.page_header(u32::from(page), &mut out);
        out.extend_from_slice(&[page; PAGE_BYTES]);
    }
    encoder.zero_page(63, &mut out);
    encoder.end_of_section(&mut out);
    encoder.section(true, &mut out);
    encoder.zero_page(1, &mut out);
    encoder.delta(2, &[4, 1, 9], &mut out);
    encoder.end_of_section(&mut out);
    encoder.device_state(b"position 17", 600, &mut out);
    encoder.end(&mut out);
    out
}

/// Feeds `bytes` in pieces of `step`; the events as text, or the error.
fn decode(bytes: &[u8], step: usize) -> Result<Vec<String>, WireError> {
    let (mut decoder, mut buffer, mut events) = (Decoder::default(), Vec::new(), Vec::new());
    for piece in bytes.chunks(step.max(1)) {
        buffer.extend_from_slice(piece);
        while let Some((taken, event)) = decoder.decode(&buffer)? {
            assert!(
                taken > 0 && taken <= buffer.len(),
                "progress and no overrun"
            );
            if event != Event::Padding {
                events.push(format!("{event:?}"));
            }
            buffer.drain(..taken);
        }
        assert!(
            buffer.len() <= MAX_RECORD_BYTES,
            "what is waited for is bounded"
        );
    }
    Ok(events)
}

#[test]
fn sizes_are_those_of_qemu() {
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    let mut grown = |encode: &mut dyn FnMut(&mut Encoder, &mut Vec<u8>)| {
        let before = out.len();
        encode(&mut encoder, &mut out);
        out.len() - before
    };
    assert_eq!(
        grown(&mut |e, o| e.page_header(5, o)),
        8 + 7,
        "the first page names its block"
    );
    assert_eq!(grown(&mut |e, o| e.page_header(6, o)), 8);
    assert_eq!(grown(&mut |e, o| e.zero_page(7, o)), 9);
    assert_eq!(grown(&mut |e, o| e.section(false, o)), 5);
    assert_eq!(grown(&mut |e, o| e.end_of_section(o)), 13);
    assert_eq!(grown(&mut |e, o| e.device_state(b"abc", 65_536, o)), 65_536);
    assert_eq!(grown(&mut |e, o| e.end(o)), 1);
    let mut word = Vec::new();
    encoder.page_header(2, &mut word);
    assert_eq!(
        word,
        0x2028_u64.to_be_bytes(),
        "offset 0x2000, PAGE and CONTINUE"
    );
}

#[test]
fn whatever_the_pieces_the_events_are_the_same() {
    let whole = decode(&stream(), usize::MAX).unwrap();
    assert_eq!(
        whole.first().unwrap(),
        &format!("{:?}", Event::Header(HEADER))
    );
    assert_eq!(whole.last().unwrap(), "End");
    assert_eq!(
        whole
            .iter()
            .filter(|event| event.starts_with("Page"))
            .count(),
        3
    );
    for step in [1, 2, 7, 4095, 4104] {
        assert_eq!(decode(&stream(), step).unwrap(), whole, "pieces of {step}");
    }
}

#[test]
fn a_cut_stream_never_ends() {
    let bytes = stream();
    for length in 0..bytes.len() {
        let events = decode(&bytes[..length], 4096).unwrap();
        assert_ne!(
            events.last().map(String::as_str),
            Some("End"),
            "cut at {length}"
        );
    }
}

#[test]
fn wrong_order_and_wrong_pages_are_named() {
    let mut bytes = stream();
    bytes[0] = b'X';
    assert!(matches!(decode(&bytes, 9999), Err(WireError::Magic { .. })));
    let mut bytes = stream();
    bytes[20] ^= 1;
    assert_eq!(decode(&bytes, 9999), Err(WireError::HeaderChecksum));
    let mut bytes = stream();
    bytes.push(0);
    assert_eq!(
        decode(&bytes, 99_999),
        Err(WireError::AfterEnd { bytes: 1 })
    );
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    encoder.setup(&HEADER, &mut out);
    let mut beyond = out.clone();
    encoder.section(false, &mut beyond);
    encoder.zero_page(64, &mut beyond);
    assert!(matches!(
        decode(&beyond, 9999),
        Err(WireError::PageBeyondRam {
            page: 64,
            ram_pages: 64,
            ..
        })
    ));
    encoder.end(&mut out);
    assert!(
        matches!(decode(&out, 9999), Err(WireError::Unexpected { .. })),
        "no end before state"
    );
}

#[test]
fn shut_is_eight_bytes() {
    assert_eq!(encode_shut(0), [0, 1, 0, 4, 0, 0, 0, 0]);
    assert_eq!(decode_shut(&encode_shut(9)), Ok(9));
    assert!(decode_shut(&[0; 8]).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..9000), step in 1_usize..5000) {
        let _ = decode(&bytes, step);
    }

    /// Behind a valid setup, so that the deeper places are reached.
    #[test]
    fn arbitrary_sections_never_panic(kind in 0_u8..9, bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        let (mut encoder, mut out) = (Encoder::default(), Vec::new());
        encoder.setup(&HEADER, &mut out);
        out.push(kind);
        out.extend_from_slice(&RAM_SECTION.to_be_bytes());
        out.extend_from_slice(&bytes);
        let events = decode(&out, 4096);
        prop_assert!(events.is_err() || events.unwrap().last().map(String::as_str) != Some("End"));
    }

    /// A flip is an error, or shows in the events; outside the bodies of pages (which their stamps
    /// and checksums guard) and the numbers of zero pages (which verification guards) nothing
    /// passes unseen.
    #[test]
    fn a_flip_never_passes_as_the_same_stream(at in 0_usize..20_000, bit in 0_u8..8) {
        let good = stream();
        let mut bad = good.clone();
        let at = at % bad.len();
        bad[at] ^= 1 << bit;
        match decode(&bad, 4096) {
            Err(_) => {}
            Ok(events) => prop_assert_ne!(events, decode(&good, 4096).unwrap()),
        }
    }
}
