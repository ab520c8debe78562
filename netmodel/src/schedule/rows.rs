//! Traces of links: what a link was like from row to row. Text in, values out.
//!
//! Comma-separated, one header line. A column either has its unit in its name and bare numbers in it, or no unit in its
//! name and quantities with their units in it; an empty cell leaves its property as it is. `#` begins a comment line.

use std::time::Duration;

use super::patch::{Amount, Patch};
use super::resolve::{Happening, Holder, TooMany, What};
use crate::link::{Jitter, Loss};
use crate::topology::LinkId;
use crate::units::{BitRate, Probability, UnitError, parse_delay};

/// What a link is from an instant on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// From when, ns since the beginning of the trace.
    pub at_ns: u64,
    /// Its properties.
    pub patch: Patch,
    /// Whether it carries anything.
    pub up: Option<bool>,
}

/// The trace of a link: at least one row, each later than the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows(Vec<Row>);

/// Where a text is no trace of a link, and why.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct RowsError {
    /// From 1.
    pub line: usize,
    /// Why.
    pub problem: RowsProblem,
}

/// Why a text is no trace of a link.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RowsProblem {
    /// Nothing in it.
    #[error(
        "there is no row; a trace is a header such as `t_s,rate_mbit,delay_ms` and rows of numbers"
    )]
    Empty,
    /// More rows than a schedule can have changes.
    #[error("more than {limit} rows")]
    TooLong {
        /// So many may be.
        limit: usize,
    },
    /// A column nobody knows.
    #[error("there is no column `{column}`; there are {}", columns())]
    Column {
        /// Its name.
        column: String,
    },
    /// Two columns for one thing.
    #[error("column `{column}` says again what another column says")]
    Twice {
        /// The second one.
        column: String,
    },
    /// No column of instants.
    #[error("the header has no column of times; add `t_s` or `t_ms`")]
    NoTime,
    /// More or fewer cells than the header has columns.
    #[error("{cells} cells, but the header has {columns} columns")]
    Cells {
        /// In this row.
        cells: usize,
        /// In the header.
        columns: usize,
    },
    /// A cell that is no number.
    #[error("column `{column}`: `{cell}` is no number from 0 to {most}")]
    Number {
        /// Which column.
        column: String,
        /// What stands there.
        cell: String,
        /// The largest there may be.
        most: f64,
    },
    /// A cell that is no quantity.
    #[error("column `{column}`: {source}")]
    Quantity {
        /// Which column.
        column: String,
        /// Why.
        source: UnitError,
    },
    /// A rate of nothing.
    #[error("a rate of 0 is not a rate; say 0 in a column `up` while the link carries nothing")]
    NoRate,
    /// Not a yes or no.
    #[error("column `up`: `{cell}` is neither 0 nor 1")]
    UpOrDown {
        /// What stands there.
        cell: String,
    },
    /// Rows out of order.
    #[error("its time is not later than that of the row before")]
    Order,
}

/// What a column is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quantity {
    Time,
    Rate,
    Delay,
    Jitter,
    Loss,
    Up,
}

