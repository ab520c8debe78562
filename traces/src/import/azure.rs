//! Azure Public Dataset V1 (2017) and V2 (2019): `vmtable` and `vm_cpu_readings`, no headers.
//!
//! The readings are time slices: every VM is spread over all files, so they are sorted. Sizes of V2 are
//! buckets, the largest open (`>24`). A VM deleted at the end of the 30 days was still alive. CPU is
//! per cent of the whole VM. Ids hold `/` and `+`. There is no memory use and no network.

use super::intake::{Intake, Tally, sample};
use super::lines::{Lines, fields, number, shortened, signed, whole};
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
        ("cpu_milli", "average CPU % of the VM x its cores"),
        ("cpu_min_milli", "minimum CPU % of the VM x its cores"),
        ("cpu_max_milli", "maximum CPU % of the VM x its cores"),
    ],
    described_in: Some("vmtable"),
};

const VMS: u8 = 0;
const READINGS: u8 = 1;
/// Length of a reading.
const STEP_S: i64 = 300;
/// The last stamp of the 30 days: deleted then or later means alive.
const LAST_S: u64 = 2_591_700;
/// The published files say "Unkown".
const CATEGORIES: [&str; 4] = ["Delay-insensitive", "Interactive", "Unknown", "Unkown"];

/// Which table a line is of.
pub(super) fn table(line: &str) -> Option<u8> {
    if let Ok(columns) = fields::<11>(line, ',') {
        let is_vm = CATEGORIES.contains(&columns[8]) && columns[3].parse::<u64>().is_ok();
        return is_vm.then_some(VMS);
    }
    let [time, id, rest @ ..] = fields::<5>(line, ',').ok()?;
    let id_like = id.len() > 20 && id.parse::<f64>().is_err();
    let numbers = rest.iter().all(|value| value.parse::<f64>().is_ok());
    (id_like && numbers && time.parse::<i64>().is_ok()).then_some(READINGS)
}

fn read(table: u8, lines: &mut Text, intake: &mut Intake<'_>) -> Result<(), StreamError> {
    while lines.advance()? {
        if lines.line().trim().is_empty() {
            continue;
        }
        if table == VMS {
            vm(lines.line(), intake).map_err(|kind| lines.error(kind))?;
        } else {
            reading(lines, intake)?;
        }
    }
    Ok(())
}

fn vm(line: &str, intake: &mut Intake<'_>) -> Result<(), ImportErrorKind> {
    let [id, _, _, created, deleted, _, _, _, category, cores, memory] = fields(line, ',')?;
    let created = whole("vm created", created)?;
    let deleted = whole("vm deleted", deleted)?;
    if !CATEGORIES.contains(&category) {
        return Err(ImportErrorKind::Field {
            column: "vm category",
            value: shortened(category),
            expected: "Delay-insensitive, Interactive or Unknown",
        });
    }
    let cores = size("core count", cores, intake)?;
    let gibibytes = size("memory", memory, intake)?;
    let Some(vm) = intake.vm(id) else {
        return Ok(());
    };
    let vm = intake.get(vm);
    vm.described = true;
    // Zero would mean that the source does not know, and unknown is never 0.
    vm.cores = cores.filter(|&cores| cores > 0.0);
    vm.meta.vcpus = vm.cores.map(round_u32);
    vm.meta.mem_bytes = gibibytes
        .map(|gibibytes| round_u64(gibibytes * (1u64 << 30) as f64))
        .filter(|&bytes| bytes > 0);
    vm.meta.start_ms = i64::try_from(created.saturating_mul(1000)).ok();
    let stop = i64::try_from(deleted.saturating_mul(1000)).ok();
    vm.meta.stop_ms = stop.filter(|_| deleted < LAST_S);
    vm.meta.class = Some(category.replace("Unkown", "Unknown"));
    Ok(())
}

/// A size, or the bucket of one. Microsoft's own notebook takes `>24` cores as 30 and `>64` GB as 70.
fn size(
    column: &'static str,
    value: &str,
    intake: &mut Intake<'_>,
) -> Result<Option<f64>, ImportErrorKind> {
    let open = match value {
        "" => return Ok(None),
        ">24" => (">24", "30", 30.0),
        ">64" => (">64", "70", 70.0),
        _ => return number(column, value).map(Some),
    };
    intake.count(Tally::Bucket(open.0, open.1));
    Ok(Some(open.2))
}

fn reading<R: std::io::BufRead>(
    lines: &Lines<R>,
    intake: &mut Intake<'_>,
) -> Result<(), StreamError> {
    let bad = |kind| lines.error(kind);
    let [time, id, min, max, avg] = fields(lines.line(), ',').map_err(bad)?;
    let time = signed("timestamp", time).map_err(bad)?;
    let t_ms = time.checked_mul(1000).filter(|_| time % STEP_S == 0);
    let t_ms = t_ms.ok_or_else(|| {
        bad(ImportErrorKind::Field {
            column: "timestamp",
            value: time.to_string(),
            expected: "a multiple of 300 s",
        })
    })?;
    let min = number("min CPU", min).map_err(bad)?;
    let max = number("max CPU", max).map_err(bad)?;
    let avg = number("avg CPU", avg).map_err(bad)?;
    let Some(vm) = intake.vm(id) else {
        return Ok(());
    };
    let (milli, flags) = intake.milli(vm, avg);
    let values = [
        (Metric::CpuMilli, Some(milli)),
        (Metric::CpuMinMilli, Some(intake.milli(vm, min).0)),
        (Metric::CpuMaxMilli, Some(intake.milli(vm, max).0)),
    ];
    intake.sample(sample(vm, t_ms, 300_000, flags, &values))
}
