//! JSON lines: a request a line, an answer a line.

use std::io::{BufRead, Write};

use serde::Deserialize;

use querywright::types::{Query, printable_json};
use querywright::{Error, Result, Stack};

use crate::history::Histories;
use crate::lines::{self, Lines};
use crate::stack::StackArgs;
use crate::terminal::OUTPUT;

/// Serves standard input on standard output.
pub fn run(stack: &StackArgs) -> anyhow::Result<()> {
    let opened = stack.open()?;
    let histories = Histories::of(&opened.dataset);
    json_lines(&opened.stack, &histories, stack.k, std::io::stdin().lock(), std::io::stdout().lock())?;
    Ok(())
}

/// A line of a client.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    query: Option<String>,
    /// Texts or whole numbers, as ids stand in a corpus.
    history: Option<Vec<serde_json::Value>>,
    /// What was said before in the same conversation, oldest first.
    turns: Option<Vec<String>>,
    k: Option<usize>,
}

/// Answers every line of `input` on `output`, each at once. `k` is the number of hits where a request names none.
/// Returns how many requests were served.
///
/// # Errors
/// When `input` cannot be read or `output` not be written: the client is gone.
fn json_lines(
    stack: &Stack,
    histories: &Histories,
    k: usize,
    input: impl BufRead,
    mut output: impl Write,
) -> Result<u64> {
    let mut served = 0;
    let mut lines = Lines::new(input);
    while let Some(line) = lines.next()? {
        if line.as_ref().is_ok_and(|line| line.trim_ascii().is_empty()) {
            continue;
        }
        served += 1;
        let object = match line.and_then(|line| request(histories, k, line)) {
            Ok((query, k)) => answer(stack, &query, k, served),
            // The client's own line: it may be quoted.
            Err(error) => serde_json::json!({ "error": error.to_string(), "code": error.code() }),
        };
        let line = printable_json(&object.to_string());
        writeln!(output, "{line}").and_then(|()| output.flush()).map_err(|e| Error::write(OUTPUT, e))?;
    }
    Ok(served)
}

/// What a line asks for: the query and the number of hits, `k` where it names none.
fn request(histories: &Histories, k: usize, line: &[u8]) -> Result<(Query, usize)> {
    let bad = |found: String| {
        let remedy = "send {\"query\": \"…\", \"k\": 10} on one line, for next items with \"history\": [\"id\", …]";
        Error::argument("request", found, remedy)
    };
    // Types of this program say nothing to a client.
    let plain =
        |e: serde_json::Error| e.to_string().replace("struct Line", "an object").replace("usize", "a whole number");
    let line = lines::text(line)?;
    let Line { query, history, turns, k: wanted } = serde_json::from_str(line).map_err(|e| bad(plain(e)))?;
    if query.is_none() && history.is_none() {
        return Err(bad("found neither a query nor a history".to_owned()));
    }
    let id = |value: serde_json::Value| match value {
        serde_json::Value::String(id) => Ok(id),
        serde_json::Value::Number(id) if !id.is_f64() => Ok(id.to_string()),
        other => Err(bad(format!("the history holds {other}, which is no id"))),
    };
    let ids = history.unwrap_or_default().into_iter().map(id).collect::<Result<Vec<_>>>()?;
    let query = histories.query(query.as_deref().unwrap_or_default(), &ids)?;
    let query = query.with_turns(turns.unwrap_or_default());
    match wanted.unwrap_or(k) {
        0 => Err(Error::argument("k", "found 0", "ask for at least 1 hit")),
        k => Ok((query, k)),
    }
}

