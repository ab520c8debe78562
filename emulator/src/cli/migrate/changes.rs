//! `--set`: what is changed on the way.

use crate::migration::faults::ParameterChange;
use crate::units::{bytes_per_second, time_ns};

/// `TIME:KEY=VALUE`, with the keys and units of `set-parameters` in scenarios.
pub(super) fn change(text: &str) -> Result<(u64, ParameterChange), String> {
    let wrong = || "expected TIME:KEY=VALUE, such as 2s:max-bandwidth=64MiB/s".to_owned();
    let (at, what) = text.split_once(':').ok_or_else(wrong)?;
    let (key, value) = what.split_once('=').ok_or_else(wrong)?;
    let at_ns = time_ns(at).map_err(|error| error.to_string())?;
    let speed = || bytes_per_second(value).map_err(|error| error.to_string());
    let percent = || {
        let number = value.trim_end_matches('%').parse::<u8>();
        let number = number.ok().filter(|number| (1..=99).contains(number));
        number.ok_or_else(|| format!("{key}: {value} is no percentage from 1 to 99"))
    };
    let mut change = ParameterChange::default();
    match key {
        "max-bandwidth" => change.max_bandwidth = Some(speed()?),
        "avail-switchover-bandwidth" => change.avail_switchover_bandwidth = Some(speed()?),
        "downtime-limit" => {
            let ns = time_ns(value).map_err(|error| error.to_string())?;
            change.downtime_limit = Some(ns / 1_000_000);
        }
        "throttle-trigger-threshold" => {
            change.throttle_trigger_threshold = Some(percent()?.into());
        }
        "cpu-throttle-initial" => change.cpu_throttle_initial = Some(percent()?),
        "cpu-throttle-increment" => change.cpu_throttle_increment = Some(percent()?),
        "max-cpu-throttle" => change.max_cpu_throttle = Some(percent()?),
        _ => {
            return Err(format!(
                "{key} cannot be changed on the way; there are: max-bandwidth, downtime-limit, \
                 avail-switchover-bandwidth, throttle-trigger-threshold, cpu-throttle-initial, \
                 cpu-throttle-increment, max-cpu-throttle"
            ));
        }
    }
    Ok((at_ns, change))
}
