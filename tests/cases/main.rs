//! What strangers' files and texts must come to: a table of cases, one TOML file a case, that anyone can extend.
//!
//! A case starts from the folder `b`, a corpus of three documents in BEIR's layout, changes files, runs the program, and
//! says what must come of it. README.md beside this file describes the keys.

#[path = "../tiny/mod.rs"]
mod tiny;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What is right, as a sentence.
    right: String,
    #[serde(default)]
    file: Vec<File>,
    run: Vec<Run>,
}

/// A file that is changed before the runs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    path: String,
    #[serde(default)]
    text: String,
    /// The file that it begins with, of the tiny model.
    #[serde(default)]
    from: String,
    /// What is put in the place of each of these texts, which that file must have.
    #[serde(default)]
    replace: BTreeMap<String, String>,
    /// utf-8, utf-16le, latin1, or hex: the bytes themselves.
    #[serde(default)]
    encoding: String,
    /// Adds to the file instead of replacing it.
    #[serde(default)]
    append: bool,
    /// Removes the file; the text says why.
    #[serde(default)]
    remove: bool,
}

/// One run of the program and what must come of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    arguments: Vec<String>,
    /// What it reads, as hexadecimal bytes or as text.
    stdin: Option<String>,
    #[serde(default)]
    stdin_hex: String,
    /// Whether it must succeed. Default: true.
    succeeds: Option<bool>,
    /// What standard output must hold, and must not.
    #[serde(default)]
    says: Vec<String>,
    #[serde(default)]
    says_not: Vec<String>,
    /// What standard error must hold.
    #[serde(default)]
    warns: Vec<String>,
    /// How many lines standard output must have.
    lines: Option<usize>,
    /// Whether standard output must be that of the run before.
    #[serde(default)]
    as_before: bool,
    /// Values of the JSON on standard output, by pointer (`/measures/nDCG@10`); numbers to four digits.
    #[serde(default)]
    json: BTreeMap<String, Value>,
    /// What files must hold afterwards.
    #[serde(default)]
    after: BTreeMap<String, String>,
}

const BASE: [(&str, &str); 3] = [
    (
        "corpus.jsonl",
        "{\"_id\":\"d1\",\"title\":\"steel kettle\",\"text\":\"boils water for tea\"}\n\
         {\"_id\":\"d2\",\"title\":\"wool blanket\",\"text\":\"warm feet in bed\"}\n\
         {\"_id\":\"d3\",\"title\":\"solar lantern\",\"text\":\"light in the dark\"}\n",
    ),
    ("queries.jsonl", "{\"_id\":\"q1\",\"text\":\"boil water\"}\n{\"_id\":\"q2\",\"text\":\"warm feet\"}\n"),
    ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t1\n"),
];

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

impl File {
    fn write(&self, home: &Path) {
        let path = home.join(&self.path);
        if self.remove {
            return fs::remove_file(path).unwrap();
        }
        let bytes = match self.encoding.as_str() {
            "" | "utf-8" => self.text.clone().into_bytes(),
            "utf-16le" => self.text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            "latin1" => self.text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect(),
            "hex" => hex(&self.text),
            other => panic!("{}: the encoding {other} is unknown", self.path),
        };
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut all = match self.from.as_str() {
            "" if self.append => fs::read(&path).unwrap(),
            "" => Vec::new(),
            name => fs::read(Path::new(tiny::MODEL).join(name)).unwrap(),
        };
        for (old, new) in &self.replace {
            let text = String::from_utf8(all).unwrap();
            assert!(text.contains(old), "{}: there is no {old:?} to replace", self.path);
            all = text.replace(old, new).into_bytes();
        }
        all.extend(bytes);
        fs::write(path, all).unwrap();
    }
}

impl Run {
    /// What is not as it must be. `before` is what the run before said, and becomes what this one says.
    fn failures(&self, home: &Path, before: &mut String) -> Vec<String> {
        let arguments: Vec<String> = self.arguments.iter().map(|a| a.replace("MODEL", tiny::MODEL)).collect();
        let mut command = tiny::program(home);
        command.args(&arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = command.spawn().unwrap();
        let input = self.stdin.as_ref().map_or_else(|| hex(&self.stdin_hex), |text| text.clone().into_bytes());
        // A program that does not read has closed it already.
        let _ = running.stdin.take().unwrap().write_all(&input);
        let output = running.wait_with_output().unwrap();
        let [said, warned] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let mut wrong = Vec::new();
        let mut must = |holds: bool, what: String| wrong.extend((!holds).then_some(what));
        must(output.status.success() == self.succeeds.unwrap_or(true), format!("ended with {}", output.status));
        must(!warned.contains("panicked"), "panicked".to_owned());
        for words in &self.says {
            must(said.contains(words), format!("does not say {words:?}"));
        }
        for words in &self.says_not {
            must(!said.contains(words), format!("says {words:?}"));
        }
        for words in &self.warns {
            must(warned.contains(words), format!("does not warn {words:?}"));
        }
        if let Some(lines) = self.lines {
            must(said.lines().count() == lines, format!("{} lines, {lines} expected", said.lines().count()));
        }
        if self.as_before {
            must(said == *before, format!("does not say what the run before said: {before}"));
        }
        before.clone_from(&said);
        let object: Value = serde_json::from_str(&said).unwrap_or_default();
        for (pointer, right) in &self.json {
            let found = object.pointer(pointer).unwrap_or(&Value::Null);
            let same = match (found.as_f64(), right.as_f64()) {
                (Some(found), Some(right)) => (found - right).abs() < 5e-5,
                _ => found == right,
            };
            must(same, format!("{pointer} is {found}, not {right}"));
        }
        for (path, right) in &self.after {
            let found = fs::read_to_string(home.join(path)).unwrap_or_default();
            must(found == *right, format!("{path} holds {found:?}, not {right:?}"));
        }
        if !wrong.is_empty() {
            wrong.push(format!("from {arguments:?}\n    stdout: {said}\n    stderr: {warned}"));
        }
        wrong
    }
}

#[test]
fn every_case_comes_to_what_is_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases");
    let (mut failures, mut count) = (Vec::new(), 0);
    for name in tiny::names(&folder).into_iter().filter(|name| name.ends_with(".toml")) {
        let text = fs::read_to_string(folder.join(&name)).unwrap();
        let case: Case = toml::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let home = tempfile::tempdir().unwrap();
        for (path, text) in BASE {
            let path = home.path().join("b").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        case.file.iter().for_each(|file| file.write(home.path()));
        let mut before = String::new();
        let wrong: Vec<String> = case.run.iter().flat_map(|run| run.failures(home.path(), &mut before)).collect();
        if !wrong.is_empty() {
            failures.push(format!("{name}: {}\n  {}", case.right, wrong.join("\n  ")));
        }
        count += 1;
    }
    assert!(count > 0, "there is no case in {}", folder.display());
    assert!(failures.is_empty(), "{} of {count} cases:\n{}", failures.len(), failures.join("\n"));
}
