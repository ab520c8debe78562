//! `migbed trace synth`: a CPU trace in, a bundle out whose memory and writes were made by the rules of
//! docs/synthesis.md, marked as such column by column. `migbed trace profiles`: what there is to make
//! them of. No rule here: `traces::synth` has them.

use super::{Source, size};
use crate::cli::Exit;
use crate::cli::output::say;
use crate::run::Unusable;
use anyhow::Result;
use clap::{Args, ValueEnum};
use comfy_table::Table;
use std::path::PathBuf;
use traces::class::{Coupling, unique_pages};
use traces::profile::{Profile, all, named, names};
use traces::store::bundle::{Bundle, Importer, VmMeta};
use traces::store::series::{Metric, Series};
use traces::synth::{Completed, Known, Marginal, complete};
use traces::units::{PAGE_SIZE, Provenance, round_u32, round_u64};

#[derive(Debug, Args)]
pub(in crate::cli) struct SynthArgs {
    #[command(flatten)]
    source: Source,
    /// How the VMs write: a name of `migbed trace profiles`.
    #[arg(long)]
    profile: String,
    /// How much: as the profile's own program does, or by the distribution over measured fleets.
    #[arg(long, value_enum, default_value = "fleet")]
    marginal: MarginalArg,
    /// Seed of everything drawn.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// RAM of VMs whose size is not known.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<f64>,
    /// Virtual CPUs of VMs whose number is not known.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    vcpus: u32,
    /// Where to: a new directory.
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// What the trace is, for people.
    #[arg(long, default_value = "")]
    title: String,
    /// The licence of the source.
    #[arg(long, default_value = "")]
    licence: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MarginalArg {
    Profile,
    Fleet,
}

impl SynthArgs {
    pub(super) fn execute(&self) -> Result<Exit> {
        let profile = named(&self.profile).ok_or_else(|| {
            let known: Vec<_> = names().collect();
            Unusable(format!(
                "--profile {}: there are {}",
                self.profile,
                known.join(", ")
            ))
        })?;
        if self.out.exists() {
            let text = format!("{}: there is something already", self.out.display());
            return Err(Unusable(text).into());
        }
        let imported = self.source.import()?;
        for warning in &imported.warnings {
            eprintln!("warning: {}: {}", warning.file.display(), warning.kind);
        }
        let demand: Vec<f64> = imported
            .vms
            .iter()
            .map(|vm| vm.cpu.mean_milli() / 1000.0)
            .collect();
        let recorded = |metric| {
            let mut series = imported.vms.iter().map(|vm| &vm.series);
            series.any(|series| series.values(metric).next().is_some())
        };
        let (memory_known, dirtied) = (
            recorded(Metric::MemUsedBytes),
            recorded(Metric::DirtyPagesW1),
        );
        if dirtied || imported.vms.iter().any(|vm| vm.page_writes.is_some()) {
            let name = self.source.name();
            return Err(Unusable(format!(
                "{name}: what its VMs write was recorded; it is not mixed with what is made up"
            ))
            .into());
        }
        let mut bundle =
            Bundle::from_import(imported, &self.title, &self.source.name(), &self.licence);
        let vms = bundle.vms.clone();
        for (vm, mean_cores) in vms.iter().zip(demand) {
            self.vm(&mut bundle, vm, mean_cores, &profile)?;
        }
        self.describe(&mut bundle, &profile, memory_known);
        bundle.write(&self.out)?;
        say!(
            "{}: {} VMs, memory and writes synthesised by profile {}, seed {}",
            self.out.display(),
            bundle.vms.len(),
            profile.name,
            self.seed
        );
        Ok(Exit::Done)
    }

    fn vm(
        &self,
        bundle: &mut Bundle,
        vm: &VmMeta,
        mean_cores: f64,
        profile: &Profile,
    ) -> Result<()> {
        let number = vm.vm_id;
        let series = bundle.samples.remove(&number).unwrap_or_default();
        let mem_bytes = vm.mem_bytes.or(self.memory.map(round_u64)).ok_or_else(|| {
            Unusable(format!(
                "the RAM of VM {} is not known; give --memory",
                vm.name
            ))
        })?;
        let pages = |bytes: u64| u32::try_from(bytes / PAGE_SIZE).unwrap_or(u32::MAX);
        let known = Known {
            vcpus: vm.vcpus.unwrap_or(self.vcpus),
            ram_pages: pages(mem_bytes),
            used_pages: mean(&series, Metric::MemUsedBytes).map(|bytes| pages(round_u64(bytes))),
            mean_cores,
        };
        let marginal = match self.marginal {
            MarginalArg::Profile => Marginal::Profile,
            MarginalArg::Fleet => Marginal::Fleet,
        };
        // VM keys begin at 1, as in runs.
        let completed = complete(profile, marginal, &known, self.seed, u64::from(number) + 1);
        let profile_id = u16::try_from(number).map_err(|_| {
            Unusable("a bundle holds 65,536 dirty profiles, one a VM; choose with --vm".into())
        })?;
        bundle
            .dirty_profiles
            .insert(profile_id, completed.classes().copied().collect());
        bundle.samples.insert(number, filled(&series, &completed)?);
        if let Some(meta) = bundle.vms.iter_mut().find(|meta| meta.vm_id == number) {
            meta.dirty_profile = Some(profile_id);
            meta.mem_bytes = Some(mem_bytes);
            meta.vcpus = Some(known.vcpus);
            meta.class = Some(profile.name.to_owned());
            meta.tags = Some(serde_json::to_string(&completed.choices)?);
        }
        Ok(())
    }

