//! Which vCPUs of a VM wait for pages that have not come, and what that does to the VM's time.
//!
//! A VM has one pair of clocks. While some of its vCPUs wait its CPU time is served by the others: the waiting ones' share
//! of it is taken away; while all wait both clocks stand. Pure. Never inside: why they wait.

use replay::Throttle;
use std::collections::BTreeSet;

/// The vCPUs of one VM.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    vcpus: u32,
    waiting: BTreeSet<u32>,
}

impl Waiting {
    /// Nobody waits.
    pub(super) fn new(vcpus: u32) -> Self {
        Self {
            vcpus,
            waiting: BTreeSet::new(),
        }
    }

    /// Whether that changes anything.
    pub(super) fn stop(&mut self, vcpu: u32) -> bool {
        vcpu < self.vcpus && self.waiting.insert(vcpu)
    }

    /// Whether that changes anything.
    pub(super) fn go_on(&mut self, vcpu: u32) -> bool {
        self.waiting.remove(&vcpu)
    }

    /// Whether nobody goes on.
    pub(super) fn all(&self) -> bool {
        self.waiting.len() == self.vcpus as usize
    }

    /// The share of the VM's CPUs that wait. Of all of them it is 99 %, the most there is: the VM is paused as well.
    pub(super) fn throttle(&self) -> Throttle {
        let percent = self.waiting.len() as u64 * 100 / u64::from(self.vcpus.max(1));
        let percent = u8::try_from(percent.min(99)).expect("at most 99");
        Throttle::new(percent).expect("at most 99")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_wait_take_their_share_and_all_of_them_take_everything() {
        let mut waiting = Waiting::new(3);
        let now = |waiting: &Waiting| (waiting.throttle().percent(), waiting.all());
        assert_eq!(now(&waiting), (0, false));
        assert!(waiting.stop(1) && !waiting.stop(1), "once");
        assert!(!waiting.stop(3), "there is none");
        assert_eq!(now(&waiting), (33, false));
        assert!(waiting.stop(0) && waiting.stop(2));
        assert_eq!(now(&waiting), (99, true));
        assert!(waiting.go_on(2) && !waiting.go_on(2));
        assert_eq!(now(&waiting), (66, false));
    }
}
