//! Post-copy's commands and messages: sizes by hand, order, and totality.

use super::postcopy::*;
use super::*;
use proptest::prelude::*;
use replay::Bitmap;

const HEADER: Header = Header {
    migration: 7,
    vm_key: 42,
    memory_check: 0xABCD,
    ram_pages: 100,
    return_path: true,
    postcopy: true,
    format: Format::Qemu,
    streams: Streams {
        multifd: 0,
        compression: Compression::None,
        xbzrle: false,
        data: 0,
    },
};

fn put(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// A pre-copied slice, then the switch and two pulled pages.
fn stream() -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    encoder.setup(&HEADER, &mut out);
    encoder.section(false, &mut out);
    encoder.zero_page(3, &mut out);
    encoder.end_of_section(&mut out);
    discard(&[(3, 4), (90, 100)], &mut out);
    ping(2, &mut out);
    package(&mut encoder, b"position 17", 600, &mut out);
    ping(4, &mut out);
    encoder.section(false, &mut out);
    encoder.page_header(3, &mut out);
    out.extend_from_slice(&[7; PAGE_BYTES]);
    encoder.end_of_section(&mut out);
    encoder.section(true, &mut out);
    encoder.zero_page(95, &mut out);
    encoder.end_of_section(&mut out);
    encoder.end(&mut out);
    out
}

fn decode(bytes: &[u8], step: usize) -> Result<Vec<String>, WireError> {
    let (mut decoder, mut buffer, mut events) = (Decoder::default(), Vec::new(), Vec::new());
    for piece in bytes.chunks(step.max(1)) {
        buffer.extend_from_slice(piece);
        while let Some((taken, event)) = decoder.decode(&buffer)? {
            assert!(taken > 0 && taken <= buffer.len());
            match event {
                Event::Padding => {}
                Event::Postcopy(Command::Discard(gone)) => {
                    let ranges: Vec<_> = gone.ranges().collect();
                    events.push(format!("discard {ranges:?}"));
                }
                Event::Page { page, .. } => events.push(format!("page {page}")),
                event => events.push(format!("{event:?}")),
            }
            buffer.drain(..taken);
        }
        assert!(buffer.len() <= MAX_RECORD_BYTES);
    }
    Ok(events)
}

#[test]
fn sizes_are_those_of_qemu() {
    assert_eq!(put(advise).len(), 5 + 16);
    assert_eq!(put(|out| ping(1, out)).len(), 5 + 4);
    assert_eq!(put(|out| discard(&[(0, 1)], out)).len(), 5 + 9 + 16);
    let twelve: Vec<_> = (0..12).map(|page| (2 * page, 2 * page + 1)).collect();
    assert_eq!(put(|out| discard(&twelve, out)).len(), 5 + 9 + 12 * 16);
    let package = put(|out| package(&mut Encoder::default(), b"x", 600, out));
    assert_eq!(package.len(), 9 + 5 + 600 + 9 + 5);
    assert_eq!(package[..3], [8, 0, 8], "MIG_CMD_PACKAGED");
    assert_eq!(package[5..9], (5_u32 + 600 + 9 + 5).to_be_bytes());
    assert_eq!(
        package[package.len() - 5..],
        [8, 0, 5, 0, 0],
        "MIG_CMD_POSTCOPY_RUN"
    );
    assert_eq!(put(|out| request(5, false, out)).len(), 4 + 12 + 7);
    assert_eq!(put(|out| request(5, true, out)).len(), 4 + 12);
    assert_eq!(put(|out| pong(3, out)), [0, 2, 0, 4, 0, 0, 0, 3]);
    // 100 pages are two words of bits.
    let bitmap = put(|out| received(&Bitmap::full(100), out));
    assert_eq!(bitmap.len(), 4 + 7 + 8 + 16 + 8);
    assert!(bitmap.len() <= max_message_bytes(100));
    assert_eq!(put(ask_bitmap).len() + put(resume).len(), 12 + 5);
}

