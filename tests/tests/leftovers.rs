//! Nothing is left behind, however a run ends: processes, namespaces, devices, files.

use migbed::event::EventKind;
use migbed::migration::record::{Owner, Phase, Status};
use migbed_tests::{
    Before, Finished, PAIR, Running, SLOW, Sandbox, Tree, helper, json_file, records, seen, turn,
};
use nix::sys::signal::Signal;

fn start(sandbox: &Sandbox, scenario: &str) -> Running {
    let path = sandbox.file("scenario.toml", scenario);
    sandbox.start_scenario(&path, &[])
}

/// Runs `SLOW` until its migration sends pages, breaks it, and looks at what is left.
fn broken(test: &str, hurt: impl Fn(&Tree)) -> Option<(Finished, Sandbox)> {
    let _turn = turn(test)?;
    let sandbox = Sandbox::new();
    let before = Before::now();
    let mut running = start(&sandbox, SLOW);
    let (tree, processes, namespaces) = running.holds(2);
    // migbed's user and this test share one; the machine and two agents have one each.
    assert_eq!(namespaces.len(), 3, "{namespaces:?}");
    running.until(&sandbox.work().join("out"), |kind| {
        matches!(
            kind,
            EventKind::MigrationPhase {
                phase: Phase::Rounds,
                ..
            }
        )
    });
    hurt(&tree);
    let finished = running.finish();
    before.nothing_left(&sandbox, &processes, &namespaces, &["out"]);
    Some((finished, sandbox))
}

/// The other tests of this file are worth what this one shows: what is left is seen.
#[test]
fn what_is_left_is_seen() {
    let Some(_turn) = turn("what_is_left_is_seen") else {
        return;
    };
    let sandbox = Sandbox::new();
    let before = Before::now();
    let tower = sandbox.start_command(sandbox.command(&helper(), &["parent"]));
    let (tree, processes, namespaces) = tower.holds(2);
    std::fs::write(sandbox.temporary().join("forgotten"), "").unwrap();
    std::fs::write(sandbox.work().join("core"), "").unwrap();
    let left = before.left(&sandbox, &processes, &namespaces, &["out"]);
    let count = |what: &str| left.iter().filter(|left| left.starts_with(what)).count();
    assert_eq!(count("file"), 2, "{left:#?}");
    assert!(count("process") >= tree.all().len(), "{left:#?}");
    // Not by its processes' numbers alone: also by their mark, or by the namespace they are in.
    let unknown = before.left(&sandbox, &Default::default(), &namespaces, &["out"]);
    assert_eq!(unknown.len() - 2, tree.all().len(), "{unknown:#?}");
}

#[test]
fn nothing_is_left_after_a_run() {
    let Some(_turn) = turn("nothing_is_left_after_a_run") else {
        return;
    };
    let sandbox = Sandbox::new();
    let before = Before::now();
    let scenario = format!("{PAIR}\n[[migrations]]\nat = \"5s\"\nvm = \"vm\"\nto = \"h2\"\n");
    let running = start(&sandbox, &scenario);
    let (_, processes, namespaces) = running.holds(2);
    let _ = running.finish().expect_code(0);
    before.nothing_left(&sandbox, &processes, &namespaces, &["out"]);
    assert!(records(&sandbox.work().join("out"))[0].verified);
}

#[test]
fn nothing_is_left_after_an_interrupt_and_results_say_so() {
    let test = "nothing_is_left_after_an_interrupt_and_results_say_so";
    let Some((finished, sandbox)) = broken(test, |tree| tree.migbed.signal(Signal::SIGINT)) else {
        return;
    };
    let _ = finished.expect_code(130);
    let out = sandbox.work().join("out");
    let header = json_file(&out.join("run.json"));
    assert_eq!(header["outcome"], "interrupted");
    let report = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(report.contains("interrupted"));
    let records = records(&out);
    assert_eq!(records.len(), 1);
    assert_eq!(
        (records[0].status, records[0].owner),
        (Status::Cancelled, Owner::Source)
    );
}

#[test]
fn two_interrupts_end_at_once() {
    let test = "two_interrupts_end_at_once";
    let Some((finished, _)) = broken(test, |tree| {
        tree.migbed.signal(Signal::SIGTERM);
        // It may have ended in order before it sees the second one.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(tree.migbed.pid), Signal::SIGINT);
    }) else {
        return;
    };
    let _ = finished.expect_code(130);
}

#[test]
fn nothing_is_left_after_migbed_is_killed() {
    let test = "nothing_is_left_after_migbed_is_killed";
    let Some((finished, sandbox)) = broken(test, |tree| tree.migbed.kill()) else {
        return;
    };
    assert_eq!(finished.code, None);
    // What it had written can still be read, and made into a report.
    let out = sandbox.work().join("out");
    assert_eq!(seen(&out).moves(), [(0, 0, 1)]);
    let _ = sandbox.run(&["report", "out"]).expect_code(0);
}

#[test]
fn nothing_is_left_after_the_machine_is_killed() {
    let test = "nothing_is_left_after_the_machine_is_killed";
    let kill = |tree: &Tree| tree.launcher.as_ref().unwrap().kill();
    let Some((finished, sandbox)) = broken(test, kill) else {
        return;
    };
    machine_gone(finished, &sandbox);
}

#[test]
fn nothing_is_left_after_process_1_of_the_machine_is_killed() {
    let test = "nothing_is_left_after_process_1_of_the_machine_is_killed";
    let kill = |tree: &Tree| tree.init.as_ref().unwrap().kill();
    let Some((finished, sandbox)) = broken(test, kill) else {
        return;
    };
    machine_gone(finished, &sandbox);
}

/// The run could not be finished: it says why, and its directory too.
fn machine_gone(finished: Finished, sandbox: &Sandbox) {
    let finished = finished.expect_code(1);
    assert!(finished.stderr.contains("machine"), "{}", finished.stderr);
    let header = json_file(&sandbox.work().join("out/run.json"));
    assert_eq!(header["outcome"], "failed");
}

#[test]
fn nothing_is_left_after_an_agent_is_killed() {
    let test = "nothing_is_left_after_an_agent_is_killed";
    let Some((finished, sandbox)) = broken(test, |tree| tree.agents[1].kill()) else {
        return;
    };
    let _ = finished.expect_code(0);
    let out = sandbox.work().join("out");
    let header = json_file(&out.join("run.json"));
    assert_eq!(header["outcome"], "completed, hosts lost");
}
