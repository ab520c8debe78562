//! A ground-truth file: one JSON object a line, a migration measured on real QEMU each.
//!
//! Never inside: what columns mean (`columns`, `configuration`).

use super::columns::Line;
use super::configuration::Configuration;
use super::errors::Measured;
use super::select::Selection;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A real run that can be replayed.
#[derive(Debug, Clone)]
pub struct RealRun {
    /// Its name in the file.
    pub run_id: String,
    /// Which repeat of its configuration.
    pub repeat: u32,
    /// What QEMU measured.
    pub measured: Measured,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not a migration.
    #[error("{}:{line}: {source}; expected one JSON object a line, as groundtruth/README.md describes", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// A condition on a column that no line has.
    #[error("{}: --select: no line has a column `{column}`", path.display())]
    NoColumn {
        /// Which file.
        path: PathBuf,
        /// The column.
        column: String,
    },
    /// Nothing in it can be replayed.
    #[error("{}: none of its {lines} runs can be replayed ({})", path.display(), reasons(left_out))]
    Nothing {
        /// Which file.
        path: PathBuf,
        /// Runs it holds.
        lines: usize,
        /// Why not.
        left_out: BTreeMap<String, usize>,
    },
}

fn reasons(left_out: &BTreeMap<String, usize>) -> String {
    let each = left_out.iter().map(|(why, runs)| format!("{runs}: {why}"));
    each.collect::<Vec<_>>().join("; ")
}

/// What a file holds.
#[derive(Debug)]
pub struct GroundTruth {
    /// What can be replayed, in the order of the file.
    pub configurations: Vec<Configuration>,
    /// Runs left out, by reason.
    pub left_out: BTreeMap<String, usize>,
}

/// Reads a ground-truth file.
///
/// # Errors
/// When it cannot be read, a line is not a migration, or nothing can be replayed.
pub fn read(path: &Path, selection: &Selection) -> Result<GroundTruth, InputError> {
    let text = std::fs::read_to_string(path).map_err(|source| InputError::Io {
        path: path.into(),
        source,
    })?;
    let mut truth = GroundTruth {
        configurations: Vec::new(),
        left_out: BTreeMap::new(),
    };
    let (mut lines, mut known) = (0, BTreeSet::new());
    for (index, text) in text
        .lines()
        .enumerate()
        .filter(|(_, text)| !text.trim().is_empty())
    {
        lines += 1;
        let wrong = |source| InputError::Line {
            path: path.into(),
            line: index + 1,
            source,
        };
        let columns: serde_json::Map<_, _> = serde_json::from_str(text).map_err(wrong)?;
        known.extend(columns.keys().cloned());
        let fits = selection.fits(&columns);
        let line = Line::deserialize(&columns).map_err(wrong)?;
        let reason = match fits {
            true => line.why_not(&columns),
            false => Some("not selected".to_owned()),
        };
        match reason {
            Some(reason) => *truth.left_out.entry(reason).or_default() += 1,
            None => truth.add(line),
        }
    }
    if let Some(column) = selection.unknown(|column| known.contains(column)) {
        return Err(InputError::NoColumn {
            path: path.into(),
            column: column.to_owned(),
        });
    }
    if truth.configurations.is_empty() {
        return Err(InputError::Nothing {
            path: path.into(),
            lines,
            left_out: truth.left_out,
        });
    }
    Ok(truth)
}

impl GroundTruth {
    fn add(&mut self, line: Line) {
        let run = RealRun {
            run_id: line.run_id.clone(),
            repeat: line.repeat,
            measured: line.measured(),
        };
        let known = self
            .configurations
            .iter_mut()
            .find(|c| c.config_id == line.config_id);
        match known {
            Some(configuration) => configuration.runs.push(run),
            None => self.configurations.push(Configuration::new(line, run)),
        }
    }
}
