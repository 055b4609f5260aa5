//! The terms of a generated query, where they stand, and the query without one of them.
//!
//! One reading for every query language: quotes make a phrase, `field:`, `^boost`, `+` and `-` belong to their term,
//! `field:(a b)` stands for `field:a field:b`, upper-case AND, OR and NOT are operators, commas and semicolons separate.
//! It only cuts a text into pieces, so it never fails; what the pieces mean is the retriever's matter.

use std::ops::Range;

/// A term: a word or a phrase with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// With quotes, field and boost, without punctuation around it. As written; the field may stand before a bracket.
    pub text: String,
    /// Where, in bytes of the text that was read; without the field that stands before a bracket.
    pub span: Range<usize>,
    /// Whether NOT or `-` stands before it.
    pub negated: bool,
}

impl Term {
    /// The bare words, for retrievers that read nothing else.
    pub fn words(&self) -> String {
        let bare = self.text.trim_start_matches(['+', '-']);
        let bare = match bare.rfind('^') {
            Some(at) if is_boost(bare.get(at..).unwrap_or("")) => bare.get(..at).unwrap_or(bare),
            _ => bare,
        };
        bare.replace('"', " ").split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// All terms of a text, in their order.
pub fn terms(text: &str) -> Vec<Term> {
    let pieces = pieces(text);
    let mut found = Vec::with_capacity(pieces.len());
    let mut after_not = false;
    // The field before each bracket that is open.
    let mut fields: Vec<&str> = Vec::new();
    for piece in &pieces {
        match piece.kind {
            Kind::Term => {
                let raw = piece.of(text);
                let field = fields.iter().rev().find(|f| !f.is_empty()).filter(|_| !raw.contains(':'));
                found.push(Term {
                    text: [field.copied().unwrap_or(""), raw].concat(),
                    span: piece.span.clone(),
                    negated: after_not || raw.starts_with('-'),
                });
                after_not = false;
            }
            Kind::Not => after_not = true,
            // NOT before a bracket negates the first term of it at least; operators in between are noise.
            Kind::Open => fields.push(piece.of(text).trim_end_matches('(')),
            Kind::Close => drop(fields.pop()),
            Kind::AndOr => {}
        }
    }
    found
}

/// The text without its term number `index` (as [`terms`] counts), and without the operators and brackets that then
/// have nothing to work on. The text as it is, one space between the pieces, when there is no such term.
pub fn without_term(text: &str, index: usize) -> String {
    let mut pieces = pieces(text);
    let at = pieces.iter().enumerate().filter(|(_, piece)| piece.kind == Kind::Term).map(|(at, _)| at).nth(index);
    if let Some(at) = at {
        remove(&mut pieces, at);
    }
    let mut out = String::with_capacity(text.len());
    let mut tight = true;
    for piece in &pieces {
        if !tight && piece.kind != Kind::Close {
            out.push(' ');
        }
        out.push_str(piece.of(text));
        tight = piece.kind == Kind::Open;
    }
    out
}

/// Removes the piece at `at`; then a NOT before it, one operator beside it, and brackets left empty around it.
fn remove(pieces: &mut Vec<Piece>, mut at: usize) {
    pieces.remove(at);
    loop {
        let kind = |pieces: &Vec<Piece>, at: Option<usize>| at.and_then(|at| pieces.get(at)).map(|piece| piece.kind);
        let before = at.checked_sub(1);
        match (kind(pieces, before), kind(pieces, Some(at))) {
            (Some(Kind::Not), _) => at = drop_at(pieces, at - 1),
            (Some(Kind::AndOr), _) => {
                drop_at(pieces, at - 1);
                return;
            }
            (Some(Kind::Open), Some(Kind::Close)) => {
                pieces.remove(at);
                at = drop_at(pieces, at - 1);
            }
            (None | Some(Kind::Open), Some(Kind::AndOr)) => {
                pieces.remove(at);
                return;
            }
            _ => return,
        }
    }
}

fn drop_at(pieces: &mut Vec<Piece>, at: usize) -> usize {
    pieces.remove(at);
    at
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Term,
    AndOr,
    Not,
    Open,
    Close,
}

#[derive(Debug)]
struct Piece {
    kind: Kind,
    span: Range<usize>,
}

impl Piece {
    fn of<'t>(&self, text: &'t str) -> &'t str {
        text.get(self.span.clone()).unwrap_or("")
    }
}

