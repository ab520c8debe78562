//! Recipes of the built-in profiles, solved beforehand: `Recipe::solve` takes seconds for some.
//!
//! `cargo test -p replay --lib -- --ignored --nocapture prints_recipes` prints the table anew. A test
//! measures the pages that these make.

use traces::content::{ContentProfile, NAMES, named};

use super::body::Texture;
use super::family::Change;

/// Texture and change of a profile that is a built-in one.
pub(super) fn known(profile: &ContentProfile) -> Option<(Texture, Change)> {
    let name = NAMES
        .iter()
        .find(|name| named(name).as_ref() == Some(profile))?;
    // Copied, narrow, bytes of a copy, strided; bytes and runs of a change.
    let ([copied, narrow, copy_bytes, strided], [bytes, runs]) = match *name {
        "random" => ([0.0, 0.0, 16.0, 0.0], [0.0, 0.0]),
        "compiler" => ([0.8933, 1.0000, 51.510, 0.5443], [2532.73, 423.07]),
        "java" => ([0.9583, 0.6257, 35.585, 0.3250], [605.00, 97.78]),
        "memcached" => ([0.6356, 0.8300, 28.411, 0.7013], [71.47, 3.44]),
        "nginx" => ([0.6637, 0.8947, 135.423, 0.0532], [1514.06, 131.31]),
        "postgresql" => ([0.8502, 0.8917, 1019.819, 0.9592], [258.50, 47.89]),
        "redis" => ([0.7347, 0.8999, 87.065, 1.0000], [151.95, 6.26]),
        "shell" => ([0.9041, 0.8714, 413.168, 0.8517], [727.10, 74.87]),
        "sqlite" => ([0.3606, 0.7166, 20.981, 0.5348], [26.35, 4.21]),
        "stencil" => ([0.9667, 0.6659, 608.749, 0.4001], [3761.85, 512.55]),
        "oltp" => ([0.8043, 0.8615, 25.276, 0.1819], [631.55, 16.02]),
        "parsec" => ([0.6857, 0.7250, 31.500, 0.5250], [631.45, 16.11]),
        "dacapo" => ([0.8448, 1.0000, 12.569, 0.3281], [631.29, 15.81]),
        "media" => ([0.0772, 0.2750, 16.039, 0.6375], [0.0, 0.0]),
        "mixed" => ([0.7559, 0.7805, 33.123, 0.4727], [0.0, 0.0]),
        _ => return None,
    };
    let texture = Texture {
        copied,
        narrow,
        copy_bytes,
        strided,
    };
    Some((texture, Change { bytes, runs }))
}
