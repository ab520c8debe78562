//! What is done to migrations under way: `[[faults]]`.

use super::link::patch;
use super::moves;
use super::network::Network;
use super::{each, moves::ms};
use crate::ids::MigrationId;
use crate::migration::faults::{Action, End, ParameterChange, PlannedFault, When};
use crate::migration::params::{EngineKind, MigrationParams};
use crate::migration::record::Phase;
use crate::scenario::problem::ProblemKind;
use crate::scenario::raw::{Table, Value};
use netmodel::topology::LinkId;
use std::collections::BTreeMap;

/// What can be done, as scenarios spell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    VmCrash,
    HostPowerLoss,
    ControllerCrash,
    LinkCut,
    LinkChange,
    ConnectionReset,
    DestinationRefuses,
    Cancel,
    SetParameters,
    StartPostcopy,
}

const KINDS: &[(&str, Kind)] = &[
    ("vm-crash", Kind::VmCrash),
    ("host-power-loss", Kind::HostPowerLoss),
    ("controller-crash", Kind::ControllerCrash),
    ("link-cut", Kind::LinkCut),
    ("link-change", Kind::LinkChange),
    ("connection-reset", Kind::ConnectionReset),
    ("destination-refuses", Kind::DestinationRefuses),
    ("cancel", Kind::Cancel),
    ("set-parameters", Kind::SetParameters),
    ("start-postcopy", Kind::StartPostcopy),
];

const ENDS: &[(&str, End)] = &[("source", End::Source), ("destination", End::Destination)];
const INSTANTS: &str = "`at_phase`, `at_round`, `after` and `at`";

/// How long a host without power is silent: five of libvirt's keepalives, 5 s apart, are what a
/// manager waits for; a second keeps runs short.
const SILENCE_NS: u64 = 1_000_000_000;
/// How long a controller is away: a process that is started again at once.
const DOWN_NS: u64 = 500_000_000;
/// Most faults of a scenario.
const FAULTS_MAX: u64 = 100_000;

pub(super) fn read(
    root: &Table<'_>,
    network: &Network,
    params: &MigrationParams,
    duration_ns: Option<u64>,
) -> Vec<PlannedFault> {
    let links = network.spec.topology.links().iter();
    let links: BTreeMap<&str, LinkId> = links.map(|link| (link.name.as_str(), link.id)).collect();
    let mut faults = Vec::new();
    each(root, "faults", |table| {
        let migration = table.need("migration", "migration = 1");
        let migration = migration.and_then(|v| v.small(1..=u32::MAX));
        let when = when(table, duration_ns);
        let action = table
            .need("do", "do = \"cancel\"")
            .and_then(|v| Some((v.word("fault", KINDS)?, v)))
            .and_then(|(kind, value)| action(table, kind, &value, &links, params));
        if faults.len() as u64 >= FAULTS_MAX {
            let (key, choices) = (table.name.clone(), "at most 100,000 faults");
            table
                .log
                .add(&table.span, ProblemKind::OneOf { key, choices });
            return;
        }
        if let (Some(migration), Some(when), Some(action)) = (migration, when, action) {
            faults.push(PlannedFault {
                migration: MigrationId(migration),
                when,
                action,
            });
        }
    });
    faults
}

/// Exactly one instant.
fn when(table: &Table<'_>, duration_ns: Option<u64>) -> Option<When> {
    let before = table.log.len();
    let words: Vec<(&str, Phase)> = Phase::ALL.iter().map(|p| (p.name(), *p)).collect();
    let phase = table.get("at_phase");
    let phase = phase.map(|v| v.word("phase", &words).map(When::Phase));
    let round = table.get("at_round");
    let round = round.map(|v| v.small(0..=u32::MAX).map(When::Round));
    let after = table.get("after");
    let after = after.map(|v| v.time_ns().map(|ns| When::After { ns }));
    let trace = table.get("at").is_some();
    let trace = trace.then(|| moves::instant(table, duration_ns).map(|ns| When::Trace { ns }));
    let mut said = [phase, round, after, trace].into_iter().flatten();
    match (said.next(), said.next()) {
        (Some(when), None) => when,
        _ => {
            if table.log.len() == before {
                let (key, choices) = (table.name.clone(), INSTANTS);
                table
                    .log
                    .add(&table.span, ProblemKind::OneOf { key, choices });
            }
            None
        }
    }
}

