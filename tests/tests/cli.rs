//! The command line: what it refuses, in which words, with which exit code (DESIGN §9).

use migbed_tests::{DAY, Finished, PAIR, Sandbox, helper, missing, skip, trace, turn};

/// Exit code 2, and every one of these words on standard error.
fn refused(finished: &Finished, words: &[&str]) {
    assert_eq!(finished.code, Some(2), "{finished:?}");
    for word in words {
        assert!(
            finished.stderr.contains(word),
            "no `{word}` in:\n{}",
            finished.stderr
        );
    }
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
}

/// The line of `text` that holds `part`, as messages give it.
fn line_of(text: &str, part: &str) -> String {
    let mut numbered = text.lines().zip(1..);
    let spot = numbered.find(|(line, _)| line.contains(part));
    let (_, number) = spot.expect("the text holds the part");
    format!("bad.toml:{number}")
}

/// Checks and runs the scenario: both must refuse, in the same words.
fn both_refuse(text: &str, spot: &str, words: &[&str]) {
    let sandbox = Sandbox::new();
    let path = sandbox.file("bad.toml", text);
    let line = line_of(text, spot);
    let words: Vec<&str> = words.iter().copied().chain([line.as_str()]).collect();
    let checked = sandbox.run(&["check", &path]);
    refused(&checked, &words);
    let run = sandbox.run(&["run", &path, "--out", "x"]);
    refused(&run, &words);
    assert!(
        !sandbox.work().join("x").exists(),
        "a refused run makes no directory"
    );
}

#[test]
fn an_unknown_key_is_refused_with_the_one_probably_meant() {
    let text = PAIR.replace("cores = 2", "cors = 2");
    both_refuse(&text, "cors", &["cors", "cores"]);
}

#[test]
fn a_wrong_unit_is_refused_with_what_is_accepted() {
    let text = PAIR.replace("\"1Gbit\"", "\"125MB/s\"");
    both_refuse(&text, "125MB/s", &["rate", "125MB/s", "\"200Mbit\""]);
    let text = PAIR.replace("ram = \"64MiB\"", "ram = \"64Mbit\"");
    both_refuse(&text, "64Mbit", &["ram", "\"512MiB\""]);
    let text = PAIR.replace("\"10s\"", "10");
    both_refuse(&text, "duration", &["duration", "\"300ms\""]);
}

#[test]
fn vms_that_fit_nowhere_are_refused() {
    let text = PAIR.replace(
        "ram = \"64MiB\"\nhost = \"h1\"",
        "ram = \"2GiB\"\nhost = \"h1\"",
    );
    both_refuse(&text, "\"vm\"", &["`vm`", "`h1`", "2 GiB", "1 GiB"]);
    let text = PAIR.replace("ram = \"64MiB\"\nhost = \"h1\"", "ram = \"2GiB\"");
    both_refuse(&text, "\"vm\"", &["`vm`", "2 GiB"]);
}

#[test]
fn a_host_that_is_not_there_is_refused() {
    let text = PAIR.replace("host = \"h1\"", "host = \"h3\"");
    both_refuse(&text, "h3", &["h3", "h1"]);
}

#[test]
fn a_trace_that_is_not_there_is_refused() {
    both_refuse(DAY, "redis.mbpw", &["redis.mbpw"]);
}

#[test]
fn a_trace_cut_in_the_middle_is_refused() {
    let sandbox = Sandbox::new();
    let path = sandbox.file("bad.toml", DAY);
    let whole = trace("redis.mbpw");
    // In the header, among the blocks, and just short of the end.
    for cut in [3, 20, whole.len() / 2, whole.len() - 1] {
        sandbox.file("redis.mbpw", &whole[..cut]);
        let words = ["redis.mbpw", &line_of(DAY, "redis.mbpw")];
        refused(&sandbox.run(&["check", &path]), &words);
        refused(&sandbox.run(&["run", &path, "--out", "x"]), &words);
    }
    // One bit in the middle is as bad.
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 4;
    sandbox.file("redis.mbpw", &changed);
    refused(&sandbox.run(&["check", &path]), &["redis.mbpw"]);
}

#[test]
fn a_recording_cut_in_the_middle_is_refused() {
    let test = "a_recording_cut_in_the_middle_is_refused";
    let recording = "../shared/traces/recorded-page-writes/rustc-a.csv.gz";
    let Ok(whole) = std::fs::read(migbed_tests::repository().join(recording)) else {
        skip(test, "shared/traces beside the repository");
        return;
    };
    let sandbox = Sandbox::new();
    let text = DAY
        .replace("redis.mbpw", "rustc-a.csv.gz")
        .replace("256MiB", "512MiB");
    let path = sandbox.file("bad.toml", &text);
    sandbox.file("rustc-a.csv.gz", &whole);
    sandbox.run(&["check", &path]).expect_code(0);
    sandbox.file("rustc-a.csv.gz", &whole[..whole.len() / 2]);
    refused(&sandbox.run(&["check", &path]), &["rustc-a.csv.gz"]);
    let shown = sandbox.input().join("rustc-a.csv.gz");
    let shown = sandbox.run(&["trace", "show", shown.to_str().unwrap()]);
    refused(&shown, &["rustc-a.csv.gz"]);
}

