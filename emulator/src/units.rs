//! Quantities as people write them in scenarios and on the command line, and as they are printed
//! back. Rates and sizes are netmodel's; times are humantime's. A unit is never optional. Never inside: defaults or bounds, which belong to whoever reads the value.

use netmodel::schedule::{NotAPercentage, Percent};
use netmodel::units::{BitRate, ByteSize, Probability, UnitError};
use std::time::Duration;

/// Why a text is not the quantity it should be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum QuantityError {
    /// Not a rate, a size or a probability.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// Not a percentage.
    #[error(transparent)]
    Percent(#[from] NotAPercentage),
    /// Not a time.
    #[error("`{text}` is not a time: {why}")]
    Time {
        /// What was given.
        text: String,
        /// What humantime says.
        why: humantime::DurationError,
    },
    /// A time that does not fit in 64-bit nanoseconds.
    #[error("`{text}` is longer than 584 years")]
    TooLong {
        /// What was given.
        text: String,
    },
    /// Not bytes a second.
    #[error("`{text}` is not a speed in bytes a second")]
    Bandwidth {
        /// What was given.
        text: String,
    },
}

/// Reads a time such as `300ms`, `1.5s`, `2h` or `1h 30m`, in nanoseconds.
///
/// # Errors
/// When the unit is missing or unknown, or the time does not fit in 64-bit nanoseconds.
pub fn time_ns(text: &str) -> Result<u64, QuantityError> {
    let time = humantime::parse_duration(text).map_err(|why| QuantityError::Time {
        text: text.into(),
        why,
    })?;
    u64::try_from(time.as_nanos()).map_err(|_| QuantityError::TooLong { text: text.into() })
}

/// Reads a size such as `512MiB` (1024s) or `500KB` (1000s), in bytes.
///
/// # Errors
/// When the unit is missing or not one of sizes.
pub fn size_bytes(text: &str) -> Result<u64, QuantityError> {
    Ok(text.parse::<ByteSize>()?.bytes())
}

/// Reads a rate such as `200Mbit` or `2.5Gbit`.
///
/// # Errors
/// When the unit is missing or not one of bit/s, or the rate is zero.
pub fn bit_rate(text: &str) -> Result<BitRate, QuantityError> {
    Ok(text.parse::<BitRate>()?)
}

/// Reads a probability such as `0.1%` or `50ppm`.
///
/// # Errors
/// When the unit is missing or it is above one.
pub fn probability(text: &str) -> Result<Probability, QuantityError> {
    Ok(text.parse::<Probability>()?)
}

/// Reads a share of something, such as `50%`.
///
/// # Errors
/// When it is no number followed by `%`.
pub fn percent(text: &str) -> Result<Percent, QuantityError> {
    Ok(text.parse::<Percent>()?)
}

/// Reads a speed in bytes a second such as `128MiB/s`; `unlimited` is 0, as in QEMU.
///
/// # Errors
/// When it is not a size followed by `/s`.
pub fn bytes_per_second(text: &str) -> Result<u64, QuantityError> {
    if text.trim() == "unlimited" {
        return Ok(0);
    }
    let size = text
        .trim()
        .strip_suffix("/s")
        .and_then(|size| size.parse::<ByteSize>().ok());
    let size = size.filter(|size| size.bytes() > 0);
    size.map(ByteSize::bytes)
        .ok_or_else(|| QuantityError::Bandwidth { text: text.into() })
}

/// A time as people write it: `2h`, `300ms`.
#[must_use]
pub fn show_time(ns: u64) -> String {
    humantime::format_duration(Duration::from_nanos(ns)).to_string()
}

/// A size in the largest binary unit it is a whole number of, or with one decimal.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) if bytes.is_multiple_of(*unit) => format!("{} {name}", bytes / unit),
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_need_a_unit_and_may_have_decimals() {
        assert_eq!(time_ns("300ms"), Ok(300_000_000));
        assert_eq!(time_ns("1.5ms"), Ok(1_500_000));
        assert_eq!(time_ns("1h 30m"), Ok(5_400_000_000_000));
        assert_eq!(time_ns("100us"), Ok(100_000));
        for wrong in ["300", "", "-1s", "1 fortnight", "700years"] {
            assert!(time_ns(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bandwidths_are_bytes_a_second() {
        assert_eq!(bytes_per_second("128MiB/s"), Ok(128 << 20));
        assert_eq!(bytes_per_second("unlimited"), Ok(0));
        for wrong in ["128MiB", "1Gbit", "0B/s", "128", ""] {
            assert!(bytes_per_second(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_shown_in_binary_units() {
        assert_eq!(show_size(512 << 20), "512 MiB");
        assert_eq!(show_size(1_536 << 20), "1.5 GiB");
        assert_eq!(show_size(100), "100 B");
        assert_eq!(show_time(7_200_000_000_000), "2h");
    }

    proptest! {
        #[test]
        fn any_text_gives_a_value_or_an_error(text: String) {
            let _ = (time_ns(&text), size_bytes(&text), bit_rate(&text), bytes_per_second(&text));
        }
    }
}
