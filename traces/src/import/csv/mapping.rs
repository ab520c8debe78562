//! `METRIC=COLUMN[:UNIT]`, parsed and checked: after this, a mapping makes sense by itself.

use std::fmt;

use super::unit::{CPUS, FLOWS, Kind, SHORT, Unit};
use super::wrong;
use crate::import::ImportErrorKind;
use crate::import::tidy::{Counters, Hold, Rule};
use crate::store::bundle::{Sampling, TimeOrigin};
use crate::store::sample::Values;
use crate::store::series::Metric;
use crate::units::round_u64;

/// Which column is what.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping {
    pub(super) entries: Vec<Entry>,
    /// What a sample says of its interval.
    pub sampling: Sampling,
    decimal_comma: bool,
    text: Vec<String>,
}

/// A mapping that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// Not `METRIC=COLUMN[:UNIT]`.
    #[error("{text:?} is not METRIC=COLUMN[:UNIT]")]
    Form {
        /// What was given.
        text: String,
    },
    /// No such metric.
    #[error("there is no metric {name:?}; there are {known}")]
    Metric {
        /// What was given.
        name: String,
        /// What there is.
        known: String,
    },
    /// A unit that the metric does not have.
    #[error("{metric} has no unit {unit:?}; it has {known}")]
    Unit {
        /// Of which metric.
        metric: String,
        /// What was given.
        unit: String,
        /// What there is.
        known: String,
    },
    /// Twice the same metric.
    #[error("{metric} is mapped twice")]
    Twice {
        /// Which.
        metric: String,
    },
    /// Something without which there is no trace.
    #[error("the mapping lacks {what}")]
    Lacks {
        /// What.
        what: &'static str,
    },
    /// Units that exclude each other.
    #[error("{what} cannot be mapped together")]
    Mixed {
        /// Which.
        what: &'static str,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) column: Column,
    pub(super) unit: Unit,
}

/// Where it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Column {
    Named(String),
    /// From 1.
    Numbered(usize),
    Constant(String),
    /// All that have no other meaning: one a VM.
    Every,
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Numbered(number) => write!(f, "#{number}"),
            Self::Constant(value) => write!(f, "@{value}"),
            Self::Every => f.write_str("*"),
        }
    }
}

impl Mapping {
    /// Parses and checks the parts of a mapping.
    ///
    /// # Errors
    /// The first part that cannot be meant.
    pub fn parse<S: AsRef<str>>(parts: &[S]) -> Result<Self, MappingError> {
        let mut mapping = Self {
            entries: Vec::new(),
            sampling: Sampling::Average,
            decimal_comma: false,
            text: parts.iter().map(|part| part.as_ref().to_string()).collect(),
        };
        for part in parts {
            mapping.part(part.as_ref())?;
        }
        mapping.check()?;
        Ok(mapping)
    }

    fn part(&mut self, text: &str) -> Result<(), MappingError> {
        let form = || MappingError::Form {
            text: text.to_string(),
        };
        let (name, rest) = text.split_once('=').ok_or_else(form)?;
        if rest.is_empty() {
            return Err(form());
        }
        match (name, rest) {
            ("decimal", "comma") => {
                self.decimal_comma = true;
                return Ok(());
            }
            ("sampling", "average" | "instant" | "max") => {
                self.sampling = match rest {
                    "instant" => Sampling::Instant,
                    "max" => Sampling::Max,
                    _ => Sampling::Average,
                };
                return Ok(());
            }
            _ => {}
        }
        let kind = Kind::of(name).ok_or_else(|| {
            let metrics = SHORT.iter().map(|(short, _)| *short);
            let fixed = ["time", "duration", "vm", "vcpus", "mem_size"].into_iter();
            let known: Vec<&str> = fixed.chain(metrics).collect();
            MappingError::Metric {
                name: name.to_string(),
                known: known.join(", "),
            }
        })?;
        if self.entries.iter().any(|entry| entry.kind == kind) {
            return Err(MappingError::Twice {
                metric: name.to_string(),
            });
        }
        let (column, unit) = column_and_unit(name, rest, kind)?;
        self.entries.push(Entry { kind, column, unit });
        Ok(())
    }

