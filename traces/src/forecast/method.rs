//! The predictors by name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Predictor;
use super::autoregressive::{Arima, Autoregressive};
use super::chain::{Markov, Signature};
use super::classes::{ClassWindows, Classes};
use super::ensemble::Ensemble;
use super::regression::Loess;
use super::simple::{Drift, Last, Mean, MovingAverage, SeasonalNaive};
use super::smoothing::{Ewma, Holt, HoltWinters};

/// A predictor and what is fixed of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// The last value.
    Last,
    /// The straight line from the first value through the last.
    Drift,
    /// The mean of all values.
    Mean,
    /// The mean of the last n.
    MovingAverage(usize),
    /// Exponential smoothing; the weight fitted when `None`.
    Ewma(Option<f64>),
    /// Holt's linear trend, damped.
    Holt,
    /// Additive Holt-Winters.
    HoltWinters,
    /// Autoregression by Burg's method; the order by AIC when `None`.
    Autoregressive(Option<usize>),
    /// ARIMA(p, 1, q) with p and q up to 2 by AIC.
    Arima,
    /// The value one season ago.
    Seasonal,
    /// Local linear regression over the last 10 values.
    Loess,
    /// The same, robust.
    RobustLoess,
    /// A Markov chain over 20 bins.
    Markov,
    /// The mean course of a period, where there is one; else the Markov chain.
    Signature,
    /// Several of them, weighted by how well they did lately.
    Ensemble,
    /// Exponential smoothing of the parameters of page classes, and D(t) from them.
    Classes,
}

/// What predictors may know of a series besides its values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    /// Length of a season, in steps.
    pub season: Option<usize>,
    /// The page classes of the recording whose windows the values count.
    pub classes: Option<Arc<ClassWindows>>,
}

/// A name that is no predictor's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no predictor `{name}`; there are {known}; sma:N, ewma:A and ar:N fix their parameter",
    known = Method::ALL.map(|m| m.to_string()).join(", ")
)]
pub struct MethodError {
    /// What was asked for.
    pub name: String,
}

impl Method {
    /// All, with their usual parameters; the last value first.
    pub const ALL: [Self; 16] = [
        Self::Last,
        Self::Drift,
        Self::Mean,
        Self::MovingAverage(12),
        Self::Ewma(None),
        Self::Holt,
        Self::HoltWinters,
        Self::Autoregressive(None),
        Self::Arima,
        Self::Seasonal,
        Self::Loess,
        Self::RobustLoess,
        Self::Markov,
        Self::Signature,
        Self::Ensemble,
        Self::Classes,
    ];

    /// Whether it needs a season.
    #[must_use]
    pub fn is_seasonal(self) -> bool {
        matches!(self, Self::HoltWinters | Self::Seasonal)
    }

    /// Makes the predictor; `None` for a seasonal one without a season, and for page classes of a series
    /// that is not of a page-level recording.
    #[must_use]
    pub fn predictor(self, known: &Known) -> Option<Box<dyn Predictor>> {
        let season = known.season;
        Some(match self {
            Self::Last => Box::new(Last::default()),
            Self::Drift => Box::new(Drift::default()),
            Self::Mean => Box::new(Mean::default()),
            Self::MovingAverage(n) => Box::new(MovingAverage::new(n)),
            Self::Ewma(weight) => Box::new(Ewma::new(weight)),
            Self::Holt => Box::new(Holt::default()),
            Self::HoltWinters => Box::new(HoltWinters::new(season?)),
            Self::Autoregressive(order) => Box::new(Autoregressive::new(order)),
            Self::Arima => Box::new(Arima::default()),
            Self::Seasonal => Box::new(SeasonalNaive::new(season?)),
            Self::Loess => Box::new(Loess::new(false)),
            Self::RobustLoess => Box::new(Loess::new(true)),
            Self::Markov => Box::new(Markov::default()),
            Self::Signature => Box::new(Signature::new(season)),
            Self::Ensemble => Box::new(Ensemble::new(known)),
            Self::Classes => Box::new(Classes::new(Arc::clone(known.classes.as_ref()?))),
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last => f.write_str("last"),
            Self::Drift => f.write_str("drift"),
            Self::Mean => f.write_str("mean"),
            Self::MovingAverage(n) => write!(f, "sma:{n}"),
            Self::Ewma(None) => f.write_str("ewma"),
            Self::Ewma(Some(weight)) => write!(f, "ewma:{weight}"),
            Self::Holt => f.write_str("holt"),
            Self::HoltWinters => f.write_str("holt-winters"),
            Self::Autoregressive(None) => f.write_str("ar"),
            Self::Autoregressive(Some(order)) => write!(f, "ar:{order}"),
            Self::Arima => f.write_str("arima"),
            Self::Seasonal => f.write_str("seasonal"),
            Self::Loess => f.write_str("lr"),
            Self::RobustLoess => f.write_str("lrr"),
            Self::Markov => f.write_str("markov"),
            Self::Signature => f.write_str("signature"),
            Self::Ensemble => f.write_str("ensemble"),
            Self::Classes => f.write_str("classes"),
        }
    }
}

impl FromStr for Method {
    type Err = MethodError;

