//! The built-in profiles and where their figures are from.
//!
//! Those of the library's programs are of `traces/library/NAME.json`, section `written`: pages as they
//! were at the end of a tick that wrote them, ratios as 4096 over the mean size, rewrites against the
//! content seen before; `filled_zero_share` is of the last census. A test computes them anew. How many
//! pages no codec shrinks was not recorded, but for nginx a tenth is within 3 % of a page by lz4.

use super::{ContentProfile, Rewrite};

/// Names of the built-in profiles.
pub const NAMES: &[&str] = &[
    "random",
    "compiler",
    "java",
    "memcached",
    "nginx",
    "postgresql",
    "redis",
    "shell",
    "sqlite",
    "stencil",
    "oltp",
    "parsec",
    "dacapo",
    "media",
    "mixed",
];

/// The built-in profile of a name.
#[must_use]
pub fn named(name: &str) -> Option<ContentProfile> {
    Some(match name {
        "random" => ContentProfile::RANDOM,
        "compiler" => recorded(
            [0.0311, 0.0476],
            [3.494, 4.793, 5.584],
            [0.0493, 0.0088, 2328.8, 388.29],
        ),
        "java" => recorded(
            [0.0413, 0.1044],
            [3.700, 4.789, 5.255],
            [0.1854, 0.0004, 677.9, 112.90],
        ),
        "memcached" => recorded(
            [0.0288, 0.0090],
            [1.887, 2.540, 2.783],
            [0.3386, 0.0000, 72.4, 5.62],
        ),
        "nginx" => recorded(
            [0.0798, 0.0369],
            [2.123, 2.986, 2.968],
            [0.1378, 0.4854, 1386.0, 124.94],
        ),
        "postgresql" => recorded(
            [0.0190, 0.0382],
            [4.939, 6.507, 7.292],
            [0.4028, 0.0055, 349.0, 50.28],
        ),
        "redis" => recorded(
            [0.0080, 0.0128],
            [2.588, 3.681, 4.194],
            [0.1108, 0.0009, 168.6, 9.48],
        ),
        "shell" => recorded(
            [0.0031, 0.0088],
            [5.489, 7.083, 7.880],
            [0.0884, 0.0000, 467.2, 59.10],
        ),
        "sqlite" => recorded(
            [0.0002, 0.0015],
            [1.317, 1.710, 1.777],
            [0.0202, 0.0004, 42.8, 8.22],
        ),
        "stencil" => recorded(
            [0.7503, 0.5380],
            [7.644, 7.955, 8.229],
            [0.7496, 0.9398, 3704.9, 466.30],
        ),
        // Real migrations by QEMU with zlib level 1 (SoCC'17 set), median ratio by workload; a rewrite
        // of a database page or a heap changes some hundred bytes, media everything (the same study's
        // recipe: 200 to 1000 bytes, here in runs of 32).
        "oltp" => of_zlib(2.90, 0.0, 600.0),
        "parsec" => of_zlib(2.52, 0.0, 600.0),
        "dacapo" => of_zlib(2.69, 0.0, 600.0),
        "media" => of_zlib(1.10, 1.0, 0.0),
        // Of guests whose pages nobody has looked at: 31 % incompressible (Lagar-Cavilla et al., ASPLOS
        // 2019), the rest to 0.4 of their size (0.3 to 0.5), 3 % copies (Barker et al., ATC 2012: mostly
        // below 15 %).
        "mixed" => ContentProfile {
            duplicate_share: Some(0.03),
            incompressible_share: 0.31,
            lz4_ratio: Some(1.0 / (0.31 + 0.69 * 0.4)),
            ..ContentProfile::RANDOM
        },
        _ => return None,
    })
}

fn of_zlib(ratio: f64, overflow_share: f64, xbzrle_bytes: f64) -> ContentProfile {
    ContentProfile {
        incompressible_share: 0.0,
        zlib_ratio: Some(ratio),
        rewrite: Rewrite {
            unchanged_share: 0.0,
            overflow_share,
            xbzrle_bytes,
            changed_runs: xbzrle_bytes / 34.0,
        },
        ..ContentProfile::RANDOM
    }
}

fn recorded(zero: [f64; 2], [lz4, zlib, zstd]: [f64; 3], rewrite: [f64; 4]) -> ContentProfile {
    let [unchanged_share, overflow_share, xbzrle_bytes, changed_runs] = rewrite;
    ContentProfile {
        zero_share: zero[0],
        filled_zero_share: zero[1],
        duplicate_share: None,
        incompressible_share: 0.0,
        lz4_ratio: Some(lz4),
        zlib_ratio: Some(zlib),
        zstd_ratio: Some(zstd),
        rewrite: Rewrite {
            unchanged_share,
            overflow_share,
            xbzrle_bytes,
            changed_runs,
        },
    }
}
