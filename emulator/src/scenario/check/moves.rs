//! What moves: tenant flows, the balancer, migrations and their parameters.

use super::{Names, each, postcopy, sockets, streams};
use crate::balance::policy::{POLICIES, PolicySpec};
use crate::ids::{HostId, VmId};
use crate::migration::params::{
    AnnounceParams, AutoConvergeParams, ENGINES, MEMORY_MODES, MigrationParams, Reprotect,
    TIMEOUT_STRATEGIES,
};
use crate::scenario::problem::{NetworkProblem, ProblemKind};
use crate::scenario::raw::{Table, Value};
use crate::scenario::{BalancerSpec, Endpoint, FlowSpec, INTERNET, PlannedMigration};
use crate::units::show_time;
use std::collections::BTreeMap;
use traces::units::NS_PER_MS;

/// A VM by name, or whoever is outside.
pub(super) fn endpoint(value: &Value<'_>, vms: &Names, internet: bool) -> Option<Endpoint> {
    if value.as_text() != Some(INTERNET) {
        return vms.find("VM", value).map(|vm| Endpoint::Vm(VmId(vm)));
    }
    if !internet {
        value.note(NetworkProblem::NoInternet.into());
    }
    internet.then_some(Endpoint::Internet)
}

pub(super) fn flows(root: &Table<'_>, vms: &Names, internet: bool) -> Vec<FlowSpec> {
    let mut flows = Vec::new();
    let endpoint = |value: &Value<'_>| endpoint(value, vms, internet);
    each(root, "flows", |table| {
        let end = |key, example| {
            table
                .need(key, example)
                .and_then(|v| Some((endpoint(&v)?, v)))
        };
        let from = end("from", "from = \"web1\"");
        let to = end("to", "to = \"db1\"");
        let rate_bps = match table.need("rate", "rate = \"50Mbit\"") {
            Some(value) if value.as_text() == Some("elastic") => None,
            Some(value) => value.rate().map(netmodel::units::BitRate::bps),
            None => None,
        };
        if let (Some((from, _)), Some((to, value))) = (from, to) {
            if from == to {
                value.out_of_bounds("where it comes `from`", "another VM, or the Internet");
            }
            flows.push(FlowSpec { from, to, rate_bps });
        }
    });
    flows
}

pub(super) fn planned(
    root: &Table<'_>,
    hosts: &Names,
    vms: &Names,
    duration_ns: Option<u64>,
) -> Vec<PlannedMigration> {
    let mut planned = Vec::new();
    each(root, "migrations", |table| {
        let at = instant(table, duration_ns);
        let vm = table
            .need("vm", "vm = \"redis1\"")
            .and_then(|v| vms.find("VM", &v));
        let to = table
            .need("to", "to = \"h2\"")
            .and_then(|v| hosts.find("host", &v));
        if let (Some(at_ns), Some(vm), Some(to)) = (at, vm, to) {
            planned.push(PlannedMigration {
                at_ns,
                vm: VmId(vm),
                destination: HostId(to),
            });
        }
    });
    planned.sort_by_key(|migration| migration.at_ns);
    planned
}

/// The instant `at` which something happens.
pub(super) fn instant(table: &Table<'_>, duration_ns: Option<u64>) -> Option<u64> {
    let value = table.need("at", "at = \"10s\"")?;
    let at = value.time_ns()?;
    if let Some(end) = duration_ns.filter(|end| at >= *end) {
        let bounds = format!("before the end at {}", show_time(end));
        value.out_of_bounds(show_time(at), bounds);
    }
    Some(at)
}

const REPROTECTS: &[(&str, Reprotect)] =
    &[("lazy", Reprotect::Lazy), ("at-sync", Reprotect::AtSync)];

/// Keys of `[migration]` that not every engine has.
const ENGINE_OPTIONS: &[&str] = &[
    "max-bandwidth",
    "downtime-limit",
    "avail-switchover-bandwidth",
    "return-path",
    "reprotect",
    "page-tables",
    "page-tables-walked",
    "timeout",
    "timeout-strategy",
    "memory-mode",
    "auto-converge",
    "throttle-trigger-threshold",
    "cpu-throttle-initial",
    "cpu-throttle-increment",
    "max-cpu-throttle",
    "cpu-throttle-tailslow",
    "announce-initial",
    "announce-max",
    "announce-rounds",
    "announce-step",
];

/// `[migration]`: QEMU's names, with units where QEMU has bare numbers.
pub(super) fn parameters(root: &Table<'_>) -> MigrationParams {
    let Some(value) = root.get("migration") else {
        return MigrationParams::default();
    };
    let read = |table: &Table<'_>| {
        let mut params = scalars(table);
        streams::read(table, &mut params);
        sockets::read(table, &mut params);
        streams::refuse(table, &params);
        postcopy::refuse(table, &params);
        refuse_other_engines(table, &params);
        params
    };
    value
        .table("[migration]", "a table", read)
        .unwrap_or_default()
}

