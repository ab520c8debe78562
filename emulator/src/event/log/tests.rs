//! Logs written, cut, damaged, and read again.

use super::*;
use crate::ids::HostId;
use std::fs;

fn start() -> Event {
    let kind = EventKind::RunStarted {
        schema: SCHEMA,
        version: "0".into(),
        started_unix_s: 0,
        tag: "measured".into(),
    };
    Event {
        mono_ns: 0,
        trace_ns: 0,
        kind,
    }
}

fn lost(n: u32) -> Event {
    let kind = EventKind::HostLost { host: HostId(n) };
    Event {
        mono_ns: u64::from(n),
        trace_ns: 0,
        kind,
    }
}

fn write(dir: &Path, rotate: u64, n: u32) {
    let mut log = EventLog::with_rotation(dir, rotate).unwrap();
    log.append(&start()).unwrap();
    (0..n).for_each(|i| log.append(&lost(i)).unwrap());
    log.finish().unwrap();
}

fn read(dir: &Path) -> (Vec<Event>, bool) {
    let mut reader = read_events(dir).unwrap();
    let events = reader.by_ref().collect::<Result<_, _>>().unwrap();
    (events, reader.cut())
}

#[test]
fn rotated_files_read_back_in_order() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 200, 300);
    assert!(log_files(dir.path()).len() > 3);
    let (events, cut) = read(dir.path());
    assert!(!cut);
    assert_eq!(events[0], start());
    assert_eq!(events[1..], (0..300).map(lost).collect::<Vec<_>>());
}

#[test]
fn cut_tail_yields_all_whole_events_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), ROTATE_BYTES, 300);
    let file = file_name(dir.path(), 0);
    let bytes = fs::read(&file).unwrap();
    let mut longest = 0;
    for keep in (20..bytes.len() - 1).step_by(37) {
        fs::write(&file, &bytes[..keep]).unwrap();
        let (events, cut) = read(dir.path());
        assert!(cut, "cut at {keep} went unnoticed");
        assert!(events.iter().skip(1).zip(0..).all(|(e, n)| *e == lost(n)));
        longest = longest.max(events.len());
    }
    assert!(longest > 290, "only {longest} events survive a small cut");
}

#[test]
fn unfinished_log_holds_every_landmark() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = EventLog::create(dir.path()).unwrap();
    log.append(&start()).unwrap();
    (0..10).for_each(|i| log.append(&lost(i)).unwrap());
    // As `kill -9`: no destructor runs.
    std::mem::forget(log);
    let (events, cut) = read(dir.path());
    assert_eq!((events.len(), cut), (11, true));
}

#[test]
fn a_cut_file_before_the_last_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 200, 300);
    let first = file_name(dir.path(), 0);
    let bytes = fs::read(&first).unwrap();
    fs::write(&first, &bytes[..bytes.len() - 9]).unwrap();
    let outcome: Result<Vec<_>, _> = read_events(dir.path()).unwrap().collect();
    assert!(
        matches!(outcome, Err(LogError::CutInside { .. })),
        "{outcome:?}"
    );
}

#[test]
fn other_schemas_and_headless_logs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = EventLog::create(dir.path()).unwrap();
    let mut event = start();
    if let EventKind::RunStarted { schema, .. } = &mut event.kind {
        *schema = SCHEMA + 1;
    }
    log.append(&event).unwrap();
    log.finish().unwrap();
    let first = read_events(dir.path()).unwrap().next().unwrap();
    assert!(matches!(first, Err(LogError::Schema { got, .. }) if got == SCHEMA + 1));

    let dir = tempfile::tempdir().unwrap();
    let mut log = EventLog::create(dir.path()).unwrap();
    log.append(&lost(1)).unwrap();
    log.finish().unwrap();
    let first = read_events(dir.path()).unwrap().next().unwrap();
    assert!(matches!(first, Err(LogError::NoStart { .. })));
}

#[test]
fn a_log_is_never_written_over() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), ROTATE_BYTES, 1);
    assert!(matches!(
        EventLog::create(dir.path()),
        Err(LogError::Exists { .. })
    ));
}
