//! The same script over memory, over summaries and over both.

use std::time::Duration;

use undine_query::{Error, Note, Request, Tier};
use undine_schema::Upid;
use undine_schema::tables::HTTP_EVENTS;

use super::fixture::{Fixture, SECOND, START, fixture, identities, requests, requests_with_noise};

const ROWS: i64 = 12_000;

/// Everything in memory.
fn in_memory() -> Fixture {
    let fixture = fixture(256 << 20, None);
    fixture.append(requests(0..ROWS));
    for frame in identities() {
        fixture.append(frame);
    }
    fixture
}

/// Most of it sealed, and gone from memory; the last rows in memory only.
async fn spread(raw_for: Option<Duration>) -> Fixture {
    let fixture = fixture(2 << 20, raw_for);
    for frame in identities() {
        fixture.append(frame);
    }
    for from in (0..ROWS).step_by(1000) {
        fixture.append(requests(from..from + 1000));
        if from + 1000 < ROWS {
            fixture.store.seal().await.unwrap();
        }
    }
    let snapshot = fixture.store.snapshot(&HTTP_EVENTS);
    assert!(snapshot.hot_complete_from.get() > START, "the oldest rows are gone from memory");
    fixture
}

fn script(body: &str) -> String {
    format!(
        "import px\n\
         df = px.DataFrame('http_events', start_time={START})\n\
         df.service = df.ctx['service']\n\
         df.failure = df.resp_status >= 400\n\
         {body}\n\
         px.display(df)"
    )
}

/// Aggregates that summaries can answer, with whole windows as their range.
const REWRITABLE: [&str; 9] = [
    "df = df.groupby('service').agg(n=('latency', px.count), f=('failure', px.mean), \
     s=('latency', px.sum), m=('latency', px.mean), q=('latency', px.quantiles))",
    "df = df.agg(n=('latency', px.count), a=('time_', px.min), b=('time_', px.max))",
    "df = df[df.trace_role == 2 and df.resp_status != 500]\n\
     df.t = px.bin(df.time_, px.seconds(20))\n\
     df = df.groupby(['t', 'service']).agg(n=('latency', px.count), q=('latency', px.quantiles))",
    "df = df.groupby(['req_method', 'resp_status']).agg()",
    "df.bytes = px.select(df.trace_role == 2, df.resp_body_size, df.req_body_size)\n\
     df = df.groupby('service').agg(b=('bytes', px.sum), lo=('bytes', px.min), \
     hi=('bytes', px.max), f=('failure', px.sum))",
    "df.both = df.req_body_size + 2 * df.resp_body_size - 1\n\
     df.kind = px.select(df.failure, 'bad', df.req_method)\n\
     df = df.groupby('kind').agg(b=('both', px.sum), m=('both', px.mean))",
    "df.endpoint = df.ctx['req_path_template']\n\
     df = df[px.contains(df.endpoint, 'item')]\n\
     df = df.groupby(['service', 'endpoint']).agg(n=('latency', px.count), hi=('latency', px.max))",
    "df = df.groupby('service').agg(n=('latency', px.count))\n\
     df = df[df.service != 'cart']\n\
     df = df.agg(total=('n', px.sum))",
    "df = df.groupby('service').agg(n=('latency', px.count))\n\
     df = df.merge(df, how='inner', left_on='service', right_on='service')",
];

#[tokio::test]
async fn summaries_and_memory_give_the_same_answer_to_the_last_bit() {
    let (whole, spread) = (in_memory(), spread(None).await);
    for body in REWRITABLE {
        let script = script(body);
        let answer = spread.run(&script).await.unwrap_or_else(|e| panic!("{body}: {e}: {e:?}"));
        let summarised =
            answer.tables[0].sources.iter().any(|s| matches!(s.tier, Tier::Summary { .. }));
        assert!(summarised, "{body}: {:?}", answer.tables[0].notes);
        assert_eq!(spread.sorted(&script).await, whole.sorted(&script).await, "{body}");
    }
}

