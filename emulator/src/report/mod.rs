//! `report.html`: one self-contained file about a run, for people; and the one about a trace ([`trace`]).
//!
//! Inside: reading the results and turning them into HTML and inline SVG. Never inside: anything
//! computed that the results do not say (the summary has the numbers), scripts or styles from
//! elsewhere. Whatever comes from a scenario or a trace is escaped ([`html`]).

mod certificate;
mod chart;
mod clients;
mod hosts;
pub mod html;
mod latency;
mod migrations;
mod page;
mod plot;
mod tables;
pub mod trace;
pub mod validation;

use crate::results::{ResultsError, RunDir, collect, write_atomically};

/// Writes `report.html`, and `clients.svg` if a VM that answers or asks has moved, into a run directory from `run.json`, `summary.json` and the events.
///
/// # Errors
/// When the results cannot be read (see [`crate::results::rebuild`]) or the file cannot be written.
pub fn write(run: &RunDir) -> Result<(), ResultsError> {
    let header = run.header()?;
    let summary = run.summary()?;
    let collected = collect::collect(run, &header, |_| Ok(()))?;
    let report = page::Report {
        header: &header,
        summary: &summary,
        all: &collected,
    };
    if let Some(figure) = clients::figure(&report) {
        write_atomically(&run.file("clients.svg"), figure.as_bytes())?;
    }
    write_atomically(&run.file("report.html"), page::page(&report).as_bytes())
}

#[cfg(test)]
mod tests;
