//! The built-in policies, and the one table of their names, options and defaults.
//!
//! Inside: pure decisions over a [`View`](super::view::View). Never inside: limits on how many
//! migrations run at once (`moves`), or anything that remembers migrations: a policy is told.

mod equalise;
mod none;
mod sketch;
#[cfg(test)]
mod tests_support;
mod thr_mmt;

use super::view::Policy;
use crate::scenario::BalancerSpec;
use std::collections::BTreeMap;

pub use equalise::Equalise;
pub use none::NoBalancing;
pub use thr_mmt::ThrMmt;

/// An option of a policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptionSpec {
    /// Its key in the scenario's `[balancer]` table.
    pub name: &'static str,
    /// Value when it is not given.
    pub default: f64,
    /// Smallest value accepted.
    pub min: f64,
    /// Largest value accepted.
    pub max: f64,
    /// Only whole numbers are accepted.
    pub whole: bool,
    /// What it does, and where the default comes from.
    pub doc: &'static str,
}

/// A policy that can be named in a scenario.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicySpec {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub doc: &'static str,
    /// Its options.
    pub options: &'static [OptionSpec],
}

/// Every policy. `migbed check` and the scenario reference read this table and no other.
pub const POLICIES: &[PolicySpec] = &[
    PolicySpec {
        name: "none",
        doc: "Never moves anything.",
        options: &[],
    },
    PolicySpec {
        name: "equalise",
        doc: "Moves from the most to the least loaded host while the gap is above a threshold.",
        options: &[
            OptionSpec {
                name: "threshold",
                default: 0.10,
                min: 0.0,
                max: 1.0,
                whole: false,
                doc: "gap of load (cores used / cores) that is left alone; 0.10 is the 10 points \
                      of ProxLB's `balanciness`",
            },
            OptionSpec {
                name: "margin",
                default: 0.10,
                min: 0.0,
                max: 1.0,
                whole: false,
                doc: "share of the gap of the two hosts that a move must close at least; 0.10 is \
                      the margin of Proxmox VE's dynamic load balancer",
            },
            OptionSpec {
                name: "moves",
                default: 5.0,
                min: 1.0,
                max: 10_000.0,
                whole: true,
                doc: "moves asked for per tick at most; 5 is ProxLB's `parallel_jobs`",
            },
        ],
    },
    PolicySpec {
        name: "thr-mmt",
        doc: "Relieves hosts above a fixed threshold of the VMs that are quickest to move \
              (Beloglazov & Buyya 2012); the destination is the least loaded host that stays at or \
              below the threshold. No consolidation unless `underload = 1`.",
        options: &[
            OptionSpec {
                name: "threshold",
                default: 0.8,
                min: 0.01,
                max: 1.0,
                whole: false,
                doc: "load (cores used / cores) above which a host is relieved; 0.8 is the paper's \
                      THR-MMT-0.8",
            },
            OptionSpec {
                name: "underload",
                default: 0.0,
                min: 0.0,
                max: 1.0,
                whole: true,
                doc: "1: also empty the least loaded host when all its VMs fit elsewhere, as the \
                      paper does to save power; the destination is then the most loaded host that \
                      stays at or below the threshold. Off: this is a lab for load, not for power",
            },
            OptionSpec {
                name: "moves",
                default: 20.0,
                min: 1.0,
                max: 10_000.0,
                whole: true,
                doc: "moves asked for per tick at most. CloudSim has no limit, because its moves \
                      cost no link; 20 keeps a queue shorter than an interval",
            },
        ],
    },
];

/// A `[balancer]` table that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// No such policy.
    #[error("no balancing policy is called `{name}`{}; there are: {known}", near(*suggestion))]
    UnknownPolicy {
        /// As asked for.
        name: String,
        /// The nearest name, when one is near.
        suggestion: Option<&'static str>,
        /// All names.
        known: String,
    },
    /// The policy has no such option.
    #[error("policy `{policy}` has no option `{option}`{}; it has: {known}", near(*suggestion))]
    UnknownOption {
        /// The policy.
        policy: &'static str,
        /// As given.
        option: String,
        /// The nearest option, when one is near.
        suggestion: Option<&'static str>,
        /// All its options.
        known: String,
    },
    /// A value that the option cannot have.
    #[error("option `{option}` of policy `{policy}` is {value}; it must be {expected}")]
    BadValue {
        /// The policy.
        policy: &'static str,
        /// The option.
        option: &'static str,
        /// As given.
        value: f64,
        /// What would be accepted.
        expected: String,
    },
}

fn near(suggestion: Option<&'static str>) -> String {
    suggestion.map_or_else(String::new, |s| format!("; did you mean `{s}`?"))
}

