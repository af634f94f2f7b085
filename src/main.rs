//! The `serin` program: parse the command line, run the command, tell the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    serin::cli::main()
}
