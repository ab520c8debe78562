//! The recorder against a program that says itself which pages it writes, and when.

#![expect(clippy::unwrap_used, reason = "tests: whatever fails fails the test")]

use recorder::{Options, Owner, Place, Recording, can_record_pages, record};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::ops::Range;
use std::time::Duration;

/// What the program says.
#[derive(Default)]
struct Said {
    regions: Vec<(Owner, Range<u64>)>,
    steps: Vec<(Range<u64>, Vec<Place>)>,
}

/// Owners as the recorder numbers them: space 0 is the child before it became the program.
fn owner(text: &str) -> Owner {
    let number = text[1..].parse().unwrap();
    match &text[..1] {
        "s" => Owner::Space(number),
        _ => Owner::Shared(number),
    }
}

fn said(log: &str) -> Said {
    let mut said = Said::default();
    for line in log.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let number = |index: usize| fields[index].parse::<u64>().unwrap();
        match fields[0] {
            "region" => {
                let range = number(2)..number(2) + number(3);
                said.regions.push((owner(fields[1]), range));
            }
            _ => {
                let of = owner(fields[3]);
                let pages = fields[4..].iter().map(|page| Place {
                    owner: of,
                    page: page.parse().unwrap(),
                });
                said.steps.push((number(1)..number(2), pages.collect()));
            }
        }
    }
    said
}

/// Spaces in order of appearance, as the program's log counts them.
fn shift(place: Place) -> Place {
    match place.owner {
        Owner::Space(number) => Place {
            owner: Owner::Space(number.wrapping_sub(1)),
            ..place
        },
        Owner::Shared(_) => place,
    }
}

/// When what a tick holds was written.
fn windows(recording: &Recording) -> Vec<Range<u64>> {
    let starts = std::iter::once(0).chain(recording.scans.iter().map(|scan| scan.start));
    starts
        .zip(&recording.scans)
        .map(|(start, scan)| start..scan.end)
        .collect()
}

fn meets(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start <= b.end && b.start <= a.end
}

#[test]
fn page_sets_are_exact_and_none_is_missed() {
    if let Err(missing) = can_record_pages() {
        eprintln!("SKIPPED page_sets_are_exact_and_none_is_missed: missing {missing}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let command: [OsString; 2] = [
        env!("CARGO_BIN_EXE_known-writer").into(),
        log.clone().into(),
    ];
    let options = Options {
        tick: Duration::from_millis(20),
        fresh_frames: true,
        ..Options::default()
    };
    let recording = record(&command, &options).unwrap();
    let sidecar = &recording.sidecar;
    assert_eq!(sidecar.about.exit_code, Some(0), "{sidecar:?}");
    assert_eq!(sidecar.warnings, Vec::<String>::new());
    let said = said(&std::fs::read_to_string(log).unwrap());
    compare(&said, &recording, 10_000);
}

#[test]
fn of_shared_memory_alone_nothing_is_missed_either() {
    if let Err(missing) = can_record_pages() {
        eprintln!("SKIPPED of_shared_memory_alone_nothing_is_missed_either: missing {missing}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let command: [OsString; 2] = [
        env!("CARGO_BIN_EXE_known-writer").into(),
        log.clone().into(),
    ];
    let options = Options {
        tick: Duration::from_millis(20),
        only_shared: true,
        ..Options::default()
    };
    let recording = record(&command, &options).unwrap();
    let shared = |owner: &Owner| matches!(owner, Owner::Shared(_));
    assert!(recording.places.iter().all(|place| shared(&place.owner)));
    let mut said = said(&std::fs::read_to_string(log).unwrap());
    for (_, pages) in &mut said.steps {
        pages.retain(|place| shared(&place.owner));
    }
    said.regions.retain(|(owner, _)| shared(owner));
    compare(&said, &recording, 100);
}

fn compare(said: &Said, recording: &Recording, at_least: u64) {
    let trace = recording.pages.as_ref().unwrap();
    trace.check().unwrap();
    let windows = windows(recording);
    let mut marked: BTreeMap<Place, Vec<usize>> = BTreeMap::new();
    for (tick, value) in trace.ticks.iter().enumerate() {
        for page in value.pages() {
            let place = shift(recording.places[usize::try_from(page).unwrap()]);
            marked.entry(place).or_default().push(tick);
        }
    }
    let mut writes: BTreeMap<Place, Vec<&Range<u64>>> = BTreeMap::new();
    let (mut missed, mut checked, mut within_one) = (BTreeSet::new(), 0u64, 0u64);
    for (step, (time, pages)) in said.steps.iter().enumerate() {
        let ticks = windows.iter().filter(|window| meets(window, time)).count();
        within_one += u64::from(ticks == 1);
        for place in pages {
            writes.entry(*place).or_default().push(time);
            checked += 1;
            let seen = marked
                .get(place)
                .is_some_and(|ticks| ticks.iter().any(|&tick| meets(&windows[tick], time)));
            if !seen {
                missed.insert((step, *place));
            }
        }
    }
    let mut extra = BTreeSet::new();
    let mut marks = 0u64;
    for (owner, range) in &said.regions {
        for page in range.clone() {
            let place = Place {
                owner: *owner,
                page,
            };
            for &tick in marked.get(&place).into_iter().flatten() {
                marks += 1;
                let written = writes.get(&place).into_iter().flatten();
                if !written.into_iter().any(|time| meets(&windows[tick], time)) {
                    extra.insert((tick, place));
                }
            }
        }
    }
    println!(
        "{} steps ({within_one} within one tick), {checked} page writes, {marks} marks, {} ticks: {} \
         missed, {} not written",
        said.steps.len(),
        trace.ticks.len(),
        missed.len(),
        extra.len()
    );
    println!("{:?}", recording.sidecar.overhead);
    let first =
        |set: &BTreeSet<(usize, Place)>| format!("{:?}", set.iter().take(20).collect::<Vec<_>>());
    assert!(missed.is_empty(), "missed: {}", first(&missed));
    assert!(extra.is_empty(), "not written: {}", first(&extra));
    assert!(checked > at_least, "{checked} writes");
}
