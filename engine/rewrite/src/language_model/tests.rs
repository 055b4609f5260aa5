use super::*;
use crate::BaseConfig;
use crate::words::Words;
use querywright_types::{Fault, FaultKind, QueryLanguage};
use std::time::Duration;

fn rewriter() -> LanguageModel {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
    let card = RetrieverCard::new("bm25", "d").with_version("1").with_content("garden tools");
    LanguageModel::open(&model, None, &card).unwrap()
}

#[test]
fn each_query_has_one_rewrite_and_no_query_has_none() {
    let (rewriter, queries) = (rewriter(), ["cut the hedge", "dig", "rake"].map(Query::text));
    assert_eq!(rewriter.completions(&queries, Deadline::NONE).unwrap().len(), 3);
    assert_eq!(rewriter.rewrite(&queries, Deadline::NONE).len(), 3);
    assert!(rewriter.rewrite(&[], Deadline::NONE).is_empty());
    let nothing = rewriter.rewrite(&[Query::text(" "), Query::text("dig")], Deadline::NONE);
    assert_eq!((nothing.len(), nothing[0].as_ref().unwrap().text.as_str()), (2, ""), "no model is asked");
}

#[test]
fn a_restricted_model_writes_words_of_the_catalogue_and_of_the_request_or_leaves_the_query_as_it_is() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
    let card = RetrieverCard::new("bm25", "d").with_version("1").with_content("garden tools");
    let prompt =
        PromptConfig { mode: crate::Mode::Rewrite, vocabulary: crate::Vocabulary::Catalog, ..PromptConfig::default() };
    let folder = tempfile::tempdir().unwrap();
    prompt.write(folder.path()).unwrap();
    assert_eq!(PromptConfig::read(folder.path()).unwrap(), Some(prompt.clone()));
    let source = ModelSource::open(&model).unwrap();
    let (decoder, tokenizer) = (Decoder::load(&source, Precision::F32, &()).unwrap(), source.tokenizer().unwrap());
    let prompter = || Prompter::new(prompt.clone(), &card).unwrap();
    let refused = PromptEncoder::new(prompter(), tokenizer.clone()).unwrap_err().to_string();
    assert!(refused.starts_with("prompt.vocabulary: Catalog"), "{refused}");
    let documents = ["a rake for Leaves", "a spade", "rake, spade and hoe", "hoe", "leaves"].map(str::to_owned);
    let words = Words::of_documents(&tokenizer, documents.into_iter()).unwrap();
    let encoder = Arc::new(PromptEncoder::restricted(prompter(), tokenizer.clone(), words).unwrap());
    let sampling = SamplingConfig { max_completion_length: 20, ..SamplingConfig::default() };
    let rewriter = LanguageModel::new("m", Arc::new(decoder), tokenizer, encoder, None, sampling).unwrap();
    let queries: Vec<Query> = (0..24).map(|i| Query::text(format!("Cut hedge{i}"))).collect();
    let (mut nothing, mut words) = (0, 0);
    for (query, rewrite) in queries.iter().zip(rewriter.rewrite(&queries, Deadline::NONE)) {
        let text = rewrite.unwrap().text;
        if text == query.text {
            nothing += 1;
            continue;
        }
        let own: Vec<&str> = query.text.split(' ').chain(["cut", "a", "rake", "spade", "hoe", "leaves"]).collect();
        assert!(text.split(' ').all(|word| own.contains(&word)), "{text:?} for {query:?}");
        words += 1;
    }
    assert!(nothing > 0 && words > 0, "{nothing} {words}");
}

#[test]
fn an_adapter_whose_prompt_shows_candidates_is_refused_where_nothing_gives_them() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
    let folder = tempfile::tempdir().unwrap();
    PromptConfig { candidates: 5, ..PromptConfig::default() }.write(folder.path()).unwrap();
    let opened = LanguageModel::open(&model, Some(folder.path()), &RetrieverCard::new("bm25", "d"));
    let said = opened.unwrap_err().to_string();
    assert!(said.starts_with("prompt.candidates: 5") && said.contains("with_candidates"), "{said}");
}

