use proptest::prelude::*;

use super::*;

/// The query as an unambiguous text: `[must | should | must_not]`.
fn show(text: &str) -> String {
    let fields = ["title".to_owned(), "genres".to_owned()];
    show_group(&parse(text, &fields))
}

fn show_group(group: &Group<'_>) -> String {
    let list = |clauses: &[Clause<'_>]| clauses.iter().map(show_clause).collect::<Vec<_>>().join(" ");
    let boost = if group.boost == 1.0 { String::new() } else { format!("^{}", group.boost) };
    format!("[{}|{}|{}]{boost}", list(&group.must), list(&group.should), list(&group.must_not))
}

fn show_clause(clause: &Clause<'_>) -> String {
    match clause {
        Clause::Words { field, text, phrase, boost } => {
            let field = field.map_or(String::new(), |f| format!("{f}:"));
            let boost = if *boost == 1.0 { String::new() } else { format!("^{boost}") };
            if *phrase { format!("{field}\"{text}\"{boost}") } else { format!("{field}{text}{boost}") }
        }
        Clause::Group(group) => show_group(group),
    }
}

#[test]
fn a_field_can_be_named_where_the_lexer_reads_its_name() {
    let fields = ["title", "Title", "title.en", "release year", "a(b", "-x", "say \"x\"", "größe", "AND"];
    let fields: Vec<String> = fields.map(str::to_owned).to_vec();
    let named: Vec<&str> = fields.iter().map(String::as_str).filter(|field| can_name(field, &fields)).collect();
    assert_eq!(named, ["title", "title.en", "größe", "AND"]);
    assert!(!can_name("absent", &fields) && !can_name("", &fields));
}

#[test]
fn not_binds_tighter_than_and_which_binds_tighter_than_or() {
    assert_eq!(show("a b"), "[|a b|]");
    assert_eq!(show("a OR b AND NOT c OR d"), "[|a [b||c] d|]");
    assert_eq!(show("a AND b c"), "[|[a b||] c|]");
    assert_eq!(show("(a OR b) AND (c OR d)"), "[|[[|a b|] [|c d|]||]|]");
    assert_eq!(show("+a b -c"), "[a|b|c]");
}

#[test]
fn a_bracket_of_nothing_but_not_passes_it_to_the_bracket_around_it() {
    assert_eq!(show("a AND (NOT b)"), "[|[a||[|b|]]|]");
    assert_eq!(show("NOT (NOT a)"), "[|[|a|]|]");
    assert_eq!(show("NOT NOT a"), "[|a|]");
    assert_eq!(show("NOT a AND NOT b"), "[||[|a b|]]");
}

#[test]
fn fields_phrases_and_boosts_are_read() {
    assert_eq!(show("title:a^2 GENRES:\"b c\"^.5 title:(a b)^3 x"), "[|0:a^2 1:\"b c\"^0.5 [|0:a 0:b|]^3 x|]");
    assert_eq!(show("“smart quotes” a^99999"), "[|\"smart quotes\" a^1000|]");
    assert_eq!(show("title:((a))^2"), "[|0:a^2|]");
}

#[test]
fn what_is_no_operator_is_a_word() {
    assert_eq!(
        show("http://x.org wi-fi C++ and or not director:nolan a^b"),
        "[|http://x.org wi-fi C++ and or not director:nolan a^b|]"
    );
    assert_eq!(show("cats - dogs + birds"), "[|cats dogs birds|]");
}

#[test]
fn open_ends_are_closed_and_stray_operators_ignored() {
    assert_eq!(show("(a AND \"b c"), "[|[a \"b c\"||]|]");
    assert_eq!(show("a) b) c"), "[|a b c|]");
    assert_eq!(show("AND a OR AND OR b AND"), "[|a b|]");
    assert_eq!(show("NOT ^3 title: a^"), "[||0:a^]");
    assert_eq!(show("() \"\" title:"), "[|\"\"|[||]]");
    assert_eq!(show(""), "[||]");
}

#[test]
fn brackets_beyond_the_deepest_nesting_group_no_further_and_still_pair_up() {
    let deep = DEEPEST_NESTING + 5;
    let text = format!("{}a b{} OR c", "(".repeat(deep), ")".repeat(deep));
    let parsed = parse(&text, &[]);
    assert_eq!(parsed.should.len(), 2, "{parsed:?}");
}

#[test]
fn a_hundred_kilobytes_of_brackets_neither_overflow_nor_stall() {
    for piece in ["(", ")", "((a ", "NOT (", "-(", "title:(", "\"", "+\"", "^", "AND ", "(a AND NOT (b OR "] {
        let text = piece.repeat(100_000 / piece.len());
        parse(&text, &["title".to_owned()]);
    }
}

/// Whether a parsed text is nothing but words, each on its own.
fn is_plain(group: &Group<'_>) -> bool {
    let plain = |clause: &Clause<'_>| matches!(clause, Clause::Words { field: None, phrase: false, boost: 1.0, .. });
    group.must.is_empty() && group.must_not.is_empty() && group.should.iter().all(plain)
}

#[test]
fn an_escaped_text_holds_no_operator_and_no_open_phrase_whatever_character_is_in_it() {
    // The planes where all characters stand that are no letters of dead scripts or ideographs.
    let all = (0..0x2_0000_u32).chain(0xe_0000..0xe_0200).filter_map(char::from_u32);
    for c in all.filter(|c| !c.is_alphanumeric()) {
        let text = format!("24{c} title{c}a {c}b c{c} {c}{c}d ^{c}2 {c}(e AND{c}f");
        let escaped = escaped(&text);
        // As it is composed: in brackets with a boost, other terms behind.
        let composed = format!("({escaped})^2 router");
        let parsed = parse(&composed, &["title".to_owned()]);
        let [Clause::Group(user), Clause::Words { text: "router", phrase: false, boost: 1.0, .. }] = &parsed.should[..]
        else {
            panic!("{c:?}: {composed} becomes {parsed:?}");
        };
        assert!(user.boost == 2.0 && is_plain(&Group { boost: 1.0, ..user.clone() }), "{c:?}: {composed}: {user:?}");
        assert!(is_plain(&parse(&escaped, &["title".to_owned()])), "{c:?}: {escaped}");
    }
}

fn depth(group: &Group<'_>) -> usize {
    let clauses = group.must.iter().chain(&group.should).chain(&group.must_not);
    1 + clauses.map(|c| if let Clause::Group(g) = c { depth(g) } else { 0 }).max().unwrap_or(0)
}

proptest! {
    #[test]
    fn any_text_parses_into_a_shallow_tree_of_its_own_words(text in "(\\PC|[()\"^:+ -]|AND |OR |NOT |title:|\\^2){0,200}") {
        let parsed = parse(&text, &["title".to_owned()]);
        prop_assert!(depth(&parsed) <= 2 * DEEPEST_NESTING + 3);
    }

    #[test]
    fn any_escaped_text_is_plain_words(text in "(\\PC|[()\"“”„:^+ -]|AND |OR |NOT |title:|\\^2){0,60}") {
        let escaped = escaped(&text);
        prop_assert!(is_plain(&parse(&escaped, &["title".to_owned()])), "{} becomes {}", text, escaped);
    }

    #[test]
    fn plain_words_keep_their_order_and_nothing_is_lost(words in prop::collection::vec("[a-z]{1,8}", 0..20)) {
        let text = words.join(" ");
        prop_assert_eq!(show(&text), format!("[|{text}|]"));
    }
}
