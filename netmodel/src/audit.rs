//! Did the network do what it promised? Counters in, findings out.
//!
//! Pure. An *error* means that something happened which the emulation did not intend, so that results are invalid; a
//! *warning* means read it before trusting the numbers.

mod finding;

use serde::{Deserialize, Serialize};

pub use self::finding::{Finding, Judged, Severity};
use crate::counters::{Counted, Counters, LinkCounters, Tally};
use crate::residual::Residuals;
use crate::sys::procfs::ComputerTime;
use crate::topology::LinkId;

/// What is still fine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Lateness, 99th percentile: above it a warning, above ten times it an error.
    pub late_p99_ns: u64,
    /// Share of time the relay may wait for a CPU.
    pub run_delay_per_mille: u64,
    /// Share of the time of all CPUs that the hypervisor may take.
    pub steal_per_mille: u64,
    /// Share of time in which something on this computer may wait for a CPU.
    pub pressure_per_mille: u64,
    /// Error of a link's rate that 5 % of its windows may exceed: above it a warning, above ten times it an error.
    pub rate_per_mille: u64,
    /// Whether links must be empty at the end.
    pub drained: bool,
}

impl Default for Limits {
    /// Between what was measured on a calm computer and on one disturbed: spans of 2 s with one stream at 1 Gbit/s on two
    /// virtual CPUs (`examples/calm_spans.rs`), 97 calm ones and 68 beside two busy loops.
    ///
    /// | | calm: median, 95 %, most | disturbed: least, median |
    /// |---|---|---|
    /// | lateness p99, µs | 53, 131, 647 | 1835, 3342 |
    /// | run-queue delay, ‰ | 27, 36, 46 | 110, 171 |
    /// | pressure, ‰ | 63, 109, 139 | 230, 636 |
    /// | steal, ‰ | 0, 2.6, 2.8 | 0, 0 |
    ///
    /// Lateness and run-queue delay are told apart by every span; their limits are the geometric means of the two ends
    /// (1 ms is also the delay bound of grade B, and ten times it beyond C, DESIGN §5). Pressure is there to explain them: a
    /// run's own processes make some too, so only half of the time is remarkable. Steal did not occur; 10 ‰ are grade
    /// A's share of time lost.
    fn default() -> Self {
        Self {
            late_p99_ns: 1_000_000,
            run_delay_per_mille: 70,
            steal_per_mille: 10,
            pressure_per_mille: 500,
            rate_per_mille: 10,
            drained: true,
        }
    }
}

/// Judges what happened between two readings of one fabric's counters.
#[must_use]
pub fn audit(before: &Counters, after: &Counters, limits: &Limits) -> Vec<Judged> {
    let mut findings = Vec::new();
    for (&link, counters) in &after.links {
        audit_link((link, counters), after.counted, limits, &mut findings);
    }
    for (&switch, now) in &after.switches {
        let then = before.switches.get(&switch).copied().unwrap_or_default();
        let device = now.device_drops.saturating_sub(then.device_drops);
        let (entered, left) = (
            now.entered.saturating_sub(then.entered),
            now.left.saturating_sub(then.left),
        );
        if entered != left || device > 0 {
            // What has no route is dropped too, and that is somebody's stray packet and no fault.
            let judge = if device > 0 || left > entered {
                error
            } else {
                warning
            };
            findings.push(judge(Finding::NotForwarded {
                switch,
                entered,
                left,
                device,
            }));
        }
    }
    for (&host, now) in &after.ports {
        let then = before.ports.get(&host).copied().unwrap_or_default();
        let socket = now.socket_drops.saturating_sub(then.socket_drops);
        let device = now.device_drops.saturating_sub(then.device_drops);
        let write_refused = now.write_refused.saturating_sub(then.write_refused);
        if socket + device + write_refused > 0 {
            let lost = Finding::UnaccountedDrops {
                host,
                socket,
                device,
                write_refused,
            };
            findings.push(error(lost));
        }
        let stray = |c: &crate::counters::PortCounters| c.not_ipv4 + c.malformed + c.unroutable;
        let packets = stray(now).saturating_sub(stray(&then));
        if packets > 0 {
            findings.push(warning(Finding::Stray { host, packets }));
        }
    }
    audit_relay(before, after, limits, &mut findings);
    findings
}

/// Judges the rate of a link by its samples ([`crate::residual`]): changed behind the plan's back, or not kept up with.
#[must_use]
pub fn audit_rate(link: LinkId, residuals: &Residuals, limits: &Limits) -> Vec<Judged> {
    let limit_per_mille = limits.rate_per_mille;
    let off = residuals.windows.iter().filter_map(|errors| {
        let limit = limit_per_mille as f64 / 1000.0;
        if errors.p95 <= limit {
            return None;
        }
        let judge = if errors.p95 > limit * 10.0 {
            error
        } else {
            warning
        };
        // A rate is off by 100 %, and too fast by no more than 2^53 ‰, at the most.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an error is not negative, and one too large to hold saturates"
        )]
        let per_mille = (errors.p95 * 1000.0).round() as u64;
        Some(judge(Finding::OffRate {
            link,
            window_ms: errors.window_ms,
            per_mille,
            limit_per_mille,
        }))
    });
    off.collect()
}

