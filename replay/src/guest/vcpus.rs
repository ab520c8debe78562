//! Which vCPU accesses a page, and how far each vCPU has come.
//!
//! A vCPU that waits for a page (post-copy) stands still in its own time while the others go on. All accesses of a page are
//! one vCPU's, so a page follows that vCPU's clocks. As long as nobody has waited apart they are the guest's, whoever the
//! page is dealt to: dealing changes no draw. Never inside: who waits, and why.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::GuestTime;

/// Pages that one vCPU has side by side.
const BLOCK: u32 = 64;
/// Blocks dealt in a round to each vCPU on average, where shares differ: what shares are rounded to.
const TURNS: usize = 16;

/// Pages dealt to vCPUs, blocks of 64 in turn: to each alike, or as many as its weight says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deal {
    /// The vCPU of each block of a round.
    turns: Vec<u32>,
    /// Blocks of a round, by vCPU.
    shares: Vec<u64>,
}

impl Deal {
    /// The same to each vCPU; to one if there is none.
    #[must_use]
    pub fn alike(vcpus: u32) -> Self {
        let vcpus = vcpus.max(1);
        Self {
            turns: (0..vcpus).collect(),
            shares: vec![1; vcpus as usize],
        }
    }

    /// To each vCPU by its weight, spread evenly; alike if all weights are the same.
    #[must_use]
    pub fn by_weight(weights: &[u64]) -> Self {
        let vcpus = u32::try_from(weights.len()).unwrap_or(u32::MAX);
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            return Self::alike(vcpus);
        }
        let weights: Vec<i128> = weights.iter().copied().map(i128::from).collect();
        let all: i128 = weights.iter().sum();
        let mut credit = vec![0_i128; weights.len()];
        let mut deal = Self {
            turns: Vec::new(),
            shares: vec![0; weights.len()],
        };
        // Whoever is most behind its share is next; the first of those alike.
        for _ in 0..TURNS * weights.len() {
            for (credit, weight) in credit.iter_mut().zip(&weights) {
                *credit += weight;
            }
            let vcpus_from_last = (0..credit.len()).rev();
            let next = vcpus_from_last
                .max_by_key(|&vcpu| credit[vcpu])
                .unwrap_or(0);
            credit[next] -= all;
            deal.shares[next] += 1;
            deal.turns.push(u32::try_from(next).unwrap_or(u32::MAX));
        }
        deal
    }

    /// How many vCPUs there are.
    #[must_use]
    pub fn vcpus(&self) -> u32 {
        u32::try_from(self.shares.len()).unwrap_or(u32::MAX)
    }

    /// The vCPU that accesses a page.
    #[must_use]
    pub fn vcpu(&self, page: u32) -> u32 {
        self.turns[(page / BLOCK) as usize % self.turns.len()]
    }

    /// The parts of a range, each one vCPU's.
    pub fn parts(&self, range: &Range<u32>) -> impl Iterator<Item = (Range<u32>, u32)> {
        let (start, end) = (range.start, range.end);
        let blocks = start / BLOCK..end.div_ceil(BLOCK).max(start / BLOCK);
        blocks.map(move |block| {
            let first = block.saturating_mul(BLOCK);
            let part = first.max(start)..first.saturating_add(BLOCK).min(end);
            (part, self.vcpu(first))
        })
    }
}

impl Default for Deal {
    fn default() -> Self {
        Self::alike(1)
    }
}

/// The clocks of a guest's vCPUs, once they have parted.
///
/// A vCPU's clock of CPU time reads what the guest was served while it ran, times the share of pages of all over that of those
/// that ran: so it goes on as if nobody waited, and accesses a second of served CPU stay as many. Weighted
/// with their shares the vCPUs' readings are the guest's, to the rounding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct VcpuClocks {
    /// The guest's time when somebody last began or ceased to wait.
    since: GuestTime,
    /// What each vCPU's clocks read then, and whether it waits; empty while none has ever waited apart.
    vcpus: Vec<(GuestTime, bool)>,
    /// Shares of all, and of those that run.
    all: u64,
    running: u64,
}

impl VcpuClocks {
    /// Whether every vCPU has come exactly as far as the guest.
    #[must_use]
    pub fn are_one(&self) -> bool {
        self.vcpus.is_empty()
    }

    /// How far a vCPU has come when the guest is at `guest`; of instants before somebody last began or ceased to wait
    /// only what holds if nobody waits.
    #[must_use]
    pub fn time(&self, vcpu: u32, guest: GuestTime) -> GuestTime {
        let Some(&(own, waits)) = self.vcpus.get(vcpu as usize) else {
            return guest;
        };
        if waits {
            return own;
        }
        let beyond = guest.cpu_ns.saturating_sub(self.since.cpu_ns);
        GuestTime {
            cpu_ns: own
                .cpu_ns
                .saturating_add(self.paced(beyond))
                .saturating_sub(self.since.cpu_ns.saturating_sub(guest.cpu_ns)),
            run_ns: own
                .run_ns
                .saturating_add(guest.run_ns.saturating_sub(self.since.run_ns))
                .saturating_sub(self.since.run_ns.saturating_sub(guest.run_ns)),
        }
    }

