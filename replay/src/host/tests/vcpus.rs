//! Shares among VMs and their vCPUs.

use super::*;

/// A VM whose vCPUs ask for so much each.
fn each(key: u64, millis: &[u32], work: Work) -> VmSpec {
    let trace = |&milli: &u32| Arc::new(CpuTrace::constant(milli));
    VmSpec {
        vcpus: u32::try_from(millis.len()).unwrap(),
        cpu: millis.iter().map(trace).collect(),
        ..steady(key, 0, work)
    }
}

fn granted(host: &Host, keys: std::ops::Range<u64>) -> Vec<u64> {
    keys.map(|key| host.vm_load(key).unwrap().granted_milli)
        .collect()
}

#[test]
fn one_hot_vcpu_of_four_gets_one_core() {
    let mut host = host(8);
    start(&mut host, each(1, &[2500, 0, 0, 0], Work::Open));
    start(
        &mut host,
        VmSpec {
            vcpus: 4,
            ..steady(2, 2500, Work::Open)
        },
    );
    assert_eq!(granted(&host, 1..3), [1000, 2500]);
    assert_eq!(
        host.vm_load(1).unwrap().demand_milli,
        2500,
        "demand is as recorded"
    );
}

#[test]
fn cores_are_shared_among_vms_and_then_among_their_vcpus() {
    // 3 cores, weights 1 and 1. VM 1 can use one core, which is below half of 3: it gets that,
    // VM 2 the other two, half a core for each vCPU.
    let mut host = host(3);
    start(&mut host, each(1, &[2500, 0, 0, 0], Work::Open));
    start(&mut host, each(2, &[1000; 4], Work::Open));
    assert_eq!(granted(&host, 1..3), [1000, 2000]);
    // A third VM of weight 2: 3/4 cores per weight; VM 3 wants 1.2 of its 1.5, so 1.8 cores are
    // left for two, 0.9 each. VM 2's busy vCPUs get 0.225.
    let third = VmSpec {
        weight: 2,
        ..each(3, &[700, 500], Work::Open)
    };
    start(&mut host, third);
    assert_eq!(granted(&host, 1..4), [900, 900, 1200]);
}

#[test]
fn idle_vcpus_do_not_work_off_anothers_backlog() {
    let trace = |milli| {
        let busy = CpuSample { dur_ns: S, milli };
        let idle = CpuSample {
            dur_ns: 9 * S,
            milli: 0,
        };
        Arc::new(CpuTrace::new(vec![busy, idle]).unwrap())
    };
    let mut host = host(4);
    let spec = VmSpec {
        vcpus: 2,
        cpu: vec![trace(1500), trace(0)],
        ..steady(1, 0, service())
    };
    start(&mut host, spec);
    let state = after(&mut host, 1, 1);
    assert_eq!(state.backlog().core_ns(), S / 2);
    assert_eq!(state.guest_time().cpu_ns, S);
    // One core takes half a second for it, where two would take a quarter.
    host.advance(TraceNs(S + S / 4)).unwrap();
    assert_eq!(host.state(1).unwrap().backlog().core_ns(), S / 4);
    host.advance(TraceNs(S + S / 2)).unwrap();
    assert_eq!(host.state(1).unwrap().backlog(), CoreWork(0));
}

#[test]
fn traces_are_one_or_as_many_as_vcpus() {
    let mut host = host(4);
    let spec = VmSpec {
        vcpus: 3,
        ..each(1, &[1, 2], service())
    };
    let error = host.insert(spec, VmState::default()).unwrap_err();
    assert!(
        matches!(error, HostError::Shape { traces: 2, .. }),
        "{error}"
    );
}

#[test]
fn vcpus_beyond_the_overcommit_limit_are_refused() {
    let spec = HostSpec {
        cpu_overcommit_milli: Some(1500),
        ..host(4).spec().clone()
    };
    let mut host = Host::new(spec, TraceNs(0));
    host.insert(each(1, &[0; 5], service()), VmState::default())
        .unwrap();
    let error = host.admits(&each(2, &[0; 2], service())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "VM 2 has 2 vCPUs; 5 of 6 are in use (4 cores × 1500/1000)"
    );
    assert_eq!(host.admits(&each(2, &[0; 1], service())), Ok(()));
}
