//! RAM of which pages are missing: who waits, who goes on, and what is there afterwards.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use replay::Bitmap;
use replay::content::PAGE_BYTES;
use replay::guest::GuestTime;

use super::tests::{PAGES, assert_holds, memory, time};
use super::*;
use crate::clock::{mono_ns, sleep_until};
use crate::migration::guest::GuestMemory;

/// Longer than any thread is kept waiting by a busy machine.
const PATIENCE_NS: u64 = 20_000_000_000;

/// A guest whose time is set by hand, and how often each vCPU had done what was due.
#[derive(Default)]
struct ByHand {
    ms: AtomicU64,
    looks: Mutex<BTreeMap<u32, u64>>,
}

impl GuestClock for ByHand {
    fn running(&self, _vcpu: u32) -> Option<GuestTime> {
        Some(time(self.ms.load(Ordering::SeqCst)))
    }

    fn caught_up(&self, vcpu: u32) {
        *self.looks.lock().unwrap().entry(vcpu).or_default() += 1;
    }
}

impl ByHand {
    fn looks(&self, vcpu: u32) -> u64 {
        self.looks.lock().unwrap().get(&vcpu).copied().unwrap_or(0)
    }

    /// Whether the vCPU looks twice from now on: then it has done all that was due before.
    fn looks_on(&self, vcpu: u32, for_ns: u64) -> bool {
        let (before, until_ns) = (self.looks(vcpu), mono_ns() + for_ns);
        while self.looks(vcpu) < before + 2 {
            if mono_ns() > until_ns {
                return false;
            }
            sleep_until(mono_ns() + 1_000_000);
        }
        true
    }
}

struct Guest {
    memory: GuestMemory,
    ram: Arc<Ram>,
    lacking: Arc<Lacking>,
    clock: Arc<ByHand>,
    vcpus: Vcpus,
    /// The missing page, and what it held.
    page: u32,
    held: [u8; PAGE_BYTES],
}

/// Two vCPUs at guest time 0, of whose RAM a page is missing that the first writes soon; `None` where the kernel has no
/// userfaultfd.
fn without_a_page(test: &str) -> Option<Guest> {
    let memory = memory(2, "random");
    let ram = Arc::new(Ram::new(PAGES).unwrap());
    Writer::new(memory.clone(), Arc::clone(&ram), Share::all(), time(0)).fill();
    let model = memory.model();
    let of_the_first = |page: &u32| (page / 64).is_multiple_of(2);
    let soon = |page: &u32| model.written_in(*page, time(0), time(300));
    let page = (0..PAGES).filter(of_the_first).find(soon).unwrap();
    let mut held = [0; PAGE_BYTES];
    ram.read(page, &mut held);
    let mut missing = Bitmap::new(PAGES);
    missing.set(page);
    let lacking = match ram.lack(missing) {
        Ok(lacking) => lacking,
        Err(error) => {
            eprintln!("SKIPPED {test}: missing userfaultfd ({error})");
            return None;
        }
    };
    let clock = Arc::new(ByHand::default());
    let as_clock = Arc::clone(&clock) as Arc<dyn GuestClock>;
    let vcpus = Vcpus::start(&memory, &ram, 2, &time(0).into(), false, &as_clock).unwrap();
    Some(Guest {
        memory,
        ram,
        lacking,
        clock,
        vcpus,
        page,
        held,
    })
}

impl Guest {
    /// The guest's time goes on until the first vCPU is stopped.
    fn run_into_it(&self) -> Touch {
        self.clock.ms.store(600, Ordering::SeqCst);
        let until_ns = mono_ns() + PATIENCE_NS;
        while mono_ns() < until_ns {
            if let Some(touch) = self.lacking.touched(10).unwrap().first() {
                return *touch;
            }
        }
        panic!("nobody was stopped");
    }
}

