//! The parts of an ELF file that names and unwinding need, read without mapping it.
//!
//! Files belong to others and may change under us, so every number is checked, and a file that is
//! cut short is an error rather than a signal. Only 64-bit little-endian files are read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Most sections and segments that are looked at.
const HEADERS_MAX: usize = 4096;
/// Most bytes of a table of symbols that are read.
const SYMBOL_TABLE_BYTES_MAX: u64 = 256 << 20;
/// Most bytes of the notes in which the number of a build is looked for.
const NOTES_BYTES_MAX: usize = 4096;

/// A segment that is loaded: where it is in the file and in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Bytes of the file.
    pub(crate) file: Range<u64>,
    /// Address that its first byte has according to the file.
    pub(crate) address: u64,
}

/// A section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    name: String,
    kind: u32,
    link: usize,
    /// Address according to the file.
    pub(crate) address: u64,
    /// Bytes of the file.
    pub(crate) file: Range<u64>,
}

/// An ELF file's tables.
#[derive(Debug)]
pub(crate) struct Elf {
    /// The segments that are loaded.
    pub(crate) segments: Vec<Segment>,
    sections: Vec<Section>,
}

/// A function of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Symbol {
    /// Its first address according to the file.
    pub(crate) address: u64,
    /// Its length in bytes, 0 where the file does not say.
    pub(crate) size: u32,
    /// Where its name is in the table of names of [`Symbols`].
    pub(crate) name: u32,
}

/// All functions that one table of a file names, by address.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    pub(crate) functions: Vec<Symbol>,
    /// Where in the file the names are.
    pub(crate) names: Range<u64>,
}

const SHT_SYMTAB: u32 = 2;
const SHT_NOBITS: u32 = 8;
const SHT_DYNSYM: u32 = 11;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;
const PT_LOAD: u32 = 1;
const SYMBOL_BYTES: usize = 24;
/// Symbols that are read at a time.
const CHUNK_SYMBOLS: usize = 4096;

impl Elf {
    /// Reads the tables of `file`.
    pub(crate) fn read(file: &File) -> io::Result<Self> {
        let mut head = [0; 64];
        file.read_exact_at(&mut head, 0)?;
        if head[..6] != *b"\x7fELF\x02\x01" {
            return Err(invalid("it is no 64-bit little-endian ELF file"));
        }
        let head = Fields(&head);
        let (phoff, shoff) = (head.u64(32)?, head.u64(40)?);
        let (phnum, shnum) = (head.u16(56)?, head.u16(60)?);
        let segments = table(file, phoff, head.u16(54)?, phnum)?;
        let segments = segments.iter().filter_map(|bytes| segment(&Fields(bytes))).collect();
        let raw = table(file, shoff, head.u16(58)?, shnum)?;
        let mut sections = Vec::with_capacity(raw.len());
        let names = raw.get(usize::from(head.u16(62)?)).map(|bytes| file_range(&Fields(bytes)));
        let names = names.transpose()?.unwrap_or_default();
        for bytes in &raw {
            let fields = Fields(bytes);
            sections.push(Section {
                name: text_at(file, &names, u64::from(fields.u32(0)?), 64)?,
                kind: fields.u32(4)?,
                link: fields.u32(40)? as usize,
                address: fields.u64(16)?,
                file: file_range(&fields)?,
            });
        }
        Ok(Self { segments, sections })
    }

