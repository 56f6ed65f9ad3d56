//! What a server or a client recorded itself, and how rows are held against it.
//!
//! Both are conversations: for each connection what was exchanged, in order. They are the same where
//! every connection has the same exchanges in the same order, and where the latencies that the
//! record has are those of the rows.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use crate::report::Report;
use crate::watch::Seen;

/// How far a row's latency may be from the record's, whichever is more: this or [`LATENCY_SHARE`].
const LATENCY_DIFFERENCE_MAX: Duration = Duration::from_millis(1);
/// The same, as a share of the record's latency.
const LATENCY_SHARE: f64 = 0.05;
/// The share of the latencies that must be as near as that. A scheduler may stop a server between a
/// look at its clock and the call that receives or sends, so that a row's latency, which is from call
/// to call, is rightly longer; or shorter, where the server looks at its clock after it has sent.
const LATENCIES_NEAR_MIN: f64 = 0.9;
/// Differences that are shown in words.
const SHOWN_MAX: usize = 3;
/// Characters of an exchange that are shown.
const SHOWN_CHARS_MAX: usize = 160;

/// A request and what came of it, with all fields that are compared.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) what: String,
    pub(crate) latency: Option<Latency>,
}

/// How long an exchange took.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Latency {
    /// As the server, or a row of its end, has it.
    Server(Duration),
    /// As the client has it, which contains the way there and back.
    Client(Duration),
    /// As both have it; what is between them is right.
    Both {
        /// The shorter.
        server: Duration,
        /// The longer.
        client: Duration,
    },
}

impl Latency {
    /// The shortest that is right.
    const fn least(self) -> Duration {
        match self {
            Self::Server(least) | Self::Client(least) | Self::Both { server: least, .. } => least,
        }
    }

    /// How far `row` is from what is right.
    fn off(self, row: Duration) -> Duration {
        let most = match self {
            Self::Server(most) | Self::Client(most) => most,
            Self::Both { server, client } => client.max(server),
        };
        self.least().saturating_sub(row).max(row.saturating_sub(most))
    }

    /// How much `row` is shorter than it can be.
    fn short(self, row: Duration) -> Duration {
        match self {
            Self::Server(least) | Self::Both { server: least, .. } => least.saturating_sub(row),
            Self::Client(_) => Duration::ZERO,
        }
    }
}

/// What was exchanged on each connection, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversations(BTreeMap<String, Vec<Exchange>>);

impl Conversations {
    /// Adds an exchange to the connection called `name`.
    pub(crate) fn push(&mut self, name: &str, what: String, latency: Option<Latency>) {
        self.0.entry(name.to_owned()).or_default().push(Exchange { what, latency });
    }

    /// Removes the last exchanges of each connection while `is_it`; how many they were.
    pub(crate) fn pop_while(&mut self, mut is_it: impl FnMut(&Exchange) -> bool) -> u64 {
        let mut popped = 0;
        for conversation in self.0.values_mut() {
            while conversation.pop_if(|last| is_it(last)).is_some() {
                popped += 1;
            }
        }
        popped
    }

    /// How many exchanges there are.
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// The conversation of one connection.
    pub(crate) fn of(&mut self, name: &str) -> &mut [Exchange] {
        self.0.get_mut(name).map_or(&mut [], Vec::as_mut_slice)
    }

    /// The same with names that follow from what was exchanged, for a record that calls its
    /// connections otherwise than rows do.
    pub(crate) fn nameless(self) -> Self {
        let mut all: Vec<_> = self.0.into_values().collect();
        all.sort_by_cached_key(|conversation| {
            conversation.iter().map(|exchange| exchange.what.clone()).collect::<Vec<_>>()
        });
        Self(all.into_iter().enumerate().map(|(at, said)| (format!("{at:06}"), said)).collect())
    }
}

/// A JSON text, or nothing, in a form that does not depend on the order of names.
pub(crate) fn canonical(text: &str) -> anyhow::Result<String> {
    if text.is_empty() {
        return Ok(Value::Null.to_string());
    }
    let mut value: Value = serde_json::from_str(text).with_context(|| format!("JSON {text}"))?;
    value.sort_all_objects();
    Ok(value.to_string())
}

/// How exact a record's latencies are by themselves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resolution(pub(crate) Duration);

