//! Findings in people's terms: the sentence, the contributions, the samples and the script of an
//! incident, and the rows that they become.

use std::time::Duration;

use arrow::array::RecordBatch;
use serde_json::{Value, json};
use undine_schema::TimeNs;
use undine_schema::tables::{
    Anomalies, Anomaly, Incident as IncidentRow, Incidents as IncidentRows,
};

use crate::detector::Feature;
use crate::features::Sample;
use crate::incidents::{Change, Contribution, Incident, Severity, Turn};
use crate::learner::Unusual;

/// Name and version of the model, in the table `anomalies`.
pub(crate) const MODEL: &str = "robust-baseline/1";
/// How far before an incident's start its script begins.
const LEAD: Duration = Duration::from_mins(5);
/// Samples in an incident.
const SAMPLES_MAX: usize = 5;

/// The rows of unusual windows; at least one must be given.
pub(crate) fn anomaly_rows(end: TimeNs, window: Duration, found: &[Unusual]) -> RecordBatch {
    let mut rows = Anomalies::new(found.len());
    for unusual in found {
        let verdict = &unusual.verdict;
        rows.push(&Anomaly {
            time_: end,
            service: &unusual.service,
            pod: &verdict.pod,
            feature: verdict.feature.name(),
            window: i64::try_from(window.as_nanos()).unwrap_or(i64::MAX),
            value: verdict.value,
            expected: verdict.expected,
            deviation: verdict.deviation,
            score: 1.0 - verdict.p,
            requests: i64::try_from(verdict.requests).unwrap_or(i64::MAX),
            incident_id: &unusual.incident_id,
            model: MODEL,
        });
    }
    rows.finish()
}

/// The rows of changed incidents; at least one must be given.
pub(crate) fn incident_rows(changes: &[Change]) -> RecordBatch {
    let mut rows = IncidentRows::new(changes.len());
    for change in changes {
        let incident = &change.incident;
        let lead = incident.lead();
        let ended_at = match change.turn {
            Turn::Resolved | Turn::Accepted => change.at,
            Turn::Opened | Turn::Updated => TimeNs::ZERO,
        };
        let contributions = contributions(incident).to_string();
        let samples = samples(incident).to_string();
        rows.push(&IncidentRow {
            time_: change.at,
            incident_id: &incident.id,
            state: match change.turn {
                Turn::Opened => "open",
                Turn::Updated => "update",
                Turn::Resolved | Turn::Accepted => "resolved",
            },
            service: &incident.service,
            pod: lead.map_or("", |lead| &lead.pod),
            severity: match incident.severity {
                Severity::Warning => "warning",
                Severity::Critical => "critical",
            },
            started_at: TimeNs::new(incident.started_ns),
            ended_at,
            feature: lead.map_or("", |lead| lead.feature.name()),
            value: lead.map_or(0.0, |lead| lead.value),
            expected: lead.map_or(0.0, |lead| lead.expected),
            score: lead.map_or(0.0, |lead| 1.0 - 10_f64.powf(-lead.decades)),
            contributions: &contributions,
            samples: &samples,
            summary: &summary(change),
            pxl: &script(incident),
        });
    }
    rows.finish()
}

/// Features of the service itself (`role` `cause`) with their shares of the deviation, most first,
/// then services that suffer from it (`role` `symptom`) with the share of their excess that it
/// explains.
fn contributions(incident: &Incident) -> Value {
    let total: f64 = incident.contributions.iter().map(|c| c.deviation.abs()).sum();
    let entry = |c: &Contribution, role: &str, share: f64| {
        json!({
            "role": role,
            "service": c.service,
            "pod": c.pod,
            "feature": c.feature.name(),
            "unit": unit(c.feature),
            "value": rounded(c.value),
            "expected": rounded(c.expected),
            "deviation": rounded(c.deviation),
            "share": rounded(share),
        })
    };
    let causes = incident
        .contributions
        .iter()
        .map(|c| entry(c, "cause", c.deviation.abs() / total.max(f64::MIN_POSITIVE)));
    let symptoms = incident.symptoms.iter().map(|s| entry(&s.contribution, "symptom", s.explained));
    causes.chain(symptoms).collect()
}

fn samples(incident: &Incident) -> Value {
    let mut shown: Vec<&Sample> = Vec::new();
    for sample in incident.failed.iter().chain(&incident.slowest) {
        if shown.len() < SAMPLES_MAX && !shown.contains(&sample) {
            shown.push(sample);
        }
    }
    shown
        .into_iter()
        .map(|sample| {
            json!({
                "time_": sample.time_ns,
                "method": sample.method,
                "path": sample.path,
                "status": sample.status,
                "latency_ns": sample.latency_ns,
            })
        })
        .collect()
}

