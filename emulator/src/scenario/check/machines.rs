//! Hosts: what they are. How they are connected is `network`'s.

use super::{HOSTS_MAX, Names, Span, each, numbered};
use crate::scenario::HostSpec;
use crate::scenario::problem::ProblemKind;
use crate::scenario::raw::{Table, Value};
use std::collections::BTreeMap;
use std::ops::Range;
use traces::units::PAGE_SIZE;

/// The hosts, by id, and how they were declared.
#[derive(Debug, Default)]
pub(super) struct Machines<'d> {
    pub(super) hosts: Vec<HostSpec>,
    pub(super) names: Names,
    pub(super) groups: Vec<Group<'d>>,
    /// Groups of several, by the name they share.
    prefixes: BTreeMap<String, usize>,
    /// Where hosts are declared, when they are.
    pub(super) span: Span,
}

/// Hosts declared together.
#[derive(Debug)]
pub(super) struct Group<'d> {
    /// Where their name stands.
    pub(super) span: Span,
    /// Their ids.
    pub(super) hosts: Range<u32>,
    /// What their link is beside the network's.
    pub(super) link: Option<Value<'d>>,
    /// The switches they hang on, in turn; none is said when there is none.
    pub(super) at: Vec<Value<'d>>,
}

impl Machines<'_> {
    /// The hosts a name stands for: a host, or all those declared together under it.
    pub(super) fn named(&self, value: &Value<'_>) -> Option<Range<u32>> {
        let name = value.text()?;
        if let Some(host) = self.names.get(name) {
            return Some(host..host + 1);
        }
        if let Some(&group) = self.prefixes.get(name) {
            return Some(self.groups[group].hosts.clone());
        }
        let known = self
            .names
            .all()
            .chain(self.prefixes.keys().map(String::as_str));
        value.unknown_name("host", name, known);
        None
    }

    /// How many hosts there are.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.hosts.len()).expect("bounded by HOSTS_MAX")
    }
}

pub(super) fn read<'d>(root: &Table<'d>, text: &str) -> Machines<'d> {
    let mut machines = Machines::default();
    if let Some(value) = root.need("hosts", "[[hosts]]") {
        machines.span = value.span.clone();
        if value
            .list("a list of tables: [[hosts]]")
            .is_some_and(|list| list.is_empty())
        {
            value.out_of_bounds("empty", "at least one host");
        }
        each(root, "hosts", |table| {
            hosts(table, text, &mut machines);
        });
    }
    machines
}

fn hosts<'d>(table: &Table<'d>, text: &str, machines: &mut Machines<'d>) {
    let name = table
        .need("name", "name = \"h\"")
        .and_then(|v| v.name().map(|n| (n, v.span)));
    let count = table.get("count").and_then(|v| v.small(1..=HOSTS_MAX));
    let cores = table
        .need("cores", "cores = 4")
        .and_then(|v| v.small(1..=4096))
        .unwrap_or(1);
    let ram = table
        .need("ram", "ram = \"16GiB\"")
        .and_then(|v| ram_bytes(&v));
    let speed_milli = table
        .get("speed")
        .and_then(|v| v.thousandths(0.01..=100.0))
        .unwrap_or(1000);
    let ram_overcommit_milli = table
        .get("ram_overcommit")
        .and_then(|v| v.thousandths(0.001..=1000.0))
        .unwrap_or(1000);
    let cpu_overcommit_milli = table
        .get("cpu_overcommit")
        .and_then(|v| v.thousandths(0.001..=1000.0));
    let link = table.get("link");
    let at = match table.get("at") {
        None => Vec::new(),
        Some(value) if value.is_list() => value.list("a list of names").unwrap_or_default(),
        Some(value) => vec![value],
    };
    let Some((name, span)) = name else { return };
    let first = machines.count();
    for name in numbered(name, count) {
        if machines.hosts.len() >= HOSTS_MAX as usize {
            let value = format!("the host number {}", HOSTS_MAX + 1);
            let bounds = format!("at most {HOSTS_MAX} hosts in a scenario");
            let key = "hosts".into();
            let kind = ProblemKind::Bounds { key, value, bounds };
            table.log.add(&span, kind);
            break;
        }
        let index = machines.count();
        machines
            .names
            .add("host", &name, index, &span, text, table.log);
        // A RAM that does not read has been noted; 0 would be taken for a full host.
        machines.hosts.push(HostSpec {
            name,
            cores,
            speed_milli,
            ram_bytes: ram.unwrap_or(u64::MAX / 2),
            ram_overcommit_milli,
            cpu_overcommit_milli,
        });
    }
    if count.is_some() {
        machines
            .prefixes
            .insert(name.to_owned(), machines.groups.len());
    }
    let hosts = first..machines.count();
    machines.groups.push(Group {
        span,
        hosts,
        link,
        at,
    });
}

/// A size of at least one page, in whole pages, of at most 16 TiB (32 bits of page numbers).
pub(super) fn ram_bytes(value: &Value<'_>) -> Option<u64> {
    let bytes = value.size_bytes()?;
    let limit = u64::from(u32::MAX) * PAGE_SIZE;
    if bytes == 0 || bytes > limit || !bytes.is_multiple_of(PAGE_SIZE) {
        value.out_of_bounds(
            format!("{bytes} B"),
            "a multiple of 4KiB, from 4KiB up to 16TiB",
        );
        return None;
    }
    Some(bytes)
}
