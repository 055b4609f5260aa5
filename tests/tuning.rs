//! `tune` and what it writes, as a user meets them.

mod tiny;

use std::fs;
use std::path::Path;

/// A shop whose products are named in their titles, while their texts name others.
fn write_misleading_shop(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let names: Vec<String> =
        (0..45).map(|n| format!("item{}", char::from(b'a' + n % 26).to_string().repeat(1 + n as usize / 26))).collect();
    let of = |line: &dyn Fn(usize) -> String| (0..45).map(line).collect::<Vec<_>>().concat();
    let text = |n: usize| (1..4).map(|step| format!("{0} {0}", names[(n + step) % 45])).collect::<Vec<_>>().join(" ");
    let corpus =
        of(&|n| format!("{{\"id\": \"d{n}\", \"title\": \"{}\", \"text\": \"like {}\"}}\n", names[n], text(n)));
    let queries = of(&|n| format!("{{\"id\": \"q{n}\", \"text\": \"{}\"}}\n", names[n]));
    let qrels = of(&|n| format!("q{n} 0 d{n} 1\n"));
    let split = |part: std::ops::Range<usize>| part.map(|n| format!("q{n}\n")).collect::<String>();
    for (name, text) in [
        ("corpus.jsonl", corpus),
        ("queries.jsonl", queries),
        ("qrels.tsv", qrels),
        ("train.txt", split(0..33)),
        ("dev.txt", split(33..39)),
        ("test.txt", split(39..45)),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
}

#[test]
fn what_tuning_finds_is_a_file_that_serves() {
    let home = tempfile::tempdir().unwrap();
    write_misleading_shop(&home.path().join("shop"));
    let found = tiny::json(home.path(), &["tune", "--data", "shop", "--json"]);
    assert_eq!((&found["searched"], &found["confirmed"]), (&22.into(), &11.into()));
    assert!(found["base"]["fields"]["title"].as_f64().unwrap() > 0.0, "{found}");
    let score = |rewriter: &str| {
        let object = tiny::json(home.path(), &["eval", "--data", "shop", "--rewriter", rewriter, "--json"]);
        (object["rewriter"].as_str().unwrap().to_owned(), object["measures"]["nDCG@10"].as_f64().unwrap())
    };
    let ((_, raw), (name, tuned)) = (score("identity"), score("tuned.toml"));
    assert!(name == "tuned" && tuned > raw && tuned > 0.99, "{raw} {tuned}");
    let rewritten = tiny::ok(home.path(), &["rewrite", "--data", "shop", "--rewriter", "tuned.toml", "itema"]);
    assert!(rewritten.contains("title:(itema)"), "{rewritten}");

    // A second search replaces the file, and one that fails leaves it.
    let before = fs::read(home.path().join("tuned.toml")).unwrap();
    assert!(!tiny::run(home.path(), &["tune", "--data", "shop", "--split", "none"]).status.success());
    assert_eq!(fs::read(home.path().join("tuned.toml")).unwrap(), before);
    fs::write(home.path().join("other.toml"), "serve = \"tuned\"\n[base]\nfield = 1\n").unwrap();
    let refused = tiny::run(home.path(), &["eval", "--data", "shop", "--rewriter", "other.toml"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("other.toml") && told.contains("`field`"), "{told}");
}
