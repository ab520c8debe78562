//! What pages hold: a built-in profile by name, or figures.

use crate::scenario::raw::{Table, Value};
use traces::content::{ContentProfile, NAMES, Rewrite, named};

/// Of the VM's or a class's `content`. Whether its figures go together is seen when inputs are loaded.
pub(super) fn content(value: &Value<'_>) -> ContentProfile {
    if value.as_text().is_some() {
        return by_name(value).unwrap_or_default();
    }
    let expected = "a profile's name such as \"memcached\", or a table: { zlib_ratio = 2.5 }";
    value
        .table("content", expected, figures)
        .unwrap_or_default()
}

fn by_name(value: &Value<'_>) -> Option<ContentProfile> {
    let name = value.text()?;
    let profile = named(name);
    if profile.is_none() {
        value.unknown_name("content profile", name, NAMES.iter().copied());
    }
    profile
}

/// Figures beside those of `like`; without it what is not said is not asked for.
fn figures(table: &Table<'_>) -> ContentProfile {
    let like = table.get("like").and_then(|v| by_name(&v));
    let base = like.unwrap_or(ContentProfile {
        incompressible_share: 0.0,
        ..ContentProfile::RANDOM
    });
    let share = |key| table.get(key).and_then(|v| v.number(0.0..=1.0));
    let ratio = |key| table.get(key).and_then(|v| v.number(0.95..=200.0));
    let bytes = table
        .get("xbzrle_bytes")
        .and_then(|v| v.number(1.0..=4096.0));
    let runs = table
        .get("changed_runs")
        .and_then(|v| v.number(1.0..=2048.0));
    let rewrite = match bytes {
        None => base.rewrite,
        // Not said otherwise: runs of 32 bytes beside the stamp's three.
        Some(bytes) => Rewrite {
            overflow_share: like.map_or(0.0, |_| base.rewrite.overflow_share),
            xbzrle_bytes: bytes,
            changed_runs: 3.0 + (bytes - 17.0).max(0.0) / 34.0,
            ..base.rewrite
        },
    };
    ContentProfile {
        zero_share: share("zero_share").unwrap_or(base.zero_share),
        filled_zero_share: share("filled_zero_share").unwrap_or(base.filled_zero_share),
        duplicate_share: base.duplicate_share,
        incompressible_share: share("incompressible_share").unwrap_or(base.incompressible_share),
        lz4_ratio: ratio("lz4_ratio").or(base.lz4_ratio),
        zlib_ratio: ratio("zlib_ratio").or(base.zlib_ratio),
        zstd_ratio: ratio("zstd_ratio").or(base.zstd_ratio),
        rewrite: Rewrite {
            unchanged_share: share("unchanged_share").unwrap_or(rewrite.unchanged_share),
            overflow_share: share("overflow_share").unwrap_or(rewrite.overflow_share),
            xbzrle_bytes: rewrite.xbzrle_bytes,
            changed_runs: runs.unwrap_or(rewrite.changed_runs),
        },
    }
}
