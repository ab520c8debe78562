//! The report on synthetic runs: well formed, self-contained, escaped, of bounded size.

use super::html::{escape, json_for_script};
use super::write;
use crate::results::testing::{Example, TYPICAL, example};
use crate::results::{RunDir, rebuild};
use std::fs;
use std::path::Path;

fn report(dir: &Path, e: Example) -> String {
    let run = example(dir, e);
    rebuild(&run).unwrap();
    write(&run).unwrap();
    fs::read_to_string(run.file("report.html")).unwrap()
}

/// Every element that is opened is closed, in order; the content of scripts and styles is skipped.
fn check_balanced(html: &str) -> Result<(), String> {
    const VOID: [&str; 3] = ["meta", "br", "!DOCTYPE"];
    let mut open: Vec<String> = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let end = rest[at..].find('>').ok_or("a tag without an end")? + at;
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        let name = tag
            .trim_start_matches('/')
            .split([' ', '/'])
            .next()
            .unwrap_or("");
        if tag.starts_with('/') {
            let last = open.pop().ok_or(format!("</{name}> closes nothing"))?;
            if last != name {
                return Err(format!("</{name}> closes <{last}>"));
            }
        } else if !VOID.contains(&name) && !tag.ends_with('/') {
            open.push(name.to_owned());
            if name == "script" || name == "style" {
                rest = &rest[rest.find(&format!("</{name}>")).ok_or("never closed")?..];
            }
        }
    }
    if open.is_empty() {
        Ok(())
    } else {
        Err(format!("never closed: {open:?}"))
    }
}

#[test]
fn the_checker_itself_finds_faults() {
    assert!(check_balanced("<p><b>x</b></p>").is_ok());
    assert!(check_balanced("<p><b>x</p></b>").is_err());
    assert!(check_balanced("<p>").is_err());
    assert!(check_balanced("</p>").is_err());
}

#[test]
fn report_is_well_formed_and_loads_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let html = report(dir.path(), TYPICAL);
    check_balanced(&html).unwrap();
    for outside in [
        "http:", "https:", "//cdn", " src=", "<link", "@import", "url(",
    ] {
        assert!(!html.contains(outside), "{outside} in the report");
    }
    assert!(html.contains("prefers-color-scheme") && html.contains("@media print"));
    assert!(
        !html.contains("NaN") && !html.contains("inf "),
        "numbers that are none"
    );
    // For looking at it: MIGBED_KEEP_REPORT=DIR keeps a copy.
    if let Some(keep) = std::env::var_os("MIGBED_KEEP_REPORT") {
        fs::write(Path::new(&keep).join("report.html"), &html).unwrap();
    }
}

#[test]
fn names_and_texts_are_escaped() {
    let dir = tempfile::tempdir().unwrap();
    let html = report(dir.path(), TYPICAL);
    assert!(
        html.contains("db&lt;3&gt;&amp;co"),
        "the odd VM is in the report"
    );
    for raw in ["db<3>", "<by peer>", "<1 s>", "<p99>", "<a comment"] {
        assert!(!html.contains(raw), "{raw} unescaped");
    }
    assert_eq!(escape("<\"'&\u{1}>"), "&lt;&quot;&#39;&amp;\u{fffd}&gt;");
    assert!(!json_for_script("\"</script><!--\"").contains('<'));
}

#[test]
fn what_orchestrators_did_is_told_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let html = report(dir.path(), TYPICAL);
    for told in [
        "What the orchestrator did",
        "downtime tuning: initial",
        "not completed after &lt;1 s&gt;",
    ] {
        assert!(html.contains(told), "{told}");
    }
    let quiet = Example {
        migrations: 0,
        ..TYPICAL
    };
    let dir = tempfile::tempdir().unwrap();
    assert!(!report(dir.path(), quiet).contains("What the orchestrator did"));
}

#[test]
fn embedded_summary_is_the_summary() {
    let dir = tempfile::tempdir().unwrap();
    let html = report(dir.path(), TYPICAL);
    let begin = html.find("id=\"summary\">").unwrap() + "id=\"summary\">".len();
    let json = &html[begin..begin + html[begin..].find("</script>").unwrap()];
    let embedded: crate::results::Summary = serde_json::from_str(json).unwrap();
    assert_eq!(
        embedded,
        RunDir::open(dir.path()).unwrap().summary().unwrap()
    );
}

#[test]
fn odd_runs_have_reports_of_bounded_size() {
    let quiet = Example {
        migrations: 0,
        ..TYPICAL
    };
    let killed = Example {
        interrupted: true,
        ..TYPICAL
    };
    let strips = Example {
        hosts: 60,
        vms: 120,
        ..TYPICAL
    };
    let wide = Example {
        hosts: 1000,
        vms: 1500,
        migrations: 9,
        ticks: 4,
        ..TYPICAL
    };
    let busy = Example {
        migrations: 700,
        ticks: 9,
        ..TYPICAL
    };
    for (name, e) in [
        ("quiet", quiet),
        ("killed", killed),
        ("strips", strips),
        ("wide", wide),
        ("busy", busy),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let html = report(dir.path(), e);
        check_balanced(&html).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(html.len() < 4 << 20, "{name}: {} bytes", html.len());
        if let Some(keep) = std::env::var_os("MIGBED_KEEP_REPORT") {
            fs::write(Path::new(&keep).join(format!("{name}.html")), &html).unwrap();
        }
        match name {
            "quiet" => assert!(html.contains("No VM was migrated.")),
            "killed" => assert!(html.contains("The run was interrupted.")),
            "busy" => assert!(html.contains("The first 400 are drawn.")),
            _ => {}
        }
    }
}
