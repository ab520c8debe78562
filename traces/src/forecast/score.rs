//! How good forecasts were.

/// Quantiles that are foretold: the interval of 80 % is from the first to the third.
pub const QUANTILES: [f64; 5] = [0.1, 0.5, 0.9, 0.95, 0.99];

/// Precision and recall of foretelling values above a threshold by the foretold 95th percentile.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct HotSpots {
    /// Foretold and came.
    pub hits: usize,
    /// Foretold and did not come.
    pub false_alarms: usize,
    /// Came and not foretold.
    pub misses: usize,
}

impl HotSpots {
    /// Of those foretold, the share that came.
    #[must_use]
    pub fn precision(&self) -> Option<f64> {
        let foretold = self.hits + self.false_alarms;
        (foretold > 0).then(|| self.hits as f64 / foretold as f64)
    }

    /// Of those that came, the share foretold.
    #[must_use]
    pub fn recall(&self) -> Option<f64> {
        let came = self.hits + self.misses;
        (came > 0).then(|| self.hits as f64 / came as f64)
    }
}

/// A predictor's errors at one horizon.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct HorizonScore {
    /// Steps ahead.
    pub horizon: usize,
    /// Forecasts scored.
    pub forecasts: usize,
    /// Mean absolute error, in the series' unit.
    pub mae: f64,
    /// Root mean square error.
    pub rmse: f64,
    /// MAE over the mean absolute one-step change of the training part (Hyndman and Koehler, 2006);
    /// none when that part is constant.
    pub mase: Option<f64>,
    /// Mean of 200 |e| / (|y| + |f|) per cent, 0 to 200; pairs of zeros count 0.
    pub smape: f64,
    /// Mean of 100 |e| / y per cent over the values above 1 % of the largest of the training part.
    pub mape: Option<f64>,
    /// Share of values that exceeded the forecast.
    pub under_share: f64,
    /// Mean of what they exceeded it by.
    pub mean_shortfall: Option<f64>,
    /// Pinball loss at the [`QUANTILES`], over the forecasts that had an interval.
    pub pinball: Option<[f64; 5]>,
    /// Share of values in the 80 % interval (10th to 90th percentile).
    pub coverage_80: Option<f64>,
    /// Share of values up to the foretold 95th percentile.
    pub coverage_p95: Option<f64>,
    /// With a threshold: hot spots.
    pub hot_spots: Option<HotSpots>,
    /// Diebold-Mariano statistic against the last value on absolute errors, negative when better; and
    /// its two-sided p-value.
    pub against_last: Option<super::DieboldMariano>,
}

/// A predictor's scores.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct MethodScore {
    /// The predictor's name.
    pub method: String,
    /// By horizon; horizons the series is too short for are left out.
    pub horizons: Vec<HorizonScore>,
}

/// Scales and limits of a series.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub(super) naive_mae: f64,
    pub(super) mape_above: f64,
    pub(super) threshold: Option<f64>,
}

impl Scale {
    pub(super) fn of(training: &[f64], threshold: Option<f64>) -> Self {
        let changes = training.windows(2).map(|pair| (pair[1] - pair[0]).abs());
        let count = training.len().saturating_sub(1).max(1);
        let largest = training.iter().fold(0.0f64, |most, v| most.max(v.abs()));
        Self {
            naive_mae: changes.sum::<f64>() / count as f64,
            mape_above: 0.01 * largest,
            threshold,
        }
    }
}

/// One forecast and what came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    pub(super) forecast: f64,
    /// Foretold values at [`QUANTILES`].
    pub(super) quantiles: Option<[f64; 5]>,
    pub(super) value: f64,
}

/// Sums over outcomes of one horizon.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    count: usize,
    absolute: f64,
    square: f64,
    smape: f64,
    mape: (f64, usize),
    under: (f64, usize),
    intervals: usize,
    pinball: [f64; 5],
    inside_80: usize,
    below_95: usize,
    hot: HotSpots,
    pub(super) errors: Vec<f64>,
}

