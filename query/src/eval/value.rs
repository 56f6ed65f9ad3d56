//! What a name can stand for while a script is evaluated.

use std::collections::HashMap;
use std::sync::Arc;

use undine_schema::trace::{TraceProgram, TraceTarget, TraceValue};
use undine_schema::{PxlType, SemanticType};

use crate::ast::Def;
use crate::diagnostics::Range;
use crate::expr::{Annotation, Symbol};
use crate::otel::{Endpoint, ExportSpec, Signal};
use crate::relation::{AggregateKind, Listing, Relation};
use crate::scalar::{Const, Scalar};

#[derive(Clone, Debug)]
pub(crate) enum Value {
    None,
    Scalar(Scalar),
    List(Arc<[(Self, Range)]>),
    Tuple(Arc<[(Self, Range)]>),
    Dict(Arc<[Entry]>),
    /// An expression on columns of whatever DataFrame it ends up in.
    Column(Arc<Symbol>),
    Frame(Frame),
    /// `df.groupby(…)`
    Grouped {
        frame: Frame,
        keys: Arc<[(Arc<str>, Range)]>,
    },
    /// `df.ctx`
    Context,
    Method {
        frame: Frame,
        method: Method,
    },
    Grouping {
        frame: Frame,
        keys: Arc<[(Arc<str>, Range)]>,
    },
    Function(Arc<UserFunction>),
    Native(Native),
    /// A function on rows.
    Scalarwise(&'static str),
    Aggregate(AggregateKind),
    Listing(Listing),
    Module(Module),
    Type(Annotation),
    ListType,
    FrameType,
    Endpoint(Arc<Endpoint>),
    Signal(Arc<(Signal, Range)>),
    Export(Arc<ExportSpec>),
    /// `@pxtrace.probe(…)`
    Decorator(Arc<str>),
    /// A function whose result says what is kept of each call of the function that it names.
    Probe(Arc<str>, Arc<UserFunction>),
    /// `pxtrace.ArgExpr(…)` and its like
    Traced(Arc<TraceValue>),
    /// Whose calls are traced.
    Target(Arc<Target>),
    /// A program of bpftrace, and what it is meant for.
    TraceProgram(Arc<TraceProgram>),
    /// What came of a mistake that is reported already.
    Poison,
}

/// Whose calls are traced.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// Processes.
    Processes(TraceTarget),
    /// The kernel itself.
    Kernel,
    /// Pods by their labels.
    Labels,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: (Value, Range),
    pub(crate) value: (Value, Range),
}

/// A DataFrame: a relation, and columns that a projection named though they are not there. The very
/// next assignment may still bring them in, as upstream allows.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) relation: Arc<Relation>,
    pub(crate) absent: Option<Arc<Absent>>,
}

#[derive(Debug)]
pub(crate) struct Absent {
    /// The whole projection, in order.
    pub(crate) wanted: Vec<Arc<str>>,
    /// Those of it that are missing.
    pub(crate) missing: Vec<(Arc<str>, Range)>,
}

impl Frame {
    pub(crate) fn new(relation: Arc<Relation>) -> Self {
        Self { relation, absent: None }
    }
}

#[derive(Debug)]
pub(crate) struct UserFunction {
    pub(crate) def: Arc<Def>,
    /// The values around a function that stands in another.
    pub(crate) around: Option<Arc<HashMap<Arc<str>, Value>>>,
    pub(crate) annotations: Vec<Option<Value>>,
    /// Whether it stands in a library, and not in the script.
    pub(crate) in_library: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Merge,
    Agg,
    Map,
    Drop,
    Head,
    Filter,
    Groupby,
    Append,
    Rolling,
    Stream,
}

impl Method {
    pub(crate) const ALL: [(&'static str, Self); 10] = [
        ("merge", Self::Merge),
        ("agg", Self::Agg),
        ("map", Self::Map),
        ("drop", Self::Drop),
        ("head", Self::Head),
        ("filter", Self::Filter),
        ("groupby", Self::Groupby),
        ("append", Self::Append),
        ("rolling", Self::Rolling),
        ("stream", Self::Stream),
    ];

    pub(crate) fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(other, _)| *other == name).map(|(_, method)| *method)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Module {
    Px,
    Otel,
    OtelMetric,
    OtelTrace,
    Plugin,
    Views,
    Trace,
}

impl Module {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Px => "px",
            Self::Otel => "px.otel",
            Self::OtelMetric => "px.otel.metric",
            Self::OtelTrace => "px.otel.trace",
            Self::Plugin => "px.plugin",
            Self::Views => "pxviews",
            Self::Trace => "pxtrace",
        }
    }
}

/// Functions that run while the script is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Native {
    DataFrame,
    Display,
    Debug,
    Export,
    Now,
    ParseTime,
    ParseDuration,
    FormatDuration,
    /// A number of units of this many nanoseconds.
    Units(i64),
    ScriptReference,
    EqualsAny,
    Uint128,
    MakeUpid,
    OtelData,
    OtelEndpoint,
    OtelGauge,
    OtelSummary,
    OtelSpan,
    Trace(TraceFunction),
}

/// Functions of the module `pxtrace`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TraceFunction {
    Probe,
    ArgExpr,
    RetExpr,
    FunctionLatency,
    UpsertTracepoint,
    DeleteTracepoint,
    SharedObject,
    PodProcess,
    ProcessTarget,
    LabelSelector,
    KProbe,
    TraceProgram,
}

