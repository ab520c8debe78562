//! `migbed links`: a scenario's network without its VMs, asked against got.

use super::Exit;
use super::backend::BackendArg;
use super::output::say;
use crate::event::LinkCalibration;
use crate::run;
use crate::run::links::{LinksReport, Measured, measure};
use crate::run::progress::Show;
use crate::scenario::{self, Scenario};
use anyhow::{Context, Result};
use clap::Args;
use comfy_table::{Table, presets};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct LinksArgs {
    /// The scenario, a TOML file (docs/scenario.md).
    scenario: PathBuf,
    /// Print JSON and no progress.
    #[arg(long)]
    json: bool,
    /// Print what would be done to the kernel, and the equivalent tc commands, and do nothing.
    #[arg(long)]
    explain: bool,
    /// Space scale k, instead of the scenario's.
    #[arg(long, value_name = "K")]
    scale: Option<u32>,
    /// Which backend carries the network, instead of the scenario's.
    #[arg(long, value_enum)]
    backend: Option<BackendArg>,
    /// Also write the JSON here.
    #[arg(long, value_name = "FILE", conflicts_with = "explain")]
    out: Option<PathBuf>,
}

impl LinksArgs {
    pub(super) fn execute(&self) -> Result<Exit> {
        let mut scenario = scenario::load(&self.scenario)?.scenario;
        if let Some(k) = self.scale {
            scenario.scale = k;
        }
        if let Some(backend) = self.backend {
            scenario.network.backend = backend.kind();
        }
        if self.explain {
            return self.explain(&scenario);
        }
        let show = if self.json { Show::Quiet } else { Show::Auto };
        let report = match measure(&scenario, show)? {
            Measured::Done(report) => report,
            Measured::Interrupted => return Ok(Exit::Interrupted),
        };
        let json = serde_json::to_string_pretty(&report)?;
        if let Some(out) = &self.out {
            std::fs::write(out, format!("{json}\n"))
                .with_context(|| format!("{}", out.display()))?;
        }
        if self.json {
            say!("{json}");
        } else {
            tell(&report);
        }
        Ok(if report.holds() {
            Exit::Done
        } else {
            Exit::Invalid
        })
    }

    fn explain(&self, scenario: &Scenario) -> Result<Exit> {
        let capabilities = netmodel::sys::probe::probe();
        // What this machine would take; a lack is for whoever builds it.
        let backend = match run::backend::choose(&scenario.network, &capabilities) {
            Ok(backend) => backend,
            Err(run::backend::NoBackend::Missing(_)) => {
                scenario.network.backend.unwrap_or_default()
            }
            Err(run::backend::NoBackend::Asked(error)) => return Err(error.into()),
        };
        let carried = run::carried(scenario)?;
        let (network, k) = (&carried.network, carried.divided_by);
        let plan = crate::machine::plan(network, k, backend, carried.seed);
        if self.json {
            say!("{}", serde_json::to_string_pretty(&plan)?);
        } else {
            say!("{plan}");
            for command in plan.commands() {
                say!("{command}");
            }
        }
        Ok(Exit::Done)
    }
}

/// Links that are printed; the others are counted, and those that are off come first.
const LINKS_MAX: usize = 64;

fn tell(report: &LinksReport) {
    let mut links: Vec<&LinkCalibration> = report.links.iter().collect();
    links.sort_by_key(|link| link.ok);
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([
        "link",
        "Mbit/s asked",
        "got",
        "error",
        "over 10 ms, 100 ms, 1 s",
        "ms asked",
        "got",
        "loss asked",
        "path lost",
        "queue, KiB",
        "",
    ]);
    for link in links.iter().take(LINKS_MAX) {
        table.add_row(row(link));
    }
    say!("{table}");
    if links.len() > LINKS_MAX {
        say!("… and {} links more", links.len() - LINKS_MAX);
    }
    let built = &report.built;
    let seconds = |ns: u64| ns as f64 / 1e9;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let per_host = |bytes: u64| bytes as f64 / 1024.0 / report.hosts.max(1) as f64;
    say!(
        "{} links between {} hosts on `{}`, k = {}: built in {:.2} s, measured in {:.2} s",
        report.links.len(),
        report.hosts,
        report.backend,
        report.k,
        seconds(built.build_ns),
        seconds(built.calibrate_ns),
    );
    say!(
        "memory: {:.1} MiB of its own ({:.0} KiB a host); {:.1} MiB less available with the kernel's \
         part ({:.0} KiB a host)",
        mib(built.unique_bytes),
        per_host(built.unique_bytes),
        mib(built.taken_bytes),
        per_host(built.taken_bytes),
    );
    for finding in &report.findings {
        say!("audit: {}: {}", finding.grade, finding.message);
    }
    if report.findings.is_empty() {
        say!("audit: nothing found");
    }
    for warning in &report.warnings {
        say!("warning: {warning}");
    }
    for reason in &report.grade_reasons {
        say!("grade {reason}");
    }
    say!("grade: {}", report.grade);
}

/// What was not asked or could not be judged is a dash.
fn row(link: &LinkCalibration) -> [String; 11] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let mbit = |bps: f64| format!("{:.3}", bps / 1e6);
    let ms = |us: f64| format!("{:.3}", us / 1e3);
    let percent = |share: f64| format!("{:+.2} %", share * 100.0);
    let windows = link.window_errors.map(|error| or_dash(error.map(percent)));
    let mut delay = ms(link.asked_delay_us);
    if link.asked_jitter_us > 0.0 {
        delay += &format!(" ± {}", ms(link.asked_jitter_us));
    }
    let loss = (link.asked_loss > 0.0).then(|| format!("{:.3} %", link.asked_loss * 100.0));
    let lost = link.lost.map(|(sent, lost)| format!("{lost} of {sent}"));
    let state = match (link.ok, link.disturbed) {
        (true, false) => String::new(),
        (true, true) => "disturbed".to_owned(),
        (false, _) => format!("OFF: {}", link.off.join(", ")),
    };
    [
        link.link.clone(),
        or_dash(link.asked_rate_bps.map(|bps| mbit(bps as f64))),
        mbit(link.got_rate_bps),
        link.rate_error
            .map_or_else(|| "not full".to_owned(), percent),
        windows.join(", "),
        delay,
        or_dash(link.got_delay_us.map(ms)),
        or_dash(loss),
        or_dash(lost),
        format!("{:.0}", link.queue_bytes as f64 / 1024.0),
        state,
    ]
}
