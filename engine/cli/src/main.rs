//! The command line: one file a command.

/// Prints a line; a reader that has gone is no reason to panic.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write;
        writeln!(std::io::stdout(), $($text)*)?
    }};
}

mod choose;
mod compare;
mod completions;
mod data;
mod dataset;
mod demo;
mod eval;
mod grant;
mod lines;
mod model;
mod open;
mod plugin;
mod progress;
mod rewrite;
mod search;
mod serve;
mod stack;
mod train;

use clap::{Parser, Subcommand};

/// A query rewriter that learns from the retriever already in place.
#[derive(Parser)]
#[command(name = "querywright", version, about, max_term_width = 110)]
#[command(after_help = "Examples:
  querywright demo
  querywright train --data ./my-data
  querywright search --data demo 'cold air creeps in under the front door'")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train on the embedded demonstration and show what was learned
    Demo(demo::Args),
    /// Train a rewriter by GRPO against a retriever
    Train(train::Args),
    /// Measure a rewriter in front of a retriever
    Eval(eval::Args),
    /// Rewrite queries
    Rewrite(rewrite::Args),
    /// Search a data set
    Search(search::Args),
    /// Serve a data set to another process
    Serve(serve::Args),
    /// List, fetch and describe models
    #[command(subcommand)]
    Model(model::Command),
    /// Make, build, check, look at and measure plugins
    #[command(subcommand)]
    Plugin(plugin::Command),
    /// List, fetch and describe data sets
    #[command(subcommand)]
    Data(data::Command),
    /// Print shell completions
    Completions(completions::Args),
}

fn main() -> std::process::ExitCode {
    let done = match Cli::parse().command {
        Command::Demo(args) => demo::run(args),
        Command::Train(args) => train::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Rewrite(args) => rewrite::run(args),
        Command::Search(args) => search::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Model(command) => model::run(command),
        Command::Plugin(command) => plugin::run(command),
        Command::Data(command) => data::run(command),
        Command::Completions(args) => completions::run(args),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        // The reader of our output has seen enough: `querywright … | head` is no failure.
        Err(error) if is_broken_pipe(&error) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", sentence(&error));
            std::process::ExitCode::FAILURE
        }
    }
}

/// An error with its causes, but for those that it has told already.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.contains(&cause) {
        true => said,
        false if said.is_empty() => cause,
        false => format!("{said}: {cause}"),
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|e| e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe))
}
