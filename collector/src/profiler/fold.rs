//! A stack as one line of text, the form that flame graphs are made of.

use std::sync::Arc;

/// Most bytes of a folded stack; outer frames beyond it are left out.
pub(crate) const FOLDED_BYTES_MAX: usize = 16 * 1024;

/// Stands for outer frames that are not known.
pub(crate) const TRUNCATED: &str = "[truncated]";
/// Stands for a stack or an address of which nothing is known.
pub(crate) const UNKNOWN: &str = "[unknown]";
/// Stands for a stack that the kernel could not keep.
pub(crate) const LOST: &str = "[lost]";
/// Functions in which threads and goroutines begin, or their stacks: nothing is missing above them,
/// although unwinding does not know that.
const ROOTS: [&str; 9] = [
    "_start",
    "__clone",
    "clone3",
    "runtime.goexit",
    "runtime.mcall",
    "runtime.mstart",
    "runtime.mstart.abi0",
    "runtime.rt0_go",
    "runtime.systemstack",
];
/// What begins a frame of the kernel.
const KERNEL: &str = "[k] ";

/// The names of a stack's frames, innermost first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Named {
    pub(crate) user: Vec<Arc<str>>,
    pub(crate) kernel: Vec<Arc<str>>,
    /// Whether there are outer frames that are not known.
    pub(crate) is_truncated: bool,
}

impl Named {
    /// The frames from the outermost to the innermost, with `;` between them.
    pub(crate) fn fold(&self) -> String {
        let inner_first = self.kernel.iter().map(|name| (KERNEL, &**name));
        let inner_first = inner_first.chain(self.user.iter().map(|name| ("", &**name)));
        let has_root = self.user.last().is_some_and(|name| ROOTS.contains(&&**name));
        let mut is_truncated = self.is_truncated && !has_root;
        let (mut frames, mut bytes) = (Vec::new(), 0);
        for (side, name) in inner_first {
            // What is not known says nothing by being repeated.
            if name == UNKNOWN && frames.last() == Some(&(side, name)) {
                continue;
            }
            bytes += side.len() + name.len() + 1;
            if bytes + TRUNCATED.len() > FOLDED_BYTES_MAX {
                is_truncated = true;
                break;
            }
            frames.push((side, name));
        }
        if is_truncated {
            frames.push(("", TRUNCATED));
        }
        if frames.is_empty() {
            return UNKNOWN.to_owned();
        }
        let mut folded = String::with_capacity(bytes);
        for (at, (side, name)) in frames.iter().rev().enumerate() {
            folded.push_str(if at == 0 { "" } else { ";" });
            folded.push_str(side);
            // What separates frames and lines cannot be in a name.
            folded.extend(name.chars().map(|c| match c {
                ';' => ':',
                c if c.is_control() => ' ',
                c => c,
            }));
        }
        folded
    }
}

/// A number for a folded stack, the same everywhere and at any time: FNV-1a of 64 bits, without
/// the sign.
pub(crate) fn stack_id(folded: &str) -> i64 {
    let hash = folded.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash & (u64::MAX >> 1)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(user: &[&str], kernel: &[&str]) -> Named {
        let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        Named { user: names(user), kernel: names(kernel), is_truncated: false }
    }

    #[test]
    fn the_outermost_frame_comes_first_and_the_kernel_last() {
        let stack = named(&["read", "main"], &["vfs_read", "do_syscall_64"]);
        assert_eq!(stack.fold(), "main;read;[k] do_syscall_64;[k] vfs_read");
        let cut = Named { is_truncated: true, ..stack };
        assert_eq!(cut.fold(), "[truncated];main;read;[k] do_syscall_64;[k] vfs_read");
        let goroutine = Named { is_truncated: true, ..named(&["f", "runtime.goexit"], &[]) };
        assert_eq!(goroutine.fold(), "runtime.goexit;f");
        assert_eq!(named(&[], &[]).fold(), UNKNOWN);
        assert_eq!(named(&["f", UNKNOWN, UNKNOWN, "main"], &[]).fold(), "main;[unknown];f");
    }

    #[test]
    fn a_name_never_looks_like_two_frames() {
        assert_eq!(named(&["<[u8; 4]>::f", "a\nb"], &[]).fold(), "a b;<[u8: 4]>::f");
    }

    #[test]
    fn a_stack_that_is_too_long_loses_its_outermost_frames() {
        let name = "x".repeat(500);
        let folded = named(&vec![name.as_str(); 100], &["innermost"]).fold();
        assert!(folded.len() <= FOLDED_BYTES_MAX, "{}", folded.len());
        assert!(folded.starts_with("[truncated];x") && folded.ends_with("[k] innermost"));
    }

    #[test]
    fn a_stack_has_one_number_that_is_not_negative() {
        assert_eq!(stack_id("a;b"), stack_id("a;b"));
        assert_ne!(stack_id("a;b"), stack_id("b;a"));
        assert!((0..1000).all(|n| stack_id(&n.to_string()) >= 0));
    }
}
