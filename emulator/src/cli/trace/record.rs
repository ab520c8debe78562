//! `migbed trace record`: a program, a QEMU guest or this computer, recorded into our own formats.
//!
//! Inside: arguments, where results go, what is said of them. Never inside: how anything is recorded (the
//! `recorder` crate).

use super::super::Exit;
use super::super::output::say;
use crate::run::Unusable;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use recorder::qemu::{Mode, QemuOptions, qemu};
use recorder::{Options, Recording, Sidecar, record, sidecar_path};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use traces::store::page_write::{Origin, write_page_writes_with_origin};

#[derive(Debug, Args)]
pub(in crate::cli) struct RecordArgs {
    /// Where to: FILE.mbpw (with FILE.json beside it), or a new directory for a bundle.
    #[arg(long, short, value_name = "PATH")]
    out: PathBuf,
    /// Length of a tick; with --procstat of an interval.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "100ms")]
    tick: Duration,
    /// Stop after this long; else when everything has ended, or on Ctrl-C.
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Time between samples of memory, threads and network.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "1s")]
    sample: Duration,
    /// Time between looks at what all pages hold; 0s for none.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "15s")]
    census: Duration,
    /// Leave transparent huge pages on: a first write may then mark 512 pages.
    #[arg(long)]
    huge_pages: bool,
    /// Never give a page of a process that ended to another one.
    #[arg(long)]
    fresh_frames: bool,
    /// Keep only what is written from then on; its pages count as touched before.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "0s", conflicts_with_all = ["qemu", "procstat"])]
    settle: Duration,
    /// Record pages of shared memory only: of a QEMU whose RAM is a memory-backend-memfd with
    /// share=on, its guest's.
    #[arg(long, conflicts_with = "rates_only")]
    only_shared: bool,
    /// Record no pages: CPU, memory and network only.
    #[arg(long)]
    rates_only: bool,
    /// What is recorded, for people.
    #[arg(long, default_value = "")]
    title: String,
    /// Record the guest of a QEMU: its QMP socket.
    #[arg(long, value_name = "QMP-SOCKET", conflicts_with_all = ["procstat", "command"])]
    qemu: Option<PathBuf>,
    /// With --qemu: windows of calc-dirty-rate.
    #[arg(long, value_parser = humantime::parse_duration, value_delimiter = ',', conflicts_with_all = ["command", "procstat"],
          default_values = ["100ms", "200ms", "500ms", "1s", "2s", "5s", "10s"])]
    windows: Vec<Duration>,
    /// With --qemu: times each window is measured.
    #[arg(long, default_value_t = 3, conflicts_with_all = ["command", "procstat"])]
    repeats: u32,
    /// With --qemu: pages that page-sampling looks at a GiB, 128 to 16384; without it QEMU's 512.
    #[arg(long, value_parser = clap::value_parser!(u32).range(128..=16384), conflicts_with_all = ["command", "procstat"])]
    sample_pages: Option<u32>,
    /// With --qemu: how QEMU measures.
    #[arg(long, value_enum, default_value_t = QemuMode::PageSampling, conflicts_with_all = ["command", "procstat"])]
    mode: QemuMode,
    /// Record this whole computer from /proc.
    #[arg(long, conflicts_with = "command")]
    procstat: bool,
    /// The program and its arguments, after `--`.
    #[arg(last = true, required_unless_present_any = ["qemu", "procstat"])]
    command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum QemuMode {
    PageSampling,
    DirtyBitmap,
}

impl RecordArgs {
    pub(super) fn execute(&self) -> Result<Exit> {
        if let Some(socket) = &self.qemu {
            self.qemu(socket)
        } else if self.procstat {
            self.check_bundle_path("--procstat")?;
            let bundle = recorder::procstat::procstat(self.tick, self.duration, &self.title)?;
            bundle.write(&self.out)?;
            let intervals = bundle
                .samples
                .values()
                .map(|s| s.intervals().len())
                .sum::<usize>();
            say!(
                "{}: {intervals} intervals of this computer",
                self.out.display()
            );
            Ok(Exit::Done)
        } else {
            self.program()
        }
    }

