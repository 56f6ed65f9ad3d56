//! Tables that describe Undine itself: `px.GetTables()` and its like.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeBinaryArray, Int64Array, RecordBatch, StringArray,
};
use arrow::error::ArrowError;
use serde_json::json;
use undine_schema::{PxlType, Role, SemanticType, tables};
use undine_store::TableStats;

use crate::answer_schema;
use crate::functions::environment::Environment;
use crate::functions::{self, identity};
use crate::relation::{AggregateKind, Column, Listing};

/// The columns of a listing.
pub(crate) fn columns(listing: Listing) -> Vec<Column> {
    use PxlType::{Boolean, Int64, String, Time64Ns, Uint128};
    let named: &[(&str, PxlType)] = match listing {
        Listing::Tables => &[("table_name", String), ("table_desc", String)],
        Listing::Schemas => &[
            ("table_name", String),
            ("column_name", String),
            ("column_type", String),
            ("pattern_type", String),
            ("column_desc", String),
        ],
        Listing::Functions | Listing::Aggregates => {
            &[("name", String), ("return_type", String), ("args", String)]
        }
        Listing::TableFunctions => &[
            ("name", String),
            ("executor", String),
            ("init_args", String),
            ("output_relation", String),
        ],
        Listing::Agents => &[
            ("agent_id", Uint128),
            ("asid", Int64),
            ("hostname", String),
            ("ip_address", String),
            ("agent_state", String),
            ("create_time", Time64Ns),
            ("last_heartbeat_ns", Int64),
            ("kernel_headers_installed", Boolean),
        ],
        Listing::KernelHeaders => &[("asid", Int64), ("kernel_headers_installed", Boolean)],
        Listing::ProfilerPeriods => &[("asid", Int64), ("profiler_sampling_period_ms", Int64)],
        Listing::HeapGrowth => &[("asid", Int64), ("heap", String)],
        Listing::TableInfo => &[
            ("asid", Int64),
            ("name", String),
            ("id", Int64),
            ("size", Int64),
            ("cold_size", Int64),
            ("hot_rows", Int64),
            ("appended_rows", Int64),
            ("sealed_rows", Int64),
            ("evicted_rows", Int64),
        ],
        Listing::Tracepoints => &[
            ("tracepoint_id", Uint128),
            ("name", String),
            ("state", String),
            ("status", String),
            ("output_tables", String),
        ],
    };
    named
        .iter()
        .map(|(name, pxl_type)| Column {
            name: (*name).into(),
            pxl_type: *pxl_type,
            semantic: if *pxl_type == Time64Ns { SemanticType::TimeNs } else { SemanticType::None },
        })
        .collect()
}

/// The rows of a listing, as of `now`; this node runs since `since`.
pub(crate) fn rows(
    listing: Listing,
    environment: &Environment,
    since: i64,
) -> Result<RecordBatch, ArrowError> {
    let schema = answer_schema(&columns(listing));
    let arrays = match listing {
        Listing::Tables => {
            let own = tables::readable().map(|t| [t.name.into(), t.doc.trim().into()]);
            let traced = environment.trace_columns.iter();
            texts(own.chain(traced.map(|(name, _)| [name.clone(), TRACED_DOC.to_owned()])))
        }
        Listing::Schemas => texts(
            tables::readable()
                .flat_map(|table| {
                    table.visible_columns().map(|column| {
                        [
                            table.name.to_owned(),
                            column.name.to_owned(),
                            column.pxl_type.name().to_owned(),
                            pattern(column.role).to_owned(),
                            column.doc.trim().to_owned(),
                        ]
                    })
                })
                .chain(environment.trace_columns.iter().flat_map(|(table, columns)| {
                    columns.iter().map(|column| {
                        [
                            table.clone(),
                            column.name.to_string(),
                            column.pxl_type.name().to_owned(),
                            "GENERAL".to_owned(),
                            String::new(),
                        ]
                    })
                })),
        ),
        Listing::Functions => {
            let public = functions::all().filter(|overload| !overload.function.starts_with('_'));
            texts(public.map(|overload| {
                let args: Vec<_> = overload.args.iter().map(|arg| arg.name()).collect();
                let args = serde_json::Value::from(args).to_string();
                [overload.function.to_owned(), overload.result.name().to_owned(), args]
            }))
        }
        Listing::Aggregates => texts(public_aggregates().flat_map(|(name, kind)| {
            [PxlType::Int64, PxlType::Float64, PxlType::String, PxlType::Boolean]
                .into_iter()
                .filter_map(move |arg| {
                    let args = serde_json::Value::from(vec![arg.name()]).to_string();
                    Some([name.to_owned(), kind.result(arg)?.name().to_owned(), args])
                })
        })),
        Listing::TableFunctions => texts(LISTED.iter().map(|(name, listing)| {
            let relation: Vec<_> = columns(*listing)
                .iter()
                .map(|c| json!({"name": &*c.name, "type": c.pxl_type.name()}))
                .collect();
            let relation = serde_json::Value::from(relation).to_string();
            [(*name).to_owned(), "UDTF_ONE_KELVIN".to_owned(), "[]".to_owned(), relation]
        })),
        Listing::Agents => agent(environment, since)?,
        Listing::KernelHeaders => {
            let id = identity::node_id(&environment.node);
            vec![integers([id]), Arc::new(BooleanArray::from(vec![HAS_KERNEL_TYPES]))]
        }
        Listing::ProfilerPeriods => {
            let period = environment.profiler_period_ms;
            let id = period.map(|_| identity::node_id(&environment.node));
            vec![integers(id), integers(period)]
        }
        // Undine's allocator keeps no profile of itself.
        Listing::HeapGrowth => {
            let mut arrays = texts(std::iter::empty::<[String; 1]>());
            arrays.insert(0, integers([]));
            arrays
        }
        Listing::TableInfo => table_info(environment),
        Listing::Tracepoints => {
            let points = &environment.tracepoints;
            let mut arrays = texts(points.iter().map(|point| {
                let status = json!({
                    "message": point.reason,
                    "expires": point.expires.get(),
                    "calls": point.counts.calls,
                    "rows": point.counts.rows,
                    "limited": point.counts.limited,
                    "dropped": point.counts.dropped,
                    "unreadable": point.counts.unreadable,
                    "evicted_rows": point.counts.evicted_rows,
                });
                let tables = json!([point.table]).to_string();
                [point.name.clone(), point.state.name().to_owned(), status.to_string(), tables]
            }));
            let ids: Vec<_> = points.iter().map(|point| point.id).collect();
            arrays.insert(0, uuids(&ids)?);
            arrays
        }
    };
    RecordBatch::try_new(schema, arrays)
}

