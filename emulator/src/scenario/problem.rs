//! What can be wrong with a scenario, each with the spot in the file, what was expected and the
//! remedy. Several are reported at once. Never inside: the checks themselves.

mod network;

pub use network::NetworkProblem;

use crate::placement::PlacementError;
use crate::units::{QuantityError, show_size};
use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A scenario that cannot be run. Its text shows every problem with file, line and spot.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("cannot read the scenario {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is too long to be a scenario.
    #[error("{} has {bytes} bytes; a scenario has at most {limit}", path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The most it may be.
        limit: u64,
    },
    /// The file is not text.
    #[error("{}:{line}: byte {offset} is not UTF-8; a scenario is a TOML text in UTF-8", path.display())]
    NotText {
        /// Which file.
        path: PathBuf,
        /// The line of the first bad byte, from 1.
        line: usize,
        /// The first bad byte, from 0.
        offset: usize,
    },
    /// It is text, and this is wrong with it.
    #[error("{0}")]
    Wrong(Problems),
}

/// What is wrong with the text of a scenario, in the order of the text; at least one.
#[derive(Debug)]
pub struct Problems {
    path: PathBuf,
    text: Arc<str>,
    list: Vec<Problem>,
}

/// One thing wrong, and where.
#[derive(Debug)]
pub struct Problem {
    /// Bytes of the text it is about.
    pub span: Range<usize>,
    /// What.
    pub kind: ProblemKind,
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ProblemKind {
    /// Not TOML.
    #[error("not valid TOML: {message}")]
    Syntax {
        /// What the parser says.
        message: String,
    },
    /// A key nothing reads.
    #[error("unknown key `{key}` in {table}")]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it stands.
        table: String,
        /// A known key that looks like it.
        near: Option<String>,
        /// All keys that may stand there.
        known: Vec<String>,
    },
    /// A key that must be there.
    #[error("{table} needs `{key}`")]
    Missing {
        /// The key.
        key: &'static str,
        /// Where.
        table: String,
        /// What it may look like.
        example: &'static str,
    },
    /// A value of another type.
    #[error("`{key}` is {found}, expected {expected}")]
    Type {
        /// The key.
        key: String,
        /// What it is.
        found: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A quantity that does not read, mostly for its unit.
    #[error("`{key}`: {source}")]
    Quantity {
        /// The key.
        key: String,
        /// Why.
        source: QuantityError,
        /// What is accepted.
        accepted: &'static str,
    },
    /// A value out of its bounds.
    #[error("`{key}` is {value}, expected {bounds}")]
    Bounds {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What it may be.
        bounds: String,
    },
    /// An option of another migration engine.
    #[error("engine `{engine}` has no `{key}`")]
    NotOfEngine {
        /// The key.
        key: String,
        /// The engine.
        engine: &'static str,
        /// Those that have it.
        of: Vec<&'static str>,
    },
    /// An option that something else rules out.
    #[error("`{key}`: {why}")]
    Refused {
        /// The key.
        key: String,
        /// What rules it out, in the words of the original where it has some.
        why: String,
    },
    /// A word that is not one of a fixed list, or a name nothing in the scenario has.
    #[error("`{key}`: there is no {what} `{name}`")]
    Unknown {
        /// The key.
        key: String,
        /// What kind of thing.
        what: &'static str,
        /// The name.
        name: String,
        /// A known name that looks like it.
        near: Option<String>,
        /// The known names, the first of them when there are many.
        known: Vec<String>,
    },
    /// A name that cannot be one.
    #[error("`{name}` cannot be a name")]
    Name {
        /// The name.
        name: String,
    },
    /// Two things of one name.
    #[error("there are two {what}s called `{name}`")]
    Duplicate {
        /// What.
        what: &'static str,
        /// The name.
        name: String,
        /// Line of the first, from 1.
        first_line: usize,
    },
    /// Not exactly one of several ways of saying something.
    #[error("`{key}` needs exactly one of {choices}")]
    OneOf {
        /// The key.
        key: String,
        /// The choices.
        choices: &'static str,
    },
    /// A VM for which there is no room.
    #[error("{}", no_room(.0))]
    NoRoom(PlacementError),
    /// A VM whose memory does not hold what it is told to do.
    #[error(
        "VM `{vm}` needs {} for its resident and its written pages, but has {} of RAM",
        show_size(*needed_bytes), show_size(*ram_bytes)
    )]
    Memory {
        /// The VM.
        vm: String,
        /// Bytes needed.
        needed_bytes: u64,
        /// RAM it has.
        ram_bytes: u64,
    },
    /// A VM whose memory cannot behave as it is told to.
    #[error("VM `{vm}`: {source}")]
    Behaviour {
        /// The VM.
        vm: String,
        /// Why.
        source: replay::guest::MemoryError,
    },
    /// Demand that cannot be resampled as declared.
    #[error(transparent)]
    Demand(#[from] super::inputs::DemandError),
    /// A VM whose pages cannot hold what they are told to.
    #[error("VM `{vm}`: {source}")]
    Content {
        /// The VM.
        vm: String,
        /// Why.
        source: replay::content::RecipeError,
    },
    /// What cannot be carried at this k.
    #[error(transparent)]
    Scale(#[from] super::scale::ScaleError),
    /// Something about the network.
    #[error(transparent)]
    Network(Box<NetworkProblem>),
    /// A trace that cannot be used.
    #[error("trace `{name}`: {source}")]
    Trace {
        /// Its name in the scenario.
        name: String,
        /// Why.
        source: super::inputs::InputError,
    },
}

impl From<NetworkProblem> for ProblemKind {
    fn from(problem: NetworkProblem) -> Self {
        Self::Network(Box::new(problem))
    }
}

impl ProblemKind {
    /// What to write instead, or what to do.
    fn remedy(&self) -> Option<String> {
        match self {
            Self::UnknownKey {
                near: Some(near), ..
            } => Some(format!("did you mean `{near}`?")),
            Self::UnknownKey { known, .. } => Some(format!("known here: {}", listed(known))),
            Self::Missing { example, .. } => Some(format!("write for example `{example}`")),
            Self::Quantity { accepted, .. } => Some(format!("accepted: {accepted}")),
            Self::NotOfEngine { of, .. } => Some(format!("it is an option of {}", of.join(", "))),
            Self::Unknown {
                near: Some(near), ..
            } => Some(format!("did you mean `{near}`?")),
            Self::Unknown { known, what, .. } if known.is_empty() => {
                Some(format!("the scenario declares no {what}"))
            }
            Self::Unknown { known, .. } => Some(format!("there are: {}", listed(known))),
            Self::Name { .. } => Some(
                "names have 1 to 64 letters, digits, `-`, `_` or `.`, and start with a letter or \
                 digit"
                    .into(),
            ),
            Self::Duplicate { first_line, .. } => Some(format!(
                "the first is on line {first_line}; give this one another name"
            )),
            Self::NoRoom(PlacementError::PinnedFull { .. }) => Some(
                "give the host more `ram`, the VMs less, or leave `host` out to have them placed"
                    .into(),
            ),
            Self::NoRoom(PlacementError::NoVcpus { .. } | PlacementError::PinnedVcpus { .. }) => {
                Some("add hosts or `cores`, or raise `cpu_overcommit`".into())
            }
            Self::Demand(error) => Some(error.remedy().into()),
            Self::NoRoom(_) => Some("add hosts or `ram`, or give the VMs less".into()),
            Self::Memory { .. } => Some("give the VM more `ram`, or less `resident`".into()),
            Self::Scale(error) => Some(error.remedy()),
            Self::Network(problem) => problem.remedy(),
            Self::Trace { source, .. } => source.remedy(),
            Self::Syntax { .. }
            | Self::Type { .. }
            | Self::Bounds { .. }
            | Self::OneOf { .. }
            | Self::Refused { .. }
            | Self::Behaviour { .. } => None,
            Self::Content { .. } => {
                Some("take figures measured together, or leave out those that do not matter".into())
            }
        }
    }

    /// The word under the spot.
    fn label(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "here",
            Self::UnknownKey { .. } => "unknown key",
            Self::Missing { .. } => "in this table",
            Self::Type { .. } => "wrong type",
            Self::Quantity { .. } => "wrong quantity",
            Self::Bounds { .. } => "out of bounds",
            Self::NotOfEngine { .. } => "not of this engine",
            Self::Refused { .. } => "refused",
            Self::Unknown { .. } => "unknown name",
            Self::Name { .. } => "not a name",
            Self::Duplicate { .. } => "again",
            Self::OneOf { .. } => "not exactly one",
            Self::NoRoom(_) => "does not fit",
            Self::Memory { .. } => "too small",
            Self::Behaviour { .. } | Self::Demand(_) | Self::Content { .. } => "declared here",
            Self::Scale(_) => "cannot be carried",
            Self::Network(problem) => problem.label(),
            Self::Trace { .. } => "declared here",
        }
    }
}