    fn is_file(&self) -> bool {
        self.out
            .extension()
            .is_some_and(|extension| extension == "mbpw")
    }

    fn check_bundle_path(&self, what: &str) -> Result<()> {
        if self.is_file() {
            let text = format!("{what} records no page sets; give a directory for a bundle");
            return Err(Unusable(text).into());
        }
        Ok(())
    }

    fn qemu(&self, socket: &Path) -> Result<Exit> {
        self.check_bundle_path("--qemu")?;
        let options = QemuOptions {
            windows: self.windows.clone(),
            repeats: self.repeats,
            mode: match self.mode {
                QemuMode::PageSampling => Mode::PageSampling,
                QemuMode::DirtyBitmap => Mode::DirtyBitmap,
            },
            sample_pages: self.sample_pages,
            title: self.title.clone(),
        };
        let recording = qemu(socket, &options).map_err(|error| Unusable(error.to_string()))?;
        recording.to_bundle(&self.title).write(&self.out)?;
        let sidecar = beside(&self.out);
        write_whole(&sidecar, &serde_json::to_vec_pretty(&recording)?)?;
        for point in &recording.points {
            say!(
                "{:>6} ms  {:>6} MiB/s",
                point.window_ms,
                point.dirty_rate_mib_s
            );
        }
        match (&recording.classes, recording.in_sample_error) {
            (Some(classes), Some(error)) => {
                for class in classes {
                    say!("{:>9} pages, {} writes/s each", class.pages, class.rate);
                }
                say!("fit: {:.1} % mean error on these points", error * 100.0);
            }
            _ => say!("nothing was dirtied: no classes"),
        }
        say!("{}, {}", self.out.display(), sidecar.display());
        Ok(Exit::Done)
    }

    fn program(&self) -> Result<Exit> {
        if !self.is_file() && self.out.exists() {
            let text = format!("{}: there is something already", self.out.display());
            return Err(Unusable(text).into());
        }
        let options = Options {
            tick: self.tick,
            duration: self.duration,
            sample: self.sample,
            census: self.census,
            huge_pages: self.huge_pages,
            fresh_frames: self.fresh_frames,
            only_shared: self.only_shared,
            rates_only: self.rates_only,
            title: self.title.clone(),
        };
        let mut recording =
            record(&self.command, &options).map_err(|error| Unusable(error.to_string()))?;
        if let Some(pages) = recording.pages.as_mut().filter(|_| !self.settle.is_zero()) {
            *pages = pages.settled(u64::try_from(self.settle.as_nanos()).unwrap_or(u64::MAX));
        }
        for warning in &recording.sidecar.warnings {
            eprintln!("WARNING: {warning}");
        }
        let sidecar = if self.is_file() {
            self.write_file(&recording)?;
            sidecar_path(&self.out)
        } else {
            recording.to_bundle(&self.title).write(&self.out)?;
            beside(&self.out)
        };
        write_whole(&sidecar, &serde_json::to_vec(&recording.sidecar)?)?;
        summary(&recording.sidecar);
        match recording.pages {
            None if self.is_file() => say!("{} (no .mbpw: no pages)", sidecar.display()),
            _ => say!("{}, {}", self.out.display(), sidecar.display()),
        }
        Ok(Exit::Done)
    }

    fn write_file(&self, recording: &Recording) -> Result<()> {
        let Some(pages) = &recording.pages else {
            return Ok(());
        };
        let about = &recording.sidecar.about;
        let origin = Origin::from([
            ("source".to_owned(), "migbed trace record".to_owned()),
            ("kernel".to_owned(), about.kernel.clone()),
            ("command".to_owned(), about.command.join(" ")),
        ]);
        let mut bytes = Vec::new();
        write_page_writes_with_origin(pages, &origin, &mut bytes)?;
        write_whole(&self.out, &bytes)
    }
}

