//! `migbed trace forecast`: predictors tested on a trace, always beside the last value.

use super::meter::Meter;
use super::{LoadedVm, Source};
use crate::characterise::sampled;
use crate::cli::Exit;
use crate::cli::output::say;
use crate::run::Unusable;
use anyhow::Result;
use clap::Args;
use comfy_table::Table;
use serde::Serialize;
use traces::forecast::{
    Forecast, HorizonScore, Method, MethodScore, Paired, Plan, QUANTILES, backtest, forecast,
    paired_bootstrap,
};
use traces::stats::{Quantity, Sampled, Spread, periods, spread};
use traces::units::round_usize;

#[derive(Debug, Args)]
pub(in crate::cli) struct ForecastArgs {
    #[command(flatten)]
    source: Source,
    /// Only these VMs, by name; can be given several times.
    #[arg(long = "vm", value_name = "NAME")]
    vms: Vec<String>,
    /// What to foretell: cpu, net, page-writes, and what `trace stats` knows besides.
    #[arg(long, value_delimiter = ',', default_value = "cpu,net,page-writes")]
    metric: Vec<String>,
    /// Predictors beside `last`, or `all`.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "mean,sma:12,ewma,holt-winters,ar,arima,seasonal,lr,signature,ensemble"
    )]
    predictor: Vec<String>,
    /// Steps ahead.
    #[arg(long, value_delimiter = ',', default_value = "1,6,12,288")]
    horizons: Vec<usize>,
    /// Share of each series kept for training.
    #[arg(long, default_value_t = 0.5, value_name = "SHARE")]
    training: f64,
    /// Length of a season in seconds; found from the training part when not given.
    #[arg(long, value_name = "SECONDS")]
    season: Option<f64>,
    /// Count foretold and missed values above this (unit of the metric) as hot spots.
    #[arg(long, value_name = "VALUE")]
    threshold: Option<f64>,
    /// Forecasts scored for each series and horizon at most.
    #[arg(long, default_value_t = 500, value_name = "N")]
    origins: usize,
    /// Times parameters are chosen again in the scored part.
    #[arg(long, default_value_t = 4, value_name = "N")]
    refits: usize,
    /// Also foretell what comes after the end, with this predictor.
    #[arg(long, value_name = "PREDICTOR")]
    ahead: Option<String>,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON.
#[derive(Debug, Serialize)]
struct Output {
    version: u32,
    source: String,
    format: String,
    quantiles: [f64; 5],
    training: f64,
    metrics: Vec<MetricOutput>,
}

#[derive(Debug, Serialize)]
struct MetricOutput {
    quantity: Quantity,
    unit: &'static str,
    fleet: Vec<FleetScore>,
    vms: Vec<VmOutput>,
}

#[derive(Debug, Serialize)]
struct VmOutput {
    name: String,
    step_s: f64,
    cells: usize,
    filled: usize,
    season_s: Option<f64>,
    scores: Vec<MethodScore>,
    ahead: Option<Vec<Forecast>>,
}

/// A predictor at one horizon over the VMs.
#[derive(Debug, Serialize)]
struct FleetScore {
    method: String,
    horizon: usize,
    vms: usize,
    mae_mean: f64,
    mase: Option<Spread>,
    /// Medians over VMs of the pinball losses over the one-step naive error.
    pinball_scaled: [Option<f64>; 5],
    coverage_80: Option<Spread>,
    coverage_p95: Option<Spread>,
    under_share: Option<Spread>,
    precision: Option<f64>,
    recall: Option<f64>,
    /// Median difference of MASE to the last value's, with 95 % by bootstrap over VMs.
    against_last: Option<Paired>,
    /// VMs on which it is better, and worse, than the last value by Diebold and Mariano at 5 %.
    better: usize,
    worse: usize,
}

struct Wanted {
    quantities: Vec<Quantity>,
    methods: Vec<Method>,
    ahead: Option<Method>,
    plan: Plan,
}

