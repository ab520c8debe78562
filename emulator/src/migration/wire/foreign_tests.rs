//! Xen's and Cloud Hypervisor's records: sizes, order, damage.

use super::cloud_hypervisor::{self as cloud, Request};
use super::*;
use proptest::prelude::*;

fn header(format: Format) -> Header {
    Header {
        migration: 7,
        vm_key: 42,
        memory_check: 0xABCD,
        ram_pages: 64,
        return_path: true,
        postcopy: false,
        format,
        streams: Streams::default(),
    }
}

fn pages(numbers: &[u8], out: &mut Vec<u8>) {
    for &number in numbers {
        out.extend_from_slice(&[number; PAGE_BYTES]);
    }
}

/// Two batches, a state, the end.
fn xen_stream() -> Vec<u8> {
    let mut out = Vec::new();
    Encoder::default().setup(&header(Format::Xen), &mut out);
    xen::opening(&mut out);
    xen::page_data(&[0, 3, 63], &mut out);
    pages(&[0, 3, 63], &mut out);
    xen::page_data(&[3], &mut out);
    pages(&[4], &mut out);
    xen::context(b"position 17", 601, &mut out);
    xen::end(&mut out);
    out
}

/// A full and an empty table, a state, the end.
fn cloud_stream() -> Vec<u8> {
    let mut out = Vec::new();
    Encoder::default().setup(&header(Format::CloudHypervisor), &mut out);
    cloud::request(Request::Start, &mut out);
    cloud::request(Request::Config, &mut out);
    cloud::request(Request::Memory { ranges: 2 }, &mut out);
    cloud::range(0, 2, &mut out);
    cloud::range(63, 1, &mut out);
    pages(&[0, 1, 63], &mut out);
    cloud::request(Request::Memory { ranges: 0 }, &mut out);
    cloud::state(b"position 17", 600, &mut out);
    cloud::request(Request::Complete, &mut out);
    out
}

