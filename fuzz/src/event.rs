//! Any bytes as messages of the kernel.
//!
//! An input is messages, each behind its length of two bytes. Where one can be decoded, encoding it
//! must give the bytes that it was decoded from, and the pipeline must take it, whatever its times,
//! positions and numbers are.

use undine_collector::event::Event;
use undine_collector::loss::KernelTotals;
use undine_schema::TimeNs;

use crate::machine::{Tables, pipeline};

/// Most rows for a byte of an input; a message is longer than the rows that come of it.
const ROWS_PER_INPUT_BYTE_MAX: usize = 1;

/// The messages of an input.
pub fn messages(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = input;
    std::iter::from_fn(move || {
        let ([low, high], after) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let (message, after) = after.split_at(length);
        rest = after;
        Some(message)
    })
}

/// Checks messages.
///
/// # Panics
/// Where something does not hold.
pub fn check(input: &[u8]) {
    let mut pipeline = pipeline(false);
    let (mut taken, mut refused) = (0, 0);
    for message in messages(input) {
        match Event::decode(message) {
            Ok(event) => {
                let mut encoded = Vec::new();
                event.encode(&mut encoded);
                assert_eq!(message.get(..encoded.len()), Some(&encoded[..]), "{event:?}");
                assert!(pipeline.message(message).is_ok());
                taken += 1;
            }
            Err(error) => {
                assert_eq!(pipeline.message(message), Err(error));
                refused += 1;
            }
        }
    }
    let counts = pipeline.counts();
    assert_eq!((counts.messages, counts.decode_errors), (taken, refused), "{counts:?}");
    settle(&mut pipeline, input.len());
}

/// Ends what a pipeline has begun and looks at its rows.
pub(crate) fn settle(pipeline: &mut undine_collector::pipeline::Pipeline, input_bytes: usize) {
    let mut tables = Tables::default();
    pipeline.kernel(KernelTotals { dropped: 1, dropped_bytes: 1, ..KernelTotals::default() });
    pipeline.settle();
    pipeline.write_losses(TimeNs::new(7), true);
    let rows = pipeline.rows_waiting();
    // A connection has its counters and what is missing of it; lost bytes have a row by protocol.
    assert!(rows <= 64 + input_bytes * ROWS_PER_INPUT_BYTE_MAX, "{rows} rows");
    tables.take(pipeline);
    let missing = pipeline.missing_rows();
    assert!(missing.min <= missing.max, "{missing:?}");
    let counts = pipeline.counts();
    assert!(counts.connections <= 64, "{counts:?}");
}
