//! Admission: what a scenario may put on the wire at once, against what this computer carries.
//! Pure but for the cache of capacities, which serves admission only and never a grade.

use crate::ids::HostId;
use crate::results::write_atomically;
use crate::scenario::{Arrivals, Backing, Endpoint, Scenario};
use netmodel::backend::BackendKind;
use netmodel::capacity::{self, Capacity, Demand, Load};
use netmodel::link::LinkSpec;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What becomes of a scenario on this computer.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    /// It is carried; the share of what may be used that it asks for.
    Fits(f64),
    /// This computer was never measured.
    Unknown,
    /// It is not carried: why, and what would be.
    Refused(String),
}

/// What may enter the network at once: as many migrations as the balancer may have under way, on
/// the fastest ways there are, every tenant flow and every service; no host more than its own link lets in.
/// Unshaped links ask for what there is, and so for nothing.
#[must_use]
pub fn demand(scenario: &Scenario) -> Demand {
    let mut asked: BTreeMap<HostId, u64> = BTreeMap::new();
    let mut add = |host: HostId, bps: u64| {
        let sum = asked.entry(host).or_default();
        *sum = sum.saturating_add(bps);
    };
    for (host, bps) in migrations(scenario) {
        add(host, bps);
    }
    let host = |end: Endpoint| match end {
        Endpoint::Vm(vm) => Some(scenario.vms[vm.index()].host),
        Endpoint::Internet => scenario.network.internet,
    };
    for service in &scenario.services {
        let (Some(server), Some(client)) =
            (host(Endpoint::Vm(service.server)), host(service.client))
        else {
            continue;
        };
        let sides = [
            (client, server, service.request_bytes),
            (server, client, service.response_bytes),
        ];
        for (from, to, bytes) in sides.into_iter().filter(|(from, to, _)| from != to) {
            add(
                from,
                requests_bps(service.arrivals, bytes).min(bottleneck(scenario, from, to)),
            );
        }
    }
    for flow in &scenario.flows {
        let (Some(from), Some(to)) = (host(flow.from), host(flow.to)) else {
            continue;
        };
        if from != to {
            add(
                from,
                flow.rate_bps
                    .unwrap_or(u64::MAX)
                    .min(bottleneck(scenario, from, to)),
            );
        }
    }
    let load = |(host, bps): (HostId, u64)| {
        let up = fastest(scenario, host);
        let rate_bps = bps.min(up.rate?.bps());
        let frame_bytes = up.gso_bytes();
        Some(Load {
            rate_bps,
            frame_bytes,
        })
    };
    Demand {
        loads: asked
            .into_iter()
            .filter_map(load)
            .filter(|l| l.rate_bps > 0)
            .collect(),
    }
}

/// What a service's messages of so many bytes come to; a closed loop takes what it gets.
fn requests_bps(arrivals: Arrivals, bytes: u32) -> u64 {
    match arrivals {
        Arrivals::Poisson { rate_milli } | Arrivals::Paced { rate_milli } => {
            rate_milli.saturating_mul(u64::from(bytes) * 8) / 1000
        }
        Arrivals::Closed { .. } => u64::MAX,
    }
}

/// Sources of migrations that may be under way at once, the fastest, each with its rate.
fn migrations(scenario: &Scenario) -> Vec<(HostId, u64)> {
    let balancer = &scenario.balancer;
    let mut rates: Vec<(HostId, u64)> = if balancer.policy == "none" {
        let planned = scenario.migrations.iter().map(|planned| {
            let from = scenario.vms[planned.vm.index()].host;
            (from, bottleneck(scenario, from, planned.destination))
        });
        planned.collect()
    } else {
        // A second stream out of a host shares its link: one counts.
        let hosts = (0u32..).map(HostId).take(scenario.hosts.len());
        hosts
            .filter_map(|host| Some((host, fastest(scenario, host).rate?.bps())))
            .collect()
    };
    rates.sort_by_key(|&(host, bps)| (std::cmp::Reverse(bps), host));
    rates.truncate(usize::try_from(balancer.parallel).unwrap_or(usize::MAX));
    rates
}

/// A host's way out, as fast as it will ever be.
fn fastest(scenario: &Scenario, host: HostId) -> LinkSpec {
    let network = &scenario.network;
    let link = network.topology.uplink(crate::scenario::net_host(host));
    let later = network.schedule.changes().iter();
    later
        .filter(|change| change.link == link.id && change.spec.rate.is_some())
        .map(|change| change.spec)
        .chain([link.spec])
        .max_by_key(|spec| spec.rate)
        .unwrap_or(link.spec)
}

/// The least rate of a path, bit/s; nothing if no link has one.
fn bottleneck(scenario: &Scenario, from: HostId, to: HostId) -> u64 {
    let path = scenario.network.path(from, to);
    let rates = path.iter().filter_map(|link| link.spec.rate);
    rates.map(|rate| rate.bps()).min().unwrap_or(0)
}

