//! The TOML text as a tree whose every key and value knows its place, and typed reading of it.
//!
//! Reading goes on after a problem, so that several are reported at once: a reader notes it and
//! returns `None`. What a table may hold is what its reader asked for, so a key nothing reads is
//! found, with the key it was probably meant to be. Never inside: what the values mean.

mod value;

pub(super) use value::Value;

use super::problem::{Problem, ProblemKind, near_miss};
use std::cell::RefCell;
use std::ops::Range;
use toml::de::DeTable;

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

    pub(super) fn extend(&self, problems: Vec<Problem>) {
        self.0.borrow_mut().extend(problems);
    }

    pub(super) fn into_list(self) -> Vec<Problem> {
        self.0.into_inner()
    }

    pub(super) fn len(&self) -> usize {
        self.0.borrow().len()
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
        Some(Value::new(key, value, self.log))
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
            let name = key.get_ref().as_ref();
            (key.span(), Value::new(name, value, self.log))
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

/// Names are used for files and addressed on command lines: kept plain.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=64).contains(&text.len())
        && text.chars().all(plain)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}
