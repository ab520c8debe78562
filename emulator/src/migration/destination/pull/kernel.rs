//! A guest whose RAM is there: the kernel stops its vCPUs' threads, each alone, at pages that have not come.
//!
//! ```text
//! a vCPU's thread touches a missing page ─► the kernel stops it ─► mig-fault hears of it: the vCPU's time stands,
//! the page is asked for ─► whoever reads the connection places it ─► the kernel lets the thread go on, which does
//! what is due and lets its time go on
//! ```
//!
//! Never inside: when pages are touched (the threads do it), what they hold.

use super::faults::{LOOK_NS, NS_PER_MS, Pull};
use super::waits::Blocked;
use crate::clock::mono_ns;
use crate::migration::guest::Standing;
use crate::resident::{Lacking, Touch};

/// vCPUs whose threads wait, each for a page. One that was let go may come to its next page before it is noted that the
/// last one came: then it has two for a moment.
#[derive(Debug)]
pub(super) struct Halted {
    waits: Vec<(usize, Blocked)>,
    vcpus: usize,
    /// Since when all of them wait.
    stands_ns: Option<u64>,
}

/// Waits that end with a page.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    /// vCPUs, and since when they waited.
    pub(super) waits: Vec<(usize, u64)>,
    /// How long none could go on.
    pub(super) stood_ns: u64,
}

impl Halted {
    /// Of a guest of so many vCPUs, of which none waits.
    pub(super) fn of(vcpus: usize) -> Self {
        Self {
            waits: Vec::new(),
            vcpus,
            stands_ns: None,
        }
    }

    /// A vCPU's thread waits: whether it is the first to wait for this page.
    pub(super) fn wait(&mut self, vcpu: usize, blocked: Blocked) -> bool {
        let first = self.waits.iter().all(|(_, w)| w.page != blocked.page);
        self.waits.push((vcpu, blocked));
        if self.stands() {
            self.stands_ns.get_or_insert(blocked.since_ns);
        }
        first
    }

    fn stands(&self) -> bool {
        (0..self.vcpus).all(|vcpu| self.waits.iter().any(|(of, _)| *of == vcpu))
    }

    /// A page is there.
    pub(super) fn arrived(&mut self, page: u32, now_ns: u64) -> Ended {
        let of_it = |(_, waits): &&(usize, Blocked)| waits.page == page;
        let ended = self.waits.iter().filter(of_it);
        let waits: Vec<_> = ended.map(|(vcpu, w)| (*vcpu, w.since_ns)).collect();
        if waits.is_empty() {
            return Ended::default();
        }
        self.waits.retain(|(_, w)| w.page != page);
        let stood = self.stands_ns.take();
        self.stands_ns = stood.filter(|_| self.stands()).map(|_| now_ns);
        Ended {
            waits,
            stood_ns: stood.map_or(0, |since_ns| now_ns.saturating_sub(since_ns)),
        }
    }

    /// The pages that are waited for.
    pub(super) fn pages(&self) -> Vec<u32> {
        let mut pages: Vec<u32> = self.waits.iter().map(|(_, waits)| waits.page).collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }
}

impl Pull<'_> {
    /// Hears of threads that were stopped and asks for their pages, until the pull is over.
    pub(super) fn watch_threads(&self, lacking: &Lacking) {
        let ms = u16::try_from(LOOK_NS / NS_PER_MS).unwrap_or(u16::MAX);
        while !self.is_over() && self.guest().standing() != Standing::Gone {
            match lacking.touched(ms) {
                Ok(touches) => touches
                    .into_iter()
                    .for_each(|touch| self.touched(lacking, touch)),
                Err(error) => {
                    // Pages come in their order all the same, and each lets go who waits for it.
                    tracing::error!(%error, "missing pages are not asked for any more");
                    return;
                }
            }
        }
    }

    fn touched(&self, lacking: &Lacking, Touch { page, thread }: Touch) {
        let asks = self.halted(page, |halted| {
            let since_ns = mono_ns();
            // Whoever else touches it waits as well, and nobody's time stands for it.
            let vcpu = self.guest().vcpu_waits(thread)? as usize;
            halted
                .wait(vcpu, Blocked { page, since_ns })
                .then_some(vcpu)
        });
        match asks {
            Some(true) => self.ask(page),
            Some(false) => {}
            None => {
                // It came meanwhile; or it came as zeros before the guest ran, and nobody has touched it since. Neither
                // call can fail but for memory that was let go of, for which nobody waits.
                let _ = lacking.place_zero(page);
                let _ = lacking.wake(page);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(page: u32, since_ns: u64) -> Blocked {
        Blocked { page, since_ns }
    }

    #[test]
    fn a_guest_stands_only_while_all_its_vcpus_wait() {
        let mut halted = Halted::of(2);
        let ended = |waits: &[(usize, u64)], stood_ns| Ended {
            waits: waits.to_vec(),
            stood_ns,
        };
        // One of two waits; the other goes on, and then comes to the same page.
        assert!(halted.wait(0, at(7, 100)), "it is asked for");
        assert!(!halted.wait(1, at(7, 150)), "it was asked for");
        assert_eq!(halted.pages(), [7]);
        assert_eq!(halted.arrived(8, 160), Ended::default());
        assert_eq!(halted.arrived(7, 200), ended(&[(0, 100), (1, 150)], 50));
        assert!(halted.pages().is_empty());
        // Two pages: the guest goes on with the first of them.
        assert!(halted.wait(0, at(3, 300)));
        assert!(halted.wait(1, at(4, 340)));
        assert_eq!(halted.pages(), [3, 4]);
        assert_eq!(halted.arrived(4, 400), ended(&[(1, 340)], 60));
        assert_eq!(halted.arrived(3, 500), ended(&[(0, 300)], 0));
    }

    /// The kernel lets a thread go with its page, before anybody has noted that the page came.
    #[test]
    fn a_thread_may_be_at_its_next_page_before_the_last_is_noted() {
        let mut halted = Halted::of(1);
        assert!(halted.wait(0, at(1, 100)));
        assert!(halted.wait(0, at(2, 150)), "it is asked for");
        let ended = |since_ns, stood_ns| Ended {
            waits: vec![(0, since_ns)],
            stood_ns,
        };
        assert_eq!(halted.arrived(1, 160), ended(100, 60));
        assert_eq!(halted.pages(), [2]);
        assert_eq!(halted.arrived(2, 200), ended(150, 40));
        assert_eq!(halted.arrived(2, 300), Ended::default());
    }
}