impl Tally {
    pub(super) fn add(&mut self, outcome: &Outcome, scale: &Scale) {
        let Outcome {
            forecast,
            quantiles,
            value,
        } = *outcome;
        let error = value - forecast;
        self.count += 1;
        self.absolute += error.abs();
        self.square += error * error;
        self.errors.push(error.abs());
        let both = value.abs() + forecast.abs();
        if both > 0.0 {
            self.smape += 200.0 * error.abs() / both;
        }
        if value > scale.mape_above {
            self.mape = (self.mape.0 + 100.0 * error.abs() / value, self.mape.1 + 1);
        }
        if error > 0.0 {
            self.under = (self.under.0 + error, self.under.1 + 1);
        }
        let Some(quantiles) = quantiles else { return };
        self.intervals += 1;
        for ((sum, share), foretold) in self.pinball.iter_mut().zip(QUANTILES).zip(quantiles) {
            let over = value - foretold;
            *sum += (share * over).max((share - 1.0) * over);
        }
        self.inside_80 += usize::from(value >= quantiles[0] && value <= quantiles[2]);
        self.below_95 += usize::from(value <= quantiles[3]);
        if let Some(threshold) = scale.threshold {
            match (quantiles[3] > threshold, value > threshold) {
                (true, true) => self.hot.hits += 1,
                (true, false) => self.hot.false_alarms += 1,
                (false, true) => self.hot.misses += 1,
                (false, false) => {}
            }
        }
    }

    /// The score; `None` without a forecast.
    pub(super) fn finish(&self, horizon: usize, scale: &Scale) -> Option<HorizonScore> {
        let n = (self.count > 0).then_some(self.count as f64)?;
        let mean = |(sum, count): (f64, usize)| (count > 0).then(|| sum / count as f64);
        let share =
            |count: usize| (self.intervals > 0).then(|| count as f64 / self.intervals as f64);
        let mae = self.absolute / n;
        Some(HorizonScore {
            horizon,
            forecasts: self.count,
            mae,
            rmse: (self.square / n).sqrt(),
            mase: (scale.naive_mae > 0.0).then(|| mae / scale.naive_mae),
            smape: self.smape / n,
            mape: mean(self.mape),
            under_share: self.under.1 as f64 / n,
            mean_shortfall: mean(self.under),
            pinball: (self.intervals > 0).then(|| self.pinball.map(|p| p / self.intervals as f64)),
            coverage_80: share(self.inside_80),
            coverage_p95: share(self.below_95),
            hot_spots: scale.threshold.map(|_| self.hot),
            against_last: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_known_outcome() {
        let scale = Scale::of(&[0.0, 2.0, 0.0, 2.0], Some(5.0));
        assert_eq!(scale.naive_mae, 2.0);
        let mut tally = Tally::default();
        let outcome = |forecast: f64, value: f64| Outcome {
            forecast,
            quantiles: Some([
                forecast - 1.0,
                forecast,
                forecast + 1.0,
                forecast + 2.0,
                forecast + 3.0,
            ]),
            value,
        };
        tally.add(&outcome(4.0, 6.0), &scale);
        tally.add(&outcome(4.0, 4.0), &scale);
        let found = tally.finish(1, &scale).unwrap();
        assert_eq!((found.mae, found.mase), (1.0, Some(0.5)));
        assert!((found.rmse - 2f64.sqrt()).abs() < 1e-12);
        assert_eq!((found.under_share, found.mean_shortfall), (0.5, Some(2.0)));
        assert_eq!(
            (found.coverage_80, found.coverage_p95),
            (Some(0.5), Some(1.0))
        );
        // Half the absolute error at the median.
        assert_eq!(found.pinball.unwrap()[1], 0.5);
        assert_eq!(found.smape, 20.0);
        let hot = found.hot_spots.unwrap();
        assert_eq!((hot.hits, hot.false_alarms, hot.misses), (1, 1, 0));
        assert_eq!(Tally::default().finish(1, &scale), None);
    }
}