    /// Says in the manifest what was made and how.
    fn describe(&self, bundle: &mut Bundle, profile: &Profile, memory_known: bool) {
        let manifest = &mut bundle.manifest;
        let how = format!(
            "migbed trace synth: profile {} ({}), seed {}; docs/synthesis.md, choices in vms.parquet:tags",
            profile.name, profile.source, self.seed
        );
        let mut note = |table: &str, column: &str| {
            manifest.note(table, column, Provenance::Synthesised, &how);
        };
        for column in ["pages", "rate_per_s", "coupling", "locality", "run_pages"] {
            note("dirty_profiles.parquet", column);
        }
        for column in [Metric::DirtyPagesW1.column(), Metric::DirtyW1Ms.column()] {
            note("samples.parquet", column);
        }
        if !memory_known {
            note("samples.parquet", Metric::MemUsedBytes.column());
        }
        for column in ["class", "dirty_profile", "tags"] {
            note("vms.parquet", column);
        }
        let importer = manifest.importer.get_or_insert_with(|| Importer {
            name: "synth".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            options: std::collections::BTreeMap::new(),
            seed: None,
        });
        importer.seed = Some(self.seed);
        let content = serde_json::to_string(&profile.content).unwrap_or_default();
        for (key, value) in [
            ("profile", profile.name.to_owned()),
            ("marginal", format!("{:?}", self.marginal).to_lowercase()),
            ("content", content),
        ] {
            importer.options.insert(key.to_owned(), value);
        }
    }
}

fn mean(series: &Series, metric: Metric) -> Option<f64> {
    let (sum, count) = series
        .values(metric)
        .fold((0.0, 0u64), |(sum, count), value| {
            (sum + value as f64, count + 1)
        });
    (count > 0).then(|| sum / count as f64)
}

/// The samples with memory used, where it is not known, and D(1 s) at each interval's CPU use.
fn filled(series: &Series, completed: &Completed) -> Result<Series> {
    const WINDOW_MS: u64 = 1_000;
    let touched = u64::from(completed.choices.touched_pages) * PAGE_SIZE;
    let memory_known = series.values(Metric::MemUsedBytes).next().is_some();
    let mut filled = Series::default();
    for (index, interval) in series.intervals().iter().enumerate() {
        let mut values: Vec<(Metric, Option<u64>)> = series
            .metrics()
            .map(|metric| (metric, series.value(metric, index)))
            .collect();
        if !memory_known {
            values.push((Metric::MemUsedBytes, Some(touched)));
        }
        let cores = series.value(Metric::CpuMilli, index);
        let dirtied = cores.map(|milli| round_u64(completed.unique_pages(1.0, milli as f64 / 1e3)));
        values.push((Metric::DirtyPagesW1, dirtied));
        values.push((Metric::DirtyW1Ms, dirtied.map(|_| WINDOW_MS)));
        filled.push(*interval, &values)?;
    }
    Ok(filled)
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ProfilesArgs {
    /// Print all of it as JSON.
    #[arg(long)]
    json: bool,
}

impl ProfilesArgs {
    pub(super) fn execute(&self) -> Result<Exit> {
        let profiles: Vec<Profile> = all().collect();
        if self.json {
            say!("{}", serde_json::to_string_pretty(&profiles)?);
            return Ok(Exit::Done);
        }
        let mut table = Table::new();
        table.set_header([
            "profile",
            "for",
            "D(0.1 s)",
            "D(1 s)",
            "D(10 s)",
            "read in 1 s",
            "in 10 s",
            "pages",
            "at cores",
            "writes follow",
            "figures from",
        ]);
        for profile in &profiles {
            let pages: u64 = profile.classes.iter().map(|c| u64::from(c.pages)).sum();
            let d = |window_s: f64| {
                if profile.all_memory {
                    let share = unique_pages(&profile.classes, window_s) * 100.0;
                    format!("{share:.0} %")
                } else {
                    round_u32(profile.unique_pages(window_s)).to_string()
                }
            };
            let read = |window_s: f64| {
                let pages = profile.pages_read(window_s).map(round_u32);
                pages.map_or_else(|| "–".to_owned(), |pages| pages.to_string())
            };
            let from = profile.recording.map_or_else(
                || profile.source.to_owned(),
                |name| format!("traces/library/{name}.mbpw"),
            );
            table.add_row([
                profile.name.to_owned(),
                profile.about.to_owned(),
                d(0.1),
                d(1.0),
                d(10.0),
                read(1.0),
                read(10.0),
                if profile.all_memory {
                    "all".to_owned()
                } else {
                    pages.to_string()
                },
                profile
                    .cores
                    .map_or_else(|| "any".to_owned(), |cores| format!("{cores:.2}")),
                match profile.coupling {
                    Coupling::Cpu => "CPU".to_owned(),
                    Coupling::Time => "time".to_owned(),
                },
                from,
            ]);
        }
        say!("{table}");
        Ok(Exit::Done)
    }
}
