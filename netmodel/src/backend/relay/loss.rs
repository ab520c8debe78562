//! Which segments a link loses: independent, or Gilbert-Elliott as netem steps it.
//!
//! Segments without an event cost nothing: the number of segments until the next event (a loss, or a change of state) is
//! drawn, geometric in both models. Nothing here knows frames.

use super::draw::Draws;
use crate::link::{GilbertElliott, Loss};

/// The state of one link's losses.
#[derive(Debug)]
pub(super) struct LossProcess {
    model: Loss,
    draws: Draws,
    drawn: u64,
    bad: bool,
    /// Segments before the one with the next event.
    gap: u64,
}

/// What can happen to a segment in a state.
struct Chances {
    loss: f64,
    leave: f64,
}

impl Chances {
    /// Of either or both.
    fn any(&self) -> f64 {
        1.0 - (1.0 - self.loss) * (1.0 - self.leave)
    }
}

/// No event will come.
const NEVER: u64 = u64::MAX;

impl LossProcess {
    pub(super) fn new(model: Loss, draws: Draws) -> Self {
        let mut process = Self {
            model,
            draws,
            drawn: 0,
            bad: false,
            gap: NEVER,
        };
        process.gap = process.next_gap();
        process
    }

    /// Another model from now on, which begins in its good state, as netem's does. The same model goes on.
    pub(super) fn change(&mut self, model: Loss) {
        if model != self.model {
            (self.model, self.bad) = (model, false);
            self.gap = self.next_gap();
        }
    }

    /// Takes `segments` through and names those that are lost, from 0.
    pub(super) fn pass(&mut self, segments: u32, mut lost: impl FnMut(u32)) {
        let mut at = 0;
        while self.gap < u64::from(segments - at) {
            at += u32::try_from(self.gap).expect("below a u32");
            if self.event() {
                lost(at);
            }
            at += 1;
            self.gap = self.next_gap();
        }
        if self.gap != NEVER {
            self.gap -= u64::from(segments - at);
        }
    }

    fn chances(&self) -> Chances {
        match self.model {
            Loss::None => Chances {
                loss: 0.0,
                leave: 0.0,
            },
            Loss::Independent(share) => Chances {
                loss: share.share(),
                leave: 0.0,
            },
            Loss::GilbertElliott(GilbertElliott {
                good_to_bad,
                bad_to_good,
                loss_in_bad,
                loss_in_good,
            }) => {
                let (loss, leave) = match self.bad {
                    true => (loss_in_bad, bad_to_good),
                    false => (loss_in_good, good_to_bad),
                };
                Chances {
                    loss: loss.share(),
                    leave: leave.share(),
                }
            }
        }
    }

    /// Whether the segment of an event is lost. Like netem: the state is left or not, then the segment is lost or not by
    /// the state it found.
    fn event(&mut self) -> bool {
        let Chances { loss, leave } = self.chances();
        let any = Chances { loss, leave }.any();
        // Within what leads to an event: both, then loss alone, then leaving alone.
        let unit = self.draw() * any;
        let lost = unit <= loss;
        let left = unit <= loss * leave || unit > loss;
        if left && leave > 0.0 {
            self.bad = !self.bad;
        }
        lost && loss > 0.0
    }