impl ForecastArgs {
    pub(super) fn execute(&self) -> Result<Exit> {
        let wanted = self.wanted()?;
        let (format, vms) = self.source.load(&self.vms)?;
        let mut metrics: Vec<MetricOutput> = wanted
            .quantities
            .iter()
            .map(|&quantity| MetricOutput {
                quantity,
                unit: quantity.unit(),
                fleet: Vec::new(),
                vms: Vec::new(),
            })
            .collect();
        let mut meter = Meter::new("back-testing", vms.len());
        for vm in vms {
            self.test(&vm, &wanted, &mut metrics);
            meter.step();
        }
        drop(meter);
        metrics.retain(|metric| !metric.vms.is_empty());
        if metrics.is_empty() {
            let names: Vec<&str> = wanted.quantities.iter().map(|q| q.name()).collect();
            return Err(Unusable(format!(
                "{} has no series of {} with at least 40 values",
                self.source.path.display(),
                names.join(", ")
            ))
            .into());
        }
        for metric in &mut metrics {
            metric.fleet = fleet(&metric.vms);
        }
        let output = Output {
            version: 1,
            source: self.source.path.display().to_string(),
            format,
            quantiles: QUANTILES,
            training: wanted.plan.training,
            metrics,
        };
        if self.json {
            say!("{}", serde_json::to_string_pretty(&output)?);
        } else {
            print(&output);
        }
        Ok(Exit::Done)
    }

    fn wanted(&self) -> Result<Wanted> {
        let quantity = |name: &String| {
            Quantity::from_name(name).ok_or_else(|| {
                let known = Quantity::ALL.map(Quantity::name).join(", ");
                Unusable(format!("there is no metric `{name}`; there are {known}"))
            })
        };
        let method = |name: &String| {
            name.parse::<Method>()
                .map_err(|error| Unusable(error.to_string()))
        };
        let methods = if self.predictor.iter().any(|name| name == "all") {
            Method::ALL.to_vec()
        } else {
            self.predictor
                .iter()
                .map(method)
                .collect::<Result<_, _>>()?
        };
        let mut horizons = self.horizons.clone();
        horizons.sort_unstable();
        horizons.dedup();
        if horizons.first().is_none_or(|&h| h == 0) || horizons.last().is_some_and(|&h| h > 100_000)
        {
            return Err(Unusable("horizons are from 1 to 100000 steps".to_owned()).into());
        }
        if !(0.1..=0.9).contains(&self.training) {
            return Err(Unusable(format!(
                "--training {} is not from 0.1 to 0.9",
                self.training
            ))
            .into());
        }
        Ok(Wanted {
            quantities: self.metric.iter().map(quantity).collect::<Result<_, _>>()?,
            methods,
            ahead: self.ahead.as_ref().map(method).transpose()?,
            plan: Plan {
                horizons,
                training: self.training,
                most_origins: self.origins.max(1),
                refits: self.refits,
                season: None,
                floor: Some(0.0),
                threshold: self.threshold,
            },
        })
    }

    fn test(&self, vm: &LoadedVm, wanted: &Wanted, metrics: &mut [MetricOutput]) {
        let all = sampled(&vm.series, vm.page_writes.as_ref());
        for metric in metrics {
            let Some((_, series)) = all.iter().find(|(q, _)| *q == metric.quantity) else {
                continue;
            };
            let (values, filled) = series.filled();
            let season = self.season(series, &values);
            let plan = Plan {
                season,
                ..wanted.plan.clone()
            };
            let scores = backtest(&values, &wanted.methods, &plan);
            if scores.is_empty() {
                continue;
            }
            metric.vms.push(VmOutput {
                name: vm.meta.name.clone(),
                step_s: series.step_s(),
                cells: values.len(),
                filled,
                season_s: season.map(|season| season as f64 * series.step_s()),
                scores,
                ahead: wanted
                    .ahead
                    .and_then(|method| forecast(&values, method, &plan)),
            });
        }
    }