/// One sentence: what is wrong, how far from normal, and who suffers from it.
fn summary(change: &Change) -> String {
    let incident = &change.incident;
    let Some(lead) = incident.lead() else {
        return format!("{} is unusual", incident.service);
    };
    let lasted = change.at.since(TimeNs::new(incident.started_ns));
    let what = deviation_sentence(&incident.service, lead);
    match change.turn {
        Turn::Resolved => {
            format!(
                "{} is back to normal after {} s; {what} at worst",
                incident.service,
                lasted.as_secs()
            )
        }
        Turn::Accepted => format!(
            "{what} for {} min: taken for the new normal from now on",
            lasted.as_secs() / 60
        ),
        Turn::Opened | Turn::Updated => {
            let others: Vec<&str> =
                incident.symptoms.iter().map(|s| s.contribution.service.as_str()).collect();
            let suffering = match others[..] {
                [] => String::new(),
                [one] => format!("; {one} suffers from it"),
                _ => format!("; {} suffer from it", others.join(", ")),
            };
            format!(
                "{what}; {:.0} % of its requests are affected{suffering}",
                100.0 * incident.affected
            )
        }
    }
}

fn deviation_sentence(service: &str, lead: &Contribution) -> String {
    match lead.feature {
        Feature::Throughput => {
            format!("{service} answers {:.1} requests/s, usually {:.1}", lead.value, lead.expected)
        }
        Feature::ErrorRatio => format!(
            "{:.1} % of the requests to {service} fail, usually {:.2} %",
            100.0 * lead.value,
            100.0 * lead.expected
        ),
        Feature::LatencyP50 | Feature::LatencyP99 => {
            let which = if lead.feature == Feature::LatencyP50 { "median" } else { "p99" };
            let times = lead.value / lead.expected.max(1.0);
            format!(
                "{which} latency of {service} is {}, {times:.1} times its usual {}",
                milliseconds(lead.value),
                milliseconds(lead.expected)
            )
        }
    }
}

/// The script that shows an incident: requests, failures and latency of the service by ten seconds,
/// from five minutes before its start.
pub(crate) fn script(incident: &Incident) -> String {
    let start = TimeNs::new(incident.started_ns).saturating_sub(LEAD).get().max(0);
    let name = quoted(&incident.service);
    let filter = match incident.service.rsplit_once(':') {
        Some((addr, port)) if incident.is_peer && port.parse::<u16>().is_ok() => {
            format!("df = df[df.remote_addr == {} and df.remote_port == {port}]\n", quoted(addr))
        }
        _ if incident.is_peer => {
            format!("df.peer = df.ctx['remote_service']\ndf = df[df.peer == {name}]\n")
        }
        _ => format!("df.service = df.ctx['service']\ndf = df[df.service == {name}]\n"),
    };
    format!(
        "import px\n\n\
         df = px.DataFrame(table='http_events', start_time={start})\n\
         {filter}\
         df.time_ = px.bin(df.time_, px.seconds(10))\n\
         df.failed = px.select(df.resp_status >= 500 or df.resp_status == 0, 1, 0)\n\
         df = df.groupby(['time_']).agg(\n    \
             requests=('latency', px.count),\n    \
             errors=('failed', px.sum),\n    \
             latency=('latency', px.quantiles),\n\
         )\n\
         df.latency_p50 = px.pluck_float64(df.latency, 'p50')\n\
         df.latency_p99 = px.pluck_float64(df.latency, 'p99')\n\
         df = df.drop(['latency'])\n\
         px.display(df, 'incident')\n"
    )
}

/// A `PxL` string literal.
fn quoted(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('\'');
    for character in text.chars() {
        match character {
            '\'' | '\\' => literal.extend(['\\', character]),
            control if control.is_control() => literal.push('?'),
            plain => literal.push(plain),
        }
    }
    literal.push('\'');
    literal
}

const fn unit(feature: Feature) -> &'static str {
    match feature {
        Feature::Throughput => "1/s",
        Feature::ErrorRatio => "1",
        Feature::LatencyP50 | Feature::LatencyP99 => "ns",
    }
}

fn milliseconds(ns: f64) -> String {
    let ms = ns / 1e6;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

/// Four significant digits, which is all that is known, and no negative zero.
fn rounded(value: f64) -> f64 {
    let short = format!("{value:.3e}").parse::<f64>().unwrap_or(0.0);
    if short.is_finite() { short + 0.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_name_cannot_break_out_of_the_script() {
        assert_eq!(quoted("it's \\ a\nname"), "'it\\'s \\\\ a?name'");
    }

    #[test]
    fn numbers_are_told_with_four_digits() {
        assert_eq!(rounded(123_456.0).to_string(), "123500");
        assert_eq!(rounded(-0.0).to_string(), "0");
        assert_eq!(rounded(f64::NAN).to_string(), "0");
    }
}