/// What is one value each.
fn scalars(table: &Table<'_>) -> MigrationParams {
    let base = MigrationParams::default();
    let engine = table.get("engine");
    let engine = engine.and_then(|v| v.word("engine", ENGINES));
    let engine = engine.unwrap_or(base.engine);
    MigrationParams {
        engine,
        max_bandwidth: bandwidth(table, "max-bandwidth").unwrap_or(base.max_bandwidth),
        downtime_limit: downtime_limit(table).unwrap_or(base.downtime_limit),
        avail_switchover_bandwidth: bandwidth(table, "avail-switchover-bandwidth")
            .unwrap_or(base.avail_switchover_bandwidth),
        return_path: table
            .get("return-path")
            .and_then(|v| v.boolean())
            .unwrap_or(base.return_path),
        reprotect: table
            .get("reprotect")
            .and_then(|v| v.word("reprotect", REPROTECTS))
            .unwrap_or(base.reprotect),
        page_tables: table
            .get("page-tables")
            .and_then(|v| v.size_bytes())
            .unwrap_or(base.page_tables),
        page_tables_walked: table
            .get("page-tables-walked")
            .and_then(|v| v.size_bytes())
            .unwrap_or(base.page_tables_walked),
        device_state_bytes: table
            .get("device-state-bytes")
            .and_then(|v| v.size_bytes())
            .unwrap_or(base.device_state_bytes),
        load_time: table
            .get("load-time")
            .and_then(|v| ms(&v))
            .unwrap_or(base.load_time),
        completion_timeout: table
            .get("completion-timeout")
            .and_then(|v| {
                if v.as_text() == Some("never") {
                    Some(0)
                } else {
                    ms(&v)
                }
            })
            .or(base.completion_timeout),
        timeout: table
            .get("timeout")
            .and_then(|v| ms(&v))
            .unwrap_or(base.timeout),
        timeout_strategy: table
            .get("timeout-strategy")
            .and_then(|v| v.word("timeout strategy", TIMEOUT_STRATEGIES))
            .unwrap_or(base.timeout_strategy),
        auto_converge: auto_converge(table),
        memory_mode: table
            .get("memory-mode")
            .and_then(|v| v.word("memory mode", MEMORY_MODES))
            .unwrap_or(base.memory_mode),
        postcopy: postcopy::parameters(table, engine),
        announce: announce(table),
        ..base
    }
}

/// Notes every option that another engine has and this one has not.
fn refuse_other_engines(table: &Table<'_>, params: &MigrationParams) {
    let options = ENGINE_OPTIONS.iter().chain(streams::OPTIONS);
    let foreign = options
        .chain(postcopy::OPTIONS)
        .filter(|option| !params.engine.has(option))
        .filter_map(|option| table.get(option));
    for value in foreign {
        let of = ENGINES.iter().filter(|(_, kind)| kind.has(&value.key));
        value.note(ProblemKind::NotOfEngine {
            key: value.key.clone(),
            engine: params.engine.name(),
            of: of.map(|(name, _)| *name).collect(),
        });
    }
}

fn auto_converge(table: &Table<'_>) -> AutoConvergeParams {
    let base = AutoConvergeParams::default();
    let yes = |key| table.get(key).and_then(|v| v.boolean());
    let percent = |key, most: u8| {
        let value = table.get(key)?.integer(1..=u64::from(most))?;
        u8::try_from(value).ok()
    };
    let initial = percent("cpu-throttle-initial", 99).unwrap_or(base.cpu_throttle_initial);
    let most = table.get("max-cpu-throttle").and_then(|value| {
        let percent = value.integer(u64::from(initial)..=99)?;
        u8::try_from(percent).ok()
    });
    AutoConvergeParams {
        enabled: yes("auto-converge").unwrap_or(base.enabled),
        throttle_trigger_threshold: table
            .get("throttle-trigger-threshold")
            .and_then(|v| v.integer(1..=100))
            .unwrap_or(base.throttle_trigger_threshold),
        cpu_throttle_initial: initial,
        cpu_throttle_increment: percent("cpu-throttle-increment", 99)
            .unwrap_or(base.cpu_throttle_increment),
        max_cpu_throttle: most.unwrap_or(base.max_cpu_throttle),
        cpu_throttle_tailslow: yes("cpu-throttle-tailslow").unwrap_or(base.cpu_throttle_tailslow),
    }
}

/// QEMU's own bounds (`migrate_params_check`).
const ANNOUNCE_MS_MAX: u64 = 100_000;
const ANNOUNCE_ROUNDS_MAX: u32 = 1000;
const ANNOUNCE_STEP_MS: std::ops::RangeInclusive<u64> = 1..=10_000;

