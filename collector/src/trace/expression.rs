//! What a script says of a value of a call.
//!
//! As upstream's: a parameter by its name and members after dots (`req.url.path`), and `$0` for what
//! the function gives back. As `ftrace`'s: `$arg2` for the second argument, `$retval`, `+8(…)` for what
//! stands eight bytes after an address, and `:u32` behind it all for its type. The latter need no
//! debug information.

use std::fmt;

/// Members and pointers that an expression may go through.
const STEPS_MAX: usize = 8;

/// A parsed expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expression {
    pub(crate) root: Root,
    /// From the root on.
    pub(crate) steps: Vec<Step>,
    /// The type, where the expression says it.
    pub(crate) cast: Option<Cast>,
}

/// Where an expression begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// A parameter by its name.
    Named(String),
    /// An argument by its place, from 0.
    Argument(usize),
    /// What the function gives back.
    Returned,
}

/// One step from a value to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// To a member, through pointers where there are some.
    Member(String),
    /// To what stands so many bytes after the address that the value is.
    Follow(i32),
}

/// A type that an expression names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cast {
    Integer {
        bytes: u8,
        signed: bool,
    },
    Float {
        bytes: u8,
    },
    Boolean,
    /// The value is the address of a text that a NUL ends.
    Text,
}

