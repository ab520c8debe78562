//! Samples in any order, given back by VM and time, in bounded memory.
//!
//! What does not fit in memory goes to disk as sorted runs, which are merged. Samples of one VM and
//! instant keep the order they came in, so that "the last one counts" can be decided afterwards. A run
//! holds only until its sorter is gone. Never inside: what becomes of such doubles.

mod merge;
mod run;

use std::io;
use std::path::{Path, PathBuf};

use super::sample::Sample;
use merge::Merge;
use run::{RunFile, RunWriter};

/// Samples held in memory: 80 MiB of them.
pub const IN_MEMORY: usize = 512 << 10;

/// Runs merged at once: each needs about 0.2 MiB and an open file.
const FAN_IN: usize = 128;

/// What a sorter could not do.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", .path.display())]
pub struct SortError {
    /// The file of a run.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Takes samples in any order.
#[derive(Debug)]
pub struct Sorter {
    scratch: Option<PathBuf>,
    limit: usize,
    buffer: Vec<Sample>,
    runs: Vec<RunFile>,
    made: u64,
}

impl Sorter {
    /// At most `limit` samples in memory, the rest in files of the directory `scratch`.
    #[must_use]
    pub fn on_disk(scratch: &Path, limit: usize) -> Self {
        Self {
            scratch: Some(scratch.to_path_buf()),
            limit: limit.max(1),
            buffer: Vec::new(),
            runs: Vec::new(),
            made: 0,
        }
    }

    /// Everything in memory: for traces that end up there whole.
    #[must_use]
    pub fn in_memory() -> Self {
        Self {
            scratch: None,
            limit: usize::MAX,
            buffer: Vec::new(),
            runs: Vec::new(),
            made: 0,
        }
    }

    /// Takes a sample.
    ///
    /// # Errors
    /// When a run cannot be written.
    pub fn push(&mut self, sample: Sample) -> Result<(), SortError> {
        self.buffer.push(sample);
        if self.buffer.len() >= self.limit {
            self.spill()?;
        }
        Ok(())
    }

    /// The samples by VM, time, and the order they came in.
    ///
    /// # Errors
    /// When a run cannot be written or read.
    pub fn finish(mut self) -> Result<Sorted, SortError> {
        if self.runs.is_empty() {
            let order = order(&self.buffer);
            return Ok(Sorted(Kind::Memory {
                buffer: self.buffer,
                order: order.into_iter(),
            }));
        }
        self.spill()?;
        self.buffer = Vec::new();
        while self.runs.len() > FAN_IN {
            let rest = self.runs.split_off(FAN_IN);
            let merged = self.merge_to_run()?;
            // The oldest run stays in front: ties are decided by the order of runs.
            self.runs = std::iter::once(merged).chain(rest).collect();
        }
        Ok(Sorted(Kind::Runs(Merge::new(self.runs)?)))
    }

    fn merge_to_run(&mut self) -> Result<RunFile, SortError> {
        let mut writer = self.writer()?;
        for sample in Merge::new(std::mem::take(&mut self.runs))? {
            writer.put(&sample?)?;
        }
        writer.close()
    }

    fn spill(&mut self) -> Result<(), SortError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut writer = self.writer()?;
        for index in order(&self.buffer) {
            writer.put(&self.buffer[index as usize])?;
        }
        self.runs.push(writer.close()?);
        self.buffer.clear();
        Ok(())
    }

    fn writer(&mut self) -> Result<RunWriter, SortError> {
        let scratch = self.scratch.as_deref().unwrap_or(Path::new("."));
        let path = scratch.join(format!("run-{}", self.made));
        self.made += 1;
        RunWriter::create(path)
    }
}

/// The places of the samples in sorted order. Places rather than samples are moved: these are large.
fn order(samples: &[Sample]) -> Vec<u32> {
    let sorted = samples.is_sorted_by_key(|sample| (sample.vm, sample.interval.t_ms));
    let places = 0..u32::try_from(samples.len()).unwrap_or(u32::MAX);
    if sorted {
        return places.collect();
    }
    let mut keys: Vec<(u32, i64, u32)> = places
        .zip(samples)
        .map(|(place, sample)| (sample.vm, sample.interval.t_ms, place))
        .collect();
    keys.sort_unstable();
    keys.into_iter().map(|(_, _, place)| place).collect()
}

/// Samples in order.
#[derive(Debug)]
pub struct Sorted(Kind);

#[derive(Debug)]
enum Kind {
    Memory {
        buffer: Vec<Sample>,
        order: std::vec::IntoIter<u32>,
    },
    Runs(Merge),
}

impl Iterator for Sorted {
    type Item = Result<Sample, SortError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Kind::Memory { buffer, order } => order.next().map(|at| Ok(buffer[at as usize])),
            Kind::Runs(merge) => merge.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::sample::Values;
    use crate::store::series::{Interval, Metric};

    fn sample(vm: u32, t_ms: i64, value: u64) -> Sample {
        let interval = Interval {
            t_ms,
            dur_ms: 7,
            flags: u32::from(value.is_multiple_of(2)),
        };
        let values = Values::of(&[
            (Metric::CpuMilli, Some(value)),
            (
                Metric::NetTxBytes,
                value.is_multiple_of(3).then_some(u64::MAX),
            ),
        ]);
        Sample {
            vm,
            interval,
            values,
        }
    }

    /// Stable sort is the whole truth about a sorter, whatever it puts on disk.
    fn check(samples: &[Sample], limit: usize) {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut sorter = Sorter::on_disk(folder.path(), limit);
        for &sample in samples {
            sorter.push(sample).expect("space");
        }
        let sorted = sorter.finish().expect("readable");
        let found: Vec<Sample> = sorted.map(|sample| sample.expect("readable")).collect();
        let mut expected = samples.to_vec();
        expected.sort_by_key(|sample| (sample.vm, sample.interval.t_ms));
        assert_eq!(found, expected);
        let left = std::fs::read_dir(folder.path()).expect("a directory");
        assert_eq!(left.count(), 0, "runs are removed");
    }

    #[test]
    fn more_runs_than_are_merged_at_once_keep_the_order_of_doubles() {
        let samples: Vec<Sample> = (0..600u32)
            .map(|i| sample(i % 5, i64::from(i % 7) - 3, u64::from(i)))
            .collect();
        check(&samples, 2);
    }

    #[test]
    fn a_cut_run_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::on_disk(folder.path(), 2);
        for i in 0..4 {
            sorter.push(sample(9 - i, 0, 1)).unwrap();
        }
        let run = folder.path().join("run-1");
        let bytes = std::fs::read(&run).unwrap();
        std::fs::write(&run, &bytes[..bytes.len() - 3]).unwrap();
        let error = sorter.finish().err().unwrap().to_string();
        assert!(error.contains("run-1"), "{error}");
    }

    proptest! {
        #[test]
        fn samples_come_back_in_order(
            rows in proptest::collection::vec((0u32..4, any::<i64>(), any::<u64>()), 0..60),
            limit in 1usize..20,
        ) {
            let rows: Vec<Sample> = rows.into_iter().map(|(vm, t, v)| sample(vm, t, v)).collect();
            check(&rows, limit);
        }
    }
}
