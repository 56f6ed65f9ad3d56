//! The bodies that are read, each as its fields in order. Others are passed over.

mod groups;

use super::layout::Kind::{Acks, Array, Bool, Error, Int8, Int16, Int32, Int64, Sized, Text, Uuid};
use super::layout::{Field, INT32S, INT64S, TEXTS, between, field, since, until};

/// A kind of request and its response.
#[derive(Debug)]
pub(super) struct Api {
    key: i16,
    /// First version with compact lengths and tagged fields.
    pub(super) flexible_since: i16,
    /// Last version whose fields are known here.
    last: i16,
    pub(super) request: &'static [Field],
    pub(super) response: &'static [Field],
}

/// The API key of `Produce`.
pub(super) const PRODUCE: i16 = 0;
/// The API key of `ApiVersions`.
pub(super) const API_VERSIONS: i16 = 18;

/// What is known of a version of an API.
pub(super) fn find(key: i16, version: i16) -> Option<&'static Api> {
    APIS.iter().chain(&groups::APIS).find(|api| api.key == key && version <= api.last)
}

static APIS: [Api; 9] = [
    Api {
        key: PRODUCE,
        flexible_since: 9,
        last: 13,
        request: &[
            since(3, "transactional_id", Text),
            field("acks", Acks),
            field("timeout_ms", Int32),
            field(
                "topics",
                Array(&[
                    until(12, "name", Text),
                    since(13, "topic_id", Uuid),
                    field(
                        "partitions",
                        Array(&[field("index", Int32), field("message_set", Sized)]),
                    ),
                ]),
            ),
        ],
        response: &[
            field(
                "topics",
                Array(&[
                    until(12, "name", Text),
                    since(13, "topic_id", Uuid),
                    field(
                        "partitions",
                        Array(&[
                            field("index", Int32),
                            field("error_code", Error),
                            field("base_offset", Int64),
                            since(2, "log_append_time_ms", Int64),
                            since(5, "log_start_offset", Int64),
                            since(
                                8,
                                "record_errors",
                                Array(&[field("batch_index", Int32), field("message", Text)]),
                            ),
                            since(8, "error_message", Text),
                        ]),
                    ),
                ]),
            ),
            since(1, "throttle_time_ms", Int32),
        ],
    },
    Api {
        key: 1, // Fetch
        flexible_since: 12,
        last: 17,
        request: &[
            until(14, "replica_id", Int32),
            field("max_wait_ms", Int32),
            field("min_bytes", Int32),
            since(3, "max_bytes", Int32),
            since(4, "isolation_level", Int8),
            since(7, "session_id", Int32),
            since(7, "session_epoch", Int32),
            field(
                "topics",
                Array(&[
                    until(12, "name", Text),
                    since(13, "topic_id", Uuid),
                    field(
                        "partitions",
                        Array(&[
                            field("index", Int32),
                            since(9, "current_leader_epoch", Int32),
                            field("fetch_offset", Int64),
                            since(12, "last_fetched_epoch", Int32),
                            since(5, "log_start_offset", Int64),
                            field("partition_max_bytes", Int32),
                        ]),
                    ),
                ]),
            ),
            since(
                7,
                "forgotten_topics",
                Array(&[
                    until(12, "name", Text),
                    since(13, "topic_id", Uuid),
                    field("partitions", INT32S),
                ]),
            ),
            since(11, "rack_id", Text),
        ],
        response: &[
            since(1, "throttle_time_ms", Int32),
            since(7, "error_code", Error),
            since(7, "session_id", Int32),
            field(
                "topics",
                Array(&[
                    until(12, "name", Text),
                    since(13, "topic_id", Uuid),
                    field(
                        "partitions",
                        Array(&[
                            field("index", Int32),
                            field("error_code", Error),
                            field("high_watermark", Int64),
                            since(4, "last_stable_offset", Int64),
                            since(5, "log_start_offset", Int64),
                            since(
                                4,
                                "aborted_transactions",
                                Array(&[field("producer_id", Int64), field("first_offset", Int64)]),
                            ),
                            since(11, "preferred_read_replica", Int32),
                            field("message_set", Sized),
                        ]),
                    ),
                ]),
            ),
        ],
    },
    Api {
        key: 2, // ListOffsets
        flexible_since: 6,
        last: 10,
        request: &[
            field("replica_id", Int32),
            since(2, "isolation_level", Int8),
            field(
                "topics",
                Array(&[
                    field("name", Text),
                    field(
                        "partitions",
                        Array(&[
                            field("index", Int32),
                            since(4, "current_leader_epoch", Int32),
                            field("timestamp", Int64),
                            until(0, "max_num_offsets", Int32),
                        ]),
                    ),
                ]),
            ),
            since(10, "timeout_ms", Int32),
        ],
        response: &[
            since(2, "throttle_time_ms", Int32),
            field(
                "topics",
                Array(&[
                    field("name", Text),
                    field(
                        "partitions",
                        Array(&[
                            field("index", Int32),
                            field("error_code", Error),
                            until(0, "offsets", INT64S),
                            since(1, "timestamp", Int64),
                            since(1, "offset", Int64),
                            since(4, "leader_epoch", Int32),
                        ]),
                    ),
                ]),
            ),
        ],
    },
    Api {
        key: 3, // Metadata
        flexible_since: 9,
        last: 13,
        request: &[
            field("topics", Array(&[since(10, "topic_id", Uuid), field("name", Text)])),
            since(4, "allow_auto_topic_creation", Bool),
            between(8, 10, "include_cluster_authorized_operations", Bool),
            since(8, "include_topic_authorized_operations", Bool),
        ],
        response: &[
            since(3, "throttle_time_ms", Int32),
            field(
                "brokers",
                Array(&[
                    field("node_id", Int32),
                    field("host", Text),
                    field("port", Int32),
                    since(1, "rack", Text),
                ]),
            ),
            since(2, "cluster_id", Text),
            since(1, "controller_id", Int32),
            field(
                "topics",
                Array(&[
                    field("error_code", Error),
                    field("name", Text),
                    since(10, "topic_id", Uuid),
                    since(1, "is_internal", Bool),
                    field(
                        "partitions",
                        Array(&[
                            field("error_code", Error),
                            field("index", Int32),
                            field("leader_id", Int32),
                            since(7, "leader_epoch", Int32),
                            field("replica_nodes", INT32S),
                            field("isr_nodes", INT32S),
                            since(5, "offline_replicas", INT32S),
                        ]),
                    ),
                    since(8, "authorized_operations", Int32),
                ]),
            ),
            between(8, 10, "authorized_operations", Int32),
            since(13, "error_code", Error),
        ],
    },
    Api {
        key: 8, // OffsetCommit
        flexible_since: 8,
        last: 10,
        request: &[
            field("group_id", Text),
            since(1, "generation_id", Int32),
            since(1, "member_id", Text),
            since(7, "group_instance_id", Text),
            between(2, 4, "retention_time_ms", Int64),
            field(
                "topics",
                Array(&[
                    until(9, "name", Text),
                    since(10, "topic_id", Uuid),
                    field(
                        "partitions",
                        Array(&[
                            field("index", Int32),
                            field("committed_offset", Int64),
                            since(6, "committed_leader_epoch", Int32),
                            between(1, 1, "commit_timestamp", Int64),
                            field("committed_metadata", Text),
                        ]),
                    ),
                ]),
            ),
        ],
        response: &[
            since(3, "throttle_time_ms", Int32),
            field(
                "topics",
                Array(&[
                    until(9, "name", Text),
                    since(10, "topic_id", Uuid),
                    field(
                        "partitions",
                        Array(&[field("index", Int32), field("error_code", Error)]),
                    ),
                ]),
            ),
        ],
    },
    Api {
        key: 9, // OffsetFetch
        flexible_since: 6,
        last: 10,
        request: &[
            until(7, "group_id", Text),
            until(7, "topics", Array(&[field("name", Text), field("partitions", INT32S)])),
            since(
                8,
                "groups",
                Array(&[
                    field("group_id", Text),
                    since(9, "member_id", Text),
                    since(9, "member_epoch", Int32),
                    field(
                        "topics",
                        Array(&[
                            until(9, "name", Text),
                            since(10, "topic_id", Uuid),
                            field("partitions", INT32S),
                        ]),
                    ),
                ]),
            ),
            since(7, "require_stable", Bool),
        ],
        response: &[
            since(3, "throttle_time_ms", Int32),
            until(7, "topics", OFFSETS_OF_TOPICS),
            between(2, 7, "error_code", Error),
            since(
                8,
                "groups",
                Array(&[
                    field("group_id", Text),
                    field("topics", OFFSETS_OF_TOPICS),
                    field("error_code", Error),
                ]),
            ),
        ],
    },
    Api {
        key: 10, // FindCoordinator
        flexible_since: 3,
        last: 6,
        request: &[
            until(3, "key", Text),
            since(1, "key_type", Int8),
            since(4, "coordinator_keys", TEXTS),
        ],
        response: &[
            since(1, "throttle_time_ms", Int32),
            until(3, "error_code", Error),
            between(1, 3, "error_message", Text),
            until(3, "node_id", Int32),
            until(3, "host", Text),
            until(3, "port", Int32),
            since(
                4,
                "coordinators",
                Array(&[
                    field("key", Text),
                    field("node_id", Int32),
                    field("host", Text),
                    field("port", Int32),
                    field("error_code", Error),
                    field("error_message", Text),
                ]),
            ),
        ],
    },
    Api {
        key: API_VERSIONS,
        flexible_since: 3,
        last: 4,
        request: &[
            since(3, "client_software_name", Text),
            since(3, "client_software_version", Text),
        ],
        response: &[
            field("error_code", Error),
            field(
                "api_keys",
                Array(&[
                    field("api_key", Int16),
                    field("min_version", Int16),
                    field("max_version", Int16),
                ]),
            ),
            since(1, "throttle_time_ms", Int32),
        ],
    },
    Api {
        key: 19, // CreateTopics
        flexible_since: 5,
        last: 7,
        request: &[
            field(
                "topics",
                Array(&[
                    field("name", Text),
                    field("num_partitions", Int32),
                    field("replication_factor", Int16),
                    field(
                        "assignments",
                        Array(&[field("index", Int32), field("broker_ids", INT32S)]),
                    ),
                    field("configs", Array(&[field("name", Text), field("value", Text)])),
                ]),
            ),
            field("timeout_ms", Int32),
            since(1, "validate_only", Bool),
        ],
        response: &[
            since(2, "throttle_time_ms", Int32),
            field(
                "topics",
                Array(&[
                    field("name", Text),
                    since(7, "topic_id", Uuid),
                    field("error_code", Error),
                    since(1, "error_message", Text),
                    since(5, "num_partitions", Int32),
                    since(5, "replication_factor", Int16),
                    since(
                        5,
                        "configs",
                        Array(&[
                            field("name", Text),
                            field("value", Text),
                            field("read_only", Bool),
                            field("source", Int8),
                            field("is_sensitive", Bool),
                        ]),
                    ),
                ]),
            ),
        ],
    },
];

/// What a group committed, by topic.
const OFFSETS_OF_TOPICS: super::layout::Kind = Array(&[
    until(9, "name", Text),
    since(10, "topic_id", Uuid),
    field(
        "partitions",
        Array(&[
            field("index", Int32),
            field("committed_offset", Int64),
            since(5, "committed_leader_epoch", Int32),
            field("metadata", Text),
            field("error_code", Error),
        ]),
    ),
]);
