//! A running QEMU through its QMP socket: `calc-dirty-rate` at several windows, and the page classes that
//! give the same curve D(t).
//!
//! The guest needs nothing. What QEMU reports is unique pages per window, so one rate is not enough: a
//! longer window gives a lower rate, and the curve over windows is what a migration meets.

mod qmp;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::bundle;
use crate::sys::clock;
use qmp::Qmp;
use traces::class::{Coupling, PageClass};
use traces::fit;
use traces::stats::CurvePoint;
use traces::store::bundle::{Bundle, VmMeta};
use traces::store::series::{Interval, Metric, Series};
use traces::units::{PAGE_SIZE, Provenance, round_u64};

/// What to measure.
#[derive(Debug, Clone)]
pub struct QemuOptions {
    /// Windows to measure over, each in turn.
    pub windows: Vec<Duration>,
    /// Times each window is measured; the mean counts.
    pub repeats: u32,
    /// How QEMU measures.
    pub mode: Mode,
    /// Pages that page sampling looks at, a GiB of RAM: 128 to 16,384. `None`: QEMU's 512.
    pub sample_pages: Option<u32>,
    /// Title of the recording.
    pub title: String,
}

/// QEMU's `DirtyRateMeasureMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Hashes of sampled pages before and after: cheap; pages rewritten with what they held are missed,
    /// and memory blocks under 128 MiB.
    PageSampling,
    /// The dirty bitmap: every page, at the guest's cost.
    DirtyBitmap,
}

impl Mode {
    /// QEMU's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PageSampling => "page-sampling",
            Self::DirtyBitmap => "dirty-bitmap",
        }
    }
}

/// A measured point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Start, from the start of the recording.
    pub t_ms: u64,
    /// Window.
    pub window_ms: u64,
    /// Unique memory dirtied per second, as QEMU says it: whole MiB/s.
    pub dirty_rate_mib_s: u64,
}

/// What QEMU said, and what was made of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QemuRecording {
    /// Version of this format, 1.
    pub version: u32,
    /// QEMU's version.
    pub qemu: String,
    /// The guest's name, if it has one.
    pub name: Option<String>,
    /// Virtual CPUs.
    pub vcpus: Option<u32>,
    /// RAM.
    pub mem_bytes: Option<u64>,
    /// How it was measured.
    pub mode: Mode,
    /// Points in order of time.
    pub points: Vec<Measured>,
    /// Classes fitted to them, on the clock of running time; null when nothing was dirtied.
    pub classes: Option<Vec<PageClass>>,
    /// The fit's mean absolute relative error on the points it was made from.
    pub in_sample_error: Option<f64>,
}

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// The socket does not answer.
    #[error("{}: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What answers is no QMP.
    #[error("{}: not a QMP socket: {found}", path.display())]
    NotQmp {
        /// The socket.
        path: PathBuf,
        /// What it said.
        found: String,
    },
    /// QEMU refuses a command.
    #[error("{}: QEMU refuses `{command}`: {reason}", path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// The command.
        command: String,
        /// What QEMU says.
        reason: String,
    },
    /// A measurement does not end.
    #[error("{}: no dirty rate after {waited:?}", path.display())]
    NoResult {
        /// The socket.
        path: PathBuf,
        /// How long.
        waited: Duration,
    },
    /// The guest would not survive it.
    #[error(
        "{}: dirty-bitmap without KVM crashes QEMU {version}; use page-sampling",
        path.display()
    )]
    NeedsKvm {
        /// The socket.
        path: PathBuf,
        /// QEMU's version.
        version: String,
    },
    /// QEMU takes windows of 50 ms to 60 s.
    #[error("a window of {window:?}: calc-dirty-rate takes 50 ms to 60 s")]
    Window {
        /// As asked.
        window: Duration,
    },
}

