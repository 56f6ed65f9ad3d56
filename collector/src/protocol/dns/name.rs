//! Names: labels with their length before them, the rest of which may lie earlier in the message.

/// A name as text, without the dot at its end; the root is `.`.
pub type Name = String;

/// Most bytes of a name.
const NAME_BYTES_MAX: usize = 255;

/// Reads the name at `at`, and says where what follows it begins.
///
/// A pointer must lead to before everything that was read of the name, so that it ends; the bytes
/// are bounded too.
pub(super) fn read(message: &[u8], at: usize) -> Option<(Name, usize)> {
    let mut name = String::new();
    let (mut at, mut before, mut end) = (at, at, None);
    let mut bytes = 0;
    loop {
        let length = *message.get(at)?;
        match length {
            0 => break,
            1..=63 => {
                let label = message.get(at + 1..at + 1 + usize::from(length))?;
                bytes += label.len() + 1;
                if bytes >= NAME_BYTES_MAX {
                    return None;
                }
                if !name.is_empty() {
                    name.push('.');
                }
                push_label(label, &mut name);
                at += 1 + label.len();
            }
            0xc0.. => {
                let low = *message.get(at + 1)?;
                let target = usize::from(length & 0x3f) << 8 | usize::from(low);
                if target >= before {
                    return None;
                }
                end.get_or_insert(at + 2);
                (at, before) = (target, target);
            }
            // Kinds of labels that were given up.
            64..0xc0 => return None,
        }
    }
    if name.is_empty() {
        name.push('.');
    }
    Some((name, end.unwrap_or(at + 1)))
}

/// Appends a label as zone files have it: what is not a printable character as `\DDD`.
fn push_label(label: &[u8], name: &mut String) {
    for byte in label {
        match byte {
            b'.' | b'\\' => name.extend(['\\', char::from(*byte)]),
            0x21..=0x7e => name.push(char::from(*byte)),
            _ => name.push_str(&format!("\\{byte:03}")),
        }
    }
}
