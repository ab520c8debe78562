//! Models without a loop: what most cloud simulators assume.

use super::{Guess, Inputs, Model};

/// V/R. DSLab-IaaS (memory in use over one constant) and COSCO without its latency term \[C\].
#[derive(Debug, Clone, Copy)]
pub struct RamOverBandwidth;

impl Model for RamOverBandwidth {
    fn name(&self) -> &'static str {
        "ram-over-bandwidth"
    }

    fn predict(&self, inputs: &Inputs) -> Guess {
        over_bandwidth(inputs.nonzero_bytes as f64, inputs.rate(), inputs.rate())
    }
}

/// CloudSim's `PowerDatacenter` \[C\]: `RAM_MB / (hostBw_kbps / (2·8000))` s, that is the whole
/// configured RAM over half of the destination's link; no downtime, no dirty pages. The link is
/// taken as the goodput here, which flatters the model by the protocol's overhead.
#[derive(Debug, Clone, Copy)]
pub struct CloudSim;

impl Model for CloudSim {
    fn name(&self) -> &'static str {
        "cloudsim"
    }

    fn predict(&self, inputs: &Inputs) -> Guess {
        over_bandwidth(inputs.ram_bytes as f64, inputs.rate() / 2.0, inputs.rate())
    }
}

fn over_bandwidth(bytes: f64, share: f64, rate: f64) -> Guess {
    let total = bytes / share;
    if rate > 0.0 && total.is_finite() {
        Guess::ends(total, None, bytes)
    } else {
        Guess::never(0.0, 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{inputs, near};
    use super::*;
    use crate::model::Verdict;

    #[test]
    fn cloudsim_takes_16_4_s_for_1024_mb_at_1_gbit() {
        // The reference's own figure: 16 · 1024 / 1000 s.
        let inputs = Inputs {
            ram_bytes: 1_024_000_000,
            goodput_bytes_per_s: 125e6,
            ..inputs()
        };
        near(CloudSim.predict(&inputs).total_s, 16.384, 1e-9);
        assert_eq!(CloudSim.predict(&inputs).downtime_s, None);
    }

    #[test]
    fn used_memory_over_bandwidth() {
        let half = Inputs {
            nonzero_bytes: 512 << 20,
            ..inputs()
        };
        near(RamOverBandwidth.predict(&half).total_s, 5.12, 1e-9);
        let cut = Inputs {
            goodput_bytes_per_s: 0.0,
            ..half
        };
        assert_eq!(RamOverBandwidth.predict(&cut).verdict, Verdict::Never);
    }
}
