//! Prompts in the tokens of one model.
//!
//! What a template says may hold special tokens: a chat's turns begin and end with them. What others wrote (requests,
//! titles, examples, the content of a catalogue) never does, whatever it spells.

mod answers;

use std::sync::Arc;

use super::config::{Mode, Task};
use super::prompt::{ChatMessage, PLACEHOLDER, Prompt, RequestValues, newest_turns, unmarked};
use super::prompter::Prompter;
use super::reading::Reading;
use super::words::{Words, one_of_the_choices, orders, words_of};
use querywright_model::{Grammar, Message, PromptTokens, Tokenizer, Trie};
use querywright_types::{Deadline, Error, Query, Result, Rewrite};

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
    /// The grammar of all answers, where these are names of choices.
    choices: Option<Arc<Grammar>>,
    /// The grammars of orders of no candidate, of one, of two, …, where answers are orders.
    orders: Vec<Arc<Grammar>>,
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
    /// when answers are restricted to words: [`restricted`](Self::restricted) takes these; when the model cannot write the
    /// name of a choice or the label of a candidate; when prompts show candidates and nothing gives them
    /// ([`Prompter::with_candidates`], [`Prompter::with_shortlist`]).
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
        if encoder.is_restricted() {
            Grammar::new(&encoder.tokenizer, Vec::new(), encoder.stop_text())?;
        }
        Ok(encoder)
    }

    fn with(mut prompter: Prompter, tokenizer: Tokenizer, words: Option<Words>) -> Result<Self> {
        let asked = prompter.config().vocabulary;
        let words = words.filter(|_| !asked.is_free());
        if !asked.is_free() && words.as_ref().map(Words::vocabulary) != Some(asked) {
            let remedy =
                "build the prompts with PromptEncoder::restricted and these words, or set vocabulary = \"free\"";
            return Err(Error::argument("prompt.vocabulary", format!("{asked:?}, without its words"), remedy));
        }
        if let Some(Words::Candidates(words)) = words.as_ref().filter(|_| prompter.config().task != Task::Recommend) {
            // The model chooses from what it sees.
            prompter = prompter.with_candidates(words.clone());
        }
        prompter.require_candidates()?;
        let stop = prompter.stop_strings().iter().map(|s| (*s).to_owned()).collect();
        let nothing = RequestValues::default();
        let (plain, marked) = (prompter.prompt_of(&nothing)?, prompter.marked_prompt(&nothing)?);
        let (prefix, marked, suffix) = match (plain, marked) {
            (Prompt::Completion { prefix, .. }, Prompt::Completion { prefix: marked, .. }) => {
                (prefix, marked, String::new())
            }
            (Prompt::Chat { messages }, Prompt::Chat { messages: marked }) => {
                let (before, after) = around_request(&tokenizer, &messages)?;
                let texts = || marked.iter().map(|message| message.content.as_str()).collect();
                let marked = around_request(&tokenizer, &marked).map_or_else(|_| texts(), |(before, _)| before);
                (before, marked, after)
            }
            _ => return Err(two_forms()),
        };
        let prefix = encode_prefix(&tokenizer, &prefix, &marked)?;
        let (choices, orders) = (one_of_the_choices(&prompter, &tokenizer)?, orders(&prompter, &tokenizer)?);
        Ok(Self { prompter, tokenizer, prefix, suffix, stop, words, choices, orders })
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
        let found = self.prompter.candidates(query, Deadline::NONE)?;
        self.encode_values(&self.request_values(query, &found)?)
    }

    /// What stands in a prompt of its query, within the tokens that candidates and earlier turns may have.
    fn request_values(&self, query: &Query, found: &[String]) -> Result<RequestValues> {
        let (mut values, config) = (self.prompter.request_values(query, found), self.prompter.config());
        let tokens = |turn: &str| Ok(self.tokenizer.encode(turn, false)?.len());
        values.turns = newest_turns(values.turns, config.conversation.max_tokens, tokens)?;
        if config.mode == Mode::Rerank {
            for candidate in &mut values.candidates {
                *candidate = self.beginning(candidate, config.rerank.max_tokens)?;
            }
        }
        Ok(values)
    }

    /// The beginning of a text that has at most this many tokens.
    fn beginning(&self, text: &str, most: usize) -> Result<String> {
        let ids = self.tokenizer.encode(text, false)?;
        let Some(first) = ids.get(..most).filter(|_| ids.len() > most) else { return Ok(text.to_owned()) };
        // A token may end within a character, and its text is then another one.
        let decoded = self.tokenizer.decode(first)?;
        let same = text.chars().zip(decoded.trim_start().chars()).take_while(|(own, other)| own == other);
        Ok(same.map(|(own, _)| own).collect::<String>().trim_end().to_owned())
    }

    fn encode_values(&self, values: &RequestValues) -> Result<Vec<u32>> {
        let own = self.own_part(self.prompter.prompt_of(values)?)?;
        let text = format!("{own}{}", self.suffix);
        let ids = self.tokenizer.encode(&text, false)?;
        if !self.tokenizer.has_special(&ids) {
            return Ok(ids);
        }
        let (found, mut theirs) = unmarked(&self.own_part(self.prompter.marked_prompt(values)?)?);
        if found != own {
            // The template did something else with the marks, so that nothing in it can be told apart.
            theirs = std::iter::once(0..own.len()).collect();
        }
        self.tokenizer.encode_with_users(&text, &theirs, false)
    }

    /// The text of a prompt that no other prompt shares.
    fn own_part(&self, prompt: Prompt) -> Result<String> {
        match prompt {
            Prompt::Completion { query, .. } => Ok(query),
            Prompt::Chat { mut messages } => {
                Ok(messages.pop().ok_or_else(empty_conversation)?.content.replace(PLACEHOLDER, " "))
            }
        }
    }

    /// A query's own part of the prompt, with what its answers may consist of. `stream` is the number of its randomness.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode) and of the source of candidate words.
    pub fn prompt_tokens(&self, query: &Query, stream: u64) -> Result<PromptTokens> {
        self.prompt_tokens_within(query, stream, Deadline::NONE)
    }

    /// As [`prompt_tokens`](Self::prompt_tokens), with candidates that are found by the deadline. Their source is asked once
    /// for what the prompt shows and what the answers may consist of.
    ///
    /// # Errors
    /// Those of [`prompt_tokens`](Self::prompt_tokens), and [`Error::Deadline`].
    pub fn prompt_tokens_within(&self, query: &Query, stream: u64, deadline: Deadline) -> Result<PromptTokens> {
        let found = self.prompter.candidates(query, deadline)?;
        let values = self.request_values(query, &found)?;
        let grammar = self.grammar(query, &values, found, deadline)?;
        Ok(PromptTokens { grammar, ..PromptTokens::free(stream, self.encode_values(&values)?) })
    }

    /// Whether answers are restricted to words, to names of choices, or to orders of candidates.
    pub fn is_restricted(&self) -> bool {
        self.words.is_some() || self.choices.is_some() || !self.orders.is_empty()
    }

    /// What the answers to a query may consist of: what its prompt shows, and the vocabulary; none where they are free.
    fn grammar(
        &self,
        query: &Query,
        shown: &RequestValues,
        found: Vec<String>,
        deadline: Deadline,
    ) -> Result<Option<Arc<Grammar>>> {
        let Some(words) = &self.words else {
            return Ok(self.choices.as_ref().or(self.orders.get(shown.candidates.len())).cloned());
        };
        let texts = shown.history.iter().chain(&shown.turns).chain([&shown.text]).chain(&shown.candidates);
        let mut own: Vec<String> = texts.flat_map(|text| words_of(text)).collect();
        let mut tries = Vec::with_capacity(2);
        match words {
            Words::Catalog(shared) => tries.push(shared.clone()),
            // Found for the prompt already.
            Words::Candidates(_) if self.prompts_show_words() => own.extend(found),
            Words::Candidates(candidates) => own.extend(candidates.propose(query, deadline)?),
        }
        tries.push(Arc::new(Trie::new(&self.tokenizer, &own)?));
        Ok(Some(Arc::new(Grammar::new(&self.tokenizer, tries, self.stop_text())?)))
    }

    /// Whether the candidates that prompts show are the words of the vocabulary.
    fn prompts_show_words(&self) -> bool {
        let config = self.prompter.config();
        config.candidates > 0 && config.task != Task::Recommend
    }

    /// What ends a restricted answer.
    fn stop_text(&self) -> &str {
        self.stop.first().map_or("\n", String::as_str)
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
    ///
    /// # Errors
    /// Those of [`Prompter::read`].
    pub fn read(&self, query: &Query, original: &Rewrite, completion: &str) -> Result<Reading> {
        self.prompter.read(query, original, completion)
    }
}