#[test]
fn one_vcpu_waits_and_the_other_goes_on() {
    let Some(guest) = without_a_page("one_vcpu_waits_and_the_other_goes_on") else {
        return;
    };
    let touch = guest.run_into_it();
    assert_eq!(touch.page, guest.page);
    assert_eq!(guest.vcpus.of_thread(touch.thread), Some(0));
    assert_eq!(guest.vcpus.of_thread(touch.thread + 1_000_000), None);
    let model = guest.memory.model();
    guest.clock.ms.store(2_000, Ordering::SeqCst);
    assert!(guest.clock.looks_on(1, PATIENCE_NS), "it stopped as well");
    assert!(!guest.clock.looks_on(0, 50_000_000), "it went on without");
    // The second has written what was due by a second and a half; what the first has not reached is as it was.
    let (begin, end) = (time(600), time(1_500));
    let of = |vcpu| move |page: &u32| page / 64 % 2 == vcpu;
    let written = |page: &u32| model.written_in(*page, begin, end);
    let log = |vcpu| {
        (0..PAGES)
            .filter(of(vcpu))
            .filter(written)
            .collect::<Vec<_>>()
    };
    assert!(log(1).len() > 20 && log(1).iter().all(|&page| guest.ram.is_dirty(page)));
    let reached = log(0)
        .iter()
        .filter(|&&page| guest.ram.is_dirty(page))
        .count();
    assert!(reached < log(0).len(), "{reached} of {}", log(0).len());
    // Its page comes, and it makes up for what it has missed.
    assert!(guest.lacking.place(guest.page, &guest.held).unwrap());
    assert!(guest.clock.looks_on(0, PATIENCE_NS), "it waits on");
    guest.vcpus.park(&time(2_100).into());
    guest.ram.let_go();
    assert_holds(&guest.memory, &guest.ram, time(2_100));
}

#[test]
fn a_page_that_comes_late_changes_nothing() {
    let Some(guest) = without_a_page("a_page_that_comes_late_changes_nothing") else {
        return;
    };
    guest.run_into_it();
    assert!(guest.lacking.place(guest.page, &guest.held).unwrap());
    guest.vcpus.park(&time(700).into());
    assert!(!guest.lacking.place(guest.page, &guest.held).unwrap());
    assert!(!guest.lacking.place_zero(guest.page).unwrap());
    // Pages of zeros that nobody has touched are not there either.
    guest.ram.let_go();
    assert_holds(&guest.memory, &guest.ram, time(700));
    // The same over a plain store would lose the write, and be found.
    guest.ram.receive(guest.page, &guest.held);
    let expected = guest.memory.version_at(guest.page, time(700));
    let found = guest.memory.verify(&guest.held, guest.page).unwrap();
    assert_ne!(found, guest.memory.content_version(guest.page, expected));
}

/// A guest that is given up leaves no thread behind at a page that never comes.
#[test]
fn nobody_waits_for_a_guest_that_is_given_up() {
    let Some(guest) = without_a_page("nobody_waits_for_a_guest_that_is_given_up") else {
        return;
    };
    guest.run_into_it();
    let (said, heard) = std::sync::mpsc::channel();
    let (vcpus, lacking) = (guest.vcpus, Arc::clone(&guest.lacking));
    std::thread::spawn(move || {
        drop(vcpus);
        let _ = said.send(());
    });
    let patience = Duration::from_nanos(PATIENCE_NS);
    assert_eq!(heard.recv_timeout(patience), Ok(()), "it waits for ever");
    assert!(guest.ram.lacking().is_none());
    let late = lacking.place(guest.page, &guest.held);
    assert_eq!(late.unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn what_is_missing_is_what_was_asked_for_and_nothing_beside() {
    let memory = memory(4, "random");
    let ram = Arc::new(Ram::new(PAGES).unwrap());
    Writer::new(memory.clone(), Arc::clone(&ram), Share::all(), time(0)).fill();
    let mut missing = Bitmap::new(PAGES);
    missing.set_range(10..20);
    missing.set_range(PAGES - 3..PAGES);
    missing.set(64);
    let Ok(lacking) = ram.lack(missing.clone()) else {
        eprintln!("SKIPPED what_is_missing_is_what_was_asked_for: missing userfaultfd");
        return;
    };
    for page in 0..PAGES {
        let version = memory.version_at(page, time(0));
        let came = match memory.is_zero(page, version) {
            true => lacking.place_zero(page),
            false => {
                let (stamp, body) = memory.page(page, version);
                let mut bytes = [0; PAGE_BYTES];
                bytes[..replay::content::STAMP_BYTES].copy_from_slice(&stamp.encode());
                bytes[replay::content::STAMP_BYTES..].copy_from_slice(body);
                lacking.place(page, &bytes)
            }
        };
        // A zero page that nobody ever touched is not there either, and becomes what it was.
        let untouched = memory.is_zero(page, version);
        let placed = came.unwrap();
        assert!(placed == missing.get(page) || untouched, "page {page}");
    }
    ram.let_go();
    assert_holds(&memory, &ram, time(0));
}
