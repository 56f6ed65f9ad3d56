//! Settings that a script carries in comments: `#px:set key=value`.

use crate::diagnostics::{Diagnostic, Range, did_you_mean};

/// What can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pragmas {
    /// Rows of one result that are shown; more are cut.
    pub(crate) rows_max: usize,
    /// Whether the answer has a table more, which says how the others were computed.
    pub(crate) explain: bool,
}

const KEYS: [&str; 3] = ["max_output_rows_per_table", "explain", "analyze"];

/// The settings of a script, `rows_max` unless it says otherwise.
pub(crate) fn read(source: &str, rows_max: usize) -> Result<Pragmas, Vec<Diagnostic>> {
    let mut pragmas = Pragmas { rows_max, explain: false };
    let mut mistakes = Vec::new();
    let mut start = 0;
    for line in source.split_inclusive('\n') {
        if let Some(setting) = line.strip_prefix("#px:set ") {
            let end = start + line.trim_end().len();
            let range = Range {
                start: u32::try_from(start).unwrap_or(u32::MAX),
                end: u32::try_from(end).unwrap_or(u32::MAX),
            };
            if let Err(mistake) = set(&mut pragmas, setting.trim_end(), range) {
                mistakes.push(mistake);
            }
        }
        start += line.len();
    }
    if mistakes.is_empty() { Ok(pragmas) } else { Err(mistakes) }
}

fn set(pragmas: &mut Pragmas, setting: &str, range: Range) -> Result<(), Diagnostic> {
    let Some((key, value)) = setting.split_once('=') else {
        let message = "a setting has the form `#px:set key=value`";
        return Err(Diagnostic::new(range, message, "without `=`"));
    };
    match key {
        "max_output_rows_per_table" => {
            pragmas.rows_max =
                value.parse().map_err(|_not_a_number: std::num::ParseIntError| {
                    Diagnostic::new(range, format!("`{value}` is no number of rows"), "here")
                })?;
            Ok(())
        }
        "explain" => {
            pragmas.explain = value != "false";
            Ok(())
        }
        "analyze" => Ok(()),
        _ => Err(Diagnostic::new(range, format!("there is no setting `{key}`"), "unknown")
            .maybe_help(did_you_mean(key, KEYS))),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_script_raises_its_own_limit_and_a_typo_is_told() {
        let read = |text| super::read(text, 10_000);
        assert_eq!(read("#px:set max_output_rows_per_table=500\n").unwrap().rows_max, 500);
        assert_eq!(read("# px:set max_output_rows_per_table=500\n").unwrap().rows_max, 10_000);
        assert!(read("#px:set explain=true\n").unwrap().explain);
        assert!(read("#px:set max_output_rows=500\n").is_err());
        assert!(read("import px\n#px:set explain\n").is_err());
    }
}
