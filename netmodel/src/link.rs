//! placeholder until branch netmodel lands
use serde::{Deserialize, Serialize};
/// A link direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkSpec {}
