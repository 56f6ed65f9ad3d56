//! The one binary: reads the command line and chooses the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    undine::run_command_line()
}
