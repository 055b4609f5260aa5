//! `tune` and what it writes, as a user meets them.

mod tiny;

use std::fs;
use std::path::Path;

#[test]
fn what_tuning_finds_is_a_file_that_serves() {
    let home = tempfile::tempdir().unwrap();
    tiny::write_misleading_shop(&home.path().join("shop"));
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

/// A library that speaks of bones and of tiredness in words that nobody asks with.
fn write_library_of_other_words(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let letter = |n: usize| char::from(b'a' + n as u8 % 26);
    let document = |n: usize| {
        let subject = ["osteoporosis", "fatigue", "gardens"][n % 3];
        format!("{{\"id\": \"d{n}\", \"title\": \"{subject} of {0}{0}\"}}\n", letter(n))
    };
    let query = |n: usize| {
        let text = ["weak bones", "tired eyes"][n % 2];
        format!("{{\"id\": \"q{n}\", \"text\": \"{text} {0}{0}{0}\"}}\n", letter(n))
    };
    let judged = |n: usize| (0..45).filter(|d| d % 3 == n % 2).map(|d| format!("q{n} 0 d{d} 1\n")).collect::<String>();
    let split = |part: std::ops::Range<usize>| part.map(|n| format!("q{n}\n")).collect::<String>();
    for (name, text) in [
        ("corpus.jsonl", (0..45).map(document).collect::<String>()),
        ("queries.jsonl", (0..70).map(query).collect()),
        ("qrels.tsv", (0..70).map(judged).collect()),
        ("train.txt", split(0..50)),
        ("dev.txt", split(50..60)),
        ("test.txt", split(60..70)),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
}

#[test]
fn words_of_similar_judged_queries_lie_beside_the_settings_and_nowhere_else() {
    let home = tempfile::tempdir().unwrap();
    write_library_of_other_words(&home.path().join("library"));
    let found = tiny::json(home.path(), &["tune", "--data", "library", "--output", "tuned.toml", "--json"]);
    let neighbours = &found["base"]["neighbours"];
    assert!(neighbours["weight"].as_f64().unwrap() > 0.0, "{found}");
    let file = home.path().join(neighbours["file"].as_str().unwrap());
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 50, "training queries alone");
    let score = |rewriter: &str| {
        let object = tiny::json(home.path(), &["eval", "--data", "library", "--rewriter", rewriter, "--json"]);
        object["measures"]["nDCG@10"].as_f64().unwrap()
    };
    assert!(score("identity") < 0.01 && score("tuned.toml") > 0.99);
    let rewritten = tiny::ok(home.path(), &["rewrite", "--data", "library", "--rewriter", "tuned.toml", "BONES"]);
    assert!(rewritten.contains("osteoporosis^") && !rewritten.contains("fatigue"), "{rewritten}");

    let refused = || {
        let answer = tiny::run(home.path(), &["eval", "--data", "library", "--rewriter", "tuned.toml"]);
        assert!(!answer.status.success());
        String::from_utf8_lossy(&answer.stderr).into_owned()
    };
    let content = fs::read_to_string(&file).unwrap();
    fs::write(&file, content.replace("osteoporosis", "osteoporosix")).unwrap();
    assert!(refused().contains("was changed"), "{}", refused());
    fs::remove_file(&file).unwrap();
    assert!(refused().contains(neighbours["file"].as_str().unwrap()), "{}", refused());
}

/// A shop in which the item that follows another shares no word with it, and one that never follows has its title's word.
fn write_shop_of_histories(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let letter = |n: usize| char::from(b'a' + n as u8);
    let mut corpus = String::new();
    for (kind, word) in [("a", "from"), ("d", "from"), ("b", "next")] {
        for n in 0..6 {
            corpus += &format!("{{\"id\": \"{kind}{n}\", \"title\": \"{word}{}\"}}\n", letter(n));
        }
    }
    for n in 0..80 {
        corpus += &format!("{{\"id\": \"x{n}\", \"title\": \"other{}{}\"}}\n", letter(n / 26), letter(n % 26));
    }
    // Histories of three in one query, so that the others are not taken for windows of one sequence.
    let first = |n: usize| if n == 0 { "\"x79\", " } else { "" };
    let title = |n: usize| format!("other{}{}\\nfrom{}", letter(n / 26), letter(n % 26), letter(n % 6));
    let query = |n: usize| {
        let history = format!("{}\"x{n}\", \"a{}\"", first(n), n % 6);
        format!("{{\"id\": \"q{n}\", \"text\": \"{}\", \"history\": [{history}]}}\n", title(n))
    };
    let of = |line: &dyn Fn(usize) -> String| (0..75).map(line).collect::<Vec<_>>().concat();
    let split = |part: std::ops::Range<usize>| part.map(|n| format!("q{n}\n")).collect::<String>();
    for (name, text) in [
        ("corpus.jsonl", corpus),
        ("queries.jsonl", of(&query)),
        ("qrels.tsv", of(&|n| format!("q{n} 0 b{} 1\n", n % 6))),
        ("train.txt", split(0..60)),
        ("dev.txt", split(60..66)),
        ("test.txt", split(66..75)),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
}

#[test]
fn the_weight_of_what_followed_is_tuned_kept_in_the_file_and_taken_from_there() {
    let home = tempfile::tempdir().unwrap();
    write_shop_of_histories(&home.path().join("shop"));
    let tune = |retriever: &str, output: &str| {
        let arguments = ["tune", "--data", "shop", "--retriever", retriever, "--output", output, "--json"];
        tiny::json(home.path(), &arguments)
    };
    let weight = |found: serde_json::Value| found["fusion_weights"]["retriever.covisitation"].as_f64();
    assert!(weight(tune("bm25+covisitation", "tuned.toml")).unwrap() > 0.6);
    assert_eq!(weight(tune("bm25+covisitation=0.6", "fixed.toml")), None, "a weight that is given stays");
    let score = |retriever: &str, rewriter: &str| {
        let arguments = ["eval", "--data", "shop", "--retriever", retriever, "--rewriter", rewriter, "--json"];
        tiny::json(home.path(), &arguments)["measures"]["nDCG@10"].as_f64().unwrap()
    };
    let (tuned, untuned) = (score("bm25+covisitation", "tuned.toml"), score("bm25+covisitation", "identity"));
    assert!(tuned > 0.99 && untuned < 0.7, "{tuned} {untuned}");
    assert!(score("bm25+covisitation=0.1", "tuned.toml") < 0.99, "a weight that is given counts");
}

/// A random BERT: what it finds is chance.
const ENCODER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tiny-bert");

#[test]
fn the_weight_of_vectors_beside_bm25_is_tuned_kept_in_the_file_and_shipped_by_a_run() {
    let home = tempfile::tempdir().unwrap();
    tiny::write_misleading_shop(&home.path().join("shop"));
    let key = "retriever.dense.hybrid";
    let tune = |name: &str, output: &str| {
        let retriever = format!("{name}:{ENCODER}");
        let arguments = ["tune", "--data", "shop", "--retriever", &retriever, "--output", output, "--json"];
        let found = tiny::json(home.path(), &arguments);
        (found, fs::read_to_string(home.path().join(output)).unwrap())
    };
    for (name, own, other) in
        [("hybrid", "hybrid = ", "hybrid_scores"), ("hybrid-scores", "hybrid_scores = ", "hybrid =")]
    {
        let (found, file) = tune(name, "tuned.toml");
        let tried = found["trials"].as_array().unwrap().iter().filter(|trial| trial["setting"] == key).count();
        assert!(tried >= 10, "{name}: {found}");
        let weight = found["fusion_weights"][key].as_f64().unwrap();
        let line = file.lines().find_map(|line| line.strip_prefix(own)).unwrap_or_else(|| panic!("{file}"));
        assert_eq!(line.parse::<f64>().unwrap(), weight);
        assert!(!file.contains(other), "{file}");
    }
    let (found, file) = tune("hybrid-scores=0.7", "fixed.toml");
    assert!(
        found["fusion_weights"][key].is_null() && file.contains("hybrid_scores = 0.7"),
        "a weight that is given stays"
    );
    // A run tunes it first, trains with it, and ships it.
    let config = tiny::config_text(&home.path().join("shop"), &home.path().join("run"), 1);
    fs::write(home.path().join("run.toml"), config).unwrap();
    let hybrid = format!("hybrid-scores:{ENCODER}");
    let train = |more: &[&str]| {
        let constant = "schedule.lr_scheduler_type=constant";
        let arguments = ["train", "run.toml", "--retriever", &hybrid, "--no-eval", "--set", constant];
        tiny::ok(home.path(), &[&arguments[..], more].concat())
    };
    train(&[]);
    let run = |name: &str| fs::read_to_string(home.path().join("run").join(name)).unwrap();
    let tuned = run("tuned.toml");
    let weight = tuned.lines().find_map(|line| line.strip_prefix("hybrid_scores = ")).unwrap().to_owned();
    let config = run("config.toml");
    assert!(config.contains(&format!("hybrid = {weight}")) && config.contains("fusion = \"scores\""), "{config}");
    assert!(!config.contains("tune_hybrid"), "{config}");
    // One that goes on takes the weight that was found.
    train(&["--resume", "--set", "train.max_steps=2"]);
}

#[test]
fn a_history_on_the_command_line_is_answered_by_what_followed_and_by_titles() {
    let home = tempfile::tempdir().unwrap();
    write_shop_of_histories(&home.path().join("shop"));
    let search = |retriever: &str, more: &[&str]| {
        let arguments = [&["search", "--data", "shop", "--json", "--retriever", retriever][..], more].concat();
        tiny::json(home.path(), &arguments)["answer"].clone()
    };
    assert_eq!(search("bm25+covisitation=9", &["--history", "x70,a2"])["hits"][0]["id"], "b2");
    assert_eq!(search("bm25+covisitation=9", &["--history", "x70", "--history", "a3"])["hits"][0]["id"], "b3");
    let titles = search("bm25", &["--history", "a2"]);
    assert_eq!((&titles["hits"][0]["id"], &titles["trace"]["query"]), (&"d2".into(), &"fromc".into()));
    let words = search("bm25", &["otheraa", "--history", "a2"]);
    assert_eq!((&words["hits"][0]["id"], &words["trace"]["query"]), (&"x0".into(), &"otheraa".into()));
    let rewritten = tiny::ok(home.path(), &["rewrite", "--data", "shop", "--rewriter", "rm3", "--history", "x0,a2"]);
    assert!(rewritten.contains("fromc^"), "{rewritten}");
    for (arguments, part) in [
        (&["rewrite", "--data", "shop", "--rewriter", "rm3", "--history", "a2", "one", "two"][..], "give one query"),
        (&["search", "--data", "shop", "--history", "a2,nobody"], "no item \"nobody\""),
        (&["search", "--data", "shop"], "QUERY"),
    ] {
        let refused = tiny::run(home.path(), arguments);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(part), "{told}");
    }
}

#[test]
fn what_ranks_by_histories_alone_is_measured_as_any_retriever_and_models_are_kept() {
    let home = tempfile::tempdir().unwrap();
    write_shop_of_histories(&home.path().join("shop"));
    let score = |retriever: &str| {
        let arguments = ["eval", "--data", "shop", "--retriever", retriever, "--index", "kept", "--json"];
        let object = tiny::json(home.path(), &arguments);
        (object["retriever"].as_str().unwrap().to_owned(), object["measures"]["nDCG@10"].as_f64().unwrap())
    };
    let training = "epochs=40,learning_rate=0.01,train_batch_size=16,max_seq_length=5";
    let sasrec = format!(
        "sasrec:{training},n_layers=1,hidden_size=16,inner_size=16,hidden_dropout_prob=0.1,attn_dropout_prob=0.1"
    );
    let gru4rec = format!("gru4rec:{training},hidden_size=16,embedding_size=16");
    let (popular, followed) = (score("popularity"), score("covisitation"));
    assert_eq!((popular.0.as_str(), followed.0.as_str()), ("popularity", "covisitation"));
    assert!(popular.1 < 0.6 && followed.1 > 0.9, "{popular:?} {followed:?}");
    for (text, name) in [(&sasrec, "sasrec"), (&gru4rec, "gru4rec")] {
        let (of, first) = score(text);
        assert!(of == name && first > 0.8, "{of}: {first}, by popularity {popular:?}");
        assert_eq!(score(text).1, first);
    }
    let models = fs::read_dir(home.path().join("kept")).unwrap().map(|entry| entry.unwrap().file_name());
    let models = models.filter(|name| name.to_string_lossy().ends_with(".safetensors")).count();
    assert_eq!(models, 2, "each was trained once");
    let next = tiny::json(
        home.path(),
        &["search", "--data", "shop", "--retriever", &gru4rec, "--index", "kept", "--history", "x70,a2", "--json"],
    );
    assert_eq!(next["answer"]["hits"][0]["id"], "b2", "{next}");
    for command in ["tune", "train"] {
        let refused = tiny::run(home.path(), &[command, "--data", "shop", "--retriever", "sasrec"]);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains("no rewrite changes its ranking"), "{told}");
    }
}

