//! Services: who answers, who asks, when, and what a request costs.

use super::moves::endpoint;
use super::{Names, each};
use crate::ids::VmId;
use crate::scenario::raw::{Table, Value};
use crate::scenario::{Arrivals, Endpoint, ServiceSpec};

/// A thread and a socket at either end for each.
const CONNECTIONS_MAX: u32 = 256;
/// Beyond this a request is a transfer: see `[[flows]]`.
const BYTES_MAX: u64 = 64 << 20;
/// Requests a second of a service: clients are threads of this computer.
const RATE_MAX: f64 = 20_000.0;

pub(super) fn read(root: &Table<'_>, text: &str, vms: &Names, internet: bool) -> Vec<ServiceSpec> {
    let (mut services, mut names) = (Vec::new(), Names::default());
    each(root, "services", |table| {
        let name = table
            .need("name", "name = \"shop\"")
            .and_then(|v| v.name().map(|name| (name, v.span)));
        let server = table
            .need("server", "server = \"web1\"")
            .and_then(|v| Some((vms.find("VM", &v)?, v)));
        let client = table
            .need("client", "client = \"internet\"")
            .and_then(|v| endpoint(&v, vms, internet));
        let (arrivals, connections) = arrivals(table);
        let bytes = |key| {
            let value = table.get(key);
            let bytes = value.as_ref().and_then(|v| {
                let bytes = v.size_bytes()?;
                if bytes > BYTES_MAX {
                    v.out_of_bounds(format!("{bytes} B"), "at most 64MiB");
                }
                u32::try_from(bytes).ok()
            });
            bytes.unwrap_or(1000)
        };
        let (request_bytes, response_bytes) = (bytes("request"), bytes("response"));
        let cpu_ns = table.get("cpu").and_then(|v| v.time_ns()).unwrap_or(0);
        let (Some((name, span)), Some((server, at)), Some(client)) = (name, server, client) else {
            return;
        };
        if client == Endpoint::Vm(VmId(server)) {
            at.out_of_bounds("the `client` too", "another VM, or the Internet, to ask it");
        }
        let index = u32::try_from(services.len()).unwrap_or(u32::MAX);
        names.add("service", name, index, &span, text, table.log);
        services.push(ServiceSpec {
            name: name.to_owned(),
            server: VmId(server),
            client,
            arrivals,
            connections,
            request_bytes,
            response_bytes,
            cpu_ns,
        });
    });
    services
}

const PROCESSES: &[(&str, bool)] = &[("poisson", true), ("paced", false)];

/// Open loop with `rate`, closed without.
fn arrivals(table: &Table<'_>) -> (Arrivals, u32) {
    let rate = table.get("rate").map(|v| rate_milli(&v));
    let process = table.get("arrivals");
    let poisson = process
        .as_ref()
        .and_then(|v| v.word("process of arrivals", PROCESSES))
        .unwrap_or(true);
    let think = table.get("think");
    let think_ns = think.as_ref().and_then(|v| v.time_ns()).unwrap_or(0);
    let connections = table
        .get("connections")
        .and_then(|v| v.small(1..=CONNECTIONS_MAX));
    match rate {
        Some(rate_milli) => {
            if let Some(think) = &think {
                think.out_of_bounds("beside `rate`", "with `connections` alone: a closed loop");
            }
            let arrivals = if poisson {
                Arrivals::Poisson { rate_milli }
            } else {
                Arrivals::Paced { rate_milli }
            };
            (arrivals, connections.unwrap_or(16))
        }
        None => {
            if let Some(process) = &process {
                process.out_of_bounds("without `rate`", "beside `rate`: an open loop");
            }
            (Arrivals::Closed { think_ns }, connections.unwrap_or(1))
        }
    }
}

fn rate_milli(value: &Value<'_>) -> u64 {
    let rate = value.thousandths(0.001..=RATE_MAX);
    u64::from(rate.unwrap_or(1000))
}