fn audit_link(
    (link, counters): (LinkId, &LinkCounters),
    counted: Counted,
    limits: &Limits,
    out: &mut Vec<Judged>,
) {
    let LinkCounters {
        received,
        sent,
        dropped,
        lost,
        held,
        ..
    } = counters;
    let sum = |field: fn(&Tally) -> u64| field(sent) + field(dropped) + field(lost) + field(held);
    let fields: [fn(&Tally) -> u64; 3] = [|t| t.packets, |t| t.segments, |t| t.wire_bytes];
    let fields = match counted {
        Counted::Everything => &fields[..],
        Counted::Frames => &fields[..1],
    };
    if fields.iter().any(|field| field(received) != sum(*field)) {
        let accounted_bytes = sum(|t| t.wire_bytes);
        let received_bytes = received.wire_bytes;
        out.push(error(Finding::NotConserved {
            link,
            received_bytes,
            accounted_bytes,
        }));
    }
    if limits.drained && held.packets > 0 {
        out.push(error(Finding::NotDrained {
            link,
            packets: held.packets,
        }));
    }
}

fn audit_relay(before: &Counters, after: &Counters, limits: &Limits, out: &mut Vec<Judged>) {
    let (then, now) = (&before.relay, &after.relay);
    let since =
        |now: Option<u64>, then: Option<u64>| now.unwrap_or(0).saturating_sub(then.unwrap_or(0));
    let backlog = since(now.backlog_drops, then.backlog_drops);
    if backlog > 0 {
        // Perhaps another program's packets: the kernel does not say whose.
        out.push(warning(Finding::BacklogDrops { packets: backlog }));
    }
    let no_room = now.no_room.saturating_sub(then.no_room);
    if no_room > 0 {
        out.push(error(Finding::NoRoom { packets: no_room }));
    }
    let p99_ns = now.lateness.since(&then.lateness).quantile_ns(990);
    let limit_ns = limits.late_p99_ns;
    if p99_ns > limit_ns {
        let judge = if p99_ns > limit_ns.saturating_mul(10) {
            error
        } else {
            warning
        };
        out.push(judge(Finding::Late { p99_ns, limit_ns }));
    }
    let span_ns = after.at_ns.saturating_sub(before.at_ns);
    let waited_ns = since(now.run_delay_ns, then.run_delay_ns);
    let (per_mille, limit_per_mille) = (share(waited_ns, span_ns), limits.run_delay_per_mille);
    if per_mille > limit_per_mille {
        out.push(warning(Finding::RunDelay {
            per_mille,
            limit_per_mille,
        }));
    }
    if let (Some(then), Some(now)) = (&then.computer, &now.computer) {
        audit_computer(then, now, span_ns, limits, out);
    }
}

fn audit_computer(
    then: &ComputerTime,
    now: &ComputerTime,
    span_ns: u64,
    limits: &Limits,
    out: &mut Vec<Judged>,
) {
    let stolen_ns = now.steal_ns.saturating_sub(then.steal_ns);
    let per_mille = share(stolen_ns, now.cpu_ns.saturating_sub(then.cpu_ns));
    let limit_per_mille = limits.steal_per_mille;
    if stolen_ns > STEAL_ROUNDING_NS && per_mille > limit_per_mille {
        out.push(warning(Finding::Steal {
            per_mille,
            limit_per_mille,
        }));
    }
    let Some((then_ns, now_ns)) = then.pressure_ns.zip(now.pressure_ns) else {
        return;
    };
    let per_mille = share(now_ns.saturating_sub(then_ns), span_ns);
    let limit_per_mille = limits.pressure_per_mille;
    if per_mille > limit_per_mille {
        out.push(warning(Finding::Pressure {
            per_mille,
            limit_per_mille,
        }));
    }
}

/// The kernel counts steal in ticks of 10 ms, for two readings rounded twice: less says nothing in a short span.
const STEAL_ROUNDING_NS: u64 = 20_000_000;

/// Per mille; zero of nothing.
fn share(part_ns: u64, whole_ns: u64) -> u64 {
    part_ns
        .saturating_mul(1000)
        .checked_div(whole_ns)
        .unwrap_or(0)
}

fn error(finding: Finding) -> Judged {
    Judged {
        severity: Severity::Error,
        finding,
    }
}

