//! Values of RESP, read piece by piece; of long ones the beginning is kept.

use super::super::line_end::LineEnd;
use crate::redaction::whole_characters;

/// Most values that may be open inside each other.
const DEPTH_MAX: usize = 32;
/// Longest line: a simple string, an error, a number, or an inline command.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Longest string, as the server allows by default.
const STRING_BYTES_MAX: u64 = 512 << 20;
/// Most items of an aggregate.
const ITEMS_MAX: u64 = 1 << 31;

/// The bytes are no RESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotResp;

/// What a look at the bytes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// This many have to be there at once.
    Need(usize),
    /// This many were taken.
    Took(usize),
    /// The next so many are not wanted.
    Skip(u64),
    /// With this many, possibly none, the value is complete.
    Done(usize),
}

/// A complete value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Value {
    /// As people read it.
    pub(super) text: String,
    /// Its items, if it is flat.
    pub(super) items: Vec<String>,
    /// Whether it has items.
    pub(super) is_aggregate: bool,
    /// Whether it came unasked.
    pub(super) is_push: bool,
    /// Its bytes on the wire.
    pub(super) wire_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Aggregate {
    rest: u64,
    /// What comes after it belongs to the same value: an attribute.
    is_attribute: bool,
    is_first: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum Expect {
    #[default]
    Head,
    /// A string of this length, to be kept as far as there is room.
    String(u64),
    /// What follows the kept part of a string.
    Rest(u64),
    /// The end of what was skipped.
    End,
}

/// Reads one value after the other.
#[derive(Debug, Default)]
pub(super) struct ValueReader {
    value: Value,
    /// Most bytes of text that are kept of a value.
    text_bytes_max: usize,
    open: Vec<Aggregate>,
    expect: Expect,
    line_end: LineEnd,
}

impl ValueReader {
    pub(super) fn is_between_values(&self) -> bool {
        self.open.is_empty() && matches!(self.expect, Expect::Head)
    }

    /// Takes the value that is complete.
    pub(super) fn take(&mut self) -> Value {
        std::mem::take(&mut self.value)
    }

    /// Reads on; texts are kept up to `text_bytes_max` bytes in all.
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        is_command: bool,
        text_bytes_max: usize,
    ) -> Result<Progress, NotResp> {
        self.text_bytes_max = text_bytes_max;
        let progress = match self.expect {
            Expect::Head => self.head(bytes, is_command)?,
            Expect::String(length) => self.string(bytes, length)?,
            Expect::Rest(length) => {
                self.expect = Expect::End;
                Progress::Skip(length)
            }
            Expect::End => {
                self.expect = Expect::Head;
                if self.item_done() {
                    Progress::Done(0)
                } else {
                    Progress::Need(bytes.len().max(1))
                }
            }
        };
        match progress {
            Progress::Took(taken) | Progress::Done(taken) => self.value.wire_bytes += taken as u64,
            Progress::Skip(skipped) => self.value.wire_bytes += skipped,
            Progress::Need(_) => {}
        }
        // After a skip the item may be followed by bytes that are there already.
        match progress {
            Progress::Need(wanted) if wanted <= bytes.len() => {
                self.read(bytes, is_command, text_bytes_max)
            }
            progress => Ok(progress),
        }
    }

    fn head(&mut self, bytes: &[u8], is_command: bool) -> Result<Progress, NotResp> {
        let Some(end) = self.line_end.find(bytes) else {
            return if bytes.len() > LINE_BYTES_MAX {
                Err(NotResp)
            } else {
                Ok(Progress::Need(bytes.len() + 1))
            };
        };
        let line = bytes[..end].strip_suffix(b"\r");
        let taken = end + 1;
        let top = self.open.is_empty();
        let kind = bytes[0];
        if is_command && top && kind != b'*' {
            return self.inline(line.unwrap_or(&bytes[..end]), taken);
        }
        let line = line.and_then(|line| line.get(1..)).ok_or(NotResp)?;
        let complete = match kind {
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                return self.open_aggregate(kind, line, taken);
            }
            b'$' | b'!' | b'=' => {
                if line != b"-1" {
                    let length = number(line).filter(|n| *n <= STRING_BYTES_MAX).ok_or(NotResp)?;
                    if kind == b'!' {
                        self.value.text.push('-');
                    }
                    self.expect = Expect::String(length);
                    return Ok(Progress::Took(taken));
                }
                self.item("<NULL>", true)
            }
            b'_' => self.item("<NULL>", true),
            b'-' => {
                let text = format!("-{}", String::from_utf8_lossy(line));
                self.item(&text, false)
            }
            b'+' => self.item(&String::from_utf8_lossy(line), false),
            b':' | b',' | b'(' => self.item(&String::from_utf8_lossy(line), true),
            b'#' => {
                let text = if line == b"t" { "true" } else { "false" };
                self.item(text, true)
            }
            _ => return Err(NotResp),
        };
        Ok(if complete { Progress::Done(taken) } else { Progress::Took(taken) })
    }

    /// A command as people type it.
    fn inline(&mut self, line: &[u8], taken: usize) -> Result<Progress, NotResp> {
        let line = std::str::from_utf8(line).map_err(|_not_text| NotResp)?;
        if line.contains(|c: char| c.is_control() && c != '\t') {
            return Err(NotResp);
        }
        self.value.items = line.split_ascii_whitespace().map(str::to_owned).collect();
        Ok(Progress::Done(taken))
    }

    fn open_aggregate(&mut self, kind: u8, line: &[u8], taken: usize) -> Result<Progress, NotResp> {
        let complete = if line == b"-1" {
            self.item("<NULL>", true)
        } else {
            let items = number(line).filter(|n| *n <= ITEMS_MAX).ok_or(NotResp)?;
            let rest = if matches!(kind, b'%' | b'|') { items * 2 } else { items };
            if self.open.is_empty() && kind != b'|' {
                (self.value.is_aggregate, self.value.is_push) = (true, kind == b'>');
            }
            self.separate();
            self.value.text.push('[');
            if self.open.len() >= DEPTH_MAX {
                return Err(NotResp);
            }
            self.open.push(Aggregate { rest, is_attribute: kind == b'|', is_first: true });
            rest == 0 && self.close_aggregates()
        };
        Ok(if complete { Progress::Done(taken) } else { Progress::Took(taken) })
    }

    fn string(&mut self, bytes: &[u8], length: u64) -> Result<Progress, NotResp> {
        let kept = length.min(self.text_bytes_max as u64);
        let kept_bytes = usize::try_from(kept).unwrap_or(usize::MAX);
        let wanted = if kept == length { kept_bytes + 2 } else { kept_bytes };
        if bytes.len() < wanted {
            return Ok(Progress::Need(wanted));
        }
        let text = &bytes[..kept_bytes];
        if kept < length {
            self.keep(&String::from_utf8_lossy(whole_characters(text)), false);
            self.expect = Expect::Rest(length - kept + 2);
            // With no room at all nothing was taken yet.
            return Ok(if kept_bytes == 0 { self.skip_rest() } else { Progress::Took(kept_bytes) });
        }
        if &bytes[kept_bytes..wanted] != b"\r\n" {
            return Err(NotResp);
        }
        self.expect = Expect::Head;
        let complete = self.item(&String::from_utf8_lossy(text), false);
        Ok(if complete { Progress::Done(wanted) } else { Progress::Took(wanted) })
    }

    fn skip_rest(&mut self) -> Progress {
        let Expect::Rest(length) = self.expect else { return Progress::Need(1) };
        self.expect = Expect::End;
        Progress::Skip(length)
    }

    /// Takes an item; whether the value is complete with it.
    fn item(&mut self, text: &str, is_bare: bool) -> bool {
        self.keep(text, is_bare);
        self.item_done()
    }

    /// Keeps an item's text as far as there is room.
    fn keep(&mut self, text: &str, is_bare: bool) {
        self.separate();
        let room = self.room();
        let kept = &text[..text.floor_char_boundary(room)];
        if self.open.is_empty() || is_bare {
            self.value.text.push_str(kept);
        } else if room > 0 {
            json_string(kept, &mut self.value.text);
        }
        if self.open.len() <= 1 && room > 0 {
            self.value.items.push(kept.to_owned());
        }
    }

    /// Bytes of text for which there is room.
    fn room(&self) -> usize {
        self.text_bytes_max.saturating_sub(self.value.text.len())
    }

    /// Counts an item; whether the value is complete with it.
    fn item_done(&mut self) -> bool {
        if let Some(last) = self.open.last_mut() {
            last.rest -= 1;
        }
        self.close_aggregates()
    }

    /// Closes what has all its items; whether nothing is open any more.
    fn close_aggregates(&mut self) -> bool {
        while let Some(last) = self.open.last() {
            if last.rest > 0 {
                return false;
            }
            let is_attribute = last.is_attribute;
            self.open.pop();
            self.value.text.push(']');
            if is_attribute && self.open.is_empty() {
                // The value that it describes is still to come.
                self.value.text.clear();
                self.value.items.clear();
                return false;
            }
            if let Some(outer) = self.open.last_mut()
                && !is_attribute
            {
                outer.rest -= 1;
            }
        }
        true
    }

    /// Puts a comma before all items but the first.
    fn separate(&mut self) {
        if let Some(last) = self.open.last_mut()
            && !std::mem::take(&mut last.is_first)
            && self.room() > 0
        {
            self.value.text.push(',');
        }
    }
}

fn number(line: &[u8]) -> Option<u64> {
    std::str::from_utf8(line).ok()?.parse().ok()
}

/// Texts as a JSON array.
pub(super) fn json_array(texts: &[String]) -> String {
    let mut json = String::from("[");
    for (at, text) in texts.iter().enumerate() {
        if at > 0 {
            json.push(',');
        }
        json_string(text, &mut json);
    }
    json.push(']');
    json
}

fn json_string(text: &str, json: &mut String) {
    // A string can always be written.
    json.push_str(&serde_json::to_string(text).unwrap_or_default());
}
