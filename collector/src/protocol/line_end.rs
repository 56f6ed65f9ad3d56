//! Where a line ends, looked for once in every byte.

/// Looks for the end of a line in bytes to which more are added until it is there. However few come at
/// a time, the work is in proportion to the line.
#[derive(Debug, Default)]
pub(super) struct LineEnd {
    /// How many bytes were looked at.
    seen: usize,
}

impl LineEnd {
    /// Where the first newline of `bytes` is. They begin with those of the last call, unless that
    /// found one.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let seen = std::mem::replace(&mut self.seen, bytes.len()).min(bytes.len());
        let at = bytes[seen..].iter().position(|byte| *byte == b'\n')?;
        self.seen = 0;
        Some(seen + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_looked_at_once_until_a_line_is_found() {
        let mut end = LineEnd::default();
        assert_eq!(end.find(b"abc"), None);
        // What was looked at would be found here.
        assert_eq!(end.find(b"\n\n\nd\nf\n"), Some(4));
        assert_eq!(end.find(b"f\n"), Some(1));
        assert_eq!(end.find(b"long"), None);
        assert_eq!(end.find(b"l"), None);
    }
}
