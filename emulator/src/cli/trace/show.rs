//! `migbed trace show`: what a trace holds, as a table or JSON.

use super::Source;
use crate::cli::Exit;
use crate::cli::output::say;
use anyhow::Result;
use clap::Args;
use comfy_table::Table;

#[derive(Debug, Args)]
pub(in crate::cli) struct ShowArgs {
    #[command(flatten)]
    source: Source,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

impl ShowArgs {
    pub(super) fn execute(&self) -> Result<Exit> {
        let imported = self.source.import()?;
        let rows: Vec<serde_json::Value> = imported
            .vms
            .iter()
            .map(|vm| {
                serde_json::json!({
                    "name": vm.meta.name,
                    "vcpus": vm.meta.vcpus,
                    "mem_bytes": vm.meta.mem_bytes,
                    "duration_s": vm.cpu.period_ns() as f64 / 1e9,
                    "intervals": vm.cpu.samples().len(),
                    "cpu_mean_cores": vm.cpu.mean_milli() / 1000.0,
                    "pages": vm.page_writes.as_ref().map(|trace| trace.pages),
                    "page_marks": vm.page_writes.as_ref().map(|trace| trace.marks()),
                })
            })
            .collect();
        if self.json {
            say!("{}", serde_json::to_string_pretty(&rows)?);
            return Ok(Exit::Done);
        }
        say!(
            "{}: {}, {} VMs",
            self.source.path.display(),
            imported.format,
            rows.len()
        );
        let mut table = Table::new();
        table.set_header([
            "VM",
            "seconds",
            "intervals",
            "mean cores",
            "pages",
            "page marks",
        ]);
        for row in &rows {
            let text = |key: &str| match &row[key] {
                serde_json::Value::String(text) => text.clone(),
                serde_json::Value::Null => "–".to_owned(),
                other => other.to_string(),
            };
            let cores = row["cpu_mean_cores"].as_f64().unwrap_or(0.0);
            table.add_row([
                text("name"),
                text("duration_s"),
                text("intervals"),
                format!("{cores:.3}"),
                text("pages"),
                text("page_marks"),
            ]);
        }
        say!("{table}");
        for warning in &imported.warnings {
            say!("warning: {}: {}", warning.file.display(), warning.kind);
        }
        Ok(Exit::Done)
    }
}
