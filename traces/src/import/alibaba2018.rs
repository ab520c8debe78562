//! Alibaba cluster trace 2018: machines and containers, no headers.
//!
//! Rows come every 10 s or a multiple, irregularly, up to 10 minutes apart: each holds to the next.
//! `net_in` and `net_out` are counters, normalised, of two decimals: differences are taken over at
//! least 10 minutes, since shorter ones are all rounding. CPU is per cent of the machine, or of what the
//! container asked for; -1 and 101 mean "invalid". Memory is per cent of a size that is itself
//! normalised. Disk is per cent of time: no bytes.

use super::intake::{Intake, Tally, sample};
use super::lines::{fields, number, optional, shortened, signed};
use super::stream::{Rows, Text};
use super::tidy::{Counters, Hold, Rule};
use super::{ImportErrorKind, StreamError};
use crate::store::bundle::TimeOrigin;
use crate::store::series::Metric;
use crate::units::{round_u32, round_u64};

/// How the tables are read.
pub(super) const ROWS: Rows = Rows {
    rule: Rule::Hold(Hold {
        step_ms: Some((60_000, 600_000)),
        counters: Counters::Bytes { window_ms: 600_000 },
        rates: false,
    }),
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
        (
            "net_rx_bytes",
            "difference of the counter over 10 minutes, spread evenly, x bytes a unit",
        ),
        (
            "net_tx_bytes",
            "difference of the counter over 10 minutes, spread evenly, x bytes a unit",
        ),
    ],
    described_in: Some("machine_meta or container_meta"),
};

const MACHINE_META: u8 = 0;
const CONTAINER_META: u8 = 1;
const MACHINE_USAGE: u8 = 2;
const CONTAINER_USAGE: u8 = 3;

/// Which table a line is of.
pub(super) fn table(line: &str) -> Option<u8> {
    let columns: Vec<&str> = line.split(',').map(str::trim).collect();
    let machine = |at: usize| columns[at].starts_with("m_");
    let time = |at: usize| columns[at].parse::<i64>().is_ok();
    match columns.len() {
        7 if machine(0) && time(1) => Some(MACHINE_META),
        8 if columns[0].starts_with("c_") && machine(1) && time(2) => Some(CONTAINER_META),
        9 if machine(0) && time(1) => Some(MACHINE_USAGE),
        11 if columns[0].starts_with("c_") && machine(1) && time(2) => Some(CONTAINER_USAGE),
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
            MACHINE_META => machine(line, intake).map_err(bad)?,
            CONTAINER_META => container(line, intake).map_err(bad)?,
            MACHINE_USAGE => {
                let [id, time, cpu, memory, _, _, rx, tx, _] = fields(line, ',').map_err(bad)?;
                let row = row([time, cpu, memory, rx, tx]).map_err(bad)?;
                take(id, None, &row, intake)?;
            }
            _ => {
                let [id, host, time, cpu, memory, _, _, _, rx, tx, _] =
                    fields(line, ',').map_err(bad)?;
                let row = row([time, cpu, memory, rx, tx]).map_err(bad)?;
                take(id, Some(host), &row, intake)?;
            }
        }
    }
    Ok(())
}

/// A machine, as often as its state changed: the first row counts.
fn machine(line: &str, intake: &mut Intake<'_>) -> Result<(), ImportErrorKind> {
    let [id, time, _, _, cores, memory, _] = fields(line, ',')?;
    signed("time_stamp", time)?;
    let cores = optional("cpu_num", cores)?;
    let memory = optional("mem_size", memory)?;
    describe(id, cores, memory, None, intake);
    Ok(())
}

fn container(line: &str, intake: &mut Intake<'_>) -> Result<(), ImportErrorKind> {
    let [id, host, time, app, _, request, _, memory] = fields(line, ',')?;
    signed("time_stamp", time)?;
    // 100 is one core.
    let cores = optional("cpu_request", request)?.map(|request| request / 100.0);
    let memory = optional("mem_size", memory)?;
    describe(id, cores, memory, Some((host, app)), intake);
    Ok(())
}