/// What is said of a directory stands beside it, under its name with `.json`.
fn beside(directory: &Path) -> PathBuf {
    let mut name = directory.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

/// Writes beside the target and renames: nothing half-written is left.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let write = || {
        let mut file = std::fs::File::create(&part)?;
        file.write_all(bytes)?;
        std::fs::rename(&part, path)
    };
    write()
        .inspect_err(|_| {
            // The first error counts; a leftover part file would only add to it.
            let _ = std::fs::remove_file(&part);
        })
        .with_context(|| format!("{}", path.display()))
}

fn summary(sidecar: &Sidecar) {
    let (totals, overhead) = (&sidecar.totals, &sidecar.overhead);
    let seconds = |ns: u64| ns as f64 / 1e9;
    say!(
        "{:.1} s, {} ticks, {} processes, {:.2} s of CPU",
        seconds(totals.duration_ns),
        totals.ticks,
        totals.processes,
        seconds(totals.cpu_ns)
    );
    if let (Some(pages), Some(marks)) = (totals.pages, totals.page_marks) {
        say!("{pages} pages written, {marks} times in all (once a tick)");
    }
    let share = overhead
        .share_of_program
        .map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", share * 100.0));
    say!(
        "overhead: {:.2} s of CPU in the recorder ({share} of the program's), {} stops, scans {:.1} ms on \
         average, {:.1} ms at most; ticks at most {:.1} ms late",
        seconds(overhead.recorder_cpu_ns),
        overhead.stops,
        overhead.scan_ns as f64 / 1e6 / totals.ticks.max(1) as f64,
        overhead.scan_ns_max as f64 / 1e6,
        overhead.late_ns_max as f64 / 1e6,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use traces::store::bundle::Bundle;
    use traces::store::page_write::read_page_writes;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: RecordArgs,
    }

    fn parse(arguments: &[&str]) -> Result<RecordArgs, clap::Error> {
        let name = std::iter::once(&"record");
        Ok(Line::try_parse_from(name.chain(arguments))?.args)
    }

    #[test]
    fn one_source_must_be_named() {
        assert!(parse(&["-o", "x"]).is_err());
        assert!(parse(&["-o", "x", "--procstat", "--", "ls"]).is_err());
        assert!(parse(&["-o", "x", "--qemu", "socket", "--procstat"]).is_err());
        assert!(parse(&["-o", "x", "--windows", "1s", "--", "ls"]).is_err());
        assert!(parse(&["-o", "x", "--qemu", "socket", "--windows", "1s,2s"]).is_ok());
    }

    #[test]
    fn a_recording_is_a_file_with_a_sidecar_or_a_bundle() {
        if let Err(missing) = recorder::can_record_pages() {
            eprintln!(
                "SKIPPED a_recording_is_a_file_with_a_sidecar_or_a_bundle: missing {missing}"
            );
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let (file, bundle) = (at("r.mbpw"), at("bundle"));
        for out in [&file, &bundle] {
            let args = parse(&["-o", out, "--title", "a title", "--", "ls", "/"]).unwrap();
            assert_eq!(args.execute().unwrap(), Exit::Done);
        }
        let trace = read_page_writes(std::fs::File::open(&file).unwrap()).unwrap();
        assert_eq!(trace.title, "a title");
        assert!(trace.marks() > 20);
        for sidecar in [at("r.json"), at("bundle.json")] {
            let sidecar: Sidecar =
                serde_json::from_slice(&std::fs::read(sidecar).unwrap()).unwrap();
            assert_eq!(sidecar.about.command, ["ls", "/"]);
        }
        let read = Bundle::read(Path::new(&bundle)).unwrap();
        assert!(read.page_write_trace(0).unwrap().marks() > 20);
        let again = parse(&["-o", &bundle, "--", "ls"]).unwrap().execute();
        assert!(again.unwrap_err().to_string().contains("something already"));
        let procstat = parse(&["-o", &file, "--procstat"]).unwrap().execute();
        assert!(procstat.unwrap_err().to_string().contains("no page sets"));
    }
}
