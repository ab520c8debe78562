//! JSON files of the version before, made what this version would have written.
//!
//! Values in, values out. What is not as that version wrote it stays as it is, for the reader to name.

use serde_json::{Map, Value, json};

/// `run.json` of schema 2: hosts had reference cores and admitted what RAM they have, demand was one source for a
/// whole VM with its scale beside it, and there were no services.
pub(super) fn run_json(header: &mut Value) {
    header["schema"] = json!(super::run_json::SCHEMA);
    let Some(scenario) = header.get_mut("scenario") else {
        return;
    };
    if let Some(scenario) = scenario.as_object_mut() {
        scenario.insert("services".to_owned(), json!([]));
    }
    each(scenario, "hosts", |host| {
        host.insert("speed_milli".to_owned(), json!(1000));
        host.insert("ram_overcommit_milli".to_owned(), json!(1000));
        host.insert("cpu_overcommit_milli".to_owned(), Value::Null);
    });
    each(scenario, "vms", |vm| {
        if let (Some(source), Some(scale)) = (vm.remove("cpu"), vm.remove("cpu_scale_milli")) {
            let demand = json!({
                "source": source,
                "scale_milli": scale,
                "resample": "hold",
                "resolution_ns": crate::scenario::CpuDemand::RESOLUTION_NS,
            });
            vm.insert("cpu".to_owned(), json!([demand]));
        }
    });
}

fn each(scenario: &mut Value, key: &str, change: impl FnMut(&mut Map<String, Value>)) {
    let list = scenario.get_mut(key).and_then(Value::as_array_mut);
    let objects = list.into_iter().flatten().filter_map(Value::as_object_mut);
    objects.for_each(change);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::RunHeader;
    use crate::scenario::{CpuDemand, HostSpec};
    use std::path::Path;

    #[test]
    fn a_run_of_the_version_before_is_read() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/results/testdata/run-2.json"
        );
        let header = RunHeader::read(Path::new(path)).unwrap();
        assert_eq!(header.schema, crate::results::run_json::SCHEMA);
        let (hosts, vms) = (&header.scenario.hosts, &header.scenario.vms);
        assert_eq!(hosts[1], HostSpec::new("h2", 4, 16 << 30));
        assert_eq!(vms[0].cpu, [CpuDemand::constant(400)]);
        // And as this version writes it.
        let text = serde_json::to_string(&header).unwrap();
        assert_eq!(serde_json::from_str::<RunHeader>(&text).unwrap(), header);
    }

    #[test]
    fn what_is_no_run_is_left_for_the_reader_to_refuse() {
        for text in [
            "{}",
            r#"{"scenario":3}"#,
            r#"{"scenario":{"hosts":[1],"vms":{"cpu":[1],"down":[]}}}"#,
        ] {
            let mut value: Value = serde_json::from_str(text).unwrap();
            run_json(&mut value);
            assert!(serde_json::from_value::<RunHeader>(value).is_err());
        }
    }
}
