//! QEMU's XBZRLE: a page as what differs from the page before (migration/xbzrle.c).
//!
//! Runs in turn: how many bytes are equal, how many differ (both ULEB128 of at most two bytes), those
//! bytes. What is equal at the end is not said; equal pages encode to nothing. Never inside: a cache,
//! what is sent.

use super::PAGE_BYTES;

/// The stream does not describe a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XbzrleError {
    /// It ends within a run or a number.
    #[error("the encoding ends within a run, at byte {at}")]
    Cut {
        /// Where.
        at: usize,
    },
    /// A run of no bytes, or a number of more than two bytes.
    #[error("no length of a run at byte {at}")]
    Length {
        /// Where.
        at: usize,
    },
    /// Runs go beyond the page.
    #[error("a run reaches beyond the page, at byte {at}")]
    Beyond {
        /// Where.
        at: usize,
    },
}

/// Encodes `now` against `before`, both of at most 4096 bytes and of one length, into `out`, which is
/// cleared; how many bytes, or `None` if that takes more room than the page (QEMU's overflow: the page
/// is then sent as it is).
///
/// # Panics
/// If the pages are of different lengths or longer than a page.
pub fn encode(before: &[u8], now: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    assert_eq!(before.len(), now.len(), "two versions of one page");
    assert!(now.len() <= PAGE_BYTES, "a page at most");
    out.clear();
    let mut at = 0;
    while at < now.len() {
        let differs = now.len().min(at + equal(&before[at..], &now[at..]));
        if differs == now.len() {
            break;
        }
        let end = differs + different(&before[differs..], &now[differs..]);
        // As in QEMU: room for two more bytes is asked for before a run, for its bytes within it.
        if out.len() + 2 > now.len() {
            return None;
        }
        put(differs - at, out);
        put(end - differs, out);
        if out.len() + (end - differs) > now.len() {
            return None;
        }
        out.extend_from_slice(&now[differs..end]);
        at = end;
    }
    Some(out.len())
}

/// Applies an encoding to the page it was made against.
///
/// # Errors
/// When it is none; the page may then be half changed.
pub fn decode(encoding: &[u8], page: &mut [u8]) -> Result<(), XbzrleError> {
    let (mut from, mut at) = (0, 0);
    while from < encoding.len() {
        let equal = take(encoding, &mut from)?;
        let run_at = from;
        let differ = take(encoding, &mut from)?;
        // Only the first run may begin at once; none is empty.
        if differ == 0 || (equal == 0 && at > 0) {
            return Err(XbzrleError::Length { at: run_at });
        }
        let bytes = encoding
            .get(from..from + differ)
            .ok_or(XbzrleError::Cut { at: from })?;
        let to = page
            .get_mut(at + equal..)
            .and_then(|rest| rest.get_mut(..differ))
            .ok_or(XbzrleError::Beyond { at: run_at })?;
        to.copy_from_slice(bytes);
        from += differ;
        at += equal + differ;
    }
    Ok(())
}

/// Bytes that are the same at the beginning of both: by blocks that a vector holds, words, bytes.
fn equal(before: &[u8], now: &[u8]) -> usize {
    let mut at = equal_chunks::<64>(before, now);
    at += equal_chunks::<8>(&before[at..], &now[at..]);
    at + equal_chunks::<1>(&before[at..], &now[at..])
}

fn equal_chunks<const BYTES: usize>(before: &[u8], now: &[u8]) -> usize {
    let (before, now) = (before.as_chunks::<BYTES>().0, now.as_chunks::<BYTES>().0);
    let pairs = before.iter().zip(now);
    BYTES * pairs.take_while(|(before, now)| before == now).count()
}

/// Bytes at the beginning of which each differs from the other's, by words.
fn different(before: &[u8], now: &[u8]) -> usize {
    let (words, rest) = before.as_chunks::<8>();
    let (others, other_rest) = now.as_chunks::<8>();
    for (at, (word, other)) in words.iter().zip(others).enumerate() {
        let same = zero_bytes(u64::from_le_bytes(*word) ^ u64::from_le_bytes(*other));
        if same != 0 {
            return at * 8 + same.trailing_zeros() as usize / 8;
        }
    }
    let pairs = rest.iter().zip(other_rest);
    words.len() * 8 + pairs.take_while(|(before, now)| before != now).count()
}

