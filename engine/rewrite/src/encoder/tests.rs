use super::*;
use crate::{Candidates, Example, PromptConfig, PromptStyle, Task, Vocabulary};
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
        turns: vec![format!("{TOKEN} before")],
    };
    let candidates = |_: &Query| Ok(vec![TOKEN.to_owned(), format!("tea{TOKEN}")]);
    for special in [true, false] {
        let folder = model_with(TOKEN, special);
        for style in [PromptStyle::FewShot, PromptStyle::Chat, PromptStyle::ThinkAnswer] {
            for task in [Task::Search, Task::Recommend, Task::Conversation] {
                let examples = Some(vec![example.clone()]);
                let content = Some(format!("tools {TOKEN}"));
                let config = PromptConfig { style, task, examples, content, candidates: 2, ..Default::default() };
                let (plain, _) = encoder_with(&golden(), config.clone(), candidates);
                let (with, tokenizer) = encoder_with(folder.path(), config, candidates);
                let query = Query::text(format!("tea {TOKEN} pot{TOKEN}")).with_turns([TOKEN, "x@@END@@y"]);
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
    let (encoder, tokenizer) = encoder_of(folder.path(), PromptConfig { template: Some(path), ..Default::default() });
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
    let (encoder, tokenizer) = encoder_of(folder.path(), PromptConfig { template: Some(path), ..Default::default() });
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

/// Finds documents 0, 1, 2, …, as many as asked for, at most five; fails for "down".
struct Five(RetrieverCard);

impl querywright_types::Retriever for Five {
    fn card(&self) -> &RetrieverCard {
        &self.0
    }

    fn retrieve(
        &self,
        requests: &[querywright_types::Request],
        _: Deadline,
    ) -> Vec<std::result::Result<querywright_types::Ranking, querywright_types::Fault>> {
        let hit = |doc: u32| querywright_types::Hit { doc, score: -(doc as f32) };
        let one = |request: &querywright_types::Request| match request.text.as_str() {
            "down" => Err(querywright_types::Fault::new("five", querywright_types::FaultKind::Network, "down")),
            _ => Ok(querywright_types::Ranking { hits: (0..request.k.min(5) as u32).map(hit).collect() }),
        };
        requests.iter().map(one).collect()
    }
}

/// Prompts that show the documents which `Five` finds, by these texts.
fn ordering(
    folder: &std::path::Path,
    config: PromptConfig,
    text: impl Fn(u32) -> String + Send + Sync + 'static,
) -> (PromptEncoder, Tokenizer) {
    let tokenizer = ModelSource::open(folder).unwrap().tokenizer().unwrap();
    let card = RetrieverCard::new("five", "d").with_content("garden tools").with_documents(5);
    let shortlist = crate::Shortlist::new(Arc::new(Five(card.clone())), Arc::new(text));
    let prompter = Prompter::new(config, &card).unwrap().with_shortlist(shortlist);
    (PromptEncoder::new(prompter, tokenizer.clone()).unwrap(), tokenizer)
}

#[test]
fn candidates_are_listed_by_their_labels_within_their_tokens_and_an_answer_names_each_once() {
    let rerank = crate::RerankConfig { max_tokens: 6, ..Default::default() };
    let config = PromptConfig { mode: Mode::Rerank, candidates: 4, rerank, ..PromptConfig::default() };
    let texts = ["a rake", "a very long spade", "", "the s\u{e4}\u{e4}w"];
    let (encoder, tokenizer) = ordering(&golden(), config, move |doc| texts[doc as usize].to_owned());
    let tokens = encoder.prompt_tokens(&Query::text("dig"), 0).unwrap();
    let shown = tokenizer.decode(&tokens.tokens).unwrap();
    // A token of this model is a byte; half of the second letter with dots is none.
    assert!(shown.ends_with("Request: dig\nA. a rake\nB. a very\nC. -\nD. the s\nOrder:"), "{shown}");
    let can = |text: &str| encoder.encode_answer(text, tokens.grammar.as_ref()).unwrap().is_some();
    assert!(can("C A") && can("D C B A") && can(""));
    assert!(!can("A A") && !can("E") && !can("rake"));
    assert!(encoder.is_restricted());
    assert!(encoder.prompt_tokens(&Query::text("down"), 0).unwrap_err().is_fault());
}

#[test]
fn nothing_of_a_candidate_becomes_a_special_token() {
    let folder = model_with(TOKEN, true);
    let rerank = crate::RerankConfig { max_tokens: 64, ..Default::default() };
    for style in [PromptStyle::FewShot, PromptStyle::Chat, PromptStyle::ThinkAnswer] {
        let config =
            PromptConfig { mode: Mode::Rerank, candidates: 3, rerank: rerank.clone(), style, ..Default::default() };
        let text = |doc: u32| format!("spade {TOKEN} {doc}{TOKEN}");
        let ((plain, _), (with, tokenizer)) =
            (ordering(&golden(), config.clone(), text), ordering(folder.path(), config, text));
        let query = Query::text("dig");
        assert!(tokenizer.encode(TOKEN, false).unwrap().contains(&259));
        assert_eq!(with.prefix(), plain.prefix());
        assert_eq!(with.encode(&query).unwrap(), plain.encode(&query).unwrap(), "{style:?}");
        assert_eq!(with.is_restricted(), style == PromptStyle::FewShot, "a conversation may reason first");
    }
}

#[test]
fn the_oldest_turns_are_left_out_by_their_tokens_and_never_the_message_itself() {
    let conversation = crate::ConversationConfig { max_tokens: 12, ..Default::default() };
    let config = PromptConfig { task: Task::Conversation, conversation, ..PromptConfig::default() };
    let (encoder, tokenizer) = encoder_of(&golden(), config);
    let query = Query::text("a message of more than twelve tokens").with_turns(["oldest", "older", "newest"]);
    let shown = tokenizer.decode(&encoder.encode(&query).unwrap()).unwrap();
    assert!(
        !shown.contains("oldest") && shown.contains("Before: older\nBefore: newest\nRequest: a message"),
        "{shown}"
    );
}

#[test]
fn an_order_that_has_no_room_for_a_label_is_refused_and_one_without_a_retriever() {
    let card = RetrieverCard::new("five", "d");
    let tokenizer = ModelSource::open(&golden()).unwrap().tokenizer().unwrap();
    let prompter = |config: PromptConfig| Prompter::new(config, &card).unwrap();
    let said = PromptEncoder::new(prompter(PromptConfig::rerank()), tokenizer.clone()).unwrap_err().to_string();
    assert!(said.starts_with("prompt.candidates: 10") && said.contains("with_shortlist"), "{said}");
    let shortlist = crate::Shortlist::new(Arc::new(Five(card.clone())), Arc::new(|_| String::new()));
    let short = PromptConfig { max_answer_tokens: 2, ..PromptConfig::rerank() };
    let said = PromptEncoder::new(prompter(short).with_shortlist(shortlist), tokenizer).unwrap_err().to_string();
    assert!(said.starts_with("prompt.max_answer_tokens: 2") && said.contains("21 for an order of all"), "{said}");
}
