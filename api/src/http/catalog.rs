//! What can be asked: tables, the scripts that come along, and this API itself.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use undine_query::Engine;
use undine_schema::column::{ColumnDef, Visibility};
use undine_schema::{DataClass, Role, TableKind, tables as schema};

use super::AppState;
use super::probes::TableRows;

/// This API in `OpenAPI` 3.1, kept by hand and compared with the routes by a test.
pub(crate) const OPENAPI: &str = include_str!("openapi.json");

#[derive(Debug, Serialize)]
pub(crate) struct Tables {
    tables: Vec<Table>,
}

#[derive(Debug, Serialize)]
struct Table {
    name: &'static str,
    doc: &'static str,
    kind: &'static str,
    columns: Vec<Column>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<TableRows>,
}

#[derive(Debug, Serialize)]
struct Column {
    name: &'static str,
    doc: &'static str,
    r#type: &'static str,
    semantic: &'static str,
    role: &'static str,
    class: &'static str,
    visibility: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    template_of: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Scripts {
    scripts: Vec<Script>,
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are those of the answer")]
struct Script {
    name: &'static str,
    doc: &'static str,
    script: &'static str,
}

/// `GET /api/v1/tables`.
pub(crate) async fn tables(State(shared): AppState) -> Json<Tables> {
    let tables = schema::readable()
        .map(|table| Table {
            name: table.name,
            doc: table.doc.trim(),
            kind: kind(table.kind),
            columns: table.columns.iter().map(column).collect(),
            rows: shared.status.rows(table.name),
        })
        .collect();
    Json(Tables { tables })
}

/// `GET /api/v1/openapi.json`.
pub(crate) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

fn column(column: &ColumnDef) -> Column {
    Column {
        name: column.name,
        doc: column.doc.trim(),
        r#type: column.pxl_type.name(),
        semantic: column.semantic.name(),
        role: match column.role {
            Role::Time => "time",
            Role::Dimension => "dimension",
            Role::Measure => "measure",
            Role::Sketched => "sketched",
            Role::Counter => "counter",
            Role::Detail => "detail",
        },
        class: match column.class {
            DataClass::Plain => "plain",
            DataClass::Body => "body",
            DataClass::Headers => "headers",
        },
        visibility: match column.visibility {
            Visibility::Column => "column",
            Visibility::Context => "context",
        },
        template_of: column.template_of,
    }
}

fn kind(kind: TableKind) -> &'static str {
    match kind {
        TableKind::Event => "event",
        TableKind::Counter => "counter",
        TableKind::Gauge => "gauge",
        TableKind::Stacks => "stacks",
        TableKind::State => "state",
        TableKind::Record => "record",
    }
}

/// `GET /api/v1/scripts`.
pub(crate) async fn scripts() -> Json<Scripts> {
    let scripts = Engine::scripts()
        .iter()
        .map(|script| Script { name: script.name, doc: script.doc, script: script.text })
        .collect();
    Json(Scripts { scripts })
}
