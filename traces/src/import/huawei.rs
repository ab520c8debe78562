//! Huawei-East-1: `vmid,cpu,memory,time,type`, creations (0) and deletions (1). Arrivals only.
//!
//! Seconds. A VM without a deletion was alive at the end.

use super::intake::Intake;
use super::lines::{fields, number, shortened, whole};
use super::stream::{Rows, Text};
use super::tidy::Rule;
use super::{ImportErrorKind, StreamError};
use crate::store::bundle::TimeOrigin;
use crate::units::{round_u32, round_u64};

/// How the table is read.
pub(super) const ROWS: Rows = Rows {
    rule: Rule::Given,
    table,
    read,
    time_origin: TimeOrigin::Relative,
    derived: &[],
    described_in: None,
};

const HEADER: &str = "vmid,cpu,memory,time,type";

/// Which table a line is of.
pub(super) fn table(line: &str) -> Option<u8> {
    line.eq_ignore_ascii_case(HEADER).then_some(0)
}

fn read(_table: u8, lines: &mut Text, intake: &mut Intake<'_>) -> Result<(), StreamError> {
    Ok(lines.rows(|line| event(line, intake))?)
}

fn event(line: &str, intake: &mut Intake<'_>) -> Result<(), ImportErrorKind> {
    let [id, cores, memory, time, kind] = fields(line, ',')?;
    whole("vmid", id)?;
    let cores = number("cpu", cores)?;
    let gibibytes = number("memory", memory)?;
    let t_ms = i64::try_from(round_u64(number("time", time)? * 1000.0)).unwrap_or(i64::MAX);
    let Some(vm) = intake.vm(id) else {
        return Ok(());
    };
    let vm = intake.get(vm);
    let wrong = |expected| ImportErrorKind::Field {
        column: "type",
        value: shortened(kind),
        expected,
    };
    match kind {
        "0" if vm.described => Err(wrong("one creation a VM")),
        "0" => {
            vm.described = true;
            vm.meta.vcpus = Some(round_u32(cores)).filter(|&cores| cores > 0);
            let bytes = round_u64(gibibytes * (1u64 << 30) as f64);
            vm.meta.mem_bytes = Some(bytes).filter(|&bytes| bytes > 0);
            vm.meta.start_ms = Some(t_ms);
            Ok(())
        }
        "1" if vm.meta.stop_ms.is_some() => Err(wrong("one deletion a VM")),
        "1" if vm.meta.start_ms.is_some_and(|start| start > t_ms) => {
            Err(wrong("a deletion after the creation"))
        }
        "1" => {
            vm.meta.stop_ms = Some(t_ms);
            Ok(())
        }
        _ => Err(wrong("0 (created) or 1 (deleted)")),
    }
}
