//! A whole end of a migration under valgrind, its peer beside it in the process that asks, at full speed: the socket of a source
//! always takes what it gives, a destination always finds its buffer full.
//!
//! The guest stands still, so a page crosses once. Never inside: links, dirty pages.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use migbed::clock::mono_ns;
use migbed::migration::channels::{accept_all, open_all};
use migbed::migration::destination::{DestinationJob, DestinationOutcome, run_destination};
use migbed::migration::engine::EngineUnits;
use migbed::migration::guest::{
    CommitRefused, DestinationGuest, GuestMemory, SourceGuest, Standing, VcpuStanding,
};
use migbed::migration::params::{MigrationParams, MultifdParams, PostcopyParams};
use migbed::migration::source::{NoObserver, SourceEnd, SourceJob, run_source};
use migbed::migration::upcoming::Limit;
use replay::content::{PagePool, Recipe};
use replay::{Behaviour, GuestTime, MemorySpec, VmState};
use traces::class::PageClass;
use traces::content::named;

/// Pages of RAM of a pass.
pub(super) const PASS_PAGES: u64 = 4096;
const VM: u64 = 1;
const SEED: u64 = 1;
/// Bodies in an agent's pool.
const POOL_PAGES: u32 = 512;
const LIMIT: Duration = Duration::from_secs(600);

/// Which end of which migration.
#[derive(Clone, Copy)]
pub(super) struct End {
    source: bool,
    channels: u8,
    zero: bool,
}

/// All of them.
pub(super) fn all() -> impl Iterator<Item = End> {
    let kinds = [(0, false), (0, true), (4, false), (4, true)];
    kinds.into_iter().flat_map(|(channels, zero)| {
        [true, false].map(|source| End {
            source,
            channels,
            zero,
        })
    })
}

impl End {
    /// As a row of the table.
    pub(super) fn name(self) -> String {
        let end = if self.source { "source" } else { "destination" };
        let pages = if self.zero { "zero pages" } else { "pages" };
        match self.channels {
            0 => format!("{end}, {pages}, one stream"),
            channels => format!("{end}, {pages}, {channels} channels"),
        }
    }

    /// In the counted process: its end, on a guest of so many passes.
    pub(super) fn counted(self, passes: u64, port: u16) -> Result<()> {
        if self.source {
            return self.send(passes, port);
        }
        let listener = TcpListener::bind("127.0.0.1:0")?;
        println!("{}", listener.local_addr()?.port());
        self.receive(passes, &listener)
    }

    /// Starts the counted process and is its peer.
    pub(super) fn beside(self, mut command: Command, passes: u64) -> Result<Output> {
        if self.source {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let port = listener.local_addr()?.port();
            let child = command.args(["--port", &port.to_string()]).spawn()?;
            let received = self.receive(passes, &listener);
            let output = super::ended(child)?;
            return received.map(|()| output);
        }
        let mut child = command.spawn()?;
        let mut said = String::new();
        let out = child.stdout.take().context("it is piped")?;
        BufReader::new(out).read_line(&mut said)?;
        let sent = match said.trim().parse() {
            Ok(port) => self.send(passes, port),
            Err(_) => Ok(()),
        };
        let output = super::ended(child)?;
        sent.map(|()| output)
    }

    fn params(self) -> MigrationParams {
        MigrationParams {
            max_bandwidth: 0,
            multifd: MultifdParams {
                enabled: self.channels > 0,
                channels: self.channels.max(1),
                ..MultifdParams::default()
            },
            ..MigrationParams::default()
        }
    }

