use super::*;
use crate::config::{ConversationConfig, Example, Vocabulary};
use crate::parse::FormatFault;
use crate::prompt::examples;
use crate::query_terms::terms;
use proptest::prelude::*;

fn card(languages: &[QueryLanguage]) -> RetrieverCard {
    RetrieverCard::new("bm25", "d")
        .with_version("1")
        .with_languages(languages.to_vec())
        .with_fields(["title", "text"])
        .with_content("recipes")
}

fn prompter(config: PromptConfig) -> Prompter {
    Prompter::new(config, &card(&[QueryLanguage::Plain, QueryLanguage::Boolean, QueryLanguage::Natural])).unwrap()
}

fn parts(prompt: Prompt) -> (String, String) {
    match prompt {
        Prompt::Completion { prefix, query } => (prefix, query),
        Prompt::Chat { .. } => panic!("a chat"),
    }
}

fn messages(prompt: Prompt) -> Vec<ChatMessage> {
    match prompt {
        Prompt::Chat { messages } => messages,
        Prompt::Completion { .. } => panic!("a completion"),
    }
}

fn every_config() -> Vec<PromptConfig> {
    let mut all = Vec::new();
    for style in [PromptStyle::FewShot, PromptStyle::Chat, PromptStyle::ThinkAnswer] {
        for mode in [Mode::Rewrite, Mode::Expand, Mode::Document, Mode::Keywords, Mode::Choose] {
            for task in [Task::Search, Task::Recommend, Task::Conversation] {
                for language in [QueryLanguage::Plain, QueryLanguage::Boolean, QueryLanguage::Natural] {
                    let choices = match mode {
                        Mode::Choose => [("titles".to_owned(), Default::default())].into(),
                        _ => Default::default(),
                    };
                    let language = Some(language);
                    all.push(PromptConfig { style, mode, task, language, choices, ..PromptConfig::default() });
                }
            }
        }
    }
    all
}

#[test]
fn a_few_shot_prompt_is_a_list_that_the_completion_continues() {
    let (prefix, query) = parts(prompter(PromptConfig::default()).prompt(&Query::text("soup for a cold day")).unwrap());
    let expected = "Requests for recipes, each with other words that fitting entries use.\n\n\
                    Request: how do bees tell each other where the flowers are\n\
                    Search: honeybee waggle dance communication foraging\n\n\
                    Request: why does bread rise\nSearch: yeast dough fermentation leavening\n\n\
                    Request: songs to calm a baby at night\nSearch: lullaby cradle song sleep";
    assert_eq!(prefix, expected);
    assert_eq!(query, "\n\nRequest: soup for a cold day\nSearch:");
}

#[test]
fn a_boolean_rewrite_prompt_names_operators_and_fields() {
    let config =
        PromptConfig { mode: Mode::Rewrite, language: Some(QueryLanguage::Boolean), ..PromptConfig::default() };
    let (prefix, _) = parts(prompter(config.clone()).prompt(&Query::text("x")).unwrap());
    let first = prefix.lines().next().unwrap();
    assert_eq!(
        first,
        "Requests for recipes, each with the best query for the search engine (AND, OR, NOT, \"phrases\", brackets, title:, text:)."
    );
    assert!(prefix.contains("Search: (lullaby OR \"cradle song\") NOT cartoon"));
    let chat =
        messages(prompter(PromptConfig { style: PromptStyle::Chat, ..config }).prompt(&Query::text("x")).unwrap());
    assert!(chat[0].content.contains("and fields: title:word, text:word."), "{}", chat[0].content);
}

