//! The built-in examples: general knowledge, so that they stand in nobody's catalogue.

use serde::Deserialize;

use super::{Example, Task};
use crate::error::{Error, Result};
use crate::rewrite::compose::Mode;
use crate::types::QueryLanguage;

const EXAMPLES: &str = include_str!("../templates/examples.json");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Examples {
    rewrite: ByLanguage,
    expand: ByLanguage,
    recommend: ByLanguage,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ByLanguage {
    plain: Vec<Example>,
    boolean: Vec<Example>,
    natural: Vec<Example>,
}

/// The examples for a task, mode and language.
pub(super) fn built_in(task: Task, mode: Mode, language: QueryLanguage) -> Result<Vec<Example>> {
    let all: Examples = serde_json::from_str(EXAMPLES)
        .map_err(|e| Error::argument("examples.json", e.to_string(), "mend the file that was built in"))?;
    let by_language = match (task, mode) {
        (Task::Recommend, _) => all.recommend,
        (Task::Search, Mode::Rewrite) => all.rewrite,
        (Task::Search, Mode::Expand) => all.expand,
    };
    Ok(match language {
        QueryLanguage::Plain => by_language.plain,
        QueryLanguage::Boolean => by_language.boolean,
        QueryLanguage::Natural => by_language.natural,
    })
}
