//! Nothing is believed to be set that the kernel does not tell back.

use std::collections::BTreeMap;

use super::super::FabricError;
use crate::plan::{HOST_DEVICE, Step};
use crate::qdisc::Object;
use crate::sys::netlink::{Netlink, device_index};
use crate::sys::tc::{Entry, wanted};

/// Compares what steps made in this namespace with what is there now.
pub(in crate::backend) fn read_back(
    steps: &[Step],
    netlink: &mut Netlink,
) -> Result<(), FabricError> {
    let mut by_device: BTreeMap<&str, Vec<Object>> = BTreeMap::new();
    for step in steps {
        let (device, object) = match step {
            Step::Queue { device, object, .. } => (device.as_str(), object),
            Step::Egress { object, .. } => (HOST_DEVICE, object),
            _ => continue,
        };
        by_device.entry(device).or_default().push(object.clone());
    }
    if by_device.is_empty() {
        return Ok(());
    }
    let mut qdiscs: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
    for entry in netlink.qdiscs()? {
        qdiscs.entry(entry.device).or_default().push(entry);
    }
    for (name, objects) in by_device {
        let device = device_index(name)?;
        let found = qdiscs.remove(&device).unwrap_or_default();
        compare_with(name, device, &objects, found, netlink)?;
    }
    Ok(())
}

/// Compares some qdiscs and classes of one device with what is there now.
pub(super) fn compare(
    name: &str,
    device: u32,
    objects: &[Object],
    netlink: &mut Netlink,
) -> Result<(), FabricError> {
    let mut found = Vec::new();
    for object in objects {
        if let Object::Qdisc { handle, .. } = object {
            found.push(netlink.qdisc(device, *handle)?);
        }
    }
    compare_with(name, device, objects, found, netlink)
}

fn compare_with(
    name: &str,
    device: u32,
    objects: &[Object],
    mut found: Vec<Entry>,
    netlink: &mut Netlink,
) -> Result<(), FabricError> {
    let has = |wanted: fn(&Object) -> bool| objects.iter().any(wanted);
    if has(|object| matches!(object, Object::Class { .. })) {
        found.extend(netlink.classes(device)?);
    }
    if has(|object| matches!(object, Object::Redirect(_))) {
        found.extend(netlink.filters(device)?);
    }
    objects
        .iter()
        .try_for_each(|object| compare_one(name, object, &found))
}

fn compare_one(name: &str, object: &Object, found: &[Entry]) -> Result<(), FabricError> {
    let (to, sink) = match object {
        Object::Redirect(redirect) => {
            let sink = redirect.sink.as_deref().map(device_index).transpose()?;
            (device_index(&redirect.to)?, sink)
        }
        Object::Qdisc { .. } | Object::Class { .. } => (0, None),
    };
    let wanted = wanted(object, to, sink);
    let is_it = |entry: &&Entry| match wanted.handle {
        Some(handle) => entry.handle == handle.0 && entry.kind == wanted.kind,
        // A filter's number is the kernel's to choose; its hash tables have no actions.
        None => !entry.facts.is_empty() && ["u32", "matchall"].contains(&entry.kind.as_str()),
    };
    let Some(entry) = found.iter().find(is_it) else {
        return Err(FabricError::NotThere {
            device: name.to_owned(),
            object: object.to_string(),
        });
    };
    match wanted.differs(entry) {
        None => Ok(()),
        Some((field, asked, got)) => Err(FabricError::ReadBack {
            device: name.to_owned(),
            object: object.to_string(),
            field,
            asked,
            got,
        }),
    }
}
