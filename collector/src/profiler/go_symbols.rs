//! Names of Go's functions, from the table that its runtime itself needs, which is in programs that
//! were stripped of everything else too.
//!
//! The table begins with a header (`runtime.pcHeader`); of functions it holds where each begins,
//! and where the rest that is known of it is, the place of its name among that. Go 1.18 and later.

use std::fs::File;
use std::ops::Range;

use super::elf::{Elf, Symbol, Symbols};

/// Most bytes of a table.
const TABLE_BYTES_MAX: usize = 64 << 20;
/// The section that the table is in, of a program at a fixed place and of one that is not.
const SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
/// What a table of Go 1.18 and one of Go 1.20 begin with.
const MAGIC: [u32; 2] = [0xffff_fff0, 0xffff_fff1];

/// The functions of a Go program, at most `symbols_max`; `None` where it is none.
pub(crate) fn functions(elf: &Elf, file: &File, symbols_max: usize) -> Option<Symbols> {
    let section = SECTIONS.iter().find_map(|name| elf.section(name))?;
    let table = section.read(file, TABLE_BYTES_MAX).ok()?;
    let text = elf.section(".text").map_or(0, |text| text.address);
    parse(&table, text, section.file.clone(), symbols_max)
}

fn parse(table: &[u8], text: u64, file: Range<u64>, symbols_max: usize) -> Option<Symbols> {
    if !MAGIC.contains(&u32_at(table, 0)?) || *table.get(7)? != 8 {
        return None;
    }
    let count = usize::try_from(u64_at(table, 8)?).ok()?.min(symbols_max);
    // Zero where the program may be loaded anywhere: then the section says it.
    let start = Some(u64_at(table, 24)?).filter(|start| *start != 0).unwrap_or(text);
    let names = u64_at(table, 32)?;
    let all = table.get(usize::try_from(u64_at(table, 64)?).ok()?..)?;
    let mut functions = Vec::new();
    for at in 0..count {
        let Some(symbol) = function(all, at, start) else { break };
        functions.push(symbol);
    }
    functions.sort_unstable();
    functions.dedup_by_key(|symbol| symbol.address);
    let names = file.start.checked_add(names).filter(|names| *names <= file.end)?..file.end;
    (!functions.is_empty()).then_some(Symbols { functions, names })
}

/// The function at place `at` of the table of functions, which is the beginning of `all`.
fn function(all: &[u8], at: usize, start: u64) -> Option<Symbol> {
    let entry = at.checked_mul(8)?;
    let (begin, next) = (u32_at(all, entry)?, u32_at(all, entry.checked_add(8)?)?);
    let rest = u32_at(all, entry + 4)? as usize;
    let name = u32_at(all, rest.checked_add(4)?)?;
    let size = next.checked_sub(begin)?;
    Some(Symbol { address: start.checked_add(u64::from(begin))?, size, name })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::super::elf::text_at;
    use super::*;

    /// A table of two functions, `main.a` of 16 bytes and `main.b` of 8.
    fn table() -> Vec<u8> {
        let mut table = MAGIC[1].to_le_bytes().to_vec();
        table.extend([0, 0, 1, 8]);
        for word in [2_u64, 0, 0x1000, 72, 0, 0, 0, 88] {
            table.extend(word.to_le_bytes());
        }
        assert_eq!(table.len(), 72);
        table.extend(b"\0main.a\0main.b\0\0");
        assert_eq!(table.len(), 88);
        for word in [0_u32, 20, 16, 28, 24, 0, 1, 16, 8] {
            table.extend(word.to_le_bytes());
        }
        table
    }

    #[test]
    fn each_function_has_its_place_and_its_name() {
        let symbols = parse(&table(), 0, 0..124, 10).unwrap();
        let of = |symbol: &Symbol| (symbol.address, symbol.size, symbol.name);
        let found: Vec<_> = symbols.functions.iter().map(of).collect();
        assert_eq!(found, [(0x1000, 16, 1), (0x1010, 8, 8)]);
        assert_eq!(symbols.names, 72..124);
        assert_eq!(parse(&table(), 0, 0..124, 1).unwrap().functions.len(), 1);
    }

    #[test]
    fn a_table_cut_or_changed_anywhere_never_panics() {
        let whole = table();
        for at in 0..whole.len() {
            parse(&whole[..at], 0, 0..124, 10);
            let mut changed = whole.clone();
            changed[at] = 0xff;
            parse(&changed, 0, 0..124, 10);
        }
        assert!(parse(&whole[..60], 0, 0..124, 10).is_none());
    }

    #[test]
    fn a_go_program_without_symbols_has_the_names_of_its_functions() {
        let Ok(file) = File::open("/usr/sbin/nats-server") else {
            undine_testbed::skip("nats-server is not installed");
            return;
        };
        let elf = Elf::read(&file).unwrap();
        let symbols = functions(&elf, &file, usize::MAX).unwrap();
        let name =
            |symbol: &Symbol| text_at(&file, &symbols.names, u64::from(symbol.name), 256).unwrap();
        let names: Vec<_> = symbols.functions.iter().map(name).collect();
        println!("{} functions", names.len());
        for expected in ["main.main", "runtime.mallocgc", "runtime.main"] {
            assert!(names.iter().any(|name| name == expected), "{expected}");
        }
    }
}
