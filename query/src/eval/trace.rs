//! The module `pxtrace`: functions to trace and programs of bpftrace to run, and the tables that come of
//! it.
//!
//! A script that deploys a tracepoint is evaluated twice. First it only says what to deploy; what it
//! does with the table waits, since the table's columns are known when the function has been found.
//! Then it is evaluated with the tables there.

use std::sync::Arc;
use std::time::Duration;

use undine_schema::Upid;
use undine_schema::trace::{
    KernelVersion, TRACEPOINTS_MAX, TraceColumn, TraceOutput, TraceProgram, TraceSubject,
    TraceTarget, TraceValue, TracedFunction, Tracepoint,
};

use super::arguments::{Arguments, Bound};
use super::value::{Target, TraceFunction, UserFunction, Value};
use super::{Eval, Evaluator, Mutation, Raised};
use crate::ast::ExprAt;
use crate::diagnostics::{Diagnostic, Range, did_you_mean};
use crate::relation::{Column, Traced};
use crate::scalar::{Const, Scalar};
use crate::time_text;

/// Tables that hold what well-known bpftrace programs find out, by what stands in their text.
const TABLES_INSTEAD: [(&str, &str); 14] = [
    ("kfree_skb", "tcp_drops"),
    ("tcp_drop", "tcp_drops"),
    ("tcp_retransmit", "tcp_retransmits"),
    ("tcp_send_reset", "tcp_resets"),
    ("tcp_receive_reset", "tcp_resets"),
    ("oom_kill", "cgroup_stats (memory_oom_events) and proc_exit_events"),
    ("sched_process_exit", "proc_exit_events"),
    ("execve", "processes"),
    ("sched_process_exec", "processes"),
    ("tcp_connect", "conn_stats"),
    ("inet_csk_accept", "conn_stats"),
    ("tcp_sendmsg", "conn_stats and tcp_stats_events"),
    ("tcp_cleanup_rbuf", "conn_stats and tcp_stats_events"),
    ("profile:hz", "stack_traces.beta"),
];

