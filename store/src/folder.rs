//! Names of folders, which every engine and file system must take.

use std::time::Duration;

/// The folder name of a table or node: letters, digits, `-`, `_` and `.` stay, anything else and a
/// leading `.` or `_`, which would hide it from other engines, become `+` and two hexadecimal digits.
pub(crate) fn folder_of(name: &str) -> String {
    use std::fmt::Write;
    let mut folder = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || byte == b'-' || at > 0 && b"._".contains(&byte);
        if plain {
            folder.push(char::from(byte));
        } else {
            write!(folder, "+{byte:02X}").expect("a string takes every character");
        }
    }
    folder
}

/// The folder name of the tier of rows that stand for others.
pub(crate) const EXEMPLARS: &str = "exemplars";

/// The folder name of a tier: its width in the largest unit that divides it, `raw` for zero.
pub(crate) fn tier_name(width: Duration) -> String {
    let seconds = width.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let unit = units.into_iter().find(|&(unit, _)| seconds > 0 && seconds.is_multiple_of(unit));
    unit.map_or_else(|| "raw".to_owned(), |(unit, name)| format!("{}{name}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_visible_to_every_engine_and_never_meet() {
        let names = ["http_events", "stack_traces.beta", "_a", ".a", "a/b", "a+b", "..", "é"];
        let folders: Vec<_> = names.into_iter().map(folder_of).collect();
        let expected = [
            "http_events",
            "stack_traces.beta",
            "+5Fa",
            "+2Ea",
            "a+2Fb",
            "a+2Bb",
            "+2E.",
            "+C3+A9",
        ];
        assert_eq!(folders, expected);
        let tiers = [0, 10, 60, 90, 3600, 86_400].map(|s| tier_name(Duration::from_secs(s)));
        assert_eq!(tiers, ["raw", "10s", "1m", "90s", "1h", "1d"]);
    }
}
