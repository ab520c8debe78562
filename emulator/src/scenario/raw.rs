//! The TOML text as a tree whose every key and value knows its place, and typed reading of it.
//!
//! Reading goes on after a problem, so that several are reported at once: a reader notes it and
//! returns `None`. What a table may hold is what its reader asked for, so a key nothing reads is
//! found, with the key it was probably meant to be. Never inside: what the values mean.

use super::problem::{Problem, ProblemKind, near_miss};
use crate::units::{self, QuantityError};
use netmodel::units::BitRate;
use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use toml::de::{DeTable, DeValue};

/// Where readers note what is wrong.
#[derive(Debug, Default)]
pub(super) struct Log(RefCell<Vec<Problem>>);

impl Log {
    pub(super) fn add(&self, span: &Range<usize>, kind: ProblemKind) {
        self.0.borrow_mut().push(Problem {
            span: span.clone(),
            kind,
        });
    }

    pub(super) fn into_list(self) -> Vec<Problem> {
        self.0.into_inner()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

/// A table being read.
#[derive(Debug)]
pub(super) struct Table<'d> {
    /// How messages call it: `[network]`, `the scenario`.
    pub(super) name: String,
    /// Where it is.
    pub(super) span: Range<usize>,
    entries: &'d DeTable<'d>,
    asked: RefCell<Vec<&'static str>>,
    pub(super) log: &'d Log,
}

/// A value being read.
#[derive(Debug, Clone)]
pub(super) struct Value<'d> {
    /// The key it stands under.
    pub(super) key: String,
    /// Where it is.
    pub(super) span: Range<usize>,
    value: &'d DeValue<'d>,
    log: &'d Log,
}

/// What times, sizes, rates and speeds look like, for messages.
const TIMES: &str = "a time with its unit, such as \"100us\", \"300ms\", \"10s\", \"2h\"";
const SIZES: &str = "a size in bytes with its unit, such as \"512KB\" (1000), \"512MiB\" (1024)";
const RATES: &str = "a rate in bits with its unit, such as \"200Mbit\", \"1Gbit\"";
const SPEEDS: &str = "bytes a second, such as \"128MiB/s\", or \"unlimited\"";

impl<'d> Table<'d> {
    /// Reads a whole table: what `read` does not ask for is unknown.
    pub(super) fn read<T>(
        (name, span): (String, Range<usize>),
        entries: &'d DeTable<'d>,
        log: &'d Log,
        read: impl FnOnce(&Self) -> T,
    ) -> T {
        let table = Self {
            name,
            span,
            entries,
            asked: RefCell::default(),
            log,
        };
        let result = read(&table);
        table.report_unknown();
        result
    }

    /// The value of a key, when it is there.
    pub(super) fn get(&self, key: &'static str) -> Option<Value<'d>> {
        self.asked.borrow_mut().push(key);
        let value = self.entries.get(key)?;
        Some(Value {
            key: key.into(),
            span: value.span(),
            value: value.get_ref(),
            log: self.log,
        })
    }

    /// The value of a key that must be there.
    pub(super) fn need(&self, key: &'static str, example: &'static str) -> Option<Value<'d>> {
        let value = self.get(key);
        if value.is_none() {
            let table = self.name.clone();
            self.log.add(
                &self.span,
                ProblemKind::Missing {
                    key,
                    table,
                    example,
                },
            );
        }
        value
    }