/// Programs of the kernel are built once for all kernels and need their types only, never their
/// headers; a kernel without types is refused at the start.
const HAS_KERNEL_TYPES: bool = true;

/// What `GetTables` says of a tracepoint's table.
const TRACED_DOC: &str = "Calls of a function, made by a tracepoint.";

const LISTED: [(&str, Listing); 9] = [
    ("GetAgentStatus", Listing::Agents),
    ("GetLinuxHeadersStatus", Listing::KernelHeaders),
    ("GetProfilerSamplingPeriodMS", Listing::ProfilerPeriods),
    ("GetSchemas", Listing::Schemas),
    ("GetTables", Listing::Tables),
    ("GetTracepointStatus", Listing::Tracepoints),
    ("GetUDAList", Listing::Aggregates),
    ("GetUDFList", Listing::Functions),
    ("GetUDTFList", Listing::TableFunctions),
];

/// Names that begin with `_` are not listed.
fn public_aggregates() -> impl Iterator<Item = (&'static str, AggregateKind)> {
    AggregateKind::ALL.into_iter().filter(|(name, _)| !name.starts_with('_'))
}

fn pattern(role: Role) -> &'static str {
    match role {
        Role::Time | Role::Detail => "GENERAL",
        Role::Dimension => "GENERAL_ENUM",
        Role::Measure | Role::Sketched => "METRIC_GAUGE",
        Role::Counter => "METRIC_COUNTER",
    }
}

fn texts<const N: usize>(rows: impl Iterator<Item = [String; N]>) -> Vec<ArrayRef> {
    let rows: Vec<[String; N]> = rows.collect();
    (0..N)
        .map(|at| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row[at].as_str())))
        })
        .collect()
}

fn integers(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

/// What the store holds of each table.
fn table_info(environment: &Environment) -> Vec<ArrayRef> {
    let tables = &environment.tables;
    let column = |value: fn(&TableStats) -> u64| {
        integers(tables.iter().map(|table| i64::try_from(value(table)).unwrap_or(i64::MAX)))
    };
    let id = identity::node_id(&environment.node);
    vec![
        integers(tables.iter().map(|_| id)),
        Arc::new(StringArray::from_iter_values(tables.iter().map(|table| table.table))),
        integers((0_i64..).take(tables.len())),
        column(|table| table.hot_bytes),
        column(|table| table.segment_bytes),
        column(|table| table.hot_rows),
        column(|table| table.appended_rows),
        column(|table| table.sealed_rows),
        column(|table| table.evicted_rows),
    ]
}

fn uuids(values: &[[u8; 16]]) -> Result<ArrayRef, ArrowError> {
    if values.is_empty() {
        return Ok(arrow::array::new_empty_array(&PxlType::Uint128.arrow()));
    }
    Ok(Arc::new(FixedSizeBinaryArray::try_from_iter(values.iter())?))
}

fn agent(environment: &Environment, since: i64) -> Result<Vec<ArrayRef>, ArrowError> {
    let id = identity::node_id(&environment.node);
    let agent_id = i128::from(id).to_be_bytes();
    Ok(vec![
        uuids(&[agent_id])?,
        Arc::new(Int64Array::from(vec![id])),
        Arc::new(StringArray::from(vec![environment.node.as_str()])),
        Arc::new(StringArray::from(vec!["127.0.0.1"])),
        Arc::new(StringArray::from(vec!["AGENT_STATE_HEALTHY"])),
        Arc::new(Int64Array::from(vec![since])),
        Arc::new(Int64Array::from(vec![0])),
        Arc::new(BooleanArray::from(vec![HAS_KERNEL_TYPES])),
    ])
}
