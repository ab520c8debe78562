//! What a scenario needs of this computer beyond what every run does.
//!
//! Never inside: backends of the network (`backend`), how much it carries (`admission`).

use super::backend::lack_of;
use super::error::MissingCapability;
use crate::scenario::{Backing, Scenario};
use netmodel::sys::probe::{Capabilities, USERFAULTFD};

/// Refuses what the kernel cannot do for a scenario.
pub(super) fn lacks_nothing_for(
    scenario: &Scenario,
    capabilities: &Capabilities,
) -> Result<(), MissingCapability> {
    let mut vms = scenario.vms.iter();
    let resident = vms.any(|vm| vm.memory == Backing::Resident);
    let stops_vcpus = resident && scenario.migration.may_postcopy();
    if stops_vcpus && !capabilities.has(USERFAULTFD) {
        let message = lack_of(USERFAULTFD, capabilities);
        return Err(MissingCapability { message });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::admission::tests::scenario;
    use netmodel::sys::probe::Capability;

    #[test]
    fn only_post_copy_of_ram_that_is_there_needs_userfaultfd() {
        let userfault = |present| {
            Capabilities(vec![Capability {
                name: USERFAULTFD.to_owned(),
                present: Some(present),
                required: false,
                detail: "Function not implemented".to_owned(),
                remedy: "a newer kernel".to_owned(),
            }])
        };
        let mut scenario = scenario("");
        let refused = |scenario: &Scenario| lacks_nothing_for(scenario, &userfault(false)).err();
        scenario.migration.postcopy.ram = true;
        assert!(refused(&scenario).is_none(), "its memory is computed");
        scenario.vms[0].memory = Backing::Resident;
        let why = refused(&scenario).unwrap().to_string();
        assert!(
            why.contains("lacks userfaultfd") && why.contains("a newer kernel"),
            "{why}"
        );
        assert!(lacks_nothing_for(&scenario, &userfault(true)).is_ok());
        scenario.migration.postcopy.ram = false;
        assert!(refused(&scenario).is_none(), "nothing is missing anywhere");
    }
}