impl Evaluator<'_> {
    pub(super) fn trace(&mut self, function: TraceFunction, args: Arguments) -> Eval<Value> {
        match function {
            TraceFunction::Probe => {
                let mut bound = args.bind(self, "probe", ["fn_name"], 1)?;
                Ok(Value::Decorator(bound.text(self, 0)?))
            }
            TraceFunction::ArgExpr => {
                let mut bound = args.bind(self, "ArgExpr", ["expr"], 1)?;
                let expression = bound.text(self, 0)?.to_string();
                Ok(Value::Traced(Arc::new(TraceValue::Argument(expression))))
            }
            TraceFunction::RetExpr => {
                let mut bound = args.bind(self, "RetExpr", ["expr"], 1)?;
                let expression = bound.text(self, 0)?.to_string();
                Ok(Value::Traced(Arc::new(TraceValue::Returned(expression))))
            }
            TraceFunction::FunctionLatency => {
                args.bind(self, "FunctionLatency", [], 0)?;
                Ok(Value::Traced(Arc::new(TraceValue::Latency)))
            }
            TraceFunction::UpsertTracepoint => self.upsert_tracepoint(args),
            TraceFunction::DeleteTracepoint => {
                let mut bound = args.bind(self, "DeleteTracepoint", ["name"], 1)?;
                let (name, range) = (bound.text(self, 0)?.to_string(), bound.range);
                self.mutate(Mutation::Delete(name, range), range)
            }
            TraceFunction::SharedObject => {
                let mut bound = args.bind(self, "SharedObject", ["name", "upid"], 2)?;
                let name = bound.text(self, 0)?.to_string();
                let upid = self.upid(bound.required(1))?;
                Ok(processes(TraceTarget::SharedObject { name, upid }))
            }
            TraceFunction::PodProcess => {
                let names = ["pod_name", "container_name", "process_name"];
                let mut bound = args.bind(self, "PodProcess", names, 1)?;
                let pod = bound.text(self, 0)?.to_string();
                let [container, cmdline] =
                    [self.text_or_empty(&mut bound, 1)?, self.text_or_empty(&mut bound, 2)?];
                Ok(processes(TraceTarget::Matching { pod, container, cmdline }))
            }
            TraceFunction::ProcessTarget => {
                let mut bound = args.bind(self, "ProcessTarget", ["process_name"], 1)?;
                let cmdline = bound.text(self, 0)?.to_string();
                let (pod, container) = (String::new(), String::new());
                Ok(processes(TraceTarget::Matching { pod, container, cmdline }))
            }
            TraceFunction::LabelSelector => {
                let names = ["labels", "namespace", "container_name", "process_name"];
                args.bind(self, "LabelSelector", names, 2)?;
                Ok(Value::Target(Arc::new(Target::Labels)))
            }
            TraceFunction::KProbe => {
                args.bind(self, "kprobe", [], 0)?;
                Ok(Value::Target(Arc::new(Target::Kernel)))
            }
            TraceFunction::TraceProgram => {
                let names = ["program", "min_kernel", "max_kernel", "host_name"];
                let mut bound = args.bind(self, "TraceProgram", names, 1)?;
                let text = bound.text(self, 0)?.to_string();
                let kernel_min = self.kernel(&mut bound, 1, KernelVersion::FIRST)?;
                let kernel_max = self.kernel(&mut bound, 2, KernelVersion::LAST)?;
                let host = self.text_or_empty(&mut bound, 3)?;
                let program = TraceProgram { text, kernel_min, kernel_max, host };
                Ok(Value::TraceProgram(Arc::new(program)))
            }
        }
    }

    /// A bound of the kernels that a program is for; `any` where none is given.
    fn kernel<const N: usize>(
        &mut self,
        bound: &mut Bound<N>,
        at: usize,
        any: KernelVersion,
    ) -> Eval<KernelVersion> {
        let range = bound.range;
        let text = self.text_or_empty(bound, at)?;
        if text.is_empty() {
            return Ok(any);
        }
        KernelVersion::parse(&text, any).ok_or_else(|| {
            let message = format!("`{text}` is no version of a kernel");
            let diagnostic = Diagnostic::new(range, message, "in this call");
            self.fail(diagnostic.help("write a text such as '5.19'"))
        })
    }

    fn text_or_empty<const N: usize>(&mut self, bound: &mut Bound<N>, at: usize) -> Eval<String> {
        let given = bound.optional_text(self, at)?;
        Ok(given.map(|text| text.to_string()).unwrap_or_default())
    }

    /// What a function with a decorator is.
    pub(super) fn decorate(
        &mut self,
        decorator: &ExprAt,
        function: Arc<UserFunction>,
    ) -> Eval<Value> {
        match self.expr(decorator)? {
            Value::Decorator(traced) => Ok(Value::Probe(traced, function)),
            Value::Poison => Err(Raised),
            other => {
                let label = format!("this is {}", other.describe());
                let message = "this cannot decorate a function";
                let help = "write `@pxtrace.probe('function')`, or leave it out";
                Err(self.fail(Diagnostic::new(decorator.range, message, label).help(help)))
            }
        }
    }

    fn upsert_tracepoint(&mut self, args: Arguments) -> Eval<Value> {
        let names = ["name", "table_name", "probe_fn", "target", "ttl"];
        let mut bound = args.bind(self, "UpsertTracepoint", names, 5)?;
        let range = bound.range;
        let (name, table) = (bound.text(self, 0)?.to_string(), bound.text(self, 1)?.to_string());
        // Known also where what follows is wrong, so that its readers are not blamed.
        self.made_tables.push(table.clone());
        let (probe, probe_range) = bound.required(2);
        let (target, ttl) = (bound.required(3), bound.required(4));
        let subject = if let Some(programs) = programs(&probe) {
            self.kernel_target(target)?;
            TraceSubject::Programs(programs)
        } else {
            let (function, outputs) = self.probe(probe, probe_range)?;
            let target = self.target(target)?;
            TraceSubject::Function(TracedFunction { target, function, outputs })
        };
        let ttl = self.ttl(ttl)?;
        let tracepoint = Tracepoint { name, table, subject, ttl };
        self.mutate(Mutation::Upsert(tracepoint, range), range)
    }

    fn mutate(&mut self, mutation: Mutation, range: Range) -> Eval<Value> {
        if self.mutations.len() == 2 * TRACEPOINTS_MAX {
            let message = format!("a script changes at most {} tracepoints", 2 * TRACEPOINTS_MAX);
            return Err(self.fail(Diagnostic::new(range, message, "one too many")));
        }
        self.mutations.push(mutation);
        Ok(Value::None)
    }

    /// The function that a probe traces, and what it keeps of its calls.
    fn probe(&mut self, probe: Value, range: Range) -> Eval<(String, Vec<TraceOutput>)> {
        let (traced, function) = match probe {
            Value::Probe(traced, function) => (traced, function),
            Value::Poison => return Err(Raised),
            other => {
                let message = "`probe_fn` must be a function below `@pxtrace.probe('…')`, or a program \
                               of bpftrace";
                let label = format!("this is {}", other.describe());
                let help = "a program is a text, a pxtrace.TraceProgram or a list of these";
                return Err(self.fail(Diagnostic::new(range, message, label).help(help)));
            }
        };
        let none = Arguments { range, positional: Vec::new(), named: Vec::new() };
        let result = self.call_user(&function, none)?;
        let range = function.def.name.range;
        let (Value::List(rows) | Value::Tuple(rows)) = result else {
            let message = "a probe must return a list of dicts";
            let label = format!("it returns {}", result.describe());
            let help = "write `return [{'column': pxtrace.ArgExpr('parameter')}]`";
            return Err(self.fail(Diagnostic::new(range, message, label).help(help)));
        };
        let mut outputs = Vec::new();
        for (row, row_range) in rows.iter() {
            let Value::Dict(entries) = row else {
                let message = "a probe must return a list of dicts";
                let label = format!("this is {}", row.describe());
                return Err(self.fail(Diagnostic::new(*row_range, message, label)));
            };
            for entry in entries.iter() {
                let (Value::Scalar(Scalar { value: Const::Str(column), .. }), Value::Traced(value)) =
                    (&entry.key.0, &entry.value.0)
                else {
                    let message = "a column of a probe is a name with a value of the call";
                    let label = format!("this is {}", entry.value.0.describe());
                    let help = "write `'column': pxtrace.ArgExpr('parameter')`, RetExpr or \
                                FunctionLatency";
                    let diagnostic = Diagnostic::new(entry.value.1, message, label);
                    return Err(self.fail(diagnostic.help(help)));
                };
                let (column, value) = (column.to_string(), TraceValue::clone(value));
                outputs.push(TraceOutput { column, value });
            }
        }
        Ok((traced.to_string(), outputs))
    }

    /// Checks the target of a program, which says itself what it traces.
    fn kernel_target(&mut self, (target, range): (Value, Range)) -> Eval<()> {
        match target {
            Value::Target(target) if matches!(*target, Target::Kernel) => Ok(()),
            Value::Poison => Err(Raised),
            other => {
                let message = "the target of a bpftrace program must be `pxtrace.kprobe()`";
                let label = format!("this is {}", other.describe());
                let help = "the program's own probes say what it traces; Undine limits it to what it \
                            watches";
                Err(self.fail(Diagnostic::new(range, message, label).help(help)))
            }
        }
    }

    fn target(&mut self, (target, range): (Value, Range)) -> Eval<TraceTarget> {
        let target = match target {
            Value::Scalar(Scalar { value: Const::Uint128(_), .. }) => {
                return self.upid((target, range)).map(TraceTarget::Process);
            }
            Value::Target(target) => target,
            Value::Poison => return Err(Raised),
            other => {
                let message = "the target must be a process";
                let label = format!("this is {}", other.describe());
                let help = "write `px.uint128('…')` with the upid of a row, \
                            `pxtrace.ProcessTarget('part of a command line')`, \
                            `pxtrace.PodProcess('…')` or `pxtrace.SharedObject('libc.so', upid)`";
                return Err(self.fail(Diagnostic::new(range, message, label).help(help)));
            }
        };
        match &*target {
            Target::Processes(target) => Ok(target.clone()),
            Target::Kernel => {
                let message = "functions of the kernel are traced by programs of bpftrace only";
                let help = "give the text of one instead of the function, or read the tables tcp_drops, \
                            tcp_retransmits, tcp_resets, proc_exit_events and cgroup_stats";
                Err(self.fail(Diagnostic::new(range, message, "the kernel").help(help)))
            }
            Target::Labels => {
                let message = "pods cannot be found by their labels: Undine asks no Kubernetes";
                let help = "name the pod by its uid: `pxtrace.PodProcess('…')`";
                Err(self.fail(Diagnostic::new(range, message, "labels").help(help)))
            }
        }
    }

    fn upid(&mut self, (value, range): (Value, Range)) -> Eval<Upid> {
        match value {
            Value::Scalar(Scalar { value: Const::Uint128(bytes), .. }) => {
                Ok(Upid::from_bytes(bytes))
            }
            Value::Poison => Err(Raised),
            other => {
                let message = "a process is named by its upid";
                let label = format!("this is {}", other.describe());
                let help = "write `px.uint128('…')` with the upid of a row";
                Err(self.fail(Diagnostic::new(range, message, label).help(help)))
            }
        }
    }

    fn ttl(&mut self, (value, range): (Value, Range)) -> Eval<Duration> {
        let ns = match value {
            Value::Scalar(Scalar { value: Const::Str(text), .. }) => {
                let parsed = time_text::duration(&text);
                parsed.map_err(|error| self.no_time(&text, error, range))?
            }
            Value::Scalar(Scalar { value: Const::Int(ns), .. }) => ns,
            other => {
                let label = format!("this is {}", other.describe());
                let message = "`ttl` must be a duration";
                let help = "write a text such as '10m'";
                return Err(self.fail(Diagnostic::new(range, message, label).help(help)));
            }
        };
        match u64::try_from(ns) {
            Ok(ns) if ns > 0 => Ok(Duration::from_nanos(ns)),
            _ => {
                let message = "a tracepoint must live for some time";
                let help = "write a text such as '10m'";
                Err(self.fail(Diagnostic::new(range, message, "not ahead").help(help)))
            }
        }
    }

    /// The rows of a table that a tracepoint makes.
    pub(super) fn traced_frame(
        &mut self,
        name: &str,
        name_range: Range,
        mut bound: Bound<4>,
    ) -> Eval<Value> {
        let is_own = self.made_tables.iter().any(|made| made == name);
        if is_own && !self.surroundings.is_deployed {
            self.awaits_tables = true;
            return Err(Raised);
        }
        let known = self.surroundings.traces.iter().find(|(known, _)| known == name);
        let Some((_, columns)) = known else { return Err(self.no_table(name, name_range)) };
        let columns = Arc::clone(columns);
        let columns = self.selected_traced(name, &columns, &mut bound)?;
        let mut time = |evaluator: &mut Self, at| match bound.optional(at) {
            Some((value, range)) => evaluator.point(&value, range).map(Some),
            None => Ok(None),
        };
        let (start, end) = (time(self, 2)?, time(self, 3)?);
        let traced = Traced { table: name.into(), start, end };
        let made = self.relations.traced(traced, columns, bound.range);
        self.made(made, bound.range).map(Value::Frame)
    }

    fn selected_traced(
        &mut self,
        table: &str,
        columns: &[TraceColumn],
        bound: &mut Bound<4>,
    ) -> Eval<Vec<Column>> {
        let column = |column: &TraceColumn| Column {
            name: Arc::clone(&column.name),
            pxl_type: column.pxl_type,
            semantic: column.semantic,
        };
        let Some((value, range)) = bound.optional(1) else {
            return Ok(columns.iter().map(column).collect());
        };
        let wanted = super::arguments::names(&value, range).ok_or_else(|| {
            let label = format!("this is {}", value.describe());
            self.fail(Diagnostic::new(range, "`select` is a list of column names", label))
        })?;
        wanted
            .into_iter()
            .map(|(name, range)| {
                let found = columns.iter().find(|column| column.name == name);
                found.map(column).ok_or_else(|| {
                    let message = format!("table `{table}` has no column `{name}`");
                    let help = did_you_mean(&name, columns.iter().map(|column| &*column.name));
                    let diagnostic = Diagnostic::new(range, message, "unknown column");
                    self.fail(diagnostic.maybe_help(help))
                })
            })
            .collect()
    }
}

