//! A service over loopback: latencies count from when requests were due, and a paused guest answers
//! nobody.

use super::*;
use crate::agent::runtime::Runtime;
use crate::clock::{mono_ns, sleep_until};
use crate::ids::{HostId, VmId};
use crate::scenario::{Arrivals, Endpoint};
use replay::clock::{MonoNs, Segment, SegmentKind, TraceNs};
use replay::{HostSpec, MemorySpec, VmSpec, Work};
use std::sync::atomic::AtomicBool;
use traces::cpu::CpuTrace;

const VM: VmId = VmId(0);
const SERVICE: ServiceId = ServiceId(0);
const MS: u64 = 1_000_000;

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A host with the VM on it, its clock running.
fn host() -> Arc<Runtime> {
    let spec = HostSpec {
        cores: 1,
        speed_milli: 1000,
        ram_pages: 100,
        ram_overcommit_milli: 1000,
        cpu_overcommit_milli: None,
    };
    let vm = VmSpec {
        key: 1,
        vcpus: 1,
        weight: 1,
        cpu: vec![Arc::new(CpuTrace::constant(0))],
        trace_offset_ns: 0,
        work: Work::default(),
        memory: MemorySpec {
            ram_pages: 10,
            resident_pages: 0,
            high_pages: 0,
            behaviours: vec![],
            fresh: false,
            content: traces::content::ContentProfile::default(),
        },
    };
    let runtime = Runtime::new(HostId(0), spec, MonoNs(mono_ns()));
    runtime.place(VM, vm).unwrap();
    let run = Segment {
        number: 1,
        kind: SegmentKind::Run,
        at: MonoNs(mono_ns()),
        trace: TraceNs(0),
    };
    runtime.begin(run).unwrap();
    Arc::new(runtime)
}

/// Work done by a host of this process.
fn work(runtime: &Arc<Runtime>) -> MakeWork {
    let runtime = Arc::clone(runtime);
    Arc::new(move || {
        let runtime = Arc::clone(&runtime);
        Box::new(move |cpu_ns| runtime.serve(VM, cpu_ns, &AtomicBool::new(false)))
    })
}

fn asking(port: u16, arrivals: Arrivals, cpu_ns: u64) -> Asking {
    Asking {
        to: SocketAddr::new(loopback().ip(), port),
        spec: ServiceSpec {
            name: "s".into(),
            server: VM,
            client: Endpoint::Internet,
            arrivals,
            connections: 2,
            request_bytes: 100,
            response_bytes: 100_000,
            cpu_ns,
        },
        since_ns: mono_ns(),
        seed: 1,
        congestion: "cubic".into(),
    }
}

fn wait(ns: u64) {
    sleep_until(mono_ns() + ns);
}

#[test]
fn requests_due_while_the_guest_is_paused_wait_for_it() {
    let (runtime, mut services) = (host(), Services::default());
    let at = (loopback(), "cubic");
    let port = services.open_server(SERVICE, work(&runtime), at).unwrap();
    // Twenty a second, two connections: most of those due in the pause have none.
    let asking = asking(port, Arrivals::Paced { rate_milli: 20_000 }, MS);
    let runs = || Box::new(|| true) as Runs;
    services.open_client(SERVICE, asking, runs()).unwrap();
    wait(300 * MS);
    runtime.pause(VM, MonoNs(mono_ns())).unwrap();
    let paused_ns = mono_ns();
    wait(500 * MS);
    runtime.resume(VM, MonoNs(mono_ns())).unwrap();
    wait(400 * MS);
    let closed = services.close_client(SERVICE).unwrap();
    services.close_server(SERVICE);
    assert_eq!(closed.connections, 2, "the pause broke none");
    let mut latencies = closed.requests;
    latencies.sort_unstable();
    assert!(latencies.len() >= 20, "{latencies:?}");
    // A millisecond of CPU each.
    assert!(latencies.iter().all(|&(_, us)| us >= 1000), "{latencies:?}");
    let stalled = |&&(due_ns, _): &&(u64, u64)| (paused_ns..paused_ns + 450 * MS).contains(&due_ns);
    let in_pause: Vec<_> = latencies.iter().filter(stalled).collect();
    assert!(in_pause.len() >= 8, "one each 50 ms: {in_pause:?}");
    for &&(due_ns, us) in &in_pause {
        let left_us = (paused_ns + 500 * MS - due_ns) / 1000;
        assert!(
            us >= left_us,
            "due {left_us} us before the end, answered after {us}"
        );
    }
    let served = runtime.guest_time(VM, MonoNs(mono_ns())).unwrap().cpu_ns;
    assert!(served >= latencies.len() as u64 * MS, "{served}");
}

#[test]
fn what_is_due_and_not_answered_is_cut_and_counted() {
    let (runtime, mut services) = (host(), Services::default());
    let at = (loopback(), "cubic");
    let port = services.open_server(SERVICE, work(&runtime), at).unwrap();
    runtime.pause(VM, MonoNs(mono_ns())).unwrap();
    let asking = asking(
        port,
        Arrivals::Paced {
            rate_milli: 100_000,
        },
        MS,
    );
    services
        .open_client(SERVICE, asking, Box::new(|| true))
        .unwrap();
    wait(205 * MS);
    let closed = services.close_client(SERVICE).unwrap();
    assert!(closed.requests.is_empty());
    assert!(closed.cut.len() >= 20, "{:?}", closed.cut.len());
}
