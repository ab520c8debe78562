//! The policy every other one is compared with.

use crate::balance::view::{Action, Policy, View};

/// Never moves anything.
#[derive(Debug, Clone, Copy)]
pub struct NoBalancing;

impl Policy for NoBalancing {
    fn name(&self) -> &str {
        "none"
    }

    fn decide(&mut self, _view: &View) -> Vec<Action> {
        Vec::new()
    }
}
