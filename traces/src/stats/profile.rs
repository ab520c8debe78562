//! Everything said about one quantity of one VM.

use super::distribution::{self, Fits};
use super::sampled::{Quantity, Sampled};
use super::{
    Bursts, Period, Scaling, Summary, UnitRoot, adf, aggregated_variance, autocorrelations, bursts,
    dfa, dispersion_index, kpss, level_shifts, periods, summary,
};

/// Statistics of one quantity. What a series is too short or too flat for is `None`.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct QuantityStats {
    /// Which.
    pub quantity: Quantity,
    /// Unit of the values.
    pub unit: &'static str,
    /// Length of a cell in seconds.
    pub step_s: f64,
    /// Cells, known or not.
    pub cells: usize,
    /// Share of cells without a value.
    pub missing_share: f64,
    /// Location and spread of the known values.
    pub summary: Summary,
    /// Stretches above mean plus one deviation; lengths in cells.
    pub bursts: Bursts,
    /// Index of dispersion over 1, 10 and 100 cells.
    pub dispersion_index: [Option<f64>; 3],
    /// Autocorrelation at one cell.
    pub acf_lag1: Option<f64>,
    /// At an hour.
    pub acf_1h: Option<f64>,
    /// At a day.
    pub acf_24h: Option<f64>,
    /// At a week.
    pub acf_7d: Option<f64>,
    /// Periods, the strongest first, at most five.
    pub periods: Vec<Period>,
    /// Hurst's exponent by detrended fluctuations.
    pub dfa: Option<Scaling>,
    /// And by aggregated variance.
    pub aggregated_variance: Option<Scaling>,
    /// Augmented Dickey-Fuller.
    pub adf: Option<UnitRoot>,
    /// KPSS.
    pub kpss: Option<UnitRoot>,
    /// Lasting changes of level.
    pub level_shifts: Option<usize>,
    /// Distributions fitted.
    pub distribution: Fits,
}

/// Most cells of tests that hold copies; beyond, means of neighbours.
const MOST: usize = 100_000;

/// Computes them; `bound` is the most the quantity can be, if that is known.
///
/// Moments, quantiles and bursts are of the known cells. Autocorrelations leave pairs with a hole out.
/// Fluctuations, tests and level shifts need a series without holes and see the last value held.
#[must_use]
pub fn quantity_stats(
    sampled: &Sampled,
    quantity: Quantity,
    bound: Option<f64>,
) -> Option<QuantityStats> {
    let known = sampled.known();
    let summary = summary(&known)?;
    let (filled, _) = sampled.filled();
    let chunk = filled.len().div_ceil(MOST).max(1);
    let means = filled.chunks(chunk);
    let filled: Vec<f64> = means
        .map(|part| part.iter().sum::<f64>() / part.len() as f64)
        .collect();
    let longest = sampled.lag_of(7.0 * 86_400.0);
    let longest = longest
        .or(sampled.lag_of(86_400.0))
        .or(sampled.lag_of(3600.0));
    let acf = autocorrelations(&sampled.values, longest.unwrap_or(1));
    let acf_at = |seconds: f64| acf.get(sampled.lag_of(seconds)?).copied().flatten();
    let mut periods = periods(&sampled.values);
    periods.truncate(5);
    Some(QuantityStats {
        quantity,
        unit: quantity.unit(),
        step_s: sampled.step_s(),
        cells: sampled.values.len(),
        missing_share: sampled.missing_share(),
        summary,
        bursts: bursts(&sampled.values)?,
        dispersion_index: [1, 10, 100].map(|window| dispersion_index(&known, window)),
        acf_lag1: acf.get(1).copied().flatten(),
        acf_1h: acf_at(3600.0),
        acf_24h: acf_at(86_400.0),
        acf_7d: acf_at(7.0 * 86_400.0),
        periods,
        dfa: dfa(&filled),
        aggregated_variance: aggregated_variance(&filled),
        adf: adf(&filled),
        kpss: kpss(&filled),
        level_shifts: level_shifts(&filled),
        distribution: distribution::fits(&known, bound),
    })
}

/// A pair of quantities of one VM and their correlation over the cells where both are known.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Cross {
    /// One.
    pub a: Quantity,
    /// The other.
    pub b: Quantity,
    /// Whether `b` is taken as its change from cell to cell.
    pub change: bool,
    /// Pearson's correlation.
    pub correlation: f64,
}

/// Correlations of CPU with network, page writes and the change of memory, all on one grid.
#[must_use]
pub fn cross_correlations(sampled: &[(Quantity, Sampled)]) -> Vec<Cross> {
    let get = |wanted: Quantity| sampled.iter().find(|(q, _)| *q == wanted).map(|(_, s)| s);
    let Some(cpu) = get(Quantity::Cpu) else {
        return Vec::new();
    };
    let others = [
        (Quantity::Net, false),
        (Quantity::Memory, true),
        (Quantity::DiskWrite, false),
        (Quantity::PageWrites, false),
    ];
    let cross = |(quantity, change): (Quantity, bool)| {
        let other = get(quantity).filter(|o| o.step_ms == cpu.step_ms)?;
        let before = std::iter::once(None).chain(other.values.iter().copied());
        let changes = other.values.iter().zip(before);
        let values = changes.map(|(now, before)| {
            if change {
                Some((*now)? - before?)
            } else {
                *now
            }
        });
        let correlation = super::correlation(cpu.values.iter().copied().zip(values))?;
        let a = Quantity::Cpu;
        Some(Cross {
            a,
            b: quantity,
            change,
            correlation,
        })
    };
    others.into_iter().filter_map(cross).collect()
}
