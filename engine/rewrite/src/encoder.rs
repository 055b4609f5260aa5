//! Prompts in tokens for one model, and its answers as rewrites.

use std::ops::Range;

use super::answer::FormatFault;
use super::prompt::{Prompt, PromptStyle, Prompter};
use super::terms::without_term;
use crate::error::{Error, Result};
use crate::model::{Message, Tokenizer};
use crate::types::{Query, Rewrite};

/// Stands for the request while a chat template is rendered; a request never holds it, being cleaned of it.
const MARK: &str = "\u{E000}";

/// A [`Prompter`] for one model: its prompts in tokens, the part that all prompts share apart.
pub struct PromptEncoder {
    prompter: Prompter,
    tokenizer: Tokenizer,
    prefix: Vec<u32>,
    /// What a chat template puts behind the request.
    suffix: String,
    stop: Vec<String>,
}

/// What a completion was read as.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The rewrite; none where no query could be read.
    pub rewrite: Option<Rewrite>,
    /// In what way the format was broken. Where there is a rewrite all the same, it serves but earns nothing.
    pub broken: Option<FormatFault>,
    /// The generated terms, for credit by counterfactual retrieval.
    pub terms: Vec<TermReading>,
}

impl Reading {
    /// The rewrite, where the format was kept: what training rewards.
    pub fn earning(&self) -> Option<&Rewrite> {
        self.rewrite.as_ref().filter(|_| self.broken.is_none())
    }
}

/// A generated term.
#[derive(Debug, Clone, PartialEq)]
pub struct TermReading {
    /// Where it stands in the completion, in bytes.
    pub span: Range<usize>,
    /// The rewrite without it.
    pub without: Rewrite,
}

/// Terms whose worth is asked for at most: the cost of the credit is bounded by it.
const MOST_TERMS: usize = 16;

impl PromptEncoder {
    /// Encodes what all prompts share.
    ///
    /// # Errors
    /// When a conversation is asked for and the model has no chat template, or the template fails.
    pub fn new(prompter: Prompter, tokenizer: Tokenizer) -> Result<Self> {
        let stop = prompter.stop_strings().iter().map(|s| (*s).to_owned()).collect();
        let (prefix, suffix) = match prompter.prompt(&Query::default())? {
            Prompt::Completion { prefix, .. } => (prefix, String::new()),
            Prompt::Chat { mut messages } => {
                let Some(template) = tokenizer.chat_template() else {
                    let remedy = "set style = \"few-shot\", or take an instruct model";
                    return Err(Error::argument("prompt.style", "the model has no chat template", remedy));
                };
                messages.pop();
                messages.push(Message::new("user", MARK));
                let text = template.render(&messages, true)?;
                let Some((prefix, suffix)) = text.split_once(MARK) else {
                    let remedy = "set style = \"few-shot\"";
                    return Err(Error::argument("prompt.style", "the model's chat template hides the request", remedy));
                };
                (prefix.to_owned(), suffix.to_owned())
            }
        };
        let prefix = tokenizer.encode(&prefix, true)?;
        Ok(Self { prompter, tokenizer, prefix, suffix, stop })
    }

    /// The tokens that every prompt begins with.
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// The tokens of a query's own part.
    pub fn encode(&self, query: &Query) -> Result<Vec<u32>> {
        match self.prompter.prompt(query)? {
            Prompt::Completion { query, .. } => self.tokenizer.encode(&query, false),
            Prompt::Chat { mut messages } => {
                let request = messages.pop().map(|m| m.content.replace(MARK, " ")).unwrap_or_default();
                self.tokenizer.encode(&format!("{request}{}", self.suffix), false)
            }
        }
    }

    /// An answer that somebody else gives, in tokens, its end included; none where the style wants more than a line.
    pub fn answer(&self, text: &str) -> Result<Option<Vec<u32>>> {
        match self.prompter.config().style {
            PromptStyle::FewShot => Ok(Some(self.tokenizer.encode(&format!(" {text}\n"), false)?)),
            PromptStyle::Chat | PromptStyle::ThinkAnswer => Ok(None),
        }
    }

    /// Texts that end an answer.
    pub fn stop(&self) -> &[String] {
        &self.stop
    }

    /// The prompts in text.
    pub fn prompter(&self) -> &Prompter {
        &self.prompter
    }

    /// Reads a completion.
    pub fn read(&self, query: &Query, completion: &str) -> Reading {
        let answer = self.prompter.parse(completion);
        let composer = self.prompter.composer();
        let Some(generated) = &answer.query else {
            return Reading { rewrite: None, broken: answer.broken, terms: Vec::new() };
        };
        let found = answer.terms(completion).into_iter().take(MOST_TERMS).enumerate();
        let term = |(index, term): (usize, super::terms::Term)| TermReading {
            span: term.span,
            without: composer.compose(query, &without_term(generated, index)),
        };
        let terms = if answer.broken.is_some() { Vec::new() } else { found.map(term).collect() };
        Reading { rewrite: Some(composer.compose(query, generated)), broken: answer.broken, terms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelSource;
    use crate::rewrite::PromptConfig;
    use crate::types::{QueryLanguage, RetrieverCard};

    fn encoder(style: PromptStyle) -> (PromptEncoder, Tokenizer) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
        let tokenizer = ModelSource::open(&path).unwrap().tokenizer().unwrap();
        let card = RetrieverCard {
            name: "bm25".into(),
            version: "1".into(),
            digest: "d".into(),
            languages: vec![QueryLanguage::Plain],
            fields: vec![],
            reads_history: false,
            content: "garden tools".into(),
        };
        let prompter = Prompter::new(PromptConfig { style, ..Default::default() }, &card).unwrap();
        (PromptEncoder::new(prompter, tokenizer.clone()).unwrap(), tokenizer)
    }

    #[test]
    fn prefix_and_own_part_spell_the_whole_prompt_in_every_style() {
        for style in [PromptStyle::FewShot, PromptStyle::Chat, PromptStyle::ThinkAnswer] {
            let (encoder, tokenizer) = encoder(style);
            let query = Query::text("something to cut the hedge");
            let whole = match encoder.prompter().prompt(&query).unwrap() {
                Prompt::Completion { prefix, query } => prefix + &query,
                Prompt::Chat { messages } => tokenizer.chat_template().unwrap().render(&messages, true).unwrap(),
            };
            let tokens = [encoder.prefix(), &encoder.encode(&query).unwrap()].concat();
            assert_eq!(tokens, tokenizer.encode(&whole, true).unwrap(), "{style:?}: {whole}");
        }
    }

    #[test]
    fn a_reading_knows_what_the_rewrite_would_be_without_each_term() {
        let (encoder, _) = encoder(PromptStyle::FewShot);
        let completion = " hedge trimmer cordless\n";
        let reading = encoder.read(&Query::text("cut the hedge"), completion);
        assert!(reading.rewrite.unwrap().text.ends_with("trimmer cordless"));
        let spans: Vec<&str> = reading.terms.iter().map(|t| &completion[t.span.clone()]).collect();
        assert_eq!(spans, ["hedge", "trimmer", "cordless"]);
        assert!(
            reading.terms[1].without.text.ends_with("cordless") && !reading.terms[1].without.text.contains("trimmer")
        );
    }
}
