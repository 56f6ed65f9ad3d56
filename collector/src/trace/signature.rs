//! What a function takes and gives back, as its debug information says, and where calls have it.

/// A type, by where its description is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TypeRef(pub(crate) usize);

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Integer {
        bytes: u8,
        signed: bool,
    },
    Character,
    Boolean {
        bytes: u8,
    },
    Float {
        bytes: u8,
    },
    /// To nothing known where there is no type.
    Pointer(Option<TypeRef>),
    Record(Record),
    Array {
        of: TypeRef,
        count: u64,
    },
    /// Something that is not read, by its name.
    Other(String),
}

/// A structure, class or union.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) members: Vec<Member>,
    /// Whether a call hands over its address instead, as C++ does where copying is not trivial.
    pub(crate) by_reference: bool,
}

/// A member; one without a name is one whose own members count, such as a base class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) offset: u64,
    pub(crate) of: TypeRef,
}

/// What types mean.
pub(crate) trait Types {
    /// The type at `reference`; [`Type::Other`] where it makes no sense.
    fn resolve(&self, reference: TypeRef) -> Type;
}

/// What a function takes and gives back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) parameters: Vec<(String, TypeRef)>,
    pub(crate) returned: Option<TypeRef>,
    /// Whether large records are handed over by their address, as Rust does.
    pub(crate) large_by_reference: bool,
}

/// Places in `struct pt_regs` of x86-64, in words.
pub(crate) mod register {
    pub(crate) const RBX: u8 = 5;
    pub(crate) const R11: u8 = 6;
    pub(crate) const R10: u8 = 7;
    pub(crate) const R9: u8 = 8;
    pub(crate) const R8: u8 = 9;
    pub(crate) const RAX: u8 = 10;
    pub(crate) const RCX: u8 = 11;
    pub(crate) const RDX: u8 = 12;
    pub(crate) const RSI: u8 = 13;
    pub(crate) const RDI: u8 = 14;
    pub(crate) const RSP: u8 = 19;
}

use register::{R8, R9, R10, R11, RAX, RBX, RCX, RDI, RDX, RSI, RSP};

/// Registers of integers in the System V ABI for x86-64 (1.0, 3.2.3), in order.
pub(crate) const SYSV_INTEGERS: [u8; 6] = [RDI, RSI, RDX, RCX, R8, R9];
/// Registers of integers in Go's ABI since 1.17, in order.
pub(crate) const GO_INTEGERS: [u8; 9] = [RAX, RBX, RCX, RDI, RSI, R8, R9, R10, R11];
/// Floating-point registers of arguments; a probe cannot read them, but they are used up.
const SYSV_FLOATS: usize = 8;
/// Largest record that is passed in registers, in bytes.
const RECORD_BYTES_MAX: u64 = 16;
/// Records within records that are looked through.
const DEPTH_MAX: usize = 8;

/// Eight bytes of a value that are in one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where in the value they begin.
    pub(crate) offset: u64,
    /// The register; none where probes cannot read it.
    pub(crate) register: Option<u8>,
}

/// Where a value is when a function is called or returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Registers(Vec<Piece>),
    /// On the stack, so many bytes above its pointer.
    Stack(i32),
    /// Behind the address that is in a register.
    Behind(u8),
    /// Behind the address that is on the stack.
    BehindStack(i32),
}

/// The class of eight bytes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Integer,
    Float,
}

/// Where the parameters of a function are when it has just been called.
pub(crate) fn parameters(types: &dyn Types, signature: &Signature) -> Vec<Place> {
    let returns_in_memory =
        signature.returned.is_some_and(|of| classes(types, &types.resolve(of)).is_none());
    let mut integers = usize::from(returns_in_memory);
    let mut floats = 0;
    // The address to return to is on top.
    let mut stack = 8_u64;
    let mut places = Vec::with_capacity(signature.parameters.len());
    for (_, of) in &signature.parameters {
        let found = types.resolve(*of);
        let is_by_reference = |record: &Record| {
            record.by_reference || (signature.large_by_reference && record.bytes > RECORD_BYTES_MAX)
        };
        if matches!(&found, Type::Record(record) if is_by_reference(record)) {
            match SYSV_INTEGERS.get(integers) {
                Some(register) => {
                    integers += 1;
                    places.push(Place::Behind(*register));
                }
                None => places.push(Place::BehindStack(take_stack(&mut stack, 8))),
            }
            continue;
        }
        let wanted = classes(types, &found);
        let in_registers = wanted.as_ref().filter(|classes| {
            let count = |of: Class| classes.iter().filter(|class| **class == of).count();
            integers + count(Class::Integer) <= SYSV_INTEGERS.len()
                && floats + count(Class::Float) <= SYSV_FLOATS
        });
        let Some(classes) = in_registers else {
            places.push(Place::Stack(take_stack(&mut stack, bytes_of(types, &found))));
            continue;
        };
        let mut pieces = Vec::with_capacity(classes.len());
        for (at, class) in (0_u64..).zip(classes) {
            let register = match class {
                Class::Integer => {
                    integers += 1;
                    SYSV_INTEGERS.get(integers - 1).copied()
                }
                Class::Float => {
                    floats += 1;
                    None
                }
            };
            pieces.push(Piece { offset: at * 8, register });
        }
        places.push(Place::Registers(pieces));
    }
    places
}

