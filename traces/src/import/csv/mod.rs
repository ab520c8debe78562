//! Text in columns, with a mapping from the user: which column is what, in which unit.
//!
//! One row a VM and instant, or one column a VM (`cpu=*:%`). Fields may be quoted; an empty field, NaN,
//! NA and null mean "not recorded". Never inside: guesses what a column might be.

mod mapping;
mod time;
mod unit;

use std::borrow::Cow;

use mapping::Column;
pub use mapping::{Mapping, MappingError};
use unit::{Kind, Unit};

use super::files::stem;
use super::intake::{Intake, Tally, sample};
use super::lines::{Lines, shortened};
use super::stream::Text;
use super::{ImportErrorKind, StreamError};
use crate::store::sample::Values;
use crate::store::series::{Metric, flags};
use crate::units::{round_u32, round_u64};

/// Columns computed here: all but whole millicores and bytes are converted.
pub(super) const DERIVED: [(&str, &str); 8] = [
    ("cpu_milli", CONVERTED),
    ("cpu_min_milli", CONVERTED),
    ("cpu_max_milli", CONVERTED),
    ("cpu_p95_milli", CONVERTED),
    ("net_rx_bytes", CONVERTED),
    ("net_tx_bytes", CONVERTED),
    ("disk_rd_bytes", CONVERTED),
    ("disk_wr_bytes", CONVERTED),
];
const CONVERTED: &str = "converted from the unit stated in the mapping";

/// Reads one file.
pub(super) fn read(
    mapping: &Mapping,
    lines: &mut Text,
    intake: &mut Intake<'_>,
) -> Result<(), StreamError> {
    let mut layout = None;
    while lines.advance()? {
        let line = lines.line();
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let Some(found) = &layout else {
            let (found, header) = Layout::find(mapping, lines)?;
            if !header {
                row(mapping, &found, lines, intake)?;
            }
            layout = Some(found);
            continue;
        };
        row(mapping, found, lines, intake)?;
    }
    if layout.is_none() {
        return Err(lines.error(ImportErrorKind::Empty).into());
    }
    Ok(())
}

/// Where the columns of a file are.
struct Layout {
    separator: char,
    count: usize,
    /// The place of each entry of the mapping; `None` for constants and for all columns.
    places: Vec<Option<usize>>,
    /// One VM a column: the place and the name of each.
    vms: Vec<(usize, String)>,
    /// The VM of a file that names none.
    name: String,
}

impl Layout {
    /// From the first line, and whether that is a header: it is, unless all columns are numbered.
    fn find(mapping: &Mapping, lines: &Text) -> Result<(Self, bool), StreamError> {
        let line = lines.line();
        let separator = separator(line);
        let names = split(line, separator);
        let count = names.len();
        let mut places = Vec::new();
        let mut header = mapping
            .entries
            .iter()
            .any(|e| matches!(e.column, Column::Every));
        for entry in &mapping.entries {
            places.push(match &entry.column {
                Column::Named(column) => {
                    header = true;
                    let place = names.iter().position(|name| name.trim() == column);
                    let Some(place) = place else {
                        let column = column.clone();
                        let found = names.join(", ").chars().take(200).collect();
                        return Err(lines
                            .error(ImportErrorKind::NoSuchColumn { column, found })
                            .into());
                    };
                    Some(place)
                }
                Column::Numbered(number) if *number <= count => Some(number - 1),
                Column::Numbered(number) => {
                    let column = format!("#{number}");
                    let found = format!("{count} columns");
                    return Err(lines
                        .error(ImportErrorKind::NoSuchColumn { column, found })
                        .into());
                }
                Column::Constant(_) | Column::Every => None,
            });
        }
        let taken = |place: usize| places.contains(&Some(place));
        let vms = (0..count).filter(|&place| mapping.is_wide() && !taken(place));
        let vms = vms
            .map(|place| (place, names[place].trim().to_string()))
            .collect();
        let layout = Self {
            separator,
            count,
            places,
            vms,
            name: stem(lines.file()),
        };
        Ok((layout, header))
    }
}

/// The likeliest separator of a line.
fn separator(line: &str) -> char {
    let count = |separator: char| line.matches(separator).count();
    let mut best = ',';
    for candidate in [';', '\t', '|'] {
        if count(candidate) > count(best) {
            best = candidate;
        }
    }
    best
}

/// The fields of a line; those in double quotes may hold separators and doubled quotes.
fn split(line: &str, separator: char) -> Vec<Cow<'_, str>> {
    if !line.contains('"') {
        return line.split(separator).map(Cow::Borrowed).collect();
    }
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if quoted && chars.peek() == Some(&'"') => {
                field.push('"');
                chars.next();
            }
            '"' => quoted = !quoted,
            char if char == separator && !quoted => {
                fields.push(Cow::Owned(std::mem::take(&mut field)));
            }
            char => field.push(char),
        }
    }
    fields.push(Cow::Owned(field));
    fields
}

