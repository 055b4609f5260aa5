use super::*;
use crate::base::FeedbackConfig;
use crate::config::{DocumentConfig, Example, PromptStyle, Vocabulary};
use crate::parse::FormatFault;
use crate::prompt::Prompt;
use crate::{BaseConfig, Composer, Prompter, Reading};
use proptest::prelude::*;
use querywright_types::{Query, QueryLanguage, Rewrite};
use std::sync::Arc;

const LANGUAGES: [QueryLanguage; 3] = [QueryLanguage::Plain, QueryLanguage::Boolean, QueryLanguage::Natural];

fn card() -> RetrieverCard {
    RetrieverCard::new("bm25", "d").with_languages(LANGUAGES).with_fields(["title", "text"]).with_content("recipes")
}

fn prompter(config: PromptConfig) -> Prompter {
    Prompter::new(config, &card()).unwrap()
}

fn refused(config: PromptConfig) -> String {
    Prompter::new(config, &card()).unwrap_err().to_string()
}

/// The rewrite of "calm a baby" and what was generated, with a weight of 3 and at most `most` terms.
fn composed(mode: Mode, language: QueryLanguage, most: usize, generated: &str) -> String {
    let composer = Composer { mode, language, original_weight: 3.0, max_terms: most };
    composer.compose(&Rewrite::plain("calm a baby"), generated).text
}

fn titles() -> PromptConfig {
    let title = BaseConfig { contents: 0.0, fields: [("title".to_owned(), 1.0)].into(), ..BaseConfig::default() };
    let base = BaseConfig { phrases: 0.5, ..BaseConfig::default() };
    let choices = [("title".to_owned(), title), ("raw".to_owned(), BaseConfig::default())].into();
    PromptConfig { mode: Mode::Choose, choices, base: Some(base), ..PromptConfig::default() }
}

fn read(prompter: &Prompter, completion: &str) -> Reading {
    let query = Query::text("calm a baby");
    let original = prompter.original(&query).unwrap();
    prompter.read(&query, &original, completion).unwrap()
}

#[test]
fn a_passage_stands_behind_the_query_as_often_as_query2doc_repeats_it() {
    use QueryLanguage::{Boolean, Natural, Plain};
    let passage = "A lullaby -- soft: a \"cradle song\" (lullaby) AND sleep.";
    let of = |language| composed(Mode::Document, language, 99, passage);
    assert_eq!(of(Plain), format!("calm a baby calm a baby calm a baby {passage}"), "a repeated word counts twice");
    assert_eq!(of(Boolean), "(calm a baby)^3 A lullaby soft a cradle song lullaby and sleep.", "prose, no operators");
    assert_eq!(of(Natural), format!("calm a baby. {passage}"));
    assert_eq!(
        composed(Mode::Document, Plain, 2, "soft\n cradle song"),
        "calm a baby calm a baby calm a baby soft cradle"
    );
    assert_eq!(composed(Mode::Document, Boolean, 9, " \"\" "), "calm a baby", "nothing was written");
}

#[test]
fn a_passage_is_added_to_a_base_and_stands_alone_without_a_weight_of_the_query() {
    let base = Rewrite::new("(calm baby) title:(calm baby)^0.5", QueryLanguage::Boolean);
    let with = |weight, language| {
        let composer = Composer { mode: Mode::Document, language, original_weight: weight, max_terms: 9 };
        composer.compose(&base, "a song: NOT loud")
    };
    let want = "((calm baby) title:(calm baby)^0.5)^5 a song not loud";
    assert_eq!(with(5.0, QueryLanguage::Plain), Rewrite::new(want, QueryLanguage::Boolean));
    assert_eq!(with(0.0, QueryLanguage::Natural), Rewrite::new("a song not loud", QueryLanguage::Boolean));
    let alone = Composer { mode: Mode::Document, language: QueryLanguage::Natural, original_weight: 0.0, max_terms: 9 };
    assert_eq!(alone.compose(&Rewrite::plain("calm"), "A song: soft.").text, "A song: soft.");
}

