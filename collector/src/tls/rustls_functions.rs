//! The functions of rustls in a program in Rust, by its own table of symbols.
//!
//! What moves plaintext for the program is compiled into its callers; the functions that are looked for
//! here are not public, so that every program's crates call them as they are in rustls' own crate. Only
//! where the whole program is optimised at once (`lto = "fat"`, or `"thin"`) may they be gone, and where
//! it is stripped nobody knows where they are. Their arguments are Rust's own, which promises nothing;
//! they are as the kernel programs take them in rustls 0.23 with the compilers of 2024 to 2026, and the
//! program checks what it finds.

use std::fs::File;

use object::read::ReadCache;
use object::{Object, ObjectSection, ObjectSymbol};

/// Most bytes of a section in which it is looked for rustls.
const SECTION_BYTES_MAX: u64 = 64 << 20;
/// Most addresses of a function: one, or one for each copy that the compiler made.
const ADDRESSES_MAX: usize = 16;

/// What a function of rustls does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// It takes plaintext that is to be sent, and says how much of it.
    Send,
    /// It takes plaintext that was received.
    Receive,
    /// It writes ciphertext to whatever it was given.
    Write,
    /// It reads ciphertext.
    Read,
}

/// A function that is looked for.
struct Function {
    /// As people call it.
    name: &'static str,
    /// How its symbol ends, but for what tells copies apart.
    symbol: &'static [u8],
    work: Work,
}

/// All of them are needed.
const FUNCTIONS: [Function; 4] = [
    Function {
        name: "CommonState::buffer_plaintext",
        symbol: b"11CommonState16buffer_plaintext",
        work: Work::Send,
    },
    Function {
        name: "CommonState::take_received_plaintext",
        symbol: b"11CommonState23take_received_plaintext",
        work: Work::Receive,
    },
    Function {
        name: "ChunkVecBuffer::write_to",
        symbol: b"14ChunkVecBuffer8write_to",
        work: Work::Write,
    },
    Function {
        name: "DeframerVecBuffer::read",
        symbol: b"17DeframerVecBuffer4read",
        work: Work::Read,
    },
];

/// How the crate is called in a symbol.
const CRATE: &[u8] = b"6rustls";
/// What places of rustls' sources in a program begin with.
const SOURCES: &[u8] = b"/rustls-0.";
/// Most bytes of a version with what follows it.
const VERSION_BYTES_MAX: usize = 32;
/// What the compiler calls itself.
const COMPILER: &[u8] = b"rustc version";

/// A function of rustls in a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RustlsFunction {
    pub(super) name: &'static str,
    pub(super) work: Work,
    pub(super) address: u64,
}

/// Why what a program says through rustls is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RustlsError {
    /// A function is not there, or nobody knows where.
    #[error(
        "it speaks TLS through rustls {version}, of which its symbols do not name {function}; build \
         it with its symbols (strip = false), without lto = \"fat\", and with rustls 0.23"
    )]
    Function {
        /// As its sources are called.
        version: String,
        /// The function.
        function: &'static str,
    },
}

type Elf<'a> = object::File<'a, &'a ReadCache<File>>;

/// The functions of `elf` that are known here; none where there is no rustls in it.
pub(super) fn functions(elf: &Elf<'_>) -> Result<Vec<RustlsFunction>, RustlsError> {
    let mut found: Vec<RustlsFunction> = Vec::new();
    for symbol in elf.symbols() {
        if symbol.is_undefined() || symbol.address() == 0 {
            continue;
        }
        let Some(function) = symbol.name_bytes().ok().and_then(function_of) else { continue };
        let address = symbol.address();
        let same = |known: &&RustlsFunction| known.work == function.work;
        if found.iter().filter(same).count() < ADDRESSES_MAX
            && !found.iter().any(|known| known.address == address)
        {
            found.push(RustlsFunction { name: function.name, work: function.work, address });
        }
    }
    let missing =
        FUNCTIONS.iter().find(|wanted| !found.iter().any(|known| known.work == wanted.work));
    let Some(missing) = missing else { return Ok(found) };
    match version(elf) {
        Some(version) => Err(RustlsError::Function { version, function: missing.name }),
        None => Ok(Vec::new()),
    }
}