#[test]
fn text_that_is_no_scenario_is_refused() {
    let sandbox = Sandbox::new();
    for (name, content) in [
        ("empty.toml", b"".as_slice()),
        ("open.toml", b"name = \"x"),
        ("binary.toml", b"\xff\xfe\x00"),
    ] {
        let path = sandbox.file(name, content);
        refused(&sandbox.run(&["check", &path]), &[name]);
    }
    refused(&sandbox.run(&["check", "nowhere.toml"]), &["nowhere.toml"]);
    refused(&sandbox.run(&["run", "nowhere.toml"]), &["nowhere.toml"]);
}

#[test]
fn what_is_no_run_is_refused() {
    let sandbox = Sandbox::new();
    for command in ["report", "rerun"] {
        refused(&sandbox.run(&[command, "nowhere"]), &["nowhere"]);
    }
    refused(&sandbox.run(&["migrate", "--link", "5"]), &["--link"]);
    refused(&sandbox.run(&["migrate", "--ram", "5GB/s"]), &["--ram"]);
    let too_much = ["migrate", "--ram", "64MiB", "--resident", "64MiB"];
    refused(&sandbox.run(&too_much), &["--ram", "--resident"]);
    refused(&sandbox.run(&["fly"]), &["fly"]);
}

#[test]
fn check_shows_what_a_scenario_resolves_to() {
    let sandbox = Sandbox::new();
    let path = sandbox.file("pair.toml", PAIR);
    let text = sandbox.run(&["check", &path]).expect_code(0).stdout;
    for word in ["h1", "h2", "vm", "1Gbit"] {
        assert!(text.replace(' ', "").contains(word), "{word} in {text}");
    }
    let plan = sandbox
        .run(&["check", &path, "--explain"])
        .expect_code(0)
        .stdout;
    assert!(plan.contains("veth"), "{plan}");
    let resolved = sandbox
        .run(&["check", &path, "--json"])
        .expect_code(0)
        .json();
    assert_eq!(resolved["hosts"].as_array().unwrap().len(), 2);
    assert_eq!(resolved["vms"][0]["ram_bytes"], 64 << 20);
}

#[test]
fn the_quickstart_is_a_valid_scenario() {
    let sandbox = Sandbox::new();
    let path = migbed_tests::repository().join("examples/quickstart.toml");
    let resolved = sandbox.run(&["check", path.to_str().unwrap(), "--json"]);
    let resolved = resolved.expect_code(0).json();
    // What the issue promises of it.
    assert!(resolved["hosts"].as_array().unwrap().len() >= 6);
    assert!(resolved["vms"].as_array().unwrap().len() >= 30);
    assert!(!resolved["flows"].as_array().unwrap().is_empty());
}

#[test]
fn help_names_every_command() {
    let sandbox = Sandbox::new();
    let help = sandbox.run(&["--help"]).expect_code(0).stdout;
    for command in [
        "run", "rerun", "check", "migrate", "report", "validate", "trace", "doctor",
    ] {
        assert!(
            help.contains(&format!("\n  {command} ")),
            "{command} in {help}"
        );
        sandbox.run(&[command, "--help"]).expect_code(0);
    }
    for hidden in ["\n  machine ", "\n  agent "] {
        assert!(!help.contains(hidden), "{help}");
        // Started by hand they say so, and end.
        let alone = sandbox.run(&[hidden.trim()]);
        assert_ne!(alone.code, Some(0));
        assert!(
            alone.stderr.contains("started by migbed itself"),
            "{}",
            alone.stderr
        );
    }
}

#[test]
fn doctor_agrees_with_its_exit_code() {
    let sandbox = Sandbox::new();
    let code = if missing().is_empty() { 0 } else { 3 };
    let doctor = sandbox.run(&["doctor"]).expect_code(code);
    assert!(doctor.stdout.contains("namespaces"), "{}", doctor.stdout);
    sandbox.run(&["doctor", "--json"]).expect_code(code);
}

#[test]
fn a_machine_without_namespaces_ends_in_exit_3_with_the_remedy() {
    let Some(_turn) = turn("a_machine_without_namespaces_ends_in_exit_3_with_the_remedy") else {
        return;
    };
    let sandbox = Sandbox::new();
    let path = sandbox.file("pair.toml", PAIR);
    let migbed = migbed_tests::binary().to_str().unwrap();
    for arguments in [
        vec!["run", &path, "--out", "x"],
        vec![
            "migrate",
            "--ram",
            "64MiB",
            "--resident",
            "1MiB",
            "--working-set",
            "1MiB",
        ],
        vec!["doctor"],
    ] {
        let all: Vec<&str> = ["without-namespaces", migbed]
            .into_iter()
            .chain(arguments)
            .collect();
        let finished = sandbox
            .start_command(sandbox.command(&helper(), &all))
            .finish();
        assert_eq!(finished.code, Some(3), "{finished:?}");
        let said = format!("{}{}", finished.stdout, finished.stderr);
        assert!(said.contains("namespaces"), "{said}");
        assert!(said.contains("max_user_namespaces="), "the remedy: {said}");
    }
    assert!(
        !sandbox.work().join("x").exists(),
        "refused before anything is made"
    );
}
