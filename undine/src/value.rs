//! How values look to people, by what they mean.

use serde_json::Value;
use undine_schema::SemanticType;

/// A JSON value as a cell of a table; `semantic` is a semantic type's name, or a column's.
pub(crate) fn cell(value: &Value, semantic: &str) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match (number.as_f64(), semantic) {
            (Some(ns), name) if name == SemanticType::DurationNs.name() => duration(ns),
            (Some(bytes), name) if name == SemanticType::Bytes.name() => size(bytes),
            (Some(share), name) if name == SemanticType::Percent.name() => {
                format!("{:.1} %", share * 100.0)
            }
            (Some(ns), name) if name == SemanticType::TimeNs.name() || name.ends_with("_at") => {
                time(ns)
            }
            (Some(number), _) if number.fract() != 0.0 => format!("{number:.3}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// A span of time with the unit that fits.
pub(crate) fn duration(ns: f64) -> String {
    match ns.abs() {
        abs if abs < 1e3 => format!("{ns:.0} ns"),
        abs if abs < 1e6 => format!("{:.1} µs", ns / 1e3),
        abs if abs < 1e9 => format!("{:.1} ms", ns / 1e6),
        _ => format!("{:.2} s", ns / 1e9),
    }
}

fn size(bytes: f64) -> String {
    match bytes.abs() {
        abs if abs < 1024.0 => format!("{bytes:.0} B"),
        abs if abs < 1024.0 * 1024.0 => format!("{:.1} KiB", bytes / 1024.0),
        abs if abs < 1024.0 * 1024.0 * 1024.0 => format!("{:.1} MiB", bytes / 1024.0 / 1024.0),
        _ => format!("{:.1} GiB", bytes / 1024.0 / 1024.0 / 1024.0),
    }
}

/// A point in time as RFC 3339 in UTC, to the millisecond.
fn time(ns: f64) -> String {
    if ns == 0.0 {
        return String::new();
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a time after 1970 in ms fits"
    )]
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis((ns / 1e6) as u64);
    humantime::format_rfc3339_millis(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_by_what_they_mean() {
        assert_eq!(cell(&1_500_000.into(), "ST_DURATION_NS"), "1.5 ms");
        assert_eq!(cell(&2048.into(), "ST_BYTES"), "2.0 KiB");
        assert_eq!(
            cell(&1_700_000_000_000_000_000_i64.into(), "ST_TIME_NS"),
            "2023-11-14T22:13:20.000Z"
        );
        assert_eq!(cell(&7.into(), "ST_NONE"), "7");
    }
}
