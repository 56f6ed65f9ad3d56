//! What is wrong with a script: where, why and what to do, drawn under the source.

use std::fmt;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

/// A place in a script's text: byte offsets, the end excluded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Range {
    /// The first byte.
    pub start: u32,
    /// The byte after the last.
    pub end: u32,
}

impl From<ruff_text_size::TextRange> for Range {
    fn from(range: ruff_text_size::TextRange) -> Self {
        Self { start: range.start().into(), end: range.end().into() }
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where it is.
    pub range: Range,
    /// What is wrong, in a sentence without a full stop.
    pub message: String,
    /// What is said right under the place.
    pub label: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    pub(crate) fn new(range: Range, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self { range, message: message.into(), label: label.into(), help: None }
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    pub(crate) fn maybe_help(self, help: Option<String>) -> Self {
        Self { help, ..self }
    }
}

/// A mistake as editors and the HTTP API take it. Lines and columns start at 1; columns count
/// characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// Line of the first character.
    pub line: usize,
    /// Column of the first character.
    pub col: usize,
    /// Line after the last character.
    pub end_line: usize,
    /// Column after the last character.
    pub end_col: usize,
    /// What is wrong.
    pub message: String,
    /// What is said under the place.
    pub label: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// Every mistake of one script, in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    source: Arc<str>,
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    pub(crate) fn new(source: impl Into<Arc<str>>, mut list: Vec<Diagnostic>) -> Self {
        list.sort_by_key(|diagnostic| (diagnostic.range.start, diagnostic.range.end));
        list.dedup();
        Self { source: source.into(), list }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The mistakes.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// The mistakes by line and column, as JSON would carry them.
    pub fn placed(&self) -> Vec<Placed> {
        self.list.iter().map(|diagnostic| self.place(diagnostic)).collect()
    }

    fn place(&self, diagnostic: &Diagnostic) -> Placed {
        let (line, col) = self.line_and_column(diagnostic.range.start);
        let (end_line, end_col) = self.line_and_column(diagnostic.range.end);
        Placed {
            line,
            col,
            end_line,
            end_col,
            message: diagnostic.message.clone(),
            label: diagnostic.label.clone(),
            help: diagnostic.help.clone(),
        }
    }

    fn line_and_column(&self, offset: u32) -> (usize, usize) {
        let before = &self.source[..self.boundary(offset)];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        (line, column)
    }

    /// The character boundary at or before `offset`.
    fn boundary(&self, offset: u32) -> usize {
        let mut at = (offset as usize).min(self.source.len());
        while !self.source.is_char_boundary(at) {
            at -= 1;
        }
        at
    }

    fn render(&self, diagnostic: &Diagnostic) -> String {
        let start = self.boundary(diagnostic.range.start);
        let end = self.boundary(diagnostic.range.end).max(start);
        let snippet = Snippet::source(self.source.as_ref())
            .annotation(AnnotationKind::Primary.span(start..end).label(&diagnostic.label));
        let mut group = Level::ERROR.primary_title(diagnostic.message.as_str()).element(snippet);
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        Renderer::plain().render(&[group])
    }
}

/// Draws each mistake under the line it is in, with its remedy.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            f.write_str(&self.render(diagnostic))?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// The candidate that a person most likely meant by `name`, if any is near enough.
pub(crate) fn closest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let length = name.chars().count();
    let limit = (length / 3).max(usize::from(length > 2));
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(name, candidate, limit), candidate))
        .filter(|(distance, candidate)| *distance <= limit && !candidate.is_empty())
        .min()
        .map(|(_, candidate)| candidate)
}

/// "did you mean `x`?" where something is near.
pub(crate) fn did_you_mean<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    closest(name, candidates).map(|candidate| format!("did you mean `{candidate}`?"))
}

/// Levenshtein's distance, ignoring case; more than `limit` means only that.
fn edit_distance(left: &str, right: &str, limit: usize) -> usize {
    if left.len().abs_diff(right.len()) > limit.max(2) * 4 {
        return usize::MAX;
    }
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised_and_a_stranger_is_not() {
        assert_eq!(closest("http_evnts", ["conn_stats", "http_events"]), Some("http_events"));
        assert_eq!(closest("HTTP_EVENTS", ["http_events"]), Some("http_events"));
        assert_eq!(closest("kubernetes", ["conn_stats", "http_events"]), None);
    }

    #[test]
    fn a_place_inside_a_character_is_moved_to_its_start() {
        let list = vec![Diagnostic::new(Range { start: 2, end: 99 }, "m", "l")];
        let diagnostics = Diagnostics::new("aäb", list);
        assert_eq!(diagnostics.placed()[0].col, 2);
        assert!(diagnostics.to_string().contains('^'));
    }
}
