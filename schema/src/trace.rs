//! Dynamic tracing: what a script asks for, and the port to whoever can do it.
//!
//! A [`Tracepoint`] makes the calls of a function, or what a bpftrace program prints, rows of a table
//! that lives as long as it does. The query layer hands it over through [`Tracer`]; only the binary knows
//! who stands behind that. Such a table is in memory only, bounded in number, columns and rows, and has
//! no [`crate::TableDef`].

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};

use crate::column::{PXL_TYPE_KEY, SEMANTIC_TYPE_KEY};
use crate::{PxlType, SemanticType, TimeNs, Upid};

/// Most tracepoints at a time.
pub const TRACEPOINTS_MAX: usize = 16;
/// Most columns that a tracepoint declares.
pub const OUTPUTS_MAX: usize = 16;
/// Most bytes of the name of a tracepoint, a table, a column or a function.
pub const NAME_BYTES_MAX: usize = 256;
/// Most bytes of an expression.
pub const EXPRESSION_BYTES_MAX: usize = 256;
/// Longest time that a tracepoint lives unless it is asked for again.
pub const TTL_MAX: Duration = Duration::from_hours(24);

/// Most bytes of the text of a bpftrace program.
pub const PROGRAM_BYTES_MAX: usize = 64 * 1024;
/// Most bpftrace programs of one tracepoint, of which one is chosen.
pub const PROGRAMS_MAX: usize = 16;

/// What a script asks for: what is traced, as rows of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracepoint {
    /// What tells it from others.
    pub name: String,
    /// The table that its rows are in.
    pub table: String,
    /// What makes its rows.
    pub subject: TraceSubject,
    /// How long it lives.
    pub ttl: Duration,
}

/// What makes the rows of a tracepoint's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceSubject {
    /// The calls of a function.
    Function(TracedFunction),
    /// What a bpftrace program prints about processes that are watched: the one of these that is meant
    /// for this machine.
    Programs(Vec<TraceProgram>),
}

/// A function whose calls are traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedFunction {
    /// Whose calls.
    pub target: TraceTarget,
    /// The symbol of the function, or its name as people write it.
    pub function: String,
    /// What is kept of a call, beside its time and its process.
    pub outputs: Vec<TraceOutput>,
}

/// A bpftrace program and the machines that it is meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceProgram {
    /// The program.
    pub text: String,
    /// The first kernel that it is for.
    pub kernel_min: KernelVersion,
    /// The last kernel that it is for.
    pub kernel_max: KernelVersion,
    /// The name of the host that it is for; empty means any.
    pub host: String,
}

/// A kernel's version, such as 6.1.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion(pub [u16; 3]);

impl KernelVersion {
    /// Before all others.
    pub const FIRST: Self = Self([0; 3]);
    /// After all others.
    pub const LAST: Self = Self([u16::MAX; 3]);

    /// The numbers at the front of a text such as `5.18` or `6.18.44-lts`; those that it does not name
    /// are `others`. `None` where it begins with no number.
    pub fn parse(text: &str, others: Self) -> Option<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let mut version = others;
        let numbers = text[..end].split('.').take(3).filter(|part| !part.is_empty());
        let mut named = 0;
        for (place, number) in version.0.iter_mut().zip(numbers) {
            *place = number.parse().ok()?;
            named += 1;
        }
        (named > 0).then_some(version)
    }
}

impl Tracepoint {
    /// Whether `other` does the same, so that asking for it only makes this one live longer.
    pub fn does_the_same_as(&self, other: &Self) -> bool {
        (&self.name, &self.table, &self.subject) == (&other.name, &other.table, &other.subject)
    }
}

/// Whose calls are traced. Only processes that Undine watches can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceTarget {
    /// A process, and a function of its program.
    Process(Upid),
    /// A process, and a function of a library that it has mapped.
    SharedObject {
        /// The library's file name or the beginning of it, such as `libc.so`.
        name: String,
        /// The process.
        upid: Upid,
    },
    /// All processes that match every one of these texts that is not empty.
    Matching {
        /// A pod's name, or the beginning of it.
        pod: String,
        /// A container's name.
        container: String,
        /// A part of the command line.
        cmdline: String,
    },
}

/// A column of a tracepoint's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceOutput {
    /// Its name.
    pub column: String,
    /// What it holds.
    pub value: TraceValue,
}

/// What a column of a tracepoint's table holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceValue {
    /// An argument, or what it leads to.
    Argument(String),
    /// What the function gives back, or what that leads to.
    Returned(String),
    /// From call to return, in nanoseconds.
    Latency,
}

/// A column of a dynamic table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TraceColumn {
    /// Its name.
    pub name: Arc<str>,
    /// Its type.
    pub pxl_type: PxlType,
    /// What its values mean.
    pub semantic: SemanticType,
}

