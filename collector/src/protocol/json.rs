//! A JSON object that is written field by field and never gets longer than it may.

/// Writes an object; what has no room is left out, and all that comes after it.
#[derive(Debug)]
pub(super) struct Json {
    text: String,
    bytes_max: usize,
    /// What closes that which is open.
    closers: Vec<char>,
    is_full: bool,
}

impl Json {
    /// An open object that gets at most `bytes_max` bytes long, two at least.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { text: String::from("{"), bytes_max, closers: vec!['}'], is_full: false }
    }

    /// Writes a field or, with an empty name, an item.
    pub(super) fn value(&mut self, name: &str, json: &str) {
        self.put(name, json, None);
    }

    /// Writes a text likewise.
    pub(super) fn text(&mut self, name: &str, text: &str) {
        // A string can always be written.
        self.put(name, &serde_json::to_string(text).unwrap_or_default(), None);
    }

    /// Opens an array.
    pub(super) fn open_array(&mut self, name: &str) {
        self.put(name, "[", Some(']'));
    }

    /// Opens an object.
    pub(super) fn open_object(&mut self, name: &str) {
        self.put(name, "{", Some('}'));
    }

    /// Closes what was opened last.
    pub(super) fn close(&mut self) {
        if !self.is_full
            && let Some(closer) = self.closers.pop()
        {
            self.text.push(closer);
        }
    }

    /// The whole text, with everything closed.
    pub(super) fn finish(mut self) -> String {
        while let Some(closer) = self.closers.pop() {
            self.text.push(closer);
        }
        self.text
    }

    fn put(&mut self, name: &str, json: &str, closer: Option<char>) {
        let comma = if self.text.ends_with(['{', '[']) { "" } else { "," };
        let key = if name.is_empty() { String::new() } else { format!("\"{name}\":") };
        let more = comma.len() + key.len() + json.len() + usize::from(closer.is_some());
        if self.text.len() + self.closers.len() + more > self.bytes_max {
            self.is_full = true;
        }
        if !self.is_full {
            self.text.extend([comma, &key, json]);
            self.closers.extend(closer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bytes_max: usize) -> String {
        let mut json = Json::new(bytes_max);
        json.text("name", "a\"b");
        json.open_array("items");
        for number in 0..3 {
            json.open_object("");
            json.value("number", &number.to_string());
            json.close();
        }
        json.close();
        json.value("last", "true");
        json.finish()
    }

    #[test]
    fn fields_and_items_are_separated() {
        assert_eq!(
            written(100),
            r#"{"name":"a\"b","items":[{"number":0},{"number":1},{"number":2}],"last":true}"#
        );
    }

    #[test]
    fn a_text_that_is_cut_anywhere_is_still_json() {
        for bytes_max in 0..100 {
            let text = written(bytes_max);
            assert!(text.len() <= bytes_max.max(2), "{text} of at most {bytes_max}");
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
        }
    }
}
