//! What writes a VM's pages: recordings, classes, phases and their variation.

use super::content::content;
use super::guests::{Traces, trace};
use crate::scenario::problem::ProblemKind;
use crate::scenario::raw::{Table, Value};
use crate::scenario::{FittedForm, ProfileWrites, WriteSource};
use std::ops::RangeInclusive;
use traces::class::{
    ClassPhase, Coupling, Locality, PageClass, PhasedClasses, Scan, Variation, VariationError,
};
use traces::synth::Marginal;

const FORMS: &[(&str, FittedForm)] = &[
    ("one-set", FittedForm::OneSet),
    ("phases", FittedForm::Phases),
    ("best", FittedForm::Best),
];
const COUPLINGS: &[(&str, Coupling)] = &[("cpu", Coupling::Cpu), ("time", Coupling::Time)];
/// How messages call the localities; `runs` is a table with its number of pages.
const LOCALITIES: &[(&str, Locality)] =
    &[("scatter", Locality::Scatter), ("sweep", Locality::Sweep)];
/// Beyond 1e6 accesses a page and second a page is accessed at every harvest there could be.
const RATES: RangeInclusive<f64> = 0.0..=1e6;
/// Phases of a VM at most: each is looked at when a page's version is asked for.
const PHASES_MAX: usize = 64;
/// Default correlation from step to step and default step: what the rounds of measured migrations show
/// (the rule of the trace notes: coefficient of variation 0.3, correlation 0.7 at 1 s).
const CORRELATION: f64 = 0.7;
const STEP_NS: u64 = 1_000_000_000;

pub(super) fn writes(value: &Value<'_>, traces: &Traces) -> WriteSource {
    if value.as_text() == Some("idle") {
        return WriteSource::Idle;
    }
    let read = |table: &Table<'_>| {
        let pages = table
            .get("trace")
            .map(|v| WriteSource::Pages(trace(&v, traces)));
        let fitted = table.get("fitted").map(|v| {
            let form = table.get("form").and_then(|v| v.word("form", FORMS));
            form.unwrap_or_default().of(trace(&v, traces))
        });
        let classes = table.get("classes").map(|v| {
            let variation = table.get("variation").and_then(|v| variation(&v));
            one_set(classes(&v, false), variation)
        });
        let phases = table.get("phases").map(|v| phases(&v));
        let profile = profile(table);
        let mut given = [pages, fitted, classes, phases, profile]
            .into_iter()
            .flatten();
        if let (Some(one), None) = (given.next(), given.next()) {
            return one;
        }
        value.note(ProblemKind::OneOf {
            key: "writes".into(),
            choices: "`trace` (a name), `fitted` (a name), `classes` and `phases` (lists) and `profile` (a name)",
        });
        WriteSource::Idle
    };
    let expected = "\"idle\", { trace = \"redis\" }, { fitted = \"redis\" }, { classes = [{ … }] }, \
         { phases = [{ … }] } or { profile = \"kv-write\" }";
    value
        .table("writes", expected, read)
        .unwrap_or(WriteSource::Idle)
}

const MARGINALS: &[(&str, Marginal)] =
    &[("profile", Marginal::Profile), ("fleet", Marginal::Fleet)];

/// A built-in profile, with what may be said beside it.
fn profile(table: &Table<'_>) -> Option<WriteSource> {
    let name = table.get("profile");
    let marginal = table
        .get("marginal")
        .and_then(|v| v.word("marginal", MARGINALS));
    let used_bytes = table.get("used").and_then(|v| v.size_bytes());
    let seed = table.get("seed").and_then(|v| v.small(0..=u32::MAX));
    let value = name?;
    let profile = value.text().unwrap_or_default().to_owned();
    if traces::profile::named(&profile).is_none() {
        value.unknown_name("profile", &profile, traces::profile::names());
    }
    Some(WriteSource::Profile(ProfileWrites {
        profile,
        marginal: marginal.unwrap_or_default(),
        used_bytes,
        seed: seed.map_or(1, u64::from),
    }))
}

/// A set that varies is the only phase of a program.
fn one_set(classes: Vec<PageClass>, variation: Option<Variation>) -> WriteSource {
    if variation.is_none() {
        return WriteSource::Classes(classes);
    }
    WriteSource::Phases(phased(vec![ClassPhase {
        length_ns: STEP_NS,
        first_page: 0,
        classes,
        variation,
    }]))
}

/// Phases follow the clock of their classes; that these agree is the memory's to check, which knows it
/// of every source of phases.
fn phased(phases: Vec<ClassPhase>) -> PhasedClasses {
    let mut classes = phases.iter().flat_map(|phase| &phase.classes);
    PhasedClasses {
        coupling: classes.next().map_or(Coupling::Cpu, |class| class.coupling),
        phases,
    }
}