#[tokio::test]
async fn an_answer_stays_the_same_through_a_seal() {
    let spread = spread(None).await;
    for body in REWRITABLE {
        let script = script(body);
        let before = spread.sorted(&script).await;
        spread.store.seal().await.unwrap();
        assert_eq!(spread.sorted(&script).await, before, "{body}");
    }
}

#[tokio::test]
async fn single_rows_are_read_from_disk_where_they_are_kept() {
    let (whole, spread) = (in_memory(), spread(Some(Duration::from_hours(24))).await);
    for body in [
        "df = df[df.latency > 11000000][['time_', 'req_path', 'latency', 'upid', 'service']]",
        "df = df.groupby('remote_port').agg(n=('latency', px.count), q=('latency', px.quantiles))",
    ] {
        let script = script(body);
        let answer = spread.run(&script).await.unwrap();
        let tiers: Vec<Tier> = answer.tables[0].sources.iter().map(|source| source.tier).collect();
        assert!(tiers.contains(&Tier::Raw), "{body}: {tiers:?}");
        assert_eq!(spread.sorted(&script).await, whole.sorted(&script).await, "{body}");
    }
    let sql = "SELECT count(*) AS n, sum(latency) AS s FROM http_events";
    let text = |table| super::fixture::text(&table, super::fixture::Order::Sorted);
    let (a, b) = (whole.engine.sql(sql).await.unwrap(), spread.engine.sql(sql).await.unwrap());
    assert_eq!(text(a), text(b));
}

#[tokio::test]
async fn a_segment_that_two_cores_share_is_read_once() {
    let fixture = fixture(4 << 20, Some(Duration::from_hours(24)));
    fixture.append(requests_with_noise(0..4000));
    fixture.store.seal().await.unwrap();
    let raw = fixture.store.snapshot(&HTTP_EVENTS).raw.unwrap();
    let [large] = &raw.segments[..] else { panic!("{:?}", raw.segments) };
    assert!(large.bytes > 600 << 10, "{large:?}");
    for from in (4000..ROWS).step_by(1000) {
        fixture.append(requests(from..from + 1000));
        fixture.store.seal().await.unwrap();
    }
    let in_memory_from = fixture.store.snapshot(&HTTP_EVENTS).hot_complete_from.get();
    assert!(in_memory_from >= START + 4000 * 50_000_000, "{in_memory_from}");
    let engine = fixture.engine_of_cores(2);
    let explained = engine.sql("EXPLAIN SELECT sum(latency) FROM http_events").await.unwrap();
    let explained = super::fixture::text(&explained, super::fixture::Order::Sorted);
    assert!(explained.contains("file_groups={2 groups"), "{explained}");
    assert_eq!(explained.matches(large.path.filename().unwrap()).count(), 2, "{explained}");
    for sql in [
        "SELECT count(*) AS n, sum(latency) AS s, min(time_) AS a, max(time_) AS b FROM http_events",
        "SELECT service, req_path, count(*) AS n FROM http_events WHERE latency > 9000000 GROUP BY 1, 2",
        "SELECT time_ FROM http_events WHERE service = 'cart' AND resp_status = 404",
    ] {
        let text = |table| super::fixture::text(&table, super::fixture::Order::Sorted);
        let (one, two) = (fixture.engine.sql(sql).await.unwrap(), engine.sql(sql).await.unwrap());
        assert_eq!(text(two), text(one), "{sql}");
    }
}

#[tokio::test]
async fn segments_without_the_process_that_is_asked_for_are_passed_by() {
    let spread = spread(Some(Duration::from_hours(24))).await;
    let upid = |pid: u32| format!("{:032x}", u128::from_be_bytes(*Upid::new(1, pid, 7).as_bytes()));
    for (pid, count) in [(101, ROWS / 3), (999, 0)] {
        let sql = format!("SELECT count(*) AS n FROM http_events WHERE upid = X'{}'", upid(pid));
        let answer = spread.engine.sql(&sql).await.unwrap();
        let text = super::fixture::text(&answer, super::fixture::Order::Sorted);
        assert_eq!(text, format!("output: n\n{count}\n"));
        let explained = spread.engine.sql(&format!("EXPLAIN ANALYZE {sql}")).await.unwrap();
        let explained = super::fixture::text(&explained, super::fixture::Order::Sorted);
        let (_, pruned) = explained.split_once("row_groups_pruned_bloom_filter=").unwrap();
        let all_pruned = pruned.starts_with("0 total");
        assert_eq!(all_pruned, count == 0, "{explained}");
    }
}

