//! From a script's text to what it asks for, on a thread with room for deep trees.

use tokio::sync::oneshot;

use super::Error;
use crate::diagnostics::Diagnostics;
use crate::eval::{self, Program, Surroundings};
use crate::parse;
use crate::pragma::{self, Pragmas};

/// Stack of the thread that compiles a script: a tree as deep as a script is long can be dropped.
pub(crate) const COMPILER_STACK_BYTES: usize = 256 << 20;

pub(super) fn compile(
    source: &str,
    surroundings: &Surroundings,
    rows_max: usize,
) -> Result<(Program, Pragmas), Diagnostics> {
    let compiled = pragma::read(source, rows_max).and_then(|pragmas| {
        let script = parse::script(source, surroundings.parse_limits)?;
        Ok((eval::evaluate(&script, surroundings)?, pragmas))
    });
    compiled.map_err(|mistakes| Diagnostics::new(source, mistakes))
}

pub(super) async fn compile_elsewhere(
    source: String,
    surroundings: Surroundings,
    rows_max: usize,
) -> Result<(Program, Pragmas), Error> {
    let (send, receive) = oneshot::channel();
    let spawned = std::thread::Builder::new()
        .name("pxl-compile".to_owned())
        .stack_size(COMPILER_STACK_BYTES)
        .spawn(move || {
            // The run may have been given up meanwhile.
            drop(send.send(compile(&source, &surroundings, rows_max)));
        });
    if spawned.is_err() {
        return Err(Error::Compiler);
    }
    match receive.await {
        Ok(compiled) => compiled.map_err(Error::Script),
        Err(_died) => Err(Error::Compiler),
    }
}

/// Waits for `work` on a thread with room for deep trees; none if it could not be done.
pub(super) fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("pxl-compile".to_owned())
            .stack_size(COMPILER_STACK_BYTES)
            .spawn_scoped(scope, work)
            .ok()?;
        thread.join().ok()
    })
}