/// Whether a demand of a scenario that was divided by `k` is carried.
#[must_use]
pub fn judge(
    demand: &Demand,
    k: u32,
    capacity: Option<&Capacity>,
    others: &[Capacity],
) -> Admission {
    if demand.loads.is_empty() {
        return Admission::Fits(0.0);
    }
    let Some(capacity) = capacity else {
        return Admission::Unknown;
    };
    let admitted = capacity.admits(demand, others);
    if admitted.fits {
        return Admission::Fits(admitted.utilisation);
    }
    let asked: u64 = demand.loads.iter().map(|load| load.rate_bps).sum();
    let mut fits: Vec<String> = Vec::new();
    if let Some(more) = admitted.smallest_k {
        fits.push(format!(
            "--scale {} would fit",
            k.max(1).saturating_mul(more)
        ));
    }
    fits.extend(
        admitted
            .others
            .iter()
            .map(|kind| format!("--backend {kind} would fit")),
    );
    if fits.is_empty() {
        fits.push("no space scale fits; ask for less at once".to_owned());
    }
    Admission::Refused(format!(
        "up to {:.2} Gbit/s may be on the wire at once, {:.0} % of what `{}` may use of this machine\n  \
         {}; --force runs all the same and marks the run invalid",
        asked as f64 / 1e9,
        admitted.utilisation * 100.0,
        capacity.key.backend,
        fits.join(", "),
    ))
}

/// What an agent (DESIGN §10: 3 MiB unique), the process of a VM with an address of its own, and an idle VM (64 KiB) may take.
const AGENT_BYTES: u64 = 3 << 20;
const VM_BYTES: u64 = 64 << 10;

/// Why the processes of a scenario do not fit into `available_bytes` of memory; `None` if they do.
#[must_use]
pub fn memory_lacks(scenario: &Scenario, available_bytes: u64) -> Option<String> {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let (hosts, vms) = (count(scenario.hosts.len()), count(scenario.vms.len()));
    let ram = resident_bytes(scenario);
    let processes = hosts.saturating_add(count(super::ports(scenario).len()));
    let needed = processes
        .saturating_mul(AGENT_BYTES)
        .saturating_add(vms.saturating_mul(VM_BYTES))
        .saturating_add(ram);
    let mib = |bytes: u64| bytes >> 20;
    (needed > available_bytes).then(|| {
        let (of_ram, fits) = if ram > 0 {
            (
                format!(", {} MiB of it RAM of `resident` VMs", mib(ram)),
                "less of it, `memory = \"synthetic\"` or a larger --scale would fit",
            )
        } else {
            (String::new(), "a scenario of fewer hosts would fit")
        };
        format!(
            "{hosts} hosts and {vms} VMs take up to {} MiB of memory{of_ram}, and {} MiB are available\n  \
             {fits}; --force runs all the same and marks the run invalid",
            mib(needed),
            mib(available_bytes),
        )
    })
}

/// RAM of VMs that is really there; while one moves it is there twice.
fn resident_bytes(scenario: &Scenario) -> u64 {
    let mut each: Vec<u64> = scenario
        .vms
        .iter()
        .filter(|vm| vm.memory == Backing::Resident)
        .map(|vm| vm.ram_bytes)
        .collect();
    each.sort_unstable_by_key(|&bytes| std::cmp::Reverse(bytes));
    let moving = usize::try_from(scenario.balancer.parallel).unwrap_or(usize::MAX);
    let twice = each.iter().take(moving);
    each.iter()
        .chain(twice)
        .fold(0, |sum, &bytes| sum.saturating_add(bytes))
}

/// The better of two measurements of one computer: what else ran meanwhile is not its limit.
#[must_use]
pub fn better(a: Option<Capacity>, b: Option<Capacity>) -> Option<Capacity> {
    let speed = |capacity: &Capacity| capacity.measured.map(|m| m.bytes_per_s).iter().sum::<f64>();
    match (a, b) {
        (Some(a), Some(b)) if speed(&a) >= speed(&b) => Some(a),
        (a, b) => b.or(a),
    }
}

/// `$XDG_CACHE_HOME/migbed/capacity.json`, or below `~/.cache`.
fn cache_file() -> Option<PathBuf> {
    let absolute = |name: &str| {
        let path = std::env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("migbed").join("capacity.json"))
}

/// Capacities that were measured here before, with this kernel and version: of `backend`, and of
/// others.
#[must_use]
pub fn cached(backend: BackendKind) -> (Option<Capacity>, Vec<Capacity>) {
    let all = read_cache();
    let valid = |capacity: &Capacity| capacity.key == capacity::key(capacity.key.backend);
    let (own, others): (Vec<_>, Vec<_>) = all
        .into_iter()
        .filter(valid)
        .partition(|capacity| capacity.key.backend == backend);
    (own.into_iter().next(), others)
}

