//! Options of `[migration]` on how pages travel, and those that do not go together.

use crate::migration::params::{
    COMPRESSIONS, MigrationParams, MultifdParams, Refused, XbzrleParams, ZERO_PAGE_DETECTIONS,
};
use crate::scenario::problem::ProblemKind;
use crate::scenario::raw::Table;
use crate::units::show_size;
use traces::units::PAGE_SIZE;

/// Keys that not every engine has.
pub(super) const OPTIONS: &[&str] = &[
    "multifd",
    "multifd-channels",
    "multifd-compression",
    "multifd-zlib-level",
    "multifd-zstd-level",
    "zero-page-detection",
    "xbzrle",
    "xbzrle-cache-size",
    "connections",
];

/// Reads them into `params`.
pub(super) fn read(table: &Table<'_>, params: &mut MigrationParams) {
    let small = |key, bounds| {
        let number = table.get(key)?.integer(bounds)?;
        u8::try_from(number).ok()
    };
    let yes = |key| table.get(key).and_then(|value| value.boolean());
    let base = MultifdParams::default();
    params.multifd = MultifdParams {
        enabled: yes("multifd").unwrap_or(base.enabled),
        channels: small("multifd-channels", 1..=255).unwrap_or(base.channels),
        compression: table
            .get("multifd-compression")
            .and_then(|value| value.word("compression", COMPRESSIONS))
            .unwrap_or(base.compression),
        zlib_level: small("multifd-zlib-level", 0..=9).unwrap_or(base.zlib_level),
        zstd_level: small("multifd-zstd-level", 0..=20).unwrap_or(base.zstd_level),
    };
    params.zero_page_detection = table
        .get("zero-page-detection")
        .and_then(|value| value.word("zero page detection", ZERO_PAGE_DETECTIONS))
        .unwrap_or_default();
    params.xbzrle.enabled = yes("xbzrle").unwrap_or_default();
    params.xbzrle.cache_size = cache_size(table).unwrap_or(XbzrleParams::default().cache_size);
    params.connections = small("connections", 1..=128).unwrap_or(1);
}

fn cache_size(table: &Table<'_>) -> Option<u64> {
    let value = table.get("xbzrle-cache-size")?;
    let bytes = value.size_bytes()?;
    if bytes.is_power_of_two() && bytes >= PAGE_SIZE {
        return Some(bytes);
    }
    value.out_of_bounds(
        show_size(bytes),
        "a power of two, a page or more, as in QEMU",
    );
    None
}

/// Notes options that do not go together, at the one that is to go.
pub(super) fn refuse(table: &Table<'_>, params: &MigrationParams) {
    let Err(refused) = params.check() else {
        return;
    };
    let key = match refused {
        Refused::MultifdPostcopy => "multifd",
        Refused::MultifdXbzrle | Refused::CacheSize => "xbzrle",
        Refused::Channels => "multifd-channels",
        Refused::ZlibLevel => "multifd-zlib-level",
        Refused::ZstdLevel => "multifd-zstd-level",
        Refused::Connections => "connections",
    };
    if let Some(value) = table.get(key) {
        value.note(ProblemKind::Refused {
            key: value.key.clone(),
            why: refused.to_string(),
        });
    }
}
