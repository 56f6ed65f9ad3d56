//! How far back an answer reaches, what is missing in it, and that it says so.

use std::time::Duration;

use undine_query::{Note, ResultTable, Tier};
use undine_schema::tables::HTTP_EVENTS;
use undine_store::{Config, Retention};

use super::fixture::{Fixture, Order, SECOND, START, fixture_of, requests, text};

const ROWS: i64 = 12_000;

/// Requests of ten minutes, sealed minute by minute but for the last; most of them gone from memory.
async fn ten_minutes(change: impl FnOnce(Config) -> Config) -> Fixture {
    let fixture = fixture_of(|config| change(Config { hot_bytes_max: 2 << 20, ..config }));
    for from in (0..ROWS).step_by(1200) {
        fixture.append(requests(from..from + 1200));
        if from + 1200 < ROWS {
            fixture.store.seal().await.unwrap();
        }
    }
    let snapshot = fixture.store.snapshot(&HTTP_EVENTS);
    assert!(snapshot.hot_complete_from.get() > START, "the oldest rows are gone from memory");
    fixture
}

/// Windows of ten seconds are kept for three minutes, those of a minute for ever.
async fn with_short_lived_windows() -> Fixture {
    let rule = Retention {
        table: None,
        tier: Some("10s".to_owned()),
        age_max: Some(Duration::from_mins(3)),
        bytes_max: None,
    };
    let fixture = ten_minutes(|config| Config { retention: vec![rule], ..config }).await;
    fixture.store.tidy().await.unwrap();
    fixture
}

fn binned(start: &str, seconds: i64) -> String {
    format!(
        "import px\ndf = px.DataFrame('http_events'{start})\n\
         df.t = px.bin(df.time_, px.seconds({seconds}))\n\
         px.display(df.groupby('t').agg(n=('latency', px.count)))"
    )
}

async fn answered(fixture: &Fixture, script: &str) -> ResultTable {
    let answer = fixture.run(script).await.unwrap_or_else(|error| panic!("{script}: {error}"));
    answer.tables.into_iter().next().unwrap()
}

fn noted(table: &ResultTable, is_it: impl Fn(&Note) -> bool) -> bool {
    table.notes.iter().any(is_it)
}

#[tokio::test]
async fn bins_finer_than_the_windows_that_reach_back_are_refused_with_the_width_to_use() {
    let fixture = with_short_lived_windows().await;
    let from = |seconds: i64| format!(", start_time={}", START + seconds * SECOND);
    let error = fixture.run(&binned(&from(0), 10)).await.unwrap_err().to_string();
    assert!(error.contains("bins of 10s do not fit"), "{error}");
    assert!(error.contains("px.bin(df.time_, 60000000000)"), "{error}");
    assert_eq!(answered(&fixture, &binned(&from(0), 60)).await.rows(), 10);
    assert_eq!(answered(&fixture, &binned(&from(480), 10)).await.rows(), 12);
    let all = answered(&fixture, &binned("", 10)).await;
    let width_ns = 10 * SECOND;
    let starts =
        |note: &Note| matches!(note, Note::SummariesStart { width_ns: w, .. } if *w == width_ns);
    assert!(noted(&all, starts), "{:?}", all.notes);
    assert!((12..60).contains(&all.rows()), "{}", all.rows());
}

