//! What a scenario found: figures, and checks that must hold.

use std::collections::BTreeMap;

use comfy_table::Table;
use serde::Serialize;

/// One thing that must hold.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    name: String,
    value: String,
    target: String,
    ok: bool,
}

/// The outcome of one scenario; serialised it is the last line of output.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    scenario: &'static str,
    ok: bool,
    /// Numbers by name; the unit is in the name.
    figures: BTreeMap<String, f64>,
    checks: Vec<Check>,
    /// What was not done, and why not.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    skipped: BTreeMap<String, String>,
}

impl Report {
    pub(crate) fn new(scenario: &'static str) -> Self {
        Self {
            scenario,
            ok: true,
            figures: BTreeMap::new(),
            checks: Vec::new(),
            skipped: BTreeMap::new(),
        }
    }

    /// Whether every check so far holds.
    pub(crate) fn is_ok(&self) -> bool {
        self.ok
    }

    /// Notes a number.
    pub(crate) fn figure(&mut self, name: impl Into<String>, value: f64) {
        self.figures.insert(name.into(), value);
    }

    /// Notes a count; counts here stay far below 2^53.
    pub(crate) fn count(&mut self, name: impl Into<String>, value: u64) {
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
        self.figure(name, value as f64);
    }

    /// Notes what could not be done, and why not.
    pub(crate) fn skip(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.skipped.insert(what.into(), why.into());
    }

    /// Requires that something holds, showing what it was and what it had to be.
    pub(crate) fn check(
        &mut self,
        name: impl Into<String>,
        value: impl std::fmt::Display,
        target: impl std::fmt::Display,
        ok: bool,
    ) {
        self.ok &= ok;
        self.checks.push(Check {
            name: name.into(),
            value: value.to_string(),
            target: target.to_string(),
            ok,
        });
    }

    /// Requires that two values are the same.
    pub(crate) fn same<T: PartialEq + std::fmt::Display>(
        &mut self,
        name: impl Into<String>,
        value: T,
        target: T,
    ) {
        let ok = value == target;
        self.check(name, value, target, ok);
    }

    /// The report for people.
    pub(crate) fn table(&self) -> String {
        let mut figures = Table::new();
        figures.load_preset(comfy_table::presets::NOTHING);
        for (name, value) in &self.figures {
            figures.add_row([name.clone(), format!("{value}")]);
        }
        let mut checks = Table::new();
        checks.load_preset(comfy_table::presets::NOTHING);
        checks.set_header(["", "check", "value", "target"]);
        for check in &self.checks {
            let mark = if check.ok { "ok" } else { "FAILED" };
            checks.add_row([mark, &check.name, &check.value, &check.target]);
        }
        let skipped = self.skipped.iter().map(|(what, why)| format!("skipped {what}: {why}"));
        let skipped = skipped.collect::<Vec<_>>().join("\n");
        format!("{}\n{figures}\n\n{checks}\n{skipped}", self.scenario)
    }
}

/// How many times `b` is in `a`.
pub(crate) fn ratio(a: u64, b: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more digits")]
    let ratio = a as f64 / b as f64;
    ratio
}
