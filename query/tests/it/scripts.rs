//! The scripts that come with Undine, over a few rows of every table.

use expect_test::{Expect, expect};
use undine_query::{Endpoint, Engine, PluginWindow, Request};
use undine_schema::TimeNs;

use super::every_table::NOW;
use super::fixture::{Fixture, SECOND, fixture};

fn filled() -> Fixture {
    let fixture = fixture(256 << 20, None);
    fixture.append_every_table();
    fixture
}

#[tokio::test]
async fn every_script_finds_something_among_rows_of_every_table() {
    let fixture = filled();
    for script in Engine::scripts() {
        let endpoint = Endpoint {
            url: "localhost:4317".to_owned(),
            headers: Vec::new(),
            insecure: true,
            timeout: std::time::Duration::from_secs(1),
        };
        let window = PluginWindow { start: TimeNs::new(NOW - 100 * SECOND), end: TimeNs::new(NOW) };
        let is_plugin = script.text.contains("px.plugin.");
        let request = Request {
            script: script.text.to_owned(),
            plugin: is_plugin.then_some(window),
            plugin_endpoint: is_plugin.then_some(endpoint),
            ..Request::default()
        };
        let answer = fixture.engine.run(request).await;
        let answer = answer.unwrap_or_else(|error| panic!("{}: {error}", script.name));
        for table in &answer.tables {
            assert!(table.rows() > 0, "{}: {} is empty", script.name, table.name);
        }
        for export in &answer.exports {
            assert!(export.rows > 0, "{} exports nothing", script.name);
        }
        assert!(!answer.tables.is_empty() || !answer.exports.is_empty(), "{}", script.name);
    }
}

/// What the script says; rows sorted, quantiles as they are.
async fn check(name: &str, expected: &Expect) {
    let script = Engine::script(name).unwrap();
    expected.assert_eq(&filled().sorted(script.text).await);
}