/// As [`PlacementError`], in units people read.
fn no_room(error: &PlacementError) -> String {
    let shown = |vm: &str, needed, host: &str, free, ram| {
        let (needed, free, ram) = (show_size(needed), show_size(free), show_size(ram));
        (
            format!("VM `{vm}` needs {needed} of RAM"),
            format!("host `{host}`"),
            free,
            ram,
        )
    };
    match error {
        PlacementError::NoRoom {
            vm,
            needed_bytes,
            host,
            free_bytes,
            ram_bytes,
            ..
        } => {
            let (vm, host, free, ram) = shown(vm, *needed_bytes, host, *free_bytes, *ram_bytes);
            format!("{vm}, but the emptiest {host} has {free} left of {ram}")
        }
        PlacementError::PinnedFull {
            vm,
            needed_bytes,
            host,
            free_bytes,
            ram_bytes,
            ..
        } => {
            let (vm, host, free, ram) = shown(vm, *needed_bytes, host, *free_bytes, *ram_bytes);
            format!("{vm}, but its {host} has {free} left of {ram}")
        }
        PlacementError::UnknownHost { .. }
        | PlacementError::NoHosts
        | PlacementError::NoVcpus { .. }
        | PlacementError::PinnedVcpus { .. } => error.to_string(),
    }
}

