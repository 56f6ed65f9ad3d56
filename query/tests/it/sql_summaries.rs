//! Aggregates of SQL over rows that are gone are those of the rows, from summaries, or say why not.

use undine_query::{Note, ResultTable, Tier};
use undine_store::Config;

use super::fixture::{Fixture, Order, SECOND, START, fixture_of, requests, text};

const ROWS: i64 = 12_000;

/// Ten minutes of requests; of the second, most rows are gone from memory.
async fn before_and_after() -> [Fixture; 2] {
    let before = fixture_of(|config| Config { hot_bytes_max: 256 << 20, ..config });
    let after = fixture_of(|config| Config { hot_bytes_max: 2 << 20, ..config });
    for from in (0..ROWS).step_by(1200) {
        before.append(requests(from..from + 1200));
        after.append(requests(from..from + 1200));
        if from + 1200 < ROWS {
            after.store.seal().await.unwrap();
        }
    }
    [before, after]
}

async fn answered(fixture: &Fixture, sql: &str) -> ResultTable {
    fixture.engine.sql(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

fn is_from_summaries(answer: &ResultTable) -> bool {
    answer.sources.iter().any(|source| matches!(source.tier, Tier::Summary { .. }))
}

fn reason(answer: &ResultTable) -> Option<&str> {
    answer.notes.iter().find_map(|note| match note {
        Note::Clipped { reason, .. } => Some(&**reason),
        _ => None,
    })
}

/// What an aggregate can ask of a table whose dimensions and measures are kept.
const KEPT: [&str; 25] = [
    "SELECT count(*) AS n FROM http_events",
    "SELECT service, count(*) AS n, sum(latency) AS s, avg(latency) AS m FROM http_events GROUP BY service",
    "SELECT min(latency), max(latency), min(time_), max(time_) FROM http_events",
    "SELECT bin(time_, 60000000000) AS t, count(1) FROM http_events GROUP BY t",
    "SELECT time_ / 60000000000 AS minute, max(resp_body_size) FROM http_events GROUP BY 1",
    "SELECT date_trunc('minute', to_timestamp_nanos(time_)) AS t, count(*) FROM http_events GROUP BY 1",
    "SELECT date_bin(INTERVAL '2 minutes', to_timestamp_nanos(time_)) AS t, count(*) FROM http_events GROUP BY 1",
    "SELECT service, sum(CASE WHEN resp_status >= 400 THEN 1 ELSE 0 END) AS bad FROM http_events GROUP BY service",
    "SELECT count(*) FILTER (WHERE resp_status >= 500) AS bad, sum(latency) FILTER (WHERE service = 'none') AS none FROM http_events",
    "SELECT count(CASE WHEN service LIKE 'c%' THEN latency END) AS n, avg(latency) FILTER (WHERE service IN ('cart', 'shop')) AS m FROM http_events",
    "SELECT service, round(sum(latency / 1e6 + 2 * resp_body_size)) AS s FROM http_events WHERE resp_status BETWEEN 200 AND 299 GROUP BY service",
    "SELECT upper(service) AS s, resp_status / 100 AS class, max(latency) * 2 AS m FROM http_events GROUP BY 1, 2",
    "SELECT req_path_template, count(req_body) AS n FROM http_events GROUP BY 1",
    "SELECT count(*) AS n FROM http_events WHERE time_ >= 1700000100000000000 AND time_ < 1700000100000000000 + 120000000000",
    "SELECT service, quantiles(latency) AS q FROM http_events GROUP BY service",
    "SELECT round(quantile_of(sketch(latency), 0.9)) AS p90 FROM http_events",
    "SELECT DISTINCT service, req_method FROM http_events",
    "SELECT service FROM http_events GROUP BY service HAVING count(*) > 10 ORDER BY max(latency) DESC, service LIMIT 2",
    "WITH slow AS (SELECT service AS s, latency / 1000 AS us, latency FROM http_events WHERE resp_status <> 404) \
     SELECT s, count(*) AS n, max(latency) AS worst FROM slow WHERE s <> 'front' GROUP BY s",
    "SELECT max(n) AS most FROM (SELECT service, count(*) AS n FROM http_events GROUP BY service) AS per",
    "SELECT a.service, a.n, b.m FROM (SELECT service, count(*) AS n FROM http_events GROUP BY service) AS a \
     JOIN (SELECT service, max(latency) AS m FROM http_events GROUP BY service) AS b ON a.service = b.service",
    "SELECT service, count(DISTINCT req_method) AS m, count(*) AS n, quantiles(latency) AS q, count(DISTINCT resp_status / 100) AS c \
     FROM http_events GROUP BY service",
    "SELECT count(DISTINCT service) FILTER (WHERE resp_status >= 500) AS failing, count(DISTINCT service) FILTER (WHERE service = 'none') AS none \
     FROM http_events",
    "SELECT bin(time_, 60000000000) AS t, count(DISTINCT service) AS n FROM http_events GROUP BY t",
    "SELECT (SELECT count(*) FROM http_events) AS n, (SELECT max(latency) FROM http_events) AS m",
];

#[tokio::test]
async fn an_aggregate_is_the_same_once_its_rows_are_gone() {
    let [before, after] = before_and_after().await;
    for sql in KEPT {
        let (live, aged) = (answered(&before, sql).await, answered(&after, sql).await);
        assert!(!is_from_summaries(&live), "{sql}");
        assert!(is_from_summaries(&aged), "{sql}: {:?}", aged.notes);
        assert_eq!(reason(&aged), None, "{sql}");
        assert_eq!(text(&aged, Order::Sorted), text(&live, Order::Sorted), "{sql}");
        assert_eq!(aged.schema.fields().len(), live.schema.fields().len(), "{sql}");
        for (aged, live) in aged.schema.fields().iter().zip(live.schema.fields()) {
            assert_eq!((aged.name(), aged.data_type()), (live.name(), live.data_type()), "{sql}");
        }
    }
}

#[tokio::test]
async fn a_quantile_of_the_engines_own_kind_is_within_a_hundredth() {
    let [before, after] = before_and_after().await;
    let sql = "SELECT approx_percentile_cont(latency, 0.9) AS p90, approx_median(latency) AS p50 FROM http_events";
    let shares = async |fixture: &Fixture| {
        let answer = answered(fixture, sql).await;
        assert!(!answer.exact);
        let batch = &answer.batches[0];
        [0, 1].map(|column| {
            let column =
                arrow::compute::cast(batch.column(column), &arrow::datatypes::DataType::Float64);
            let column = column.unwrap();
            arrow::array::AsArray::as_primitive::<arrow::datatypes::Float64Type>(&column).value(0)
        })
    };
    let (live, aged) = (shares(&before).await, shares(&after).await);
    for (live, aged) in live.into_iter().zip(aged) {
        assert!((live - aged).abs() <= 0.01 * live, "{live} {aged}");
    }
}

#[tokio::test]
async fn what_summaries_do_not_keep_is_asked_of_rows_and_told_with_its_reason() {
    let [_, after] = before_and_after().await;
    for (sql, why) in [
        ("SELECT remote_port, count(*) FROM http_events GROUP BY 1", "remote_port row by row"),
        ("SELECT count(DISTINCT remote_port) FROM http_events", "remote_port row by row"),
        ("SELECT sum(DISTINCT resp_status) FROM http_events", "distinct values"),
        ("SELECT count(*) FROM http_events WHERE latency > 5000000", "latency row by row"),
        ("SELECT sum(latency * resp_body_size) FROM http_events", "the sum of `"),
        ("SELECT stddev(latency) FROM http_events", "what `stddev` needs"),
        ("SELECT quantiles(latency * 2) FROM http_events", "quantiles of `"),
        ("SELECT count(*) FROM http_events WHERE req_path = '/item/7'", "which req_path"),
        (
            "SELECT count(*) FROM http_events WHERE service IN (SELECT service FROM http_events)",
            "of single rows",
        ),
        ("SELECT time_ FROM http_events", "single rows"),
        (
            "SELECT service, random() > 2 AS r, count(*) FROM http_events GROUP BY 1, 2",
            "of single rows",
        ),
    ] {
        let answer = answered(&after, sql).await;
        let told = reason(&answer).unwrap_or_else(|| panic!("{sql}: {:?}", answer.notes));
        assert!(told.contains(why), "{sql}: {told}");
    }
}

#[tokio::test]
async fn a_path_is_its_template_and_the_answer_says_so() {
    let [_, after] = before_and_after().await;
    let sql = "SELECT req_path, count(*) AS n FROM http_events WHERE req_path LIKE '/item/%' GROUP BY req_path";
    let answer = answered(&after, sql).await;
    assert_eq!(text(&answer, Order::Sorted), format!("output: req_path | n\n/item/* | {ROWS}\n"));
    let is_it = |note: &Note| matches!(note, Note::Templated { column: "req_path", .. });
    assert!(answer.notes.iter().any(is_it), "{:?}", answer.notes);
}

#[tokio::test]
async fn bins_that_no_window_fits_are_refused_with_the_width_to_use() {
    let [_, after] = before_and_after().await;
    let sql = "SELECT bin(time_, 3000000000) AS t, count(*) FROM http_events \
               WHERE time_ >= 1700000040000000000 GROUP BY t";
    let error = after.engine.sql(sql).await.unwrap_err().to_string();
    assert!(error.contains("bins of 3s do not fit"), "{error}");
    assert!(error.contains("use `bin(time_, 10000000000)`"), "{error}");
}

#[tokio::test]
async fn strictly_rows_that_are_gone_are_an_error_and_summaries_are_not() {
    let [_, after] = before_and_after().await;
    let since =
        |seconds: i64| format!("FROM http_events WHERE time_ >= {}", START + seconds * SECOND);
    let rows = format!("SELECT latency {}", since(0));
    let error = after.engine.sql_strictly(&rows).await.unwrap_err().to_string();
    assert!(error.contains("without strict"), "{error}");
    for sql in [format!("SELECT latency {}", since(595)), format!("SELECT count(*) {}", since(0))] {
        after.engine.sql_strictly(&sql).await.unwrap();
    }
}

#[tokio::test]
async fn explain_names_the_summary_in_place_of_rows() {
    let [_, after] = before_and_after().await;
    let explained = answered(&after, "EXPLAIN SELECT count(*) FROM http_events").await;
    let told = text(&explained, Order::Sorted);
    assert!(told.contains("reads | http_events 1"), "{told}");
}
