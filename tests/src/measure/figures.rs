//! Medians, spreads, and the line that says on what they were taken.

/// The middle value; of an even number the lower one. NaN without any.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len().saturating_sub(1) / 2;
    sorted.get(middle).copied().unwrap_or(f64::NAN)
}

/// `median (min to max)`, each with `digits` decimals.
#[must_use]
pub fn spread(values: &[f64], digits: usize) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let middle = median(values);
    format!("{middle:.digits$} ({least:.digits$} to {most:.digits$})")
}

/// Processors, kernel, who we are, and how busy the machine was: printed above every table.
#[must_use]
pub fn circumstances() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    // What vendors append says nothing of the kernel.
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let user = match nix::unistd::geteuid().is_root() {
        true => "root",
        false => "an ordinary user",
    };
    let load = read("/proc/loadavg");
    let load = load.split_whitespace().next().unwrap_or("?");
    format!("{cpus} processors, Linux {kernel}, as {user}, load average {load} at the start")
}
