//! Options of how pages travel: channels, compression, zero pages, deltas. QEMU's names and defaults.
//!
//! Never inside: what is done with them, which engine has them (`params`).

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::migration::wire::hello::{ChannelId, ChannelKind};

/// QEMU's capability `multifd` and its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct MultifdParams {
    /// Whether the capability is on.
    pub enabled: bool,
    /// `multifd-channels`, from 1.
    pub channels: u8,
    /// `multifd-compression`.
    pub compression: Compression,
    /// `multifd-zlib-level`, 0 to 9.
    pub zlib_level: u8,
    /// `multifd-zstd-level`, 0 to 20.
    pub zstd_level: u8,
}

impl Default for MultifdParams {
    fn default() -> Self {
        Self {
            enabled: false,
            channels: 2,
            compression: Compression::None,
            zlib_level: 1,
            zstd_level: 1,
        }
    }
}

impl MultifdParams {
    /// The level of the codec in use, where it has one.
    #[must_use]
    pub fn level(&self) -> u8 {
        match self.compression {
            Compression::Zlib => self.zlib_level,
            Compression::Zstd => self.zstd_level,
            Compression::None | Compression::Lz4 => 0,
        }
    }
}

/// `multifd-compression`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Pages as they are.
    #[default]
    None,
    /// zlib, one stream a channel.
    Zlib,
    /// Zstandard, one stream a channel.
    Zstd,
    /// LZ4, each page a block. QEMU has none; what research prototypes use.
    Lz4,
}

/// The codecs by their names in scenarios.
pub const COMPRESSIONS: &[(&str, Compression)] = &[
    ("none", Compression::None),
    ("zlib", Compression::Zlib),
    ("zstd", Compression::Zstd),
    ("lz4", Compression::Lz4),
];

/// QEMU's `zero-page-detection`: who looks whether a page is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum ZeroPageDetection {
    /// Nobody: zero pages are sent whole.
    None,
    /// The migration's thread, also under multifd: as before QEMU 9.0.
    Legacy,
    /// The threads of multifd's channels; without multifd the migration's.
    #[default]
    Multifd,
}

/// The ways by their names in scenarios.
pub const ZERO_PAGE_DETECTIONS: &[(&str, ZeroPageDetection)] = &[
    ("none", ZeroPageDetection::None),
    ("legacy", ZeroPageDetection::Legacy),
    ("multifd", ZeroPageDetection::Multifd),
];

/// QEMU's capability `xbzrle` and its cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct XbzrleParams {
    /// Whether the capability is on.
    pub enabled: bool,
    /// `xbzrle-cache-size`, bytes: a power of two, a page or more.
    pub cache_size: u64,
}

impl Default for XbzrleParams {
    fn default() -> Self {
        Self {
            enabled: false,
            cache_size: 64 << 20,
        }
    }
}

/// Options that do not go together, in QEMU's words where they are QEMU's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refused {
    /// `migrate_caps_check`.
    #[error("Multifd is not compatible with xbzrle")]
    MultifdXbzrle,
    /// `migrate_caps_check` of QEMU 10.0; 10.1 allows it.
    #[error("Postcopy is not yet compatible with multifd")]
    MultifdPostcopy,
    /// Of a channel's number: `migrate_params_check`.
    #[error("Parameter 'multifd_channels' expects a value between 1 and 255")]
    Channels,
    /// Of a level.
    #[error("Parameter 'multifd_zlib_level' expects a value between 0 and 9")]
    ZlibLevel,
    /// Of a level.
    #[error("Parameter 'multifd_zstd_level' expects a value between 0 and 20")]
    ZstdLevel,
    /// Of the cache.
    #[error(
        "Parameter 'xbzrle_cache_size' expects a power of two no less than the target page size"
    )]
    CacheSize,
    /// Of Cloud Hypervisor's `connections`.
    #[error("connections must be between 1 and 128")]
    Connections,
}

/// Whether multifd's and XBZRLE's options are in their bounds and go together.
pub(super) fn check(multifd: &MultifdParams, xbzrle: &XbzrleParams) -> Result<(), Refused> {
    if multifd.enabled && xbzrle.enabled {
        return Err(Refused::MultifdXbzrle);
    }
    if multifd.channels == 0 {
        return Err(Refused::Channels);
    }
    if multifd.zlib_level > 9 {
        return Err(Refused::ZlibLevel);
    }
    if multifd.zstd_level > 20 {
        return Err(Refused::ZstdLevel);
    }
    if !xbzrle.cache_size.is_power_of_two() || xbzrle.cache_size < 4096 {
        return Err(Refused::CacheSize);
    }
    Ok(())
}

/// The first `count` channels of a kind.
pub(super) fn channels(kind: ChannelKind, count: u8) -> impl Iterator<Item = ChannelId> {
    (0..count).map(move |number| ChannelId { kind, number })
}
