//! The scripts that come with Undine.

/// A script in the binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuiltIn {
    /// Its name, such as `undine/http_stats`.
    pub name: &'static str,
    /// One sentence about it: its docstring.
    pub doc: &'static str,
    /// Its text.
    pub text: &'static str,
}

macro_rules! built_in {
    ($($file:literal: $doc:literal,)*) => {
        &[$(BuiltIn {
            name: concat!("undine/", $file),
            doc: $doc,
            text: include_str!(concat!("../scripts/undine/", $file, ".pxl")),
        },)*]
    };
}

/// All of them, by name.
pub(crate) static ALL: &[BuiltIn] = built_in! {
    "anomalies": "Unusual windows of the last hour, feature by feature.",
    "connections": "Bytes that each service exchanged with each peer in the last five minutes.",
    "data_loss": "What was not captured or not kept, by stage and reason.",
    "edges": "Who calls whom: requests, errors and latency between services.",
    "endpoints": "Requests, errors and latency of each endpoint of each service.",
    "errors": "Requests that failed, by service, endpoint and status.",
    "http_stats": "Throughput, errors and latency of each service in windows of ten seconds.",
    "incidents": "What happened to incidents in the last day.",
    "otel_http": "Exports throughput and latency of each service as OTLP metrics; scheduled as a plugin.",
    "service_latency": "Latency of each service over the last 30 days, hour by hour.",
    "services": "Requests, errors and latency of each service in the last five minutes.",
    "slow_requests": "Single requests that took longer than 100 ms.",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_begins_with_the_sentence_that_is_shown_for_it() {
        assert!(ALL.is_sorted_by_key(|script| script.name));
        for script in ALL {
            let docstring = format!("\"\"\"{}\"\"\"\n", script.doc);
            assert!(script.text.starts_with(&docstring), "{}", script.name);
        }
    }
}
