//! A function of a program: where it is in its file, and what of its calls is to be read.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use object::read::ReadCache;
use object::{Architecture, Object, ObjectSegment, ObjectSymbol, SymbolKind};
use undine_ebpf::trace::{AT_RETURN, Fetch, INTEGER, Plan, TEXTS_MAX, VALUES_MAX};
use undine_schema::trace::{TraceError, TraceOutput, TraceValue};

use super::calls::Output;
use super::debug_info::DebugInfo;
use super::expression::Expression;
use super::layout;
use super::signature::{GO_INTEGERS, SYSV_INTEGERS, Types};

/// Most symbols of a file that are looked through.
const SYMBOLS_MAX: usize = 4_000_000;
/// Names that a message lists.
const NAMES_MAX: usize = 5;

/// A function, and what of its calls is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Traced {
    /// Offset of its first instruction in the file.
    pub(crate) offset: u64,
    pub(crate) plan: Plan,
    /// What becomes a column, in order.
    pub(crate) outputs: Vec<Output>,
}

type Elf<'a> = object::File<'a, &'a ReadCache<File>>;

/// Finds the function called `name` in the file at `path`.
pub(crate) fn find(path: &Path, name: &str, outputs: &[TraceOutput]) -> Result<Traced, TraceError> {
    let shown = std::fs::read_link(path).unwrap_or_else(|_plain| path.to_owned());
    let shown = shown.display();
    let file = File::open(path).map_err(|error| {
        TraceError::new(
            format!("{shown} cannot be read: {error}"),
            "run Undine as root, and trace a process that still runs",
        )
    })?;
    let cache = ReadCache::new(file);
    let elf = object::File::parse(&cache).map_err(|error| {
        TraceError::new(format!("{shown} is no usable ELF file: {error}"), "name another file")
    })?;
    if elf.architecture() != Architecture::X86_64 {
        let reason = format!("{shown} is not for x86-64");
        return Err(TraceError::new(reason, "functions of other programs cannot be traced"));
    }
    let address = address_of(&elf, name, &shown.to_string())?;
    let offset = offset(&elf, address).ok_or_else(|| {
        TraceError::new(format!("`{name}` has no code in {shown}"), "name another function")
    })?;
    let is_go = elf.section_by_name(".gopclntab").is_some();
    let (plan, outputs) = plan(&elf, address, name, outputs, is_go)?;
    Ok(Traced { offset, plan, outputs })
}

/// The address of a function by its symbol, or by its name as people write it.
fn address_of(elf: &Elf<'_>, name: &str, shown: &str) -> Result<u64, TraceError> {
    let mut exact = BTreeMap::new();
    let mut by_name = BTreeMap::new();
    let mut similar = Vec::new();
    let mut functions = 0_usize;
    for symbol in elf.symbols().chain(elf.dynamic_symbols()).take(SYMBOLS_MAX) {
        let is_function = symbol.kind() == SymbolKind::Text;
        if !is_function || symbol.is_undefined() || symbol.address() == 0 {
            continue;
        }
        functions += 1;
        let Ok(raw) = symbol.name() else { continue };
        if raw == name {
            exact.insert(symbol.address(), raw.to_owned());
        } else if let Some(readable) = readable(raw) {
            let plain = readable.split('(').next().unwrap_or(&readable);
            if readable == name || plain == name {
                by_name.insert(symbol.address(), raw.to_owned());
            } else if similar.len() < NAMES_MAX && readable.contains(name) {
                similar.push(plain.to_owned());
            }
        } else if similar.len() < NAMES_MAX && raw.contains(name) {
            similar.push(raw.to_owned());
        }
    }
    let found = if exact.is_empty() { by_name } else { exact };
    let mut addresses = found.keys();
    match (addresses.next(), found.len()) {
        (Some(address), 1) => Ok(*address),
        (Some(_), several) => {
            let symbols: Vec<_> = found.values().take(NAMES_MAX).map(String::as_str).collect();
            let reason = format!("{several} functions of {shown} are called `{name}`");
            Err(TraceError::new(reason, format!("name one by its symbol: {}", symbols.join(", "))))
        }
        (None, _) if functions == 0 => Err(TraceError::new(
            format!("{shown} names no functions: it was stripped of its symbols"),
            "run a build with symbols, or trace a function of a library that it shares",
        )),
        (None, _) => {
            let help = if similar.is_empty() {
                "name it by its symbol, as `nm` shows it; it may have been inlined".to_owned()
            } else {
                format!("there are {}", similar.join(", "))
            };
            Err(TraceError::new(format!("{shown} has no function `{name}`"), help))
        }
    }
}

