//! `serin completions SHELL` and `serin man FOLDER`: shell completions and manual pages, made from the definition of the
//! command line, so that they cannot differ from it.

use super::CliError;
use clap::Command;
use clap_complete::{Shell, generate};
use std::path::Path;

pub(super) fn completions(mut program: Command, shell: Shell) {
    let name = program.get_name().to_owned();
    generate(shell, &mut program, name, &mut std::io::stdout());
}

/// Writes a page for the program and for each command that is not hidden.
pub(super) fn man(program: Command, folder: &Path) -> Result<(), CliError> {
    let failed = |error| CliError(format!("{}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(program, folder).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn there_is_a_page_for_every_command_that_is_not_hidden() {
        let dir = tempfile::tempdir().unwrap();
        man(Cli::command(), dir.path()).unwrap();
        let page = |name: &str| dir.path().join(format!("serin{name}.1"));
        for name in ["", "-serve", "-canary-load", "-ledger-show", "-completions"] {
            let text =
                std::fs::read_to_string(page(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(text.contains(".SH SYNOPSIS"), "{name}");
        }
        assert!(!page("-man").exists() && !page("-render-templates").exists());
    }
}
