use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::link::{Jitter, Loss};
use crate::topology::{Cable, HostId, Link, Place, Rack, SwitchId, Topology};
use crate::units::{BitRate, ByteSize, Probability};

const LIMIT: usize = 10_000;
const S: u64 = 1_000_000_000;

fn star() -> Topology {
    let cable = Cable::symmetric(LinkSpec::with_rate(BitRate::from_bps(1_000_000).unwrap()));
    Topology::star((1..=3).map(|n| (format!("h{n}"), cable))).unwrap()
}

fn happening(at_ns: u64, link: u32, what: What) -> Happening {
    Happening {
        at_ns,
        links: vec![LinkId(link)],
        what,
    }
}

fn percent(text: &str) -> Percent {
    text.parse().unwrap()
}

fn rate(percent_of: &str) -> What {
    What::Set(Patch {
        rate: Some(Amount::Percent(percent(percent_of))),
        ..Patch::default()
    })
}

fn resolved(happenings: &[Happening]) -> Resolved {
    resolve(&star(), happenings, LIMIT, |_, _, _| {}).unwrap()
}

/// Instant, rate and state of each change.
fn told(schedule: &Schedule) -> Vec<(u64, u64, bool)> {
    let changes = schedule.changes().iter();
    changes
        .map(|change| {
            let rate = change.spec.rate.unwrap().bps();
            (change.at_ns, rate, change.spec.up)
        })
        .collect()
}

#[test]
fn a_span_holds_what_happens_after_its_beginning_up_to_its_end() {
    let change = |at_ns| Change {
        at_ns,
        link: LinkId(0),
        spec: LinkSpec::default(),
    };
    let schedule = Schedule::from([30, 10, 20].map(change).to_vec());
    let instants = |from, to| {
        let between = schedule.between(from, to).iter();
        between.map(|change| change.at_ns).collect::<Vec<_>>()
    };
    assert_eq!(instants(10, 20), [20]);
    assert_eq!(instants(0, 30), [10, 20, 30]);
    assert_eq!(instants(20, 10), [0; 0]);
}

#[test]
fn a_percentage_is_of_what_holds_then() {
    // 1 Mbit/s halved, and that halved, said in the other order.
    let Resolved { schedule, .. } = resolved(&[
        happening(20, 0, rate("50%")),
        happening(10, 0, rate("50%")),
        happening(30, 0, rate("400%")),
        happening(40, 0, rate("100%")),
    ]);
    let expected = [
        (10, 500_000, true),
        (20, 250_000, true),
        (30, 1_000_000, true),
    ];
    assert_eq!(told(&schedule), expected);
    assert_eq!(percent("12.5%").of(1000), 125);
    assert_eq!(percent("0.001%").of(100_000), 1);
    assert_eq!(percent("12.5%").to_string(), "12.5%");
    for wrong in [
        "50",
        "-1%",
        "%",
        ".5%",
        "1.0001%",
        "1000000.001%",
        "1e2%",
        "+5%",
    ] {
        assert!(wrong.parse::<Percent>().is_err(), "{wrong}");
    }
}

#[test]
fn a_flap_over_a_change_of_the_rate_keeps_the_rate() {
    let flap = Flap {
        from_ns: 10,
        until_ns: 45,
        period_ns: 20,
        down_ns: 10,
    };
    let mut happenings = flap
        .happenings(&[LinkId(0)], Holder::Numbered(0), LIMIT)
        .unwrap();
    happenings.push(happening(15, 0, rate("50%")));
    let Resolved { schedule, .. } = resolved(&happenings);
    let expected = [
        (10, 1_000_000, false),
        (15, 500_000, false),
        (20, 500_000, true),
        (30, 500_000, false),
        (40, 500_000, true),
    ];
    assert_eq!(told(&schedule), expected);
}

#[test]
fn a_flap_ends_with_its_links_up() {
    let flap = Flap {
        from_ns: 0,
        until_ns: 25,
        period_ns: 20,
        down_ns: 10,
    };
    let all = flap
        .happenings(&[LinkId(0)], Holder::Numbered(0), LIMIT)
        .unwrap();
    let instants: Vec<u64> = all.iter().map(|happening| happening.at_ns).collect();
    assert_eq!(instants, [0, 10, 20, 25]);
    let endless = Flap {
        until_ns: u64::MAX,
        period_ns: 1,
        down_ns: 0,
        ..flap
    };
    let refused = endless.happenings(&[LinkId(0)], Holder::Numbered(0), LIMIT);
    let changes = 2 * u128::from(u64::MAX);
    assert_eq!(
        refused,
        Err(TooMany {
            changes,
            limit: LIMIT
        })
    );
}