    /// Reads every entry of a table of named things.
    pub(super) fn named(&self) -> impl Iterator<Item = (Range<usize>, Value<'d>)> + '_ {
        self.entries.iter().map(|(key, value)| {
            let name = key.get_ref().to_string();
            let value = Value {
                key: name,
                span: value.span(),
                value: value.get_ref(),
                log: self.log,
            };
            (key.span(), value)
        })
    }

    /// What the table holds beside what has been asked for: the reader takes all of it.
    pub(super) fn rest(&self) -> Vec<(Range<usize>, Value<'d>)> {
        let asked = self.asked.borrow();
        self.named()
            .filter(|(_, value)| !asked.contains(&value.key.as_str()))
            .collect()
    }

    /// Notes an unknown key. `more` are keys known here beside those asked for.
    pub(super) fn unknown(&self, key: &str, span: &Range<usize>, more: &[&str]) {
        let mut known: Vec<String> = self.asked.borrow().iter().map(|k| (*k).into()).collect();
        known.extend(more.iter().map(|k| (*k).into()));
        known.sort();
        known.dedup();
        let near = near_miss(key, known.iter().map(String::as_str));
        let (key, table) = (key.to_owned(), self.name.clone());
        self.log.add(
            span,
            ProblemKind::UnknownKey {
                key,
                table,
                near,
                known,
            },
        );
    }

    /// Reads a table whose further keys are taken by `rest`, so none is unknown here.
    pub(super) fn read_open<T>(
        (name, span): (String, Range<usize>),
        entries: &'d DeTable<'d>,
        log: &'d Log,
        read: impl FnOnce(&Self) -> T,
    ) -> T {
        read(&Self {
            name,
            span,
            entries,
            asked: RefCell::default(),
            log,
        })
    }

    fn report_unknown(&self) {
        for (span, value) in self.rest() {
            self.unknown(&value.key, &span, &[]);
        }
    }
}

impl<'d> Value<'d> {
    /// Notes that the value has the wrong type.
    fn wrong<T>(&self, expected: &'static str) -> Option<T> {
        let found = match self.value {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a bare integer",
            DeValue::Float(_) => "a bare number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.note(ProblemKind::Type {
            key: self.key.clone(),
            found,
            expected,
        });
        None
    }

    /// Notes a problem with this value.
    pub(super) fn note(&self, kind: ProblemKind) {
        self.log.add(&self.span, kind);
    }

    /// Notes that the value is out of bounds.
    pub(super) fn out_of_bounds(&self, value: impl Into<String>, bounds: impl Into<String>) {
        let (value, bounds) = (value.into(), bounds.into());
        self.note(ProblemKind::Bounds {
            key: self.key.clone(),
            value,
            bounds,
        });
    }

