//! `migbed migrate`: one VM over one link.

mod answer;
mod changes;
mod sockets;
mod streams;

use super::Exit;
use super::backend::BackendArg;
use crate::ids::MigrationId;
use crate::lone::{Company, Lone, Pattern, Writes, classes};
use crate::migration::faults::{Action, ParameterChange, PlannedFault, When};
use crate::migration::params::{
    AutoConvergeParams, ENGINES, EngineKind, MEMORY_MODES, MemoryMode, MigrationParams,
    PostcopyParams, Reprotect, TIMEOUT_STRATEGIES, TimeoutStrategy,
};
use crate::migration::record::Status;
use crate::run::Unusable;
use crate::run::progress::Show;
use crate::scenario::Backing;
use crate::units::{bit_rate, bytes_per_second, size_bytes, time_ns};
use answer::tell;
use anyhow::{Context, Result};
use changes::change;
use clap::Args;
use netmodel::link::{Jitter, LinkSpec, Loss};
use netmodel::units::{BitRate, ByteSize, Probability};
use sockets::SocketArgs;
use std::path::PathBuf;
use std::time::Duration;
use streams::StreamArgs;
use traces::store::bundle::Bundle;
use traces::units::{PAGE_SIZE, round_u32};

#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    /// RAM of the VM.
    #[arg(long, default_value = "512MiB", value_parser = size_bytes)]
    ram: u64,
    /// Memory that is not zero and is never written, besides the working set.
    #[arg(long, default_value = "128MiB", value_parser = size_bytes)]
    resident: u64,
    /// Memory that the VM writes.
    #[arg(long, default_value = "64MiB", value_parser = size_bytes, conflicts_with = "writes")]
    working_set: u64,
    /// Page writes a second; 0 is an idle VM.
    #[arg(
        long,
        default_value_t = 0.0,
        value_name = "PAGES/S",
        conflicts_with = "writes"
    )]
    write_rate: f64,
    /// Which pages a write falls on.
    #[arg(long, value_enum, default_value = "uniform", conflicts_with = "writes")]
    pattern: Pattern,
    /// Write as recorded: a page-write recording, or a bundle of `trace record --qemu`.
    #[arg(long, value_name = "RECORDING")]
    writes: Option<PathBuf>,
    /// What of a page-write recording: classes fitted to it, or its very pages.
    #[arg(long, value_enum, default_value = "fitted", requires = "writes")]
    writes_as: WritesAs,
    /// What pages hold: a built-in profile (docs/scenario.md, "Contents").
    #[arg(long, default_value = "random", value_parser = clap::builder::PossibleValuesParser::new(traces::content::NAMES))]
    content: String,
    /// What stands behind the VM's RAM.
    #[arg(long, value_enum, default_value_t)]
    memory: Backing,
    /// Rate of the link on the wire, or `unshaped`.
    #[arg(long, default_value = "1Gbit")]
    link: String,
    /// One-way delay of the link.
    #[arg(long, default_value = "0ms", value_parser = time_ns)]
    delay: u64,
    /// How much the delay varies, evenly to either side; packets keep their order.
    #[arg(long, default_value = "0ms", value_parser = time_ns)]
    jitter: u64,
    /// Share of packets lost on the way, such as 0.1%.
    #[arg(long, default_value = "0%", value_name = "SHARE")]
    loss: Probability,
    /// Mark packets that find more than this in the queue (ECN), for senders that ask for it.
    #[arg(long, value_name = "SIZE", value_parser = size_bytes)]
    ecn: Option<u64>,
    /// Room of the link's drop-tail queue.
    #[arg(long, default_value = "512KiB", value_parser = size_bytes)]
    queue: u64,
    /// What the rate counts over the IP bytes of each packet: 38 is Ethernet's wire rate, 14 what
    /// tc's TBF and netem count.
    #[arg(long, default_value_t = 38, value_name = "BYTES")]
    overhead_bytes: u16,
    /// The source's super-frames (GSO) are at most as long as this takes on the link.
    #[arg(long, value_parser = time_ns, default_value = "250us", value_name = "TIME")]
    super_frame: u64,
    /// TCP congestion control.
    #[arg(long, default_value = "cubic")]
    congestion: String,
    /// What the sockets' send buffers are before TCP has tuned them, instead of Linux's 16 KiB.
    #[arg(long, value_parser = size_bytes, value_name = "SIZE")]
    send_buffer: Option<u64>,
    /// How far TCP may tune them, instead of Linux's 4 MiB or twice what the path holds.
    #[arg(long, value_parser = size_bytes, value_name = "SIZE")]
    send_buffer_max: Option<u64>,
    /// How far TCP may tune receive buffers, instead of Linux's 6 MiB or twice what the path holds.
    #[arg(long, value_parser = size_bytes, value_name = "SIZE")]
    receive_buffer_max: Option<u64>,
    /// Whose decisions and bytes on the wire.
    #[arg(long, value_parser = engine, default_value = "qemu", value_name = "ENGINE")]
    engine: EngineKind,
    /// downtime-limit of QEMU and Cloud Hypervisor; 300ms without it.
    #[arg(long, value_parser = time_ns)]
    downtime_limit: Option<u64>,
    /// QEMU's max-bandwidth, such as 128MiB/s; without it, unlimited.
    #[arg(long, value_parser = bytes_per_second)]
    max_bandwidth: Option<u64>,
    /// QEMU's return-path: whether the source waits for the destination's word; true without it.
    #[arg(long, value_name = "BOOL")]
    return_path: Option<bool>,
    /// Re-arm the dirty log at every sync, as TCG does, instead of lazily by 1 GiB, as KVM does.
    #[arg(long)]
    reprotect_at_sync: bool,
    /// The guest's page tables, which TCG marks as written when it first walks them after logging began; 0 under KVM.
    #[arg(long, value_parser = size_bytes, value_name = "SIZE")]
    page_tables: Option<u64>,
    /// So much of them TCG walks all the time and marks at every reading of the log.
    #[arg(long, value_parser = size_bytes, value_name = "SIZE")]
    page_tables_walked: Option<u64>,
    /// What the destination takes to load the device state.
    #[arg(long, value_parser = time_ns)]
    load_time: Option<u64>,
    /// QEMU's auto-converge, with its default throttle.
    #[arg(long)]
    auto_converge: bool,
    /// QEMU's postcopy-ram: the migration may be switched while it runs.
    #[arg(long)]
    postcopy: bool,
    /// QEMU's postcopy-preempt: requested pages cross on a connection of their own.
    #[arg(long)]
    postcopy_preempt: bool,
    /// Switch to post-copy once the first pass of pre-copy is over, as virsh's option of this name.
    #[arg(long, requires = "postcopy")]
    postcopy_after_precopy: bool,
    /// Switch to post-copy so long after the start, as virsh's --timeout with --timeout-postcopy.
    #[arg(long, requires = "postcopy", value_parser = time_ns)]
    timeout_postcopy: Option<u64>,
    /// QEMU's max-postcopy-bandwidth, such as 64MiB/s; without it, unlimited.
    #[arg(long, value_parser = bytes_per_second)]
    max_postcopy_bandwidth: Option<u64>,
    /// Cloud Hypervisor's timeout; an hour without it.
    #[arg(long, value_parser = time_ns)]
    timeout: Option<u64>,
    /// What Cloud Hypervisor does when it passes: cancel, or ignore (stop the guest); cancel without it.
    #[arg(long, value_parser = timeout_strategy, value_name = "STRATEGY")]
    timeout_strategy: Option<TimeoutStrategy>,
    /// Cloud Hypervisor's memory_mode: precopy, or postcopy (the guest first, each page when it is asked for).
    #[arg(long, value_parser = memory_mode, value_name = "MODE")]
    memory_mode: Option<MemoryMode>,
    #[command(flatten)]
    streams: StreamArgs,
    #[command(flatten)]
    sockets: SocketArgs,
    /// Cancel after this long; without it after 150 s a GiB.
    #[arg(long, value_parser = time_ns)]
    completion_timeout: Option<u64>,
    /// Cancel it, as an operator does, so long after it began.
    #[arg(long, value_parser = time_ns, value_name = "TIME")]
    cancel_after: Option<u64>,
    /// Change a parameter of QEMU's so long after it began, such as 2s:max-bandwidth=64MiB/s; again for more.
    #[arg(long = "set", value_parser = change, value_name = "TIME:KEY=VALUE")]
    changes: Vec<(u64, ParameterChange)>,
    /// Seed of the guest's writes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep the run directory here.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What carries the network.
    #[arg(long, value_enum, default_value = "auto")]
    backend: BackendArg,
    /// Do not measure the link first.
    #[arg(long)]
    no_calibration: bool,
    /// Print JSON and no progress.
    #[arg(long)]
    json: bool,
}

