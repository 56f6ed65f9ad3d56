//! Functions that run while the script is compiled.

use undine_schema::{SemanticType, TableDef, Upid, tables};

use super::arguments::{Arguments, Bound};
use super::value::{Native, Value};
use super::{Eval, Evaluator, Sink};
use crate::diagnostics::{Diagnostic, Range, did_you_mean};
use crate::expr::{Symbol, SymbolKind};
use crate::listing;
use crate::relation::{Listing, Scan};
use crate::scalar::{Const, Scalar};
use crate::time_text::{self, TimeError};

/// Arguments that a script reference may have.
const REFERENCE_ARGS_MAX: usize = 8;

impl Evaluator<'_> {
    pub(super) fn native(&mut self, native: Native, args: Arguments) -> Eval<Value> {
        match native {
            Native::DataFrame => self.data_frame(args),
            Native::Display => self.display(args),
            Native::Debug => {
                let mut bound = args.bind(self, "debug", ["df", "name"], 1)?;
                let frame = bound.frame(self, 0)?;
                let name = bound.optional_text(self, 1)?.unwrap_or_else(|| "output".into());
                self.add_table(format!("_{name}"), &frame)?;
                Ok(Value::None)
            }
            Native::Export => {
                let mut bound = args.bind(self, "export", ["df", "spec"], 2)?;
                let frame = bound.frame(self, 0)?;
                let (spec, range) = bound.required(1);
                let Value::Export(spec) = spec else {
                    let message = "`px.export` needs a target";
                    let label = format!("this is {}", spec.describe());
                    let diagnostic = Diagnostic::new(range, message, label);
                    return Err(
                        self.fail(diagnostic.help("write `px.otel.Data(resource=…, data=[…])`"))
                    );
                };
                let relation = self.settled(&frame)?;
                self.check_export(&spec, &relation, range)?;
                self.sinks.push(Sink::Export { relation, spec });
                Ok(Value::None)
            }
            Native::Now => {
                args.bind(self, "now", [], 0)?;
                Ok(Value::constant(Const::Int(self.surroundings.now)))
            }
            Native::ParseTime => {
                let mut bound = args.bind(self, "parse_time", ["time"], 1)?;
                let (value, range) = bound.required(0);
                self.point(&value, range).map(|time| Value::constant(Const::Time(time)))
            }
            Native::ParseDuration => {
                let mut bound = args.bind(self, "parse_duration", ["duration"], 1)?;
                let text = bound.text(self, 0)?;
                let parsed = time_text::duration(&text);
                parsed
                    .map(|ns| Value::constant(Const::Int(ns)))
                    .map_err(|error| self.no_time(&text, error, bound.range))
            }
            Native::FormatDuration => {
                let mut bound = args.bind(self, "format_duration", ["ns"], 1)?;
                let ns = bound.integer(self, 0)?;
                Ok(Value::text(time_text::format_duration(ns)))
            }
            Native::Units(width) => {
                let mut bound = args.bind(self, "a number of units", ["unit"], 1)?;
                let amount = bound.integer(self, 0)?;
                Ok(Value::constant(Const::Int(amount.saturating_mul(width))))
            }
            Native::ScriptReference => self.script_reference(args),
            Native::EqualsAny => self.equals_any(args),
            Native::Uint128 => {
                let mut bound = args.bind(self, "uint128", ["uuid"], 1)?;
                let text = bound.text(self, 0)?;
                let value = uuid(&text).ok_or_else(|| {
                    let message = format!("`{text}` is no UUID");
                    self.fail(Diagnostic::new(bound.range, message, "here"))
                })?;
                Ok(Value::constant(Const::Uint128(value)))
            }
            Native::MakeUpid => self.make_upid(args),
            Native::OtelData => self.otel_data(args),
            Native::OtelEndpoint => self.otel_endpoint(args),
            Native::OtelGauge => self.otel_gauge(args),
            Native::OtelSummary => self.otel_summary(args),
            Native::OtelSpan => self.otel_span(args),
            Native::Trace(function) => self.trace(function, args),
        }
    }

    fn display(&mut self, args: Arguments) -> Eval<Value> {
        let mut bound = args.bind(self, "display", ["df", "name", "cols"], 1)?;
        let frame = bound.frame(self, 0)?;
        let name = bound.optional_text(self, 1)?.unwrap_or_else(|| "output".into());
        if !self.is_function_mode() {
            self.add_table(name.to_string(), &frame)?;
        }
        Ok(Value::None)
    }

    fn data_frame(&mut self, args: Arguments) -> Eval<Value> {
        let names = ["table", "select", "start_time", "end_time"];
        let table_range = args
            .positional
            .first()
            .map(|(_, range)| *range)
            .or_else(|| {
                args.named.iter().find(|(name, _)| &*name.node == "table").map(|(_, (_, r))| *r)
            })
            .unwrap_or(args.range);
        let mut bound = args.bind(self, "DataFrame", names, 1)?;
        let name = bound.text(self, 0)?;
        let Some(table) = tables::find(&name) else {
            return self.traced_frame(&name, table_range, bound);
        };
        let columns = self.selected(table, &mut bound)?;
        let start = match bound.optional(2) {
            Some((value, range)) => Some(self.point(&value, range)?),
            None => None,
        };
        let end = match bound.optional(3) {
            Some((value, range)) => Some(self.point(&value, range)?),
            None => None,
        };
        let made = self.relations.scan(Scan { table, columns, start, end }, bound.range);
        self.made(made, bound.range).map(Value::Frame)
    }

    pub(super) fn no_table(&mut self, name: &str, range: Range) -> super::Raised {
        let message = format!("there is no table `{name}`");
        let own = tables::readable().map(|table| table.name);
        let traced = self.surroundings.traces.iter().map(|(name, _)| name.as_str());
        let known: Vec<_> = own.chain(traced).collect();
        let help = did_you_mean(name, known.iter().copied())
            .unwrap_or_else(|| format!("the tables are {}", known.join(", ")));
        self.fail(Diagnostic::new(range, message, "unknown table").help(help))
    }

    fn selected(
        &mut self,
        table: &'static TableDef,
        bound: &mut Bound<4>,
    ) -> Eval<Vec<&'static str>> {
        let all = || table.visible_columns().map(|column| column.name);
        let wanted = match bound.optional(1) {
            None => return Ok(all().collect()),
            Some((Value::List(items) | Value::Tuple(items), _)) if items.is_empty() => {
                return Ok(all().collect());
            }
            Some((value, range)) => super::arguments::names(&value, range).ok_or_else(|| {
                let label = format!("this is {}", value.describe());
                self.fail(Diagnostic::new(range, "`select` is a list of column names", label))
            })?,
        };
        let mut columns = Vec::with_capacity(wanted.len());
        for (name, range) in wanted {
            let column = all().find(|column| **column == *name).ok_or_else(|| {
                let message = format!("table `{}` has no column `{name}`", table.name);
                let help = did_you_mean(&name, all());
                let diagnostic = Diagnostic::new(range, message, "unknown column");
                self.fail(diagnostic.maybe_help(help))
            })?;
            columns.push(column);
        }
        Ok(columns)
    }

    /// A point in time: text, nanoseconds or a time.
    pub(super) fn point(&mut self, value: &Value, range: Range) -> Eval<i64> {
        match value {
            Value::Scalar(Scalar { value: Const::Int(ns) | Const::Time(ns), .. }) => Ok(*ns),
            Value::Scalar(Scalar { value: Const::Str(text), .. }) => {
                time_text::point(text, self.surroundings.now)
                    .map_err(|error| self.no_time(text, error, range))
            }
            other => {
                let label = format!("this is {}", other.describe());
                let diagnostic =
                    Diagnostic::new(range, "a time must be known before the script runs", label);
                Err(self.fail(diagnostic.help("write a text such as '-5m'")))
            }
        }
    }

    pub(super) fn no_time(&mut self, text: &str, error: TimeError, range: Range) -> super::Raised {
        let diagnostic = Diagnostic::new(range, format!("`{text}` is no time: {error}"), "here");
        self.fail(diagnostic.help("units are ms, s, m, h and d, as in '-5m'"))
    }

    fn script_reference(&mut self, args: Arguments) -> Eval<Value> {
        let mut bound = args.bind(self, "script_reference", ["label", "script", "args"], 2)?;
        let range = bound.range;
        let (label, script) = (bound.required(0), bound.required(1));
        let (label, script) = (self.symbol(label)?, self.symbol(script)?);
        let entries = match bound.optional(2) {
            None => Vec::new(),
            Some((Value::Dict(entries), _)) => entries.to_vec(),
            Some((other, range)) => {
                let label = format!("this is {}", other.describe());
                let message = "the arguments of a script reference are a dict";
                return Err(self.fail(Diagnostic::new(range, message, label)));
            }
        };
        if entries.len() > REFERENCE_ARGS_MAX {
            let message = format!("a script reference has at most {REFERENCE_ARGS_MAX} arguments");
            return Err(self.fail(Diagnostic::new(range, message, "too many here")));
        }
        let mut args = Vec::with_capacity(entries.len());
        for entry in entries {
            let Value::Scalar(Scalar { value: Const::Str(key), .. }) = entry.key.0 else {
                let message = "an argument's name is a constant string";
                let label = format!("this is {}", entry.key.0.describe());
                return Err(self.fail(Diagnostic::new(entry.key.1, message, label)));
            };
            args.push((key, self.symbol(entry.value)?));
        }
        self.symbolic(Symbol::new(range, SymbolKind::ScriptReference { label, script, args }))
    }

    fn equals_any(&mut self, args: Arguments) -> Eval<Value> {
        let mut bound = args.bind(self, "equals_any", ["value", "comparisons"], 2)?;
        let range = bound.range;
        let value = bound.required(0);
        let (list, list_range) = bound.required(1);
        let items = match list {
            Value::List(items) | Value::Tuple(items) if !items.is_empty() => items,
            other => {
                let message = "`equals_any` needs a list with at least one element";
                let label = format!("this is {}", other.describe());
                return Err(self.fail(Diagnostic::new(list_range, message, label)));
            }
        };
        let mut any: Option<Value> = None;
        for item in items.iter() {
            let equal = self.operator("equal", vec![value.clone(), item.clone()], range)?;
            any = Some(match any {
                None => equal,
                Some(before) => {
                    self.operator("logicalOr", vec![(before, range), (equal, range)], range)?
                }
            });
        }
        Ok(any.unwrap_or(Value::None))
    }

    fn make_upid(&mut self, args: Arguments) -> Eval<Value> {
        let mut bound = args.bind(self, "make_upid", ["asid", "pid", "ts_ns"], 3)?;
        let numbers = [bound.integer(self, 0)?, bound.integer(self, 1)?, bound.integer(self, 2)?];
        let (Ok(asid), Ok(pid), Ok(start)) =
            (u32::try_from(numbers[0]), u32::try_from(numbers[1]), u64::try_from(numbers[2]))
        else {
            let message = "the parts of a upid are 32, 32 and 64 bits and not negative";
            return Err(self.fail(Diagnostic::new(bound.range, message, "out of bounds")));
        };
        let value = Const::Uint128(*Upid::new(asid, pid, start).as_bytes());
        Ok(Value::Scalar(Scalar { value, semantic: SemanticType::Upid }))
    }

    pub(super) fn listing(&mut self, listing: Listing, args: Arguments) -> Eval<Value> {
        let range = args.range;
        match listing {
            Listing::Agents => {
                args.bind(self, "GetAgentStatus", ["include_kelvin"], 0)?.optional_flag(self, 0)?;
            }
            Listing::HeapGrowth => {
                args.bind(self, "_HeapGrowthStacks", ["asid"], 1)?.integer(self, 0)?;
            }
            _ => {
                args.bind(self, "this function", [], 0)?;
            }
        }
        let made = self.relations.listing(listing, listing::columns(listing), range);
        self.made(made, range).map(Value::Frame)
    }
}

/// The 128 bits that a UUID's text names.
pub(super) fn uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_its_hexadecimal_digits() {
        let upid = Upid::new(1, 42, 7);
        assert_eq!(uuid(&upid.to_string()), Some(*upid.as_bytes()));
        assert_eq!(uuid("42"), None);
    }
}
