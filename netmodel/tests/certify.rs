//! What the certificate promises, in real namespaces: a link that is not as planned is flagged, calm networks pass, large
//! ones take bounded time. Without libtest: see Cargo.toml.
//!
//! Others may use this computer: what needs a calm moment is tried for several times, and a moment that was not calm
//! proves nothing.

#![expect(
    clippy::unwrap_used,
    reason = "a test; clippy sees that only inside #[test] functions"
)]

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netmodel::audit::Finding;
use netmodel::backend::{BackendKind, Fabric};
use netmodel::calibrate::{Calibration, LinkCalibration, Settings, Verdict, calibrate};
use netmodel::capacity::{Demand, measure};
use netmodel::link::{Jitter, LinkSpec, Loss};
use netmodel::plan::{Plan, TcpSettings};
use netmodel::sys::clock::now_ns;
use netmodel::sys::netns::{create_netns, enter_machine, unshare_net};
use netmodel::sys::probe::probe;
use netmodel::topology::{Cable, HostId, Rack, Topology};
use netmodel::units::{BitRate, Probability};

type Hosts = BTreeMap<HostId, OwnedFd>;
type Test = (&'static str, fn());

/// How often a calm moment is waited for.
const TRIES: usize = 8;

fn main() {
    let capabilities = probe();
    let lacks = |name: &&&str| !capabilities.has(name);
    let needs = ["namespaces", "pid-namespace", "veth", "packet-vnet-header"];
    if let Some(name) = needs.iter().find(lacks) {
        return skipped(&format!("SKIPPED certify: missing {name}\n"));
    }
    enter_machine().unwrap();
    let tests: [Test; 5] = [
        ("a_calm_network_passes", a_calm_network_passes),
        (
            "links_changed_behind_its_back_are_flagged",
            links_changed_behind_its_back_are_flagged,
        ),
        (
            "losses_and_jitter_are_found_as_asked",
            losses_and_jitter_are_found_as_asked,
        ),
        (
            "many_hosts_share_what_some_measured",
            many_hosts_share_what_some_measured,
        ),
        (
            "what_the_computer_carries_admits_little_and_refuses_much",
            what_the_computer_carries_admits_little_and_refuses_much,
        ),
    ];
    let wanted = std::env::args().nth(1).unwrap_or_default();
    for (name, test) in tests.iter().filter(|(name, _)| name.contains(&wanted)) {
        test();
        println!("test {name} ... ok");
    }
}

/// To the eye, and to the file in which `.ci/run` counts.
fn skipped(line: &str) {
    eprint!("{line}");
    if let Some(log) = std::env::var_os("MIGBED_SKIP_LOG") {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log);
        log.unwrap().write_all(line.as_bytes()).unwrap();
    }
}

fn rate(mbit: u64) -> LinkSpec {
    LinkSpec::with_rate(BitRate::from_bps(mbit * 1_000_000).unwrap())
}

/// Builds a network in namespaces of its own; a fabric takes over the namespace it is built in.
fn build(topology: Topology) -> (Fabric, Hosts) {
    unshare_net().unwrap();
    let hosts: Hosts = topology
        .hosts()
        .map(|(id, _)| (id, create_netns().unwrap()))
        .collect();
    let plan = Plan::new(topology, &TcpSettings::default(), BackendKind::Relay);
    let fabric = Fabric::build(&plan, &hosts).unwrap();
    (fabric, hosts)
}

/// Two racks of two hosts, the uplinks half as wide as what their hosts have together: every link with a delay.
fn two_racks() -> Topology {
    let delayed = |mbit, delay| LinkSpec {
        delay: Duration::from_micros(delay),
        ..rate(mbit)
    };
    let rack = |r: u32| Rack {
        name: format!("r{r}"),
        uplink: Cable::symmetric(delayed(40, 2000)),
        hosts: (0..2)
            .map(|h| (format!("r{r}h{h}"), Cable::symmetric(delayed(40, 500))))
            .collect(),
    };
    Topology::two_tier((0..2).map(rack)).unwrap()
}

fn link<'c>(calibration: &'c Calibration, name: &str) -> &'c LinkCalibration {
    calibration.links.iter().find(|l| l.name == name).unwrap()
}

/// Calibrates until it says what a calm computer lets it say: a stream that left its link idle for a moment shows nothing.
/// Never saying it, not once disturbed, fails the test; if this computer disturbed a try, nothing was shown.
fn until(what: &str, good: impl Fn(&Calibration) -> bool, calibrate: impl Fn() -> Calibration) {
    let mut wrong = Vec::new();
    for _ in 0..TRIES {
        let calibration = calibrate();
        if good(&calibration) {
            return;
        }
        if !calibration.links.iter().any(|link| link.disturbed) {
            wrong.push(calibration);
        }
    }
    if wrong.len() == TRIES {
        panic!("{what}: {:#?}", wrong[0]);
    }
    skipped(&format!(
        "SKIPPED certify ({what}): missing a calm moment, {TRIES} tries were not all undisturbed\n"
    ));
}

fn a_calm_network_passes() {
    let (fabric, hosts) = build(two_racks());
    let measure = || calibrate(&fabric, &hosts, &Settings::default()).unwrap();
    let good = |c: &Calibration| {
        c.passed()
            && c.links.iter().all(|link| link.delay == Verdict::Pass)
            && c.links.iter().filter(|l| l.rate == Verdict::Pass).count() == c.links.len()
    };
    until("every link of it is as asked", good, measure);
}