#[test]
fn who_holds_a_link_down_lets_go_of_it_alone() {
    let (cut, flap) = (Holder::Order, Holder::Numbered(1));
    let Resolved { schedule, .. } = resolved(&[
        happening(10, 0, What::Down(flap)),
        happening(20, 0, What::Down(cut)),
        happening(30, 0, What::Up(flap)),
        happening(40, 0, What::Up(cut)),
        happening(50, 0, What::Up(cut)),
    ]);
    assert_eq!(
        told(&schedule),
        [(10, 1_000_000, false), (40, 1_000_000, true)]
    );
}

#[test]
fn what_holds_from_the_beginning_is_the_network() {
    let Resolved { topology, schedule } = resolved(&[
        happening(0, 2, rate("50%")),
        happening(0, 2, What::Down(Holder::Order)),
    ]);
    let link = topology.link(LinkId(2));
    assert_eq!(
        (link.spec.rate.unwrap().bps(), link.spec.up),
        (500_000, true)
    );
    assert_eq!(told(&schedule), [(0, 500_000, false)]);
}

#[test]
fn shares_of_nothing_are_refused_with_the_link() {
    let unshaped = What::Set(Patch {
        rate: Some(Amount::To(None)),
        ..Patch::default()
    });
    let all = [happening(5, 1, unshaped), happening(6, 1, rate("50%"))];
    let refused = resolve(&star(), &all, LIMIT, |_, _, _| {}).unwrap_err();
    let expected = "link h1-down: its rate is unshaped, and 50% of that is nothing in particular";
    assert_eq!(refused.to_string(), expected);
    let all = [happening(6, 1, rate("0%"))];
    let refused = resolve(&star(), &all, LIMIT, |_, _, _| {});
    assert!(
        matches!(refused, Err(Unresolved::Patch { happening: 0, .. })),
        "{refused:?}"
    );
}

#[test]
fn more_changes_than_the_limit_are_refused_with_their_number() {
    let all: Vec<_> = (1..=11)
        .map(|n| {
            happening(
                n,
                0,
                if n % 2 == 0 {
                    rate("50%")
                } else {
                    rate("200%")
                },
            )
        })
        .collect();
    let refused = resolve(&star(), &all, 10, |_, _, _| {});
    let too_many = TooMany {
        changes: 11,
        limit: 10,
    };
    assert_eq!(refused, Err(Unresolved::TooMany(too_many)));
    assert!(resolve(&star(), &all, 11, |_, _, _| {}).is_ok());
}

#[test]
fn whoever_looks_sees_every_link_that_comes_to_be() {
    let mut seen = Vec::new();
    let all = [happening(7, 0, rate("50%")), happening(0, 1, rate("10%"))];
    let see = |index: usize, link: &Link, spec: &LinkSpec| {
        seen.push((index, link.name.clone(), spec.rate.unwrap().bps()));
    };
    resolve(&star(), &all, LIMIT, see).unwrap();
    assert_eq!(
        seen,
        [(1, "h1-down".into(), 100_000), (0, "h1-up".into(), 500_000)]
    );
}

#[test]
fn a_rack_by_name_keeps_its_hosts_together() {
    let rack = |rack: u32| Rack {
        name: format!("rack{rack}"),
        uplink: Cable::default(),
        hosts: (1..=2)
            .map(|host| (format!("r{rack}h{host}"), Cable::default()))
            .collect(),
    };
    let topology = Topology::two_tier([rack(1), rack(2)]).unwrap();
    let cut = |group: &[Place]| {
        let links = separating(&topology, &group.iter().copied().collect());
        let names = links.into_iter().map(|id| topology.link(id).name.clone());
        names.collect::<Vec<_>>()
    };
    // Switch 0 is the core.
    assert_eq!(
        cut(&[Place::Switch(SwitchId(1))]),
        ["rack1-up", "rack1-down"]
    );
    let hosts = [Place::Host(HostId(0)), Place::Host(HostId(1))];
    assert_eq!(
        cut(&hosts),
        ["r1h1-up", "r1h1-down", "r1h2-up", "r1h2-down"]
    );
    assert_eq!(
        cut(&[Place::Switch(SwitchId(1)), hosts[0]]),
        ["rack1-up", "rack1-down"]
    );
    assert!(cut(&[]).is_empty());
}

