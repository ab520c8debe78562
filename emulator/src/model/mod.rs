//! Analytic models of a migration: what simulators and papers would say before it begins.
//!
//! Inside: closed forms and bounded loops, one file per family; sources in the doc of each model.
//! Never inside: anything measured during the migration that is being predicted.
//!
//! Symbols: V bytes to send, R bytes a second, D dirty rate, λ = D/R, W writable working set,
//! θ downtime limit. Tags: \[C\] read in code, \[P\] from a paper.

mod loops;
mod qemu;
mod simple;

pub use loops::{AkoushAvg, Liu, SimGrid, XenFivePass};
pub use qemu::QemuLoop;
pub use simple::{CloudSim, RamOverBandwidth};

use crate::migration::record::Prediction;
use serde::{Deserialize, Serialize};
use traces::class::{Coupling, PageClass, unique_pages};
use traces::units::PAGE_SIZE;

/// A page, as the models count.
const PAGE: f64 = PAGE_SIZE as f64;

/// What is known of a VM and its path before it is moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// RAM, bytes.
    pub ram_bytes: u64,
    /// RAM that is not zero, bytes.
    pub nonzero_bytes: u64,
    /// Distinct bytes written a second, over a window of 1 s: the single rate of most models.
    pub dirty_bytes_per_s: f64,
    /// Bytes written again and again: no round can be larger.
    pub working_set_bytes: u64,
    /// The curve D(t), as page classes; empty when it is not known.
    pub classes: Vec<PageClass>,
    /// Cores served to the VM, by which classes coupled to CPU time advance.
    pub cores: f64,
    /// Payload bytes a second that the path carries.
    pub goodput_bytes_per_s: f64,
    /// Downtime limit, s.
    pub downtime_limit_s: f64,
    /// Parts of the downtime that do not depend on pages: device state, its load, drain of
    /// buffers, s.
    pub fixed_downtime_s: f64,
}

impl Inputs {
    /// The inputs of a VM whose classes are known: the dirty rate and the working set follow.
    #[must_use]
    pub fn from_classes(
        ram_bytes: u64,
        nonzero_bytes: u64,
        classes: Vec<PageClass>,
        cores: f64,
        path: Path,
    ) -> Self {
        let pages: u64 = classes.iter().map(|class| u64::from(class.pages)).sum();
        let mut inputs = Self {
            ram_bytes,
            nonzero_bytes,
            dirty_bytes_per_s: 0.0,
            working_set_bytes: (pages * PAGE_SIZE).min(ram_bytes),
            classes,
            cores,
            goodput_bytes_per_s: path.goodput_bytes_per_s,
            downtime_limit_s: path.downtime_limit_s,
            fixed_downtime_s: path.fixed_downtime_s,
        };
        inputs.dirty_bytes_per_s = inputs.dirtied_by_classes(1.0);
        inputs
    }

    /// Distinct bytes written in `t_s` seconds, by the classes.
    fn dirtied_by_classes(&self, t_s: f64) -> f64 {
        let of = |class: &PageClass| {
            let t = if class.coupling == Coupling::Cpu {
                t_s * self.cores
            } else {
                t_s
            };
            unique_pages(std::slice::from_ref(class), t.max(0.0))
        };
        clean(self.classes.iter().map(of).sum::<f64>() * PAGE)
    }

    /// Distinct bytes written in `t_s` seconds at the one constant rate, min(D·t, W).
    fn dirtied_at_rate(&self, t_s: f64) -> f64 {
        (self.dirty() * t_s.max(0.0)).min(self.working_set_bytes as f64)
    }

    fn dirty(&self) -> f64 {
        clean(self.dirty_bytes_per_s)
    }

    fn rate(&self) -> f64 {
        clean(self.goodput_bytes_per_s)
    }

    fn limit(&self) -> f64 {
        clean(self.downtime_limit_s)
    }

    fn fixed(&self) -> f64 {
        clean(self.fixed_downtime_s)
    }
}