/// The answer to a request, the `number`th. What failed goes to the log; the client gets its code and a fixed text.
fn answer(stack: &Stack, query: &Query, k: usize, number: u64) -> serde_json::Value {
    let answered = stack.search_query(query, k).and_then(|answer| {
        if let Some(error) = answer.trace.outcome.fallback() {
            tell!("request {number}: searched for as it came: {error}");
        }
        serde_json::to_value(&answer).map_err(|e| Error::bug("cli::serve", e.to_string()))
    });
    answered.unwrap_or_else(|error| {
        tell!("request {number}: {error}");
        serde_json::json!({ "error": error.summary(), "code": error.code() })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::history::tests::histories;
    use crate::lines::LONGEST_LINE;
    use querywright::catalog::CatalogBuilder;
    use querywright::retrieve::{Bm25, Bm25Config};
    use querywright::types::{
        Deadline, Fault, FaultKind, Hit, Ranking, Request, Retriever, RetrieverCard, Rewrite, Rewriter,
    };

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
        assert_eq!(json_lines(&stack, &histories(), 10, input.as_bytes(), &mut output).unwrap(), 5);
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

    /// Ranks what its request's history names next, by ordinal.
    struct Next(RetrieverCard);

    impl Retriever for Next {
        fn card(&self) -> &RetrieverCard {
            &self.0
        }

        fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
            let hit = |request: &Request| {
                let doc = request.history.last().map_or(0, |item| item + 1);
                Ok(Ranking { hits: vec![Hit { doc, score: request.text.lines().count() as f32 }] })
            };
            requests.iter().map(hit).collect()
        }
    }

    #[test]
    fn a_history_of_ids_is_asked_for_and_an_unknown_id_costs_its_own_line() {
        let next = Next(RetrieverCard::new("next", "0"));
        let catalog = histories().catalog().clone();
        let stack = Stack::builder().catalog(catalog).retriever(next).build().unwrap();
        let lines = [
            r#"{"history": ["a", "b"]}"#,
            r#"{"query": "one", "history": ["d"], "k": 1}"#,
            r#"{"history": ["a", "nobody"]}"#,
            r#"{"history": [null]}"#,
            r#"{"k": 3}"#,
            r#"{"history": "a"}"#,
            r#"{"query": "words alone"}"#,
            r#"{"history": []}"#,
        ];
        let mut output = Vec::new();
        json_lines(&stack, &histories(), 10, lines.join("\n").as_bytes(), &mut output).unwrap();
        let text = String::from_utf8(output).unwrap();
        let answers: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(answers.len(), 8);
        assert_eq!((&answers[0]["hits"][0]["id"], &answers[0]["hits"][0]["score"]), (&"c".into(), &2.0.into()));
        assert_eq!((&answers[1]["hits"][0]["id"], &answers[1]["hits"][0]["score"]), (&"e".into(), &1.0.into()));
        for (place, part) in [(2, "\"nobody\""), (3, "null"), (4, "neither a query nor a history"), (5, "sequence")] {
            assert!(answers[place]["error"].as_str().unwrap().contains(part), "{}", answers[place]);
            assert_eq!(answers[place]["code"], "argument");
        }
        assert_eq!(answers[6]["hits"][0]["id"], "a");
        assert_eq!(answers[7]["trace"]["outcome"]["kind"], "empty");
    }

    /// Fails as a model behind an address does, and as an index does.
    struct Broken(RetrieverCard);

    const SECRET: &str = "http://10.0.0.7/v1 said: \u{9b}31m key=abc";

    impl Rewriter for Broken {
        fn name(&self) -> &str {
            "broken"
        }

        fn rewrite(&self, queries: &[Query], _: Deadline) -> Vec<Result<Rewrite>> {
            queries.iter().map(|_| Err(Error::rewriter("broken", SECRET))).collect()
        }
    }

    impl Retriever for Broken {
        fn card(&self) -> &RetrieverCard {
            &self.0
        }

        fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
            requests.iter().map(|_| Err(Fault::new("broken", FaultKind::Network, SECRET))).collect()
        }
    }

    #[test]
    fn a_client_gets_a_code_and_a_fixed_text_and_none_of_what_the_inside_said() {
        let broken = || Broken(RetrieverCard::new("broken", "0"));
        let mut builder = CatalogBuilder::new();
        builder.push("a\u{9b}\u{202e}", [("title", "red \u{7f}shoes")]).unwrap();
        let catalog = Arc::new(builder.finish());
        let whole = Bm25::in_memory(catalog.clone(), Bm25Config::default()).unwrap();
        let fallen = Stack::builder().catalog(catalog.clone()).retriever(whole).rewriter(broken()).build().unwrap();
        let failed = Stack::builder().catalog(catalog).retriever(broken()).build().unwrap();
        let said = |stack: &Stack| {
            let mut output = Vec::new();
            json_lines(stack, &histories(), 3, &b"{\"query\": \"red shoes\"}"[..], &mut output).unwrap();
            let text = String::from_utf8(output).unwrap();
            assert!(!text.contains("10.0.0.7") && !text.contains("key=abc"), "{text}");
            assert_eq!(
                querywright::types::printable(text.trim_end()),
                text.trim_end(),
                "nothing for a terminal to obey"
            );
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        };
        let answer = said(&fallen);
        assert_eq!(answer["hits"][0]["id"], "a\u{9b}\u{202e}");
        let right = serde_json::json!({ "kind": "fell_back", "code": "rewriter", "reason": "the rewriter failed" });
        assert_eq!(answer["trace"]["outcome"], right);
        let right = serde_json::json!({ "error": "the retriever could not be reached", "code": "network" });
        assert_eq!(said(&failed), right);
    }
}
