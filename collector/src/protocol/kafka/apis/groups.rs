//! What the members of a consumer group say to its coordinator.

use super::super::layout::Kind::{Array, Bool, Error, Int32, Sized, Text};
use super::super::layout::{field, since, until};
use super::Api;

pub(super) static APIS: [Api; 4] = [
    Api {
        key: 11, // JoinGroup
        flexible_since: 6,
        last: 9,
        request: &[
            field("group_id", Text),
            field("session_timeout_ms", Int32),
            since(1, "rebalance_timeout_ms", Int32),
            field("member_id", Text),
            since(5, "group_instance_id", Text),
            field("protocol_type", Text),
            field("protocols", Array(&[field("protocol", Text), field("metadata", Sized)])),
            since(8, "reason", Text),
        ],
        response: &[
            since(2, "throttle_time_ms", Int32),
            field("error_code", Error),
            field("generation_id", Int32),
            since(7, "protocol_type", Text),
            field("protocol_name", Text),
            field("leader", Text),
            since(9, "skip_assignment", Bool),
            field("member_id", Text),
            field(
                "members",
                Array(&[
                    field("member_id", Text),
                    since(5, "group_instance_id", Text),
                    field("metadata", Sized),
                ]),
            ),
        ],
    },
    Api {
        key: 12, // Heartbeat
        flexible_since: 4,
        last: 4,
        request: &[
            field("group_id", Text),
            field("generation_id", Int32),
            field("member_id", Text),
            since(3, "group_instance_id", Text),
        ],
        response: &[since(1, "throttle_time_ms", Int32), field("error_code", Error)],
    },
    Api {
        key: 13, // LeaveGroup
        flexible_since: 4,
        last: 5,
        request: &[
            field("group_id", Text),
            until(2, "member_id", Text),
            since(
                3,
                "members",
                Array(&[
                    field("member_id", Text),
                    field("group_instance_id", Text),
                    since(5, "reason", Text),
                ]),
            ),
        ],
        response: &[
            since(1, "throttle_time_ms", Int32),
            field("error_code", Error),
            since(
                3,
                "members",
                Array(&[
                    field("member_id", Text),
                    field("group_instance_id", Text),
                    field("error_code", Error),
                ]),
            ),
        ],
    },
    Api {
        key: 14, // SyncGroup
        flexible_since: 4,
        last: 5,
        request: &[
            field("group_id", Text),
            field("generation_id", Int32),
            field("member_id", Text),
            since(3, "group_instance_id", Text),
            since(5, "protocol_type", Text),
            since(5, "protocol_name", Text),
            field("assignments", Array(&[field("member_id", Text), field("assignment", Sized)])),
        ],
        response: &[
            since(1, "throttle_time_ms", Int32),
            field("error_code", Error),
            since(5, "protocol_type", Text),
            since(5, "protocol_name", Text),
            field("assignment", Sized),
        ],
    },
];
