//! Instants and lengths in the units of a mapping. Without a zone a date is UTC: daylight saving would
//! make an hour twice.

use super::unit::{Unit, scaled};
use super::wrong;
use crate::date::days_since_epoch;
use crate::import::ImportErrorKind;

/// An instant in milliseconds.
pub(super) fn instant(column: &str, text: &str, unit: Unit) -> Result<i64, ImportErrorKind> {
    let bad = |expected: &'static str| wrong(column, text, expected);
    match unit.name {
        "iso" => date(text, ['-', '-'], false)
            .ok_or_else(|| bad("a date and time such as 2024-05-31T12:00:00Z")),
        "dmy" => date(text, ['.', '.'], true)
            .ok_or_else(|| bad("a date and time such as 31.05.2024 12:00:00")),
        _ => number(text, unit).ok_or_else(|| bad("an instant")),
    }
}

/// A length in milliseconds.
pub(super) fn length(column: &str, value: f64, unit: Unit) -> Result<u32, ImportErrorKind> {
    let length = u32::try_from(scaled(value, unit)).ok();
    let length = length.filter(|&length| length > 0);
    length.ok_or_else(|| {
        let text = value.to_string();
        wrong(column, &text, "a length from 1 ms to 49 days")
    })
}

fn number(text: &str, unit: Unit) -> Option<i64> {
    let magnitude = text.strip_prefix('-').unwrap_or(text);
    let value = magnitude.parse::<f64>().ok()?;
    if !value.is_finite() || value < 0.0 {
        return None;
    }
    let ms = i64::try_from(scaled(value, unit)).ok()?;
    Some(if magnitude.len() < text.len() {
        -ms
    } else {
        ms
    })
}

/// `YYYY-MM-DD` or `DD.MM.YYYY`, then a blank or T, `HH:MM:SS[.fff]`, then perhaps Z or a zone.
fn date(text: &str, separators: [char; 2], day_first: bool) -> Option<i64> {
    let (date, rest) = text.trim().split_at_checked(10)?;
    let (a, bc) = date.split_once(separators[0])?;
    let (b, c) = bc.split_once(separators[1])?;
    let digits = |text: &str| {
        let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        all.then(|| text.parse::<i64>().ok()).flatten()
    };
    let (year, month, day) = if day_first {
        (digits(c)?, digits(b)?, digits(a)?)
    } else {
        (digits(a)?, digits(b)?, digits(c)?)
    };
    let rest = rest.strip_prefix([' ', 'T'])?;
    let (clock, zone_ms) = zone(rest)?;
    let mut parts = clock.split(':');
    let (hour, minute) = (digits(parts.next()?)?, digits(parts.next()?)?);
    let seconds = parts.next()?;
    let (second, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let second = digits(second)?;
    let ms = digits(&format!("{fraction:0<3}")[..3])?;
    let valid = year >= 1970
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61
        && parts.next().is_none();
    valid.then(|| {
        let days = days_since_epoch(year, month, day);
        ((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + ms - zone_ms
    })
}

/// The time of day, and how far its zone is ahead of UTC.
fn zone(text: &str) -> Option<(&str, i64)> {
    if let Some(clock) = text.strip_suffix('Z') {
        return Some((clock, 0));
    }
    let Some(at) = text.rfind(['+', '-']) else {
        return Some((text, 0));
    };
    let (clock, zone) = text.split_at(at);
    let (hours, minutes) = match zone.get(1..)?.split_once(':') {
        Some(parts) => parts,
        None => zone.get(1..)?.split_at_checked(2)?,
    };
    let minutes = if minutes.is_empty() { "0" } else { minutes };
    let ms = (hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?) * 60_000;
    let ahead = if zone.starts_with('-') { -ms } else { ms };
    (ms <= 86_400_000).then_some((clock.trim_end(), ahead))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_are_utc_unless_they_say_otherwise() {
        let iso = |text| date(text, ['-', '-'], false);
        assert_eq!(iso("1970-01-02T00:00:01.25Z"), Some(86_401_250));
        assert_eq!(iso("1970-01-02 02:00:00+02:00"), Some(86_400_000));
        assert_eq!(iso("1970-01-01 22:00:00-0200"), Some(86_400_000));
        assert_eq!(iso("2024-02-30"), None);
        assert_eq!(
            date("05.11.2015 10:11:12", ['.', '.'], true),
            iso("2015-11-05T10:11:12")
        );
    }

    proptest! {
        #[test]
        fn any_text_is_a_date_or_none(text in "\\PC{0,40}") {
            let _ = date(&text, ['-', '-'], false);
            let _ = date(&text, ['.', '.'], true);
        }

        #[test]
        fn anything_like_a_date_is_one_or_none(text in "[0-9.+:TZ -]{10,34}") {
            let _ = date(&text, ['-', '-'], false);
        }
    }
}