/// What of a recording is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum WritesAs {
    Fitted,
    Pages,
}

impl MigrateArgs {
    pub(super) fn execute(&self) -> Result<Exit> {
        let lone = self.lone()?;
        let (out, temporary) = match &self.out {
            Some(out) => (out.clone(), false),
            None => (temporary_directory()?, true),
        };
        let show = if self.json { Show::Quiet } else { Show::Auto };
        let result = lone.run(&out, show);
        if temporary {
            // Best effort: what the run printed matters more than a leftover.
            let _ = std::fs::remove_dir_all(&out);
        }
        let outcome = result?;
        let record = outcome.migrations.first().expect("one VM, one record");
        tell(record, self.json)?;
        Ok(match record.status {
            _ if outcome.interrupted => Exit::Interrupted,
            Status::Completed if record.verified => Exit::Done,
            _ => Exit::Failed,
        })
    }

    fn lone(&self) -> Result<Lone, Unusable> {
        let rate = match self.link.as_str() {
            "unshaped" => None,
            rate => Some(bit_rate(rate).map_err(|error| Unusable(format!("--link: {error}")))?),
        };
        let (writes, idle) = self.written()?;
        let needed = self.resident
            + if self.writes.is_none() {
                self.working_set
            } else {
                0
            };
        if needed > self.ram {
            return Err(Unusable(format!(
                "--resident and --working-set need {needed} bytes, --ram is {}",
                self.ram
            )));
        }
        if self.ram == 0 || !self.ram.is_multiple_of(PAGE_SIZE) {
            return Err(Unusable(format!(
                "--ram {}: not a multiple of 4 KiB",
                self.ram
            )));
        }
        Ok(Lone {
            ram_bytes: self.ram,
            resident_bytes: self.resident + idle,
            resident_high_bytes: 0,
            cpu_milli: 0,
            writes,
            content: traces::content::named(&self.content).unwrap_or_default(),
            memory: self.memory,
            link: self.link(rate),
            congestion: self.congestion.clone(),
            send_buffer: self.send_buffer.map(ByteSize::from_bytes),
            send_buffer_max: self.send_buffer_max.map(ByteSize::from_bytes),
            receive_buffer_max: self.receive_buffer_max.map(ByteSize::from_bytes),
            params: self.params()?,
            seed: self.seed,
            warm_up_ns: 10_000_000_000,
            scale: 1,
            calibrate: !self.no_calibration,
            backend: self.backend.kind(),
            company: Company::default(),
            faults: self.faults()?,
        })
    }