/// Holds `rows` against the record `truth`; the names of figures and checks begin with `subject`.
pub(crate) fn compare(
    report: &mut Report,
    subject: &str,
    truth: &Conversations,
    rows: &Conversations,
    resolution: Resolution,
) {
    report.count(format!("{subject}_recorded"), truth.len() as u64);
    report.count(format!("{subject}_rows"), rows.len() as u64);
    report.count(format!("{subject}_connections"), truth.0.len() as u64);
    report.check(format!("{subject}: something was recorded"), truth.len(), "> 0", truth.len() > 0);
    report.same(format!("{subject}: rows = what was recorded"), rows.len(), truth.len());
    let mut unlike = Vec::new();
    let (mut disordered, mut latencies) = (0, Vec::new());
    let names: std::collections::BTreeSet<_> = truth.0.keys().chain(rows.0.keys()).collect();
    for name in names {
        let none = Vec::new();
        let (truth, rows) = (truth.0.get(name).unwrap_or(&none), rows.0.get(name).unwrap_or(&none));
        let in_order = |(truth, row): (&Exchange, &Exchange)| truth.what == row.what;
        if truth.len() == rows.len() && truth.iter().zip(rows).all(in_order) {
            let both = truth.iter().zip(rows);
            let pairs = both.filter_map(|(truth, row)| truth.latency.zip(row.latency));
            latencies.extend(pairs.map(|(truth, row)| (truth, row.least())));
        } else if let Some(difference) = difference(truth, rows) {
            unlike.push(format!("{name}: {difference}"));
        } else {
            disordered += 1;
        }
    }
    let shown = unlike.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join("; ");
    let fields = format!("{subject}: connections with other exchanges than recorded");
    report.check(fields, shown, "", unlike.is_empty());
    report.same(format!("{subject}: connections in another order"), disordered, 0);
    compare_latencies(report, subject, &latencies, resolution);
}

/// The first exchange that one has more often than the other.
fn difference(truth: &[Exchange], rows: &[Exchange]) -> Option<String> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for exchange in truth {
        *counts.entry(&exchange.what).or_default() += 1;
    }
    for exchange in rows {
        *counts.entry(&exchange.what).or_default() -= 1;
    }
    let mut unlike = counts.into_iter().filter(|(_, count)| *count != 0);
    let shown = |(what, count): (&str, i64)| {
        let what: String = what.chars().take(SHOWN_CHARS_MAX).collect();
        let where_ = if count > 0 { "not a row" } else { "not recorded" };
        format!("{} times {where_}: {what}", count.abs())
    };
    let first = shown(unlike.next()?);
    let second = unlike.next().map(shown).unwrap_or_default();
    Some(format!("{first}; {second}, …"))
}

/// Holds latencies of rows against those of the record, given as pairs of it and the row's.
pub(crate) fn compare_latencies(
    report: &mut Report,
    subject: &str,
    latencies: &[(Latency, Duration)],
    Resolution(resolution): Resolution,
) {
    if latencies.is_empty() {
        return;
    }
    let mut differences: Vec<_> = latencies.iter().map(|(truth, row)| truth.off(*row)).collect();
    let is_near = |(truth, row): &&(Latency, Duration)| {
        let most = LATENCY_DIFFERENCE_MAX.max(truth.least().mul_f64(LATENCY_SHARE));
        truth.off(*row) <= most + resolution
    };
    let near = latencies.iter().filter(is_near).count();
    let is_short = |(truth, row): &&(Latency, Duration)| {
        let most = LATENCY_DIFFERENCE_MAX.max(truth.least().mul_f64(LATENCY_SHARE));
        truth.short(*row) > most + resolution
    };
    let short = latencies.iter().filter(is_short).count();
    report.count(format!("{subject}_latencies_short"), short as u64);
    differences.sort_unstable();
    let at = |share: usize| differences[(differences.len() - 1) * share / 100];
    for (name, share) in [("p50", 50), ("p99", 99), ("max", 100)] {
        let us = at(share).as_secs_f64() * 1e6;
        report.figure(format!("{subject}_latency_off_{name}_us"), us);
    }
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    let share = near as f64 / latencies.len() as f64;
    report.figure(format!("{subject}_latencies_near_share"), share);
    report.check(
        format!("{subject}: latencies within 1 ms or 5 % of the recorded"),
        format!("{near} of {}", latencies.len()),
        format!(">= {:.0} %", LATENCIES_NEAR_MIN * 100.0),
        share >= LATENCIES_NEAR_MIN,
    );
}

/// Requires that a place was watched without any loss, and that all of it is accounted for.
pub(crate) fn nothing_lost(report: &mut Report, subject: &str, seen: &Seen) -> anyhow::Result<()> {
    let stats = &seen.stats;
    report.same(format!("{subject}: all that was sent was read"), stats.drained, true);
    report.same(format!("{subject}: messages lost"), stats.kernel.dropped, 0);
    let missing = stats.missing_rows.max;
    report.same(format!("{subject}: rows that may be missing"), missing, 0);
    let missing = seen.sum("data_loss", "rows_max", ["reason"], |_| true)?;
    report.same(format!("{subject}: rows that data_loss says may be missing"), missing, 0);
    accounted(report, subject, seen);
    Ok(())
}

/// Requires that operations and bytes are exact: what was seen and what was lost is what was moved.
pub(crate) fn accounted(report: &mut Report, subject: &str, seen: &Seen) {
    let (kernel, pipeline) = (&seen.stats.kernel, &seen.stats.pipeline);
    report.count(format!("{subject}_operations"), kernel.operations);
    report.same(
        format!("{subject}: messages read = attempts - lost"),
        seen.stats.consumed,
        kernel.attempts - kernel.dropped,
    );
    report.same(
        format!("{subject}: operations seen + lost = in scope"),
        pipeline.operations + kernel.dropped_operations,
        kernel.operations,
    );
    report.same(
        format!("{subject}: bytes seen + lost = moved"),
        pipeline.bytes + kernel.dropped_bytes,
        kernel.operation_bytes,
    );
}
