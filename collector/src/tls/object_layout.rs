//! Where a library's objects keep what tells them apart: the client's random bytes of the
//! handshake, and whether the object is the server's.
//!
//! Nothing of that is promised, but the library has a function that tells each, and its code says
//! where it looks. Instructions are recognised wherever their bytes are, not decoded one by one: a
//! wrong place of the random bytes never holds 32 bytes that a handshake on a socket of that
//! process has, so it binds nothing.

use undine_ebpf::load::NO_PLACE;

/// Most bytes of a function in which the place is looked for.
const CODE_BYTES_MAX: usize = 96;
/// Largest distance from the beginning of an object that is believed.
const PLACE_MAX: u32 = 64 * 1024;

/// Where in an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectLayout {
    /// Where the address of what `random_at` is in is; [`NO_PLACE`] where that is the object.
    pub random_via: u32,
    /// Where the random bytes are; [`NO_PLACE`] where that is not known.
    pub random_at: u32,
    /// Where the object says whose it is; [`NO_PLACE`] where that is not known.
    pub server_at: u32,
    /// Which bits there say that it is the server's.
    pub server_bits: u32,
}

impl Default for ObjectLayout {
    fn default() -> Self {
        let none = NO_PLACE;
        Self { random_via: none, random_at: none, server_at: none, server_bits: 0 }
    }
}

impl ObjectLayout {
    /// By the code of the function that tells the random bytes of the object that is its first
    /// argument, and of that which tells whether the object is the server's.
    pub fn of_code(random: Option<&[u8]>, server: Option<&[u8]>) -> Self {
        let mut layout = Self::default();
        if let Some((via, at)) = random.and_then(random_place) {
            (layout.random_via, layout.random_at) = (via, at);
        }
        if let Some((at, bits)) = server.and_then(server_place) {
            (layout.server_at, layout.server_bits) = (at, bits);
        }
        layout
    }
}

const RSP: u8 = 4;
const RDI: u8 = 7;

/// `lea distance(base), register` or, by its `operation`, another instruction of that form.
struct Access {
    register: u8,
    base: u8,
    distance: u32,
}

/// An instruction of 64 bits with one memory operand at a distance from a register.
fn access(bytes: &[u8], operation: u8) -> Option<Access> {
    let (&[rex, found, modrm], rest) = bytes.split_first_chunk()?;
    if rex & 0xf8 != 0x48 || rex & 2 != 0 || found != operation || modrm & 7 == RSP {
        return None;
    }
    let distance = match modrm >> 6 {
        1 => u32::from(*rest.first()?),
        2 => u32::from_le_bytes(*rest.first_chunk()?),
        _ => return None,
    };
    let register = (modrm >> 3 & 7) | (rex & 4) << 1;
    let base = (modrm & 7) | (rex & 1) << 3;
    (distance < PLACE_MAX).then_some(Access { register, base, distance })
}

/// `add $distance, register`
fn addition(bytes: &[u8], register: u8) -> Option<u32> {
    let rex = 0x48 | register >> 3;
    let distance = match *bytes {
        [found, 0x83, modrm, byte, ..] if found == rex && modrm == 0xc0 | register & 7 => {
            u32::from(byte)
        }
        [found, 0x81, modrm, a, b, c, d, ..] if found == rex && modrm == 0xc0 | register & 7 => {
            u32::from_le_bytes([a, b, c, d])
        }
        [0x48, 0x05, a, b, c, d, ..] if register == 0 => u32::from_le_bytes([a, b, c, d]),
        _ => return None,
    };
    (distance < PLACE_MAX).then_some(distance)
}

const LEA: u8 = 0x8d;
const MOV: u8 = 0x8b;

