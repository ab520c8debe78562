//! Who has patience with migrations: `[orchestrator]`.

mod kubevirt;

use super::moves::ms;
use crate::migration::params::{EngineKind, MigrationParams};
use crate::orchestrator::{LibvirtParams, NovaParams, OnTimeout, OrchestratorSpec, TimeoutAction};
use crate::scenario::problem::ProblemKind;
use crate::scenario::raw::{Table, Value};

#[derive(Debug, Clone, Copy)]
enum Policy {
    Timeout,
    Kubevirt,
    Nova,
    Libvirt,
}

const POLICIES: &[(&str, Policy)] = &[
    ("timeout", Policy::Timeout),
    ("kubevirt", Policy::Kubevirt),
    ("nova", Policy::Nova),
    ("libvirt", Policy::Libvirt),
];
const ACTIONS: &[(&str, TimeoutAction)] = &[
    ("abort", TimeoutAction::Abort),
    ("force-complete", TimeoutAction::ForceComplete),
];
const ON_TIMEOUT: &[(&str, OnTimeout)] = &[
    ("suspend", OnTimeout::Suspend),
    ("postcopy", OnTimeout::Postcopy),
];

/// Reads the orchestrator; what it sets of migrations is set in `params`.
pub(super) fn read(root: &Table<'_>, params: &mut MigrationParams) -> OrchestratorSpec {
    let Some(value) = root.get("orchestrator") else {
        return OrchestratorSpec::Timeout;
    };
    let qemu = params.engine == EngineKind::Qemu;
    let timed = params.completion_timeout.is_some();
    let read = |table: &Table<'_>| {
        let policy = table.need("policy", "policy = \"kubevirt\"")?;
        let spec = match policy.word("policy", POLICIES)? {
            Policy::Timeout => OrchestratorSpec::Timeout,
            Policy::Kubevirt => OrchestratorSpec::Kubevirt(kubevirt::read(table)),
            Policy::Nova => OrchestratorSpec::Nova(nova(table)),
            Policy::Libvirt => OrchestratorSpec::Libvirt(libvirt(table)),
        };
        let tuned = match &spec {
            OrchestratorSpec::Kubevirt(of) => {
                of.bandwidth_per_migration > 0
                    || of.allow_auto_converge
                    || of.downtime_tuning.is_some()
                    || of.stall_detector.is_some()
            }
            OrchestratorSpec::Nova(_) => true,
            _ => false,
        };
        if (tuned || spec.wants_postcopy()) && !qemu {
            policy.note(ProblemKind::NotOfEngine {
                key: format!("policy {}", spec.name()),
                engine: params.engine.name(),
                of: vec![EngineKind::Qemu.name()],
            });
        }
        if timed && !matches!(spec, OrchestratorSpec::Timeout) {
            policy.note(ProblemKind::OneOf {
                key: "policy".to_owned(),
                choices: "`[orchestrator]` and `completion-timeout` of `[migration]`",
            });
        }
        Some(spec)
    };
    let spec = value.table("[orchestrator]", "a table", read).flatten();
    let spec = spec.unwrap_or_default();
    if let OrchestratorSpec::Kubevirt(of) = &spec {
        if of.bandwidth_per_migration > 0 {
            params.max_bandwidth = of.bandwidth_per_migration;
        }
        params.auto_converge.enabled |= of.allow_auto_converge;
    }
    // libvirt's flag that allows it is QEMU's capability.
    params.postcopy.ram |= spec.wants_postcopy();
    spec
}

fn time(table: &Table<'_>, key: &'static str, default: u64) -> u64 {
    let never = |value: &Value<'_>| value.as_text() == Some("never");
    let read = |value: Value<'_>| if never(&value) { Some(0) } else { ms(&value) };
    table.get(key).and_then(read).unwrap_or(default)
}

fn yes(table: &Table<'_>, key: &'static str) -> Option<bool> {
    table.get(key).and_then(|value| value.boolean())
}

fn count(table: &Table<'_>, key: &'static str, default: u32) -> u32 {
    let read = table.get(key).and_then(|value| value.small(1..=10_000));
    read.unwrap_or(default)
}

fn nova(table: &Table<'_>) -> NovaParams {
    let base = NovaParams::default();
    let action = table.get("live-migration-timeout-action");
    NovaParams {
        live_migration_downtime: time(
            table,
            "live-migration-downtime",
            base.live_migration_downtime,
        ),
        live_migration_downtime_steps: count(
            table,
            "live-migration-downtime-steps",
            base.live_migration_downtime_steps,
        ),
        live_migration_downtime_delay: time(
            table,
            "live-migration-downtime-delay",
            base.live_migration_downtime_delay,
        ),
        live_migration_completion_timeout: time(
            table,
            "live-migration-completion-timeout",
            base.live_migration_completion_timeout,
        ),
        live_migration_timeout_action: action
            .and_then(|value| value.word("action", ACTIONS))
            .unwrap_or_default(),
        live_migration_permit_post_copy: yes(table, "live-migration-permit-post-copy")
            .unwrap_or_default(),
    }
}

fn libvirt(table: &Table<'_>) -> LibvirtParams {
    let what = table.get("on-timeout");
    LibvirtParams {
        timeout: table
            .need("timeout", "timeout = \"60s\"")
            .and_then(|value| ms(&value))
            .unwrap_or_default(),
        on_timeout: what
            .and_then(|value| value.word("action", ON_TIMEOUT))
            .unwrap_or_default(),
    }
}
