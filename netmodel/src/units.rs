//! Rates in bit/s, sizes in bytes, delays and probabilities, with the text forms scenarios use.
//!
//! A rate is always in bits and a size always in bytes; the unit is never optional, because `100M` has
//! cost people a factor of eight before. Nothing here knows about links or packets.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A rate in bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BitRate(u64);

/// A size in bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(u64);

/// A probability in parts per billion, so that it is exact, ordered and the same on every backend.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Probability(u32);

/// Why a text is not a rate, a size, a delay or a probability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// There is no number in front of the unit.
    #[error("`{text}` does not start with a number; write for example `{example}`")]
    NoNumber {
        /// What was given.
        text: String,
        /// A text that would be accepted.
        example: &'static str,
    },
    /// The unit is missing, unknown, or of another quantity.
    #[error("`{unit}` in `{text}` is not a unit of {quantity}; {hint}")]
    Unit {
        /// What was given.
        text: String,
        /// The part after the number.
        unit: String,
        /// What was expected.
        quantity: &'static str,
        /// What to write instead.
        hint: &'static str,
    },
    /// The value is not a whole number of the base unit, is zero where it must not be, or is too large.
    #[error("`{text}` is out of range: {why}")]
    Range {
        /// What was given.
        text: String,
        /// Which bound it breaks.
        why: &'static str,
    },
}

const RATE_UNITS: [(&str, u64); 9] = [
    ("Tbit", 1_000_000_000_000),
    ("Gibit", 1 << 30),
    ("Gbit", 1_000_000_000),
    ("Mibit", 1 << 20),
    ("Mbit", 1_000_000),
    ("Kibit", 1 << 10),
    ("kbit", 1_000),
    ("Kbit", 1_000),
    ("bit", 1),
];

const SIZE_UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
];

const DELAY_UNITS: [(&str, u64); 5] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
];

impl BitRate {
    /// A rate of `bps` bits per second; zero is not a rate.
    #[must_use]
    pub const fn from_bps(bps: u64) -> Option<Self> {
        if bps == 0 { None } else { Some(Self(bps)) }
    }

    /// Bits per second, never zero.
    #[must_use]
    pub const fn bps(self) -> u64 {
        self.0
    }

    /// Bytes carried in `span`, rounded down.
    #[must_use]
    pub fn bytes_in(self, span: Duration) -> u64 {
        // u64 bit/s times at most 2^94 ns stays below 2^128 only for spans below 500 years: saturate.
        let bits_ns = u128::from(self.0).saturating_mul(span.as_nanos());
        u64::try_from(bits_ns / 8_000_000_000).unwrap_or(u64::MAX)
    }

    /// How long `bytes` take, rounded up to whole nanoseconds.
    #[must_use]
    pub fn time_for(self, bytes: u64) -> Duration {
        let ns = (u128::from(bytes) * 8_000_000_000).div_ceil(u128::from(self.0));
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

impl ByteSize {
    /// A size of `bytes` bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl Probability {
    /// Certainty.
    pub const ONE: Self = Self(PARTS);

    /// A probability of `parts` in 10⁹; more than that is none.
    #[must_use]
    pub const fn from_ppb(parts: u32) -> Option<Self> {
        if parts > PARTS {
            None
        } else {
            Some(Self(parts))
        }
    }

    /// Parts in 10⁹.
    #[must_use]
    pub const fn ppb(self) -> u32 {
        self.0
    }

    /// As a share, 0 to 1.
    #[must_use]
    pub fn share(self) -> f64 {
        f64::from(self.0) / f64::from(PARTS)
    }
}

const PARTS: u32 = 1_000_000_000;
/// `%` and `ppm`; never a bare number, which would leave 0.1 and 10 % to be mixed up.
const SHARE_UNITS: [(&str, u64); 2] = [("%", 10_000_000), ("ppm", 1_000)];

impl fmt::Display for Probability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 10_000_000, self.0 % 10_000_000);
        if rest == 0 {
            return write!(f, "{whole}%");
        }
        let decimals = format!("{rest:07}");
        write!(f, "{whole}.{}%", decimals.trim_end_matches('0'))
    }
}

impl FromStr for Probability {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let quantity = Quantity {
            name: "probability",
            units: &SHARE_UNITS,
            example: "0.1%",
            hint: "write `0.1%` or `50ppm`",
        };
        let parts = quantity.parse(text)?;
        let within = u32::try_from(parts).ok().and_then(Self::from_ppb);
        within.ok_or_else(|| UnitError::Range {
            text: text.to_owned(),
            why: "a probability is at most 100%",
        })
    }
}

impl TryFrom<String> for Probability {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl From<Probability> for String {
    fn from(probability: Probability) -> Self {
        probability.to_string()
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_exact(f, self.0, &RATE_UNITS)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_exact(f, self.0, &SIZE_UNITS)
    }
}

/// Prints in the largest unit that divides the value, so that reading it back gives the same value.
fn write_exact(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let unit = units
        .iter()
        .find(|(_, scale)| value >= *scale && value.is_multiple_of(*scale));
    match unit {
        Some((name, scale)) => write!(f, "{}{name}", value / scale),
        None => write!(f, "0{}", units[units.len() - 1].0),
    }
}

impl FromStr for BitRate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let quantity = Quantity {
            name: "rate",
            units: &RATE_UNITS,
            example: "200Mbit",
            hint: "rates are in bits: write `200Mbit`, `1Gbit`; `25MB/s` is `200Mbit`",
        };
        let bps = quantity.parse(text)?;
        Self::from_bps(bps).ok_or_else(|| UnitError::Range {
            text: text.to_owned(),
            why: "a rate must be above zero; leave it out for an unshaped link",
        })
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let quantity = Quantity {
            name: "size",
            units: &SIZE_UNITS,
            example: "512MiB",
            hint: "sizes are in bytes: write `500KB` (1000) or `512KiB` (1024)",
        };
        quantity.parse(text).map(Self)
    }
}

