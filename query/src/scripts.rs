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
    "amqp_stats": "AMQP methods, errors and latency of each service in the last five minutes.",
    "anomalies": "Unusual windows of the last hour, feature by feature.",
    "cgroup_usage": "CPU, memory, I/O and pressure of each cgroup in the last five minutes.",
    "collector_errors": "What went wrong in Undine's own sources of data in the last day.",
    "connections": "Bytes that each service exchanged with each peer in the last five minutes.",
    "cql_stats": "CQL requests, errors and latency of each service in the last five minutes.",
    "data_loss": "What was not captured or not kept, by stage and reason.",
    "dns_stats": "DNS queries of each service by name and type, with failures and latency, in the last five minutes.",
    "edges": "Who calls whom: requests, errors and latency between services.",
    "endpoints": "Requests, errors and latency of each endpoint of each service.",
    "errors": "Requests that failed, by service, endpoint and status.",
    "exits": "Processes that ended in the last hour, by service, name, code and signal.",
    "flame_diff": "Which stacks take more or less of a service's CPU time than before: two spans, compared.",
    "flame_graph": "What services did with their CPU time: folded stacks, as flame graphs are drawn from.",
    "http_stats": "Throughput, errors and latency of each service in windows of ten seconds.",
    "incidents": "What happened to incidents in the last day.",
    "jvm_stats": "Heap of each Java virtual machine and its time in garbage collection, in the last five minutes.",
    "kafka_stats": "Kafka requests, errors and latency of each service and client in the last five minutes.",
    "mongodb_stats": "MongoDB commands, errors and latency of each service in the last five minutes.",
    "mux_stats": "Mux exchanges, errors and latency of each service in the last five minutes.",
    "mysql_stats": "MySQL commands, errors and latency of each service in the last five minutes.",
    "nats_stats": "NATS commands, errors and latency of each service in the last five minutes.",
    "network_usage": "What the interfaces of each pod or network namespace moved in the last five minutes.",
    "otel_http": "Exports throughput and latency of each service as OTLP metrics; scheduled as a plugin.",
    "pgsql_stats": "PostgreSQL commands, errors and latency of each service in the last five minutes.",
    "probes": "Whether each probe of the kernel runs, and what it costs.",
    "process_usage": "CPU, memory and I/O of each process in the last five minutes.",
    "protocols": "Requests, errors and latency of each service, protocol by protocol, in the last five minutes.",
    "redis_stats": "Redis commands, errors and latency of each service in the last five minutes.",
    "service_latency": "Latency of each service over the last 30 days, hour by hour.",
    "services": "Requests, errors and latency of each service in the last five minutes.",
    "slow_requests": "Single requests that took longer than 100 ms.",
    "slow_statements": "Single statements and commands of databases that took longer than 100 ms.",
    "sql_stats": "SQL statements without their constants: how often, how slow and how often they fail.",
    "tcp_health": "How TCP fares between services: round trips, what was sent again, thrown away or reset.",
    "tls_handshakes": "TLS handshakes by name, version and cipher suite, with refusals and latency, in the last hour.",
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