/// A column: its name, what it is about, and how many base units (bit/s, ns, parts in 10⁹) its numbers stand for;
/// `None`: its cells have units of their own.
type Column = (&'static str, Quantity, Option<f64>);

const COLUMNS: [Column; 15] = [
    ("t_s", Quantity::Time, Some(1e9)),
    ("t_ms", Quantity::Time, Some(1e6)),
    ("rate", Quantity::Rate, None),
    ("rate_bps", Quantity::Rate, Some(1.0)),
    ("rate_kbit", Quantity::Rate, Some(1e3)),
    ("rate_mbit", Quantity::Rate, Some(1e6)),
    ("delay", Quantity::Delay, None),
    ("delay_us", Quantity::Delay, Some(1e3)),
    ("delay_ms", Quantity::Delay, Some(1e6)),
    ("jitter", Quantity::Jitter, None),
    ("jitter_us", Quantity::Jitter, Some(1e3)),
    ("jitter_ms", Quantity::Jitter, Some(1e6)),
    ("loss", Quantity::Loss, None),
    ("loss_percent", Quantity::Loss, Some(1e7)),
    ("up", Quantity::Up, None),
];

fn columns() -> String {
    let names = COLUMNS.map(|(name, _, _)| format!("`{name}`"));
    names.join(", ")
}

impl Rows {
    /// Reads a trace of at most `limit` rows.
    ///
    /// # Errors
    /// [`RowsError`].
    pub fn parse(text: &str, limit: usize) -> Result<Self, RowsError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().zip(1..).map(|(line, n)| (line.trim(), n));
        let mut lines = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
        let at = |line| move |problem| RowsError { line, problem };
        let Some((head, line)) = lines.next() else {
            return Err(at(1)(RowsProblem::Empty));
        };
        let columns = header(head).map_err(at(line))?;
        let mut rows: Vec<Row> = Vec::new();
        let mut last = line;
        for (text, line) in lines {
            let row = row(text, &columns).map_err(at(line))?;
            if rows.last().is_some_and(|before| before.at_ns >= row.at_ns) {
                return Err(at(line)(RowsProblem::Order));
            }
            if rows.len() == limit {
                return Err(at(line)(RowsProblem::TooLong { limit }));
            }
            rows.push(row);
            last = line;
        }
        if rows.is_empty() {
            return Err(at(last)(RowsProblem::Empty));
        }
        Ok(Self(rows))
    }

    /// The rows, in order.
    #[must_use]
    pub fn list(&self) -> &[Row] {
        &self.0
    }

    /// How long the trace is when it is repeated: its last row lasts as long as the one before it. `None` for a trace
    /// of one row.
    #[must_use]
    pub fn length_ns(&self) -> Option<u64> {
        let [.., before, last] = self.0.as_slice() else {
            return None;
        };
        Some(last.at_ns.saturating_add(last.at_ns - before.at_ns))
    }

    /// What happens to links that follow the trace over a span of trace time, `from_ns` to `until_ns`: from the
    /// beginning again when it is over, or its last row for ever.
    ///
    /// # Errors
    /// When it is more than `limit` changes of links.
    pub fn happenings(
        &self,
        (from_ns, until_ns): (u64, u64),
        again: bool,
        (links, holder): (&[LinkId], Holder),
        limit: usize,
    ) -> Result<Vec<Happening>, TooMany> {
        let span_ns = until_ns.saturating_sub(from_ns);
        let length_ns = self.length_ns().filter(|_| again);
        let rounds = length_ns.map_or(1, |length| span_ns.div_ceil(length));
        let changes = u128::from(rounds) * (self.0.len() * links.len()) as u128;
        // Rows past the end count for nothing, a round at most.
        if changes > limit as u128 + (self.0.len() * links.len()) as u128 {
            return Err(TooMany { changes, limit });
        }
        let mut happenings = Vec::new();
        for round in 0..rounds {
            let begin_ns = length_ns.map_or(0, |length| length * round);
            let within = |row: &&Row| begin_ns.saturating_add(row.at_ns) < span_ns;
            for row in self.0.iter().take_while(within) {
                let mut add = |what| {
                    happenings.push(Happening {
                        at_ns: from_ns + begin_ns + row.at_ns,
                        links: links.to_vec(),
                        what,
                    });
                };
                if !row.patch.is_empty() {
                    add(What::Set(row.patch));
                }
                match row.up {
                    Some(true) => add(What::Up(holder)),
                    Some(false) => add(What::Down(holder)),
                    None => {}
                }
            }
        }
        Ok(happenings)
    }
}

fn header(line: &str) -> Result<Vec<Column>, RowsProblem> {
    let mut columns: Vec<Column> = Vec::new();
    for name in line.split(',').map(str::trim) {
        let known = COLUMNS.iter().find(|(known, _, _)| *known == name);
        let column = *known.ok_or_else(|| RowsProblem::Column {
            column: name.to_owned(),
        })?;
        if columns.iter().any(|(_, about, _)| *about == column.1) {
            return Err(RowsProblem::Twice {
                column: name.to_owned(),
            });
        }
        columns.push(column);
    }
    let timed = columns.iter().any(|(_, about, _)| *about == Quantity::Time);
    if timed {
        Ok(columns)
    } else {
        Err(RowsProblem::NoTime)
    }
}

