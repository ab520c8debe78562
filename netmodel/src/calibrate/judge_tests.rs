use std::time::Duration;

use super::*;
use crate::backend::BackendKind;
use crate::counters::LinkCounters;
use crate::link::{Loss, ShaperAt};
use crate::plan::TcpSettings;
use crate::topology::{Cable, HostId};
use crate::units::{BitRate, ByteSize, Probability};

const RATE_BPS: u64 = 100_000_000;
const FRAME: u64 = 1538;

fn spec() -> LinkSpec {
    LinkSpec {
        delay: Duration::from_millis(1),
        ..LinkSpec::with_rate(BitRate::from_bps(RATE_BPS).unwrap())
    }
}

/// One second of a link that passes `share` of its rate while busy for `busy` of the time.
fn samples(share: f64, busy: f64) -> Vec<Sample> {
    let at = |n: u32| {
        let second = f64::from(n) / 100.0;
        let mut link = LinkCounters::default();
        link.sent.wire_bytes = bytes(RATE_BPS as f64 / 8.0 * share * second);
        link.busy_ns = bytes(1e9 * busy * second);
        Sample {
            at_ns: u64::from(n) * 10_000_000,
            links: vec![link],
        }
    };
    (0..=100).map(at).collect()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small positive figures of a test"
)]
fn bytes(value: f64) -> u64 {
    value.round() as u64
}

fn rate(share: f64, busy: f64) -> Rate {
    rate_of(
        &spec(),
        &samples(share, busy),
        0,
        FRAME,
        &Settings::default(),
    )
}

#[test]
fn a_link_is_judged_only_when_it_was_full_or_too_fast() {
    assert_eq!(rate(1.0, 1.0).verdict, Verdict::Pass);
    assert_eq!(rate(0.996, 1.0).verdict, Verdict::Pass);
    assert_eq!(rate(0.97, 1.0).verdict, Verdict::Fail);
    assert_eq!(rate(1.03, 1.0).verdict, Verdict::Fail);
    assert_eq!(rate(0.5, 0.5).verdict, Verdict::NotLoaded);
    assert_eq!(rate(1.03, 0.5).verdict, Verdict::Fail);
    let unshaped = LinkSpec::default();
    let got = rate_of(
        &unshaped,
        &samples(1.0, 0.0),
        0,
        FRAME,
        &Settings::default(),
    );
    assert_eq!(got.verdict, Verdict::Unshaped);
    assert!((got.rate_bps / RATE_BPS as f64 - 1.0).abs() < 1e-6);
}

#[test]
fn a_rate_kept_at_the_source_is_judged_by_a_stream_that_got_it() {
    let at_source = LinkSpec {
        shaper_at: ShaperAt::SourceEgress {
            burst: ByteSize::from_bytes(32 << 10),
        },
        ..spec()
    };
    // The fabric's links are never busy: it shapes nothing.
    let rate = |share| {
        rate_of(
            &at_source,
            &samples(share, 0.0),
            0,
            FRAME,
            &Settings::default(),
        )
    };
    assert_eq!(rate(1.0).verdict, Verdict::Pass);
    assert_eq!(rate(1.03).verdict, Verdict::Fail);
    assert_eq!(rate(0.985).verdict, Verdict::Fail);
    assert_eq!(rate(0.9).verdict, Verdict::NotLoaded);
    assert_eq!(rate(0.9).error, None);
    // Nor does anybody say when it was: no window of it counts.
    let seen = residuals(&samples(0.9, 0.0), 0, &History::new(at_source), FRAME);
    assert!(seen.windows.iter().all(|errors| errors.windows == 0));
}

#[test]
fn a_rate_is_that_of_the_time_a_link_was_busy() {
    let got = rate(0.985, 0.985);
    assert_eq!(got.verdict, Verdict::Pass);
    assert!(
        (got.rate_bps / RATE_BPS as f64 - 1.0).abs() < 1e-6,
        "{got:?}"
    );
    // 3 % less, but for the frame of 12.5 MB.
    let error = rate(0.97, 1.0).error.unwrap();
    assert!((error + 0.03).abs() < 0.0002, "{error}");
}

fn plan(change: impl Fn(&str, &mut LinkSpec)) -> Plan {
    let hosts = ["a", "b", "c"].map(|name| (name.to_owned(), Cable::symmetric(spec())));
    let topology = Topology::star(hosts).unwrap().with_specs(|link| {
        let mut spec = link.spec;
        change(&link.name, &mut spec);
        Ok::<_, ()>(spec)
    });
    Plan::new(
        topology.unwrap(),
        &TcpSettings::default(),
        BackendKind::Relay,
    )
}

/// Every way's delay as asked, plus what `more` says.
fn paths(plan: &Plan, more: impl Fn(Way) -> Option<u64>) -> Vec<PathDelays> {
    let all = (0..3_u32).flat_map(|a| (0..3).map(move |b| (HostId(a), HostId(b))));
    let path = |way: Way| {
        let ids = plan.topology().path(way.0, way.1);
        let asked: u64 = ids
            .iter()
            .map(|id| path_share_ns(&plan.topology().link(*id).spec))
            .sum();
        let delays_ns = more(way).map_or(Vec::new(), |more| vec![asked + more; 20]);
        PathDelays {
            way,
            sent: 20,
            delays_ns,
            disturbed: false,
        }
    };
    all.filter(|(a, b)| a != b).map(path).collect()
}

