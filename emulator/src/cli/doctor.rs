//! `migbed doctor`: what this machine offers and lacks.

use super::Exit;
use super::output::say;
use clap::Args;
use comfy_table::{ContentArrangement, Table};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print the capabilities as JSON.
    #[arg(long)]
    json: bool,
}

impl DoctorArgs {
    pub(super) fn execute(&self) -> Exit {
        let capabilities = netmodel::sys::probe::probe();
        let lacks = capabilities.missing().count();
        if self.json {
            let json = serde_json::to_string_pretty(&capabilities);
            say!("{}", json.unwrap_or_default());
        } else {
            let mut table = Table::new();
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_header(["capability", "", "found", "remedy"]);
            for c in &capabilities.0 {
                let state = match (c.present, c.required) {
                    (None, _) => "",
                    (Some(true), _) => "yes",
                    (Some(false), true) => "MISSING",
                    (Some(false), false) => "no (optional)",
                };
                table.add_row([&c.name, state, &c.detail, &c.remedy]);
            }
            say!("{table}");
            say!(
                "{}",
                if lacks == 0 {
                    "This machine can run migbed."
                } else {
                    "This machine cannot run migbed yet: see the remedies."
                }
            );
        }
        if lacks == 0 {
            Exit::Done
        } else {
            Exit::Missing
        }
    }
}