    fn from_str(name: &str) -> Result<Self, MethodError> {
        let unknown = || MethodError {
            name: name.to_owned(),
        };
        let Some((head, value)) = name.split_once(':') else {
            let plain = if name == "sma" { "sma:12" } else { name };
            let mut all = Self::ALL.into_iter();
            return all.find(|m| m.to_string() == plain).ok_or_else(unknown);
        };
        let count = value
            .parse::<usize>()
            .ok()
            .filter(|n| (1..=4096).contains(n));
        let weight = value.parse::<f64>().ok().filter(|w| *w > 0.0 && *w <= 1.0);
        match (head, count, weight) {
            ("sma", Some(n), _) => Ok(Self::MovingAverage(n)),
            ("ar", Some(n), _) if n <= 64 => Ok(Self::Autoregressive(Some(n))),
            ("ewma", _, Some(weight)) => Ok(Self::Ewma(Some(weight))),
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A season, and classes of a recording shorter than any series asked about.
    fn known() -> Known {
        let tick = |index: u64| crate::dirty::Tick {
            t_ns: index * 100_000_000,
            cpu_ns: 0,
            runs: vec![crate::dirty::Run { start: 0, len: 3 }],
        };
        let trace = crate::dirty::PageWriteTrace {
            title: String::new(),
            pages: 3,
            interval_ns: 100_000_000,
            ticks: (1..=30).map(tick).collect(),
        };
        Known {
            season: Some(24),
            classes: super::super::class_windows(&trace, 1000).map(Arc::new),
        }
    }

    #[test]
    fn names_come_back() {
        let fixed = [
            Method::Autoregressive(Some(6)),
            Method::Ewma(Some(0.3)),
            Method::MovingAverage(3),
        ];
        for method in Method::ALL.into_iter().chain(fixed) {
            assert_eq!(method.to_string().parse(), Ok(method));
        }
        assert_eq!("sma".parse(), Ok(Method::MovingAverage(12)));
        for name in ["", "ar:0", "ewma:2", "sma:x", "last:3", "lstm"] {
            assert!(name.parse::<Method>().is_err(), "{name}");
        }
    }

    /// Whatever the series, no predictor panics or answers with other than a finite number.
    #[test]
    fn every_predictor_answers_on_any_series() {
        let noise = crate::stats::noise::normals(4, 400);
        let series: [Vec<f64>; 7] = [
            vec![],
            vec![3.0],
            vec![5.0; 300],
            vec![0.0, 0.0, 1e12, 0.0, 0.0],
            noise.clone(),
            noise.iter().map(|n| n.abs() * 1e9).collect(),
            (0..300).map(|i| f64::from(i % 24)).collect(),
        ];
        for method in Method::ALL {
            for values in &series {
                let mut predictor = method.predictor(&known()).unwrap();
                predictor.fit(values);
                for value in values.iter().rev().take(50) {
                    predictor.observe(*value);
                    let found = predictor.predict(&[1, 6, 288]);
                    let fine = found.len() == 3 && found.iter().all(|v| v.is_finite());
                    assert!(fine, "{method}: {found:?}");
                }
            }
        }
    }

    /// What each is made for, it foretells.
    #[test]
    fn predictors_know_their_own_kind() {
        let last_error = |method: Method, values: &[f64]| {
            let mut predictor = method.predictor(&known()).unwrap();
            let (seen, rest) = values.split_at(values.len() - 12);
            predictor.fit(seen);
            let found = predictor.predict(&[1, 12]);
            (found[0] - rest[0]).abs().max((found[1] - rest[11]).abs())
        };
        let line: Vec<f64> = (0..200).map(|i| 5.0 + 0.5 * f64::from(i)).collect();
        for method in [
            Method::Drift,
            Method::Loess,
            Method::RobustLoess,
            Method::Arima,
        ] {
            assert!(last_error(method, &line) < 1e-3, "{method}");
        }
        let course: Vec<f64> = (0..480).map(|i| f64::from(i % 24).powi(2)).collect();
        for method in [Method::Seasonal, Method::HoltWinters, Method::Signature] {
            assert!(last_error(method, &course) < 1e-6, "{method}");
        }
        assert!(last_error(Method::Autoregressive(Some(2)), &sine()) < 0.1);
    }

    fn sine() -> Vec<f64> {
        (0..600).map(|i| (f64::from(i) / 5.0).sin()).collect()
    }
}
