//! What the kernel program is to read for an expression, and what that becomes.

use undine_ebpf::trace::{
    AT_ENTRY, AT_RETURN, COUNTED_TEXT, DEREFS_MAX, Fetch, INTEGER, TEXT, TEXT_BYTES_MAX,
};
use undine_schema::PxlType;

use super::expression::{Cast, Expression, Root, Step};
use super::signature::{
    self, Piece, Place, Record, STACK, Signature, Type, TypeRef, Types, register::RAX,
};

/// Members within members without a name that are looked through.
const UNNAMED_DEPTH_MAX: usize = 8;
/// Names that a message lists.
const NAMES_MAX: usize = 12;

/// What is known of a function.
pub(crate) struct Function<'a> {
    pub(crate) name: &'a str,
    /// What it takes and gives back; or why that is not known.
    pub(crate) known: Result<(&'a dyn Types, &'a Signature), &'static str>,
    /// Registers of arguments where nothing more is known, in order.
    pub(crate) registers: &'a [u8],
}

/// What is read for a column, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) fetch: Fetch,
    pub(crate) decode: Decode,
}

/// What becomes of what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decode {
    /// An integer in the bits from `shift` on.
    Integer {
        bytes: u8,
        signed: bool,
        shift: u8,
    },
    Float {
        bytes: u8,
    },
    Boolean {
        shift: u8,
    },
    /// A text of at most so many bytes.
    Text {
        bytes_max: usize,
    },
}

impl Decode {
    /// The type of the column.
    pub(crate) const fn pxl_type(self) -> PxlType {
        match self {
            Self::Integer { .. } => PxlType::Int64,
            Self::Float { .. } => PxlType::Float64,
            Self::Boolean { .. } => PxlType::Boolean,
            Self::Text { .. } => PxlType::String,
        }
    }
}

/// Why an expression cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayoutError {
    pub(crate) why: String,
    pub(crate) help: String,
}

fn wrong(why: impl Into<String>, help: impl Into<String>) -> LayoutError {
    LayoutError { why: why.into(), help: help.into() }
}

/// Where a value is, on the way to it.
enum Value {
    Registers(Vec<Piece>, u64),
    /// Behind the address that a register leads to, through these offsets, and so many bytes further.
    Memory {
        register: u8,
        offsets: Vec<i32>,
        further: i32,
    },
}

/// What is to be read for `expression`.
pub(crate) fn read(
    function: &Function<'_>,
    expression: &Expression,
) -> Result<Reading, LayoutError> {
    let moment = if expression.root == Root::Returned { AT_RETURN } else { AT_ENTRY };
    let (place, of) = root(function, expression)?;
    let mut value = match place {
        Place::Registers(pieces) => Value::Registers(pieces, 0),
        Place::Stack(further) => Value::Memory { register: STACK, offsets: Vec::new(), further },
        Place::Behind(register) => Value::Memory { register, offsets: Vec::new(), further: 0 },
        Place::BehindStack(offset) => {
            Value::Memory { register: STACK, offsets: vec![offset], further: 0 }
        }
    };
    let mut of = of;
    for step in &expression.steps {
        match step {
            Step::Follow(further) => {
                value = follow(value, *further)?;
                of = None;
            }
            Step::Member(name) => {
                let (Some(current), Ok((types, _))) = (of, function.known) else {
                    return Err(untyped(function, &format!("`{name}`")));
                };
                let (record, inner) = to_record(types, value, current)?;
                value = inner;
                let (offset, member) = member(types, &record, name)?;
                advance(&mut value, offset)?;
                of = Some(member);
            }
        }
    }
    let reading = match (expression.cast, of, function.known) {
        (Some(cast), ..) => cast_to(&value, cast)?,
        (None, Some(of), Ok((types, _))) => typed(types, value, types.resolve(of))?,
        _ => scalar(&value, Decode::Integer { bytes: 8, signed: true, shift: 0 }, 8)?,
    };
    Ok(Reading { fetch: Fetch { moment, ..reading.fetch }, ..reading })
}