const TRACE: &str = "\u{feff}# of a drive\nt_s, rate_mbit, delay, loss_percent, up\n0,10,20ms,0.5,1\n\n1.5,0.25,,,\n2,,1ms,0,0\r\n";

#[test]
fn rows_are_read_with_the_units_of_their_columns() {
    let rows = Rows::parse(TRACE, LIMIT).unwrap();
    let [first, second, third] = rows.list() else {
        panic!("{rows:?}")
    };
    assert_eq!(
        (first.at_ns, second.at_ns, third.at_ns),
        (0, 3 * S / 2, 2 * S)
    );
    let bps = |bps| Some(Amount::To(BitRate::from_bps(bps)));
    assert_eq!(first.patch.rate, bps(10_000_000));
    assert_eq!(
        first.patch.delay,
        Some(Amount::To(Duration::from_millis(20)))
    );
    let half = Probability::from_ppb(5_000_000).unwrap();
    assert_eq!(first.patch.loss, Some(Loss::Independent(half)));
    assert_eq!(
        (second.patch.rate, second.patch.delay),
        (bps(250_000), None)
    );
    assert_eq!(
        (third.patch.loss, third.up),
        (Some(Loss::None), Some(false))
    );
    assert_eq!(rows.length_ns(), Some(5 * S / 2));
}

#[test]
fn a_trace_is_repeated_or_holds_its_last_row() {
    let rows = Rows::parse(TRACE, LIMIT).unwrap();
    let instants = |again| {
        let to = (&[LinkId(0)][..], Holder::Numbered(0));
        let all = rows.happenings((S, 6 * S), again, to, LIMIT).unwrap();
        let sets = all
            .iter()
            .filter(|happening| matches!(happening.what, What::Set(_)));
        sets.map(|happening| happening.at_ns * 2 / S)
            .collect::<Vec<_>>()
    };
    assert_eq!(instants(false), [2, 5, 6]);
    // 2.5 s a round.
    assert_eq!(instants(true), [2, 5, 6, 7, 10, 11]);
}

#[test]
fn what_is_no_trace_is_refused_with_its_line() {
    for (text, expected) in [
        ("", "line 1: there is no row"),
        ("t_s,rate_mbit\n", "line 1: there is no row"),
        (
            "t_s,speed\n1,2\n",
            "line 1: there is no column `speed`; there are `t_s`",
        ),
        (
            "t_s,rate,rate_bps\n",
            "line 1: column `rate_bps` says again",
        ),
        (
            "rate\n10Mbit\n",
            "line 1: the header has no column of times",
        ),
        (
            "t_s,rate\n# a\n1\n",
            "line 3: 1 cells, but the header has 2 columns",
        ),
        ("t_s,rate_mbit\n1,0\n", "line 2: a rate of 0 is not a rate"),
        (
            "t_s,rate_mbit\n1,nan\n",
            "line 2: column `rate_mbit`: `nan` is no number from 0",
        ),
        (
            "t_s,rate\n1,10MB\n",
            "line 2: column `rate`: `MB` in `10MB` is not a unit of rate",
        ),
        (
            "t_s,loss_percent\n1,101\n",
            "line 2: column `loss_percent`: `101` is no number from 0 to 100",
        ),
        (
            "t_s,up\n1,maybe\n",
            "line 2: column `up`: `maybe` is neither 0 nor 1",
        ),
        ("t_s,up\n1,1\n1,0\n", "line 3: its time is not later"),
        ("t_s,up\n,1\n", "line 2: column `t_s`: `` is no number"),
        ("t_s,up\n1,1\n2,1\n3,1\n", "line 4: more than 2 rows"),
    ] {
        let refused = Rows::parse(text, 2).unwrap_err().to_string();
        assert!(refused.starts_with(expected), "{refused}");
    }
}

