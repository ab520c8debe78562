//! A program whose reads are known: `known-reader PAGES SECONDS` writes twice as many pages once, then reads the first
//! half of them once a millisecond, about.

#![expect(
    clippy::disallowed_methods,
    reason = "a test program: it reads now and then, and nothing waits for it"
)]

use std::hint::black_box;
use std::time::Duration;

const PAGE: usize = 4096;

fn main() {
    let number = |index| {
        std::env::args()
            .nth(index)
            .and_then(|text| text.parse().ok())
    };
    let (Some::<usize>(pages), Some::<usize>(seconds)) = (number(1), number(2)) else {
        panic!("known-reader PAGES SECONDS");
    };
    let mut memory = vec![0u8; 2 * pages * PAGE];
    memory.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
    for _ in 0..seconds * 1000 {
        for page in 0..pages {
            black_box(memory[page * PAGE]);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    black_box(memory);
}