    fn next_gap(&mut self) -> u64 {
        let any = self.chances().any();
        if any <= 0.0 {
            return NEVER;
        }
        if any >= 1.0 {
            return 0;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "both logarithms are negative, and the cast saturates"
        )]
        let gap = (self.draw().ln() / (-any).ln_1p()) as u64;
        gap.min(NEVER - 1)
    }

    fn draw(&mut self) -> f64 {
        self.drawn += 1;
        self.draws.unit(self.drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::super::draw::Purpose;
    use super::*;
    use crate::topology::LinkId;
    use crate::units::Probability;
    use proptest::prelude::*;

    fn process(model: Loss, seed: u64) -> LossProcess {
        LossProcess::new(model, Draws::new(seed, LinkId(0), Purpose::Loss))
    }

    fn share(text: &str) -> Probability {
        text.parse().unwrap()
    }

    /// Positions of losses among `segments`, in frames of `frame`.
    fn losses(process: &mut LossProcess, segments: u32, frame: u32) -> Vec<u32> {
        let mut lost = Vec::new();
        for start in (0..segments).step_by(frame as usize) {
            process.pass(frame.min(segments - start), |at| lost.push(start + at));
        }
        lost
    }

    #[test]
    fn certainty_and_impossibility_are_exact() {
        let all = losses(&mut process(Loss::Independent(Probability::ONE), 1), 100, 7);
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        assert_eq!(losses(&mut process(Loss::None, 1), 100, 7), [0; 0]);
        let never = Loss::Independent(Probability::default());
        assert_eq!(losses(&mut process(never, 1), 100, 7), [0; 0]);
    }

    #[test]
    fn independent_losses_have_their_share_and_no_memory() {
        let n = 2_000_000;
        let lost = losses(&mut process(Loss::Independent(share("1%")), 3), n, 45);
        // 20,000 with a deviation of 141; a loss follows a loss in 1 % of cases: 200 with a deviation of 14. Five of each.
        assert!(lost.len().abs_diff(20_000) < 704, "{}", lost.len());
        let pairs = lost.windows(2).filter(|w| w[1] == w[0] + 1).count();
        assert!(pairs.abs_diff(200) < 71, "{pairs}");
    }

    #[test]
    fn bursts_are_as_long_as_the_chain_stays_bad() {
        let states = GilbertElliott {
            good_to_bad: share("1%"),
            bad_to_good: share("25%"),
            loss_in_bad: Probability::ONE,
            loss_in_good: Probability::default(),
        };
        let n = 2_000_000;
        let lost = losses(&mut process(Loss::GilbertElliott(states), 3), n, 45);
        // Cycles of 100 + 4 segments: 19,231 bursts of 4, deviations by the renewal theorem some 130 and 0.025.
        let bursts = 1 + lost.windows(2).filter(|w| w[1] != w[0] + 1).count();
        assert!(bursts.abs_diff(19_231) < 800, "{bursts}");
        let length = lost.len() as f64 / bursts as f64;
        assert!((length - 4.0).abs() < 0.15, "{length}");
        let got = lost.len() as f64 / f64::from(n);
        assert!((got / states.mean_loss() - 1.0).abs() < 0.05, "{got}");
    }

    #[test]
    fn the_state_a_segment_finds_decides_about_it() {
        // Good for one segment, bad for one, alternating; only bad loses: netem's first segment passes.
        let states = GilbertElliott {
            good_to_bad: Probability::ONE,
            bad_to_good: Probability::ONE,
            loss_in_bad: Probability::ONE,
            loss_in_good: Probability::default(),
        };
        let mut process = process(Loss::GilbertElliott(states), 9);
        assert_eq!(losses(&mut process, 8, 3), [1, 3, 5, 7]);
    }

    proptest! {
        #[test]
        fn losses_do_not_depend_on_how_segments_are_bundled(
            seed: u64,
            p in 0..=1_000_000_000_u32, r in 0..=1_000_000_000_u32,
            bad in 0..=1_000_000_000_u32, good in 0..=1_000_000_000_u32,
            frame in 1_u32..60,
        ) {
            let ppb = |parts| Probability::from_ppb(parts).unwrap();
            let model = Loss::GilbertElliott(GilbertElliott {
                good_to_bad: ppb(p),
                bad_to_good: ppb(r),
                loss_in_bad: ppb(bad),
                loss_in_good: ppb(good),
            });
            let one = losses(&mut process(model, seed), 500, 1);
            prop_assert_eq!(losses(&mut process(model, seed), 500, frame), one);
        }
    }
}
