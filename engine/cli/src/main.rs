//! The command line: one file a command.

#[macro_use]
mod terminal;

mod baseline;
mod bm25;
mod candidates;
mod choose;
mod compare;
mod completions;
mod connect;
mod data;
mod dataset;
mod demo;
mod dense;
mod environment;
mod eval;
mod finished;
mod first_pass;
mod followed;
mod grant;
mod history;
mod hybrid;
mod lines;
mod merge;
mod model;
mod open;
mod plugin;
mod preset;
mod progress;
mod prompts;
mod ranker;
mod remote;
mod rewrite;
mod search;
mod sequence;
mod serve;
mod ship;
mod shortlist;
mod skills;
mod stack;
mod train;
mod tune;
mod weights;

use clap::{Parser, Subcommand};

/// A server opens engines on many threads and forgets them again; the C library's allocator gives little of that back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// Find out how the retriever is best asked, without a model
    Tune(tune::Args),
    /// Measure a rewriter in front of a retriever
    Eval(eval::Args),
    /// Rewrite queries
    Rewrite(rewrite::Args),
    /// Search a data set
    Search(search::Args),
    /// Serve a data set to another process
    Serve(serve::Args),
    /// List, fetch, describe and merge models, and measure their skills
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
    terminal::keep_panics_printable();
    let done = match Cli::parse().command {
        Command::Demo(args) => demo::run(args),
        Command::Train(args) => train::run(args),
        Command::Tune(args) => tune::run(args),
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
        Err(error) if terminal::is_broken_pipe(&error) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            terminal::failure(&error);
            std::process::ExitCode::FAILURE
        }
    }
}
