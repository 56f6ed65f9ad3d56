//! What a table is, and the macro that declares one.

use std::sync::{Arc, OnceLock};

use arrow::datatypes::{Schema, SchemaRef};

use crate::column::{ColumnDef, Life, PxlType, Role, SemanticType, Visibility};

/// How a table's rows age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TableKind {
    /// Things that happened: measures are summarised by dimensions.
    Event,
    /// Cumulative counters of an entity, which is always a dimension and never folded. First, last
    /// and by how much each grew are kept, over restarts of what is counted.
    Counter,
    /// Momentary values of an entity: first and last are kept beside the rest.
    Gauge,
    /// Counts of an entity's stacks: the [`STACKS_MAX`] most frequent of a window are kept, the rest
    /// is one stack `*`.
    Stacks,
    /// Versions of what exists; kept as long as the longest tier that refers to them.
    State,
    /// Findings; every row is kept.
    Record,
}

impl TableKind {
    /// Whether older windows are replaced by summaries.
    pub const fn is_summarised(self) -> bool {
        matches!(self, Self::Event | Self::Counter | Self::Gauge | Self::Stacks)
    }

    /// Whether a summary says what its measures were at the first and at the last row of a window.
    pub const fn has_ends(self) -> bool {
        matches!(self, Self::Counter | Self::Gauge)
    }
}

/// Stacks of one entity and window that a summary keeps apart.
pub const STACKS_MAX: usize = 200;

/// A table: its name, its columns and how it ages. Declared by [`table!`](crate::table!).
#[derive(Debug)]
pub struct TableDef {
    /// The name in scripts; it may hold dots and capitals.
    pub name: &'static str,
    /// One sentence for people.
    pub doc: &'static str,
    /// How its rows age.
    pub kind: TableKind,
    /// Its columns in order; the first is the time.
    pub columns: &'static [ColumnDef],
    #[doc(hidden)]
    pub schema: OnceLock<SchemaRef>,
}

impl TableDef {
    /// The Arrow schema of its batches in memory.
    pub fn arrow_schema(&self) -> SchemaRef {
        Arc::clone(self.schema.get_or_init(|| {
            Arc::new(Schema::new(self.columns.iter().map(ColumnDef::field).collect::<Vec<_>>()))
        }))
    }

    /// The column called `name`.
    pub fn column(&self, name: &str) -> Option<&'static ColumnDef> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The columns that a script sees, in order.
    pub fn visible_columns(&self) -> impl Iterator<Item = &'static ColumnDef> {
        self.columns.iter().filter(|column| column.visibility == Visibility::Column)
    }

    /// The columns that rows are grouped by in a summary, in order.
    pub fn dimensions(&self) -> impl Iterator<Item = &'static ColumnDef> {
        self.columns.iter().filter(|column| column.role == Role::Dimension)
    }

    /// The texts of which few may come again and again, and where they stand: dimensions, addresses, and
    /// what a template stands for.
    pub fn repeated_texts(&self) -> impl Iterator<Item = (usize, &'static ColumnDef)> {
        let has_template =
            |name| self.columns.iter().any(|column| column.template_of == Some(name));
        self.columns.iter().enumerate().filter(move |(_, column)| {
            column.pxl_type == PxlType::String
                && (column.role == Role::Dimension
                    || column.semantic == SemanticType::IpAddress
                    || has_template(column.name))
        })
    }

    /// The columns that a summary keeps states of, in order.
    pub fn measures(&self) -> impl Iterator<Item = &'static ColumnDef> {
        let kept = |role| matches!(role, Role::Measure | Role::Sketched | Role::Counter);
        self.columns.iter().filter(move |column| kept(column.role))
    }

    /// The measure whose highest values make the rows that are kept as examples of an event: the
    /// first that has a sketch.
    pub fn exemplified(&self) -> Option<&'static ColumnDef> {
        let mut columns = self.columns.iter().filter(|_| self.kind == TableKind::Event);
        columns.find(|column| column.role == Role::Sketched)
    }

    /// The column that tells `life` of a version.
    pub fn life(&self, life: Life) -> Option<&'static ColumnDef> {
        self.columns.iter().find(|column| column.life == life)
    }
}