/// Measures the QEMU behind a QMP socket.
///
/// # Errors
/// When it does not answer, refuses, or a window is out of its range.
pub fn qemu(socket: &Path, options: &QemuOptions) -> Result<QemuRecording, QemuError> {
    let allowed = Duration::from_millis(50)..=Duration::from_secs(60);
    if let Some(&window) = options
        .windows
        .iter()
        .find(|window| !allowed.contains(window))
    {
        return Err(QemuError::Window { window });
    }
    let mut qmp = Qmp::connect(socket)?;
    // Seen: QEMU 7.2 dies of it, guest and all. Later versions were not tried.
    let old = qmp
        .version
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok())
        < Some(8);
    if options.mode == Mode::DirtyBitmap && old {
        let kvm = qmp.ask("query-kvm", &json!({}))?;
        if kvm["enabled"] != true {
            let (path, version) = (socket.to_path_buf(), qmp.version);
            return Err(QemuError::NeedsKvm { path, version });
        }
    }
    let start = clock::now_ns();
    let mut points = Vec::new();
    for _ in 0..options.repeats {
        for &window in &options.windows {
            let t_ms = (clock::now_ns() - start) / 1_000_000;
            let (window_ms, dirty_rate_mib_s) = qmp.measure(window, options)?;
            points.push(Measured {
                t_ms,
                window_ms,
                dirty_rate_mib_s,
            });
        }
    }
    let mem_bytes = qmp
        .ask("query-memory-size-summary", &json!({}))
        .ok()
        .and_then(|answer| answer["base-memory"].as_u64());
    let mem_pages = mem_bytes.map_or(u64::from(u32::MAX), |bytes| bytes / PAGE_SIZE);
    let mem_pages = u32::try_from(mem_pages).unwrap_or(u32::MAX);
    let fitted = fit::fit_curve(&curve(&points), mem_pages, Coupling::Time);
    let vcpus = qmp.ask("query-cpus-fast", &json!({})).ok();
    Ok(QemuRecording {
        version: 1,
        qemu: qmp.version.clone(),
        name: qmp
            .ask("query-name", &json!({}))
            .ok()
            .and_then(|answer| Some(answer["name"].as_str()?.to_owned())),
        vcpus: vcpus.and_then(|answer| u32::try_from(answer.as_array()?.len()).ok()),
        mem_bytes,
        mode: options.mode,
        points,
        in_sample_error: fitted.as_ref().map(|fitted| fitted.1),
        classes: fitted.map(|fitted| fitted.0),
    })
}

impl QemuRecording {
    /// The recording as a bundle of one VM with a dirty profile.
    #[must_use]
    pub fn to_bundle(&self, title: &str) -> Bundle {
        let source = format!(
            "calc-dirty-rate ({}) of QEMU {}",
            self.mode.name(),
            self.qemu
        );
        let mut bundle = bundle::empty(title, &source, "qemu");
        let mut vm = VmMeta::named(self.name.as_deref().unwrap_or("guest"));
        vm.vcpus = self.vcpus;
        vm.mem_bytes = self.mem_bytes;
        if let Some(classes) = &self.classes {
            bundle.dirty_profiles.insert(0, classes.clone());
            vm.dirty_profile = Some(0);
            for column in ["pages", "rate_per_s"] {
                let how = "non-negative least squares on D(t) of calc-dirty-rate";
                let note = Provenance::Derived;
                bundle
                    .manifest
                    .note("dirty_profiles.parquet", column, note, how);
            }
        }
        let mut series = Series::default();
        for point in &self.points {
            let interval = Interval {
                t_ms: i64::try_from(point.t_ms).unwrap_or(i64::MAX),
                dur_ms: u32::try_from(point.window_ms).unwrap_or(u32::MAX),
                flags: 0,
            };
            let pages = point.dirty_rate_mib_s as f64 * (1 << 20) as f64 / PAGE_SIZE as f64
                * (point.window_ms as f64 / 1e3);
            let values = [
                (Metric::DirtyPagesW1, Some(round_u64(pages))),
                (Metric::DirtyW1Ms, Some(point.window_ms)),
            ];
            // Measurements follow one another, so none overlaps.
            let _ = series.push(interval, &values);
        }
        bundle::put(&mut bundle, vm, series);
        bundle
    }
}

