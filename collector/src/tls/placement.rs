//! Where in a function's code a probe is put.
//!
//! The kernel runs an instruction that it has replaced by a probe itself, where that is a `push` or
//! a jump; any other it lets the processor step through, which costs 4 to 11 µs instead of 0.5 µs.
//! Compilers rarely begin OpenSSL's `SSL_write` with a `push`, but that function only calls another
//! one with the same arguments and the address of the byte count, and that one does. So a probe
//! goes, in this order,
//!
//! 1. to the function's own `push`;
//! 2. to that of the function which it calls, where its arguments are known to be these;
//! 3. to the function's first instruction, whatever that is.
//!
//! Only what is certain counts: an instruction that is not known here leads to 3. A probe never
//! goes to a `nop` in the middle of a function, which kernel 6.18 and its neighbours get wrong.

use undine_ebpf::load::{COOKIE_WRITTEN_R8, COOKIE_WRITTEN_RCX};

/// Most instructions that are looked at.
const INSTRUCTIONS_MAX: usize = 24;

/// Where probes of libraries in C go if there is a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placing {
    /// Where they cost least.
    Best,
    /// To the first instruction, where such tools usually put them: to measure what that costs.
    Classic,
}

impl Placing {
    /// Whether code is looked at.
    pub(super) const fn looks(self) -> bool {
        matches!(self, Self::Best)
    }
}

/// How a function says how many bytes it moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// As its result.
    Returned,
    /// Where its fourth argument points.
    Written,
}

/// How a probe was placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Manner {
    /// On an instruction that the kernel runs itself.
    Quick,
    /// On the inner function's first instruction, which the kernel runs itself.
    Inner,
    /// On an instruction that is stepped through.
    Classic,
}

impl Manner {
    /// As `probe_status` shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quick => "entry",
            Self::Inner => "relocated",
            Self::Classic => "classic",
        }
    }
}

/// A place for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Address of the instruction.
    pub address: u64,
    /// The cookie's bits that say where the byte count is.
    pub count: u64,
    /// How it was found.
    pub manner: Manner,
}

/// Places the probes at the entry and the return of a function at `address` that takes an object,
/// a buffer and a length. `code` gives the code at an address.
pub fn of_call<'a>(address: u64, count: Count, code: impl Fn(u64) -> Option<&'a [u8]>) -> Place {
    let count_bits = match count {
        Count::Returned => 0,
        Count::Written => COOKIE_WRITTEN_RCX,
    };
    let classic = Place { address, count: count_bits, manner: Manner::Classic };
    let Some(bytes) = code(address) else { return classic };
    let own = after_landing(bytes);
    if is_push(&bytes[own..]) {
        return Place { address: address + own as u64, manner: Manner::Quick, ..classic };
    }
    let inner = inner_call(address, bytes, count);
    let Some((callee, count)) = inner else { return classic };
    let Some(bytes) = code(callee) else { return classic };
    let landing = after_landing(bytes);
    if !is_push(&bytes[landing..]) {
        return classic;
    }
    Place { address: callee + landing as u64, count, manner: Manner::Inner }
}

/// Places the probe at the very beginning of a function, where the stack is still the caller's.
pub fn of_first(address: u64, bytes: &[u8]) -> Place {
    let landing = after_landing(bytes);
    if is_push(&bytes[landing..]) {
        return Place { address: address + landing as u64, count: 0, manner: Manner::Quick };
    }
    Place { address, count: 0, manner: Manner::Classic }
}

/// Places the probe at the entry of a function of whose arguments only the first matters.
pub fn of_entry(address: u64, bytes: &[u8]) -> Place {
    let mut registers = Registers::at_entry();
    let mut at = 0;
    for _ in 0..INSTRUCTIONS_MAX {
        let Some((instruction, length)) = decode(&bytes[at..]) else { break };
        if matches!(
            instruction,
            Instruction::Push | Instruction::JumpIf | Instruction::JumpIfNegative
        ) {
            return Place { address: address + at as u64, count: 0, manner: Manner::Quick };
        }
        if !registers.apply(instruction) || registers.0[RDI] != Value::Argument(0) {
            break;
        }
        at += length;
    }
    Place { address, count: 0, manner: Manner::Classic }
}

