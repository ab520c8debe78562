//! What holds of any host, any VMs, and any way of advancing them.

use super::*;

fn any_trace() -> impl Strategy<Value = CpuTrace> {
    prop::collection::vec((1u64..3_000_000_000, 0u32..2500), 1..6).prop_map(|samples| {
        let samples = samples
            .into_iter()
            .map(|(dur_ns, milli)| CpuSample { dur_ns, milli })
            .collect();
        CpuTrace::new(samples).unwrap()
    })
}

fn any_vm(key: u64) -> impl Strategy<Value = VmSpec> {
    let traces = prop::collection::vec(any_trace(), 1..4);
    (traces, 1u32..4, 1u32..5, 0u64..S, 0u8..4).prop_map(
        move |(cpu, vcpus, weight, trace_offset_ns, kind)| {
            // One trace for all vCPUs, or one for each.
            let vcpus = match cpu.len() {
                1 => vcpus,
                each => u32::try_from(each).unwrap(),
            };
            let cpu = cpu.into_iter().map(Arc::new).collect();
            let work = match kind {
                0 => Work::Batch,
                1 => Work::Open,
                2 => Work::Service { backlog_ms: 300 },
                _ => service(),
            };
            VmSpec {
                vcpus,
                weight,
                trace_offset_ns,
                cpu,
                ..steady(key, 0, work)
            }
        },
    )
}

proptest! {
    #[test]
    fn any_way_of_advancing_ends_in_the_same_state(
        vms in (any_vm(1), any_vm(2), any_vm(3)),
        cores in 1u32..4,
        acts in prop::collection::vec((0u64..3_000_000_000, 1u64..4, 0u8..6), 0..10),
        cuts in prop::collection::vec(0u64..20_000_000_000, 0..60),
    ) {
        let mut hosts = [host(cores), host(cores)];
        for host in &mut hosts {
            for spec in [&vms.0, &vms.1, &vms.2] {
                start(host, spec.clone());
            }
        }
        let mut cuts = cuts;
        cuts.sort_unstable();
        let [at_once, in_steps] = &mut hosts;
        let mut now = 0;
        let end = 20 * S;
        for (wait, key, act) in acts.into_iter().chain([(end, 1, 9)]) {
            let to = (now + wait).min(end);
            for &cut in cuts.iter().filter(|&&cut| cut > now && cut < to) {
                in_steps.advance(TraceNs(cut)).unwrap();
            }
            now = to;
            for host in [&mut *at_once, &mut *in_steps] {
                host.advance(TraceNs(now)).unwrap();
                match act {
                    0 => drop(host.pause(key).unwrap()),
                    1 => drop(host.resume(key).unwrap()),
                    2 => drop(host.set_throttle(key, Throttle::new(35).unwrap()).unwrap()),
                    3 => host.set_overhead_milli(321),
                    4 => drop(host.ask(key, 777_777_777).unwrap()),
                    5 => host.answered(key).unwrap(),
                    _ => {}
                }
            }
            for key in 1..4 {
                prop_assert_eq!(at_once.state(key).unwrap(), in_steps.state(key).unwrap());
            }
            prop_assert_eq!(at_once.load(), in_steps.load());
        }
    }

    #[test]
    fn work_is_conserved_and_time_goes_forward(
        vms in (any_vm(1), any_vm(2), any_vm(3)),
        cores in 1u32..4,
        steps in prop::collection::vec((0u64..1_000_000_000, 1u64..4, 0u8..5), 1..30),
    ) {
        let mut host = host(cores);
        for spec in [&vms.0, &vms.1, &vms.2] {
            start(&mut host, spec.clone());
        }
        let mut now = 0;
        let mut last = [GuestTime::default(); 3];
        for (wait, key, act) in steps {
            now += wait;
            host.advance(TraceNs(now)).unwrap();
            match act {
                0 => drop(host.pause(key).unwrap()),
                1 => drop(host.resume(key).unwrap()),
                2 => drop(host.ask(key, 300_000_000).unwrap()),
                _ => {}
            }
            let load = host.load();
            prop_assert!(load.granted_milli <= u64::from(cores) * 1000);
            for (index, spec) in [&vms.0, &vms.1, &vms.2].into_iter().enumerate() {
                let state = host.state(spec.key).unwrap();
                let time = state.guest_time();
                prop_assert!(time.not_before(&last[index]));
                prop_assert_eq!(time.run_ns + state.totals.paused_ns, now);
                if matches!(spec.work, Work::Service { .. }) {
                    let waiting = state.backlog().0 + state.requests.pending.0;
                    let accounted = state.totals.granted.0 + state.totals.lost.0 + waiting;
                    prop_assert_eq!(state.totals.demand.0, accounted);
                    prop_assert_eq!(state.totals.granted, state.cpu);
                }
                last[index] = time;
            }
        }
    }
}

#[test]
fn what_moves_between_processes_survives_encoding() {
    let trace = CpuTrace::new(vec![CpuSample {
        dur_ns: 7 * S,
        milli: 3,
    }])
    .unwrap();
    let mut host = host(1);
    start(&mut host, vm(1, trace, Work::Batch));
    let state = after(&mut host, 9, 1);
    let (spec, load) = (host.vms().next().unwrap().clone(), host.load());
    let bytes = postcard::to_allocvec(&(&spec, &state, load)).unwrap();
    let back: (VmSpec, VmState, HostLoad) = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(back, (spec, state, load));
    let throttle: Result<Throttle, _> = postcard::from_bytes(&[100]);
    assert!(throttle.is_err(), "a throttle above 99 % is no throttle");
}
