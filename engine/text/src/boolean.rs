//! A lenient Boolean query language: every text is a query, none is an error.
//!
//! | written | meaning |
//! |---|---|
//! | `a b` | either; both score (the default operator is OR) |
//! | `a AND b`, `a OR b`, `NOT a` | upper case only; NOT binds tighter than AND, AND tighter than OR and than nothing |
//! | `+a`, `-a` | required, forbidden, within their bracket |
//! | `"a b"` | the words next to each other, in order |
//! | `(a b) AND c` | grouping |
//! | `title:a`, `title:"a b"`, `title:(a b)` | in one field; a field that does not exist is a plain word |
//! | `a^2`, `"a b"^0.5`, `(a b)^3` | the score of that part times the number, at most [`LARGEST_BOOST`] |
//!
//! `NOT a` removes documents from what its bracket matches otherwise, as in Lucene; `a AND (NOT b)` is `a NOT b`.
//! Malformed parts are read as far as possible: open quotes and brackets are closed at the end, operators with
//! nothing to work on are ignored, brackets nested deeper than [`DEEPEST_NESTING`] group no further. A query with
//! nothing but NOT has no clause to search with; the retriever then takes the text as plain words.
//!
//! Why not the parser that comes with Tantivy: even its lenient mode reads ranges, sets, regular expressions and `*`
//! into ordinary prose ("price < 50", "what? *", "/path/to"), leaves out the words of a field that does not exist, and
//! recurses once per bracket, so that a text of some thousand brackets overflows the stack.

mod characters;

use std::iter::Peekable;
use std::str::CharIndices;

pub use characters::{OPERATORS, QUOTES, SIGNS, escaped, is_quote};

/// Brackets nested deeper than this group no further.
pub const DEEPEST_NESTING: usize = 32;

/// A boost written larger than this counts as this.
pub const LARGEST_BOOST: f32 = 1000.0;

/// A part of a parsed query.
#[derive(Debug, Clone, PartialEq)]
pub enum Clause<'q> {
    /// Words still to be analysed.
    Words {
        /// The field that they must stand in, as an index into the fields given to [`parse`]; none for all of them.
        field: Option<usize>,
        /// The text.
        text: &'q str,
        /// Whether the words must stand next to each other.
        phrase: bool,
        /// The factor on their score.
        boost: f32,
    },
    /// Clauses in one bracket.
    Group(Group<'q>),
}

/// The clauses of one bracket, by what they demand of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Group<'q> {
    /// All of these must match.
    pub must: Vec<Clause<'q>>,
    /// These add to the score; where `must` is empty, one of them must match.
    pub should: Vec<Clause<'q>>,
    /// None of these may match.
    pub must_not: Vec<Clause<'q>>,
    /// The factor on the score of the whole.
    pub boost: f32,
}

impl<'q> Group<'q> {
    fn empty() -> Self {
        Self { must: Vec::new(), should: Vec::new(), must_not: Vec::new(), boost: 1.0 }
    }

    fn is_only_negative(&self) -> bool {
        self.must.is_empty() && self.should.is_empty()
    }

    /// Adds an operand to its list. A bracket that holds nothing but NOT passes its NOT to this group.
    fn add(&mut self, operand: Operand<'q>) {
        let mut clause = operand.clause;
        let mut forbidden = operand.forbidden;
        if let Clause::Group(inner) = &mut clause
            && inner.is_only_negative()
        {
            inner.should = std::mem::take(&mut inner.must_not);
            forbidden = !forbidden;
        }
        match (forbidden, operand.required) {
            (true, _) => self.must_not.push(clause),
            (false, true) => self.must.push(clause),
            (false, false) => self.should.push(clause),
        }
    }

    /// A bracket around a single clause is that clause.
    fn simplified(mut self) -> Clause<'q> {
        let single = self.must_not.is_empty() && self.must.len() + self.should.len() == 1;
        if single && let Some(mut only) = self.must.pop().or_else(|| self.should.pop()) {
            only.boost_by(self.boost);
            return only;
        }
        Clause::Group(self)
    }
}

