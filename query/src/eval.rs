//! Evaluates a script on symbols: what it displays and exports, as typed relations.
//!
//! Nothing is read here. A mistake is recorded with its place, and evaluation goes on with the next
//! statement, so that one run reports all of them; what depends on a mistake is left alone.

use std::collections::HashMap;
use std::sync::Arc;

use undine_schema::TimeNs;
use undine_schema::trace::{TraceColumn, Tracepoint};

mod value;
mod statements;
mod names;
mod expressions;
mod calls;
mod by_text;
mod arguments;
mod bind;
mod frame;
mod module;
mod natives;
mod export;
mod library;
mod trace;

pub(crate) use trace::tables_instead;
use value::{Frame, Value};

use crate::ast::Script;
use crate::diagnostics::{Diagnostic, Range};
use crate::otel::ExportSpec;
use crate::parse;
use crate::relation::{Relation, Relations, TooMany};

/// A function that is called by name with texts as arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionCall {
    /// The function's name.
    pub name: String,
    /// Parameter names with values, which are read by the parameter's annotation.
    pub args: Vec<(String, String)>,
    /// What the result's table is called.
    pub output_prefix: String,
}

/// The span of time that a scheduled script covers, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PluginWindow {
    /// `px.plugin.start_time`
    pub start: TimeNs,
    /// `px.plugin.end_time`
    pub end: TimeNs,
}

/// What evaluation takes from outside.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) now: i64,
    pub(crate) plugin: Option<PluginWindow>,
    pub(crate) has_plugin_endpoint: bool,
    pub(crate) functions: Vec<FunctionCall>,
    pub(crate) parse_limits: parse::Limits,
    pub(crate) nodes_max: usize,
    /// The tables of tracepoints, and their columns.
    pub(crate) traces: Vec<(String, Arc<[TraceColumn]>)>,
    /// Whether the tracepoints of the script are deployed, so that their tables are there.
    pub(crate) is_deployed: bool,
}

/// What a script asks for.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) sinks: Vec<Sink>,
    /// What is to be traced, or no longer, in order.
    pub(crate) mutations: Vec<Mutation>,
    /// Whether it reads a table that is not there before these have been made.
    pub(crate) awaits_tables: bool,
}

/// A change to what is traced.
#[derive(Debug)]
pub(crate) enum Mutation {
    Upsert(Tracepoint, Range),
    Delete(String, Range),
}

#[derive(Debug)]
pub(crate) enum Sink {
    Table { name: String, relation: Arc<Relation> },
    Export { relation: Arc<Relation>, spec: Arc<ExportSpec> },
}

impl Sink {
    pub(crate) fn relation(&self) -> &Arc<Relation> {
        match self {
            Self::Table { relation, .. } | Self::Export { relation, .. } => relation,
        }
    }
}

/// Evaluates `script`.
pub(crate) fn evaluate(
    script: &Script,
    surroundings: &Surroundings,
) -> Result<Program, Vec<Diagnostic>> {
    let mut evaluator = Evaluator::new(surroundings);
    evaluator.run(&script.body);
    evaluator.call_functions();
    let does_nothing = evaluator.sinks.is_empty() && evaluator.mutations.is_empty();
    if does_nothing && evaluator.mistakes.is_empty() {
        evaluator.mistakes.push(
            Diagnostic::new(Range::default(), "the script outputs nothing", "nothing to show")
                .help("end it with `px.display(df)` or `px.export(df, …)`"),
        );
    }
    if evaluator.mistakes.is_empty() {
        let Evaluator { sinks, mutations, awaits_tables, .. } = evaluator;
        Ok(Program { sinks, mutations, awaits_tables })
    } else {
        Err(evaluator.mistakes)
    }
}

/// A mistake that is recorded already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raised;

type Eval<T> = Result<T, Raised>;

/// Calls within calls that a script may make.
const CALLS_MAX: usize = 64;
/// Calls and operators that a script may evaluate in all.
const STEPS_MAX: usize = 1_000_000;

pub(crate) struct Evaluator<'a> {
    surroundings: &'a Surroundings,
    relations: Relations,
    globals: HashMap<Arc<str>, Value>,
    /// The names of the functions being called, innermost last.
    locals: Vec<Local>,
    /// What a script assigned to attributes of modules.
    attributes: HashMap<(&'static str, Arc<str>), Value>,
    sinks: Vec<Sink>,
    mutations: Vec<Mutation>,
    awaits_tables: bool,
    /// Tables that the script's tracepoints make.
    made_tables: Vec<String>,
    mistakes: Vec<Diagnostic>,
    steps: usize,
    /// The functions of `pxviews`, once it was imported.
    views: Option<Arc<HashMap<Arc<str>, Value>>>,
    /// Where the script called the library that is being evaluated.
    library_call: Option<Range>,
}

#[derive(Default)]
struct Local {
    names: HashMap<Arc<str>, Value>,
    around: Option<Arc<HashMap<Arc<str>, Value>>>,
}

impl<'a> Evaluator<'a> {
    fn new(surroundings: &'a Surroundings) -> Self {
        Self {
            surroundings,
            relations: Relations::new(surroundings.nodes_max),
            globals: HashMap::new(),
            locals: Vec::new(),
            attributes: HashMap::new(),
            sinks: Vec::new(),
            mutations: Vec::new(),
            awaits_tables: false,
            made_tables: Vec::new(),
            mistakes: Vec::new(),
            steps: 0,
            views: None,
            library_call: None,
        }
    }

    fn fail(&mut self, mut diagnostic: Diagnostic) -> Raised {
        if let Some(range) = self.library_call {
            diagnostic.range = range;
        }
        if self.mistakes.len() < 100 {
            self.mistakes.push(diagnostic);
        }
        Raised
    }

    fn made(&mut self, made: Result<Arc<Relation>, TooMany>, range: Range) -> Eval<Frame> {
        match made {
            Ok(relation) => Ok(Frame::new(relation)),
            Err(TooMany { nodes_max }) => {
                let message = format!("the script builds more than {nodes_max} operators");
                Err(self.fail(Diagnostic::new(range, message, "one too many here")))
            }
        }
    }

    fn step(&mut self, range: Range) -> Eval<()> {
        self.steps += 1;
        if self.steps == STEPS_MAX {
            let message = format!("the script takes more than {STEPS_MAX} steps to evaluate");
            return Err(self.fail(Diagnostic::new(range, message, "given up here")));
        }
        if self.steps > STEPS_MAX { Err(Raised) } else { Ok(()) }
    }

    fn call_functions(&mut self) {
        for call in &self.surroundings.functions {
            // The mistake is recorded; the other functions may have some of their own.
            let Err(Raised) = self.call_by_text(call) else { continue };
        }
    }

    fn is_function_mode(&self) -> bool {
        !self.surroundings.functions.is_empty()
    }

    fn add_table(&mut self, name: String, frame: &Frame) -> Eval<()> {
        let relation = self.settled(frame)?;
        let taken = |name: &str| {
            self.sinks.iter().any(|sink| matches!(sink, Sink::Table { name: n, .. } if n == name))
        };
        let name = if taken(&name) {
            let numbered = (1..=self.sinks.len()).map(|n| format!("{name}_{n}"));
            numbered.into_iter().find(|name| !taken(name)).unwrap_or(name)
        } else {
            name
        };
        self.sinks.push(Sink::Table { name, relation });
        Ok(())
    }
}
