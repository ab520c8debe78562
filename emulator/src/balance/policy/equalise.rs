//! `equalise`: the goal of the thesis' daemon (Vachon 2006), all hosts equally loaded.

use super::sketch::{HostSketch, Sketch};
use crate::balance::view::{Action, Policy, View, VmView};
use crate::ids::HostId;

/// Moves VMs from the most to the least loaded host while their gap is above a threshold.
///
/// The pair of hosts furthest apart that has a useful move is served first, with the VM that closes
/// most of its gap. A move must leave both hosts strictly between where they were, so the gap of
/// the cluster never grows and no move is undone by the next.
#[derive(Debug, Clone, Copy)]
pub struct Equalise {
    /// Gap of load that is left alone.
    pub threshold: f64,
    /// Share of the pair's gap that a move must close at least.
    pub margin: f64,
    /// Moves per tick at most.
    pub moves: usize,
}

impl Policy for Equalise {
    fn name(&self) -> &str {
        "equalise"
    }

    fn decide(&mut self, view: &View) -> Vec<Action> {
        let mut sketch = Sketch::new(view);
        let mut actions = Vec::new();
        while actions.len() < self.moves {
            let Some((vm, destination)) = self.best_move(&sketch) else {
                break;
            };
            let (from, to) = (
                sketch.hosts[&vm.host].load(),
                sketch.hosts[&destination].load(),
            );
            let reason = format!("load {from:.2} against {to:.2}");
            actions.push(sketch.book(vm, destination, reason));
        }
        actions
    }
}

impl Equalise {
    fn best_move<'a>(&self, sketch: &Sketch<'a>) -> Option<(&'a VmView, HostId)> {
        let order = sketch.by_load();
        for source in order.iter().rev() {
            let source = &sketch.hosts[source];
            for destination in order.iter().map(|id| &sketch.hosts[id]) {
                if source.load() - destination.load() <= self.threshold {
                    break; // the rest are closer still
                }
                if let Some(vm) = self.best_vm(sketch, source, destination) {
                    return Some((vm, destination.id));
                }
            }
        }
        None
    }

    fn best_vm<'a>(
        &self,
        sketch: &Sketch<'a>,
        source: &HostSketch,
        destination: &HostSketch,
    ) -> Option<&'a VmView> {
        let (high, low) = (source.load(), destination.load());
        let gap = high - low;
        let mut best: Option<(f64, &VmView)> = None;
        for &vm in sketch
            .movable(source.id)
            .iter()
            .filter(|vm| destination.fits(vm))
        {
            let (left, arrived) = (source.load_without(vm), destination.load_with(vm));
            let after = (left - arrived).abs();
            let between = left > low && arrived < high;
            let useful = between && after < gap && gap - after >= self.margin * gap;
            // Strictly better only: of equals the first, that is the lowest id, stays.
            if useful && best.is_none_or(|(least, _)| after < least) {
                best = Some((after, vm));
            }
        }
        best.map(|(_, vm)| vm)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::*;
    use super::*;

    fn equalise() -> Equalise {
        Equalise {
            threshold: 0.1,
            margin: 0.1,
            moves: 5,
        }
    }

    #[test]
    fn moves_the_vm_that_closes_most_of_the_gap() {
        // Loads 0.9 and 0.1 of 10 cores: moving 4 cores leaves 0.5 and 0.5.
        let view = view(
            &[(10, 64), (10, 64)],
            &[(0, 1.0, 1), (0, 4.0, 1), (0, 4.0, 1), (1, 1.0, 1)],
        );
        assert_eq!(moves(&equalise().decide(&view)), vec![(1, 1)]);
    }

    #[test]
    fn balanced_or_hopeless_clusters_are_left_alone() {
        let balanced = view(&[(4, 64), (4, 64)], &[(0, 1.0, 1), (1, 0.7, 1)]);
        assert!(
            equalise().decide(&balanced).is_empty(),
            "gap 0.075 is below the threshold"
        );
        // One VM is the whole load: moving it would only swap the hosts.
        let one = view(&[(4, 64), (4, 64)], &[(0, 3.0, 1)]);
        assert!(equalise().decide(&one).is_empty());
        let no_ram = view(&[(4, 64), (4, 1)], &[(0, 1.5, 2), (0, 1.5, 2)]);
        assert!(equalise().decide(&no_ram).is_empty());
    }

    #[test]
    fn a_full_coldest_host_does_not_block_the_next() {
        let view = view(
            &[(4, 64), (4, 0), (4, 64)],
            &[(0, 1.5, 2), (0, 1.5, 2), (2, 0.2, 1)],
        );
        assert_eq!(moves(&equalise().decide(&view)), vec![(0, 2)]);
    }

    #[test]
    fn a_small_host_is_not_made_the_new_hot_spot() {
        // One core: 1.4 cores would load it to 1.4, above the 0.9 it is to relieve.
        let view = view(&[(16, 64), (1, 64)], &[(0, 13.0, 1), (0, 1.4, 1)]);
        assert!(equalise().decide(&view).is_empty());
    }

    #[test]
    fn migrations_under_way_count_as_done() {
        let mut view = view(&[(10, 64), (10, 64)], &[(0, 4.0, 1), (0, 4.0, 1)]);
        migrating(&mut view, 0, 1);
        assert!(equalise().decide(&view).is_empty());
    }

    #[test]
    fn speed_and_limits_of_hosts_are_seen() {
        // Four reference cores used on each: 4 of 4 on one, 4 of 8 on the other.
        let both = [(0, 2.0, 1), (0, 1.0, 1), (0, 1.0, 1), (1, 4.0, 1)];
        let mut fast = view(&[(4, 64), (4, 64)], &both);
        assert!(equalise().decide(&fast).is_empty());
        fast.hosts[1].speed = 2.0;
        // Moving one core leaves 0.75 and 0.625.
        assert_eq!(moves(&equalise().decide(&fast)), vec![(1, 1)]);
        // VMs have 8 vCPUs here; one more does not fit.
        fast.hosts[1].vcpus_admitted = Some(15);
        fast.hosts[1].vcpus_used = 8;
        assert!(equalise().decide(&fast).is_empty());
        fast.hosts[1].vcpus_admitted = Some(16);
        assert_eq!(moves(&equalise().decide(&fast)), vec![(1, 1)]);
    }

    #[test]
    fn repeated_ticks_come_to_rest() {
        let mut view = view(
            &[(8, 64), (8, 64), (4, 64)],
            &[
                (0, 1.1, 1),
                (0, 2.3, 1),
                (0, 0.7, 1),
                (0, 1.9, 1),
                (1, 0.2, 1),
                (0, 0.4, 1),
            ],
        );
        let mut total = 0;
        for _ in 0..10 {
            let before = gap(&view);
            let actions = equalise().decide(&view);
            total += actions.len();
            apply(&mut view, &actions);
            assert!(gap(&view) <= before + 1e-12);
        }
        assert!(
            equalise().decide(&view).is_empty(),
            "still moving after {total} moves"
        );
        assert!((1..=8).contains(&total), "{total}");
    }
}
