//! A program that plays both ends of TCP connections as it is told, so that a test decides what has
//! happened before it watches.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::place::Place;

/// A program that does what a line says and then says `done`. Killed when it is dropped.
pub(crate) struct Player {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Player {
    /// Starts `tcp.py` in `place`.
    pub(crate) fn start(place: &Place) -> Self {
        let mut command = place.command("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tcp.py"));
        Self::run(&mut command)
    }

    /// Starts a program that says `ready` when it is.
    pub(crate) fn run(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut player = Self { child, stdin, stdout };
        assert_eq!(player.hear(), "ready");
        player
    }

    /// Has `line` done, and gives what was said of it.
    pub(crate) fn play(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").unwrap();
        let said = self.hear();
        said.strip_prefix("done").unwrap_or_else(|| panic!("{line}: {said}")).trim().to_owned()
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        assert!(self.stdout.read_line(&mut line).unwrap() > 0, "the program ended");
        line.trim_end().to_owned()
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
