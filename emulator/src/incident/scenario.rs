//! An incident as a scenario: text that `migbed run` takes, to be edited by hand. Pure.

use super::{Incident, pages};
use std::fmt::Write;
use traces::class::{Coupling, Locality, PageClass, Variation};
use traces::units::PAGE_SIZE;

/// The scenario at scale k. What each value is known from stands above it.
#[must_use]
pub fn scenario(incident: &Incident, scale: u32) -> String {
    let mut out = String::from(
        "# The migration that a log tells of, as it was. Change one thing below and run it again.\n#\n",
    );
    for note in &incident.notes {
        // A scenario's width is a reader's.
        let _ = writeln!(out, "# - {note}");
    }
    let wait_s = incident.cancel_after_ms.unwrap_or(0).div_ceil(1000) + 60;
    let name = name_of(&incident.name);
    let _ = write!(
        out,
        "\nname = \"{name}\"\nseed = 1\nduration = \"{wait_s}s\"\nscale = {scale}          # space is divided by it, time is not\n"
    );
    network(&mut out, incident);
    guest(&mut out, incident);
    migration(&mut out, incident);
    out
}

fn network(out: &mut String, incident: &Incident) {
    let rate = format!("{}bit", incident.rate.bps());
    let queue = incident.queue().bytes();
    let _ = write!(
        out,
        "\n[network]\ncongestion = \"cubic\"\n\n[[hosts]]\nname = \"source\"\ncores = 1\nram = \"{ram}B\"\n\
         link = {{ rate = \"{rate}\", queue = \"{queue}B\" }}\n\n\
         [[hosts]]\nname = \"destination\"\ncores = 1\nram = \"{ram}B\"\n",
        ram = incident.ram_bytes
    );
}

fn guest(out: &mut String, incident: &Incident) {
    let resident = pages(incident.resident_bytes());
    let _ = write!(
        out,
        "\n[[vms]]\nname = \"guest\"\nhost = \"source\"\nvcpus = 1\nram = \"{}B\"\nresident = \"{}B\"    # not zero, and not among what \
         is written below\n",
        incident.ram_bytes,
        u64::from(resident) * PAGE_SIZE
    );
    let Some(curve) = &incident.curve else {
        return;
    };
    out.push_str("cpu = { cores = 1 }    # the log says nothing of it; a guest that is always busy feels every throttle\n");
    let classes: Vec<String> = curve.classes.iter().map(class).collect();
    let _ = write!(out, "writes = {{ classes = [{}]", classes.join(", "));
    if let Some(Variation::LogNormal {
        cv,
        correlation,
        step_ns,
    }) = &curve.variation
    {
        let us = step_ns.div_ceil(1000);
        let _ = write!(
            out,
            ", variation = {{ cv = {cv:.4}, correlation = {correlation:.4}, step = \"{us}us\" }}"
        );
    }
    out.push_str(" }\n");
}

fn class(class: &PageClass) -> String {
    let coupling = match class.coupling {
        Coupling::Cpu => "cpu",
        Coupling::Time => "time",
    };
    let locality = match class.locality {
        Locality::Scatter => "\"scatter\"".to_owned(),
        Locality::Sweep => "\"sweep\"".to_owned(),
        Locality::Runs { pages } => format!("{{ runs = {pages} }}"),
    };
    let (pages, rate) = (class.pages, class.rate);
    format!(
        "{{ pages = {pages}, rate = {rate:.6}, coupling = \"{coupling}\", locality = {locality} }}"
    )
}

fn migration(out: &mut String, incident: &Incident) {
    let params = incident.params();
    let _ = write!(
        out,
        "\n[[migrations]]\nat = \"10s\"\nvm = \"guest\"\nto = \"destination\"\n\n[migration]\nengine = \"{}\"\n",
        params.engine.name()
    );
    if params.engine.has("downtime-limit") {
        let _ = writeln!(out, "downtime-limit = \"{}ms\"", params.downtime_limit);
    }
    if params.engine.has("max-bandwidth") && params.max_bandwidth > 0 {
        let _ = writeln!(out, "max-bandwidth = \"{}B/s\"", params.max_bandwidth);
    }
    let _ = writeln!(out, "return-path = {}", params.return_path);
    if params.engine.has("auto-converge") {
        let _ = writeln!(out, "auto-converge = {}", params.auto_converge.enabled);
    }
    if params.engine.has("reprotect") {
        out.push_str("reprotect = \"at-sync\" # what readings found is what the log, lazily re-armed, had seen\n");
    }
    if let Some(ms) = params.postcopy.timeout {
        let _ = writeln!(out, "postcopy-ram = true\ntimeout-postcopy = \"{ms}ms\"");
    }
    match params.completion_timeout {
        Some(0) | None => out.push_str("completion-timeout = \"never\"\n"),
        Some(ms) => {
            let _ = writeln!(out, "completion-timeout = \"{ms}ms\"");
        }
    }
}

/// A name that scenarios take: of letters, digits, `-`, `_` and `.`, at most 64, a letter or digit first.
fn name_of(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let safe = text.chars().map(|c| if plain(c) { c } else { '_' });
    let begun = safe.skip_while(|c| !c.is_ascii_alphanumeric());
    let name: String = begun.take(64).collect();
    if name.is_empty() {
        "incident".to_owned()
    } else {
        name
    }
}