/// The policy a scenario asks for, with its options checked and defaults filled in.
///
/// # Errors
/// When the name or an option is unknown (the nearest is suggested), or a value is out of range.
pub fn policy(spec: &BalancerSpec) -> Result<Box<dyn Policy>, PolicyError> {
    let table = policy_spec(&spec.policy)?;
    let options = resolve(table, &spec.options)?;
    Ok(match table.name {
        "none" => Box::new(NoBalancing),
        "equalise" => Box::new(Equalise {
            threshold: options["threshold"],
            margin: options["margin"],
            moves: count(options["moves"]),
        }),
        "thr-mmt" => Box::new(ThrMmt {
            threshold: options["threshold"],
            underload: options["underload"] > 0.0,
            moves: count(options["moves"]),
        }),
        other => unreachable!("policy `{other}` is in POLICIES but has no constructor"),
    })
}

/// The row of [`POLICIES`] with this name.
///
/// # Errors
/// When there is none; the nearest name is suggested.
pub fn policy_spec(name: &str) -> Result<&'static PolicySpec, PolicyError> {
    POLICIES
        .iter()
        .find(|p| p.name == name)
        .ok_or_else(|| PolicyError::UnknownPolicy {
            name: name.to_owned(),
            suggestion: nearest(name, POLICIES.iter().map(|p| p.name)),
            known: list(POLICIES.iter().map(|p| p.name)),
        })
}

/// All options of a policy: those given, and defaults for the others.
///
/// # Errors
/// When an option is unknown or out of range.
pub fn resolve(
    table: &PolicySpec,
    given: &BTreeMap<String, f64>,
) -> Result<BTreeMap<&'static str, f64>, PolicyError> {
    let mut values: BTreeMap<_, _> = table.options.iter().map(|o| (o.name, o.default)).collect();
    for (name, &value) in given {
        let Some(option) = table.options.iter().find(|o| o.name == name) else {
            return Err(PolicyError::UnknownOption {
                policy: table.name,
                option: name.clone(),
                suggestion: nearest(name, table.options.iter().map(|o| o.name)),
                known: list(table.options.iter().map(|o| o.name)),
            });
        };
        let whole = !option.whole || value.fract() == 0.0;
        if !(option.min..=option.max).contains(&value) || !whole {
            let kind = if option.whole {
                "a whole number"
            } else {
                "a number"
            };
            return Err(PolicyError::BadValue {
                policy: table.name,
                option: option.name,
                value,
                expected: format!("{kind} from {} to {}", option.min, option.max),
            });
        }
        values.insert(option.name, value);
    }
    Ok(values)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "options are checked to be whole and within 1..=10,000"
)]
fn count(value: f64) -> usize {
    value as usize
}

/// The known name most like a wrong one. 0.7: close enough to be a slip of the finger, as measured
/// on one- and two-letter mistakes in these names.
fn nearest(wrong: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let scored = known.map(|name| (strsim::jaro_winkler(wrong, name), name));
    scored
        .filter(|(s, _)| *s >= 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

fn list(names: impl Iterator<Item = &'static str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(policy: &str, options: &[(&str, f64)]) -> BalancerSpec {
        BalancerSpec {
            policy: policy.to_owned(),
            interval_ns: 1,
            window_ns: 1,
            options: options.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
            parallel: 1,
            parallel_per_host: 1,
        }
    }

    fn refusal(policy_name: &str, options: &[(&str, f64)]) -> String {
        match policy(&spec(policy_name, options)) {
            Ok(made) => panic!("{policy_name} {options:?} made {}", made.name()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_policy_of_the_table_can_be_made_and_keeps_its_name() {
        for row in POLICIES {
            let made = policy(&spec(row.name, &[])).unwrap();
            assert_eq!(made.name(), row.name);
            for option in row.options {
                assert!(
                    (option.min..=option.max).contains(&option.default),
                    "{}",
                    option.name
                );
                policy(&spec(row.name, &[(option.name, option.max)])).unwrap();
            }
        }
    }

    #[test]
    fn unknown_names_are_refused_with_the_nearest() {
        assert_eq!(
            refusal("equalize", &[]),
            "no balancing policy is called `equalize`; did you mean `equalise`?; \
             there are: none, equalise, thr-mmt"
        );
        assert!(!refusal("zzz", &[]).contains("did you mean"));
        let text = refusal("thr-mmt", &[("treshold", 0.5)]);
        assert!(text.contains("did you mean `threshold`?"), "{text}");
        let text = refusal("none", &[("threshold", 0.5)]);
        assert!(text.ends_with("it has: none"), "{text}");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        assert_eq!(
            refusal("equalise", &[("moves", 1.5)]),
            "option `moves` of policy `equalise` is 1.5; it must be a whole number from 1 to 10000"
        );
        for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(refusal("thr-mmt", &[("threshold", bad)]).contains("must be a number"));
        }
    }
}
