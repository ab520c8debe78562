//! The formats, and telling them apart by what is in a file. Never inside: how they are read.

use std::fmt;
use std::io::{self, BufRead};

use super::{
    alibaba2017, alibaba2018, azure, bitbrains, domstats, google2011, google2019, huawei, packing,
    qemu, recorded,
};
use crate::store::page_write;

/// A format that can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// PlanetLab/CoMon as shipped with CloudSim: one integer a line, per cent of the VM, 300 s apart.
    PlanetLab,
    /// Bitbrains GWA-T-12: `;` and a tab, eleven columns.
    Bitbrains,
    /// Azure Public Dataset V1 and V2: `vmtable` and time slices of CPU readings.
    Azure,
    /// Google `ClusterData` 2011: `task_usage`.
    Google2011,
    /// VMs made from Google 2011 by Nguyen et al.: per cent of CPU and memory, 300 s apart.
    Google2011Vm,
    /// Google `ClusterData` 2019: `instance_usage` as JSON lines, or flattened to CSV.
    Google2019,
    /// Alibaba cluster trace 2017.
    Alibaba2017,
    /// Alibaba cluster trace 2018.
    Alibaba2018,
    /// `OpenDC` Parquet, in three layouts.
    OpenDc,
    /// Text columns, with a mapping from the user.
    Csv,
    /// QEMU's `query-migrate`, polled during a migration or once after it.
    QemuMigrate,
    /// QEMU's `query-dirty-rate` answers.
    QemuDirtyRate,
    /// libvirt's `virsh domstats`, again and again.
    LibvirtDomstats,
    /// Azure Trace for Packing 2020, its tables as CSV: arrivals only.
    AzurePacking,
    /// Huawei-East-1: arrivals only.
    Huawei,
    /// Recorded page writes as CSV (`# page-write trace: …`).
    RecordedPageWrites,
    /// Our own page-write trace file.
    PageWrites,
    /// Our own bundle.
    Bundle,
}

impl Format {
    /// The name used on the command line and in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PlanetLab => "planetlab",
            Self::Bitbrains => "bitbrains",
            Self::Azure => "azure",
            Self::Google2011 => "google-2011",
            Self::Google2011Vm => "google-2011-vm",
            Self::Google2019 => "google-2019",
            Self::Alibaba2017 => "alibaba-2017",
            Self::Alibaba2018 => "alibaba-2018",
            Self::OpenDc => "opendc",
            Self::Csv => "csv",
            Self::QemuMigrate => "qemu-migrate",
            Self::QemuDirtyRate => "qemu-dirty-rate",
            Self::LibvirtDomstats => "libvirt-domstats",
            Self::AzurePacking => "azure-packing",
            Self::Huawei => "huawei",
            Self::RecordedPageWrites => "recorded-page-writes",
            Self::PageWrites => "page-writes",
            Self::Bundle => "bundle",
        }
    }

    /// All formats.
    pub const ALL: [Self; 18] = [
        Self::PlanetLab,
        Self::Bitbrains,
        Self::Azure,
        Self::Google2011,
        Self::Google2011Vm,
        Self::Google2019,
        Self::Alibaba2017,
        Self::Alibaba2018,
        Self::OpenDc,
        Self::Csv,
        Self::QemuMigrate,
        Self::QemuDirtyRate,
        Self::LibvirtDomstats,
        Self::AzurePacking,
        Self::Huawei,
        Self::RecordedPageWrites,
        Self::PageWrites,
        Self::Bundle,
    ];

    /// The format of this [`name`](Self::name).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Whether it says when VMs come and go, but not what they use.
    #[must_use]
    pub fn is_arrivals(self) -> bool {
        matches!(self, Self::AzurePacking | Self::Huawei)
    }

    /// The names of all formats, for messages.
    pub(super) fn names() -> String {
        let names: Vec<&str> = Self::ALL.iter().map(|format| format.name()).collect();
        names.join(", ")
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which table of a format a line is of, if any.
pub(super) type TableOf = fn(&str) -> Option<u8>;

/// Bytes looked at.
const HEAD: usize = 8192;

/// Finds the format from the first bytes, which stay in the reader. `None`: none of ours, or text that
/// needs a mapping.
///
/// # Errors
/// When the reader fails.
pub fn detect(input: &mut impl BufRead) -> io::Result<Option<Format>> {
    let head = input.fill_buf()?;
    let head = &head[..head.len().min(HEAD)];
    if head.starts_with(&page_write::MAGIC) {
        return Ok(Some(Format::PageWrites));
    }
    if head.starts_with(b"PAR1") {
        return Ok(Some(Format::OpenDc));
    }
    if head.starts_with(packing::SQLITE) {
        return Ok(Some(Format::AzurePacking));
    }
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    Ok(detect_text(&String::from_utf8_lossy(head)))
}

fn detect_text(head: &str) -> Option<Format> {
    if head.starts_with(recorded::COMMENT) {
        return Some(Format::RecordedPageWrites);
    }
    if let Some(format) = qemu::detect(head) {
        return Some(format);
    }
    if domstats::is_start(head) {
        return Some(Format::LibvirtDomstats);
    }
    let first = first_line(head)?;
    let first = first.as_str();
    if bitbrains::is_header(first) {
        return Some(Format::Bitbrains);
    }
    let tables: [(Format, TableOf); 7] = [
        (Format::Google2019, google2019::table),
        (Format::Huawei, huawei::table),
        (Format::AzurePacking, packing::table),
        (Format::Azure, azure::table),
        (Format::Alibaba2018, alibaba2018::table),
        (Format::Google2011, google2011::table),
        (Format::Alibaba2017, alibaba2017::table),
    ];
    if let Some((format, _)) = tables.iter().find(|(_, table)| table(first).is_some()) {
        return Some(*format);
    }
    if google2011::is_vm_line(first) {
        return Some(Format::Google2011Vm);
    }
    let digits = first.len() <= 4 && first.bytes().all(|byte| byte.is_ascii_digit());
    digits.then_some(Format::PlanetLab)
}

/// The first line that holds something and is no comment.
pub(super) fn first_line(head: &str) -> Option<String> {
    let mut lines = head.trim_start_matches('\u{feff}').lines().map(str::trim);
    let line = lines.find(|line| !line.is_empty() && !line.starts_with('#'))?;
    Some(line.to_string())
}
