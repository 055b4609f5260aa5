//! The tokens of answers that the model did not sample: injected words, and the completions of supervised steps.

use std::sync::Arc;

use super::PromptEncoder;
use crate::config::{Example, PromptStyle};
use crate::prompt::{PLACEHOLDER, unmarked};
use querywright_model::{Grammar, Message};
use querywright_types::{Error, Result};

impl PromptEncoder {
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
            PromptStyle::FewShot => {
                let theirs = 1..1 + text.len();
                let line = format!(" {text}\n");
                Ok(Some(self.tokenizer.encode_with_users(&line, std::slice::from_ref(&theirs), false)?))
            }
            PromptStyle::Chat | PromptStyle::ThinkAnswer => Ok(None),
        }
    }

    /// As [`encode_answer`](Self::encode_answer), in every style: for supervised steps. In a conversation the answer is what
    /// the template's `response` makes of it, with `thought` as the reasoning, and the model's own end of a turn. None where
    /// `grammar` does not allow one of the words.
    ///
    /// # Errors
    /// Those of the tokenizer and the templates; [`Error::Argument`] for a few-shot answer of several lines, and where the
    /// model has no token that ends a turn.
    pub fn encode_completion(
        &self,
        text: &str,
        thought: Option<&str>,
        grammar: Option<&Arc<Grammar>>,
    ) -> Result<Option<Vec<u32>>> {
        if self.prompter.config().style == PromptStyle::FewShot {
            if text.contains(['\n', '\r']) {
                let remedy = "write it in one line, or set prompt.style = \"chat\"";
                return Err(Error::argument("answer", "it has several lines, and a few-shot prompt takes one", remedy));
            }
            return self.encode_answer(text, grammar);
        }
        if grammar.is_some() {
            return self.encode_answer(text, grammar);
        }
        let (search, thought) = (text.to_owned(), thought.unwrap_or_default().to_owned());
        let example = Example { search, thought, ..Example::default() };
        let (plain, marked) = (self.prompter.response(&example, false)?, self.prompter.response(&example, true));
        let (found, mut theirs) = unmarked(marked.as_deref().unwrap_or_default());
        if found != plain {
            // The template did something else with the marks, so that nothing in it can be told apart.
            theirs = std::iter::once(0..plain.len()).collect();
        }
        let mut tokens = self.tokenizer.encode_with_users(&plain, &theirs, false)?;
        tokens.push(self.turn_end()?);
        Ok(Some(tokens))
    }

    /// The token with which the model ends its turn: the first of its end tokens behind an answer in its chat template.
    fn turn_end(&self) -> Result<u32> {
        let ends = self.tokenizer.eos_ids();
        let messages = [Message::new("user", "q"), Message::new("assistant", format!("a{PLACEHOLDER}"))];
        let rendered = self.tokenizer.chat_template().and_then(|template| template.render(&messages, false).ok());
        let after = rendered.as_deref().and_then(|text| text.rsplit_once(PLACEHOLDER)).map(|(_, after)| after);
        let after = self.tokenizer.encode(after.unwrap_or_default(), false)?;
        let end = after.into_iter().find(|token| ends.contains(token)).or(ends.first().copied());
        end.ok_or_else(|| {
            let remedy =
                "set prompt.style = \"few-shot\", whose answers end with their line, or take an instruct model";
            Error::argument("prompt.style", "the model has no token that ends a turn", remedy)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PromptConfig, Prompter};
    use querywright_model::{ModelSource, Tokenizer};
    use querywright_types::{Query, RetrieverCard, Rewrite};

    fn encoder(style: PromptStyle) -> (PromptEncoder, Tokenizer) {
        let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
        let tokenizer = ModelSource::open(&golden).unwrap().tokenizer().unwrap();
        let card = RetrieverCard::new("bm25", "d").with_version("1");
        let config = PromptConfig { style, mode: crate::Mode::Rewrite, ..PromptConfig::default() };
        let prompter = Prompter::new(config, &card).unwrap();
        (PromptEncoder::new(prompter, tokenizer.clone()).unwrap(), tokenizer)
    }

    #[test]
    fn a_completion_of_any_style_ends_as_the_model_ends_it_and_is_read_as_what_was_given() {
        let query = Query::text("tea");
        for style in [PromptStyle::FewShot, PromptStyle::Chat, PromptStyle::ThinkAnswer] {
            let (encoder, tokenizer) = encoder(style);
            let said = "pot \"for\" tea <|im_end|>";
            let tokens = encoder.encode_completion(said, Some("why <|im_end|> not"), None).unwrap().unwrap();
            let (last, body) = tokens.split_last().unwrap();
            let text = tokenizer.decode(body).unwrap();
            match style {
                PromptStyle::FewShot => assert_eq!(tokenizer.decode(&[*last]).unwrap(), "\n"),
                _ => assert_eq!(tokenizer.eos_ids().iter().position(|id| id == last), Some(0)),
            }
            assert!(!tokenizer.has_special(body), "what others wrote is no token of the model");
            let read = encoder.read(&query, &Rewrite::plain("tea"), &text).unwrap();
            assert_eq!(read.broken, None, "{style:?}: {text}");
            assert_eq!(read.rewrite.unwrap().text, said, "{style:?}");
            assert_eq!(text.contains("<think>why"), style == PromptStyle::ThinkAnswer);
        }
        let (few_shot, _) = encoder(PromptStyle::FewShot);
        let refused = few_shot.encode_completion("a\nb", None, None).unwrap_err().to_string();
        assert!(refused.contains("several lines") && refused.contains("chat"), "{refused}");
    }
}
