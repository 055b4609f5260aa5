//! A search engine that is there already ranks; tuning, training, measuring and serving go on as ever.

mod tiny;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use querywright_testing::postgres::Postgres;
use serde_json::Value;

/// A data set whose documents a PostgreSQL holds, too.
fn shop(server: &Postgres, home: &Path) {
    tiny::write_misleading_shop(&home.join("shop"));
    let corpus = fs::read_to_string(home.join("shop/corpus.jsonl")).unwrap();
    let row = |line: &str| {
        let document: Value = serde_json::from_str(line).unwrap();
        let text = |field: &str| document[field].as_str().unwrap().to_owned();
        let (id, title, text) = (text("id"), text("title"), text("text"));
        format!("('{id}', '{title}', to_tsvector('simple', '{title}'), to_tsvector('simple', '{text}'))")
    };
    let rows: Vec<String> = corpus.lines().map(row).collect();
    server.run("CREATE TABLE shop (id text PRIMARY KEY, name text, title tsvector, text tsvector)");
    server.run(&format!("INSERT INTO shop VALUES {}", rows.join(", ")));
    let config = format!(
        "kind = \"postgres\"\nurl = \"{}\"\nindex = \"shop\"\nfields = {{ title = 1.0, text = 1.0 }}\ntitle = \"name\"\n\
         text_search = \"simple\"\ntimeout_seconds = 20\n",
        server.url
    );
    fs::write(home.join("shop.toml"), config).unwrap();
}

const CONNECT: [&str; 4] = ["--data", "shop", "--retriever", "connect:shop.toml"];

/// nDCG@10 of a run with one relevant document a query.
fn ndcg(run: &str, queries: &[usize]) -> f64 {
    let gain = |query: &usize| {
        let mut lines = run.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let right = (format!("q{query}"), format!("d{query}"));
        let rank =
            lines.find(|part| part[0] == right.0 && part[2] == right.1).map(|part| part[3].parse::<f64>().unwrap());
        rank.filter(|rank| *rank <= 10.0).map_or(0.0, |rank| 1.0 / (rank + 1.0).log2())
    };
    queries.iter().map(gain).sum::<f64>() / queries.len() as f64
}

#[test]
fn what_an_engine_elsewhere_finds_is_tuned_for_learned_from_measured_and_served() {
    let Some(server) = Postgres::start() else { return };
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    shop(&server, home);
    let eval = |rewriter: &str| {
        let more = ["--rewriter", rewriter, "--json", "--run-out", "out.run"];
        let object = tiny::json(home, &[&["eval"][..], &CONNECT, &more].concat());
        let score = object["measures"]["nDCG@10"].as_f64().unwrap();
        let run = fs::read_to_string(home.join("out.run")).unwrap();
        assert!((score - ndcg(&run, &[39, 40, 41, 42, 43, 44])).abs() < 1e-9, "{score}: {run}");
        score
    };
    let raw = eval("identity");
    let tuned = tiny::json(home, &[&["tune"][..], &CONNECT, &["--json"]].concat());
    assert!(tuned["base"]["fields"]["title"].as_f64().unwrap() > 0.0, "{tuned}");
    let best = eval("tuned.toml");
    assert!(best > raw && best > 0.99, "{raw} {best}");

    let run = home.join("run");
    let config = tiny::config_text(Path::new("shop"), &run, 2);
    fs::write(home.join("train.toml"), config + "[retriever]\nconnect = \"shop.toml\"\n").unwrap();
    tiny::ok(home, &["train", "train.toml", "--no-eval"]);
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let rows: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.iter().filter_map(|row| row["environment/faults"].as_f64()).all(|faults| faults == 0.0), "{metrics}");
    assert!(rows.iter().any(|row| row["reward"].as_f64().is_some_and(|reward| reward > 0.0)), "{metrics}");

    // A server that goes away is a fault of each request, told by its code, and what was right stays right.
    let mut command = tiny::program(home);
    let mut serving = command
        .args([&["serve", "--stdio"][..], &CONNECT, &["--rewriter", "tuned.toml"]].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut asks, answers) = (serving.stdin.take().unwrap(), serving.stdout.take().unwrap());
    let mut answers = std::io::BufRead::lines(std::io::BufReader::new(answers));
    let mut ask = || -> Value {
        std::io::Write::write_all(&mut asks, b"{\"query\": \"itemc\", \"k\": 1}\n").unwrap();
        serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap()
    };
    let found = ask();
    assert_eq!((&found["hits"][0]["id"], &found["trace"]["retriever"]), (&"d2".into(), &"postgres".into()), "{found}");
    drop(server);
    assert_eq!(ask()["code"], "network");
    drop(asks);
    serving.wait().unwrap();
    let measured = tiny::json(home, &[&["eval"][..], &CONNECT, &["--json"]].concat());
    assert_eq!(measured["faults"], 6, "{measured}");
}

#[test]
fn what_names_no_engine_is_refused_by_what_is_wrong_with_it() {
    let home = tempfile::tempdir().unwrap();
    tiny::write_shop(&home.path().join("shop"));
    let refused = |text: &str, part: &str| {
        fs::write(home.path().join("shop.toml"), text).unwrap();
        let output = tiny::run(home.path(), &[&["eval"][..], &CONNECT].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(part), "{part}: {said}");
    };
    refused("kind = \"elastic\"\n", "shop.toml");
    refused("kind = \"solr\"\nurl = \"http://a\"\nindex = \"b\"\nfields = {}\n", "connect.fields");
    refused("kind = \"solr\"\nurl = \"http://a\"\nindex = \"b\"\nfield = \"x\"\n", "field");
    let output = tiny::run(home.path(), &["eval", "--data", "shop", "--retriever", "connect:nowhere.toml"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("nowhere.toml"));
    let output = tiny::run(home.path(), &["eval", "--data", "shop", "--retriever", "connect:"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("names no file"));
}