fn judged(plan: &Plan, delays: &[PathDelays], probes: &[PathDelays]) -> Vec<LinkCalibration> {
    let settings = Settings::default();
    let cover = super::super::cover::cover(plan.topology(), &settings);
    Judge::new(plan, &settings).links(&cover, delays, probes, &[])
}

#[test]
fn the_link_that_is_late_fails_and_no_other() {
    let plan = plan(|_, _| ());
    let late = |way: Way| Some(if way.0 == HostId(1) { 1_000_000 } else { 0 } + 20_000);
    let links = judged(&plan, &paths(&plan, late), &[]);
    for link in &links {
        let expected = if link.name == "b-up" {
            Verdict::Fail
        } else {
            Verdict::Pass
        };
        // One of six looks like a little of all the others.
        assert!(
            link.delay == expected || link.delay_error_ns.unwrap().abs() < 500_000,
            "{link:?}"
        );
    }
    let b = links.iter().find(|link| link.name == "b-up").unwrap();
    assert!(
        b.delay == Verdict::Fail && b.delay_error_ns.unwrap() > 600_000,
        "{b:?}"
    );
}

#[test]
fn what_the_computer_adds_passes_and_a_silent_path_fails() {
    let plan = plan(|_, _| ());
    let links = judged(&plan, &paths(&plan, |_| Some(80_000)), &[]);
    assert!(
        links.iter().all(|l| l.delay == Verdict::Pass && l.passed()),
        "{links:?}"
    );
    assert!(links.iter().all(|l| l.delay_error_ns == Some(40_000)));
    let silent = |way: Way| (way.1 != HostId(2)).then_some(0);
    let links = judged(&plan, &paths(&plan, silent), &[]);
    let c = links.iter().find(|link| link.name == "c-down").unwrap();
    assert_eq!(c.delay, Verdict::Fail);
    assert!(
        links
            .iter()
            .filter(|l| l.name != "c-down")
            .all(|l| l.delay == Verdict::Pass)
    );
}

#[test]
fn losses_are_held_against_what_is_asked() {
    let plan = plan(|name, spec| {
        if name == "b-up" {
            spec.loss = Loss::Independent(Probability::from_ppb(50_000_000).unwrap());
        }
    });
    let topology = plan.topology();
    let all: Vec<Way> = paths(&plan, |_| None).iter().map(|path| path.way).collect();
    let special = special_ways(topology, &all);
    assert_eq!(special, [(HostId(1), HostId(0))]);
    let of = |arrived: usize| {
        let probe = PathDelays {
            way: special[0],
            sent: 2000,
            delays_ns: vec![2_000_000; arrived],
            disturbed: false,
        };
        let links = judged(&plan, &[], &[probe]);
        links.into_iter().find(|link| link.name == "b-up").unwrap()
    };
    assert_eq!(of(1900).loss, Verdict::Pass);
    assert_eq!(of(1900).losses, Some((2000, 100)));
    assert_eq!(of(1990).loss, Verdict::Fail);
    assert_eq!(of(1700).loss, Verdict::Fail);
    assert_eq!(of(1900).jitter, Verdict::NotJudged);
}

#[test]
fn jitter_is_held_against_its_quartiles() {
    let plan = plan(|name, spec| {
        if name == "b-up" {
            spec.jitter.spread = Duration::from_micros(800);
        }
    });
    let of = |spread_ns: u64| {
        // Evenly from -spread to +spread around 2 ms and two serialisations.
        let delay = |n: u64| 2_012_000 + 2 * spread_ns * n / 1000 - spread_ns;
        let probe = PathDelays {
            way: (HostId(1), HostId(0)),
            sent: 1000,
            delays_ns: (0..1000).map(delay).collect(),
            disturbed: false,
        };
        let links = judged(&plan, &[], &[probe]);
        links.into_iter().find(|link| link.name == "b-up").unwrap()
    };
    assert_eq!(
        (of(800_000).jitter, of(800_000).delay),
        (Verdict::Pass, Verdict::Pass)
    );
    assert_eq!(of(1_990_000).jitter, Verdict::Fail);
    assert_eq!(of(800_000).delay_error_ns, Some(0));
}

#[test]
fn links_that_were_not_measured_share_their_classs_figures() {
    let hosts = (0..200).map(|n| {
        let spec = LinkSpec::with_rate(BitRate::from_bps(1_000_000_000).unwrap());
        (format!("h{n}"), Cable::symmetric(spec))
    });
    let plan = Plan::new(
        Topology::star(hosts).unwrap(),
        &TcpSettings::default(),
        BackendKind::Relay,
    );
    let links = judged(&plan, &[], &[]);
    assert_eq!(links.len(), 400);
    let shared = links
        .iter()
        .filter(|link| link.measured_on != link.link)
        .count();
    assert!(shared > 300, "{shared}");
    assert!(
        links
            .iter()
            .enumerate()
            .all(|(n, l)| l.link.0 as usize == n)
    );
}