fn describe(
    id: &str,
    cores: Option<f64>,
    memory: Option<f64>,
    place: Option<(&str, &str)>,
    intake: &mut Intake<'_>,
) {
    let one = intake.options.units.mem_bytes;
    let Some(vm) = intake.vm(id) else {
        return;
    };
    let vm = intake.get(vm);
    if vm.described {
        return;
    }
    vm.described = true;
    vm.cores = cores.filter(|&cores| cores > 0.0);
    vm.meta.vcpus = vm.cores.map(|cores| round_u32(cores.ceil()));
    // The largest machine has 100.
    let bytes = memory
        .zip(one)
        .map(|(size, one)| round_u64(size / 100.0 * one));
    vm.meta.mem_bytes = bytes.filter(|&bytes| bytes > 0);
    if let Some((host, app)) = place {
        vm.meta.host_initial = Some(host.to_string());
        vm.meta.class = Some(app.to_string());
    }
}

/// Numbers of a row of usage; what is empty or invalid is absent.
struct Row {
    t_ms: i64,
    cpu: Field,
    memory: Field,
    rx: Option<f64>,
    tx: Option<f64>,
}

enum Field {
    Absent,
    Invalid,
    Percent(f64),
}

fn row([time, cpu, memory, rx, tx]: [&str; 5]) -> Result<Row, ImportErrorKind> {
    let seconds = signed("time_stamp", time)?;
    let t_ms = seconds.checked_mul(1000).ok_or(ImportErrorKind::Field {
        column: "time_stamp",
        value: shortened(time),
        expected: "seconds",
    })?;
    Ok(Row {
        t_ms,
        cpu: percent("cpu_util_percent", cpu)?,
        memory: percent("mem_util_percent", memory)?,
        rx: optional("net_in", rx)?,
        tx: optional("net_out", tx)?,
    })
}

fn percent(column: &'static str, value: &str) -> Result<Field, ImportErrorKind> {
    match value {
        "" => Ok(Field::Absent),
        "-1" | "101" => Ok(Field::Invalid),
        value => number(column, value).map(Field::Percent),
    }
}

fn known(column: &'static str, field: &Field, intake: &mut Intake<'_>) -> Option<f64> {
    match field {
        Field::Absent => None,
        Field::Invalid => {
            intake.count(Tally::Invalid(column));
            None
        }
        Field::Percent(percent) => Some(*percent),
    }
}

fn take(
    id: &str,
    host: Option<&str>,
    row: &Row,
    intake: &mut Intake<'_>,
) -> Result<(), StreamError> {
    let Some(vm) = intake.vm(id) else {
        return Ok(());
    };
    if let Some(host) = host {
        let meta = &mut intake.get(vm).meta;
        meta.host_initial.get_or_insert_with(|| host.to_string());
    }
    let cpu = known("cpu_util_percent", &row.cpu, intake).map(|cpu| intake.milli(vm, cpu));
    let memory = known("mem_util_percent", &row.memory, intake);
    let size = intake.get(vm).meta.mem_bytes;
    if memory.is_some() && intake.options.units.mem_bytes.is_none() {
        intake.count(Tally::Normalised("memory", "--unit-memory"));
    }
    let unit = intake.options.units.net_bytes;
    if unit.is_none() && (row.rx.is_some() || row.tx.is_some()) {
        intake.count(Tally::Normalised("network", "--unit-network"));
    }
    let bytes = |units: Option<f64>| units.zip(unit).map(|(n, bytes)| round_u64(n * bytes));
    let used = |percent: f64, size: u64| round_u64(percent / 100.0 * size as f64);
    let values = [
        (Metric::CpuMilli, cpu.map(|(milli, _)| milli)),
        (
            Metric::MemUsedBytes,
            memory.zip(size).map(|(percent, size)| used(percent, size)),
        ),
        (Metric::NetRxBytes, bytes(row.rx)),
        (Metric::NetTxBytes, bytes(row.tx)),
    ];
    let flags = cpu.map_or(0, |(_, flags)| flags);
    intake.sample(sample(vm, row.t_ms, 1, flags, &values))
}
