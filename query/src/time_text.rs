//! Times and durations as scripts write them.

use std::sync::LazyLock;

use regex::Regex;

const UNITS: [(&str, i64); 5] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
];

#[expect(clippy::unwrap_used, reason = "the pattern is a constant that a test compiles")]
static RELATIVE: LazyLock<Regex> = LazyLock::new(|| Regex::new("(-?[0-9]+)(ms|m|s|h|d)").unwrap());

/// Why a text is no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TimeError {
    #[error("the amount does not fit in 32 bits")]
    Amount,
    #[error("neither a duration such as '-5m' nor a time such as '2026-11-21 04:30:00 +0000'")]
    Form,
}

/// Nanoseconds of the first duration in `text`, such as `-30s`; what is around it is ignored.
pub(crate) fn duration(text: &str) -> Result<i64, TimeError> {
    let captures = RELATIVE.captures(text).ok_or(TimeError::Form)?;
    let amount: i32 = captures[1].parse().map_err(|_overflow| TimeError::Amount)?;
    let unit = UNITS.iter().find(|(name, _)| *name == &captures[2]).map_or(0, |(_, ns)| *ns);
    Ok(i64::from(amount).saturating_mul(unit))
}

/// The point in time that `text` names, seen from `now`.
pub(crate) fn point(text: &str, now: i64) -> Result<i64, TimeError> {
    if RELATIVE.is_match(text) {
        return Ok(now.saturating_add(duration(text)?));
    }
    absolute(text).ok_or(TimeError::Form)
}

fn absolute(text: &str) -> Option<i64> {
    let parsed = jiff::fmt::strtime::parse("%Y-%m-%d %H:%M:%S%.f %z", text)
        .and_then(|broken_down| broken_down.to_timestamp())
        .or_else(|_| text.parse::<jiff::Timestamp>())
        .ok()?;
    i64::try_from(parsed.as_nanosecond()).ok()
}

/// A duration in its largest whole unit, cut, with its sign.
pub(crate) fn format_duration(ns: i64) -> String {
    let (unit, width) = UNITS
        .iter()
        .find(|(_, width)| ns.unsigned_abs() >= width.unsigned_abs())
        .unwrap_or(&UNITS[4]);
    format!("{}{unit}", ns / width)
}

/// A point in time for people, UTC.
pub(crate) fn show(ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ns))
        .map_or_else(|_| ns.to_string(), |timestamp| format!("{timestamp:.3}"))
}

/// A duration for people who then write it in a script, exact where a whole unit fits.
pub(crate) fn show_width(ns: i64) -> String {
    UNITS
        .iter()
        .find(|(_, width)| ns != 0 && ns % width == 0)
        .map_or_else(|| format!("{ns} ns"), |(unit, width)| format!("{}{unit}", ns / width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_the_first_that_is_found_and_is_not_added_up() {
        assert_eq!(duration("-1m1s"), Ok(-60_000_000_000));
        assert_eq!(duration("about 250ms"), Ok(250_000_000));
        assert_eq!(duration("5us"), Err(TimeError::Form));
        assert_eq!(duration("99999999999s"), Err(TimeError::Amount));
    }

    #[test]
    fn an_absolute_time_needs_its_zone() {
        assert_eq!(point("1970-01-01 00:00:10 +0000", 7), Ok(10_000_000_000));
        assert_eq!(point("1970-01-01 01:00:10.5 +0100", 7), Ok(10_500_000_000));
        assert_eq!(point("1970-01-01T00:00:10Z", 7), Ok(10_000_000_000));
        assert_eq!(point("yesterday", 7), Err(TimeError::Form));
        assert_eq!(point("-10s", 10_000_000_000), Ok(0));
    }

    #[test]
    fn durations_are_shown_in_their_largest_unit() {
        assert_eq!(format_duration(-90_000_000_000), "-1m");
        assert_eq!(format_duration(1_500_000), "1ms");
        assert_eq!(format_duration(0), "0ms");
        assert_eq!(show_width(60_000_000_000), "1m");
    }
}
