//! Files whose code a process has mapped.

use std::path::{Path, PathBuf};

/// What follows the name of a file that is not there any more.
const DELETED: &str = " (deleted)";

/// A file, wherever it is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    device: String,
    inode: u64,
}

/// A file whose code is mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) file: FileId,
    /// Its name in the process's root, ` (deleted)` where it is not there any more.
    pub(crate) name: String,
    /// The addresses, as `/proc/PID/map_files` names them.
    pub(crate) range: String,
}

impl Mapping {
    /// Paths under which process `pid`'s own file can be opened, also where it was replaced since
    /// or is in a container.
    pub(crate) fn paths(&self, pid: u32) -> [PathBuf; 2] {
        let mapped = format!("/proc/{pid}/map_files/{}", self.range);
        let named = format!("/proc/{pid}/root{}", self.name);
        [PathBuf::from(mapped), PathBuf::from(named)]
    }

    /// Whether it is called as TLS libraries are.
    pub(crate) fn is_library(&self) -> bool {
        self.file_name().is_some_and(is_library_name)
    }

    /// Whether it is called as any shared library is, such as `libcurl.so.4` or `_wrapper.abi3.so`.
    pub(crate) fn is_shared_object(&self) -> bool {
        let name = self.file_name().unwrap_or_default();
        let name = name.strip_suffix(DELETED).unwrap_or(name);
        Path::new(name).extension().is_some_and(|end| end == "so") || name.contains(".so.")
    }

    fn file_name(&self) -> Option<&str> {
        Path::new(&self.name).file_name().and_then(|name| name.to_str())
    }
}

/// Whether TLS libraries are called so.
pub(crate) fn is_library_name(name: &str) -> bool {
    ["libssl.so", "libssl-", "libgnutls.so", "libboringssl", "libnetty_tcnative", "libnode.so"]
        .iter()
        .any(|start| name.starts_with(start))
}

/// The files whose code is mapped, by a `/proc/PID/maps`, each once.
pub(crate) fn parse(maps: &str) -> Vec<Mapping> {
    let mut files: Vec<Mapping> = Vec::new();
    for line in maps.lines() {
        if let Some(mapping) = parse_line(line)
            && !files.iter().any(|known| known.file == mapping.file)
        {
            files.push(mapping);
        }
    }
    files
}

fn parse_line(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (range, rights) = (fields.next()?, fields.next()?);
    let (_offset, device, inode) = (fields.next()?, fields.next()?, fields.next()?);
    let name = fields.next()?.trim_start();
    let inode = inode.parse().ok()?;
    if !rights.contains('x') || inode == 0 || !name.starts_with('/') {
        return None;
    }
    let file = FileId { device: device.to_owned(), inode };
    Some(Mapping { file, name: name.to_owned(), range: range.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_with_code_count_and_each_once() {
        let maps = "\
55d0-55d1 r--p 00000000 fe:00 10                         /usr/sbin/nginx
55d1-55d2 r-xp 00001000 fe:00 10                         /usr/sbin/nginx
7f01-7f02 r-xp 0001f000 fe:00 77                         /opt/my libs/libssl.so.3 (deleted)
7f02-7f03 r-xp 0002f000 fe:00 77                         /opt/my libs/libssl.so.3 (deleted)
7f04-7f05 r-xp 00000000 00:00 0                          [vdso]
7f06-7f07 rw-p 00000000 00:00 0
nonsense";
        let found = parse(maps);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].name.as_str(), found[0].is_library()), ("/usr/sbin/nginx", false));
        assert_eq!(found[1].name, "/opt/my libs/libssl.so.3 (deleted)");
        assert!(found[1].is_library());
        assert!(found[1].is_shared_object() && !found[0].is_shared_object());
        let [mapped, named] = found[1].paths(7);
        assert_eq!(mapped, Path::new("/proc/7/map_files/7f01-7f02"));
        assert!(named.starts_with("/proc/7/root/opt"));
    }
}
