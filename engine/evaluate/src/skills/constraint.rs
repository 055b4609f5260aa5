//! Constraints on an answer that a program can verify, of the kinds of IFEval (arXiv 2311.07911): each says itself to the
//! model, and each has a checker. Sentences, prompts and checkers are our own.

/// A constraint with its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Constraint {
    AtLeastWords(usize),
    AtMostWords(usize),
    Sentences(usize),
    Paragraphs(usize),
    Sections(usize),
    Lines(usize),
    Bullets(usize),
    Numbered(usize),
    Include([&'static str; 2]),
    Times(&'static str, usize),
    Avoid([&'static str; 2]),
    Letter(char, usize),
    Json,
    JsonKeys([&'static str; 2]),
    Upper,
    Lower,
    CapitalWords(usize),
    NoCommas,
    NoDigits,
    Starts(&'static str),
    Ends(&'static str),
    Quoted,
    Title,
    Placeholders(usize),
    Postscript,
    Highlights(usize),
    OneOf([&'static str; 3]),
    TwoAnswers,
    Repeat,
}

impl Constraint {
    /// The kind, for tables.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::AtLeastWords(_) | Self::AtMostWords(_) => "number of words",
            Self::Sentences(_) => "number of sentences",
            Self::Paragraphs(_) => "number of paragraphs",
            Self::Sections(_) => "sections",
            Self::Lines(_) => "number of lines",
            Self::Bullets(_) | Self::Numbered(_) => "lists",
            Self::Include(_) => "keywords",
            Self::Times(..) => "keyword, so many times",
            Self::Avoid(_) => "forbidden words",
            Self::Letter(..) => "letter, so many times",
            Self::Json | Self::JsonKeys(_) => "JSON",
            Self::Upper | Self::Lower | Self::CapitalWords(_) => "case",
            Self::NoCommas | Self::NoDigits => "characters left out",
            Self::Starts(_) => "first words",
            Self::Ends(_) => "last words",
            Self::Quoted => "quotation marks",
            Self::Title => "title",
            Self::Placeholders(_) => "placeholders",
            Self::Postscript => "postscript",
            Self::Highlights(_) => "highlights",
            Self::OneOf(_) => "one of three answers",
            Self::TwoAnswers => "two answers",
            Self::Repeat => "the request repeated",
        }
    }

    /// The sentence that asks for it.
    pub(super) fn asked(self) -> String {
        match self {
            Self::AtLeastWords(n) => format!("Use at least {n} words."),
            Self::AtMostWords(n) => format!("Use at most {n} words."),
            Self::Sentences(n) => format!("Answer in exactly {n} {}.", plural(n, "sentence")),
            Self::Paragraphs(n) => {
                format!("Write exactly {n} paragraphs, with one empty line between one and the next.")
            }
            Self::Sections(n) => {
                format!("Divide the answer into {n} parts. Begin each with a line \"Part X\", where X is its number.")
            }
            Self::Lines(n) => format!("Write exactly {n} lines, none of them empty."),
            Self::Bullets(n) => {
                format!("Answer with exactly {n} bullet points, each on a line that begins with \"- \".")
            }
            Self::Numbered(n) => format!("Answer with a list of {n} items, numbered 1. to {n}., each on its own line."),
            Self::Include([a, b]) => format!("Use the words \"{a}\" and \"{b}\"."),
            Self::Times(word, n) => format!("Use the word \"{word}\" at least {n} times."),
            Self::Avoid([a, b]) => format!("Use neither the word \"{a}\" nor the word \"{b}\"."),
            Self::Letter(letter, n) => format!("The letter \"{letter}\" must appear at least {n} times."),
            Self::Json => "Give the whole answer as one JSON object, and nothing else.".into(),
            Self::JsonKeys([a, b]) => {
                format!("Give the whole answer as one JSON object with the keys \"{a}\" and \"{b}\", and nothing else.")
            }
            Self::Upper => "Write in capital letters only.".into(),
            Self::Lower => "Write in lower case only: no capital letter anywhere.".into(),
            Self::CapitalWords(n) => format!("Write at least {n} words wholly in capital letters."),
            Self::NoCommas => "Do not use any comma.".into(),
            Self::NoDigits => "Do not use any digit.".into(),
            Self::Starts(words) => format!("Begin the answer with exactly these words: {words}"),
            Self::Ends(words) => format!("End the answer with exactly these words, and nothing after them: {words}"),
            Self::Quoted => "Put the whole answer in double quotation marks.".into(),
            Self::Title => "Give the answer a title in double angle brackets, such as <<a title>>.".into(),
            Self::Placeholders(n) => {
                format!("Use at least {n} {} in square brackets, such as [name].", plural(n, "placeholder"))
            }
            Self::Postscript => "Add a postscript at the end that begins with P.S.".into(),
            Self::Highlights(n) => {
                format!("Highlight at least {n} {} with asterisks, such as *this*.", plural(n, "phrase"))
            }
            Self::OneOf([a, b, c]) => format!("Answer with exactly one of these: \"{a}\", \"{b}\", \"{c}\"."),
            Self::TwoAnswers => "Give two different answers, and between them a line of six asterisks: ******".into(),
            Self::Repeat => "First repeat this request word for word, then answer it.".into(),
        }
    }

    /// Whether an answer to a request (`asked`, the whole of it) does what was asked for.
    pub(super) fn is_met(self, request: &str, answer: &str) -> bool {
        let answer = answer.trim();
        if answer.is_empty() {
            return false;
        }
        match self {
            Self::AtLeastWords(n) => words(answer).count() >= n,
            Self::AtMostWords(n) => words(answer).count() <= n,
            Self::Sentences(n) => sentences(answer) == n,
            Self::Paragraphs(n) => paragraphs(answer) == n,
            Self::Sections(n) => (1..=n).all(|part| has_heading(answer, part)) && !has_heading(answer, n + 1),
            Self::Lines(n) => answer.lines().count() == n && answer.lines().all(|line| !line.trim().is_empty()),
            Self::Bullets(n) => answer.lines().filter(|line| is_bullet(line)).count() == n,
            Self::Numbered(n) => numbers(answer) == (1..=n).collect::<Vec<_>>(),
            Self::Include(all) => all.iter().all(|word| times(answer, word) > 0),
            Self::Times(word, n) => times(answer, word) >= n,
            Self::Avoid(none) => none.iter().all(|word| times(answer, word) == 0),
            Self::Letter(letter, n) => answer.to_lowercase().chars().filter(|c| *c == letter).count() >= n,
            Self::Json => object(answer).is_some(),
            Self::JsonKeys(keys) => object(answer).is_some_and(|own| keys.iter().all(|key| own.contains_key(*key))),
            Self::Upper => has_letters(answer) && !answer.chars().any(char::is_lowercase),
            Self::Lower => has_letters(answer) && !answer.chars().any(char::is_uppercase),
            Self::CapitalWords(n) => words(answer).filter(|word| is_capital(word)).count() >= n,
            Self::NoCommas => !answer.contains([',', '，', '、']),
            Self::NoDigits => !answer.chars().any(char::is_numeric),
            Self::Starts(words) => answer.starts_with(words),
            Self::Ends(words) => answer.ends_with(words),
            Self::Quoted => is_quoted(answer),
            Self::Title => {
                between(answer, "<<", ">>").is_some_and(|title| !title.trim().is_empty() && !title.contains('\n'))
            }
            Self::Placeholders(n) => placeholders(answer) >= n,
            Self::Postscript => has_postscript(answer),
            Self::Highlights(n) => highlights(answer) >= n,
            Self::OneOf(all) => all.contains(&answer.trim_matches('"').trim_end_matches('.')),
            Self::TwoAnswers => two(answer),
            Self::Repeat => answer.strip_prefix(request).is_some_and(|rest| words(rest).count() > 0),
        }
    }
}

fn plural(n: usize, word: &str) -> String {
    if n == 1 { word.to_owned() } else { format!("{word}s") }
}

/// Pieces between spaces that hold a letter or a digit.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace().filter(|word| word.chars().any(char::is_alphanumeric))
}

/// How often a word stands in a text as a whole word, in any case.
fn times(text: &str, word: &str) -> usize {
    let text = text.to_lowercase();
    text.split(|c: char| !c.is_alphanumeric()).filter(|own| *own == word).count()
}

/// Runs of full stops, exclamation and question marks that end a word; a text that ends without one ends a sentence, too.
fn sentences(text: &str) -> usize {
    let is_end = |(place, word): &(usize, &str)| {
        let bare = word.trim_end_matches(['"', '\'', ')', '”', '’', '*']);
        // The number of an item stands at the beginning of a line.
        let item = *place == 0 && bare.trim_end_matches('.').chars().all(|c| c.is_ascii_digit());
        bare.ends_with(['.', '!', '?', '…']) && !item && !is_abbreviation(bare)
    };
    let all: Vec<(usize, &str)> = text.lines().flat_map(|line| line.split_whitespace().enumerate()).collect();
    let ends = all.iter().filter(|word| is_end(word)).count();
    ends + usize::from(all.last().is_some_and(|last| !is_end(last)))
}

/// A full stop that ends no sentence: "e.g.", "Dr.".
fn is_abbreviation(word: &str) -> bool {
    let stem = word.trim_end_matches('.');
    let known = ["e.g", "i.e", "etc", "dr", "mr", "mrs", "ms", "vs", "st", "approx"];
    word.ends_with('.') && known.contains(&stem.to_lowercase().as_str())
}

fn paragraphs(text: &str) -> usize {
    let lines: Vec<bool> = text.lines().map(|line| !line.trim().is_empty()).collect();
    lines.iter().enumerate().filter(|(at, full)| **full && (*at == 0 || !lines[at - 1])).count()
}

fn has_heading(text: &str, part: usize) -> bool {
    let bare = |line: &str| line.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    let heading = format!("part {part}");
    text.lines()
        .map(bare)
        .any(|line| line.strip_prefix(&heading).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit())))
}

fn is_bullet(line: &str) -> bool {
    line.trim_start().strip_prefix(['-', '*', '•']).is_some_and(|rest| rest.starts_with(' ') && !rest.trim().is_empty())
}

/// The numbers of lines that begin with one and a full stop.
fn numbers(text: &str) -> Vec<usize> {
    let number = |line: &str| {
        let (number, rest) = line.trim_start().split_once('.')?;
        rest.starts_with(' ').then(|| number.parse().ok()).flatten()
    };
    text.lines().filter_map(number).collect()
}

/// The JSON object that an answer is, in a fence or without one.
fn object(answer: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
    let fenced = answer.strip_prefix("```json").or_else(|| answer.strip_prefix("```"));
    let inner = fenced.and_then(|rest| rest.strip_suffix("```")).unwrap_or(answer);
    serde_json::from_str(inner.trim()).ok()
}

fn has_letters(text: &str) -> bool {
    text.chars().any(char::is_alphabetic)
}

/// A word of at least two letters, all of them capitals.
fn is_capital(word: &str) -> bool {
    word.chars().filter(|c| c.is_alphabetic()).count() > 1 && !word.chars().any(char::is_lowercase)
}

fn is_quoted(text: &str) -> bool {
    let inner = [('"', '"'), ('“', '”')].iter().find_map(|(a, b)| text.strip_prefix(*a)?.strip_suffix(*b));
    inner.is_some_and(|inner| !inner.trim().is_empty())
}

/// What stands between two marks, for the first time.
fn between<'t>(text: &'t str, open: &str, close: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(open)?;
    Some(rest.split_once(close)?.0)
}

fn placeholders(text: &str) -> usize {
    let is_one =
        |part: &&str| part.split_once(']').is_some_and(|(name, _)| !name.trim().is_empty() && !name.contains('\n'));
    text.split('[').skip(1).filter(is_one).count()
}

fn has_postscript(text: &str) -> bool {
    let last = text.lines().rev().find(|line| line.trim_start().to_uppercase().starts_with("P.S."));
    last.is_some_and(|line| words(line).count() > 1)
}

/// Pieces between two asterisks, or two pairs of them, on one line.
fn highlights(text: &str) -> usize {
    let of_line = |line: &str| {
        let line = line.trim_start();
        let line = line.strip_prefix("* ").unwrap_or(line).replace("**", "*");
        let pieces: Vec<&str> = line.split('*').collect();
        let closed = pieces.len().saturating_sub(1) / 2;
        pieces.iter().skip(1).step_by(2).take(closed).filter(|piece| !piece.trim().is_empty()).count()
    };
    text.lines().map(of_line).sum()
}

fn two(text: &str) -> bool {
    let parts: Vec<&str> = text.split("******").map(str::trim).collect();
    matches!(parts.as_slice(), [a, b] if !a.is_empty() && !b.is_empty() && a != b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer that meets each constraint, and some that do not.
    const TABLE: [(Constraint, &str, &[&str]); 32] = [
        (Constraint::AtLeastWords(3), "one two - three", &["one two -", ""]),
        (Constraint::AtMostWords(3), "one, two, three.", &["one two three four", " "]),
        (Constraint::Sentences(2), "Tea, e.g. green, is hot. Is it?", &["One.", "One. Two. Three.", "1. One"]),
        (Constraint::Sentences(2), "Set it to 100. Wait.", &["Set it to 100 and wait."]),
        (Constraint::Sentences(2), "The answer is no. It is fine.", &["1. No, it is not."]),
        (Constraint::Sentences(1), "It costs 3.50 at Dr. No's", &["It does. Yes."]),
        (Constraint::Paragraphs(2), "a\nb\n\n\nc", &["a\nb", "a\n\nb\n\nc"]),
        (
            Constraint::Sections(2),
            "**Part 1**\na\nPART 2: b\nc",
            &["Part 1\na", "Part 1\nPart 2\nPart 3", "Part 12\nPart 2"],
        ),
        (Constraint::Lines(2), "a\nb\n", &["a", "a\n\nb"]),
        (Constraint::Bullets(2), "Here:\n- a\n* b", &["- a", "-a\n-b", "- a\n- b\n- c"]),
        (Constraint::Numbered(2), "Sure:\n1. a\n2. b", &["1. a", "1. a\n1. b", "1) a\n2) b", "1. a\n2. b\n3. c"]),
        (Constraint::Include(["tea", "pot"]), "Tea in a POT.", &["teapot", "tea"]),
        (Constraint::Times("tea", 2), "Tea, tea", &["tea", "teas tea"]),
        (Constraint::Avoid(["tea", "pot"]), "a teapot", &["The tea", "pot!"]),
        (Constraint::Letter('k', 2), "Kick", &["key"]),
        (Constraint::Json, "```json\n{\"a\": [1]}\n```", &["{\"a\": 1", "[1]", "Sure: {\"a\": 1}"]),
        (Constraint::JsonKeys(["a", "b"]), "{\"b\":1,\"a\":2,\"c\":3}", &["{\"a\":1}", "{\"a\":{\"b\":1}}"]),
        (Constraint::Upper, "TEA, 3 ÜBER!", &["TEa", "123"]),
        (Constraint::Lower, "tea, 3 über!", &["Tea", "123"]),
        (Constraint::CapitalWords(2), "VERY HOT tea", &["A B c", "VERY hot"]),
        (Constraint::NoCommas, "a; b", &["a, b"]),
        (Constraint::NoDigits, "two", &["2", "x²"]),
        (Constraint::Starts("My answer is"), "My answer is tea.", &["my answer is tea", "Well, My answer is"]),
        (Constraint::Ends("That is all."), "Tea. That is all.\n", &["That is all. Tea.", "that is all."]),
        (Constraint::Quoted, "\"tea\"", &["\"\"", "tea", "\"tea\" he said"]),
        (Constraint::Title, "<<Tea>>\nhot", &["<Tea>", "<<>>", "<<Tea"]),
        (Constraint::Placeholders(2), "Dear [name], on [date]", &["[name]", "[] []", "[name [date"]),
        (Constraint::Postscript, "Bye.\n\nP.S. Bring tea.", &["Bye. PS tea", "P.S."]),
        (Constraint::Highlights(2), "a *b* and **c d**", &["*b*", "* a\n* b", "** **"]),
        (Constraint::OneOf(["yes", "no", "perhaps"]), "perhaps.", &["Perhaps so", "yes no", "maybe"]),
        (Constraint::TwoAnswers, "tea\n******\ncoffee", &["tea", "tea ****** tea", "a ****** b ****** c"]),
        (Constraint::Repeat, "The request. Tea.", &["Tea.", "The request.", "the request. Tea"]),
    ];

    #[test]
    fn every_checker_passes_what_was_asked_for_and_fails_what_was_not() {
        for (constraint, right, wrong) in TABLE {
            assert!(constraint.is_met("The request.", right), "{constraint:?}: {right}");
            for answer in wrong {
                assert!(!constraint.is_met("The request.", answer), "{constraint:?}: {answer}");
            }
            assert!(!constraint.is_met("", " \n"), "{constraint:?}: an empty answer does nothing");
        }
    }

    #[test]
    fn every_constraint_says_its_parameters() {
        for (constraint, ..) in TABLE {
            let (kind, asked) = (constraint.kind(), constraint.asked());
            assert!(!kind.is_empty() && asked.len() > 15, "{constraint:?}: {asked}");
        }
        assert!(Constraint::Times("tea", 2).asked().contains("\"tea\" at least 2"));
        assert!(Constraint::Sentences(1).asked().contains("1 sentence."));
    }
}
