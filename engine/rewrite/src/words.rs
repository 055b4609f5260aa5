//! The words that restricted answers consist of.

use std::collections::HashMap;
use std::sync::Arc;

use super::candidates::Candidates;
use super::config::{PromptStyle, Vocabulary};
use super::prompter::Prompter;
use querywright_model::{Grammar, Labels, Tokenizer, Trie};
use querywright_types::{Error, Result};

/// Where the words come from that a [`Vocabulary`] names, beside those of the request. Cheap to clone.
#[derive(Clone)]
#[non_exhaustive]
pub enum Words {
    /// Those of [`Vocabulary::Catalog`], in the tokens of one model.
    Catalog(Arc<Trie>),
    /// The source of those of [`Vocabulary::Feedback`]. But in [`Task::Recommend`](crate::Task::Recommend) it is also what
    /// prompts show where they show candidates, and is asked once a query for both.
    Candidates(Arc<dyn Candidates>),
}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Catalog(words) => f.debug_tuple("Catalog").field(words).finish(),
            Self::Candidates(_) => f.write_str("Candidates"),
        }
    }
}

impl Words {
    /// Those of a catalogue, from the texts of its documents.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn of_documents(tokenizer: &Tokenizer, documents: impl Iterator<Item = String>) -> Result<Self> {
        Ok(Self::Catalog(Arc::new(Trie::new(tokenizer, &telling(documents))?)))
    }

    pub(super) fn vocabulary(&self) -> Vocabulary {
        match self {
            Self::Catalog(_) => Vocabulary::Catalog,
            Self::Candidates(_) => Vocabulary::Feedback,
        }
    }
}

/// The lower-case words that stand in at least two of the documents, and in at most a tenth of them (in two, where these
/// are fewer than 20).
fn telling(documents: impl Iterator<Item = String>) -> Vec<String> {
    // In how many documents each word stands, and the last one of them.
    let mut holding: HashMap<String, (usize, usize)> = HashMap::new();
    let mut count = 0;
    for (number, text) in documents.enumerate() {
        count = number + 1;
        for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
            let (documents, last) = holding.entry(word.to_lowercase()).or_insert((0, usize::MAX));
            *documents += usize::from(*last != number);
            *last = number;
        }
    }
    let most = (count / 10).max(2);
    let mut words: Vec<String> = holding
        .into_iter()
        .filter(|(_, (documents, _))| (2..=most).contains(documents))
        .map(|(word, _)| word)
        .collect();
    words.sort_unstable();
    words
}

/// The words of a request: runs of letters and digits as they stand, and in lower case. What a query language reads as an
/// operator is only there in lower case.
pub(super) fn words_of(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.flat_map(|word| {
        let own = (!["AND", "OR", "NOT"].contains(&word)).then(|| word.to_owned());
        own.into_iter().chain([word.to_lowercase()])
    })
}

/// The names of the choices as a grammar; none where answers have another form. In a conversation the name may stand
/// behind reasoning, and is read from the answer.
pub(super) fn one_of_the_choices(prompter: &Prompter, tokenizer: &Tokenizer) -> Result<Option<Arc<Grammar>>> {
    let (names, config) = (prompter.choices(), prompter.config());
    if names.is_empty() || config.style != PromptStyle::FewShot {
        return Ok(None);
    }
    let stop = prompter.stop_strings().first().copied().unwrap_or("\n");
    let grammar = Arc::new(Grammar::one_of(tokenizer, Arc::new(Trie::new(tokenizer, names)?), stop)?);
    for name in names {
        match grammar.encode(tokenizer, name)?.map(|tokens| tokens.len()) {
            Some(tokens) if tokens <= config.max_answer_tokens => {}
            Some(tokens) => {
                let found = format!("{}, and the choice {name} has {tokens} tokens", config.max_answer_tokens);
                return Err(Error::argument(
                    "prompt.max_answer_tokens",
                    found,
                    "allow more, or give it a shorter name",
                ));
            }
            None => {
                let found = "the model's tokenizer cannot write this name";
                return Err(Error::argument(format!("prompt.choices.{name}"), found, "give it another one"));
            }
        }
    }
    Ok(Some(grammar))
}

/// The grammars of orders of no candidate, of one, … and of all; none where answers have another form. In a conversation the
/// order may stand behind reasoning, and is read from the answer.
pub(super) fn orders(prompter: &Prompter, tokenizer: &Tokenizer) -> Result<Vec<Arc<Grammar>>> {
    let (names, config) = (prompter.labels(), prompter.config());
    if names.is_empty() || config.style != PromptStyle::FewShot {
        return Ok(Vec::new());
    }
    let labels = Labels::new(tokenizer, names)?;
    if labels.longest() >= config.max_answer_tokens {
        let found = format!("{}, and a label has up to {} tokens", config.max_answer_tokens, labels.longest());
        let remedy = format!("allow more: {} for an order of all", 1 + labels.tokens_of_all());
        return Err(Error::argument("prompt.max_answer_tokens", found, remedy));
    }
    let stop = prompter.stop_strings().first().copied().unwrap_or("\n");
    let order = |count| Grammar::order(tokenizer, &labels, count, config.rerank.most(count), stop).map(Arc::new);
    (0..=names.len()).map(order).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_two_documents_and_at_most_a_tenth_of_them_are_telling() {
        let mut documents = vec!["Red tea-pot, red lid".to_owned(), "a RED kettle; lid".to_owned(), "tea".to_owned()];
        assert_eq!(telling(documents.clone().into_iter()), ["lid", "red", "tea"]);
        documents.extend((0..27).map(|i| format!("item{i} tea kettle{}", i % 14)));
        let words = telling(documents.into_iter());
        assert!(words.contains(&"kettle3".to_owned()), "twice: {words:?}");
        assert!(!words.contains(&"item1".to_owned()) && !words.contains(&"tea".to_owned()), "{words:?}");
        assert!(words.is_sorted());
    }

    #[test]
    fn a_request_gives_its_words_as_they_stand_and_in_lower_case_and_no_operators() {
        let words: Vec<String> = words_of("Wi-fi NOT <|im_end|>").collect();
        assert_eq!(words, ["Wi", "wi", "fi", "fi", "not", "im", "im", "end", "end"]);
    }
}