    fn paced(&self, cpu_ns: u64) -> u64 {
        if self.running == 0 {
            return cpu_ns; // who runs has no pages
        }
        let paced = u128::from(cpu_ns) * u128::from(self.all) / u128::from(self.running);
        u64::try_from(paced).unwrap_or(u64::MAX)
    }

    /// A vCPU begins or ceases to wait, at a time of the guest. One alone has the guest's clocks.
    pub(crate) fn wait(&mut self, deal: &Deal, vcpu: u32, waits: bool, guest: GuestTime) {
        if deal.vcpus() < 2 {
            return;
        }
        if self.vcpus.is_empty() {
            self.vcpus = vec![(guest, false); deal.shares.len()];
            self.since = guest;
        }
        for vcpu in 0..deal.vcpus() {
            let own = self.time(vcpu, guest);
            self.vcpus[vcpu as usize].0 = own;
        }
        self.since = guest;
        if let Some(of) = self.vcpus.get_mut(vcpu as usize) {
            of.1 = waits;
        }
        self.all = deal.shares.iter().sum();
        let runs = self.vcpus.iter().zip(&deal.shares);
        self.running = runs.filter(|((_, waits), _)| !waits).map(|(_, s)| s).sum();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(cpu_ns: u64, run_ns: u64) -> GuestTime {
        GuestTime { cpu_ns, run_ns }
    }

    #[test]
    fn blocks_are_dealt_in_turn() {
        let deal = Deal::alike(3);
        let of = |page| deal.vcpu(page);
        assert_eq!([0, 63, 64, 128, 191, 192].map(of), [0, 0, 1, 2, 2, 0]);
        let parts: Vec<_> = deal.parts(&(60..200)).collect();
        let expected = [(60..64, 0), (64..128, 1), (128..192, 2), (192..200, 0)];
        assert_eq!(parts, expected);
        assert_eq!(
            deal.parts(&(70..70))
                .map(|part| part.0.len())
                .sum::<usize>(),
            0
        );
        assert_eq!(Deal::by_weight(&[7, 7, 7]), deal);
        assert_eq!(Deal::by_weight(&[0, 0]), Deal::alike(2));
        assert_eq!(Deal::alike(0), Deal::default());
    }

    #[test]
    fn who_has_more_to_do_has_more_pages_and_who_has_nothing_has_none() {
        let deal = Deal::by_weight(&[300, 0, 100]);
        assert_eq!(deal.shares, [36, 0, 12]);
        assert_eq!(deal.turns[..8], [0, 0, 2, 0, 0, 0, 2, 0]);
    }

    #[test]
    fn a_vcpu_that_waits_stands_still_and_the_others_go_on() {
        let deal = Deal::alike(4);
        let mut clocks = VcpuClocks::default();
        assert_eq!(clocks.time(2, at(5, 6)), at(5, 6));
        // Four busy vCPUs: 40 ns of CPU by 10. Two wait from then on, one of them till 20.
        clocks.wait(&deal, 2, true, at(40, 10));
        clocks.wait(&deal, 3, true, at(40, 10));
        assert_eq!(
            clocks.time(0, at(60, 20)),
            at(80, 20),
            "as if nobody waited"
        );
        assert_eq!(clocks.time(2, at(60, 20)), at(40, 10));
        clocks.wait(&deal, 3, false, at(60, 20));
        assert_eq!(clocks.time(0, at(90, 30)), at(120, 30));
        assert_eq!(clocks.time(2, at(90, 30)), at(40, 10));
        assert_eq!(clocks.time(3, at(90, 30)), at(80, 20));
        clocks.wait(&deal, 2, false, at(90, 30));
        // Now the differences stay, backwards too.
        assert_eq!(clocks.time(2, at(94, 31)), at(44, 11));
        assert_eq!(clocks.time(0, at(80, 29)), at(110, 29));
    }

    proptest! {
        /// Whoever waits when: no reading ever goes back, and together the vCPUs have come as far as the guest.
        #[test]
        fn readings_add_up(
            weights in proptest::collection::vec(0_u64..9, 1..6),
            steps in proptest::collection::vec((0_u32..6, any::<bool>(), 0_u64..1_000_000, 0_u64..1_000_000), 0..40),
        ) {
            let deal = Deal::by_weight(&weights);
            let (mut clocks, mut guest) = (VcpuClocks::default(), at(1_000, 500));
            let mut before: Vec<_> = (0..deal.vcpus()).map(|v| clocks.time(v, guest)).collect();
            for (count, &(vcpu, waits, cpu, run)) in steps.iter().enumerate() {
                clocks.wait(&deal, vcpu % deal.vcpus(), waits, guest);
                if clocks.running > 0 {
                    guest = at(guest.cpu_ns + cpu, guest.run_ns + run);
                }
                let now: Vec<_> = (0..deal.vcpus()).map(|v| clocks.time(v, guest)).collect();
                prop_assert!(now.iter().zip(&before).all(|(now, before)| now.not_before(before)));
                prop_assert!(now.iter().all(|own| own.run_ns <= guest.run_ns));
                let all: u64 = deal.shares.iter().sum();
                let sum: u64 = now.iter().zip(&deal.shares).map(|(own, share)| own.cpu_ns * share).sum();
                let slack = all * (count as u64 + 1);
                prop_assert!(sum.abs_diff(guest.cpu_ns * all) <= slack, "{sum} {} {all}", guest.cpu_ns);
                before = now;
            }
        }
    }
}