    /// The address that byte `offset` of the file has according to the file.
    pub(crate) fn address_of(&self, offset: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|segment| segment.file.contains(&offset))?;
        segment.address.checked_add(offset - segment.file.start)
    }

    /// The section called `name` that has bytes in the file.
    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name && section.kind != SHT_NOBITS)
    }

    /// Whether it names all of its functions, and not only those that it shares.
    pub(crate) fn has_all_symbols(&self) -> bool {
        self.sections.iter().any(|section| section.kind == SHT_SYMTAB)
    }

    /// The number of the build that made the file, in hexadecimal.
    pub(crate) fn build_id(&self, file: &File) -> Option<String> {
        let notes = self.section(".note.gnu.build-id")?.read(file, NOTES_BYTES_MAX).ok()?;
        let fields = Fields(&notes);
        let (name, bytes) = (fields.u32(0).ok()? as usize, fields.u32(4).ok()? as usize);
        let from = 12_usize.checked_add(name.checked_next_multiple_of(4)?)?;
        let id = notes.get(from..from.checked_add(bytes)?)?;
        let digits = id.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
        digits.map(|digit| char::from_digit(u32::from(digit), 16)).collect()
    }

    /// The functions of the file: of the full table where it has one, otherwise of those that it
    /// shares; at most `symbols_max`.
    pub(crate) fn functions(&self, file: &File, symbols_max: usize) -> io::Result<Symbols> {
        let of = |kind| self.sections.iter().find(|section| section.kind == kind);
        let Some(table) = of(SHT_SYMTAB).or_else(|| of(SHT_DYNSYM)) else {
            return Ok(Symbols::default());
        };
        let names = self.sections.get(table.link).map(|section| section.file.clone());
        let mut symbols = Symbols { functions: Vec::new(), names: names.unwrap_or_default() };
        let mut chunk = vec![0; CHUNK_SYMBOLS * SYMBOL_BYTES];
        let mut at = table.file.start;
        let end = table.file.end.min(at.saturating_add(SYMBOL_TABLE_BYTES_MAX));
        while at < end && symbols.functions.len() < symbols_max {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let bytes = left.min(chunk.len()) / SYMBOL_BYTES * SYMBOL_BYTES;
            if bytes == 0 {
                break;
            }
            file.read_exact_at(&mut chunk[..bytes], at)?;
            symbols.functions.extend(chunk[..bytes].chunks_exact(SYMBOL_BYTES).filter_map(symbol));
            at += bytes as u64;
        }
        symbols.functions.truncate(symbols_max);
        symbols.functions.sort_unstable();
        symbols.functions.dedup_by_key(|symbol| symbol.address);
        symbols.functions.shrink_to_fit();
        Ok(symbols)
    }
}

impl Section {
    /// Its addresses according to the file.
    pub(crate) fn addresses(&self) -> Range<u64> {
        let bytes = self.file.end - self.file.start;
        self.address..self.address.saturating_add(bytes)
    }

    /// Its bytes, or an error where there are more than `bytes_max`.
    pub(crate) fn read(&self, file: &File, bytes_max: usize) -> io::Result<Vec<u8>> {
        let bytes = usize::try_from(self.file.end - self.file.start).unwrap_or(usize::MAX);
        if bytes > bytes_max {
            return Err(invalid("a section is too long"));
        }
        let mut read = vec![0; bytes];
        file.read_exact_at(&mut read, self.file.start)?;
        Ok(read)
    }
}

/// The text at `at` in `range` of the file, up to a zero and at most `bytes_max` long.
pub(crate) fn text_at(
    file: &File,
    range: &Range<u64>,
    at: u64,
    bytes_max: usize,
) -> io::Result<String> {
    let start = range.start.saturating_add(at);
    let left = usize::try_from(range.end.saturating_sub(start)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; left.min(bytes_max)];
    file.read_exact_at(&mut bytes, start)?;
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn segment(fields: &Fields<'_>) -> Option<Segment> {
    if fields.u32(0).ok()? != PT_LOAD {
        return None;
    }
    let (start, bytes) = (fields.u64(8).ok()?, fields.u64(32).ok()?);
    Some(Segment { file: start..start.checked_add(bytes)?, address: fields.u64(16).ok()? })
}

fn symbol(bytes: &[u8]) -> Option<Symbol> {
    let fields = Fields(bytes);
    let info = *bytes.get(4)? & 0xf;
    let (section, address) = (fields.u16(6).ok()?, fields.u64(8).ok()?);
    if !matches!(info, STT_FUNC | STT_GNU_IFUNC) || section == 0 || address == 0 {
        return None;
    }
    let size = u32::try_from(fields.u64(16).ok()?).unwrap_or(u32::MAX);
    Some(Symbol { address, size, name: fields.u32(0).ok()? })
}

fn file_range(section: &Fields<'_>) -> io::Result<Range<u64>> {
    let (start, bytes) = (section.u64(24)?, section.u64(32)?);
    let end = start.checked_add(bytes).ok_or_else(|| invalid("a section ends past all numbers"))?;
    Ok(start..end)
}

/// A table of `count` entries of `entry_bytes` each.
fn table(file: &File, at: u64, entry_bytes: u16, count: u16) -> io::Result<Vec<Vec<u8>>> {
    let count = usize::from(count);
    if count == 0 {
        return Ok(Vec::new());
    }
    if count > HEADERS_MAX || entry_bytes < 56 {
        return Err(invalid("its tables are not those of a 64-bit file"));
    }
    let mut bytes = vec![0; count * usize::from(entry_bytes)];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes.chunks_exact(usize::from(entry_bytes)).map(<[u8]>::to_vec).collect())
}