/// The function that the one at `address` calls with its own arguments, and where that one writes
/// the byte count.
fn inner_call(address: u64, bytes: &[u8], count: Count) -> Option<(u64, u64)> {
    let mut registers = Registers::at_entry();
    let mut at = 0;
    for _ in 0..INSTRUCTIONS_MAX {
        let (instruction, length) = decode(bytes.get(at..)?)?;
        at += length;
        if let Instruction::Call(distance) = instruction {
            let next = address.wrapping_add(at as u64);
            let callee = next.wrapping_add_signed(i64::from(distance));
            return registers.byte_count(count).map(|count| (callee, count));
        }
        if !registers.apply(instruction) {
            return None;
        }
    }
    None
}

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Argument(u8),
    /// An address in the function's own frame.
    Frame,
    Other,
}

const RCX: usize = 1;
const RDX: usize = 2;
const RSP: usize = 4;
const RSI: usize = 6;
const RDI: usize = 7;
const R8: usize = 8;

struct Registers([Value; 16]);

impl Registers {
    /// As the System V ABI has them.
    fn at_entry() -> Self {
        let mut registers = [Value::Other; 16];
        for (argument, register) in (0..).zip([RDI, RSI, RDX, RCX, R8]) {
            registers[register] = Value::Argument(argument);
        }
        registers[RSP] = Value::Frame;
        Self(registers)
    }

    /// What `instruction` makes of them; whether the function goes straight on.
    fn apply(&mut self, instruction: Instruction) -> bool {
        match instruction {
            // One that jumps is about a negative length, which is a mistake.
            Instruction::Nothing | Instruction::Push | Instruction::JumpIfNegative => true,
            Instruction::JumpIf | Instruction::Call(_) => false,
            Instruction::Copy { to, from } => {
                self.0[to] = self.0[from];
                to != RSP
            }
            Instruction::FrameAddress(to) => {
                self.0[to] = Value::Frame;
                to != RSP
            }
            Instruction::Set(to) => {
                self.0[to] = Value::Other;
                to != RSP
            }
        }
    }

    /// Where a function that is called now writes the byte count, if its arguments are those of the
    /// one that calls it.
    fn byte_count(&self, count: Count) -> Option<u64> {
        let same = [(RDI, 0), (RSI, 1), (RDX, 2)];
        if same.iter().any(|(register, argument)| self.0[*register] != Value::Argument(*argument)) {
            return None;
        }
        let wanted = match count {
            Count::Returned => Value::Frame,
            Count::Written => Value::Argument(3),
        };
        match (self.0[RCX] == wanted, self.0[R8] == wanted) {
            (true, false) => Some(COOKIE_WRITTEN_RCX),
            (false, true) => Some(COOKIE_WRITTEN_R8),
            _ => None,
        }
    }
}

/// What an instruction does to the registers that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instruction {
    Nothing,
    Push,
    JumpIfNegative,
    JumpIf,
    Call(i32),
    Copy { to: usize, from: usize },
    FrameAddress(usize),
    Set(usize),
}

/// Bytes of `endbr64`, where it is the first instruction.
fn after_landing(bytes: &[u8]) -> usize {
    if bytes.starts_with(&[0xf3, 0x0f, 0x1e, 0xfa]) { 4 } else { 0 }
}

/// Whether the first instruction is the `push` of a register.
fn is_push(bytes: &[u8]) -> bool {
    matches!(bytes, [0x50..=0x57, ..] | [0x41, 0x50..=0x57, ..])
}

