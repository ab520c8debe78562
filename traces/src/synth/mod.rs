//! Completion: what a guest of which only CPU (and perhaps memory use) was recorded writes.
//!
//! Inside: the rules of docs/synthesis.md, one after another; every draw is a function of (seed, VM,
//! what is drawn), so the order of VMs, threads or files changes nothing. Never inside: profiles
//! (`profile`), anything that claims to be recorded: whoever stores this marks it synthesised.

mod amount;
mod reads;

pub use amount::{FLEET_D1, LONG_WINDOWS};

use serde::{Deserialize, Serialize};
use statrs::distribution::{Beta, ContinuousCDF};

use crate::class::{
    ClassPhase, Coupling, Locality, PageClass, PhasedClasses, Variation, unique_pages,
};
use crate::profile::Profile;
use crate::units::{NS_PER_MS, NS_PER_S, round_u32, round_u64};
use amount::{LONG_S, cold, fit_into, fleet_d1, scale};

/// How much the guests of a fleet write (rule 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Marginal {
    /// As much as the profile's own program at the same CPU use.
    #[default]
    Profile,
    /// D(1 s) at the guest's mean CPU use is drawn from the distribution over 26,247 migrations.
    Fleet,
}

impl Marginal {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Profile => "profile",
            Self::Fleet => "fleet",
        }
    }
}

/// What is known of a guest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// RAM in pages.
    pub ram_pages: u32,
    /// Memory used, in pages, if the trace says so.
    pub used_pages: Option<u32>,
    /// Mean CPU use of its trace, in cores.
    pub mean_cores: f64,
}

/// What was drawn and chosen, to be stored with the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Choices {
    /// The profile's name.
    pub profile: String,
    /// Rule 5.
    pub marginal: Marginal,
    /// The seed, and the VM's number in it.
    pub seed: u64,
    /// The VM's number.
    pub vm: u64,
    /// Touched pages: as recorded, or drawn.
    pub touched_pages: u32,
    /// They were drawn: used over provisioned memory.
    pub used_share_drawn: Option<f64>,
    /// D(1 s) that was drawn, in pages; `None` with the profile's own.
    pub d1_drawn: Option<f64>,
    /// What the profile's numbers of pages were multiplied by.
    pub pages_scale: f64,
    /// What its rates were multiplied by.
    pub rate_scale: f64,
    /// D(1 s) at the guest's mean CPU use that came of it, in pages.
    pub d1: f64,
    /// Shares of touched memory that D(2 h) and D(24 h) were drawn to be.
    pub long_windows: Option<[f64; 2]>,
    /// Rule 6.
    pub variation: Variation,
    /// Rule 10: pages that are read in the profile's windows, beside those written.
    #[serde(default)]
    pub read_pages: u32,
}

/// What a guest writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Completed {
    /// The profile's classes, as they are for this guest, with their short-term variation.
    pub hot: PhasedClasses,
    /// What is written within hours (rule 4), with the time the guest runs, and what is only read (rule 10).
    pub cold: Vec<PageClass>,
    /// Touched pages that are neither; the rest of RAM is zero.
    pub resident_pages: u32,
    /// What was drawn.
    pub choices: Choices,
}

impl Completed {
    /// All classes, those of the profile first.
    pub fn classes(&self) -> impl Iterator<Item = &PageClass> {
        let hot = self.hot.phases.iter().flat_map(|phase| &phase.classes);
        hot.chain(&self.cold)
    }

    /// D(t) at a CPU use of `cores`, without the variation.
    #[must_use]
    pub fn unique_pages(&self, window_s: f64, cores: f64) -> f64 {
        let clock = |class: &PageClass| match class.coupling {
            Coupling::Cpu => window_s * cores,
            Coupling::Time => window_s,
        };
        self.classes()
            .map(|class| unique_pages(std::slice::from_ref(class), clock(class)))
            .sum()
    }
}

/// Rule 6: deviation over mean of the rates, and correlation of their logarithm, of consecutive seconds.
pub const VARIATION: [f64; 2] = [0.3, 0.7];
/// Rule 1: used over provisioned memory, where the trace does not say: Beta(2, 2), median 0.5 (Pond).
const USED_SHARE: (f64, f64) = (2.0, 2.0);
/// What is drawn; the numbers are part of what a seed means.
#[derive(Clone, Copy)]
enum Draw {
    UsedShare = 1,
    D1 = 2,
    TwoHours = 3,
    Day = 4,
}

