//! What a program needs to know, by the relations that it is made of.

use std::collections::HashSet;
use std::sync::Arc;

use undine_schema::trace::Tracer;

use crate::eval::{Program, Sink};
use crate::expr::{Typed, TypedKind};
use crate::functions::Needs;
use crate::functions::environment::Environment;
use crate::relation::{Listing, Op, Relation};

/// What a program needs to know of tracepoints.
pub(super) fn trace_environment(
    environment: &mut Environment,
    tracer: &dyn Tracer,
    program: &Program,
) {
    for relation in all_below(program.sinks.iter().map(Sink::relation)) {
        match &relation.op {
            Op::Traced(traced) => {
                if let Some(table) = tracer.table(&traced.table) {
                    environment.traces.insert(traced.table.to_string(), table);
                }
            }
            Op::Listing(Listing::Tracepoints) => environment.tracepoints = tracer.statuses(),
            Op::Listing(Listing::Tables | Listing::Schemas) => {
                environment.trace_columns = tracer.tables();
            }
            _ => {}
        }
    }
}

/// Whether anything below asks about processes by upid.
pub(super) fn needs_processes(root: &Arc<Relation>) -> bool {
    any_below(root, |relation| {
        let mut needed = false;
        let mut check = |expr: &Typed| {
            expr.walk(&mut |part| {
                if let TypedKind::Call { overload, .. } = &part.kind {
                    needed |= overload.needs == Needs::Processes;
                }
            });
        };
        match &relation.op {
            Op::Map { exprs, .. } => exprs.iter().for_each(|(_, expr)| check(expr)),
            Op::Filter { predicate, .. } => check(predicate),
            _ => {}
        }
        needed
    })
}

pub(super) fn lists_tables(root: &Arc<Relation>) -> bool {
    any_below(root, |relation| matches!(relation.op, Op::Listing(Listing::TableInfo)))
}

/// Whether `root` or something that it is made of is such a relation.
pub(super) fn any_below(root: &Arc<Relation>, is_one: impl Fn(&Relation) -> bool) -> bool {
    all_below([root]).any(is_one)
}

/// The `roots` and all that they are made of, each once.
fn all_below<'a>(
    roots: impl IntoIterator<Item = &'a Arc<Relation>>,
) -> impl Iterator<Item = &'a Relation> {
    let mut seen = HashSet::new();
    let mut stack: Vec<_> = roots.into_iter().collect();
    std::iter::from_fn(move || {
        while let Some(relation) = stack.pop() {
            if seen.insert(relation.id()) {
                stack.extend(relation.inputs());
                return Some(&**relation);
            }
        }
        None
    })
}
