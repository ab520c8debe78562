//! Migrations of RAM that is there, written by threads meanwhile.

use std::sync::Arc;

use super::*;
use crate::resident::{GuestClock, Vcpus};

/// The guest of `World` with threads that write its RAM.
pub(super) struct Real {
    pub(super) guest: Arc<TestGuest>,
    pub(super) vcpus: Arc<Vcpus>,
}

impl GuestClock for TestGuest {
    fn running(&self, _vcpu: u32) -> Option<GuestTime> {
        self.runs().then(|| time(self.run_ns()))
    }
}

impl SourceGuest for Real {
    fn guest_time(&self) -> GuestTime {
        self.guest.guest_time()
    }

    fn pause(&self) -> GuestTime {
        let at = self.guest.pause();
        self.vcpus.park(&at.into());
        at
    }

    fn resume(&self) {
        self.guest.resume();
        self.vcpus.unpark();
    }

    fn throttle(&self, _percent: u8) {}

    fn crash(&self) {
        self.guest.crash();
    }

    fn take_state(&self) -> VmState {
        self.guest.take_state()
    }
}

fn clock(guest: &Arc<TestGuest>) -> Arc<dyn GuestClock> {
    Arc::clone(guest) as Arc<dyn GuestClock>
}

/// Sends the world's guest as RAM, with two vCPUs; RAM at the destination, and what its pages are.
fn migrate(
    world: &World,
    params: MigrationParams,
    faults: &[Fault],
) -> (SourceOutcome, DestinationOutcome, Arc<Ram>) {
    let memory = &world.memory;
    let here = Arc::new(Ram::new(memory.pages()).unwrap());
    let there = Arc::new(Ram::new(memory.pages()).unwrap());
    let vcpus = Vcpus::start(
        memory,
        &here,
        2,
        &time(0).into(),
        true,
        &clock(&world.source),
    )
    .unwrap();
    vcpus.settle(|| world.source.guest_time().into());
    let real = Real {
        guest: Arc::clone(&world.source),
        vcpus: Arc::new(vcpus),
    };
    let (client, server) = pair();
    let source = SourceJob {
        guest: Arc::new(real),
        ram: Some(here),
        faults: faults.to_vec(),
        ..world.source_job(params, client)
    };
    let destination = DestinationJob {
        ram: Some(Arc::clone(&there)),
        ..world.destination_job(server)
    };
    let (sent, received) = std::thread::scope(|scope| {
        let receiving = scope.spawn(move || run_destination(destination));
        let sent = run_source(&source, &NoObserver);
        drop(source);
        (sent, receiving.join().unwrap())
    });
    (sent, received, there)
}

#[test]
fn ram_arrives_in_its_last_versions() {
    for reprotect in [Reprotect::Lazy, Reprotect::AtSync] {
        let world = World::new(1.0);
        let params = MigrationParams {
            reprotect,
            ..params()
        };
        let (sent, received, ram) = migrate(&world, params, &[]);
        assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
        assert_verified(&received, 0);
        let normal: u64 = sent.report.rounds.iter().map(|r| r.normal_pages).sum();
        assert!(normal > 4096 + 2048, "pages were sent again: {normal}");
        // What lies there is what was verified.
        let mut bytes = [0; 4096];
        for page in (0..ram.pages()).filter(|&page| !ram.is_zero(page)) {
            ram.read(page, &mut bytes);
            world.memory.verify(&bytes, page).unwrap();
        }
    }
}

#[test]
fn a_harvest_of_ram_that_is_thrown_away_is_found_by_verification() {
    let world = World::new(1.0);
    let at_sync = MigrationParams {
        reprotect: Reprotect::AtSync,
        ..params()
    };
    let (sent, received, _) = migrate(&world, at_sync, &[Fault::SkipHarvest { number: 1 }]);
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert!(received.report.verification.unwrap().bad > 0);
}

/// A page that was written while it was read: it comes again, or else is missing at the end.
#[test]
fn a_page_that_arrives_torn_is_missing_unless_it_comes_again() {
    let ram = Arc::new(Ram::new(16_384).unwrap());
    let received = damaged(Some(ram));
    let report = &received.report;
    assert_eq!((report.bad_on_receipt, report.torn_on_receipt), (0, 1));
    assert!(matches!(
        received.error,
        Some(DestinationError::Incomplete { pages: 1, .. })
    ));
}
