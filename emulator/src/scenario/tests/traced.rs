//! Traces and profiles that a scenario names: loaded, kept, completed, refused.

use super::*;

/// A scenario with a recorded trace of our own, in a folder.
fn traced(folder: &Path, trace: &str, writes: &str, ram: &str) -> PathBuf {
    let recordings = concat!(env!("CARGO_MANIFEST_DIR"), "/../traces/library");
    fs::copy(format!("{recordings}/{trace}.mbpw"), folder.join("t.mbpw")).unwrap();
    let text = format!(
        "duration = \"1h\"\n[traces.t]\nfile = \"t.mbpw\"\n[[hosts]]\nname = \"h\"\ncount = 2\ncores = 4\n\
         ram = \"16GiB\"\n[[vms]]\nname = \"v\"\ncount = 3\nram = \"{ram}\"\n\
         cpu = {{ trace = \"t\", scale = 2 }}\nwrites = {{ {writes} = \"t\" }}\n"
    );
    let path = folder.join("s.toml");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn traces_are_loaded_written_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = traced(folder.path(), "compiler", "trace", "1GiB");
    let Loaded { scenario, inputs } = load(&path).unwrap_or_else(|error| panic!("{error}"));
    let dir = folder.path().join("run/inputs");
    inputs.write(&dir).unwrap();
    let back = Inputs::read(&dir, &Needs::all(&scenario)).unwrap();
    assert_eq!(back, inputs);
    let all = vm_specs(&scenario, &back, [VmId(0), VmId(2)]).unwrap();
    assert_eq!(all[&VmId(2)].key, vm_key(VmId(2)));
    assert!(std::sync::Arc::ptr_eq(
        &all[&VmId(0)].cpu[0],
        &all[&VmId(2)].cpu[0]
    ));
    let recorded = inputs.get("t").unwrap();
    let twice = recorded.cpu.mean_milli() * 2.0;
    assert!((all[&VmId(0)].cpu[0].mean_milli() - twice).abs() < 1e-6);
    // Divided by k, a recording keeps 1/k of its pages.
    let pages = |scenario: &Scenario| {
        let specs = vm_specs(scenario, &back, [VmId(0)]).unwrap();
        match &specs[&VmId(0)].memory.behaviours[0] {
            replay::Behaviour::Pages { trace, .. } => trace.pages,
            other => panic!("{other:?}"),
        }
    };
    let carried = scale::apply(&scenario, 4).unwrap();
    assert_eq!(pages(&carried), pages(&scenario).div_ceil(4));
}

#[test]
fn fitted_classes_come_back_without_the_recording() {
    let folder = tempfile::tempdir().unwrap();
    let path = traced(folder.path(), "memcached", "fitted", "1GiB");
    let Loaded { scenario, inputs } = load(&path).unwrap_or_else(|error| panic!("{error}"));
    inputs.write(folder.path()).unwrap();
    fs::remove_file(folder.path().join("t.mbpw")).unwrap();
    let back = Inputs::read(folder.path(), &Needs::all(&scenario)).unwrap();
    assert_eq!(back.get("t").unwrap().pages, None);
    assert_eq!(
        vm_specs(&scenario, &back, [VmId(1)]),
        vm_specs(&scenario, &inputs, [VmId(1)])
    );
}