#[tokio::test]
async fn segments_are_filtered_once_and_their_texts_grouped_as_numbers() {
    let spread = spread(Some(Duration::from_hours(24))).await;
    spread.store.seal().await.unwrap();
    let sql =
        "EXPLAIN SELECT service, count(*) FROM http_events WHERE latency > 5 GROUP BY service";
    let explained = spread.engine.sql(sql).await.unwrap();
    let explained = super::fixture::text(&explained, super::fixture::Order::Sorted);
    assert!(explained.contains("GroupingExec"), "{explained}");
    assert!(!explained.contains("CAST(service@"), "they are texts again: {explained}");
    let (_, scan) = explained.split_once(" predicate=").unwrap();
    let (predicate, _) = scan.split_once("pruning_predicate=").unwrap();
    assert_eq!(predicate.matches("latency@").count(), 1, "{explained}");
    assert!(!explained.contains("FilterExec"), "{explained}");
}

#[tokio::test]
async fn summaries_are_filtered_where_they_are_read() {
    let spread = spread(None).await;
    let sql = r#"EXPLAIN SELECT service, sum(rows) FROM "http_events__10s"
        WHERE resp_status = 404 GROUP BY service"#;
    let explained = spread.engine.sql(sql).await.unwrap();
    let explained = super::fixture::text(&explained, super::fixture::Order::Sorted);
    let (_, scan) = explained.split_once(" predicate=").unwrap();
    let (predicate, _) = scan.split_once("pruning_predicate=").unwrap();
    assert_eq!(predicate.matches("resp_status@").count(), 1, "{explained}");
    assert!(!explained.contains("FilterExec"), "{explained}");
}

#[tokio::test]
async fn what_summaries_do_not_hold_is_clipped_with_a_note_or_refused_under_strict() {
    let spread = spread(None).await;
    for (body, reason) in [
        ("df = df.groupby('remote_addr').agg(n=('latency', px.count))", "remote_addr"),
        ("df = df[df.latency > 5]\ndf = df.agg(n=('latency', px.count))", "latency"),
        ("df = df[['latency']]", "single rows"),
    ] {
        let script = script(body);
        let answer = spread.run(&script).await.unwrap();
        let notes = &answer.tables[0].notes;
        let clipped = notes.iter().find(|note| matches!(note, Note::Clipped { .. }));
        let note = clipped.unwrap_or_else(|| panic!("{body}: {notes:?}")).to_string();
        assert!(note.contains(reason), "{note}");
        let strict = Request { script, strict: true, ..Request::default() };
        let error = spread.engine.run(strict).await.unwrap_err();
        assert!(matches!(error, Error::Script(_)), "{error:?}");
        assert!(error.to_string().contains("reaches further back"), "{error}");
    }
}

#[tokio::test]
async fn bins_finer_than_the_windows_are_refused_with_the_width_to_use() {
    let spread = spread(None).await;
    let script = script(
        "df.t = px.bin(df.time_, px.seconds(3))\n\
         df = df.groupby('t').agg(n=('latency', px.count))",
    );
    let error = spread.run(&script).await.unwrap_err().to_string();
    assert!(error.contains("bins of 3s do not fit"), "{error}");
    assert!(error.contains("px.bin(df.time_, 10000000000)"), "{error}");
}

