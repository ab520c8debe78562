//! Links as scenarios say them: what each direction is, and whether it can be.

use crate::scenario::problem::{NetworkProblem, ProblemKind};
use crate::scenario::raw::{Table, Value};
use crate::scenario::scale;
use crate::units::show_time;
use netmodel::backend::BackendKind;
use netmodel::link::{
    Distribution, GilbertElliott, Jitter, LinkSpec, Loss, OVERHEAD_KERNEL, ShaperAt,
};
use netmodel::schedule::Patch;
use netmodel::topology::{Cable, Link};
use netmodel::units::{ByteSize, Probability};
use std::time::Duration;

/// A link: keys for both directions, overridden by those of `up` and `down`.
pub(super) fn cable(value: &Value<'_>, base: Cable) -> Cable {
    let read = |table: &Table<'_>| {
        let both = Cable {
            up: direction(table, base.up),
            down: direction(table, base.down),
        };
        let one = |key, base| {
            let value = table.get(key)?;
            value.table(format!("link.{key}"), "a table", |table| {
                direction(table, base)
            })
        };
        Cable {
            up: one("up", both.up).unwrap_or(both.up),
            down: one("down", both.down).unwrap_or(both.down),
        }
    };
    let key = value.key.clone();
    value
        .table(
            key,
            "a table: { rate = \"1Gbit\", delay = \"100us\" }",
            read,
        )
        .unwrap_or(base)
}

fn direction(table: &Table<'_>, base: LinkSpec) -> LinkSpec {
    let overhead = table.get("overhead_bytes").and_then(|v| v.small(0..=1000));
    let overhead = overhead.and_then(|v| u16::try_from(v).ok());
    let super_frame = table.get("super_frame").and_then(|v| super_frame(&v));
    let note = |source| {
        let key = table.name.clone();
        table
            .log
            .add(&table.span, NetworkProblem::Share { key, source }.into());
    };
    let link = patch(table).apply(&base).map_err(note).unwrap_or(base);
    let shaper_at = shaper(table, &link);
    // TBF counts the Ethernet header; what else is said is refused with the topology.
    let counted = match shaper_at {
        ShaperAt::SourceEgress { .. } if link.shaper_at == ShaperAt::Fabric => OVERHEAD_KERNEL,
        _ => base.overhead_bytes,
    };
    LinkSpec {
        overhead_bytes: overhead.unwrap_or(counted),
        super_frame: super_frame.unwrap_or(base.super_frame),
        shaper_at,
        ..link
    }
}

const SHAPERS: &[(&str, bool)] = &[("fabric", false), ("source-egress", true)];

/// Where the rate is kept, and the bucket it is kept with there.
fn shaper(table: &Table<'_>, link: &LinkSpec) -> ShaperAt {
    let word = table
        .get("shaper_at")
        .and_then(|v| v.word("shaper_at", SHAPERS));
    let burst = table.get("burst");
    let at_source = word.unwrap_or(link.shaper_at != ShaperAt::Fabric);
    if !at_source {
        if let Some(burst) = burst {
            burst.out_of_bounds("given", "left out without `shaper_at = \"source-egress\"`");
        }
        return ShaperAt::Fabric;
    }
    let known = match link.shaper_at {
        ShaperAt::SourceEgress { burst } => Some(burst),
        ShaperAt::Fabric => None,
    };
    let given = burst.and_then(|v| v.size_bytes().map(ByteSize::from_bytes));
    let usual = || link.rate.map(LinkSpec::usual_burst);
    let burst = given.or(known).or_else(usual);
    // Without a rate the topology refuses it, whatever the bucket.
    let burst = burst.unwrap_or(ByteSize::from_bytes(0));
    ShaperAt::SourceEgress { burst }
}

/// What a table says of a link's properties; a percentage is of what it overrides.
pub(super) fn patch(table: &Table<'_>) -> Patch {
    let is = |value: &Value<'_>, word| value.as_text() == Some(word);
    let bytes = |value: &Value<'_>| value.size_bytes().map(ByteSize::from_bytes);
    let rate = |value: &Value<'_>| match is(value, "unshaped") {
        true => Some(None),
        false => value.rate().map(Some),
    };
    let threshold = |value: &Value<'_>| match is(value, "off") {
        true => Some(None),
        false => bytes(value).map(Some),
    };
    Patch {
        rate: table.get("rate").and_then(|v| v.amount(rate)),
        delay: table.get("delay").and_then(|v| v.amount(time)),
        jitter: table.get("jitter").and_then(|v| v.amount(jitter)),
        loss: table.get("loss").and_then(|v| loss(&v)),
        queue: table.get("queue").and_then(|v| v.amount(bytes)),
        ecn_threshold: table.get("ecn").and_then(|v| v.amount(threshold)),
    }
}

/// Longest time of a super-frame: beyond it no rate that is shaped at all would have a limit.
const SUPER_FRAME_MAX: Duration = Duration::from_secs(1);

