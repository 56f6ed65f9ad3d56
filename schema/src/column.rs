//! What a column holds, what it means and what becomes of it.
//!
//! A table's declaration names a *marker* for each column, such as [`Port`] or [`DurationNs`]. The
//! marker fixes the Rust value that a row holds, the Arrow type, the `PxL` type and the semantic
//! type, so a unit cannot be forgotten.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayBuilder, ArrayRef, BooleanBuilder, FixedSizeBinaryBuilder, Float64Builder,
    Int64Builder, StringBuilder,
};
use arrow::datatypes::{DataType, Field};

use crate::{TimeNs, Upid};

/// A `PxL` data type. There are no nulls: absence is the type's zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PxlType {
    /// True or false.
    Boolean,
    /// A signed 64-bit integer.
    Int64,
    /// An IEEE double.
    Float64,
    /// Text.
    String,
    /// Nanoseconds since the epoch; Arrow `Int64`.
    Time64Ns,
    /// 128 bits, big-endian; Arrow `FixedSizeBinary(16)`.
    Uint128,
}

impl PxlType {
    /// The Arrow type in memory.
    pub fn arrow(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Int64 | Self::Time64Ns => DataType::Int64,
            Self::Float64 => DataType::Float64,
            Self::String => DataType::Utf8,
            Self::Uint128 => DataType::FixedSizeBinary(16),
        }
    }

    /// The name that Pixie's schema tables show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Boolean => "BOOLEAN",
            Self::Int64 => "INT64",
            Self::Float64 => "FLOAT64",
            Self::String => "STRING",
            Self::Time64Ns => "TIME64NS",
            Self::Uint128 => "UINT128",
        }
    }
}

/// What a value means to the people and programs that show it; it never changes the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are Pixie's and say what they tag")]
pub enum SemanticType {
    #[default]
    None,
    TimeNs,
    Upid,
    ServiceName,
    PodName,
    PodPhase,
    PodStatus,
    NodeName,
    ContainerName,
    ContainerState,
    ContainerStatus,
    NamespaceName,
    Bytes,
    Percent,
    DurationNs,
    ThroughputPerNs,
    ThroughputBytesPerNs,
    Quantiles,
    DurationNsQuantiles,
    IpAddress,
    Port,
    HttpReqMethod,
    HttpRespStatus,
    HttpRespMessage,
    ScriptReference,
}

impl SemanticType {
    /// The name that travels in Arrow field metadata and in answers, `ST_…` as in Pixie's API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "ST_NONE",
            Self::TimeNs => "ST_TIME_NS",
            Self::Upid => "ST_UPID",
            Self::ServiceName => "ST_SERVICE_NAME",
            Self::PodName => "ST_POD_NAME",
            Self::PodPhase => "ST_POD_PHASE",
            Self::PodStatus => "ST_POD_STATUS",
            Self::NodeName => "ST_NODE_NAME",
            Self::ContainerName => "ST_CONTAINER_NAME",
            Self::ContainerState => "ST_CONTAINER_STATE",
            Self::ContainerStatus => "ST_CONTAINER_STATUS",
            Self::NamespaceName => "ST_NAMESPACE_NAME",
            Self::Bytes => "ST_BYTES",
            Self::Percent => "ST_PERCENT",
            Self::DurationNs => "ST_DURATION_NS",
            Self::ThroughputPerNs => "ST_THROUGHPUT_PER_NS",
            Self::ThroughputBytesPerNs => "ST_THROUGHPUT_BYTES_PER_NS",
            Self::Quantiles => "ST_QUANTILES",
            Self::DurationNsQuantiles => "ST_DURATION_NS_QUANTILES",
            Self::IpAddress => "ST_IP_ADDRESS",
            Self::Port => "ST_PORT",
            Self::HttpReqMethod => "ST_HTTP_REQ_METHOD",
            Self::HttpRespStatus => "ST_HTTP_RESP_STATUS",
            Self::HttpRespMessage => "ST_HTTP_RESP_MESSAGE",
            Self::ScriptReference => "ST_SCRIPT_REFERENCE",
        }
    }
}

/// What becomes of a column when its table is summarised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The row's time: first and last are kept per window.
    Time,
    /// Rows are grouped by it.
    Dimension,
    /// Count, sum, minimum and maximum are kept.
    Measure,
    /// As a measure, and a quantile sketch.
    Sketched,
    /// A count that only grows until what it counts begins again: as a measure, and by how much it
    /// grew.
    Counter,
    /// Lives only as long as the row.
    Detail,
}

/// What a dimension tells of a row, which decides the [cubes](crate::Cube) that have it and when it
/// is folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Facet {
    /// What was done: a method, a path's template. Its texts are folded first.
    #[default]
    Operation,
    /// How it ended, and on which side it was seen; never folded.
    Outcome,
    /// Who did it: service, namespace, node; never folded.
    Owner,
    /// In which pod or container; folded last.
    Place,
    /// With whom; folded after the operation.
    Peer,
}

