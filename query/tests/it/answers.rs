//! What scripts answer over rows in memory.

use expect_test::{Expect, expect};
use undine_query::{Engine, FunctionCall, PluginWindow, Request};
use undine_schema::TimeNs;

use super::fixture::{Fixture, Order, SECOND, START, fixture, identities, requests, text};

fn small() -> Fixture {
    let fixture = fixture(64 << 20, None);
    fixture.append(requests(0..12));
    for frame in identities() {
        fixture.append(frame);
    }
    fixture
}

async fn check(script: &str, expected: &Expect) {
    let fixture = small();
    let script = format!("import px\ndf = px.DataFrame('http_events')\n{script}");
    let answer = fixture.run(&script).await.unwrap_or_else(|error| panic!("{error}: {error:?}"));
    let tables: String = answer.tables.iter().map(|table| text(table, Order::AsGiven)).collect();
    let notes = answer.tables.iter().flat_map(|t| &t.notes).map(|note| format!("note: {note}\n"));
    expected.assert_eq(&(tables + &notes.collect::<String>()));
}

#[tokio::test]
async fn rows_are_filtered_and_projected_in_the_order_of_their_arrival() {
    check(
        "df = df[df.resp_status >= 400 and df.req_method == 'GET']\n\
         px.display(df['req_path', 'resp_status'], 'failed')\n\
         px.display(df[['resp_status']].head(1), 'failed')",
        &expect![[r"
            failed: req_path | resp_status
            /item/2?page=2 | 500
            /item/4?page=4 | 404
            failed_1: resp_status
            500
        "]],
    )
    .await;
}

#[tokio::test]
async fn groups_are_counted_and_their_shares_divided_as_floats() {
    check(
        "df.service = df.ctx['service']\n\
         df.failure = df.resp_status >= 400\n\
         df = df.groupby('service').agg(n=('latency', px.count), bad=('failure', px.sum),\n\
           share=('failure', px.mean), low=('latency', px.min), high=('latency', px.max),\n\
           total=('resp_body_size', px.sum))\n\
         df.rate = df.n / 10\n\
         df.none = df.n / 0\n\
         px.display(df)",
        &expect![[r"
            output: service | n | bad | share | low | high | total | rate | none
            cart | 4 | 1 | 0.25 | 1000000 | 7410000 | 4018 | 0.4 | inf
            shop | 4 | 2 | 0.5 | 4970000 | 10470000 | 4022 | 0.4 | inf
            front | 4 | 1 | 0.25 | 3440000 | 8940000 | 4026 | 0.4 | inf
        "]],
    )
    .await;
}

#[tokio::test]
async fn an_aggregate_of_nothing_is_one_row_without_groups_and_none_with_them() {
    check(
        "df = df[df.resp_status == 999]\n\
         px.display(df.agg(n=('latency', px.count), s=('latency', px.sum), m=('latency', px.mean),\n\
           q=('latency', px.quantiles), any=('req_path', px.any)), 'whole')\n\
         px.display(df.groupby('req_method').agg(n=('latency', px.count)), 'grouped')\n\
         px.display(df.groupby('req_method').agg(), 'distinct')",
        &expect![[r#"
            whole: n | s | m | q | any
            0 | 0 | NaN | {"p01":0.0,"p10":0.0,"p25":0.0,"p50":0.0,"p75":0.0,"p90":0.0,"p99":0.0} | 
            grouped: req_method | n
            distinct: req_method
        "#]],
    )
    .await;
}

#[tokio::test]
async fn quantiles_are_plucked_from_json() {
    check(
        "q = df.agg(q=('latency', px.quantiles))\n\
         q.p50 = px.DurationNanos(px.floor(px.pluck_float64(q.q, 'p50')))\n\
         px.display(q)",
        &expect![[r#"
            output: q | p50
            {"p01":1001472.0,"p10":1912832.0,"p25":3432448.0,"p50":5881856.0,"p75":8044544.0,"p90":8945664.0,"p99":9535488.0} | 5881856
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_reassigned_column_moves_to_the_end_and_other_names_keep_the_old_one() {
    check(
        "df = df[['req_method', 'latency']].head(2)\n\
         old = df\n\
         df.req_method = 'x' + df.req_method\n\
         px.display(df, 'new')\n\
         px.display(old, 'old')",
        &expect![[r"
            new: latency | req_method
            1000000 | xGET
            9560000 | xPOST
            old: req_method | latency
            GET | 1000000
            POST | 9560000
        "]],
    )
    .await;
}

#[tokio::test]
async fn joins_fill_what_is_absent_with_zeros() {
    check(
        "df.service = df.ctx['service']\n\
         a = df.groupby('service').agg(n=('latency', px.count))\n\
         b = df[df.service == 'cart']\n\
         b = b.groupby('service').agg(t=('time_', px.max), u=('upid', px.any))\n\
         j = a.merge(b, how='left', left_on='service', right_on=['service'], suffixes=['', '_b'])\n\
         j.pid = px.upid_to_pid(j.u)\n\
         px.display(j[['service', 'n', 'service_b', 't', 'pid']], 'left')\n\
         c = b.merge(a, how='outer', left_on=[], right_on=[])\n\
         px.display(c[['service_x', 'service_y', 'n']], 'cross')\n\
         px.display(a.append([a]).groupby('service').agg(n=('n', px.sum)), 'twice')",
        &expect![[r"
            left: service | n | service_b | t | pid
            cart | 4 | cart | 1700000040450000000 | 100
            shop | 4 |  | 0 | 0
            front | 4 |  | 0 | 0
            cross: service_x | service_y | n
            cart | cart | 4
            cart | shop | 4
            cart | front | 4
            twice: service | n
            cart | 8
            shop | 8
            front | 8
        "]],
    )
    .await;
}

#[tokio::test]
async fn processes_are_known_by_their_upid() {
    check(
        "c = px.DataFrame('conn_stats')\n\
         c = c.groupby(['upid', 'remote_addr']).agg(a=('bytes_sent', px.min), b=('bytes_sent', px.max))\n\
         c.bytes = c.b - c.a\n\
         c.pod = c.ctx['pod']\n\
         c.service = c.ctx['service']\n\
         c.cmd = c.ctx['cmdline']\n\
         c.pid = c.ctx['pid']\n\
         px.display(c[['service', 'pod', 'cmd', 'pid', 'remote_addr', 'bytes']])",
        &expect![[r"
            output: service | pod | cmd | pid | remote_addr | bytes
            cart |  | /usr/bin/cart --serve | 100 | 10.0.0.9 | 9000
            shop |  | /usr/bin/shop --serve | 101 | 10.0.0.9 | 9000
            front |  | /usr/bin/front --serve | 102 | 10.0.0.9 | 9000
        "]],
    )
    .await;
}

#[tokio::test]
async fn functions_on_rows_do_what_their_names_say() {
    check(
        "df = df.head(1)\n\
         df.a = px.bin(df.resp_body_size, 300)\n\
         df.b = px.replace('[0-9]+', df.req_path, '#')\n\
         df.c = px.substring(df.req_path, 1, 4)\n\
         df.d = px.pluck(df.req_headers, 'Host')\n\
         df.e = px.select(px.contains(df.req_path, 'item'), 'yes', 'no')\n\
         df.f = px.http_resp_message(404)\n\
         df.g = px.script_reference(df.d, 'px/service', {'svc': df.d})\n\
         df.h = px.equals_any(df.resp_status, [200, 404])\n\
         df.i = px.upid_to_string(df.upid)\n\
         df.j = px.regex_match('/item/.*', df.req_path)\n\
         df.k = px.itoa(px.length(df.req_path)) + px.toupper('x')\n\
         df.l = px.vizier_name() + px._exec_hostname()\n\
         df.m = -7 % 3 + df.resp_body_size\n\
         df.n = px.round(df.resp_body_size / 3, 2)\n\
         px.display(df[['a','b','c','d','e','f','g','h','i','j','k','l','m','n']])",
        &expect![[r#"
            output: a | b | c | d | e | f | g | h | i | j | k | l | m | n
            900 | /item/#?page=# | item | shop | yes | Not Found | {"label":"shop","script":"px/service","args":{"svc":"shop"}} | true | 1:100:7 | true | 14X | labnode-1 | 999 | 333.33
        "#]],
    )
    .await;
}

#[tokio::test]
async fn what_is_cut_is_said() {
    let fixture = small();
    let script =
        "#px:set max_output_rows_per_table=5\nimport px\npx.display(px.DataFrame('http_events'))";
    let answer = fixture.run(script).await.unwrap();
    assert_eq!(answer.tables[0].rows(), 5);
    assert!(answer.tables[0].notes[0].to_string().contains("first 5 rows"));
}

#[tokio::test]
async fn functions_are_called_by_text_and_display_is_then_left_out() {
    let fixture = small();
    let script = "import px\n\
        def f(start_time: str, n: int, svc: px.Service):\n\
        \x20   df = px.DataFrame('http_events', start_time=start_time)\n\
        \x20   df.service = df.ctx['service']\n\
        \x20   return df[px.contains(df.service, svc)][['service']].head(n)\n\
        px.display(px.DataFrame('http_events'))\n";
    let call = |n: &str| FunctionCall {
        name: "f".to_owned(),
        args: [("start_time", "-1h"), ("n", n), ("svc", "car")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .to_vec(),
        output_prefix: "out".to_owned(),
    };
    let request =
        |n| Request { script: script.to_owned(), functions: vec![call(n)], ..Request::default() };
    let answer = fixture.engine.run(request("2")).await.unwrap();
    let tables: String = answer.tables.iter().map(|table| text(table, Order::AsGiven)).collect();
    assert_eq!(tables, "out: service\ncart\ncart\n");
    let error = fixture.engine.run(request("two")).await.unwrap_err();
    assert!(error.to_string().contains("`two` is not of type int"), "{error}");
}

#[tokio::test]
async fn every_built_in_script_runs() {
    let fixture = fixture(64 << 20, None);
    fixture.append(requests(0..1000));
    for frame in identities() {
        fixture.append(frame);
    }
    for script in Engine::scripts() {
        assert!(fixture.engine.check(script.text).is_empty(), "{}", script.name);
        let request = Request {
            script: script.text.to_owned(),
            plugin: Some(PluginWindow {
                start: TimeNs::new(START),
                end: TimeNs::new(START + 60 * SECOND),
            }),
            plugin_endpoint: Some(super::otel::endpoint()),
            ..Request::default()
        };
        let answer = fixture.engine.run(request).await;
        let answer = answer.unwrap_or_else(|error| panic!("{}: {error}: {error:?}", script.name));
        assert!(answer.tables.len() + answer.exports.len() > 0, "{}", script.name);
    }
}

#[tokio::test]
async fn sql_reads_the_same_rows_and_writes_nothing() {
    let fixture = small();
    let sql = "SELECT service, count(*) AS n FROM http_events WHERE resp_status >= 400 \
               GROUP BY service ORDER BY service";
    let table = fixture.engine.sql(sql).await.unwrap();
    expect![[r"
        output: service | n
        cart | 1
        front | 1
        shop | 2
    "]]
    .assert_eq(&text(&table, Order::AsGiven));
    for refused in ["CREATE TABLE t (a INT)", "DROP TABLE http_events", "SET a = 1", "SELEC 1"] {
        let error = fixture.engine.sql(refused).await.unwrap_err();
        assert!(error.to_string().starts_with("cannot run the SQL"), "{refused}: {error}");
    }
}

#[tokio::test]
async fn the_seed_of_time_is_inclusive_at_both_ends() {
    let fixture = small();
    let count = |start: i64, end: i64| {
        format!(
            "import px\ndf = px.DataFrame('http_events', start_time={start}, end_time={end})\n\
             px.display(df.agg(n=('latency', px.count)))"
        )
    };
    let step = 50_000_000;
    assert_eq!(fixture.sorted(&count(START, START + step)).await, "output: n\n2\n");
    assert_eq!(fixture.sorted(&count(START + 1, START + step - 1)).await, "output: n\n0\n");
}

#[tokio::test]
async fn rows_of_one_service_are_found_whether_they_are_listed_or_have_just_come() {
    let plain = fixture(256 << 20, None);
    plain.append(requests(0..6100));
    let listed = fixture(256 << 20, None);
    listed.append(requests(0..6000));
    listed.store.merge_hot().await.unwrap();
    listed.append(requests(6000..6100));
    // The first and last rows in time are cut off inside a chunk.
    let (from, until) = (START + 7 * SECOND + 1, START + 302 * SECOND);
    let named = "service, node, req_path, resp_status, latency";
    for (sql, rows) in [
        ("SELECT req_path FROM http_events WHERE service = 'shop'".to_owned(), 2033),
        (format!("SELECT {named}, upid FROM http_events WHERE 'cart' = service"), 2034),
        (
            format!(
                "SELECT {named} FROM http_events WHERE service = 'shop' \
                 AND time_ >= {from} AND time_ < {until} AND resp_status = 404"
            ),
            393,
        ),
        (
            format!(
                "SELECT time_, {named}, req_method, resp_body FROM http_events \
                 WHERE service = 'cart' AND time_ >= {from} ORDER BY time_ LIMIT 100"
            ),
            100,
        ),
        (format!("SELECT {named} FROM http_events WHERE service = 'nobody'"), 0),
        ("SELECT count(*) FROM http_events WHERE service = 'front'".to_owned(), 1),
    ] {
        let answers = [plain.engine.sql(&sql).await, listed.engine.sql(&sql).await];
        let [plain, listed] = answers.map(|answer| answer.unwrap());
        assert_eq!(listed.rows(), rows, "{sql}");
        assert_eq!(text(&listed, Order::Sorted), text(&plain, Order::Sorted), "{sql}");
    }
}
