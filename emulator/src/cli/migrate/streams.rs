//! Options of `migbed migrate` on how pages travel.

use clap::Args;

use super::word;
use crate::migration::params::{
    COMPRESSIONS, Compression, MigrationParams, MultifdParams, XbzrleParams, ZERO_PAGE_DETECTIONS,
    ZeroPageDetection,
};
use crate::units::size_bytes;

#[derive(Debug, Args)]
pub(super) struct StreamArgs {
    /// QEMU's multifd; any option of it asks for it.
    #[arg(long)]
    multifd: bool,
    /// Its channels, 1 to 255; 2 without it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    multifd_channels: Option<u8>,
    /// What packs pages on them: none, zlib, zstd, or lz4 (which QEMU has not); none without it.
    #[arg(long, value_parser = compression, value_name = "CODEC")]
    multifd_compression: Option<Compression>,
    /// Level of zlib, 0 to 9; 1 without it.
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(0..=9))]
    multifd_zlib_level: Option<u8>,
    /// Level of zstd, 0 to 20; 1 without it.
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(0..=20))]
    multifd_zstd_level: Option<u8>,
    /// Who looks for pages of zeros: none, legacy (the migration's thread), or multifd (the channels').
    #[arg(long, value_parser = detection, value_name = "WAY")]
    zero_page_detection: Option<ZeroPageDetection>,
    /// QEMU's XBZRLE: pages sent again as what differs.
    #[arg(long)]
    xbzrle: bool,
    /// Its cache, a power of two; 64MiB without it.
    #[arg(long, value_parser = size_bytes, requires = "xbzrle")]
    xbzrle_cache_size: Option<u64>,
    /// Cloud Hypervisor's connections, 1 to 128.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=128))]
    connections: Option<u8>,
}

impl StreamArgs {
    /// Which options were given, by their names in scenarios.
    pub(super) fn given(&self) -> [(&'static str, bool); 5] {
        [
            ("multifd", self.multifd()),
            ("zero-page-detection", self.zero_page_detection.is_some()),
            ("xbzrle", self.xbzrle),
            ("xbzrle-cache-size", self.xbzrle_cache_size.is_some()),
            ("connections", self.connections.is_some()),
        ]
    }

    fn multifd(&self) -> bool {
        self.multifd
            || self.multifd_channels.is_some()
            || self.multifd_compression.is_some()
            || self.multifd_zlib_level.is_some()
            || self.multifd_zstd_level.is_some()
    }

    /// Puts them into `params`.
    pub(super) fn put(&self, params: &mut MigrationParams) {
        let base = MultifdParams::default();
        params.multifd = MultifdParams {
            enabled: self.multifd(),
            channels: self.multifd_channels.unwrap_or(base.channels),
            compression: self.multifd_compression.unwrap_or(base.compression),
            zlib_level: self.multifd_zlib_level.unwrap_or(base.zlib_level),
            zstd_level: self.multifd_zstd_level.unwrap_or(base.zstd_level),
        };
        params.zero_page_detection = self.zero_page_detection.unwrap_or_default();
        params.xbzrle = XbzrleParams {
            enabled: self.xbzrle,
            cache_size: (self.xbzrle_cache_size).unwrap_or(XbzrleParams::default().cache_size),
        };
        params.connections = self.connections.unwrap_or(1);
    }
}

fn compression(name: &str) -> Result<Compression, String> {
    word(name, COMPRESSIONS)
}

fn detection(name: &str) -> Result<ZeroPageDetection, String> {
    word(name, ZERO_PAGE_DETECTIONS)
}
