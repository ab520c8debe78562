//! Sorted runs read side by side; among equals the earlier run goes first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use super::SortError;
use super::run::{RunFile, RunReader};
use crate::store::sample::Sample;

/// VM, time, number of the run.
type Key = (u32, i64, usize);

/// The samples of several runs in order.
#[derive(Debug)]
pub(super) struct Merge {
    /// A run and its foremost sample.
    runs: Vec<(RunReader, Option<Sample>)>,
    heap: BinaryHeap<Reverse<Key>>,
}

impl Merge {
    pub(super) fn new(files: Vec<RunFile>) -> Result<Self, SortError> {
        let (mut runs, mut heap) = (Vec::new(), BinaryHeap::new());
        for (number, file) in files.into_iter().enumerate() {
            let mut reader = RunReader::open(file)?;
            let first = reader.take()?;
            if let Some(sample) = &first {
                heap.push(Reverse(key(sample, number)));
            }
            runs.push((reader, first));
        }
        Ok(Self { runs, heap })
    }
}

fn key(sample: &Sample, run: usize) -> Key {
    (sample.vm, sample.interval.t_ms, run)
}

impl Iterator for Merge {
    type Item = Result<Sample, SortError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut top = self.heap.peek_mut()?;
        let number = top.0.2;
        let (reader, foremost) = &mut self.runs[number];
        let sample = foremost.take();
        match reader.take() {
            Ok(Some(next)) => {
                *top = Reverse(key(&next, number));
                *foremost = Some(next);
            }
            Ok(None) => {
                PeekMut::pop(top);
            }
            Err(error) => {
                // Nothing more comes of a run that cannot be read.
                PeekMut::pop(top);
                return Some(Err(error));
            }
        }
        sample.map(Ok)
    }
}
