//! Post-copy of RAM that is there: threads touch it, and the kernel stops them at what has not come.

use super::on_demand::on_demand;
use super::postcopy::{Both, hybrid, post_copy, wait_until};
use super::resident::Real;
use super::*;
use crate::migration::channels::Channel;
use crate::migration::guest::Reading;
use crate::migration::record::PostcopyDestination;
use crate::resident::{GuestClock, Vcpus};
use replay::content::PAGE_BYTES;
use std::collections::BTreeSet;

const VCPUS: u32 = 2;

/// The guest of `World` at its destination, with two threads in its RAM.
struct Room {
    clock: Arc<RoomClock>,
    memory: GuestMemory,
    ram: Arc<Ram>,
    vcpus: Mutex<Option<Arc<Vcpus>>>,
    /// A mistake to be found: a page that came is stored once more, over what the guest has written.
    stores_late: bool,
    stopped_at: Mutex<GuestTime>,
}

/// Its time, which stands while both of its vCPUs wait.
struct RoomClock {
    guest: Arc<TestGuest>,
    waiting: Mutex<BTreeSet<u32>>,
}

impl RoomClock {
    fn change(&self, act: impl FnOnce(&mut BTreeSet<u32>)) {
        let mut waiting = self.waiting.lock().unwrap();
        let stood = waiting.len() == VCPUS as usize;
        act(&mut waiting);
        let stands = waiting.len() == VCPUS as usize;
        if stood != stands {
            let so_far = self.guest.run_ns();
            // One that was given up stays so.
            if self.guest.runs() || stood {
                self.guest.set((!stands).then(mono_ns), so_far);
            }
        }
    }
}

impl GuestClock for RoomClock {
    fn running(&self, _vcpu: u32) -> Option<GuestTime> {
        Some(time(self.guest.run_ns()))
    }

    fn caught_up(&self, vcpu: u32) {
        self.change(|waiting| {
            waiting.remove(&vcpu);
        });
    }
}

impl Room {
    fn threads(&self) -> Option<Arc<Vcpus>> {
        self.vcpus.lock().unwrap().clone()
    }
}

impl DestinationGuest for Room {
    fn commit_and_resume(&self, state: VmState) -> Result<u64, CommitRefused> {
        let at = state.guest_time();
        *self.stopped_at.lock().unwrap() = at;
        let resumed = self.clock.guest.commit_and_resume(state)?;
        let clock = Arc::clone(&self.clock) as Arc<dyn GuestClock>;
        let vcpus =
            Vcpus::start(&self.memory, &self.ram, VCPUS, &at.into(), false, &clock).unwrap();
        *self.vcpus.lock().unwrap() = Some(Arc::new(vcpus));
        Ok(resumed)
    }

    fn run_within(&self, limits: &[(usize, Limit)]) {
        let free = limits.iter().all(|(_, limit)| *limit == Limit::NONE);
        assert!(free, "nobody computes where it stops");
    }

    fn standing(&self) -> Standing {
        if self.threads().is_none() {
            return Standing::Gone;
        }
        Standing::Here {
            vcpus: Vec::new(),
            until_ns: u64::MAX,
        }
    }

    fn vcpu_waits(&self, thread: u32) -> Option<u32> {
        let vcpu = self.threads()?.of_thread(thread);
        let vcpu = vcpu.expect("nobody else touches its RAM");
        self.clock.change(|waiting| {
            waiting.insert(vcpu);
        });
        Some(vcpu)
    }

    fn hold_still(&self, with: &mut dyn FnMut(&Reading)) -> bool {
        let Some(vcpus) = self.threads() else {
            return false;
        };
        let now = || Some(time(self.clock.guest.run_ns()).into());
        vcpus.hold_still(now, |at| {
            if self.stores_late {
                let stopped_at = *self.stopped_at.lock().unwrap();
                let model = self.memory.model();
                let newer = |page: &u32| model.written_in(*page, stopped_at, at.time);
                let page = (0..self.ram.pages()).find(newer).unwrap();
                let (stamp, body) = self.memory.page(page, model.version_at(page, stopped_at));
                let came = [&stamp.encode()[..], body].concat();
                self.ram.receive(page, &came);
            }
            with(at);
        })
    }

