//! What can be wrong with a network and with what happens to it.

use crate::scenario::link_trace::LinkTraceError;
use netmodel::backend::CannotCarry;
use netmodel::schedule::{PatchError, TooMany, Unresolved};
use netmodel::topology::TopologyError;
use std::path::PathBuf;

/// What is wrong with a network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkProblem {
    /// A key of another topology.
    #[error("`{key}` is for {belongs}, and this network is a `{topology}`")]
    NotHere {
        /// The key.
        key: &'static str,
        /// The topologies it is for, in words.
        belongs: &'static str,
        /// The topology there is.
        topology: &'static str,
    },
    /// A flow with the Internet, which is not there.
    #[error("the network has no endpoint that stands for the Internet")]
    NoInternet,
    /// A partition that names links.
    #[error("a `partition` finds the links between its `group` and the rest itself")]
    Partitioned,
    /// A name that something has that nobody gave a name.
    #[error("`{name}` is the name of {what}")]
    Reserved {
        /// The name.
        name: String,
        /// What has it.
        what: &'static str,
    },
    /// A host that hangs on no switch.
    #[error("host `{host}`{} in no {what}", and_more(*.more))]
    Nowhere {
        /// The host.
        host: String,
        /// How many others there are like it.
        more: usize,
        /// What it should be in.
        what: &'static str,
    },
    /// A host in two places.
    #[error("host `{host}` is in {what} `{first}` already")]
    Twice {
        /// The host.
        host: String,
        /// What it is in.
        what: &'static str,
        /// The first place.
        first: String,
    },
    /// A number of hosts that are not there.
    #[error("{what} `{name}` is to have {asked} hosts, and only {left} are left")]
    TooFew {
        /// What kind of place.
        what: &'static str,
        /// Its name.
        name: String,
        /// Hosts it asks for.
        asked: u32,
        /// Hosts that are in no place yet.
        left: u32,
    },
    /// A rack without hosts.
    #[error("{what} `{name}` has no hosts")]
    Empty {
        /// What kind of place.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Parts that do not meet.
    #[error("no cables lead from {what} `{from}` to {what} `{to}`")]
    Apart {
        /// What kind of place.
        what: &'static str,
        /// One of them.
        from: String,
        /// The other one.
        to: String,
    },
    /// Two cables between the same places.
    #[error("there are two cables between `{a}` and `{b}`")]
    TwoCables {
        /// One end.
        a: String,
        /// The other end.
        b: String,
    },
    /// A property of a link that makes no sense.
    #[error("link {link}: its {what} is {value}, expected {bounds}")]
    Link {
        /// Which.
        link: String,
        /// Which property.
        what: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        bounds: &'static str,
    },
    /// A link that the backend asked for cannot carry.
    #[error(transparent)]
    Backend(#[from] CannotCarry),
    /// A share of what is not there.
    #[error("`{key}`: {source}")]
    Share {
        /// The key of the link.
        key: String,
        /// Why.
        source: PatchError,
    },
    /// Places and links that are no network for another reason.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// What happens cannot.
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
    /// Too much happens.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// A trace of a link that cannot be used.
    #[error("{}: {source}", path.display())]
    Trace {
        /// The file.
        path: PathBuf,
        /// Why.
        source: LinkTraceError,
    },
    /// A trace of deliveries has no beginning and no end to choose.
    #[error(
        "`{key}` has no meaning for a `mahimahi` trace, which begins with the run and is repeated"
    )]
    Endless {
        /// The key.
        key: String,
    },
    /// Traces of deliveries that take too much room.
    #[error("{}: with it traces of deliveries take more than {limit} bytes", path.display())]
    TracesTooLong {
        /// The file.
        path: PathBuf,
        /// So many may be.
        limit: usize,
    },
    /// A trace of one row is to be repeated.
    #[error("{} has one row: there is nothing to repeat", path.display())]
    OneRow {
        /// The file.
        path: PathBuf,
    },
}

fn and_more(more: usize) -> String {
    match more {
        0 => " is".into(),
        more => format!(" and {more} more are"),
    }
}

/// What to do about too many changes.
const FEWER: &str = "end flaps and traces sooner, make their periods longer, or name fewer links";

impl NetworkProblem {
    /// What to write instead, or what to do.
    pub(super) fn remedy(&self) -> Option<String> {
        let words = match self {
            Self::NotHere { belongs, .. } => {
                return Some(format!("say `topology`: {belongs}; or leave the key out"));
            }
            Self::NoInternet => "add a table [network.internet] with a `link`",
            Self::Partitioned => "leave this out, or say `down = true` of these links",
            Self::Reserved { .. } => "give this one another name",
            Self::Nowhere { what, .. } => {
                return Some(format!(
                    "list it in the `hosts` of a {what}, or give it `at = \"…\"`"
                ));
            }
            Self::Twice { .. } => "name each host once: in one `hosts`, or in its own `at`",
            Self::TooFew { .. } => "ask for fewer, or declare more in [[hosts]]",
            Self::Empty { .. } => "give it `hosts`, or leave it out",
            Self::Apart { .. } => "add a [[network.cables]] `between` the parts",
            Self::TwoCables { .. } => "leave one out, and give the other the rate of both",
            Self::Backend(_) => "say `backend`: `auto` takes one that can carry all links",
            Self::Unresolved(Unresolved::TooMany(_)) | Self::TooMany(_) => FEWER,
            Self::Unresolved(Unresolved::Patch { .. }) | Self::Share { .. } => {
                "say what it is to be with its unit"
            }
            Self::Trace { source, .. } => return source.remedy(),
            Self::Endless { .. } => "leave it out",
            Self::TracesTooLong { .. } => "cut the trace, or let fewer links follow it",
            Self::Topology(TopologyError::RateAndTrace { .. }) => {
                "say `rate = \"unshaped\"` of the link: the trace says when it sends"
            }
            Self::OneRow { .. } => "leave `loop` out, or give the trace a second row",
            Self::Link { .. } | Self::Topology(_) => return None,
        };
        Some(words.to_owned())
    }

    /// The word under the spot.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::NotHere { .. } => "of another topology",
            Self::NoInternet => "not there",
            Self::Partitioned | Self::Endless { .. } => "not needed",
            Self::Reserved { .. } => "taken",
            Self::Nowhere { .. } => "declared here",
            Self::Twice { .. } | Self::TwoCables { .. } => "again",
            Self::TooFew { .. } => "too many",
            Self::Empty { .. } => "empty",
            Self::Apart { .. } => "not connected",
            Self::Link { .. } | Self::Share { .. } => "not possible",
            Self::Backend(_) => "cannot be carried",
            Self::Topology(_) => "no network",
            Self::Unresolved(_) => "cannot happen",
            Self::TooMany(_) => "too many changes",
            Self::Trace { .. } | Self::OneRow { .. } | Self::TracesTooLong { .. } => {
                "declared here"
            }
        }
    }
}
