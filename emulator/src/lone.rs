//! One VM, one link, one migration, or several that share it: what `migbed migrate` and `migbed validate` run.
//!
//! Inside: the scenario of such a migration, and running it. Never inside: printing.

mod company;

use crate::ids::{HostId, VmId};
use crate::migration::faults::PlannedFault;
use crate::migration::params::MigrationParams;
use crate::orchestrator::OrchestratorSpec;
use crate::run::progress::Show;
use crate::run::{self, RunOutcome, RunRequest, Unusable};
use crate::scenario::inputs::{Inputs, unfit};
use crate::scenario::{
    Backing, BalancerSpec, CpuDemand, CpuSource, HostSpec, NetworkSpec, Pace, PlannedMigration,
    Scenario, TraceSource, VmSpec, Work, WriteSource,
};
use anyhow::{Result, bail};
use netmodel::backend::BackendKind;
use netmodel::link::LinkSpec;
use netmodel::topology::{Cable, Topology};
use netmodel::units::ByteSize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use traces::class::{Coupling, Locality, PageClass, PhasedClasses};
use traces::content::ContentProfile;
use traces::units::PAGE_SIZE;

pub use company::Company;

/// Which pages of the working set a write falls on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Pattern {
    /// Each write on a random page.
    Uniform,
    /// Pages in turn, around and around.
    Seq,
    /// 90 % of the writes on the first 10 % of the pages, the rest over all.
    Hotcold,
}

/// The classes that write `rate_pps` pages a second in `pages` pages, in this pattern.
#[must_use]
pub fn classes(pattern: Pattern, pages: u32, rate_pps: f64) -> Vec<PageClass> {
    if pages == 0 || rate_pps <= 0.0 {
        return Vec::new();
    }
    let class = |pages: u32, rate: f64, locality: Locality| PageClass {
        coupling: Coupling::Time,
        locality,
        ..PageClass::new(pages, rate)
    };
    let everywhere = rate_pps / f64::from(pages);
    match pattern {
        Pattern::Uniform => vec![class(pages, everywhere, Locality::Scatter)],
        Pattern::Seq => vec![class(pages, everywhere, Locality::Sweep)],
        Pattern::Hotcold => {
            let hot = (pages / 10).max(1);
            let extra = 0.9 * rate_pps / f64::from(hot);
            let mut both = vec![class(hot, extra + 0.1 * everywhere, Locality::Scatter)];
            if pages > hot {
                both.push(class(pages - hot, 0.1 * everywhere, Locality::Scatter));
            }
            both
        }
    }
}

/// What a lone VM writes.
#[derive(Debug, Clone)]
pub enum Writes {
    /// These classes; none is an idle VM.
    Classes(Vec<PageClass>),
    /// Class sets one after another, round and round.
    Phases(PhasedClasses),
    /// A recording: its CPU demand, and its sets of pages or classes fitted to them.
    Recording {
        /// The file.
        path: PathBuf,
        /// Classes fitted to it rather than the sets.
        fitted: bool,
    },
}

/// The name of the recording in the scenario.
const RECORDING: &str = "recording";

impl Writes {
    /// The VM's CPU demand and writes, and the traces they name.
    fn sources(&self, cpu_milli: u32) -> (CpuSource, WriteSource, BTreeMap<String, TraceSource>) {
        let recording = || RECORDING.to_owned();
        let (path, fitted) = match self {
            Self::Classes(classes) => {
                let writes = if classes.is_empty() {
                    WriteSource::Idle
                } else {
                    WriteSource::Classes(classes.clone())
                };
                return (CpuSource::Constant(cpu_milli), writes, BTreeMap::new());
            }
            Self::Phases(phases) => {
                let writes = WriteSource::Phases(phases.clone());
                return (CpuSource::Constant(cpu_milli), writes, BTreeMap::new());
            }
            Self::Recording { path, fitted } => (path.clone(), *fitted),
        };
        let writes = if fitted {
            WriteSource::Fitted(recording())
        } else {
            WriteSource::Pages(recording())
        };
        let source = TraceSource {
            path,
            format: None,
            vm: None,
        };
        let traces = BTreeMap::from([(recording(), source)]);
        (CpuSource::Trace(recording()), writes, traces)
    }
}