/// The first instruction and its length, where it is one of the few that the beginnings of these
/// functions are made of. Numbers are those of the Intel manual, volume 2.
fn decode(bytes: &[u8]) -> Option<(Instruction, usize)> {
    let known = match *bytes {
        [0x50..=0x57, ..] => (Instruction::Push, 1),
        [0x41, 0x50..=0x57, ..] => (Instruction::Push, 2),
        [0x78, _, ..] => (Instruction::JumpIfNegative, 2),
        [0x0f, 0x88, _, _, _, _, ..] => (Instruction::JumpIfNegative, 6),
        [0x70..=0x7f, _, ..] => (Instruction::JumpIf, 2),
        [0x0f, 0x80..=0x8f, _, _, _, _, ..] => (Instruction::JumpIf, 6),
        [0xe8, a, b, c, d, ..] => (Instruction::Call(i32::from_le_bytes([a, b, c, d])), 5),
        // endbr64; sub $…, %rsp
        [0xf3, 0x0f, 0x1e, 0xfa, ..] | [0x48, 0x83, 0xec, _, ..] => (Instruction::Nothing, 4),
        [0x48, 0x81, 0xec, _, _, _, _, ..] => (Instruction::Nothing, 7),
        // mov %fs:…, register
        [0x64, rex @ (0x48 | 0x4c), 0x8b, modrm, 0x25, _, _, _, _, ..] if modrm & 0xc7 == 4 => {
            (Instruction::Set(register(modrm >> 3, rex & 4 != 0)), 9)
        }
        // mov register, …(%rsp)
        [0x48 | 0x4c, 0x89, modrm, 0x24, _, ..] if modrm & 0xc7 == 0x44 => {
            (Instruction::Nothing, 5)
        }
        [0x48 | 0x4c, 0x89, modrm, 0x24, ..] if modrm & 0xc7 == 4 => (Instruction::Nothing, 4),
        // movq $…, …(%rsp)
        [0x48, 0xc7, 0x44, 0x24, _, _, _, _, _, ..] => (Instruction::Nothing, 9),
        [0x48, 0xc7, 0x04, 0x24, _, _, _, _, ..] => (Instruction::Nothing, 8),
        // lea …(%rsp), register
        [rex @ (0x48 | 0x4c), 0x8d, modrm, 0x24, _, ..] if modrm & 0xc7 == 0x44 => {
            (Instruction::FrameAddress(register(modrm >> 3, rex & 4 != 0)), 5)
        }
        // mov register, register
        [rex @ (0x48 | 0x49 | 0x4c | 0x4d), 0x89, modrm, ..] if modrm >= 0xc0 => {
            let to = register(modrm, rex & 1 != 0);
            (Instruction::Copy { to, from: register(modrm >> 3, rex & 4 != 0) }, 3)
        }
        // movslq register, register: of a length, which is not negative here
        [rex @ (0x48 | 0x49 | 0x4c | 0x4d), 0x63, modrm, ..] if modrm >= 0xc0 => {
            let to = register(modrm >> 3, rex & 4 != 0);
            (Instruction::Copy { to, from: register(modrm, rex & 1 != 0) }, 3)
        }
        // xor register, register
        [0x31 | 0x33, modrm, ..] if modrm >= 0xc0 => {
            let to = if bytes[0] == 0x31 { modrm } else { modrm >> 3 };
            (Instruction::Set(register(to, false)), 2)
        }
        [0x45, 0x31, modrm, ..] if modrm >= 0xc0 => (Instruction::Set(register(modrm, true)), 3),
        // test register, register
        [0x85, modrm, ..] if modrm >= 0xc0 => (Instruction::Nothing, 2),
        [0x48, 0x85, modrm, ..] if modrm >= 0xc0 => (Instruction::Nothing, 3),
        _ => return None,
    };
    Some(known)
}