/// A symbol of Rust or C++ as people write it.
fn readable(raw: &str) -> Option<String> {
    if let Ok(name) = rustc_demangle::try_demangle(raw) {
        // Without the hash.
        return Some(format!("{name:#}"));
    }
    if !raw.starts_with("_Z") {
        return None;
    }
    cpp_demangle::Symbol::new(raw).ok()?.demangle().ok()
}

/// Where in the file the code at an address is.
fn offset(elf: &Elf<'_>, address: u64) -> Option<u64> {
    elf.segments().find_map(|segment| {
        let within = address.checked_sub(segment.address())?;
        let (start, size) = segment.file_range();
        (within < size).then_some(start + within)
    })
}

fn plan(
    elf: &Elf<'_>,
    address: u64,
    name: &str,
    wanted: &[TraceOutput],
    is_go: bool,
) -> Result<(Plan, Vec<Output>), TraceError> {
    let returns = wanted.iter().any(|output| !matches!(output.value, TraceValue::Argument(_)));
    if is_go && returns {
        return Err(TraceError::new(
            format!(
                "the return of `{name}` cannot be probed: it is a Go program, and Go moves its stacks"
            ),
            "trace arguments only (ArgExpr)",
        ));
    }
    // Go's own calling convention is not that of its debug information.
    let info = if is_go { None } else { Some(DebugInfo::of(elf, address)) };
    let known = match &info {
        None => Err("it is a Go program, whose arguments are only known by their registers"),
        Some(Ok((info, signature))) => {
            let types: &dyn Types = info;
            Ok((types, signature))
        }
        Some(Err(unknown)) => Err(unknown.why()),
    };
    let registers: &[u8] = if is_go { &GO_INTEGERS } else { &SYSV_INTEGERS };
    let function = layout::Function { name, known, registers };
    let mut plan = Plan { waits_for_return: u32::from(returns), ..Plan::default() };
    let mut outputs = Vec::with_capacity(wanted.len());
    let (mut values, mut texts) = (0_usize, 0_u8);
    for output in wanted {
        let in_column = |reason: String| format!("column `{}`: {reason}", output.column);
        let parsed = match &output.value {
            TraceValue::Latency => {
                outputs.push(Output::Latency);
                continue;
            }
            TraceValue::Argument(text) => Expression::argument(text),
            TraceValue::Returned(text) => Expression::returned(text),
        };
        let expression = parsed.map_err(|error| {
            let help = "write a parameter's name, `$arg1:u32` or `$0`";
            TraceError::new(in_column(error.to_string()), help)
        })?;
        let mut reading = layout::read(&function, &expression)
            .map_err(|error| TraceError::new(in_column(error.why), error.help))?;
        if reading.fetch.kind != INTEGER {
            if usize::from(texts) == TEXTS_MAX {
                let reason = format!("a call has at most {TEXTS_MAX} texts");
                return Err(TraceError::new(in_column(reason), "leave some out"));
            }
            reading.fetch.text = texts;
            texts += 1;
        }
        let Some(place) = plan.fetches.get_mut(values) else {
            let reason = format!("a call has at most {VALUES_MAX} values");
            return Err(TraceError::new(in_column(reason), "leave some out"));
        };
        *place = reading.fetch;
        outputs.push(Output::Value(values, reading));
        values += 1;
    }
    debug_assert!(returns || !plan.fetches.iter().any(|fetch: &Fetch| fetch.moment == AT_RETURN));
    plan.values = u32::try_from(values).unwrap_or(0);
    plan.texts = u32::from(texts);
    Ok((plan, outputs))
}
