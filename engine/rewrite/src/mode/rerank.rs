//! Re-ranking: the model orders the documents that the first search found.
//!
//! A prompt shows them as a list, each behind a label: letters up to 26, else numbers. The answer names labels in the order
//! that is best, each at most once. What is not named keeps its order behind what is, so any beginning of a permutation is an
//! answer; no label at all leaves the first order. Listwise, with one answer a query (RankGPT, arXiv 2304.09542).

use crate::config::{Example, Mode, PromptConfig};
use crate::parse::{FormatFault, ParsedCompletion};
use querywright_types::{Error, Result};

/// Letters there are; more candidates are numbered.
const LETTERS: usize = 26;
/// What may stand between labels, beside white space: "B > A", "[2] > [1]", "C, A."
const BETWEEN: &str = ",;.:><=[](){}|/-'\"`*";

/// The labels of the candidates, the first one's first; none in another mode.
pub fn labels(config: &PromptConfig) -> Vec<String> {
    let letter = |place: usize| char::from(b'A' + place as u8).to_string();
    match (config.mode, config.candidates) {
        (Mode::Rerank, count) if count <= LETTERS => (0..count).map(letter).collect(),
        (Mode::Rerank, count) => (1..=count).map(|number| number.to_string()).collect(),
        _ => Vec::new(),
    }
}

/// Checks the number of candidates, the settings, and the examples.
pub fn validate(config: &PromptConfig) -> Result<()> {
    let refused = |key: String, found: String, remedy: &str| Err(Error::argument(key, found, remedy));
    if config.mode != Mode::Rerank {
        let found = format!("settings of candidates in the mode {:?}", config.mode);
        let remedy = "set mode = \"rerank\", or leave this section out";
        return if config.rerank.is_default() { Ok(()) } else { refused("prompt.rerank".into(), found, remedy) };
    }
    if config.candidates < 2 {
        let found = format!("{}, and the mode is Rerank", config.candidates);
        return refused("prompt.candidates".into(), found, "give how many documents are ordered, as candidates = 10");
    }
    if config.rerank.max_tokens == 0 {
        return refused("prompt.rerank.max_tokens".into(), "0".into(), "give at least 1, as 24");
    }
    let labels = labels(config);
    for (index, example) in config.examples.iter().flatten().enumerate() {
        let shown = labels.get(..example.candidates.len().min(labels.len())).unwrap_or_default();
        let named: Vec<&str> = example.search.split_whitespace().collect();
        let known = named.iter().all(|label| shown.iter().any(|one| one == label));
        let twice = named.iter().enumerate().any(|(at, label)| named.iter().take(at).any(|other| other == label));
        if !known || twice {
            let found = format!("`search` is {:?}, which does not name its candidates, each once", example.search);
            let remedy = format!("give the labels of its `candidates` in their best order, of {}", shown.join(" "));
            return refused(format!("prompt.examples[{index}]"), found, &remedy);
        }
    }
    Ok(())
}

/// Built-in examples, whose labels are letters, with the labels of this configuration and as many candidates as it shows.
pub fn examples(config: &PromptConfig, mut examples: Vec<Example>) -> Vec<Example> {
    let labels = labels(config);
    for example in &mut examples {
        example.candidates.truncate(labels.len());
        let place = |letter: &str| letter.bytes().next().and_then(|byte| byte.checked_sub(b'A')).map(usize::from);
        let named = example.search.split(' ').filter_map(|letter| labels.get(place(letter)?).cloned());
        let named: Vec<String> = named.take(config.rerank.most(labels.len())).collect();
        example.search = named.join(" ");
    }
    examples
}

