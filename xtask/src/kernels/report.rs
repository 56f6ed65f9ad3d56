//! What the tests said, for each kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

/// What the tests capture in each way to see the bytes of sockets, in their words: `NUMBER rows of NUMBER
/// requests to nginx through WAY`.
const CAPTURED: [&str; 2] = ["requests to nginx", "queries at both ends"];

/// How the tests went on one kernel.
pub(crate) struct Report {
    release: String,
    /// How each program fared, in words, by its name.
    programs: BTreeMap<String, String>,
    /// What was captured in which way, as `requests to nginx through WAY`.
    captured: BTreeSet<String>,
    passed: u64,
    failed: u64,
    /// Why tests were left out.
    skipped: Vec<String>,
    /// Test binaries that ran to their end.
    ended: usize,
    took: Duration,
}

impl Report {
    /// Reads what the guest wrote.
    pub(crate) fn of(lines: &[String], took: Duration) -> Self {
        let mut report = Self {
            release: String::new(),
            programs: BTreeMap::new(),
            captured: BTreeSet::new(),
            passed: 0,
            failed: 0,
            skipped: Vec::new(),
            ended: 0,
            took,
        };
        for line in lines {
            report.read(line);
        }
        report
    }

    fn read(&mut self, line: &str) {
        if let Some(release) = line.strip_prefix("undine-guest release ") {
            release.clone_into(&mut self.release);
        } else if let Some((name, outcome)) =
            line.strip_prefix("probe ").and_then(|rest| rest.split_once(' '))
        {
            self.programs.insert(name.to_owned(), outcome.to_owned());
        } else if let Some(why) = line.strip_prefix("skipped: ") {
            self.skipped.push(why.to_owned());
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            self.ended += 1;
            self.passed += number_before(rest, " passed");
            self.failed += number_before(rest, " failed");
        } else if let Some(what) = captured(line) {
            self.captured.insert(what.to_owned());
        }
    }

    /// What was to be captured in each of these ways and was not, be it that its test was skipped.
    pub(crate) fn lacks(&self, rungs: &[&str]) -> Vec<String> {
        let all =
            rungs.iter().flat_map(|rung| CAPTURED.map(|what| format!("{what} through {rung}")));
        all.filter(|what| !self.captured.contains(what)).collect()
    }

    /// Whether both test binaries ran to their end and nothing failed.
    pub(crate) fn passed(&self) -> bool {
        self.ended == 2 && self.failed == 0 && self.passed > 0
    }
}

/// `requests to nginx through WAY` of a line that says so, unless there were none.
fn captured(line: &str) -> Option<&str> {
    let (rows, rest) = line.split_once(" rows of ")?;
    let (_, what) = rest.split_once(' ')?;
    let is_it = CAPTURED.iter().any(|captured| what.starts_with(captured));
    (is_it && rows != "0").then_some(what)
}

fn number_before(text: &str, word: &str) -> u64 {
    let before = text.split(word).next().unwrap_or_default();
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// All reports, for people.
pub(crate) fn table(reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        let Report { release, passed, failed, skipped, took, .. } = report;
        let all = passed + failed;
        // Writing to a string cannot fail.
        _ = writeln!(
            text,
            "\nLinux {release}: {passed} of {all} tests in {} s, {} skipped, whole or in part",
            took.as_secs(),
            skipped.len(),
        );
        for (program, outcome) in &report.programs {
            _ = writeln!(text, "  {program:<24} {outcome}");
        }
        for what in &report.captured {
            _ = writeln!(text, "  captured: {what}");
        }
        let mut reasons = skipped.clone();
        reasons.sort();
        reasons.dedup();
        for reason in reasons {
            _ = writeln!(text, "  skipped: {reason}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_ended_early_has_not_passed() {
        let lines =
            ["undine-guest release 5.10.0", "test result: ok. 3 passed; 0 failed; 1 ignored"];
        let report = Report::of(&lines.map(str::to_owned), Duration::ZERO);
        assert_eq!((report.passed, report.failed, report.passed()), (3, 0, false));
        let twice =
            [lines, lines].concat().iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert!(Report::of(&twice, Duration::ZERO).passed());
    }

    #[test]
    fn what_was_skipped_was_not_captured() {
        let lines = [
            "400 rows of 200 queries at both ends through functions of sockets",
            "0 rows of 200 requests to nginx through functions of sockets",
            "skipped: [\"nginx\"] are not installed",
            "test result: ok. 3 passed; 0 failed; 1 ignored",
        ];
        let report = Report::of(&lines.map(str::to_owned), Duration::ZERO);
        assert_eq!(report.lacks(&[]), Vec::<String>::new());
        let lacking = ["requests to nginx through functions of sockets"];
        assert_eq!(report.lacks(&["functions of sockets"]), lacking);
        assert_eq!(report.lacks(&["tracepoints of sockets"]).len(), 2);
    }
}
