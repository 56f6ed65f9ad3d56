//! The functions of Go's `crypto/tls` in a program, with each of their returns.
//!
//! They come from the table that the runtime needs itself (`runtime.pcHeader`), so they are found
//! in programs without symbols too. For each function the table says how deep the stack is at each
//! instruction, and at a `ret`, but for the function's beginning and its call for a larger stack,
//! it is as deep as at the entry. So all returns are found without decoding the code; that each is
//! a `ret` shows that table and code were read right. Go 1.18 and later.
//!
//! A probe on a `ret` is stepped through: on x86-64 the kernel runs `nop`, `push`, jumps and relative
//! calls itself (`branch_setup_xol_ops` and `push_setup_xol_ops` of arch/x86/kernel/uprobes.c), no
//! `ret`, and none of the `add` and `pop` that Go puts before it, where the result is final. So a call
//! of Go's pays once for that, at its end; its entry is placed as those of C are. On the machine where
//! it was built, busy, a probe took 0.6 µs on a `push` and 11 µs on a `ret` (the ignored test
//! `what_a_probe_costs_on_a_push_and_on_a_return`, in turn, medians).

use object::read::ReadCache;
use object::{Object, ObjectSection, ObjectSymbol};
use std::fs::File;
use undine_ebpf::load::{COOKIE_EGRESS, COOKIE_SHAKES};

use super::placement::Manner;

/// Most bytes of a table.
const TABLE_BYTES_MAX: u64 = 128 << 20;
/// Most bytes of a function.
const FUNCTION_BYTES_MAX: u64 = 64 << 10;
/// The section that the table is in, of a program at a fixed place and of one that is not.
const SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
/// What a table of Go 1.18 and one of Go 1.20 begin with.
const MAGIC: [u32; 2] = [0xffff_fff0, 0xffff_fff1];
/// What those of older versions begin with.
const MAGIC_BEFORE: [u32; 2] = [0xffff_fffb, 0xffff_fffa];

/// Functions that take the object, a buffer, its length and its capacity, and give a length; and the one
/// that shakes hands, in which a server may receive what its client says first. With the cookies of
/// their probes.
const FUNCTIONS: [(&str, u64); 3] = [
    ("crypto/tls.(*Conn).Write", COOKIE_EGRESS),
    ("crypto/tls.(*Conn).Read", 0),
    ("crypto/tls.(*Conn).handshakeContext", COOKIE_SHAKES),
];

/// A function that moves plaintext, or shakes hands before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GoFunction {
    pub(super) name: &'static str,
    /// The cookie of its probes.
    pub(super) cookie: u64,
    /// Address of an instruction at which the arguments are in their registers.
    pub(super) entry: u64,
    pub(super) manner: Manner,
    /// Addresses of all its `ret` instructions.
    pub(super) returns: Vec<u64>,
}

/// Why a Go program's functions cannot be probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GoError {
    /// It is too old.
    #[error("it was built with Go before 1.18, whose TLS is not read; build it with a newer one")]
    Version,
    /// Table and code do not fit together.
    #[error("its table of functions does not fit its code; report it with the version of Go")]
    Table,
}

type Elf<'a> = object::File<'a, &'a ReadCache<File>>;

/// The functions of `elf` that are known here; none where it is no Go program or does not speak
/// TLS.
pub(super) fn functions(elf: &Elf<'_>) -> Result<Vec<GoFunction>, GoError> {
    let Some(section) = SECTIONS.iter().find_map(|name| elf.section_by_name(name)) else {
        return Ok(Vec::new());
    };
    if section.size() > TABLE_BYTES_MAX {
        return Err(GoError::Table);
    }
    let table = section.data().map_err(|_unreadable| GoError::Table)?;
    let name = FUNCTIONS[0].0.as_bytes();
    if !table.windows(name.len()).any(|window| window == name) {
        return Ok(Vec::new());
    }
    if MAGIC_BEFORE.iter().any(|magic| table.starts_with(&magic.to_le_bytes())) {
        return Err(GoError::Version);
    }
    let table = Table(table);
    let found = table.find().ok_or(GoError::Table)?;
    let code = |address, size| {
        let holds = |section: &object::Section<'_, '_, _>| {
            section.kind() == object::SectionKind::Text
                && (section.address()..section.address() + section.size()).contains(&address)
        };
        let section = elf.sections().find(holds)?;
        section.data_range(address, size).ok().flatten()
    };
    // Where the code begins is said in one of these places; which is right shows in the code.
    for start in starts(elf, &table, section.address()) {
        let read = |found: &Found<'_>| {
            let function = found.read(start, code);
            // Without that one nearly everything is bound.
            let may_miss = found.cookie == COOKIE_SHAKES;
            (function.is_some() || !may_miss).then_some(function)
        };
        if let Some(functions) = found.iter().filter_map(read).collect() {
            return Ok(functions);
        }
    }
    Err(GoError::Table)
}

