//! When a VM that has moved says so, and when each switch has heard it. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::topology::{Place, SwitchId, Topology};

/// When announcements are sent, as QEMU's `announce-*` parameters say it. Never inside: a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announce {
    /// `announce-initial`: between the first and the second.
    pub initial: Duration,
    /// `announce-max`: longest gap.
    pub max: Duration,
    /// `announce-rounds`: how many in all.
    pub rounds: u32,
    /// `announce-step`: by how much gaps grow.
    pub step: Duration,
}

impl Announce {
    /// Once, at once: what a guest says that announces itself when it resumes.
    pub const ONCE: Self = Self {
        initial: Duration::ZERO,
        max: Duration::ZERO,
        rounds: 1,
        step: Duration::ZERO,
    };
    /// QEMU's defaults (`migration/options.c`): 50 ms, 550 ms, 5 rounds, 100 ms.
    pub const QEMU: Self = Self {
        initial: Duration::from_millis(50),
        max: Duration::from_millis(550),
        rounds: 5,
        step: Duration::from_millis(100),
    };

    /// Instants after the guest runs, in order. The first is at once: `qemu_announce_self` sends before it sets its
    /// timer, to `initial`, `initial + step`, `initial + 2 step`, … from one to the next (`net/announce.c`).
    pub fn instants(self) -> impl Iterator<Item = Duration> {
        let gap = move |n: u32| (self.initial + self.step * n).min(self.max);
        let mut at = Duration::ZERO;
        (0..self.rounds).map(move |n| {
            if n > 0 {
                at += gap(n - 1);
            }
            at
        })
    }
}

/// How long news takes from one switch to each other one, nearest first: the delays of the links between them, which are
/// not loaded by it. The first is the switch itself, at 0.
pub(super) fn spread(topology: &Topology, first: SwitchId) -> Vec<(SwitchId, Duration)> {
    let mut heard: BTreeMap<SwitchId, Duration> = BTreeMap::new();
    let mut known = vec![(first, Duration::ZERO)];
    // Dijkstra: switches are few.
    while let Some(at) = (0..known.len()).min_by_key(|&n| (known[n].1, known[n].0)) {
        let (switch, after) = known.swap_remove(at);
        if heard.contains_key(&switch) {
            continue;
        }
        heard.insert(switch, after);
        for link in topology.links() {
            if let (Place::Switch(from), Place::Switch(to)) = (link.from, link.to)
                && from == switch
            {
                known.push((to, after + link.spec.delay));
            }
        }
    }
    let mut all: Vec<_> = heard.into_iter().collect();
    all.sort_by_key(|&(switch, after)| (after, switch != first, switch));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::LinkSpec;
    use crate::topology::{Cable, Rack};

    fn ms(announce: Announce) -> Vec<u128> {
        announce.instants().map(|at| at.as_millis()).collect()
    }

    #[test]
    fn announcements_come_when_qemu_sends_them() {
        // Gaps 50, 150, 250, 350 by hand.
        assert_eq!(ms(Announce::QEMU), [0, 50, 200, 450, 800]);
        assert_eq!(ms(Announce::ONCE), [0]);
        let capped = Announce {
            max: Duration::from_millis(120),
            rounds: 4,
            ..Announce::QEMU
        };
        assert_eq!(ms(capped), [0, 50, 170, 290]);
        assert!(
            ms(Announce {
                rounds: 0,
                ..capped
            })
            .is_empty()
        );
    }

    #[test]
    fn news_takes_the_delays_of_the_links_between_switches() {
        let uplink = |ms| {
            Cable::symmetric(LinkSpec {
                delay: Duration::from_millis(ms),
                ..LinkSpec::default()
            })
        };
        let rack = |(n, ms): (u32, u64)| Rack {
            name: format!("rack{n}"),
            uplink: uplink(ms),
            hosts: vec![(format!("h{n}"), Cable::default())],
        };
        let topology = Topology::two_tier([(1, 2), (2, 5), (3, 1)].map(rack)).unwrap();
        let after: Vec<(u32, u128)> = spread(&topology, SwitchId(1))
            .into_iter()
            .map(|(switch, after)| (switch.0, after.as_millis()))
            .collect();
        assert_eq!(after, [(1, 0), (0, 2), (3, 3), (2, 7)]);
    }
}