#[test]
fn of_more_terms_than_a_query_may_have_those_of_the_passage_are_never_left_out() {
    let words = |count: usize| (0..count).map(|n| format!("w{n}")).collect::<Vec<_>>().join(" ");
    let with = |original: Rewrite, language| {
        let composer = Composer { mode: Mode::Document, language, original_weight: 5.0, max_terms: 9 };
        composer.compose(&original, "a wick").text
    };
    let base = Rewrite::new(format!("({})", words(1100)), QueryLanguage::Boolean);
    for language in [QueryLanguage::Plain, QueryLanguage::Boolean] {
        assert!(with(Rewrite::plain(words(1100)), language).starts_with("a wick "), "{language:?}");
        assert!(with(base.clone(), language).starts_with("a wick "), "{language:?}");
    }
    let found = with(Rewrite::plain(words(300)), QueryLanguage::Plain);
    assert_eq!(found, format!("{0} {0} {0} a wick", words(300)), "as often as all of it fits");
}

#[test]
fn the_baselines_are_those_of_the_papers() {
    let (query2doc, hyde) = (prompter(PromptConfig::query2doc()), prompter(PromptConfig::hyde()));
    let text = |prompter: &Prompter| prompter.rewrite(&Query::text("calm"), " A song.\nRequest: x").unwrap().text;
    assert_eq!(text(&query2doc), "calm calm calm calm calm A song.");
    assert_eq!(text(&hyde), "calm A song.");
    let natural = Some(QueryLanguage::Natural);
    for config in [PromptConfig::query2doc(), PromptConfig::hyde()] {
        assert_eq!(text(&prompter(PromptConfig { language: natural, ..config })), "calm. A song.");
    }
}

#[test]
fn a_passage_of_several_lines_is_an_answer_of_a_conversation_and_its_parts_get_credit() {
    let chat = prompter(PromptConfig { mode: Mode::Document, style: PromptStyle::Chat, ..PromptConfig::default() });
    let text = "<think>\nhm\n</think>\nEntry: A lullaby.\n\nIt is soft.";
    let reading = read(&chat, text);
    assert!(reading.rewarded().unwrap().text.ends_with("calm a baby A lullaby. It is soft."), "{reading:?}");
    let spans: Vec<&str> = reading.terms.iter().map(|term| &text[term.span.clone()]).collect();
    assert_eq!(spans, ["A", "lullaby.", "It", "is", "soft."]);
    assert!(reading.terms[1].without.text.ends_with("calm a baby A It is soft."));
    assert!(reading.terms[2].before.text.ends_with("calm a baby A lullaby."));
    assert_eq!((reading.generated, reading.terms[0].generated), (5, 1));
    let long: Vec<String> = (0..40).map(|i| format!("w{i}")).collect();
    let parts = document_parts(&long.join(" "), 36, 16);
    assert_eq!(parts.len(), 12, "36 words of 40 in runs of 3");
    assert_eq!(&long.join(" ")[parts[0].0.clone()], "w0 w1 w2");
    assert!(parts[11].1.ends_with("w31 w32"), "{:?}", parts[11]);
    let reading = read(&chat, &long.join(" "));
    let counts: Vec<usize> = reading.terms.iter().map(|term| term.generated).collect();
    assert_eq!((reading.generated, counts), (40, [vec![3; 13], vec![1]].concat()), "a word is a term");
}

#[test]
fn keywords_are_read_however_they_are_listed_and_phrases_stay_phrases() {
    let want = "lullaby \"cradle song\" sleep";
    for list in [
        "lullaby, cradle song, sleep",
        "Keywords: lullaby; \"cradle song\"; sleep.",
        "- lullaby\n- cradle song\n- sleep",
        "1. lullaby\n2. cradle song\n3) sleep",
        "Here are the keywords: lullaby, cradle song, sleep",
        "Sure, here you are:\n* lullaby\n* “cradle song”\n* sleep",
        "[\"lullaby\", \"cradle song\", \"sleep\"]",
        "lullaby | cradle   song | (sleep) , ,",
        "lullaby, cradle-song, sleep",
    ] {
        assert_eq!(written_keywords(list, QueryLanguage::Boolean, 9), want, "{list:?}");
    }
    let boolean = |list| written_keywords(list, QueryLanguage::Boolean, 9);
    assert_eq!(
        boolean("a row of words without any comma"),
        "a row of words without any comma",
        "too long for a phrase"
    );
    assert_eq!(
        boolean("NOT loud, title:x, -dog, 1,000 songs, ?, 42"),
        "\"not loud\" \"title x\" dog \"1 000 songs\" 42".replace("1 000", "1,000")
    );
    assert_eq!(written_keywords("a, b, c", QueryLanguage::Boolean, 2), "a b");
    assert_eq!(written_keywords("lullaby; cradle song", QueryLanguage::Natural, 9), "lullaby, cradle song");
    assert_eq!(boolean(" , ;\n"), "");
}

