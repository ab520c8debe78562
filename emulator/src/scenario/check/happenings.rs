//! What happens to links, from what is said of it to the schedule: traces read, everything resolved, every link that
//! comes to be one that can be.

use super::Span;
use super::link::Demands;
use super::network::Network;
use crate::scenario::link_trace;
use crate::scenario::problem::{NetworkProblem, Problem, ProblemKind};
use crate::scenario::raw::Log;
use crate::scenario::{NetworkSpec, scale};
use netmodel::schedule::{Happening, Holder, Unresolved, resolve};
use netmodel::topology::{LinkId, Topology};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// Most changes of links in a run: a day of a link's trace at a row a second. In the message that tells the machine of
/// them they take 6 MiB.
pub(super) const CHANGES_MAX: usize = 100_000;
/// Most that traces of deliveries take in the message that tells the machine of them: half of what a message may be.
const STORED_MAX: usize = 8 << 20;

/// What happens, to be resolved when the traces that are part of it have been read.
#[derive(Debug)]
pub(in crate::scenario) struct Events {
    /// The network as it is declared.
    topology: Topology,
    demands: Demands,
    duration_ns: u64,
    happenings: Vec<Happening>,
    /// Where each was said.
    spots: Vec<Span>,
    traces: Vec<LinkTrace>,
}

/// Links that follow a trace.
#[derive(Debug)]
pub(super) struct LinkTrace {
    pub(super) path: PathBuf,
    /// Where it is named.
    pub(super) spot: Span,
    pub(super) links: Vec<LinkId>,
    pub(super) what: TraceOf,
}

/// What a trace tells of a link.
#[derive(Debug, Clone, Copy)]
pub(super) enum TraceOf {
    /// Its properties, row by row, from an instant on, and whether from the beginning again.
    Rows { from_ns: u64, again: bool },
    /// When packets may leave.
    Deliveries,
}

impl Events {
    /// Nothing yet.
    pub(super) fn new(network: &Network, duration_ns: u64) -> Self {
        Self {
            topology: network.spec.topology.clone(),
            demands: network.demands,
            duration_ns,
            happenings: Vec::new(),
            spots: Vec::new(),
            traces: Vec::new(),
        }
    }

    /// More that happens, said at one spot.
    pub(super) fn add(&mut self, span: &Span, happenings: impl IntoIterator<Item = Happening>) {
        self.happenings.extend(happenings);
        self.spots.resize(self.happenings.len(), span.clone());
    }

    /// One more trace.
    pub(super) fn follow(&mut self, trace: LinkTrace) {
        self.traces.push(trace);
    }

    /// Whether traces have to be read before what happens is known.
    pub(super) fn wait_for_files(&self) -> bool {
        !self.traces.is_empty()
    }

    /// Reads the traces, and puts what they say before what events say.
    pub(in crate::scenario) fn read_traces(&mut self) -> Result<(), Vec<Problem>> {
        let (mut happenings, mut spots, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        let mut stored_bytes = 0;
        for (number, trace) in std::mem::take(&mut self.traces).into_iter().enumerate() {
            // Numbers of events come first.
            let holder = Holder::Numbered(usize::MAX - number);
            let read = match trace.what {
                TraceOf::Rows { from_ns, again } => trace
                    .happenings((from_ns, self.duration_ns), again, holder)
                    .map(|more| happenings.extend(more)),
                TraceOf::Deliveries => self.deliver(&trace, &mut stored_bytes),
            };
            spots.resize(happenings.len(), trace.spot.clone());
            if let Err(kind) = read {
                let span = trace.spot;
                problems.push(Problem { span, kind });
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        happenings.append(&mut self.happenings);
        spots.append(&mut self.spots);
        (self.happenings, self.spots) = (happenings, spots);
        Ok(())
    }

    /// Lets links send when a trace of deliveries lets them. `stored_bytes` is what all traces so far take.
    fn deliver(&mut self, trace: &LinkTrace, stored_bytes: &mut usize) -> Result<(), ProblemKind> {
        let path = || trace.path.clone();
        let deliveries = link_trace::read_deliveries(&trace.path);
        let deliveries = deliveries.map_err(|source| NetworkProblem::Trace {
            path: path(),
            source,
        })?;
        *stored_bytes += deliveries.to_string().len() * trace.links.len();
        if *stored_bytes > STORED_MAX {
            let (path, limit) = (path(), STORED_MAX);
            return Err(NetworkProblem::TracesTooLong { path, limit }.into());
        }
        let deliveries = Arc::new(deliveries);
        for &id in &trace.links {
            let topology = self.topology.clone();
            let served = topology.with_delivery(id, Some(Arc::clone(&deliveries)));
            self.topology = served.map_err(NetworkProblem::from)?;
            let link = self.topology.link(id);
            let backs = scale::ways_back(&self.topology);
            self.demands.of(link, &link.spec, backs[id.0 as usize])?;
        }
        Ok(())
    }

    /// Puts the schedule into the network; every link it makes has to be one that can be.
    pub(in crate::scenario) fn resolve(
        &self,
        network: &mut NetworkSpec,
    ) -> Result<(), Vec<Problem>> {
        let backs = scale::ways_back(&self.topology);
        let log = Log::default();
        let mut noted = BTreeSet::new();
        let resolved = resolve(
            &self.topology,
            &self.happenings,
            CHANGES_MAX,
            |index, link, spec| {
                let span = &self.spots[index];
                let demanded = self.demands.of(link, spec, backs[link.id.0 as usize]);
                if let Err(kind) = demanded
                    && noted.insert((span.start, span.end))
                {
                    log.add(span, kind);
                }
            },
        );
        match resolved {
            Ok(resolved) => {
                network.topology = resolved.topology;
                network.schedule = resolved.schedule;
            }
            Err(error) => {
                let index = match &error {
                    Unresolved::Patch { happening, .. } => *happening,
                    Unresolved::TooMany(_) => 0,
                };
                let span = self.spots.get(index).cloned().unwrap_or(0..0);
                log.add(&span, NetworkProblem::from(error).into());
            }
        }
        if log.is_empty() {
            Ok(())
        } else {
            Err(log.into_list())
        }
    }
}

impl LinkTrace {
    fn happenings(
        &self,
        span_ns: (u64, u64),
        again: bool,
        holder: Holder,
    ) -> Result<Vec<Happening>, ProblemKind> {
        let path = || self.path.clone();
        let rows = link_trace::read_rows(&self.path, CHANGES_MAX);
        let rows = rows.map_err(|source| NetworkProblem::Trace {
            path: path(),
            source,
        })?;
        if again && rows.length_ns().is_none() {
            return Err(NetworkProblem::OneRow { path: path() }.into());
        }
        let happenings = rows.happenings(span_ns, again, (&self.links, holder), CHANGES_MAX);
        Ok(happenings.map_err(NetworkProblem::from)?)
    }
}
