//! Guests made of fits, replayed against the part of the recording they were not fitted to: what the
//! fit foretells in closed form (`traces::fit`), the replayed writes do.

use std::path::Path;

use replay::{Behaviour, Bitmap, GuestTime, MemoryModel, MemorySpec};
use traces::class::{ClassPhase, Coupling, PhasedClasses};
use traces::dirty::{PageWriteTrace, Run, Tick};
use traces::fit::{Direction, phases, steady_phase, varied_halves};
use traces::import::{ImportOptions, import_path};
use traces::stats::{Quantiles, distinct_in_windows, quantile, ticks_of};

fn recording(name: &str) -> PageWriteTrace {
    let path = format!(
        "{}/../traces/library/{name}.mbpw",
        env!("CARGO_MANIFEST_DIR")
    );
    let imported = import_path(Path::new(&path), ImportOptions::default()).expect("ours");
    let vm = imported.vms.into_iter().next().expect("a VM");
    vm.page_writes.expect("a page-level recording")
}

/// What a guest of the fit writes while it is served the CPU time of these ticks.
fn replayed(fit: &Direction, coupling: Coupling, ticks: &[Tick], vm: u64) -> PageWriteTrace {
    let phase = ClassPhase {
        length_ns: 1,
        first_page: 0,
        classes: fit.classes.clone(),
        variation: fit.variation.clone(),
    };
    let phased = PhasedClasses {
        coupling,
        phases: vec![phase],
    };
    let pages = u32::try_from(phased.pages()).expect("as the recording");
    let spec = MemorySpec {
        ram_pages: pages,
        resident_pages: 0,
        high_pages: 0,
        behaviours: vec![Behaviour::Phases(phased)],
        fresh: false,
        content: traces::content::ContentProfile::default(),
    };
    let model = MemoryModel::new(&spec, 1, vm).expect("a behaviour");
    let mut dirty = Bitmap::new(pages);
    // Each has been at work for another while, so that ticks fall differently into the steps of the series.
    let before_ns = 777_000_000 + vm * 41_000_000;
    let mut now = GuestTime {
        cpu_ns: before_ns,
        run_ns: before_ns,
    };
    let tick = |tick: &Tick| {
        let then = GuestTime {
            cpu_ns: now.cpu_ns + tick.cpu_ns,
            run_ns: before_ns + tick.t_ns,
        };
        dirty.clear_all();
        model.harvest(now, then, &mut dirty);
        now = then;
        let mut runs: Vec<Run> = Vec::new();
        for page in dirty.iter() {
            match runs.last_mut() {
                Some(run) if run.start + run.len == page => run.len += 1,
                _ => runs.push(Run {
                    start: page,
                    len: 1,
                }),
            }
        }
        Tick {
            runs,
            ..tick.clone()
        }
    };
    PageWriteTrace {
        title: "replayed".into(),
        pages,
        interval_ns: 100_000_000,
        ticks: ticks.iter().map(tick).collect(),
    }
}

fn shares(q: &Quantiles) -> [f64; 5] {
    [q.mean, q.p10, q.p50, q.p90, q.p99]
}

/// The first half of a load as a guest under the CPU demand of the second. Mean within 20 % of the
/// recording, mean and p10 to p99 as the fit foretold, over 24 guests that differ in their draws.
#[test]
fn a_guest_fitted_to_one_half_writes_as_foretold_of_the_other() {
    for (name, coupling) in [("compiler", Coupling::Cpu), ("sqlite", Coupling::Time)] {
        let trace = recording(name);
        let phases = phases(&trace);
        let steady = &steady_phase(&phases).expect("loaded").range_ns;
        let found = varied_halves(&trace, steady, coupling).expect("long enough");
        let second = trace.slice(steady.start + (steady.end - steady.start) / 2..steady.end);
        let guests: Vec<PageWriteTrace> = (0..24)
            .map(|vm| replayed(&found.forward, coupling, &second.ticks, vm))
            .collect();
        for window in &found.forward.windows {
            // Over the windows of all guests, as the fit's are over all places of its series.
            let ticks = ticks_of(100_000_000, window.window_s).expect("whole ticks");
            let all = guests
                .iter()
                .flat_map(|guest| distinct_in_windows(&guest.ticks, guest.pages, ticks));
            let mut all: Vec<f64> = all.map(|count| count as f64).collect();
            all.sort_unstable_by(f64::total_cmp);
            let at = |share| quantile(&all, share).expect("windows");
            let average = all.iter().sum::<f64>() / all.len() as f64;
            let mean = [average, at(0.1), at(0.5), at(0.9), at(0.99)];
            let (recorded, foretold) = (shares(&window.measured), shares(&window.predicted));
            eprintln!(
                "{name} D({} s), mean p10 p50 p90 p99: recorded {recorded:.0?}, foretold {foretold:.0?}, \
                 replayed {mean:.0?}",
                window.window_s
            );
            assert!((mean[0] / recorded[0] - 1.0).abs() < 0.2, "{mean:?}");
            for (replayed, foretold) in mean.iter().zip(&foretold) {
                assert!((replayed / foretold - 1.0).abs() < 0.05, "{mean:?}");
            }
        }
    }
}
