//! `completions`: for the shells.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

/// Print shell completions.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  querywright completions bash > ~/.local/share/bash-completion/completions/querywright"
)]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(args: Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "querywright", &mut script);
    crate::terminal::verbatim(&script)
}