#[test]
fn a_think_answer_prompt_shows_the_form_that_its_parser_accepts() {
    let config = PromptConfig { style: PromptStyle::ThinkAnswer, ..PromptConfig::default() };
    let prompter = prompter(config);
    let chat = messages(prompter.prompt(&Query::text("soup")).unwrap());
    let roles: Vec<&str> = chat.iter().map(|m| m.role.as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant", "user", "assistant", "user"]);
    assert!(chat[0].content.starts_with("You write queries for a search engine over recipes. You are given"));
    assert_eq!(chat[7].content, "Request: soup");
    let form = chat[0].content.rsplit("tags: ").next().unwrap();
    let form = form.get(form.rfind("<think>").unwrap()..).unwrap();
    assert_eq!(prompter.parse(form).query.as_deref(), Some("words"));
}

#[test]
fn every_built_in_example_is_an_answer_in_its_own_style() {
    for config in every_config() {
        let language = config.language.unwrap();
        let examples = examples(&config, language).unwrap();
        assert!(examples.len() >= 3 && config.validate(&card(&[language])).is_ok());
        let wanted: Vec<&str> = examples.iter().map(|e| e.search.as_str()).collect();
        let prompter = prompter(config.clone());
        let answers: Vec<String> = match prompter.shared.clone() {
            Prompt::Completion { prefix, .. } => prefix
                .split(&format!("\n{}:", config.mode.label()))
                .skip(1)
                .map(|rest| rest.split("\n\n").next().unwrap().to_owned())
                .collect(),
            Prompt::Chat { messages } => {
                messages.into_iter().filter(|m| m.role == Role::Assistant).map(|m| m.content).collect()
            }
        };
        let read: Vec<String> = answers
            .iter()
            .map(|a| prompter.parse(a))
            .map(|a| {
                assert_eq!(a.broken, None, "{config:?}");
                a.query.unwrap()
            })
            .collect();
        assert_eq!(read, wanted, "{config:?}");
        let operators = wanted.iter().any(|w| w.contains(" OR ") || w.contains("\""));
        let writes_operators = matches!(config.mode, Mode::Rewrite | Mode::Expand);
        assert_eq!(operators, writes_operators && language == QueryLanguage::Boolean, "{config:?}");
    }
}

#[test]
fn the_shared_part_is_the_same_for_every_query() {
    for config in every_config() {
        let label = format!("\n{}:", config.mode.label());
        let prompter = prompter(config);
        let (a, b) =
            (prompter.prompt(&Query::text("one")).unwrap(), prompter.prompt(&Query::text("two\nthree")).unwrap());
        match (a, b) {
            (Prompt::Completion { prefix: a, query: x }, Prompt::Completion { prefix: b, query: y }) => {
                assert_eq!(a, b);
                assert_ne!(x, y);
                assert!(x.ends_with(&label) && !a.ends_with(char::is_whitespace));
            }
            (Prompt::Chat { messages: a }, Prompt::Chat { messages: b }) => {
                assert_eq!(a[..a.len() - 1], b[..b.len() - 1]);
                assert_ne!(a.last(), b.last());
            }
            _ => panic!("two kinds of prompt"),
        }
    }
}

#[test]
fn a_history_shows_its_last_titles_from_the_catalogue_or_from_the_lines_of_the_text() {
    let config = PromptConfig { task: Task::Recommend, max_history: 2, max_title_chars: 8, ..PromptConfig::default() };
    let query = Query::text("ignored").with_history([1, 2, 3]);
    let titles: Titles = Arc::new(|item| format!("Title {item}\nand more"));
    let (_, with) = parts(prompter(config.clone()).with_titles(titles).prompt(&query).unwrap());
    assert_eq!(with, "\n\nHad: Title 2; Title 3\nSearch:");
    let (_, lines) = parts(prompter(config).prompt(&Query::text("a\nb\n\nc\n")).unwrap());
    assert_eq!(lines, "\n\nHad: b; c\nSearch:");
}

#[test]
fn a_message_stands_behind_what_was_said_before_it_and_the_first_one_needs_no_model() {
    let config = PromptConfig { task: Task::Conversation, mode: Mode::Rewrite, ..PromptConfig::default() };
    let with = prompter(config.clone());
    let query = Query::text("and for two").with_turns(["soup for a cold day", "Try a broth.\nIt is hot."]);
    let (prefix, own) = parts(with.prompt(&query).unwrap());
    let before = "Before: soup for a cold day\nBefore: Try a broth. It is hot.\n";
    assert_eq!(own, format!("\n\n{before}Request: and for two\nSearch:"));
    let first = "Requests for recipes in the course of conversations, each with the best query for the search engine, which \
                 says all that is meant.\n\nBefore: how do bees live through the winter\nBefore: They stay in the hive, close \
                 together around the queen, and eat honey.\nRequest: and how do they tell each other where the flowers are\n\
                 Search: ";
    assert!(prefix.starts_with(first), "{prefix}");
    for style in [PromptStyle::Chat, PromptStyle::ThinkAnswer] {
        let chat = messages(prompter(PromptConfig { style, ..config.clone() }).prompt(&query).unwrap());
        assert_eq!(chat[7].content, format!("{before}Request: and for two"));
        let given = "You are given the last message of a conversation, and what was said before it.";
        assert!(chat[0].content.contains(given), "{}", chat[0].content);
    }
    let settled = |query: &Query| with.settled(query, Deadline::NONE).unwrap().map(|one| (one.text, one.kept));
    assert_eq!(settled(&Query::text("soup")), Some(("soup".to_owned(), Some(Kept::FirstMessage))));
    assert_eq!(settled(&Query::text("soup").with_turns([" "])), Some(("soup".to_owned(), Some(Kept::FirstMessage))));
    assert_eq!(settled(&query), None);
    assert_eq!(prompter(PromptConfig::default()).settled(&Query::text("soup"), Deadline::NONE).unwrap(), None);
}

#[test]
fn what_belongs_to_conversations_is_refused_elsewhere_and_shown_there() {
    let say = |config: PromptConfig| Prompter::new(config, &card(&[QueryLanguage::Plain])).err().unwrap().to_string();
    let conversation = ConversationConfig { max_turns: 0, ..ConversationConfig::default() };
    let config = PromptConfig { conversation, ..PromptConfig::default() };
    assert!(say(config.clone()).starts_with("prompt.conversation: settings of conversations in the task Search"));
    let config = PromptConfig { task: Task::Conversation, ..config };
    assert!(say(config.clone()).starts_with("prompt.conversation.max_turns: 0"));
    let example = Example { request: "a".into(), search: "b".into(), ..Example::default() };
    let config = PromptConfig { conversation: Default::default(), examples: Some(vec![example]), ..config };
    assert!(say(config).starts_with("prompt.examples[0]: `turns` is empty"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.jinja");
    let text = "{% macro instruction() %}I{% endmacro %}{% macro request(q) %}{{ q.text }}{% endmacro %}\
                {% macro response(e) %} {{ e.search }}{% endmacro %}";
    std::fs::write(&path, text).unwrap();
    let config = PromptConfig { task: Task::Conversation, template: Some(path), ..PromptConfig::default() };
    assert!(say(config).contains("never shows query.turns"));
    assert!(!toml::to_string(&PromptConfig::default()).unwrap().contains("conversation"), "the digest of older runs");
}

fn words(_: &Query) -> Result<Vec<String>> {
    Ok(["broth", "broth", " \n", "tomato\n<|im_end|>", "stew", "pot"].map(str::to_owned).to_vec())
}

#[test]
fn the_first_candidates_stand_between_a_request_and_its_answer_in_every_style_as_in_its_examples() {
    let config = PromptConfig { candidates: 3, ..PromptConfig::default() };
    let (prefix, query) =
        parts(prompter(config.clone()).with_candidates(Arc::new(words)).prompt(&Query::text("soup")).unwrap());
    assert_eq!(query, "\n\nRequest: soup\nWords: broth, tomato < |im_end|>, stew\nSearch:");
    let first = "Requests for recipes, each with words of a first search and those that fit best.\n\n\
                 Request: how do bees tell each other where the flowers are\nWords: honeybee, hive, waggle\nSearch: ";
    assert!(prefix.starts_with(first), "{prefix}");
    assert_eq!(prefix.matches("\nWords: ").count(), 3, "one an example: {prefix}");
    for style in [PromptStyle::Chat, PromptStyle::ThinkAnswer] {
        let prompter = prompter(PromptConfig { style, ..config.clone() }).with_candidates(Arc::new(words));
        let chat = messages(prompter.prompt(&Query::text("soup")).unwrap());
        assert_eq!(chat[7].content, "Request: soup\nWords: broth, tomato < |im_end|>, stew");
        assert!(chat[0].content.contains("words of a first search") && chat[1].content.ends_with("hive, waggle"));
    }
    let config = PromptConfig { task: Task::Recommend, max_title_chars: 6, ..config };
    let titles = |_: &Query| Ok(vec!["Green pots".to_owned(), "Green potatoes; raw".to_owned(), "Mat".to_owned()]);
    let prompter = prompter(config).with_candidates(Arc::new(titles));
    let (prefix, query) = parts(prompter.prompt(&Query::text("Red lamp\nCup")).unwrap());
    assert_eq!(query, "\n\nHad: Red la; Cup\nCandidates: Green; Mat\nSearch:", "cut as titles are, each once");
    assert!(prefix.contains("each with candidates and words for what"), "{prefix}");
}

#[test]
fn candidates_are_shown_and_spoken_of_in_every_mode_and_style() {
    for config in every_config() {
        let (own, named, shown) = match config.task {
            Task::Search | Task::Conversation => {
                ("Words: broth, tomato < |im_end|>, stew", "words of a first search", "\nWords: honeybee")
            }
            Task::Recommend => ("Candidates: broth; tomato", "candidates", "\nCandidates: Bread baking"),
        };
        let prompter = prompter(PromptConfig { candidates: 3, ..config.clone() }).with_candidates(Arc::new(words));
        let (before, query) = match prompter.prompt(&Query::text("soup")).unwrap() {
            Prompt::Completion { prefix, query } => (prefix, query),
            Prompt::Chat { mut messages } => {
                let last = messages.pop().unwrap().content;
                (messages.into_iter().map(|message| message.content).collect::<Vec<_>>().join("\n"), last)
            }
        };
        assert!(query.contains(own) && before.contains(named) && before.contains(shown), "{before}{query}");
    }
}

#[test]
fn without_candidates_nobody_is_asked_for_them_and_with_them_a_source_is_needed() {
    let never = |_: &Query| -> Result<Vec<String>> { panic!("not asked for") };
    for config in every_config() {
        let bare = prompter(config.clone()).prompt(&Query::text("soup")).unwrap();
        let with = prompter(config.clone()).with_candidates(Arc::new(never)).prompt(&Query::text("soup")).unwrap();
        assert_eq!(bare, with);
        let said = Example { turns: vec!["before".into()], ..Example::default() };
        let shown = Example { candidates: vec!["x".into()], request: "a".into(), ..said };
        let example = Example { history: vec!["a".into()], search: "b".into(), ..shown };
        let example = match config.mode {
            Mode::Choose => Example { search: "same".into(), ..example },
            _ => example,
        };
        let given = |examples| prompter(PromptConfig { examples: Some(examples), ..config.clone() }).shared;
        let without = Example { candidates: Vec::new(), ..example.clone() };
        assert_eq!(given(vec![example]), given(vec![without]), "an example may have what is not asked for");
        let error = prompter(PromptConfig { candidates: 1, ..config }).prompt(&Query::text("soup")).unwrap_err();
        assert!(error.to_string().starts_with("prompt.candidates: 1"), "{error}");
    }
}

#[test]
fn every_built_in_example_picks_among_its_candidates() {
    for config in every_config() {
        for example in examples(&config, config.language.unwrap()).unwrap() {
            let candidates = example.candidates.join(" ").to_lowercase();
            if config.mode == Mode::Choose {
                assert!(!candidates.is_empty());
                continue;
            }
            let offered: Vec<String> = terms(&candidates).iter().map(|term| term.words()).collect();
            let picked = |list: &[String]| offered.iter().filter(|word| list.contains(word)).count();
            let search: Vec<String> = terms(&example.search.to_lowercase()).iter().map(|term| term.words()).collect();
            let words: Vec<String> = search.iter().flat_map(|term| term.split(' ')).map(str::to_owned).collect();
            assert!(picked(&words) >= 2 && picked(&words) < offered.len(), "{example:?}");
            let of_words = matches!(config.mode, Mode::Rewrite | Mode::Expand);
            if of_words && config.language == Some(QueryLanguage::Plain) {
                assert!(words.iter().all(|word| offered.contains(word)), "{example:?}");
            }
        }
    }
}

#[test]
fn a_template_or_an_example_that_never_shows_candidates_is_refused_where_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.jinja");
    let write = |request: &str| {
        let text = format!(
            "{{% macro instruction() %}}I{{% endmacro %}}{{% macro request(q) %}}{request}{{% endmacro %}}\
             {{% macro response(e) %}} {{{{ e.search }}}}{{% endmacro %}}"
        );
        std::fs::write(&path, text).unwrap();
    };
    let config = PromptConfig { template: Some(path.clone()), candidates: 2, ..PromptConfig::default() };
    let new = |config: PromptConfig| Prompter::new(config, &card(&[QueryLanguage::Plain]));
    write("Q {{ q.text }} {{ q.history }} A");
    let said = new(config.clone()).unwrap_err().to_string();
    assert!(said.starts_with("prompt.template: ") && said.contains("query.candidates"), "{said}");
    assert!(new(PromptConfig { candidates: 0, ..config.clone() }).is_ok());
    write("{% if task == 'search' %}{{ q.candidates | first }}{% endif %} {{ q.text }} A");
    assert!(new(config.clone()).is_ok());
    assert!(new(PromptConfig { task: Task::Recommend, ..config }).is_err());
    let example = Example { request: "x".into(), search: "y".into(), ..Example::default() };
    let config = PromptConfig { examples: Some(vec![example]), candidates: 2, ..PromptConfig::default() };
    let said = new(config).unwrap_err().to_string();
    assert!(said.starts_with("prompt.examples[0]: `candidates` is empty"), "{said}");
    assert!(new(PromptConfig { examples: Some(Vec::new()), candidates: 100, ..PromptConfig::default() }).is_ok());
    let said = new(PromptConfig { candidates: 101, ..PromptConfig::default() }).unwrap_err().to_string();
    assert!(said.starts_with("prompt.candidates: 101"), "{said}");
}

#[test]
fn a_prompt_without_candidates_is_written_as_it_was_before_there_were_any() {
    let example = Example { request: "x".into(), search: "y".into(), ..Example::default() };
    let config = PromptConfig { examples: Some(vec![example.clone()]), ..PromptConfig::default() };
    assert!(!toml::to_string(&config).unwrap().contains("candidates"));
    let example = Example { candidates: vec!["z".into()], ..example };
    let config = PromptConfig { examples: Some(vec![example]), candidates: 4, ..config };
    let text = toml::to_string(&config).unwrap();
    assert_eq!(toml::from_str::<PromptConfig>(&text).unwrap(), config);
}

#[test]
fn a_configured_template_replaces_the_built_in_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.jinja");
    let text = "{% macro instruction() %}Over {{ content }}{% endmacro %}{% macro request(q) %}Q {{ q.text }} A{% endmacro %}\
                {% macro response(e) %} {{ e.search }}{% endmacro %}";
    std::fs::write(&path, text).unwrap();
    let example = Example { request: "x".into(), search: "y".into(), ..Example::default() };
    let config =
        PromptConfig { template: Some(path.clone()), examples: Some(vec![example]), ..PromptConfig::default() };
    assert_eq!(
        prompter(config.clone()).prompt(&Query::text("z")).unwrap(),
        Prompt::Completion { prefix: "Over recipes\n\nQ x A y".into(), query: "\n\nQ z A".into() }
    );
    for (text, said) in [
        ("{% macro instruction() %}{% endmacro %}", "request"),
        ("{% macro instruction( %}", "line 1"),
        ("{% macro instruction() %}{{ nothing }}{% endmacro %}", "undefined"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Prompter::new(config.clone(), &card(&[QueryLanguage::Plain])).err().unwrap().to_string();
        assert!(
            error.starts_with("prompt.template: ") && error.contains("mine.jinja") && error.contains(said),
            "{error}"
        );
    }
}

#[test]
fn bad_keys_and_values_are_refused_with_what_would_be_right() {
    let wrong: Result<PromptConfig, _> = serde_json::from_str("{\"stile\": \"chat\"}");
    assert!(wrong.unwrap_err().to_string().contains("unknown field `stile`"));
    let ok: PromptConfig =
        serde_json::from_str("{\"style\": \"think-answer\", \"mode\": \"rewrite\", \"language\": \"boolean\"}")
            .unwrap();
    assert_eq!((ok.style, ok.mode), (PromptStyle::ThinkAnswer, Mode::Rewrite));
    let say = |config: PromptConfig| Prompter::new(config, &card(&[QueryLanguage::Plain])).err().unwrap().to_string();
    let default = PromptConfig::default;
    assert!(say(PromptConfig { max_terms: 0, ..default() }).contains("prompt.max_terms: 0"));
    assert!(say(PromptConfig { original_weight: f32::NAN, ..default() }).contains("prompt.original_weight: NaN"));
    assert!(say(PromptConfig { language: Some(QueryLanguage::Boolean), ..default() }).contains("does not read"));
    let example = Example { search: "x".into(), ..Example::default() };
    assert!(say(PromptConfig { examples: Some(vec![example]), ..default() }).contains("prompt.examples[0]"));
    let (vocabulary, style) = (Vocabulary::Catalog, PromptStyle::Chat);
    assert!(say(PromptConfig { vocabulary, style, ..default() }).contains("prompt.vocabulary: Catalog with the style"));
}

#[test]
fn no_word_is_an_answer_where_words_are_restricted_and_none_where_they_are_free() {
    let query = Query::text("baby songs");
    for vocabulary in [Vocabulary::Free, Vocabulary::Catalog, Vocabulary::Feedback] {
        let prompter = prompter(PromptConfig { vocabulary, ..PromptConfig::default() });
        let (reading, rewrite) =
            (prompter.read(&query, &Rewrite::plain(&query.text), " \n").unwrap(), prompter.rewrite(&query, ""));
        if vocabulary.is_free() {
            assert_eq!((reading.broken, reading.rewarded()), (Some(FormatFault::Empty), None));
            assert!(matches!(rewrite, Err(Error::Format(_))));
        } else {
            assert_eq!((reading.broken, reading.rewarded()), (None, Some(&Rewrite::plain("baby songs"))));
            assert_eq!(rewrite.unwrap(), Rewrite::plain("baby songs"));
        }
        let read = prompter.read(&query, &Rewrite::plain(&query.text), " lullaby\n").unwrap();
        assert_eq!(read.terms.len(), 1);
    }
}

#[test]
fn a_completion_becomes_a_rewrite_or_a_format_error() {
    let prompter = prompter(PromptConfig { style: PromptStyle::ThinkAnswer, ..PromptConfig::default() });
    let query = Query::text("baby songs");
    let good = prompter.rewrite(&query, "<think></think><answer>{\"query\": \"lullaby\"}</answer>").unwrap();
    assert_eq!(good, Rewrite::plain("baby songs baby songs lullaby"));
    let error = prompter.rewrite(&query, "<think>").unwrap_err().to_string();
    assert!(error.contains(&FormatFault::MissingTag("</think>").to_string()), "{error}");
}

#[test]
fn a_reading_holds_the_rewrite_without_each_term() {
    let prompter = prompter(PromptConfig::default());
    let completion = " hedge trimmer cordless\n";
    let query = Query::text("cut the hedge");
    let reading = prompter.read(&query, &Rewrite::plain("cut the hedge"), completion).unwrap();
    assert_eq!(reading.rewarded().unwrap().text, "cut the hedge cut the hedge hedge trimmer cordless");
    let terms: Vec<(&str, &str)> =
        reading.terms.iter().map(|t| (&completion[t.span.clone()], t.without.text.as_str())).collect();
    assert_eq!(
        terms,
        [
            ("hedge", "cut the hedge cut the hedge trimmer cordless"),
            ("trimmer", "cut the hedge cut the hedge hedge cordless"),
            ("cordless", "cut the hedge cut the hedge hedge trimmer"),
        ]
    );
    assert_eq!(reading.generated, 3);
    let before: Vec<&str> = reading.terms.iter().map(|term| term.before.text.as_str()).collect();
    assert_eq!(
        before,
        ["cut the hedge", "cut the hedge cut the hedge hedge", "cut the hedge cut the hedge hedge trimmer"],
        "the rewrites that end before each; with nothing it is the query"
    );
}

#[test]
fn a_reading_counts_generated_terms_repeated_ones_too_up_to_those_that_are_used() {
    let count = |config: PromptConfig, completion: &str| {
        let query = Query::text("cut the hedge");
        prompter(config).read(&query, &Rewrite::plain(&query.text), completion).unwrap().generated
    };
    assert_eq!(count(PromptConfig::default(), " trimmer, trimmer saw\n"), 3);
    assert_eq!(count(PromptConfig { max_terms: 2, ..PromptConfig::default() }, " trimmer trimmer saw\n"), 2);
    // More than get a counterfactual.
    assert_eq!(count(PromptConfig::default(), &" saw".repeat(20)), 20);
    let restricted = PromptConfig { vocabulary: Vocabulary::Catalog, ..PromptConfig::default() };
    assert_eq!((count(restricted.clone(), ""), count(restricted, " saw")), (0, 1));
    assert_eq!(count(PromptConfig::default(), ""), 0, "a broken format");
}

#[test]
fn a_recovered_query_is_a_rewrite_that_is_not_rewarded_and_has_no_terms() {
    let prompter = prompter(PromptConfig { style: PromptStyle::ThinkAnswer, ..PromptConfig::default() });
    let query = Query::text("baby songs");
    let reading =
        prompter.read(&query, &Rewrite::plain("baby songs"), "<answer>{\"query\": \"lullaby\"}</answer>").unwrap();
    assert!(reading.rewrite.is_some() && reading.rewarded().is_none() && reading.terms.is_empty());
    assert_eq!(reading.broken, Some(FormatFault::MissingTag("<think>")));
}

proptest! {
    #[test]
    fn no_query_breaks_a_prompt_and_its_length_is_bounded(text in "\\PC{0,800}", history in prop::collection::vec(any::<u32>(), 0..30)) {
        for config in [
            PromptConfig::default(),
            PromptConfig { task: Task::Recommend, ..PromptConfig::default() },
        ] {
            let titles: Titles = Arc::new(|item| "t\n".repeat(item as usize % 300));
            let prompter = prompter(config).with_titles(titles);
            let (_, query) = parts(prompter.prompt(&Query::text(text.clone()).with_history(history.clone())).unwrap());
            prop_assert!(query.chars().count() <= 1100);
            prop_assert!(query.matches('\n').count() <= 3);
            prop_assert!(terms(&query).len() <= 600);
        }
    }
}
