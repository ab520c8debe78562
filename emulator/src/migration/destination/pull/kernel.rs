//! A guest whose RAM is there: the kernel stops its vCPUs' threads, each alone, at pages that have not come.
//!
//! ```text
//! a vCPU's thread touches a missing page ─► the kernel stops it ─► mig-fault hears of it: the vCPU's time stands,
//! the page is asked for ─► whoever reads the connection places it ─► the kernel lets the thread go on, which does
//! what is due and lets its time go on
//! ```
//!
//! Never inside: when pages are touched (the threads do it), what they hold.

use std::collections::BTreeSet;

use super::faults::{LOOK_NS, NS_PER_MS, Pull};
use super::waits::Blocked;
use crate::clock::mono_ns;
use crate::migration::guest::Standing;
use crate::resident::{Lacking, Touch};

/// Threads of vCPUs that wait, each for a page. One that was let go may come to its next page before it is noted that the
/// last one came: then it has two for a moment.
#[derive(Debug, Default)]
pub(super) struct Stopped {
    waits: Vec<(u32, Blocked)>,
    /// Since when all of the guest's vCPUs wait, and how many these are.
    stands: Option<(u64, usize)>,
}

/// Waits that end with a page.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Released {
    /// Since when the first of them waited.
    pub(super) since_ns: Option<u64>,
    /// How long no vCPU could go on.
    pub(super) stood_ns: u64,
}

impl Stopped {
    /// A thread waits: whether it is the first to wait for this page. `all` when no vCPU can go on now.
    pub(super) fn wait(&mut self, thread: u32, blocked: Blocked, all: bool) -> bool {
        let first = self.waits.iter().all(|(_, w)| w.page != blocked.page);
        self.waits.push((thread, blocked));
        if all {
            let threads = self.threads();
            self.stands.get_or_insert((blocked.since_ns, threads));
        }
        first
    }

    fn threads(&self) -> usize {
        let threads: BTreeSet<u32> = self.waits.iter().map(|(thread, _)| *thread).collect();
        threads.len()
    }

    /// A page is there.
    pub(super) fn arrived(&mut self, page: u32, now_ns: u64) -> Released {
        let waited = self.waits.iter().filter(|(_, w)| w.page == page);
        let since_ns = waited.map(|(_, w)| w.since_ns).min();
        if since_ns.is_none() {
            return Released::default();
        }
        self.waits.retain(|(_, w)| w.page != page);
        let stood = self.stands.take();
        let still = stood.filter(|(_, all)| self.threads() == *all);
        self.stands = still.map(|(_, all)| (now_ns, all));
        Released {
            since_ns,
            stood_ns: stood.map_or(0, |(since_ns, _)| now_ns.saturating_sub(since_ns)),
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
        while !self.is_over() && self.guest_is_here() {
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

    fn guest_is_here(&self) -> bool {
        self.guest().standing() != Standing::Gone
    }

    fn touched(&self, lacking: &Lacking, Touch { page, thread }: Touch) {
        let asks = self.stopped(page, |stopped| {
            let since_ns = mono_ns();
            let all = self.guest().vcpu_waits(thread);
            stopped.wait(thread, Blocked { page, since_ns }, all)
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
        let mut stopped = Stopped::default();
        // One of two waits; the other goes on, and then comes to the same page.
        assert!(stopped.wait(10, at(7, 100), false), "it is asked for");
        assert!(!stopped.wait(11, at(7, 150), true), "it was asked for");
        assert_eq!(stopped.pages(), [7]);
        assert_eq!(stopped.arrived(8, 160), Released::default());
        let both = Released {
            since_ns: Some(100),
            stood_ns: 50,
        };
        assert_eq!(stopped.arrived(7, 200), both);
        assert!(stopped.pages().is_empty());
        // Two pages: the guest goes on with the first of them.
        assert!(stopped.wait(10, at(3, 300), false));
        assert!(stopped.wait(11, at(4, 340), true));
        assert_eq!(stopped.pages(), [3, 4]);
        let first = Released {
            since_ns: Some(340),
            stood_ns: 60,
        };
        assert_eq!(stopped.arrived(4, 400), first);
        let second = Released {
            since_ns: Some(300),
            stood_ns: 0,
        };
        assert_eq!(stopped.arrived(3, 500), second);
    }

    /// The kernel lets a thread go with its page, before anybody has noted that the page came.
    #[test]
    fn a_thread_may_be_at_its_next_page_before_the_last_is_noted() {
        let mut stopped = Stopped::default();
        assert!(stopped.wait(10, at(1, 100), true));
        assert!(stopped.wait(10, at(2, 150), true), "it is asked for");
        let released = |since_ns, stood_ns| Released {
            since_ns: Some(since_ns),
            stood_ns,
        };
        assert_eq!(stopped.arrived(1, 160), released(100, 60));
        assert_eq!(stopped.pages(), [2]);
        assert_eq!(stopped.arrived(2, 200), released(150, 40));
        assert_eq!(stopped.arrived(2, 300), Released::default());
    }
}