impl PartialEq for TableDef {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for TableDef {}

/// Declares a table: its definition, its row and its batch builder.
///
/// ```ignore
/// table! {
///     /// One sentence about the table.
///     HTTP_EVENTS = "http_events": Event, HttpEvent, HttpEvents {
///         /// When the response ended.
///         time_: Time [time],
///         /// The verb.
///         req_method: HttpMethod [dimension],
///     }
/// }
/// ```
///
/// expands to `pub static HTTP_EVENTS: TableDef`, a row `pub struct HttpEvent<'a> { pub time_: TimeNs,
/// pub req_method: &'a str }`, and a builder `pub struct HttpEvents` with `new(rows)`, `push(&row)`,
/// `len()` and `finish() -> RecordBatch`. In brackets stand the methods of
/// [`ColumnDef`] that say more than the marker does.
#[macro_export]
macro_rules! table {
    (
        $(#[doc = $table_doc:literal])+
        $def:ident = $name:literal: $kind:ident, $row:ident, $builder:ident {
            $(
                $(#[doc = $doc:literal])+
                $column:ident: $marker:ident $([$($flag:ident $(($arg:literal))?),+])?,
            )+
        }
    ) => {
        $(#[doc = $table_doc])+
        pub static $def: $crate::TableDef = $crate::TableDef {
            name: $name,
            doc: concat!($($table_doc),+),
            kind: $crate::TableKind::$kind,
            columns: &[$(
                $crate::ColumnDef::new::<$crate::column::$marker>(
                    stringify!($column), concat!($($doc),+),
                )$($(.$flag($($arg)?))+)?,
            )+],
            schema: ::std::sync::OnceLock::new(),
        };

        #[doc = concat!("One row of `", $name, "`.")]
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $row<'a> {
            $($(#[doc = $doc])+ pub $column: <$crate::column::$marker as $crate::Column>::Value<'a>,)+
        }

        #[doc = concat!("Gathers rows of `", $name, "` into a batch.")]
        #[derive(Debug)]
        pub struct $builder {
            $($column: <$crate::column::$marker as $crate::Column>::Builder,)+
            pushed_rows: usize,
            /// Rows for which there was room from the beginning.
            room_rows: usize,
        }

        impl $builder {
            /// An empty builder with room for `rows` rows.
            pub fn new(rows: usize) -> Self {
                Self { $($column: <$crate::column::$marker as $crate::Column>::builder(rows),)+ pushed_rows: 0, room_rows: rows }
            }

            /// Appends a row.
            pub fn push(&mut self, row: &$row<'_>) {
                $(<$crate::column::$marker as $crate::Column>::append(&mut self.$column, row.$column);)+
                self.pushed_rows += 1;
            }

            /// Rows appended since the last [`finish`](Self::finish).
            pub fn len(&self) -> usize {
                self.pushed_rows
            }

            /// Whether there is nothing to finish.
            pub fn is_empty(&self) -> bool {
                self.pushed_rows == 0
            }

            /// Takes the rows as a batch and starts again empty, with room for as many.
            pub fn finish(&mut self) -> ::arrow::array::RecordBatch {
                let rows = ::std::mem::take(&mut self.pushed_rows);
                let room = ::std::mem::replace(&mut self.room_rows, rows);
                let room = if rows * 2 < room { $crate::column::Room::Spare } else { $crate::column::Room::Used };
                ::arrow::array::RecordBatch::try_new(
                    $def.arrow_schema(),
                    vec![$(<$crate::column::$marker as $crate::Column>::finish(&mut self.$column, room),)+],
                )
                .expect("the builders are those of the schema")
            }
        }
    };
}
