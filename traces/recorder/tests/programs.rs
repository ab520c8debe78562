//! How programs begin and end under the recorder.

use recorder::{Options, RecordError, Recording, can_record_pages, record};
use std::ffi::OsString;
use std::time::Duration;

fn available(test: &str) -> bool {
    can_record_pages()
        .inspect_err(|missing| eprintln!("SKIPPED {test}: missing {missing}"))
        .is_ok()
}

fn run(command: &[&str], options: &Options) -> Result<Recording, RecordError> {
    let command: Vec<OsString> = command.iter().map(OsString::from).collect();
    record(&command, options)
}

#[test]
fn a_command_that_does_not_exist_is_named() {
    if !available("a_command_that_does_not_exist_is_named") {
        return;
    }
    let error = run(&["/no/such/program"], &Options::default()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("/no/such/program") && text.contains("No such file"),
        "{text}"
    );
    assert!(matches!(
        run(&[], &Options::default()),
        Err(RecordError::NoCommand)
    ));
}

#[test]
fn a_program_is_ended_when_its_time_is_over() {
    if !available("a_program_is_ended_when_its_time_is_over") {
        return;
    }
    let options = Options {
        duration: Some(Duration::from_millis(350)),
        ..Options::default()
    };
    let recording = run(&["sleep", "600"], &options).unwrap();
    let sidecar = recording.sidecar;
    assert_eq!(sidecar.about.exit_code, None, "by a signal");
    assert!((3..=4).contains(&sidecar.totals.ticks), "{sidecar:?}");
    assert!(recording.pages.unwrap().ticks[0].page_count() > 10);
}

#[test]
fn what_a_command_leaves_behind_is_recorded_to_its_end() {
    if !available("what_a_command_leaves_behind_is_recorded_to_its_end") {
        return;
    }
    let script = "(sleep 0.4; ls / >/dev/null) & exit 3";
    let recording = run(&["sh", "-c", script], &Options::default()).unwrap();
    let totals = &recording.sidecar.totals;
    assert_eq!(recording.sidecar.about.exit_code, Some(3));
    assert!(totals.duration_ns > 400_000_000, "{totals:?}");
    assert_eq!(
        (totals.processes, totals.images),
        (3, 3),
        "sh; its child, which becomes ls; sleep"
    );
    assert_eq!(totals.spaces_unwatched, 0);
}

#[test]
fn a_signal_the_program_gets_is_its_own() {
    if !available("a_signal_the_program_gets_is_its_own") {
        return;
    }
    let script = "trap 'exit 7' USR1; kill -USR1 $$; sleep 5";
    let recording = run(&["sh", "-c", script], &Options::default()).unwrap();
    assert_eq!(recording.sidecar.about.exit_code, Some(7));
    // Stopped and continued by its child, as job control does.
    let script = "(sleep 0.2; kill -CONT $$) & kill -STOP $$; exit 5";
    let recording = run(&["sh", "-c", script], &Options::default()).unwrap();
    assert_eq!(recording.sidecar.about.exit_code, Some(5));
    assert!(recording.sidecar.totals.duration_ns > 200_000_000);
}
