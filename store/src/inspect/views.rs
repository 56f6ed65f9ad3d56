//! SQL that lets other engines read exactly the files of the present versions.
//!
//! A pattern such as `*.parquet` would count rows twice between a merge and the deletion of what was
//! merged; these views name the files.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::{Folder, InspectError, Inspection, TierState};

/// Whose SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `DuckDB` 1.3 or later.
    DuckDb,
    /// `ClickHouse`, `clickhouse-local` or `chDB`.
    ClickHouse,
}

/// How the SQL of one engine names the tables' files.
pub(super) struct Names {
    pub(super) dialect: Dialect,
    /// What stands before a tier's folder, without the slash between them.
    pub(super) root: String,
    /// What reads a file: a table function.
    pub(super) function: &'static str,
    /// What the engine needs for that, as comments.
    pub(super) needs: &'static str,
}

impl Folder {
    /// Statements that make a view of each tier that `held` names; see [`Fleet::views`](super::Fleet::views).
    ///
    /// # Errors
    /// Where files of the folder are in a bucket.
    pub fn views(&self, held: &Inspection, dialect: Dialect) -> Result<String, InspectError> {
        let files = held.tiers.iter().flat_map(|tier| &tier.segments);
        let elsewhere = files.filter(|file| file.found_bytes.is_none()).count();
        if let Some(url) = held.bucket.clone().filter(|_| elsewhere > 0) {
            let (dir, files) = (self.dir().to_owned(), elsewhere);
            return Err(InspectError::InBucket { dir, files, url });
        }
        let root = format!("{}/tables", self.dir().display());
        Ok(Names::on_disk(dialect, root).views(held))
    }
}

impl Names {
    /// Files of a folder of this machine.
    pub(super) fn on_disk(dialect: Dialect, root: String) -> Self {
        let function = match dialect {
            Dialect::DuckDb => "read_parquet",
            Dialect::ClickHouse => "file",
        };
        Self { dialect, root, function, needs: "" }
    }

    /// Statements that make the views, and the functions that read sketches.
    pub(super) fn views(&self, held: &Inspection) -> String {
        let mut sql = self.needs.to_owned();
        sql.push_str(match self.dialect {
            Dialect::DuckDb => DUCKDB,
            Dialect::ClickHouse => CLICKHOUSE,
        });
        for nodes in held.tiers.chunk_by(|a, b| (&a.table, &a.tier) == (&b.table, &b.tier)) {
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
            let body = self.body(nodes);
            writeln!(sql, "CREATE OR REPLACE VIEW {} AS\n{body};", quoted(&name)).expect(TAKES_ALL);
        }
        sql
    }

    /// The rows of one tier of all nodes, each with its node unless the table says so itself.
    fn body(&self, nodes: &[TierState]) -> String {
        let columns = columns_of(nodes);
        let names_node = columns.iter().any(|(name, _)| *name == "node");
        let part = |tier: &TierState| {
            let node =
                if names_node { String::new() } else { format!(", {} AS node", text(&tier.node)) };
            format!("SELECT *{node} FROM {}", self.files(tier, &columns))
        };
        let parts: Vec<_> =
            nodes.iter().filter(|tier| !tier.segments.is_empty()).map(part).collect();
        if parts.is_empty() {
            return self.empty(columns, names_node);
        }
        parts.join(match self.dialect {
            // Nodes may have different versions, and so different columns.
            Dialect::DuckDb => "\nUNION ALL BY NAME\n",
            Dialect::ClickHouse => "\nUNION ALL\n",
        })
    }

    /// The files of a tier as a table.
    fn files(&self, tier: &TierState, columns: &[(&str, &str)]) -> String {
        let folder = format!("{}/{}", self.root, tier.prefix);
        let names = tier.segments.iter().map(|file| file.name.as_str());
        match self.dialect {
            Dialect::DuckDb => {
                let files: Vec<_> = names.map(|name| text(&format!("{folder}/{name}"))).collect();
                let files = files.join(",\n  ");
                format!("{}([\n  {files}],\n  union_by_name = true)", self.function)
            }
            Dialect::ClickHouse => {
                let names = match names.collect::<Vec<_>>().as_slice() {
                    [one] => (*one).to_owned(),
                    several => format!("{{{}}}", several.join(",")),
                };
                let path = text(&format!("{folder}/{names}"));
                let columns: Vec<_> = columns
                    .iter()
                    .map(|(name, delta)| format!("{} {}", quoted(name), clickhouse_type(delta)))
                    .collect();
                let columns = text(&columns.join(", "));
                format!("{}({path}, 'Parquet', {columns})", self.function)
            }
        }
    }

    /// A view without rows, whose columns are those that the logs declare.
    fn empty(&self, mut columns: Vec<(&str, &str)>, names_node: bool) -> String {
        if !names_node {
            columns.push(("node", "string"));
        }
        let column = |(name, delta): &(&str, &str)| {
            let of = match self.dialect {
                Dialect::DuckDb => duckdb_type(delta).to_owned(),
                // ClickHouse's arrays cannot be null, and no value is needed where there is no row.
                Dialect::ClickHouse => match clickhouse_type(delta) {
                    array if array.starts_with("Array(") => array.to_owned(),
                    of => format!("Nullable({of})"),
                },
            };
            let value = if of.starts_with("Array(") { "[]" } else { "NULL" };
            format!("CAST({value} AS {of}) AS {}", quoted(name))
        };
        let columns: Vec<_> = columns.iter().map(column).collect();
        format!("SELECT {} WHERE false", columns.join(", "))
    }
}

/// The columns that any of these tiers has, and their types in Delta's words.
fn columns_of(nodes: &[TierState]) -> Vec<(&str, &str)> {
    let mut seen = BTreeSet::new();
    let columns = nodes.iter().flat_map(|tier| &tier.columns);
    let new = columns.filter(|(name, _)| seen.insert(name.as_str()));
    new.map(|(name, of)| (name.as_str(), of.as_str())).collect()
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

fn duckdb_type(delta: &str) -> &'static str {
    match delta {
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
    }
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

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}
