//! Ways in which a stream is damaged.
//!
//! Never inside: what a damaged stream must come to.

use crate::draw::Draw;

/// A stream damaged in one way, and which. `marks` are where its records begin.
pub(crate) fn mutated(
    draw: &mut Draw,
    stream: &[u8],
    marks: &[usize],
    other: &[u8],
) -> (&'static str, Vec<u8>) {
    let mut out = stream.to_vec();
    if out.is_empty() || marks.len() < 2 || other.is_empty() {
        let count = draw.below(3_000);
        out.extend(draw.bytes(count));
        return ("more than nothing", out);
    }
    let anywhere: Vec<usize> = (0..8).map(|_| draw.below(stream.len() + 1)).collect();
    let kind = draw.below(16);
    let name = match kind {
        0 => {
            let at = draw.below(out.len());
            out[at] ^= 1 << draw.below(8);
            "one bit"
        }
        1 => {
            for _ in 0..=draw.below(64) {
                let at = draw.below(out.len());
                out[at] ^= 1 << draw.below(8);
            }
            "bits"
        }
        2 => {
            out.truncate(draw.below(out.len()));
            "cut off"
        }
        3 => {
            out.truncate(marks[draw.below(marks.len() - 1)]);
            "cut off between records"
        }
        4 | 5 => {
            let marks = if kind == 4 { &anywhere } else { marks };
            let (from, to) = span(draw, marks);
            let at = marks[draw.below(marks.len())];
            let again = stream[from..to].to_vec();
            out.splice(at..at, again);
            "said twice"
        }
        6 | 7 => {
            let (from, to) = span(draw, if kind == 6 { &anywhere } else { marks });
            out.drain(from..to);
            "left out"
        }
        8 => {
            let (from, to) = span(draw, &anywhere);
            let random = draw.bytes(to - from);
            out[from..to].copy_from_slice(&random);
            "random in the middle"
        }
        9 => {
            let count = draw.below(20_000);
            out = draw.bytes(count);
            "random throughout"
        }
        10 => {
            let count = draw.below(20_000);
            out.truncate(48);
            out.extend(draw.bytes(count));
            "random after the header"
        }
        11 => {
            let at = draw.below(out.len().min(44));
            out[at] = draw.next().to_le_bytes()[0];
            sealed(&mut out);
            "another header"
        }
        12 => {
            // One record in the place of another.
            let (a, b) = (draw.below(marks.len() - 1), draw.below(marks.len() - 1));
            let (a, b) = (a.min(b), a.max(b));
            let (first, second) = (
                stream[marks[a]..marks[a + 1]].to_vec(),
                stream[marks[b]..marks[b + 1]].to_vec(),
            );
            out.splice(marks[b]..marks[b + 1], first);
            out.splice(marks[a]..marks[a + 1], second);
            "two records changed places"
        }
        13 => {
            let count = 1 + draw.below(9000);
            out.extend(draw.bytes(count));
            "more after the end"
        }
        14 => {
            let keep = draw.below(out.len());
            out.truncate(keep);
            out.extend_from_slice(&other[draw.below(other.len())..]);
            "the rest of another format"
        }
        _ => {
            let word: &[u8] =
                [&[0xFF; 8][..], &[0; 8], &[0x7F; 4], &[0x80, 0, 0, 0]][draw.below(4)];
            let at = draw.below(out.len().saturating_sub(word.len()));
            out[at..at + word.len()].copy_from_slice(word);
            "a number at its end"
        }
    };
    (name, out)
}

/// The header's checksum made right again, so that what follows it is looked at.
fn sealed(stream: &mut [u8]) {
    if let Some(header) = stream.get_mut(..48) {
        let sum = crc32fast::hash(&header[..44]).to_be_bytes();
        header[44..].copy_from_slice(&sum);
    }
}

/// Two places of a stream, in order.
fn span(draw: &mut Draw, marks: &[usize]) -> (usize, usize) {
    let (a, b) = (
        marks[draw.below(marks.len())],
        marks[draw.below(marks.len())],
    );
    (a.min(b), a.max(b))
}
