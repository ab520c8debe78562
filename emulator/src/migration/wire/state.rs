//! The guest's state, the same in every format: length, length of the zeros, CRC-32, state, zeros.

use super::*;

/// Bytes before the state itself.
pub(super) const HEAD_BYTES: usize = 12;

/// Puts a state padded to `total_bytes`, or as long as it must be; how many bytes that is.
///
/// # Panics
/// If the state is longer than [`MAX_STATE_BYTES`]: it is ours to keep small.
pub(super) fn put(state: &[u8], total_bytes: u64, out: &mut Vec<u8>) {
    assert!(
        state.len() <= MAX_STATE_BYTES,
        "a guest state of {} bytes",
        state.len()
    );
    let length = u32::try_from(state.len()).expect("bounded above");
    let padding = padding(state.len(), total_bytes);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&padding.to_be_bytes());
    out.extend_from_slice(&crc32fast::hash(state).to_be_bytes());
    out.extend_from_slice(state);
    out.resize(out.len() + padding as usize, 0);
}

/// Bytes that [`put`] puts.
pub(super) fn bytes(state: &[u8], total_bytes: u64) -> u64 {
    (HEAD_BYTES + state.len()) as u64 + u64::from(padding(state.len(), total_bytes))
}

fn padding(state_bytes: usize, total_bytes: u64) -> u32 {
    let fixed = (HEAD_BYTES + state_bytes) as u64;
    u32::try_from(total_bytes.saturating_sub(fixed)).unwrap_or(u32::MAX)
}

/// A state that begins at the head of `input`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Read<'a> {
    pub(super) state: &'a [u8],
    /// Zeros that follow it.
    pub(super) padding: u32,
    /// Bytes up to them.
    pub(super) taken: usize,
}

/// Reads one; `None` if there must be more first.
pub(super) fn read(input: &[u8], offset: u64) -> Result<Option<Read<'_>>, WireError> {
    let (Some(length), Some(padding), Some(crc)) =
        (u32_at(input, 0), u32_at(input, 4), u32_at(input, 8))
    else {
        return Ok(None);
    };
    if length as usize > MAX_STATE_BYTES {
        return Err(WireError::Unexpected {
            offset,
            expected: "a guest state within bounds",
            found: u64::from(length),
        });
    }
    let taken = HEAD_BYTES + length as usize;
    let Some(state) = input.get(HEAD_BYTES..taken) else {
        return Ok(None);
    };
    if crc32fast::hash(state) != crc {
        return Err(WireError::StateChecksum);
    }
    Ok(Some(Read {
        state,
        padding,
        taken,
    }))
}

/// Takes what has come of `left` zeros: bytes taken, or `None` for none of them.
pub(super) fn zeros(input: &[u8], left: u64, offset: u64) -> Result<Option<usize>, WireError> {
    let taken = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
    if let Some(&byte) = input[..taken].iter().find(|&&byte| byte != 0) {
        return Err(WireError::Unexpected {
            offset,
            expected: "the zeros after the guest's state",
            found: u64::from(byte),
        });
    }
    Ok((taken > 0).then_some(taken))
}
