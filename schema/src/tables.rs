//! Every table that Undine keeps, each declared once in a file of its own.

mod amqp_events;
mod anomalies;
mod cgroup_stats;
mod collector_errors;
mod conn_stats;
mod cql_events;
mod data_loss;
mod deliveries;
mod dns_events;
mod http_events;
mod incidents;
mod jvm_stats;
mod kafka_events;
mod mongodb_events;
mod mux_events;
mod mysql_events;
mod nats_events;
mod network_stats;
mod otel_metrics;
mod otel_spans;
mod pgsql_events;
mod probe_status;
mod proc_exit_events;
mod process_stats;
mod processes;
mod redis_events;
mod stack_traces;
mod storage_segments;
mod storage_tables;
mod tcp_drops;
mod tcp_resets;
mod tcp_retransmits;
mod tcp_stats_events;
mod tls_events;

pub use amqp_events::{AMQP_EVENTS, AmqpEvent, AmqpEvents};
pub use anomalies::{ANOMALIES, Anomalies, Anomaly};
pub use cgroup_stats::{CGROUP_STATS, CgroupStat, CgroupStats};
pub use collector_errors::{COLLECTOR_ERRORS, CollectorError, CollectorErrors};
pub use conn_stats::{CONN_STATS, ConnStat, ConnStats};
pub use cql_events::{CQL_EVENTS, CqlEvent, CqlEvents};
pub use data_loss::{DATA_LOSS, DataLoss, DataLosses};
pub use deliveries::{DELIVERIES, Deliveries, Delivery};
pub use dns_events::{DNS_EVENTS, DnsEvent, DnsEvents};
pub use http_events::{HTTP_EVENTS, HttpEvent, HttpEvents};
pub use incidents::{INCIDENTS, Incident, Incidents};
pub use jvm_stats::{JVM_STATS, JvmStat, JvmStats};
pub use kafka_events::{KAFKA_EVENTS, KafkaEvent, KafkaEvents};
pub use mongodb_events::{MONGODB_EVENTS, MongodbEvent, MongodbEvents};
pub use mux_events::{MUX_EVENTS, MuxEvent, MuxEvents};
pub use mysql_events::{MYSQL_EVENTS, MysqlEvent, MysqlEvents};
pub use nats_events::{NATS_EVENTS, NatsEvent, NatsEvents};
pub use network_stats::{NETWORK_STATS, NetworkStat, NetworkStats};
pub use otel_metrics::{OTEL_METRICS, OtelMetric, OtelMetrics};
pub use otel_spans::{OTEL_SPANS, OtelSpan, OtelSpans};
pub use pgsql_events::{PGSQL_EVENTS, PgsqlEvent, PgsqlEvents};
pub use probe_status::{PROBE_STATUS, ProbeStatus, ProbeStatuses};
pub use proc_exit_events::{PROC_EXIT_EVENTS, ProcExitEvent, ProcExitEvents};
pub use process_stats::{PROCESS_STATS, ProcessStat, ProcessStats};
pub use processes::{PROCESSES, ProcessVersion, Processes};
pub use redis_events::{REDIS_EVENTS, RedisEvent, RedisEvents};
pub use stack_traces::{STACK_TRACES, StackTrace, StackTraces};
pub use storage_segments::{STORAGE_SEGMENTS, StorageSegment, StorageSegments};
pub use storage_tables::{STORAGE_TABLES, StorageTable, StorageTables};
pub use tcp_drops::{TCP_DROPS, TcpDrop, TcpDrops};
pub use tcp_resets::{TCP_RESETS, TcpReset, TcpResets};
pub use tcp_retransmits::{TCP_RETRANSMITS, TcpRetransmit, TcpRetransmits};
pub use tcp_stats_events::{TCP_STATS_EVENTS, TcpStatsEvent, TcpStatsEvents};
pub use tls_events::{TLS_EVENTS, TlsEvent, TlsEvents};

use crate::TableDef;

/// All tables that rows are appended to, by name.
pub static ALL: [&TableDef; 32] = [
    &AMQP_EVENTS,
    &ANOMALIES,
    &CGROUP_STATS,
    &COLLECTOR_ERRORS,
    &CONN_STATS,
    &CQL_EVENTS,
    &DATA_LOSS,
    &DELIVERIES,
    &DNS_EVENTS,
    &HTTP_EVENTS,
    &INCIDENTS,
    &JVM_STATS,
    &KAFKA_EVENTS,
    &MONGODB_EVENTS,
    &MUX_EVENTS,
    &MYSQL_EVENTS,
    &NATS_EVENTS,
    &NETWORK_STATS,
    &OTEL_METRICS,
    &OTEL_SPANS,
    &PGSQL_EVENTS,
    &PROBE_STATUS,
    &PROC_EXIT_EVENTS,
    &PROCESS_STATS,
    &PROCESSES,
    &REDIS_EVENTS,
    &STACK_TRACES,
    &TCP_DROPS,
    &TCP_RESETS,
    &TCP_RETRANSMITS,
    &TCP_STATS_EVENTS,
    &TLS_EVENTS,
];

/// Tables about the store itself, which makes their rows when they are read.
pub static OF_STORE: [&TableDef; 2] = [&STORAGE_SEGMENTS, &STORAGE_TABLES];

/// All tables that can be read.
pub fn readable() -> impl Iterator<Item = &'static TableDef> {
    ALL.iter().chain(&OF_STORE).copied()
}

/// Other names of tables, as Pixie calls them, and the names that they have here.
pub const ALIASES: [(&str, &str); 1] = [("stirling_error", "collector_errors")];

/// The table called `name`, or of which that is another name.
pub fn find(name: &str) -> Option<&'static TableDef> {
    let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
    let name = alias.map_or(name, |(_, name)| name);
    readable().find(|table| table.name == name)
}

/// The names of `table`: its own, then others.
pub fn names_of(table: &'static TableDef) -> impl Iterator<Item = &'static str> {
    let others = ALIASES.iter().filter(|(_, name)| *name == table.name).map(|(alias, _)| *alias);
    std::iter::once(table.name).chain(others)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::column::Role;

    #[test]
    fn every_table_starts_with_its_time_and_has_no_other() {
        for table in readable() {
            let times: Vec<_> =
                table.columns.iter().filter(|c| c.role == Role::Time).map(|c| c.name).collect();
            assert_eq!(times, ["time_"], "{}", table.name);
            assert_eq!(table.columns[0].name, "time_", "{}", table.name);
        }
    }

    #[test]
    fn table_and_column_names_are_unique_and_sorted_where_readers_expect_it() {
        assert!(ALL.is_sorted_by_key(|table| table.name));
        assert!(OF_STORE.iter().all(|table| ALL.iter().all(|own| own.name != table.name)));
        for table in readable() {
            let mut names: Vec<_> = table.columns.iter().map(|c| c.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), table.columns.len(), "{}", table.name);
        }
    }

    #[test]
    fn another_name_of_a_table_is_no_table_of_its_own_and_finds_it() {
        for (alias, name) in ALIASES {
            assert!(ALL.iter().all(|table| table.name != alias), "{alias}");
            assert_eq!(find(alias).map(|table| table.name), Some(name));
        }
    }

    #[test]
    fn a_template_stands_for_a_column_of_its_own_table_and_is_a_dimension() {
        for table in ALL {
            for column in table.columns {
                if let Some(original) = column.template_of {
                    assert!(table.column(original).is_some(), "{}.{original}", table.name);
                    assert_eq!(column.role, Role::Dimension, "{}", column.name);
                }
            }
        }
    }
}
