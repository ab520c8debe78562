//! What a column may hold, and in which units.

use crate::store::series::Metric;
use crate::units::round_u64;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Time,
    Duration,
    Vm,
    Cores,
    MemSize,
    Metric(Metric),
}

/// A unit, as it is written. What it means depends on what it is a unit of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Unit {
    pub(super) name: &'static str,
    factor: f64,
}

const fn unit(name: &'static str, factor: f64) -> Unit {
    Unit { name, factor }
}

/// Factors to milliseconds; of `unix-…`, the epoch is the origin.
const TIMES: [Unit; 11] = [
    unit("s", 1e3),
    unit("ms", 1.0),
    unit("us", 1e-3),
    unit("ns", 1e-6),
    unit("min", 6e4),
    unit("h", 3.6e6),
    unit("unix-s", 1e3),
    unit("unix-ms", 1.0),
    unit("unix-us", 1e-3),
    unit("iso", 1.0),
    unit("dmy", 1.0),
];
/// Factors to thousandths of a core, or to shares of the VM.
pub(super) const CPUS: [Unit; 5] = [
    unit("%", 0.01),
    unit("share", 1.0),
    unit("%core", 10.0),
    unit("cores", 1000.0),
    unit("milli", 1.0),
];
/// Factors to bytes.
const SIZES: [Unit; 8] = [
    unit("B", 1.0),
    unit("KiB", 1024.0),
    unit("MiB", 1_048_576.0),
    unit("GiB", 1_073_741_824.0),
    unit("kB", 1e3),
    unit("KB", 1e3),
    unit("MB", 1e6),
    unit("GB", 1e9),
];
/// Rates, to bytes per second; counters, to bytes.
const RATES: [Unit; 8] = [
    unit("B/s", 1.0),
    unit("KiB/s", 1024.0),
    unit("MiB/s", 1_048_576.0),
    unit("kB/s", 1e3),
    unit("KB/s", 1e3),
    unit("MB/s", 1e6),
    unit("bit/s", 0.125),
    unit("Mbit/s", 125_000.0),
];
const COUNTERS: [Unit; 3] = [unit("B+", 1.0), unit("KiB+", 1024.0), unit("kB+", 1e3)];
const PLAIN: [Unit; 1] = [unit("", 1.0)];

/// Short names beside the names of the columns of `samples.parquet`.
pub(super) const SHORT: [(&str, Metric); 12] = [
    ("cpu", Metric::CpuMilli),
    ("cpu_min", Metric::CpuMinMilli),
    ("cpu_max", Metric::CpuMaxMilli),
    ("cpu_p95", Metric::CpuP95Milli),
    ("mem_used", Metric::MemUsedBytes),
    ("mem_active", Metric::MemActiveBytes),
    ("net_rx", Metric::NetRxBytes),
    ("net_tx", Metric::NetTxBytes),
    ("disk_rd", Metric::DiskRdBytes),
    ("disk_wr", Metric::DiskWrBytes),
    ("dirty_pages", Metric::DirtyPagesW1),
    ("dirty_window_ms", Metric::DirtyW1Ms),
];
pub(super) const FLOWS: [Metric; 4] = [
    Metric::NetRxBytes,
    Metric::NetTxBytes,
    Metric::DiskRdBytes,
    Metric::DiskWrBytes,
];

impl Unit {
    pub(super) fn factor(self) -> f64 {
        // Rates are handed on in thousandths, so that a few bytes a second do not round to none.
        if self.is_rate() {
            self.factor * 1000.0
        } else {
            self.factor
        }
    }

    pub(super) fn is_share_of_vm(self) -> bool {
        matches!(self.name, "%" | "share")
    }

    pub(super) fn is_rate(self) -> bool {
        self.name.ends_with("/s")
    }

    pub(super) fn is_counter(self) -> bool {
        self.name.ends_with('+')
    }
}

impl Kind {
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "time" => Self::Time,
            "duration" => Self::Duration,
            "vm" => Self::Vm,
            "vcpus" => Self::Cores,
            "mem_size" => Self::MemSize,
            name => {
                let short = SHORT.iter().find(|(short, _)| *short == name);
                let metric = short.map(|(_, metric)| *metric).or_else(|| {
                    let mut all = Metric::ALL.into_iter();
                    all.find(|metric| metric.column() == name)
                });
                Self::Metric(metric?)
            }
        })
    }

    /// The units there are; the first is meant when none is given.
    pub(super) fn units(self) -> Vec<Unit> {
        match self {
            Self::Time => TIMES.to_vec(),
            Self::Duration => TIMES[..6].to_vec(),
            Self::Vm | Self::Cores => PLAIN.to_vec(),
            Self::MemSize => SIZES.to_vec(),
            Self::Metric(metric) if FLOWS.contains(&metric) => {
                [&SIZES[..], &RATES, &COUNTERS].concat()
            }
            Self::Metric(metric) => match metric {
                Metric::MemUsedBytes | Metric::MemActiveBytes => SIZES.to_vec(),
                metric if metric.column().starts_with("cpu") => CPUS.to_vec(),
                _ => PLAIN.to_vec(),
            },
        }
    }
}

/// A value of the unit as a whole number.
pub(super) fn scaled(value: f64, unit: Unit) -> u64 {
    round_u64(value * unit.factor())
}