#[tokio::test]
async fn a_range_that_cuts_windows_is_widened_and_says_so() {
    let (whole, spread) = (in_memory(), spread(None).await);
    let count = |start: i64| {
        format!(
            "import px\ndf = px.DataFrame('http_events', start_time={start})\n\
             px.display(df.agg(n=('latency', px.count)))"
        )
    };
    let answer = spread.run(&count(START + 3 * SECOND)).await.unwrap();
    let widened = answer.tables[0].notes.iter().find_map(|note| match note {
        Note::Widened { from, width_ns, .. } => Some((from.get(), *width_ns)),
        _ => None,
    });
    assert_eq!(widened, Some((START, 10 * SECOND)));
    let aligned = whole.sorted(&count(START)).await;
    assert_eq!(spread.sorted(&count(START + 3 * SECOND)).await, aligned);
}

#[tokio::test]
async fn paths_group_by_template_as_soon_as_summaries_are_involved() {
    let spread = spread(None).await;
    let script = script("df = df.groupby('req_path').agg(n=('latency', px.count))");
    let answer = spread.run(&script).await.unwrap();
    assert!(answer.tables[0].notes.iter().any(|note| matches!(note, Note::Templated { .. })));
    let expected = format!("output: req_path | n\n/item/* | {ROWS}\n");
    assert_eq!(spread.sorted(&script).await, expected);
}

#[tokio::test]
async fn counters_of_a_process_come_from_their_extremes() {
    let (whole, spread) = (in_memory(), spread(None).await);
    let script = "import px\n\
        df = px.DataFrame('conn_stats')\n\
        df = df.groupby(['upid', 'remote_addr']).agg(a=('bytes_sent', px.min), b=('bytes_sent', px.max))\n\
        df.service = df.ctx['service']\n\
        df.bytes = df.b - df.a\n\
        px.display(df[['service', 'remote_addr', 'bytes']])";
    assert_eq!(spread.sorted(script).await, whole.sorted(script).await);
}

#[tokio::test]
async fn sql_reads_states_as_tables() {
    let spread = spread(None).await;
    let sql = r#"SELECT sum(rows) AS n FROM "http_events__10s""#;
    let table = spread.engine.sql(sql).await.unwrap();
    let text = super::fixture::text(&table, super::fixture::Order::Sorted);
    assert_eq!(text, format!("output: n\n{}\n", ROWS - 1000));
}

#[tokio::test]
async fn the_smallest_summary_that_has_what_a_script_names_answers() {
    let (whole, spread) = (in_memory(), spread(None).await);
    let mut states = Vec::new();
    for (summary, body) in [
        (
            "10s_service",
            "df = df.groupby('service').agg(n=('latency', px.count), q=('latency', px.quantiles))",
        ),
        (
            "10s_endpoint",
            "df = df.groupby('req_method').agg(n=('latency', px.count), hi=('latency', px.max))",
        ),
        (
            "10s",
            "df.peer = df.ctx['remote_service']\n\
             df = df.groupby(['service', 'peer', 'req_method']).agg(n=('latency', px.count))",
        ),
    ] {
        let script = script(body);
        let answer = spread.run(&script).await.unwrap();
        let sources = &answer.tables[0].sources;
        let read: Vec<_> =
            sources.iter().filter(|s| matches!(s.tier, Tier::Summary { .. })).collect();
        assert!(read.iter().all(|source| source.tier.to_string() == summary), "{sources:?}");
        states.push(read.iter().map(|source| source.rows).sum::<u64>());
        assert_eq!(spread.sorted(&script).await, whole.sorted(&script).await, "{body}");
    }
    let of = async |table: &str| {
        let sql = format!(r#"SELECT count(*) AS n, sum(rows) AS r FROM "http_events__10s{table}""#);
        super::fixture::text(&spread.engine.sql(&sql).await.unwrap(), super::fixture::Order::Sorted)
    };
    for (states, table) in states.iter().zip(["_service", "_endpoint", ""]) {
        let expected = format!("output: n | r\n{states} | {}\n", ROWS - 1000);
        assert_eq!(of(table).await, expected, "{table}");
    }
    assert!(states[0] < states[1], "{states:?}");
    let slowest = "SELECT max(latency) AS l, min(resp_status) AS s FROM http_events__exemplars";
    let slowest = spread.engine.sql(slowest).await.unwrap();
    assert_eq!(slowest.batches[0].num_rows(), 1);
}