#[test]
fn a_first_search_that_fails_costs_its_own_query_and_each_query_is_asked_for_once() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
    let source = ModelSource::open(&model).unwrap();
    let (decoder, tokenizer) = (Decoder::load(&source, Precision::F32, &()).unwrap(), source.tokenizer().unwrap());
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = asked.clone();
    let candidates = move |query: &Query| {
        noted.lock().unwrap().push(query.text.clone());
        match query.text.as_str() {
            "bad" => Err(Error::Fault(Fault::new("bm25", FaultKind::Network, "down"))),
            _ => Ok(vec!["rake".to_owned()]),
        }
    };
    let config = PromptConfig { candidates: 2, mode: crate::Mode::Rewrite, ..PromptConfig::default() };
    let prompter = Prompter::new(config, &RetrieverCard::new("bm25", "d")).unwrap();
    let prompter = prompter.with_candidates(Arc::new(candidates));
    let encoder = Arc::new(PromptEncoder::new(prompter, tokenizer.clone()).unwrap());
    let rewriter =
        LanguageModel::new("m", Arc::new(decoder), tokenizer, encoder, None, SamplingConfig::greedy(8)).unwrap();
    let rewrite = |texts: &[&str]| {
        let queries: Vec<Query> = texts.iter().map(|text| Query::text(*text)).collect();
        let rewrites = rewriter.rewrite(&queries, Deadline::NONE);
        (std::mem::take(&mut *asked.lock().unwrap()), rewrites)
    };
    let (seen, rewrites) = rewrite(&["dig", "bad", " ", "cut"]);
    assert_eq!(seen, ["dig", "bad", "cut"]);
    assert!(matches!(&rewrites[1], Err(Error::Fault(fault)) if fault.kind == FaultKind::Network), "{rewrites:?}");
    assert_eq!(rewrites[2].as_ref().unwrap().text, "");
    let whole = |r: &Result<Rewrite>| r.as_ref().map(|r| r.text.clone()).map_err(ToString::to_string);
    let alone: Vec<_> = ["dig", "cut"].iter().map(|text| whole(&rewrite(&[text]).1[0])).collect();
    assert_eq!([whole(&rewrites[0]), whole(&rewrites[3])], alone[..], "the others have theirs");
    assert!(rewrite(&["bad"]).1.remove(0).is_err() && rewrite(&["", " "]).0.is_empty());
}

#[test]
fn a_rewrite_below_the_least_confidence_is_not_used_and_that_is_no_error() {
    let queries: Vec<Query> = (0..12).map(|i| Query::text(format!("cut hedge {i}"))).collect();
    let texts = |least: f32| rewriter().with_confidence(least).rewrite(&queries, Deadline::NONE);
    let all = rewriter().rewrite(&queries, Deadline::NONE);
    let sure: Vec<f32> = all.iter().flatten().filter_map(|r| r.confidence).collect();
    assert!(sure.len() > 1 && sure.iter().all(|c| *c < 0.0 && c.is_finite()), "{all:?}");
    let least = sure.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut kept, mut used) = (0, 0);
    for ((query, plain), gated) in queries.iter().zip(&all).zip(texts(least)) {
        let Ok(gated) = gated else { continue };
        match gated.kept {
            Some(why) => {
                assert_eq!((why, &gated), (Kept::LowConfidence, &Rewrite::plain(query.text.clone())));
                kept += 1;
            }
            None => {
                assert_eq!(&gated, plain.as_ref().unwrap());
                used += 1;
            }
        }
    }
    assert!(kept > 0 && used > 0, "{kept} {used}");
    let broken = |rewrites: &[Result<Rewrite>]| rewrites.iter().map(Result::is_err).collect::<Vec<_>>();
    assert_eq!(broken(&texts(f32::INFINITY)), broken(&all), "what holds no query is an error, sure or not");
}