fn links_changed_behind_its_back_are_flagged() {
    // A link that is too fast shows only where faster ones feed it: c's way down is the narrowest.
    let delayed = |mbit| LinkSpec {
        delay: Duration::from_millis(1),
        ..rate(mbit)
    };
    let cable = |down| Cable {
        up: delayed(40),
        down: delayed(down),
    };
    let star = [("a", cable(40)), ("b", cable(40)), ("c", cable(30))];
    let star = star.map(|(name, cable)| (name.to_owned(), cable));
    let (fabric, hosts) = build(Topology::star(star).unwrap());
    let topology = fabric.plan().topology().clone();
    let change = |name: &str, change: fn(&mut LinkSpec)| {
        let link = topology.link_named(name).unwrap();
        let mut spec = link.spec;
        change(&mut spec);
        fabric.set_link(link.id, spec).unwrap();
    };
    change("a-up", |spec| spec.rate = BitRate::from_bps(38_800_000));
    change("c-down", |spec| spec.rate = BitRate::from_bps(30_900_000));
    change("b-up", |spec| spec.delay += Duration::from_millis(1));
    let measure = || calibrate(&fabric, &hosts, &Settings::default()).unwrap();
    let good = |c: &Calibration| {
        let off = |name: &str, by: f64| {
            let link = link(c, name);
            link.rate == Verdict::Fail && link.rate_error.is_some_and(|e| (e - by).abs() < 0.01)
        };
        let late = link(c, "b-up");
        let late = late.delay == Verdict::Fail && late.delay_error_ns.is_some_and(|e| e > 400_000);
        late && off("a-up", -0.03) && off("c-down", 0.03)
    };
    until("three links of it are not as planned", good, measure);
}

fn losses_and_jitter_are_found_as_asked() {
    let lossy = LinkSpec {
        loss: Loss::Independent(Probability::from_ppb(20_000_000).unwrap()),
        ..rate(20)
    };
    let varying = LinkSpec {
        delay: Duration::from_millis(5),
        jitter: Jitter {
            spread: Duration::from_millis(2),
            ..Jitter::default()
        },
        ..rate(20)
    };
    let cable = |up| Cable { up, down: rate(20) };
    let star = [
        ("a", cable(lossy)),
        ("b", cable(varying)),
        ("c", cable(rate(20))),
    ];
    let star = star.map(|(name, cable)| (name.to_owned(), cable));
    let (fabric, hosts) = build(Topology::star(star).unwrap());
    let measure = || calibrate(&fabric, &hosts, &Settings::default()).unwrap();
    let good = |c: &Calibration| {
        let (a, b) = (link(c, "a-up"), link(c, "b-up"));
        // A lossy link need not be full; it may not be wrong.
        a.loss == Verdict::Pass && a.rate != Verdict::Fail && b.jitter == Verdict::Pass
    };
    until("loss and jitter are as asked", good, measure);
    // Ten times the loss (some hundred probes tell no less at 1 in 10,000), and no jitter.
    let topology = fabric.plan().topology();
    let more = Loss::Independent(Probability::from_ppb(200_000_000).unwrap());
    let changed = [
        (
            "a-up",
            LinkSpec {
                loss: more,
                ..lossy
            },
        ),
        (
            "b-up",
            LinkSpec {
                jitter: Jitter::default(),
                ..varying
            },
        ),
    ];
    for (name, spec) in changed {
        let link = topology.link_named(name).unwrap().id;
        fabric.set_link(link, spec).unwrap();
    }
    let good = |c: &Calibration| {
        link(c, "a-up").loss == Verdict::Fail && link(c, "b-up").jitter == Verdict::Fail
    };
    until("loss and jitter are not as asked", good, measure);
}

fn many_hosts_share_what_some_measured() {
    let cable = Cable::symmetric(rate(100));
    let hosts = (0..200).map(|n| (format!("h{n}"), cable));
    let (fabric, hosts) = build(Topology::star(hosts).unwrap());
    let begun_ns = now_ns();
    let calibration = calibrate(&fabric, &hosts, &Settings::default()).unwrap();
    println!(
        "200 hosts: {} of {} links measured in {} parts by {} streams, {:.1} s, {} disturbed",
        calibration.measured,
        calibration.links.len(),
        calibration.parts,
        calibration.streams,
        (now_ns() - begun_ns) as f64 / 1e9,
        calibration.disturbed.len(),
    );
    assert_eq!(calibration.links.len(), 400);
    let shared = calibration.links.iter().filter(|l| l.measured_on != l.link);
    assert_eq!(shared.count(), 400 - calibration.measured);
    assert!(
        calibration
            .links
            .iter()
            .all(|l| l.rate != Verdict::NotJudged)
    );
    assert!(
        calibration
            .links
            .iter()
            .all(|l| l.delay != Verdict::NotJudged)
    );
    // A busy computer may be late and slow; it may not lose or invent anything.
    let lost = |finding: &Finding| {
        matches!(
            finding,
            Finding::NotConserved { .. }
                | Finding::UnaccountedDrops { .. }
                | Finding::NoRoom { .. }
        )
    };
    let findings = &calibration.findings;
    assert!(
        !findings.iter().any(|judged| lost(&judged.finding)),
        "{findings:?}"
    );
}

fn what_the_computer_carries_admits_little_and_refuses_much() {
    let capacity = measure(BackendKind::Relay, 31_250).unwrap();
    println!("{}", serde_json::to_string(&capacity).unwrap());
    let of = |mbit: u64, links: usize| {
        let mut demand = Demand::default();
        (0..links).for_each(|_| demand.add(&rate(mbit)));
        capacity.admits(&demand, &[])
    };
    assert!(of(1, 2).fits, "{:?}", of(1, 2));
    let refused = of(10_000, 100);
    // 1 Tbit/s is more than a hundred times what any computer carries.
    assert!(
        !refused.fits && refused.smallest_k.is_none_or(|k| k > 10),
        "{refused:?}"
    );
}