/// Where the code may begin that the table's addresses are relative to.
fn starts(elf: &Elf<'_>, table: &Table<'_>, address: u64) -> Vec<u64> {
    let mut starts = Vec::new();
    starts.extend(table.word(24).filter(|start| *start != 0));
    let symbol = elf.symbols().find(|symbol| symbol.name_bytes() == Ok(b"runtime.text"));
    starts.extend(symbol.map(|symbol| symbol.address()));
    // A program that may be loaded anywhere has it among what is put right then.
    let relocations = elf.dynamic_relocations().into_iter().flatten();
    let own = relocations.filter(|(place, _)| *place == address + 24);
    starts.extend(own.map(|(_, relocation)| relocation.addend().cast_unsigned()));
    starts.extend(elf.section_by_name(".text").map(|text| text.address()));
    starts
}

/// `runtime.pcHeader` and what follows it.
struct Table<'a>(&'a [u8]);

/// What the table says of a function.
#[derive(Debug)]
struct Found<'a> {
    name: &'static str,
    cookie: u64,
    /// Relative to the beginning of the code.
    begin: u64,
    size: u64,
    /// How deep the stack is, as the runtime encodes it.
    depths: &'a [u8],
}

impl<'a> Table<'a> {
    fn bytes(&self, at: u64) -> Option<&'a [u8]> {
        self.0.get(usize::try_from(at).ok()?..)
    }

    fn word(&self, at: u64) -> Option<u64> {
        Some(u64::from_le_bytes(*self.bytes(at)?.first_chunk()?))
    }

    fn half(&self, at: u64) -> Option<u64> {
        Some(u64::from(u32::from_le_bytes(*self.bytes(at)?.first_chunk()?)))
    }

    /// The functions that are known here; `None` where the table is not what it should be.
    fn find(&self) -> Option<Vec<Found<'a>>> {
        let magic = u32::from_le_bytes(*self.0.first_chunk()?);
        if !MAGIC.contains(&magic) || *self.0.get(7)? != 8 {
            return None;
        }
        let (count, names) = (self.word(8)?, self.word(32)?);
        let (depths, functions) = (self.word(56)?, self.word(64)?);
        let mut found = Vec::new();
        for index in 0..count {
            let entry = functions.checked_add(index.checked_mul(8)?)?;
            let begin = self.half(entry)?;
            let about = functions.checked_add(self.half(entry + 4)?)?;
            let name = self.bytes(names.checked_add(self.half(about + 4)?)?)?;
            let is_it = |known: &&(&str, u64)| {
                name.strip_prefix(known.0.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
            };
            let Some((name, cookie)) = FUNCTIONS.iter().find(is_it) else { continue };
            let size = self.half(entry + 8)?.checked_sub(begin)?;
            let depths = self.bytes(depths.checked_add(self.half(about + 16)?)?)?;
            found.push(Found { name, cookie: *cookie, begin, size, depths });
        }
        Some(found)
    }
}

impl Found<'_> {
    /// The function, where its code, of programs whose code begins at `start`, is as the table says.
    fn read<'c>(
        &self,
        start: u64,
        code: impl Fn(u64, u64) -> Option<&'c [u8]>,
    ) -> Option<GoFunction> {
        let address = start.checked_add(self.begin)?;
        if self.size > FUNCTION_BYTES_MAX {
            return None;
        }
        let code = code(address, self.size)?;
        let returns = returns(code, &at_entry_depth(self.depths)?)?;
        let (entry, manner) = match stack_check(code) {
            Some(jump) => (jump, Manner::Quick),
            None => (0, Manner::Classic),
        };
        Some(GoFunction {
            name: self.name,
            cookie: self.cookie,
            entry: address + entry as u64,
            manner,
            returns: returns.into_iter().map(|at| address + at as u64).collect(),
        })
    }
}

/// The runs of a function's code in which the stack is as deep as at its entry.
fn at_entry_depth(mut depths: &[u8]) -> Option<Vec<std::ops::Range<usize>>> {
    let (mut depth, mut at) = (-1_i64, 0_usize);
    let mut runs = Vec::new();
    let mut is_first = true;
    loop {
        let change = varint(&mut depths)?;
        if change == 0 && !is_first {
            return Some(runs);
        }
        is_first = false;
        let magnitude = i64::from(change >> 1);
        depth += if change & 1 == 0 { magnitude } else { !magnitude };
        let end = at.checked_add(usize::try_from(varint(&mut depths)?).ok()?)?;
        if depth == 0 {
            runs.push(at..end);
        }
        at = end;
    }
}

