//! The house rules that a compiler does not check: modules import from floors below their own, files stay short, and
//! nothing that input can reach panics on purpose.
//!
//! Sources are read as tokens, so that comments and strings do not count and a path means what it means to the
//! compiler, `super::super::…` included.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// From the ground up. A module imports from rows above its own in this table, never from its neighbours.
const FLOORS: [&[&str]; 7] = [
    &["error", "types"],
    &["kernels", "catalog", "metrics", "sources"],
    &["model", "plugin"],
    &["rewrite", "retrieve"],
    &["stack"],
    &["train", "evaluate"],
    &["serve", "cli"],
];

/// Neighbours that may import from each other: the shared values carry the shared error, and the error is one floor
/// with them.
const TOGETHER: &[&str] = &["error", "types"];

/// Lines of a file, tests apart.
const LONGEST: usize = 500;

/// Calls that end the program where an error should go to the caller.
const PANICS: [&str; 2] = ["unwrap", "expect"];

/// Macros that have no place in finished code.
const UNFINISHED: [&str; 3] = ["todo", "unimplemented", "dbg"];

/// (file, line as it stands there without the space around it, reason why it may stay). Empty is as it should be.
const ALLOWED: &[(&str, &str, &str)] = &[];

#[test]
fn modules_import_only_from_floors_below() {
    let house = House::read();
    let found: Vec<String> = house.files.iter().flat_map(|file| misplaced(file, &house.reexports)).collect();
    assert!(found.is_empty(), "{} imports against the floors:\n{}", found.len(), found.join("\n"));
}

#[test]
fn every_module_has_a_floor() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("engine");
    for entry in std::fs::read_dir(root).expect("engine is there") {
        let name = entry.expect("a readable entry").file_name().to_string_lossy().replace(".rs", "");
        assert!(
            ["lib", "data"].contains(&name.as_str()) || floor(&name).is_some(),
            "engine/{name} has no floor: give it one in tests/layering.rs"
        );
    }
}

#[test]
fn files_stay_short() {
    let long = |file: &File| !file.test && file.text.lines().count() > LONGEST;
    let found: Vec<String> = House::read()
        .files
        .iter()
        .filter(|file| long(file))
        .map(|file| format!("{}: {} lines", file.path.display(), file.text.lines().count()))
        .collect();
    assert!(found.is_empty(), "files of more than {LONGEST} lines, to be split by idea:\n{}", found.join("\n"));
}

#[test]
fn nothing_panics_on_purpose_outside_tests() {
    let house = House::read();
    let found: Vec<String> = house.files.iter().filter(|file| !file.test).flat_map(panics).collect();
    assert!(found.is_empty(), "return an error instead:\n{}", found.join("\n"));
    for (path, line, reason) in ALLOWED {
        let file = house.files.iter().find(|file| file.path == Path::new(path));
        let there = file.is_some_and(|file| file.text.lines().any(|l| l.trim() == *line));
        assert!(there, "allowed in {path} because {reason}, but no longer there: {line}");
    }
}

/// All sources of the library.
struct House {
    files: Vec<File>,
    /// Names that lib.rs re-exports, and the modules that they come from: `Error` from `error`.
    reexports: BTreeMap<String, String>,
}

/// One source.
struct File {
    /// From the package's root.
    path: PathBuf,
    text: String,
    /// Whether all of it is tests.
    test: bool,
}

impl House {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (mut files, mut folders) = (Vec::new(), vec![root.join("engine")]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("a readable folder") {
                let path = entry.expect("a readable entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|e| e == "rs") {
                    let text = std::fs::read_to_string(&path).expect("a readable source");
                    let path = path.strip_prefix(root).expect("below the root").to_path_buf();
                    files.push(File { path, text, test: false });
                }
            }
        }
        assert!(files.len() > 20, "found {} sources: is engine/ where it was?", files.len());
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let test_modules: BTreeSet<Vec<String>> = files.iter().flat_map(test_modules).collect();
        for file in &mut files {
            let module = module_of(&file.path);
            file.test = (1..=module.len()).any(|n| test_modules.contains(&module[..n]));
        }
        let lib = files.iter().find(|file| file.path.ends_with("engine/lib.rs")).expect("engine/lib.rs");
        let exported = paths(&tokens(&lib.text), "lib").into_iter().filter(|p| p.path.len() > 1);
        let reexports = exported.filter_map(|p| Some((p.path.last()?.clone(), p.path.first()?.clone()))).collect();
        Self { files, reexports }
    }
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// `engine/train/loss/tests.rs` is the module train::loss::tests.
fn module_of(path: &Path) -> Vec<String> {
    let names = path.with_extension("");
    let mut module: Vec<String> = names.iter().skip(1).map(|name| name.to_string_lossy().into_owned()).collect();
    module.retain(|name| name != "src");
    module.drain(..usize::from(module.first().is_some_and(|name| name == "data")));
    if module.last().is_some_and(|name| ["mod", "lib", "main"].contains(&name.as_str())) {
        module.pop();
    }
    module
}

