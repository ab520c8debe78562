//! How far a result can be trusted (DESIGN §5). Pure.
//!
//! A: link rate and delay within 1 % / 0.2 ms, and at most 1 % of a migration's time lost by the
//! emulator itself; B: 3 % / 1 ms / 3 %; C: 10 % / 5 ms / 10 %; invalid beyond.

use crate::control::message::AuditFinding;
use crate::event::LinkCalibration;
use crate::ids::HostId;
use crate::migration::record::{ErrorBudget, MigrationRecord, SourceReport};
use crate::resident::WritersReport;
use crate::scenario::Scenario;

/// A certificate's grade; later is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// Trust it.
    A,
    /// Good.
    B,
    /// With care.
    C,
    /// Not to be published.
    Invalid,
}

impl Grade {
    /// As results spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
            Self::Invalid => "invalid",
        }
    }

    /// From the audit's spelling.
    #[must_use]
    fn named(name: &str) -> Self {
        match name {
            "A" => Self::A,
            "B" => Self::B,
            "C" => Self::C,
            _ => Self::Invalid,
        }
    }

    /// The grade of a value against the limits of A, B and C.
    fn of(value: f64, limits: [f64; 3]) -> Self {
        match limits.iter().position(|&limit| value <= limit) {
            Some(0) => Self::A,
            Some(1) => Self::B,
            Some(_) => Self::C,
            None => Self::Invalid,
        }
    }
}

/// Relative error of a rate, µs of delay, share of time: DESIGN §5.
const RATE: [f64; 3] = [0.01, 0.03, 0.10];
const DELAY_US: [f64; 3] = [200.0, 1_000.0, 5_000.0];
const SHARE: [f64; 3] = [0.01, 0.03, 0.10];

/// How far RAM may be behind its guest: 5 % of a round of 100 ms, the shortest over which QEMU decides, 20 %,
/// or all of it.
const BEHIND_MS: [f64; 3] = [5.0, 20.0, 100.0];

/// Fewest windows whose 95th percentile is not simply the worst of them.
const WINDOWS_MIN: u32 = 20;

/// Names of the links a migration's bytes cross.
#[must_use]
pub fn path_links(scenario: &Scenario, source: HostId, destination: HostId) -> Vec<String> {
    let path = scenario.network.path(source, destination);
    path.into_iter().map(|link| link.name.clone()).collect()
}

/// The worst of several grades, with the reason of each that is not A.
#[derive(Debug)]
struct Worst {
    grade: Grade,
    reasons: Vec<(Grade, String)>,
}

/// Reasons that are told: of a thousand links that are off, nobody reads the thousandth.
const REASONS_MAX: usize = 40;

impl Worst {
    fn new() -> Self {
        Self {
            grade: Grade::A,
            reasons: Vec::new(),
        }
    }

    fn add(&mut self, grade: Grade, reason: impl FnOnce() -> String) {
        self.grade = self.grade.max(grade);
        if grade > Grade::A {
            let reason = format!("{}: {}", grade.name(), reason());
            self.reasons.push((grade, reason));
        }
    }

    /// The worst first, else in the order they were found.
    fn told(mut self) -> (Grade, Vec<String>) {
        self.reasons
            .sort_by_key(|(grade, _)| std::cmp::Reverse(*grade));
        let more = self.reasons.len().saturating_sub(REASONS_MAX);
        let last = self.reasons.get(REASONS_MAX).map(|(grade, _)| grade.name());
        let last = last.map(|grade| format!("{grade}: … and {more} reasons more"));
        let told = self.reasons.into_iter().take(REASONS_MAX);
        let reasons = told.map(|(_, reason)| reason).chain(last).collect();
        (self.grade, reasons)
    }

    /// Links that were never measured vouch for nothing.
    fn measured(&mut self, none: bool) {
        if none {
            self.add(Grade::Invalid, || {
                "the links were not measured before the run".to_owned()
            });
        }
    }

    fn calibration(&mut self, link: &LinkCalibration) {
        let name = &link.link;
        if let Some(error) = link.rate_error {
            self.add(Grade::of(error.abs(), RATE), || {
                let got = link.got_rate_bps / 1e6;
                let percent = error.abs() * 100.0;
                format!("link {name} carried {got:.2} Mbit/s, {percent:.2} % off")
            });
        }
        match link.delay_error_us() {
            Some(error_us) => self.add(Grade::of(error_us, DELAY_US), || {
                format!("link {name} added {error_us:.0} µs to its delay")
            }),
            // Only where somebody tried is silence a finding.
            None if link.is_off("delay") => self.add(Grade::Invalid, || {
                format!("nothing came over link {name} that was to measure its delay")
            }),
            None => {}
        }
        if link.is_off("loss") {
            let (sent, lost) = link.lost.unwrap_or_default();
            self.add(Grade::Invalid, || {
                let asked = link.asked_loss * 100.0;
                format!("link {name} is to lose {asked:.3} % and its path lost {lost} of {sent}")
            });
        }
        // How far off a shape is has no measure that DESIGN grades.
        if link.is_off("jitter") {
            self.add(Grade::C, || {
                format!("the delay of link {name} does not vary as asked")
            });
        }
    }