    /// The text, when it is one.
    pub(super) fn as_text(&self) -> Option<&'d str> {
        self.value.as_str()
    }

    /// A text.
    pub(super) fn text(&self) -> Option<&'d str> {
        self.as_text().or_else(|| self.wrong("a text in quotes"))
    }

    /// Reads a text with `parse`.
    fn quantity<T>(
        &self,
        accepted: &'static str,
        parse: impl FnOnce(&str) -> Result<T, QuantityError>,
    ) -> Option<T> {
        let Some(text) = self.as_text() else {
            return self.wrong(accepted);
        };
        let note = |source| {
            self.note(ProblemKind::Quantity {
                key: self.key.clone(),
                source,
                accepted,
            });
        };
        parse(text).map_err(note).ok()
    }

    /// A time in ns.
    pub(super) fn time_ns(&self) -> Option<u64> {
        self.quantity(TIMES, units::time_ns)
    }

    /// A time in ns, not zero.
    pub(super) fn some_time_ns(&self) -> Option<u64> {
        let ns = self.time_ns()?;
        if ns == 0 {
            self.out_of_bounds("zero", "a time above zero");
        }
        Some(ns).filter(|ns| *ns > 0)
    }

    /// A size in bytes.
    pub(super) fn size_bytes(&self) -> Option<u64> {
        self.quantity(SIZES, units::size_bytes)
    }

    /// A rate in bit/s.
    pub(super) fn rate(&self) -> Option<BitRate> {
        self.quantity(RATES, units::bit_rate)
    }

    /// Bytes a second; 0 is unlimited.
    pub(super) fn bytes_per_second(&self) -> Option<u64> {
        self.quantity(SPEEDS, units::bytes_per_second)
    }

    /// Yes or no.
    pub(super) fn boolean(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.wrong("true or false"))
    }

    /// A whole number within bounds.
    pub(super) fn integer(&self, bounds: RangeInclusive<u64>) -> Option<u64> {
        let Some(integer) = self.value.as_integer() else {
            return self.wrong("a whole number");
        };
        let value = i128::from_str_radix(integer.as_str(), integer.radix());
        let within = value
            .ok()
            .and_then(|v| u64::try_from(v).ok())
            .filter(|v| bounds.contains(v));
        if within.is_none() {
            let (low, high) = (bounds.start(), bounds.end());
            self.out_of_bounds(integer.as_str(), format!("a whole number, {low} to {high}"));
        }
        within
    }

    /// A whole number of 32 bits within bounds.
    pub(super) fn small(&self, bounds: RangeInclusive<u32>) -> Option<u32> {
        let wide = u64::from(*bounds.start())..=u64::from(*bounds.end());
        self.integer(wide)
            .and_then(|value| u32::try_from(value).ok())
    }

    /// A number, with or without decimals, within bounds.
    pub(super) fn number(&self, bounds: RangeInclusive<f64>) -> Option<f64> {
        let text = match self.value {
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            DeValue::Float(float) => float.as_str(),
            _ => return self.wrong("a number"),
        };
        let value = text.parse::<f64>().ok().filter(|v| bounds.contains(v));
        if value.is_none() {
            self.out_of_bounds(
                text,
                format!("a number, {} to {}", bounds.start(), bounds.end()),
            );
        }
        value
    }

    /// Thousandths of a number within bounds, rounded.
    pub(super) fn thousandths(&self, bounds: RangeInclusive<f64>) -> Option<u32> {
        self.number(bounds)
            .map(|value| traces::units::round_u32(value * 1000.0))
    }

    /// One of a fixed list of words.
    pub(super) fn word<T: Copy>(&self, what: &'static str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| *value);
        if found.is_none() {
            self.unknown_name(what, text, words.iter().map(|(word, _)| *word));
        }
        found
    }

    /// Notes that nothing is called so.
    pub(super) fn unknown_name<'a>(
        &self,
        what: &'static str,
        name: &str,
        known: impl Iterator<Item = &'a str> + Clone,
    ) {
        let near = near_miss(name, known.clone());
        // One more than is ever listed, so that the list can say there are more.
        let known = known.take(25).map(str::to_owned).collect();
        let (key, name) = (self.key.clone(), name.to_owned());
        self.note(ProblemKind::Unknown {
            key,
            what,
            name,
            near,
            known,
        });
    }

    /// A name that can also be a file's.
    pub(super) fn name(&self) -> Option<&'d str> {
        let text = self.text()?;
        if !is_name(text) {
            self.note(ProblemKind::Name {
                name: text.to_owned(),
            });
            return None;
        }
        Some(text)
    }

    /// The values of a list.
    pub(super) fn list(&self, expected: &'static str) -> Option<Vec<Self>> {
        let Some(values) = self.value.as_array() else {
            return self.wrong(expected);
        };
        let value = |value: &'d toml::Spanned<DeValue<'d>>| Value {
            key: self.key.clone(),
            span: value.span(),
            value: value.get_ref(),
            log: self.log,
        };
        Some(values.iter().map(value).collect())
    }

    /// Reads a table: what `read` does not ask for is unknown.
    pub(super) fn table<T>(
        &self,
        name: impl Into<String>,
        expected: &'static str,
        read: impl FnOnce(&Table<'d>) -> T,
    ) -> Option<T> {
        let Some(entries) = self.value.as_table() else {
            return self.wrong(expected);
        };
        Some(Table::read(
            (name.into(), self.span.clone()),
            entries,
            self.log,
            read,
        ))
    }

    /// Reads a table of which `read` takes every key.
    pub(super) fn open_table<T>(
        &self,
        name: impl Into<String>,
        expected: &'static str,
        read: impl FnOnce(&Table<'d>) -> T,
    ) -> Option<T> {
        let Some(entries) = self.value.as_table() else {
            return self.wrong(expected);
        };
        Some(Table::read_open(
            (name.into(), self.span.clone()),
            entries,
            self.log,
            read,
        ))
    }

    /// Whether it is a table.
    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }
}

/// Names are used for files and addressed on command lines: kept plain.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=64).contains(&text.len())
        && text.chars().all(plain)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}
