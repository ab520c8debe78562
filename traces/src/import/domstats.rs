//! libvirt's `virsh domstats`, again and again: blocks of `Domain: 'NAME'` and `key=value`.
//!
//! libvirt prints no times: before each poll a line with the Unix time (`date +%s.%N`) must stand. CPU
//! time, network and disk are counters. The dirty rate is over its own period and is repeated until
//! measured anew: each measurement counts once.

use std::collections::BTreeMap;

use super::intake::{Intake, sample};
use super::lines::{number, shortened, whole};
use super::stream::{Rows, Text};
use super::tidy::{Counters, Hold, Rule};
use super::{ImportErrorKind, StreamError};
use crate::store::bundle::TimeOrigin;
use crate::store::sample::Values;
use crate::store::series::Metric;
use crate::units::{round_u32, round_u64};

/// How the text is read.
pub(super) const ROWS: Rows = Rows {
    rule: Rule::Hold(Hold {
        step_ms: None,
        counters: Counters::CpuAndBytes,
        rates: false,
    }),
    table,
    read,
    time_origin: TimeOrigin::UnixUtc,
    derived: &[
        (
            "cpu_milli",
            "difference of cpu.time over the time between polls",
        ),
        (
            "mem_used_bytes",
            "balloon.available - balloon.unused; without them balloon.rss",
        ),
        (
            "net_rx_bytes",
            "difference of net.*.rx.bytes, all interfaces",
        ),
        (
            "net_tx_bytes",
            "difference of net.*.tx.bytes, all interfaces",
        ),
        ("disk_rd_bytes", "difference of block.*.rd.bytes, all disks"),
        ("disk_wr_bytes", "difference of block.*.wr.bytes, all disks"),
        (
            "dirty_pages_w1",
            "dirtyrate.megabytes_per_second x calc_period",
        ),
    ],
    described_in: None,
};

const DOMAIN: &str = "Domain: '";
const KIB: u64 = 1024;

/// Whether a text starts so: with a domain, or with a time and then one.
pub(super) fn is_start(head: &str) -> bool {
    let mut lines = head.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    first.starts_with(DOMAIN)
        || (first.parse::<f64>().is_ok()
            && lines.next().is_some_and(|line| line.starts_with(DOMAIN)))
}

/// Which table a line is of.
pub(super) fn table(line: &str) -> Option<u8> {
    (line.starts_with(DOMAIN) || line.parse::<f64>().is_ok()).then_some(0)
}

/// One domain at one poll.
struct Block {
    name: String,
    t_ms: i64,
    keys: BTreeMap<String, String>,
}

fn read(_table: u8, lines: &mut Text, intake: &mut Intake<'_>) -> Result<(), StreamError> {
    let mut t_ms = None;
    let mut block: Option<Block> = None;
    // The start of each domain's last measurement of its dirty rate.
    let mut measured = BTreeMap::new();
    while lines.advance()? {
        let line = lines.line().trim();
        if line.is_empty() {
            continue;
        }
        if let Ok(seconds) = line.parse::<f64>() {
            finish(block.take(), lines, &mut measured, intake)?;
            number("time", line).map_err(|kind| lines.error(kind))?;
            t_ms = i64::try_from(round_u64(seconds * 1000.0)).ok();
        } else if let Some(rest) = line.strip_prefix(DOMAIN) {
            finish(block.take(), lines, &mut measured, intake)?;
            let name = rest.strip_suffix('\'').unwrap_or(rest).to_string();
            let t_ms = t_ms.ok_or_else(|| {
                lines.error(ImportErrorKind::Needs {
                    format: super::Format::LibvirtDomstats,
                    what: "a line with the Unix time before each poll (date +%s.%N)",
                })
            })?;
            let keys = BTreeMap::new();
            block = Some(Block { name, t_ms, keys });
        } else if let (Some(block), Some((key, value))) = (&mut block, line.split_once('=')) {
            block.keys.insert(key.to_string(), value.to_string());
        } else {
            return Err(lines
                .error(ImportErrorKind::Field {
                    column: "line",
                    value: shortened(line),
                    expected: "Domain: 'NAME', key=value, or a Unix time",
                })
                .into());
        }
    }
    finish(block, lines, &mut measured, intake)
}

fn finish(
    block: Option<Block>,
    lines: &Text,
    measured: &mut BTreeMap<u32, u64>,
    intake: &mut Intake<'_>,
) -> Result<(), StreamError> {
    let Some(block) = block else {
        return Ok(());
    };
    let Some(vm) = intake.vm(&block.name) else {
        return Ok(());
    };
    let bad = |kind| lines.error(kind);
    let get = |key: &'static str| {
        let value = block.keys.get(key);
        value
            .map(|value| whole(key, value))
            .transpose()
            .map_err(bad)
    };
    let sum = |from: &str, to: &'static str| {
        let mut keys = block.keys.iter().filter(|(key, _)| {
            let inner = key.strip_prefix(from).and_then(|key| key.strip_suffix(to));
            inner.is_some_and(|inner| inner.parse::<u32>().is_ok())
        });
        keys.try_fold(None, |sum: Option<u64>, (_, value)| {
            let value = whole(to, value)?;
            Ok(Some(sum.unwrap_or(0).saturating_add(value)))
        })
        .map_err(bad)
    };
    let cpu_us = get("cpu.time")?.map(|ns| ns / 1000);
    let vcpus = get("vcpu.current")?.or(get("vcpu.maximum")?);
    let guest = get("balloon.available")?.zip(get("balloon.unused")?);
    let guest = guest.map(|(available, unused)| available.saturating_sub(unused));
    let memory = guest.or(get("balloon.rss")?);
    let size = get("balloon.maximum")?.or(get("balloon.current")?);
    let mut values = Values::of(&[
        (Metric::CpuMilli, cpu_us),
        (
            Metric::MemUsedBytes,
            memory.map(|kib| kib.saturating_mul(KIB)),
        ),
        (Metric::NetRxBytes, sum("net.", ".rx.bytes")?),
        (Metric::NetTxBytes, sum("net.", ".tx.bytes")?),
        (Metric::DiskRdBytes, sum("block.", ".rd.bytes")?),
        (Metric::DiskWrBytes, sum("block.", ".wr.bytes")?),
    ]);
    // 2 is "measured".
    if get("dirtyrate.calc_status")? == Some(2) {
        let start = get("dirtyrate.calc_start_time")?;
        let period = get("dirtyrate.calc_period")?.filter(|&period| period > 0);
        let rate = get("dirtyrate.megabytes_per_second")?;
        if let (Some(start), Some(period), Some(rate)) = (start, period, rate)
            && measured.insert(vm, start) != Some(start)
        {
            let pages = rate.saturating_mul(256).saturating_mul(period);
            values.set(Metric::DirtyPagesW1, Some(pages));
            values.set(Metric::DirtyW1Ms, Some(period.saturating_mul(1000)));
        }
    }
    let known = intake.get(vm);
    known.described = true;
    known.meta.vcpus = vcpus
        .map(|vcpus| round_u32(vcpus as f64))
        .or(known.meta.vcpus);
    let bytes = size
        .map(|kib| kib.saturating_mul(KIB))
        .filter(|&bytes| bytes > 0);
    known.meta.mem_bytes = known.meta.mem_bytes.max(bytes);
    let mut sample = sample(vm, block.t_ms, 1, 0, &[]);
    sample.values = values;
    intake.sample(sample)
}
