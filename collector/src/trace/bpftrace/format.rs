//! What a program prints, as columns: words `name:%d` of a `printf`'s format, with blanks between.

use std::sync::Arc;

use undine_schema::trace::{NAME_BYTES_MAX, OUTPUTS_MAX, TraceColumn, TraceError};
use undine_schema::{PxlType, SemanticType};

/// What stands between the values of a row that a rewritten program prints.
pub(super) const SEPARATOR: char = '\x1f';

/// The columns of a program's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Format {
    /// Those of the format, in its order.
    fields: Vec<Field>,
    /// Which of them is the time; none where the program does not print it.
    time: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    name: String,
    kind: FieldKind,
}

/// What a column of a program's table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldKind {
    /// A number with a sign.
    Signed,
    /// A number without, or a pointer.
    Unsigned,
    /// A text.
    Text,
}

impl Format {
    /// Reads a format.
    ///
    /// # Errors
    /// Where it has no values, too many, or two of one name.
    pub(super) fn parse(text: &str) -> Result<Self, TraceError> {
        let mut fields: Vec<Field> = Vec::new();
        for word in text.split_ascii_whitespace() {
            let Some((name, kind)) = field(word)? else { continue };
            let name = name.map_or_else(|| format!("Column_{}", fields.len()), str::to_owned);
            if name.len() > NAME_BYTES_MAX || name.contains(char::is_control) {
                let reason = format!("a column's name must have 1 to {NAME_BYTES_MAX} bytes");
                return Err(TraceError::new(reason, "choose another"));
            }
            if fields.iter().any(|field| field.name == name) {
                let reason = format!("the program prints two values `{name}`");
                return Err(TraceError::new(reason, "give each a name of its own"));
            }
            fields.push(Field { name, kind });
        }
        let time = fields.iter().position(|field| field.name == "time_");
        if time.is_some_and(|at| fields[at].kind == FieldKind::Text) {
            let reason = "`time_` must be an integer";
            return Err(TraceError::new(reason, "write `time_:%llu` and give it nsecs"));
        }
        let columns = fields.len() - usize::from(time.is_some());
        if columns == 0 || columns > OUTPUTS_MAX {
            let reason =
                format!("a program that prints {columns} values beside the time cannot be a table");
            let help = format!("print 1 to {OUTPUTS_MAX}, such as \"time_:%llu pid:%d name:%s\"");
            return Err(TraceError::new(reason, help));
        }
        Ok(Self { fields, time })
    }

    /// How many values a `printf` of this format takes.
    pub(super) fn values(&self) -> usize {
        self.fields.len()
    }

    /// What the columns beside the time hold, in their order.
    pub(super) fn kinds(&self) -> Vec<FieldKind> {
        self.others().map(|at| self.fields[at].kind).collect()
    }

    /// The columns of the table; the first is the time.
    pub(super) fn columns(&self) -> Arc<[TraceColumn]> {
        let time = TraceColumn {
            name: "time_".into(),
            pxl_type: PxlType::Time64Ns,
            semantic: SemanticType::TimeNs,
        };
        let others = self.others().map(|at| &self.fields[at]).map(|field| TraceColumn {
            name: field.name.as_str().into(),
            pxl_type: match field.kind {
                FieldKind::Signed | FieldKind::Unsigned => PxlType::Int64,
                FieldKind::Text => PxlType::String,
            },
            semantic: SemanticType::None,
        });
        std::iter::once(time).chain(others).collect()
    }

    /// The format that says the same so that it can be read again, and what it takes: the time, which
    /// is `None` where the program does not print it, then the places of the others.
    pub(super) fn rewritten(&self) -> (String, Vec<Option<usize>>) {
        let mut text = String::from("%llu");
        let mut taken = vec![self.time];
        for at in self.others() {
            text.push(SEPARATOR);
            text.push_str(match self.fields[at].kind {
                FieldKind::Signed => "%lld",
                FieldKind::Unsigned => "%llu",
                FieldKind::Text => "%s",
            });
            taken.push(Some(at));
        }
        (text, taken)
    }

    fn others(&self) -> impl Iterator<Item = usize> {
        let time = self.time;
        (0..self.fields.len()).filter(move |at| Some(*at) != time)
    }
}