#[test]
fn keywords_are_added_to_the_query_in_every_language_each_once() {
    use QueryLanguage::{Boolean, Natural, Plain};
    let of = |language| composed(Mode::Keywords, language, 9, "lullaby, cradle song, Lullaby, baby");
    assert_eq!(of(Plain), "calm a baby calm a baby calm a baby lullaby cradle song baby");
    assert_eq!(of(Boolean), "(calm a baby)^3 lullaby \"cradle song\" baby");
    assert_eq!(of(Natural), "calm a baby. lullaby, cradle song, Lullaby, baby");
    assert_eq!(composed(Mode::Keywords, Boolean, 9, ""), "calm a baby".replace("calm a baby", "(calm a baby)^3"));
}

#[test]
fn a_keyword_gets_credit_as_a_whole_in_every_style() {
    let config =
        PromptConfig { mode: Mode::Keywords, language: Some(QueryLanguage::Boolean), ..PromptConfig::default() };
    let text = " lullaby, cradle song\n";
    let reading = read(&prompter(config.clone()), text);
    let spans: Vec<&str> = reading.terms.iter().map(|term| &text[term.span.clone()]).collect();
    assert_eq!(spans, ["lullaby", "cradle song"]);
    assert_eq!((reading.generated, reading.terms[1].generated), (2, 1));
    assert_eq!(reading.terms[0].without.text, "(calm a baby)^2 \"cradle song\"");
    assert_eq!(reading.terms[1].before.text, "(calm a baby)^2 lullaby");
    let think = prompter(PromptConfig { style: PromptStyle::ThinkAnswer, ..config.clone() });
    for json in ["\"lullaby, cradle song\"", "[\"lullaby\", \"cradle song\"]"] {
        let reading = read(&think, &format!("<think></think><answer>{{\"query\": {json}}}</answer>"));
        assert_eq!(reading.rewarded().unwrap().text, "(calm a baby)^2 lullaby \"cradle song\"", "{json}");
        assert_eq!(reading.terms.len(), if json.starts_with('[') { 0 } else { 2 }, "an array has no single place");
    }
    let broken = read(&think, "<think></think><answer>{\"query\": [1]}</answer>");
    assert_eq!((broken.rewrite, broken.broken), (None, Some(FormatFault::QueryNotText)));
    assert_eq!(prompter(config).answer("kettle \"steel pot\""), "kettle, steel pot");
    assert_eq!(prompter(PromptConfig::default()).answer("a \"b c\""), "a \"b c\"");
}

#[test]
fn a_choice_is_named_and_makes_the_query_and_same_is_the_base() {
    let prompter = prompter(titles());
    assert_eq!(prompter.choices(), ["same", "raw", "title"]);
    let query = Query::text("calm a baby");
    let base = "(calm a baby) (\"calm a\" \"a baby\")^0.5";
    for (answer, want) in [
        (" title\n", "title:(calm a baby)"),
        (" Choice: \"Title\".", "title:(calm a baby)"),
        (" raw", "calm a baby"),
        ("same", base),
    ] {
        let reading = read(&prompter, answer);
        assert_eq!(reading.rewarded().unwrap().text, want, "{answer:?}");
        assert!(reading.terms.is_empty() && reading.generated == 0);
        assert_eq!(prompter.rewrite(&query, answer).unwrap().text, want);
    }
    let sentence = read(&prompter, " I choose the title here");
    assert_eq!((sentence.rewarded(), sentence.broken), (None, Some(FormatFault::NoChoice)));
    assert_eq!(sentence.rewrite.unwrap().text, "title:(calm a baby)", "served, and not rewarded");
    for none in [" titles", "title or raw", "lullaby", ""] {
        assert_eq!(read(&prompter, none).rewrite, None, "{none:?}");
        assert!(matches!(prompter.rewrite(&query, none), Err(Error::Format(_))));
    }
}

