//! Prompts in the tokens of one model.

use super::prompt::{ChatMessage, Prompt, PromptStyle};
use super::prompter::Prompter;
use super::reading::Reading;
use querywright_model::{Message, Tokenizer};
use querywright_types::{Error, Query, Result, Rewrite};

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
    /// [`Error::Argument`] when the style is a conversation and the model has no chat template, or its template fails.
    pub fn new(prompter: Prompter, tokenizer: Tokenizer) -> Result<Self> {
        let stop = prompter.stop_strings().iter().map(|s| (*s).to_owned()).collect();
        let (prefix, suffix) = match prompter.prompt(&Query::default())? {
            Prompt::Completion { prefix, .. } => (prefix, String::new()),
            Prompt::Chat { messages } => around_request(&tokenizer, &messages)?,
        };
        let prefix = tokenizer.encode(&prefix, true)?;
        Ok(Self { prompter, tokenizer, prefix, suffix, stop })
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

    /// The tokens of an answer that the model did not sample, with the token that ends it: for relevance-feedback
    /// injection. None where the style asks for more than one line.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn encode_answer(&self, text: &str) -> Result<Option<Vec<u32>>> {
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
    pub fn read(&self, original: &Rewrite, completion: &str) -> Reading {
        self.prompter.read(original, completion)
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