/// Feeds `bytes` in pieces of `step`; the events that carry something, as text.
fn decode(bytes: &[u8], step: usize) -> Result<Vec<String>, WireError> {
    let (mut decoder, mut buffer, mut events) = (Decoder::default(), Vec::new(), Vec::new());
    for piece in bytes.chunks(step.max(1)) {
        buffer.extend_from_slice(piece);
        let mut idle = 0;
        while let Some((taken, event)) = decoder.decode(&buffer)? {
            idle = if taken == 0 { idle + 1 } else { 0 };
            assert!(idle < 3 && taken <= buffer.len(), "progress and no overrun");
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

fn count(events: &[String], start: &str) -> usize {
    events
        .iter()
        .filter(|event| event.starts_with(start))
        .count()
}

#[test]
fn xens_records_have_libxcs_sizes() {
    let size = |put: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        put(&mut out);
        out.len()
    };
    assert_eq!(size(&xen::opening), 24 + 16);
    assert_eq!(size(&|out| xen::page_data(&[5], out)), 8 + 8 + 8);
    let batch: Vec<u32> = (0..1024).collect();
    assert_eq!(size(&|out| xen::page_data(&batch, out)), 16 + 8 * 1024);
    // Bodies are padded to 8 bytes; the length says the body without its padding.
    assert_eq!(size(&|out| xen::context(b"abc", 601, out)), 608);
    assert_eq!(size(&xen::end), 8);
    let mut out = Vec::new();
    xen::page_data(&[0x0102], &mut out);
    let body = 8 + 8 + 4096_u32;
    assert_eq!(out[..4], 1_u32.to_le_bytes());
    assert_eq!(out[4..8], body.to_le_bytes());
    assert_eq!(out[16..24], [2, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn cloud_hypervisors_requests_have_its_sizes() {
    let mut out = Vec::new();
    cloud::request(Request::Memory { ranges: 3 }, &mut out);
    let mut expected = vec![4, 0, 0, 0, 0, 0, 0, 0];
    expected.extend_from_slice(&48_u64.to_le_bytes());
    assert_eq!(out, expected);
    out.clear();
    cloud::range(2, 3, &mut out);
    let numbers: Vec<u8> = [8192_u64, 12_288]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect();
    assert_eq!(out, numbers);
    out.clear();
    cloud::state(b"abc", 600, &mut out);
    assert_eq!(out.len(), 600);
    assert_eq!(cloud::encode_answer(true)[..2], [1, 0]);
    assert_eq!(
        cloud::decode_answer(&cloud::encode_answer(false)),
        Ok(false)
    );
    assert!(cloud::decode_answer(&[7; 16]).is_err());
}

#[test]
fn whatever_the_pieces_the_events_are_the_same() {
    for (stream, answers) in [(xen_stream(), 0), (cloud_stream(), 5)] {
        let whole = decode(&stream, usize::MAX).unwrap();
        assert_eq!(whole.last().unwrap(), "End");
        assert_eq!(count(&whole, "State("), 1);
        assert_eq!(count(&whole, "AnswerWanted"), answers);
        for step in [1, 2, 7, 4095, 4104] {
            assert_eq!(decode(&stream, step).unwrap(), whole, "pieces of {step}");
        }
    }
    assert_eq!(count(&decode(&xen_stream(), 9999).unwrap(), "Page {"), 4);
    assert_eq!(count(&decode(&cloud_stream(), 9999).unwrap(), "Page {"), 3);
}

#[test]
fn cut_streams_never_end_and_longer_ones_are_refused() {
    for stream in [xen_stream(), cloud_stream()] {
        for length in (0..stream.len()).step_by(7) {
            let events = decode(&stream[..length], 4096).unwrap();
            assert_ne!(events.last().map(String::as_str), Some("End"), "{length}");
        }
        let mut longer = stream.clone();
        longer.push(0);
        assert_eq!(
            decode(&longer, usize::MAX),
            Err(WireError::AfterEnd { bytes: 1 })
        );
    }
}

/// In its post-copy State comes first, and memory never; nobody else's header says that it is one.
#[test]
fn a_post_copy_of_cloud_hypervisors_brings_no_memory() {
    let postcopy = |format, return_path| Header {
        postcopy: true,
        return_path,
        ..header(format)
    };
    let begun = |header: &Header| {
        let mut out = Vec::new();
        Encoder::default().setup(header, &mut out);
        out
    };
    let mut out = begun(&postcopy(Format::CloudHypervisor, true));
    cloud::request(Request::Start, &mut out);
    cloud::request(Request::Config, &mut out);
    let mut with_memory = out.clone();
    cloud::state(b"state", 200, &mut out);
    cloud::request(Request::Complete, &mut out);
    assert_eq!(out.len(), 48 + 16 + 16 + 200 + 16);
    let events = decode(&out, 7).unwrap();
    assert_eq!(
        (count(&events, "AnswerWanted"), count(&events, "State(")),
        (3, 1)
    );
    assert_eq!(events.last().unwrap(), "End");
    cloud::request(Request::Memory { ranges: 1 }, &mut with_memory);
    assert!(decode(&with_memory, 9999).is_err());
    assert!(decode(&begun(&postcopy(Format::CloudHypervisor, false)), 9999).is_err());
    assert!(decode(&begun(&postcopy(Format::Xen, true)), 9999).is_err());
}

#[test]
fn what_cannot_be_is_named() {
    let mut out = Vec::new();
    Encoder::default().setup(&header(Format::Xen), &mut out);
    xen::opening(&mut out);
    let mut beyond = out.clone();
    xen::page_data(&[64], &mut beyond);
    assert!(matches!(
        decode(&beyond, 9999),
        Err(WireError::PageBeyondRam { page: 64, .. })
    ));
    xen::end(&mut out);
    assert!(decode(&out, 9999).is_err(), "no end before the state");

    let mut out = Vec::new();
    Encoder::default().setup(&header(Format::CloudHypervisor), &mut out);
    cloud::request(Request::Start, &mut out);
    cloud::request(Request::Config, &mut out);
    cloud::request(Request::Memory { ranges: 2 }, &mut out);
    cloud::range(5, 2, &mut out);
    let mut back = out.clone();
    cloud::range(6, 1, &mut back);
    assert!(decode(&back, 9999).is_err(), "ranges overlap");
    let mut beyond = out;
    cloud::range(60, 5, &mut beyond);
    assert!(matches!(
        decode(&beyond, 9999),
        Err(WireError::PageBeyondRam { page: 64, .. })
    ));
}

proptest! {
    /// Behind a valid beginning, so that the deeper places are reached.
    #[test]
    fn arbitrary_records_never_panic_or_end(
        is_xen: bool,
        kind in 0_u32..10,
        length in 0_u64..9000,
        bytes in prop::collection::vec(any::<u8>(), 0..9000),
        step in 1_usize..5000,
    ) {
        let mut out = Vec::new();
        if is_xen {
            Encoder::default().setup(&header(Format::Xen), &mut out);
            xen::opening(&mut out);
            out.extend_from_slice(&kind.to_le_bytes());
            out.extend_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        } else {
            Encoder::default().setup(&header(Format::CloudHypervisor), &mut out);
            cloud::request(Request::Start, &mut out);
            cloud::request(Request::Config, &mut out);
            out.extend_from_slice(&u64::from(kind).to_le_bytes());
            out.extend_from_slice(&length.to_le_bytes());
        }
        out.extend_from_slice(&bytes);
        let events = decode(&out, step);
        prop_assert!(events.is_err() || events.unwrap().last().map(String::as_str) != Some("End"));
    }

    /// A flip is an error or shows in the events.
    #[test]
    fn a_flip_never_passes_as_the_same_stream(is_xen: bool, at in 0_usize..40_000, bit in 0_u8..8) {
        let good = if is_xen { xen_stream() } else { cloud_stream() };
        let mut bad = good.clone();
        let at = at % bad.len();
        bad[at] ^= 1 << bit;
        match decode(&bad, 4096) {
            Err(_) => {}
            Ok(events) => prop_assert_ne!(events, decode(&good, 4096).unwrap()),
        }
    }
}
