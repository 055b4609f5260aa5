//! Prompts in the tokens of one model.
//!
//! What a template says may hold special tokens: a chat's turns begin and end with them. What others wrote (requests,
//! titles, examples, the content of a catalogue) never does, whatever it spells.

use std::sync::Arc;

use super::prompt::{ChatMessage, PLACEHOLDER, Prompt, PromptStyle, RequestValues, Task, unmarked};
use super::prompter::Prompter;
use super::reading::Reading;
use super::words::{Words, one_of_the_choices, words_of};
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
    /// name of a choice; when prompts show candidates and nothing gives them ([`Prompter::with_candidates`]).
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
        if let Some(Words::Candidates(words)) = words.as_ref().filter(|_| prompter.config().task == Task::Search) {
            // The model chooses from what it sees.
            prompter = prompter.with_candidates(words.clone());
        }
        if prompter.config().candidates > 0 {
            prompter.candidate_source()?;
        }
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
        let choices = one_of_the_choices(&prompter, &tokenizer)?;
        Ok(Self { prompter, tokenizer, prefix, suffix, stop, words, choices })
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
        self.encode_values(&self.prompter.request_values(query, &found))
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
        let values = self.prompter.request_values(query, &found);
        let grammar = self.grammar(query, &values, found, deadline)?;
        Ok(PromptTokens { grammar, ..PromptTokens::free(stream, self.encode_values(&values)?) })
    }

    /// Whether answers are restricted to words, or to names of choices.
    pub fn is_restricted(&self) -> bool {
        self.words.is_some() || self.choices.is_some()
    }

    /// What the answers to a query may consist of: what its prompt shows, and the vocabulary; none where they are free.
    fn grammar(
        &self,
        query: &Query,
        shown: &RequestValues,
        found: Vec<String>,
        deadline: Deadline,
    ) -> Result<Option<Arc<Grammar>>> {
        let Some(words) = &self.words else { return Ok(self.choices.clone()) };
        let texts = shown.history.iter().chain([&shown.text]).chain(&shown.candidates);
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
        config.candidates > 0 && config.task == Task::Search
    }

    /// What ends a restricted answer.
    fn stop_text(&self) -> &str {
        self.stop.first().map_or("\n", String::as_str)
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
            PromptStyle::FewShot => {
                let theirs = 1..1 + text.len();
                let line = format!(" {text}\n");
                Ok(Some(self.tokenizer.encode_with_users(&line, std::slice::from_ref(&theirs), false)?))
            }
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
mod tests {
    use super::*;
    use crate::{Candidates, Example, PromptConfig, Task, Vocabulary};
    use querywright_model::ModelSource;
    use querywright_types::RetrieverCard;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn golden() -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3")
    }

    fn encoder_of(folder: &std::path::Path, config: PromptConfig) -> (PromptEncoder, Tokenizer) {
        encoder_with(folder, config, |_: &Query| panic!("nobody asks for candidates"))
    }

    fn encoder_with(
        folder: &std::path::Path,
        config: PromptConfig,
        candidates: impl Candidates + 'static,
    ) -> (PromptEncoder, Tokenizer) {
        let tokenizer = ModelSource::open(folder).unwrap().tokenizer().unwrap();
        let card = RetrieverCard::new("bm25", "d").with_version("1").with_content("garden tools");
        let prompter = Prompter::new(config, &card).unwrap().with_candidates(Arc::new(candidates));
        (PromptEncoder::new(prompter, tokenizer.clone()).unwrap(), tokenizer)
    }

    /// The tiny model with a further token.
    fn model_with(token: &str, special: bool) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(golden()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
        let path = folder.path().join("tokenizer.json");
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        json["added_tokens"].as_array_mut().unwrap().push(serde_json::json!({"id": 259, "content": token,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special}));
        std::fs::write(&path, json.to_string()).unwrap();
        folder
    }

    const TOKEN: &str = "@@END@@";

    #[test]
    fn nothing_that_others_wrote_becomes_a_special_token_in_any_style() {
        let example = Example {
            request: format!("a {TOKEN} request"),
            history: vec![TOKEN.into()],
            search: format!("found {TOKEN}"),
            thought: format!("{TOKEN} thought"),
            candidates: vec![format!("one {TOKEN}"), format!("{TOKEN}two")],
        };
        let candidates = |_: &Query| Ok(vec![TOKEN.to_owned(), format!("tea{TOKEN}")]);
        for special in [true, false] {
            let folder = model_with(TOKEN, special);
            for style in [PromptStyle::FewShot, PromptStyle::Chat, PromptStyle::ThinkAnswer] {
                for task in [Task::Search, Task::Recommend] {
                    let examples = Some(vec![example.clone()]);
                    let content = Some(format!("tools {TOKEN}"));
                    let config = PromptConfig { style, task, examples, content, candidates: 2, ..Default::default() };
                    let (plain, _) = encoder_with(&golden(), config.clone(), candidates);
                    let (with, tokenizer) = encoder_with(folder.path(), config, candidates);
                    let query = Query::text(format!("tea {TOKEN} pot{TOKEN}"));
                    assert!(tokenizer.encode(&query.text, false).unwrap().contains(&259));
                    assert_eq!(with.prefix(), plain.prefix(), "{style:?} {task:?}");
                    assert_eq!(with.encode(&query).unwrap(), plain.encode(&query).unwrap(), "{style:?} {task:?}");
                    let answer = |encoder: &PromptEncoder| encoder.encode_answer(&query.text, None).unwrap();
                    assert_eq!(answer(&with), answer(&plain), "words of documents");
                }
            }
        }
    }

    #[test]
    fn a_template_s_own_special_tokens_stay_tokens_beside_what_a_user_completes() {
        let folder = model_with(TOKEN, true);
        let path = folder.path().join("mine.jinja");
        let text = "{% macro instruction() %}I@@END@@{% endmacro %}\
                    {% macro request(q) %}@@END@@@@{{ q.text }}@@ {{ q.text | upper }}@@END@@ A:{% endmacro %}\
                    {% macro response(e) %} {{ e.search }}{% endmacro %}";
        std::fs::write(&path, text).unwrap();
        let (encoder, tokenizer) =
            encoder_of(folder.path(), PromptConfig { template: Some(path), ..Default::default() });
        let count = |text: &str| {
            let ids = encoder.encode(&Query::text(text)).unwrap();
            assert!(tokenizer.decode(&ids).unwrap().contains(&format!("@@{text}@@")), "{text}");
            ids.iter().filter(|id| **id == 259).count()
        };
        // The user's END stands between the template's own @@.
        assert_eq!([count("tea"), count("END"), count("x@@END@@y")], [2, 2, 2]);
        assert_eq!(encoder.prefix().iter().filter(|id| **id == 259).count(), 1 + 3 * 2);
    }

    #[test]
    fn a_template_that_reads_its_values_still_cannot_be_made_to_say_a_special_token() {
        let folder = model_with(TOKEN, true);
        let path = folder.path().join("mine.jinja");
        let text = "{% macro instruction() %}I{% endmacro %}\
                    {% macro request(q) %}{{ q.text | length }} {{ q.text[1:] }} A:{% endmacro %}\
                    {% macro response(e) %} {{ e.search }}{% endmacro %}";
        std::fs::write(&path, text).unwrap();
        let (encoder, _) = encoder_of(folder.path(), PromptConfig { template: Some(path), ..Default::default() });
        assert!(!encoder.encode(&Query::text(format!("x{TOKEN}"))).unwrap().contains(&259));
    }

    #[test]
    fn a_template_that_takes_no_marked_values_is_used_and_guarded_all_the_same() {
        let folder = model_with(TOKEN, true);
        let path = folder.path().join("mine.jinja");
        let text = "{% macro instruction() %}I{% endmacro %}\
                    {% macro request(q) %}{% if q.text != q.text | replace('\u{fdd0}', '') %}{{ nothing }}{% endif %}{{ q.text }} A:{% endmacro %}\
                    {% macro response(e) %} {{ e.search }}{% endmacro %}";
        std::fs::write(&path, text).unwrap();
        let (encoder, tokenizer) =
            encoder_of(folder.path(), PromptConfig { template: Some(path), ..Default::default() });
        assert!(!encoder.encode(&Query::text(format!("x{TOKEN}"))).unwrap().contains(&259));
        assert!(tokenizer.decode(encoder.prefix()).unwrap().starts_with("I\n\n"));
    }

    #[test]
    fn a_chat_template_that_cannot_be_used_does_not_keep_few_shot_prompts_from_a_model() {
        let folder = model_with(TOKEN, true);
        std::fs::write(folder.path().join("chat_template.jinja"), "{% if %}").unwrap();
        let (encoder, tokenizer) = encoder_of(folder.path(), PromptConfig::default());
        assert!(!encoder.encode(&Query::text("tea")).unwrap().is_empty());
        let chat = Prompter::new(
            PromptConfig { style: PromptStyle::Chat, ..Default::default() },
            &RetrieverCard::new("bm25", "d").with_version("1"),
        );
        let said = PromptEncoder::new(chat.unwrap(), tokenizer).unwrap_err().to_string();
        assert!(said.contains("chat_template") && said.contains("few-shot"), "{said}");
    }

    #[test]
    fn what_the_prompt_shows_may_be_written_and_its_source_is_asked_once_for_prompt_and_answers() {
        let golden = golden();
        let asked = Arc::new(AtomicUsize::new(0));
        let source = |words: &'static [&'static str]| -> Arc<dyn Candidates> {
            let asked = asked.clone();
            Arc::new(move |_: &Query| {
                asked.fetch_add(1, Ordering::Relaxed);
                Ok(words.iter().map(|word| (*word).to_owned()).collect())
            })
        };
        let tokenizer = ModelSource::open(&golden).unwrap().tokenizer().unwrap();
        let card = RetrieverCard::new("bm25", "d");
        let prompter = |config: PromptConfig| Prompter::new(config, &card).unwrap();
        let restricted = |config, words| PromptEncoder::restricted(prompter(config), tokenizer.clone(), words).unwrap();
        let can = |encoder: &PromptEncoder, tokens: &PromptTokens, text: &str| {
            encoder.encode_answer(text, tokens.grammar.as_ref()).unwrap().is_some()
        };
        let text = |tokens: &PromptTokens| tokenizer.decode(&tokens.tokens).unwrap();

        let config = PromptConfig { vocabulary: Vocabulary::Feedback, candidates: 2, ..PromptConfig::default() };
        let encoder = restricted(config.clone(), Words::Candidates(source(&["rake", "hoe", "spade"])));
        let tokens = encoder.prompt_tokens(&Query::text("dig"), 0).unwrap();
        assert_eq!(asked.swap(0, Ordering::Relaxed), 1, "neither for the prefix nor a second time");
        assert!(text(&tokens).contains("Request: dig\nWords: rake, hoe\nSearch:"), "{}", text(&tokens));
        assert!(can(&encoder, &tokens, "spade dig rake") && !can(&encoder, &tokens, "fork"));
        assert_eq!(tokens.tokens, encoder.encode(&Query::text("dig")).unwrap());
        assert_eq!(asked.swap(0, Ordering::Relaxed), 1);

        // Titles in the prompt, words for the answers: two sources.
        let config = PromptConfig { task: Task::Recommend, ..config };
        let with_titles = prompter(config).with_candidates(source(&["Red lamp", "Green mat"]));
        let words = Words::Candidates(source(&["rake"]));
        let encoder = PromptEncoder::restricted(with_titles, tokenizer.clone(), words).unwrap();
        let tokens = encoder.prompt_tokens(&Query::text("Blue pot"), 0).unwrap();
        assert_eq!(asked.swap(0, Ordering::Relaxed), 2);
        assert!(text(&tokens).contains("Had: Blue pot\nCandidates: Red lamp; Green mat\nSearch:"), "{}", text(&tokens));
        assert!(can(&encoder, &tokens, "lamp mat rake pot") && !can(&encoder, &tokens, "fork"));

        let config = PromptConfig { vocabulary: Vocabulary::Catalog, candidates: 1, ..PromptConfig::default() };
        let with_words = prompter(config).with_candidates(source(&["wheelbarrow"]));
        let words = Words::of_documents(&tokenizer, ["rake", "rake"].map(str::to_owned).into_iter()).unwrap();
        let encoder = PromptEncoder::restricted(with_words, tokenizer.clone(), words).unwrap();
        let tokens = encoder.prompt_tokens(&Query::text("dig"), 0).unwrap();
        assert!(can(&encoder, &tokens, "rake wheelbarrow") && !can(&encoder, &tokens, "hoe"));
    }

    #[test]
    fn a_prompt_that_shows_candidates_is_refused_without_their_source_and_fails_with_it() {
        let config = PromptConfig { candidates: 3, ..PromptConfig::default() };
        let card = RetrieverCard::new("bm25", "d");
        let tokenizer = ModelSource::open(&golden()).unwrap().tokenizer().unwrap();
        let bare = Prompter::new(config.clone(), &card).unwrap();
        let said = PromptEncoder::new(bare, tokenizer).unwrap_err().to_string();
        assert!(said.starts_with("prompt.candidates: 3") && said.contains("with_candidates"), "{said}");
        let (encoder, _) = encoder_with(&golden(), config, |_: &Query| Err(Error::argument("index", "down", "wait")));
        let error = encoder.prompt_tokens(&Query::text("dig"), 0).unwrap_err();
        assert!(error.to_string().starts_with("index: down"), "{error}");
        let past = Deadline::after(std::time::Duration::ZERO);
        assert!(encoder.prompt_tokens_within(&Query::text("dig"), 0, past).unwrap_err().is_deadline());
    }

    #[test]
    fn the_tokens_of_prefix_and_query_are_those_of_the_whole_prompt_in_every_style() {
        let styles = [PromptStyle::FewShot, PromptStyle::Chat, PromptStyle::ThinkAnswer];
        for (style, candidates) in styles.into_iter().flat_map(|style| [(style, 0), (style, 3)]) {
            let config = PromptConfig { style, candidates, ..PromptConfig::default() };
            let (encoder, tokenizer) =
                encoder_with(&golden(), config, |_: &Query| Ok(vec!["shears".to_owned(), "trim".to_owned()]));
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