/// One migration.
#[derive(Debug, Clone)]
pub struct Lone {
    /// RAM, bytes.
    pub ram_bytes: u64,
    /// Bytes that are not zero and are never written.
    pub resident_bytes: u64,
    /// How many of them lie at the top of RAM.
    pub resident_high_bytes: u64,
    /// CPU time it wants, thousandths of a core; a recording says its own.
    pub cpu_milli: u32,
    /// What writes.
    pub writes: Writes,
    /// What pages hold.
    pub content: ContentProfile,
    /// What stands behind RAM.
    pub memory: Backing,
    /// The link, both ways.
    pub link: LinkSpec,
    /// Congestion control.
    pub congestion: String,
    /// What send buffers begin with; `None` is the kernel's.
    pub send_buffer: Option<ByteSize>,
    /// How far TCP may tune them; `None` is the kernel's, or more where the path needs it.
    pub send_buffer_max: Option<ByteSize>,
    /// The same of receive buffers.
    pub receive_buffer_max: Option<ByteSize>,
    /// Options.
    pub params: MigrationParams,
    /// Seed.
    pub seed: u64,
    /// How long the guest has been writing when the migration begins, ns.
    pub warm_up_ns: u64,
    /// Space scale k.
    pub scale: u32,
    /// Whether to measure the link first.
    pub calibrate: bool,
    /// What carries the network; `None` is any that can.
    pub backend: Option<BackendKind>,
    /// What else is on the link.
    pub company: Company,
    /// What is done to it under way.
    pub faults: Vec<PlannedFault>,
}

impl Lone {
    /// The scenario: two hosts, of which only the first one's link is shaped, so that every packet
    /// crosses exactly one link each way. A rate kept at the source is the way out's alone.
    #[must_use]
    pub fn scenario(&self) -> Scenario {
        let moving = 1 + self.company.more_vms;
        // The ends of flows are VMs that do nothing else.
        let idle_bytes = u64::from(self.company.flows) * PAGE_SIZE;
        let ram_bytes = u64::from(moving) * self.ram_bytes + idle_bytes;
        let host = |name: &str| HostSpec::new(name, moving, ram_bytes);
        let (vm, traces) = self.vm();
        let mut vms = several(&vm, moving);
        let flows = self.company.flows(&vm, &mut vms);
        let topology = self.topology();
        let (schedule, change_ns) = self.company.schedule(&topology, self.warm_up_ns);
        Scenario {
            name: "migrate".to_owned(),
            seed: self.seed,
            scale: self.scale,
            divided_by: 1,
            pace: Pace::Warp,
            duration_ns: change_ns.max(self.warm_up_ns).max(1),
            traces,
            hosts: vec![host("source"), host("destination")],
            vms,
            flows,
            services: Vec::new(),
            probes: Vec::new(),
            network: NetworkSpec {
                backend: self.backend,
                topology,
                internet: None,
                schedule,
                congestion: self.congestion.clone(),
                send_buffer: self.send_buffer,
                send_buffer_max: self.send_buffer_max,
                receive_buffer_max: self.receive_buffer_max,
            },
            balancer: nobody(moving),
            migrations: (0..moving)
                .map(|vm| PlannedMigration {
                    at_ns: self.warm_up_ns,
                    vm: VmId(vm),
                    destination: HostId(1),
                })
                .collect(),
            migration: self.params.clone(),
            faults: self.faults.clone(),
            orchestrator: OrchestratorSpec::Timeout,
        }
    }