#[test]
fn a_switch_is_told_in_its_order() {
    let expected = [
        "OpenReturnPath",
        "Postcopy(Advise)",
        "RamList",
        "SectionBegin { last: false }",
        "ZeroPage { page: 3 }",
        "SectionEnd",
        "discard [3..4, 90..100]",
        "Postcopy(Ping(2))",
        "Postcopy(Packaged)",
        "Postcopy(Listen)",
        "StateEnd",
        "Postcopy(Ping(3))",
        "Postcopy(Run)",
        "Postcopy(Ping(4))",
        "SectionBegin { last: false }",
        "page 3",
        "SectionEnd",
        "SectionBegin { last: true }",
        "ZeroPage { page: 95 }",
        "SectionEnd",
        "End",
    ];
    for step in [1, 7, 4096, 1 << 20] {
        let told: Vec<_> = decode(&stream(), step).unwrap();
        let told: Vec<_> = told
            .iter()
            .filter(|event| !event.starts_with("Header") && !event.starts_with("State("))
            .collect();
        assert_eq!(told, expected, "in pieces of {step}");
    }
}

#[test]
fn a_recovery_begins_with_the_bitmap_and_goes_on_with_pages() {
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    encoder.recovery(&HEADER, &mut out);
    ask_bitmap(&mut out);
    resume(&mut out);
    encoder.section(true, &mut out);
    encoder.zero_page(1, &mut out);
    encoder.end_of_section(&mut out);
    encoder.end(&mut out);
    let told = decode(&out, 5).unwrap();
    assert_eq!(told[1..3], ["Postcopy(RecvBitmap)", "Postcopy(Resume)"]);
    assert_eq!(told.last().unwrap(), "End");
}

#[test]
fn commands_out_of_their_order_are_refused() {
    let setup = |header: &Header| put(|out| Encoder::default().setup(header, out));
    let pre_copy = Header {
        postcopy: false,
        ..HEADER
    };
    let whole = |tail: &[u8]| [setup(&HEADER), tail.to_vec()].concat();
    let run = [8, 0, 5, 0, 0];
    let cases = [
        // Not advised; RUN without a package; pages of a guest that has none there; LISTEN alone.
        [setup(&pre_copy), put(|out| ping(2, out))].concat(),
        whole(&run),
        whole(&put(|out| discard(&[(99, 101)], out))),
        whole(&[8, 0, 4, 0, 0]),
        // A package that is longer than it says; one after the other.
        {
            let mut long = whole(&put(|out| package(&mut Encoder::default(), b"x", 600, out)));
            let at = long.len() - (5 + 600 + 9 + 5) - 1;
            long[at] -= 1;
            long
        },
        [stream(), vec![0]].concat(),
    ];
    for (number, bytes) in cases.iter().enumerate() {
        assert!(decode(bytes, 64).is_err(), "case {number}");
    }
}

#[test]
fn messages_come_back_as_they_were_said() {
    let mut some = Bitmap::new(100);
    some.set(0);
    some.set(99);
    let all = [
        (put(|out| pong(3, out)), Return::Pong(3)),
        (
            put(|out| request(9, false, out)),
            Return::Request { page: 9, pages: 1 },
        ),
        (
            put(|out| request(99, true, out)),
            Return::Request { page: 99, pages: 1 },
        ),
        (
            put(|out| received(&some, out)),
            Return::Received(some.clone()),
        ),
        (put(resume_ack), Return::ResumeAck),
        (encode_shut(1).to_vec(), Return::Shut(1)),
    ];
    for (bytes, said) in all {
        for short in 0..bytes.len() {
            assert_eq!(decode_return(&bytes[..short], 100), Ok(None), "{said:?}");
        }
        assert_eq!(decode_return(&bytes, 100), Ok(Some((bytes.len(), said))));
    }
    assert!(decode_return(&put(|out| request(100, true, out)), 100).is_err());
    assert!(decode_return(&put(|out| received(&Bitmap::new(200), out)), 100).is_err());
}

proptest! {
    /// Any bytes give events, messages, a wish for more, or an error.
    #[test]
    fn every_stream_and_message_is_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        at in 0_usize..1000,
        damage in any::<u8>(),
        step in 1_usize..200,
    ) {
        let _ = decode_return(&bytes, 100);
        let mut damaged = stream();
        let at = at % damaged.len();
        damaged[at] ^= damage;
        let _ = decode(&damaged, step);
        let _ = decode(&[stream()[..at].to_vec(), bytes].concat(), step);
    }
}
