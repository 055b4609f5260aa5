//! Texts that nobody should send and somebody will. None of them may cause a failure.

const TEXTS: [&str; 40] = [
    "",
    " ",
    "\0",
    "\"",
    "\"\"",
    "(",
    ")",
    "((((",
    "AND",
    "OR OR",
    "NOT",
    "-",
    "+",
    "^",
    "a^",
    "a^-1",
    "a^1e999",
    "title:",
    "title:(",
    ":",
    "::",
    "title:title:a",
    "a AND (b OR \"c",
    "\\",
    "\u{202e}abc",
    "e\u{301}",
    "🜁 ☃",
    "ſ ﬁ Ω İ",
    "\u{feff}\u{200b}",
    "%00",
    "<script>",
    "'; --",
    "*",
    "?",
    "~",
    "a~99999999999",
    "[1 TO 2]",
    "{",
    "中文検索",
    "\r\n\t",
];

/// Short texts and very long ones.
pub(super) fn texts() -> Vec<String> {
    let mut texts: Vec<String> = TEXTS.map(str::to_owned).into();
    texts.push("word ".repeat(4_000));
    texts.push("x".repeat(100_000));
    texts.push("(".repeat(10_000));
    texts.push("a OR ".repeat(3_000) + "a");
    texts
}