/// Anything that can happen to one of a star's six links.
fn anything() -> impl Strategy<Value = Happening> {
    let amount = prop_oneof![
        (1..1000u64).prop_map(|kbit| Amount::To(BitRate::from_bps(kbit * 1000))),
        (50..200u32).prop_map(|share| Amount::Percent(percent(&format!("{share}%")))),
    ];
    let patch = (
        prop::option::of(amount),
        prop::option::of((0..100u64).prop_map(|ms| Amount::To(Duration::from_millis(ms)))),
        prop::option::of((0..9u64).prop_map(|us| {
            Amount::To(Jitter {
                spread: Duration::from_micros(us),
                ..Jitter::default()
            })
        })),
        prop::option::of((0..100u64).prop_map(|kib| Amount::To(ByteSize::from_bytes(kib << 10)))),
    );
    let patch = patch.prop_map(|(rate, delay, jitter, queue)| {
        What::Set(Patch {
            rate,
            delay,
            jitter,
            queue,
            ..Patch::default()
        })
    });
    let holder = prop_oneof![Just(Holder::Order), (0..3usize).prop_map(Holder::Numbered)];
    let what = prop_oneof![
        2 => patch,
        1 => holder.clone().prop_map(What::Down),
        1 => holder.prop_map(What::Up),
    ];
    (0..50u64, prop::collection::btree_set(0..6u32, 1..4), what).prop_map(|(at_ns, links, what)| {
        Happening {
            at_ns,
            links: links.into_iter().map(LinkId).collect(),
            what,
        }
    })
}

/// All links at an instant.
fn links_at(resolved: &Resolved, ns: u64) -> Vec<LinkSpec> {
    let changed = resolved.schedule.at(ns);
    let links = resolved.topology.links().iter();
    links
        .map(|link| changed.get(&link.id).copied().unwrap_or(link.spec))
        .collect()
}

/// The same without a resolver: one thing after the other, on one link.
fn one_after_the_other(link: &Link, happenings: &[Happening], ns: u64) -> LinkSpec {
    let mut due: Vec<&Happening> = happenings.iter().filter(|h| h.at_ns <= ns).collect();
    due.sort_by_key(|happening| happening.at_ns);
    let (mut spec, mut holders) = (link.spec, Vec::new());
    for happening in due.iter().filter(|h| h.links.contains(&link.id)) {
        match happening.what {
            What::Set(patch) => spec = patch.apply(&spec).unwrap(),
            What::Down(holder) => holders.push(holder),
            What::Up(holder) => holders.retain(|other| *other != holder),
        }
    }
    LinkSpec {
        up: holders.is_empty(),
        ..spec
    }
}

proptest! {
    /// Whether an instant is jumped to, or walked to in any steps, links are what was said of them.
    #[test]
    fn jumping_and_walking_lead_to_the_same_links(
        happenings in prop::collection::vec(anything(), 0..20),
        mut stops in prop::collection::vec(0..60u64, 1..8),
    ) {
        let Ok(resolved) = resolve(&star(), &happenings, LIMIT, |_, _, _| {}) else {
            return Ok(());
        };
        stops.sort_unstable();
        let mut walked = links_at(&resolved, 0);
        let mut before = 0;
        for now in stops {
            for (link, spec) in resolved.schedule.settled(before, now) {
                walked[link.0 as usize] = spec;
            }
            let expected: Vec<LinkSpec> = star()
                .links()
                .iter()
                .map(|link| one_after_the_other(link, &happenings, now))
                .collect();
            prop_assert_eq!(&links_at(&resolved, now), &expected, "jumped to {}", now);
            prop_assert_eq!(&walked, &expected, "walked to {}", now);
            before = now;
        }
    }

    /// Every change changes something, and each link once an instant.
    #[test]
    fn schedules_have_no_idle_changes(happenings in prop::collection::vec(anything(), 0..20)) {
        let Ok(resolved) = resolve(&star(), &happenings, LIMIT, |_, _, _| {}) else {
            return Ok(());
        };
        let mut links: Vec<LinkSpec> = resolved.topology.links().iter().map(|l| l.spec).collect();
        let mut seen = std::collections::BTreeSet::new();
        for change in resolved.schedule.changes() {
            prop_assert!(seen.insert((change.at_ns, change.link)));
            let link = &mut links[change.link.0 as usize];
            prop_assert_ne!(*link, change.spec);
            *link = change.spec;
        }
    }

    #[test]
    fn any_text_is_a_trace_or_an_error(text: String, cells in "[tseu_,.0-9a-z\n%]{0,60}") {
        let _ = Rows::parse(&text, 100);
        let _ = text.parse::<Percent>();
        for header in ["t_s,rate_mbit,delay_ms\n", "t_ms,rate,loss,up\n"] {
            if let Ok(rows) = Rows::parse(&format!("{header}{cells}"), 100) {
                let to = (&[LinkId(0)][..], Holder::Order);
                for again in [false, true] {
                    if let Ok(all) = rows.happenings((1, 1 << 40), again, to, 1000) {
                        prop_assert!(all.iter().all(|happening| happening.at_ns < 1 << 40));
                    }
                }
            }
        }
    }
}