/// Imports that reach sideways or up, one sentence each.
fn misplaced(file: &File, reexports: &BTreeMap<String, String>) -> Vec<String> {
    let module = module_of(&file.path);
    let Some(own) = module.first() else { return Vec::new() };
    let mut found = Vec::new();
    for path in paths(&tokens(&file.text), &module.join("::")) {
        let text = format!("{}:{}: `{}`", file.path.display(), path.line, path.written);
        // The binary is a crate of its own: `crate` is its root there, and it may use all of the library.
        if own == "cli" {
            continue;
        }
        if path.external {
            found.push(format!("{text} imports the library by its name: write `crate::` inside it"));
            continue;
        }
        let Some(first) = path.path.first().map(|name| reexports.get(name).unwrap_or(name)) else { continue };
        let together = TOGETHER.contains(&own.as_str()) && TOGETHER.contains(&first.as_str());
        match (floor(own), floor(first)) {
            _ if first == own || together => {}
            (_, None) => found.push(format!("{text}: `{first}` has no floor")),
            (Some(here), Some(there)) if there < here => {}
            (Some(here), Some(there)) if there == here => {
                found.push(format!("{text}: {first} is a neighbour of {own}; move what both need to a floor below"));
            }
            _ => found.push(format!("{text}: {first} lies above {own}; turn the dependency round")),
        }
    }
    found
}

/// Panicking calls and unfinished code outside tests, one sentence each.
fn panics(file: &File) -> Vec<String> {
    let tokens = tokens(&file.text);
    let tests = test_ranges(&tokens);
    let call = |i: usize| {
        PANICS.contains(&tokens[i].text.as_str()) && i > 0 && tokens[i - 1].text == "." && next_is(&tokens, i, "(")
    };
    let unfinished = |i: usize| UNFINISHED.contains(&tokens[i].text.as_str()) && next_is(&tokens, i, "!");
    let mut found = Vec::new();
    for i in (0..tokens.len()).filter(|i| call(*i) || unfinished(*i)) {
        let line = file.text.lines().nth(tokens[i].line - 1).unwrap_or_default().trim();
        let allowed = ALLOWED.iter().any(|(path, text, _)| file.path == Path::new(path) && line == *text);
        if !allowed && !tests.iter().any(|range| range.contains(&i)) {
            found.push(format!("{}:{}: {line}", file.path.display(), tokens[i].line));
        }
    }
    found
}

/// A word, or one character of punctuation (`::` is one token).
#[derive(Debug, Clone, PartialEq)]
struct Token {
    text: String,
    line: usize,
}

/// A path that starts at the crate's root, as it resolves and as it was written.
#[derive(Debug)]
struct Import {
    path: Vec<String>,
    written: String,
    line: usize,
    /// Written with the library's own name.
    external: bool,
}

fn next_is(tokens: &[Token], i: usize, text: &str) -> bool {
    tokens.get(i + 1).is_some_and(|token| token.text == text)
}

/// The tokens of a source without its comments and literals.
fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let find =
        |from: usize, stop: &dyn Fn(usize) -> bool| (from..chars.len()).find(|j| stop(*j)).unwrap_or(chars.len());
    let (mut out, mut i, mut line) = (Vec::new(), 0, 1);
    while i < chars.len() {
        let start = i;
        match (at(i), at(i + 1)) {
            ('/', '/') => i = find(i, &|j| at(j) == '\n'),
            ('/', '*') => i = end_of_comment(&chars, i),
            ('"', _) => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
            }
            // A character; any other quote begins a lifetime.
            ('\'', '\\') => i = find(i + 3, &|j| at(j) == '\'') + 1,
            ('\'', _) if at(i + 2) == '\'' => i += 3,
            (':', ':') => {
                out.push(Token { text: "::".into(), line });
                i += 2;
            }
            (c, _) if word(c) => {
                i = find(i, &|j| !word(at(j)));
                let text: String = chars[start..i].iter().collect();
                let quote = find(i, &|j| at(j) != '#');
                if ["r", "br", "cr"].contains(&text.as_str()) && at(quote) == '"' {
                    let hashes = quote - i;
                    i = find(quote + 1, &|j| at(j) == '"' && (1..=hashes).all(|h| at(j + h) == '#')) + 1 + hashes;
                } else {
                    out.push(Token { text, line });
                }
            }
            (c, _) => {
                if !c.is_whitespace() {
                    out.push(Token { text: c.into(), line });
                }
                i += 1;
            }
        }
        i = i.min(chars.len());
        line += chars[start..i].iter().filter(|c| **c == '\n').count();
    }
    out
}

