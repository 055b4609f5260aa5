//! Baselines that a rewriter's name asks for: a model with the prompt and the composition of a paper, without or with
//! examples.

use std::path::Path;

use anyhow::Result;
use querywright::Error;
use querywright::catalog::GivenRewrite;
use querywright::rewrite::{Example, PromptConfig};

/// The model of a baseline that names none.
const MODEL: &str = "smollm2-135m";
/// Examples of a file that a prompt shows, the first ones.
const EXAMPLES: usize = 8;

/// The model and the prompt of a baseline, as `hyde`, `rerank` or `hyde:MODEL`; none where `text` names something else. A path that
/// exists is a path.
///
/// `few-shot` shows the built-in examples, `few-shot=FILE` the first ones of a [file of rewrites](GivenRewrite).
pub fn at(text: &str) -> Result<Option<(&str, PromptConfig)>> {
    let (name, model) = text.split_once(':').unwrap_or((text, MODEL));
    let prompt = match name.split_once('=') {
        _ if Path::new(text).exists() => return Ok(None),
        Some(("few-shot", file)) => PromptConfig { examples: Some(examples(Path::new(file))?), ..Default::default() },
        Some(_) => return Ok(None),
        None => match name {
            "zero-shot" => PromptConfig { examples: Some(Vec::new()), ..Default::default() },
            "few-shot" => PromptConfig::default(),
            "hyde" => PromptConfig::hyde(),
            "query2doc" => PromptConfig::query2doc(),
            "rerank" => PromptConfig::rerank(),
            _ => return Ok(None),
        },
    };
    Ok(Some((if model.is_empty() { MODEL } else { model }, prompt)))
}

/// The first rewrites of a file that say the words of their query.
fn examples(path: &Path) -> Result<Vec<Example>> {
    let example =
        |given: GivenRewrite| Some(Example { request: given.query.text?, search: given.rewrite, ..Example::default() });
    let found: Vec<Example> = GivenRewrite::read(path)?.into_iter().filter_map(example).take(EXAMPLES).collect();
    if found.is_empty() {
        let remedy = "give the words of each query, as {\"query\": \"…\", \"rewrite\": \"…\"}";
        return Err(Error::data(path, None, "no line says the words of its query", remedy).into());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use querywright::rewrite::Mode;

    #[test]
    fn a_baseline_has_the_usual_model_or_the_one_behind_the_colon() {
        for (text, model) in [
            ("hyde", MODEL),
            ("query2doc:", MODEL),
            ("hyde:hf:Qwen/Qwen2.5-0.5B-Instruct", "hf:Qwen/Qwen2.5-0.5B-Instruct"),
            ("query2doc:a/model.gguf", "a/model.gguf"),
        ] {
            let (found, prompt) = at(text).unwrap().unwrap();
            assert_eq!((found, prompt.mode), (model, Mode::Document), "{text}");
        }
        assert_ne!(at("hyde").unwrap().unwrap().1, at("query2doc").unwrap().unwrap().1);
        let (model, prompt) = at("rerank:a/model.gguf").unwrap().unwrap();
        assert_eq!((model, prompt.mode, prompt.candidates), ("a/model.gguf", Mode::Rerank, 10));
        for other in ["smollm2-135m", "hyde+adapter", "hf:hyde", "identity", ""] {
            assert!(at(other).unwrap().is_none(), "{other}");
        }
    }

    #[test]
    fn few_shot_shows_the_built_in_examples_or_the_first_ones_of_a_file_and_zero_shot_none() {
        let examples = |text: &str| at(text).unwrap().unwrap().1.examples;
        assert_eq!((examples("zero-shot"), examples("few-shot:m")), (Some(Vec::new()), None));
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines: String = (0..20).map(|i| format!("query {i}\trewrite {i}\n")).collect();
        std::fs::write(file.path(), lines).unwrap();
        let name = format!("few-shot={}:m", file.path().display());
        let found = examples(&name).unwrap();
        assert_eq!((found.len(), found[0].request.as_str(), found[7].search.as_str()), (8, "query 0", "rewrite 7"));
        assert_eq!(at(&name).unwrap().unwrap().0, "m");
        std::fs::write(file.path(), "{\"query_id\": \"q\", \"rewrite\": \"r\"}\n").unwrap();
        assert!(at(&name).unwrap_err().to_string().contains("no line says the words"));
        assert!(at("few-shot=absent.tsv").unwrap_err().to_string().contains("absent.tsv"));
    }
}