    /// RAM of which nothing is written while it is looked at, in the versions of its hundredth second.
    fn memory(self, passes: u64) -> Result<GuestMemory> {
        let ram_pages = u32::try_from(passes * PASS_PAGES)?;
        let classes = vec![PageClass::new(ram_pages / 2, 0.1)];
        let content = named("dacapo").context("a built-in profile")?;
        let spec = MemorySpec {
            ram_pages,
            resident_pages: if self.zero { 0 } else { ram_pages / 2 },
            high_pages: 0,
            behaviours: if self.zero {
                vec![]
            } else {
                vec![Behaviour::Classes(classes)]
            },
            fresh: false,
            content: traces::content::ContentProfile {
                zero_share: 0.0,
                ..content
            },
        };
        Ok(GuestMemory::new(&spec, SEED, VM, |profile| {
            let recipe = Recipe::of(profile)?;
            Ok(Arc::new(PagePool::new(&recipe, SEED, POOL_PAGES)))
        })?)
    }

    fn send(self, passes: u64, port: u16) -> Result<()> {
        let params = self.params();
        let connect = || TcpStream::connect(("127.0.0.1", port));
        let socket = connect()?;
        let channels = open_all(1, VM, &params.channels(), connect)?;
        let job = SourceJob {
            migration: 1,
            params,
            guest: Arc::new(Still),
            memory: self.memory(passes)?,
            ram: None,
            socket,
            channels,
            congestion: None,
            control: Arc::default(),
            chunk_pages: 1 << 18,
            units: EngineUnits {
                check_pages: 64,
                stop_pages: 50,
                rounds_stop_pages: 50,
            },
            xen_batch_pages: 1024,
            data_chunk_pages: 1 << 14,
            packet_pages: 128,
            batch_pages: 32,
            acknowledge_limit_ms: 600_000,
            deadline_ns: None,
            redial: None,
            faults: Vec::new(),
        };
        let outcome = run_source(&job, &NoObserver);
        match outcome.end {
            SourceEnd::Completed => Ok(()),
            end => bail!("the source ended {end:?}: {:?}", outcome.report.error),
        }
    }

    fn receive(self, passes: u64, listener: &TcpListener) -> Result<()> {
        let params = self.params();
        let connections = accept_all(listener, 1, VM, &params.channels(), LIMIT, || false)?;
        let outcome = run_destination(DestinationJob {
            migration: 1,
            memory: self.memory(passes)?,
            ram: None,
            load_time_ms: 0,
            guest: Arc::new(Still),
            socket: connections.main,
            channels: connections.channels,
            streams: params.streams(),
            packet_pages: 128,
            congestion: None,
            control: Arc::default(),
            silence_limit_ms: 0,
            postcopy: PostcopyParams::default(),
            recover: None,
        });
        verified(outcome, passes * PASS_PAGES)
    }
}

/// What was counted is worth it only if every page arrived.
fn verified(outcome: DestinationOutcome, pages: u64) -> Result<()> {
    if let Some(error) = outcome.error {
        return Err(error.into());
    }
    let report = outcome
        .report
        .verification
        .context("nothing was verified")?;
    ensure!((report.pages, report.bad) == (pages, 0), "{report:?}");
    Ok(())
}

/// A guest whose time stands still.
struct Still;

impl Still {
    fn time(&self) -> GuestTime {
        GuestTime {
            cpu_ns: 100_000_000_000,
            run_ns: 100_000_000_000,
        }
    }
}

impl SourceGuest for Still {
    fn guest_time(&self) -> GuestTime {
        self.time()
    }

    fn pause(&self) -> GuestTime {
        self.time()
    }

    fn resume(&self) {}

    fn throttle(&self, _percent: u8) {}

    fn take_state(&self) -> VmState {
        VmState {
            run_ns: self.time().run_ns,
            cpu: replay::host::CoreWork(u128::from(self.time().cpu_ns) * 1_000_000_000),
            ..VmState::default()
        }
    }

    fn crash(&self) {}
}

impl DestinationGuest for Still {
    fn commit_and_resume(&self, _state: VmState) -> Result<u64, CommitRefused> {
        Ok(mono_ns())
    }

    fn run_within(&self, _limits: &[(usize, Limit)]) {}

    fn standing(&self) -> Standing {
        let vcpu = VcpuStanding {
            time: self.time(),
            stopped: None,
        };
        Standing::Here {
            vcpus: vec![vcpu],
            until_ns: u64::MAX,
        }
    }

    fn give_up(&self) {}
}
