//! What clients got: the answers of services over time, around each migration of a VM at an end; the picture of Clark et
//! al. (NSDI 2005) of a web server that is moved.
//!
//! An answer counts when its last byte was there, with its payload. Never inside: latencies (`latency`).

use super::page::Report;
use super::plot::{Curve, Plot, Scale};
use crate::ids::ServiceId;
use crate::migration::record::MigrationRecord;
use crate::results::services::MARGIN_NS;
use crate::scenario::Endpoint;
use std::collections::BTreeMap;

/// Pictures of a report.
const PICTURES: usize = 6;
/// Widths of the two averages, as in the paper's figure; the narrow one shows the outage.
const NARROW_NS: u64 = 100_000_000;
const WIDE_NS: u64 = 500_000_000;
/// Points of a curve: beyond, bins are made wider.
const POINTS: u64 = 1200;

/// A picture for each migration, the first few.
pub(super) fn plots(r: &Report<'_>) -> String {
    let ended = r.all.migrations.iter().map(|ended| &ended.record);
    let pictures = ended.filter_map(|record| picture(r, record));
    pictures.take(PICTURES).map(|plot| plot.draw()).collect()
}

/// The first of them as a file of its own.
pub(super) fn figure(r: &Report<'_>) -> Option<String> {
    let mut ended = r.all.migrations.iter().map(|ended| &ended.record);
    let plot = ended.find_map(|record| picture(r, record))?;
    let drawn = plot.draw();
    let (svg, _) = drawn.split_once("</svg>")?;
    let (head, body) = svg.split_once('>')?;
    let style = "svg{font:12px sans-serif;background:#fff}.grid{stroke:#ddd}.axis{fill:#444}\
        polyline,path{fill:none;stroke-width:1.5}.c0{stroke:#9ab}.c1{stroke:#c30}\
        .change{stroke:#333;stroke-dasharray:4 3}";
    let space = if head.contains("xmlns") {
        ""
    } else {
        " xmlns=\"http://www.w3.org/2000/svg\""
    };
    Some(format!(
        "{head}{space}><style>{style}</style>{body}</svg>\n"
    ))
}

fn picture(r: &Report<'_>, record: &MigrationRecord) -> Option<Plot> {
    let source = record.source_report.as_ref()?;
    let services = of_vm(r, &record.vm);
    let from_ns = source.begin_ns.saturating_sub(MARGIN_NS);
    let to_ns = source.end_ns + MARGIN_NS;
    let answers: Vec<(u64, f64)> = services
        .into_iter()
        .flat_map(|(id, bytes)| {
            let requests = r.all.requests.get(&id);
            let answered = requests
                .map(|it| it.answered.as_slice())
                .unwrap_or_default();
            let at = move |&(due_ns, us): &(u64, u64)| (due_ns + us * 1000, f64::from(bytes));
            answered.iter().map(at)
        })
        .filter(|(at_ns, _)| (from_ns..to_ns).contains(at_ns))
        .collect();
    if answers.is_empty() {
        return None;
    }
    let least_ns = ((to_ns - from_ns) / POINTS).max(1);
    let curve = |width_ns: u64, class, label: &str| {
        let width_ns = width_ns.max(least_ns);
        Curve {
            class,
            label: format!("{label}, every {} ms", width_ns / 1_000_000),
            points: binned(&answers, (from_ns, to_ns), width_ns),
            dots: false,
        }
    };
    let second = |at_ns: u64| (at_ns.saturating_sub(from_ns)) as f64 / 1e9;
    let mut marks = vec![(second(source.begin_ns), "begins".to_owned())];
    let outage = record.observed_outage_ms.map_or(String::new(), |ms| {
        let network = record.network_downtime_ms;
        let seen = network.map_or(String::new(), |ms| format!(", {ms:.0} ms seen"));
        format!("stopped for {ms:.0} ms{seen}")
    });
    marks.extend(source.stop_ns.map(|at_ns| (second(at_ns), outage)));
    Some(Plot {
        title: format!("answers of {} as it moves", record.vm),
        x: (Scale::Linear, "s"),
        y: (Scale::Linear, "Mbit/s of answers"),
        curves: vec![curve(NARROW_NS, "c0", "mean"), curve(WIDE_NS, "c1", "mean")],
        marks,
    })
}

/// Services with the VM at an end, and the bytes of an answer.
fn of_vm(r: &Report<'_>, vm: &str) -> BTreeMap<ServiceId, u32> {
    let services = &r.header.scenario.services;
    let named = |end: Endpoint| match end {
        Endpoint::Vm(id) => r.header.vm_name(id) == vm,
        Endpoint::Internet => false,
    };
    (0..)
        .map(ServiceId)
        .zip(services)
        .filter(|(_, service)| named(Endpoint::Vm(service.server)) || named(service.client))
        .map(|(id, service)| (id, service.response_bytes))
        .collect()
}

/// Mbit/s in bins, at their middles, s.
fn binned(answers: &[(u64, f64)], (from_ns, to_ns): (u64, u64), width_ns: u64) -> Vec<(f64, f64)> {
    let count = usize::try_from((to_ns - from_ns) / width_ns).unwrap_or(0);
    let mut bytes = vec![0.0; count];
    for &(at_ns, size) in answers {
        let bin = usize::try_from((at_ns - from_ns) / width_ns).unwrap_or(usize::MAX);
        // The last bin is left out where it is not whole.
        if let Some(bin) = bytes.get_mut(bin) {
            *bin += size;
        }
    }
    let width_s = width_ns as f64 / 1e9;
    let middle = |n: usize| (n as f64 + 0.5) * width_s;
    let rate = |bytes: f64| bytes * 8.0 / 1e6 / width_s;
    (0..)
        .zip(bytes)
        .map(|(n, it)| (middle(n), rate(it)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_in_the_bin_in_which_they_were_there() {
        let ms = |n: u64| n * 1_000_000;
        let answers = [
            (ms(1000), 1e6),
            (ms(1099), 1e6),
            (ms(1200), 5e5),
            (ms(1320), 9e9),
        ];
        let rates = binned(&answers, (ms(1000), ms(1350)), NARROW_NS);
        // 2 MB in 0.1 s are 160 Mbit/s; what is past the last whole bin is left out.
        assert_eq!(
            rates,
            [(0.05, 160.0), (0.15000000000000002, 0.0), (0.25, 40.0)]
        );
    }
}
