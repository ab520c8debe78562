//! Demand of VMs and vCPUs, speeds and limits of hosts: from a scenario's text to what is replayed.

use super::inputs::{Inputs, Needs, vm_specs};
use super::tests::refused;
use super::{CpuDemand, CpuSource, Loaded, Scenario, load, parse};
use crate::ids::VmId;
use std::fs;
use std::path::{Path, PathBuf};
use traces::resample::Resample;

/// Readings of a VM as Azure published them: instant, VM, minimum, maximum, mean, in percent.
const READINGS: &str = "0,aaaaaaaaaaaaaaaaaaaaaaaaaa=,10,90,30\n300,aaaaaaaaaaaaaaaaaaaaaaaaaa=,5,60,20\n\
    600,aaaaaaaaaaaaaaaaaaaaaaaaaa=,0,100,50\n";

fn scenario(folder: &Path, cpu: &str) -> PathBuf {
    fs::write(folder.join("vm_cpu_readings-file-1-of-125.csv"), READINGS).unwrap();
    let text = format!(
        "duration = \"1h\"\n[traces.t]\nfile = \"vm_cpu_readings-file-1-of-125.csv\"\n[[hosts]]\nname = \"h\"\n\
         count = 2\ncores = 4\nram = \"16GiB\"\n[[vms]]\nname = \"v\"\ncount = 2\nram = \"1GiB\"\n{cpu}\n"
    );
    let path = folder.join("s.toml");
    fs::write(&path, text).unwrap();
    path
}

fn loaded(cpu: &str) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    load(&scenario(folder.path(), cpu)).unwrap_or_else(|error| panic!("{error}"))
}

fn parsed(text: &str) -> Scenario {
    parse(Path::new("t.toml"), text).unwrap_or_else(|error| panic!("{error}"))
}

const HOSTS: &str =
    "duration = \"1h\"\n[[hosts]]\nname = \"h\"\ncount = 2\ncores = 4\nram = \"16GiB\"\n";

#[test]
fn recorded_minima_and_maxima_reach_the_guest_and_the_run_directory() {
    let Loaded { scenario, inputs } = loaded("cpu = { trace = \"t\", resample = \"spread\" }");
    let folder = tempfile::tempdir().unwrap();
    inputs.write(folder.path()).unwrap();
    let back = Inputs::read(folder.path(), &Needs::all(&scenario)).unwrap();
    assert_eq!(back, inputs);
    let specs = vm_specs(&scenario, &back, [VmId(0), VmId(1)]).unwrap();
    let cpu = |vm: u32| &specs[&VmId(vm)].cpu[0];
    // 300 steps of a second in [100, 900], of mean 300 thousandths.
    let second = traces::units::NS_PER_S;
    let first: Vec<u32> = (0..300)
        .map(|s| cpu(0).demand_at(s * second).milli)
        .collect();
    assert_eq!(first.iter().sum::<u32>(), 300 * 300);
    assert!(first.iter().all(|milli| (100..=900).contains(milli)));
    assert!(first.iter().any(|&milli| milli > 700), "{first:?}");
    assert_ne!(cpu(0), cpu(1), "VMs of one recording vary by themselves");
    let again = vm_specs(&scenario, &inputs, [VmId(1)]).unwrap();
    assert_eq!(
        &again[&VmId(1)],
        &specs[&VmId(1)],
        "the same in agent and model"
    );
}

#[test]
fn demand_that_cannot_be_resampled_is_refused_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let fine = scenario(
        folder.path(),
        "cpu = { trace = \"t\", resample = \"linear\", resolution = \"1ms\" }",
    );
    assert!(load(&fine).is_ok(), "900,000 steps");
    fs::write(folder.path().join("t.csv"), "10\n20\n30\n").unwrap();
    let text = fs::read_to_string(&fine).unwrap();
    let plain = text
        .replace(
            "vm_cpu_readings-file-1-of-125.csv\"",
            "t.csv\"\nformat = \"planetlab\"",
        )
        .replace("linear", "spread");
    fs::write(&fine, plain).unwrap();
    let error = load(&fine).map(|_| ()).unwrap_err().to_string();
    assert!(
        error.contains("no interval of it has a recorded maximum"),
        "{error}"
    );
    assert!(error.contains("resample = \"linear\""), "{error}");
    assert!(error.contains("s.toml:11"), "{error}");
}

#[test]
fn each_vcpu_may_have_a_demand_of_its_own() {
    let scenario = parsed(&format!(
        "{HOSTS}[[vms]]\nname = \"v\"\nram = \"1GiB\"\n\
         cpu = [{{ cores = 1.5 }}, {{ cores = 0, scale = 2 }}]\n"
    ));
    let vm = &scenario.vms[0];
    let idle = CpuDemand {
        scale_milli: 2000,
        ..CpuDemand::constant(0)
    };
    assert_eq!(
        (vm.vcpus, &vm.cpu[..]),
        (2, &[CpuDemand::constant(1500), idle][..])
    );
    let specs = vm_specs(&scenario, &Inputs::default(), [VmId(0)]).unwrap();
    assert_eq!(specs[&VmId(0)].cpu.len(), 2);
}

#[test]
fn what_resampling_says_of_nothing_is_refused() {
    let vm = |cpu: &str| {
        format!("{HOSTS}[[vms]]\nname = \"v\"\nram = \"1GiB\"\nvcpus = 3\ncpu = {cpu}\n")
    };
    for (cpu, wanted) in [
        (
            "[{ cores = 1 }, { cores = 2 }]",
            "one entry for each of the 3 vCPUs",
        ),
        ("[]", "one entry for each"),
        (
            "{ cores = 1, resample = \"linear\" }",
            "beside `trace` only",
        ),
        (
            "{ cores = 1, resolution = \"1s\" }",
            "beside `resample` only",
        ),
        (
            "{ cores = 1, resample = \"liner\" }",
            "did you mean `linear`?",
        ),
    ] {
        let text = refused(&vm(cpu));
        assert!(text.contains(wanted), "{cpu}: no {wanted} in\n{text}");
    }
}

#[test]
fn resample_and_resolution_are_kept() {
    let demand = CpuDemand {
        source: CpuSource::Trace("t".into()),
        scale_milli: 1000,
        resample: Resample::Linear,
        resolution_ns: 20_000_000,
    };
    let Loaded { scenario, .. } =
        loaded("cpu = { trace = \"t\", resample = \"linear\", resolution = \"20ms\" }");
    assert_eq!(scenario.vms[0].cpu, [demand]);
}

#[test]
fn a_host_admits_what_its_limits_say() {
    let hosts = "duration = \"1h\"\n[[hosts]]\nname = \"h\"\ncount = 2\ncores = 4\nram = \"2GiB\"\nspeed = 0.5\n\
                 ram_overcommit = 1.5\ncpu_overcommit = 2\n";
    let vms = |ram: &str, vcpus: u32| {
        format!("{hosts}[[vms]]\nname = \"v\"\ncount = 6\nram = \"{ram}\"\nvcpus = {vcpus}\n")
    };
    let host = &parsed(&vms("1GiB", 2)).hosts[0];
    assert_eq!(
        (host.admitted_bytes(), host.admitted_vcpus()),
        (3 << 30, Some(8))
    );
    assert_eq!(host.capacity_milli(), 2000);
    let text = refused(&vms("1025MiB", 2));
    assert!(text.contains("the emptiest host `h1` has"), "{text}");
    let text = refused(&vms("1GiB", 3));
    assert!(text.contains("VM 4 `v5` has 3 vCPUs"), "{text}");
    assert!(text.contains("raise `cpu_overcommit`"), "{text}");
}