/// The value that a word of a format stands for, with its name; none where it is only a word.
fn field(word: &str) -> Result<Option<(Option<&str>, FieldKind)>, TraceError> {
    let mut found = None;
    let mut rest = word;
    while let Some((_, behind)) = rest.split_once('%') {
        if let Some(literal) = behind.strip_prefix('%') {
            rest = literal;
            continue;
        }
        let flags = |char: char| char.is_ascii_digit() || "-+ #.".contains(char);
        let behind = behind.trim_start_matches(flags);
        let bare = behind.trim_start_matches(['l', 'h', 'z', 'j']);
        let kind = match bare.chars().next() {
            Some('d' | 'i') => FieldKind::Signed,
            Some('u' | 'x' | 'X' | 'o' | 'p' | 'c') => FieldKind::Unsigned,
            Some('s' | 'r') => FieldKind::Text,
            _ => {
                let reason = format!("`{}` is no value that a table can hold", word.escape_debug());
                return Err(TraceError::new(reason, "write %d, %u, %x, %p, %c, %s or %r"));
            }
        };
        if found.replace(kind).is_some() {
            let reason = format!("`{}` holds two values", word.escape_debug());
            return Err(TraceError::new(reason, "put a blank between them: `a:%d b:%d`"));
        }
        rest = bare.get(1..).unwrap_or_default();
    }
    let name = word.split_once(':').map(|(name, _)| name);
    let name = name.filter(|name| !name.is_empty() && !name.contains('%'));
    Ok(found.map(|kind| (name, kind)))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: &Expect) {
        let shown = match Format::parse(text) {
            Ok(format) => {
                let columns = format.columns();
                let columns: Vec<_> = columns
                    .iter()
                    .map(|column| format!("{} {}", column.name, column.pxl_type.name()))
                    .collect();
                let (rewritten, taken) = format.rewritten();
                let rewritten = rewritten.replace(SEPARATOR, "|");
                format!("{}; {rewritten}; {taken:?}", columns.join(", "))
            }
            Err(error) => format!("{}; {}", error.reason, error.help),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn a_format_is_columns() {
        check(
            "time_:%llu pid:%-6d comm:%-16s probe:%s at:%p",
            &expect![[
                r"time_ TIME64NS, pid INT64, comm STRING, probe STRING, at INT64; %llu|%lld|%s|%s|%llu; [Some(0), Some(1), Some(2), Some(3), Some(4)]"
            ]],
        );
        check(
            "got %d of:%x 100%% time_:%d\n",
            &expect![[
                r"time_ TIME64NS, Column_0 INT64, of INT64; %llu|%lld|%llu; [Some(2), Some(0), Some(1)]"
            ]],
        );
        check("a:b:%.10s", &expect![[r"time_ TIME64NS, a STRING; %llu|%s; [None, Some(0)]"]]);
    }

    #[test]
    fn a_format_that_is_no_table_is_refused() {
        check(
            "Tracing...",
            &expect![[
                r#"a program that prints 0 values beside the time cannot be a table; print 1 to 16, such as "time_:%llu pid:%d name:%s""#
            ]],
        );
        check(
            "time_:%llu",
            &expect![[
                r#"a program that prints 0 values beside the time cannot be a table; print 1 to 16, such as "time_:%llu pid:%d name:%s""#
            ]],
        );
        check(
            "time_:%s a:%d",
            &expect!["`time_` must be an integer; write `time_:%llu` and give it nsecs"],
        );
        check(
            "a:%d a:%s",
            &expect!["the program prints two values `a`; give each a name of its own"],
        );
        check("%d/%d", &expect!["`%d/%d` holds two values; put a blank between them: `a:%d b:%d`"]);
        check(
            "a:%*d",
            &expect![
                "`a:%*d` is no value that a table can hold; write %d, %u, %x, %p, %c, %s or %r"
            ],
        );
        check(
            "a:%",
            &expect!["`a:%` is no value that a table can hold; write %d, %u, %x, %p, %c, %s or %r"],
        );
        check(
            &"%d ".repeat(17),
            &expect![[
                r#"a program that prints 17 values beside the time cannot be a table; print 1 to 16, such as "time_:%llu pid:%d name:%s""#
            ]],
        );
    }

    proptest! {
        #[test]
        fn any_text_is_columns_or_an_error(text in "[ -~é\n]{0,60}") {
            if let Ok(format) = Format::parse(&text) {
                prop_assert_eq!(format.columns().len(), format.rewritten().1.len());
                prop_assert_eq!(format.kinds().len() + 1, format.columns().len());
            }
        }
    }
}