fn super_frame(value: &Value<'_>) -> Option<Duration> {
    let time = Duration::from_nanos(value.time_ns()?);
    if time.is_zero() || time > SUPER_FRAME_MAX {
        value.out_of_bounds(show(time), "a time above 0 and of at most 1s");
        return None;
    }
    Some(time)
}

/// Longest one-way delay: a minute is far beyond any network, and keeps round trips in bounds.
const DELAY_MAX: Duration = Duration::from_secs(60);

fn time(value: &Value<'_>) -> Option<Duration> {
    let time = Duration::from_nanos(value.time_ns()?);
    if time > DELAY_MAX {
        value.out_of_bounds(show(time), "a one-way delay of at most 60s");
        return None;
    }
    Some(time)
}

fn show(time: Duration) -> String {
    show_time(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

const DISTRIBUTIONS: &[(&str, Distribution)] = &[
    ("uniform", Distribution::Uniform),
    ("normal", Distribution::Normal),
    ("pareto", Distribution::Pareto),
];

/// A time, or a table with more to say.
fn jitter(value: &Value<'_>) -> Option<Jitter> {
    if !value.is_table() {
        let spread = time(value)?;
        return Some(Jitter {
            spread,
            ..Jitter::default()
        });
    }
    let read = |table: &Table<'_>| {
        let spread = table.need("spread", "spread = \"1ms\"");
        let distribution = table.get("distribution");
        let distribution = distribution.and_then(|v| v.word("distribution", DISTRIBUTIONS));
        let reorder = table.get("reorder").and_then(|v| v.boolean());
        Some(Jitter {
            spread: time(&spread?)?,
            distribution: distribution.unwrap_or_default(),
            reorder: reorder.unwrap_or_default(),
        })
    };
    value
        .table("jitter", "a table with `spread`", read)
        .flatten()
}

/// A share of the segments, or a table of two states.
fn loss(value: &Value<'_>) -> Option<Loss> {
    if !value.is_table() {
        return value.probability().map(Loss::independent);
    }
    let read = |table: &Table<'_>| {
        let share = |key, default| match table.get(key) {
            Some(value) => value.probability(),
            None => Some(default),
        };
        let good_to_bad = table.need("good_to_bad", "good_to_bad = \"1%\"");
        let bad_to_good = table.need("bad_to_good", "bad_to_good = \"30%\"");
        // Gilbert's own model unless more is said: nothing is lost while good, everything while bad.
        let loss_in_bad = share("loss_in_bad", Probability::ONE);
        let loss_in_good = share("loss_in_good", Probability::default());
        Some(Loss::GilbertElliott(GilbertElliott {
            good_to_bad: good_to_bad?.probability()?,
            bad_to_good: bad_to_good?.probability()?,
            loss_in_bad: loss_in_bad?,
            loss_in_good: loss_in_good?,
        }))
    };
    value
        .table("loss", "a table of probabilities", read)
        .flatten()
}

/// What every link has to be, whatever made it so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demands {
    /// Space scale.
    pub(super) k: u32,
    /// The backend asked for, which has to carry it.
    pub(super) backend: Option<BackendKind>,
}

impl Demands {
    /// Whether a link can be this. `back` is the delay of its way back.
    pub(super) fn of(
        self,
        link: &Link,
        spec: &LinkSpec,
        back: Duration,
    ) -> Result<(), ProblemKind> {
        let wrong = |what, value, bounds| {
            let link = link.name.clone();
            Err(ProblemKind::from(NetworkProblem::Link {
                link,
                what,
                value,
                bounds,
            }))
        };
        for (what, time) in [("delay", spec.delay), ("jitter", spec.jitter.spread)] {
            if time > DELAY_MAX {
                return wrong(what, show(time), "at most 60s");
            }
        }
        if let Some(threshold) = spec
            .ecn_threshold
            .filter(|threshold| *threshold >= spec.queue)
        {
            let value = format!("{threshold} with a queue of {}", spec.queue);
            return wrong(
                "`ecn`",
                value,
                "less than its `queue`, or nothing is marked",
            );
        }
        if link.spec.is_shaped_at_source()
            && (spec.rate, spec.queue) != (link.spec.rate, link.spec.queue)
        {
            return wrong(
                "rate or queue",
                spec.to_string(),
                "as it is from the beginning: a shaper on a host's own device does not change during a run",
            );
        }
        if let (Some(rate), true) = (spec.rate, link.delivery.is_some()) {
            return wrong(
                "rate",
                rate.to_string(),
                "none, as a trace says when it sends",
            );
        }
        scale::check_link(link, spec, back, self.k)?;
        if let Some(backend) = self.backend {
            backend
                .check(&link.name, spec)
                .map_err(NetworkProblem::from)?;
            if link.delivery.is_some() {
                backend
                    .check_delivery(&link.name)
                    .map_err(NetworkProblem::from)?;
            }
        }
        Ok(())
    }
}