/// What a column of a table of versions tells of the version's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Life {
    /// Nothing.
    #[default]
    None,
    /// Versions of one thing have the same value here.
    Key,
    /// When the thing ended; zero while it is there.
    End,
}

/// How private a column is, and so which redaction rule it falls under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataClass {
    /// Telemetry about a request, not what it carried.
    Plain,
    /// What a user's program sent: bodies, queries.
    Body,
    /// Header names and values.
    Headers,
}

/// Whether a script sees a column as a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// An ordinary column, as upstream's schema has it.
    Column,
    /// Identity attached at ingest: `PxL` reaches it by `df.ctx['name']`, SQL by its name.
    Context,
}

/// One column of a table.
#[derive(Clone, Copy, Debug)]
pub struct ColumnDef {
    /// Its name.
    pub name: &'static str,
    /// What it holds, its unit and its bounds.
    pub doc: &'static str,
    /// Its `PxL` type, which fixes the Arrow type.
    pub pxl_type: PxlType,
    /// What its values mean.
    pub semantic: SemanticType,
    /// What a summary keeps of it.
    pub role: Role,
    /// Which redaction rule it falls under.
    pub class: DataClass,
    /// How scripts see it.
    pub visibility: Visibility,
    /// The column that this one is the template of, so that summaries can stand in for it.
    pub template_of: Option<&'static str>,
    /// What it tells of a row, where it is a dimension.
    pub facet: Facet,
    /// What it tells of a version, in a table of versions.
    pub life: Life,
}

impl ColumnDef {
    /// A column of marker `C`; it is a plain detail unless the declaration says more.
    pub const fn new<C: Column>(name: &'static str, doc: &'static str) -> Self {
        Self {
            name,
            doc,
            pxl_type: C::PXL_TYPE,
            semantic: C::SEMANTIC,
            role: Role::Detail,
            class: DataClass::Plain,
            visibility: Visibility::Column,
            template_of: None,
            facet: match C::SEMANTIC {
                SemanticType::ServiceName
                | SemanticType::NamespaceName
                | SemanticType::NodeName => Facet::Owner,
                SemanticType::PodName | SemanticType::ContainerName => Facet::Place,
                _ => Facet::Operation,
            },
            life: Life::None,
        }
    }

    /// Makes it the row's time.
    pub const fn time(self) -> Self {
        Self { role: Role::Time, ..self }
    }

    /// Makes it a dimension of the summary.
    pub const fn dimension(self) -> Self {
        Self { role: Role::Dimension, ..self }
    }

    /// Makes it a measure of the summary.
    pub const fn measure(self) -> Self {
        Self { role: Role::Measure, ..self }
    }

    /// Makes it a measure with a quantile sketch.
    pub const fn sketched(self) -> Self {
        Self { role: Role::Sketched, ..self }
    }

    /// Makes it a count that only grows until what it counts begins again.
    pub const fn counter(self) -> Self {
        Self { role: Role::Counter, ..self }
    }

    /// Says that it tells how the row ended, or on which side it was seen.
    pub const fn outcome(self) -> Self {
        Self { facet: Facet::Outcome, ..self }
    }

    /// Says that it tells of the other end.
    pub const fn peer(self) -> Self {
        Self { facet: Facet::Peer, ..self }
    }

    /// Says that versions of one thing have the same value here.
    pub const fn key(self) -> Self {
        Self { life: Life::Key, ..self }
    }

    /// Says that it tells when the thing ended; zero while it is there.
    pub const fn end(self) -> Self {
        Self { life: Life::End, ..self }
    }

    /// Marks it as something that a user's program sent.
    pub const fn body(self) -> Self {
        Self { class: DataClass::Body, ..self }
    }

    /// Marks it as headers.
    pub const fn headers(self) -> Self {
        Self { class: DataClass::Headers, ..self }
    }

    /// Shows it to scripts as context only.
    pub const fn context(self) -> Self {
        Self { visibility: Visibility::Context, ..self }
    }

    /// Makes it the template of `column`.
    pub const fn template_of(self, column: &'static str) -> Self {
        Self { template_of: Some(column), ..self }
    }

    /// The Arrow field: never null, with `PxL` and semantic type in its metadata.
    pub fn field(&self) -> Field {
        Field::new(self.name, self.pxl_type.arrow(), false).with_metadata(
            [
                (PXL_TYPE_KEY.to_owned(), self.pxl_type.name().to_owned()),
                (SEMANTIC_TYPE_KEY.to_owned(), self.semantic.name().to_owned()),
            ]
            .into(),
        )
    }
}

/// Arrow field metadata key under which the `PxL` type travels.
pub const PXL_TYPE_KEY: &str = "pxl.type";
/// Arrow field metadata key under which the semantic type travels.
pub const SEMANTIC_TYPE_KEY: &str = "pxl.semantic";

