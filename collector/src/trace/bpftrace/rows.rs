//! What a program prints becomes rows, and what does not is counted.

use std::time::{Duration, Instant};

use undine_schema::trace::{TraceCounts, TraceTable};

use super::format::{FieldKind, SEPARATOR};
use super::output::Message;
use super::program::{Limited, READY};
use crate::kernel;
use crate::redaction::{self, Mode};
use crate::trace::rows::{Cells, Rows};

/// Rows in a second that are kept; further ones are only counted.
pub const ROWS_PER_SECOND_MAX: u32 = 10_000;
/// How long the distance between the clocks is taken for the same.
const CLOCKS_AGE_MAX: Duration = Duration::from_secs(1);

/// The rows that one program printed.
#[derive(Debug)]
pub(super) struct PrintedRows {
    rows: Rows,
    kinds: Vec<FieldKind>,
    /// What is kept of each column's texts.
    modes: Vec<Mode>,
    /// Nanoseconds from the program's clock to the wall clock, and when they were asked for.
    clocks: (i64, Instant),
    /// The second that is counted, and its rows.
    second: (Instant, u32),
    /// Fewest probes of a program that sees anything.
    probes_min: u64,
    limited: u64,
    dropped: u64,
    unreadable: u64,
}

/// What a line said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The program's probes stand.
    Ready,
    /// None of the places is there that it names.
    NoProbes,
    /// Anything else.
    Printed,
}

impl PrintedRows {
    pub(super) fn new(program: &Limited, mode: Mode, now: Instant) -> Self {
        let Limited { format, plain, probes_min, .. } = program;
        let modes = plain.iter().map(|plain| if *plain { Mode::Full } else { mode }).collect();
        Self {
            rows: Rows::new(format.columns()),
            kinds: format.kinds(),
            modes,
            clocks: (kernel::wall_minus_boot_ns(), now),
            second: (now, 0),
            probes_min: *probes_min,
            limited: 0,
            dropped: 0,
            unreadable: 0,
        }
    }

    /// Takes a line that bpftrace wrote.
    pub(super) fn take(&mut self, message: &Message, now: Instant) -> Told {
        match message {
            Message::Printed(text) if text == READY.as_bytes() => return Told::Ready,
            Message::Printed(text) => self.row(text, now),
            Message::Lost(events) => self.dropped = self.dropped.saturating_add(*events),
            Message::Probes(count) if *count < self.probes_min => return Told::NoProbes,
            Message::Probes(_) | Message::Other => {}
        }
        Told::Printed
    }

    /// Counts a line that was too long.
    pub(super) fn drop_line(&mut self) {
        self.dropped += 1;
    }

    pub(super) fn counts(&self) -> TraceCounts {
        let (rows, limited, dropped) = (self.rows.made, self.limited, self.dropped);
        TraceCounts {
            calls: rows + limited + dropped,
            rows,
            limited,
            dropped,
            unreadable: self.unreadable,
            evicted_rows: self.rows.evicted,
        }
    }

    pub(super) fn table(&mut self) -> TraceTable {
        self.rows.table()
    }

    fn row(&mut self, text: &[u8], now: Instant) {
        if now.duration_since(self.second.0) >= Duration::from_secs(1) {
            self.second = (now, 0);
        }
        if self.second.1 == ROWS_PER_SECOND_MAX {
            self.limited += 1;
            return;
        }
        self.second.1 += 1;
        if now.duration_since(self.clocks.1) >= CLOCKS_AGE_MAX {
            self.clocks = (kernel::wall_minus_boot_ns(), now);
        }
        let values: Vec<&[u8]> =
            text.split(|byte| u32::from(*byte) == u32::from(SEPARATOR)).collect();
        let places = places(&values, &self.kinds);
        let (kinds, modes, wall_minus_boot) = (&self.kinds, &self.modes, self.clocks.0);
        let mut unreadable = 0;
        self.rows.append(|cells| {
            let time = values.first().and_then(|value| number::<u64>(value));
            let wall = time.and_then(|time| i64::try_from(time).ok());
            let wall = wall.and_then(|time| time.checked_add(wall_minus_boot));
            unreadable += u64::from(wall.is_none());
            let [time, cells @ ..] = cells else { return };
            time.integer(wall.unwrap_or_default());
            let columns = cells.iter_mut().zip(kinds).zip(modes).zip(&places);
            for (((cell, kind), mode), place) in columns {
                unreadable += u64::from(!write(cell, *kind, *mode, place.as_deref()));
            }
        });
        self.unreadable += unreadable;
    }
}