/// What a line says, before it is known of whom.
#[derive(Clone, Default)]
struct Line {
    t_ms: i64,
    dur_ms: Option<u32>,
    vm: Option<String>,
    cores: Option<f64>,
    mem_bytes: Option<u64>,
    values: Values,
    /// CPU as shares of the VM, to be multiplied by its cores.
    shares: Vec<(Metric, f64)>,
}

fn row(
    mapping: &Mapping,
    layout: &Layout,
    lines: &Text,
    intake: &mut Intake<'_>,
) -> Result<(), StreamError> {
    let text = lines.line();
    let trimmed = text.strip_suffix(layout.separator);
    let mut fields = split(text, layout.separator);
    // A separator at the end of a line adds no field.
    if fields.len() == layout.count + 1 && trimmed.is_some() {
        fields.pop();
    }
    let bad = |kind| lines.error(kind);
    if fields.len() != layout.count {
        let (found, expected) = (fields.len(), layout.count);
        return Err(bad(ImportErrorKind::Fields { found, expected }).into());
    }
    let line = parse(mapping, layout, &fields).map_err(bad)?;
    if !mapping.is_wide() {
        let id = line.vm.clone().unwrap_or_else(|| layout.name.clone());
        return put(&id, line, mapping, lines, intake);
    }
    let (metric, unit) = mapping.wide_unit();
    for (place, name) in &layout.vms {
        let Some(value) = mapping.number(name, &fields[*place]).map_err(bad)? else {
            continue;
        };
        let mut line = line.clone();
        line.set(metric, unit, value);
        put(name, line, mapping, lines, intake)?;
    }
    Ok(())
}

fn parse(
    mapping: &Mapping,
    layout: &Layout,
    fields: &[Cow<'_, str>],
) -> Result<Line, ImportErrorKind> {
    let mut line = Line::default();
    for (entry, place) in mapping.entries.iter().zip(&layout.places) {
        let text = match (&entry.column, place) {
            (Column::Constant(value), _) => value.as_str(),
            (_, Some(place)) => fields[*place].trim(),
            (_, None) => continue,
        };
        let column = entry.column.to_string();
        match entry.kind {
            Kind::Time => line.t_ms = time::instant(&column, text, entry.unit)?,
            Kind::Vm => line.vm = Some(text.to_string()),
            kind => {
                let Some(value) = mapping.number(&column, text)? else {
                    continue;
                };
                match kind {
                    Kind::Duration => {
                        line.dur_ms = Some(time::length(&column, value, entry.unit)?);
                    }
                    Kind::Cores => line.cores = Some(value).filter(|&cores| cores > 0.0),
                    Kind::MemSize => {
                        line.mem_bytes = Some(round_u64(value * entry.unit.factor()));
                    }
                    Kind::Metric(metric) => line.set(metric, entry.unit, value),
                    Kind::Time | Kind::Vm => {}
                }
            }
        }
    }
    Ok(line)
}

impl Line {
    fn set(&mut self, metric: Metric, unit: Unit, value: f64) {
        if unit.is_share_of_vm() {
            self.shares.push((metric, value * unit.factor()));
        } else {
            let value = round_u64(value * unit.factor());
            self.values.set(metric, Some(value));
        }
    }
}

fn put<R: std::io::BufRead>(
    id: &str,
    line: Line,
    mapping: &Mapping,
    lines: &Lines<R>,
    intake: &mut Intake<'_>,
) -> Result<(), StreamError> {
    if id.is_empty() {
        return Err(lines
            .error(ImportErrorKind::Column {
                column: "vm".into(),
                value: "".into(),
                expected: "the name of a VM",
            })
            .into());
    }
    let Some(vm) = intake.vm(id) else {
        return Ok(());
    };
    let known = intake.get(vm);
    if line.cores.is_some() {
        known.cores = line.cores;
        let vcpus = line.cores.map(|cores| round_u32(cores.ceil()));
        known.meta.vcpus = known.meta.vcpus.max(vcpus);
    }
    known.meta.mem_bytes = known.meta.mem_bytes.max(line.mem_bytes);
    let cores = known.cores;
    if !line.shares.is_empty() && cores.is_none() && !known.described {
        intake.count(Tally::UnknownCores);
    }
    intake.get(vm).described = true;
    let mut values = line.values;
    let mut over = 0;
    for (metric, share) in line.shares {
        values.set(
            metric,
            Some(round_u64(share * cores.unwrap_or(1.0) * 1000.0)),
        );
        if metric == Metric::CpuMilli && share > 1.0 {
            over = flags::OVER_CAPACITY;
        }
    }
    if let Some(dur_ms) = line.dur_ms {
        mapping.rates_to_bytes(&mut values, dur_ms);
    } else if mapping.has_lengths() {
        return Err(lines
            .error(ImportErrorKind::Column {
                column: "duration".into(),
                value: "".into(),
                expected: "a length",
            })
            .into());
    }
    let mut sample = sample(vm, line.t_ms, line.dur_ms.unwrap_or(1), over, &[]);
    sample.values = values;
    intake.sample(sample)
}

/// An error of a column the user named.
fn wrong(column: &str, value: &str, expected: &'static str) -> ImportErrorKind {
    ImportErrorKind::Column {
        column: column.into(),
        value: shortened(value).into(),
        expected,
    }
}