fn pieces(text: &str) -> Vec<Piece> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) {
        let end = at + c.len_utf8();
        at = match c {
            '(' => {
                found.push(Piece { kind: Kind::Open, span: at..end });
                end
            }
            ')' => {
                let end = end + boost_length(text.get(end..).unwrap_or(""));
                found.push(Piece { kind: Kind::Close, span: at..end });
                end
            }
            c if is_separator(c) => end,
            _ if field_length(text, at) > 0 => {
                let end = at + field_length(text, at) + 1;
                found.push(Piece { kind: Kind::Open, span: at..end });
                end
            }
            _ => {
                let end = term_end(text, at);
                if let Some(piece) = term(text, at..end) {
                    found.push(piece);
                }
                end
            }
        };
    }
    found
}

/// The length of `field:` at `start` when a bracket follows, else 0.
fn field_length(text: &str, start: usize) -> usize {
    let rest = text.get(start..).unwrap_or("");
    let name = rest.len() - rest.trim_start_matches(|c: char| c.is_alphanumeric() || "_-".contains(c)).len();
    let bracket = rest.get(name..).is_some_and(|rest| rest.starts_with(":("));
    if name > 0 && bracket { name + 1 } else { 0 }
}

/// Where the term that starts at `start` ends; always after `start`.
fn term_end(text: &str, start: usize) -> usize {
    let rest = text.get(start..).unwrap_or("");
    for (at, c) in rest.char_indices() {
        if c == '"' {
            let before = rest.get(..at).unwrap_or("");
            let opens = at == 0 || before.ends_with([':', '+', '-']);
            let inside = rest.get(at + 1..).unwrap_or("");
            return match inside.find('"') {
                Some(close) if opens => {
                    let end = at + close + 2;
                    start + end + boost_length(rest.get(end..).unwrap_or(""))
                }
                // A quote that closes nothing is noise.
                _ => start + if at == 0 { 1 } else { at },
            };
        }
        if is_separator(c) || "()".contains(c) {
            return start + at;
        }
    }
    start + rest.len()
}

/// The piece in `span`, without punctuation around it; none when nothing is left.
fn term(text: &str, span: Range<usize>) -> Option<Piece> {
    let raw = text.get(span.clone())?;
    match raw {
        "AND" | "OR" => return Some(Piece { kind: Kind::AndOr, span }),
        "NOT" => return Some(Piece { kind: Kind::Not, span }),
        _ => {}
    }
    let noise = |c: char| ".!?:'`*…".contains(c);
    let head = raw.len() - raw.trim_start_matches(noise).len();
    let kept = raw.get(head..)?.trim_end_matches(noise);
    if !kept.chars().any(char::is_alphanumeric) {
        return None;
    }
    let start = span.start + head;
    Some(Piece { kind: Kind::Term, span: start..start + kept.len() })
}

fn is_separator(c: char) -> bool {
    c.is_whitespace() || c.is_control() || ",;".contains(c)
}

fn is_boost(text: &str) -> bool {
    text.len() > 1 && boost_length(text) == text.len()
}

/// The length of `^2.5` at the start of a text, 0 when there is none.
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
        let words: Vec<String> = terms(query).iter().map(Term::words).collect();
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
    fn an_open_quote_is_noise() {
        assert_eq!(texts("\"open quote and 5\" x"), ["\"open quote and 5\"", "x"]);
        assert_eq!(texts("a \"open quote"), ["a", "open", "quote"]);
        assert_eq!(texts("5\" pipe"), ["5", "pipe"]);
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
        fn every_text_is_read_and_each_removal_leaves_the_other_terms(text in "[ \"()a-cé:^2,+AND OT-]{0,40}") {
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
        fn any_text_at_all_is_read(text in "\\PC*") {
            for i in 0..terms(&text).len() {
                without_term(&text, i);
            }
        }
    }
}
