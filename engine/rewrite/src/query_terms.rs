//! The terms of a generated query, their places, and the query without one of them.
//!
//! The syntax is the same for every query language. Quotes make a phrase. `field:`, `^boost`, `+` and `-` belong to their
//! term. `field:(a b)` means `field:a field:b`. Upper-case AND, OR and NOT are operators. Commas and semicolons separate.
//! This is a lexer only, so it never fails. The retriever decides what a term means. Quotes are those that the Boolean
//! language reads, typographic ones too.

use std::ops::Range;

use querywright_text::boolean::is_quote;

/// A term of a query: a word or a phrase with its field, sign and boost.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueryTerm {
    /// As written, with quotes, field and boost, without surrounding punctuation. The field of an enclosing bracket is
    /// put in front.
    pub text: String,
    /// Its place in the query, in bytes, without the field of an enclosing bracket.
    pub span: Range<usize>,
    /// Whether NOT or `-` precedes it.
    pub negated: bool,
}

impl QueryTerm {
    /// The words alone, for retrievers that read plain words.
    pub fn words(&self) -> String {
        let bare = self.text.trim_start_matches(['+', '-']);
        let bare = match bare.rfind('^') {
            Some(at) if is_boost(bare.get(at..).unwrap_or("")) => bare.get(..at).unwrap_or(bare),
            _ => bare,
        };
        bare.replace(is_quote, " ").split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// All terms of a query, in order.
pub(crate) fn terms(text: &str) -> Vec<QueryTerm> {
    let lexemes = lexemes(text);
    let mut found = Vec::with_capacity(lexemes.len());
    let mut after_not = false;
    // The field of each open bracket; empty where it has none.
    let mut fields: Vec<&str> = Vec::new();
    for lexeme in &lexemes {
        match lexeme.kind {
            LexemeKind::Term => {
                let raw = lexeme.of(text);
                let field = fields.iter().rev().find(|f| !f.is_empty()).filter(|_| !raw.contains(':'));
                found.push(QueryTerm {
                    text: [field.copied().unwrap_or(""), raw].concat(),
                    span: lexeme.span.clone(),
                    negated: after_not || raw.starts_with('-'),
                });
                after_not = false;
            }
            LexemeKind::Not => after_not = true,
            // NOT before a bracket negates only the first term inside. Operators in between are ignored.
            LexemeKind::Open => fields.push(lexeme.of(text).trim_end_matches('(')),
            LexemeKind::Close => drop(fields.pop()),
            LexemeKind::AndOr => {}
        }
    }
    found
}

/// The query without its term number `index` (in the order of [`terms`]), and without operators and brackets that lose
/// their last operand. All of the query, with single spaces, where there is no such term.
pub(crate) fn without_term(text: &str, index: usize) -> String {
    let mut lexemes = lexemes(text);
    let at =
        lexemes.iter().enumerate().filter(|(_, lexeme)| lexeme.kind == LexemeKind::Term).map(|(at, _)| at).nth(index);
    if let Some(at) = at {
        remove(&mut lexemes, at);
    }
    let mut out = String::with_capacity(text.len());
    let mut tight = true;
    for lexeme in &lexemes {
        if !tight && lexeme.kind != LexemeKind::Close {
            out.push(' ');
        }
        out.push_str(lexeme.of(text));
        tight = lexeme.kind == LexemeKind::Open;
    }
    out
}

/// The query up to its term number `index` (in the order of [`terms`]), without what would then have no operand.
pub(crate) fn before_term(text: &str, index: usize) -> String {
    let later = (index..terms(text).len()).rev();
    later.fold(text.to_owned(), |before, last| without_term(&before, last))
}

/// Removes the lexeme at `at`, then a NOT before it, one operator beside it, and brackets left empty around it.
fn remove(lexemes: &mut Vec<Lexeme>, mut at: usize) {
    lexemes.remove(at);
    loop {
        let kind =
            |lexemes: &Vec<Lexeme>, at: Option<usize>| at.and_then(|at| lexemes.get(at)).map(|lexeme| lexeme.kind);
        let before = at.checked_sub(1);
        match (kind(lexemes, before), kind(lexemes, Some(at))) {
            (Some(LexemeKind::Not), _) => at = drop_at(lexemes, at - 1),
            (Some(LexemeKind::AndOr), _) => {
                drop_at(lexemes, at - 1);
                return;
            }
            (Some(LexemeKind::Open), Some(LexemeKind::Close)) => {
                lexemes.remove(at);
                at = drop_at(lexemes, at - 1);
            }
            (None | Some(LexemeKind::Open), Some(LexemeKind::AndOr)) => {
                lexemes.remove(at);
                return;
            }
            _ => return,
        }
    }
}

fn drop_at(lexemes: &mut Vec<Lexeme>, at: usize) -> usize {
    lexemes.remove(at);
    at
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LexemeKind {
    Term,
    AndOr,
    Not,
    Open,
    Close,
}

#[derive(Debug)]
struct Lexeme {
    kind: LexemeKind,
    span: Range<usize>,
}

impl Lexeme {
    fn of<'t>(&self, text: &'t str) -> &'t str {
        text.get(self.span.clone()).unwrap_or("")
    }
}

fn lexemes(text: &str) -> Vec<Lexeme> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) {
        let end = at + c.len_utf8();
        at = match c {
            '(' => {
                found.push(Lexeme { kind: LexemeKind::Open, span: at..end });
                end
            }
            ')' => {
                let end = end + boost_length(text.get(end..).unwrap_or(""));
                found.push(Lexeme { kind: LexemeKind::Close, span: at..end });
                end
            }
            c if is_separator(c) => end,
            _ if field_length(text, at) > 0 => {
                let end = at + field_length(text, at) + 1;
                found.push(Lexeme { kind: LexemeKind::Open, span: at..end });
                end
            }
            _ => {
                let end = term_end(text, at);
                if let Some(lexeme) = term_or_operator(text, at..end) {
                    found.push(lexeme);
                }
                end
            }
        };
    }
    found
}