fn row(line: &str, columns: &[Column]) -> Result<Row, RowsProblem> {
    let cells: Vec<&str> = line.split(',').map(str::trim).collect();
    if cells.len() != columns.len() {
        return Err(RowsProblem::Cells {
            cells: cells.len(),
            columns: columns.len(),
        });
    }
    let mut row = Row {
        at_ns: 0,
        patch: Patch::default(),
        up: None,
    };
    for (cell, column) in cells.into_iter().zip(columns) {
        // A row without its time is no row.
        if !cell.is_empty() || column.1 == Quantity::Time {
            take(&mut row, cell, *column)?;
        }
    }
    Ok(row)
}

fn take(row: &mut Row, cell: &str, column: Column) -> Result<(), RowsProblem> {
    let patch = &mut row.patch;
    match column.1 {
        Quantity::Time => row.at_ns = value(cell, column, TIME_MAX, parse_ns)?,
        Quantity::Rate => {
            let bps = value(cell, column, u64::MAX, |cell| {
                cell.parse().map(BitRate::bps)
            })?;
            let rate = BitRate::from_bps(bps).ok_or(RowsProblem::NoRate)?;
            patch.rate = Some(Amount::To(Some(rate)));
        }
        Quantity::Delay => {
            let ns = value(cell, column, TIME_MAX, parse_ns)?;
            patch.delay = Some(Amount::To(Duration::from_nanos(ns)));
        }
        Quantity::Jitter => {
            let ns = value(cell, column, TIME_MAX, parse_ns)?;
            patch.jitter = Some(Amount::To(Jitter {
                spread: Duration::from_nanos(ns),
                ..Jitter::default()
            }));
        }
        Quantity::Loss => {
            let most = u64::from(Probability::ONE.ppb());
            let parse = |cell: &str| {
                cell.parse()
                    .map(|share: Probability| u64::from(share.ppb()))
            };
            let ppb = value(cell, column, most, parse)?;
            let share = u32::try_from(ppb).ok().and_then(Probability::from_ppb);
            patch.loss = Some(share.map_or(Loss::None, Loss::independent));
        }
        Quantity::Up => {
            row.up = Some(match cell {
                "0" | "false" => false,
                "1" | "true" => true,
                _ => {
                    let cell = cell.to_owned();
                    return Err(RowsProblem::UpOrDown { cell });
                }
            });
        }
    }
    Ok(())
}

/// A year in ns: longer than any run, and sums of two fit 64 bits.
const TIME_MAX: u64 = 365 * 86_400 * 1_000_000_000;

fn parse_ns(cell: &str) -> Result<u64, UnitError> {
    parse_delay(cell).map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// A cell in base units: a number of what its column says, or a quantity with a unit of its own.
fn value(
    cell: &str,
    (name, _, unit): Column,
    most: u64,
    parse: impl FnOnce(&str) -> Result<u64, UnitError>,
) -> Result<u64, RowsProblem> {
    let column = || name.to_owned();
    let number = |most: f64| RowsProblem::Number {
        column: column(),
        cell: cell.to_owned(),
        most,
    };
    let Some(unit) = unit else {
        let value = parse(cell).map_err(|source| RowsProblem::Quantity {
            column: column(),
            source,
        })?;
        return Some(value)
            .filter(|value| *value <= most)
            .ok_or_else(|| number(most as f64));
    };
    let most = most as f64 / unit;
    let given: f64 = cell.parse().map_err(|_| number(most))?;
    // Not a number is in no range.
    if !(0.0..=most).contains(&given) {
        return Err(number(most));
    }
    Ok(rounded(given * unit))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "not negative, and `as` takes what is too large for the largest"
)]
fn rounded(value: f64) -> u64 {
    value.round() as u64
}