/// Where an expression begins, and its type where that is known.
fn root(
    function: &Function<'_>,
    expression: &Expression,
) -> Result<(Place, Option<TypeRef>), LayoutError> {
    match (&expression.root, function.known) {
        (Root::Argument(place), Ok((types, signature))) => {
            let places = signature::parameters(types, signature);
            let (Some(found), Some((_, of))) =
                (places.get(*place), signature.parameters.get(*place))
            else {
                let count = signature.parameters.len();
                let why = format!("`{}` takes {count} arguments", function.name);
                return Err(wrong(why, "count them from `$arg1`"));
            };
            Ok((found.clone(), Some(*of)))
        }
        (Root::Argument(place), Err(_)) => {
            Ok((signature::plain_argument(*place, function.registers), None))
        }
        (Root::Named(name), Ok((types, signature))) => {
            let at = signature.parameters.iter().position(|(known, _)| known == name);
            let Some(at) = at else {
                let known = signature.parameters.iter().map(|(name, _)| name.as_str());
                let why = format!("`{}` has no parameter `{name}`", function.name);
                return Err(wrong(why, listed("its parameters are", known)));
            };
            let places = signature::parameters(types, signature);
            Ok((places[at].clone(), Some(signature.parameters[at].1)))
        }
        (Root::Named(name), Err(_)) => Err(untyped(function, &format!("`{name}`"))),
        (Root::Returned, Ok((types, signature))) => match signature.returned {
            Some(of) => Ok((signature::returned(types, of), Some(of))),
            None => Err(wrong(
                format!("`{}` gives nothing back", function.name),
                "leave the RetExpr out",
            )),
        },
        (Root::Returned, Err(_)) => {
            let piece = Piece { offset: 0, register: Some(RAX) };
            Ok((Place::Registers(vec![piece]), None))
        }
    }
}

fn untyped(function: &Function<'_>, what: &str) -> LayoutError {
    let why = match function.known {
        Err(why) => format!("nothing is known of {what} of `{}`: {why}", function.name),
        Ok(_) => format!("nothing is known of {what} behind a plain address"),
    };
    let help = "build the program with debug information (`-g`), or name arguments by their place \
                and type, such as `$arg1:u32`, `$arg2:string` or `+8($arg1):u64`";
    wrong(why, help)
}

fn listed<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.filter(|name| !name.is_empty()).take(NAMES_MAX).collect();
    if names.is_empty() { format!("{what} none") } else { format!("{what} {}", names.join(", ")) }
}

/// The record that a value is or leads to.
fn to_record(
    types: &dyn Types,
    mut value: Value,
    of: TypeRef,
) -> Result<(Record, Value), LayoutError> {
    let mut current = types.resolve(of);
    for _ in 0..=DEREFS_MAX {
        match current {
            Type::Record(record) => return Ok((record, value)),
            Type::Pointer(Some(to)) => {
                value = follow(value, 0)?;
                current = types.resolve(to);
            }
            _ => break,
        }
    }
    Err(wrong("what stands before the dot has no members", "leave the dot out"))
}

fn member(types: &dyn Types, record: &Record, name: &str) -> Result<(u64, TypeRef), LayoutError> {
    find(types, record, name, UNNAMED_DEPTH_MAX).ok_or_else(|| {
        let known = record.members.iter().map(|member| member.name.as_str());
        let why = format!("`{}` has no member `{name}`", record.name);
        wrong(why, listed("its members are", known))
    })
}

fn find(types: &dyn Types, record: &Record, name: &str, depth: usize) -> Option<(u64, TypeRef)> {
    let own = record.members.iter().find(|member| member.name == name);
    if let Some(member) = own {
        return Some((member.offset, member.of));
    }
    if depth == 0 {
        return None;
    }
    record.members.iter().filter(|member| member.name.is_empty()).find_map(|member| {
        let Type::Record(inner) = types.resolve(member.of) else { return None };
        let (offset, of) = find(types, &inner, name, depth - 1)?;
        Some((member.offset + offset, of))
    })
}

fn advance(value: &mut Value, by: u64) -> Result<(), LayoutError> {
    match value {
        Value::Registers(_, offset) => *offset += by,
        Value::Memory { further, .. } => {
            let sum = i32::try_from(by).ok().and_then(|by| further.checked_add(by));
            *further =
                sum.ok_or_else(|| wrong("an offset is beyond 2 GiB", "name another member"))?;
        }
    }
    Ok(())
}

