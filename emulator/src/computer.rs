//! What /proc says of this computer and of the process that asks.
//!
//! Inside: memory and stolen time, read and parsed. Never inside: what follows from them.

use std::fs;

/// Memory that goes with this process: resident pages nobody else maps. `None` if the kernel does
/// not tell.
#[must_use]
pub fn own_unique_bytes() -> Option<u64> {
    // By `self`: inside a PID namespace /proc still shows the numbers outside.
    let text = fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    Some(kib(&text, "Private_Clean:")? + kib(&text, "Private_Dirty:")?)
}

/// Memory that can be had without swapping, as the kernel estimates it.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    kib(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// A line `Key:   123 kB`, in bytes.
fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024)
}

/// Processor time of all CPUs since boot, in ticks of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuTicks {
    /// All of it.
    pub total: u64,
    /// Taken by the hypervisor below.
    pub steal: u64,
}

impl CpuTicks {
    /// As the kernel counts now; zero where it does not tell.
    #[must_use]
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self::parse(&text).unwrap_or_default()
    }

    /// `cpu  user nice system idle iowait irq softirq steal guest guest_nice`; the last two are in
    /// the first two already.
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let fields: Option<Vec<u64>> = line
            .split_whitespace()
            .take(8)
            .map(|field| field.parse().ok())
            .collect();
        let fields = fields?;
        Some(Self {
            total: fields.iter().sum(),
            steal: fields.get(7).copied().unwrap_or(0),
        })
    }

    /// The share that was stolen since `earlier`; 0 of no time.
    #[must_use]
    pub fn steal_share_since(&self, earlier: &Self) -> f64 {
        let total = self.total.saturating_sub(earlier.total);
        let steal = self.steal.saturating_sub(earlier.steal);
        steal as f64 / total.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_from_their_lines() {
        let text = "Rss:  100 kB\nPrivate_Clean:   8 kB\nPrivate_Dirty:  16 kB\n";
        assert_eq!(kib(text, "Private_Dirty:"), Some(16 << 10));
        assert_eq!(kib(text, "Swap:"), None);
        assert_eq!(kib("Private_Dirty: much", "Private_Dirty:"), None);
    }

    #[test]
    fn guest_time_is_not_counted_twice() {
        let ticks = |text| CpuTicks::parse(text).unwrap();
        let before = ticks("cpu  10 0 10 80 0 0 0 0 5 0\ncpu0 1 1 1 1\n");
        let after = ticks("cpu  20 0 20 140 0 0 0 20 9 0\n");
        assert_eq!(before.total, 100);
        assert!((after.steal_share_since(&before) - 0.2).abs() < 1e-12);
        assert!(before.steal_share_since(&before).abs() < 1e-12);
        assert_eq!(CpuTicks::parse("intr 5"), None);
    }

    #[test]
    fn this_process_has_memory_of_its_own() {
        assert!(own_unique_bytes().is_none_or(|bytes| bytes > 0));
    }
}