    fn give_up(&self) {
        self.clock.change(BTreeSet::clear);
        SourceGuest::crash(&*self.clock.guest);
        let threads = self.vcpus.lock().unwrap().take();
        drop(threads);
    }
}

/// A world whose guest reads as well as it writes.
fn world(rate: f64) -> World {
    let class = |pages, rate, locality| PageClass {
        locality,
        read_rate: rate,
        ..PageClass::new(pages, rate)
    };
    let spec = MemorySpec {
        ram_pages: 16_384,
        resident_pages: 4096,
        high_pages: 0,
        behaviours: vec![Behaviour::Classes(vec![
            class(2048, rate, Locality::Scatter),
            class(512, rate, Locality::Sweep),
        ])],
        fresh: false,
        content: ContentProfile {
            zero_share: 0.05,
            ..ContentProfile::RANDOM
        },
    };
    World {
        memory: of_spec(&spec).of_vcpus(Deal::alike(VCPUS)),
        ..World::of_vcpus(0.0, VCPUS)
    }
}

/// The world's guest as RAM, and a place for it; `None` where the kernel has no userfaultfd.
fn real(test: &str, world: &World, params: MigrationParams) -> Option<(Both, Arc<Room>)> {
    let pages = world.memory.pages();
    if let Err(error) = Ram::new(1).unwrap().lack(replay::Bitmap::full(1)) {
        eprintln!("SKIPPED {test}: missing userfaultfd ({error})");
        return None;
    }
    let here = Arc::new(Ram::new(pages).unwrap());
    let clock = Arc::clone(&world.source) as Arc<dyn GuestClock>;
    let vcpus = Vcpus::start(&world.memory, &here, VCPUS, &time(0).into(), true, &clock).unwrap();
    vcpus.settle(|| world.source.guest_time().into());
    let there = Arc::new(Ram::new(pages).unwrap());
    let room = Arc::new(Room {
        clock: Arc::new(RoomClock {
            guest: Arc::clone(&world.destination),
            waiting: Mutex::default(),
        }),
        memory: world.memory.clone(),
        ram: Arc::clone(&there),
        vcpus: Mutex::default(),
        stores_late: false,
        stopped_at: Mutex::default(),
    });
    let mut both = Both::new(world, params);
    both.source.ram = Some(here);
    both.source.guest = Arc::new(Real {
        guest: Arc::clone(&world.source),
        vcpus: Arc::new(vcpus),
    });
    both.destination.ram = Some(there);
    both.destination.guest = Arc::clone(&room) as Arc<dyn DestinationGuest>;
    Some((both, room))
}

fn assert_pulled<'a>(
    sent: &SourceOutcome,
    received: &'a DestinationOutcome,
) -> &'a PostcopyDestination {
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_eq!(sent.side, SourceSide::Released);
    assert_verified(received, 0);
    let postcopy = received.report.postcopy.as_ref().unwrap();
    assert_eq!(postcopy.never_came, 0);
    assert_eq!((postcopy.overrun, postcopy.held_ns), (None, None));
    let answered: u64 = postcopy.latency_dist.iter().sum();
    assert_eq!(answered, postcopy.requests);
    postcopy
}

/// The guest's next migration, by pre-copy from where it is now: each page as its vCPUs have left it.
fn next_migration_verifies(world: &World, room: &Room) {
    let vcpus = room.threads().unwrap();
    vcpus.settle(|| time(world.destination.run_ns()).into());
    let further = TestGuest::new(&world.running, false, VCPUS);
    let (client, server) = pair();
    let fast = MigrationParams {
        max_bandwidth: 0,
        ..params()
    };
    let source = SourceJob {
        guest: Arc::new(Real {
            guest: Arc::clone(&world.destination),
            vcpus,
        }),
        ram: Some(Arc::clone(&room.ram)),
        ..world.source_job(fast, client)
    };
    let destination = DestinationJob {
        guest: Arc::clone(&further) as Arc<dyn DestinationGuest>,
        ram: Some(Arc::new(Ram::new(room.ram.pages()).unwrap())),
        ..world.destination_job(server)
    };
    let (sent, received) = std::thread::scope(|scope| {
        let receiving = scope.spawn(move || run_destination(destination));
        let sent = run_source(&source, &NoObserver);
        drop(source);
        (sent, receiving.join().unwrap())
    });
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_verified(&received, 0);
}

