//! Built-in profiles: how programs of a kind write memory, for guests of which only CPU was recorded.
//!
//! Inside: the profiles, each with where its figures are from. Those of recorded programs are made
//! from `traces/library` by `tests/profiles.rs` (`recorded.json` is what it found); where nothing was
//! recorded, the figures and their source stand here. Never inside: completing a trace (`synth`).

pub mod derive;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Serialize;

use crate::class::{Coupling, Locality, PageClass, unique_pages};
use crate::content::{ContentProfile, named as content_named};
use crate::fit::ReadClass;
use derive::{Recorded, RunShare};

/// A profile.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// What it stands for.
    pub about: &'static str,
    /// The program of the library it is from; `None`: see `source`.
    pub recording: Option<&'static str>,
    /// Where its figures are from.
    pub source: &'static str,
    /// The clock of its writes: CPU time where work comes as requests, time where it does not.
    pub coupling: Coupling,
    /// Its classes. Of a profile that takes all of a guest's memory, one page of each stands for all.
    pub classes: Vec<PageClass>,
    /// Pages read and not written in windows of 1 to 16 s, rates per second of `coupling`; empty: not recorded.
    pub reads: Vec<ReadClass>,
    /// Its one class is the whole of the guest's touched memory, however large.
    pub all_memory: bool,
    /// CPU use its rates were measured at, in cores; `None`: they do not depend on it.
    pub cores: Option<f64>,
    /// How its written pages lie together.
    pub runs: Vec<RunShare>,
    /// Variation of the distinct pages a second in the recording (its load was steady): deviation over
    /// mean, and correlation from one second to the next.
    pub recorded_variation: Option<(f64, f64)>,
    /// Fitted on one half, scored on the other: relative error of D(t).
    pub out_of_sample_error: Option<f64>,
    /// What its pages hold.
    pub content: ContentProfile,
}

impl Profile {
    /// How far the clock of its classes comes in `window_s` seconds at the load of the profile.
    fn clock_s(&self, window_s: f64) -> f64 {
        match self.coupling {
            Coupling::Cpu => window_s * self.cores.unwrap_or(1.0),
            Coupling::Time => window_s,
        }
    }

    /// Distinct pages written in `window_s` seconds at the load of the profile.
    #[must_use]
    pub fn unique_pages(&self, window_s: f64) -> f64 {
        unique_pages(&self.classes, self.clock_s(window_s))
    }

    /// Pages read and not written in `window_s` seconds at the load of the profile, U(w); `None` where that was not
    /// recorded.
    #[must_use]
    pub fn pages_read(&self, window_s: f64) -> Option<f64> {
        let clock_s = self.clock_s(window_s);
        let read = |class: &ReadClass| f64::from(class.pages) * -(-class.rate * clock_s).exp_m1();
        (!self.reads.is_empty()).then(|| self.reads.iter().map(read).sum())
    }
}

/// What there is, in the order it is listed.
struct Kind {
    name: &'static str,
    about: &'static str,
    coupling: Coupling,
    of: Of,
}

enum Of {
    Recording {
        name: &'static str,
        sweep: bool,
    },
    /// Classes (pages, rate), cores, whether one class is all memory, source.
    Rule(&'static [(u32, f64)], f64, bool, &'static str),
}

const fn recording(name: &'static str, sweep: bool) -> Of {
    Of::Recording { name, sweep }
}