/// A scenario of VMs that a profile completes; `writes` is the rest of its table.
fn completed(folder: &Path, writes: &str) -> PathBuf {
    let text = format!(
        "duration = \"1h\"\n[[hosts]]\nname = \"h\"\ncount = 2\ncores = 4\nram = \"16GiB\"\n[[vms]]\nname = \"v\"\n\
         count = 3\nram = \"1GiB\"\nresident = \"16MiB\"\ncpu = {{ cores = 0.5 }}\nwrites = {{ {writes} }}\n"
    );
    let path = folder.join("s.toml");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_profile_completes_a_vm_the_same_way_every_time() {
    let folder = tempfile::tempdir().unwrap();
    let text = "profile = \"kv-write\", marginal = \"fleet\", seed = 9";
    let path = completed(folder.path(), text);
    let Loaded { scenario, inputs } = load(&path).unwrap_or_else(|error| panic!("{error}"));
    let all = (0..3).map(VmId);
    let specs = vm_specs(&scenario, &inputs, all.clone()).unwrap();
    assert_eq!(vm_specs(&scenario, &inputs, all).unwrap(), specs);
    let memory = |vm: u32| &specs[&VmId(vm)].memory;
    // Each VM is drawn for itself, varies in the short term, and has more than it writes.
    assert_ne!(memory(0).behaviours, memory(1).behaviours);
    let replay::Behaviour::Phases(hot) = &memory(0).behaviours[0] else {
        panic!("{:?}", memory(0).behaviours)
    };
    // Half a core: a second of its time is half a second of its clock.
    let Some(traces::class::Variation::LogNormal { step_ns, .. }) = hot.phases[0].variation else {
        panic!("{hot:?}")
    };
    assert_eq!(step_ns, 500_000_000);
    assert!(memory(0).resident_pages > 16 * 256);
    // At a quarter of the size everything is a quarter.
    let carried = scale::apply(&scenario, 4).unwrap();
    let small = vm_specs(&carried, &inputs, [VmId(0)]).unwrap();
    let pages = |memory: &replay::guest::MemorySpec| {
        let classes = memory
            .behaviours
            .iter()
            .flat_map(|behaviour| match behaviour {
                replay::Behaviour::Phases(phases) => phases.phases[0].classes.clone(),
                replay::Behaviour::Classes(classes) => classes.clone(),
                other => panic!("{other:?}"),
            });
        classes.map(|class| f64::from(class.pages)).sum::<f64>()
    };
    let ratio = pages(memory(0)) / pages(&small[&VmId(0)].memory);
    assert!((ratio - 4.0).abs() < 0.05, "{ratio}");
}

#[test]
fn what_was_recorded_and_what_was_not_is_told_column_by_column() {
    let folder = tempfile::tempdir().unwrap();
    let told = |path: &Path| {
        let Loaded { scenario, inputs } = load(path).unwrap_or_else(|error| panic!("{error}"));
        let all = origin::origins(&scenario, &inputs);
        assert!(all.iter().all(|origin| origin.count == 3), "{all:?}");
        let words = all.iter().map(|origin| origin::word(origin.provenance));
        words.collect::<Vec<_>>()
    };
    let path = completed(folder.path(), "profile = \"web\"");
    assert_eq!(told(&path), ["synthesised"; 3]);
    let path = traced(folder.path(), "compiler", "trace", "1GiB");
    assert_eq!(told(&path), ["derived", "derived", "recorded"]);
    let path = traced(folder.path(), "memcached", "fitted", "1GiB");
    assert_eq!(told(&path)[2], "derived");
}

#[test]
fn a_profile_that_is_not_there_is_refused_with_the_nearest() {
    let folder = tempfile::tempdir().unwrap();
    let text = load_error(&completed(folder.path(), "profile = \"kv-wriet\""));
    assert!(
        text.contains("kv-wriet") && text.contains("`kv-write`"),
        "{text}"
    );
    let text = load_error(&completed(
        folder.path(),
        "profile = \"web\", marginal = \"some\"",
    ));
    assert!(text.contains("marginal"), "{text}");
    let text = load_error(&completed(folder.path(), "profile = \"web\", classes = []"));
    assert!(text.contains("`profile` (a name)"), "{text}");
}

#[test]
fn a_missing_trace_is_shown_where_it_is_declared() {
    let folder = tempfile::tempdir().unwrap();
    let path = traced(folder.path(), "compiler", "trace", "1GiB");
    fs::remove_file(folder.path().join("t.mbpw")).unwrap();
    let text = load_error(&path);
    assert!(text.contains("s.toml:3:8"), "{text}");
    assert!(text.contains("t.mbpw: cannot read: No such file"), "{text}");
    assert!(text.contains("from the folder of the scenario"), "{text}");
}

#[test]
fn a_cut_trace_names_its_own_place_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = traced(folder.path(), "compiler", "trace", "1GiB");
    let trace = folder.path().join("t.mbpw");
    let bytes = fs::read(&trace).unwrap();
    fs::write(&trace, &bytes[..bytes.len() / 2]).unwrap();
    let text = load_error(&path);
    assert!(text.contains("s.toml:3:8"), "{text}");
    assert!(
        text.contains("t.mbpw: ") && text.contains("cut in its block"),
        "{text}"
    );
}

#[test]
fn a_recording_larger_than_its_vm_is_refused_with_figures() {
    let folder = tempfile::tempdir().unwrap();
    let path = traced(folder.path(), "compiler", "trace", "8MiB");
    let text = load_error(&path);
    assert!(
        text.contains("VM `v1` needs") && text.contains("but has 8 MiB of RAM"),
        "{text}"
    );
    assert!(text.contains("s.toml:10:8"), "{text}");
}

#[test]
fn files_that_are_no_text_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.toml");
    assert!(load_error(&path).contains("cannot read the scenario"));
    fs::write(&path, b"seed = 1\n\xff").unwrap();
    assert!(load_error(&path).contains("s.toml:2: byte 9 is not UTF-8"));
}