#[test]
fn samples_are_read_as_rewrites_and_equal_for_equal_seeds() {
    let queries = ["cut the hedge", "dig"].map(Query::text);
    let sampling = SamplingConfig { max_completion_length: 12, ..SamplingConfig::default() };
    let samples = || rewriter().samples(&queries, &sampling, 4).unwrap();
    let found = samples();
    assert!(found.len() == 2 && found.iter().all(|group| group.len() <= 4), "{found:?}");
    assert!(found.iter().any(|group| !group.is_empty()), "{found:?}");
    assert_eq!(found, samples());
}

#[test]
fn a_model_that_chooses_names_nothing_but_choices_and_one_that_it_cannot_write_in_time_is_refused() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
    let card = RetrieverCard::new("bm25", "d").with_languages([QueryLanguage::Boolean]).with_fields(["title"]);
    let title = BaseConfig { contents: 0.0, fields: [("title".to_owned(), 1.0)].into(), ..BaseConfig::default() };
    let prompt = PromptConfig {
        mode: crate::Mode::Choose,
        choices: [("title".to_owned(), title)].into(),
        ..PromptConfig::default()
    };
    let source = ModelSource::open(&model).unwrap();
    let (decoder, tokenizer) = (Decoder::load(&source, Precision::F32, &()).unwrap(), source.tokenizer().unwrap());
    let encoder = |prompt: PromptConfig| PromptEncoder::new(Prompter::new(prompt, &card).unwrap(), tokenizer.clone());
    let short = PromptConfig { max_answer_tokens: 6, ..prompt.clone() };
    let refused = encoder(short).unwrap_err().to_string();
    assert!(refused.starts_with("prompt.max_answer_tokens: 6, and the choice title has 7 tokens"), "{refused}");
    let encoder = Arc::new(encoder(prompt).unwrap());
    assert!(encoder.is_restricted());
    let sampling = SamplingConfig { max_completion_length: 20, ..SamplingConfig::default() };
    let rewriter = LanguageModel::new("m", Arc::new(decoder), tokenizer.clone(), encoder, None, sampling).unwrap();
    let queries: Vec<Query> = (0..24).map(|i| Query::text(format!("hedge{i}"))).collect();
    let mut seen = [0, 0];
    for (query, rewrite) in queries.iter().zip(rewriter.rewrite(&queries, Deadline::NONE)) {
        let text = rewrite.unwrap().text;
        assert!(text == query.text || text == format!("title:({})", query.text), "{text:?}");
        seen[usize::from(text == query.text)] += 1;
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}

#[test]
fn past_the_deadline_each_query_has_an_error_that_says_so() {
    let past = Deadline::after(Duration::ZERO);
    let rewrites = rewriter().rewrite(&[Query::text("cut the hedge"), Query::text("dig")], past);
    assert_eq!(rewrites.len(), 2);
    assert!(rewrites.iter().all(|r| r.as_ref().is_err_and(Error::is_deadline)), "{rewrites:?}");
}

/// Finds documents 0, 1, 2, …: as many as the text has letters.
struct Letters(RetrieverCard);

impl querywright_types::Retriever for Letters {
    fn card(&self) -> &RetrieverCard {
        &self.0
    }

    fn retrieve(
        &self,
        requests: &[querywright_types::Request],
        _: Deadline,
    ) -> Vec<std::result::Result<querywright_types::Ranking, Fault>> {
        let hit = |doc: usize| querywright_types::Hit { doc: doc as u32, score: -(doc as f32) };
        let found = |request: &querywright_types::Request| (0..request.k.min(request.text.len())).map(hit).collect();
        requests.iter().map(|request| Ok(querywright_types::Ranking { hits: found(request) })).collect()
    }
}

