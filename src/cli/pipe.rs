//! Output that nobody reads any more.
//!
//! The standard library ends a program with a panic when it prints into a closed pipe, as in `serin check | head -1`.
//! A command that only prints ends quietly instead, with the code that a shell shows for SIGPIPE. Not for servers:
//! they go on without their output.

use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::process::exit;

/// 128 and the number of SIGPIPE.
const NOBODY_READS: i32 = 141;

/// From now on, a closed pipe ends the program.
pub(super) fn end_with_the_reader() {
    let usual = take_hook();
    set_hook(Box::new(move |panic| match is_of_a_closed_pipe(panic) {
        true => exit(NOBODY_READS),
        false => usual(panic),
    }));
}

fn is_of_a_closed_pipe(panic: &PanicHookInfo<'_>) -> bool {
    let text = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
    text.starts_with("failed ") && (text.contains("Broken pipe") || text.contains("BrokenPipe"))
}
