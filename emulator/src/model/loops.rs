//! Models that decide at the end of a round.

use super::{Guess, Inputs, Model, PAGE, clean};

/// A loop over rounds: what is sent, how long it takes, whether to go on.
struct Rounds {
    rate: f64,
    seconds: f64,
    bytes: f64,
}

impl Rounds {
    /// `None` when nothing can be sent in a time that can be written down.
    fn new(inputs: &Inputs, first_bytes: f64) -> Option<Self> {
        let rate = inputs.rate();
        // A thousand rounds of this length must still be a number.
        let sane = rate > 0.0 && (first_bytes / rate).is_finite();
        sane.then_some(Self {
            rate,
            seconds: 0.0,
            bytes: 0.0,
        })
    }

    /// Sends; returns how long that took.
    fn send(&mut self, bytes: f64) -> f64 {
        let seconds = bytes / self.rate;
        self.seconds += seconds;
        self.bytes += bytes;
        seconds
    }

    fn never(&self) -> Guess {
        Guess::never(clean(self.seconds), clean(self.bytes))
    }

    /// The guest is stopped, and the rest goes.
    fn stop(mut self, rest_bytes: f64, fixed_s: f64) -> Guess {
        let downtime = self.send(rest_bytes) + fixed_s;
        let total = self.seconds + fixed_s;
        if total.is_finite() && self.bytes.is_finite() {
            Guess::ends(total, Some(downtime), self.bytes)
        } else {
            self.never()
        }
    }
}

/// SimGrid's live-migration plug-in \[C\]: stage 1 sends RAM and measures R̂; stage 2 sends
/// min(rate · time, cap) until what is left is below R̂ · `max_downtime`; stage 3 sends it with the
/// VM suspended. The rate follows the guest's computation; here it is the 1 s dirty rate.
#[derive(Debug, Clone, Copy)]
pub struct SimGrid {
    /// s. SimGrid's default, 0.03; it knows nothing of the engine's own limit.
    pub max_downtime_s: f64,
    /// Cap of a round as a share of RAM when the working set is not known (0): its default 0.9.
    pub cap_share: f64,
    /// Simulated seconds after which a move counts as never-ending. SimGrid itself loops on to 1e7.
    pub give_up_s: f64,
}

impl Default for SimGrid {
    fn default() -> Self {
        Self {
            max_downtime_s: 0.03,
            cap_share: 0.9,
            give_up_s: 1e7,
        }
    }
}

/// Rounds after which a loop whose rounds do not shrink is called never-ending.
const ROUNDS_MAX: u32 = 10_000;

impl Model for SimGrid {
    fn name(&self) -> &'static str {
        "simgrid"
    }

    fn predict(&self, inputs: &Inputs) -> Guess {
        let ram = inputs.ram_bytes as f64;
        let cap = match inputs.working_set_bytes {
            0 => self.cap_share * ram,
            set => set as f64,
        };
        let Some(mut rounds) = Rounds::new(inputs, ram) else {
            return Guess::never(0.0, 0.0);
        };
        let mut took = rounds.send(ram);
        for _ in 0..ROUNDS_MAX {
            let dirtied = (inputs.dirty() * took).min(cap);
            // The flow's own rate is what SimGrid measures after each round; it is constant here.
            if dirtied < rounds.rate * self.max_downtime_s {
                return rounds.stop(dirtied, inputs.fixed());
            }
            if rounds.seconds > self.give_up_s {
                break;
            }
            took = rounds.send(dirtied);
        }
        rounds.never()
    }
}

/// Liu et al., HPDC'11 \[P\]: V_i = V λ^i; n = ⌈log_λ(V_thd/V)⌉ rounds, at most `rounds_max`;
/// T = (V/R)(1 − λ^(n+1))/(1 − λ); downtime V λ^n / R + the fixed parts. V_thd = R·θ.
#[derive(Debug, Clone, Copy)]
pub struct Liu {
    /// Rounds at most: 30, as Xen's of that time.
    pub rounds_max: u32,
}

impl Default for Liu {
    fn default() -> Self {
        Self { rounds_max: 30 }
    }
}

impl Model for Liu {
    fn name(&self) -> &'static str {
        "liu"
    }

    fn predict(&self, inputs: &Inputs) -> Guess {
        let first = inputs.nonzero_bytes as f64;
        let Some(mut rounds) = Rounds::new(inputs, first) else {
            return Guess::never(0.0, 0.0);
        };
        let lambda = inputs.dirty() / rounds.rate;
        let threshold = rounds.rate * inputs.limit();
        // Term by term: the closed form has no value at λ = 1, and 30 terms cost nothing.
        let mut volume = first;
        for _ in 0..self.rounds_max {
            if volume <= threshold {
                break;
            }
            rounds.send(volume);
            volume *= lambda;
        }
        rounds.stop(volume, inputs.fixed())
    }
}

/// Akoush et al., MASCOTS'10, AVG \[P\]: Xen's loop with a constant dirty rate, each round
/// min(D·t, W). Xen of that time \[C\]: 29 rounds at most; stops below 50 pages, or when more than
/// 3 × RAM has been sent. Its constant overheads are the fixed part of the downtime here.
#[derive(Debug, Clone, Copy)]
pub struct AkoushAvg {
    /// Rounds at most.
    pub rounds_max: u32,
    /// Pages below which the guest is stopped.
    pub pages_min: u32,
    /// Multiple of RAM after which the guest is stopped.
    pub factor_max: f64,
}