/// What a path and an engine add to [`Inputs::from_classes`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Path {
    /// Payload bytes a second.
    pub goodput_bytes_per_s: f64,
    /// Downtime limit, s.
    pub downtime_limit_s: f64,
    /// Parts of the downtime that do not depend on pages, s.
    pub fixed_downtime_s: f64,
}

/// What a model says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Guess {
    /// Whole migration, s. With [`Verdict::Never`]: how far the model went before it was clear.
    pub total_s: f64,
    /// Downtime, s; `None` where the model has none, or the guest is never stopped.
    pub downtime_s: Option<f64>,
    /// Bytes sent.
    pub bytes: f64,
    /// Whether it ends.
    pub verdict: Verdict,
}

/// Whether a migration ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It does.
    Ends,
    /// It does not: someone has to cancel it, or stop the guest.
    Never,
}

impl Guess {
    fn ends(total_s: f64, downtime_s: Option<f64>, bytes: f64) -> Self {
        Self {
            total_s,
            downtime_s,
            bytes,
            verdict: Verdict::Ends,
        }
    }

    fn never(total_s: f64, bytes: f64) -> Self {
        Self {
            total_s,
            downtime_s: None,
            bytes,
            verdict: Verdict::Never,
        }
    }

    /// As a record keeps it, errors still open. `None` for a verdict of never: it has no figures.
    #[must_use]
    pub fn to_prediction(&self, model: &str) -> Option<Prediction> {
        (self.verdict == Verdict::Ends).then(|| Prediction {
            model: model.to_owned(),
            total_time_ms: self.total_s * 1e3,
            downtime_ms: self.downtime_s.map(|s| s * 1e3),
            bytes: self.bytes,
            total_time_error: None,
            downtime_error: None,
            bytes_error: None,
        })
    }
}

/// A model of a migration.
pub trait Model: Send + Sync {
    /// Its name in results.
    fn name(&self) -> &'static str;
    /// What it says. Always finite, whatever the inputs.
    fn predict(&self, inputs: &Inputs) -> Guess;
}

/// Every model, with its default constants, in the order of results.
#[must_use]
pub fn all() -> Vec<Box<dyn Model>> {
    vec![
        Box::new(RamOverBandwidth),
        Box::new(CloudSim),
        Box::new(SimGrid::default()),
        Box::new(Liu::default()),
        Box::new(AkoushAvg::default()),
        Box::new(XenFivePass::default()),
        Box::new(QemuLoop::constant_rate()),
        Box::new(QemuLoop::curve()),
    ]
}

/// What every model says, as a record keeps it.
#[must_use]
pub fn predict_all(inputs: &Inputs) -> Vec<Prediction> {
    let says = |model: Box<dyn Model>| model.predict(inputs).to_prediction(model.name());
    all().into_iter().filter_map(says).collect()
}