#[test]
fn a_run_for_next_items_takes_what_followed_by_the_name_of_its_retriever() {
    let home = tempfile::tempdir().unwrap();
    write_shop_of_histories(&home.path().join("shop"));
    let chosen = |retriever: &str| {
        let arguments =
            ["train", "--data", "shop", "--model", tiny::MODEL, "--retriever", retriever, "--dry-run", "--json"];
        tiny::json(home.path(), &arguments)["config"].clone()
    };
    let config = chosen("bm25+covisitation");
    assert_eq!(
        (&config["retriever"]["covisitation"], &config["retriever"]["tune_covisitation"]),
        (&0.6.into(), &true.into())
    );
    let config = chosen("bm25+covisitation=0.25");
    assert_eq!(config["retriever"]["covisitation"], 0.25);
    assert!(config["retriever"]["tune_covisitation"].is_null(), "a weight that is given stays: {config}");
    assert_eq!(config["prompt"]["vocabulary"], "feedback");
    let refused = tiny::run(home.path(), &["train", "--data", "shop", "--retriever", "bm25+covisitation=much"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("give a number"));
}

#[cfg(unix)]
#[test]
fn what_tuning_found_is_told_although_its_file_cannot_be_written() {
    let home = tempfile::tempdir().unwrap();
    tiny::write_shop(&home.path().join("shop"));
    for (json, part) in [(&[][..], "tuning: "), (&["--json"], "\"searched\"")] {
        let output = std::process::Command::new("sh")
            .current_dir(home.path())
            // Without the signal writing beyond the limit is an error, as on a full disk. Pipes have no limit.
            .args(["-c", "trap '' XFSZ; ulimit -f 0; \"$0\" \"$@\"", env!("CARGO_BIN_EXE_querywright")])
            .args(["tune", "--data", "shop"])
            .args(json)
            .output()
            .unwrap();
        let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && said.contains("cannot write"), "{said}");
        assert!(told.contains(part), "{told}");
    }
}