#[test]
fn a_model_that_orders_names_found_documents_once_and_keeps_the_order_where_it_is_not_sure() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
    let source = ModelSource::open(&folder).unwrap();
    let (decoder, tokenizer) =
        (Arc::new(Decoder::load(&source, Precision::F32, &()).unwrap()), source.tokenizer().unwrap());
    let card = RetrieverCard::new("letters", "0");
    // The built-in examples are longer than this model's context.
    let config = PromptConfig { candidates: 6, examples: Some(Vec::new()), ..PromptConfig::rerank() };
    let shortlist = crate::Shortlist::new(Arc::new(Letters(card.clone())), Arc::new(|doc| format!("tool {doc}")));
    let prompter = Prompter::new(config, &card).unwrap().with_shortlist(shortlist);
    let encoder = Arc::new(PromptEncoder::new(prompter, tokenizer.clone()).unwrap());
    let sampling = SamplingConfig { max_completion_length: 20, ..SamplingConfig::default() };
    let model = LanguageModel::new("m", decoder, tokenizer, encoder, None, sampling.clone()).unwrap();
    let queries: Vec<Query> = (1..24).map(|length| Query::text("x".repeat(length))).collect();
    let rewrites = model.rewrite(&queries, Deadline::NONE);
    let mut longest = 0;
    for (query, rewrite) in queries.iter().zip(rewrites) {
        let rewrite = rewrite.unwrap();
        assert_eq!(rewrite.text, query.text, "the text is searched for as it is");
        let Some(order) = rewrite.order else {
            assert_eq!(rewrite.kept, Some(Kept::Nothing));
            continue;
        };
        let mut first = order.first.clone();
        first.sort_unstable();
        first.dedup();
        let found = query.text.len().min(6);
        assert!(first.len() == order.first.len() && first.iter().all(|doc| (*doc as usize) < found), "{order:?}");
        assert_eq!(order.among, found);
        longest = longest.max(first.len());
    }
    assert!(longest > 2, "{longest}");
    let samples = model.samples(&queries[..3], &sampling, 4).unwrap();
    assert_eq!(samples.iter().map(Vec::len).collect::<Vec<_>>(), [1, 4, 4], "one document needs no order");
    let unsure = model.with_confidence(0.0);
    for rewrite in unsure.rewrite(&queries[1..], Deadline::NONE) {
        let rewrite = rewrite.unwrap();
        assert!(rewrite.kept.is_some() && rewrite.order.is_none(), "{rewrite:?}");
    }
    let past = Deadline::after(Duration::ZERO);
    assert!(unsure.rewrite(&[Query::text("late")], past)[0].as_ref().unwrap_err().is_deadline());
}

#[test]
fn the_first_message_of_a_conversation_goes_as_it_is_without_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let task = crate::Task::Conversation;
    PromptConfig { task, examples: Some(Vec::new()), ..PromptConfig::default() }.write(folder.path()).unwrap();
    let prompt = PromptConfig::read(folder.path()).unwrap().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
    let source = ModelSource::open(&golden).unwrap();
    let (decoder, tokenizer) = (Decoder::load(&source, Precision::F32, &()).unwrap(), source.tokenizer().unwrap());
    let prompter = Prompter::new(prompt, &RetrieverCard::new("bm25", "d")).unwrap();
    let encoder = Arc::new(PromptEncoder::new(prompter, tokenizer.clone()).unwrap());
    let model =
        LanguageModel::new("m", Arc::new(decoder), tokenizer, encoder, None, SamplingConfig::greedy(8)).unwrap();
    let queries = [Query::text("who wrote it"), Query::text("and when").with_turns(["who wrote it"])];
    let first = model.rewrite(&queries, Deadline::NONE);
    let (first, second) = (first[0].as_ref().unwrap(), &first[1]);
    assert_eq!((first.text.as_str(), first.kept), ("who wrote it", Some(Kept::FirstMessage)));
    assert_eq!(first.confidence, None);
    assert!(second.as_ref().map_or(true, |second| second.confidence.is_some() && second.kept.is_none()));
}
