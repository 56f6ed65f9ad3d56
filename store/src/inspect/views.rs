//! SQL that lets other engines read exactly the files of the present versions.
//!
//! A pattern such as `*.parquet` would count rows twice between a merge and the deletion of what was
//! merged; these views name the files.

use std::fmt::Write;
use std::path::Path;

use super::{Inspection, TierState};

/// Whose SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `DuckDB` 1.3 or later.
    DuckDb,
    /// `ClickHouse`, `clickhouse-local` or `chDB`.
    ClickHouse,
}

impl Inspection {
    /// Statements that make a view of each tier, named as in Undine's own SQL: `http_events__10s`
    /// for a summary, `http_events` for the rows themselves, of all nodes that the folder `dir`
    /// holds; and the functions that read sketches.
    pub fn views(&self, dir: &Path, dialect: Dialect) -> String {
        let mut sql = String::from(match dialect {
            Dialect::DuckDb => DUCKDB,
            Dialect::ClickHouse => CLICKHOUSE,
        });
        for nodes in self.tiers.chunk_by(|a, b| (&a.table, &a.tier) == (&b.table, &b.tier)) {
            let name = match nodes[0].tier.as_str() {
                "raw" => nodes[0].table.clone(),
                tier => format!("{}__{tier}", nodes[0].table),
            };
            let versions: Vec<_> = nodes
                .iter()
                .map(|tier| format!("{} version {}", tier.node, tier.version))
                .collect();
            let rows: u64 = nodes.iter().map(TierState::rows).sum();
            let said = versions.join(", ").replace(['\n', '\r'], " ");
            writeln!(sql, "\n-- {rows} rows; {said}").expect(TAKES_ALL);
            let body = match dialect {
                Dialect::DuckDb => duckdb(dir, nodes),
                Dialect::ClickHouse => clickhouse(dir, nodes),
            };
            writeln!(sql, "CREATE OR REPLACE VIEW {} AS\n{body};", quoted(&name)).expect(TAKES_ALL);
        }
        sql
    }
}

const TAKES_ALL: &str = "a string takes every character";

const DUCKDB: &str = r"-- The middle of a bucket of a sketch.
CREATE OR REPLACE MACRO undine_bucket_value(k) AS
  CASE WHEN k = 0 THEN 0 ELSE
    sign(k) * pow(2.0, (abs(k) >> 7) - 1023) * (1 + ((abs(k) & 127) + 0.5) / 128) END;
-- A quantile over the sketches of a group: undine_quantile(m_sketch_keys, m_sketch_counts, 0.99).
CREATE OR REPLACE MACRO undine_quantile(keys, counts, q) AS undine_bucket_value(
  list_reduce(
    list_sort(list_zip(flatten(list(keys)), flatten(list(counts)))),
    lambda a, b: CASE WHEN a[2] > floor(q * (sum(list_sum(counts)) - 1)) THEN a
                      ELSE row(b[1], a[2] + b[2]) END)[1]);
";

const CLICKHOUSE: &str = r"-- The middle of a bucket of a sketch.
CREATE OR REPLACE FUNCTION undine_bucket_value AS k ->
  if(k = 0, 0, sign(k) * pow(2, bitShiftRight(abs(k), 7) - 1023)
    * (1 + (bitAnd(abs(k), 127) + 0.5) / 128));
-- A quantile over the sketches of a group: undine_quantile(m_sketch_keys, m_sketch_counts, 0.99).
CREATE OR REPLACE FUNCTION undine_quantile AS (keys, counts, q) -> undine_bucket_value(
  arrayElement(
    tupleElement(sumMap(keys, counts), 1),
    arrayFirstIndex(
      upto -> upto > floor(q * (sum(arraySum(counts)) - 1)),
      arrayCumSum(tupleElement(sumMap(keys, counts), 2)))));
";

fn duckdb(dir: &Path, nodes: &[TierState]) -> String {
    let files: Vec<_> = nodes
        .iter()
        .flat_map(|tier| {
            let folder = folder(dir, tier);
            tier.segments.iter().map(move |file| text(&format!("{folder}/{}", file.name)))
        })
        .collect();
    if files.is_empty() {
        return empty(nodes, |delta| match delta {
            "long" => "BIGINT",
            "integer" => "INTEGER",
            "double" => "DOUBLE",
            "boolean" => "BOOLEAN",
            "binary" => "BLOB",
            "timestamp" => "TIMESTAMP WITH TIME ZONE",
            "array<integer>" => "INTEGER[]",
            "array<long>" => "BIGINT[]",
            "array<double>" => "DOUBLE[]",
            "array<string>" => "VARCHAR[]",
            _ => "VARCHAR",
        });
    }
    let files = files.join(",\n  ");
    format!("SELECT * FROM read_parquet([\n  {files}],\n  union_by_name = true)")
}

fn clickhouse(dir: &Path, nodes: &[TierState]) -> String {
    let mut parts = Vec::new();
    for tier in nodes.iter().filter(|tier| !tier.segments.is_empty()) {
        let names: Vec<_> = tier.segments.iter().map(|file| file.name.as_str()).collect();
        let names = match names.as_slice() {
            [one] => (*one).to_owned(),
            several => format!("{{{}}}", several.join(",")),
        };
        let path = text(&format!("{}/{names}", folder(dir, tier)));
        let columns: Vec<_> = tier
            .columns
            .iter()
            .map(|(name, delta)| format!("{} {}", quoted(name), clickhouse_type(delta)))
            .collect();
        let columns = text(&columns.join(", "));
        parts.push(format!("SELECT * FROM file({path}, 'Parquet', {columns})"));
    }
    if parts.is_empty() {
        return empty(nodes, clickhouse_type);
    }
    parts.join("\nUNION ALL\n")
}

fn clickhouse_type(delta: &str) -> &'static str {
    match delta {
        "long" => "Int64",
        "integer" => "Int32",
        "double" => "Float64",
        "boolean" => "Bool",
        "timestamp" => "DateTime64(6, 'UTC')",
        "array<integer>" => "Array(Int32)",
        "array<long>" => "Array(Int64)",
        "array<double>" => "Array(Float64)",
        "array<string>" => "Array(String)",
        _ => "String",
    }
}

/// A view without rows, whose columns are those that the log declares.
fn empty(nodes: &[TierState], type_of: impl Fn(&str) -> &'static str) -> String {
    let column = |(name, delta): &(String, String)| {
        // ClickHouse's arrays cannot be null, and no value is needed where there is no row.
        let of = type_of(delta);
        let value = if of.starts_with("Array(") { "[]" } else { "NULL" };
        let of = match of {
            "String" | "Bool" | "Int64" | "Int32" | "Float64" | "DateTime64(6, 'UTC')" => {
                format!("Nullable({of})")
            }
            other => other.to_owned(),
        };
        format!("CAST({value} AS {of}) AS {}", quoted(name))
    };
    let columns: Vec<_> = nodes[0].columns.iter().map(column).collect();
    format!("SELECT {} WHERE false", columns.join(", "))
}

fn folder(dir: &Path, tier: &TierState) -> String {
    format!("{}/tables/{}", dir.display(), tier.prefix)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}