/// A parsed answer with labels, separated by spaces, as its query. Upper and lower case are the same. One that names a label
/// twice is no answer in the right form, but can be served; a sentence is none.
pub fn resolved(parsed: ParsedCompletion, labels: &[String]) -> ParsedCompletion {
    let Some(line) = &parsed.query else { return parsed };
    let fault = ParsedCompletion { query: None, broken: Some(FormatFault::NoOrder), query_span: None };
    let between = |c: char| c.is_whitespace() || BETWEEN.contains(c);
    let mut order: Vec<&str> = Vec::new();
    let mut broken = parsed.broken;
    for word in line.split(between).filter(|word| !word.is_empty()) {
        let Some(label) = labels.iter().find(|label| label.eq_ignore_ascii_case(word)) else { return fault };
        if order.contains(&label.as_str()) {
            broken = broken.or(Some(FormatFault::NoOrder));
        } else {
            order.push(label);
        }
    }
    if order.is_empty() {
        return fault;
    }
    ParsedCompletion { query: Some(order.join(" ")), broken, query_span: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PromptStyle, RerankConfig};
    use crate::prompt::Prompt;
    use crate::{Prompter, Shortlist};
    use proptest::prelude::*;
    use querywright_types::{
        Deadline, Fault, Hit, Kept, Order, Query, Ranking, Request, Retriever, RetrieverCard, Rewrite,
    };
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Finds documents 10, 11, 12, …, as many as the text has letters.
    struct Letters(RetrieverCard, AtomicUsize);

    impl Retriever for Letters {
        fn card(&self) -> &RetrieverCard {
            &self.0
        }

        fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<std::result::Result<Ranking, Fault>> {
            self.1.fetch_add(requests.len(), Ordering::Relaxed);
            let hits = |request: &Request| {
                let count = request.k.min(request.text.len());
                (10..10 + count as u32).map(|doc| Hit { doc, score: -(doc as f32) }).collect()
            };
            requests.iter().map(|request| Ok(Ranking { hits: hits(request) })).collect()
        }
    }

    fn prompter(config: PromptConfig) -> (Prompter, Arc<Letters>) {
        let letters = Arc::new(Letters(RetrieverCard::new("letters", "0"), AtomicUsize::new(0)));
        let shortlist = Shortlist::new(letters.clone(), Arc::new(|doc| format!("entry {doc}")));
        (Prompter::new(config, letters.card()).unwrap().with_shortlist(shortlist), letters)
    }

    fn config(style: PromptStyle, candidates: usize) -> PromptConfig {
        PromptConfig { style, candidates, ..PromptConfig::rerank() }
    }

    fn order(prompter: &Prompter, completion: &str) -> Option<(Vec<u32>, bool)> {
        let query = Query::text("tea pot");
        let reading = prompter.read(&query, &Rewrite::plain("tea pot"), completion).unwrap();
        let served = prompter.rewrite(&query, completion).ok();
        assert_eq!(served, reading.rewrite, "{completion:?}");
        assert!(reading.terms.is_empty() && reading.rewrite.as_ref().is_none_or(|one| one.text == "tea pot"));
        let first = |one: &Rewrite| one.order.as_ref().map_or(Vec::new(), |order| order.first.clone());
        Some((first(reading.rewrite.as_ref()?), reading.rewarded().is_some()))
    }

    #[test]
    fn a_prompt_lists_what_was_found_and_its_answer_is_an_order_of_it() {
        let (few, letters) = prompter(config(PromptStyle::FewShot, 4));
        let Prompt::Completion { prefix, query } = few.prompt(&Query::text("tea")).unwrap() else { panic!("a chat") };
        assert_eq!(query, "\n\nRequest: tea\nA. entry 10\nB. entry 11\nC. entry 12\nOrder:", "three were found");
        let first = "Requests for documents, each with the entries that a search found, and the labels of these in the order \
                     that fits best.\n\nRequest: how do bees tell each other where the flowers are\nA. Keeping bees on a roof\n\
                     B. The waggle dance of honeybees\nC. Flowers for a small garden\nD. How insects find their food\n\
                     Order: B D A C\n\n";
        assert!(prefix.starts_with(first), "{prefix}");
        assert_eq!(few.rewrite(&Query::text("tea"), " C A").unwrap().order, Some(Order::new(vec![12, 10], 3)));
        assert_eq!(letters.1.load(Ordering::Relaxed), 1, "the answer is read by the list of its prompt");
        let kept = few.rewrite(&Query::text("tea"), " \n").unwrap();
        assert_eq!((kept.kept, kept.order), (Some(Kept::Nothing), None), "no label leaves the first order");
        for style in [PromptStyle::Chat, PromptStyle::ThinkAnswer] {
            let Prompt::Chat { messages } = prompter(config(style, 3)).0.prompt(&Query::text("tea")).unwrap() else {
                panic!("a text")
            };
            assert!(
                messages[0].content.starts_with("You put into order what a search engine over documents found. You")
            );
            assert!(messages[2].content.contains("B A C"), "three of the built-in four: {}", messages[2].content);
            assert_eq!(messages[7].content, "Request: tea\nA. entry 10\nB. entry 11\nC. entry 12");
        }
    }

    #[test]
    fn an_answer_is_read_however_its_labels_are_separated_and_a_sentence_is_none() {
        let (chat, _) = prompter(config(PromptStyle::Chat, 4));
        for text in ["C A", "[C] > [A]", "c, a.", "<think>A?</think>\nOrder: C > A", "C\u{a0}A"] {
            assert_eq!(order(&chat, text), Some((vec![12, 10], true)), "{text:?}");
        }
        assert_eq!(order(&chat, "C A C"), Some((vec![12, 10], false)), "served, and not rewarded");
        for text in ["I think that C is best", "E", "", "1 2", "C A Z", "é"] {
            assert_eq!(order(&chat, text), None, "{text:?}");
        }
        let (think, _) = prompter(config(PromptStyle::ThinkAnswer, 30));
        let answer = |query: &str| format!("<think>x</think> <answer>{{\"query\": {query}}}</answer>");
        for query in ["\"3 1\"", "[3, 1]", "[\"3\", \"1\"]"] {
            assert_eq!(order(&think, &answer(query)), Some((vec![12, 10], true)), "{query}");
        }
        // Seven documents are found for seven letters: the ninth label is none of theirs.
        assert_eq!(order(&think, &answer("\"3 9 1\"")), Some((vec![12, 10], false)));
        let named = RerankConfig { named: 1, ..RerankConfig::default() };
        let (first, _) = prompter(PromptConfig { rerank: named, ..config(PromptStyle::FewShot, 4) });
        assert_eq!(order(&first, " C A"), Some((vec![12], true)), "one is named, at most");
    }

    #[test]
    fn where_there_is_nothing_to_order_no_model_is_asked() {
        let (few, _) = prompter(config(PromptStyle::FewShot, 4));
        let settled = |text: &str| few.settled(&Query::text(text), Deadline::NONE).unwrap().and_then(|one| one.kept);
        assert_eq!((settled("t"), settled("te")), (Some(Kept::Nothing), None));
        let past = Deadline::after(std::time::Duration::ZERO);
        assert!(few.settled(&Query::text("tea"), past).unwrap_err().is_deadline());
    }

    #[test]
    fn settings_and_examples_that_mean_nothing_are_refused() {
        let card = RetrieverCard::new("letters", "0");
        let say = |config: PromptConfig| Prompter::new(config, &card).err().unwrap().to_string();
        assert!(say(config(PromptStyle::FewShot, 1)).starts_with("prompt.candidates: 1, and the mode is Rerank"));
        assert!(say(config(PromptStyle::FewShot, 101)).starts_with("prompt.candidates: 101"));
        let rerank = RerankConfig { max_tokens: 0, ..RerankConfig::default() };
        let of = |mode| PromptConfig { mode, rerank: rerank.clone(), ..PromptConfig::rerank() };
        assert!(say(of(Mode::Expand)).starts_with("prompt.rerank: settings of candidates in the mode Expand"));
        assert!(say(of(Mode::Rerank)).starts_with("prompt.rerank.max_tokens: 0"));
        let example = |search: &str| Example {
            request: "x".into(),
            search: search.into(),
            candidates: vec!["one".into(), "two".into()],
            ..Example::default()
        };
        for (search, good) in [("B A", true), ("B", true), ("C", false), ("A A", false), ("two one", false)] {
            let given = PromptConfig { examples: Some(vec![example(search)]), ..PromptConfig::rerank() };
            match Prompter::new(given, &card) {
                Ok(_) => assert!(good, "{search}"),
                Err(error) => assert!(!good && error.to_string().contains("of A B"), "{search}: {error}"),
            }
        }
        assert!(!toml::to_string(&PromptConfig::default()).unwrap().contains("rerank"), "the digest of older runs");
        let kept = toml::to_string(&PromptConfig::rerank()).unwrap();
        assert_eq!(toml::from_str::<PromptConfig>(&kept).unwrap(), PromptConfig::rerank());
    }

    proptest! {
        #[test]
        fn no_answer_fails_and_every_order_names_documents_once(text in "[A-G1-9 ,>\\[\\]a-cé\n]{0,30}") {
            for style in [PromptStyle::FewShot, PromptStyle::Chat, PromptStyle::ThinkAnswer] {
                let (prompter, _) = prompter(config(style, 5));
                if let Some((mut first, _)) = order(&prompter, &text) {
                    let named = first.len();
                    first.sort_unstable();
                    first.dedup();
                    prop_assert!(first.len() == named && first.iter().all(|doc| (10..15).contains(doc)));
                }
            }
        }
    }
}
