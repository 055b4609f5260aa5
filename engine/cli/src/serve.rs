//! `serve`: a stack for another process. For now over JSON lines.

use std::io::{BufRead, Write};

use serde::Deserialize;

use querywright::{Error, Result, Stack};

use crate::lines::Lines;
use crate::stack::StackArgs;

/// Serve a data set to another process.
///
/// With --stdio: JSON lines. One request a line, {"query": "…", "k": 10} (k may be absent), one answer a line in the same
/// order: the hits and what happened, or {"error": "…", "code": "…"}. A line that cannot be read is answered by an error and
/// the next one is served; nothing that a client writes ends the service but the end of its input.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  echo '{\"query\": \"cold feet in bed\"}' | querywright serve --stdio --data demo
  querywright serve --stdio --data demo --rewriter smollm2-135m+runs/demo/best --deadline 300 < requests.jsonl")]
pub struct Args {
    /// Serve JSON lines on standard input and output
    #[arg(long, required = true)]
    stdio: bool,
    #[command(flatten)]
    stack: StackArgs,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let Args { stdio: _, stack } = args;
    let opened = stack.open()?;
    json_lines(&opened.stack, stack.k, std::io::stdin().lock(), std::io::stdout().lock())?;
    Ok(())
}

/// A line of a client.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    query: String,
    k: Option<usize>,
}

/// Answers every line of `input` on `output`, each at once. `k` is the number of hits where a request names none.
/// Returns how many requests were served.
///
/// # Errors
/// When `input` cannot be read or `output` not be written: the client is gone.
fn json_lines(stack: &Stack, k: usize, input: impl BufRead, mut output: impl Write) -> Result<u64> {
    let mut served = 0;
    let mut lines = Lines::new(input);
    while let Some(line) = lines.next()? {
        if line.as_ref().is_ok_and(|line| line.trim_ascii().is_empty()) {
            continue;
        }
        let object = match line.and_then(|line| answer(stack, k, line)) {
            Ok(answer) => answer,
            Err(error) => serde_json::json!({ "error": error.to_string(), "code": error.code() }),
        };
        writeln!(output, "{object}").and_then(|()| output.flush()).map_err(|e| Error::write("standard output", e))?;
        served += 1;
    }
    Ok(served)
}

fn answer(stack: &Stack, k: usize, line: &[u8]) -> Result<serde_json::Value> {
    let bad = |e: serde_json::Error| {
        Error::argument("request", e.to_string(), "send {\"query\": \"…\", \"k\": 10} on one line")
    };
    let Line { query, k: wanted } = serde_json::from_slice(line).map_err(bad)?;
    let answer = stack.search(&query, wanted.unwrap_or(k))?;
    serde_json::to_value(&answer).map_err(bad)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::lines::LONGEST_LINE;
    use querywright::catalog::CatalogBuilder;
    use querywright::retrieve::{Bm25, Bm25Config};

    #[test]
    fn every_line_gets_its_answer_and_a_bad_one_does_not_end_the_service() {
        let mut builder = CatalogBuilder::new();
        builder.push("a", [("title", "red shoes")]).unwrap();
        builder.push("b", [("title", "blue shoes")]).unwrap();
        let catalog = Arc::new(builder.finish());
        let retriever = Bm25::in_memory(catalog.clone(), Bm25Config::default()).unwrap();
        let stack = Stack::builder().catalog(catalog).retriever(retriever).build().unwrap();
        let long = "x".repeat(LONGEST_LINE as usize + 10);
        let input = format!(
            "{{\"query\": \"red shoes\"}}\n\nnonsense\n{long}\n{{\"query\": \"shoes\", \"k\": 0}}\n{{\"query\": \"blue\", \"k\": 1}}"
        );
        let mut output = Vec::new();
        assert_eq!(json_lines(&stack, 10, input.as_bytes(), &mut output).unwrap(), 5);
        let answers: Vec<serde_json::Value> = output
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap())
            .collect();
        assert_eq!(answers[0]["hits"][0]["id"], "a");
        assert_eq!(answers[0]["hits"].as_array().unwrap().len(), 2);
        assert_eq!(answers[1]["code"], "argument");
        assert!(answers[1]["error"].as_str().unwrap().contains("query"));
        assert!(answers[2]["error"].as_str().unwrap().contains("1 MiB"));
        assert!(answers[3]["error"].as_str().unwrap().contains("found 0"));
        assert_eq!(answers[4]["hits"][0]["id"], "b");
    }
}