/// Reads a one-way delay such as `250us`, `10ms` or `1.5s`; the unit is required, except for `0`.
///
/// # Errors
/// [`UnitError`] when there is no number, the unit is unknown or the value exceeds 2^64 ns.
pub fn parse_delay(text: &str) -> Result<Duration, UnitError> {
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    let quantity = Quantity {
        name: "time",
        units: &DELAY_UNITS,
        example: "10ms",
        hint: "write `250us`, `10ms` or `1.5s`",
    };
    quantity.parse(text).map(Duration::from_nanos)
}

struct Quantity {
    name: &'static str,
    units: &'static [(&'static str, u64)],
    example: &'static str,
    hint: &'static str,
}

impl Quantity {
    fn parse(&self, text: &str) -> Result<u64, UnitError> {
        let trimmed = text.trim();
        let end = trimmed
            .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_'))
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(end);
        let unit = unit.trim();
        let (mantissa, decimals) = decimal(number).ok_or_else(|| UnitError::NoNumber {
            text: text.to_owned(),
            example: self.example,
        })?;
        let name = unit
            .strip_suffix("/s")
            .filter(|_| self.name == "rate")
            .unwrap_or(unit);
        let scale = self
            .units
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, scale)| *scale);
        let scale = scale.ok_or_else(|| UnitError::Unit {
            text: text.to_owned(),
            unit: unit.to_owned(),
            quantity: self.name,
            hint: self.hint,
        })?;
        let range = |why| UnitError::Range {
            text: text.to_owned(),
            why,
        };
        let scaled = mantissa
            .checked_mul(u128::from(scale))
            .ok_or_else(|| range("too large"))?;
        if scaled % decimals != 0 {
            return Err(range("it is not a whole number of the smallest unit"));
        }
        u64::try_from(scaled / decimals).map_err(|_| range("it does not fit 64 bits"))
    }
}

/// `1.25` as (125, 100); exact, so that `0.1Gbit` is not a float's idea of it.
fn decimal(number: &str) -> Option<(u128, u128)> {
    let digits: String = number.chars().filter(|c| *c != '_').collect();
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
    // 18 decimals are below any unit's resolution and keep the power of ten within u64.
    if whole.is_empty() || fraction.len() > 18 || fraction.contains('.') {
        return None;
    }
    let mantissa = format!("{whole}{fraction}").parse().ok()?;
    Some((mantissa, 10_u128.pow(u32::try_from(fraction.len()).ok()?)))
}

impl TryFrom<String> for BitRate {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl From<BitRate> for String {
    fn from(rate: BitRate) -> Self {
        rate.to_string()
    }
}

impl TryFrom<String> for ByteSize {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> Self {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bits_and_bytes_are_never_mixed_up() {
        assert_eq!("200Mbit".parse::<BitRate>().unwrap().bps(), 200_000_000);
        assert_eq!(
            "2.5 Gbit/s".parse::<BitRate>().unwrap().bps(),
            2_500_000_000
        );
        assert_eq!("1Mibit".parse::<BitRate>().unwrap().bps(), 1 << 20);
        assert_eq!("500KB".parse::<ByteSize>().unwrap().bytes(), 500_000);
        assert_eq!("512MiB".parse::<ByteSize>().unwrap().bytes(), 512 << 20);
        for wrong in [
            "200MB", "200M", "200", "Mbit", "-1Mbit", "0Mbit", "1e9bit", "0.5bit", "",
        ] {
            assert!(wrong.parse::<BitRate>().is_err(), "{wrong}");
        }
        for wrong in [
            "200Mbit",
            "200M",
            "200",
            "1.5B",
            "99999999999TiB",
            "1.2.3KB",
        ] {
            assert!(wrong.parse::<ByteSize>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn delays_need_their_unit() {
        assert_eq!(parse_delay("1.5ms").unwrap(), Duration::from_micros(1500));
        assert_eq!(parse_delay("0").unwrap(), Duration::ZERO);
        assert!(parse_delay("10").is_err());
        assert!(parse_delay("10m").is_err());
    }

    #[test]
    fn probabilities_need_their_unit() {
        assert_eq!("0.1%".parse::<Probability>().unwrap().ppb(), 1_000_000);
        assert_eq!("50ppm".parse::<Probability>().unwrap().ppb(), 50_000);
        assert_eq!("100%".parse::<Probability>(), Ok(Probability::ONE));
        assert_eq!("2.5%".parse::<Probability>().unwrap().to_string(), "2.5%");
        for wrong in ["0.1", "101%", "-1%", "0.00000001%", "%", "1e-3%"] {
            assert!(wrong.parse::<Probability>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn printed_probabilities_read_back(parts in 0..=1_000_000_000_u32) {
            let probability = Probability::from_ppb(parts).unwrap();
            prop_assert_eq!(probability.to_string().parse::<Probability>(), Ok(probability));
        }

        #[test]
        fn printed_values_read_back(bps in 1..u64::MAX, bytes: u64) {
            let rate = BitRate::from_bps(bps).unwrap();
            prop_assert_eq!(rate.to_string().parse::<BitRate>().unwrap(), rate);
            let size = ByteSize::from_bytes(bytes);
            prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        }

        #[test]
        fn any_text_gives_a_value_or_an_error(text: String) {
            let _ = text.parse::<BitRate>();
            let _ = text.parse::<ByteSize>();
            let _ = parse_delay(&text);
            let _ = text.parse::<Probability>();
        }
    }
}
