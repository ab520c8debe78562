//! Migrations under way, as the manager of the emulated cluster sees them. Pure: what was heard
//! goes in, who owns the guest comes out.
//!
//! The manager never guesses. A commit record on the destination's control socket is the only proof
//! that the guest runs there; its absence after that socket has ended is the only proof that it does
//! not. So a source in doubt is always told one or the other, and no guest runs twice.

use crate::balance::moves::Move;
use crate::control::message::{PathSeen, ProbeSeen, SourceEnding};
use crate::ids::ProbeId;
use crate::migration::faults::FaultStruck;
use crate::migration::record::{DeedDone, DestinationReport, Owner, Prediction, SourceReport};
use crate::migration::source::SourceError;
use crate::orchestrator::Patience;

/// How long the word of a destination that runs the guest may be on its way before nobody waits for it.
const WORD_NS: u64 = 2_000_000_000;

/// One end's part.
#[derive(Debug, Clone, Default)]
enum Part<T> {
    /// Nothing heard yet.
    #[default]
    Open,
    /// It is through.
    Done(T),
    /// Its host has gone.
    Lost,
    /// Its host is not heard of any more, and nobody knows whether it is dead.
    Silent,
    /// It never began.
    NotBegun,
}

impl<T> Part<T> {
    fn is_over(&self) -> bool {
        !matches!(self, Self::Open)
    }

    fn done(&self) -> Option<&T> {
        match self {
            Self::Done(value) => Some(value),
            _ => None,
        }
    }
}

/// What the source said at its end.
#[derive(Debug, Clone)]
pub struct SourceDone {
    /// How it ended there.
    pub ending: SourceEnding,
    /// Its account.
    pub report: SourceReport,
    /// When it had released everything.
    pub released_ns: u64,
}

/// A migration that was accepted and has not ended.
#[derive(Debug, Clone)]
pub struct Ongoing {
    /// What moves where.
    pub of: Move,
    /// When it was accepted, monotonic ns.
    pub requested_ns: u64,
    /// … and in trace time.
    pub requested_trace_ns: u64,
    /// When the orchestrator cancels it, monotonic ns; `None` until it is started.
    pub cancel_at_ns: Option<u64>,
    /// What models say of it.
    pub predictions: Vec<Prediction>,
    /// The source was told to start, and its links are being watched.
    pub watched: bool,
    /// When the source took the command, monotonic ns: QMP's `setup` began.
    pub begun_ns: Option<u64>,
    /// What the scenario has done to it so far.
    pub faults: Vec<FaultStruck>,
    /// The orchestrator's patience with it, and when it looks next, monotonic ns.
    pub patience: Option<(Patience, u64)>,
    /// What the orchestrator has done to it.
    pub deeds: Vec<DeedDone>,
    /// It is over, and this is who owns the guest; what was seen of its links is not known yet.
    pub over: Option<Owner>,
    /// What was seen of its links, once that is known.
    pub path: Option<Option<Box<PathSeen>>>,
    /// Probes that have not told yet what they saw.
    pub probes_left: usize,
    /// What those that have saw.
    pub probed: Vec<(ProbeId, Option<ProbeSeen>)>,
    source: Part<SourceDone>,
    destination: Part<DestinationReport>,
    committed_ns: Option<u64>,
    /// The guest ran at the destination, and its process died there.
    crashed_there: bool,
    error: Option<String>,
    told: bool,
    /// The source was told that no word will come.
    told_gone: bool,
    /// Cancelled when only the destination could still promise not to start.
    cancelled_late: bool,
    /// The source was told that the guest runs at the destination.
    told_runs: bool,
}

/// What follows from what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Wait.
    Open,
    /// Tell the source that no word of the destination will come; asked once.
    TellGone,
    /// Tell the source whether the destination committed; asked once.
    Tell {
        /// Whether it did.
        committed: bool,
    },
    /// The migration is over.
    Over {
        /// Who owns the guest.
        owner: Owner,
    },
}

impl Ongoing {
    /// A migration just accepted.
    #[must_use]
    pub fn new(of: Move, requested_ns: u64, requested_trace_ns: u64) -> Self {
        Self {
            of,
            requested_ns,
            requested_trace_ns,
            cancel_at_ns: None,
            predictions: Vec::new(),
            watched: false,
            begun_ns: None,
            faults: Vec::new(),
            patience: None,
            deeds: Vec::new(),
            over: None,
            path: None,
            probes_left: 0,
            probed: Vec::new(),
            source: Part::Open,
            destination: Part::Open,
            committed_ns: None,
            crashed_there: false,
            error: None,
            told: false,
            told_gone: false,
            cancelled_late: false,
            told_runs: false,
        }
    }