fn read_cache() -> Vec<Capacity> {
    // Whatever cannot be read is measured anew.
    let text = cache_file().and_then(|file| std::fs::read(file).ok());
    text.and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

/// Keeps a capacity for the next time; a cache that cannot be written is no reason to stop.
pub fn keep(capacity: &Capacity) {
    let Some(file) = cache_file() else { return };
    let mut all = read_cache();
    all.retain(|known| known.key != capacity.key);
    all.push(capacity.clone());
    let written = file
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .map_err(|error| error.to_string())
        .and_then(|()| serde_json::to_vec_pretty(&all).map_err(|error| error.to_string()))
        .and_then(|json| write_atomically(&file, &json).map_err(|error| error.to_string()));
    if let Err(error) = written {
        tracing::debug!(error, "this machine's capacity is not kept");
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use netmodel::capacity::Throughput;
    use std::path::Path;

    pub(in crate::run) fn scenario(more: &str) -> Scenario {
        let text = format!(
            "duration = \"9s\"\n[network]\nlink = {{ rate = \"1Gbit\" }}\n\
             [[hosts]]\nname = \"h\"\ncount = 3\ncores = 1\nram = \"1GiB\"\n\
             [[vms]]\nname = \"v\"\ncount = 3\nram = \"64MiB\"\nhost = [\"h1\", \"h2\", \"h3\"]\n{more}"
        );
        crate::scenario::parse(Path::new("test.toml"), &text).unwrap()
    }

    fn rates(more: &str) -> Vec<u64> {
        let demand = demand(&scenario(more));
        demand
            .loads
            .iter()
            .map(|l| l.rate_bps / 1_000_000)
            .collect()
    }

    const FLOW: &str = "[[flows]]\nfrom = \"v1\"\nto = \"v2\"\nrate = \"300Mbit\"\n";
    const BALANCER: &str = "[balancer]\npolicy = \"equalise\"\nparallel = 2\n";

    /// A capacity of `gbit` whatever the size of frames.
    fn carries(gbit: f64) -> Capacity {
        let measured = Throughput {
            frame_bytes: 3000.0,
            bytes_per_s: gbit * 1e9 / 8.0,
            frames_per_s: 1.0,
            cpu_share: 1.0,
        };
        let large = Throughput {
            frame_bytes: 60_000.0,
            ..measured
        };
        Capacity {
            key: capacity::key(BackendKind::Relay),
            measured: [measured, large],
            timer_late_p99_ns: 0,
        }
    }

    #[test]
    fn migrations_and_flows_ask_and_no_host_for_more_than_its_link() {
        assert_eq!(rates(""), [0u64; 0], "nothing ever moves");
        assert_eq!(rates(FLOW), [300]);
        assert_eq!(rates(BALANCER), [1000, 1000]);
        assert_eq!(
            rates(&format!("{FLOW}{BALANCER}")),
            [1000, 1000],
            "both out of h1"
        );
        let planned = "[[migrations]]\nat = \"1s\"\nvm = \"v1\"\nto = \"h3\"\n";
        assert_eq!(rates(planned), [1000]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_k_that_does() {
        let demand = demand(&scenario(BALANCER));
        let judged = |gbit: f64, k: u32| judge(&demand, k, Some(&carries(gbit)), &[]);
        assert!(matches!(judged(3.0, 1), Admission::Fits(share) if share < 1.0));
        // 2 Gbit/s of at most 0.75 × 1 Gbit/s: k = 3 leaves 0.67.
        let Admission::Refused(why) = judged(1.0, 1) else {
            panic!("2 Gbit/s do not fit 1");
        };
        assert!(why.contains("--scale 3 would fit"), "{why}");
        let Admission::Refused(why) = judged(1.0, 2) else {
            panic!("2 Gbit/s do not fit 1");
        };
        assert!(
            why.contains("--scale 6 would fit"),
            "divided by 2 already: {why}"
        );
        assert_eq!(judge(&demand, 1, None, &[]), Admission::Unknown);
    }

    #[test]
    fn of_two_measurements_the_undisturbed_one_counts() {
        let best = better(Some(carries(2.0)), Some(carries(3.0)));
        assert_eq!(best, Some(carries(3.0)));
        assert_eq!(better(Some(carries(2.0)), None), Some(carries(2.0)));
    }

    #[test]
    fn ram_that_is_there_is_counted_and_twice_while_it_moves() {
        let mut resident = scenario("");
        resident.balancer.parallel = 1;
        assert_eq!(resident_bytes(&resident), 0);
        resident.vms[0].memory = Backing::Resident;
        let ram = resident.vms[0].ram_bytes;
        assert_eq!(resident_bytes(&resident), 2 * ram);
        resident.vms[1].memory = Backing::Resident;
        assert_eq!(resident_bytes(&resident), 3 * ram);
        let why = memory_lacks(&resident, 3 * ram).unwrap();
        assert!(why.contains("synthetic"), "{why}");
        assert_eq!(memory_lacks(&resident, 3 * ram + (1 << 30)), None);
    }

    #[test]
    fn processes_need_memory() {
        assert_eq!(memory_lacks(&scenario(""), 1 << 30), None);
        let why = memory_lacks(&scenario(""), 4 << 20).unwrap();
        assert!(why.contains("3 hosts"), "{why}");
    }
}