/// The length of `field:` at `start` when a bracket follows, otherwise 0.
fn field_length(text: &str, start: usize) -> usize {
    let rest = text.get(start..).unwrap_or("");
    let name = rest.len() - rest.trim_start_matches(|c: char| c.is_alphanumeric() || "_-".contains(c)).len();
    let bracket = rest.get(name..).is_some_and(|rest| rest.starts_with(":("));
    if name > 0 && bracket { name + 1 } else { 0 }
}

/// The end of the term that starts at `start`; always greater than `start`.
fn term_end(text: &str, start: usize) -> usize {
    let rest = text.get(start..).unwrap_or("");
    for (at, c) in rest.char_indices() {
        if is_quote(c) {
            let before = rest.get(..at).unwrap_or("");
            let opens = at == 0 || before.ends_with([':', '+', '-']);
            let first = at + c.len_utf8();
            let inside = rest.get(first..).unwrap_or("");
            return match inside.char_indices().find(|(_, c)| is_quote(*c)) {
                Some((close, quote)) if opens => {
                    let end = first + close + quote.len_utf8();
                    start + end + boost_length(rest.get(end..).unwrap_or(""))
                }
                // A quote without a partner is ignored.
                _ => start + if at == 0 { first } else { at },
            };
        }
        if is_separator(c) || "()".contains(c) {
            return start + at;
        }
    }
    start + rest.len()
}

/// The lexeme in `span`, without surrounding punctuation; none where nothing is left.
fn term_or_operator(text: &str, span: Range<usize>) -> Option<Lexeme> {
    let raw = text.get(span.clone())?;
    match raw {
        "AND" | "OR" => return Some(Lexeme { kind: LexemeKind::AndOr, span }),
        "NOT" => return Some(Lexeme { kind: LexemeKind::Not, span }),
        _ => {}
    }
    let punctuation = |c: char| ".!?:'`*…".contains(c);
    let head = raw.len() - raw.trim_start_matches(punctuation).len();
    let kept = raw.get(head..)?.trim_end_matches(punctuation);
    if !kept.chars().any(char::is_alphanumeric) {
        return None;
    }
    let start = span.start + head;
    Some(Lexeme { kind: LexemeKind::Term, span: start..start + kept.len() })
}

fn is_separator(c: char) -> bool {
    c.is_whitespace() || c.is_control() || ",;".contains(c)
}

fn is_boost(text: &str) -> bool {
    text.len() > 1 && boost_length(text) == text.len()
}