/// Where a function has what it gives back when it has just returned.
pub(crate) fn returned(types: &dyn Types, of: TypeRef) -> Place {
    let found = types.resolve(of);
    let by_reference = matches!(&found, Type::Record(record) if record.by_reference);
    let Some(classes) = classes(types, &found).filter(|_| !by_reference) else {
        return Place::Behind(RAX);
    };
    let mut registers = [RAX, RDX].into_iter();
    let pieces = (0_u64..).zip(&classes).map(|(at, class)| {
        let register = match class {
            Class::Integer => registers.next(),
            Class::Float => None,
        };
        Piece { offset: at * 8, register }
    });
    Place::Registers(pieces.collect())
}

/// Where argument `place` is, as far as that can be said without debug information: as if it and
/// all before it were integers.
pub(crate) fn plain_argument(place: usize, registers: &[u8]) -> Place {
    if let Some(register) = registers.get(place) {
        return Place::Registers(vec![Piece { offset: 0, register: Some(*register) }]);
    }
    let above = i32::try_from(place - registers.len()).unwrap_or(i32::MAX / 8);
    Place::Stack(above.saturating_mul(8).saturating_add(8))
}

/// The register of the stack's pointer.
pub(crate) const STACK: u8 = RSP;

fn take_stack(stack: &mut u64, bytes: u64) -> i32 {
    let at = i32::try_from(*stack).unwrap_or(i32::MAX);
    *stack = stack.saturating_add(bytes.max(1).next_multiple_of(8));
    at
}

/// Bytes of a value.
pub(crate) fn bytes_of(types: &dyn Types, of: &Type) -> u64 {
    match of {
        Type::Integer { bytes, .. } | Type::Boolean { bytes } | Type::Float { bytes } => {
            u64::from(*bytes)
        }
        Type::Character => 1,
        Type::Pointer(_) | Type::Other(_) => 8,
        Type::Record(record) => record.bytes,
        Type::Array { of, count } => {
            // An array of arrays is not read, so its element's size need not be found.
            match types.resolve(*of) {
                Type::Array { .. } => *count,
                element => bytes_of(types, &element).saturating_mul(*count),
            }
        }
    }
}

/// The classes of a value's eight bytes; none where it is passed in memory.
fn classes(types: &dyn Types, of: &Type) -> Option<Vec<Class>> {
    match of {
        Type::Float { bytes: 4 | 8 } => Some(vec![Class::Float]),
        Type::Float { .. } | Type::Array { .. } => None,
        Type::Integer { bytes: 16, .. } => Some(vec![Class::Integer; 2]),
        Type::Integer { .. } | Type::Character | Type::Boolean { .. } | Type::Pointer(_) => {
            Some(vec![Class::Integer])
        }
        Type::Other(_) => Some(vec![Class::Integer]),
        Type::Record(record) if record.bytes > RECORD_BYTES_MAX => None,
        Type::Record(record) => {
            let words = usize::try_from(record.bytes.div_ceil(8)).unwrap_or(0);
            // What holds nothing but floating-point numbers is one; padding decides nothing.
            let mut classes = vec![Class::Float; words];
            merge(types, of, 0, &mut classes, DEPTH_MAX);
            Some(classes)
        }
    }
}