const CASTS: [(&str, Cast); 14] = [
    ("u8", Cast::Integer { bytes: 1, signed: false }),
    ("u16", Cast::Integer { bytes: 2, signed: false }),
    ("u32", Cast::Integer { bytes: 4, signed: false }),
    ("u64", Cast::Integer { bytes: 8, signed: false }),
    ("s8", Cast::Integer { bytes: 1, signed: true }),
    ("s16", Cast::Integer { bytes: 2, signed: true }),
    ("s32", Cast::Integer { bytes: 4, signed: true }),
    ("s64", Cast::Integer { bytes: 8, signed: true }),
    ("int", Cast::Integer { bytes: 4, signed: true }),
    ("long", Cast::Integer { bytes: 8, signed: true }),
    ("float", Cast::Float { bytes: 4 }),
    ("double", Cast::Float { bytes: 8 }),
    ("bool", Cast::Boolean),
    ("string", Cast::Text),
];

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` cannot be read: {why}")]
pub(crate) struct ExpressionError {
    text: String,
    why: String,
}

impl Expression {
    /// Reads an expression on arguments.
    pub(crate) fn argument(text: &str) -> Result<Self, ExpressionError> {
        let expression = Self::parse(text)?;
        match expression.root {
            Root::Returned => Err(wrong(text, "what a function gives back is a RetExpr")),
            Root::Named(_) | Root::Argument(_) => Ok(expression),
        }
    }

    /// Reads an expression on what a function gives back.
    pub(crate) fn returned(text: &str) -> Result<Self, ExpressionError> {
        let expression = Self::parse(text)?;
        match expression.root {
            Root::Returned => Ok(expression),
            Root::Named(_) | Root::Argument(_) => {
                Err(wrong(text, "a RetExpr begins with `$0`, what the function gives back"))
            }
        }
    }

    fn parse(text: &str) -> Result<Self, ExpressionError> {
        let (path, cast) = match text.rsplit_once(':') {
            Some((path, name)) => {
                let cast = CASTS.iter().find(|(known, _)| *known == name.trim());
                let known = || CASTS.map(|(name, _)| name).join(", ");
                let cast = cast.ok_or_else(|| wrong(text, format!("types are {}", known())))?.1;
                (path, Some(cast))
            }
            None => (text, None),
        };
        let (root, steps) = parse_path(text, path.trim())?;
        if steps.len() > STEPS_MAX {
            return Err(wrong(text, format!("it has more than {STEPS_MAX} steps")));
        }
        Ok(Self { root, steps, cast })
    }
}

fn parse_path(text: &str, path: &str) -> Result<(Root, Vec<Step>), ExpressionError> {
    let mut offsets = Vec::new();
    let mut rest = path;
    while rest.starts_with(['+', '-']) {
        let unclosed = || wrong(text, "write an offset as `+8(…)`");
        let (offset, inner) = rest.split_once('(').ok_or_else(unclosed)?;
        let offset = offset.parse::<i32>();
        offsets
            .push(offset.map_err(|_not_a_number| wrong(text, "an offset is a number of bytes"))?);
        rest = inner.trim().strip_suffix(')').ok_or_else(unclosed)?.trim();
        if offsets.len() > STEPS_MAX {
            return Err(wrong(text, format!("it has more than {STEPS_MAX} steps")));
        }
    }
    let mut parts = rest.split('.');
    let root = parse_root(text, parts.next().unwrap_or_default())?;
    let mut steps = Vec::new();
    for part in parts {
        if !is_name(part) {
            return Err(wrong(text, "a member's name stands behind each dot"));
        }
        steps.push(Step::Member(part.to_owned()));
    }
    steps.extend(offsets.into_iter().rev().map(Step::Follow));
    Ok((root, steps))
}

fn parse_root(text: &str, root: &str) -> Result<Root, ExpressionError> {
    let Some(special) = root.strip_prefix('$') else {
        return if is_name(root) {
            Ok(Root::Named(root.to_owned()))
        } else {
            Err(wrong(text, "it begins with a parameter's name, `$arg1` or `$0`"))
        };
    };
    if special == "retval" || special == "0" {
        return Ok(Root::Returned);
    }
    if let Some(number) = special.strip_prefix("arg") {
        return match number.parse::<usize>() {
            Ok(place @ 1..=64) => Ok(Root::Argument(place - 1)),
            _ => Err(wrong(text, "arguments are `$arg1` to `$arg64`")),
        };
    }
    Err(wrong(text, "only the first value that a function gives back can be read, `$0`"))
}

fn is_name(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|first| first.is_alphabetic() || first == '_')
        && characters.all(|other| other.is_alphanumeric() || other == '_')
}

fn wrong(text: &str, why: impl Into<String>) -> ExpressionError {
    ExpressionError { text: text.to_owned(), why: why.into() }
}

/// Shows where an expression begins, as scripts write it.
impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Argument(place) => write!(f, "$arg{}", place + 1),
            Self::Returned => f.write_str("$0"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(text: &str) -> Vec<Step> {
        Expression::argument(text).unwrap().steps
    }

    #[test]
    fn a_parameter_is_named_and_its_members_follow() {
        let expression = Expression::argument("req.url.path").unwrap();
        assert_eq!(expression.root, Root::Named("req".to_owned()));
        let member = |name: &str| Step::Member(name.to_owned());
        assert_eq!(expression.steps, [member("url"), member("path")]);
        assert_eq!(expression.cast, None);
    }

    #[test]
    fn offsets_apply_from_the_inside_out_and_a_type_is_last() {
        let expression = Expression::argument("+4(-8($arg2)):u16").unwrap();
        assert_eq!(expression.root, Root::Argument(1));
        assert_eq!(expression.steps, [Step::Follow(-8), Step::Follow(4)]);
        assert_eq!(expression.cast, Some(Cast::Integer { bytes: 2, signed: false }));
        assert_eq!(steps("+0(req.head)").len(), 2);
    }

    #[test]
    fn arguments_and_results_are_not_confused() {
        assert_eq!(Expression::returned("$0").unwrap().root, Root::Returned);
        assert_eq!(Expression::returned("$retval:s32").unwrap().root, Root::Returned);
        assert!(Expression::argument("$0").is_err());
        assert!(Expression::returned("$arg1").is_err());
        assert!(Expression::returned("$1").is_err());
    }

    #[test]
    fn nonsense_is_refused_with_its_reason() {
        for text in ["", "1x", "a..b", "a.", "+8($arg1", "+x($arg1)", "$arg0", "$argx", "a:b", "$"]
        {
            assert!(Expression::argument(text).is_err(), "{text}");
        }
        let long = format!("a{}", ".b".repeat(STEPS_MAX + 1));
        assert!(Expression::argument(&long).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a$.+():0-9 -]{0,40}") {
            drop(Expression::argument(&text));
            drop(Expression::returned(&text));
        }
    }
}
