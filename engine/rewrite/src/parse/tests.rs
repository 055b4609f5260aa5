use super::*;
use proptest::prelude::*;

const PLAIN: QueryLanguage = QueryLanguage::Plain;

fn parse(style: PromptStyle, language: QueryLanguage, completion: &str) -> ParsedCompletion {
    super::parse(style, Mode::default(), language, completion)
}

fn think(completion: &str) -> ParsedCompletion {
    parse(PromptStyle::ThinkAnswer, PLAIN, completion)
}

#[test]
fn few_shot_takes_the_first_line_without_label_and_enclosing_quotes() {
    for completion in [" cradle song\nRequest: x", "cradle song", "  Search: cradle song ", " \"cradle song\"\r\n"] {
        let parsed = parse(PromptStyle::FewShot, PLAIN, completion);
        assert_eq!(parsed.query.as_deref(), Some("cradle song"), "{completion:?}");
        assert_eq!(&completion[parsed.query_span.unwrap()], "cradle song");
        assert_eq!(parsed.broken, None);
    }
    let phrase = parse(PromptStyle::FewShot, QueryLanguage::Boolean, " \"cradle song\"");
    assert_eq!(phrase.query.as_deref(), Some("\"cradle song\""));
}

#[test]
fn an_empty_first_line_breaks_the_format() {
    for completion in ["", "   ", "\nsong", "\"\"", "Search:"] {
        assert_eq!(
            parse(PromptStyle::FewShot, PLAIN, completion),
            ParsedCompletion::without_query(FormatFault::Empty),
            "{completion:?}"
        );
    }
}

#[test]
fn chat_skips_reasoning_and_blank_lines() {
    let parsed = parse(PromptStyle::Chat, PLAIN, "<think>\nhm\n</think>\n\n  cradle song \nthat is all");
    assert_eq!(parsed.query.as_deref(), Some("cradle song"));
}

#[test]
fn a_well_formed_think_answer_yields_its_query_and_its_place() {
    let completion = "<think>lullabies</think>\n<answer> {\"note\": 1, \"query\": \" cradle song \"} </answer>";
    let parsed = think(completion);
    assert_eq!((parsed.query.as_deref(), parsed.broken), (Some("cradle song"), None));
    assert_eq!(&completion[parsed.query_span.unwrap()], "cradle song");
}

#[test]
fn each_fault_of_the_format_is_named_and_the_query_is_recovered_where_there_is_one() {
    use FormatFault::*;
    let table = [
        ("<answer>{\"query\": \"a\"}</answer>", MissingTag("<think>"), Some("a")),
        ("<think>x<answer>{\"query\": \"a\"}</answer>", MissingTag("</think>"), Some("a")),
        ("<think>x</think> {\"query\": \"a\"}", MissingTag("<answer>"), Some("a")),
        ("<think>x</think><answer>{\"query\": \"a\"}", MissingTag("</answer>"), Some("a")),
        (
            "<think></think><answer>{\"query\":\"a\"}</answer><answer>{\"query\":\"b\"}</answer>",
            RepeatedTag("<answer>"),
            Some("b"),
        ),
        ("<think><think></think><answer>{\"query\":\"a\"}</answer>", RepeatedTag("<think>"), Some("a")),
        ("<answer>{\"query\":\"a\"}</answer><think></think>", TagOrder, Some("a")),
        ("<think></think><answer>cradle song</answer>", NotJson, Some("cradle song")),
        ("<think></think><answer>```json\n{\"query\": \"a\"}\n```</answer>", NotJson, Some("a")),
        ("<think></think><answer>{\"query\": \"a</answer>", NotJson, None),
        ("<think></think><answer>[\"a\"]</answer>", NotJson, Some("[\"a\"]")),
        ("<think></think><answer>{\"q\": \"a\"}</answer>", NoQueryKey, None),
        ("<think></think><answer>{\"query\": [\"a\"]}</answer>", QueryNotText, None),
        ("<think></think><answer>{\"query\": \" \"}</answer>", Empty, None),
        ("<think>still thinking about", MissingTag("</think>"), None),
        ("", MissingTag("<think>"), None),
    ];
    for (completion, fault, query) in table {
        let parsed = think(completion);
        assert_eq!(parsed.broken, Some(fault), "{completion}");
        assert_eq!(parsed.query.as_deref(), query, "{completion}");
    }
}

#[test]
fn terms_have_their_places_in_the_completion_even_inside_escaped_json() {
    let completion =
        r#"<think>a</think><answer>{"query": "\"cradle song\" caf\u00e9 na\u00efve \ud83c\udf19 b"}</answer>"#;
    let parsed = think(completion);
    assert_eq!(parsed.query.as_deref(), Some("\"cradle song\" café naïve 🌙 b"));
    let found = parsed.terms(completion);
    let written: Vec<&str> = found.iter().map(|t| &completion[t.span.clone()]).collect();
    assert_eq!(written, [r#"\"cradle song\""#, r"caf\u00e9", r"na\u00efve", "b"]);
    let plain = parse(PromptStyle::FewShot, PLAIN, " cradle, song\n");
    let found = plain.terms(" cradle, song\n");
    assert_eq!(found.iter().map(|t| t.span.clone()).collect::<Vec<_>>(), [1..7, 9..13]);
}

#[test]
fn deep_nesting_breaks_the_format_and_does_not_crash() {
    let deep = format!("<think></think><answer>{}</answer>", "{\"query\":".repeat(100_000));
    assert_eq!(think(&deep).broken, Some(FormatFault::NotJson));
}

fn check(completion: &str) -> Result<(), TestCaseError> {
    for style in [PromptStyle::FewShot, PromptStyle::Chat, PromptStyle::ThinkAnswer] {
        for language in [QueryLanguage::Plain, QueryLanguage::Boolean, QueryLanguage::Natural] {
            let parsed = parse(style, language, completion);
            prop_assert!(parsed.query.is_some() || parsed.broken.is_some());
            prop_assert!(parsed.query.as_ref().is_none_or(|q| !q.trim().is_empty() && q.len() <= completion.len()));
            if let Some(span) = &parsed.query_span {
                prop_assert!(completion.get(span.clone()).is_some());
            }
            for term in parsed.terms(completion) {
                prop_assert!(completion.get(term.span).is_some());
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_fail(completion in "\\PC*") {
        check(&completion)?;
    }

    #[test]
    fn no_mixture_of_tags_and_json_makes_the_parser_fail(parts in prop::collection::vec(prop::sample::select(vec![
        "<think>", "</think>", "<answer>", "</answer>", "{\"query\": \"", "\"}", "{", "}", "\"query\":", "\\u00e9", "\\",
        "\\ud83c", "é🌙", "a b", "\n", "\"", "[", "1", "AND", "Search:",
    ]), 0..20)) {
        check(&parts.concat())?;
    }

    #[test]
    fn every_query_comes_back_out_of_its_json(query in "\\PC{1,30}") {
        let json = serde_json::json!({"query": query}).to_string();
        let completion = format!("<think>x</think><answer>{json}</answer>");
        let clean = TAGS.iter().all(|tag| !query.contains(tag)) && !query.trim().is_empty();
        if clean {
            let parsed = think(&completion);
            prop_assert_eq!(parsed.query.as_deref(), Some(query.trim()));
            prop_assert_eq!(parsed.broken, None);
            prop_assert_eq!(parsed.terms(&completion).len(), terms(query.trim()).len());
        }
    }
}