/// Where the random bytes are: the first address that is made of the object's, or of one that is
/// in it.
fn random_place(code: &[u8]) -> Option<(u32, u32)> {
    let code = &code[..code.len().min(CODE_BYTES_MAX)];
    let mut loaded: Option<Access> = None;
    for at in 0..code.len() {
        let here = &code[at..];
        if let Some(load) = &loaded {
            let further = access(here, LEA).filter(|lea| lea.base == load.register);
            let further = further.map(|lea| lea.distance);
            if let Some(distance) = further.or_else(|| addition(here, load.register)) {
                return Some((load.distance, distance));
            }
        }
        if let Some(lea) = access(here, LEA).filter(|lea| lea.base == RDI) {
            return Some((NO_PLACE, lea.distance));
        }
        if let Some(load) = access(here, MOV).filter(|load| load.base == RDI) {
            loaded.get_or_insert(load);
        }
    }
    // OpenSSL since 3.2 first makes sure of what kind of object it has.
    let leas = (0..code.len()).filter_map(|at| access(&code[at..], LEA));
    leas.map(|lea| (NO_PLACE, lea.distance)).next()
}

/// Where an object says whose it is, where the function does nothing but to look there.
fn server_place(code: &[u8]) -> Option<(u32, u32)> {
    let code = code.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(code);
    // mov …(%rdi), %eax, or of one byte: movzbl …(%rdi), %eax
    let (code, widest) = match code {
        [0x8b, rest @ ..] => (rest, u32::MAX),
        [0x0f, 0xb6, rest @ ..] => (rest, 0xff),
        _ => return None,
    };
    let (at, rest) = match *code {
        [0x47, distance, ref rest @ ..] => (u32::from(distance), rest),
        [0x87, a, b, c, d, ref rest @ ..] => (u32::from_le_bytes([a, b, c, d]), rest),
        _ => return None,
    };
    let (bits, rest) = match *rest {
        // and $…, %eax
        [0x83, 0xe0, bits, ref rest @ ..] if bits < 0x80 => (u32::from(bits), rest),
        _ => (widest, rest),
    };
    // xor %edi, %edi
    let rest = rest.strip_prefix(&[0x31, 0xff]).unwrap_or(rest);
    (rest.first() == Some(&0xc3) && at < PLACE_MAX).then_some((at, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openssl_3_has_the_random_bytes_in_the_object() {
        let random = [
            0x48, 0x89, 0xf1, 0xb8, 0x20, 0, 0, 0, 0x48, 0x85, 0xd2, 0x74, 0x5a, 0x48, 0x39, 0xc2,
            0x48, 0x8d, 0xb7, 0x60, 0x01, 0, 0, 0x48, 0x0f, 0x46, 0xc2,
        ];
        let layout =
            ObjectLayout::of_code(Some(&random), Some(&[0x8b, 0x47, 0x38, 0x31, 0xff, 0xc3]));
        let wanted = ObjectLayout {
            random_via: NO_PLACE,
            random_at: 0x160,
            server_at: 0x38,
            server_bits: u32::MAX,
        };
        assert_eq!(layout, wanted);
        for cut in 0..19 {
            let layout = ObjectLayout::of_code(Some(&random[..cut]), Some(&[0x8b, 0x47]));
            assert_eq!(layout, ObjectLayout::default(), "cut at {cut}");
        }
    }

    #[test]
    fn boringssl_has_them_behind_an_address_and_the_servers_bit_in_a_byte() {
        let random = [
            0x53, 0x48, 0x85, 0xd2, 0x74, 0x25, 0x48, 0x8b, 0x47, 0x30, 0x48, 0x83, 0xc0, 0x30,
            0x48, 0x89, 0xf7,
        ];
        let server = [0x0f, 0xb6, 0x87, 0xa4, 0, 0, 0, 0x83, 0xe0, 0x01, 0xc3];
        let layout = ObjectLayout::of_code(Some(&random), Some(&server));
        let wanted =
            ObjectLayout { random_via: 0x30, random_at: 0x30, server_at: 0xa4, server_bits: 1 };
        assert_eq!(layout, wanted);
    }

    #[test]
    fn a_function_that_does_more_does_not_say_whose_an_object_is() {
        for code in [&[0x8b, 0x47, 0x38, 0x85, 0xc0][..], &[0x85, 0xff, 0x74, 0x05], &[]] {
            assert_eq!(ObjectLayout::of_code(None, Some(code)), ObjectLayout::default());
        }
    }
}