/// What stands `further` bytes behind the address that a value is.
fn follow(value: Value, further: i32) -> Result<Value, LayoutError> {
    match value {
        Value::Registers(pieces, offset) => {
            let register = whole_register(&pieces, offset)?;
            Ok(Value::Memory { register, offsets: Vec::new(), further })
        }
        Value::Memory { register, mut offsets, further: before } => {
            offsets.push(before);
            within_derefs(&offsets)?;
            Ok(Value::Memory { register, offsets, further })
        }
    }
}

fn within_derefs(offsets: &[i32]) -> Result<(), LayoutError> {
    if offsets.len() > DEREFS_MAX {
        let why = format!("it is behind more than {DEREFS_MAX} pointers");
        return Err(wrong(why, "trace a function that has it nearer"));
    }
    Ok(())
}

/// The register that has the eight bytes from `offset` on.
fn whole_register(pieces: &[Piece], offset: u64) -> Result<u8, LayoutError> {
    match pieces.iter().find(|piece| piece.offset == offset) {
        Some(Piece { register: Some(register), .. }) => Ok(*register),
        Some(Piece { register: None, .. }) => Err(in_float_register()),
        None => Err(wrong("an address does not fill a register", "name another member")),
    }
}

fn in_float_register() -> LayoutError {
    wrong(
        "it is in a floating-point register, which the kernel does not show to probes",
        "trace a function that takes it by its address",
    )
}

fn fetch(register: u8, offsets: &[i32], kind: u8, width: u8) -> Result<Fetch, LayoutError> {
    within_derefs(offsets)?;
    let mut fetch = Fetch { register, kind, width, ..Fetch::default() };
    fetch.derefs = u8::try_from(offsets.len()).unwrap_or(0);
    for (to, from) in fetch.offsets.iter_mut().zip(offsets) {
        *to = *from;
    }
    Ok(fetch)
}

/// A number of `bytes` bytes.
fn scalar(value: &Value, decode: Decode, bytes: u8) -> Result<Reading, LayoutError> {
    if bytes > 8 {
        return Err(wrong(
            "it has more than 8 bytes",
            "read a part of it, such as `+0($arg1):u64`",
        ));
    }
    match value {
        Value::Registers(pieces, offset) => {
            let piece =
                pieces.iter().find(|piece| (piece.offset..piece.offset + 8).contains(offset));
            let Some(piece) = piece else {
                return Err(wrong("it is in no register", "name another member"));
            };
            let register = piece.register.ok_or_else(in_float_register)?;
            let shift = u8::try_from((offset - piece.offset) * 8).unwrap_or(0);
            let decode = match decode {
                Decode::Integer { bytes, signed, .. } => Decode::Integer { bytes, signed, shift },
                Decode::Boolean { .. } => Decode::Boolean { shift },
                other => other,
            };
            Ok(Reading { fetch: fetch(register, &[], INTEGER, 8)?, decode })
        }
        Value::Memory { register, offsets, further } => {
            let mut offsets = offsets.clone();
            offsets.push(*further);
            Ok(Reading { fetch: fetch(*register, &offsets, INTEGER, bytes)?, decode })
        }
    }
}

/// A text that begins at the address that a value is.
fn text_behind(value: Value, further: i32) -> Result<Reading, LayoutError> {
    let decode = Decode::Text { bytes_max: TEXT_BYTES_MAX };
    match follow(value, further)? {
        Value::Memory { register, offsets, further } => {
            let fetch = fetch(register, &offsets, TEXT, 8)?;
            Ok(Reading { fetch: Fetch { text_offset: further, ..fetch }, decode })
        }
        Value::Registers(..) => Err(wrong("it has no address", "name another member")),
    }
}

fn cast_to(value: &Value, cast: Cast) -> Result<Reading, LayoutError> {
    match cast {
        Cast::Integer { bytes, signed } => {
            scalar(value, Decode::Integer { bytes, signed, shift: 0 }, bytes)
        }
        Cast::Float { bytes } => float(value, bytes),
        Cast::Boolean => scalar(value, Decode::Boolean { shift: 0 }, 1),
        Cast::Text => {
            let copy = match value {
                Value::Registers(pieces, offset) => Value::Registers(pieces.clone(), *offset),
                Value::Memory { register, offsets, further } => Value::Memory {
                    register: *register,
                    offsets: offsets.clone(),
                    further: *further,
                },
            };
            text_behind(copy, 0)
        }
    }
}