fn action(
    table: &Table<'_>,
    kind: Kind,
    said: &Value<'_>,
    links: &BTreeMap<&str, LinkId>,
    params: &MigrationParams,
) -> Option<Action> {
    let which = || table.need("of", "of = \"source\"")?.word("end", ENDS);
    let end = |default: End| {
        table
            .get("of")
            .map_or(Some(default), |v| v.word("end", ENDS))
    };
    let time = |key, default| table.get(key).map_or(Some(default), |v| v.time_ns());
    let restored = || {
        let value = table.get("restored_after");
        value.map_or(Some(None), |v| v.some_time_ns().map(Some))
    };
    Some(match kind {
        Kind::VmCrash => Action::VmCrash { of: which()? },
        Kind::HostPowerLoss => Action::HostPowerLoss {
            of: which()?,
            silence_ns: time("silence", SILENCE_NS)?,
            fenced: table.get("fenced").map_or(Some(true), |v| v.boolean())?,
        },
        Kind::ControllerCrash => Action::ControllerCrash {
            down_ns: time("down_for", DOWN_NS)?,
        },
        Kind::LinkCut => Action::LinkCut {
            links: named(table, links)?,
            restored_after_ns: restored()?,
        },
        Kind::LinkChange => {
            let patch = patch(table);
            if patch.is_empty() {
                let key = said.key.clone();
                let choices = "`rate`, `delay`, `jitter`, `loss`, `queue` and `ecn`, at least";
                said.note(ProblemKind::OneOf { key, choices });
                return None;
            }
            Action::LinkChange {
                links: named(table, links)?,
                patch: Box::new(patch),
                restored_after_ns: restored()?,
            }
        }
        Kind::ConnectionReset => Action::ConnectionReset {
            of: end(End::Source)?,
        },
        Kind::DestinationRefuses => Action::DestinationRefuses,
        Kind::Cancel => Action::Cancel,
        Kind::StartPostcopy => {
            if !params.postcopy.ram {
                let allowed = "what a migration without `postcopy-ram = true` can do";
                said.out_of_bounds("start-postcopy", allowed);
            }
            Action::StartPostcopy
        }
        Kind::SetParameters => {
            if params.engine != EngineKind::Qemu {
                said.note(ProblemKind::NotOfEngine {
                    key: "set-parameters".to_owned(),
                    engine: params.engine.name(),
                    of: vec![EngineKind::Qemu.name()],
                });
            }
            let value = table.need(
                "parameters",
                "parameters = { max-bandwidth = \"100MiB/s\" }",
            )?;
            let change = value.table("parameters", "a table of parameters", change)?;
            if change.is_empty() {
                value.out_of_bounds("empty", "at least one parameter");
            }
            Action::SetParameters(change)
        }
    })
}

/// Links by name; none named: the source's own.
fn named(table: &Table<'_>, links: &BTreeMap<&str, LinkId>) -> Option<Vec<LinkId>> {
    let Some(value) = table.get("links") else {
        return Some(Vec::new());
    };
    let list = value.list("a list of links")?;
    if list.is_empty() {
        value.out_of_bounds("empty", "at least one link");
    }
    let link = |value: &Value<'_>| {
        let name = value.text()?;
        let found = links.get(name).copied();
        if found.is_none() {
            value.unknown_name("link", name, links.keys().copied());
        }
        found
    };
    Some(list.iter().filter_map(link).collect())
}

fn change(table: &Table<'_>) -> ParameterChange {
    let speed = |key| table.get(key).and_then(|v| v.bytes_per_second());
    let percent = |key| {
        let value = table.get(key)?.integer(1..=99)?;
        u8::try_from(value).ok()
    };
    ParameterChange {
        max_bandwidth: speed("max-bandwidth"),
        downtime_limit: table.get("downtime-limit").and_then(|v| ms(&v)),
        avail_switchover_bandwidth: speed("avail-switchover-bandwidth"),
        throttle_trigger_threshold: table
            .get("throttle-trigger-threshold")
            .and_then(|v| v.integer(1..=100)),
        cpu_throttle_initial: percent("cpu-throttle-initial"),
        cpu_throttle_increment: percent("cpu-throttle-increment"),
        max_cpu_throttle: percent("max-cpu-throttle"),
        cpu_throttle_tailslow: table.get("cpu-throttle-tailslow").and_then(|v| v.boolean()),
    }
}