/// The bytes of each column beside the time. A text may hold the separator: then only what is left of
/// the first text and right of the last one is certain, and the text itself where there is one.
fn places(values: &[&[u8]], kinds: &[FieldKind]) -> Vec<Option<Vec<u8>>> {
    let values = values.get(1..).unwrap_or_default();
    let mut places = vec![None; kinds.len()];
    let is_text = |kind: &FieldKind| *kind == FieldKind::Text;
    let more = values.len().checked_sub(kinds.len());
    if more == Some(0) {
        return values.iter().map(|value| Some(value.to_vec())).collect();
    }
    let (first, last) = (kinds.iter().position(is_text), kinds.iter().rposition(is_text));
    let (Some(more), Some(first), Some(last)) = (more, first, last) else { return places };
    for (at, place) in places.iter_mut().enumerate() {
        *place = match at {
            _ if at < first => Some(values[at].to_vec()),
            _ if at > last => Some(values[at + more].to_vec()),
            _ if first == last => {
                let separator = SEPARATOR.to_string();
                Some(values[at..=at + more].join(separator.as_bytes()))
            }
            _ => None,
        };
    }
    places
}

/// Writes a cell; gives whether the value could be read.
fn write(cell: &mut Cells, kind: FieldKind, mode: Mode, value: Option<&[u8]>) -> bool {
    let read = match kind {
        FieldKind::Signed => value.and_then(number::<i64>),
        FieldKind::Unsigned => value.and_then(number::<u64>).map(u64::cast_signed),
        FieldKind::Text => {
            let mut kept = String::new();
            if let Some(value) = value {
                redaction::body_into(mode, value, value.len() as u64, &mut kept);
            }
            cell.text(kept);
            return value.is_some();
        }
    };
    cell.integer(read.unwrap_or_default());
    read.is_some()
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use arrow::util::display::array_value_to_string;

    use super::*;
    use crate::trace::bpftrace::format::Format;

    const SEPARATED: &str = "time_:%llu a:%d b:%s c:%u";

    fn limited(format: &str) -> Limited {
        let format = Format::parse(format).unwrap();
        let plain = vec![false; format.kinds().len()];
        Limited { text: String::new(), format, plain, probes_min: 2 }
    }

    fn printed(format: &str, lines: &[&str]) -> (Vec<Vec<String>>, TraceCounts) {
        let now = Instant::now();
        let mut rows = PrintedRows::new(&limited(format), Mode::Full, now);
        rows.clocks.0 = 1000;
        for line in lines {
            rows.take(&Message::Printed(line.replace('|', "\x1f").into_bytes()), now);
        }
        let table = rows.table();
        let mut shown = Vec::new();
        for batch in &table.batches {
            for row in 0..batch.num_rows() {
                let cells = batch.columns()[1..].iter();
                shown.push(cells.map(|cell| array_value_to_string(cell, row).unwrap()).collect());
            }
        }
        (shown, rows.counts())
    }

    #[test]
    fn values_are_cells() {
        let (rows, counts) = printed(SEPARATED, &["5|-7|a b|18446744073709551615", "6|1||2"]);
        assert_eq!(rows, [["-7", "a b", "-1"], ["1", "", "2"]]);
        assert_eq!((counts.calls, counts.rows, counts.unreadable), (2, 2, 0));
    }

    #[test]
    fn a_text_with_a_separator_shifts_nothing() {
        let (rows, counts) = printed(SEPARATED, &["5|-7|a|b|3"]);
        assert_eq!(rows, [["-7", "a\u{1f}b", "3"]]);
        assert_eq!(counts.unreadable, 0);
        let (rows, counts) = printed("a:%d b:%s c:%s d:%d", &["5|1|x|y|z|4"]);
        assert_eq!(rows, [["1", "", "", "4"]]);
        assert_eq!(counts.unreadable, 2);
    }

    #[test]
    fn what_cannot_be_read_is_counted() {
        let (rows, counts) = printed(SEPARATED, &["x|y|z|-1", "5", ""]);
        assert_eq!(rows, [["0", "z", "0"], ["0", "", "0"], ["0", "", "0"]]);
        assert_eq!((counts.rows, counts.unreadable), (3, 3 + 3 + 4));
    }

    #[test]
    fn rows_beyond_the_limit_and_losses_are_counted() {
        let now = Instant::now();
        let mut rows = PrintedRows::new(&limited("a:%d"), Mode::Full, now);
        assert_eq!(rows.take(&Message::Probes(1), now), Told::NoProbes);
        assert_eq!(rows.take(&Message::Probes(2), now), Told::Printed);
        for _ in 0..ROWS_PER_SECOND_MAX + 3 {
            rows.take(&Message::Printed(b"1\x1f1".to_vec()), now);
        }
        rows.take(&Message::Lost(4), now);
        rows.drop_line();
        rows.take(&Message::Printed(b"1\x1f1".to_vec()), now + Duration::from_secs(1));
        let counts = rows.counts();
        assert_eq!((counts.rows, counts.limited, counts.dropped), (10_001, 3, 5));
        assert_eq!(counts.calls, 10_009);
    }
}