    /// What the VM writes, and bytes of a working set that nothing writes.
    fn written(&self) -> Result<(Writes, u64), Unusable> {
        let Some(path) = &self.writes else {
            let pages = round_u32((self.working_set / PAGE_SIZE) as f64);
            let written = classes(self.pattern, pages, self.write_rate);
            // An idle VM's working set is memory like any other.
            let idle = if written.is_empty() {
                self.working_set
            } else {
                0
            };
            return Ok((Writes::Classes(written), idle));
        };
        if !path.is_dir() {
            let recording = Writes::Recording {
                path: path.clone(),
                fitted: self.writes_as == WritesAs::Fitted,
            };
            return Ok((recording, 0));
        }
        let bundle = Bundle::read(path).map_err(|error| Unusable(error.to_string()))?;
        let profile = bundle.vms.first().and_then(|vm| vm.dirty_profile);
        let classes = profile.and_then(|profile| bundle.dirty_profiles.get(&profile));
        let classes = classes.ok_or_else(|| {
            Unusable(format!(
                "{}: its first VM has no dirty profile, as `trace record --qemu` gives one",
                path.display()
            ))
        })?;
        Ok((Writes::Classes(classes.clone()), 0))
    }

    fn params(&self) -> Result<MigrationParams, Unusable> {
        let given = [
            ("downtime-limit", self.downtime_limit.is_some()),
            ("max-bandwidth", self.max_bandwidth.is_some()),
            ("return-path", self.return_path.is_some()),
            ("reprotect", self.reprotect_at_sync),
            ("page-tables", self.page_tables.is_some()),
            ("page-tables-walked", self.page_tables_walked.is_some()),
            ("auto-converge", self.auto_converge),
            ("postcopy-ram", self.postcopy),
            ("postcopy-preempt", self.postcopy_preempt),
            (
                "max-postcopy-bandwidth",
                self.max_postcopy_bandwidth.is_some(),
            ),
            ("timeout", self.timeout.is_some()),
            ("timeout-strategy", self.timeout_strategy.is_some()),
            ("memory-mode", self.memory_mode.is_some()),
        ];
        if let Some((option, _)) = given
            .iter()
            .chain(&self.streams.given())
            .find(|(option, given)| *given && !self.engine.has(option))
        {
            let engine = self.engine.name();
            return Err(Unusable(format!("engine {engine} has no {option}")));
        }
        let base = MigrationParams::default();
        let ms = |ns: Option<u64>| ns.map(|ns| ns / 1_000_000);
        let mut params = MigrationParams {
            postcopy: PostcopyParams {
                ram: self.postcopy,
                preempt: self.postcopy_preempt,
                after_precopy: self.postcopy_after_precopy,
                timeout: ms(self.timeout_postcopy),
                max_bandwidth: self.max_postcopy_bandwidth.unwrap_or_default(),
                ..PostcopyParams::of(self.engine)
            },
            engine: self.engine,
            max_bandwidth: self.max_bandwidth.unwrap_or(base.max_bandwidth),
            downtime_limit: ms(self.downtime_limit).unwrap_or(base.downtime_limit),
            return_path: self.return_path.unwrap_or(base.return_path),
            reprotect: if self.reprotect_at_sync {
                Reprotect::AtSync
            } else {
                base.reprotect
            },
            page_tables: self.page_tables.unwrap_or(base.page_tables),
            page_tables_walked: self.page_tables_walked.unwrap_or(base.page_tables_walked),
            load_time: ms(self.load_time).unwrap_or(base.load_time),
            completion_timeout: ms(self.completion_timeout),
            auto_converge: AutoConvergeParams {
                enabled: self.auto_converge,
                ..base.auto_converge
            },
            timeout: ms(self.timeout).unwrap_or(base.timeout),
            timeout_strategy: self.timeout_strategy.unwrap_or(base.timeout_strategy),
            memory_mode: self.memory_mode.unwrap_or(base.memory_mode),
            sockets: self.sockets.params(self.engine)?,
            ..base
        };
        self.streams.put(&mut params);
        params
            .check()
            .map_err(|refused| Unusable(refused.to_string()))?;
        Ok(params)
    }

