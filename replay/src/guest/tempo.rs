//! How operational time passes: a class's rate times the clock of its set, which only runs in the
//! set's phase and may be warped. Never inside: draws of writes.

use std::sync::Arc;

use traces::class::PhasedClasses;

use super::MemoryError;
use super::variation::Warp;
use crate::mix;

/// An instant in operational time: cells in the high, a fraction of 2^-64 cell in the low half.
///
/// Bounds: clock < 2^64 ns and rate < 1 write per ns, so the product of both fixed-point factors
/// stays below 2^128. Rates are kept to 2^-64 writes per ns (5e-11 writes a second); versions are
/// exact up to 2^59 cells, which the fastest rate reaches after 18 years.
pub(super) type Operational = u128;

/// The clock of a class set, as a function of the guest's.
#[derive(Debug, Clone)]
pub(super) struct SetClock {
    /// All phases together; 1 for a set that is always on.
    lap: u64,
    /// Where in the lap its own begins.
    start: u64,
    length: u64,
    warp: Option<Warp>,
}

impl SetClock {
    /// Of each phase. `key` gives the key of a phase's variation.
    pub(super) fn of(
        phased: &PhasedClasses,
        key: impl Fn(usize) -> u64,
    ) -> Result<Vec<Arc<Self>>, MemoryError> {
        let lap = phased
            .phases
            .iter()
            .try_fold(0u64, |lap, phase| lap.checked_add(phase.length_ns))
            .filter(|_| phased.phases.iter().all(|phase| phase.length_ns > 0))
            .filter(|&lap| lap > 0)
            .ok_or(MemoryError::PhaseLength)?;
        let mut start = 0;
        let clock = |(number, phase): (usize, &traces::class::ClassPhase)| {
            let own = start;
            start += phase.length_ns;
            let warp = phase.variation.as_ref();
            Ok(Arc::new(Self {
                lap,
                start: own,
                length: phase.length_ns,
                warp: warp.map(|v| Warp::new(v, key(number))).transpose()?,
            }))
        };
        phased.phases.iter().enumerate().map(clock).collect()
    }

    fn at(&self, clock: u64) -> u64 {
        let (laps, within) = (clock / self.lap, clock % self.lap);
        let own = laps * self.length + within.saturating_sub(self.start).min(self.length);
        self.warp.as_ref().map_or(own, |warp| warp.at(own))
    }
}

/// Operational time of a class.
#[derive(Debug, Clone)]
pub(super) struct Tempo {
    /// Events per nanosecond, times 2^64.
    rate: u64,
    /// None: the guest's clock itself.
    clock: Option<Arc<SetClock>>,
}

impl Tempo {
    /// # Errors
    /// When the rate is none.
    pub(super) fn new(rate_per_s: f64, clock: Option<Arc<SetClock>>) -> Result<Self, MemoryError> {
        if !(0.0..1e9).contains(&rate_per_s) {
            return Err(MemoryError::Rate { rate: rate_per_s });
        }
        // Multiplying and rounding are exact-by-rule in IEEE 754, so this is the same everywhere.
        let rate = mix::threshold(rate_per_s / 1e9);
        Ok(Self { rate, clock })
    }

    /// Whether nothing ever happens.
    pub(super) fn stands(&self) -> bool {
        self.rate == 0
    }

    /// Λ at a reading of the guest's clock.
    pub(super) fn at(&self, clock_ns: u64) -> Operational {
        let own = match &self.clock {
            None => clock_ns,
            Some(clock) => clock.at(clock_ns),
        };
        u128::from(own) * u128::from(self.rate)
    }
}

#[cfg(test)]
mod tests {
    use traces::class::{ClassPhase, Coupling};

    use super::*;

    fn clocks(lengths: &[u64]) -> Result<Vec<Arc<SetClock>>, MemoryError> {
        let phase = |&length_ns: &u64| ClassPhase {
            length_ns,
            first_page: 0,
            classes: Vec::new(),
            variation: None,
        };
        let phased = PhasedClasses {
            coupling: Coupling::Cpu,
            phases: lengths.iter().map(phase).collect(),
        };
        SetClock::of(&phased, |_| 0)
    }

    #[test]
    fn each_phase_has_its_share_of_the_clock_and_no_other() {
        let clocks = clocks(&[10, 1, 5]).unwrap();
        for now in 0..200u64 {
            let own: Vec<u64> = clocks.iter().map(|clock| clock.at(now)).collect();
            assert_eq!(
                own.iter().sum::<u64>(),
                now,
                "no time is lost or counted twice"
            );
            let next: Vec<u64> = clocks.iter().map(|clock| clock.at(now + 1)).collect();
            let running = match now % 16 {
                0..10 => 0,
                10 => 1,
                _ => 2,
            };
            for (phase, (a, b)) in own.iter().zip(&next).enumerate() {
                assert_eq!(b - a, u64::from(phase == running), "phase {phase} at {now}");
            }
        }
    }

    #[test]
    fn phases_of_no_length_are_refused() {
        for lengths in [&[][..], &[5, 0], &[u64::MAX, 1]] {
            assert_eq!(clocks(lengths).unwrap_err(), MemoryError::PhaseLength);
        }
    }
}
