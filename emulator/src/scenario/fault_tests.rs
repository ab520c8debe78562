//! Fault plans and orchestrators in scenarios: what they say, mistakes, and what k divides.

use super::tests::refused;
use super::{Scenario, explain, parse, scale};
use crate::ids::MigrationId;
use crate::migration::faults::{Action, End, When};
use crate::migration::record::Phase;
use crate::orchestrator::{
    DowntimeTuningParams, KubevirtParams, OrchestratorSpec, StallDetectorParams,
};
use netmodel::schedule::Amount;
use std::path::Path;

fn text(more: &str) -> String {
    format!(
        "duration = \"1h\"\n[network]\nlink = {{ rate = \"1Gbit\" }}\n[[hosts]]\nname = \"h\"\ncount = 2\n\
         cores = 4\nram = \"16GiB\"\n[[vms]]\nname = \"v\"\nram = \"1GiB\"\n{more}\n"
    )
}

fn parsed(more: &str) -> Scenario {
    parse(Path::new("t.toml"), &text(more)).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn faults_say_what_when_and_where() {
    let scenario = parsed(
        "[[faults]]\nmigration = 2\nat_phase = \"final-round\"\ndo = \"host-power-loss\"\nof = \"destination\"\n\
         silence = \"3s\"\n[[faults]]\nmigration = 1\nafter = \"200ms\"\ndo = \"link-cut\"\n\
         links = [\"h2-up\"]\nrestored_after = \"1s\"\n[[faults]]\nmigration = 1\nat = \"5s\"\ndo = \"cancel\"",
    );
    let [power, cut, cancel] = &scenario.faults[..] else {
        panic!("{:?}", scenario.faults);
    };
    assert_eq!(power.migration, MigrationId(2));
    assert_eq!(power.when, When::Phase(Phase::FinalRound));
    assert_eq!(
        power.action,
        Action::HostPowerLoss {
            of: End::Destination,
            silence_ns: 3_000_000_000,
            fenced: true
        }
    );
    let link = scenario.network.topology.links().iter();
    let link = link.clone().find(|link| link.name == "h2-up").unwrap().id;
    assert_eq!(cut.when, When::After { ns: 200_000_000 });
    assert_eq!(
        cut.action,
        Action::LinkCut {
            links: vec![link],
            restored_after_ns: Some(1_000_000_000)
        }
    );
    assert_eq!(cancel.when, When::Trace { ns: 5_000_000_000 });
    let shown = explain(&scenario);
    assert!(
        shown.contains("host-power-loss of the destination"),
        "{shown}"
    );
    assert!(shown.contains("phase final-round"), "{shown}");
}

#[test]
fn k_divides_what_faults_set() {
    let full = parsed(
        "[[faults]]\nmigration = 1\nat_round = 1\ndo = \"set-parameters\"\nparameters = {\n\
         max-bandwidth = \"100MB/s\", downtime-limit = \"2s\" }\n[[faults]]\nmigration = 1\nat_round = 1\n\
         do = \"link-change\"\nrate = \"200Mbit\"",
    );
    let carried = scale::apply(&full, 4).unwrap();
    let Action::SetParameters(change) = &carried.faults[0].action else {
        panic!("{:?}", carried.faults);
    };
    assert_eq!(change.max_bandwidth, Some(25_000_000));
    assert_eq!(change.downtime_limit, Some(2000), "times stay");
    let Action::LinkChange { patch, .. } = &carried.faults[1].action else {
        panic!("{:?}", carried.faults);
    };
    let Some(Amount::To(Some(rate))) = patch.rate else {
        panic!("{patch:?}");
    };
    assert_eq!(rate.bps(), 50_000_000);
}

#[test]
fn kubevirts_options_have_its_defaults_and_reach_the_migrations() {
    let scenario = parsed(
        "[orchestrator]\npolicy = \"kubevirt\"\nbandwidth-per-migration = \"64MiB/s\"\n\
         allow-auto-converge = true\nprogress-timeout = \"never\"",
    );
    assert_eq!(
        scenario.orchestrator,
        OrchestratorSpec::Kubevirt(KubevirtParams {
            bandwidth_per_migration: 64 << 20,
            allow_auto_converge: true,
            progress_timeout: 0,
            ..KubevirtParams::default()
        })
    );
    assert_eq!(scenario.migration.max_bandwidth, 64 << 20);
    assert!(scenario.migration.auto_converge.enabled);
}

#[test]
fn kubevirts_gates_are_opened_by_a_table() {
    let scenario = parsed(
        "[orchestrator]\npolicy = \"kubevirt\"\nmax-downtime = \"1050ms\"\ndowntime-tuning = {}\n\
         stall-detector = { stall-margin = 5, stall-progress-timeout = \"20s\", ewma-alpha = 0.5 }",
    );
    assert_eq!(
        scenario.orchestrator,
        OrchestratorSpec::Kubevirt(KubevirtParams {
            max_downtime: 1050,
            downtime_tuning: Some(DowntimeTuningParams::default()),
            stall_detector: Some(StallDetectorParams {
                stall_margin: 5,
                stall_progress_timeout: 20_000,
                ewma_alpha: 0.5,
                ..StallDetectorParams::default()
            }),
            ..KubevirtParams::default()
        })
    );
}

#[test]
fn mistakes_are_named() {
    for (more, wanted) in [
        ("[[faults]]\nmigration = 1\ndo = \"cancel\"", "`at_phase`"),
        (
            "[[faults]]\nmigration = 1\nafter = \"1s\"\nat_round = 2\ndo = \"cancel\"",
            "`at_phase`",
        ),
        (
            "[[faults]]\nmigration = 1\nat_phase = \"round\"\ndo = \"cancel\"",
            "rounds",
        ),
        (
            "[[faults]]\nmigration = 0\nafter = \"1s\"\ndo = \"cancel\"",
            "a whole number, 1 to",
        ),
        (
            "[[faults]]\nmigration = 1\nafter = \"1s\"\ndo = \"vm-crash\"",
            "needs `of`",
        ),
        (
            "[[faults]]\nmigration = 1\nafter = \"1s\"\ndo = \"vm-crsh\"\n",
            "vm-crash",
        ),
        (
            "[[faults]]\nmigration = 1\nafter = \"1s\"\ndo = \"link-cut\"\nlinks = [\"h9-up\"]",
            "h9-up",
        ),
        (
            "[[faults]]\nmigration = 1\nafter = \"1s\"\ndo = \"link-change\"",
            "at least",
        ),
        (
            "[[faults]]\nmigration = 1\nafter = \"1s\"\ndo = \"cancel\"\nof = \"source\"",
            "unknown key `of`",
        ),
        (
            "[[faults]]\nmigration = 1\nafter = \"1s\"\ndo = \"set-parameters\"\nparameters = {}",
            "at least one parameter",
        ),
        (
            "[migration]\nengine = \"xen\"\n[[faults]]\nmigration = 1\nafter = \"1s\"\ndo = \"set-parameters\"\n\
             parameters = { max-bandwidth = \"1MB/s\" }",
            "xen",
        ),
        (
            "[[faults]]\nmigration = 1\nafter = \"1s\"\ndo = \"start-postcopy\"",
            "postcopy-ram = true",
        ),
    ] {
        named(more, wanted);
    }
}

fn named(more: &str, wanted: &str) {
    let shown = refused(&text(more));
    assert!(shown.contains(wanted), "{more}: no {wanted} in\n{shown}");
    assert_eq!(shown.matches("error:").count(), 1, "{shown}");
}

#[test]
fn mistakes_of_orchestrators_are_named() {
    for (more, wanted) in [
        ("[orchestrator]\npolicy = \"kubevrt\"", "kubevirt"),
        (
            "[orchestrator]\npolicy = \"nova\"\n[migration]\nengine = \"xen\"",
            "policy nova",
        ),
        (
            "[orchestrator]\npolicy = \"libvirt\"\ntimeout = \"3s\"\n[migration]\ncompletion-timeout = \"9s\"",
            "completion-timeout",
        ),
        (
            "[orchestrator]\npolicy = \"nova\"\nprogress-timeout = \"3s\"",
            "unknown key `progress-timeout`",
        ),
        (
            "[orchestrator]\npolicy = \"kubevirt\"\nmax-downtime = \"2001s\"",
            "as KubeVirt asks",
        ),
        (
            "[orchestrator]\npolicy = \"kubevirt\"\nstall-detector = { stall-progress-timeout = \"0s\" }",
            "more than 0",
        ),
        (
            "[orchestrator]\npolicy = \"kubevirt\"\ndowntime-tuning = {}\n[migration]\nengine = \"xen\"",
            "policy kubevirt",
        ),
    ] {
        named(more, wanted);
    }
}
