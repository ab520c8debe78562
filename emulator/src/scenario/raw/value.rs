//! Typed reading of one value of the tree.

use super::{Log, Table, is_name};
use crate::scenario::problem::{ProblemKind, near_miss};
use crate::units::{self, QuantityError};
use netmodel::schedule::Amount;
use netmodel::units::{BitRate, Probability};
use std::ops::{Range, RangeInclusive};
use toml::Spanned;
use toml::de::DeValue;

/// A value being read.
#[derive(Debug, Clone)]
pub(in crate::scenario) struct Value<'d> {
    /// The key it stands under.
    pub(in crate::scenario) key: String,
    /// Where it is.
    pub(in crate::scenario) span: Range<usize>,
    value: &'d DeValue<'d>,
    pub(in crate::scenario) log: &'d Log,
}

/// What times, sizes, rates and speeds look like, for messages.
const TIMES: &str = "a time with its unit, such as \"100us\", \"300ms\", \"10s\", \"2h\"";
const SIZES: &str = "a size in bytes with its unit, such as \"512KB\" (1000), \"512MiB\" (1024)";
const RATES: &str = "a rate in bits with its unit, such as \"200Mbit\", \"1Gbit\"";
const SHARES: &str = "a probability with its unit, such as \"0.1%\", \"50ppm\"";
const PERCENTAGES: &str = "a share of what holds, such as \"50%\", \"12.5%\"";
const SPEEDS: &str = "bytes a second, such as \"128MiB/s\", or \"unlimited\"";

impl<'d> Value<'d> {
    pub(super) fn new(key: &str, value: &'d Spanned<DeValue<'d>>, log: &'d Log) -> Self {
        Self {
            key: key.to_owned(),
            span: value.span(),
            value: value.get_ref(),
            log,
        }
    }

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
    pub(in crate::scenario) fn note(&self, kind: ProblemKind) {
        self.log.add(&self.span, kind);
    }

    /// Notes that the value is out of bounds.
    pub(in crate::scenario) fn out_of_bounds(
        &self,
        value: impl Into<String>,
        bounds: impl Into<String>,
    ) {
        let (value, bounds) = (value.into(), bounds.into());
        self.note(ProblemKind::Bounds {
            key: self.key.clone(),
            value,
            bounds,
        });
    }

    /// The text, when it is one.
    pub(in crate::scenario) fn as_text(&self) -> Option<&'d str> {
        self.value.as_str()
    }

    /// A text.
    pub(in crate::scenario) fn text(&self) -> Option<&'d str> {
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
    pub(in crate::scenario) fn time_ns(&self) -> Option<u64> {
        self.quantity(TIMES, units::time_ns)
    }

    /// A time in ns, not zero.
    pub(in crate::scenario) fn some_time_ns(&self) -> Option<u64> {
        let ns = self.time_ns()?;
        if ns == 0 {
            self.out_of_bounds("zero", "a time above zero");
        }
        Some(ns).filter(|ns| *ns > 0)
    }

    /// A size in bytes.
    pub(in crate::scenario) fn size_bytes(&self) -> Option<u64> {
        self.quantity(SIZES, units::size_bytes)
    }

    /// A rate in bit/s.
    pub(in crate::scenario) fn rate(&self) -> Option<BitRate> {
        self.quantity(RATES, units::bit_rate)
    }

    /// Bytes a second; 0 is unlimited.
    pub(in crate::scenario) fn bytes_per_second(&self) -> Option<u64> {
        self.quantity(SPEEDS, units::bytes_per_second)
    }

    /// A probability.
    pub(in crate::scenario) fn probability(&self) -> Option<Probability> {
        self.quantity(SHARES, units::probability)
    }

    /// A share of what holds (`50%`), or else what `read` makes of it.
    pub(in crate::scenario) fn amount<T>(
        &self,
        read: impl FnOnce(&Self) -> Option<T>,
    ) -> Option<Amount<T>> {
        match self.as_text() {
            Some(text) if text.trim_end().ends_with('%') => {
                let percent = self.quantity(PERCENTAGES, units::percent)?;
                Some(Amount::Percent(percent))
            }
            _ => read(self).map(Amount::To),
        }
    }

    /// Yes or no.
    pub(in crate::scenario) fn boolean(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.wrong("true or false"))
    }

    /// A whole number within bounds.
    pub(in crate::scenario) fn integer(&self, bounds: RangeInclusive<u64>) -> Option<u64> {
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
    pub(in crate::scenario) fn small(&self, bounds: RangeInclusive<u32>) -> Option<u32> {
        let wide = u64::from(*bounds.start())..=u64::from(*bounds.end());
        self.integer(wide)
            .and_then(|value| u32::try_from(value).ok())
    }

    /// A number, with or without decimals, within bounds.
    pub(in crate::scenario) fn number(&self, bounds: RangeInclusive<f64>) -> Option<f64> {
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
    pub(in crate::scenario) fn thousandths(&self, bounds: RangeInclusive<f64>) -> Option<u32> {
        self.number(bounds)
            .map(|value| traces::units::round_u32(value * 1000.0))
    }

    /// One of a fixed list of words.
    pub(in crate::scenario) fn word<T: Copy>(
        &self,
        what: &'static str,
        words: &[(&str, T)],
    ) -> Option<T> {
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
    pub(in crate::scenario) fn unknown_name<'a>(
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
    pub(in crate::scenario) fn name(&self) -> Option<&'d str> {
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
    pub(in crate::scenario) fn list(&self, expected: &'static str) -> Option<Vec<Self>> {
        let Some(values) = self.value.as_array() else {
            return self.wrong(expected);
        };
        let value = |value| Self::new(&self.key, value, self.log);
        Some(values.iter().map(value).collect())
    }

    /// Reads a table: what `read` does not ask for is unknown.
    pub(in crate::scenario) fn table<T>(
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
    pub(in crate::scenario) fn open_table<T>(
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

    /// Whether it is a list.
    pub(in crate::scenario) fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// Whether it is a whole number.
    pub(in crate::scenario) fn is_integer(&self) -> bool {
        self.value.is_integer()
    }

    /// Whether a key stands in this table or in one within it.
    pub(in crate::scenario) fn mentions(&self, key: &str) -> bool {
        let within = |value: &DeValue<'d>| {
            value
                .as_table()
                .is_some_and(|table| table.get(key).is_some())
        };
        let tables = self.value.as_table();
        within(self.value)
            || tables.is_some_and(|table| table.iter().any(|(_, value)| within(value.get_ref())))
    }

    /// Whether it is a table.
    pub(in crate::scenario) fn is_table(&self) -> bool {
        self.value.is_table()
    }
}
