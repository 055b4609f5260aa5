//! The examples that a prompt shows. The built-in ones are general knowledge, so that no catalogue holds them.

use serde::Deserialize;

use crate::config::{Example, Mode, PromptConfig, Task};
use crate::mode::{choice_examples, rerank_examples};
use querywright_types::{Error, QueryLanguage, Result};

const BUILT_IN: &str = include_str!("../templates/examples.json");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BuiltIn {
    rewrite: ByLanguage,
    expand: ByLanguage,
    recommend: ByLanguage,
    conversation: ByLanguage,
    document: ByTask,
    keywords: ByTask,
    rerank: ByTask,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ByLanguage {
    plain: Vec<Example>,
    boolean: Vec<Example>,
    natural: Vec<Example>,
}

/// What is the same in every language.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ByTask {
    search: Vec<Example>,
    recommend: Vec<Example>,
    conversation: Vec<Example>,
}

/// The examples of a configuration, else the built-in ones of its task, mode and language.
pub fn examples(config: &PromptConfig, language: QueryLanguage) -> Result<Vec<Example>> {
    if let Some(given) = &config.examples {
        return Ok(given.clone());
    }
    let all: BuiltIn = serde_json::from_str(BUILT_IN).map_err(|e| Error::bug("built-in examples", e.to_string()))?;
    let of_task = |examples: ByTask| match config.task {
        Task::Search => examples.search,
        Task::Recommend => examples.recommend,
        Task::Conversation => examples.conversation,
    };
    let by_language = match (config.task, config.mode) {
        (_, Mode::Document) => return Ok(of_task(all.document)),
        (_, Mode::Keywords) => return Ok(of_task(all.keywords)),
        (_, Mode::Choose) => return Ok(choice_examples(config, of_task(all.keywords))),
        (_, Mode::Rerank) => return Ok(rerank_examples(config, of_task(all.rerank))),
        (Task::Conversation, _) => all.conversation,
        (Task::Recommend, _) => all.recommend,
        (Task::Search, Mode::Rewrite) => all.rewrite,
        (Task::Search, Mode::Expand) => all.expand,
    };
    Ok(match language {
        QueryLanguage::Boolean => by_language.boolean,
        QueryLanguage::Natural => by_language.natural,
        _ => by_language.plain,
    })
}