/// The points of one window together, as distinct pages in the window.
fn curve(points: &[Measured]) -> Vec<CurvePoint> {
    let mut windows: Vec<u64> = points.iter().map(|point| point.window_ms).collect();
    windows.sort_unstable();
    windows.dedup();
    windows
        .into_iter()
        .map(|window_ms| {
            let of = points.iter().filter(|point| point.window_ms == window_ms);
            let (sum, count) = of.fold((0u64, 0u64), |(sum, count), point| {
                (sum + point.dirty_rate_mib_s, count + 1)
            });
            let window_s = window_ms as f64 / 1e3;
            let mib_s = sum as f64 / count.max(1) as f64;
            CurvePoint {
                window_s,
                window_cpu_s: window_s,
                pages: mib_s * window_s * (1 << 20) as f64 / PAGE_SIZE as f64,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;

    /// Answers as QEMU does: a greeting, an event in between, `measuring` once before `measured`.
    fn pretend(listener: &UnixListener, major: u32, rate: fn(u64) -> u64) {
        let (stream, _) = listener.accept().unwrap();
        let mut output = stream.try_clone().unwrap();
        let mut say = |value: Value| writeln!(output, "{value}").unwrap();
        say(json!({"QMP": {"version": {"qemu": {"major": major, "minor": 1, "micro": 2}}}}));
        let (mut window_ms, mut asked) = (0, 0);
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let request: Value = serde_json::from_str(&line).unwrap();
            let arguments = &request["arguments"];
            match request["execute"].as_str().unwrap() {
                "calc-dirty-rate" => {
                    let unit = if arguments["calc-time-unit"] == "millisecond" {
                        1
                    } else {
                        1000
                    };
                    window_ms = arguments["calc-time"].as_u64().unwrap() * unit;
                    asked = 0;
                    say(json!({"event": "RTC_CHANGE", "data": {}}));
                    say(json!({"return": {}}));
                }
                "query-dirty-rate" if asked == 0 => {
                    asked = 1;
                    say(json!({"return": {"status": "measuring"}}));
                }
                "query-dirty-rate" => {
                    say(json!({"return": {"status": "measured", "dirty-rate": rate(window_ms)}}));
                }
                "query-memory-size-summary" => say(json!({"return": {"base-memory": 1u64 << 30}})),
                "query-cpus-fast" => say(json!({"return": [{}, {}]})),
                "query-name" => say(json!({"error": {"class": "GenericError", "desc": "no"}})),
                _ => say(json!({"return": {}})),
            }
        }
    }

    fn options(windows_ms: &[u64]) -> QemuOptions {
        QemuOptions {
            windows: windows_ms
                .iter()
                .map(|&ms| Duration::from_millis(ms))
                .collect(),
            repeats: 2,
            mode: Mode::DirtyBitmap,
            sample_pages: None,
            title: String::new(),
        }
    }

    #[test]
    fn dirty_rates_become_points_and_classes() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        // 25,600 pages at 5 writes a second each.
        let rate = |window_ms: u64| {
            let window_s = window_ms as f64 / 1e3;
            round_u64(100.0 * -(-5.0 * window_s).exp_m1() / window_s)
        };
        let server = std::thread::spawn(move || pretend(&listener, 9, rate));
        let recording = qemu(&socket, &options(&[50, 100, 200, 1000])).unwrap();
        server.join().unwrap();
        assert_eq!(recording.qemu, "9.1.2");
        assert_eq!(
            (recording.vcpus, recording.name.as_deref()),
            (Some(2), None)
        );
        assert_eq!(recording.mem_bytes, Some(1 << 30));
        assert_eq!(recording.points.len(), 8);
        assert!(recording.in_sample_error.unwrap() < 0.01);
        let classes = recording.classes.as_ref().unwrap();
        let near = |class: &&PageClass| (class.rate - 5.0).abs() < 0.1;
        let pages = classes.iter().find(near).unwrap().pages;
        assert!((25_000..26_200).contains(&pages), "{classes:?}");
        let bundle = recording.to_bundle("t");
        assert_eq!(bundle.vms[0].dirty_profile, Some(0));
        assert_eq!(bundle.samples[&0].values(Metric::DirtyW1Ms).count(), 8);
    }

    #[test]
    fn a_guest_that_would_not_survive_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || pretend(&listener, 7, |_| 1));
        let error = qemu(&socket, &options(&[100])).unwrap_err();
        server.join().unwrap();
        assert!(matches!(error, QemuError::NeedsKvm { .. }), "{error}");
    }

    #[test]
    fn what_is_no_qmp_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("other");
        assert!(matches!(
            qemu(&socket, &options(&[100])),
            Err(QemuError::Socket { .. })
        ));
        let listener = UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"220 mail ready\r\n").unwrap();
        });
        let error = qemu(&socket, &options(&[100])).unwrap_err();
        server.join().unwrap();
        assert!(error.to_string().contains("220 mail"), "{error}");
        assert!(matches!(
            qemu(&socket, &options(&[10])),
            Err(QemuError::Window { .. })
        ));
    }
}