/// Seven bits a byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0_u32;
    for shift in (0..32).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

const RET: u8 = 0xc3;

/// Where in `code` the returns are. But for the first run, which is the entry, each run is one. In
/// the last one, or instead of it, is the call for a larger stack, which ends with a jump to the
/// entry.
fn returns(code: &[u8], runs: &[std::ops::Range<usize>]) -> Option<Vec<usize>> {
    let (entry, others) = runs.split_first()?;
    let (last, inner) = others.split_last()?;
    let is_return = |at| code.get(at) == Some(&RET);
    let ends_well = if ends_with_jump_to_entry(code, last.end) {
        true
    } else {
        last.len() == 1 && is_return(last.start)
    };
    let are_returns = inner.iter().all(|run| run.len() == 1 && is_return(run.start));
    if entry.start != 0 || !ends_well || !are_returns {
        return None;
    }
    Some(others.iter().map(|run| run.start).filter(|at| is_return(*at)).collect())
}

/// Whether what ends at `end` of `code`, but for filling, is a jump to the function's entry.
fn ends_with_jump_to_entry(code: &[u8], end: usize) -> bool {
    let Some(code) = code.get(..end) else { return false };
    let filled = code.iter().rev().take_while(|byte| **byte == 0xcc).count();
    let at = code.len() - filled;
    match code[..at] {
        [.., 0xe9, a, b, c, d] => {
            i64::try_from(at).is_ok_and(|at| i64::from(i32::from_le_bytes([a, b, c, d])) == -at)
        }
        [.., 0xeb, distance] => {
            i64::try_from(at).is_ok_and(|at| i64::from(distance.cast_signed()) == -at)
        }
        _ => false,
    }
}

/// Where the jump of a function's first instructions is, which look whether the stack is large
/// enough: `cmp 0x10(%r14), %rsp` or, of a large frame, `lea …(%rsp), %r12; cmp 0x10(%r14), %r12`.
fn stack_check(code: &[u8]) -> Option<usize> {
    let at = match *code {
        [0x49, 0x3b, 0x66, 0x10, ..] => 4,
        [0x4c, 0x8d, 0x64, 0x24, _, 0x4d, 0x3b, 0x66, 0x10, ..] => 9,
        [0x4c, 0x8d, 0xa4, 0x24, _, _, _, _, 0x4d, 0x3b, 0x66, 0x10, ..] => 12,
        _ => return None,
    };
    // jbe
    matches!(code.get(at..)?, [0x76, ..] | [0x0f, 0x86, ..]).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of 8 bytes, two returns, the call for a larger stack.
    const CODE: [u8; 27] = [
        0x49, 0x3b, 0x66, 0x10, 0x76, 0x0c, // cmp; jbe
        0x48, 0x83, 0xec, 0x08, // sub $8, %rsp
        0x48, 0x83, 0xc4, 0x08, RET, // add $8, %rsp; ret
        0x90, RET, RET, // the middle byte is none: it is in a deep run
        0xe8, 0, 0, 0, 0, // call
        0xeb, 0xe7, // jmp to the entry
        0xcc, 0xcc,
    ];
    /// 0 up to 10, 8 up to 14, 0 for the return, 8 for two bytes, then 0.
    const DEPTHS: [u8; 11] = [2, 10, 16, 4, 15, 1, 16, 2, 15, 10, 0];

    #[test]
    fn returns_are_where_the_stack_is_as_at_the_entry() {
        let runs = at_entry_depth(&DEPTHS).unwrap();
        assert_eq!(runs, [0..10, 14..15, 17..27]);
        assert_eq!(returns(&CODE, &runs), Some(vec![14, 17]));
        assert_eq!(stack_check(&CODE), Some(4));
    }

    #[test]
    fn code_that_is_not_what_the_table_is_of_is_refused() {
        let runs = at_entry_depth(&DEPTHS).unwrap();
        for at in [14, 24] {
            let mut code = CODE;
            code[at] ^= 1;
            assert_eq!(returns(&code, &runs), None, "changed at {at}");
        }
        for cut in 0..DEPTHS.len() {
            assert_eq!(at_entry_depth(&DEPTHS[..cut]), None, "cut at {cut}");
        }
        for cut in 0..25 {
            assert_eq!(returns(&CODE[..cut], &runs), None, "cut at {cut}");
        }
    }

    #[test]
    fn the_stack_is_checked_before_a_large_frame_is_made_too() {
        let near = [0x4c, 0x8d, 0x64, 0x24, 0x98, 0x4d, 0x3b, 0x66, 0x10, 0x0f, 0x86, 0, 0, 0, 0];
        assert_eq!(stack_check(&near), Some(9));
        assert_eq!(stack_check(&[0x48, 0x83, 0xec, 0x08]), None);
    }
}