fn float(value: &Value, bytes: u8) -> Result<Reading, LayoutError> {
    match value {
        Value::Registers(..) => Err(in_float_register()),
        Value::Memory { .. } => scalar(value, Decode::Float { bytes }, bytes),
    }
}

/// A value of a known type.
fn typed(types: &dyn Types, value: Value, of: Type) -> Result<Reading, LayoutError> {
    match of {
        Type::Integer { bytes, signed } => {
            scalar(&value, Decode::Integer { bytes, signed, shift: 0 }, bytes)
        }
        Type::Character => scalar(&value, Decode::Integer { bytes: 1, signed: true, shift: 0 }, 1),
        Type::Boolean { bytes } => scalar(&value, Decode::Boolean { shift: 0 }, bytes.min(8)),
        Type::Float { bytes: bytes @ (4 | 8) } => float(&value, bytes),
        Type::Float { .. } => Err(wrong("it is a number of more than 8 bytes", "name another")),
        Type::Pointer(to) => match to.map(|to| types.resolve(to)) {
            Some(Type::Character) => text_behind(value, 0),
            Some(Type::Record(record)) if counted(&record).is_some() => {
                typed(types, follow(value, 0)?, Type::Record(record))
            }
            _ => scalar(&value, Decode::Integer { bytes: 8, signed: false, shift: 0 }, 8),
        },
        Type::Array { of, count } if types.resolve(of) == Type::Character => array(&value, count),
        Type::Array { .. } => {
            Err(wrong("it is an array", "read one element, such as `+8($arg1):u32`"))
        }
        Type::Record(record) => {
            if let Some(offset) = counted(&record) {
                return counted_text(value, offset);
            }
            let known = record.members.iter().map(|member| member.name.as_str());
            let why = format!("it is the record `{}` and no single value", record.name);
            Err(wrong(why, listed("name a member; they are", known)))
        }
        Type::Other(name) => {
            Err(wrong(format!("it is of type `{name}`, which is not read"), "name another"))
        }
    }
}

/// An array of characters where it stands.
fn array(value: &Value, count: u64) -> Result<Reading, LayoutError> {
    let Value::Memory { register, offsets, further } = value else {
        return Err(wrong(
            "it is an array in a register",
            "read a number of it, such as `$arg1:u64`",
        ));
    };
    let length = usize::try_from(count).unwrap_or(TEXT_BYTES_MAX).min(TEXT_BYTES_MAX);
    let bytes_max = if length == 0 { TEXT_BYTES_MAX } else { length };
    let fetch = Fetch { text_offset: *further, ..fetch(*register, offsets, TEXT, 8)? };
    Ok(Reading { fetch, decode: Decode::Text { bytes_max } })
}

/// Where in a record the address of a text is that its length follows: Rust's `&str`, Go's `string`
/// and libstdc++'s `std::string`.
fn counted(record: &Record) -> Option<u64> {
    let at = |name: &str| {
        record.members.iter().find(|member| member.name == name).map(|member| member.offset)
    };
    let (address, length) = if record.name == "&str" {
        (at("data_ptr")?, at("length")?)
    } else if record.name == "string" {
        (at("str")?, at("len")?)
    } else if record.name.starts_with("basic_string<char,") {
        (at("_M_dataplus")?, at("_M_string_length")?)
    } else {
        return None;
    };
    (length == address + 8).then_some(address)
}

fn counted_text(mut value: Value, at: u64) -> Result<Reading, LayoutError> {
    advance(&mut value, at)?;
    let decode = Decode::Text { bytes_max: TEXT_BYTES_MAX };
    let fetch = match value {
        Value::Registers(pieces, offset) => Fetch {
            length_register: whole_register(&pieces, offset + 8)?,
            ..fetch(whole_register(&pieces, offset)?, &[], COUNTED_TEXT, 8)?
        },
        Value::Memory { register, mut offsets, further } => {
            offsets.push(further);
            fetch(register, &offsets, COUNTED_TEXT, 8)?
        }
    };
    Ok(Reading { fetch, decode })
}