/// The register in the low three bits of `field`.
const fn register(field: u8, extended: bool) -> usize {
    (field & 7) as usize + if extended { 8 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUSHES: &[u8] = &[0x41, 0x56, 0x41, 0x55, 0x55, 0x53];

    fn place(outer: &[u8], inner: &[u8], count: Count) -> Place {
        let (outer, inner) = (outer.to_vec(), inner.to_vec());
        let outer: &'static [u8] = outer.leak();
        let inner: &'static [u8] = inner.leak();
        of_call(0x1000, count, move |address| match address {
            0x1000 => Some(outer),
            0x2000 => Some(inner),
            _ => None,
        })
    }

    /// `call 0x2000` for code that is `before` bytes long, at 0x1000.
    fn with_call(mut before: Vec<u8>) -> Vec<u8> {
        let distance = 0x1000 - i32::try_from(before.len()).unwrap() - 5;
        before.push(0xe8);
        before.extend_from_slice(&distance.to_le_bytes());
        before
    }

    /// OpenSSL 3.0's `SSL_write` up to its call.
    fn ssl_write() -> Vec<u8> {
        with_call(vec![
            0x48, 0x83, 0xec, 0x18, 0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0, 0x48, 0x89, 0x44,
            0x24, 0x08, 0x31, 0xc0, 0x85, 0xd2, 0x78, 0x2f, 0x48, 0x89, 0xe1, 0x48, 0x63, 0xd2,
        ])
    }

    #[test]
    fn a_function_that_begins_with_a_push_is_probed_there() {
        let found = place(&[0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48], &[], Count::Written);
        let wanted = Place { address: 0x1004, count: COOKIE_WRITTEN_RCX, manner: Manner::Quick };
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_function_that_only_calls_another_is_probed_in_that() {
        let found = place(&ssl_write(), PUSHES, Count::Returned);
        let wanted = Place { address: 0x2000, count: COOKIE_WRITTEN_RCX, manner: Manner::Inner };
        assert_eq!(found, wanted);
        let ex = with_call(vec![0x48, 0x83, 0xec, 0x08]);
        assert_eq!(place(&ex, PUSHES, Count::Written), wanted);
    }

    #[test]
    fn the_byte_count_may_be_the_fifth_argument() {
        // sub $0x18, %rsp; test; js; lea 8(%rsp), %r8; xor %ecx, %ecx; movslq %edx, %rdx
        let code = with_call(vec![
            0x48, 0x83, 0xec, 0x18, 0x85, 0xd2, 0x78, 0x10, 0x4c, 0x8d, 0x44, 0x24, 0x08, 0x31,
            0xc9, 0x48, 0x63, 0xd2,
        ]);
        assert_eq!(place(&code, PUSHES, Count::Returned).count, COOKIE_WRITTEN_R8);
        // mov %rcx, %r8; xor %ecx, %ecx
        let ex = with_call(vec![0x48, 0x83, 0xec, 0x08, 0x49, 0x89, 0xc8, 0x31, 0xc9]);
        let found = place(&ex, PUSHES, Count::Written);
        assert_eq!((found.manner, found.count), (Manner::Inner, COOKIE_WRITTEN_R8));
    }

    #[test]
    fn whatever_is_in_doubt_is_probed_at_its_first_instruction() {
        let classic = |code: &[u8], inner: &[u8], count| {
            let found = place(code, inner, count);
            assert_eq!((found.address, found.manner), (0x1000, Manner::Classic), "{code:x?}");
        };
        // The inner function begins otherwise.
        classic(&ssl_write(), &[0x48, 0x83, 0xec, 0x18], Count::Returned);
        // No byte count is handed on.
        classic(&with_call(vec![0x48, 0x83, 0xec, 0x18]), PUSHES, Count::Returned);
        // The buffer is another one: xor %esi, %esi.
        classic(&with_call(vec![0x48, 0x83, 0xec, 0x18, 0x31, 0xf6]), PUSHES, Count::Written);
        // A branch that is not about a negative length: test %rdi, %rdi; je.
        let branch = vec![0x48, 0x83, 0xec, 0x18, 0x48, 0x85, 0xff, 0x74, 0x10];
        classic(&with_call(branch), PUSHES, Count::Written);
        // Unknown instructions, and none.
        classic(&[0x48, 0x83, 0xec, 0x18, 0x0f, 0x0b], PUSHES, Count::Returned);
        classic(&[], PUSHES, Count::Returned);
        for cut in 0..ssl_write().len() {
            classic(&ssl_write()[..cut], PUSHES, Count::Returned);
        }
    }

    #[test]
    fn an_entry_is_probed_at_the_first_jump_or_push_that_still_knows_the_object() {
        // test %rdi, %rdi; je …
        let free = [0x48, 0x85, 0xff, 0x0f, 0x84, 1, 2, 0, 0];
        let found = of_entry(0x1000, &free);
        assert_eq!((found.address, found.manner), (0x1003, Manner::Quick));
        // xor %edi, %edi; push
        let found = of_entry(0x1000, &[0x31, 0xff, 0x55]);
        assert_eq!((found.address, found.manner), (0x1000, Manner::Classic));
    }
}