/// The Arrow schema of a dynamic table.
pub fn arrow_schema(columns: &[TraceColumn]) -> SchemaRef {
    let fields: Vec<_> = columns
        .iter()
        .map(|column| {
            let field = arrow::datatypes::Field::new(&*column.name, column.pxl_type.arrow(), false);
            field.with_metadata(
                [
                    (PXL_TYPE_KEY.to_owned(), column.pxl_type.name().to_owned()),
                    (SEMANTIC_TYPE_KEY.to_owned(), column.semantic.name().to_owned()),
                ]
                .into(),
            )
        })
        .collect();
    Arc::new(Schema::new(fields))
}

/// How a tracepoint fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TraceState {
    /// It is being prepared.
    Pending,
    /// Calls become rows.
    Running,
    /// It could not be deployed.
    Failed,
    /// It was deleted, or its time is over.
    Terminated,
}

impl TraceState {
    /// The name that scripts see, as upstream's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Terminated => "terminated",
        }
    }
}

/// What is known of a tracepoint, also some time after its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceStatus {
    /// A number that no other deployment has.
    pub id: [u8; 16],
    /// Its name.
    pub name: String,
    /// Its table.
    pub table: String,
    /// How it fares.
    pub state: TraceState,
    /// Why it failed or ended; empty otherwise.
    pub reason: String,
    /// Until when it lives.
    pub expires: TimeNs,
    /// What became of the calls, exact.
    pub counts: TraceCounts,
}

/// What became of the calls of a tracepoint's function, or of what its bpftrace program printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceCounts {
    /// Calls by processes that are watched; of a program the sum of the next three.
    pub calls: u64,
    /// Rows that were made of them.
    pub rows: u64,
    /// Calls that were only counted, because there were too many in a second.
    pub limited: u64,
    /// Calls that were lost because the kernel had no room; of a program what bpftrace says was lost of
    /// all that it writes, and lines that were too long.
    pub dropped: u64,
    /// Values that could not be read; their cells are zero or empty.
    pub unreadable: u64,
    /// Rows that made room for newer ones.
    pub evicted_rows: u64,
}

/// The rows of a dynamic table.
#[derive(Clone, Debug)]
pub struct TraceTable {
    /// Its columns in order; the first is the time.
    pub columns: Arc<[TraceColumn]>,
    /// Its rows, oldest first.
    pub batches: Vec<RecordBatch>,
}

/// Why a tracepoint was refused. A refused one is kept as a failed one in [`Tracer::statuses`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct TraceError {
    /// What failed, on which value.
    pub reason: String,
    /// What to do.
    pub help: String,
}

impl TraceError {
    /// A refusal for `reason`; `help` says what to do.
    pub fn new(reason: impl Into<String>, help: impl Into<String>) -> Self {
        Self { reason: reason.into(), help: help.into() }
    }
}

/// Deploys tracepoints and keeps their rows. What it does may hold a thread for some 100 ms, since
/// it reads the symbols of programs, or for seconds, while bpftrace compiles; so it must not be called
/// on an async worker.
pub trait Tracer: Send + Sync + std::fmt::Debug {
    /// Deploys a tracepoint, or makes one that does the same live longer. When it returns, every
    /// later call of the function is seen, and every later event of the program.
    ///
    /// # Errors
    /// Where the target, the function or a value is not there or cannot be read, where a program cannot
    /// be limited to what is watched or bpftrace refuses it, where another tracepoint has the name or its
    /// table other columns, or where there are too many.
    fn upsert(&self, tracepoint: Tracepoint) -> Result<(), TraceError>;

    /// Ends a tracepoint; its table is gone with it.
    ///
    /// # Errors
    /// Where there is none of that name.
    fn delete(&self, name: &str) -> Result<(), TraceError>;

    /// All tracepoints, and those that ended last.
    fn statuses(&self) -> Vec<TraceStatus>;

    /// The names and columns of all dynamic tables.
    fn tables(&self) -> Vec<(String, Arc<[TraceColumn]>)>;

    /// A dynamic table's rows now.
    fn table(&self, name: &str) -> Option<TraceTable>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_in_the_last_version_that_begins_like_it() {
        let parse = |text, others| KernelVersion::parse(text, others).map(|version| version.0);
        assert_eq!(parse("5.18", KernelVersion::FIRST), Some([5, 18, 0]));
        assert_eq!(parse("5.18", KernelVersion::LAST), Some([5, 18, u16::MAX]));
        assert_eq!(parse("6.18.44-fc", KernelVersion::FIRST), Some([6, 18, 44]));
        for text in ["", "six", "99999999", "-1", "."] {
            assert_eq!(parse(text, KernelVersion::FIRST), None, "{text}");
        }
    }
}