#[test]
fn a_choice_is_made_in_conversations_too() {
    for (style, answer) in [
        (PromptStyle::Chat, "<think>x</think>\n**title**"),
        (PromptStyle::ThinkAnswer, "<think>x</think> <answer>{\"query\": \"title\"}</answer>"),
    ] {
        let prompter = prompter(PromptConfig { style, ..titles() });
        let Prompt::Chat { messages } = prompter.prompt(&Query::text("x")).unwrap() else { panic!("a completion") };
        assert!(messages[0].content.contains("by its name: same, raw, title."), "{}", messages[0].content);
        assert_eq!(read(&prompter, answer).rewarded().unwrap().text, "title:(calm a baby)", "{style:?}");
    }
}

#[test]
fn a_choice_with_feedback_gets_its_words_or_fails() {
    let feedback = FeedbackConfig { weight: 1.0, ..FeedbackConfig::default() };
    let choices = [("more".to_owned(), BaseConfig { feedback, ..BaseConfig::default() })].into();
    let config = PromptConfig { mode: Mode::Choose, choices, ..PromptConfig::default() };
    assert_eq!(config.feedback_key().as_deref(), Some("prompt.choices.more.feedback.weight"));
    assert_eq!(titles().feedback_key(), None);
    let (query, original) = (Query::text("calm"), Rewrite::plain("calm"));
    let without = prompter(config);
    assert!(without.read(&query, &original, "more").is_err() && without.read(&query, &original, "same").is_ok());
    let with = without.with_feedback(Arc::new(|_, _| Ok(vec![("lullaby".to_owned(), 1.0)])));
    assert_eq!(with.read(&query, &original, "more").unwrap().rewrite.unwrap().text, "(calm) lullaby");
}

#[test]
fn the_few_shot_prompts_name_the_kind_of_answer() {
    let prompt = |config| match prompter(config).prompt(&Query::text("soup")).unwrap() {
        Prompt::Completion { prefix, query } => (prefix.lines().next().unwrap_or_default().to_owned(), prefix, query),
        Prompt::Chat { .. } => panic!("a chat"),
    };
    let mode = |mode| PromptConfig { mode, ..PromptConfig::default() };
    let (first, _, query) = prompt(mode(Mode::Document));
    assert_eq!(first, "Requests for recipes, each with an entry that fits, in a few words of its own.");
    assert_eq!(query, "\n\nRequest: soup\nEntry:");
    let (first, prefix, query) = prompt(mode(Mode::Keywords));
    assert_eq!(first, "Requests for recipes, each with keywords and short phrases of fitting entries.");
    assert!(prefix.contains("\nKeywords: lullaby, cradle song, sleep") && query.ends_with("\nKeywords:"));
    let (first, prefix, query) = prompt(titles());
    assert_eq!(first, "Requests for recipes, each with the best way to search: same, raw, title.");
    assert!(prefix.contains("\nChoice: same\n") && prefix.ends_with("\nChoice: title") && query.ends_with("\nChoice:"));
}

#[test]
fn what_does_not_belong_to_a_mode_is_refused_by_its_key() {
    let mode = |mode| PromptConfig { mode, ..PromptConfig::default() };
    assert!(refused(mode(Mode::Choose)).starts_with("prompt.choices: none"));
    let misplaced = PromptConfig { mode: Mode::Expand, ..titles() };
    assert!(refused(misplaced).starts_with("prompt.choices: 2 of them in the mode Expand"));
    for other in [Mode::Document, Mode::Keywords] {
        let said = refused(PromptConfig { vocabulary: Vocabulary::Catalog, ..mode(other) });
        assert!(said.starts_with("prompt.vocabulary: Catalog in the mode"), "{said}");
    }
    assert!(refused(PromptConfig { vocabulary: Vocabulary::Feedback, ..titles() }).starts_with("prompt.vocabulary"));
    let document = |query_weight, max_words| DocumentConfig { query_weight, max_words };
    let with = |mode, document| refused(PromptConfig { mode, document, ..PromptConfig::default() });
    assert!(
        with(Mode::Expand, document(1.0, 9)).starts_with("prompt.document: settings of passages in the mode Expand")
    );
    assert!(with(Mode::Document, document(-1.0, 9)).starts_with("prompt.document.query_weight: -1"));
    assert!(with(Mode::Document, document(f32::NAN, 9)).starts_with("prompt.document.query_weight: NaN"));
    assert!(with(Mode::Document, document(1.0, 0)).starts_with("prompt.document.max_words: 0"));
}

