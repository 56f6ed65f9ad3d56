//! What the codes of protocols are called.

use undine_schema::SemanticType as St;

use super::kernel::{self as k, one, prepared, two};
use super::{B, I, Registry, S};

pub(crate) fn declare(r: &mut Registry) {
    r.tagged("http_resp_message", &[I], S, St::HttpRespMessage, one::<k::I, k::S>(http));
    r.plain("protocol_name", &[I], S, one::<k::I, k::S>(protocol));
    r.plain("kafka_api_key_name", &[I], S, one::<k::I, k::S>(|code| named(&KAFKA, code)));
    r.plain("mysql_command_name", &[I], S, one::<k::I, k::S>(|code| named(&MYSQL, code)));
    r.plain("cql_opcode_name", &[I], S, one::<k::I, k::S>(|code| named(&CQL, code)));
    r.plain("dns_rcode_name", &[I], S, one::<k::I, k::S>(|code| named(&DNS, code)));
    r.plain("amqp_frame_type_name", &[I], S, one::<k::I, k::S>(|code| named(&AMQP_FRAMES, code)));
    r.plain("amqp_method_name", &[I, I], S, two::<k::I, k::I, k::S>(amqp_method));
    r.plain("mux_frame_type_name", &[I], S, one::<k::I, k::S>(mux));
    r.plain("grpc_status_code_to_str", &[I], S, one::<k::I, k::S>(|code| named(&GRPC, code)));
    r.plain("_match_endpoint", &[S, S], B, two::<k::S, k::S, k::B>(match_endpoint));
    r.plain("_match_regex_rule", &[S, S], S, prepared::<_, k::S>(regex_rules, first_rule));
}