/// The function that a symbol names, in either way in which the compiler writes names.
fn function_of(symbol: &[u8]) -> Option<&'static Function> {
    if !symbol.starts_with(b"_ZN") && !symbol.starts_with(b"_R") {
        return None;
    }
    let symbol = without_copy(symbol);
    let function = FUNCTIONS.iter().find(|function| symbol.ends_with(function.symbol))?;
    symbol.windows(CRATE.len()).any(|window| window == CRATE).then_some(function)
}

/// A symbol without what tells it from those of the same name: what LLVM adds to copies, and the hash
/// at the end of older names, as `17h0123456789abcdefE`.
fn without_copy(symbol: &[u8]) -> &[u8] {
    let copy = symbol.windows(6).position(|window| window == b".llvm.");
    let symbol = &symbol[..copy.unwrap_or(symbol.len())];
    match symbol.len().checked_sub(20) {
        Some(at) if symbol[at..].starts_with(b"17h") && symbol.ends_with(b"E") => &symbol[..at],
        _ => symbol,
    }
}

/// The version of rustls in a program in Rust, by the places of its sources that panics would name.
fn version(elf: &Elf<'_>) -> Option<String> {
    let compiler = section(elf, ".comment")?;
    if !compiler.windows(COMPILER.len()).any(|window| window == COMPILER) {
        return None;
    }
    let texts = section(elf, ".rodata")?;
    let places = texts.windows(SOURCES.len()).enumerate().filter(|(_, text)| *text == SOURCES);
    places.map(|(at, _)| at + SOURCES.len()).find_map(|at| version_at(&texts[at..]))
}

/// The version where its first number was already read, if a folder of sources is called so.
fn version_at(text: &[u8]) -> Option<String> {
    let text = &text[..text.len().min(VERSION_BYTES_MAX)];
    let end = text.iter().position(|byte| *byte == b'/')?;
    let numbers = text[..end].iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    let is_version = numbers && end > 0 && text[end..].starts_with(b"/src/");
    is_version.then(|| format!("0.{}", String::from_utf8_lossy(&text[..end])))
}

fn section<'a>(elf: &Elf<'a>, name: &str) -> Option<&'a [u8]> {
    let section = elf.section_by_name(name)?;
    (section.size() <= SECTION_BYTES_MAX).then(|| section.data().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(symbol: &[u8]) -> Option<&'static str> {
        function_of(symbol).map(|function| function.name)
    }

    #[test]
    fn both_ways_of_writing_names_are_read() {
        let send = Some("CommonState::buffer_plaintext");
        let old = b"_ZN6rustls12common_state11CommonState16buffer_plaintext17h24f3ab29be96cc7cE";
        assert_eq!(name(old), send);
        assert_eq!(name(&[&old[..], b".llvm.1234"].concat()), send);
        let new = b"_RNvMs_NtCs2bsWz_6rustls12common_stateNtB4_11CommonState16buffer_plaintext";
        assert_eq!(name(new), send);
    }

    #[test]
    fn a_version_is_one_of_a_folder_of_sources() {
        assert_eq!(version_at(b"23.46/src/conn.rs"), Some("0.23.46".to_owned()));
        for text in [&b"/src/conn.rs"[..], b"23.46", b"23.46/lib/", b"rustc version", b"23.x/src/"]
        {
            assert_eq!(version_at(text), None, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn what_is_called_alike_elsewhere_is_not_taken() {
        for other in [
            &b"_ZN6rustls6server11server_conn14EarlyDataState23take_received_plaintext17h8df4fb8645c73f95E"[..],
            b"_ZN6mycrate12common_state11CommonState16buffer_plaintext17h24f3ab29be96cc7cE",
            b"_ZN6rustls12common_state11CommonState16buffer_plaintext28_$u7b$$u7b$closure$u7d$$u7d$17h24f3ab29be96cc7cE",
            b"11CommonState16buffer_plaintext6rustls",
            b"_ZN17h",
            b"",
        ] {
            assert_eq!(name(other), None, "{}", String::from_utf8_lossy(other));
        }
    }
}
