//! Lines as files have them, and those that nobody has seen.

use super::*;
use serde_json::json;

/// A plain run of set A, with something else.
pub(in crate::validate) fn line_with(more: &Value) -> (Line, Map<String, Value>) {
    let mut columns = json!({
        "run_id": "a-0", "config_id": "a", "repeat": 0, "set": "A", "ram_mib": 512, "resident_mib": 128,
        "ws_mib": 64, "rate_pps": 2000, "pattern": "uniform", "content": "random", "on_ms": 0, "off_ms": 0,
        "link_mbit": 500, "downtime_limit_ms": 300, "mode": "precopy", "multifd_compression": "none",
        "cancel_after_s": 60, "status": "completed", "total_time_ms": 5000, "downtime_ms": 270,
        "stop_to_resume_ms": 350.5, "ram_transferred": 300_000_000, "ram_normal": 73_000, "ram_duplicate": 80_000,
        "ram_dirty_sync_count": 5, "guest_distinct_pps_before": 1880.0, "shaper": "tbf", "shaper_at": "source-egress",
        "overhead_bytes": 14, "burst_bytes": 125_000, "queue_bytes": 3_250_000, "congestion": "bbr",
        "return_path": false, "flows": 0, "vms": 1, "vm": 0, "disturbed": false,
    });
    let all = columns.as_object_mut().unwrap();
    all.extend(more.as_object().unwrap().clone());
    (Line::deserialize(&*all).unwrap(), all.clone())
}

fn why_not(more: &Value) -> Option<String> {
    let (line, columns) = line_with(more);
    line.why_not(&columns)
}

#[test]
fn what_cannot_be_replayed_says_why() {
    assert_eq!(why_not(&json!({})), None);
    for (more, word) in [
        (json!({"disturbed": true}), "disturbed"),
        (json!({"status": "failed"}), "failed"),
        (
            json!({"mode": "background-snapshot"}),
            "background-snapshot",
        ),
        (json!({"pattern": "zipf"}), "zipf"),
        (json!({"content": "text"}), "text"),
        (json!({"shaper_at": "destination"}), "destination"),
        (json!({"overhead_bytes": 38}), "TBF"),
        (json!({"rate_change_mbit": 200}), "changes"),
        (json!({"on_ms": 100}), "rests"),
        (json!({"multifd_compression": "qpl"}), "qpl"),
        (
            json!({"mode": "multifd", "multifd_channels": 900}),
            "refuses",
        ),
        (
            json!({"mode": "xbzrle", "xbzrle_cache_mib": 100}),
            "power of two",
        ),
        (
            json!({"kind": "flapping", "link_down_s": 2.0}),
            "link_down_s",
        ),
    ] {
        let why = why_not(&more).unwrap_or_default();
        assert!(why.contains(word), "{more}: {why:?}");
    }
}

#[test]
fn a_kind_nobody_has_seen_is_replayed_if_its_columns_are_known() {
    assert_eq!(
        why_not(&json!({"kind": "bursty", "on_ms": 100, "off_ms": 200})),
        None
    );
    // Empty columns, and results, are no inputs.
    let empty = json!({"kind": "bursty", "link_down_s": 0.0, "ram_dirty_bytes": 5, "note": null});
    assert_eq!(why_not(&empty), None);
    // On a known kind what is new is a result.
    assert_eq!(why_not(&json!({"kind": "wan", "rtt_us": 5})), None);
}

#[test]
fn what_was_not_measured_is_absent() {
    let (line, _) = line_with(&json!({"stop_to_resume_ms": null, "mode": "postcopy"}));
    let measured = line.measured();
    assert_eq!(measured.outage_ms, None);
    assert_eq!(
        measured.downtime_ms, None,
        "of post-copy QEMU's figure is not one"
    );
    assert_eq!(measured.total_time_ms, Some(5000.0));
}

#[test]
fn where_the_rate_was_kept_is_known_without_the_column() {
    let place = |more| line_with(&more).0.placement();
    assert_eq!(place(json!({})), Some(Placement::SourceEgress));
    assert_eq!(
        place(json!({"shaper_at": null})),
        Some(Placement::SourceEgress)
    );
    assert_eq!(
        place(json!({"set": "B", "shaper_at": null})),
        Some(Placement::Fabric)
    );
    assert_eq!(
        place(json!({"set": "C", "shaper_at": "fabric"})),
        Some(Placement::Fabric)
    );
}

/// Set B's relay let frames of two segments through at 200 Mbit/s, of five at 500.
#[test]
fn super_frames_are_as_long_as_the_shaper_saw_them() {
    let frames = |arrived: u64, packets_out: u64| {
        let ab = json!({
            "segments_in": arrived + 30, "packets_out": packets_out, "dropped": 26, "lost": 4,
        });
        line_with(&json!({"shaper": {"ab": ab}}))
            .0
            .segments_per_frame()
    };
    assert_eq!(frames(274_765, 137_684), Some(2));
    assert_eq!(frames(147_596, 29_780), Some(5));
    assert_eq!(frames(109_992, 109_992), Some(1));
    assert_eq!(frames(0, 0), Some(1));
    assert_eq!(
        line_with(&json!({})).0.segments_per_frame(),
        None,
        "set A's has a name"
    );
}
