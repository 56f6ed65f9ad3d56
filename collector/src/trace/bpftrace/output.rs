//! What bpftrace writes with `-f json`, one object a line.

/// A line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// What a `printf` printed.
    Printed(Vec<u8>),
    /// So many probes are attached, or will be.
    Probes(u64),
    /// So many outputs were lost.
    Lost(u64),
    /// Anything else, such as maps.
    Other,
}

/// Reads a line.
pub(super) fn parse(line: &[u8]) -> Message {
    message(&mut Scanner(line)).unwrap_or(Message::Other)
}

fn message(scanner: &mut Scanner<'_>) -> Option<Message> {
    scanner.sign(b'{')?;
    (scanner.text()? == b"type").then_some(())?;
    scanner.sign(b':')?;
    let kind = scanner.text()?;
    scanner.sign(b',')?;
    (scanner.text()? == b"data").then_some(())?;
    scanner.sign(b':')?;
    match &kind[..] {
        b"printf" => scanner.text().map(Message::Printed),
        b"lost_events" => scanner.count().map(Message::Lost),
        b"attached_probes" => scanner.count().map(Message::Probes),
        _ => Some(Message::Other),
    }
}

struct Scanner<'a>(&'a [u8]);

impl Scanner<'_> {
    fn sign(&mut self, sign: u8) -> Option<()> {
        self.0 = self.0.trim_ascii_start().strip_prefix(&[sign])?;
        Some(())
    }

    /// The number in an object that holds nothing else.
    fn count(&mut self) -> Option<u64> {
        self.sign(b'{')?;
        self.text()?;
        self.sign(b':')?;
        self.number()
    }

    fn number(&mut self) -> Option<u64> {
        let rest = self.0.trim_ascii_start();
        let end = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        self.0 = &rest[end..];
        std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
    }

    /// The bytes of a text. Bytes beyond ASCII stand for themselves, or as bpftrace 0.17 writes them:
    /// `\uffffffc3`, for it takes them for negative.
    fn text(&mut self) -> Option<Vec<u8>> {
        self.sign(b'"')?;
        let mut out = Vec::new();
        loop {
            let (&first, rest) = self.0.split_first()?;
            self.0 = rest;
            match first {
                b'"' => return Some(out),
                b'\\' => {
                    let (&escaped, rest) = self.0.split_first()?;
                    self.0 = rest;
                    match escaped {
                        b'n' => out.push(b'\n'),
                        b't' => out.push(b'\t'),
                        b'r' => out.push(b'\r'),
                        b'b' => out.push(8),
                        b'f' => out.push(12),
                        b'u' => self.code_into(&mut out)?,
                        same => out.push(same),
                    }
                }
                plain => out.push(plain),
            }
        }
    }

    fn code_into(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let digits = if self.0.starts_with(b"ffffff") { 8 } else { 4 };
        let (code, rest) = self.0.split_at_checked(digits)?;
        let code = u32::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok()?;
        self.0 = rest;
        if digits == 8 {
            out.push(u8::try_from(code & 0xff).ok()?);
        } else {
            let char = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_what_bpftrace_means() {
        let printed = |bytes: &[u8]| Message::Printed(bytes.to_vec());
        let line = br#"{"type": "printf", "data": "7\u001fcaf\uffffffc3\uffffffa9 \"\\\n"}"#;
        assert_eq!(parse(line), printed("7\u{1f}caf\u{e9} \"\\\n".as_bytes()));
        assert_eq!(
            parse("{\"type\":\"printf\",\"data\":\"é\"}".as_bytes()),
            printed("é".as_bytes())
        );
        let lost = br#"{"type": "lost_events", "data": {"events": 55}}"#;
        assert_eq!(parse(lost), Message::Lost(55));
        let probes = br#"{"type": "attached_probes", "data": {"probes": 2}}"#;
        assert_eq!(parse(probes), Message::Probes(2));
        for line in [
            &br#"{"type": "attached_probes", "data": {"probes": x}}"#[..],
            br#"{"type": "map", "data": {"@a": 0}}"#,
            br#"{"type": "printf", "data": "no end"#,
            br#"{"type": "printf", "data": "\u00"#,
            b"",
            b"Attaching",
        ] {
            assert_eq!(parse(line), Message::Other);
        }
    }

    proptest! {
        #[test]
        fn any_line_is_a_message(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            let whole = [&br#"{"type": "printf", "data": ""#[..], &line[..]].concat();
            let _either = (parse(&line), parse(&whole));
        }
    }
}
