//! What scripts that were written for Pixie use: its library, its functions, its table functions.

use expect_test::{Expect, expect};

use undine_schema::tables::{
    HTTP_EVENTS, HttpEvent, HttpEvents, NETWORK_STATS, NetworkStat, NetworkStats, PROCESSES,
    ProcessVersion, Processes,
};
use undine_schema::{Frame, TimeNs, Upid};

use super::fixture::{START, fixture};

async fn check(script: &str, expected: &Expect) {
    let fixture = fixture(256 << 20, None);
    fixture.append_every_table();
    expected.assert_eq(&fixture.sorted(&format!("import px\n{script}")).await);
}

#[tokio::test]
async fn views_tell_services_apart_on_a_host_without_pods() {
    check(
        "import pxviews\n\
         df = pxviews.http_graph('-5m', px.now())\n\
         px.display(df['requestor_service', 'responder_service', 'num_requests', 'num_errors',\n\
           'latency_p50', 'req_bytes'], 'graph')\n\
         df = pxviews.inbound_http_summary('-5m', px.now())\n\
         px.display(df['service', 'node', 'requestor_ip', 'requestor_service', 'num_requests'],\n\
           'inbound')\n\
         df = pxviews.container_process_summary('-5m', px.now())\n\
         px.display(df['service', 'node', 'cpu_usage', 'rss', 'actual_disk_read_throughput'],\n\
           'used')\n\
         df = pxviews.pod_resource_stats('-5m', px.now())\n\
         px.display(df['service', 'container_count', 'pod_status'], 'pods')\n\
         df = pxviews.connection_throughput_stats('-5m', px.now())\n\
         px.display(df['service', 'remote_addr', 'inbound_conn_throughput',\n\
           'outbound_conn_throughput'], 'moved')\n\
         df = pxviews.stacktraces('-5m', px.now())\n\
         px.display(df['service', 'cmdline', 'stack_trace', 'count'], 'stacks')\n\
         df = pxviews.pod_network_summary('-5m', px.now())\n\
         px.display(df['node', 'rx_bytes_per_ns', 'tx_drops_per_ns'], 'network')\n\
         df = pxviews.processes('-5m', px.now())\n\
         px.display(df['service', 'cmdline', 'pid'], 'processes')",
        &expect![[r"
            graph: requestor_service | responder_service | num_requests | num_errors | latency_p50 | req_bytes
             | front | 60 | 5 | 8306688 | 120
            front | shop | 60 | 5 | 8306688 | 120
            inbound: service | node | requestor_ip | requestor_service | num_requests
            front | node-1 | 10.0.0.9 |  | 60
            shop | node-1 | 10.0.0.9 | front | 60
            used: service | node | cpu_usage | rss | actual_disk_read_throughput
            shop | node-1 | 0.24583333333333332 | 52428830.5 | 2.0138666666666666e-7
            pods: service | container_count | pod_status
            shop | 1 | 
            moved: service | remote_addr | inbound_conn_throughput | outbound_conn_throughput
            front | 127.0.0.1 | 0 | 135700
            shop | 127.0.0.1 | 135700 | 0
            stacks: service | cmdline | stack_trace | count
            shop | /usr/bin/shop --serve | main;idle | 65
            shop | /usr/bin/shop --serve | main;serve;query;[k] do_syscall_64;[k] tcp_sendmsg | 100
            shop | /usr/bin/shop --serve | main;serve;render | 300
            network: node | rx_bytes_per_ns | tx_drops_per_ns
            node-1 | 1.9666666666666665e-7 | 0.0
            processes: service | cmdline | pid
            shop | /usr/bin/shop --serve | 100
        "]],
    )
    .await;
}

#[tokio::test]
async fn views_over_time_have_one_row_a_window() {
    check(
        "import pxviews\n\
         w = px.minutes(5)\n\
         df = pxviews.container_process_timeseries('-5m', px.now(), w)\n\
         px.display(df['time_', 'service', 'cpu_usage'], 'used')\n\
         df = pxviews.pod_network_timeseries('-5m', px.now(), w)\n\
         px.display(df['time_', 'rx_bytes_per_ns'], 'network')\n\
         df = pxviews.inbound_http_latency_timeseries('-5m', px.now(), w)\n\
         px.display(df['time_', 'service', 'num_requests', 'latency_sum'], 'latency')\n\
         df = pxviews.inbound_http_throughput_timeseries('-5m', px.now(), w)\n\
         px.display(df['time_', 'service', 'num_requests', 'num_errors'], 'throughput')",
        &expect![[r"
            used: time_ | service | cpu_usage
            1700000100000000000 | shop | 0.04583333333333333
            1700000400000000000 | shop | 0.19583333333333333
            network: time_ | rx_bytes_per_ns
            1700000100000000000 | 3.6666666666666664e-8
            1700000400000000000 | 1.5666666666666667e-7
            latency: time_ | service | num_requests | latency_sum
            1700000100000000000 | front | 12 | 914200000
            1700000100000000000 | shop | 12 | 914200000
            1700000400000000000 | front | 48 | 4317800000
            1700000400000000000 | shop | 48 | 4317800000
            throughput: time_ | service | num_requests | num_errors
            1700000100000000000 | front | 12 | 1
            1700000100000000000 | shop | 12 | 1
            1700000400000000000 | front | 48 | 4
            1700000400000000000 | shop | 48 | 4
        "]],
    )
    .await;
}

#[tokio::test]
async fn a_mistake_in_calling_a_view_is_shown_at_the_call() {
    let fixture = fixture(64 << 20, None);
    let script = "import px\nimport pxviews\n\npx.display(pxviews.http_graph('-5m', 'whenever'))\n";
    let error = fixture.run(script).await.unwrap_err().to_string();
    expect![[r"
        error: `whenever` is no time: neither a duration such as '-5m' nor a time such as '2026-11-21 04:30:00 +0000'
          |
        4 | px.display(pxviews.http_graph('-5m', 'whenever'))
          |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ here
          |
          = help: units are ms, s, m, h and d, as in '-5m'"]].assert_eq(&error);
    let script = "import px\nimport pxviews\npx.display(pxviews.http_grap('-5m', px.now()))\n";
    let error = fixture.run(script).await.unwrap_err().to_string();
    assert!(error.contains("did you mean `http_graph`?"), "{error}");
}

#[tokio::test]
async fn paths_become_endpoints_once_five_differ_in_one_part() {
    check(
        "df = px.DataFrame('http_events', start_time='-5m').head(8)\n\
         df.path = '/users/' + px.itoa(df.remote_port)\n\
         model = df.agg(model=('path', px._build_request_path_clusters))\n\
         df = df.merge(model, how='inner', left_on=[], right_on=[])\n\
         df.endpoint = px._predict_request_path_cluster(df.path, df.model)\n\
         px.display(df.groupby('endpoint').agg(n=('path', px.count)), 'few')\n\
         df = px.DataFrame('http_events', start_time='-5m')\n\
         df.path = '/users/' + px.itoa(df.remote_port)\n\
         model = df.agg(model=('path', px._build_request_path_clusters))\n\
         df = df.merge(model, how='inner', left_on=[], right_on=[])\n\
         df.endpoint = px._predict_request_path_cluster(df.path, df.model)\n\
         px.display(df.groupby('endpoint').agg(n=('path', px.count)), 'many')",
        &expect![[r"
            few: endpoint | n
            /users/40056 | 2
            /users/40057 | 2
            /users/40058 | 2
            /users/40059 | 2
            many: endpoint | n
            /users/* | 120
        "]],
    )
    .await;
}

#[tokio::test]
async fn undine_says_of_itself_what_an_agent_would() {
    check(
        "px.display(px.GetAgentStatus()['hostname', 'agent_state'], 'agents')\n\
         px.display(px.GetProfilerSamplingPeriodMS()[['profiler_sampling_period_ms']], 'period')\n\
         px.display(px.GetLinuxHeadersStatus()[['kernel_headers_installed']], 'headers')\n\
         df = px._DebugTableInfo()\n\
         px.display(df[df.name == 'proc_exit_events']['name', 'hot_rows', 'appended_rows'], 'info')\n\
         df = px._HeapGrowthStacks(1)\n\
         px.display(df, 'heap')\n\
         px.display(px.GetTracepointStatus()['name', 'state'], 'tracepoints')",
        &expect![[r"
            agents: hostname | agent_state
            node-1 | AGENT_STATE_HEALTHY
            period: profiler_sampling_period_ms
            20
            headers: kernel_headers_installed
            true
            info: name | hot_rows | appended_rows
            proc_exit_events | 3 | 3
            heap: asid | heap
            tracepoints: name | state
        "]],
    )
    .await;
}

#[tokio::test]
async fn what_is_personal_in_a_text_is_replaced() {
    check(
        "df = px.DataFrame('dns_events', start_time='-5m').head(1)\n\
         df.answer = px.redact_pii_best_effort(df.resp_body)\n\
         px.display(df[['answer']])",
        &expect![[r#"
            output: answer
            {"answers":[{"name":"db.example.org","type":"A","addr":"<REDACTED_IPV4>"}]}
        "#]],
    )
    .await;
}

/// Each level reads the one below five times: 625 times, if none were computed once.
#[tokio::test]
async fn lists_within_lists_are_taken_apart_level_by_level() {
    check(
        "def one(df, into, source, at):\n\
         \x20   df[into] = px.pluck_array(df[source], at)\n\
         \x20   return df\n\
         def each(df, into, source):\n\
         \x20   all = one(df, into, source, 0).append(one(df, into, source, 1))\n\
         \x20   all = all.append(one(df, into, source, 2)).append(one(df, into, source, 3))\n\
         \x20   all = all.append(one(df, into, source, 4))\n\
         \x20   return all[all[into] != '']\n\
         def partitions(df, source):\n\
         \x20   df.topics = px.pluck(df[source], 'topics')\n\
         \x20   df = each(df, 'topic', 'topics')\n\
         \x20   df.name = px.pluck(df.topic, 'name')\n\
         \x20   df.partitions = px.pluck(df.topic, 'partitions')\n\
         \x20   return each(df, 'partition', 'partitions')\n\
         df = px.DataFrame('kafka_events.beta', start_time='-5m')\n\
         df = partitions(df[df.req_cmd == 0], 'req_body')\n\
         df.bytes = px.pluck_int64(px.pluck(df.partition, 'message_set'), 'size')\n\
         df = partitions(df, 'resp')\n\
         df.error = px.pluck(df.partition, 'error_code')\n\
         px.display(df.groupby(['name', 'error']).agg(n=('bytes', px.count), bytes=('bytes', px.sum)))",
        &expect![[r"
            output: name | error | n | bytes
            orders | kNone | 20 | 2400
        "]],
    )
    .await;
}

#[tokio::test]
async fn what_stands_on_an_outer_join_can_be_read_twice() {
    check(
        "df = px.DataFrame('http_events', start_time='-5m')\n\
         df.service = df.ctx['service']\n\
         df = df.groupby(['service', 'resp_status']).agg(n=('latency', px.count))\n\
         all = df.agg(all=('n', px.sum))\n\
         df = df.merge(all, how='outer', left_on=[], right_on=[])\n\
         df.share = df.n / df.all\n\
         df.name = df.service + '!'\n\
         df = df[df.share > 0.0]\n\
         px.display(df['name', 'resp_status', 'share'], 'one')\n\
         px.display(df.groupby('name').agg(share=('share', px.sum)), 'two')",
        &expect![[r"
            one: name | resp_status | share
            front! | 200 | 0.4583333333333333
            front! | 500 | 0.041666666666666664
            shop! | 200 | 0.4583333333333333
            shop! | 500 | 0.041666666666666664
            two: name | share
            front! | 0.5
            shop! | 0.5
        "]],
    )
    .await;
}

/// Where a cgroup's path names a pod, rows and processes have its UID for a name.
#[tokio::test]
async fn a_pod_is_known_by_its_processes() {
    let fixture = fixture(64 << 20, None);
    let mut processes = Processes::new(0);
    for (pid, service, pod) in [(1, "web", "uid-1"), (2, "log", "uid-1"), (3, "cron", "")] {
        processes.push(&ProcessVersion {
            time_: TimeNs::new(START),
            upid: Upid::new(1, pid, 7),
            service,
            pod,
            node: "node-1",
            ..ProcessVersion::default()
        });
    }
    let mut requests = HttpEvents::new(0);
    for (pid, service, pod) in [(1, "web", "uid-1"), (3, "cron", "")] {
        let upid = Upid::new(1, pid, 7);
        let time_ = TimeNs::new(START);
        requests.push(&HttpEvent { time_, upid, service, pod, ..HttpEvent::default() });
    }
    let mut moved = NetworkStats::new(0);
    moved.push(&NetworkStat {
        time_: TimeNs::new(START),
        pod_id: "uid-1",
        pod: "uid-1",
        rx_bytes: 7,
        ..NetworkStat::default()
    });
    fixture.append(Frame::captured(&PROCESSES, processes.finish()));
    fixture.append(Frame::captured(&HTTP_EVENTS, requests.finish()));
    fixture.append(Frame::captured(&NETWORK_STATS, moved.finish()));
    let answer = fixture
        .sorted(
            "import px\n\
             df = px.DataFrame('http_events')\n\
             df.pod_id = df.ctx['pod_id']\n\
             df = df.groupby('pod_id').agg(n=('latency', px.count))\n\
             df.pod = df.ctx['pod']\n\
             df.service = df.ctx['service']\n\
             df.node = df.ctx['node']\n\
             moved = px.DataFrame('network_stats')\n\
             df = df.merge(moved, how='left', left_on='pod_id', right_on='pod_id', suffixes=['', '_x'])\n\
             px.display(df['pod_id', 'pod', 'service', 'node', 'n', 'rx_bytes'])",
        )
        .await;
    expect![[r#"
        output: pod_id | pod | service | node | n | rx_bytes
         |  |  |  | 1 | 0
        uid-1 | uid-1 | ["log","web"] | node-1 | 1 | 7
    "#]]
    .assert_eq(&answer);
}
