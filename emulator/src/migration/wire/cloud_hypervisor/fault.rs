//! What stands on the connection of a post-copy's page faults: requests one way, pages the other.
//!
//! ```text
//! request   u16 command 9, 6 zero, u64 16      u64 address, u64 length: one page
//! answer    u16 status, 6 zero, u64 length     4096 B of the page
//! ```
//!
//! Each end writes its two parts one by one over a socket without delay, as the original does, so that they are segments
//! of their own. Never inside: which page is asked for, and when.

use super::*;

const PAGE_FAULT: u16 = 9;
/// Bytes of a request, both of its parts.
pub const REQUEST_BYTES: usize = 2 * RECORD_BYTES;
/// Bytes of an answer, both of its parts.
pub const ANSWER_BYTES: usize = RECORD_BYTES + PAGE_BYTES;

/// The two parts of a request for a page.
#[must_use]
pub fn request(page: u32) -> [[u8; RECORD_BYTES]; 2] {
    let address = u64::from(page) * PAGE_BYTES as u64;
    [
        head_of(PAGE_FAULT, RECORD_BYTES as u64),
        pair(address, PAGE_BYTES as u64),
    ]
}

/// The page that is asked for, of a guest of so many.
///
/// # Errors
/// When it is no request, or not for one page of this guest.
pub fn decode_request(bytes: &[u8; REQUEST_BYTES], ram_pages: u32) -> Result<u32, WireError> {
    let part = |at: usize| le_u64(bytes, at).expect("four words");
    let head = pair(part(0), part(8));
    if head != head_of(PAGE_FAULT, RECORD_BYTES as u64) {
        return unexpected(0, "a PageFault", part(0));
    }
    let (address, length) = (part(16), part(24));
    let page_bytes = PAGE_BYTES as u64;
    if length != page_bytes || !address.is_multiple_of(page_bytes) {
        return unexpected(16, "a range of one page", address);
    }
    let page = address / page_bytes;
    match u32::try_from(page) {
        Ok(page) if page < ram_pages => Ok(page),
        _ => Err(WireError::PageBeyondRam {
            offset: 16,
            page,
            ram_pages,
        }),
    }
}

/// The first part of an answer whose second is a page.
#[must_use]
pub fn answer() -> [u8; RECORD_BYTES] {
    head_of(OK, PAGE_BYTES as u64)
}

/// The page's bytes.
///
/// # Errors
/// When it is no answer, says no, or brings something else than a page.
pub fn decode_answer(bytes: &[u8; ANSWER_BYTES]) -> Result<&[u8; PAGE_BYTES], WireError> {
    let (head, page) = bytes
        .split_first_chunk::<RECORD_BYTES>()
        .expect("an answer has a head");
    if *head != answer() {
        let found = le_u64(head, 0).expect("sixteen bytes");
        return unexpected(0, "an answer with a page", found);
    }
    Ok(page.first_chunk().expect("an answer has a page"))
}

fn head_of(word: u16, length: u64) -> [u8; RECORD_BYTES] {
    pair(u64::from(word), length)
}

fn pair(first: u64, second: u64) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..].copy_from_slice(&second.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By hand: page 0x12345 is at 0x12345000.
    #[test]
    fn a_request_and_an_answer_by_hand() {
        let [head, range] = request(0x1_2345);
        assert_eq!(head, [9, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0]);
        let address = [0, 0x50, 0x34, 0x12, 0, 0, 0, 0];
        assert_eq!(range[..8], address);
        assert_eq!(range[8..], [0, 0x10, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            answer(),
            [1, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!((REQUEST_BYTES, ANSWER_BYTES), (32, 4112));
    }

    fn whole(page: u32) -> [u8; REQUEST_BYTES] {
        let [head, range] = request(page);
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..RECORD_BYTES].copy_from_slice(&head);
        bytes[RECORD_BYTES..].copy_from_slice(&range);
        bytes
    }

    proptest! {
        #[test]
        fn a_request_comes_back_or_is_beyond_ram(page: u32, ram_pages: u32) {
            let read = decode_request(&whole(page), ram_pages);
            if page < ram_pages {
                prop_assert_eq!(read, Ok(page));
            } else {
                let beyond = matches!(read, Err(WireError::PageBeyondRam { .. }));
                prop_assert!(beyond);
            }
        }

        #[test]
        fn a_damaged_request_is_none_or_for_another_page(at in 0..REQUEST_BYTES, bit in 0..8_u32) {
            let mut bytes = whole(1);
            bytes[at] ^= 1 << bit;
            prop_assert_ne!(decode_request(&bytes, u32::MAX), Ok(1));
        }

        #[test]
        fn a_damaged_head_of_an_answer_is_none(at in 0..RECORD_BYTES, bit in 0..8_u32) {
            let mut bytes = [7; ANSWER_BYTES];
            bytes[..RECORD_BYTES].copy_from_slice(&answer());
            prop_assert!(decode_answer(&bytes).is_ok());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode_answer(&bytes).is_err());
        }
    }
}