/// The tokens of what all prompts share.
fn encode_prefix(tokenizer: &Tokenizer, plain: &str, marked: &str) -> Result<Vec<u32>> {
    let (found, theirs) = unmarked(marked);
    if found == plain {
        return tokenizer.encode_with_users(plain, &theirs, true);
    }
    // A chat template that reads the texts of a conversation may say something else about marked ones. That is no harm
    // unless a text spells one of the tokens.
    for place in theirs {
        let spelled = found.get(place).unwrap_or_default();
        if tokenizer.has_special(&tokenizer.encode(spelled, false)?) {
            let found = format!("the model's templates change a text that spells a special token ({spelled:?})");
            return Err(Error::argument("prompt", found, "write it another way in `content` and `examples`"));
        }
    }
    tokenizer.encode(plain, true)
}

/// What the model's chat template renders before and after the last message.
fn around_request(tokenizer: &Tokenizer, messages: &[ChatMessage]) -> Result<(String, String)> {
    let Some(template) = tokenizer.chat_template() else {
        let remedy = "set style = \"few-shot\", or take an instruct model";
        return Err(Error::argument("prompt.style", "the model has no chat template", remedy));
    };
    let mut messages = model_messages(messages);
    let request = messages.last_mut().ok_or_else(empty_conversation)?;
    request.content = PLACEHOLDER.to_string();
    let text = template.render(&messages, true)?;
    let Some((before, after)) = text.split_once(PLACEHOLDER) else {
        let remedy = "set style = \"few-shot\"";
        return Err(Error::argument("prompt.style", "the model's chat template hides the request", remedy));
    };
    Ok((before.to_owned(), after.to_owned()))
}

/// A conversation as the model's chat template takes it.
fn model_messages(messages: &[ChatMessage]) -> Vec<Message> {
    let message = |m: &ChatMessage| Message::new(m.role.as_str(), m.content.replace(PLACEHOLDER, " "));
    messages.iter().map(message).collect()
}

fn two_forms() -> Error {
    Error::bug("prompt encoder", "a prompt of two forms")
}

fn empty_conversation() -> Error {
    Error::bug("prompt encoder", "a conversation without messages")
}

#[cfg(test)]
mod tests;