fn announce(table: &Table<'_>) -> AnnounceParams {
    let base = AnnounceParams::default();
    let time = |key, bounds: std::ops::RangeInclusive<u64>| {
        let value = table.get(key)?;
        let found = ms(&value)?;
        if !bounds.contains(&found) {
            let text = format!("{} ms to {} ms, as in QEMU", bounds.start(), bounds.end());
            value.out_of_bounds(format!("{found} ms"), text);
        }
        Some(found)
    };
    let rounds = table.get("announce-rounds");
    AnnounceParams {
        announce_initial: time("announce-initial", 0..=ANNOUNCE_MS_MAX)
            .unwrap_or(base.announce_initial),
        announce_max: time("announce-max", 0..=ANNOUNCE_MS_MAX).unwrap_or(base.announce_max),
        announce_rounds: rounds
            .and_then(|v| v.small(0..=ANNOUNCE_ROUNDS_MAX))
            .unwrap_or(base.announce_rounds),
        announce_step: time("announce-step", ANNOUNCE_STEP_MS).unwrap_or(base.announce_step),
    }
}

pub(super) fn bandwidth(table: &Table<'_>, key: &'static str) -> Option<u64> {
    table.get(key).and_then(|value| value.bytes_per_second())
}

/// QEMU's own bound on `downtime-limit` (MAX_MIGRATE_DOWNTIME, 2000 s).
const DOWNTIME_MAX_MS: u64 = 2_000_000;

fn downtime_limit(table: &Table<'_>) -> Option<u64> {
    let value = table.get("downtime-limit")?;
    let limit = ms(&value)?;
    if limit > DOWNTIME_MAX_MS {
        value.out_of_bounds(
            show_time(limit.saturating_mul(NS_PER_MS)),
            "at most 2000s, as in QEMU",
        );
    }
    Some(limit)
}

/// A time in whole milliseconds, QEMU's resolution.
pub(super) fn ms(value: &Value<'_>) -> Option<u64> {
    let ns = value.time_ns()?;
    if !ns.is_multiple_of(NS_PER_MS) {
        value.out_of_bounds(show_time(ns), "whole milliseconds, as QEMU counts");
        return None;
    }
    Some(ns / NS_PER_MS)
}

/// One minute between decisions and as the window: Proxmox' and VMware's balancers decide every one
/// to five minutes, on loads of about as long.
const MINUTE_NS: u64 = 60_000_000_000;

pub(super) fn balancer(root: &Table<'_>) -> BalancerSpec {
    let mut spec = BalancerSpec {
        policy: "none".into(),
        interval_ns: MINUTE_NS,
        window_ns: MINUTE_NS,
        options: BTreeMap::new(),
        // libvirt and most managers allow few at once; two over the cluster, one at each host's link.
        parallel: 2,
        parallel_per_host: 1,
    };
    let Some(value) = root.get("balancer") else {
        return spec;
    };
    value.open_table("[balancer]", "a table", |table| {
        let policy = table.need("policy", "policy = \"equalise\"");
        let some_time = |key| table.get(key).and_then(|v| v.some_time_ns());
        spec.interval_ns = some_time("interval").unwrap_or(spec.interval_ns);
        spec.window_ns = some_time("window").unwrap_or(spec.interval_ns);
        let count = |key| table.get(key).and_then(|v| v.small(1..=10_000));
        spec.parallel = count("parallel").unwrap_or(spec.parallel);
        spec.parallel_per_host = count("parallel_per_host").unwrap_or(spec.parallel_per_host);
        let words: Vec<_> = POLICIES
            .iter()
            .map(|policy| (policy.name, policy))
            .collect();
        let Some(policy) = policy.and_then(|v| v.word("policy", &words)) else {
            return;
        };
        spec.policy = policy.name.into();
        options(table, policy, &mut spec);
    });
    spec
}

/// What else stands in `[balancer]` are the policy's own options, as its table has them.
fn options(table: &Table<'_>, policy: &'static PolicySpec, spec: &mut BalancerSpec) {
    let names: Vec<_> = policy.options.iter().map(|option| option.name).collect();
    for (span, value) in table.rest() {
        let Some(option) = policy
            .options
            .iter()
            .find(|option| option.name == value.key)
        else {
            table.unknown(&value.key, &span, &names);
            continue;
        };
        let number = if option.whole {
            let bounds =
                traces::units::round_u64(option.min)..=traces::units::round_u64(option.max);
            value.integer(bounds).map(|whole| whole as f64)
        } else {
            value.number(option.min..=option.max)
        };
        if let Some(number) = number {
            spec.options.insert(value.key.clone(), number);
        }
    }
}
