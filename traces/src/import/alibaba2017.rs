//! Alibaba cluster trace 2017: servers and containers, no headers, 300 s averages.
//!
//! Seconds; 0 or negative is before the trace. CPU is per cent of the machine, or of what the container
//! asked for. Memory and disk are per cent. Some containers have no event. Machines and containers are
//! numbered apart, so ids here are `machine_N` and `container_N`.

use super::intake::{Intake, Tally, sample};
use super::lines::{fields, number, optional, shortened, signed, whole};
use super::stream::{Rows, Text};
use super::tidy::Rule;
use super::{ImportErrorKind, StreamError};
use crate::store::bundle::TimeOrigin;
use crate::store::series::Metric;
use crate::units::{round_u32, round_u64};

/// How the tables are read.
pub(super) const ROWS: Rows = Rows {
    rule: Rule::Given,
    table,
    read,
    time_origin: TimeOrigin::Relative,
    derived: &[
        (
            "cpu_milli",
            "CPU % x cores of the machine or asked for by the container",
        ),
        (
            "mem_used_bytes",
            "memory % x normalised size x memory of the largest machine",
        ),
    ],
    described_in: Some("server_event or container_event"),
};

const SERVER_EVENT: u8 = 0;
const CONTAINER_EVENT: u8 = 1;
const SERVER_USAGE: u8 = 2;
const CONTAINER_USAGE: u8 = 3;
const STEP_MS: u32 = 300_000;

/// Which table a line is of.
pub(super) fn table(line: &str) -> Option<u8> {
    let columns: Vec<&str> = line.split(',').map(str::trim).collect();
    let whole = |at: usize| columns[at].parse::<i64>().is_ok();
    let word = |at: usize| columns[at].starts_with(|c: char| c.is_ascii_alphabetic());
    let numbers = |from: usize| {
        columns[from..]
            .iter()
            .all(|value| value.is_empty() || value.parse::<f64>().is_ok())
    };
    match columns.len() {
        7 if whole(0) && whole(1) && word(2) => Some(SERVER_EVENT),
        8 if whole(0) && word(1) && whole(2) => Some(CONTAINER_EVENT),
        8 if whole(0) && whole(1) && numbers(2) => Some(SERVER_USAGE),
        12 if whole(0) && whole(1) && numbers(2) => Some(CONTAINER_USAGE),
        _ => None,
    }
}

fn read(table: u8, lines: &mut Text, intake: &mut Intake<'_>) -> Result<(), StreamError> {
    while lines.advance()? {
        let line = lines.line();
        if line.trim().is_empty() {
            continue;
        }
        let bad = |kind| lines.error(kind);
        match table {
            SERVER_EVENT => server(line, intake).map_err(bad)?,
            CONTAINER_EVENT => container(line, intake).map_err(bad)?,
            SERVER_USAGE => {
                let [time, id, cpu, memory, ..] = fields::<8>(line, ',').map_err(bad)?;
                let row = row([time, id, cpu, memory]).map_err(bad)?;
                take("machine", id, &row, intake)?;
            }
            _ => {
                let [time, id, cpu, memory, ..] = fields::<12>(line, ',').map_err(bad)?;
                let row = row([time, id, cpu, memory]).map_err(bad)?;
                take("container", id, &row, intake)?;
            }
        }
    }
    Ok(())
}

fn server(line: &str, intake: &mut Intake<'_>) -> Result<(), ImportErrorKind> {
    let [time, id, _, _, cores, memory, _] = fields(line, ',')?;
    signed("timestamp", time)?;
    let id = format!("machine_{}", whole("machine", id)?);
    let cores = optional("cpus", cores)?;
    let memory = optional("memory", memory)?;
    describe(&id, cores, memory, None, intake);
    Ok(())
}

fn container(line: &str, intake: &mut Intake<'_>) -> Result<(), ImportErrorKind> {
    let [time, _, id, host, cores, memory, _, _] = fields(line, ',')?;
    signed("timestamp", time)?;
    let id = format!("container_{}", whole("instance", id)?);
    let cores = optional("plan_cpu", cores)?;
    let memory = optional("plan_mem", memory)?;
    let host = Some(host).filter(|host| !host.is_empty());
    describe(&id, cores, memory, host, intake);
    Ok(())
}

fn describe(
    id: &str,
    cores: Option<f64>,
    memory: Option<f64>,
    host: Option<&str>,
    intake: &mut Intake<'_>,
) {
    let one = intake.options.units.mem_bytes;
    let Some(vm) = intake.vm(id) else {
        return;
    };
    let vm = intake.get(vm);
    // Removals carry no size: the first row with one counts.
    if vm.described && vm.cores.is_some() {
        return;
    }
    vm.described = true;
    vm.cores = cores.filter(|&cores| cores > 0.0);
    vm.meta.vcpus = vm.cores.map(|cores| round_u32(cores.ceil()));
    let bytes = memory.zip(one).map(|(size, one)| round_u64(size * one));
    vm.meta.mem_bytes = bytes.filter(|&bytes| bytes > 0);
    vm.meta.host_initial = host.map(|host| format!("machine_{host}"));
}

struct Row {
    t_ms: i64,
    cpu: Option<f64>,
    memory: Option<f64>,
}

fn row([time, id, cpu, memory]: [&str; 4]) -> Result<Row, ImportErrorKind> {
    let seconds = signed("timestamp", time)?;
    whole("id", id)?;
    let t_ms = seconds.checked_mul(1000).ok_or(ImportErrorKind::Field {
        column: "timestamp",
        value: shortened(time),
        expected: "seconds",
    })?;
    let percent = |column, value: &str| {
        let known = Some(value).filter(|value| !value.is_empty());
        known.map(|value| number(column, value)).transpose()
    };
    Ok(Row {
        t_ms,
        cpu: percent("CPU %", cpu)?,
        memory: percent("memory %", memory)?,
    })
}

fn take(kind: &str, id: &str, row: &Row, intake: &mut Intake<'_>) -> Result<(), StreamError> {
    if row.t_ms <= 0 {
        intake.count(Tally::LeftOut("their time is before the trace"));
        return Ok(());
    }
    let Some(vm) = intake.vm(&format!("{kind}_{id}")) else {
        return Ok(());
    };
    let cpu = row.cpu.map(|cpu| intake.milli(vm, cpu));
    let size = intake.get(vm).meta.mem_bytes;
    if row.memory.is_some() && intake.options.units.mem_bytes.is_none() {
        intake.count(Tally::Normalised("memory", "--unit-memory"));
    }
    let used = |(percent, size): (f64, u64)| round_u64(percent / 100.0 * size as f64);
    let values = [
        (Metric::CpuMilli, cpu.map(|(milli, _)| milli)),
        (Metric::MemUsedBytes, row.memory.zip(size).map(used)),
    ];
    let flags = cpu.map_or(0, |(_, flags)| flags);
    intake.sample(sample(vm, row.t_ms, STEP_MS, flags, &values))
}
