//! Names of the kernel's functions, from `/proc/kallsyms`.

use std::io::BufRead;

/// Most functions that are kept.
const SYMBOLS_MAX: usize = 512 * 1024;

/// Where the kernel tells its symbols.
const PATH: &str = "/proc/kallsyms";

/// What a frame of the kernel is called where its name is not known.
pub(crate) const UNKNOWN: &str = "unknown";

/// The kernel's functions by address; none where the kernel hides them (`kptr_restrict`).
#[derive(Debug, Default)]
pub(crate) struct KernelSymbols {
    /// Address, and where the name begins in [`Self::names`].
    symbols: Vec<(u64, u32)>,
    /// All names, each ended by a zero.
    names: Vec<u8>,
}

impl KernelSymbols {
    /// Those of the running kernel.
    pub(crate) fn of_running_kernel() -> Self {
        let read = std::fs::File::open(PATH).map(|file| Self::parse(std::io::BufReader::new(file)));
        read.unwrap_or_else(|error| {
            tracing::warn!(%error, path = PATH, "functions of the kernel have no names");
            Self::default()
        })
    }

    fn parse(lines: impl BufRead) -> Self {
        let mut found = Self::default();
        for line in lines.split(b'\n').map_while(Result::ok) {
            if found.symbols.len() >= SYMBOLS_MAX {
                break;
            }
            let Some((address, name)) = parse_line(&line) else { continue };
            let at = u32::try_from(found.names.len()).unwrap_or(u32::MAX);
            found.names.extend_from_slice(name);
            found.names.push(0);
            found.symbols.push((address, at));
        }
        found.symbols.sort_unstable();
        found.symbols.shrink_to_fit();
        found.names.shrink_to_fit();
        found
    }

    /// The function that `address` is in.
    pub(crate) fn name(&self, address: u64) -> &str {
        let after = self.symbols.partition_point(|(start, _)| *start <= address);
        let Some((_, at)) = after.checked_sub(1).and_then(|at| self.symbols.get(at)) else {
            return UNKNOWN;
        };
        let name = &self.names[*at as usize..];
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        std::str::from_utf8(&name[..end]).unwrap_or(UNKNOWN)
    }
}

/// Address and name of a function. Where the kernel hides addresses they are all 0.
fn parse_line(line: &[u8]) -> Option<(u64, &[u8])> {
    let mut fields = line.split(|byte| matches!(byte, b' ' | b'\t'));
    let address = std::str::from_utf8(fields.next()?).ok()?;
    let kind = fields.next()?;
    let name = fields.next()?;
    let is_function = matches!(kind, b"t" | b"T" | b"w" | b"W");
    let address = u64::from_str_radix(address, 16).ok()?;
    (is_function && address != 0).then_some((address, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_reaches_up_to_the_next() {
        let text = "ff10 T first\nff20 d data\nff30 t second\t[module]\nnonsense\n";
        let symbols = KernelSymbols::parse(text.as_bytes());
        assert_eq!(symbols.name(0xff2f), "first");
        assert_eq!(symbols.name(0xff30), "second");
        assert_eq!(symbols.name(0xff0f), UNKNOWN);
    }

    #[test]
    fn hidden_addresses_give_no_names() {
        let symbols = KernelSymbols::parse(&b"0000 T first\n0000 T second\n"[..]);
        assert_eq!(symbols.name(0xffff), UNKNOWN);
    }
}