/// Completes a guest by a profile.
#[must_use]
pub fn complete(
    profile: &Profile,
    marginal: Marginal,
    known: &Known,
    seed: u64,
    vm: u64,
) -> Completed {
    let uniform = |what: Draw| uniform(seed, vm, what as u64);
    let (touched, drawn) = touched(known, uniform(Draw::UsedShare));
    // Rules 2, 3 and 5.
    let mut classes = whole(profile, touched);
    let clock_s = match profile.coupling {
        Coupling::Cpu => known.mean_cores,
        Coupling::Time => 1.0,
    };
    let d1_drawn = (marginal == Marginal::Fleet).then(|| fleet_d1(uniform(Draw::D1), known.vcpus));
    let (pages_scale, rate_scale) = scale(&classes, touched, clock_s, d1_drawn);
    for class in &mut classes {
        class.pages = round_u32(f64::from(class.pages) * pages_scale);
        class.rate *= rate_scale;
    }
    classes.retain(|class| class.pages > 0);
    fit_into(&mut classes, touched);
    let written = |classes: &[PageClass]| -> u32 {
        let pages: u64 = classes.iter().map(|class| u64::from(class.pages)).sum();
        u32::try_from(pages).unwrap_or(u32::MAX)
    };
    // Rule 4.
    let free = touched.saturating_sub(written(&classes));
    let between = |[low, high]: [f64; 2], what| low + (high - low) * uniform(what);
    let long = [
        between(LONG_WINDOWS[0], Draw::TwoHours),
        between(LONG_WINDOWS[1], Draw::Day),
    ];
    let reached = LONG_S.map(|window_s| unique_pages(&classes, window_s * clock_s));
    let cold = if profile.all_memory {
        Vec::new()
    } else {
        cold(touched, free, long, reached)
    };
    let mut parts = reads::Parts {
        unwritten: free - written(&cold),
        hot: placed(&classes, profile),
        cold,
    };
    let read_pages = parts.read(profile, pages_scale, rate_scale, clock_s);
    let variation = variation(clock_s);
    let hot = PhasedClasses {
        coupling: profile.coupling,
        phases: vec![ClassPhase {
            // One phase for ever: it begins again where it ends, so any length will do.
            length_ns: 3_600 * NS_PER_S,
            first_page: 0,
            classes: parts.hot,
            variation: Some(variation.clone()),
        }],
    };
    let mut completed = Completed {
        resident_pages: parts.unwritten,
        hot,
        cold: parts.cold,
        choices: Choices {
            profile: profile.name.to_owned(),
            marginal,
            seed,
            vm,
            touched_pages: touched,
            used_share_drawn: drawn,
            d1_drawn,
            pages_scale,
            rate_scale,
            d1: 0.0,
            long_windows: (!profile.all_memory).then_some(long),
            variation,
            read_pages,
        },
    };
    completed.choices.d1 = completed.unique_pages(1.0, known.mean_cores);
    completed
}

/// The profile's classes; one that stands for all memory is as large as that.
fn whole(profile: &Profile, touched: u32) -> Vec<PageClass> {
    let sized = |class: &PageClass| PageClass {
        pages: if profile.all_memory {
            touched
        } else {
            class.pages
        },
        ..*class
    };
    profile.classes.iter().map(sized).collect()
}

/// Rule 1: touched pages, and used over provisioned memory where it was drawn.
fn touched(known: &Known, u: f64) -> (u32, Option<f64>) {
    let Some(used) = known.used_pages else {
        let beta = Beta::new(USED_SHARE.0, USED_SHARE.1).expect("parameters above 0");
        let share = beta.inverse_cdf(u);
        let pages = round_u32(f64::from(known.ram_pages) * share);
        return (pages.max(1), Some(share));
    };
    (used.min(known.ram_pages).max(1), None)
}

/// Steps of a second of running time: on the clock of CPU time, as much as the guest uses in one on
/// average; at least a millisecond, for guests that use none.
fn variation(clock_s: f64) -> Variation {
    let [cv, correlation] = VARIATION;
    Variation::LogNormal {
        cv,
        correlation,
        step_ns: round_u64(clock_s * NS_PER_S as f64).max(NS_PER_MS),
    }
}

/// A number in (0, 1) that depends on nothing but its arguments (splitmix64 over them).
fn uniform(seed: u64, vm: u64, what: u64) -> f64 {
    let mix = |state: u64| {
        let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let bits = mix(mix(mix(seed) ^ vm) ^ what) >> 11;
    // 53 bits, never 0.
    (bits as f64 + 0.5) / (1u64 << 53) as f64
}

/// Rule 7: the profile's table of runs, class by class; walkers walk.
fn placed(classes: &[PageClass], profile: &Profile) -> Vec<PageClass> {
    let mut placed = Vec::new();
    for class in classes {
        if class.locality == Locality::Sweep || profile.runs.len() < 2 {
            placed.push(*class);
            continue;
        }
        let mut left = class.pages;
        for run in profile.runs.iter().rev() {
            let share = round_u32(f64::from(class.pages) * run.share);
            // The shortest runs come last and take what rounding leaves.
            let pages = if run == &profile.runs[0] {
                left
            } else {
                share.min(left)
            };
            left -= pages;
            if pages == 0 {
                continue;
            }
            let locality = if run.pages <= 1 || pages < run.pages {
                Locality::Scatter
            } else {
                Locality::Runs { pages: run.pages }
            };
            placed.push(PageClass {
                pages,
                locality,
                ..*class
            });
        }
    }
    placed
}
