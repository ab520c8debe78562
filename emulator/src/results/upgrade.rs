//! JSON files of the version before, made what this version would have written.
//!
//! Values in, values out. What is not as that version wrote it stays as it is, for the reader to name.

use netmodel::link::LinkSpec;
use netmodel::topology::{Cable, Topology};
use serde_json::{Value, json};

/// `run.json` of schema 1: every network was a star of two lists of links, flows ran between VMs by their numbers, and
/// the backend was a word.
pub(super) fn run_json(header: &mut Value) {
    header["schema"] = json!(super::run_json::SCHEMA);
    let Some(scenario) = header.get_mut("scenario") else {
        return;
    };
    let flows = scenario.get_mut("flows").and_then(Value::as_array_mut);
    for flow in flows.into_iter().flatten() {
        for end in ["from", "to"] {
            if flow[end].is_u64() {
                flow[end] = json!({ "vm": flow[end] });
            }
        }
    }
    let topology = star(scenario);
    let Some(network) = scenario.get_mut("network").and_then(Value::as_object_mut) else {
        return;
    };
    if network.get("backend").and_then(Value::as_str) == Some("auto") {
        network.insert("backend".to_owned(), Value::Null);
    }
    if let Some(topology) = topology {
        network.remove("up");
        network.remove("down");
        network.insert("topology".to_owned(), topology);
        network.insert("schedule".to_owned(), json!([]));
    }
}

/// The star that `up` and `down` of a network are.
fn star(scenario: &Value) -> Option<Value> {
    let links = |way: &str| {
        let links = scenario["network"].get(way)?.clone();
        serde_json::from_value::<Vec<LinkSpec>>(links).ok()
    };
    let (up, down) = (links("up")?, links("down")?);
    let names = scenario["hosts"].as_array()?.iter();
    let names = names.filter_map(|host| host["name"].as_str().map(str::to_owned));
    let cables = up.into_iter().zip(down);
    let cables = cables.map(|(up, down)| Cable { up, down });
    serde_json::to_value(Topology::star(names.zip(cables)).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{HostId, VmId};
    use crate::results::RunHeader;
    use crate::scenario::Endpoint;
    use std::path::Path;

    #[test]
    fn a_run_of_the_version_before_is_read() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/results/testdata/run-1.json"
        );
        let header = RunHeader::read(Path::new(path)).unwrap();
        assert_eq!(header.schema, crate::results::run_json::SCHEMA);
        let network = &header.scenario.network;
        assert_eq!((network.backend, network.internet), (None, None));
        let link = |link: &LinkSpec| (link.rate.unwrap().bps(), link.queue.bytes(), link.up);
        assert_eq!(link(network.up(HostId(1))), (1_000_000_000, 512_000, true));
        assert_eq!(link(network.down(HostId(1))), (500_000_000, 512_000, true));
        assert_eq!(network.up(HostId(0)).delay.as_micros(), 100);
        let names: Vec<_> = network.path(HostId(0), HostId(1));
        assert_eq!([&*names[0].name, &*names[1].name], ["h1-up", "h2-down"]);
        assert!(network.schedule.changes().is_empty());
        let flow = &header.scenario.flows[0];
        assert_eq!(
            (flow.from, flow.to),
            (Endpoint::Vm(VmId(0)), Endpoint::Vm(VmId(1)))
        );
        // And as this version writes it.
        let text = serde_json::to_string(&header).unwrap();
        assert_eq!(serde_json::from_str::<RunHeader>(&text).unwrap(), header);
    }

    #[test]
    fn what_is_no_run_is_left_for_the_reader_to_refuse() {
        for text in [
            "{}",
            r#"{"scenario":3}"#,
            r#"{"scenario":{"flows":[1],"network":{"up":[1],"down":[]}}}"#,
        ] {
            let mut value: Value = serde_json::from_str(text).unwrap();
            run_json(&mut value);
            assert!(serde_json::from_value::<RunHeader>(value).is_err());
        }
    }
}