    /// The VM that moves, and the traces it names.
    fn vm(&self) -> (VmSpec, BTreeMap<String, TraceSource>) {
        let (cpu, writes, traces) = self.writes.sources(self.cpu_milli);
        let vm = VmSpec {
            name: "vm".to_owned(),
            vcpus: 1,
            weight: 1,
            ram_bytes: self.ram_bytes,
            resident_bytes: self.resident_bytes,
            resident_high_bytes: self.resident_high_bytes,
            cpu: vec![CpuDemand {
                source: cpu,
                ..CpuDemand::constant(0)
            }],
            writes,
            content: self.content,
            memory: self.memory,
            offset_ns: 0,
            work: Work::Service,
            host: HostId(0),
        };
        (vm, traces)
    }

    fn topology(&self) -> Topology {
        let open = LinkSpec {
            overhead_bytes: self.link.overhead_bytes,
            ..LinkSpec::default()
        };
        let cable = Cable {
            up: self.link,
            down: match self.link.is_shaped_at_source() {
                true => self.link.in_fabric(),
                false => self.link,
            },
        };
        Topology::star([
            ("source".to_owned(), cable),
            ("destination".to_owned(), Cable::symmetric(open)),
        ])
        .expect("two hosts of different names on one switch")
    }

    /// Runs it in a machine of its own; `out` gets the run directory. A record for each VM that moves.
    ///
    /// # Errors
    /// As [`run::run`]; also when the recording cannot be used, when the VM's RAM cannot hold it, and when it did not get as far as a record.
    pub fn run(&self, out: &Path, show: Show) -> Result<RunOutcome> {
        let scenario = self.scenario();
        let inputs = Inputs::load(&scenario).map_err(|errors| {
            let errors: Vec<_> = errors.into_iter().map(|(_, e)| e.to_string()).collect();
            Unusable(errors.join("; "))
        })?;
        if let Some((_, problem)) = unfit(&scenario, &inputs).into_iter().next() {
            return Err(Unusable(problem.to_string()).into());
        }
        let outcome = run::run(&RunRequest {
            scenario,
            inputs,
            file: None,
            out: out.to_owned(),
            show,
            calibrate: self.calibrate,
            force: false,
        })?;
        let (wanted, got) = (1 + self.company.more_vms, outcome.migrations.len());
        if got < wanted as usize {
            bail!("the run ended before its migrations did: {got} of {wanted}");
        }
        Ok(outcome)
    }
}

/// As many VMs like it.
fn several(vm: &VmSpec, count: u32) -> Vec<VmSpec> {
    if count == 1 {
        return vec![vm.clone()];
    }
    let named = |number| VmSpec {
        name: format!("{}{number}", vm.name),
        ..vm.clone()
    };
    (1..=count).map(named).collect()
}

/// No balancer, and as many migrations at once as are asked for.
fn nobody(parallel: u32) -> BalancerSpec {
    BalancerSpec {
        policy: "none".to_owned(),
        interval_ns: 60_000_000_000,
        window_ns: 60_000_000_000,
        options: BTreeMap::new(),
        parallel,
        parallel_per_host: parallel,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use traces::class::unique_pages;

    #[test]
    fn hotcold_puts_nine_writes_in_ten_on_a_tenth_of_the_pages() {
        let both = classes(Pattern::Hotcold, 1000, 5000.0);
        let writes = |class: &PageClass| f64::from(class.pages) * class.rate;
        assert!((both.iter().map(writes).sum::<f64>() - 5000.0).abs() < 1e-6);
        assert_eq!(both[0].pages, 100);
        assert!((writes(&both[0]) - (4500.0 + 50.0)).abs() < 1e-6);
    }

    #[test]
    fn a_sweep_writes_each_page_once_a_round() {
        let sweep = classes(Pattern::Seq, 1000, 500.0);
        assert!((unique_pages(&sweep, 1.0) - 500.0).abs() < 1e-9);
        assert!((unique_pages(&sweep, 3.0) - 1000.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_written_is_no_class() {
        assert!(classes(Pattern::Uniform, 0, 5.0).is_empty());
        assert!(classes(Pattern::Uniform, 5, 0.0).is_empty());
    }
}