fn merge(types: &dyn Types, of: &Type, offset: u64, classes: &mut [Class], depth: usize) {
    let is_float = matches!(of, Type::Float { bytes: 4 | 8 });
    match of {
        _ if depth == 0 => classes.fill(Class::Integer),
        Type::Record(record) => {
            for member in &record.members {
                let inner = types.resolve(member.of);
                merge(types, &inner, offset + member.offset, classes, depth - 1);
            }
        }
        Type::Array { of, count } => {
            let inner = types.resolve(*of);
            let bytes = bytes_of(types, &inner);
            for at in 0..(*count).min(RECORD_BYTES_MAX) {
                merge(types, &inner, offset + at * bytes, classes, depth - 1);
            }
        }
        _ if is_float => {}
        _ => {
            let first = usize::try_from(offset / 8).unwrap_or(usize::MAX);
            if let Some(class) = classes.get_mut(first) {
                *class = Class::Integer;
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Types by their place in a list.
    pub(crate) struct Listed(pub(crate) Vec<Type>);

    impl Types for Listed {
        fn resolve(&self, reference: TypeRef) -> Type {
            self.0[reference.0].clone()
        }
    }

    fn record(bytes: u64, members: &[(u64, usize)]) -> Type {
        let members = members
            .iter()
            .map(|(offset, of)| Member {
                name: format!("m{offset}"),
                offset: *offset,
                of: TypeRef(*of),
            })
            .collect();
        Type::Record(Record { name: "r".to_owned(), bytes, members, by_reference: false })
    }

    fn places(types: Vec<Type>, parameters_of: &[usize], returned: Option<usize>) -> Vec<Place> {
        let taken = parameters_of.iter().map(|of| (String::new(), TypeRef(*of))).collect();
        let returned = returned.map(TypeRef);
        let signature = Signature { parameters: taken, returned, large_by_reference: false };
        parameters(&Listed(types), &signature)
    }

    fn in_register(register: u8) -> Place {
        Place::Registers(vec![Piece { offset: 0, register: Some(register) }])
    }

    const INT: Type = Type::Integer { bytes: 4, signed: true };

    #[test]
    fn six_integers_are_in_registers_and_further_ones_on_the_stack() {
        let found = places(vec![INT], &[0; 8], None);
        assert_eq!(found[..6], SYSV_INTEGERS.map(in_register));
        assert_eq!(found[6..], [Place::Stack(8), Place::Stack(16)]);
        assert_eq!(plain_argument(0, &SYSV_INTEGERS), in_register(RDI));
        assert_eq!(plain_argument(7, &SYSV_INTEGERS), Place::Stack(16));
    }

    #[test]
    fn numbers_with_a_point_use_registers_of_their_own() {
        let types = vec![INT, Type::Float { bytes: 8 }];
        let found = places(types, &[1, 0, 1, 0], None);
        assert_eq!(found[0], Place::Registers(vec![Piece { offset: 0, register: None }]));
        assert_eq!((&found[1], &found[3]), (&in_register(RDI), &in_register(RSI)));
    }

    #[test]
    fn a_small_record_is_in_registers_word_by_word_and_a_large_one_is_not() {
        let float = Type::Float { bytes: 8 };
        let types = vec![
            INT,
            float,
            record(16, &[(0, 0), (8, 1)]),
            record(24, &[(0, 0)]),
            record(12, &[(0, 0), (4, 0), (8, 0)]),
        ];
        let found = places(types, &[2, 3, 4, 0], None);
        let pieces =
            vec![Piece { offset: 0, register: Some(RDI) }, Piece { offset: 8, register: None }];
        assert_eq!(found[0], Place::Registers(pieces));
        assert_eq!(found[1], Place::Stack(8));
        let pieces = vec![
            Piece { offset: 0, register: Some(RSI) },
            Piece { offset: 8, register: Some(RDX) },
        ];
        assert_eq!(found[2], Place::Registers(pieces));
        assert_eq!(found[3], in_register(RCX));
    }

    #[test]
    fn a_large_result_takes_the_first_register() {
        let types = vec![INT, record(24, &[(0, 0)])];
        assert_eq!(places(types.clone(), &[0], Some(1)), [in_register(RSI)]);
        assert_eq!(returned(&Listed(types.clone()), TypeRef(1)), Place::Behind(RAX));
        assert_eq!(returned(&Listed(types), TypeRef(0)), in_register(RAX));
    }

    #[test]
    fn a_record_that_cannot_be_copied_is_behind_its_address() {
        let mut types = vec![INT, record(8, &[(0, 0)])];
        let Type::Record(inner) = &mut types[1] else { unreachable!() };
        inner.by_reference = true;
        assert_eq!(places(types, &[1, 0], None), [Place::Behind(RDI), in_register(RSI)]);
    }

    #[test]
    fn a_record_that_finds_no_room_leaves_the_registers_to_others() {
        let types = vec![INT, record(16, &[(0, 0), (8, 0)])];
        let found = places(types, &[0, 0, 0, 0, 0, 1, 0], None);
        assert_eq!((&found[5], &found[6]), (&Place::Stack(8), &in_register(R9)));
    }
}