fn warning(finding: Finding) -> Judged {
    Judged {
        severity: Severity::Warning,
        finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::residual::WINDOWS;
    use crate::topology::HostId;

    fn clean() -> Counters {
        let mut counters = Counters {
            at_ns: 1_000_000_000,
            ..Counters::default()
        };
        counters.ports.entry(HostId(0)).or_default().read_packets = 5;
        let link = counters.links.entry(LinkId(0)).or_default();
        (0..2).for_each(|_| link.received.add(3, 4000));
        link.sent.add(3, 4000);
        link.dropped.add(3, 4000);
        counters.relay.lateness.record(20_000);
        counters
    }

    fn found(disturb: impl FnOnce(&mut Counters)) -> Vec<Judged> {
        let mut counters = clean();
        disturb(&mut counters);
        audit(&Counters::default(), &counters, &Limits::default())
    }

    #[test]
    fn a_clean_run_has_no_findings() {
        assert_eq!(found(|_| {}), []);
    }

    #[test]
    fn every_disturbance_is_found() {
        let errors: [fn(&mut Counters); 6] = [
            |c| c.links.get_mut(&LinkId(0)).unwrap().sent.segments -= 1,
            |c| c.links.get_mut(&LinkId(0)).unwrap().received.add(1, 1),
            |c| c.ports.get_mut(&HostId(0)).unwrap().socket_drops = 1,
            |c| c.ports.get_mut(&HostId(0)).unwrap().write_refused = 1,
            |c| c.relay.no_room = 1,
            |c| (0..9).for_each(|_| c.relay.lateness.record(50_000_000)),
        ];
        for (n, disturb) in errors.into_iter().enumerate() {
            let found = found(disturb);
            assert!(
                found
                    .iter()
                    .any(|judged| judged.severity == Severity::Error),
                "{n}: {found:?}"
            );
        }
        let warnings: [fn(&mut Counters); 4] = [
            |c| c.relay.backlog_drops = Some(1),
            |c| c.relay.run_delay_ns = Some(80_000_000),
            |c| c.ports.get_mut(&HostId(0)).unwrap().not_ipv4 = 1,
            |c| (0..9).for_each(|_| c.relay.lateness.record(3_000_000)),
        ];
        for (n, disturb) in warnings.into_iter().enumerate() {
            let found = found(disturb);
            assert_eq!(found.len(), 1, "{n}: {found:?}");
            assert_eq!(found[0].severity, Severity::Warning);
        }
    }

    #[test]
    fn what_was_there_before_is_not_blamed_on_this_span() {
        let mut before = clean();
        before.ports.get_mut(&HostId(0)).unwrap().socket_drops = 7;
        let after = before.clone();
        assert_eq!(audit(&before, &after, &Limits::default()), []);
    }

    #[test]
    fn a_computer_that_is_not_our_own_is_found() {
        let time = |cpu_ms: u64, steal_ms: u64, pressure_ms: u64| ComputerTime {
            cpu_ns: cpu_ms * 1_000_000,
            steal_ns: steal_ms * 1_000_000,
            pressure_ns: Some(pressure_ms * 1_000_000),
        };
        let found = |time| {
            let mut before = Counters::default();
            before.relay.computer = Some(ComputerTime {
                pressure_ns: Some(0),
                ..ComputerTime::default()
            });
            let mut after = clean();
            after.relay.computer = Some(time);
            audit(&before, &after, &Limits::default())
        };
        // One second of two CPUs.
        assert_eq!(found(time(2000, 20, 500)), []);
        let stolen = found(time(2000, 30, 0));
        assert_eq!(stolen[0].finding.to_string(), STOLEN);
        assert_eq!(stolen[0].severity, Severity::Warning);
        // Two ticks of a short span may be half of one.
        assert_eq!(found(time(200, 20, 0)), []);
        let pressed = Finding::Pressure {
            per_mille: 700,
            limit_per_mille: 500,
        };
        assert_eq!(found(time(2000, 0, 700))[0].finding, pressed);
    }

    const STOLEN: &str = "the hypervisor took 15 ‰ of this computer's CPUs (10 ‰ allowed)";

    #[test]
    fn a_rate_that_is_not_the_promised_one_is_found_in_its_windows() {
        let residuals = |p95: [f64; 3]| {
            let mut residuals = Residuals::default();
            for ((errors, window), p95) in residuals.windows.iter_mut().zip(WINDOWS).zip(p95) {
                errors.window_ms = u64::try_from(window.as_millis()).unwrap();
                errors.p95 = p95;
                errors.worst = 1.0;
            }
            residuals
        };
        let found = |p95| audit_rate(LinkId(3), &residuals(p95), &Limits::default());
        assert_eq!(found([0.01, 0.0, 0.0]), []);
        let changed = found([0.0, 0.03, 0.2]);
        let off = |window_ms, per_mille| Finding::OffRate {
            link: LinkId(3),
            window_ms,
            per_mille,
            limit_per_mille: 10,
        };
        assert_eq!(changed[0], warning(off(100, 30)));
        assert_eq!(changed[1], error(off(1000, 200)));
    }
}