/// The length of `^2.5` at the start of a text, otherwise 0.
fn boost_length(text: &str) -> usize {
    let Some(number) = text.strip_prefix('^') else { return 0 };
    let digits = number.len() - number.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    if digits == 0 { 0 } else { digits + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(text: &str) -> Vec<String> {
        terms(text).into_iter().map(|t| t.text).collect()
    }

    #[test]
    fn plain_words_separate_at_spaces_and_commas_without_their_punctuation() {
        assert_eq!(texts("lullaby, cradle song; sleep... (soft)!"), ["lullaby", "cradle", "song", "sleep", "soft"]);
    }

    #[test]
    fn phrases_fields_boosts_and_signs_belong_to_their_term() {
        let query = r#"title:"cradle song"^2 AND (a^3 OR -b) NOT "c d" +e"#;
        assert_eq!(texts(query), [r#"title:"cradle song"^2"#, "a^3", "-b", r#""c d""#, "+e"]);
        let negated: Vec<bool> = terms(query).iter().map(|t| t.negated).collect();
        assert_eq!(negated, [false, false, true, true, false]);
        let words: Vec<String> = terms(query).iter().map(QueryTerm::words).collect();
        assert_eq!(words, ["title: cradle song", "a", "b", "c d", "e"]);
    }

    #[test]
    fn a_field_before_a_bracket_belongs_to_every_term_inside() {
        let query = "title:(quiet harbour) text:sea (actors:(hale \"tom h\") x)";
        assert_eq!(texts(query), ["title:quiet", "title:harbour", "text:sea", "actors:hale", "actors:\"tom h\"", "x"]);
        let spans: Vec<&str> = terms(query).iter().map(|t| &query[t.span.clone()]).collect();
        assert_eq!(spans, ["quiet", "harbour", "text:sea", "hale", "\"tom h\"", "x"]);
        assert_eq!(without_term(query, 0), "title:(harbour) text:sea (actors:(hale \"tom h\") x)");
        assert_eq!(without_term("title:(quiet) sea", 0), "sea");
        assert_eq!(texts("title: (quiet"), ["title", "quiet"]);
    }

    #[test]
    fn a_quote_without_a_partner_is_ignored() {
        assert_eq!(texts("\"open quote and 5\" x"), ["\"open quote and 5\"", "x"]);
        assert_eq!(texts("a \"open quote"), ["a", "open", "quote"]);
        assert_eq!(texts("5\" pipe"), ["5", "pipe"]);
        assert_eq!(texts("24” steel kettle"), ["24", "steel", "kettle"]);
        assert_eq!(texts("„tea pot“ “x y\"^2"), ["„tea pot“", "“x y\"^2"]);
    }

    #[test]
    fn removing_a_term_takes_its_operator_and_empty_brackets_with_it() {
        let query = "(a OR b) AND NOT (c) d";
        let without: Vec<String> = (0..5).map(|i| without_term(query, i)).collect();
        assert_eq!(
            without,
            ["(b) AND NOT (c) d", "(a) AND NOT (c) d", "(a OR b) d", "(a OR b) AND NOT (c)", "(a OR b) AND NOT (c) d"]
        );
        assert_eq!(without_term("a AND b", 0), "b");
        assert_eq!(without_term("NOT a", 0), "");
        assert_eq!(without_term("((a))^2 b", 0), "b");
    }

    proptest! {
        #[test]
        fn every_text_is_split_into_terms_that_stand_at_their_spans(text in "[ \"“”()a-cé:^2,+AND OT-]{0,40}") {
            let all = texts(&text);
            for (i, term) in terms(&text).iter().enumerate() {
                prop_assert!(term.text.ends_with(&text[term.span.clone()]));
                prop_assert!(without_term(&text, i).len() <= 2 * text.len());
            }
            prop_assert!(all.len() <= text.len());
        }

        #[test]
        fn removal_of_a_word_leaves_the_other_words(words in prop::collection::vec("[a-z]{1,5}", 1..8), i in 0..8_usize) {
            let i = i % words.len();
            let mut rest = words.clone();
            rest.remove(i);
            for glue in [" ", " AND ", " OR ", ", "] {
                prop_assert_eq!(texts(&without_term(&words.join(glue), i)), rest.clone());
            }
        }

        #[test]
        fn the_beginning_before_a_word_has_the_words_before_it(
            words in prop::collection::vec("[a-z]{1,5}", 1..8), i in 0..8_usize,
        ) {
            let i = i % words.len();
            for glue in [" ", " AND ", " OR ", ", "] {
                prop_assert_eq!(texts(&before_term(&words.join(glue), i)), words[..i].to_vec());
            }
        }

        #[test]
        fn no_text_makes_the_lexer_fail(text in "\\PC*") {
            for i in 0..terms(&text).len() {
                without_term(&text, i);
                before_term(&text, i);
            }
        }
    }
}
