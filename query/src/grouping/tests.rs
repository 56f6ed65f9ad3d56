use arrow::array::{
    DictionaryArray, FixedSizeBinaryArray, Int64Array, RecordBatch, StringArray, UInt64Array,
};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Field, Int32Type, Schema};
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::physical_plan::displayable;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::*;

const ROWS: usize = 5000;

/// Rows with keys of every kind that is numbered, with nulls.
fn rows() -> RecordBatch {
    let service = |n: usize| (!n.is_multiple_of(11)).then(|| format!("service {}", n % 7));
    let numbered: DictionaryArray<Int32Type> =
        (0..ROWS).map(service).collect::<Vec<_>>().iter().map(|s| s.as_deref()).collect();
    let text: StringArray =
        (0..ROWS).map(|n| (!n.is_multiple_of(5)).then(|| "é".repeat(n % 13))).collect();
    let number = |n: usize| i64::try_from(n).unwrap();
    let time: Int64Array = (0..ROWS).map(|n| (n != 9).then(|| number(n) / 100 - 20)).collect();
    let flag: BooleanArray =
        (0..ROWS).map(|n| (!n.is_multiple_of(3)).then_some(n % 2 == 0)).collect();
    let id = (0..ROWS).map(|n| (!n.is_multiple_of(17)).then(|| ((n % 40) as u128).to_be_bytes()));
    let id = FixedSizeBinaryArray::try_from_sparse_iter_with_size(id, 16).unwrap();
    let value: Int64Array =
        (0..ROWS).map(|n| (n % 19 != 0).then(|| number(n * n % 1009))).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("numbered", Arc::new(numbered)),
        ("words", Arc::new(text)),
        ("moment", Arc::new(time)),
        ("flag", Arc::new(flag)),
        ("id", Arc::new(id)),
        ("value", Arc::new(value)),
    ];
    let fields = columns.iter().map(|(name, c)| Field::new(*name, c.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    RecordBatch::try_new(schema, columns.into_iter().map(|(_, column)| column).collect()).unwrap()
}

fn context(partitions: usize, rule: bool) -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(partitions).with_batch_size(300);
    // As in our own sessions.
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    let state = SessionStateBuilder::new().with_config(config).with_default_features();
    let state = if rule { state.with_physical_optimizer_rules(physical_rules()) } else { state };
    let context = SessionContext::new_with_state(state.build());
    let rows = rows();
    let half = |from: usize| {
        let places = UInt64Array::from_iter_values((from..ROWS).step_by(2).map(|n| n as u64));
        take_record_batch(&rows, &places).unwrap()
    };
    let table = MemTable::try_new(rows.schema(), vec![vec![half(0)], vec![half(1)]]).unwrap();
    context.register_table("t", Arc::new(table)).unwrap();
    context
}

async fn answer(context: &SessionContext, sql: &str) -> (String, Vec<String>) {
    let frame = context.sql(sql).await.unwrap();
    let plan = frame.clone().create_physical_plan().await.unwrap();
    let plan = displayable(plan.as_ref()).indent(false).to_string();
    let text = pretty_format_batches(&frame.collect().await.unwrap()).unwrap().to_string();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    (plan, lines)
}

#[tokio::test]
async fn groups_are_the_same_as_without_it() {
    for sql in [
        "SELECT flag, count(*), sum(value), min(value), max(value), avg(value) FROM t GROUP BY flag",
        "SELECT CAST(numbered AS VARCHAR) AS s, moment / 7 AS w, count(value) FROM t GROUP BY s, w",
        "SELECT CAST(numbered AS VARCHAR) AS s, count(*) FROM t WHERE value IS NOT NULL \
         AND numbered IS NOT NULL AND moment IS NOT NULL GROUP BY s",
        "SELECT moment / 7 AS w, CAST(numbered AS VARCHAR) AS s, count(value) FROM t GROUP BY w, s",
        "SELECT words, flag, id, moment, count(*) FROM t GROUP BY words, flag, id, moment",
        "SELECT id, sum(value) FILTER (WHERE flag) AS s FROM t WHERE moment > 0 GROUP BY id",
        "SELECT words FROM t GROUP BY words",
        "SELECT s, max(v) FROM (SELECT CAST(numbered AS VARCHAR) AS s, value * 2 AS v FROM t) GROUP BY s",
        "SELECT flag, count(*) FROM t WHERE moment > 1000000 GROUP BY flag",
        "SELECT moment, approx_distinct(words) FROM t GROUP BY moment",
        "SELECT moment, approx_distinct(CAST(numbered AS VARCHAR)) AS d FROM t GROUP BY moment",
    ] {
        for partitions in [1, 2] {
            let (plan, found) = answer(&context(partitions, true), sql).await;
            let (plain, expected) = answer(&context(partitions, false), sql).await;
            assert!(plan.contains("GroupingExec"), "{sql}:\n{plan}");
            assert!(!plain.contains("GroupingExec"));
            assert_eq!(found, expected, "{sql} over {partitions}");
        }
    }
}

#[tokio::test]
async fn what_it_cannot_group_is_left_alone() {
    for sql in [
        "SELECT count(*) FROM t",
        "SELECT numbered, count(*) FROM t GROUP BY numbered",
        "SELECT CAST(value AS DOUBLE) AS d, count(*) FROM t GROUP BY d",
        "SELECT words, count(DISTINCT value), sum(DISTINCT moment) FROM t GROUP BY words",
        "SELECT words, flag, count(*) FROM t GROUP BY GROUPING SETS ((words), (flag))",
    ] {
        let (plan, found) = answer(&context(2, true), sql).await;
        let (_, expected) = answer(&context(2, false), sql).await;
        assert_eq!(found, expected, "{sql}:\n{plan}");
    }
}

#[tokio::test]
async fn a_first_stage_hands_on_what_it_has_when_there_are_too_many_groups() {
    let context = context(2, true);
    let count = 3 * i64::try_from(GROUPS_MAX).unwrap();
    let sql = format!(
        "SELECT count(*) AS n, sum(c) AS total FROM (SELECT value, count(*) AS c FROM \
         (SELECT value % {count} AS value FROM generate_series(1, {}) AS g(value)) GROUP BY value)",
        2 * count
    );
    let (plan, found) = answer(&context, &sql).await;
    assert!(plan.contains("GroupingExec"), "{plan}");
    assert!(
        found.iter().any(|line| line.contains(&format!("| {count} | {} |", 2 * count))),
        "{found:?}"
    );
}