    /// The destination could not listen: neither end begins.
    pub fn refused(&mut self, error: String) {
        self.error = Some(error);
        self.source = Part::NotBegun;
        self.destination = Part::NotBegun;
    }

    /// The destination wrote its commit record.
    pub fn committed(&mut self, at_ns: u64) {
        self.committed_ns = Some(at_ns);
    }

    /// Whether the destination runs the guest, as far as it has said so.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        self.committed_ns.is_some()
    }

    /// The guest ran at the destination, and its process died there.
    pub fn crashed_there(&mut self) {
        self.crashed_there = true;
    }

    /// Who owns the guest, as far as has been heard.
    #[must_use]
    pub fn owner_so_far(&self) -> Owner {
        match self.committed_ns {
            Some(_) if self.crashed_there => Owner::Lost,
            Some(_) => Owner::Destination,
            None if self.source_crashed() => Owner::Lost,
            None => Owner::Source,
        }
    }

    fn source_crashed(&self) -> bool {
        self.source()
            .is_some_and(|done| done.ending == SourceEnding::Crashed)
    }

    /// The source says that it has sent everything and does not know what became of it.
    fn source_in_doubt(&self) -> bool {
        self.source().is_some_and(|done| {
            matches!(
                done.ending,
                SourceEnding::Completed | SourceEnding::Undecided
            )
        })
    }

    /// The manager has forgotten what it had heard, and hears it again from the hosts. What the
    /// record needs besides (when it was asked for, what models said) is the testbed's.
    pub fn forget(&mut self) {
        *self = Self {
            predictions: std::mem::take(&mut self.predictions),
            watched: self.watched,
            begun_ns: self.begun_ns,
            faults: std::mem::take(&mut self.faults),
            deeds: std::mem::take(&mut self.deeds),
            over: self.over,
            ..Self::new(self.of.clone(), self.requested_ns, self.requested_trace_ns)
        };
    }

    /// The source was told what became of the guest.
    pub fn told(&mut self) {
        self.told = true;
    }

    /// The source was told that no word of the destination will come.
    pub fn told_gone(&mut self) {
        self.told_gone = true;
    }

    /// A cancel came when the source had sent everything: whether the destination is to be asked for
    /// its promise.
    pub fn cancelled_late(&mut self) -> bool {
        self.cancelled_late = true;
        self.over.is_none() && self.committed_ns.is_none() && !self.destination.is_over()
    }

    /// When a source that was to be cancelled, and waits for the word of a destination that has committed, is told so
    /// over the control plane, monotonic ns: over a link that carries anything the word would have come by then.
    #[must_use]
    pub fn word_due_ns(&self) -> Option<u64> {
        let waits = self.cancelled_late && self.is_sending() && !self.told_runs;
        let committed_ns = self.committed_ns.filter(|_| waits)?;
        Some(committed_ns.saturating_add(WORD_NS))
    }

    /// The source was told that the guest runs at the destination.
    pub fn told_runs(&mut self) {
        self.told_runs = true;
    }

    /// Whether it came to nothing by such a cancel.
    #[must_use]
    pub fn was_cancelled_late(&self, owner: Owner) -> bool {
        self.cancelled_late && owner == Owner::Source
    }

    /// There is no such end, and never was.
    pub fn source_never_began(&mut self, why: &str) {
        self.error = Some(why.to_owned());
        self.source = Part::NotBegun;
    }

    /// There is no such end any more.
    pub fn destination_never_began(&mut self) {
        self.destination = Part::NotBegun;
    }

    /// Nothing is heard of the source's host any more, and nobody knows whether it is dead.
    pub fn source_silent(&mut self) {
        if !self.source.is_over() {
            self.source = Part::Silent;
        }
    }

    /// The same of the destination's.
    pub fn destination_silent(&mut self) {
        if !self.destination.is_over() {
            self.destination = Part::Silent;
        }
    }

    /// The source is through.
    pub fn source_done(&mut self, done: SourceDone) {
        self.source = Part::Done(done);
    }

    /// The destination is through.
    pub fn destination_done(&mut self, report: DestinationReport) {
        self.destination = Part::Done(report);
    }

    /// The source's host has gone. What it had told before stays told.
    pub fn source_lost(&mut self) {
        if !self.source.is_over() {
            self.source = Part::Lost;
        }
    }

    /// The destination's host has gone.
    pub fn destination_lost(&mut self) {
        if !self.destination.is_over() {
            self.destination = Part::Lost;
        }
    }

    /// What the source said.
    #[must_use]
    pub fn source(&self) -> Option<&SourceDone> {
        self.source.done()
    }

    /// The source was started and has not ended, as far as is known.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        self.watched && matches!(self.source, Part::Open)
    }

    /// Nothing more will be heard of the source.
    #[must_use]
    pub fn source_is_over(&self) -> bool {
        self.source.is_over()
    }

    /// What the destination said.
    #[must_use]
    pub fn destination(&self) -> Option<&DestinationReport> {
        self.destination.done()
    }

    /// Why it failed, as far as anybody said.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        let lost = |what: &str| Some(format!("the {what}'s host has gone"));
        let silent = |what: &str| {
            Some(format!(
                "the {what}'s host is silent, and nobody knows whether it is dead"
            ))
        };
        if self.crashed_there {
            return Some("the process of the VM died at the destination".to_owned());
        }
        if self.was_cancelled_late(self.owner_so_far()) {
            return Some("cancelled".to_owned());
        }
        let own = self.source().and_then(|done| done.report.error.clone());
        let theirs = || self.destination().and_then(|report| report.error.clone());
        // A source that was told to wait no longer knows less than who gave up.
        let gone = SourceError::DestinationGone.to_string();
        self.error
            .clone()
            .or_else(|| own.clone().filter(|error| *error != gone))
            .or_else(theirs)
            .or(own)
            .or_else(|| match (&self.source, &self.destination) {
                (Part::Lost, _) => lost("source"),
                (_, Part::Lost) => lost("destination"),
                (Part::Silent, _) => silent("source"),
                (_, Part::Silent) => silent("destination"),
                _ => None,
            })
    }

    /// Whether the destination may still pull pages from the source's copy.
    fn pulls(&self) -> bool {
        let postcopy = self.source().and_then(|done| done.report.postcopy.as_ref());
        let in_doubt = self.source().map(|done| done.ending) == Some(SourceEnding::Undecided);
        postcopy.is_some() && in_doubt && !self.destination.is_over()
    }

    /// Whether the source waits for a word that cannot come: no commit record was written, and none can
    /// be, since whoever would write it has ended or is dead.
    fn waits_in_vain(&self) -> bool {
        let never = matches!(self.destination, Part::Done(_) | Part::Lost);
        self.is_sending() && never && self.committed_ns.is_none()
    }

    /// What follows; to be asked again after every change and after every `Tell…`.
    pub fn verdict(&mut self) -> Verdict {
        if self.waits_in_vain() && !self.told_gone {
            self.told_gone = true;
            return Verdict::TellGone;
        }
        let there_is_known = (self.committed_ns.is_some() && !self.pulls())
            || (self.destination.is_over() && !matches!(self.destination, Part::Silent));
        if self.source_in_doubt() && !self.told && there_is_known {
            self.told = true;
            return Verdict::Tell {
                committed: self.committed_ns.is_some(),
            };
        }
        if !self.source.is_over() || !self.destination.is_over() {
            return Verdict::Open;
        }
        let owner = self.owner();
        Verdict::Over { owner }
    }

    /// Who owns the guest, both ends having ended or gone.
    fn owner(&self) -> Owner {
        let destination_lost = matches!(self.destination, Part::Lost) || self.crashed_there;
        let source_lost = matches!(self.source, Part::Lost) || self.source_crashed();
        let destination_silent = matches!(self.destination, Part::Silent);
        match self.committed_ns {
            Some(_) if destination_lost => Owner::Lost,
            // It ran there, and its pages have gone with the source or the way to it.
            Some(_) if self.destination().is_some_and(DestinationReport::is_lost) => Owner::Lost,
            // It ran there; whether it still does nobody can say.
            Some(_) if destination_silent => Owner::Stranded,
            Some(_) => Owner::Destination,
            // It may have got everything and have committed.
            None if destination_silent && (source_lost || self.source_in_doubt()) => {
                Owner::Stranded
            }
            None if source_lost => Owner::Lost,
            None if matches!(self.source, Part::Silent) => Owner::Stranded,
            None => Owner::Source,
        }
    }
}

#[cfg(test)]
mod tests;
