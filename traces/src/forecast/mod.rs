//! Forecasts of a series, their back-test, and their comparison with the last value.
//!
//! Pure arithmetic over series without holes; docs/characterisation.md has definitions and sources.
//! Never inside: files, clocks, draws that are not seeded; a predictor that sees what it predicts.

mod autoregressive;
mod backtest;
mod chain;
mod classes;
mod compare;
mod ensemble;
mod method;
mod regression;
mod residuals;
mod score;
mod simple;
mod smoothing;

pub use backtest::{Forecast, Plan, backtest, forecast};
pub use classes::{ClassAhead, ClassForecast, ClassWindows, CurveAhead, class_windows};
pub use compare::{DieboldMariano, Paired, diebold_mariano, paired_bootstrap};
pub use method::{Known, Method, MethodError};
pub use score::{HorizonScore, HotSpots, MethodScore, QUANTILES};

/// Says what comes next from what was seen.
pub trait Predictor: std::fmt::Debug {
    /// Chooses parameters on a history and takes it as seen. Called again, it starts anew.
    fn fit(&mut self, history: &[f64]);

    /// One more value was seen.
    fn observe(&mut self, value: f64);

    /// The value `ahead` steps from the last one seen, `ahead` ≥ 1, for each of the ascending
    /// `ahead`s.
    fn predict(&self, ahead: &[usize]) -> Vec<f64>;
}
