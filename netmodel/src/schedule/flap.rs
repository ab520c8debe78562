//! Links that go down again and again.

use super::resolve::{Happening, Holder, TooMany, What};
use crate::topology::LinkId;

/// Down at the beginning of every period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flap {
    /// When the first period begins, trace ns.
    pub from_ns: u64,
    /// The links are up from here on, trace ns.
    pub until_ns: u64,
    /// From one going down to the next; not zero.
    pub period_ns: u64,
    /// How long each time; less than the period.
    pub down_ns: u64,
}

impl Flap {
    /// What happens to the links, in order.
    ///
    /// # Errors
    /// When it is more than `limit` changes of links.
    pub fn happenings(
        &self,
        links: &[LinkId],
        holder: Holder,
        limit: usize,
    ) -> Result<Vec<Happening>, TooMany> {
        let span_ns = self.until_ns.saturating_sub(self.from_ns);
        let times = span_ns.div_ceil(self.period_ns.max(1));
        // Down and up of each link.
        let changes = u128::from(times) * 2 * links.len() as u128;
        if changes > limit as u128 {
            return Err(TooMany { changes, limit });
        }
        let once = |n: u64| {
            let down_ns = self.from_ns + n * self.period_ns;
            let up_ns = down_ns.saturating_add(self.down_ns).min(self.until_ns);
            let happening = |at_ns, what| Happening {
                at_ns,
                links: links.to_vec(),
                what,
            };
            [
                happening(down_ns, What::Down(holder)),
                happening(up_ns, What::Up(holder)),
            ]
        };
        Ok((0..times).flat_map(once).collect())
    }
}