#[test]
fn a_choice_that_cannot_be_named_or_asked_for_is_refused_by_its_name() {
    let with = |name: &str, base: BaseConfig| {
        let mut config = titles();
        config.choices.insert(name.to_owned(), base);
        refused(config)
    };
    for name in ["two words", "", "naïve", "a,b", &"x".repeat(33)] {
        assert!(with(name, BaseConfig::default()).contains("letters (a to z), digits"), "{name:?}");
    }
    for name in ["same", "SAME", "Title"] {
        let said = with(name, BaseConfig::default());
        assert!(said.starts_with("prompt.choices.") && said.contains("the name is taken, whatever its case"), "{said}");
    }
    let brand = BaseConfig { fields: [("brand".to_owned(), 1.0)].into(), ..BaseConfig::default() };
    let said = with("brand", brand);
    assert!(said.starts_with("prompt.choices.brand.fields: \"brand\"") && said.contains("title, text"), "{said}");
    let plain = RetrieverCard::new("plain", "0").with_fields(["title"]);
    let said = Prompter::new(PromptConfig { base: None, ..titles() }, &plain).unwrap_err().to_string();
    assert!(said.starts_with("prompt.choices.title: the retriever plain does not read"), "{said}");
    let example = Example { request: "x".into(), search: "titles".into(), ..Example::default() };
    let said = refused(PromptConfig { examples: Some(vec![example]), ..titles() });
    assert!(
        said.starts_with("prompt.examples[0]: `search` is \"titles\"") && said.contains("same, raw, title"),
        "{said}"
    );
    let mut many = titles();
    many.choices.extend((0..40).map(|i| (format!("c{i}"), BaseConfig::default())));
    assert!(refused(many).starts_with("prompt.choices: 42 of them"));
}

#[test]
fn the_settings_of_a_mode_are_kept_beside_an_adapter_and_those_of_others_write_nothing_new() {
    let document = DocumentConfig { query_weight: 0.0, max_words: 40 };
    for config in
        [titles(), PromptConfig { mode: Mode::Document, document, ..PromptConfig::default() }, PromptConfig::hyde()]
    {
        let folder = tempfile::tempdir().unwrap();
        config.write(folder.path()).unwrap();
        assert_eq!(PromptConfig::read(folder.path()).unwrap(), Some(config));
    }
    let text = toml::to_string(&PromptConfig::default()).unwrap();
    assert!(!text.contains("document") && !text.contains("choices"), "{text}");
    let wrong: Result<PromptConfig, _> = toml::from_str("mode = \"choose\"\nchoices = { title = { field = 1 } }");
    assert!(wrong.unwrap_err().to_string().contains("unknown field `field`"));
}

proptest! {
    #[test]
    fn no_list_is_an_error_and_a_list_without_a_keyword_has_the_others(list in "[a-c0-9 ,;:.\"\n*()-]{0,40}|\\PC{0,40}") {
        let all = keyword_parts(&list, usize::MAX, usize::MAX);
        let texts = |list: &str| -> Vec<String> {
            keyword_parts(list, usize::MAX, usize::MAX).iter().map(|part| list[part.0.clone()].to_owned()).collect()
        };
        let own = texts(&list);
        for (place, (_, without)) in all.iter().enumerate() {
            let mut rest = own.clone();
            rest.remove(place);
            prop_assert_eq!(texts(without), rest, "{:?}", &list);
        }
        written_keywords(&list, QueryLanguage::Boolean, 9);
    }

    #[test]
    fn the_parts_of_a_passage_are_in_order_and_few(passage in "\\PC{0,80}", most in 1..20_usize) {
        let parts = document_parts(&passage, 30, most);
        prop_assert!(parts.len() <= most);
        prop_assert!(parts.windows(2).all(|pair| pair[0].0.end <= pair[1].0.start));
        prop_assert_eq!(parts.is_empty(), passage.trim().is_empty());
    }
}
