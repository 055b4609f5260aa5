//! Prompts in the tokens of one model.

use std::sync::Arc;

use super::prompt::{ChatMessage, Prompt, PromptStyle};
use super::prompter::Prompter;
use super::reading::Reading;
use super::words::{Words, words_of};
use querywright_model::{Grammar, Message, PromptTokens, Tokenizer, Trie};
use querywright_types::{Error, Query, Result};

/// The placeholder of the request while the chat template is rendered. It is a private-use character, and requests are
/// cleaned of it.
const PLACEHOLDER: &str = "\u{E000}";

/// A [`Prompter`] for one model. It encodes the part that all prompts share once.
pub struct PromptEncoder {
    prompter: Prompter,
    tokenizer: Tokenizer,
    prefix: Vec<u32>,
    /// What the chat template renders after the request.
    suffix: String,
    stop: Vec<String>,
    /// What answers may consist of, where they are restricted.
    words: Option<Words>,
}

impl std::fmt::Debug for PromptEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PromptEncoder").field("prompter", &self.prompter).finish_non_exhaustive()
    }
}

impl PromptEncoder {
    /// Encodes the part that all prompts share.
    ///
    /// # Errors
    /// [`Error::Argument`] when the style is a conversation and the model has no chat template, or its template fails;
    /// when answers are restricted: [`restricted`](Self::restricted) takes their words.
    pub fn new(prompter: Prompter, tokenizer: Tokenizer) -> Result<Self> {
        Self::with(prompter, tokenizer, None)
    }

    /// Like [`new`](Self::new), with the words that answers may consist of, where the configuration restricts them.
    ///
    /// # Errors
    /// Those of [`new`](Self::new); [`Error::Argument`] when these are not the words that the configuration asks for, or
    /// the model's tokenizer has no token for the end of a line.
    pub fn restricted(prompter: Prompter, tokenizer: Tokenizer, words: Words) -> Result<Self> {
        let encoder = Self::with(prompter, tokenizer, Some(words))?;
        // A tokenizer without a stop is refused now and not with the first query.
        encoder.grammar(&Query::default())?;
        Ok(encoder)
    }

    fn with(prompter: Prompter, tokenizer: Tokenizer, words: Option<Words>) -> Result<Self> {
        let asked = prompter.config().vocabulary;
        let words = words.filter(|_| !asked.is_free());
        if !asked.is_free() && words.as_ref().map(Words::vocabulary) != Some(asked) {
            let remedy =
                "build the prompts with PromptEncoder::restricted and these words, or set vocabulary = \"free\"";
            return Err(Error::argument("prompt.vocabulary", format!("{asked:?}, without its words"), remedy));
        }
        let stop = prompter.stop_strings().iter().map(|s| (*s).to_owned()).collect();
        let (prefix, suffix) = match prompter.prompt(&Query::default())? {
            Prompt::Completion { prefix, .. } => (prefix, String::new()),
            Prompt::Chat { messages } => around_request(&tokenizer, &messages)?,
        };
        let prefix = tokenizer.encode(&prefix, true)?;
        Ok(Self { prompter, tokenizer, prefix, suffix, stop, words })
    }

    /// The tokens that every prompt begins with.
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// The tokens of a query's own part, which follow [`prefix`](Self::prefix).
    ///
    /// # Errors
    /// Those of [`Prompter::prompt`] and of the tokenizer.
    pub fn encode(&self, query: &Query) -> Result<Vec<u32>> {
        match self.prompter.prompt(query)? {
            Prompt::Completion { query, .. } => self.tokenizer.encode(&query, false),
            Prompt::Chat { messages } => {
                let last = messages.last().ok_or_else(empty_conversation)?;
                let request = last.content.replace(PLACEHOLDER, " ");
                self.tokenizer.encode(&format!("{request}{}", self.suffix), false)
            }
        }
    }

    /// A query's own part of the prompt, with what its answers may consist of. `stream` is the number of its randomness.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode) and of the source of candidate words.
    pub fn prompt_tokens(&self, query: &Query, stream: u64) -> Result<PromptTokens> {
        Ok(PromptTokens { grammar: self.grammar(query)?, ..PromptTokens::free(stream, self.encode(query)?) })
    }

    /// Whether answers are restricted to words.
    pub fn is_restricted(&self) -> bool {
        self.words.is_some()
    }

