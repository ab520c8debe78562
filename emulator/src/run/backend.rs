//! What carries the network of a run. Pure: what is asked and what the computer offers go in.

use super::{MissingCapability, Unusable};
use crate::scenario::NetworkSpec;
use netmodel::backend::BackendKind;
use netmodel::sys::probe::{Capabilities, Capability};

/// Why no backend can carry a network here.
#[derive(Debug, thiserror::Error)]
pub enum NoBackend {
    /// The backend asked for cannot do what a link asks: the scenario's, or the command line's.
    #[error(transparent)]
    Asked(#[from] Unusable),
    /// The computer lacks something.
    #[error(transparent)]
    Missing(#[from] MissingCapability),
}

/// The backend asked for, or the first of the order of `auto` that is there.
///
/// # Errors
/// [`NoBackend`]: with the link that cannot be carried, or with what is missing and the remedy.
pub fn choose(
    network: &NetworkSpec,
    capabilities: &Capabilities,
) -> Result<BackendKind, NoBackend> {
    let shapes = |link: &netmodel::topology::Link| link.spec.is_shaped_at_source();
    if network.topology.links().iter().any(shapes) && !capabilities.has(SOURCE_SHAPER) {
        let message = lack_of(SOURCE_SHAPER, capabilities);
        return Err(MissingCapability { message }.into());
    }
    if let Some(kind) = network.backend {
        let refused = |error: netmodel::backend::CannotCarry| Unusable(error.to_string());
        network.check(kind).map_err(refused)?;
        let lacks: Vec<String> = lacks(kind, capabilities).collect();
        if lacks.is_empty() {
            return Ok(kind);
        }
        let message = format!("backend `{kind}` cannot work here:\n{}", lacks.join("\n"));
        return Err(MissingCapability { message }.into());
    }
    let carries = |kind: &BackendKind| network.check(*kind).is_ok();
    let candidates: Vec<BackendKind> = AUTO.into_iter().filter(carries).collect();
    let here = |kind: &&BackendKind| lacks(**kind, capabilities).next().is_none();
    if let Some(kind) = candidates.iter().find(here) {
        return Ok(*kind);
    }
    let lacks: Vec<String> = candidates
        .iter()
        .flat_map(|&kind| lacks(kind, capabilities).map(move |lack| format!("{kind}: {lack}")))
        .collect();
    let message = format!("no backend can work here:\n{}", lacks.join("\n"));
    Err(MissingCapability { message }.into())
}

/// The order of `auto`. The relay accounts for every segment, bounds queues in bytes and can do
/// everything; of the kernel's, HTB alone is simpler where neither delay nor loss is asked.
const AUTO: [BackendKind; 3] = [BackendKind::Relay, BackendKind::Htb, BackendKind::Netem];

/// The qdisc of links whose rate is kept at the source, whatever the backend.
const SOURCE_SHAPER: &str = "tbf";

/// What a backend stands on and the computer does not have.
fn lacks(kind: BackendKind, capabilities: &Capabilities) -> impl Iterator<Item = String> {
    let missing = |name: &&str| !capabilities.has(name);
    let names = kind.needs().iter().copied().filter(missing);
    names.map(|name| lack_of(name, capabilities))
}

fn lack_of(name: &str, capabilities: &Capabilities) -> String {
    let probed = capabilities.0.iter().find(|c| c.name == name);
    probed.map_or_else(|| format!("this machine lacks {name}"), lack)
}

/// A lack with its remedy, for people.
pub(super) fn lack(capability: &Capability) -> String {
    format!(
        "this machine lacks {}: {}\n  remedy: {}",
        capability.name, capability.detail, capability.remedy
    )
}

/// Whether a capability is some backend's alone, so that its lack does not stop the others.
pub(super) fn is_of_a_backend(capability: &Capability) -> bool {
    let mut needs = BackendKind::ALL.into_iter().flat_map(BackendKind::needs);
    needs.any(|name| *name == capability.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netmodel::link::{LinkSpec, ShaperAt};
    use netmodel::schedule::Schedule;
    use netmodel::topology::{Cable, Topology};
    use netmodel::units::BitRate;
    use std::time::Duration;

    fn network(backend: Option<BackendKind>, delay_ms: u64) -> NetworkSpec {
        let spec = LinkSpec {
            delay: Duration::from_millis(delay_ms),
            ..LinkSpec::default()
        };
        let hosts = ["a", "b"].map(|name| (name.to_owned(), Cable::symmetric(spec)));
        NetworkSpec {
            backend,
            topology: Topology::star(hosts).unwrap(),
            internet: None,
            schedule: Schedule::default(),
            congestion: "cubic".to_owned(),
            send_buffer: None,
            send_buffer_max: None,
            receive_buffer_max: None,
        }
    }

    fn offers(names: &[&str]) -> Capabilities {
        let all = ["packet-vnet-header", "netem", "htb", "redirect", "tbf"];
        let capability = |name: &str| Capability {
            name: name.to_owned(),
            present: Some(names.contains(&name)),
            required: false,
            detail: "tried".to_owned(),
            remedy: format!("modprobe {name}"),
        };
        Capabilities(all.into_iter().map(capability).collect())
    }

    #[test]
    fn auto_takes_the_relay_and_the_kernel_only_without_it() {
        let all = offers(&["packet-vnet-header", "netem", "htb", "redirect"]);
        let kernel = offers(&["netem", "htb", "redirect"]);
        let chosen = |delay, here| choose(&network(None, delay), here).unwrap();
        assert_eq!(chosen(0, &all), BackendKind::Relay);
        assert_eq!(chosen(0, &kernel), BackendKind::Htb);
        assert_eq!(chosen(5, &kernel), BackendKind::Netem);
    }

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let here = offers(&["packet-vnet-header", "htb", "redirect"]);
        let error = choose(&network(Some(BackendKind::Netem), 5), &here).unwrap_err();
        assert!(matches!(error, NoBackend::Missing(_)));
        assert!(error.to_string().contains("modprobe netem"), "{error}");
        let nothing = choose(&network(None, 5), &offers(&["htb", "redirect"])).unwrap_err();
        assert!(nothing.to_string().contains("modprobe netem"), "{nothing}");
    }

    #[test]
    fn a_rate_kept_at_the_source_needs_the_kernels_tbf() {
        let rate = BitRate::from_bps(100_000_000).unwrap();
        let shaper_at = ShaperAt::SourceEgress {
            burst: LinkSpec::usual_burst(rate),
        };
        let up = LinkSpec {
            shaper_at,
            overhead_bytes: 14,
            ..LinkSpec::with_rate(rate)
        };
        let cable = |up| Cable {
            up,
            down: LinkSpec::default(),
        };
        let hosts = [("a", up), ("b", LinkSpec::default())];
        let mut asked = network(None, 0);
        asked.topology =
            Topology::star(hosts.map(|(name, up)| (name.to_owned(), cable(up)))).unwrap();
        let without = choose(&asked, &offers(&["packet-vnet-header"])).unwrap_err();
        assert!(without.to_string().contains("tbf"), "{without}");
        let here = offers(&["packet-vnet-header", "tbf"]);
        assert_eq!(choose(&asked, &here).unwrap(), BackendKind::Relay);
    }

    #[test]
    fn what_a_backend_cannot_carry_is_a_mistake_of_who_asked_for_it() {
        let all = offers(&["packet-vnet-header", "netem", "htb", "redirect"]);
        let error = choose(&network(Some(BackendKind::Htb), 5), &all).unwrap_err();
        assert!(matches!(error, NoBackend::Asked(_)));
        assert!(error.to_string().contains("delay"), "{error}");
    }
}
