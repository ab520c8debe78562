//! `thr-mmt`: static threshold, minimum migration time (Beloglazov & Buyya, CCPE 24(13), 2012).

use super::sketch::Sketch;
use crate::balance::view::{Action, Policy, View, VmView};
use crate::ids::HostId;
use std::collections::BTreeSet;

/// Relieves hosts above a threshold.
///
/// - Trigger: cores used / cores above `threshold`.
/// - Selection: minimum migration time, RAM over the host's link. All VMs of a host share its link,
///   so that is least RAM first, until the host is at or below the threshold. Unlike the paper's, a
///   VM that uses no CPU is never selected: moving it relieves nothing.
/// - Placement: the least loaded host that fits it and stays at or below the threshold. The paper's
///   power-aware best fit packs, which is against the purpose when nothing is switched off; with
///   `underload` it is the most loaded such host, which is what that rule comes to on equal hosts.
///
/// No destination ever rises above the threshold, hence no move starts the next.
#[derive(Debug, Clone, Copy)]
pub struct ThrMmt {
    /// Load above which a host is relieved.
    pub threshold: f64,
    /// Also empty the least loaded host.
    pub underload: bool,
    /// Moves per tick at most.
    pub moves: usize,
}

impl Policy for ThrMmt {
    fn name(&self) -> &str {
        "thr-mmt"
    }

    fn decide(&mut self, view: &View) -> Vec<Action> {
        let mut sketch = Sketch::new(view);
        let mut actions = Vec::new();
        let hot: Vec<HostId> = sketch.by_load().into_iter().rev().collect();
        for source in hot {
            if sketch.hosts[&source].load() <= self.threshold {
                break;
            }
            self.relieve(&mut sketch, source, &mut actions);
        }
        if self.underload && actions.is_empty() && view.migrations.is_empty() {
            // Only a quiet cluster is packed: an overload first, and what is under way first.
            actions = self.empty_one(view);
        }
        actions
    }
}

impl ThrMmt {
    fn relieve(&self, sketch: &mut Sketch<'_>, source: HostId, actions: &mut Vec<Action>) {
        for vm in quickest_first(sketch, source) {
            let load = sketch.hosts[&source].load();
            if load <= self.threshold || actions.len() >= self.moves {
                return;
            }
            let Some(destination) = self.place(sketch, vm, &BTreeSet::from([source])) else {
                continue;
            };
            let reason = format!("load {load:.2} above {:.2}", self.threshold);
            actions.push(sketch.book(vm, destination, reason));
        }
    }

    /// Hosts that hold nothing stay empty while packing; they are a last resort otherwise unneeded.
    fn place(&self, sketch: &Sketch<'_>, vm: &VmView, barred: &BTreeSet<HostId>) -> Option<HostId> {
        let mut order = sketch.by_load();
        if self.underload {
            order.reverse();
        }
        order.into_iter().find(|id| {
            let host = &sketch.hosts[id];
            !barred.contains(id) && host.fits(vm) && host.load_with(vm) <= self.threshold
        })
    }

    /// The least loaded host whose VMs all fit on others in use, or nothing: a host that stays half
    /// full has cost migrations and saved no power.
    fn empty_one(&self, view: &View) -> Vec<Action> {
        let order = Sketch::new(view).by_load();
        for source in order {
            let mut sketch = Sketch::new(view);
            let mut barred: BTreeSet<HostId> = sketch
                .hosts
                .values()
                .filter(|host| host.vms == 0)
                .map(|host| host.id)
                .collect();
            let vms = quickest_first_of_all(&sketch, source);
            let all_movable = vms.len() == sketch.hosts[&source].vms as usize;
            if vms.is_empty() || vms.len() > self.moves || !all_movable {
                continue;
            }
            barred.insert(source);
            let actions: Option<Vec<_>> = vms
                .into_iter()
                .map(|vm| {
                    let destination = self.place(&sketch, vm, &barred)?;
                    Some(sketch.book(vm, destination, "host can be emptied".to_owned()))
                })
                .collect();
            if let Some(actions) = actions {
                return actions;
            }
        }
        Vec::new()
    }
}

/// Least RAM first; of equals the one that relieves more, then the lower id.
fn quickest_first_of_all<'a>(sketch: &Sketch<'a>, host: HostId) -> Vec<&'a VmView> {
    let mut vms = sketch.movable(host).to_vec();
    vms.sort_by(|a, b| {
        let ram = a.ram_bytes.cmp(&b.ram_bytes);
        ram.then(b.cpu_used.total_cmp(&a.cpu_used))
            .then(a.id.cmp(&b.id))
    });
    vms
}

fn quickest_first<'a>(sketch: &Sketch<'a>, host: HostId) -> Vec<&'a VmView> {
    let mut vms = quickest_first_of_all(sketch, host);
    vms.retain(|vm| vm.cpu_used > 0.0);
    vms
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::*;
    use super::*;

    fn thr(underload: bool) -> ThrMmt {
        ThrMmt {
            threshold: 0.8,
            underload,
            moves: 20,
        }
    }

    #[test]
    fn least_ram_goes_first_until_below_the_threshold() {
        // 3.9 of 4 cores. The idle VM is smallest but relieves nothing; 2 GiB with 0.6 goes, and
        // 3.3 / 4 is still above, so the 4 GiB one goes too.
        let vms = [
            (0, 1.5, 8),
            (0, 0.6, 2),
            (0, 0.0, 1),
            (0, 0.8, 4),
            (0, 1.0, 16),
            (1, 0.5, 1),
        ];
        let view = view(&[(4, 64), (4, 64), (4, 64)], &vms);
        assert_eq!(moves(&thr(false).decide(&view)), vec![(1, 2), (3, 1)]);
    }

    #[test]
    fn no_destination_is_pushed_over_the_threshold() {
        let view = view(
            &[(4, 64), (4, 64)],
            &[(0, 2.0, 1), (0, 1.9, 1), (1, 2.0, 1)],
        );
        assert!(
            thr(false).decide(&view).is_empty(),
            "either VM would bring host 1 to over 0.8"
        );
    }

    #[test]
    fn consolidation_only_when_asked_for() {
        let view = view(
            &[(4, 64), (4, 64), (4, 64)],
            &[(0, 1.0, 1), (1, 0.5, 1), (1, 0.2, 1)],
        );
        assert!(thr(false).decide(&view).is_empty());
        assert_eq!(moves(&thr(true).decide(&view)), vec![(1, 0), (2, 0)]);
    }

    #[test]
    fn a_host_is_emptied_whole_or_not_at_all() {
        // Host 1 holds a VM that fits nowhere; host 0 can be emptied into host 1.
        let view = view(
            &[(4, 8), (4, 64)],
            &[(0, 1.0, 1), (1, 0.5, 32), (1, 0.2, 1)],
        );
        assert_eq!(moves(&thr(true).decide(&view)), vec![(0, 1)]);
        let mut stuck = view.clone();
        stuck.vms[0].ram_bytes = 64 << 30;
        assert!(thr(true).decide(&stuck).is_empty());
    }

    #[test]
    fn packing_comes_to_rest() {
        let vms: Vec<_> = (0..12)
            .map(|i| (i % 4, 0.3 + f64::from(i) * 0.05, 1))
            .collect();
        let mut view = view(&[(4, 64), (4, 64), (4, 64), (4, 64)], &vms);
        for _ in 0..8 {
            let actions = thr(true).decide(&view);
            apply(&mut view, &actions);
        }
        assert!(thr(true).decide(&view).is_empty());
    }
}
