//! What is mapped into a process, from `/proc/PID/maps`.

/// Most executable mappings that are kept of one process.
pub(crate) const MAPPINGS_MAX: usize = 8192;

/// An executable range of a process's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// Its first address.
    pub(crate) start: u64,
    /// The address after its last.
    pub(crate) end: u64,
    /// Where in the file it begins.
    pub(crate) offset: u64,
    /// Inode of the file, 0 where there is none.
    pub(crate) inode: u64,
    /// Path in the process's mount namespace, a name in brackets, or empty.
    pub(crate) path: String,
}

impl Mapping {
    /// What its file is called: the last part of its path.
    pub(crate) fn module_name(&self) -> &str {
        let path = self.path.strip_suffix(" (deleted)").unwrap_or(&self.path);
        path.rsplit('/').next().unwrap_or(path)
    }
}

/// The executable mappings in `maps`, by address.
pub(crate) fn parse(maps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<_> = maps.lines().filter_map(parse_line).take(MAPPINGS_MAX).collect();
    mappings.sort_unstable_by_key(|mapping| mapping.start);
    mappings
}

fn parse_line(line: &str) -> Option<Mapping> {
    // `start-end rwxp offset major:minor inode   path`; a path may hold blanks.
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    if !fields.next()?.contains('x') {
        return None;
    }
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let offset = hex(fields.next()?)?;
    let inode = fields.nth(1)?.parse().ok()?;
    let path = fields.next().unwrap_or_default().trim_start().to_owned();
    Some(Mapping { start: hex(start)?, end: hex(end)?, offset, inode, path })
}

/// The mapping that `address` is in.
pub(crate) fn find(mappings: &[Mapping], address: u64) -> Option<&Mapping> {
    let after = mappings.partition_point(|mapping| mapping.start <= address);
    let found = mappings.get(after.checked_sub(1)?)?;
    (address < found.end).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
7f00-7f10 r-xp 00001000 fe:00 42                         /usr/lib/a b.so (deleted)
5500-5510 r--p 00000000 fe:00 41                         /usr/bin/x
5510-5520 r-xp 00010000 fe:00 41                         /usr/bin/x
6000-6010 rwxp 00000000 00:00 0
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]
nonsense
";

    #[test]
    fn only_executable_ranges_are_kept_in_order_of_their_addresses() {
        let found = parse(MAPS);
        let starts: Vec<_> = found.iter().map(|mapping| mapping.start).collect();
        assert_eq!(starts, [0x5510, 0x6000, 0x7f00, 0xffff_ffff_ff60_0000]);
        assert_eq!((found[0].offset, found[0].inode, found[0].module_name()), (0x10000, 41, "x"));
        assert!(found[1].inode == 0 && found[1].path.is_empty());
        assert_eq!(found[2].module_name(), "a b.so");
        assert_eq!(found[3].path, "[vsyscall]");
    }

    #[test]
    fn an_address_is_in_the_mapping_that_holds_it_and_in_no_other() {
        let found = parse(MAPS);
        assert_eq!(find(&found, 0x5510).map(|m| m.inode), Some(41));
        assert_eq!(find(&found, 0x551f).map(|m| m.inode), Some(41));
        assert_eq!(find(&found, 0x5520), None);
        assert_eq!(find(&found, 0x1), None);
    }

    #[test]
    fn a_process_with_very_many_mappings_is_bounded() {
        let line = |at: usize| format!("{:x}-{:x} r-xp 0 0:0 1 /a", at * 16, at * 16 + 8);
        let maps: Vec<_> = (1..MAPPINGS_MAX + 9).map(line).collect();
        assert_eq!(parse(&maps.join("\n")).len(), MAPPINGS_MAX);
    }
}
