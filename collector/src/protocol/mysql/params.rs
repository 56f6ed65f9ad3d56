//! Values in the binary form of prepared statements, as people read them.

use super::packet::Fields;

/// The type of a parameter: the protocol's number, and whether it is without a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ParamType {
    code: u8,
    unsigned: bool,
}

impl ParamType {
    /// The type that comes next; its name too, where `named`.
    pub(super) fn next(fields: &mut Fields<'_>, named: bool) -> Option<Self> {
        let (code, flags) = (fields.byte()?, fields.byte()?);
        if named {
            fields.string()?;
        }
        Some(Self { code, unsigned: flags & 0x80 != 0 })
    }

    /// Takes a value of this type.
    pub(super) fn value(self, fields: &mut Fields<'_>) -> Option<String> {
        let unsigned = self.unsigned;
        Some(match self.code {
            0x01 => integer(u64::from(fields.byte()?), 8, unsigned),
            0x02 | 0x0d => integer(u64::from(fields.u16()?), 16, unsigned),
            0x03 | 0x09 => integer(u64::from(fields.u32()?), 32, unsigned),
            0x08 => integer(fields.u64()?, 64, unsigned),
            0x04 => f32::from_bits(fields.u32()?).to_string(),
            0x05 => f64::from_bits(fields.u64()?).to_string(),
            0x06 => "NULL".to_owned(),
            0x07 | 0x0a | 0x0c => date(fields)?,
            0x0b => time(fields)?,
            0x00 | 0x0f..=0x11 | 0xf2 | 0xf5..=0xff => text(fields.string()?),
            _ => return None,
        })
    }
}

/// A whole number of so many bits.
fn integer(bits: u64, width: u32, unsigned: bool) -> String {
    let unused = 64 - width;
    if unsigned { bits.to_string() } else { ((bits << unused).cast_signed() >> unused).to_string() }
}

fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("[binary {} bytes]", bytes.len()),
    }
}

fn date(fields: &mut Fields<'_>) -> Option<String> {
    let length = fields.byte()?;
    let mut value = Fields(fields.bytes(usize::from(length))?);
    if length == 0 {
        return Some("0000-00-00".to_owned());
    }
    let (year, month, day) = (value.u16()?, value.byte()?, value.byte()?);
    let mut text = format!("{year:04}-{month:02}-{day:02}");
    if length > 4 {
        text.push(' ');
        text.push_str(&clock(0, &mut value)?);
    }
    Some(text)
}

fn time(fields: &mut Fields<'_>) -> Option<String> {
    let length = fields.byte()?;
    let mut value = Fields(fields.bytes(usize::from(length))?);
    if length == 0 {
        return Some("00:00:00".to_owned());
    }
    let sign = if value.byte()? == 0 { "" } else { "-" };
    let days = u64::from(value.u32()?);
    Some(format!("{sign}{}", clock(days * 24, &mut value)?))
}

/// Hours, minutes, seconds, and microseconds where there are any.
fn clock(more_hours: u64, value: &mut Fields<'_>) -> Option<String> {
    let hours = more_hours + u64::from(value.byte()?);
    let (minutes, seconds) = (value.byte()?, value.byte()?);
    let micros = value.u32().map_or_else(String::new, |micros| format!(".{micros:06}"));
    Some(format!("{hours:02}:{minutes:02}:{seconds:02}{micros}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_all_types_are_readable() {
        for (code, flags, bytes, expected) in [
            (0x01, 0, &[0xff][..], "-1"),
            (0x01, 0x80, &[0xff], "255"),
            (0x02, 0, &[0, 0x80], "-32768"),
            (0x03, 0, &[0xf5, 1, 0, 0], "501"),
            (0x08, 0x80, &[0xff; 8], "18446744073709551615"),
            (0x08, 0, &[0xff; 8], "-1"),
            (0x04, 0, &[0, 0, 0xc0, 0x3f], "1.5"),
            (0x05, 0, &[0, 0, 0, 0, 0, 0, 0xf8, 0xbf], "-1.5"),
            (0x06, 0, &[], "NULL"),
            (0x0a, 0, &[4, 0xe8, 7, 2, 29], "2024-02-29"),
            (0x0c, 0, &[7, 0xe8, 7, 2, 29, 1, 2, 3], "2024-02-29 01:02:03"),
            (0x07, 0, &[11, 0xe8, 7, 2, 29, 1, 2, 3, 5, 0, 0, 0], "2024-02-29 01:02:03.000005"),
            (0x0a, 0, &[0], "0000-00-00"),
            (0x0b, 0, &[8, 1, 1, 0, 0, 0, 1, 2, 3], "-25:02:03"),
            (0x0b, 0, &[0], "00:00:00"),
            (0xfd, 0, &[2, b'h', b'i'], "hi"),
            (0xfc, 0, &[2, 0xff, 0xfe], "[binary 2 bytes]"),
        ] {
            let mut fields = Fields(&[code, flags]);
            let kind = ParamType::next(&mut fields, false).unwrap();
            let mut fields = Fields(bytes);
            assert_eq!(kind.value(&mut fields).as_deref(), Some(expected), "{code}");
            assert_eq!(fields.0, [0; 0], "{code}");
            for cut in 0..bytes.len() {
                assert_eq!(kind.value(&mut Fields(&bytes[..cut])), None, "{code} cut at {cut}");
            }
        }
        let named = ParamType::next(&mut Fields(&[1, 0, 1, b'n']), true);
        assert_eq!(named, Some(ParamType { code: 1, unsigned: false }));
    }
}
