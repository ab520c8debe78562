//! `migbed trace forecast`: predictors tested on a trace, always beside the last value.

mod fleet;

use super::Source;
use super::each::each_vm;
use crate::characterise::sampled;
use crate::cli::Exit;
use crate::cli::output::say;
use crate::run::Unusable;
use anyhow::Result;
use clap::Args;
use comfy_table::Table;
use fleet::{FleetScore, fleet};
use serde::Serialize;
use traces::forecast::{Forecast, Method, MethodScore, Plan, QUANTILES, backtest, forecast};
use traces::stats::{Quantity, Sampled, Spread, periods};
use traces::units::round_usize;

#[derive(Debug, Args)]
pub(in crate::cli) struct ForecastArgs {
    #[command(flatten)]
    source: Source,
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

struct Wanted {
    quantities: Vec<Quantity>,
    methods: Vec<Method>,
    ahead: Option<Method>,
    plan: Plan,
}

impl ForecastArgs {
    pub(super) fn execute(&self) -> Result<Exit> {
        let wanted = self.wanted()?;
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
        let streamed = each_vm(&self.source, |meta, series, recording| {
            let all = sampled(series, recording);
            self.test(&meta.name, &all, &wanted, &mut metrics);
        })?;
        let Some(streamed) = streamed else {
            return Ok(Exit::Interrupted);
        };
        metrics.retain(|metric| !metric.vms.is_empty());
        if metrics.is_empty() {
            let names: Vec<&str> = wanted.quantities.iter().map(|q| q.name()).collect();
            return Err(Unusable(format!(
                "{} has no series of {} with at least 40 values",
                self.source.name(),
                names.join(", ")
            ))
            .into());
        }
        for metric in &mut metrics {
            metric.fleet = fleet(&metric.vms);
        }
        let output = Output {
            version: 1,
            source: self.source.name(),
            format: streamed.format.name().to_owned(),
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

    fn test(
        &self,
        name: &str,
        all: &[(Quantity, Sampled)],
        wanted: &Wanted,
        metrics: &mut [MetricOutput],
    ) {
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
                name: name.to_owned(),
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
            if s.mae_mean >= 100.0 {
                format!("{:.0}", s.mae_mean)
            } else {
                format!("{:.4}", s.mae_mean)
            },
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