/// A column marker: the Rust value a row holds and everything that derives from it.
pub trait Column {
    /// What a row holds.
    type Value<'a>: Copy + std::fmt::Debug + Default;
    /// Where values gather.
    type Builder: std::fmt::Debug;
    /// Its `PxL` type.
    const PXL_TYPE: PxlType;
    /// Its semantic type.
    const SEMANTIC: SemanticType;

    /// An empty builder for `rows` values.
    fn builder(rows: usize) -> Self::Builder;
    /// Appends one value.
    fn append(builder: &mut Self::Builder, value: Self::Value<'_>);
    /// Takes the values, and starts again with room for as many, and for an eighth more of texts:
    /// batches of a table are alike, and what has to grow is copied. What is not used of the room is
    /// given back.
    fn finish(builder: &mut Self::Builder, room: Room) -> ArrayRef;
}

/// How much of the room that a builder began with is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Most of it.
    Used,
    /// Less than half.
    Spare,
}

impl Room {
    fn fit<A: Array + 'static>(self, mut values: A) -> ArrayRef {
        if self == Self::Spare {
            values.shrink_to_fit();
        }
        Arc::new(values)
    }
}

macro_rules! columns {
    ($($(#[$doc:meta])* $marker:ident: $value:ty, $builder:ty, $pxl:ident, $semantic:ident,
       |$rows:ident| $new:expr, |$full:ident| $again:expr, |$b:ident, $v:ident| $push:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $marker {}
        impl Column for $marker {
            type Value<'a> = $value;
            type Builder = $builder;
            const PXL_TYPE: PxlType = PxlType::$pxl;
            const SEMANTIC: SemanticType = SemanticType::$semantic;
            fn builder($rows: usize) -> Self::Builder { $new }
            #[inline]
            fn append($b: &mut Self::Builder, $v: Self::Value<'_>) { $push }
            fn finish(builder: &mut Self::Builder, room: Room) -> ArrayRef {
                let $full = &*builder;
                let again = $again;
                room.fit(std::mem::replace(builder, again).finish())
            }
        }
    )*};
}

macro_rules! text_columns {
    ($($(#[$doc:meta])* $marker:ident $semantic:ident;)*) => { columns! {$(
        $(#[$doc])*
        $marker: &'a str, StringBuilder, String, $semantic,
        |rows| StringBuilder::with_capacity(rows, rows * 16),
        |full| StringBuilder::with_capacity(full.len(), full.values_slice().len() * 9 / 8),
        |b, v| b.append_value(v);
    )*} };
}

macro_rules! integer_columns {
    ($($(#[$doc:meta])* $marker:ident $semantic:ident;)*) => { columns! {$(
        $(#[$doc])*
        $marker: i64, Int64Builder, Int64, $semantic,
        |rows| Int64Builder::with_capacity(rows), |full| Self::builder(full.len()),
        |b, v| b.append_value(v);
    )*} };
}

text_columns! {
    /// Text without further meaning.
    Text None;
    /// A textual IP address, or `-`.
    IpAddress IpAddress;
    /// A service's name.
    ServiceName ServiceName;
    /// A pod as `namespace/pod`.
    PodName PodName;
    /// A Kubernetes namespace.
    NamespaceName NamespaceName;
    /// A node's name.
    NodeName NodeName;
    /// A container's name.
    ContainerName ContainerName;
    /// An HTTP verb.
    HttpMethod HttpReqMethod;
    /// An HTTP reason phrase.
    HttpMessage HttpRespMessage;
}

integer_columns! {
    /// An integer without further meaning: a code, a count.
    Int None;
    /// A TCP or UDP port.
    Port Port;
    /// A size in bytes.
    ByteCount Bytes;
    /// A span of time in nanoseconds.
    DurationNs DurationNs;
    /// An HTTP status code.
    HttpStatus HttpRespStatus;
}

columns! {
    /// A point in time, nanoseconds since the epoch.
    Time: TimeNs, Int64Builder, Time64Ns, TimeNs,
    |rows| Int64Builder::with_capacity(rows), |full| Self::builder(full.len()),
    |b, v| b.append_value(v.get());
    /// A process.
    Process: Upid, FixedSizeBinaryBuilder, Uint128, Upid,
    |rows| FixedSizeBinaryBuilder::with_capacity(rows, 16), |full| Self::builder(full.len()),
    |b, v| b.append_value(v.as_bytes()).expect("a upid is 16 bytes, the builder's width");
    /// A double without unit.
    Float: f64, Float64Builder, Float64, None,
    |rows| Float64Builder::with_capacity(rows), |full| Self::builder(full.len()),
    |b, v| b.append_value(v);
    /// True or false.
    Flag: bool, BooleanBuilder, Boolean, None,
    |rows| BooleanBuilder::with_capacity(rows), |full| Self::builder(full.len()),
    |b, v| b.append_value(v);
}
