//! Expressions on columns, before and after they are bound to a relation.

use std::sync::Arc;

use undine_schema::{PxlType, SemanticType};

use crate::diagnostics::Range;
use crate::functions::Overload;
use crate::scalar::Scalar;

/// An expression as a script builds it: columns are names only, of whatever relation the
/// expression ends up in.
#[derive(Clone, Debug)]
pub(crate) struct Symbol {
    pub(crate) range: Range,
    /// Levels below and including this one.
    pub(crate) depth: usize,
    pub(crate) kind: SymbolKind,
}

#[derive(Clone, Debug)]
pub(crate) enum SymbolKind {
    Column(Arc<str>),
    /// `df.ctx['key']`
    Context(Arc<str>),
    Const(Scalar),
    Call {
        function: Arc<str>,
        args: Vec<Arc<Symbol>>,
    },
    /// `px.Pod(x)`: the value stays, the meaning changes.
    Cast {
        to: Annotation,
        operand: Arc<Symbol>,
    },
    /// `px.script_reference(…)`: keys and values of a JSON object.
    ScriptReference {
        label: Arc<Symbol>,
        script: Arc<Symbol>,
        args: Vec<(Arc<str>, Arc<Symbol>)>,
    },
}

impl Symbol {
    pub(crate) fn new(range: Range, kind: SymbolKind) -> Self {
        let below = match &kind {
            SymbolKind::Column(_) | SymbolKind::Context(_) | SymbolKind::Const(_) => 0,
            SymbolKind::Call { args, .. } => args.iter().map(|a| a.depth).max().unwrap_or(0),
            SymbolKind::Cast { operand, .. } => operand.depth,
            SymbolKind::ScriptReference { label, script, args } => args
                .iter()
                .map(|(_, value)| value.depth)
                .chain([label.depth, script.depth])
                .max()
                .unwrap_or(0),
        };
        Self { range, depth: below + 1, kind }
    }
}

/// A type that can annotate a parameter or cast a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Annotation {
    pub(crate) name: &'static str,
    pub(crate) pxl_type: PxlType,
    pub(crate) semantic: SemanticType,
}

/// An expression whose columns, functions and types are known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Typed {
    pub(crate) kind: TypedKind,
    pub(crate) pxl_type: PxlType,
    pub(crate) semantic: SemanticType,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TypedKind {
    Column(Arc<str>),
    Const(Scalar),
    Call { overload: &'static Overload, args: Vec<Arc<Typed>> },
}

impl Typed {
    pub(crate) fn constant(scalar: Scalar) -> Self {
        Self {
            pxl_type: scalar.value.pxl_type(),
            semantic: scalar.semantic,
            kind: TypedKind::Const(scalar),
        }
    }

    pub(crate) fn as_column(&self) -> Option<&Arc<str>> {
        match &self.kind {
            TypedKind::Column(name) => Some(name),
            _ => None,
        }
    }

    /// Calls `visit` on this expression and on every part of it.
    pub(crate) fn walk(&self, visit: &mut impl FnMut(&Self)) {
        visit(self);
        if let TypedKind::Call { args, .. } = &self.kind {
            for arg in args {
                arg.walk(visit);
            }
        }
    }

    /// The same with each column replaced by what `replace` gives for its name; `None` where that
    /// refuses a column or where more than `nodes_max` nodes would come out.
    pub(crate) fn substitute(
        &self,
        nodes_max: &mut usize,
        replace: &impl Fn(&Arc<str>) -> Option<Self>,
    ) -> Option<Self> {
        *nodes_max = nodes_max.checked_sub(1)?;
        match &self.kind {
            TypedKind::Column(name) => {
                let replaced = replace(name)?;
                let mut nodes = 0;
                replaced.walk(&mut |_| nodes += 1);
                *nodes_max = nodes_max.checked_sub(nodes)?;
                // A cast on the way may have changed the meaning, never the value.
                Some(Self { semantic: self.semantic, ..replaced })
            }
            TypedKind::Const(_) => Some(self.clone()),
            TypedKind::Call { overload, args } => {
                let args = args
                    .iter()
                    .map(|arg| arg.substitute(nodes_max, replace).map(Arc::new))
                    .collect::<Option<_>>()?;
                Some(Self { kind: TypedKind::Call { overload, args }, ..*self })
            }
        }
    }
}