type Names = [(i64, &'static str)];

fn name(names: &Names, code: i64) -> Option<&'static str> {
    names.iter().find(|(other, _)| *other == code).map(|(_, name)| *name)
}

/// The number as text where it has no name.
fn named(names: &Names, code: i64) -> String {
    name(names, code).map_or_else(|| code.to_string(), str::to_owned)
}

fn http(code: i64) -> String {
    name(&HTTP, code).unwrap_or("Unassigned").to_owned()
}

fn protocol(code: i64) -> String {
    name(&PROTOCOLS, code).map_or_else(|| format!("Invalid ({code})"), str::to_owned)
}

/// The class and its method, as `BasicPublish`; the class alone for method 0.
fn amqp_method(class: i64, method: i64) -> String {
    let Some((_, class, methods)) = AMQP.iter().find(|(code, ..)| *code == class) else {
        return "Unknown".to_owned();
    };
    match (method, name(methods, method)) {
        (0, _) => (*class).to_owned(),
        (_, Some(method)) => format!("{class}{method}"),
        (_, None) => "Unknown".to_owned(),
    }
}

fn mux(code: i64) -> String {
    name(&MUX, code).map_or_else(|| format!("Unknown ({code})"), str::to_owned)
}

/// Whether a path has the shape of a template, where `*` stands for one component.
fn match_endpoint(path: &str, template: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let mut path = path.trim_start_matches('/').split('/');
    let mut template = template.trim_start_matches('/').split('/');
    loop {
        match (path.next(), template.next()) {
            (None, None) => return true,
            (Some(have), Some(want)) if want == "*" || want == have => {}
            _ => return false,
        }
    }
}

/// Names and patterns, in the order given.
type Rules = Vec<(String, regex::Regex)>;

fn regex_rules(json: &str) -> Rules {
    let rules: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(json).unwrap_or_default();
    rules
        .into_iter()
        .filter_map(|(name, rule)| Some((name, regex::Regex::new(rule.as_str()?).ok()?)))
        .collect()
}

fn first_rule(rules: &Rules, args: &[&str]) -> String {
    rules
        .iter()
        .find(|(_, rule)| rule.is_match(args[0]))
        .map_or_else(String::new, |(name, _)| name.clone())
}

const PROTOCOLS: [(i64, &str); 12] = [
    (0, "Unknown"),
    (1, "HTTP"),
    (2, "HTTP2"),
    (3, "MySQL"),
    (4, "CQL"),
    (5, "PGSQL"),
    (6, "DNS"),
    (7, "Redis"),
    (8, "NATS"),
    (9, "Mongo"),
    (10, "Kafka"),
    (12, "AMQP"),
];

const HTTP: [(i64, &str); 61] = [
    (100, "Continue"),
    (101, "Switching Protocols"),
    (102, "Processing"),
    (103, "Early Hints"),
    (200, "OK"),
    (201, "Created"),
    (202, "Accepted"),
    (203, "Non-Authoritative Information"),
    (204, "No Content"),
    (205, "Reset Content"),
    (206, "Partial Content"),
    (207, "Multi-Status"),
    (208, "Already Reported"),
    (226, "IM Used"),
    (300, "Multiple Choices"),
    (301, "Moved Permanently"),
    (302, "Found"),
    (303, "See Other"),
    (304, "Not Modified"),
    (305, "Use Proxy"),
    (307, "Temporary Redirect"),
    (308, "Permanent Redirect"),
    (400, "Bad Request"),
    (401, "Unauthorized"),
    (402, "Payment Required"),
    (403, "Forbidden"),
    (404, "Not Found"),
    (405, "Method Not Allowed"),
    (406, "Not Acceptable"),
    (407, "Proxy Authentication Required"),
    (408, "Request Timeout"),
    (409, "Conflict"),
    (410, "Gone"),
    (411, "Length Required"),
    (412, "Precondition Failed"),
    (413, "Payload Too Large"),
    (414, "URI Too Long"),
    (415, "Unsupported Media Type"),
    (416, "Range Not Satisfiable"),
    (417, "Expectation Failed"),
    (421, "Misdirected Request"),
    (422, "Unprocessable Entity"),
    (423, "Locked"),
    (424, "Failed Dependency"),
    (425, "Too Early"),
    (426, "Upgrade Required"),
    (428, "Precondition Required"),
    (429, "Too Many Requests"),
    (431, "Request Header Fields Too Large"),
    (451, "Unavailable For Legal Reasons"),
    (500, "Internal Server Error"),
    (501, "Not Implemented"),
    (502, "Bad Gateway"),
    (503, "Service Unavailable"),
    (504, "Gateway Timeout"),
    (505, "HTTP Version Not Supported"),
    (506, "Variant Also Negotiates"),
    (507, "Insufficient Storage"),
    (508, "Loop Detected"),
    (510, "Not Extended"),
    (511, "Network Authentication Required"),
];

const GRPC: [(i64, &str); 17] = [
    (0, "OK"),
    (1, "Cancelled"),
    (2, "Unknown"),
    (3, "InvalidArgument"),
    (4, "DeadlineExceeded"),
    (5, "NotFound"),
    (6, "AlreadyExists"),
    (7, "PermissionDenied"),
    (8, "ResourceExhausted"),
    (9, "FailedPrecondition"),
    (10, "Aborted"),
    (11, "OutOfRange"),
    (12, "Unimplemented"),
    (13, "Internal"),
    (14, "Unavailable"),
    (15, "DataLoss"),
    (16, "Unauthenticated"),
];

const MYSQL: [(i64, &str); 32] = [
    (0, "Sleep"),
    (1, "Quit"),
    (2, "InitDB"),
    (3, "Query"),
    (4, "FieldList"),
    (5, "CreateDB"),
    (6, "DropDB"),
    (7, "Refresh"),
    (8, "Shutdown"),
    (9, "Statistics"),
    (10, "ProcessInfo"),
    (11, "Connect"),
    (12, "ProcessKill"),
    (13, "Debug"),
    (14, "Ping"),
    (15, "Time"),
    (16, "DelayedInsert"),
    (17, "ChangeUser"),
    (18, "BinlogDump"),
    (19, "TableDump"),
    (20, "ConnectOut"),
    (21, "RegisterSlave"),
    (22, "StmtPrepare"),
    (23, "StmtExecute"),
    (24, "StmtSendLongData"),
    (25, "StmtClose"),
    (26, "StmtReset"),
    (27, "SetOption"),
    (28, "StmtFetch"),
    (29, "Daemon"),
    (30, "BinlogDumpGTID"),
    (31, "ResetConnection"),
];

const CQL: [(i64, &str); 16] = [
    (0, "Error"),
    (1, "Startup"),
    (2, "Ready"),
    (3, "Authenticate"),
    (5, "Options"),
    (6, "Supported"),
    (7, "Query"),
    (8, "Result"),
    (9, "Prepare"),
    (10, "Execute"),
    (11, "Register"),
    (12, "Event"),
    (13, "Batch"),
    (14, "AuthChallenge"),
    (15, "AuthResponse"),
    (16, "AuthSuccess"),
];

const DNS: [(i64, &str); 20] = [
    (0, "NOERROR"),
    (1, "FORMERR"),
    (2, "SERVFAIL"),
    (3, "NXDOMAIN"),
    (4, "NOTIMP"),
    (5, "REFUSED"),
    (6, "YXDOMAIN"),
    (7, "YXRRSET"),
    (8, "NXRRSET"),
    (9, "NOTAUTH"),
    (10, "NOTZONE"),
    (11, "DSOTYPENI"),
    (16, "BADVERS"),
    (17, "BADKEY"),
    (18, "BADTIME"),
    (19, "BADMODE"),
    (20, "BADNAME"),
    (21, "BADALG"),
    (22, "BADTRUNC"),
    (23, "BADCOOKIE"),
];

const AMQP_FRAMES: [(i64, &str); 4] =
    [(1, "Frame method"), (2, "Content Header"), (3, "Content Body"), (8, "Heartbeat")];

/// The classes of AMQP 0-9-1 with their methods; `Confirm` and `BasicNack` are extensions of `RabbitMQ`.
const AMQP: [(i64, &str, &Names); 7] = [
    (
        10,
        "Connection",
        &[
            (10, "Start"),
            (11, "Start-ok"),
            (20, "Secure"),
            (21, "Secure-ok"),
            (30, "Tune"),
            (31, "Tune-ok"),
            (40, "Open"),
            (41, "Open-ok"),
            (50, "Close"),
            (51, "Close-ok"),
        ],
    ),
    (
        20,
        "Channel",
        &[
            (10, "Open"),
            (11, "Open-ok"),
            (20, "Flow"),
            (21, "Flow-ok"),
            (40, "Close"),
            (41, "Close-ok"),
        ],
    ),
    (40, "Exchange", &[(10, "Declare"), (11, "Declare-ok"), (20, "Delete"), (21, "Delete-ok")]),
    (
        50,
        "Queue",
        &[
            (10, "Declare"),
            (11, "Declare-ok"),
            (20, "Bind"),
            (21, "Bind-ok"),
            (30, "Purge"),
            (31, "Purge-ok"),
            (40, "Delete"),
            (41, "Delete-ok"),
            (50, "Unbind"),
            (51, "Unbind-ok"),
        ],
    ),
    (
        60,
        "Basic",
        &[
            (10, "Qos"),
            (11, "Qos-ok"),
            (20, "Consume"),
            (21, "Consume-ok"),
            (30, "Cancel"),
            (31, "Cancel-ok"),
            (40, "Publish"),
            (50, "Return"),
            (60, "Deliver"),
            (70, "Get"),
            (71, "Get-ok"),
            (72, "Get-empty"),
            (80, "Ack"),
            (90, "Reject"),
            (100, "Recover-async"),
            (110, "Recover"),
            (111, "Recover-ok"),
            (120, "Nack"),
        ],
    ),
    (85, "Confirm", &[(10, "Select"), (11, "Select-ok")]),
    (
        90,
        "Tx",
        &[
            (10, "Select"),
            (11, "Select-ok"),
            (20, "Commit"),
            (21, "Commit-ok"),
            (30, "Rollback"),
            (31, "Rollback-ok"),
        ],
    ),
];

const MUX: [(i64, &str); 16] = [
    (1, "Treq"),
    (-1, "Rreq"),
    (2, "Tdispatch"),
    (-2, "Rdispatch"),
    (64, "Tdrain"),
    (-64, "Rdrain"),
    (65, "Tping"),
    (-65, "Rping"),
    (66, "Tdiscarded"),
    (-66, "Rdiscarded"),
    (67, "Tlease"),
    (68, "Tinit"),
    (-68, "Rinit"),
    (-128, "Rerr"),
    (127, "Rerr (legacy)"),
    (-62, "Tdiscarded (legacy)"),
];

const KAFKA: [(i64, &str); 56] = [
    (0, "Produce"),
    (1, "Fetch"),
    (2, "ListOffsets"),
    (3, "Metadata"),
    (4, "LeaderAndIsr"),
    (5, "StopReplica"),
    (6, "UpdateMetadata"),
    (7, "ControlledShutdown"),
    (8, "OffsetCommit"),
    (9, "OffsetFetch"),
    (10, "FindCoordinator"),
    (11, "JoinGroup"),
    (12, "Heartbeat"),
    (13, "LeaveGroup"),
    (14, "SyncGroup"),
    (15, "DescribeGroups"),
    (16, "ListGroups"),
    (17, "SaslHandshake"),
    (18, "ApiVersions"),
    (19, "CreateTopics"),
    (20, "DeleteTopics"),
    (21, "DeleteRecords"),
    (22, "InitProducerId"),
    (23, "OffsetForLeaderEpoch"),
    (24, "AddPartitionsToTxn"),
    (25, "AddOffsetsToTxn"),
    (26, "EndTxn"),
    (27, "WriteTxnMarkers"),
    (28, "TxnOffsetCommit"),
    (29, "DescribeAcls"),
    (30, "CreateAcls"),
    (31, "DeleteAcls"),
    (32, "DescribeConfigs"),
    (33, "AlterConfigs"),
    (34, "AlterReplicaLogDirs"),
    (35, "DescribeLogDirs"),
    (36, "SaslAuthenticate"),
    (37, "CreatePartitions"),
    (38, "CreateDelegationToken"),
    (39, "RenewDelegationToken"),
    (40, "ExpireDelegationToken"),
    (41, "DescribeDelegationToken"),
    (42, "DeleteGroups"),
    (43, "ElectLeaders"),
    (44, "IncrementalAlterConfigs"),
    (45, "AlterPartitionReassignments"),
    (46, "ListPartitionReassignments"),
    (47, "OffsetDelete"),
    (48, "DescribeClientQuotas"),
    (49, "AlterClientQuotas"),
    (50, "DescribeUserScramCredentials"),
    (51, "AlterUserScramCredentials"),
    (56, "AlterIsr"),
    (57, "UpdateFeatures"),
    (60, "DescribeCluster"),
    (61, "DescribeProducers"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_without_a_name_stay_readable() {
        assert_eq!(http(404), "Not Found");
        assert_eq!(http(799), "Unassigned");
        assert_eq!(protocol(1), "HTTP");
        assert_eq!(protocol(11), "Invalid (11)");
        assert_eq!(amqp_method(60, 40), "BasicPublish");
        assert_eq!(amqp_method(50, 11), "QueueDeclare-ok");
        assert_eq!(amqp_method(50, 0), "Queue");
        assert_eq!(amqp_method(0, 0), "Unknown");
        assert_eq!(named(&KAFKA, 56), "AlterIsr");
        assert_eq!(named(&DNS, 3), "NXDOMAIN");
        assert_eq!(named(&DNS, 99), "99");
    }

    #[test]
    fn a_star_stands_for_one_component() {
        assert!(match_endpoint("/a/1/b?x=1", "/a/*/b"));
        assert!(!match_endpoint("/a/1", "/a/*/b"));
        assert!(match_endpoint("/a", "/a"));
    }
}
