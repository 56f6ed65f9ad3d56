//! What of Mux is structure: heads of frames, the lengths of contexts and destinations, the status of a
//! reply. All else is content.

use super::frame::{HEAD_BYTES, Head, kind};
use super::{BODY_BYTES_MAX, INIT_CHECK};
use crate::mask::Addresses;
use crate::protocol::dialogue::Side;
use crate::protocol::mask::fields::Fields;
use crate::protocol::mask::{Mask, Step, headers};

/// Masks a connection that speaks Mux.
#[derive(Debug, Default)]
pub(crate) struct MuxMask {
    /// Bytes of the frame at hand that are content.
    rest: [u64; 2],
}

impl Mask for MuxMask {
    fn take(&mut self, side: Side, bytes: &mut [u8], _addresses: &mut Addresses) -> Step {
        let rest = std::mem::take(&mut self.rest[side as usize]);
        if rest > 0 {
            return Step::Content(rest);
        }
        let Some(head) = bytes.first_chunk() else { return Step::Need(HEAD_BYTES) };
        let Some(head) = Head::read(*head) else { return Step::Lost };
        let wanted = usize::try_from(head.body_bytes()).unwrap_or(usize::MAX).min(BODY_BYTES_MAX);
        let end = HEAD_BYTES + wanted;
        let Some(body) = bytes.get_mut(HEAD_BYTES..end) else { return Step::Need(end) };
        let mut fields = Fields(body);
        mask_body(head.kind, &mut fields);
        fields.fill_rest();
        self.rest[side as usize] = head.body_bytes() - wanted as u64;
        Step::Took(end)
    }
}

/// Masks a body as far as it is understood.
fn mask_body(of: i8, body: &mut Fields<'_>) -> Option<()> {
    match of {
        kind::OLD_ERROR | kind::ERROR if body.0 == INIT_CHECK => {
            body.keep(INIT_CHECK.len())?;
        }
        kind::DISPATCH => {
            for _ in 0..body.short()? {
                body.fill_vector16()?;
                body.fill_vector16()?;
            }
            let dest = body.short()?;
            headers::mask_path(body.keep(dest.into())?);
        }
        kind::INIT => {
            body.short()?;
            while !body.0.is_empty() {
                body.fill_vector32()?;
            }
        }
        // The status.
        -1 | -2 => {
            body.byte()?;
        }
        // As much as a version.
        -68 => {
            body.short()?;
            while !body.0.is_empty() {
                body.fill_vector32()?;
            }
        }
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::mask::talk::check;

    #[test]
    fn of_calls_and_replies_the_structure_is_kept() {
        check::<MuxMask>(&[
            (
                Side::Client,
                "\0\0\0\x0f\x7f\0\0\x01tinit check",
                "\0\0\0\x0f\x7f\0\0\x01tinit check",
            ),
            (
                Side::Client,
                "\0\0\0\x14\x02\0\0\x02\0\x01\0\x01c\0\x01v\0\x02/a\0\0hi",
                "\0\0\0\x14\x02\0\0\x02\0\x01\0\x01x\0\x01x\0\x02/xxxxx",
            ),
            (Side::Server, "\0\0\0\x07\u{fe}\0\0\x02\0hi", "\0\0\0\x07\u{fe}\0\0\x02\0xx"),
        ]);
    }
}