/// The programs of bpftrace that `probe_fn` is, if it is any.
fn programs(probe: &Value) -> Option<Vec<TraceProgram>> {
    let program = |value: &Value| match value {
        Value::TraceProgram(program) => Some(TraceProgram::clone(program)),
        Value::Scalar(Scalar { value: Const::Str(text), .. }) => Some(TraceProgram {
            text: text.to_string(),
            kernel_min: KernelVersion::FIRST,
            kernel_max: KernelVersion::LAST,
            host: String::new(),
        }),
        _ => None,
    };
    match probe {
        Value::List(all) | Value::Tuple(all) if !all.is_empty() => {
            all.iter().map(|(value, _)| program(value)).collect()
        }
        one => program(one).map(|program| vec![program]),
    }
}

/// The tables that hold what programs find out, as far as they are known.
pub(crate) fn tables_instead(subject: &TraceSubject) -> Option<&'static str> {
    let TraceSubject::Programs(programs) = subject else { return None };
    let is_in = |probe: &str| programs.iter().any(|program| program.text.contains(probe));
    TABLES_INSTEAD.iter().find(|(probe, _)| is_in(probe)).map(|(_, tables)| *tables)
}

fn processes(target: TraceTarget) -> Value {
    Value::Target(Arc::new(Target::Processes(target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_that_is_named_instead_is_there() {
        for (_, named) in TABLES_INSTEAD {
            let tables = named.split([' ', '(', ')']).filter(|word| word.contains('_'));
            for table in tables.filter(|word| *word != "memory_oom_events") {
                assert!(undine_schema::tables::find(table).is_some(), "{table}");
            }
        }
    }
}
