//! A way to the store that can be shut.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use undine_schema::{Append, AppendError, Frame, Pending};

/// Lets rows pass to a store, or lets who brings them wait, or refuses them.
#[derive(Debug)]
pub(super) struct Gate {
    store: Arc<dyn Append>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    position: Position,
    someone_waits: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Position {
    #[default]
    Open,
    Closed,
    Refusing,
}

impl Gate {
    /// An open gate.
    pub(super) fn before(store: Arc<dyn Append>) -> Self {
        Self { store, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Lets everyone pass.
    pub(super) fn open(&self) {
        self.set(Position::Open);
    }

    /// Lets everyone wait until it is opened.
    pub(super) fn close(&self) {
        self.set(Position::Closed);
    }

    /// Says to everyone that the store is full.
    pub(super) fn refuse(&self) {
        self.set(Position::Refusing);
    }

    /// Returns once someone waits at the closed gate.
    pub(super) fn wait_until_someone_waits(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_empty = |state: &mut State| !state.someone_waits;
        let waited = self.changed.wait_while(state, is_empty);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn set(&self, position: Position) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { position, someone_waits: false };
        self.changed.notify_all();
    }
}

impl Append for Gate {
    fn append(&self, frame: Frame) -> Result<Pending, AppendError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.position == Position::Closed {
            state.someone_waits = true;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.position == Position::Refusing {
            return Err(AppendError::Full { retry_after: Duration::from_millis(1) });
        }
        drop(state);
        self.store.append(frame)
    }
}
