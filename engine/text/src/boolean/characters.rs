//! The characters and words that the Boolean language reads as more than text: one table for the lexer, and for those who
//! write a user's words into a query.

/// What begins and ends a phrase: the ASCII quote and the typographic ones of English, German and their neighbours.
pub const QUOTES: [char; 4] = ['"', '\u{201c}', '\u{201d}', '\u{201e}'];

/// The other characters with a meaning: brackets, signs, `field:`, `^boost`.
pub const SIGNS: [char; 6] = ['(', ')', '+', '-', ':', '^'];

/// Characters that have a meaning in other query languages. They are no text that anybody searches for.
const FOREIGN: [char; 15] = ['[', ']', '{', '}', '\\', '!', '~', '*', '?', '/', '&', '|', '<', '>', '='];

/// Words that are operators, in upper case alone.
pub const OPERATORS: [&str; 3] = ["AND", "OR", "NOT"];

/// Whether a character begins or ends a phrase.
pub fn is_quote(c: char) -> bool {
    QUOTES.contains(&c)
}

/// A text without anything that a Boolean language could read as an operator, a field or a phrase: its words alone, with
/// single spaces between, operators in lower case.
pub fn escaped(text: &str) -> String {
    let special = |c: char| is_quote(c) || SIGNS.contains(&c) || FOREIGN.contains(&c);
    let bare = text.replace(special, " ");
    let words = bare.split_whitespace().map(|word| match OPERATORS.contains(&word) {
        true => word.to_lowercase(),
        false => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}
