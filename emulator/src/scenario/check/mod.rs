//! From the tree of a TOML text to a [`Scenario`]: meaning, bounds, references, room.
//!
//! Pure: text in, scenario or problems out. What needs the file system (traces) comes after it, in
//! `inputs`, with the spots kept here in [`Spots`].

mod cables;
mod content;
mod demand;
mod events;
mod faults;
mod guests;
mod happenings;
mod link;
mod machines;
mod moves;
mod network;
mod orchestrator;
mod places;
mod postcopy;
mod probes;
mod room;
mod services;
mod sockets;
mod streams;
mod writes;

use super::problem::{NetworkProblem, ProblemKind, Problems, ScenarioError, line_column};
use super::raw::{Log, Table, Value};
use super::{INTERNET, Pace, Scenario, TraceSource};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use toml::de::DeTable;

/// A byte range of the text.
pub(super) type Span = Range<usize>;

/// A scenario, and where in the text its parts were said.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) scenario: Scenario,
    pub(super) spots: Spots,
}

/// Where in the text things were said, for what is found wrong after the text has been read.
#[derive(Debug, Default)]
pub(super) struct Spots {
    /// The `file` of a trace.
    pub(super) traces: BTreeMap<String, Span>,
    /// The table of a VM, by VM.
    pub(super) vms: Vec<Span>,
    /// How VMs were placed.
    pub(super) placing: room::Placing,
    /// What happens to links, with the traces that have to be read for it.
    pub(super) events: Option<happenings::Events>,
}

pub(super) use room::settle_again;

/// Most emulated hosts and VMs of a scenario: bounds what a `count` can allocate. Ten times what one
/// run is meant to carry (DESIGN §10).
const HOSTS_MAX: u32 = 10_000;
const VMS_MAX: u32 = 100_000;

/// Things by name, in order, each with where it was declared.
#[derive(Debug, Default)]
struct Names {
    index: BTreeMap<String, (u32, usize)>,
}

impl Names {
    /// Takes a name for the thing of this index. A name taken before is noted, not replaced.
    fn add(
        &mut self,
        what: &'static str,
        name: &str,
        index: u32,
        at: &Span,
        text: &str,
        log: &Log,
    ) {
        let offset = at.start;
        if let Some((_, first)) = self.index.get(name) {
            let first_line = line_column(text, *first).0;
            log.add(
                at,
                ProblemKind::Duplicate {
                    what,
                    name: name.into(),
                    first_line,
                },
            );
            return;
        }
        self.index.insert(name.into(), (index, offset));
    }

    /// The index of the thing of this name.
    fn get(&self, name: &str) -> Option<u32> {
        self.index.get(name).map(|(index, _)| *index)
    }

    /// Where the thing of this name was declared, as an offset into the text.
    fn spot(&self, name: &str) -> Option<usize> {
        self.index.get(name).map(|(_, offset)| *offset)
    }

    /// All names, in their own order.
    fn all(&self) -> impl Iterator<Item = &str> + Clone {
        self.index.keys().map(String::as_str)
    }

    /// The index of the thing a value names.
    fn find(&self, what: &'static str, value: &Value<'_>) -> Option<u32> {
        let name = value.text()?;
        let found = self.get(name);
        if found.is_none() {
            value.unknown_name(what, name, self.all());
        }
        found
    }
}

/// Reads and checks the text of a scenario. Paths in it are resolved against the folder of `path`.
pub(super) fn check(path: &Path, text: &str) -> Result<Checked, ScenarioError> {
    let wrong = |list| ScenarioError::Wrong(Problems::new(path, text, list));
    let (document, errors) = DeTable::parse_recoverable(text);
    let log = Log::default();
    for error in &errors {
        // Without a place of its own an error is about the end: something is not closed.
        let span = error.span().unwrap_or(text.len()..text.len());
        log.add(
            &span,
            ProblemKind::Syntax {
                message: error.message().to_owned(),
            },
        );
    }
    // After a syntax error the tree is a guess, and problems in it would be noise.
    if !errors.is_empty() {
        return Err(wrong(log.into_list()));
    }
    let whole = ("the scenario".to_owned(), 0..0);
    let checked = Table::read(whole, document.get_ref(), &log, |root| {
        scenario(root, path, text)
    });
    match checked {
        Some(checked) if log.is_empty() => Ok(checked),
        _ => Err(wrong(log.into_list())),
    }
}

