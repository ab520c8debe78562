//! One QMP connection: a command, its answer, events in between left out. Bounded in size, number and time.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::{QemuError, QemuOptions};
use crate::sys::clock;

/// Longest answer read, and lines skipped while waiting for one.
const MAX_ANSWER: u64 = 1 << 20;
const MAX_EVENTS: usize = 10_000;
/// Beyond a window's end, how long its result may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A QMP connection.
pub(super) struct Qmp {
    path: PathBuf,
    input: BufReader<UnixStream>,
    output: UnixStream,
    /// QEMU's version.
    pub(super) version: String,
}

impl Qmp {
    pub(super) fn connect(path: &Path) -> Result<Self, QemuError> {
        let failed = |source| QemuError::Socket {
            path: path.to_path_buf(),
            source,
        };
        let output = UnixStream::connect(path).map_err(failed)?;
        output.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let input = BufReader::new(output.try_clone().map_err(failed)?);
        let mut qmp = Self {
            path: path.to_path_buf(),
            input,
            output,
            version: String::new(),
        };
        let greeting = qmp.line()?;
        let version = &greeting["QMP"]["version"]["qemu"];
        let part = |name: &str| version[name].as_u64();
        let parts = part("major").zip(part("minor")).zip(part("micro"));
        let Some(((major, minor), micro)) = parts else {
            let found = greeting.to_string().chars().take(200).collect();
            let path = qmp.path;
            return Err(QemuError::NotQmp { path, found });
        };
        qmp.version = format!("{major}.{minor}.{micro}");
        qmp.ask("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    fn failed(&self, source: std::io::Error) -> QemuError {
        let path = self.path.clone();
        QemuError::Socket { path, source }
    }

    fn line(&mut self) -> Result<Value, QemuError> {
        let mut line = String::new();
        let read = (&mut self.input).take(MAX_ANSWER).read_line(&mut line);
        match read {
            Ok(0) => Err(self.failed(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => serde_json::from_str(&line).map_err(|_| QemuError::NotQmp {
                path: self.path.clone(),
                found: line.chars().take(200).collect(),
            }),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// A command's answer; events that come before it are left out.
    pub(super) fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value, QemuError> {
        let text = json!({"execute": command, "arguments": arguments}).to_string() + "\n";
        self.output
            .write_all(text.as_bytes())
            .map_err(|source| self.failed(source))?;
        for _ in 0..MAX_EVENTS {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                return Err(QemuError::Refused {
                    path: self.path.clone(),
                    command: command.to_owned(),
                    reason: error["desc"]
                        .as_str()
                        .unwrap_or("no reason given")
                        .to_owned(),
                });
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
        let found = format!("{MAX_EVENTS} events and no answer");
        let path = self.path.clone();
        Err(QemuError::NotQmp { path, found })
    }

    /// One measurement: the window and MiB/s.
    pub(super) fn measure(
        &mut self,
        window: Duration,
        options: &QemuOptions,
    ) -> Result<(u64, u64), QemuError> {
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let mut arguments = json!({"mode": options.mode.name()});
        if let Some(pages) = options.sample_pages {
            arguments["sample-pages"] = json!(pages);
        }
        if window_ms.is_multiple_of(1000) {
            // Whole seconds need no unit, which QEMU knows since 8.2 only.
            arguments["calc-time"] = json!(window_ms / 1000);
        } else {
            arguments["calc-time"] = json!(window_ms);
            arguments["calc-time-unit"] = json!("millisecond");
        }
        self.ask("calc-dirty-rate", &arguments)?;
        let begin = clock::now_ns();
        let waited = window + PATIENCE;
        let deadline = begin.saturating_add(u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX));
        let mut next = begin.saturating_add(window_ms.saturating_mul(1_000_000));
        while clock::now_ns() < deadline {
            clock::wait_until(next);
            let answer = self.ask("query-dirty-rate", &json!({}))?;
            if answer["status"] == "measured"
                && let Some(rate) = answer["dirty-rate"].as_u64()
            {
                return Ok((window_ms, rate));
            }
            next = clock::now_ns() + 20_000_000;
        }
        let path = self.path.clone();
        Err(QemuError::NoResult { path, waited })
    }
}