    /// What was seen while a migration was under way.
    fn budget(&mut self, budget: &ErrorBudget, capped: bool) {
        for rate in &budget.rate {
            // Of seconds there are few, and each counts; of shorter windows all but the odd one.
            let error = match rate.window_ms {
                1000.. => rate.worst,
                _ if rate.windows < WINDOWS_MIN => continue,
                _ => rate.p95,
            };
            self.add(Grade::of(error, RATE), || {
                let (link, ms, percent) = (&rate.link, rate.window_ms, error * 100.0);
                format!("link {link} was full and {percent:.1} % off its rate over {ms} ms")
            });
        }
        // A departure that is late is a delay that was not asked for.
        self.add(Grade::of(budget.late_us_p99, DELAY_US), || {
            let late = budget.late_us_p99;
            format!("1 % of packets left links at least {late:.0} µs late meanwhile")
        });
        self.share(budget.emulator_limited_share, || {
            "its threads did not get to sending or receiving".to_owned()
        });
        // A capped engine sleeps on purpose, and leaves links idle.
        let idle = budget.path_idle_emulator_share.filter(|_| !capped);
        self.share(idle.unwrap_or(0.0), || {
            "no link of its path was busy although TCP could have sent".to_owned()
        });
    }

    /// What threads wrote, and how late.
    fn writers(&mut self, writers: &WritersReport) {
        let behind_ms = writers.behind_ns_mean as f64 / 1e6;
        self.add(Grade::of(behind_ms, BEHIND_MS), || {
            format!(
                "the threads that write the guest's RAM were {behind_ms:.1} ms behind on average"
            )
        });
    }

    fn share(&mut self, share: f64, why: impl FnOnce() -> String) {
        self.add(Grade::of(share, SHARE), || {
            let percent = share * 100.0;
            format!(
                "the emulator itself held it up {percent:.1} % of the time: {}",
                why()
            )
        });
    }
}

/// The grade of a run: its links as calibrated, and what the audit found.
#[must_use]
pub fn run_grade(
    calibration: &[LinkCalibration],
    findings: &[AuditFinding],
) -> (Grade, Vec<String>) {
    let mut worst = Worst::new();
    worst.measured(calibration.is_empty());
    for link in calibration {
        worst.calibration(link);
    }
    for finding in findings {
        worst.add(Grade::named(&finding.grade), || finding.message.clone());
    }
    worst.told()
}

/// The share of a transfer in which neither the network nor the engine's own decisions limited it
/// but this computer: the receiver's window was closed (its thread did not get to reading), or
/// nothing was under way although the engine had something to send. TCP itself keeps these times.
#[must_use]
pub fn emulator_limited_share(source: &SourceReport, capped: bool) -> f64 {
    let Some(last) = source.tcp.last() else {
        return 0.0;
    };
    let elapsed_us = last.at_ns.saturating_sub(source.setup_end_ns) / 1_000;
    // A capped engine sleeps on purpose; its pauses say nothing.
    let idle_us = if capped {
        0
    } else {
        elapsed_us.saturating_sub(last.busy_us)
    };
    (idle_us + last.rwnd_limited_us) as f64 / elapsed_us.max(1) as f64
}