/// Not 0 if a byte of the word is; its lowest bit is in the lowest of them (the classic of C's `strlen`).
fn zero_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    word.wrapping_sub(ONES) & !word & (ONES << 7)
}

/// Lengths are at most 4096: two bytes of seven bits.
fn put(length: usize, out: &mut Vec<u8>) {
    let [low, high] = u16::try_from(length)
        .map(|length| [length & 0x7f, length >> 7])
        .expect("a run is within a page");
    let byte = |bits: u16| u8::try_from(bits).expect("seven bits, of a length up to 4096");
    if high == 0 {
        out.push(byte(low));
    } else {
        out.extend([byte(low) | 0x80, byte(high)]);
    }
}

fn take(encoding: &[u8], from: &mut usize) -> Result<usize, XbzrleError> {
    let at = *from;
    let byte = |at: usize| encoding.get(at).copied().ok_or(XbzrleError::Cut { at });
    let low = byte(at)?;
    *from += 1;
    if low < 0x80 {
        return Ok(usize::from(low));
    }
    let high = byte(at + 1)?;
    *from += 1;
    if high >= 0x80 || high == 0 {
        return Err(XbzrleError::Length { at });
    }
    Ok(usize::from(low & 0x7f) | usize::from(high) << 7)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn encodings_by_hand() {
        let before = vec![0u8; PAGE_BYTES];
        let mut now = before.clone();
        let mut out = Vec::new();
        assert_eq!(encode(&before, &now, &mut out), Some(0), "an equal page");
        (now[0], now[200], now[201]) = (7, 8, 9);
        assert_eq!(encode(&before, &now, &mut out), Some(8));
        // 199 equal bytes: 0xc7 0x01.
        assert_eq!(out, [0, 1, 7, 0xc7, 1, 2, 8, 9]);
        // Every byte differs: 3 bytes of lengths and 4096 do not fit.
        assert_eq!(encode(&before, &[1; PAGE_BYTES], &mut out), None);
    }

    #[test]
    fn what_describes_no_page_is_refused() {
        let mut page = [0; 8];
        assert_eq!(decode(&[0], &mut page), Err(XbzrleError::Cut { at: 1 }));
        assert_eq!(
            decode(&[0, 2, 1], &mut page),
            Err(XbzrleError::Cut { at: 2 })
        );
        assert_eq!(
            decode(&[3, 0], &mut page),
            Err(XbzrleError::Length { at: 1 })
        );
        assert_eq!(
            decode(&[8, 1, 1], &mut page),
            Err(XbzrleError::Beyond { at: 1 })
        );
        assert_eq!(
            decode(&[0x80, 0x80, 1, 1], &mut page),
            Err(XbzrleError::Length { at: 0 })
        );
    }

    proptest! {
        #[test]
        fn a_page_comes_back(
            seed in prop::collection::vec(any::<u8>(), 64),
            changes in prop::collection::btree_map(0usize..PAGE_BYTES, any::<u8>(), 0..300),
            runs in prop::collection::vec((0usize..PAGE_BYTES, 1usize..300), 0..8),
        ) {
            let before: Vec<u8> = seed.iter().copied().cycle().take(PAGE_BYTES).collect();
            let mut now = before.clone();
            for (&at, &byte) in &changes {
                now[at] = byte;
            }
            for (at, bytes) in runs {
                now[at..].iter_mut().take(bytes).for_each(|byte| *byte = !*byte);
            }
            let mut out = Vec::new();
            let len = encode(&before, &now, &mut out);
            prop_assert_eq!(len, traces::content::xbzrle_len(&before, &now));
            let mut page = before;
            decode(&out, &mut page).unwrap();
            prop_assert_eq!(page, now);
        }

        #[test]
        fn any_bytes_give_a_page_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut page = [0u8; PAGE_BYTES];
            let _ = decode(&bytes, &mut page);
        }
    }
}
