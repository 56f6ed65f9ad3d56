//! The syntax tree of what `PxL` allows, every node with its place in the text.

use std::sync::Arc;

use crate::diagnostics::Range;

/// Something with its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct At<T> {
    pub(crate) range: Range,
    pub(crate) node: T,
}

pub(crate) type Name = At<Arc<str>>;
pub(crate) type ExprAt = At<Expr>;

/// A script: statements after the docstring.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Script {
    pub(crate) body: Vec<At<Stmt>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stmt {
    /// `import px as p`: the module and the name it gets.
    Import {
        module: Name,
        name: Name,
    },
    /// `from px import now as n`.
    From {
        module: Name,
        names: Vec<(Name, Name)>,
    },
    Assign {
        target: Target,
        value: ExprAt,
    },
    Def(Arc<Def>),
    Return(Option<ExprAt>),
    Expr(ExprAt),
}

/// What can stand left of `=`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Target {
    Name(Name),
    /// `base.attr = …`
    Attribute {
        base: Name,
        attr: Name,
    },
    /// `base[key] = …`
    Item {
        base: Name,
        key: ExprAt,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Def {
    /// What stands behind `@` above it.
    pub(crate) decorator: Option<ExprAt>,
    pub(crate) name: Name,
    pub(crate) params: Vec<Param>,
    pub(crate) body: Vec<At<Stmt>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Param {
    pub(crate) name: Name,
    pub(crate) annotation: Option<ExprAt>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expr {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Arc<str>),
    Name(Arc<str>),
    Attribute { base: Box<ExprAt>, attr: Name },
    Item { base: Box<ExprAt>, key: Box<ExprAt> },
    Call { function: Box<ExprAt>, args: Vec<ExprAt>, kwargs: Vec<(Name, ExprAt)> },
    Unary { op: UnaryOp, operand: Box<ExprAt> },
    Binary { op: BinaryOp, left: Box<ExprAt>, right: Box<ExprAt> },
    List(Vec<ExprAt>),
    Tuple(Vec<ExprAt>),
    Dict(Vec<(ExprAt, ExprAt)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnaryOp {
    Not,
    Negate,
    Plus,
    Invert,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BinaryOp {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    And,
    Or,
}

impl BinaryOp {
    /// The function that the operator calls.
    pub(crate) const fn function(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Subtract => "subtract",
            Self::Multiply => "multiply",
            Self::Divide => "divide",
            Self::Modulo => "modulo",
            Self::Equal => "equal",
            Self::NotEqual => "notEqual",
            Self::Less => "lessThan",
            Self::LessEqual => "lessThanEqual",
            Self::Greater => "greaterThan",
            Self::GreaterEqual => "greaterThanEqual",
            Self::And => "logicalAnd",
            Self::Or => "logicalOr",
        }
    }
}