/// Inputs come from recordings: what is not a finite positive number counts as 0.
fn clean(value: f64) -> f64 {
    if value.is_finite() && value > 0.0 {
        value
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 1 GiB, all of it content, 100 MiB/s, 20 MiB/s dirtied within 256 MiB.
    pub(super) fn inputs() -> Inputs {
        let mib = |n: u64| n << 20;
        Inputs {
            ram_bytes: mib(1024),
            nonzero_bytes: mib(1024),
            dirty_bytes_per_s: mib(20) as f64,
            working_set_bytes: mib(256),
            classes: vec![],
            cores: 1.0,
            goodput_bytes_per_s: mib(100) as f64,
            downtime_limit_s: 0.3,
            fixed_downtime_s: 0.0,
        }
    }

    pub(super) fn near(got: f64, want: f64, share: f64) {
        assert!(
            (got - want).abs() <= share * want.abs().max(1e-12),
            "{got} is not {want}"
        );
    }

    #[test]
    fn an_idle_vm_takes_v_over_r_in_every_model_but_cloudsim() {
        let idle = Inputs {
            dirty_bytes_per_s: 0.0,
            ..inputs()
        };
        for model in all() {
            let guess = model.predict(&idle);
            let want = if model.name() == "cloudsim" {
                20.48
            } else {
                10.24
            };
            near(guess.total_s, want, 0.003); // QEMU's page headers are 0.2 %
            assert_eq!(guess.verdict, Verdict::Ends, "{}", model.name());
        }
    }

    #[test]
    fn inputs_follow_from_classes() {
        let class = |pages, coupling| PageClass {
            coupling,
            ..PageClass::new(pages, 1.0)
        };
        let path = Path {
            goodput_bytes_per_s: 1e8,
            downtime_limit_s: 0.3,
            fixed_downtime_s: 0.0,
        };
        let classes = vec![class(1000, Coupling::Cpu), class(500, Coupling::Time)];
        let made = Inputs::from_classes(1 << 30, 1 << 29, classes, 0.5, path);
        let pages = 1000.0 * (1.0 - (-0.5f64).exp()) + 500.0 * (1.0 - (-1.0f64).exp());
        near(made.dirty_bytes_per_s, pages * 4096.0, 1e-9);
        assert_eq!(made.working_set_bytes, 1500 * 4096);
        assert_eq!(predict_all(&made).len(), all().len());
    }

    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![
            6 => 0.0..1e10f64,
            1 => Just(0.0),
            1 => Just(-1.0),
            1 => Just(f64::NAN),
            1 => Just(f64::INFINITY),
            1 => Just(f64::MAX),
            1 => Just(f64::MIN_POSITIVE),
        ]
    }

    proptest! {
        #[test]
        fn whatever_the_inputs_the_answer_is_finite_and_soon(
            ram in any::<u64>(), nonzero in any::<u64>(), set in any::<u64>(),
            (dirty, rate, limit, fixed) in (number(), number(), number(), number()),
            (pages, class_rate, cores) in (any::<u32>(), number(), number()),
        ) {
            let class = PageClass::new(pages, class_rate);
            let inputs = Inputs {
                ram_bytes: ram,
                nonzero_bytes: nonzero,
                dirty_bytes_per_s: dirty,
                working_set_bytes: set,
                classes: vec![class],
                cores,
                goodput_bytes_per_s: rate,
                downtime_limit_s: limit,
                fixed_downtime_s: fixed,
            };
            for model in all() {
                let guess = model.predict(&inputs);
                let name = model.name();
                let down = guess.downtime_s.unwrap_or(0.0);
                for value in [guess.total_s, down, guess.bytes] {
                    prop_assert!(value.is_finite() && value >= 0.0, "{} says {:?}", name, guess);
                }
                prop_assert!(down <= guess.total_s * (1.0 + 1e-9), "{} says {:?}", name, guess);
            }
        }

        #[test]
        fn loops_stay_within_strunks_bounds(
            v in 1u64..64, lambda in 0.0..3.0f64, set in 0.0..1.0f64,
        ) {
            // V/R ≤ T ≤ (M+1)·V/R and downtime ≤ V/R, M rounds (Strunk 2012).
            let mut inputs = inputs();
            inputs.ram_bytes = v << 28;
            inputs.nonzero_bytes = inputs.ram_bytes;
            inputs.dirty_bytes_per_s = lambda * inputs.goodput_bytes_per_s;
            let ram = inputs.ram_bytes as f64;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below V")]
            let set_bytes = (ram * set) as u64;
            inputs.working_set_bytes = set_bytes;
            let once = ram / inputs.goodput_bytes_per_s;
            let bounded: [(Box<dyn Model>, f64); 2] =
                [(Box::new(XenFivePass::default()), 5.0), (Box::new(AkoushAvg::default()), 30.0)];
            for (model, rounds) in bounded {
                let guess = model.predict(&inputs);
                prop_assert!(guess.total_s >= once * 0.999_999);
                prop_assert!(guess.total_s <= (rounds + 1.0) * once * 1.000_001);
                prop_assert!(guess.downtime_s.unwrap_or(0.0) <= once * 1.000_001);
            }
        }
    }
}
