//! `attnc completions SHELL`: a script for the shell, on standard output.

use clap::CommandFactory;
use clap_complete::Shell;

use super::ui::{self, Failure};

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub fn run<C: CommandFactory>(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut C::command(), "attnc", &mut script);
    ui::print(&String::from_utf8_lossy(&script))
}
