//! Latency of services as bars on a logarithmic scale, one a window.

use super::chart::{Axis, LEFT, RIGHT, WIDTH, open};
use super::html::escape;
use crate::results::services::ServiceRow;
use std::fmt::Write;

const ROW: f64 = 16.0;

/// A bar from the median to the 99th percentile of each row, a tick at the highest.
pub(super) fn plot(rows: &[ServiceRow]) -> String {
    let latencies: Vec<_> = rows.iter().filter_map(|row| row.latency).collect();
    let least = latencies.iter().map(|l| l.p50_ms).fold(f64::MAX, f64::min);
    let most = latencies.iter().map(|l| l.max_ms).fold(0.0, f64::max);
    if latencies.is_empty() {
        return String::new();
    }
    // Microseconds are the grain; whole powers of ten at both ends.
    let log = |ms: f64| ms.max(1e-3).log10();
    let axis = Axis::new(log(least).floor(), log(most).ceil());
    let bottom = ROW * rows.len() as f64 + 4.0;
    let mut out = open(bottom + 34.0, "latency of services");
    let mut power = axis.from;
    while power <= axis.to {
        let x = axis.x(power);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{bottom:.1}\"/>\
             <text class=\"axis\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{} ms</text>",
            bottom + 14.0,
            10f64.powf(power)
        );
        power += 1.0;
    }
    for (n, row) in rows.iter().enumerate() {
        let y = ROW * n as f64 + 2.0;
        let name = match row.migration {
            Some(id) => format!("{} {id}", row.window),
            None => row.service.clone(),
        };
        let _ = write!(
            out,
            "<text class=\"axis\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            LEFT - 6.0,
            y + 10.0,
            escape(&name.chars().take(16).collect::<String>())
        );
        let Some(latency) = row.latency else { continue };
        let (from, to) = (axis.x(log(latency.p50_ms)), axis.x(log(latency.p99_ms)));
        let highest = axis.x(log(latency.max_ms)).min(WIDTH - RIGHT);
        let title = format!(
            "{}: median {:.3}, p99 {:.3}, max {:.3} ms of {}",
            row.window, latency.p50_ms, latency.p99_ms, latency.max_ms, row.answered
        );
        let _ = write!(
            out,
            "<rect class=\"heat h2\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"11\">\
             <title>{}</title></rect><line class=\"capacity\" x1=\"{highest:.1}\" \
             x2=\"{highest:.1}\" y1=\"{y:.1}\" y2=\"{:.1}\"/>",
            (to - from).max(1.0),
            escape(&title),
            y + 11.0
        );
    }
    out.push_str("</svg>");
    out
}