#[test]
fn threads_wait_for_each_page_they_touch_and_no_version_is_lost() {
    let world = world(2.0);
    let test = "threads_wait_for_each_page_they_touch";
    let Some((both, room)) = real(test, &world, post_copy()) else {
        return;
    };
    let (sent, received) = both.run(|_, _| {});
    let asked = assert_pulled(&sent, &received);
    assert!(asked.requests > 50, "{asked:?}");
    assert_eq!(asked.came_twice, 0, "each page is sent once");
    assert_eq!(asked.missing_pages, 16_384);
    // Both of two wait no longer than each of them.
    let each = |vcpu: usize| asked.vcpus[vcpu].blocktime_ns;
    assert!(asked.blocktime_ns > 0 && asked.blocktime_ns <= each(0).min(each(1)));
    assert_eq!(
        asked.vcpus[0].requests + asked.vcpus[1].requests,
        asked.requests
    );
    let served = sent.report.postcopy.as_ref().unwrap();
    assert_eq!(asked.requests, served.requests);
    assert_eq!(sent.report.bytes.total(), received.report.received_bytes);
    assert!(room.ram.lacking().is_none(), "nothing is watched any more");
    next_migration_verifies(&world, &room);
}

/// Against the same guest whose memory is computed.
#[test]
fn ram_is_pulled_as_computed_memory_is() {
    let computed = world(2.0);
    let (sent, received) = Both::new(&computed, post_copy()).run(|_, _| {});
    assert_eq!(sent.end, SourceEnd::Completed);
    let there = world(2.0);
    let Some((both, _room)) = real("ram_is_pulled_as_computed_memory_is", &there, post_copy())
    else {
        return;
    };
    let (real_sent, real_received) = both.run(|_, _| {});
    let real = assert_pulled(&real_sent, &real_received);
    let expected = received.report.postcopy.as_ref().unwrap();
    assert_eq!(real.missing_pages, expected.missing_pages);
    // The guest stops at another instant, at which some other pages are zero.
    let normal = |sent: &SourceOutcome| sent.report.bytes.normal as f64;
    let ratio = normal(&real_sent) / normal(&sent);
    assert!((ratio - 1.0).abs() < 0.01, "{ratio}");
    let requests = real.requests as f64 / expected.requests as f64;
    assert!(
        (0.2..5.0).contains(&requests),
        "{} against {}",
        real.requests,
        expected.requests
    );
}

/// Cloud Hypervisor's: the page of a thread that the kernel has stopped is asked for next.
#[test]
fn ram_is_asked_for_page_by_page() {
    let world = world(2.0);
    let Some((both, room)) = real("ram_is_asked_for_page_by_page", &world, on_demand()) else {
        return;
    };
    let (sent, received) = both.run(|_, _| {});
    let asked = assert_pulled(&sent, &received);
    let faulted = asked.missing_pages - asked.prefaulted_pages.unwrap();
    assert!(faulted > 0 && faulted <= asked.requests, "{asked:?}");
    assert_eq!(asked.came_twice, 0, "each page is asked for once");
    assert_eq!(sent.report.bytes.total(), received.report.received_bytes);
    next_migration_verifies(&world, &room);
}

#[test]
fn requested_pages_come_on_their_own_connection_into_ram() {
    let world = world(2.0);
    let mut params = post_copy();
    params.postcopy.preempt = true;
    let ids = params.channels();
    let test = "requested_pages_come_on_their_own_connection_into_ram";
    let Some((mut both, room)) = real(test, &world, params) else {
        return;
    };
    let (urgent, far) = pair();
    both.source.channels.push(Channel {
        id: ids[0],
        socket: urgent,
    });
    both.destination.channels.push(Channel {
        id: ids[0],
        socket: far,
    });
    let (sent, received) = both.run(|_, _| {});
    let asked = assert_pulled(&sent, &received);
    assert!(asked.requests > 50 && asked.came_twice == 0, "{asked:?}");
    let served = sent.report.postcopy.as_ref().unwrap();
    assert!(served.preempt_bytes > 50 * PAGE_BYTES as u64);
    next_migration_verifies(&world, &room);
}