fn phases(value: &Value<'_>) -> WriteSource {
    let list = value
        .list("a list of phases: [{ length = \"20s\", classes = [{ pages = 1000, rate = 0.5 }] }]")
        .unwrap_or_default();
    if list.is_empty() || list.len() > PHASES_MAX {
        let found = format!("{} phases", list.len());
        value.out_of_bounds(found, format!("1 to {PHASES_MAX} phases"));
    }
    let phase = |value: &Value<'_>| value.table("the phase", "a table", phase).flatten();
    WriteSource::Phases(phased(list.iter().filter_map(phase).collect()))
}

fn phase(table: &Table<'_>) -> Option<ClassPhase> {
    let length_ns = table
        .need("length", "length = \"20s\"")
        .and_then(|v| v.some_time_ns());
    let first_page = table
        .get("first_page")
        .and_then(|v| v.small(0..=u32::MAX))
        .unwrap_or(0);
    // A phase in which nothing is written has an empty list.
    let classes = table
        .need("classes", "classes = [{ pages = 1000, rate = 0.5 }]")
        .map(|v| classes(&v, true));
    let variation = table.get("variation").and_then(|v| variation(&v));
    Some(ClassPhase {
        length_ns: length_ns?,
        first_page,
        classes: classes?,
        variation,
    })
}

fn variation(value: &Value<'_>) -> Option<Variation> {
    let read = |table: &Table<'_>| {
        let cv = table
            .need("cv", "cv = 0.3")
            .and_then(|v| v.number(0.0..=10.0));
        let correlation = table
            .get("correlation")
            .map_or(Some(CORRELATION), |v| v.number(0.0..=0.999));
        let step_ns = table
            .get("step")
            .map_or(Some(STEP_NS), |v| v.some_time_ns());
        Some(Variation::LogNormal {
            cv: cv?,
            correlation: correlation?,
            step_ns: step_ns?,
        })
    };
    let found = value
        .table("variation", "a table: { cv = 0.3 }", read)
        .flatten()?;
    match found.check() {
        Ok(()) => Some(found),
        Err(VariationError::Length { step_ns, .. }) => {
            value.out_of_bounds(
                format!("a step of {step_ns} ns"),
                "a step of an hour or less",
            );
            None
        }
        // What else it checks has been checked number by number.
        Err(_) => None,
    }
}

/// Classes, of which there must be one where nothing else can be meant.
fn classes(value: &Value<'_>, may_be_none: bool) -> Vec<PageClass> {
    let list = value
        .list("a list of classes: [{ pages = 1000, rate = 0.5 }]")
        .unwrap_or_default();
    if list.is_empty() && !may_be_none {
        value.out_of_bounds("empty", "at least one class, or writes = \"idle\"");
    }
    let class = |value: &Value<'_>| value.table("the class", "a table", class).flatten();
    list.iter().filter_map(class).collect()
}

fn scan(value: &Value<'_>) -> Option<Scan> {
    let read = |table: &Table<'_>| {
        let time = |key, example| table.need(key, example)?.some_time_ns();
        let every_ns = time("every", "every = \"1s\"");
        let after_ns = time("after", "after = \"5ms\"");
        Some(Scan {
            every_ns: every_ns?,
            after_ns: after_ns?,
        })
    };
    value
        .table("scan", "a table: { every = \"1s\", after = \"5ms\" }", read)
        .flatten()
}

fn class(table: &Table<'_>) -> Option<PageClass> {
    let pages = table
        .need("pages", "pages = 1000")
        .and_then(|v| v.small(1..=u32::MAX));
    let rate = table
        .need("rate", "rate = 0.5")
        .and_then(|v| v.number(RATES));
    let read_rate = table
        .get("read_rate")
        .map_or(Some(0.0), |v| v.number(RATES));
    let scan = table.get("scan").map_or(Some(None), |v| scan(&v).map(Some));
    let coupling = table
        .get("coupling")
        .and_then(|v| v.word("coupling", COUPLINGS));
    let locality = match table.get("locality") {
        Some(value) if value.is_table() => {
            let read = |table: &Table<'_>| table.need("runs", "runs = 8")?.small(1..=u32::MAX);
            value
                .table("locality", "a table", read)
                .flatten()
                .map(|pages| Locality::Runs { pages })
        }
        Some(value) => value.word("locality", LOCALITIES),
        None => None,
    };
    let content = table.get("content").map(|v| content(&v));
    Some(PageClass {
        content,
        read_rate: read_rate?,
        scan: scan?,
        coupling: coupling.unwrap_or_default(),
        locality: locality.unwrap_or_default(),
        ..PageClass::new(pages?, rate?)
    })
}