#[tokio::test]
async fn states_in_sql_are_told_as_of_since_when_they_are_complete() {
    let fixture = with_short_lived_windows().await;
    for (table, is_short_lived) in [("http_events__10s", true), ("http_events__1m", false)] {
        let sql = format!(r#"SELECT sum(rows) AS n FROM "{table}""#);
        let answer = fixture.engine.sql(&sql).await.unwrap();
        let since = answer.sources[0].range.0.get();
        assert_eq!(since > START, is_short_lived, "{:?}", answer.sources);
        let starts = |note: &Note| matches!(note, Note::SummariesStart { .. });
        assert_eq!(noted(&answer, starts), is_short_lived, "{:?}", answer.notes);
    }
}

#[tokio::test]
async fn a_path_is_compared_with_templates_only_where_it_is_one() {
    let fixture = ten_minutes(|config| config).await;
    let counted = |condition: &str| {
        format!(
            "import px\ndf = px.DataFrame('http_events', start_time={START})\n\
             df = df[{condition}]\npx.display(df.agg(n=('latency', px.count)))"
        )
    };
    for condition in ["df.req_path == '/item/*'", "df.req_path != '/healthz'"] {
        let answer = answered(&fixture, &counted(condition)).await;
        assert!(noted(&answer, |note| matches!(note, Note::Templated { .. })), "{condition}");
        assert_eq!(text(&answer, Order::Sorted), format!("output: n\n{ROWS}\n"), "{condition}");
    }
    // The newest row is still in memory, the oldest is not.
    for (number, expected) in [(ROWS - 1, 1), (0, 0)] {
        let condition = format!("df.req_path == '/item/{}?page={number}'", number % 7);
        let answer = answered(&fixture, &counted(&condition)).await;
        let clipped = answer.notes.iter().find(|note| matches!(note, Note::Clipped { .. }));
        let note = clipped.unwrap_or_else(|| panic!("{:?}", answer.notes)).to_string();
        assert!(note.contains("which req_path each request had"), "{note}");
        assert_eq!(text(&answer, Order::Sorted), format!("output: n\n{expected}\n"), "{condition}");
    }
}

#[tokio::test]
async fn an_answer_over_folded_groups_says_so_and_is_not_exact() {
    let by_status = format!(
        "import px\ndf = px.DataFrame('http_events', start_time={START})\n\
         px.display(df.groupby(['resp_status', 'req_path']).agg(n=('latency', px.count)))"
    );
    for (groups_per_window_max, is_folded) in [(2, true), (1000, false)] {
        let fixture = ten_minutes(|config| Config { groups_per_window_max, ..config }).await;
        let answer = answered(&fixture, &by_status).await;
        assert!(answer.sources.iter().any(|s| matches!(s.tier, Tier::Summary { .. })));
        let folded = noted(&answer, |note| matches!(note, Note::Folded { .. }));
        assert_eq!((folded, answer.exact), (is_folded, !is_folded), "{:?}", answer.notes);
        assert!(!noted(&answer, |note| matches!(note, Note::Lost { .. })), "{:?}", answer.notes);
    }
}

#[tokio::test]
async fn evicted_rows_are_missed_where_they_were_and_not_when_that_was_noticed() {
    let fixture = fixture_of(|config| Config { hot_bytes_max: 2 << 20, ..config });
    for from in (0..ROWS).step_by(1200) {
        fixture.append(requests(from..from + 1200));
        fixture.store.merge_hot().await.unwrap();
    }
    let lost = async |from: i64, until: i64| {
        let (from, until) = (START + from * SECOND, START + until * SECOND);
        let script = format!(
            "import px\ndf = px.DataFrame('http_events', start_time={from}, end_time={until})\n\
             px.display(df.agg(n=('latency', px.count)))"
        );
        let answer = answered(&fixture, &script).await;
        let sql =
            format!("SELECT count(*) FROM http_events WHERE time_ >= {from} AND time_ < {until}");
        let in_sql = fixture.engine.sql(&sql).await.unwrap();
        let is_lost =
            |note: &Note| matches!(note, Note::Lost { reason, .. } if reason == "evicted");
        assert_eq!(noted(&in_sql, is_lost), noted(&answer, is_lost), "{:?}", in_sql.notes);
        noted(&answer, is_lost)
    };
    assert!(lost(0, 60).await);
    // It was noticed at 600 s.
    assert!(!lost(590, 700).await);
}

#[tokio::test]
async fn sql_that_reads_a_table_twice_says_what_both_times_miss() {
    let fixture = ten_minutes(|config| config).await;
    let rows = |from: i64| {
        format!("SELECT latency FROM http_events WHERE time_ >= {}", START + from * SECOND)
    };
    for (first, second) in [(0, 595), (595, 0)] {
        let sql = format!("SELECT count(*) FROM ({} UNION ALL {})", rows(first), rows(second));
        let answer = fixture.engine.sql(&sql).await.unwrap();
        assert!(noted(&answer, |note| matches!(note, Note::Clipped { .. })), "{:?}", answer.notes);
        let explained = fixture.engine.sql(&format!("EXPLAIN {sql}")).await.unwrap();
        let explained = text(&explained, Order::Sorted);
        assert!(
            explained.contains("note | http_events: single rows are kept since"),
            "{explained}"
        );
        assert!(explained.contains("reads | http_events hot:"), "{explained}");
    }
}
