//! The functions that scripts call on rows, with their exact overloads.
//!
//! A function is a name and overloads; an overload is chosen by the exact types of the arguments
//! and says its result's type, how the result's meaning follows, and how it is computed: as a
//! `DataFusion` expression or by a kernel of our own.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::LazyLock;

use datafusion::logical_expr::Expr;
use undine_schema::{PxlType, SemanticType};

pub(crate) mod environment;
pub(crate) mod kernel;
pub(crate) mod operators;
pub(crate) mod numbers;
pub(crate) mod text;
pub(crate) mod json;
pub(crate) mod identity;
pub(crate) mod protocol;
pub(crate) mod uri;
pub(crate) mod sql;
pub(crate) mod pii;
pub(crate) mod clusters;
pub(crate) mod udf;

use kernel::Kernel;

pub(crate) const B: PxlType = PxlType::Boolean;
pub(crate) const I: PxlType = PxlType::Int64;
pub(crate) const F: PxlType = PxlType::Float64;
pub(crate) const S: PxlType = PxlType::String;
pub(crate) const T: PxlType = PxlType::Time64Ns;
pub(crate) const U: PxlType = PxlType::Uint128;

/// How the meaning of a result follows from its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// It has none.
    Plain,
    /// Always this one.
    Is(SemanticType),
    /// Sizes, durations and rates stay what they are if all arguments agree.
    Quantity,
    /// That of the arguments from this one on, if they agree.
    Agreed(usize),
    /// That of a quotient.
    Quotient,
}

/// What an overload needs to know beyond its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing.
    Nothing,
    /// The processes by upid.
    Processes,
}

/// How an overload is computed.
pub(crate) enum Body {
    /// As an expression that `DataFusion` knows and can optimise.
    Native(fn(Vec<Expr>) -> Expr),
    /// By a function of our own.
    Kernel(Kernel),
}

/// One form of a function. Each exists once, so that it is compared by its address.
pub(crate) struct Overload {
    pub(crate) function: &'static str,
    pub(crate) args: Vec<PxlType>,
    pub(crate) result: PxlType,
    pub(crate) meaning: Meaning,
    pub(crate) needs: Needs,
    pub(crate) body: Body,
}

impl std::fmt::Debug for Overload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", signature(self))
    }
}

impl PartialEq for Overload {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Overload {}

impl Hash for Overload {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::from_ref(self).hash(state);
    }
}

/// `contains(STRING, STRING) -> BOOLEAN`
pub(crate) fn signature(overload: &Overload) -> String {
    let args: Vec<_> = overload.args.iter().map(|arg| arg.name()).collect();
    format!("{}({}) -> {}", overload.function, args.join(", "), overload.result.name())
}

/// A function with all its forms.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) overloads: Vec<Overload>,
}

/// Where the declarations gather.
pub(crate) struct Registry(BTreeMap<&'static str, Function>);

impl Registry {
    pub(crate) fn add(
        &mut self,
        function: &'static str,
        args: &[PxlType],
        result: PxlType,
        meaning: Meaning,
        body: Body,
    ) {
        self.add_needing(Needs::Nothing, function, args, result, meaning, body);
    }

    pub(crate) fn add_needing(
        &mut self,
        needs: Needs,
        function: &'static str,
        args: &[PxlType],
        result: PxlType,
        meaning: Meaning,
        body: Body,
    ) {
        let args = args.to_vec();
        let overload = Overload { function, args, result, meaning, needs, body };
        self.0
            .entry(function)
            .or_insert_with(|| Function { overloads: Vec::new() })
            .overloads
            .push(overload);
    }

    /// A kernel whose result has no special meaning.
    pub(crate) fn plain(
        &mut self,
        function: &'static str,
        args: &[PxlType],
        result: PxlType,
        kernel: Kernel,
    ) {
        self.add(function, args, result, Meaning::Plain, Body::Kernel(kernel));
    }

    /// A kernel whose result always means `semantic`.
    pub(crate) fn tagged(
        &mut self,
        function: &'static str,
        args: &[PxlType],
        result: PxlType,
        semantic: SemanticType,
        kernel: Kernel,
    ) {
        self.add(function, args, result, Meaning::Is(semantic), Body::Kernel(kernel));
    }
}

static FUNCTIONS: LazyLock<BTreeMap<&'static str, Function>> = LazyLock::new(|| {
    let mut registry = Registry(BTreeMap::new());
    operators::declare(&mut registry);
    numbers::declare(&mut registry);
    text::declare(&mut registry);
    json::declare(&mut registry);
    identity::declare(&mut registry);
    protocol::declare(&mut registry);
    uri::declare(&mut registry);
    sql::declare(&mut registry);
    pii::declare(&mut registry);
    clusters::declare(&mut registry);
    registry.0
});

/// The function called `name`.
pub(crate) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.get(name)
}

/// The names of all functions, sorted.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.keys().copied()
}

/// Every form of every function.
pub(crate) fn all() -> impl Iterator<Item = &'static Overload> {
    FUNCTIONS.values().flat_map(|function| &function.overloads)
}

/// The form for arguments of these types, and what each must be promoted to.
///
/// An exact match wins. Otherwise integers may stand for doubles, and times for integers, where
/// upstream refuses; that accepts more and changes no script that upstream takes.
pub(crate) fn resolve(function: &'static Function, args: &[PxlType]) -> Option<&'static Overload> {
    let matching = |accepts: &dyn Fn(PxlType, PxlType) -> bool| {
        function.overloads.iter().find(|overload| {
            overload.args.len() == args.len()
                && overload.args.iter().zip(args).all(|(want, have)| accepts(*want, *have))
        })
    };
    let alike = |want, have| want == have || matches!((want, have), (T, I) | (I, T));
    matching(&|want, have| want == have)
        .or_else(|| matching(&alike))
        .or_else(|| matching(&|want, have| alike(want, have) || (want, have) == (F, I)))
}

/// The meaning of a call's result.
pub(crate) fn meaning(overload: &Overload, args: &[SemanticType]) -> SemanticType {
    use SemanticType as St;
    let agreed = |from: usize| match args.get(from..) {
        Some([first, rest @ ..]) if rest.iter().all(|arg| arg == first) => *first,
        _ => St::None,
    };
    match overload.meaning {
        Meaning::Plain => St::None,
        Meaning::Is(semantic) => semantic,
        Meaning::Agreed(from) => agreed(from),
        Meaning::Quantity => match agreed(0) {
            kept
            @ (St::Bytes | St::ThroughputPerNs | St::ThroughputBytesPerNs | St::DurationNs) => kept,
            _ => St::None,
        },
        Meaning::Quotient => match args {
            [St::None, St::DurationNs] => St::ThroughputPerNs,
            [St::Bytes, St::DurationNs] => St::ThroughputBytesPerNs,
            _ => St::None,
        },
    }
}
