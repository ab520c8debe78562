//! What is compared: links, congestion controls, migrations, each with its figures and their margins.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use migbed_tests::measure::equivalence::Margin;
use migbed_tests::measure::probe::Stream;
use netmodel::link::{Distribution, Jitter, LinkSpec, Loss};
use netmodel::units::{BitRate, ByteSize, Probability};

/// Something measured on every backend that can carry it, with what still counts as the same.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) what: What,
    pub(crate) margins: Vec<(&'static str, Margin)>,
}

pub(crate) enum What {
    Link {
        spec: LinkSpec,
        stream: Stream,
    },
    Idle {
        spec: LinkSpec,
        datagrams: u32,
    },
    Migration {
        arguments: Vec<String>,
        spec: LinkSpec,
    },
}

impl What {
    pub(crate) fn spec(&self) -> &LinkSpec {
        match self {
            Self::Link { spec, .. } | Self::Idle { spec, .. } | Self::Migration { spec, .. } => {
                spec
            }
        }
    }
}

/// Rates and sizes of a scale.
struct Scale {
    bps: u64,
    migration: &'static [&'static str],
}

fn scale_named(name: &str) -> Result<Scale> {
    match name {
        "small" => Ok(Scale {
            bps: 20_000_000,
            migration: &[
                "--ram",
                "64MiB",
                "--resident",
                "3MiB",
                "--working-set",
                "512KiB",
                "--write-rate",
                "60",
            ],
        }),
        "large" => Ok(Scale {
            bps: 1_000_000_000,
            migration: &[
                "--ram",
                "512MiB",
                "--resident",
                "128MiB",
                "--working-set",
                "32MiB",
                "--write-rate",
                "2000",
            ],
        }),
        other => bail!("--scale {other}: small or large"),
    }
}

/// Goodput and delays within 2 % (DESIGN §10); 0.2 ms of delay is grade A's limit.
const TWO_PERCENT: Margin = Margin::Relative(0.02);
const DELAY_MS: Margin = Margin::Either {
    relative: 0.02,
    absolute: 0.2,
};
const FIVE_PERCENT: Margin = Margin::Relative(0.05);

/// All cases of a scale whose group is named in `only`.
pub(crate) fn cases(scale: &str, only: &str) -> Result<Vec<Case>> {
    let Scale { bps, migration } = scale_named(scale)?;
    let rate = BitRate::from_bps(bps).context("a rate above zero")?;
    let delay = Duration::from_millis(10);
    let plain = LinkSpec {
        // Two bandwidth-delay products, at least what the initial window needs.
        queue: ByteSize::from_bytes((2 * rate.bytes_in(2 * delay)).max(64 << 10)),
        ..LinkSpec::with_rate(rate)
    };
    let delayed = LinkSpec { delay, ..plain };
    let mut cases = Vec::new();
    if only.contains("links") {
        cases.extend(links(plain, delayed));
    }
    if only.contains("jitter") {
        cases.extend(jitters(delayed));
    }
    if only.contains("loss") {
        cases.push(loss(delayed)?);
    }
    if only.contains("congestion") {
        cases.extend(congestion(delayed));
    }
    if only.contains("migration") {
        cases.extend(migrations(migration, plain, delayed));
    }
    Ok(cases)
}

fn case(name: &str, what: What, margins: &[(&'static str, Margin)]) -> Case {
    Case {
        name: name.to_owned(),
        what,
        margins: margins.to_vec(),
    }
}

fn stream(congestion: &'static str, warm_up_ms: u64, measured_ms: u64) -> Stream {
    Stream {
        congestion,
        warm_up: Duration::from_millis(warm_up_ms),
        measured: Duration::from_millis(measured_ms),
    }
}

fn links(plain: LinkSpec, delayed: LinkSpec) -> Vec<Case> {
    let full = [("goodput_mbps", TWO_PERCENT), ("rtt_ms", FIVE_PERCENT)];
    let idle = [("delay_ms", DELAY_MS)];
    let link = |spec| What::Link {
        spec,
        stream: stream("cubic", 700, 1000),
    };
    let pings = |spec| What::Idle {
        spec,
        datagrams: 50,
    };
    vec![
        case("rate", link(plain), &full),
        case("rate and delay", link(delayed), &full),
        case("idle, no delay", pings(plain), &idle),
        case(
            "idle, delay",
            pings(delayed),
            &[("delay_ms", DELAY_MS), ("added_delay_ms", DELAY_MS)],
        ),
    ]
}

fn jitters(delayed: LinkSpec) -> Vec<Case> {
    let margins = [
        ("added_delay_ms", DELAY_MS),
        ("deviation_ms", Margin::Relative(0.1)),
    ];
    let one = |name, distribution| {
        let jitter = Jitter {
            spread: Duration::from_millis(2),
            distribution,
            reorder: false,
        };
        let spec = LinkSpec { jitter, ..delayed };
        // Means of as many scatter by 0.1 ms, those of thirty such by 0.02.
        let datagrams = 400;
        case(name, What::Idle { spec, datagrams }, &margins)
    };
    vec![
        one("uniform jitter", Distribution::Uniform),
        one("normal jitter", Distribution::Normal),
        one("pareto jitter", Distribution::Pareto),
    ]
}

fn loss(delayed: LinkSpec) -> Result<Case> {
    let spec = LinkSpec {
        loss: Loss::Independent("2%".parse::<Probability>()?),
        ..delayed
    };
    // 2 % of 500 scatters by 0.63 %; the mean of thirty such by 0.11 %.
    let lost = [("lost_percent", Margin::Absolute(0.5))];
    let datagrams = 500;
    Ok(case("loss", What::Idle { spec, datagrams }, &lost))
}

/// BBR's bandwidth is the greatest of ten round trips', so that a computer that stands still for 4 ms now and then, as
/// the guest of one processor does, is seen in it if a round trip is not much longer.
const BBR_DELAY: Duration = Duration::from_millis(40);

fn congestion(delayed: LinkSpec) -> Vec<Case> {
    let margins = [("goodput_mbps", FIVE_PERCENT), ("rtt_ms", FIVE_PERCENT)];
    let one = |congestion, spec, warm_up_ms, measured_ms| {
        let stream = stream(congestion, warm_up_ms, measured_ms);
        case(congestion, What::Link { spec, stream }, &margins)
    };
    let far = LinkSpec {
        delay: BBR_DELAY,
        queue: ByteSize::from_bytes(
            (2 * delayed.rate.map_or(0, |rate| rate.bytes_in(2 * BBR_DELAY))).max(64 << 10),
        ),
        ..delayed
    };
    vec![
        one("cubic", delayed, 1000, 2000),
        one("reno", delayed, 1000, 2000),
        // Start-up and its draining before, two rounds of probing in it.
        one("bbr", far, 3000, 4000),
    ]
}

fn migrations(guest: &[&str], plain: LinkSpec, delayed: LinkSpec) -> Vec<Case> {
    let margins = [("total_ms", TWO_PERCENT), ("sent_mib", TWO_PERCENT)];
    let one = |name, spec: LinkSpec| {
        let rate = spec.rate.map_or("unshaped".to_owned(), |r| r.to_string());
        let (queue, delay) = (spec.queue.to_string(), spec.delay.as_micros());
        let delay = format!("{delay}us");
        let link = ["--link", &rate, "--queue", &queue, "--delay", &delay];
        let arguments = guest.iter().chain(&link).map(|t| (*t).to_owned());
        let arguments = arguments.collect();
        case(name, What::Migration { arguments, spec }, &margins)
    };
    vec![one("migration", plain), one("migration, delay", delayed)]
}