    /// What the answers to a query may consist of; none where they are free.
    fn grammar(&self, query: &Query) -> Result<Option<Arc<Grammar>>> {
        let Some(words) = &self.words else { return Ok(None) };
        let request = self.prompter.request_values(query);
        let mut own: Vec<String> =
            request.history.iter().chain([&request.text]).flat_map(|text| words_of(text)).collect();
        let mut tries = Vec::with_capacity(2);
        match words {
            Words::Catalog(shared) => tries.push(shared.clone()),
            Words::Candidates(candidates) => own.extend(candidates.words(query)?),
        }
        tries.push(Arc::new(Trie::new(&self.tokenizer, &own)?));
        let stop = self.stop.first().map_or("\n", String::as_str);
        Ok(Some(Arc::new(Grammar::new(&self.tokenizer, tries, stop)?)))
    }

    /// The tokens of an answer that the model did not sample, with the token that ends it: for relevance-feedback
    /// injection. None where the style asks for more than one line, and where `grammar` does not allow one of its words.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn encode_answer(&self, text: &str, grammar: Option<&Arc<Grammar>>) -> Result<Option<Vec<u32>>> {
        if let Some(grammar) = grammar {
            return grammar.encode(&self.tokenizer, text);
        }
        match self.prompter.config().style {
            PromptStyle::FewShot => Ok(Some(self.tokenizer.encode(&format!(" {text}\n"), false)?)),
            PromptStyle::Chat | PromptStyle::ThinkAnswer => Ok(None),
        }
    }

    /// The texts that end a completion.
    pub fn stop(&self) -> &[String] {
        &self.stop
    }

    /// The prompts as text.
    pub fn prompter(&self) -> &Prompter {
        &self.prompter
    }

    /// Reads a completion, as [`Prompter::read`] does.
    pub fn read(&self, query: &Query, completion: &str) -> Reading {
        self.prompter.read(query, completion)
    }
}

/// What the model's chat template renders before and after the last message.
fn around_request(tokenizer: &Tokenizer, messages: &[ChatMessage]) -> Result<(String, String)> {
    let Some(template) = tokenizer.chat_template() else {
        let remedy = "set style = \"few-shot\", or take an instruct model";
        return Err(Error::argument("prompt.style", "the model has no chat template", remedy));
    };
    let mut messages = model_messages(messages);
    let request = messages.last_mut().ok_or_else(empty_conversation)?;
    request.content = PLACEHOLDER.to_owned();
    let text = template.render(&messages, true)?;
    let Some((before, after)) = text.split_once(PLACEHOLDER) else {
        let remedy = "set style = \"few-shot\"";
        return Err(Error::argument("prompt.style", "the model's chat template hides the request", remedy));
    };
    Ok((before.to_owned(), after.to_owned()))
}

/// A conversation as the model's chat template takes it.
fn model_messages(messages: &[ChatMessage]) -> Vec<Message> {
    messages.iter().map(|message| Message::new(message.role.as_str(), message.content.as_str())).collect()
}

fn empty_conversation() -> Error {
    Error::bug("prompt encoder", "a conversation without messages")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PromptConfig;
    use querywright_model::ModelSource;
    use querywright_types::RetrieverCard;

    fn encoder(style: PromptStyle) -> (PromptEncoder, Tokenizer) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
        let tokenizer = ModelSource::open(&path).unwrap().tokenizer().unwrap();
        let card = RetrieverCard::new("bm25", "d").with_version("1").with_content("garden tools");
        let prompter = Prompter::new(PromptConfig { style, ..Default::default() }, &card).unwrap();
        (PromptEncoder::new(prompter, tokenizer.clone()).unwrap(), tokenizer)
    }

    #[test]
    fn the_tokens_of_prefix_and_query_are_those_of_the_whole_prompt_in_every_style() {
        for style in [PromptStyle::FewShot, PromptStyle::Chat, PromptStyle::ThinkAnswer] {
            let (encoder, tokenizer) = encoder(style);
            let query = Query::text("something to cut the hedge");
            let whole = match encoder.prompter().prompt(&query).unwrap() {
                Prompt::Completion { prefix, query } => prefix + &query,
                Prompt::Chat { messages } => {
                    tokenizer.chat_template().unwrap().render(&model_messages(&messages), true).unwrap()
                }
            };
            let tokens = [encoder.prefix(), &encoder.encode(&query).unwrap()].concat();
            assert_eq!(tokens, tokenizer.encode(&whole, true).unwrap(), "{style:?}: {whole}");
        }
    }
}