#[tokio::test]
async fn protocols_are_told_apart_and_who_answers_from_who_asks() {
    check("undine/protocols", &expect![[r"
        protocols: service | protocol | side | requests | error_ratio | latency_p50 | latency_p99 | last_seen
        front | HTTP | answers | 60 | 0.08333333333333333 | 8306688 | 799014912 | 1700000639000000000
        shop | AMQP | answers | 60 | 0.0 | 8306688 | 799014912 | 1700000639000000000
        shop | CQL | answers | 60 | 0.016666666666666666 | 8306688 | 799014912 | 1700000639000000000
        shop | DNS | asks | 60 | 0.0 | 8306688 | 799014912 | 1700000639000000000
        shop | HTTP | answers | 60 | 0.08333333333333333 | 8306688 | 799014912 | 1700000639000000000
        shop | Kafka | answers | 60 | 0.0 | 8306688 | 799014912 | 1700000639000000000
        shop | MongoDB | answers | 60 | 0.016666666666666666 | 8306688 | 799014912 | 1700000639000000000
        shop | Mux | answers | 60 | 0.016666666666666666 | 8306688 | 799014912 | 1700000639000000000
        shop | MySQL | answers | 60 | 0.016666666666666666 | 8306688 | 799014912 | 1700000639000000000
        shop | NATS | answers | 60 | 0.0 | 8306688 | 799014912 | 1700000639000000000
        shop | PostgreSQL | answers | 60 | 0.016666666666666666 | 8306688 | 799014912 | 1700000639000000000
        shop | Redis | answers | 60 | 0.016666666666666666 | 8306688 | 799014912 | 1700000639000000000
    "]]).await;
}

#[tokio::test]
async fn sql_statements_are_grouped_without_their_constants() {
    check("undine/sql_stats", &expect![[r"
        sql_stats: service | protocol | trace_role | statement | requests | error_ratio | latency_sum | latency_p50 | latency_p99
        shop | MySQL | 2 | SELECT name FROM items WHERE id = ? AND kind = ? | 30 | 0.0 | 4992000000 | 8617984 | 799014912
        shop | MySQL | 2 | SELECT name FROM items WHERE id = ? | 30 | 0.03333333333333333 | 240000000 | 7913472 | 10715136
        shop | PostgreSQL | 2 | SELECT name FROM items WHERE id = $1 AND kind IN ($2, $3) | 30 | 0.0 | 4992000000 | 8617984 | 799014912
        shop | PostgreSQL | 2 | SELECT name FROM items WHERE id = $1 LIMIT $2 | 30 | 0.03333333333333333 | 240000000 | 7913472 | 10715136
    "]]).await;
}

#[tokio::test]
async fn slow_statements_of_all_databases_stand_in_one_table() {
    check("undine/slow_statements", &expect![[r#"
        slow_statements: time_ | service | protocol | trace_role | statement | failed | latency | remote_addr | remote_port
        1700000389000000000 | shop | CQL | 2 | SELECT name FROM items WHERE id = 7 | false | 800000000 | 127.0.0.1 | 40050
        1700000389000000000 | shop | MongoDB | 2 | {"find":"items","filter":{"id":7}} | false | 800000000 | 127.0.0.1 | 40050
        1700000389000000000 | shop | MySQL | 2 | SELECT name FROM items WHERE id = 7 AND kind = 'a''b' | false | 800000000 | 127.0.0.1 | 40050
        1700000389000000000 | shop | PostgreSQL | 2 | SELECT name FROM items WHERE id = 7 AND kind IN ('a', 'b') | false | 800000000 | 127.0.0.1 | 40050
        1700000389000000000 | shop | Redis | 2 | GET ["k","v"] | false | 800000000 | 127.0.0.1 | 40050
        1700000439000000000 | shop | CQL | 2 | SELECT name FROM items WHERE id = 7 | false | 800000000 | 127.0.0.1 | 40040
        1700000439000000000 | shop | MongoDB | 2 | {"find":"items","filter":{"id":7}} | false | 800000000 | 127.0.0.1 | 40040
        1700000439000000000 | shop | MySQL | 2 | SELECT name FROM items WHERE id = 7 AND kind = 'a''b' | false | 800000000 | 127.0.0.1 | 40040
        1700000439000000000 | shop | PostgreSQL | 2 | SELECT name FROM items WHERE id = 7 AND kind IN ('a', 'b') | false | 800000000 | 127.0.0.1 | 40040
        1700000439000000000 | shop | Redis | 2 | GET ["k","v"] | false | 800000000 | 127.0.0.1 | 40040
        1700000489000000000 | shop | CQL | 2 | SELECT name FROM items WHERE id = 7 | false | 800000000 | 127.0.0.1 | 40030
        1700000489000000000 | shop | MongoDB | 2 | {"find":"items","filter":{"id":7}} | false | 800000000 | 127.0.0.1 | 40030
        1700000489000000000 | shop | MySQL | 2 | SELECT name FROM items WHERE id = 7 AND kind = 'a''b' | false | 800000000 | 127.0.0.1 | 40030
        1700000489000000000 | shop | PostgreSQL | 2 | SELECT name FROM items WHERE id = 7 AND kind IN ('a', 'b') | false | 800000000 | 127.0.0.1 | 40030
        1700000489000000000 | shop | Redis | 2 | GET ["k","v"] | false | 800000000 | 127.0.0.1 | 40030
        1700000539000000000 | shop | CQL | 2 | SELECT name FROM items WHERE id = 7 | false | 800000000 | 127.0.0.1 | 40020
        1700000539000000000 | shop | MongoDB | 2 | {"find":"items","filter":{"id":7}} | false | 800000000 | 127.0.0.1 | 40020
        1700000539000000000 | shop | MySQL | 2 | SELECT name FROM items WHERE id = 7 AND kind = 'a''b' | false | 800000000 | 127.0.0.1 | 40020
        1700000539000000000 | shop | PostgreSQL | 2 | SELECT name FROM items WHERE id = 7 AND kind IN ('a', 'b') | false | 800000000 | 127.0.0.1 | 40020
        1700000539000000000 | shop | Redis | 2 | GET ["k","v"] | false | 800000000 | 127.0.0.1 | 40020
        1700000589000000000 | shop | CQL | 2 | SELECT name FROM items WHERE id = 7 | false | 800000000 | 127.0.0.1 | 40010
        1700000589000000000 | shop | MongoDB | 2 | {"find":"items","filter":{"id":7}} | false | 800000000 | 127.0.0.1 | 40010
        1700000589000000000 | shop | MySQL | 2 | SELECT name FROM items WHERE id = 7 AND kind = 'a''b' | false | 800000000 | 127.0.0.1 | 40010
        1700000589000000000 | shop | PostgreSQL | 2 | SELECT name FROM items WHERE id = 7 AND kind IN ('a', 'b') | false | 800000000 | 127.0.0.1 | 40010
        1700000589000000000 | shop | Redis | 2 | GET ["k","v"] | false | 800000000 | 127.0.0.1 | 40010
        1700000639000000000 | shop | CQL | 2 | SELECT name FROM items WHERE id = 7 | false | 800000000 | 127.0.0.1 | 40000
        1700000639000000000 | shop | MongoDB | 2 | {"find":"items","filter":{"id":7}} | false | 800000000 | 127.0.0.1 | 40000
        1700000639000000000 | shop | MySQL | 2 | SELECT name FROM items WHERE id = 7 AND kind = 'a''b' | false | 800000000 | 127.0.0.1 | 40000
        1700000639000000000 | shop | PostgreSQL | 2 | SELECT name FROM items WHERE id = 7 AND kind IN ('a', 'b') | false | 800000000 | 127.0.0.1 | 40000
        1700000639000000000 | shop | Redis | 2 | GET ["k","v"] | false | 800000000 | 127.0.0.1 | 40000
    "#]]).await;
}

#[tokio::test]
async fn each_protocol_has_its_commands_counted() {
    check("undine/mysql_stats", &expect![[r"
        mysql_stats: service | command | trace_role | requests | error_ratio | latency_p50 | latency_p99 | last_seen
        shop | Query | 2 | 30 | 0.0 | 8617984 | 799014912 | 1700000639000000000
        shop | StmtExecute | 2 | 30 | 0.03333333333333333 | 7913472 | 10715136 | 1700000634000000000
    "]]).await;
    check("undine/pgsql_stats", &expect![[r"
        pgsql_stats: service | req_cmd | trace_role | requests | error_ratio | latency_p50 | latency_p99 | last_seen
        shop | Execute | 2 | 30 | 0.03333333333333333 | 7913472 | 10715136 | 1700000634000000000
        shop | Query | 2 | 30 | 0.0 | 8617984 | 799014912 | 1700000639000000000
    "]]).await;
    check("undine/redis_stats", &expect![[r"
        redis_stats: service | req_cmd | trace_role | requests | error_ratio | latency_p50 | latency_p99 | last_seen
        shop | GET | 2 | 30 | 0.0 | 8617984 | 799014912 | 1700000639000000000
        shop | SET | 2 | 30 | 0.03333333333333333 | 7913472 | 10715136 | 1700000634000000000
    "]]).await;
    check("undine/cql_stats", &expect![[r"
        cql_stats: service | request | trace_role | requests | error_ratio | latency_p50 | latency_p99 | last_seen
        shop | Query | 2 | 60 | 0.016666666666666666 | 8306688 | 799014912 | 1700000639000000000
    "]]).await;
    check("undine/mongodb_stats", &expect![[r"
        mongodb_stats: service | req_cmd | trace_role | requests | error_ratio | latency_p50 | latency_p99 | last_seen
        shop | find | 2 | 60 | 0.016666666666666666 | 8306688 | 799014912 | 1700000639000000000
    "]]).await;
    check("undine/kafka_stats", &expect![[r"
        kafka_stats: service | request | client_id | trace_role | requests | error_ratio | latency_p50 | latency_p99 | last_seen
        shop | Fetch | consumer-1 | 2 | 20 | 0.0 | 8208384 | 799014912 | 1700000629000000000
        shop | JoinGroup | consumer-1 | 2 | 10 | 0.0 | 8421376 | 799014912 | 1700000619000000000
        shop | Produce | producer-1 | 2 | 20 | 0.0 | 8110080 | 799014912 | 1700000639000000000
        shop | SyncGroup | consumer-1 | 2 | 10 | 0.0 | 7913472 | 10321920 | 1700000614000000000
    "]]).await;
    check("undine/nats_stats", &expect![[r"
        nats_stats: service | cmd | trace_role | requests | error_ratio | latency_p50 | latency_p99 | last_seen
        shop | MSG | 2 | 30 | 0.0 | 7913472 | 10715136 | 1700000634000000000
        shop | PUB | 2 | 30 | 0.0 | 8617984 | 799014912 | 1700000639000000000
    "]]).await;
    check("undine/amqp_stats", &expect![[r"
        amqp_stats: service | asked | answered | trace_role | requests | error_ratio | latency_p50 | latency_p99 | last_seen
        shop |  | BasicDeliver | 2 | 30 | 0.0 | 7913472 | 10715136 | 1700000634000000000
        shop | BasicPublish |  | 2 | 30 | 0.0 | 8617984 | 799014912 | 1700000639000000000
    "]]).await;
    check("undine/mux_stats", &expect![[r"
        mux_stats: service | message | destination | trace_role | requests | error_ratio | latency_p50 | latency_p99 | last_seen
        shop | Tdispatch | /s/users/get | 2 | 60 | 0.016666666666666666 | 8306688 | 799014912 | 1700000639000000000
    "]]).await;
}

#[tokio::test]
async fn dns_failures_are_told_by_their_code() {
    check("undine/dns_stats", &expect![[r"
        dns_stats: service | name | type | outcome | trace_role | requests | error_ratio | latency_p50 | latency_p99 | last_seen
        shop | db.example.org | A | NOERROR | 1 | 59 | 0.0 | 8421376 | 799014912 | 1700000639000000000
        shop | db.example.org | A | NXDOMAIN | 1 | 1 | 1.0 | 5685248 | 5685248 | 1700000604000000000
    "]]).await;
}

#[tokio::test]
async fn handshakes_are_grouped_by_version_and_cipher() {
    check("undine/tls_handshakes", &expect![[r"
        tls_handshakes: service | server_name | version | cipher | trace_role | handshakes | refused_ratio | latency_p50 | latency_p99 | last_seen
        shop | shop.example.org | TLS 1.2 | TLS_AES_128_GCM_SHA256 | 2 | 15 | 0.0 | 8617984 | 799014912 | 1700000639000000000
        shop | shop.example.org | TLS 1.3 | TLS_AES_128_GCM_SHA256 | 2 | 45 | 0.022222222222222223 | 8306688 | 799014912 | 1700000634000000000
    "]]).await;
}

#[tokio::test]
async fn tcp_is_summed_over_connections_its_events_by_reason() {
    check("undine/tcp_health", &expect![[r"
        connections: service | peer | connections | srtt_p50 | srtt_max | bytes_sent | bytes_received | retransmits | retransmit_ratio | lost | drops
        shop | front | 1 | 259584 | 260000 | 60000 | 12000 | 6 | 0.03333333333333333 | 3 | 0
        trouble: event | reason | state | service | peer | count | last_seen
        reset sent | NO_SOCKET | ESTABLISHED | shop |  | 10 | 1700000639000000000
        sent again |  | ESTABLISHED | shop |  | 10 | 1700000639000000000
        thrown away | TCP_OLD_DATA | ESTABLISHED | shop |  | 10 | 1700000639000000000
    "]]).await;
}

#[tokio::test]
async fn stacks_are_shares_of_their_service() {
    check(
        "undine/flame_graph",
        &expect![[r"
        flame_graph: service | stack_trace | count | share
        shop | main;idle | 65 | 0.13978494623655913
        shop | main;serve;query;[k] do_syscall_64;[k] tcp_sendmsg | 100 | 0.21505376344086022
        shop | main;serve;render | 300 | 0.6451612903225806
    "]],
    )
    .await;
}

#[tokio::test]
async fn a_process_has_what_it_used_not_what_it_ever_used() {
    check("undine/process_usage", &expect![[r"
        process_usage: service | pid | cmdline | cpu | rss | threads | read_bytes | write_bytes | major_faults
        shop | 100 | /usr/bin/shop --serve | 0.25 | 52428860 | 4 | 60416 | 30208 | 0
    "]]).await;
}

#[tokio::test]
async fn a_cgroup_has_its_limits_and_its_pressure() {
    check("undine/cgroup_usage", &expect![[r"
        cgroup_usage: cgroup | service | cpu | throttled | memory | memory_share | oom_kills | read_bytes | write_bytes | cpu_pressure | memory_pressure | io_pressure | pids
        /system.slice/shop.service | shop | 0.25 | 0.002 | 62914560 | 0.234375 | 0 | 60416 | 30208 | 0.004 | 0.0002 | 0.0004 | 5
    "]]).await;
}

#[tokio::test]
async fn a_network_namespace_has_what_it_moved() {
    check(
        "undine/network_usage",
        &expect![[r"
        network_usage: netns | pod | service | rx_bytes | tx_bytes | drops | errors
        4026531840 |  |  | 59000 | 177000 | 3 | 0
    "]],
    )
    .await;
}

#[tokio::test]
async fn a_java_machine_has_its_heap_and_its_pauses() {
    check("undine/jvm_stats", &expect![[r"
        jvm_stats: service | pid | heap_used_max | heap_committed | heap_limit | young_gc | full_gc | gc_share
        front | 101 | 111149056 | 268435456 | 536870912 | 177000000 | 59000000 | 0.0008
    "]]).await;
}

#[tokio::test]
async fn ends_of_processes_are_counted_by_how_they_ended() {
    check(
        "undine/exits",
        &expect![[r"
        exits: service | comm | exit_code | signal | ends | last
        shop | worker | 0 | 0 | 1 | 1700000624000000000
        shop | worker | 0 | 9 | 1 | 1700000624000000000
        shop | worker | 1 | 0 | 1 | 1700000624000000000
    "]],
    )
    .await;
}

#[tokio::test]
async fn a_probe_has_its_state_and_its_cost() {
    check("undine/probes", &expect![[r"
        probes: source_connector | tracepoint | program | status | error | runs_per_second | run_ns | cpu | last
        sockets | kfree_skb | send | 12 | the kernel refused it | 1200 | 310 | 0.000372 | 1700000439000000000
        sockets | sock_send_length | send | 0 |  | 1200 | 310 | 0.000372 | 1700000439000000000
    "]]).await;
}

#[tokio::test]
async fn errors_of_the_collector_are_counted() {
    check(
        "undine/collector_errors",
        &expect![[r"
        collector_errors: source_connector | status | error | errors | last
        jvm | 5 | cannot read hsperfdata of 101: no such file | 2 | 1700000489000000000
    "]],
    )
    .await;
}

#[tokio::test]
async fn two_spans_of_a_profile_are_compared() {
    let fixture = filled();
    let script = Engine::script("undine/flame_diff").unwrap();
    // All rows lie within the last fifty seconds.
    let text = script.text.replace("'-10m', '-5m'", "'-60s', '-25s'");
    expect![[r"
        flame_diff: service | stack_trace | before | after | difference
        shop | main;idle | 0.1836734693877551 | 0.09090909090909091 | -0.0927643784786642
        shop | main;serve;query;[k] do_syscall_64;[k] tcp_sendmsg | 0.20408163265306123 | 0.22727272727272727 | 0.023191094619666036
        shop | main;serve;render | 0.6122448979591837 | 0.6818181818181818 | 0.06957328385899808
    "]].assert_eq(&fixture.sorted(&text).await);
}