/// At most this many names are listed in one remedy.
const LISTED_MAX: usize = 24;

fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(LISTED_MAX)
        .map(|n| format!("`{n}`"))
        .collect();
    let more = if names.len() > LISTED_MAX {
        ", …"
    } else {
        ""
    };
    format!("{}{more}", shown.join(", "))
}

/// The known word nearest to a wrong one, when it is near enough to be a slip.
pub(super) fn near_miss<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    // 0.8 on Jaro-Winkler takes `durration` and `vpcus` for slips, and leaves `colour` for `count`.
    const NEAR: f64 = 0.8;
    let plain = |s: &str| s.to_lowercase().replace('-', "_");
    let word = plain(word);
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&word, &plain(name)), name))
        .filter(|(score, _)| *score >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))
        .map(|(_, name)| name.to_owned())
}

impl Problems {
    /// Problems of one text, put in its order. There must be one at least.
    pub(super) fn new(path: &Path, text: &str, mut list: Vec<Problem>) -> Self {
        assert!(
            !list.is_empty(),
            "problems are only made when something is wrong"
        );
        list.sort_by_key(|problem| (problem.span.start, problem.span.end));
        for problem in &mut list {
            problem.span = on_boundaries(text, &problem.span);
        }
        // A table read for two ends of a link finds the same thing twice.
        list.dedup_by_key(|problem| (problem.span.clone(), problem.kind.to_string()));
        Self {
            path: path.to_owned(),
            text: text.into(),
            list,
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong, in the order of the text.
    #[must_use]
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// Line and column of a problem, both from 1; the column counts characters.
    #[must_use]
    pub fn line_column(&self, problem: &Problem) -> (usize, usize) {
        line_column(&self.text, problem.span.start)
    }

    /// As [`fmt::Display`], in colours for a terminal.
    #[must_use]
    pub fn styled(&self) -> String {
        self.render(&Renderer::styled().decor_style(DecorStyle::Ascii))
    }

    fn render(&self, renderer: &Renderer) -> String {
        let path = self.path.display().to_string();
        let one = |problem: &Problem| {
            let spot = AnnotationKind::Primary
                .span(problem.span.clone())
                .label(problem.kind.label());
            let title = problem.kind.to_string();
            let remedy = problem.kind.remedy();
            let snippet = Snippet::source(&*self.text).path(&path).annotation(spot);
            let mut group = Level::ERROR.primary_title(&title).element(snippet);
            if let Some(remedy) = &remedy {
                group = group.element(Level::HELP.message(remedy.as_str()));
            }
            renderer.render(&[group])
        };
        self.list.iter().map(one).collect::<Vec<_>>().join("\n\n")
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&Renderer::plain().decor_style(DecorStyle::Ascii)))
    }
}

/// Line and column of a byte, both from 1.
pub(super) fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..on_boundaries(text, &(offset..offset)).start];
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

/// A span moved inwards to what the text has; renderers slice it.
fn on_boundaries(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(span.start.min(text.len()));
    let end = text.ceil_char_boundary(span.end.clamp(start, text.len()));
    start..end
}
