//! Ways to search, of which the model names one.
//!
//! Each is a [base](crate::BaseConfig): weights of fields, phrases, feedback. What
//! [the query is without a model](crate::Prompter::original) is always one of them, under the name [`SAME`].

use crate::config::{Example, PromptConfig, Task};
use crate::parse::{FormatFault, ParsedCompletion};
use querywright_types::{Error, Result, RetrieverCard};

/// The name that leaves the query what it is without a model.
pub const SAME: &str = "same";

/// Choices, at most: their names stand in every prompt.
const MOST: usize = 32;
/// Characters of a name, at most.
const LONGEST: usize = 32;

/// The names that an answer may have: [`SAME`] first, the others in alphabetical order; none in another mode.
pub fn names(config: &PromptConfig) -> Vec<String> {
    if config.choices.is_empty() {
        return Vec::new();
    }
    std::iter::once(SAME.to_owned()).chain(config.choices.keys().cloned()).collect()
}

/// Checks the names, what each stands for, and the examples.
pub fn validate(config: &PromptConfig, card: &RetrieverCard) -> Result<()> {
    let refused = |key: String, found: String, remedy: &str| Err(Error::argument(key, found, remedy));
    if config.choices.len() > MOST {
        let found = format!("{} of them", config.choices.len());
        return refused("prompt.choices".to_owned(), found, &format!("give at most {MOST}"));
    }
    let mut folded = vec![SAME.to_owned()];
    for (name, base) in &config.choices {
        let key = format!("prompt.choices.{name}");
        if name.is_empty() || name.len() > LONGEST || name.chars().any(|c| !is_of_a_name(c)) {
            let remedy = format!("give it a name of at most {LONGEST} letters (a to z), digits, - and _");
            return refused("prompt.choices".to_owned(), format!("{name:?}"), &remedy);
        }
        if folded.contains(&name.to_lowercase()) {
            let remedy = "give each another name; \"same\" is what the query is without a model";
            return refused(key, "the name is taken, whatever its case".to_owned(), remedy);
        }
        folded.push(name.to_lowercase());
        base.validate(card).map_err(|error| match error {
            Error::Argument { name, found, remedy, .. } => {
                Error::argument(format!("{key}{}", name.strip_prefix("base").unwrap_or(&name)), found, remedy)
            }
            error => error,
        })?;
    }
    let names = names(config);
    for (index, example) in config.examples.iter().flatten().enumerate() {
        if !names.contains(&example.search) {
            let found = format!("`search` is {:?}, which is no choice", example.search);
            return refused(format!("prompt.examples[{index}]"), found, &format!("give one of {}", names.join(", ")));
        }
    }
    Ok(())
}

/// Requests for the prompt, with each of the first choices once: they show the form, and say nothing of what is right.
pub fn examples(config: &PromptConfig, mut requests: Vec<Example>) -> Vec<Example> {
    for (example, name) in requests.iter_mut().zip(names(config).iter().cycle()) {
        example.search.clone_from(name);
        example.thought = match config.task {
            Task::Search | Task::Conversation => "Requests of this kind are found this way.".to_owned(),
            Task::Recommend => "What follows such histories is found this way.".to_owned(),
        };
    }
    requests
}

/// A parsed answer with the name of a choice as its query. Upper and lower case are the same, quotes and punctuation
/// around it are passed over. A sentence that names exactly one is no answer in the right form, but can be served.
pub fn resolved(parsed: ParsedCompletion, names: &[String]) -> ParsedCompletion {
    let Some(line) = &parsed.query else { return parsed };
    let named = |text: &str| names.iter().find(|name| name.eq_ignore_ascii_case(text)).cloned();
    if let Some(name) = named(line.trim_matches(|c| !is_of_a_name(c))) {
        return ParsedCompletion { query: Some(name), ..parsed };
    }
    let mut within: Vec<String> = line.split(|c| !is_of_a_name(c)).filter_map(named).collect();
    within.sort_unstable();
    within.dedup();
    let only = within.pop().filter(|_| within.is_empty());
    ParsedCompletion { query: only, broken: parsed.broken.or(Some(FormatFault::NoChoice)), query_span: None }
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}