impl Clause<'_> {
    fn boost_by(&mut self, factor: f32) {
        match self {
            Self::Words { boost, .. } | Self::Group(Group { boost, .. }) => *boost *= factor,
        }
    }
}

/// Parses any text; `fields` are the names that `field:` may have (upper and lower case are the same).
pub fn parse<'q>(text: &'q str, fields: &[String]) -> Group<'q> {
    let mut parser = Parser {
        lexer: Lexer { text, chars: text.char_indices().peekable(), fields },
        peeked: None,
        ignored_brackets: 0,
    };
    let mut all = Group::empty();
    // A bracket closed too often ends a group early; the rest goes on at the top.
    while parser.peek().is_some() {
        parser.group_into(&mut all, None, 0);
    }
    all
}

/// Whether a query can name a field of these: one with a blank, a bracket or a quote in its name, or with a name that
/// differs from an earlier one's by case alone, is out of reach.
pub fn can_name(field: &str, fields: &[String]) -> bool {
    let query = format!("{field}:(x)");
    let Group { must, should, must_not, .. } = parse(&query, fields);
    let found = |at: &usize| fields.get(*at).is_some_and(|name| name == field);
    must.is_empty()
        && must_not.is_empty()
        && matches!(should.as_slice(), [Clause::Words { field: Some(at), .. }] if found(at))
}

/// An operand with what its signs say.
struct Operand<'q> {
    clause: Clause<'q>,
    required: bool,
    forbidden: bool,
}

struct Parser<'q, 'f> {
    lexer: Lexer<'q, 'f>,
    peeked: Option<Lexeme<'q>>,
    /// Opening brackets that were too deep to group; as many closing ones mean nothing.
    ignored_brackets: usize,
}

impl<'q> Parser<'q, '_> {
    fn peek(&mut self) -> Option<&Lexeme<'q>> {
        if self.peeked.is_none() {
            self.peeked = self.lexer.next();
        }
        self.peeked.as_ref()
    }

    fn take(&mut self) -> Option<Lexeme<'q>> {
        self.peek();
        self.peeked.take()
    }

    fn take_if(&mut self, wanted: &Lexeme<'_>) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.peeked = None;
        }
        found
    }

    /// Reads up to the closing bracket, which it takes, or the end.
    fn group_into(&mut self, group: &mut Group<'q>, field: Option<usize>, depth: usize) {
        loop {
            match self.peek() {
                None => return,
                Some(Lexeme::Close) => {
                    self.take();
                    if depth < DEEPEST_NESTING || self.ignored_brackets == 0 {
                        return;
                    }
                    self.ignored_brackets -= 1;
                    continue;
                }
                _ => {}
            }
            if let Some(operand) = self.conjunction(field, depth) {
                group.add(operand);
            }
        }
    }

    /// `a AND b AND NOT c`: one operand for the group around it.
    fn conjunction(&mut self, field: Option<usize>, depth: usize) -> Option<Operand<'q>> {
        let first = self.operand(field, depth)?;
        if self.peek() != Some(&Lexeme::And) {
            return Some(first);
        }
        let mut all = Group::empty();
        all.add(Operand { required: true, ..first });
        while self.take_if(&Lexeme::And) {
            if let Some(operand) = self.operand(field, depth) {
                all.add(Operand { required: true, ..operand });
            }
        }
        Some(Operand { clause: all.simplified(), required: false, forbidden: false })
    }

    /// Signs, a field, then a word, a phrase or a bracket, then a boost. None at the end of a bracket.
    fn operand(&mut self, field: Option<usize>, depth: usize) -> Option<Operand<'q>> {
        let (mut required, mut forbidden, mut field) = (false, false, field);
        let mut clause = loop {
            match self.peek() {
                None | Some(Lexeme::Close) => return None,
                _ => {}
            }
            match self.take()? {
                // Operators with nothing on their left, and boosts with nothing to boost.
                Lexeme::And | Lexeme::Or | Lexeme::Boost(_) | Lexeme::Close => {}
                Lexeme::Not | Lexeme::Minus => forbidden = !forbidden,
                Lexeme::Plus => required = true,
                Lexeme::Field(named) => field = Some(named),
                Lexeme::Words { text, phrase } => break Clause::Words { field, text, phrase, boost: 1.0 },
                Lexeme::Open if depth < DEEPEST_NESTING => {
                    let mut inner = Group::empty();
                    self.group_into(&mut inner, field, depth + 1);
                    break inner.simplified();
                }
                Lexeme::Open => self.ignored_brackets += 1,
            }
        };
        if let Some(&Lexeme::Boost(boost)) = self.peek() {
            self.take();
            clause.boost_by(boost);
        }
        Some(Operand { clause, required, forbidden })
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Lexeme<'q> {
    Open,
    Close,
    And,
    Or,
    Not,
    Plus,
    Minus,
    Field(usize),
    Boost(f32),
    Words { text: &'q str, phrase: bool },
}