    /// The season in cells: as given; else the strongest period of the training part; else a day.
    fn season(&self, series: &Sampled, values: &[f64]) -> Option<usize> {
        if let Some(seconds) = self.season {
            return Some(round_usize(seconds / series.step_s()));
        }
        let training = round_usize((values.len() as f64 * self.training).floor());
        let training: Vec<Option<f64>> = values[..training].iter().copied().map(Some).collect();
        let found = periods(&training).first().map(|p| round_usize(p.length));
        found
            .filter(|length| *length >= 3)
            .or_else(|| series.lag_of(86_400.0))
    }
}

fn fleet(vms: &[VmOutput]) -> Vec<FleetScore> {
    let mut pairs: Vec<(String, usize)> = Vec::new();
    for score in vms.iter().flat_map(|vm| &vm.scores) {
        for horizon in &score.horizons {
            let pair = (score.method.clone(), horizon.horizon);
            if !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
    }
    // By horizon, the last value first, then in the order asked for.
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

fn print(output: &Output) {
    for metric in &output.metrics {
        let vms = metric.vms.len();
        let step = metric.vms.first().map_or(0.0, |vm| vm.step_s);
        say!(
            "{}, {} [{}]: {vms} VMs, steps of {step} s, {:.0} % of each series for training, rolling origin",
            output.source,
            metric.quantity.name(),
            metric.unit,
            output.training * 100.0
        );
        say!("{}", table(metric));
        for vm in &metric.vms {
            for f in vm.ahead.iter().flatten() {
                let interval = f.quantiles.map_or_else(
                    || "no interval: too few errors known".to_owned(),
                    |q| {
                        format!(
                            "80 % in {:.3} – {:.3}, p95 {:.3}, p99 {:.3}",
                            q[0], q[2], q[3], q[4]
                        )
                    },
                );
                say!(
                    "{}: {} steps ahead {:.3}; {interval}",
                    vm.name,
                    f.horizon,
                    f.value
                );
            }
        }
    }
    say!(
        "MASE: mean absolute error over the one-step naive error of the training part, median (quartiles) \
         over VMs; pinball losses over the same scale. Against last: median difference of MASE with its \
         95 % interval over VMs (– for fewer than five); VMs better/worse by Diebold-Mariano at 5 %."
    );
}

fn table(metric: &MetricOutput) -> Table {
    let number = |v: Option<f64>| v.map_or_else(|| "–".to_owned(), |v| format!("{v:.2}"));
    let percent =
        |s: Option<Spread>| s.map_or_else(|| "–".to_owned(), |s| format!("{:.0} %", s.p50 * 100.0));
    let hot = metric
        .fleet
        .iter()
        .any(|s| s.recall.is_some() || s.precision.is_some());
    let mut table = Table::new();
    let mut header = vec![
        "steps",
        "predictor",
        "VMs",
        "MASE",
        "MAE",
        "pinball .5",
        ".9",
        ".95",
        ".99",
        "in 80 %",
        "below p95",
        "against last",
        "better/worse",
    ];
    if hot {
        header.extend(["hot: precision", "recall"]);
    }
    table.set_header(header);
    for s in &metric.fleet {
        let mase = s.mase.map_or_else(
            || "–".to_owned(),
            |m| format!("{:.2} ({:.2} – {:.2})", m.p50, m.p25, m.p75),
        );
        let against = s.against_last.map_or_else(
            || "–".to_owned(),
            |p| format!("{:+.3} ({:+.3} … {:+.3})", p.median, p.low, p.high),
        );
        let told = if s.method == "last" {
            "–".to_owned()
        } else {
            format!("{}/{}", s.better, s.worse)
        };
        let mut row = vec![
            s.horizon.to_string(),
            s.method.clone(),
            s.vms.to_string(),
            mase,
            format!("{:.4}", s.mae_mean),
        ];
        row.extend([1, 2, 3, 4].map(|index| number(s.pinball_scaled[index])));
        row.extend([
            percent(s.coverage_80),
            percent(s.coverage_p95),
            against,
            told,
        ]);
        if hot {
            row.extend([number(s.precision), number(s.recall)]);
        }
        table.add_row(row);
    }
    table
}
