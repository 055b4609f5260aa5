//! `serve`: a data set for other processes, over HTTP or as JSON lines.

mod engines;
mod file;
mod journal;
mod stdio;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use querywright::serve::{Server, ServerConfig, Service, Traces};

use crate::stack::StackArgs;
use engines::Opener;
use file::ServeFile;

/// Serve data sets to other processes.
///
/// Over HTTP: POST /v1/search and /v1/rewrite; OpenAI's /v1/chat/completions, /v1/completions, /v1/embeddings and /v1/models
/// for the models that the configuration names; /metrics for Prometheus, /health, /ready, /openapi.json, and a page at /.
/// Without a configuration the options say what is served. SIGTERM ends it once the requests under way are answered.
///
/// With --stdio: JSON lines. One request a line, {"query": "…", "k": 10} (k may be absent); for next items
/// {"history": ["id", …]}, oldest first, with or without a query; in a conversation "turns" has what was said before, as
/// ["text", …], oldest first. One answer a line in the same order: the hits and what
/// happened, or {"error": "…", "code": "…"}. A line that cannot be read is answered by an error and
/// the next one is served; nothing that a client writes ends the service but the end of its input. What went wrong here is
/// told to the client by a code and a short text, and in full on standard error.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  querywright serve --data demo --rewriter runs/demo/best
  curl -d '{\"query\": \"cold feet in bed\"}' http://127.0.0.1:8080/v1/search
  querywright serve --data demo --runs runs
  querywright serve search.toml --listen 0.0.0.0:8080 --keys keys.txt
  querywright serve --stdio --data demo --rewriter runs/demo/best --deadline 300 < requests.jsonl")]
pub struct Args {
    /// What is served, as TOML (docs/serving.md); the options of a stack then have no say
    #[arg(conflicts_with_all = ["stdio", "data", "retriever", "rewriter", "index", "deadline", "k", "grants"])]
    config: Option<PathBuf>,
    /// Serve JSON lines on standard input and output
    #[arg(long, conflicts_with_all = ["listen", "keys", "runs"])]
    stdio: bool,
    /// The address, in place of the configuration's [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// A file of keys, one a line: read or admin, a name, a secret. Needed where the address is not this machine's own
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// A folder of runs, whose curves and samples the page shows while they train
    #[arg(long, value_name = "FOLDER")]
    runs: Option<PathBuf>,
    #[command(flatten)]
    stack: StackArgs,
}

pub fn run(args: Args) -> Result<()> {
    if args.stdio {
        return stdio::run(&args.stack);
    }
    let file = match &args.config {
        Some(path) => ServeFile::read(path)?,
        None => ServeFile::of(&args.stack),
    };
    let mut config = file.server.clone();
    config.listen = args.listen.unwrap_or(config.listen);
    config.keys = args.keys.or(config.keys);
    config.runs = args.runs.or(config.runs);
    // What cannot listen is refused before a model is loaded.
    let service = service(config)?;
    let opener = Opener::new(file, args.stack.weights.clone())?;
    let server = Server::bind(opener.fill(service)?)?;
    tell!("listening on http://{}", server.address()?);
    server.run()?;
    tell!("stopped");
    Ok(())
}

fn service(config: ServerConfig) -> Result<Service> {
    Ok(Service::new(config)?.traces(Traces::from_environment()?).log_to(|line| tell!("{line}")))
}