const KINDS: &[Kind] = &[
    Kind {
        name: "idle",
        about: "a booted guest nobody uses",
        coupling: Coupling::Time,
        of: Of::Rule(
            &[(80, 10.0), (1_500, 0.02)],
            0.0,
            false,
            "idle Linux guests write 37 to 80 distinct pages a second (Qemu-DPT; groundtruth of QEMU under TCG)",
        ),
    },
    Kind {
        name: "cpu-bound",
        about: "computation in a small footprint",
        coupling: Coupling::Cpu,
        of: Of::Rule(
            &[(600, 1.0)],
            1.0,
            false,
            "sysbench CPU and quicksort in QEMU's pre-copy rounds: 200 to 770 distinct pages in a second, exponent near 0",
        ),
    },
    Kind {
        name: "interactive",
        about: "a shell, a command now and then",
        coupling: Coupling::Time,
        of: recording("shell", false),
    },
    Kind {
        name: "web",
        about: "a JSON service on the JVM",
        coupling: Coupling::Cpu,
        of: recording("java", false),
    },
    Kind {
        name: "web-static",
        about: "files by nginx, compressed",
        coupling: Coupling::Cpu,
        of: recording("nginx", false),
    },
    Kind {
        name: "kv-write",
        about: "a key-value store, half writes",
        coupling: Coupling::Cpu,
        of: recording("redis", false),
    },
    Kind {
        name: "kv-read",
        about: "a key-value store that is only read",
        coupling: Coupling::Cpu,
        of: Of::Rule(
            &[(691, 110.0)],
            0.39,
            false,
            "redis under GET, recorded earlier at 100 ms ticks: D(0.1 s) 682, D(1 s) 689 of 691 pages at 0.39 cores",
        ),
    },
    Kind {
        name: "read-cache",
        about: "a cache, one write in ten",
        coupling: Coupling::Cpu,
        of: recording("memcached", false),
    },
    Kind {
        name: "oltp",
        about: "a database under short transactions",
        coupling: Coupling::Cpu,
        of: recording("postgresql", false),
    },
    Kind {
        name: "oltp-embedded",
        about: "a database within a program",
        coupling: Coupling::Cpu,
        of: recording("sqlite", false),
    },
    Kind {
        name: "compiler",
        about: "compilers and other batch work that allocates",
        coupling: Coupling::Time,
        of: recording("compiler", false),
    },
    Kind {
        name: "hpc-sweep",
        about: "loops over large arrays",
        coupling: Coupling::Cpu,
        of: recording("stencil", true),
    },
    Kind {
        name: "thrasher",
        about: "all of memory, faster than links carry: converges nowhere",
        coupling: Coupling::Time,
        of: Of::Rule(
            &[(1, 2.0)],
            0.0,
            true,
            "made to be worse than any link: each page of touched memory twice a second",
        ),
    },
];

/// The names, as they are listed.
pub fn names() -> impl Iterator<Item = &'static str> + Clone {
    KINDS.iter().map(|kind| kind.name)
}

/// All profiles.
pub fn all() -> impl Iterator<Item = Profile> {
    KINDS.iter().map(profile)
}

/// A profile by its name.
#[must_use]
pub fn named(name: &str) -> Option<Profile> {
    KINDS.iter().find(|kind| kind.name == name).map(profile)
}

/// The recordings profiles are made from: name, clock, whether it is a walker.
pub fn recordings() -> impl Iterator<Item = (&'static str, Coupling, bool)> {
    KINDS.iter().filter_map(|kind| match kind.of {
        Of::Recording { name, sweep } => Some((name, kind.coupling, sweep)),
        Of::Rule(..) => None,
    })
}

/// What `tests/profiles.rs` found in the library.
static RECORDED: LazyLock<BTreeMap<String, Recorded>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("recorded.json"))
        .expect("recorded.json is written by the test that compares it with the library")
});

fn profile(kind: &Kind) -> Profile {
    let empty = Profile {
        name: kind.name,
        about: kind.about,
        recording: None,
        source: "",
        coupling: kind.coupling,
        classes: Vec::new(),
        reads: Vec::new(),
        all_memory: false,
        cores: None,
        runs: Vec::new(),
        recorded_variation: None,
        out_of_sample_error: None,
        content: default_content(),
    };
    match kind.of {
        Of::Rule(classes, cores, all_memory, source) => Profile {
            source,
            classes: classes
                .iter()
                .map(|&(pages, rate)| PageClass {
                    coupling: kind.coupling,
                    locality: Locality::Scatter,
                    ..PageClass::new(pages, rate)
                })
                .collect(),
            all_memory,
            cores: (kind.coupling == Coupling::Cpu).then_some(cores),
            ..empty
        },
        Of::Recording { name, .. } => {
            let found = RECORDED
                .get(name)
                .expect("recorded.json has every recording the profiles name");
            Profile {
                recording: Some(name),
                source: "traces/library: a program of Debian 12 under load, recorded by migbed",
                classes: found.classes.clone(),
                reads: found
                    .reads
                    .iter()
                    .flat_map(|reads| reads.classes.clone())
                    .collect(),
                cores: Some(found.cores),
                runs: found.runs.clone(),
                recorded_variation: Some((found.cv, found.lag1)),
                out_of_sample_error: Some(found.out_of_sample_error),
                content: content_named(name).unwrap_or_else(default_content),
                ..empty
            }
        }
    }
}

/// Of guests whose pages nobody has looked at: the built-in contents `mixed`.
#[must_use]
pub fn default_content() -> ContentProfile {
    content_named("mixed").expect("a built-in profile")
}
