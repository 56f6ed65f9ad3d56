//! What a server owes its client, in the order in which it will come.

use std::collections::VecDeque;

use super::super::dialogue::{Arrival, IN_FLIGHT_BYTES_MAX};
use super::names::Statement;

/// Most responses that a server may owe.
const AWAITED_MAX: usize = 4096;

/// Kinds of requests that are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// The first packet of a session.
    Startup,
    /// SQL to run, one or several statements.
    #[default]
    Query,
    /// A call of a function by its number.
    FunctionCall,
    /// SQL to prepare.
    Parse,
    /// Parameters for a statement.
    Bind,
    /// A question for types of parameters and columns.
    Describe,
    /// A statement to run.
    Execute,
    /// The end of a statement or portal.
    Close,
    /// The end of a turn.
    Sync,
}

impl Kind {
    /// As its documentation calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Startup => "StartupMessage",
            Self::Query => "Query",
            Self::FunctionCall => "FunctionCall",
            Self::Parse => "Parse",
            Self::Bind => "Bind",
            Self::Describe => "Describe",
            Self::Execute => "Execute",
            Self::Close => "Close",
            Self::Sync => "Sync",
        }
    }

    /// Whether it is a row, however it ends.
    pub(super) const fn is_call(self) -> bool {
        matches!(self, Self::Query | Self::FunctionCall | Self::Execute)
    }

    /// Whether the server says when it is ready for what comes after it.
    pub(super) const fn ends_turn(self) -> bool {
        matches!(self, Self::Startup | Self::Query | Self::FunctionCall | Self::Sync)
    }
}

/// A request that was read and is not answered yet.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) kind: Kind,
    pub(super) arrival: Arrival,
    /// What it is about, where that is needed if it fails.
    pub(super) about: Option<Statement>,
    /// The name that a `Parse` or `Close` took another meaning from, and that meaning.
    pub(super) renamed: Option<(Box<[u8]>, Statement)>,
    /// Bytes on the wire.
    pub(super) size: u64,
}

impl Awaited {
    pub(super) const fn new(kind: Kind, size: u64, arrival: Arrival) -> Self {
        Self { kind, arrival, about: None, renamed: None, size }
    }

    fn heap_bytes(&self) -> usize {
        let about = self.about.as_ref().map_or(0, Statement::heap_bytes);
        let renamed =
            self.renamed.as_ref().map_or(0, |(name, before)| name.len() + before.heap_bytes());
        size_of::<Self>() + about + renamed
    }
}

/// All of them; the calls among them wait in the same order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    awaited: VecDeque<Awaited>,
    bytes: usize,
    /// How many end a turn.
    turns: usize,
}

impl Queue {
    pub(super) fn push(&mut self, awaited: Awaited) {
        self.bytes += awaited.heap_bytes();
        self.turns += usize::from(awaited.kind.ends_turn());
        self.awaited.push_back(awaited);
    }

    /// What the server answers next.
    pub(super) fn first(&self) -> Option<&Awaited> {
        self.awaited.front()
    }

    /// The kind of what the server answers next.
    pub(super) fn first_kind(&self) -> Option<Kind> {
        self.first().map(|awaited| awaited.kind)
    }

    pub(super) fn pop(&mut self) -> Option<Awaited> {
        let awaited = self.awaited.pop_front()?;
        self.bytes -= awaited.heap_bytes();
        self.turns -= usize::from(awaited.kind.ends_turn());
        Some(awaited)
    }

    /// Takes what comes first if it is no `Sync`.
    pub(super) fn pop_before_sync(&mut self) -> Option<Awaited> {
        if self.first_kind() == Some(Kind::Sync) { None } else { self.pop() }
    }

    /// Forgets each `Sync` that follows directly on what comes first.
    pub(super) fn drop_next_syncs(&mut self) {
        while self.awaited.get(1).is_some_and(|next| next.kind == Kind::Sync)
            && let Some(sync) = self.awaited.remove(1)
        {
            self.bytes -= sync.heap_bytes();
            self.turns -= 1;
        }
    }

    /// Whether something was sent before the turn before it was over.
    pub(super) fn has_turns_behind_each_other(&self) -> bool {
        self.turns > usize::from(self.awaited.back().is_some_and(|last| last.kind.ends_turn()))
    }

    /// How many become calls only if they fail.
    pub(super) fn undecided(&self) -> u64 {
        let undecided =
            |awaited: &&Awaited| !awaited.kind.is_call() && !matches!(awaited.kind, Kind::Startup);
        self.awaited.iter().filter(undecided).count() as u64
    }

    /// Whether there are more than may be.
    pub(super) fn is_full(&self) -> bool {
        self.awaited.len() > AWAITED_MAX || self.bytes > IN_FLIGHT_BYTES_MAX
    }

    pub(super) const fn heap_bytes(&self) -> usize {
        self.bytes
    }
}
