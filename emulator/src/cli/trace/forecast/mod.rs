//! `migbed trace forecast`: predictors tested on a trace, always beside the last value.

mod fleet;
mod table;

use super::Source;
use super::each::each_vm;
use crate::characterise::{WINDOW_MS, sampled};
use crate::cli::Exit;
use crate::cli::output::say;
use crate::run::Unusable;
use anyhow::Result;
use clap::Args;
use fleet::{FleetScore, fleet};
use serde::Serialize;
use std::sync::Arc;
use table::print;
use traces::dirty::PageWriteTrace;
use traces::forecast::{
    ClassForecast, Forecast, Known, Method, MethodScore, Plan, QUANTILES, backtest, class_windows,
    forecast,
};
use traces::stats::{Quantity, Sampled, periods};
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
        default_value = "mean,sma:12,ewma,holt-winters,ar,arima,seasonal,lr,signature,ensemble,classes"
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
    /// Length of the windows in which page writes of a page-level recording are counted, seconds.
    #[arg(long, default_value_t = f64::from(WINDOW_MS) / 1000.0, value_name = "SECONDS")]
    window: f64,
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
    /// Page classes after the end, where `classes` foretells them.
    classes_ahead: Option<ClassForecast>,
}

struct Wanted {
    quantities: Vec<Quantity>,
    methods: Vec<Method>,
    ahead: Option<Method>,
    window_ms: u32,
    plan: Plan,
}

/// Windows for which D is foretold from page classes, seconds.
const CURVE_S: [f64; 4] = [0.1, 1.0, 10.0, 60.0];

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
            let all = sampled(series, recording, wanted.window_ms);
            self.test(&meta.name, (&all, recording), &wanted, &mut metrics);
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
        let window_ms = round_usize((self.window * 1000.0).clamp(0.0, 3.6e6));
        let window_ms = u32::try_from(window_ms).unwrap_or(0);
        if !(10..=3_600_000).contains(&window_ms) {
            return Err(Unusable(format!(
                "--window {} is not from 0.01 s to an hour",
                self.window
            ))
            .into());
        }
        Ok(Wanted {
            window_ms,
            quantities: self.metric.iter().map(quantity).collect::<Result<_, _>>()?,
            methods,
            ahead: self.ahead.as_ref().map(method).transpose()?,
            plan: Plan {
                horizons,
                training: self.training,
                most_origins: self.origins.max(1),
                refits: self.refits,
                known: Known::default(),
                floor: Some(0.0),
                threshold: self.threshold,
            },
        })
    }

    fn test(
        &self,
        name: &str,
        (all, recording): (&[(Quantity, Sampled)], Option<&PageWriteTrace>),
        wanted: &Wanted,
        metrics: &mut [MetricOutput],
    ) {
        for metric in metrics {
            let Some((_, series)) = all.iter().find(|(q, _)| *q == metric.quantity) else {
                continue;
            };
            let (values, filled) = series.filled();
            let season = self.season(series, &values);
            let pages = recording.filter(|_| metric.quantity == Quantity::PageWrites);
            let classes = pages.and_then(|trace| class_windows(trace, wanted.window_ms));
            let classes = classes.map(Arc::new);
            let plan = Plan {
                known: Known {
                    season,
                    classes: classes.clone(),
                },
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
                classes_ahead: classes
                    .filter(|_| wanted.ahead == Some(Method::Classes))
                    .and_then(|classes| classes.ahead(&CURVE_S)),
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
