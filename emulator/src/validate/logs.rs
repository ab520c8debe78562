//! Migrations that somebody watched, emulated from what their logs say, and how far off that is.
//!
//! Never inside: what a log says (`crate::incident`, `traces::migration_log`).

use super::errors::{Comparison, Measured};
use super::{Emulated, emulate_lone};
use crate::incident::{Incident, IncidentError};
use anyhow::Result;
use std::path::{Path, PathBuf};
use traces::class::unique_pages;
use traces::import::{ImportError, migration_logs};
use traces::migration_log::MigrationLog;
use traces::units::PAGE_SIZE;

/// A log with what is emulated of it.
#[derive(Debug, Clone)]
pub struct Logged {
    /// The log.
    pub log: MigrationLog,
    /// What is emulated.
    pub incident: Incident,
    /// Space scale.
    pub scale: u32,
    /// The file, whose migrations are repeats of one.
    pub file: String,
}

/// Most that a link carries here: of a faster one space is divided until it does.
pub const CARRIED_BPS: u64 = 1_100_000_000;

/// A migration, and what its log tells of it.
pub type Read = (MigrationLog, Result<Incident, IncidentError>);

/// Where it is taken from what a guest writes.
#[derive(Debug, Clone, PartialEq)]
pub enum CurveFrom {
    /// The other migrations of its file, which are repeats: no use is made of what is to be foretold. Of one by itself, its own log.
    Others,
    /// Its own log: how well that is emulated which the log says.
    Own,
    /// These.
    Given(Vec<MigrationLog>),
}

/// Migrations of one file.
///
/// # Errors
/// When the file is no log of migrations.
pub fn read(file: &Path, curve: &CurveFrom) -> Result<Vec<Read>, ImportError> {
    let logs = migration_logs(file)?;
    let each = logs.iter().enumerate().map(|(n, log)| {
        let others = logs.iter().enumerate().filter(|(other, _)| *other != n);
        let others: Vec<MigrationLog> = match curve {
            CurveFrom::Others => others.map(|(_, log)| log.clone()).collect(),
            CurveFrom::Own => Vec::new(),
            CurveFrom::Given(given) => given.clone(),
        };
        (log.clone(), Incident::of(log, &others))
    });
    Ok(each.collect())
}

/// All migrations of some files.
///
/// # Errors
/// As [`read`].
pub fn all(files: &[PathBuf]) -> Result<Vec<MigrationLog>, ImportError> {
    let mut all = Vec::new();
    for file in files {
        all.extend(migration_logs(file)?);
    }
    Ok(all)
}

impl Logged {
    /// A name for people.
    #[must_use]
    pub fn title(&self) -> String {
        let Incident {
            ram_bytes, rate, ..
        } = &self.incident;
        format!(
            "{}: {} MiB, {} of link, {}, at 1/{} of its size",
            self.name(),
            ram_bytes >> 20,
            rate,
            self.mode(),
            self.scale
        )
    }

    /// Of several files several may be called the same: with the folder.
    fn name(&self) -> String {
        let folder = Path::new(&self.file).parent().and_then(Path::file_name);
        let folder = folder.map_or_else(String::new, |name| format!("{}/", name.to_string_lossy()));
        format!("{folder}{}", self.log.name)
    }