    fn check(&self) -> Result<(), MappingError> {
        let has = |kind| self.entries.iter().any(|entry| entry.kind == kind);
        if !has(Kind::Time) {
            return Err(MappingError::Lacks { what: "time" });
        }
        let metric = |entry: &&Entry| matches!(entry.kind, Kind::Metric(_));
        if !self.entries.iter().any(|entry| metric(&entry)) {
            let what = "a metric, cpu for example";
            return Err(MappingError::Lacks { what });
        }
        let every: Vec<&Entry> = self
            .entries
            .iter()
            .filter(|e| e.column == Column::Every)
            .collect();
        let every_metric = every.iter().all(metric);
        if every.len() > 1 || !every_metric || (!every.is_empty() && has(Kind::Vm)) {
            let what = "every column (*) as more than one metric, or beside a column of VMs,";
            return Err(MappingError::Mixed { what });
        }
        let flows = self
            .entries
            .iter()
            .filter(|e| matches!(e.kind, Kind::Metric(m) if FLOWS.contains(&m)));
        let flows: Vec<(bool, bool)> = flows
            .map(|e| (e.unit.is_rate(), e.unit.is_counter()))
            .collect();
        if flows.windows(2).any(|pair| pair[0] != pair[1]) {
            let what = "rates, counters and bytes of the interval";
            return Err(MappingError::Mixed { what });
        }
        if flows.iter().any(|flow| flow.1) && self.has_lengths() {
            let what = "counters and a duration";
            return Err(MappingError::Mixed { what });
        }
        Ok(())
    }

    pub(super) fn is_wide(&self) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.column == Column::Every)
    }

    /// What every column is, if it is.
    pub(super) fn wide_unit(&self) -> (Metric, Unit) {
        let wide = self
            .entries
            .iter()
            .find(|entry| entry.column == Column::Every);
        match wide.map(|entry| (entry.kind, entry.unit)) {
            Some((Kind::Metric(metric), unit)) => (metric, unit),
            _ => (Metric::CpuMilli, CPUS[0]),
        }
    }

    pub(super) fn has_lengths(&self) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.kind == Kind::Duration)
    }

    fn has_flow(&self, is: fn(Unit) -> bool) -> bool {
        let flow = |entry: &Entry| matches!(entry.kind, Kind::Metric(m) if FLOWS.contains(&m));
        self.entries
            .iter()
            .any(|entry| flow(entry) && is(entry.unit))
    }

    /// What `t_ms` counts from.
    pub(in crate::import) fn time_origin(&self) -> TimeOrigin {
        let time = self.entries.iter().find(|entry| entry.kind == Kind::Time);
        match time.map(|entry| entry.unit.name) {
            Some(name) if name.starts_with("unix") || matches!(name, "iso" | "dmy") => {
                TimeOrigin::UnixUtc
            }
            _ => TimeOrigin::Relative,
        }
    }

    pub(in crate::import) fn rule(&self) -> Rule {
        if self.has_lengths() {
            return Rule::Given;
        }
        let counters = if self.has_flow(Unit::is_counter) {
            Counters::Bytes { window_ms: 0 }
        } else {
            Counters::No
        };
        Rule::Hold(Hold {
            step_ms: None,
            counters,
            rates: self.has_flow(Unit::is_rate),
        })
    }

    /// Thousandths of a byte per second to bytes, where the mapping has rates.
    pub(super) fn rates_to_bytes(&self, values: &mut Values, dur_ms: u32) {
        if !self.has_flow(Unit::is_rate) {
            return;
        }
        for metric in FLOWS {
            let rate = values.get(metric);
            let bytes = rate.map(|rate| round_u64(rate as f64 * f64::from(dur_ms) / 1e6));
            values.set(metric, bytes);
        }
    }

    /// A number, if one was recorded.
    pub(super) fn number(&self, column: &str, text: &str) -> Result<Option<f64>, ImportErrorKind> {
        let text = text.trim();
        let absent = ["", "nan", "na", "null", "none"];
        if absent.iter().any(|word| text.eq_ignore_ascii_case(word)) {
            return Ok(None);
        }
        let parsed = if self.decimal_comma {
            text.replace(',', ".").parse::<f64>()
        } else {
            text.parse::<f64>()
        };
        let good = parsed
            .ok()
            .filter(|value| value.is_finite() && *value >= 0.0);
        good.map(Some)
            .ok_or_else(|| wrong(column, text, "a number, not negative"))
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text.join(" "))
    }
}

fn column_and_unit(name: &str, rest: &str, kind: Kind) -> Result<(Column, Unit), MappingError> {
    let units = kind.units();
    // The unit is what follows the last colon, so that names of columns may hold one.
    let (column, unit) = match rest.rsplit_once(':') {
        None => (rest, units[0]),
        Some((column, text)) => match units.iter().find(|unit| unit.name == text) {
            Some(unit) => (column, *unit),
            None => {
                let names: Vec<&str> = units.iter().map(|unit| unit.name).collect();
                return Err(MappingError::Unit {
                    metric: name.to_string(),
                    unit: text.to_string(),
                    known: names.join(", "),
                });
            }
        },
    };
    let number = column
        .strip_prefix('#')
        .and_then(|number| number.parse().ok());
    let column = match (number, column.strip_prefix('@')) {
        (Some(number), _) if number > 0 => Column::Numbered(number),
        (_, Some(value)) => Column::Constant(value.to_string()),
        _ if column == "*" => Column::Every,
        _ => Column::Named(column.to_string()),
    };
    Ok((column, unit))
}
