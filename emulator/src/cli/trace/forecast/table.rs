//! What `migbed trace forecast` shows on a terminal.

use super::{MetricOutput, Output, VmOutput};
use crate::cli::output::say;
use comfy_table::Table;
use traces::forecast::ClassForecast;
use traces::stats::Spread;

pub(super) fn print(output: &Output) {
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
            print_ahead(vm);
        }
    }
    say!(
        "MASE: mean absolute error over the one-step naive error of the training part, median (quartiles) \
         over VMs; pinball losses over the same scale. Against last: median difference of MASE with its \
         95 % interval over VMs (– for fewer than five); VMs better/worse by Diebold-Mariano at 5 %."
    );
}

fn print_ahead(vm: &VmOutput) {
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
    if let Some(classes) = &vm.classes_ahead {
        say!("{}: {}", vm.name, parameters(classes));
    }
}

/// Classes that have pages, and the curve they give.
fn parameters(ahead: &ClassForecast) -> String {
    let held = ahead.classes.iter().filter(|class| class.pages > 0);
    let classes: Vec<String> = held
        .map(|class| format!("{} at {:.4}/s", class.pages, class.rate))
        .collect();
    let curve: Vec<String> = ahead
        .curve
        .iter()
        .map(|point| format!("D({} s) = {:.0}", point.window_s, point.pages))
        .collect();
    format!(
        "pages by class {}; {:.1} pages/s never written before; {} (weight {})",
        classes.join(", "),
        ahead.fresh_pages_per_s,
        curve.join(", "),
        ahead.weight
    )
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