/// Past the block comment that starts at `from`; they nest.
fn end_of_comment(chars: &[char], from: usize) -> usize {
    let (mut depth, mut i) = (0usize, from);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') if depth == 1 => return i + 2,
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
    }
    chars.len()
}

/// The ranges of tokens that `#[cfg(test)]` stands before.
fn test_ranges(tokens: &[Token]) -> Vec<std::ops::Range<usize>> {
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
    let starts =
        (0..tokens.len()).filter(|i| (0..7).all(|j| tokens.get(i + j).is_some_and(|t| t.text == attribute[j])));
    starts.map(|start| start..end_of_item(tokens, start + attribute.len())).collect()
}

/// Past the item that starts at `from`: its `;` or the end of its braces.
fn end_of_item(tokens: &[Token], from: usize) -> usize {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(from) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" if depth == 1 => return i + 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            ";" if depth == 0 => return i + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Modules in files of their own that are compiled for tests alone.
fn test_modules(file: &File) -> Vec<Vec<String>> {
    let tokens = tokens(&file.text);
    let mut found = Vec::new();
    for range in test_ranges(&tokens) {
        for i in range {
            if tokens[i].text == "mod" && next_is(&tokens, i + 1, ";") {
                let mut module = module_of(&file.path);
                module.push(tokens[i + 1].text.clone());
                found.push(module);
            }
        }
    }
    found
}

/// All paths of a source that start at the crate's root or climb to it. In lib.rs (`own` is "lib") plain `use` paths
/// count too, since they start at the root there.
fn paths(tokens: &[Token], own: &str) -> Vec<Import> {
    let lib = own == "lib";
    let mut module: Vec<String> = if lib { Vec::new() } else { own.split("::").map(str::to_owned).collect() };
    let (mut inline, mut depth, mut found, mut i) = (Vec::new(), 0usize, Vec::new(), 0);
    while i < tokens.len() {
        let continues = i > 0 && (tokens[i - 1].text == "::" || tokens[i - 1].text == ".");
        match tokens[i].text.as_str() {
            "mod" if next_is(tokens, i + 1, "{") => {
                module.push(tokens[i + 1].text.clone());
                inline.push(depth);
                i += 1;
            }
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                if inline.last() == Some(&depth) {
                    inline.pop();
                    module.pop();
                }
            }
            name @ ("crate" | "querywright" | "super" | "self") if !continues && next_is(tokens, i, "::") => {
                let base = if name == "super" || name == "self" { module.clone() } else { Vec::new() };
                let from = if name == "super" || name == "self" { i } else { i + 2 };
                let before = found.len();
                i = tree(tokens, from, &base, tokens[i].line, &mut found);
                for import in &mut found[before..] {
                    import.external = name == "querywright";
                    if name == "crate" || name == "querywright" {
                        import.written = format!("{name}::{}", import.written);
                    }
                }
                continue;
            }
            "use" if lib && !next_is(tokens, i, "crate") => {
                i = tree(tokens, i + 1, &[], tokens[i].line, &mut found);
                continue;
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// Reads one path or tree of paths (`a::{b, c::d}`) below `base`; returns the place after it.
fn tree(tokens: &[Token], from: usize, base: &[String], line: usize, found: &mut Vec<Import>) -> usize {
    let (mut path, mut written, mut i) = (base.to_vec(), Vec::new(), from);
    loop {
        match tokens.get(i).map(|token| token.text.as_str()) {
            Some("{") => {
                i += 1;
                while tokens.get(i).is_some_and(|token| token.text != "}") {
                    let before = found.len();
                    let next = tree(tokens, i, &path, tokens[i].line, found);
                    for import in &mut found[before..] {
                        let head = written.iter().map(|name| format!("{name}::")).collect::<String>();
                        import.written = head + &import.written;
                    }
                    i = next.max(i + 1);
                    i += usize::from(tokens.get(i).is_some_and(|token| token.text == ","));
                }
                return i + 1;
            }
            Some("self") => written.push("self"),
            Some("super") => {
                path.pop();
                written.push("super");
            }
            Some(name) if name == "*" || name.chars().all(|c| c.is_alphanumeric() || c == '_') => {
                path.push(name.to_owned());
                written.push(name);
            }
            _ => return i,
        }
        i += 1;
        if tokens.get(i).is_none_or(|token| token.text != "::") {
            break;
        }
        i += 1;
    }
    while tokens.get(i).is_some_and(|token| token.text == "as") {
        i += 2;
    }
    found.push(Import { path, written: written.join("::"), line, external: false });
    i
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into(), test: false }
    }

    fn against_the_floors(path: &str, text: &str) -> Vec<String> {
        let reexports = BTreeMap::from([("Error".to_owned(), "error".to_owned()), ("Stack".into(), "stack".into())]);
        misplaced(&file(path, text), &reexports)
    }

    #[test]
    fn an_import_from_above_is_named_with_file_and_line() {
        let found = against_the_floors(
            "engine/model/lora.rs",
            "//! Fine.\nuse crate::error::Result;\n\nuse crate::train::Config;\n",
        );
        assert_eq!(
            found,
            ["engine/model/lora.rs:4: `crate::train::Config`: train lies above model; turn the dependency round"]
        );
    }

    #[test]
    fn every_way_to_write_an_import_is_seen() {
        for (path, text, part) in [
            (
                "engine/model/a.rs",
                "use crate::{error::Error, rewrite::{self, Prompt as P}};",
                "`crate::rewrite::Prompt`",
            ),
            ("engine/model/a.rs", "fn f() -> crate::stack::Stack { todo() }", "stack lies above"),
            ("engine/model/a.rs", "use super::super::retrieve::Bm25;", "`super::super::retrieve::Bm25`"),
            ("engine/model/mod.rs", "use super::retrieve::Bm25;", "retrieve lies above"),
            ("engine/model/a.rs", "mod inner { use super::super::super::serve; }", "serve lies above"),
            ("engine/retrieve/a.rs", "use crate::rewrite::Prompt;", "neighbour"),
            ("engine/retrieve/a.rs", "use crate::Stack;", "stack lies above"),
            ("engine/retrieve/a.rs", "use crate::cellar;", "`cellar` has no floor"),
            ("engine/retrieve/a.rs", "use querywright::error;", "write `crate::`"),
        ] {
            let found = against_the_floors(path, text).join("\n");
            assert!(found.contains(part), "{text}: {found}");
        }
    }

    #[test]
    fn what_is_below_or_inside_or_only_spoken_of_is_fine() {
        for (path, text) in [
            ("engine/stack/a.rs", "use crate::{Error, retrieve::Bm25}; use super::worker; use crate::stack::cache;"),
            (
                "engine/model/a/b.rs",
                "use super::super::config; // crate::train\n/* crate::serve /* x */ crate::serve */",
            ),
            (
                "engine/model/a.rs",
                "//! [`crate::train`]\nconst A: &str = \"crate::train\"; const B: &str = r#\"\"crate::serve\"#;",
            ),
            ("engine/model/a.rs", "fn f<'a>(c: &'a str) -> bool { c == '\"' } // \"\nmod t { use super::super::x; }"),
            ("engine/types/a.rs", "use crate::error::Result; use super::Query;"),
            ("engine/cli/eval.rs", "use crate::progress; use querywright::train::Config;"),
            ("engine/train/loss.rs", "mod tests { use super::*; } use super::pack;"),
        ] {
            assert_eq!(against_the_floors(path, text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn panicking_calls_count_outside_tests_alone() {
        let text = "fn f() { a.unwrap(); }\n// x.unwrap()\nfn g() { b\n  .expect(\"x\"); c.unwrap_or(1); dbg!(1) }\n\
                    #[cfg(test)]\nmod tests { fn t() { d.unwrap(); } }\nfn h() { s.lines().map(Option::unwrap); e.unwrap() }\n";
        let lines: Vec<usize> =
            panics(&file("engine/a.rs", text)).iter().map(|f| f.split(':').nth(1).unwrap().parse().unwrap()).collect();
        assert_eq!(lines, [1, 4, 4, 7]);
        let found = test_modules(&file("engine/kernels/mod.rs", "#[cfg(test)]\nmod oracle;\nmod tile;"));
        assert_eq!(found, [["kernels", "oracle"]]);
    }
}