/// Numbers at places of a structure.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> io::Result<[u8; N]> {
        let found = self.0.get(at..).and_then(<[u8]>::first_chunk);
        found.copied().ok_or_else(|| invalid("a structure is cut short"))
    }

    fn u16(&self, at: usize) -> io::Result<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> io::Result<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> io::Result<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    fn own() -> File {
        File::open("/proc/self/exe").unwrap()
    }

    #[test]
    fn the_functions_of_this_program_are_found_with_their_names() {
        let file = own();
        let elf = Elf::read(&file).unwrap();
        let symbols = elf.functions(&file, usize::MAX).unwrap();
        let name =
            |symbol: &Symbol| text_at(&file, &symbols.names, u64::from(symbol.name), 512).unwrap();
        assert!(symbols.functions.is_sorted_by_key(|symbol| symbol.address));
        assert!(symbols.functions.iter().any(|symbol| name(symbol) == "main"));
        assert!(elf.section(".eh_frame").is_some_and(|section| !section.addresses().is_empty()));
        assert!(elf.functions(&file, 10).unwrap().functions.len() <= 10);
    }

    #[test]
    fn a_table_of_symbols_without_end_is_left() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 40).unwrap();
        let section = |kind, file| Section { name: String::new(), kind, link: 0, address: 0, file };
        let sections = vec![section(SHT_SYMTAB, 0..1 << 40)];
        let elf = Elf { segments: Vec::new(), sections };
        assert!(elf.functions(&file, usize::MAX).unwrap().functions.is_empty());
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error_and_never_a_panic() {
        let mut whole = vec![0; 4096];
        own().read_exact_at(&mut whole, 0).unwrap();
        for cut in (0..4096).step_by(61) {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&whole[..cut]).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            assert!(Elf::read(&file).is_err(), "cut at {cut}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(200))]

        #[test]
        fn no_content_of_a_file_makes_it_panic(changes in proptest::collection::vec((0..2048_usize, 0..=255_u8), 0..40)) {
            let mut bytes = vec![0; 2048];
            own().read_exact_at(&mut bytes, 0).unwrap();
            // Its tables of sections are beyond what is kept, so they are put at its beginning.
            bytes[40..48].copy_from_slice(&1024_u64.to_le_bytes());
            bytes[60..62].copy_from_slice(&16_u16.to_le_bytes());
            bytes[62..64].copy_from_slice(&3_u16.to_le_bytes());
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            if let Ok(elf) = Elf::read(&file) {
                drop(elf.functions(&file, 1000));
                elf.build_id(&file);
                elf.address_of(1);
            }
        }
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        for at in [32, 40, 54, 56, 58, 60] {
            let mut head = [0; 64];
            own().read_exact_at(&mut head, 0).unwrap();
            head[at..at + 2].copy_from_slice(&[0xff, 0xff]);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&head).unwrap();
            assert!(Elf::read(&file).is_err(), "field {at}");
        }
    }
}
