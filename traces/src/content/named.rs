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
            [0.0308, 0.0530],
            [3.465, 4.759, 5.536],
            [0.0398, 0.0082, 2317.9, 388.37],
        ),
        "java" => recorded(
            [0.0273, 0.1284],
            [3.456, 4.524, 5.060],
            [0.1747, 0.0007, 592.7, 93.34],
        ),
        "memcached" => recorded(
            [0.0440, 0.0090],
            [1.978, 2.667, 2.925],
            [0.3555, 0.0000, 87.0, 6.36],
        ),
        "nginx" => recorded(
            [0.0865, 0.0353],
            [2.343, 3.460, 3.424],
            [0.1500, 0.5300, 1453.3, 127.00],
        ),
        "postgresql" => recorded(
            [0.0133, 0.0414],
            [5.028, 6.650, 7.377],
            [0.4132, 0.0233, 268.1, 49.51],
        ),
        "redis" => recorded(
            [0.0199, 0.0127],
            [2.802, 4.017, 4.590],
            [0.1416, 0.0003, 163.2, 8.96],
        ),
        "shell" => recorded(
            [0.0000, 0.0088],
            [6.475, 8.277, 9.300],
            [0.2093, 0.0000, 719.5, 75.06],
        ),
        "sqlite" => recorded(
            [0.0002, 0.0016],
            [1.351, 1.754, 1.816],
            [0.0171, 0.0002, 40.8, 6.80],
        ),
        "stencil" => recorded(
            [0.9350, 0.8501],
            [15.369, 14.265, 16.376],
            [0.9345, 0.9221, 3404.3, 462.73],
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