#[test]
fn a_switch_takes_away_what_is_stale() {
    let moving = world(20.0);
    let Some((both, room)) = real("a_switch_takes_away_what_is_stale", &moving, hybrid()) else {
        return;
    };
    let (sent, received) = both.run(|_, _| {});
    let asked = assert_pulled(&sent, &received);
    assert!(asked.missing_pages > 1000 && asked.missing_pages < 4096);
    next_migration_verifies(&moving, &room);
    // Told of nothing that it lacks, the destination keeps versions that are stale.
    let moving = world(20.0);
    let (mut both, _room) = real("", &moving, hybrid()).unwrap();
    both.source.faults = vec![Fault::SkipDiscard];
    let (_, received) = both.run(|_, _| {});
    let stale = received.report.verification.as_ref().unwrap().bad;
    assert!(stale > 1000, "{stale} stale pages");
}

#[test]
fn a_cut_connection_is_taken_up_again_and_threads_wait_meanwhile() {
    let world = world(2.0);
    let mut params = post_copy();
    params.postcopy.max_bandwidth = 8_000_000;
    let test = "a_cut_connection_is_taken_up_again_and_threads_wait_meanwhile";
    let Some((both, room)) = real(test, &world, params) else {
        return;
    };
    let (sent, received) = both.run(|source, destination| {
        for left in [15_900, 15_200] {
            wait_until("the pull", || {
                let progress = source.progress();
                progress.status == "postcopy-active" && progress.remaining_bytes < left * 4096
            });
            wait_until("a connection to break", || destination.pause_postcopy());
            wait_until("the source to notice", || {
                source.progress().status != "postcopy-active"
            });
        }
    });
    assert_pulled(&sent, &received);
    let interruptions = &sent.report.postcopy.as_ref().unwrap().interruptions;
    assert_eq!(interruptions.len(), 2, "{interruptions:?}");
    next_migration_verifies(&world, &room);
}

/// Pages never come: the guest is lost, and its threads end with it.
#[test]
fn a_guest_that_is_lost_leaves_no_thread_behind() {
    let lost = world(2.0);
    let test = "a_guest_that_is_lost_leaves_no_thread_behind";
    let Some((mut both, room)) = real(test, &lost, post_copy()) else {
        return;
    };
    both.source.faults = vec![Fault::LosePages {
        after: 1000,
        pages: 32,
        put_back: false,
    }];
    let (_, received) = both.run(|_, _| {});
    assert!(received.report.is_lost(), "{:?}", received.report.error);
    assert_eq!(received.report.postcopy.as_ref().unwrap().never_came, 32);
    assert!(room.threads().is_none() && room.ram.lacking().is_none());
    assert_eq!(lost.running.load(Ordering::SeqCst), 0);
    // The same when its source goes for ever.
    let lost = world(2.0);
    let mut params = post_copy();
    params.postcopy.max_bandwidth = 4_000_000;
    let (mut both, room) = real("", &lost, params).unwrap();
    both.source.redial = None;
    let (_, received) = both.run(|source, destination| {
        wait_until("the pull", || source.progress().status == "postcopy-active");
        assert!(!source.cancel(), "it is too late");
        assert!(source.pause_postcopy());
        assert!(destination.abandon(), "it had committed");
    });
    assert!(received.report.is_lost(), "{:?}", received.report.error);
    assert!(room.threads().is_none() && room.ram.lacking().is_none());
}

#[test]
fn a_page_stored_over_a_newer_write_is_found_by_verification() {
    let world = world(2.0);
    let test = "a_page_stored_over_a_newer_write_is_found_by_verification";
    let Some((mut both, room)) = real(test, &world, post_copy()) else {
        return;
    };
    let careless = Room {
        clock: Arc::clone(&room.clock),
        memory: room.memory.clone(),
        ram: Arc::clone(&room.ram),
        vcpus: Mutex::default(),
        stores_late: true,
        stopped_at: Mutex::default(),
    };
    both.destination.guest = Arc::new(careless);
    let (sent, received) = both.run(|_, _| {});
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    let bad = received.report.verification.as_ref().unwrap().bad;
    assert!(bad > 0, "nobody noticed");
}
