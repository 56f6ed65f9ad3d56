//! Every route as a client sees it, over a real engine and store.

mod fixture;

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use self::fixture::{Fixture, Told};

const NEWEST: &str = "import px\n\
     df = px.DataFrame('http_events', start_time='-5m')\n\
     df.service = df.ctx['service']\n\
     px.display(df[['time_', 'upid', 'service', 'req_path', 'resp_status', 'latency']], 'newest')\n";

async fn run(fixture: &Fixture, address: &str, script: &str) -> Told {
    fixture.post(address, "text/plain", script).await
}

fn assert_problem(told: &Told, status: StatusCode, code: &str) -> Value {
    assert_eq!(told.status, status, "{}", told.text());
    assert_eq!(told.header("content-type"), "application/problem+json");
    let problem = told.json();
    assert_eq!(problem["code"], code, "{problem}");
    assert_eq!(problem["status"], status.as_u16());
    assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
    assert_eq!(problem["id"].as_str().map(str::len), Some(26), "{problem}");
    problem
}

#[tokio::test]
async fn a_script_answers_with_typed_columns_rows_and_where_they_came_from() {
    let fixture = Fixture::with_requests(3);
    let told = run(&fixture, "/api/v1/pxl:run", NEWEST).await;
    assert_eq!(told.status, StatusCode::OK, "{}", told.text());
    assert_eq!(told.header("content-type"), "application/json");
    assert_eq!(told.header("cache-control"), "no-store");
    let answer = told.json();
    let table = &answer["tables"][0];
    assert_eq!(table["name"], "newest");
    let time = json!({"name": "time_", "type": "TIME64NS", "semantic": "ST_TIME_NS"});
    assert_eq!(table["columns"][0], time);
    assert_eq!(table["columns"][1]["type"], "UINT128");
    assert_eq!(table["columns"][5]["semantic"], "ST_DURATION_NS");
    assert_eq!(table["row_count"], 3);
    assert_eq!(table["truncated"], false);
    assert_eq!(table["rows"][0][0], fixture.first_time_ns());
    assert_eq!(table["rows"][0][1], "00000001-0000-002a-0000-000000000007");
    assert_eq!(table["rows"][0][2], "cart");
    assert_eq!(table["rows"][2][4], 503);
    assert_eq!(table["sources"][0]["kind"], "live", "{table}");
    assert_eq!(table["sources"][0]["table"], "http_events");
    assert_eq!(answer["exports"], json!([]));
}

#[tokio::test]
async fn a_limit_cuts_rows_and_says_so() {
    let fixture = Fixture::with_requests(3);
    let answer = run(&fixture, "/api/v1/pxl:run?limit=2", NEWEST).await.json();
    let table = &answer["tables"][0];
    assert_eq!(table["rows"].as_array().map(Vec::len), Some(2));
    assert_eq!(table["row_count"], 3);
    assert_eq!(table["truncated"], true);
}

#[tokio::test]
async fn every_format_holds_the_same_rows() {
    let fixture = Fixture::with_requests(3);
    let told = run(&fixture, "/api/v1/pxl:run?format=csv", NEWEST).await;
    assert_eq!(told.header("content-type"), "text/csv; charset=utf-8; header=present");
    let text = told.text();
    let lines: Vec<_> = text.split("\r\n").collect();
    assert_eq!(lines[0], "time_,upid,service,req_path,resp_status,latency");
    assert_eq!(lines.len(), 5, "header, three rows, and nothing after the last end of line");
    assert!(lines[1].starts_with(&fixture.first_time_ns().to_string()), "{text}");
    let provenance: Value = serde_json::from_str(&told.header("undine-provenance")).unwrap();
    assert_eq!(provenance[0]["sources"][0]["kind"], "live");

    let told = run(&fixture, "/api/v1/pxl:run?format=ndjson", NEWEST).await;
    let rows: Vec<Value> =
        told.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[1]["_table"], "newest");
    assert_eq!(rows[1]["latency"], 2_000_000);

    let told = fixture
        .send(
            Method::POST,
            "/api/v1/pxl:run",
            NEWEST,
            &[("accept", "application/vnd.apache.arrow.stream")],
        )
        .await;
    let reader = arrow::ipc::reader::StreamReader::try_new(told.body.as_slice(), None).unwrap();
    let field = reader.schema().field(5).clone();
    assert_eq!(field.metadata()["pxl.semantic"], "ST_DURATION_NS");
    assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 3);
}

