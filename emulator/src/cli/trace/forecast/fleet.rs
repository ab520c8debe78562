//! Scores of VMs put together: a row for each predictor and horizon.

use super::VmOutput;
use serde::Serialize;
use traces::forecast::{HorizonScore, Paired, paired_bootstrap};
use traces::stats::{Spread, spread};

/// A predictor at one horizon over the VMs.
#[derive(Debug, Serialize)]
pub(super) struct FleetScore {
    pub(super) method: String,
    pub(super) horizon: usize,
    pub(super) vms: usize,
    pub(super) mae_mean: f64,
    pub(super) mase: Option<Spread>,
    /// Medians over VMs of the pinball losses over the one-step naive error.
    pub(super) pinball_scaled: [Option<f64>; 5],
    pub(super) coverage_80: Option<Spread>,
    pub(super) coverage_p95: Option<Spread>,
    pub(super) under_share: Option<Spread>,
    pub(super) precision: Option<f64>,
    pub(super) recall: Option<f64>,
    /// Median difference of MASE to the last value's, with 95 % by bootstrap over VMs.
    pub(super) against_last: Option<Paired>,
    /// VMs on which it is better, and worse, than the last value by Diebold and Mariano at 5 %.
    pub(super) better: usize,
    pub(super) worse: usize,
}

/// Every predictor and horizon: by horizon, the last value first, then in the order asked for.
pub(super) fn fleet(vms: &[VmOutput]) -> Vec<FleetScore> {
    let mut pairs: Vec<(String, usize)> = Vec::new();
    for score in vms.iter().flat_map(|vm| &vm.scores) {
        for horizon in &score.horizons {
            let pair = (score.method.clone(), horizon.horizon);
            if !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
    }
    pairs.sort_by_key(|pair| pair.1);
    pairs
        .into_iter()
        .filter_map(|(method, horizon)| fleet_score(vms, method, horizon))
        .collect()
}

fn find<'a>(vm: &'a VmOutput, method: &str, horizon: usize) -> Option<&'a HorizonScore> {
    let score = vm.scores.iter().find(|score| score.method == method)?;
    score.horizons.iter().find(|score| score.horizon == horizon)
}

fn fleet_score(vms: &[VmOutput], method: String, horizon: usize) -> Option<FleetScore> {
    let both: Vec<(&HorizonScore, &HorizonScore)> = vms
        .iter()
        .filter_map(|vm| Some((find(vm, &method, horizon)?, find(vm, "last", horizon)?)))
        .collect();
    let n = (!both.is_empty()).then_some(both.len() as f64)?;
    let over = |figure: &dyn Fn(&HorizonScore) -> Option<f64>| {
        spread(both.iter().map(|(ours, _)| figure(ours)))
    };
    let scaled = |index: usize| {
        over(&|s| {
            let naive = s.mae / s.mase?;
            (naive > 0.0).then_some(s.pinball?[index] / naive)
        })
        .map(|s| s.p50)
    };
    let differences: Vec<f64> = both
        .iter()
        .filter_map(|(ours, last)| Some(ours.mase? - last.mase?))
        .collect();
    let told = |sign: f64| {
        let significant = both.iter().filter(|(ours, _)| {
            ours.against_last
                .is_some_and(|dm| dm.p_value < 0.05 && dm.statistic * sign > 0.0)
        });
        significant.count()
    };
    let hot = both.iter().filter_map(|(ours, _)| ours.hot_spots);
    let hot = hot.reduce(|mut sum, one| {
        sum.hits += one.hits;
        sum.false_alarms += one.false_alarms;
        sum.misses += one.misses;
        sum
    });
    Some(FleetScore {
        horizon,
        vms: both.len(),
        mae_mean: both.iter().map(|(ours, _)| ours.mae).sum::<f64>() / n,
        mase: over(&|s| s.mase),
        pinball_scaled: std::array::from_fn(scaled),
        coverage_80: over(&|s| s.coverage_80),
        coverage_p95: over(&|s| s.coverage_p95),
        under_share: over(&|s| Some(s.under_share)),
        precision: hot.and_then(|h| h.precision()),
        recall: hot.and_then(|h| h.recall()),
        against_last: (method != "last")
            .then(|| paired_bootstrap(&differences))
            .flatten(),
        better: told(-1.0),
        worse: told(1.0),
        method,
    })
}