/// Reads the whole scenario. `None` only when something was noted.
fn scenario(root: &Table<'_>, path: &Path, text: &str) -> Option<Checked> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let name = root
        .get("name")
        .map(|v| v.name().unwrap_or_default().to_owned());
    let seed = root
        .get("seed")
        .and_then(|v| v.integer(0..=u64::MAX))
        .unwrap_or(0);
    let duration = root
        .need("duration", "duration = \"2h\"")
        .map(|v| (v.some_time_ns(), v));
    let pace = root
        .get("pace")
        .and_then(|v| v.word("pace", PACES))
        .unwrap_or_default();
    let scale = root.get("scale");
    let k = scale.as_ref().and_then(|v| v.small(1..=65_536));
    let k = k.unwrap_or(1);
    let mut spots = Spots::default();
    let traces = traces(root, folder, &mut spots);
    let machines = machines::read(root, text);
    let network = network::read(root, text, &machines, k);
    let mut vms = guests::read(root, text, &machines, &traces);
    spots.placing = room::settle(root, &machines, &mut vms);
    if let Some(at) = vms.names.spot(INTERNET).filter(|_| network.outside) {
        reserved(root, at);
    }
    let flows = moves::flows(root, &vms.names, network.outside);
    let duration_ns = duration.and_then(|(ns, _)| ns);
    let services = services::read(root, text, &vms.names, network.outside);
    let internet = network.spec.internet;
    let probes = probes::read(root, &vms.names, &machines.names, internet);
    let migrations = moves::planned(root, &machines.names, &vms.names, duration_ns);
    spots.events = events::read(root, folder, &machines, &network, duration_ns);
    let mut migration = moves::parameters(root);
    let orchestrator = orchestrator::read(root, &mut migration);
    let faults = faults::read(root, &network, &migration, duration_ns);
    let balancer = moves::balancer(root);
    spots.vms = vms.spans;
    let mut scenario = Scenario {
        name: name.unwrap_or_else(|| stem(path)),
        seed,
        scale: k,
        divided_by: 1,
        pace,
        duration_ns: duration_ns?,
        traces,
        hosts: machines.hosts,
        vms: vms.list,
        flows,
        services,
        probes,
        network: network.spec,
        balancer,
        migrations,
        migration,
        orchestrator,
        faults,
    };
    let events = spots.events.as_ref();
    if let Some(events) = events.filter(|events| !events.wait_for_files() && root.log.is_empty()) {
        let resolved = events.resolve(&mut scenario.network);
        resolved.unwrap_or_else(|problems| root.log.extend(problems));
    }
    if let Some(scale) = scale.filter(|_| root.log.is_empty()) {
        carried(&scale, &scenario);
    }
    Some(Checked { scenario, spots })
}

/// A VM has the name of what is outside.
fn reserved(root: &Table<'_>, at: usize) {
    let (name, what) = (INTERNET.to_owned(), network::OUTSIDE);
    let problem = NetworkProblem::Reserved { name, what };
    root.log.add(&(at..at + INTERNET.len() + 2), problem.into());
}

/// Links have been checked where they are declared; this finds what else k makes too small.
fn carried(scale: &Value<'_>, scenario: &Scenario) {
    if let Err(error) = super::scale::apply(scenario, scenario.scale) {
        scale.note(error.into());
    }
}

const PACES: &[(&str, Pace)] = &[("warp", Pace::Warp), ("real", Pace::Real)];

/// The file's name as the scenario's, made of what names may hold.
fn stem(path: &Path) -> String {
    let stem = path
        .file_stem()
        .map(|s| s.to_string_lossy().into_owned())
        .unwrap_or_default();
    if super::raw::is_name(&stem) {
        stem
    } else {
        "scenario".into()
    }
}

fn traces(root: &Table<'_>, folder: &Path, spots: &mut Spots) -> BTreeMap<String, TraceSource> {
    let mut traces = BTreeMap::new();
    let Some(all) = root.get("traces") else {
        return traces;
    };
    all.open_table("[traces]", "a table of traces, [traces.NAME]", |table| {
        for (span, value) in table.rest() {
            let name = value.key.clone();
            if !super::raw::is_name(&name) {
                table.log.add(&span, ProblemKind::Name { name });
                continue;
            }
            let read = |table: &Table<'_>| {
                let file = table.need("file", "file = \"traces/redis.mbpw\"");
                let text = |key| table.get(key).and_then(|v| v.text()).map(str::to_owned);
                let (format, vm) = (text("format"), text("vm"));
                let file = file.and_then(|v| Some((v.text()?.to_owned(), v.span)))?;
                Some((
                    TraceSource {
                        path: folder.join(&file.0),
                        format,
                        vm,
                    },
                    file.1,
                ))
            };
            let trace = value.table(format!("[traces.{name}]"), "a table with `file`", read);
            // A trace that is declared wrongly is still declared: its users are not wrong as well.
            let (source, spot) = trace.flatten().unwrap_or_else(|| {
                (
                    TraceSource {
                        path: folder.into(),
                        format: None,
                        vm: None,
                    },
                    span,
                )
            });
            spots.traces.insert(name.clone(), spot);
            traces.insert(name, source);
        }
    });
    traces
}

/// Reads a list of tables, `[[key]]`.
fn each<'d>(root: &Table<'d>, key: &'static str, mut read: impl FnMut(&Table<'d>)) {
    let Some(list) = root.get(key) else { return };
    for value in list.list("a list of tables: [[…]]").unwrap_or_default() {
        value.table(format!("[[{key}]]"), "a table", &mut read);
    }
}

/// The names of `count` things: `name` itself without a count, else `name1`, `name2`, …
fn numbered(name: &str, count: Option<u32>) -> Vec<String> {
    count.map_or_else(
        || vec![name.to_owned()],
        |count| {
            (1..=count)
                .map(|number| format!("{name}{number}"))
                .collect()
        },
    )
}