    fn mode(&self) -> &'static str {
        match (self.log.was_stopped(), self.log.has_throttle()) {
            _ if self.incident.postcopy_at_ms.is_some() => "postcopy",
            (true, _) => "stop-and-copy",
            (false, true) => "auto-converge",
            (false, false) => "precopy",
        }
    }

    /// How long the real one took, ms.
    #[must_use]
    pub fn real_ms(&self) -> f64 {
        self.log.last().at_ms as f64
    }

    fn lambda(&self) -> f64 {
        let classes = self.incident.curve.iter().flat_map(|curve| &curve.classes);
        let classes: Vec<_> = classes.copied().collect();
        let bytes = unique_pages(&classes, 1.0) * PAGE_SIZE as f64;
        bytes / self.log.bytes_per_s().unwrap_or(f64::INFINITY)
    }

    fn real(&self) -> Measured {
        let (log, last) = (&self.log, self.log.last());
        // Of one stopped before, QEMU's downtime is no outage: the guest stood still throughout. Of post-copy it is not the guest's.
        let other = log.was_stopped() || self.incident.postcopy_at_ms.is_some();
        let downtime_ms = log.downtime_ms.filter(|_| !other);
        Measured {
            completed: log.completed,
            total_time_ms: Some(last.at_ms as f64),
            bytes: Some(last.transferred as f64),
            normal: Some(last.normal as f64),
            zero: Some(last.zero as f64),
            outage_ms: None,
            downtime_ms: downtime_ms.map(|ms| ms as f64),
            syncs: Some(last.syncs as f64),
            requests: None,
        }
    }

    /// Emulates it once and compares.
    ///
    /// # Errors
    /// When the emulation itself does not get to a result.
    pub fn compare(&self, seed: u64, out: &Path) -> Result<(Vec<Comparison>, Vec<Emulated>)> {
        let all = emulate_lone(&self.incident.lone(seed, self.scale), out)?;
        let compared = all.iter().map(|emulated| Comparison {
            run_id: self.name(),
            config_id: self.file.clone(),
            rank: 0,
            kind: "log".to_owned(),
            mode: self.mode().to_owned(),
            cancel_after_ms: self.incident.cancel_after_ms.map(|ms| ms as f64),
            lambda: self.lambda(),
            real: self.real(),
            emulated: emulated.measured,
            models: emulated.record.predictions.clone(),
            grade: emulated.record.grade.clone(),
            verified: emulated.record.verified,
        });
        Ok((compared.collect(), all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn repeats_in_one_file_foretell_each_other() {
        let log = |seconds: u64, rounds: [u64; 3]| {
            let (total, down) = (seconds * 1000, 300);
            format!(
                r#"{{"return": {{"status": "completed", "total-time": {total}, "downtime": {down}, "page-count": [{}, {}, {}, 0],
                    "ram": {{"total": 409600000, "remaining": 0, "transferred": 100000000, "normal": 24000, "duplicate": 70000,
                    "dirty-sync-count": 4, "mbps": 900.0}}}}}}"#,
                rounds[0], rounds[1], rounds[2]
            )
            .replace('\n', " ")
        };
        let mut file = tempfile::NamedTempFile::with_suffix(".log").unwrap();
        for line in [
            log(10, [100_000, 9000, 3500]),
            log(12, [100_000, 8000, 3100]),
        ] {
            writeln!(file, "Experiment\n{line}").unwrap();
        }
        let own = read(file.path(), &CurveFrom::Own).unwrap();
        let first = own[0].1.as_ref().unwrap().curve.as_ref().unwrap();
        let found = unique_pages(&first.classes, first.windows_s.1);
        assert!((found / 9000.0 - 1.0).abs() < 0.1, "{found}");
        let both = read(file.path(), &CurveFrom::Others).unwrap();
        assert_eq!(both.len(), 2);
        for (n, (log, incident)) in both.into_iter().enumerate() {
            let incident = incident.unwrap();
            let curve = incident.curve.clone().unwrap();
            assert_eq!(curve.points, 2, "the other's rounds alone");
            let other = [8000.0, 9000.0][n];
            let first = unique_pages(&curve.classes, curve.windows_s.1);
            assert!((first / other - 1.0).abs() < 0.1, "{n}: {first}");
            let logged = Logged {
                log,
                incident,
                scale: 4,
                file: "guest/ram.log".to_owned(),
            };
            assert!(logged.name().starts_with("guest/"), "{}", logged.name());
            assert_eq!(logged.mode(), "precopy");
            assert_eq!(logged.real().zero, Some(70_000.0));
            assert_eq!(logged.real().outage_ms, None, "a log says none");
        }
    }
}
