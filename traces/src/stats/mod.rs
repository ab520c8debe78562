//! Statistics of traces, per VM and for the fleet: how load is spread, how it hangs together in time,
//! how many distinct pages are dirtied in a window.
//!
//! Pure arithmetic over traces; docs/characterisation.md has every formula with its source. Never
//! inside: fits of memory behaviour (see `fit`), forecasts (see `forecast`), files, text.

mod acf;
mod cpu;
mod curve;
mod describe;
pub mod distribution;
mod fleet;
mod hurst;
mod linear;
pub(crate) mod noise;
mod pages;
mod period;
mod profile;
mod sampled;
mod shifts;
mod stationarity;

pub use acf::{autocorrelation, autocorrelations, correlation};
pub use cpu::{CpuStats, cpu_stats};
pub use curve::{
    CurvePoint, dirty_curve, distinct_in_cells, distinct_in_windows, distinct_per_second,
};
pub use describe::{Bursts, Summary, bursts, dispersion_index, quantile, summary};
pub use fleet::{Gather, Lives, Spread, Together, lives, spread};
pub use hurst::{Scaling, aggregated_variance, dfa};
pub(crate) use linear::Normal;
pub(crate) use noise::Draws;
pub use pages::{
    PageStats, Quantiles, WorkingSet, page_stats, ticks_of, window_quantiles, working_set,
};
pub use period::{Period, periodogram, periods};
pub use profile::{Cross, QuantityStats, cross_correlations, quantity_stats};
pub use sampled::{Quantity, Sampled, Steps, steps};
pub use shifts::{change_points, level_shifts};
pub use stationarity::{UnitRoot, adf, kpss};