    /// What is done to it under way.
    fn faults(&self) -> Result<Vec<PlannedFault>, Unusable> {
        if !self.changes.is_empty() && self.engine != EngineKind::Qemu {
            let engine = self.engine.name();
            return Err(Unusable(format!(
                "engine {engine} has no parameters that can be changed on the way"
            )));
        }
        let fault = |ns, action| PlannedFault {
            migration: MigrationId(1),
            when: When::After { ns },
            action,
        };
        let cancel = self.cancel_after.map(|ns| fault(ns, Action::Cancel));
        let changes = self.changes.iter();
        let changes = changes.map(|(ns, change)| fault(*ns, Action::SetParameters(*change)));
        Ok(changes.chain(cancel).collect())
    }

    fn link(&self, rate: Option<BitRate>) -> LinkSpec {
        let loss = if self.loss.ppb() == 0 {
            Loss::None
        } else {
            Loss::Independent(self.loss)
        };
        LinkSpec {
            rate,
            delay: Duration::from_nanos(self.delay),
            jitter: Jitter {
                spread: Duration::from_nanos(self.jitter),
                ..Jitter::default()
            },
            loss,
            queue: ByteSize::from_bytes(self.queue),
            ecn_threshold: self.ecn.map(ByteSize::from_bytes),
            overhead_bytes: self.overhead_bytes,
            super_frame: Duration::from_nanos(self.super_frame),
            ..LinkSpec::default()
        }
    }
}

fn engine(name: &str) -> Result<EngineKind, String> {
    word(name, ENGINES)
}

fn timeout_strategy(name: &str) -> Result<TimeoutStrategy, String> {
    word(name, TIMEOUT_STRATEGIES)
}

fn memory_mode(name: &str) -> Result<MemoryMode, String> {
    word(name, MEMORY_MODES)
}

fn word<T: Copy>(word: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(name, _)| *name == word);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = words.iter().map(|(name, _)| *name).collect();
        format!("there are: {}", names.join(", "))
    })
}

/// What the directories of runs that are not kept are called, before the process id.
const TEMPORARY: &str = "migbed-migrate-";

/// A directory of this process alone; removed at the end. A process that was killed could not
/// remove its own, so those of processes that are gone are removed here.
pub(super) fn temporary_directory() -> Result<PathBuf> {
    let all = std::env::temp_dir();
    for entry in std::fs::read_dir(&all).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(TEMPORARY));
        if let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok())
            && !PathBuf::from(format!("/proc/{pid}")).exists()
        {
            // Somebody else's, perhaps: then it stays.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let path = all.join(format!("{TEMPORARY}{}", std::process::id()));
    if path.exists() {
        std::fs::remove_dir_all(&path).with_context(|| format!("{}", path.display()))?;
    }
    Ok(path)
}