struct Lexer<'q, 'f> {
    text: &'q str,
    chars: Peekable<CharIndices<'q>>,
    fields: &'f [String],
}

impl<'q> Lexer<'q, '_> {
    fn here(&mut self) -> usize {
        self.chars.peek().map_or(self.text.len(), |c| c.0)
    }

    fn slice(&self, from: usize, to: usize) -> &'q str {
        self.text.get(from..to).unwrap_or_default()
    }

    fn skip_to(&mut self, position: usize) {
        while self.chars.next_if(|c| c.0 < position).is_some() {}
    }

    fn word(&mut self, start: usize) -> Lexeme<'q> {
        let rest = self.slice(start, self.text.len());
        let word =
            rest.split(|c: char| c.is_whitespace() || is_quote(c) || matches!(c, '(' | ')')).next().unwrap_or(rest);
        if let Some((name, _)) = word.split_once(':')
            && let Some(field) = self.fields.iter().position(|f| f.eq_ignore_ascii_case(name))
        {
            self.skip_to(start + name.len() + 1);
            return Lexeme::Field(field);
        }
        // "word^2": the boost is a lexeme of its own.
        let text = match word.rfind('^') {
            Some(caret) if boost(word.get(caret..).unwrap_or_default()).is_some_and(|b| b.1 == word.len() - caret) => {
                word.get(..caret).unwrap_or(word)
            }
            _ => word,
        };
        self.skip_to(start + text.len());
        match text {
            "AND" => Lexeme::And,
            "OR" => Lexeme::Or,
            "NOT" => Lexeme::Not,
            _ => Lexeme::Words { text, phrase: false },
        }
    }
}

impl<'q> Iterator for Lexer<'q, '_> {
    type Item = Lexeme<'q>;

    fn next(&mut self) -> Option<Lexeme<'q>> {
        loop {
            let (start, c) = *self.chars.peek()?;
            match c {
                '(' | ')' => {
                    self.chars.next();
                    return Some(if c == '(' { Lexeme::Open } else { Lexeme::Close });
                }
                '^' => match boost(self.slice(start, self.text.len())) {
                    Some((boost, length)) => {
                        self.skip_to(start + length);
                        return Some(Lexeme::Boost(boost));
                    }
                    None => self.skip_to(start + 1),
                },
                // A sign belongs to what it touches; " - " is a dash.
                '+' | '-' => {
                    self.chars.next();
                    if self.chars.peek().is_some_and(|n| n.1.is_alphanumeric() || n.1 == '(' || is_quote(n.1)) {
                        return Some(if c == '+' { Lexeme::Plus } else { Lexeme::Minus });
                    }
                }
                c if c.is_whitespace() => self.skip_to(start + c.len_utf8()),
                c if is_quote(c) => {
                    self.chars.next();
                    let from = self.here();
                    while self.chars.next_if(|c| !is_quote(c.1)).is_some() {}
                    let to = self.here();
                    self.chars.next();
                    return Some(Lexeme::Words { text: self.slice(from, to), phrase: true });
                }
                _ => return Some(self.word(start)),
            }
        }
    }
}

/// The number of "^2.5…" and the length of its text, caret included.
fn boost(text: &str) -> Option<(f32, usize)> {
    let digits = text.strip_prefix('^')?;
    let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
    let value: f32 = digits.get(..end)?.parse().ok()?;
    Some((value.min(LARGEST_BOOST), end + 1))
}

#[cfg(test)]
mod tests;
