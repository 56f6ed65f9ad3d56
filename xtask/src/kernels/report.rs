//! What the tests said, for each kernel.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// How the tests went on one kernel.
pub(crate) struct Report {
    name: String,
    release: String,
    /// How each program fared, in words, by its name.
    programs: BTreeMap<String, String>,
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
    pub(crate) fn of(name: &str, lines: &[String], took: Duration) -> Self {
        let mut report = Self {
            name: name.to_owned(),
            release: String::new(),
            programs: BTreeMap::new(),
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
        }
    }

    pub(crate) fn kernel(&self) -> &str {
        &self.name
    }

    /// Whether both test binaries ran to their end and nothing failed.
    pub(crate) fn passed(&self) -> bool {
        self.ended == 2 && self.failed == 0 && self.passed > 0
    }
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
        let report = Report::of("5.10", &lines.map(str::to_owned), Duration::ZERO);
        assert_eq!((report.passed, report.failed, report.passed()), (3, 0, false));
        let twice =
            [lines, lines].concat().iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert!(Report::of("5.10", &twice, Duration::ZERO).passed());
    }
}
