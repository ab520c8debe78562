//! What writes: phases, variation, reads and fits, from the text of a scenario to what a VM replays.

use super::inputs::{Inputs, Needs, vm_specs};
use super::*;
use replay::Behaviour;
use std::fs;
use std::path::Path;
use traces::class::{ClassPhase, Coupling, Variation};
use traces::dirty::{PageWriteTrace, Run, Tick};
use traces::store::page_write::write_page_writes;

fn text(writes: &str) -> String {
    format!(
        "duration = \"1h\"\n[[hosts]]\nname = \"h\"\ncount = 2\ncores = 4\nram = \"4GiB\"\n\
         [[vms]]\nname = \"v\"\nram = \"64MiB\"\nwrites = {writes}\n"
    )
}

fn good(writes: &str) -> Scenario {
    parse(Path::new("w.toml"), &text(writes)).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(writes: &str) -> String {
    match parse(Path::new("w.toml"), &text(writes)) {
        Ok(_) => panic!("accepted: {writes}"),
        Err(error) => error.to_string(),
    }
}

const PHASES: &str = "{ phases = [\
    { length = \"8s\", classes = [{ pages = 200, rate = 20, read_rate = 5 }], variation = { cv = 0.3 } }, \
    { length = \"3s\", first_page = 100, classes = [{ pages = 1000, rate = 1, locality = { runs = 16 } }] }, \
    { length = \"1s\", classes = [] }] }";

fn phases(scenario: &Scenario) -> &[ClassPhase] {
    match &scenario.vms[0].writes {
        WriteSource::Phases(phased) => &phased.phases,
        other => panic!("{other:?}"),
    }
}

#[test]
fn phases_are_as_written() {
    let scenario = good(PHASES);
    let [first, second, third] = phases(&scenario) else {
        panic!("three")
    };
    assert_eq!((first.length_ns, first.first_page), (8_000_000_000, 0));
    assert!((first.classes[0].read_rate - 5.0).abs() < 1e-12);
    let log_normal = Variation::LogNormal {
        cv: 0.3,
        correlation: 0.7,
        step_ns: 1_000_000_000,
    };
    assert_eq!(first.variation, Some(log_normal));
    assert_eq!((second.first_page, second.end()), (100, 1100));
    assert!(third.classes.is_empty() && third.variation.is_none());
    let shown = explain(&scenario);
    assert!(shown.contains("3 phases, 12s of CPU, varying"), "{shown}");
    // What a run directory keeps of it is the same again.
    let json = serde_json::to_string(&scenario).unwrap();
    assert_eq!(serde_json::from_str::<Scenario>(&json).unwrap(), scenario);
}

#[test]
fn a_set_that_varies_is_one_phase() {
    let scenario = good(
        "{ classes = [{ pages = 10, rate = 1, coupling = \"time\" }], \
         variation = { cv = 0.5, correlation = 0.2, step = \"100ms\" } }",
    );
    assert_eq!(phases(&scenario).len(), 1);
    let WriteSource::Phases(phased) = &scenario.vms[0].writes else {
        panic!("one phase")
    };
    assert_eq!(phased.coupling, Coupling::Time);
    let shown = explain(&scenario);
    assert!(shown.contains("1 class, varying"), "{shown}");
}

#[test]
fn what_cannot_be_is_refused_at_its_spot() {
    for (writes, said) in [
        ("{ phases = [] }", "1 to 64 phases"),
        ("{ phases = [{ classes = [] }] }", "length"),
        (
            "{ phases = [{ length = \"0s\", classes = [] }] }",
            "above zero",
        ),
        ("{ phases = [{ length = \"1s\" }] }", "classes"),
        (
            "{ phases = [{ length = \"1s\", classes = [], lenght = 2 }] }",
            "did you mean `length`",
        ),
        ("{ classes = [] }", "at least one class"),
        (
            "{ classes = [{ pages = 1, rate = 1 }], variation = { cv = 11 } }",
            "0 to 10",
        ),
        (
            "{ classes = [{ pages = 1, rate = 1 }], variation = { cv = 1, correlation = 1 } }",
            "0 to 0.999",
        ),
        (
            "{ classes = [{ pages = 1, rate = 1 }], variation = { cv = 1, step = \"2000h\" } }",
            "an hour or less",
        ),
        (
            "{ classes = [{ pages = 1, rate = 1, read_rate = -1 }] }",
            "read_rate",
        ),
        (
            "{ classes = [{ pages = 1, rate = 1 }], phases = [] }",
            "`phases`",
        ),
        (
            "{ classes = [{ pages = 1, rate = 1 }], form = \"best\" }",
            "`form`",
        ),
        (
            "{ phases = [{ length = \"1s\", classes = [] }], variation = { cv = 1 } }",
            "`variation`",
        ),
        (
            "{ phases = [{ length = \"1s\", first_page = 16000, classes = [{ pages = 400, rate = 1 }] }] }",
            "64 MiB of RAM",
        ),
    ] {
        let text = refused(writes);
        assert!(
            text.contains(said) && text.contains("w.toml:"),
            "{writes} gives\n{text}"
        );
    }
}

#[test]
fn dividing_by_k_keeps_what_phases_share() {
    let full = good(PHASES);
    let carried = scale::apply(&full, 4).unwrap();
    let places = |scenario: &Scenario| -> Vec<(u32, u64, u64)> {
        let one = |p: &ClassPhase| (p.first_page, p.end(), p.length_ns);
        phases(scenario).iter().map(one).collect()
    };
    let s = 1_000_000_000;
    assert_eq!(
        places(&full),
        [(0, 200, 8 * s), (100, 1100, 3 * s), (0, 0, s)]
    );
    assert_eq!(
        places(&carried),
        [(0, 50, 8 * s), (25, 275, 3 * s), (0, 0, s)]
    );
}

/// Loads a scenario with one VM that follows a recording of the library.
fn following(folder: &Path, trace: &str, writes: &str) -> (Scenario, Inputs) {
    let library = concat!(env!("CARGO_MANIFEST_DIR"), "/../traces/library");
    fs::copy(format!("{library}/{trace}.mbpw"), folder.join("t.mbpw")).unwrap();
    loaded(folder, writes)
}

/// The same of the recording that lies there as `t.mbpw`.
fn loaded(folder: &Path, writes: &str) -> (Scenario, Inputs) {
    let text = text(writes).replace("64MiB", "1GiB") + "[traces.t]\nfile = \"t.mbpw\"\n";
    let path = folder.join("s.toml");
    fs::write(&path, text).unwrap();
    let Loaded { scenario, inputs } = load(&path).unwrap_or_else(|error| panic!("{error}"));
    (scenario, inputs)
}

fn behaviour(scenario: &Scenario, inputs: &Inputs) -> Behaviour {
    let specs = vm_specs(scenario, inputs, [VmId(0)]).unwrap();
    specs[&VmId(0)].memory.behaviours[0].clone()
}

#[test]
fn what_is_fitted_to_a_recording_varies_as_it_did() {
    let folder = tempfile::tempdir().unwrap();
    let (scenario, inputs) = following(folder.path(), "compiler", "{ fitted = \"t\" }");
    let Behaviour::Phases(phased) = behaviour(&scenario, &inputs) else {
        panic!("a set that varies")
    };
    assert_eq!((phased.phases.len(), phased.coupling), (1, Coupling::Cpu));
    assert!(matches!(
        phased.phases[0].variation,
        Some(Variation::Series { .. })
    ));
}

#[test]
fn phases_come_back_from_the_run_directory() {
    for (form, asked) in [("best", FittedForm::Best), ("phases", FittedForm::Phases)] {
        let folder = tempfile::tempdir().unwrap();
        let writes = format!("{{ fitted = \"t\", form = \"{form}\" }}");
        let (scenario, inputs) = following(folder.path(), "sqlite", &writes);
        assert_eq!(scenario.vms[0].writes, asked.of("t".into()));
        let Behaviour::Phases(phased) = behaviour(&scenario, &inputs) else {
            panic!("phases")
        };
        assert!(phased.phases.len() > 1);
        inputs.write(folder.path()).unwrap();
        let back = Inputs::read(folder.path(), &Needs::all(&scenario)).unwrap();
        assert_eq!(behaviour(&scenario, &back), behaviour(&scenario, &inputs));
        let carried = scale::apply(&scenario, 8).unwrap();
        let divided = behaviour(&carried, &back).pages();
        assert!(divided.abs_diff(phased.pages() / 8) < 16, "{divided}");
    }
}

/// A sweep that comes round in a second is no class set of any kind: D(t) is a straight line up to there and then level, where
/// the best classes, on either clock, lack a third of D(1 s) (34 and 37 %, by enumeration of all active sets).
#[test]
fn the_best_may_be_the_recorded_pages() {
    let folder = tempfile::tempdir().unwrap();
    let tick = |i: u32| Tick {
        t_ns: u64::from(i + 1) * 100_000_000,
        cpu_ns: 50_000_000,
        runs: vec![Run {
            start: i % 10 * 200,
            len: 200,
        }],
    };
    let sweep = PageWriteTrace {
        title: "sweep".into(),
        pages: 2000,
        interval_ns: 100_000_000,
        ticks: (0..600).map(tick).collect(),
    };
    let file = fs::File::create(folder.path().join("t.mbpw")).unwrap();
    write_page_writes(&sweep, file).unwrap();
    let (scenario, inputs) = loaded(folder.path(), "{ fitted = \"t\", form = \"best\" }");
    let found = behaviour(&scenario, &inputs);
    assert!(matches!(found, Behaviour::Pages { .. }), "{found:?}");
    inputs.write(folder.path()).unwrap();
    let back = Inputs::read(folder.path(), &Needs::all(&scenario)).unwrap();
    assert_eq!(behaviour(&scenario, &back), found);
}
