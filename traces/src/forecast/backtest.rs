//! The rolling-origin back-test: every forecast is made from what was seen before it, and intervals from
//! errors that were known by then.

use std::collections::VecDeque;
use std::sync::Arc;

use super::classes::ClassWindows;
use super::residuals::Residuals;
use super::score::{MethodScore, Outcome, QUANTILES, Scale, Tally};
use super::{Known, Method, Predictor, diebold_mariano};

/// How to test.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Steps ahead, ascending, each at least 1.
    pub horizons: Vec<usize>,
    /// Share of the series that is never scored: half of it to fit before any interval, the other
    /// half to collect errors.
    pub training: f64,
    /// Origins scored at most; of more, every n-th. All values are observed.
    pub most_origins: usize,
    /// How many times parameters are chosen again during the scored part, evenly.
    pub refits: usize,
    /// What is known besides the values: a season, page classes.
    pub known: Known,
    /// Least possible value: forecasts below it are raised to it.
    pub floor: Option<f64>,
    /// What a hot spot exceeds.
    pub threshold: Option<f64>,
}

impl Default for Plan {
    /// The horizons of the design notes, half the series for training, 2,000 origins, 8 refits.
    fn default() -> Self {
        Self {
            horizons: vec![1, 6, 12, 288],
            training: 0.5,
            most_origins: 2000,
            refits: 8,
            known: Known::default(),
            floor: Some(0.0),
            threshold: None,
        }
    }
}

impl Plan {
    fn floored(&self, value: f64) -> f64 {
        self.floor.map_or(value, |floor| value.max(floor))
    }

    /// What holds of `values`, `first` of which are for training: a season that fits three times into
    /// them, classes of as many windows.
    fn known_of(&self, values: &[f64], first: usize) -> Known {
        let fits = |season: &usize| *season >= 2 && season * 3 <= first;
        let same = |classes: &Arc<ClassWindows>| classes.len() == values.len();
        Known {
            season: self.known.season.filter(fits),
            classes: self.known.classes.clone().filter(same),
        }
    }
}

/// Values of a series needed for a back-test.
const FEWEST: usize = 40;

/// Tests the methods on one series without holes. The last value is always among them, first, and each
/// other is compared with it. Seasonal methods are left out without a season that fits three times
/// into the training part, page classes without those of the recording. Empty when the series has fewer than 40 values.
#[must_use]
pub fn backtest(values: &[f64], methods: &[Method], plan: &Plan) -> Vec<MethodScore> {
    let share = plan.training.clamp(0.1, 0.9);
    let first = crate::units::round_usize((values.len() as f64 * share).floor());
    if values.len() < FEWEST || plan.horizons.is_empty() {
        return Vec::new();
    }
    let known = plan.known_of(values, first);
    let scale = Scale::of(&values[..first], plan.threshold);
    let others = methods.iter().copied().filter(|m| *m != Method::Last);
    let mut last_errors: Vec<Vec<f64>> = Vec::new();
    let mut scores = Vec::new();
    for method in std::iter::once(Method::Last).chain(others) {
        let Some(mut predictor) = method.predictor(&known) else {
            continue;
        };
        let tallies = roll(predictor.as_mut(), values, first, plan, &scale);
        let horizons = plan.horizons.iter().zip(&tallies).enumerate();
        let horizons = horizons.filter_map(|(index, (&horizon, tally))| {
            let mut score = tally.finish(horizon, &scale)?;
            if let Some(theirs) = last_errors.get(index) {
                score.against_last = diebold_mariano(&tally.errors, theirs, horizon);
            }
            Some(score)
        });
        scores.push(MethodScore {
            method: method.to_string(),
            horizons: horizons.collect(),
        });
        if last_errors.is_empty() {
            last_errors = tallies.into_iter().map(|tally| tally.errors).collect();
        }
    }
    scores
}

/// A forecast whose value has not come yet.
#[derive(Debug, Clone, Copy)]
struct Pending {
    at: usize,
    forecast: f64,
    quantiles: Option<[f64; 5]>,
    scored: bool,
}

/// Rolls a predictor over the series.
fn roll(
    predictor: &mut dyn Predictor,
    values: &[f64],
    first: usize,
    plan: &Plan,
    scale: &Scale,
) -> Vec<Tally> {
    let warm = (first / 2).max(2);
    let scored = values.len() - first;
    let stride = scored.div_ceil(plan.most_origins.max(1)).max(1);
    let refit = scored.div_ceil(plan.refits.saturating_add(1)).max(1);
    let mut lanes: Vec<Lane> = vec![Lane::default(); plan.horizons.len()];
    predictor.fit(&values[..warm]);
    for origin in warm..values.len() {
        let since = origin.checked_sub(first);
        // On the border the training is over; after it, now and then.
        if since.is_some_and(|since| since == 0 || plan.refits > 0 && since % refit == 0) {
            predictor.fit(&values[..origin]);
        }
        let asked = since.unwrap_or(origin - warm).is_multiple_of(stride);
        if asked {
            let forecasts = predictor.predict(&plan.horizons);
            let lanes = lanes.iter_mut().zip(forecasts).zip(&plan.horizons);
            for ((lane, forecast), horizon) in lanes {
                lane.ask(origin + horizon - 1, plan, forecast, since.is_some());
            }
        }
        let value = values[origin];
        for lane in &mut lanes {
            lane.came(origin, value, scale);
        }
        predictor.observe(value);
    }
    lanes.into_iter().map(|lane| lane.tally).collect()
}

/// What is kept of one horizon.
#[derive(Debug, Clone, Default)]
struct Lane {
    pending: VecDeque<Pending>,
    residuals: Residuals,
    tally: Tally,
}

