//! BSON as JSON, cut where there is no more room, and yet closed.

use std::fmt::Write;

use serde_json::Value as Scalar;

use super::bson::{Bytes, Elements, Stop, Value};

/// Most documents that may be open inside each other.
const DEPTH_MAX: usize = 32;
/// What stands for values that are secrets.
pub(super) const REDACTED: &str = "<redacted>";
/// Elements that are secrets, wherever they are.
const SECRETS: [&str; 2] = ["pwd", "speculativeAuthenticate"];

/// A text that grows up to a size.
#[derive(Debug)]
pub(super) struct Json {
    text: String,
    bytes_max: usize,
    depth: usize,
}

impl Json {
    /// An empty text of at most `bytes_max` bytes, apart from what closes it.
    pub(super) const fn new(bytes_max: usize) -> Self {
        Self { text: String::new(), bytes_max, depth: 0 }
    }

    /// The text.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// Writes a document, and after its elements lists of documents by their names.
    pub(super) fn document(
        &mut self,
        elements: Elements<'_>,
        lists: &[(&str, Bytes<'_>)],
    ) -> Result<(), Stop> {
        self.text.push('{');
        let mut done = self.elements(elements, true);
        for (name, documents) in lists {
            done = done.and_then(|()| {
                self.name(name)?;
                self.list(*documents)
            });
        }
        self.text.push('}');
        done
    }

    fn list(&mut self, mut documents: Bytes<'_>) -> Result<(), Stop> {
        self.text.push('[');
        let mut done = Ok(());
        while done.is_ok() && !documents.is_empty() {
            done = documents.document().and_then(|elements| {
                self.separate()?;
                self.nested(Value::Document(elements))
            });
        }
        self.text.push(']');
        done
    }

    fn elements(&mut self, mut elements: Elements<'_>, are_named: bool) -> Result<(), Stop> {
        while let Some((name, value)) = elements.next()? {
            if are_named {
                self.name(name)?;
            } else {
                self.separate()?;
            }
            if are_named && SECRETS.contains(&name) {
                self.scalar(REDACTED);
            } else {
                self.nested(value)?;
            }
        }
        Ok(())
    }

    fn nested(&mut self, value: Value<'_>) -> Result<(), Stop> {
        let (elements, open, close) = match value {
            Value::Document(elements) => (elements, '{', '}'),
            Value::Array(elements) => (elements, '[', ']'),
            value => {
                self.value(value);
                return Ok(());
            }
        };
        if self.depth >= DEPTH_MAX {
            self.scalar("[too deep]");
            return Ok(());
        }
        self.depth += 1;
        self.text.push(open);
        let done = self.elements(elements, open == '{');
        self.text.push(close);
        self.depth -= 1;
        done
    }

    fn value(&mut self, value: Value<'_>) {
        match value {
            Value::Text(text) => {
                self.scalar(&text[..text.floor_char_boundary(self.room())]);
            }
            Value::Int(number) => self.scalar(number),
            Value::Double(number) => self.scalar(number),
            Value::Bool(is_true) => self.scalar(is_true),
            Value::ObjectId(bytes) => {
                let mut hex = String::with_capacity(2 * bytes.len());
                for byte in bytes {
                    // A string can always be written.
                    write!(hex, "{byte:02x}").unwrap_or_default();
                }
                self.scalar(hex);
            }
            Value::Date(millis) => self.scalar(format!("[date {millis} ms]")),
            Value::Binary(bytes) => self.scalar(format!("[binary {bytes} bytes]")),
            Value::Regex(pattern, options) => {
                let pattern = &pattern[..pattern.floor_char_boundary(self.room())];
                self.scalar(format!("/{pattern}/{options}"));
            }
            Value::Other(name) => self.scalar(name),
            Value::Null | Value::Document(_) | Value::Array(_) => self.scalar(Scalar::Null),
        }
    }

    fn scalar(&mut self, value: impl Into<Scalar>) {
        self.text.push_str(&value.into().to_string());
    }

    fn name(&mut self, name: &str) -> Result<(), Stop> {
        if name.len() >= self.room() {
            return Err(Stop::Cut);
        }
        self.separate()?;
        self.scalar(name);
        self.text.push(':');
        Ok(())
    }

    /// Puts a comma before all elements but the first, if there is room for one more.
    fn separate(&mut self) -> Result<(), Stop> {
        if self.room() == 0 {
            return Err(Stop::Cut);
        }
        if !self.text.ends_with(['{', '[']) {
            self.text.push(',');
        }
        Ok(())
    }

    fn room(&self) -> usize {
        self.bytes_max.saturating_sub(self.text.len())
    }
}
