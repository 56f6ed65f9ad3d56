//! Every table that Undine keeps, each declared once in a file of its own.

mod amqp_events;
mod anomalies;
mod conn_stats;
mod cql_events;
mod data_loss;
mod deliveries;
mod dns_events;
mod http_events;
mod incidents;
mod kafka_events;
mod mongodb_events;
mod mysql_events;
mod nats_events;
mod otel_metrics;
mod otel_spans;
mod pgsql_events;
mod probe_status;
mod processes;
mod redis_events;
mod stack_traces;

pub use amqp_events::{AMQP_EVENTS, AmqpEvent, AmqpEvents};
pub use anomalies::{ANOMALIES, Anomalies, Anomaly};
pub use conn_stats::{CONN_STATS, ConnStat, ConnStats};
pub use cql_events::{CQL_EVENTS, CqlEvent, CqlEvents};
pub use data_loss::{DATA_LOSS, DataLoss, DataLosses};
pub use deliveries::{DELIVERIES, Deliveries, Delivery};
pub use dns_events::{DNS_EVENTS, DnsEvent, DnsEvents};
pub use http_events::{HTTP_EVENTS, HttpEvent, HttpEvents};
pub use incidents::{INCIDENTS, Incident, Incidents};
pub use kafka_events::{KAFKA_EVENTS, KafkaEvent, KafkaEvents};
pub use mongodb_events::{MONGODB_EVENTS, MongodbEvent, MongodbEvents};
pub use mysql_events::{MYSQL_EVENTS, MysqlEvent, MysqlEvents};
pub use nats_events::{NATS_EVENTS, NatsEvent, NatsEvents};
pub use otel_metrics::{OTEL_METRICS, OtelMetric, OtelMetrics};
pub use otel_spans::{OTEL_SPANS, OtelSpan, OtelSpans};
pub use pgsql_events::{PGSQL_EVENTS, PgsqlEvent, PgsqlEvents};
pub use probe_status::{PROBE_STATUS, ProbeStatus, ProbeStatuses};
pub use processes::{PROCESSES, ProcessVersion, Processes};
pub use redis_events::{REDIS_EVENTS, RedisEvent, RedisEvents};
pub use stack_traces::{STACK_TRACES, StackTrace, StackTraces};

use crate::TableDef;

/// All tables, by name.
pub static ALL: [&TableDef; 20] = [
    &AMQP_EVENTS,
    &ANOMALIES,
    &CONN_STATS,
    &CQL_EVENTS,
    &DATA_LOSS,
    &DELIVERIES,
    &DNS_EVENTS,
    &HTTP_EVENTS,
    &INCIDENTS,
    &KAFKA_EVENTS,
    &MONGODB_EVENTS,
    &MYSQL_EVENTS,
    &NATS_EVENTS,
    &OTEL_METRICS,
    &OTEL_SPANS,
    &PGSQL_EVENTS,
    &PROBE_STATUS,
    &PROCESSES,
    &REDIS_EVENTS,
    &STACK_TRACES,
];

/// The table called `name`.
pub fn find(name: &str) -> Option<&'static TableDef> {
    ALL.iter().copied().find(|table| table.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::column::Role;

    #[test]
    fn every_table_starts_with_its_time_and_has_no_other() {
        for table in ALL {
            let times: Vec<_> =
                table.columns.iter().filter(|c| c.role == Role::Time).map(|c| c.name).collect();
            assert_eq!(times, ["time_"], "{}", table.name);
            assert_eq!(table.columns[0].name, "time_", "{}", table.name);
        }
    }

    #[test]
    fn table_and_column_names_are_unique_and_sorted_where_readers_expect_it() {
        assert!(ALL.is_sorted_by_key(|table| table.name));
        for table in ALL {
            let mut names: Vec<_> = table.columns.iter().map(|c| c.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), table.columns.len(), "{}", table.name);
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