impl Lane {
    fn ask(&mut self, at: usize, plan: &Plan, forecast: f64, scored: bool) {
        let spread = self.residuals.quantiles(QUANTILES);
        let quantiles = spread.map(|errors| errors.map(|e| plan.floored(forecast + e)));
        self.pending.push_back(Pending {
            at,
            forecast: plan.floored(forecast),
            quantiles,
            scored,
        });
    }

    fn came(&mut self, at: usize, value: f64, scale: &Scale) {
        let Some(pending) = self.pending.front().copied().filter(|p| p.at == at) else {
            return;
        };
        self.pending.pop_front();
        self.residuals.push(value - pending.forecast);
        if pending.scored {
            let outcome = Outcome {
                forecast: pending.forecast,
                quantiles: pending.quantiles,
                value,
            };
            self.tally.add(&outcome, scale);
        }
    }
}

/// What comes after the end of a series, at one horizon.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Forecast {
    /// Steps after the last value.
    pub horizon: usize,
    /// The forecast.
    pub value: f64,
    /// With the quantiles of the errors made on this series added, at [`QUANTILES`].
    pub quantiles: Option<[f64; 5]>,
}

/// Foretells the values after the end. `None` for fewer than 40 values, or for a method that
/// needs a season or page classes and has none.
#[must_use]
pub fn forecast(values: &[f64], method: Method, plan: &Plan) -> Option<Vec<Forecast>> {
    if values.len() < FEWEST {
        return None;
    }
    let known = plan.known_of(values, values.len());
    let mut predictor = method.predictor(&known)?;
    let half = values.len() / 2;
    let mut lanes: Vec<Lane> = vec![Lane::default(); plan.horizons.len()];
    let scale = Scale::of(&values[..half], None);
    predictor.fit(&values[..half]);
    for (origin, &value) in values.iter().enumerate().skip(half) {
        let forecasts = predictor.predict(&plan.horizons);
        for ((lane, forecast), horizon) in lanes.iter_mut().zip(forecasts).zip(&plan.horizons) {
            lane.ask(origin + horizon - 1, plan, forecast, false);
            lane.came(origin, value, &scale);
        }
        predictor.observe(value);
    }
    predictor.fit(values);
    let forecasts = predictor.predict(&plan.horizons);
    let all = lanes.iter().zip(forecasts).zip(&plan.horizons);
    let one = all.map(|((lane, value), &horizon)| Forecast {
        horizon,
        value: plan.floored(value),
        quantiles: lane
            .residuals
            .quantiles(QUANTILES)
            .map(|errors| errors.map(|e| plan.floored(value + e))),
    });
    Some(one.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::noise::normals;

    fn noise(count: usize) -> Vec<f64> {
        normals(21, count).iter().map(|n| 50.0 + n).collect()
    }

    #[test]
    fn intervals_cover_what_they_promise() {
        let scores = backtest(&noise(6000), &[Method::Mean], &Plan::default());
        assert_eq!(scores[0].method, "last");
        let mean = &scores[1];
        for score in &mean.horizons {
            let (inside, below) = (score.coverage_80.unwrap(), score.coverage_p95.unwrap());
            assert!((inside - 0.8).abs() < 0.04, "{score:?}");
            assert!((below - 0.95).abs() < 0.02, "{score:?}");
        }
        // The mean's error is √2 below the last value's on noise; that is no chance.
        let score = &mean.horizons[0];
        assert!((score.mase.unwrap() - 0.5f64.sqrt()).abs() < 0.03);
        assert!(score.against_last.unwrap().p_value < 1e-6);
        assert!(scores[0].horizons[0].against_last.is_none());
    }

    /// A predictor that looks into the future would be right about noise.
    #[test]
    fn nobody_sees_the_future() {
        let values = noise(800);
        let scores = backtest(&values, &Method::ALL, &Plan::default());
        for score in &scores {
            for horizon in &score.horizons {
                assert!(
                    horizon.mase.unwrap() > 0.65,
                    "{}: {horizon:?}",
                    score.method
                );
            }
        }
        // What comes after a forecast does not change it.
        let mut other = values.clone();
        for value in other.iter_mut().skip(700) {
            *value += 40.0;
        }
        let plan = Plan::default();
        let cut = |values: &[f64]| backtest(&values[..700], &Method::ALL, &plan);
        assert_eq!(cut(&values), cut(&other));
    }

    #[test]
    fn horizons_beyond_the_series_are_left_out() {
        let scores = backtest(&noise(300), &[], &Plan::default());
        let horizons: Vec<usize> = scores[0].horizons.iter().map(|s| s.horizon).collect();
        assert_eq!(horizons, [1, 6, 12]);
        assert_eq!(backtest(&noise(10), &Method::ALL, &Plan::default()), []);
        assert_eq!(forecast(&noise(10), Method::Last, &Plan::default()), None);
    }

    #[test]
    fn the_future_has_its_interval() {
        let plan = Plan {
            horizons: vec![1, 24],
            known: Known {
                season: Some(24),
                classes: None,
            },
            ..Plan::default()
        };
        let course: Vec<f64> = noise(960)
            .iter()
            .enumerate()
            .map(|(i, n)| n + 10.0 * ((i % 24) as f64 / 24.0 * std::f64::consts::TAU).sin())
            .collect();
        let found = forecast(&course, Method::HoltWinters, &plan).unwrap();
        // Both foretell the same place of the course.
        for forecast in found {
            let [p10, p50, p90, p95, p99] = forecast.quantiles.unwrap();
            assert!(p10 < p50 && p50 < p90 && p90 <= p95 && p95 <= p99);
            assert!((p90 - p10 - 2.56).abs() < 0.6, "{forecast:?}");
        }
        assert_eq!(forecast(&course, Method::Seasonal, &Plan::default()), None);
    }
}
