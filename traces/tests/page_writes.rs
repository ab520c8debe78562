//! The page-write file: round trips, damage, and the recordings.

use proptest::prelude::*;
use traces::dirty::{PageWriteTrace, Run, Tick};
use traces::store::page_write::{
    Origin, PageWriteError, Part, read_page_writes, read_page_writes_with_origin,
    write_page_writes, write_page_writes_with_origin,
};

/// A tick as its length, its CPU time and (gap, length) pairs.
type Parts = (u64, u64, Vec<(u32, u32)>);

/// A trace of such ticks; gaps of 1 or more keep runs from touching.
fn trace_of(ticks: Vec<Parts>) -> PageWriteTrace {
    let (mut t_ns, mut pages) = (0, 0);
    let ticks = ticks
        .into_iter()
        .map(|(dt, cpu_ns, runs)| {
            t_ns += dt;
            let mut end = 0;
            let runs = runs
                .into_iter()
                .map(|(gap, len)| {
                    let start = end + gap;
                    end = start + len;
                    Run { start, len }
                })
                .collect();
            pages = pages.max(end);
            Tick { t_ns, cpu_ns, runs }
        })
        .collect();
    PageWriteTrace {
        title: "any — trace".into(),
        pages,
        interval_ns: 100,
        ticks,
    }
}

fn any_trace() -> impl Strategy<Value = PageWriteTrace> {
    let run = (1..2000u32, 1..40u32);
    let dense = (1..3u32, 1..2u32);
    let runs = prop_oneof![
        proptest::collection::vec(run, 0..8),
        proptest::collection::vec(dense, 200..400),
    ];
    proptest::collection::vec((1..1u64 << 40, any::<u64>(), runs), 0..200).prop_map(trace_of)
}

fn encoded(trace: &PageWriteTrace) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_page_writes(trace, &mut bytes).expect("a valid trace into memory");
    bytes
}

/// Three blocks, runs and bitmaps.
fn sample() -> PageWriteTrace {
    let tick = |i: u64| {
        let runs = if i.is_multiple_of(2) {
            vec![(7, 3), (900, 40)]
        } else {
            vec![(1, 1); 500]
        };
        (100, i * 3, runs)
    };
    trace_of((0..150).map(tick).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_is_written_is_read(trace in any_trace()) {
        prop_assert_eq!(read_page_writes(encoded(&trace).as_slice()).unwrap(), trace);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_page_writes(bytes.as_slice());
        let mut with_magic = b"MBPW\x01\0\0\0\0\x10\0\0".to_vec();
        with_magic.extend(bytes);
        prop_assert!(read_page_writes(with_magic.as_slice()).is_err());
    }

    #[test]
    fn any_flipped_bit_is_found(at in 0..10_000usize, bit in 0..8u32) {
        let mut bytes = encoded(&sample());
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(read_page_writes(bytes.as_slice()).is_err());
    }
}

#[test]
fn a_file_cut_anywhere_says_where() {
    let bytes = encoded(&sample());
    for end in 4..bytes.len() {
        match read_page_writes(&bytes[..end]) {
            Err(PageWriteError::Cut { offset, .. }) => assert_eq!(offset, end as u64),
            other => panic!("cut at {end}: {other:?}"),
        }
    }
    let error = read_page_writes(&bytes[..200]).unwrap_err().to_string();
    assert!(error.contains("block 0"), "{error}");
}

#[test]
fn a_wrong_block_checksum_is_named() {
    let bytes = encoded(&sample());
    let second = (1..bytes.len() - 4)
        .filter(|&at| &bytes[at..at + 4] == b"BLCK")
        .nth(1)
        .unwrap();
    let mut damaged = bytes.clone();
    damaged[second + 25] ^= 1;
    match read_page_writes(damaged.as_slice()) {
        Err(PageWriteError::Checksum {
            part: Part::Block(1),
            offset,
            ..
        }) => {
            assert_eq!(offset, second as u64);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn bytes_after_the_trailer_are_refused() {
    let mut bytes = encoded(&sample());
    bytes.push(0);
    assert!(matches!(
        read_page_writes(bytes.as_slice()),
        Err(PageWriteError::Field {
            part: Part::Trailer,
            ..
        })
    ));
}

#[test]
fn a_huge_promised_length_allocates_nothing() {
    // A block that claims 90 MiB and holds none: the error comes from the end of the input.
    let mut bytes = encoded(&trace_of(vec![]));
    let index = (0..bytes.len() - 4)
        .find(|&at| &bytes[at..at + 4] == b"INDX")
        .unwrap();
    bytes.truncate(index);
    bytes.extend(b"BLCK");
    for field in [1u32, 90 << 20, 90 << 20, 0] {
        bytes.extend(field.to_le_bytes());
    }
    assert!(matches!(
        read_page_writes(bytes.as_slice()),
        Err(PageWriteError::Cut {
            part: Part::Block(0),
            ..
        })
    ));
}

#[test]
fn invalid_traces_are_not_written() {
    let mut trace = sample();
    trace.pages = 10;
    let mut bytes = Vec::new();
    assert!(matches!(
        write_page_writes(&trace, &mut bytes),
        Err(PageWriteError::Trace(_))
    ));
    assert!(bytes.is_empty());
}

#[test]
fn origin_is_kept() {
    let origin: Origin = [("licence".to_string(), "CC0".to_string())].into();
    let mut bytes = Vec::new();
    write_page_writes_with_origin(&sample(), &origin, &mut bytes).unwrap();
    assert_eq!(
        read_page_writes_with_origin(bytes.as_slice()).unwrap(),
        (sample(), origin)
    );
}

#[test]
fn an_empty_trace_round_trips() {
    let empty = trace_of(vec![]);
    assert_eq!(read_page_writes(encoded(&empty).as_slice()).unwrap(), empty);
}
