//! What Cargo and clippy do not check: crates depend on lower layers alone, files, functions and pages stay short, and
//! nothing that input can reach panics on purpose.
//!
//! Sources are read as tokens, so that comments and strings do not count. Paths start at this package, the root.

use std::fs::{read_dir, read_to_string};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// The crates of `engine/`, from the lowest layer to the highest. A crate depends on layers before its own.
const LAYERS: [&[&str]; 6] = [
    &["types", "http"],
    &["data", "text", "kernels", "sources", "stack", "template"],
    &["model", "plugin", "retrieve", "connect"],
    &["rewrite", "encode", "sequence"],
    &["train", "evaluate", "server"],
    &["cli"],
];

/// Lines of a source, of a function, and of pages. A longer function has a comment `// Long: reason` above it.
const LINES: (usize, usize) = (500, 60);
const PAGES: [(&str, usize); 2] = [("README.md", 200), ("ARCHITECTURE.md", 250)];

#[test]
fn crates_depend_on_lower_layers_alone() {
    let layer = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    let mut found = Vec::new();
    for name in LAYERS.concat() {
        let manifest = read_to_string(format!("engine/{name}/Cargo.toml")).unwrap();
        let wrong = dependencies(&manifest).filter(|other| layer(other).is_none_or(|l| Some(l) >= layer(name)));
        found.extend(wrong.map(|other| format!("{name} depends on {other}, which is on no lower layer")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn sources_and_pages_stay_short_and_nothing_panics_on_purpose() {
    let mut found = Vec::new();
    let sources = ["engine", "tests", "benches", "examples", "xtask"].map(Path::new);
    for (path, text) in sources.into_iter().flat_map(rust_files) {
        let lines = text.lines().count();
        if lines > LINES.0 {
            found.push(format!("{}: {lines} lines, more than {}: split it by idea", path.display(), LINES.0));
        }
        if path.starts_with("engine") && !is_test(&path) {
            let wrong = long_functions(&text).into_iter().chain(panics(&text));
            found.extend(wrong.map(|said| format!("{}:{said}", path.display())));
        }
    }
    for (page, most) in PAGES {
        let lines = read_to_string(page).unwrap().lines().count();
        found.extend((lines > most).then(|| format!("{page}: {lines} lines, more than {most}")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_rules_see_what_they_forbid() {
    let text = "fn f() { a.unwrap(); }\n// x.unwrap()\nfn g() { h!(b\n  .expect(\"x\")); c.unwrap_or(1); dbg!(1) }\n\
                #[cfg(test)]\nmod tests { fn t() { d.unwrap(); } }\nfn h() { map(Option::unwrap); [e.unwrap()] }\n";
    let lines: Vec<_> = panics(text).iter().map(|said| said[..1].to_owned()).collect();
    assert_eq!(lines, ["1", "4", "4", "7"]);
    let long = format!("fn long() {{\n{}}}\n", "\n".repeat(LINES.1));
    assert_eq!(long_functions(&long), ["1: `long` has 62 lines, more than 60"]);
    assert_eq!(long_functions(&format!("impl A for B {{ {long} }}")).len(), 1);
    assert!(long_functions(&format!("// Long: one formula.\n#[inline]\npub(crate) {long}")).is_empty());
    assert!(long_functions(&format!("#[cfg(test)]\nmod tests {{ {long} }}")).is_empty());
    let manifest = "[package]\nname = \"querywright-x\"\n[dependencies]\nserde = \"1\"\nquerywright-a.workspace = true\n\
                    querywright-b = { path = \"../b\" }\n[dev-dependencies]\nquerywright-c = { path = \"../c\" }\n";
    assert_eq!(dependencies(manifest).collect::<Vec<_>>(), ["a", "b"]);
}

/// The crates of the project that a manifest depends on, tests apart.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let sections = manifest.split("\n[").filter_map(|section| section.split_once("dependencies]"));
    let used = sections.filter(|(kind, _)| !kind.ends_with("dev-")).flat_map(|(_, lines)| lines.lines());
    used.filter_map(|line| line.strip_prefix("querywright-")?.split(|c: char| !c.is_alphanumeric()).next())
}

/// Functions that are too long without a reason.
fn long_functions(text: &str) -> Vec<String> {
    let (lines, mut found) = (text.lines().collect::<Vec<_>>(), Vec::new());
    walk(text.parse().unwrap(), &mut |tokens, i| {
        let [TokenTree::Ident(word), TokenTree::Ident(name), ..] = &tokens[i..] else { return };
        let end = |tree: &&TokenTree| is(Some(tree), ';') || braces(tree).is_some();
        let Some(body) = tokens[i..].iter().find(end).and_then(braces).filter(|_| word == "fn") else { return };
        let (first, last) = (word.span().start().line, body.span_close().end().line);
        // The comment stands above the attributes, or between them.
        let above = lines[..first - 1].iter().map(|line| line.trim()).rev();
        let mut above = above.take_while(|line| line.starts_with("//") || line.starts_with('#'));
        if last - first >= LINES.1 && !above.any(|line| line.starts_with("// Long: ")) {
            found.push(format!("{first}: `{name}` has {} lines, more than {}", last - first + 1, LINES.1));
        }
    });
    found
}

/// Calls that end the program, and unfinished code.
fn panics(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    walk(text.parse().unwrap(), &mut |tokens, i| {
        let name = tokens[i].to_string();
        let call = ["unwrap", "expect"].contains(&name.as_str()) && i > 0 && is(tokens.get(i - 1), '.');
        if call || ["todo", "unimplemented", "dbg"].contains(&name.as_str()) && is(tokens.get(i + 1), '!') {
            found.push(format!("{}: `{name}`: return an error instead", tokens[i].span().start().line));
        }
    });
    found
}

/// Calls `see` with each token and its neighbours, those of tests apart.
fn walk(stream: TokenStream, see: &mut dyn FnMut(&[TokenTree], usize)) {
    let (tokens, mut test) = (stream.into_iter().collect::<Vec<_>>(), false);
    for (i, tree) in tokens.iter().enumerate() {
        match tree {
            TokenTree::Group(_) if test => test = braces(tree).is_none(),
            TokenTree::Group(group) if group.to_string() == "[cfg (test)]" => test = true,
            TokenTree::Group(group) => walk(group.stream(), see),
            _ if test => test = !is(Some(tree), ';'),
            _ => see(&tokens, i),
        }
    }
}

fn braces(tree: &TokenTree) -> Option<&Group> {
    if let TokenTree::Group(group) = tree { Some(group).filter(|g| g.delimiter() == Delimiter::Brace) } else { None }
}

fn is(tree: Option<&TokenTree>, c: char) -> bool {
    matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == c)
}

/// Whether a whole file is compiled for tests alone.
fn is_test(path: &Path) -> bool {
    // A file of tests, or one in a folder of them.
    ["tests", "fixture", "oracle"].iter().any(|name| path.file_stem() == Some(name.as_ref()))
        || path.components().any(|part| part.as_os_str() == "tests")
}

fn rust_files(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for path in read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push((path.clone(), read_to_string(path).unwrap()));
        }
    }
    found
}