/// The grade of a migration: its links, the relay's lateness on them, and what this computer
/// itself held it up.
#[must_use]
pub fn migration_grade(
    record: &MigrationRecord,
    path: &[&LinkCalibration],
) -> (Grade, Vec<String>) {
    let mut worst = Worst::new();
    worst.measured(path.is_empty());
    for link in path {
        worst.calibration(link);
    }
    match &record.error_budget {
        Some(budget) => worst.budget(budget, record.pauses_on_purpose()),
        // One that never began has nothing to vouch for.
        None if record.source_report.is_none() => {}
        None => worst.add(Grade::Invalid, || {
            "its links were not watched while it was under way".to_owned()
        }),
    }
    let source = record.source_report.as_ref();
    if let Some(writers) = source.and_then(|report| report.writers) {
        worst.writers(&writers);
    }
    worst.told()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::record::RateError;

    fn link(got_rate_bps: f64, got_delay_us: f64) -> LinkCalibration {
        LinkCalibration {
            link: "h1-up".to_owned(),
            asked_rate_bps: Some(1_000_000_000),
            got_rate_bps,
            rate_error: Some(got_rate_bps / 1e9 - 1.0),
            asked_delay_us: 100.0,
            got_delay_us: Some(got_delay_us),
            ok: true,
            ..LinkCalibration::default()
        }
    }

    #[test]
    fn grades_follow_the_worst_link() {
        assert_eq!(run_grade(&[link(0.995e9, 150.0)], &[]).0, Grade::A);
        assert_eq!(run_grade(&[link(0.98e9, 150.0)], &[]).0, Grade::B);
        assert_eq!(run_grade(&[link(1e9, 2_100.0)], &[]).0, Grade::C);
        let (grade, reasons) = run_grade(&[link(1e9, 100.0), link(0.5e9, 100.0)], &[]);
        assert_eq!(grade, Grade::Invalid);
        assert_eq!(
            reasons,
            ["invalid: link h1-up carried 500.00 Mbit/s, 50.00 % off"]
        );
    }

    #[test]
    fn writers_that_do_not_keep_up_are_told() {
        let grade = |behind_ms: u64| {
            let mut worst = Worst::new();
            worst.writers(&WritersReport {
                behind_ns_mean: behind_ms * 1_000_000,
                ..WritersReport::default()
            });
            worst.told()
        };
        assert_eq!(grade(2), (Grade::A, vec![]));
        assert_eq!(grade(15).0, Grade::B);
        assert_eq!(grade(90).0, Grade::C);
        let (worst, reasons) = grade(101);
        assert_eq!(worst, Grade::Invalid);
        assert!(reasons[0].contains("101.0 ms behind"), "{reasons:?}");
    }

    fn budget() -> ErrorBudget {
        let rate = |window_ms| RateError {
            window_ms,
            link: "h1-up".to_owned(),
            windows: 100,
            median: 0.0,
            p95: 0.0,
            worst: 0.0,
        };
        ErrorBudget {
            rate: [10, 100, 1000].map(rate).to_vec(),
            delay_error_us: None,
            late_us_mean: 15.0,
            late_us_p99: 60.0,
            late_us_max: 4_000.0,
            run_delay_share: Some(0.05),
            emulator_limited_share: 0.001,
            path_idle_share: Some(0.3),
            path_idle_window_share: Some(0.299),
            path_idle_emulator_share: Some(0.001),
            steal_share: None,
            samples: 100,
        }
    }

    fn graded(change: impl FnOnce(&mut ErrorBudget), capped: bool) -> Grade {
        let (mut worst, mut budget) = (Worst::new(), budget());
        change(&mut budget);
        worst.budget(&budget, capped);
        worst.grade
    }

    #[test]
    fn what_the_network_itself_held_up_is_not_held_against_a_migration() {
        assert_eq!(graded(|_| {}, false), Grade::A);
        // A window of a tenth of a second may stand still once; a second may not be a second short.
        assert_eq!(graded(|b| b.rate[1].worst = 1.0, false), Grade::A);
        assert_eq!(graded(|b| b.rate[2].worst = 0.04, false), Grade::C);
    }

    #[test]
    fn every_line_of_a_budget_counts() {
        assert_eq!(graded(|b| b.rate[0].p95 = 0.02, false), Grade::B);
        assert_eq!(graded(|b| b.late_us_p99 = 3_000.0, false), Grade::C);
        assert_eq!(
            graded(|b| b.emulator_limited_share = 0.2, false),
            Grade::Invalid
        );
        let idle = |b: &mut ErrorBudget| b.path_idle_emulator_share = Some(0.02);
        assert_eq!(graded(idle, false), Grade::B);
        assert_eq!(
            graded(idle, true),
            Grade::A,
            "a capped engine pauses on purpose"
        );
    }

    #[test]
    fn findings_of_the_audit_count() {
        let finding = AuditFinding {
            grade: "C".to_owned(),
            message: "relay late".to_owned(),
        };
        let (grade, reasons) = run_grade(&[link(1e9, 100.0)], &[finding]);
        assert_eq!(
            (grade, reasons),
            (Grade::C, vec!["C: relay late".to_owned()])
        );
    }

    #[test]
    fn of_many_reasons_the_worst_are_told() {
        let mut links = vec![link(0.98e9, 100.0); 100];
        links.push(link(0.5e9, 100.0));
        let (grade, reasons) = run_grade(&links, &[]);
        assert_eq!((grade, reasons.len()), (Grade::Invalid, REASONS_MAX + 1));
        assert!(
            reasons[0].starts_with("invalid: link h1-up"),
            "{}",
            reasons[0]
        );
        assert_eq!(reasons[REASONS_MAX], "B: … and 61 reasons more");
    }

    #[test]
    fn links_that_were_not_measured_vouch_for_nothing() {
        assert_eq!(run_grade(&[], &[]).0, Grade::Invalid);
    }
}