impl TraceFunction {
    pub(crate) const ALL: [(&'static str, Self); 12] = [
        ("ArgExpr", Self::ArgExpr),
        ("DeleteTracepoint", Self::DeleteTracepoint),
        ("FunctionLatency", Self::FunctionLatency),
        ("LabelSelector", Self::LabelSelector),
        ("PodProcess", Self::PodProcess),
        ("ProcessTarget", Self::ProcessTarget),
        ("RetExpr", Self::RetExpr),
        ("SharedObject", Self::SharedObject),
        ("TraceProgram", Self::TraceProgram),
        ("UpsertTracepoint", Self::UpsertTracepoint),
        ("kprobe", Self::KProbe),
        ("probe", Self::Probe),
    ];
}

impl Native {
    pub(crate) const PX: [(&'static str, Self); 18] = [
        ("DataFrame", Self::DataFrame),
        ("days", Self::Units(86_400_000_000_000)),
        ("debug", Self::Debug),
        ("display", Self::Display),
        ("equals_any", Self::EqualsAny),
        ("export", Self::Export),
        ("format_duration", Self::FormatDuration),
        ("hours", Self::Units(3_600_000_000_000)),
        ("make_upid", Self::MakeUpid),
        ("microseconds", Self::Units(1_000)),
        ("milliseconds", Self::Units(1_000_000)),
        ("minutes", Self::Units(60_000_000_000)),
        ("now", Self::Now),
        ("parse_duration", Self::ParseDuration),
        ("parse_time", Self::ParseTime),
        ("script_reference", Self::ScriptReference),
        ("seconds", Self::Units(1_000_000_000)),
        ("uint128", Self::Uint128),
    ];
}

pub(crate) const LISTINGS: [(&str, Listing); 11] = [
    ("GetAgentStatus", Listing::Agents),
    ("GetLinuxHeadersStatus", Listing::KernelHeaders),
    ("GetProfilerSamplingPeriodMS", Listing::ProfilerPeriods),
    ("GetSchemas", Listing::Schemas),
    ("GetTables", Listing::Tables),
    ("GetTracepointStatus", Listing::Tracepoints),
    ("GetUDAList", Listing::Aggregates),
    ("GetUDFList", Listing::Functions),
    ("GetUDTFList", Listing::TableFunctions),
    ("_DebugTableInfo", Listing::TableInfo),
    ("_HeapGrowthStacks", Listing::HeapGrowth),
];

const fn annotation(name: &'static str, pxl_type: PxlType, semantic: SemanticType) -> Annotation {
    Annotation { name, pxl_type, semantic }
}

/// Types that stand in `px`.
pub(crate) const CASTS: [Annotation; 10] = [
    annotation("Bytes", PxlType::Int64, SemanticType::Bytes),
    annotation("Container", PxlType::String, SemanticType::ContainerName),
    annotation("DurationNanos", PxlType::Int64, SemanticType::DurationNs),
    annotation("Namespace", PxlType::String, SemanticType::NamespaceName),
    annotation("Node", PxlType::String, SemanticType::NodeName),
    annotation("Percent", PxlType::Float64, SemanticType::Percent),
    annotation("Pod", PxlType::String, SemanticType::PodName),
    annotation("Service", PxlType::String, SemanticType::ServiceName),
    annotation("Time", PxlType::Time64Ns, SemanticType::TimeNs),
    annotation("UPID", PxlType::Uint128, SemanticType::Upid),
];

/// Types that are there without an import.
pub(crate) const TYPES: [Annotation; 4] = [
    annotation("bool", PxlType::Boolean, SemanticType::None),
    annotation("float", PxlType::Float64, SemanticType::None),
    annotation("int", PxlType::Int64, SemanticType::None),
    annotation("str", PxlType::String, SemanticType::None),
];

impl Value {
    pub(crate) fn text(text: impl Into<Arc<str>>) -> Self {
        Self::constant(Const::Str(text.into()))
    }

    pub(crate) fn constant(value: Const) -> Self {
        Self::Scalar(value.into())
    }

    /// What it is, for messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::None => "None".to_owned(),
            Self::Scalar(scalar) => {
                format!("a constant of type {}", scalar.value.pxl_type().name())
            }
            Self::List(_) => "a list".to_owned(),
            Self::Tuple(_) => "a tuple".to_owned(),
            Self::Dict(_) => "a dict".to_owned(),
            Self::Column(_) => "a column".to_owned(),
            Self::Frame(_) => "a DataFrame".to_owned(),
            Self::Grouped { .. } => "a grouped DataFrame".to_owned(),
            Self::Context => "a DataFrame's ctx".to_owned(),
            Self::Method { .. } | Self::Grouping { .. } => "a method".to_owned(),
            Self::Function(_) | Self::Native(_) | Self::Scalarwise(_) | Self::Listing(_) => {
                "a function".to_owned()
            }
            Self::Aggregate(_) => "an aggregate".to_owned(),
            Self::Module(module) => format!("the module {}", module.name()),
            Self::Type(_) | Self::ListType | Self::FrameType => "a type".to_owned(),
            Self::Endpoint(_) => "an endpoint".to_owned(),
            Self::Signal(_) => "a metric or span".to_owned(),
            Self::Export(_) => "an export target".to_owned(),
            Self::Decorator(_) => "a decorator".to_owned(),
            Self::Probe(..) => "a probe".to_owned(),
            Self::Traced(_) => "a value of a call".to_owned(),
            Self::Target(_) => "a target".to_owned(),
            Self::TraceProgram(_) => "a bpftrace program".to_owned(),
            Self::Poison => "nothing".to_owned(),
        }
    }
}
