//! Curves of one quantity of one VM: over time, autocorrelation, periodogram, distribution.

use super::super::plot::{Curve, Plot, Scale};
use super::duration;
use traces::stats::distribution::cumulative;
use traces::stats::{Quantity, QuantityStats, Sampled, autocorrelations, periodogram, quantile};

/// Curves of one VM and quantity, made while its samples are at hand.
#[derive(Debug)]
pub struct Curves {
    pub(super) quantity: Quantity,
    course: Vec<(f64, f64)>,
    acf: Vec<(f64, f64)>,
    spectrum: Vec<(f64, f64)>,
    ecdf: Vec<(f64, f64)>,
}

/// Points of a curve.
const POINTS: usize = 500;

impl Curves {
    /// Draws from a series.
    #[must_use]
    pub fn of(quantity: Quantity, sampled: &Sampled) -> Self {
        let step_s = sampled.step_s();
        let count = sampled.values.len();
        let every = count.div_ceil(POINTS).max(1);
        let mean = |(index, part): (usize, &[Option<f64>])| {
            let known: Vec<f64> = part.iter().flatten().copied().collect();
            let mean = known.iter().sum::<f64>() / known.len() as f64;
            (!known.is_empty()).then_some((index as f64 * every as f64 * step_s, mean))
        };
        let acf = autocorrelations(&sampled.values, count / 3);
        let skip = acf.len().div_ceil(2 * POINTS).max(1);
        let lagged = acf.iter().enumerate().step_by(skip);
        let mut sorted = sampled.known();
        sorted.sort_unstable_by(f64::total_cmp);
        let share = |i: usize| i as f64 / 200.0;
        Self {
            quantity,
            course: sampled
                .values
                .chunks(every)
                .enumerate()
                .filter_map(mean)
                .collect(),
            acf: lagged
                .filter_map(|(lag, r)| Some((lag as f64 * step_s, (*r)?)))
                .collect(),
            spectrum: spectrum(&periodogram(&sampled.values), count as f64 * step_s),
            ecdf: (0..=200)
                .filter_map(|i| Some((quantile(&sorted, share(i))?, share(i))))
                .collect(),
        }
    }
}

/// The largest power within each of some equal parts of the logarithm of the period.
fn spectrum(powers: &[f64], length_s: f64) -> Vec<(f64, f64)> {
    let mut out: Vec<(f64, f64)> = Vec::new();
    let mut bin = i64::MIN;
    for (index, &power) in powers.iter().enumerate() {
        let cycles = index as f64 + 1.0;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a logarithm of a count, times a small number"
        )]
        let place = (cycles.ln() * 60.0) as i64;
        match out.last_mut() {
            Some(last) if place == bin => {
                if power > last.1 {
                    *last = (length_s / cycles, power);
                }
            }
            _ => out.push((length_s / cycles, power)),
        }
        bin = place;
    }
    out
}

pub(super) fn curve(class: &'static str, label: &str, points: Vec<(f64, f64)>) -> Curve {
    Curve {
        class,
        label: label.to_owned(),
        points,
        dots: false,
    }
}

/// The values' own distribution and the nearest family's.
fn distribution_curves(stats: &QuantityStats, curves: &Curves) -> Vec<Curve> {
    let mut spread = vec![curve("c0", "values (share at most)", curves.ecdf.clone())];
    let fits = &stats.distribution;
    if let Some(fit) = fits.fits.first() {
        let verdict = if fits.best().is_some() {
            "fits"
        } else {
            "nearest, does not fit"
        };
        let label = format!("{} ({verdict}, KS {:.3})", fit.family.name(), fit.ks);
        let at = |x: f64| {
            let p = cumulative(fit.family, fit.parameters, fits.bound, x);
            fits.zero_share + (1.0 - fits.zero_share) * p
        };
        let points = curves.ecdf.iter().map(|&(x, _)| (x, at(x))).collect();
        spread.push(curve("c1", &label, points));
    }
    spread
}

pub(super) fn quantity_plots(stats: &QuantityStats, curves: &Curves) -> Vec<Plot> {
    let name = stats.quantity.name();
    let periods = stats.periods.iter().take(3);
    let marks: Vec<(f64, String)> = periods
        .map(|p| (p.length * stats.step_s, duration(p.length * stats.step_s)))
        .collect();
    let plot = |title: &str, x, y, curves, marks| Plot {
        title: format!("{name}: {title}"),
        x,
        y,
        curves,
        marks,
    };
    let linear = Scale::Linear;
    vec![
        plot(
            "over time",
            (linear, "s from the start"),
            (linear, stats.unit),
            vec![curve(
                "c0",
                &format!("{name} over time"),
                curves.course.clone(),
            )],
            vec![],
        ),
        plot(
            "autocorrelation",
            (linear, "lag in s"),
            (linear, "r"),
            vec![curve(
                "c0",
                "autocorrelation; marks: periods found",
                curves.acf.clone(),
            )],
            marks.clone(),
        ),
        plot(
            "periodogram",
            (Scale::Log, "period in s"),
            (linear, "share"),
            vec![curve(
                "c4",
                "share of variance by period",
                curves.spectrum.clone(),
            )],
            marks,
        ),
        plot(
            "distribution",
            (linear, stats.unit),
            (linear, "share"),
            distribution_curves(stats, curves),
            vec![],
        ),
    ]
}
