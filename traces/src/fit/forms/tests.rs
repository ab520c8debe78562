use super::*;
use crate::dirty::{Run, Tick};

/// A program that writes one set of pages in turn, slowly and then fast, at the same CPU use.
fn two_speeds() -> PageWriteTrace {
    let ticks = (0..400u32).map(|i| {
        let len = if i < 200 { 20 } else { 700 };
        let start = i * 37 % 2000;
        Tick {
            t_ns: u64::from(i + 1) * 100_000_000,
            cpu_ns: 50_000_000,
            runs: vec![Run { start, len }],
        }
    });
    PageWriteTrace {
        title: String::new(),
        pages: 3000,
        interval_ns: 100_000_000,
        ticks: ticks.collect(),
    }
}

#[test]
fn phased_programs_are_not_called_one_class_set() {
    let trace = two_speeds();
    let phases = super::super::phases(&trace);
    assert_eq!(phases.len(), 2, "{phases:?}");
    let found = compare_forms(&trace, &phases).unwrap();
    assert!(found.best != Form::Classes, "{found:?}");
    let error = |i: usize| found.scores[i].mean_error().unwrap();
    assert!(error(0) > 0.3, "{found:?}");
    assert!(error(1) < 0.2 && error(3) < 0.2, "{found:?}");
    let own = found.scores[3].in_sample.iter().filter_map(|w| w.error);
    assert_eq!(
        own.fold(0.0, f64::max),
        0.0,
        "page-level is exact on itself"
    );
}

#[test]
fn nothing_is_said_of_what_cannot_be_split() {
    let mut trace = two_speeds();
    trace.ticks.truncate(6);
    assert_eq!(compare_forms(&trace, &super::super::phases(&trace)), None);
}
