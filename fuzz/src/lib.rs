//! What must hold whatever bytes are captured, recorded or written by a user: a check for each
//! parser, which takes any input and panics where something does not hold.
//!
//! ```text
//! corpus/TARGET/* ─┬─► tests/corpora.rs: each file, and seconds of blind mutation   (cargo test)
//!                  └─► bin/guided.rs: libFuzzer, guided by coverage         (cargo xtask fuzz)
//! ```
//!
//! | target | input | what must hold |
//! |---|---|---|
//! | a protocol's name | a [`script`] of one connection | [`talk`]: any split gives the same rows, memory and rows are bounded; with any holes each row is one of those without, and what is missing is within the bounds; [`machine`]: every byte is accounted for |
//! | `event` | messages of the kernel | what is decoded is encoded again; the whole pipeline takes them |
//! | `recording` | a recording's file, or its entries | it is read up to its first damage, and replayed |
//! | `text` | text of a client or a user | what is derived from it is bounded |

pub mod event;
pub mod loss;
pub mod machine;
pub mod mutation;
pub mod recording;
pub mod script;
pub mod stretch;
pub mod talk;
pub mod text;

use undine_collector::protocol::ProtocolCode;

/// What an input is checked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A conversation in a protocol.
    Talk(ProtocolCode),
    /// Messages of the kernel.
    Event,
    /// A recording.
    Recording,
    /// Text.
    Text,
}

impl Target {
    /// Every target: what is not a protocol, and each of those that the collector knows.
    pub fn all() -> Vec<Self> {
        let talks = ProtocolCode::all().map(Self::Talk);
        [Self::Event, Self::Recording, Self::Text].into_iter().chain(talks).collect()
    }

    /// The target called `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|target| target.name() == name)
    }

    /// Its name, which is that of its corpus too.
    pub fn name(self) -> String {
        match self {
            Self::Talk(code) => format!("{code:?}").to_lowercase(),
            Self::Event => "event".to_owned(),
            Self::Recording => "recording".to_owned(),
            Self::Text => "text".to_owned(),
        }
    }

    /// Checks an input.
    ///
    /// # Panics
    /// Where something does not hold.
    pub fn check(self, input: &[u8]) {
        match self {
            Self::Talk(code) => talk::check(code, input),
            Self::Event => event::check(input),
            Self::Recording => recording::check(input),
            Self::Text => text::check(input),
        }
    }
}