impl Default for AkoushAvg {
    fn default() -> Self {
        Self {
            rounds_max: 29,
            pages_min: 50,
            factor_max: 3.0,
        }
    }
}

impl Model for AkoushAvg {
    fn name(&self) -> &'static str {
        "akoush-avg"
    }

    fn predict(&self, inputs: &Inputs) -> Guess {
        xen_loop(inputs, self.rounds_max, self.pages_min, self.factor_max)
    }
}

/// Xen as it is now \[C\]: one full round, then at most four of dirty pages; stops below 50 pages.
/// No zero-page elision, no bandwidth in the decision.
#[derive(Debug, Clone, Copy)]
pub struct XenFivePass {
    /// Rounds at most.
    pub rounds_max: u32,
    /// Pages below which the guest is stopped.
    pub pages_min: u32,
}

impl Default for XenFivePass {
    fn default() -> Self {
        Self {
            rounds_max: 5,
            pages_min: 50,
        }
    }
}

impl Model for XenFivePass {
    fn name(&self) -> &'static str {
        "xen-5-pass"
    }

    fn predict(&self, inputs: &Inputs) -> Guess {
        xen_loop(inputs, self.rounds_max, self.pages_min, f64::INFINITY)
    }
}

fn xen_loop(inputs: &Inputs, rounds_max: u32, pages_min: u32, factor_max: f64) -> Guess {
    let ram = inputs.ram_bytes as f64;
    let Some(mut rounds) = Rounds::new(inputs, ram) else {
        return Guess::never(0.0, 0.0);
    };
    let mut dirty = ram;
    for _ in 0..rounds_max {
        let took = rounds.send(dirty);
        // Never more than there is, whatever the working set is said to be.
        dirty = inputs.dirtied_at_rate(took).min(ram);
        if dirty < f64::from(pages_min) * PAGE || rounds.bytes > factor_max * ram {
            break;
        }
    }
    rounds.stop(dirty, inputs.fixed())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{inputs, near};
    use super::*;
    use crate::model::Verdict;

    const MIB: f64 = 1_048_576.0;

    #[test]
    fn liu_is_the_geometric_sum() {
        // λ = 0.2, V = 1024 MiB, threshold 30 MiB: n = ⌈log_0.2(30/1024)⌉ = 3.
        let guess = Liu::default().predict(&inputs());
        near(guess.total_s, 10.24 * (1.0 - 0.2f64.powi(4)) / 0.8, 1e-9);
        near(guess.downtime_s.unwrap(), 10.24 * 0.2f64.powi(3), 1e-9);
        near(
            guess.bytes,
            1024.0 * MIB * (1.0 - 0.2f64.powi(4)) / 0.8,
            1e-9,
        );
    }

    #[test]
    fn liu_at_lambda_one_stops_at_its_cap() {
        let busy = Inputs {
            dirty_bytes_per_s: inputs().goodput_bytes_per_s,
            ..inputs()
        };
        let guess = Liu::default().predict(&busy);
        near(guess.total_s, 31.0 * 10.24, 1e-9);
        near(guess.downtime_s.unwrap(), 10.24, 1e-9);
    }

    #[test]
    fn simgrid_goes_on_to_its_own_30_ms() {
        // 1024, 204.8, 40.96, 8.192 MiB; the next, 1.6384 MiB, is below 3 MiB: stop.
        let guess = SimGrid::default().predict(&inputs());
        near(
            guess.bytes,
            (1024.0 + 204.8 + 40.96 + 8.192 + 1.6384) * MIB,
            1e-9,
        );
        near(guess.downtime_s.unwrap(), 0.016_384, 1e-9);
        let busy = Inputs {
            dirty_bytes_per_s: 2.0 * inputs().goodput_bytes_per_s,
            ..inputs()
        };
        assert_eq!(SimGrid::default().predict(&busy).verdict, Verdict::Never);
    }

    #[test]
    fn xen_stops_after_five_passes_with_what_is_left() {
        // λ = 0.5 without a cap: 1024 · (1 + ½ + ¼ + ⅛ + 1/16), then 32 MiB paused.
        let half = Inputs {
            dirty_bytes_per_s: 50.0 * MIB,
            working_set_bytes: 1024 << 20,
            ..inputs()
        };
        let guess = XenFivePass::default().predict(&half);
        near(guess.bytes, (1984.0 + 32.0) * MIB, 1e-9);
        near(guess.downtime_s.unwrap(), 0.32, 1e-9);
        // The working set bounds a round: 256 MiB each when λ = 3.
        let hot = Inputs {
            dirty_bytes_per_s: 300.0 * MIB,
            ..inputs()
        };
        near(
            XenFivePass::default().predict(&hot).bytes,
            (1024.0 + 5.0 * 256.0) * MIB,
            1e-9,
        );
    }

    #[test]
    fn akoush_stops_at_three_times_ram_or_fifty_pages() {
        let hot = Inputs {
            dirty_bytes_per_s: 300.0 * MIB,
            working_set_bytes: 1024 << 20,
            ..inputs()
        };
        // Sent 1, 2, 3, 4 × RAM; 4 > 3 ends it, and the last goes paused.
        near(
            AkoushAvg::default().predict(&hot).bytes,
            5.0 * 1024.0 * MIB,
            1e-9,
        );
        // λ = 0.2: 1024 · 0.2^6 MiB is 17 pages, below 50.
        let guess = AkoushAvg::default().predict(&inputs());
        near(guess.downtime_s.unwrap(), 10.24 * 0.2f64.powi(6), 1e-9);
    }
}
