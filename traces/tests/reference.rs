//! The reference figures of the design notes, computed from the public fixtures:
//! `cargo test -p traces --test reference -- --nocapture` prints asked and got side by side.

mod common;
#[path = "common/public.rs"]
mod public;

use public::Columns;
use traces::stats::{
    Quantity, QuantityStats, Sampled, autocorrelations, dfa, periods, quantity_stats, spread,
    summary,
};

fn sampled(values: &[Option<f64>]) -> Sampled {
    Sampled {
        start_ms: 0,
        step_ms: 300_000,
        values: values.to_vec(),
    }
}

/// Name, columns, and medians over VMs of mean, peak to mean, coefficient of variation,
/// autocorrelation at one step and at a day, exponent of the detrended fluctuations.
type Row = (&'static str, Columns, [Option<f64>; 6]);

fn rows(test: &str) -> Option<Vec<Row>> {
    let (google_cpu, google_memory) = public::google(test)?;
    let (bitbrains_cpu, bitbrains_net) = public::bitbrains(test)?;
    let some = |v: [f64; 6]| v.map(|v| v.is_finite().then_some(v));
    const NO: f64 = f64::NAN;
    Some(vec![
        (
            "PlanetLab CPU",
            public::planetlab(test)?,
            some([9.7, 4.2, 0.78, 0.06, NO, 0.56]),
        ),
        (
            "Azure V1 avg CPU",
            public::azure("wide_avg_cpu.csv.gz", test)?.1,
            some([7.2, 11.2, 0.72, 0.83, 0.27, 0.81]),
        ),
        (
            "Azure V1 periodic",
            public::azure("periodic_avg_cpu.csv.gz", test)?.1,
            some([2.6, 23.0, 1.69, 0.28, 0.00, 0.53]),
        ),
        (
            "Bitbrains CPU",
            bitbrains_cpu,
            some([7.4, 4.4, 0.82, 0.79, 0.83, 0.91]),
        ),
        (
            "Bitbrains network",
            bitbrains_net,
            some([158.0, 18.0, 2.63, 0.39, 0.58, 0.78]),
        ),
        (
            "Google 2011 VM CPU",
            google_cpu,
            some([18.7, 1.4, 0.13, 0.77, NO, 0.99]),
        ),
        (
            "Google 2011 VM memory",
            google_memory,
            some([13.2, 1.04, 0.02, 0.77, NO, 0.98]),
        ),
    ])
}

fn got(columns: &Columns) -> [Option<f64>; 6] {
    let figures = columns.iter().map(|values| {
        let known: Vec<f64> = values.iter().flatten().copied().collect();
        let summary = summary(&known).expect("every VM has samples");
        // A day is asked of VMs that hold at least two.
        let acf = autocorrelations(values, if known.len() >= 2 * 288 { 288 } else { 1 });
        let at = |lag: usize| acf.get(lag).copied().flatten();
        [
            Some(summary.mean),
            summary.peak_to_mean,
            summary.coefficient_of_variation,
            at(1),
            // The two-day Bitbrains files have a few more than 576 samples at odd steps: only the
            // whole months are asked.
            at(288).filter(|_| known.len() > 2000),
            dfa(&known).map(|found| found.exponent),
        ]
    });
    let figures: Vec<[Option<f64>; 6]> = figures.collect();
    std::array::from_fn(|i| spread(figures.iter().map(|f| f[i])).map(|s| s.p50))
}

#[test]
fn medians_over_vms_are_those_of_the_notes() {
    let Some(rows) = rows("medians_over_vms") else {
        return;
    };
    eprintln!("set: mean, peak/mean, CoV, ACF lag 1, ACF 24 h, DFA; asked / got");
    for (name, columns, asked) in rows {
        let got = got(&columns);
        let pairs = asked.iter().zip(&got);
        let text: Vec<String> = pairs
            .clone()
            .map(|(asked, got)| {
                let text = |v: &Option<f64>| v.map_or("-".into(), |v| format!("{v:.3}"));
                format!("{} / {}", text(asked), text(got))
            })
            .collect();
        eprintln!("{name} ({}): {}", columns.len(), text.join(", "));
        for (column, (asked, got)) in pairs.enumerate() {
            let Some(asked) = asked else { continue };
            let got = got.expect("asked for, so it can be computed");
            // As printed: half a unit of the last digit; the exponent depends on the range of
            // boxes, which the notes do not state.
            let near = [
                0.05f64.max(asked * 0.011),
                0.05f64.max(asked * 0.021),
                0.006,
                0.006,
                0.006,
                0.015,
            ];
            assert!(
                (asked - got).abs() <= near[column],
                "{name}, column {column}: {asked} {got}"
            );
        }
    }
}

/// VMs labelled with a period of 1, 8 or 24 h by the carrier of the data. What the data say: nearly
/// all of them do something about once an hour (12.25 to 13.1 samples apart); a day is in the data of
/// one alone, and there as a multiple of ten minutes.
#[test]
fn labelled_periods_against_what_is_in_the_data() {
    let Some((names, columns)) = public::azure("periodic_avg_cpu.csv.gz", "labelled_periods")
    else {
        return;
    };
    let mut hourly = 0;
    for (name, values) in names.iter().zip(&columns) {
        let (vm, label) = name.rsplit_once(' ').expect("a label");
        let found = periods(values);
        let hours = |length: f64| length / 12.0;
        let list: Vec<String> = found
            .iter()
            .take(4)
            .map(|p| format!("{:.2} h (r {:.2})", hours(p.length), p.autocorrelation))
            .collect();
        let acf = autocorrelations(values, 288);
        let at = |lag: usize| acf[lag].expect("a month of samples");
        eprintln!(
            "{vm}: label {label} h; ACF 1 h {:.2}, 8 h {:.2}, 24 h {:.2}; found {}",
            at(12),
            at(96),
            at(288),
            list.join(", ")
        );
        hourly += usize::from(found.iter().any(|p| (hours(p.length) - 1.05).abs() <= 0.1));
        if label == "24" && vm != "1555166" {
            assert!(at(288) < 0.1, "{vm}: a day would be seen here");
        }
    }
    assert!(hourly >= 8, "{hourly}");
}

#[test]
fn everything_is_said_of_every_vm() {
    let Some((_, columns)) = public::azure("wide_avg_cpu.csv.gz", "everything_is_said") else {
        return;
    };
    for values in &columns {
        let found: QuantityStats =
            quantity_stats(&sampled(values), Quantity::Cpu, Some(100.0)).expect("there are values");
        assert!(found.adf.is_some() && found.kpss.is_some() && found.level_shifts.is_some());
        assert!(found.acf_7d.is_some() && !found.distribution.fits.is_empty());
    }
}

/// By set as in [`rows`]: last, EWMA 0.3, SMA 12, AR(1), AR(6), LR over 10, seasonal; MAE and MASE.
const ONE_STEP: [[(f64, f64); 7]; 7] = [
    [
        (8.13, 0.98),
        (6.94, 0.83),
        (6.80, 0.81),
        (6.89, 0.81),
        (6.75, 0.81),
        (8.00, 0.96),
        NO,
    ],
    [
        (2.54, 1.00),
        (2.56, 0.96),
        (2.78, 1.09),
        (3.13, 1.02),
        (3.31, 0.98),
        (3.05, 1.12),
        (3.89, 1.52),
    ],
    [
        (2.53, 1.02),
        (2.58, 1.09),
        (2.71, 1.11),
        (2.23, 1.01),
        (2.19, 0.99),
        (3.39, 1.46),
        (2.38, 1.04),
    ],
    [
        (2.37, 0.99),
        (2.55, 0.99),
        (3.03, 1.18),
        (3.55, 1.12),
        (3.28, 1.02),
        (2.98, 1.15),
        NO,
    ],
    [
        (685.0, 0.97),
        (748.0, 1.06),
        (827.0, 1.13),
        (758.0, 1.03),
        (764.0, 1.06),
        (953.0, 1.39),
        NO,
    ],
    [
        (1.50, 1.05),
        (1.34, 1.01),
        (1.47, 1.08),
        (1.58, 1.10),
        (1.20, 0.99),
        (1.52, 1.12),
        NO,
    ],
    [
        (0.16, 1.02),
        (0.18, 1.06),
        (0.22, 1.25),
        (0.19, 1.30),
        (0.18, 1.11),
        (0.20, 1.17),
        NO,
    ],
];

/// Not asked.
const NO: (f64, f64) = (f64::NAN, f64::NAN);

/// One step ahead, fitted once on the first half, scored on the second: mean over VMs of the MAE in the
/// unit of the data, and median over VMs of the MASE.
#[test]
fn one_step_errors_are_those_of_the_notes() {
    use traces::forecast::{Known, Method, Plan, backtest};
    let methods: Vec<Method> = ["ewma:0.3", "sma:12", "ar:1", "ar:6", "lr", "seasonal"]
        .iter()
        .map(|name| name.parse().expect("a predictor"))
        .collect();
    let plan = Plan {
        horizons: vec![1],
        most_origins: usize::MAX,
        refits: 0,
        known: Known {
            season: Some(288),
            classes: None,
        },
        floor: None,
        ..Plan::default()
    };
    let test = "one_step_errors";
    let Some(rows) = rows(test) else { return };
    eprintln!("set, predictor: MAE (MASE), asked / got");
    for ((name, columns, _), asked) in rows.iter().zip(ONE_STEP) {
        let scores: Vec<_> = columns
            .iter()
            .map(|values| backtest(&sampled(values).filled().0, &methods, &plan))
            .collect();
        let names = std::iter::once(Method::Last).chain(methods.iter().copied());
        for (method, asked) in names.zip(asked) {
            // The notes scored the season where every VM has it.
            if asked.0.is_nan() {
                continue;
            }
            let of = |vm: &Vec<traces::forecast::MethodScore>| {
                let score = vm.iter().find(|s| s.method == method.to_string())?;
                score.horizons.first().map(|h| (h.mae, h.mase))
            };
            let found: Vec<_> = scores.iter().filter_map(of).collect();
            let mae = found.iter().map(|f| f.0).sum::<f64>() / found.len() as f64;
            let mase = spread(found.iter().map(|f| f.1))
                .expect("VMs that change")
                .p50;
            eprintln!(
                "{name}, {method}: {} ({}) / {mae:.3} ({mase:.3})",
                asked.0, asked.1
            );
            // A unit of the last digit, or 1 % (AR by another estimator), of the MAE; 3 % of the MASE.
            assert!(
                (mae - asked.0).abs() <= (0.01 * asked.0).max(0.0051),
                "{name}, {method}"
            );
            assert!((mase - asked.1).abs() <= 0.03 * asked.1, "{name}, {method}");
        }
    }
}
