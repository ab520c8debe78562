//! Requests: whose share serves them, and when.

use super::*;

#[test]
fn requests_wait_for_the_guests_share_and_are_served_in_order() {
    // Half a core is the trace's; one request has the vCPU's other half.
    let mut host = host(2);
    start(&mut host, steady(1, 500, service()));
    let at = |ns| Ok(Progress::At(TraceNs(ns)));
    let first = host.ask(1, S).unwrap();
    assert_eq!(host.progress(1, first), at(2 * S));
    host.advance(TraceNs(S)).unwrap();
    let second = host.ask(1, S).unwrap();
    assert_eq!(host.progress(1, second), at(4 * S), "behind the first");
    host.advance(TraceNs(2 * S)).unwrap();
    assert_eq!(host.progress(1, first), Ok(Progress::Served));
    host.answered(1).unwrap();
    assert_eq!(host.progress(1, second), at(4 * S));
    // A pause stalls it, and it goes on as long after it.
    host.advance(TraceNs(3 * S)).unwrap();
    host.pause(1).unwrap();
    assert_eq!(host.progress(1, second), Ok(Progress::Stalled));
    host.advance(TraceNs(5 * S)).unwrap();
    host.resume(1).unwrap();
    host.set_throttle(1, Throttle::new(50).unwrap()).unwrap();
    host.advance(TraceNs(60 * S)).unwrap();
    assert_eq!(host.progress(1, second), Ok(Progress::Served));
    let state = host.state(1).unwrap();
    assert_eq!(state.requests.served.core_ns(), 2 * S);
    let totals = state.totals;
    assert_eq!(
        totals.demand.0,
        totals.granted.0 + totals.lost.0 + state.backlog().0
    );
    assert_eq!(host.load().totals.demand, totals.demand);
}

#[test]
fn a_request_uses_one_vcpu_at_most_and_several_use_several() {
    let mut host = host(8);
    let spec = VmSpec {
        vcpus: 4,
        ..steady(1, 0, service())
    };
    start(&mut host, spec);
    let one = host.ask(1, S).unwrap();
    assert_eq!(host.progress(1, one), Ok(Progress::At(TraceNs(S))));
    for _ in 0..7 {
        host.ask(1, S).unwrap();
    }
    assert_eq!(host.vm_load(1).unwrap().granted_milli, 4000);
    host.advance(TraceNs(2 * S)).unwrap();
    assert_eq!(host.state(1).unwrap().requests.pending, CoreWork(0));
    assert_eq!(host.state(1).unwrap().guest_time().cpu_ns, 8 * S);
}

#[test]
fn requests_do_not_move_with_a_vm() {
    let mut first = host(1);
    start(&mut first, steady(1, 0, service()));
    let ticket = first.ask(1, S).unwrap();
    first.advance(TraceNs(S / 4)).unwrap();
    first.pause(1).unwrap();
    let (spec, state) = first.remove(1).unwrap();
    assert_eq!(first.progress(1, ticket), Err(HostError::Absent { vm: 1 }));
    let mut second = Host::new(first.spec().clone(), TraceNs(S / 4));
    second.insert(spec, state).unwrap();
    let state = second.state(1).unwrap();
    assert_eq!(state.requests, RequestState::default());
    assert_eq!(state.totals.lost.core_ns(), 3 * S / 4);
    assert_eq!(state.guest_time().cpu_ns, S / 4);
}