#[tokio::test]
async fn one_of_several_tables_can_be_picked() {
    let fixture = Fixture::with_requests(2);
    let script = "import px\n\
         df = px.DataFrame('http_events', start_time='-5m')\n\
         px.display(df[['latency']], 'a')\n\
         px.display(df[['req_path']], 'b')\n";
    let first = run(&fixture, "/api/v1/pxl:run?format=csv", script).await;
    assert!(first.text().starts_with("latency\r\n"), "{}", first.text());
    assert_eq!(first.header("undine-tables"), r#"["a","b"]"#);
    let second = run(&fixture, "/api/v1/pxl:run?format=csv&table=b", script).await;
    assert!(second.text().starts_with("req_path\r\n"), "{}", second.text());
    let none = run(&fixture, "/api/v1/pxl:run?format=csv&table=c", script).await;
    let problem = assert_problem(&none, StatusCode::NOT_FOUND, "unknown_table");
    assert_eq!(problem["hint"], "it has: a, b");
}

#[tokio::test]
async fn a_mistake_is_placed_drawn_and_comes_with_a_remedy() {
    let fixture = Fixture::with_requests(1);
    let script = "import px\ndf = px.DataFrame('http_evnts')\npx.display(df)\n";
    let told = run(&fixture, "/api/v1/pxl:run", script).await;
    let problem = assert_problem(&told, StatusCode::BAD_REQUEST, "script_error");
    let diagnostic = &problem["diagnostics"][0];
    assert_eq!(diagnostic["line"], 2, "{problem}");
    assert!(diagnostic["help"].as_str().unwrap().contains("http_events"), "{problem}");
    assert!(problem["rendered"].as_str().unwrap().contains('^'), "{problem}");

    let told = run(&fixture, "/api/v1/pxl:check", script).await;
    let checked = told.json();
    assert_eq!((told.status, &checked["ok"]), (StatusCode::OK, &json!(false)));
    assert_eq!(checked["diagnostics"][0]["line"], 2);
    let good = run(&fixture, "/api/v1/pxl:check", NEWEST).await.json();
    assert_eq!(good, json!({"ok": true, "diagnostics": []}));
}

#[tokio::test]
async fn bodies_that_cannot_be_understood_are_refused_one_by_one() {
    let fixture = Fixture::with_requests(1);
    let cases = [
        ("application/json", "{\"script\": ", StatusCode::BAD_REQUEST, "invalid_json"),
        ("application/json", "{\"scrpt\": \"\"}", StatusCode::BAD_REQUEST, "invalid_json"),
        ("application/json", "{}", StatusCode::BAD_REQUEST, "no_script"),
        ("text/plain", "", StatusCode::BAD_REQUEST, "no_script"),
        ("image/png", "x", StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
    ];
    for (kind, body, status, code) in cases {
        let told = fixture.post("/api/v1/pxl:run", kind, body).await;
        assert_problem(&told, status, code);
    }
    let long = "#".repeat(fixture::BODY_BYTES_MAX + 1);
    let told = fixture.post("/api/v1/pxl:run", "text/plain", &long).await;
    assert_problem(&told, StatusCode::PAYLOAD_TOO_LARGE, "body_too_large");
    assert!(fixture.metrics().await.contains("refusals_total{reason=\"body_size\"} 1\n"));
    let told = fixture.post("/api/v1/pxl:run?formt=csv", "text/plain", NEWEST).await;
    assert_problem(&told, StatusCode::BAD_REQUEST, "invalid_parameters");
    let told = fixture.post("/api/v1/pxl:run?format=xml", "text/plain", NEWEST).await;
    assert_problem(&told, StatusCode::BAD_REQUEST, "unknown_format");
    let told =
        fixture.send(Method::POST, "/api/v1/pxl:run", NEWEST, &[("accept", "image/png")]).await;
    assert_problem(&told, StatusCode::NOT_ACCEPTABLE, "not_acceptable");
}

#[tokio::test]
async fn a_script_may_come_as_json_with_functions_to_call() {
    let fixture = Fixture::with_requests(3);
    let script = "import px\n\
         def newest(rows: int):\n\
         \x20   df = px.DataFrame('http_events', start_time='-5m')\n\
         \x20   return df.head(rows)\n";
    let body = json!({
        "script": script,
        "functions": [{"name": "newest", "args": {"rows": 2}, "output": "few"}],
    });
    let told = fixture.post("/api/v1/pxl:run", "application/json", &body.to_string()).await;
    assert_eq!(told.status, StatusCode::OK, "{}", told.text());
    assert_eq!(told.json()["tables"][0]["row_count"], 2);
}

#[tokio::test]
async fn a_view_says_which_functions_of_a_script_are_called() {
    let fixture = Fixture::with_requests(3);
    let script = "import px\n\
         def slow(start: str, least: int):\n    \
             df = px.DataFrame('http_events', start_time=start)\n    \
             return df[df.latency >= least]\n";
    let vis = json!({
        "variables": [{"name": "least", "type": "PX_INT64", "defaultValue": "0"}],
        "widgets": [{"name": "Slow", "func": {"name": "slow", "args": [
            {"name": "start", "value": "-5m"}, {"name": "least", "variable": "least"}]}}],
    });
    let ask = async |args: Value| {
        let body = json!({"script": script, "vis": vis, "args": args}).to_string();
        fixture.post("/api/v1/pxl:run", "application/json", &body).await
    };
    let all = ask(json!({})).await.json();
    assert_eq!(all["tables"][0]["name"], "Slow", "{all}");
    assert_eq!(all["tables"][0]["row_count"], 3);
    let none = ask(json!({"least": 3_600_000_000_000_i64})).await.json();
    assert_eq!(none["tables"][0]["row_count"], 0);
    let problem =
        assert_problem(&ask(json!({"lest": 1})).await, StatusCode::BAD_REQUEST, "vis_error");
    assert!(problem["detail"].as_str().is_some_and(|d| d.contains("did you mean `least`?")));
}

#[tokio::test]
async fn a_script_that_comes_along_runs_by_its_name() {
    let fixture = Fixture::with_requests(2);
    let scripts = fixture.get("/api/v1/scripts").await.json();
    let names: Vec<_> = scripts["scripts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|script| script["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(names.iter().any(|name| name == "undine/http_stats"), "{names:?}");
    let told = run(&fixture, "/api/v1/pxl:run?name=undine/http_stats", "").await;
    assert_eq!(told.status, StatusCode::OK, "{}", told.text());
    assert!(told.json()["tables"][0]["row_count"].as_u64().unwrap() > 0);
    let told = run(&fixture, "/api/v1/pxl:run?name=undine/none", "").await;
    assert_problem(&told, StatusCode::NOT_FOUND, "unknown_script");
    let told = run(&fixture, "/api/v1/pxl:run?name=undine/http_stats", NEWEST).await;
    assert_problem(&told, StatusCode::BAD_REQUEST, "two_scripts");
}

#[tokio::test]
async fn sql_answers_and_its_mistakes_are_told() {
    let fixture = Fixture::with_requests(3);
    let sql = "SELECT service, count(*) AS n FROM http_events GROUP BY service";
    let told = fixture.post("/api/v1/sql?format=csv", "text/plain", sql).await;
    assert_eq!(told.text(), "service,n\r\ncart,3\r\n");
    let body = json!({"sql": sql}).to_string();
    let told = fixture.post("/api/v1/sql", "application/json", &body).await;
    assert_eq!(told.json()["tables"][0]["rows"], json!([["cart", 3]]));
    let told = fixture.post("/api/v1/sql", "text/plain", "SELECT FROM WHERE").await;
    assert_problem(&told, StatusCode::BAD_REQUEST, "sql_error");
    let told = fixture.post("/api/v1/sql", "text/plain", "SELECT * FROM nowhere").await;
    let problem = assert_problem(&told, StatusCode::BAD_REQUEST, "sql_error");
    assert!(problem["detail"].as_str().unwrap().contains("nowhere"), "{problem}");
    let told = fixture.post("/api/v1/sql", "text/plain", " ").await;
    assert_problem(&told, StatusCode::BAD_REQUEST, "no_sql");
}

#[tokio::test]
async fn tables_are_listed_with_what_their_columns_mean_and_what_is_kept() {
    let fixture = Fixture::with_requests(3);
    let tables = fixture.get("/api/v1/tables").await.json();
    let tables = tables["tables"].as_array().unwrap();
    assert_eq!(tables.len(), undine_schema::tables::readable().count());
    let events = tables.iter().find(|table| table["name"] == "http_events").unwrap();
    assert_eq!(events["kind"], "event");
    assert_eq!(events["rows"]["hot"], 3);
    let column = |name| {
        events["columns"].as_array().unwrap().iter().find(|column| column["name"] == name).unwrap()
    };
    assert_eq!(column("latency")["role"], "sketched");
    assert_eq!(column("req_body")["class"], "body");
    assert_eq!(column("service")["visibility"], "context");
    assert_eq!(column("req_path_template")["template_of"], "req_path");
}

#[tokio::test]
async fn incidents_are_told_with_their_changes_open_ones_first() {
    let fixture = Fixture::with_requests(0);
    fixture.put_incident("a", "open", 10);
    fixture.put_incident("b", "open", 20);
    fixture.put_incident("a", "resolved", 30);
    let told = fixture.get("/api/v1/incidents").await;
    assert_eq!(told.status, StatusCode::OK, "{}", told.text());
    let answer = told.json();
    assert_eq!(answer["incidents"][0]["incident_id"], "b");
    assert_eq!(answer["incidents"][1]["state"], "resolved");
    assert_eq!(answer["incidents"][1]["history"].as_array().map(Vec::len), Some(2));
    assert_eq!(answer["incidents"][1]["contributions"][0]["feature"], "latency_p99");
    let open = fixture.get("/api/v1/incidents?state=open").await.json();
    assert_eq!(open["incidents"].as_array().map(Vec::len), Some(1));
    let since = fixture.time_ns(25);
    let late = fixture.get(&format!("/api/v1/incidents?since={since}")).await.json();
    assert_eq!(late["incidents"][0]["incident_id"], "a");
    assert_eq!(late["incidents"].as_array().map(Vec::len), Some(1));
    let told = fixture.get("/api/v1/incidents?since=yesterday").await;
    assert_problem(&told, StatusCode::BAD_REQUEST, "invalid_time");
    let told = fixture.get("/api/v1/incidents?state=bad").await;
    assert_problem(&told, StatusCode::BAD_REQUEST, "invalid_state");
}

#[tokio::test]
async fn an_export_is_delivered_before_the_answer_or_the_request_fails() {
    let fixture = Fixture::with_requests(3);
    let receiver = fixture.receiver();
    let script = |url: &str| {
        format!(
            "import px\n\
             df = px.DataFrame('http_events', start_time='-5m')\n\
             df.service = df.ctx['service']\n\
             df = df.groupby('service').agg(time_=('time_', px.max), n=('latency', px.count))\n\
             px.export(df, px.otel.Data(\n\
             \x20   endpoint=px.otel.Endpoint(url='{url}', insecure=True),\n\
             \x20   resource={{'service.name': df.service}},\n\
             \x20   data=[px.otel.metric.Gauge(name='http.requests', value=df.n)]))\n"
        )
    };
    let url = receiver.address.to_string();
    let told = run(&fixture, "/api/v1/pxl:run", &script(&url)).await;
    assert_eq!(told.status, StatusCode::OK, "{}", told.text());
    let exported = &told.json()["exports"][0];
    assert_eq!((&exported["points"], &exported["rows"]), (&json!(1), &json!(1)));
    assert!(exported["endpoint"].as_str().unwrap().contains(&url), "{exported}");
    assert_eq!(receiver.accepted_rows(), 1);
    receiver.stop().await;

    let told = run(&fixture, "/api/v1/pxl:run", &script(&url)).await;
    let problem = assert_problem(&told, StatusCode::BAD_GATEWAY, "export_failed");
    assert!(problem["detail"].as_str().unwrap().contains(&url), "{problem}");
}

#[tokio::test]
async fn readiness_follows_the_checks_and_says_which_fails() {
    let fixture = Fixture::with_requests(0);
    let ready = fixture.get("/readyz").await;
    assert_eq!((ready.status, ready.text().as_str()), (StatusCode::OK, "ok\n"));
    fixture.fail_check("store", "the disk is full; free some room");
    let told = fixture.get("/readyz").await;
    assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(told.text(), "store: the disk is full; free some room\n");
    let told = fixture.get("/readyz?verbose").await;
    assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
    let check = json!({"name": "store", "ok": false, "detail": "the disk is full; free some room"});
    assert_eq!(told.json()["checks"][0], check);
    assert_eq!(fixture.get("/healthz").await.status, StatusCode::OK);
    assert_eq!(fixture.get("/livez").await.status, StatusCode::OK);
}

#[tokio::test]
async fn metrics_hold_the_appliances_and_the_servers_own() {
    let fixture = Fixture::with_requests(0);
    fixture.get("/api/v1/tables").await;
    let text = fixture.metrics().await;
    assert!(text.contains("undine_test_rows_total 7\n"), "{text}");
    let line = "undine_api_answers_total{route=\"catalog\",class=\"ok\"} 1\n";
    assert!(text.contains(line), "{text}");
    for metric in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        assert!(metric.starts_with("undine_"), "{metric}");
    }
}

#[tokio::test]
async fn prometheus_paths_and_unknown_ones_are_free() {
    let fixture = Fixture::with_requests(0);
    for path in ["/api/v1/query", "/api/v1/query_range", "/nothing", "/assets/nothing.js"] {
        assert_problem(&fixture.get(path).await, StatusCode::NOT_FOUND, "not_found");
    }
    let told = fixture.get("/api/v1/pxl:run").await;
    assert_problem(&told, StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
    assert_eq!(told.header("allow"), "POST");
}

#[tokio::test]
async fn the_api_document_names_exactly_the_routes_that_there_are() {
    let fixture = Fixture::with_requests(0);
    let document = fixture.get("/api/v1/openapi.json").await.json();
    let mut named = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            named.push(format!("{method} {path}"));
            let told = fixture.send(method, path, "", &[]).await;
            assert_ne!(told.status, StatusCode::NOT_FOUND, "{path}");
            assert_ne!(told.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        }
    }
    named.sort();
    expect_test::expect![[r"
        GET /api/v1/incidents
        GET /api/v1/openapi.json
        GET /api/v1/scripts
        GET /api/v1/tables
        GET /healthz
        GET /livez
        GET /metrics
        GET /readyz
        POST /api/v1/pxl:check
        POST /api/v1/pxl:run
        POST /api/v1/sql"]]
    .assert_eq(&named.join("\n"));
    let source = include_str!("../http.rs");
    let routes = source.matches(".route(\"/").count();
    let of_the_page = 2;
    assert_eq!(routes, named.len() + of_the_page, "a route is missing from openapi.json");
}

#[tokio::test]
async fn the_page_comes_with_a_strict_policy_and_is_not_sent_twice() {
    let fixture = Fixture::with_requests(0);
    let page = fixture.get("/").await;
    assert_eq!(page.status, StatusCode::OK);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let script = fixture.get("/assets/main.js").await;
    assert_eq!(script.header("content-type"), "text/javascript; charset=utf-8");
    let etag = script.header("etag");
    let again = fixture.send(Method::GET, "/assets/main.js", "", &[("if-none-match", &etag)]).await;
    assert_eq!((again.status, again.body.len()), (StatusCode::NOT_MODIFIED, 0));
}

#[tokio::test]
async fn another_sites_page_reaches_nothing() {
    let fixture = Fixture::with_requests(1);
    let told = fixture
        .send(Method::POST, "/api/v1/pxl:run", NEWEST, &[("origin", "https://evil.example")])
        .await;
    assert_problem(&told, StatusCode::FORBIDDEN, "origin_refused");
    let told =
        fixture.send(Method::GET, "/api/v1/incidents", "", &[("host", "evil.example")]).await;
    assert_problem(&told, StatusCode::MISDIRECTED_REQUEST, "host_refused");
    let text = fixture.metrics().await;
    assert!(text.contains("undine_api_refusals_total{reason=\"origin\"} 1\n"), "{text}");
    assert!(text.contains("undine_api_refusals_total{reason=\"host\"} 1\n"), "{text}");
}

#[tokio::test]
async fn a_full_server_tells_when_to_come_back() {
    let fixture = Fixture::with_requests(1);
    let _running = fixture.occupy();
    let told = run(&fixture, "/api/v1/pxl:run", NEWEST).await;
    assert_problem(&told, StatusCode::SERVICE_UNAVAILABLE, "too_many_queries");
    assert_eq!(told.header("retry-after"), "1");
    assert_eq!(fixture.get("/healthz").await.status, StatusCode::OK);
    assert!(fixture.metrics().await.contains("refusals_total{reason=\"queries\"} 1\n"));
}

#[tokio::test]
async fn a_request_beyond_its_time_is_stopped() {
    let fixture = Fixture::with_limits(|config| config.request_timeout = std::time::Duration::ZERO);
    let _busy = fixture.occupy();
    let told = run(&fixture, "/api/v1/pxl:run", NEWEST).await;
    assert_problem(&told, StatusCode::GATEWAY_TIMEOUT, "timeout");
    assert!(fixture.metrics().await.contains("refusals_total{reason=\"timeout\"} 1\n"));
}

#[tokio::test]
async fn an_answer_beyond_its_size_is_refused_with_a_remedy() {
    let fixture = Fixture::with_limits(|config| config.answer_bytes_max = 100);
    for format in ["json", "ndjson", "csv", "arrow"] {
        let told = run(&fixture, &format!("/api/v1/pxl:run?format={format}"), NEWEST).await;
        let problem = assert_problem(&told, StatusCode::PAYLOAD_TOO_LARGE, "answer_too_large");
        assert!(problem["hint"].as_str().unwrap().contains("head"), "{problem}");
    }
}
