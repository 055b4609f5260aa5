//! What machines and people may rely on: the objects that `--json` prints, the files that a run leaves, the help, and
//! the figures of the demonstration that are published.

mod tiny;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use querywright::catalog::{Dataset, Run, demo};
use querywright::evaluate::Evaluation;
use querywright::metrics::{Measure, trec_order};
use querywright::retrieve::{Bm25, Bm25Config};
use querywright::types::{Deadline, Query, Rewrite, Rewriter};
use serde_json::Value;

/// A folder to run in; nothing of the user's is seen.
fn home() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The mean of a measure over the test requests of the demonstration, from a run file.
fn mean(run: &Run, data: &Dataset, measure: &str) -> f64 {
    let measure: Measure = measure.parse().unwrap();
    let queries = data.split("test").unwrap();
    let score = |query: &&Query| {
        let ranked = run.rankings.get(&query.id).map(|r| trec_order(r, |doc| data.catalog.id(doc)));
        measure.score(&ranked.unwrap_or_default(), data.qrels.get(&query.id).unwrap())
    };
    queries.iter().map(score).sum::<f64>() / queries.len() as f64
}

#[test]
fn eval_prints_one_object_and_a_run_that_scores_the_same() {
    let home = home();
    let object = tiny::json(
        home.path(),
        &[
            "eval",
            "--data",
            "demo",
            "--split",
            "test",
            "--retriever",
            "bm25",
            "--rewriter",
            "identity",
            "--measures",
            "nDCG@10,R@100",
            "--run-out",
            "raw.run",
            "--json",
        ],
    );
    assert_eq!(object["queries"], 192);
    assert_eq!((&object["rewriter"], &object["retriever"]), (&"identity".into(), &"bm25".into()));
    assert!(object["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(keys(&object["measures"]), ["nDCG@10", "R@100"]);
    assert_eq!((&object["fallbacks"], &object["faults"]), (&0.into(), &0.into()));

    let data = demo::demo(demo::SEED).unwrap();
    let run = Run::read(home.path().join("raw.run"), &data.catalog).unwrap();
    assert_eq!(run.tag, "identity");
    for (name, value) in object["measures"].as_object().unwrap() {
        let again = mean(&run, &data, name);
        assert!((again - value.as_f64().unwrap()).abs() < 1e-12, "{name}: {value} printed, {again} from the run");
    }
}

#[test]
fn settings_of_the_retriever_and_other_rewriters_are_measured_the_same_way() {
    let home = home();
    let measure = |retriever: &str, rewriter: &str| {
        let arguments = [
            "eval",
            "--data",
            "demo",
            "--retriever",
            retriever,
            "--rewriter",
            rewriter,
            "--measures",
            "nDCG@10",
            "--json",
        ];
        tiny::json(home.path(), &arguments)
    };
    let (lucene, anserini) = (measure("bm25", "identity"), measure("bm25:k1=0.9,b=0.4", "identity"));
    assert_ne!(lucene["measures"]["nDCG@10"], anserini["measures"]["nDCG@10"]);
    let rm3 = measure("bm25", "rm3");
    assert_eq!((&rm3["rewriter"], &rm3["queries"]), (&"rm3".into(), &192.into()));
    assert_ne!(lucene["measures"]["nDCG@10"], rm3["measures"]["nDCG@10"]);
}

#[test]
fn an_index_kept_on_disk_gives_the_same_figures() {
    let home = home();
    let arguments = ["eval", "--data", "demo", "--index", "index", "--json"];
    let (built, opened) = (tiny::json(home.path(), &arguments), tiny::json(home.path(), &arguments));
    assert_eq!(built["measures"], opened["measures"]);
    assert_eq!(built["measures"], tiny::json(home.path(), &["eval", "--data", "demo", "--json"])["measures"]);
    assert!(!tiny::names(&home.path().join("index")).is_empty());
}

#[test]
fn the_demonstration_is_hard_for_bm25_and_within_reach_of_a_perfect_rewriter() {
    struct Oracle(std::collections::BTreeMap<String, String>);
    impl Rewriter for Oracle {
        fn name(&self) -> &str {
            "oracle"
        }

        fn rewrite(&self, queries: &[Query], _: Deadline) -> Vec<querywright::Result<Rewrite>> {
            queries.iter().map(|q| Ok(Rewrite::plain(self.0[&q.id].clone()))).collect()
        }
    }
    let data = demo::demo(demo::SEED).unwrap();
    let index = Bm25::in_memory(data.catalog.clone(), Bm25Config::default()).unwrap();
    let judged = data.judged("test").unwrap();
    let measures = [Measure::NDCG_10];
    let evaluation = Evaluation { catalog: &data.catalog, queries: &judged, measures: &measures, batch: 64 };
    let ndcg = |rewriter: &dyn Rewriter| {
        let found = evaluation.run(rewriter, &index, &()).unwrap();
        found.system.mean(Measure::NDCG_10).unwrap()
    };
    let (raw, oracle) = (ndcg(&querywright::stack::Identity), ndcg(&Oracle(demo::oracle_queries(demo::SEED).unwrap())));
    assert!(raw <= 0.40, "raw {raw:.4}");
    println!("the demonstration: raw {raw:.4}, oracle {oracle:.4} nDCG@10");
    assert!(oracle >= 0.90, "oracle {oracle:.4}");
}

#[test]
fn search_prints_hits_with_a_trace_and_explains_scores() {
    let home = home();
    let search = ["search", "--data", "demo", "quiet dehumidifier", "-k", "3"];
    let object = tiny::json(home.path(), &[&search[..], &["--json"]].concat());
    let hits = object["answer"]["hits"].as_array().unwrap();
    assert_eq!(hits.len(), 3);
    assert_eq!(keys(&hits[0]), ["id", "title", "score"]);
    assert!(hits[0]["title"].as_str().unwrap().contains("Dehumidifier"), "{}", hits[0]);
    assert_eq!(object["answer"]["trace"]["query"], "quiet dehumidifier");
    assert_eq!(object["answer"]["trace"]["searched"]["text"], "quiet dehumidifier");
    assert_eq!(object["explanations"], Value::Null);

    let explained = tiny::json(home.path(), &[&search[..], &["--json", "--explain"]].concat());
    assert_eq!(explained["explanations"].as_array().unwrap().len(), 3);
    let text = tiny::ok(home.path(), &[&search[..], &["--explain"]].concat());
    assert!(text.contains("searched for: quiet dehumidifier"), "{text}");
    assert!(text.lines().count() > 4 && text.contains("dehumidifi"), "what each term adds: {text}");

    let nothing = tiny::ok(home.path(), &["search", "--data", "demo", "xyzzyx"]);
    assert!(nothing.contains("no document matches"), "{nothing}");
}

#[test]
fn rewrite_prints_one_object_for_each_query_given_or_read() {
    let home = home();
    let object = tiny::json(home.path(), &["rewrite", "--rewriter", "identity", "--json", "cold feet"]);
    assert_eq!((&object["query"], &object["rewrite"]), (&"cold feet".into(), &"cold feet".into()));
    assert_eq!(object["error"], Value::Null);

    fs::write(home.path().join("queries.txt"), "cold feet\nwarm hands\n").unwrap();
    let lines = tiny::program(home.path())
        .args(["rewrite", "--rewriter", "rm3", "--data", "demo", "--json"])
        .stdin(fs::File::open(home.path().join("queries.txt")).unwrap())
        .output()
        .unwrap();
    let lines = String::from_utf8(lines.stdout).unwrap();
    let queries: Vec<Value> =
        lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["query"].clone()).collect();
    assert_eq!(queries, ["cold feet", "warm hands"]);
}

#[test]
fn models_and_data_sets_are_listed_and_described() {
    let home = home();
    let models = tiny::json(home.path(), &["model", "list", "--json"]);
    let smollm2 = models.as_array().unwrap().iter().find(|m| m["name"] == "smollm2-135m").unwrap();
    assert_eq!((&smollm2["kind"], &smollm2["cached"]), (&"model".into(), &false.into()));
    for model in [tiny::MODEL, tiny::GGUF] {
        let info = tiny::json(home.path(), &["model", "info", model, "--json"]);
        assert_eq!((&info["family"], &info["layers"], &info["context"]), (&"qwen3".into(), &2.into(), &512.into()));
        assert_eq!(info["digest"].as_str().unwrap().len(), 64);
        assert!(tiny::ok(home.path(), &["model", "info", model]).contains("qwen3"));
    }
    let sets = tiny::json(home.path(), &["data", "list", "--json"]);
    assert!(sets.as_array().unwrap().iter().all(|d| d["kind"] == "data"));
    let info = tiny::json(home.path(), &["data", "info", "demo", "--json"]);
    assert_eq!((&info["documents"], &info["queries"]), (&1536.into(), &896.into()));
    assert_eq!(info["splits"].to_string(), r#"{"dev":128,"test":192,"train":576}"#);
    tiny::write_shop(&home.path().join("shop"));
    let own = tiny::json(home.path(), &["data", "info", "shop", "--json"]);
    assert_eq!((&own["name"], &own["documents"]), (&"shop".into(), &16.into()));
}

/// Starts `serve --stdio` over a shop, sends it `lines`, and reads the answers.
#[test]
fn serve_answers_each_line_of_standard_input_in_its_order() {
    let home = home();
    tiny::write_shop(&home.path().join("shop"));
    let mut command = tiny::program(home.path());
    command.args(["serve", "--stdio", "--data", "shop", "-k", "1"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut serving = command.spawn().unwrap();
    let lines = b"{\"query\": \"steel kettle\"}\nnonsense\n{\"query\": \"dome tent\", \"k\": 2}\n";
    serving.stdin.take().unwrap().write_all(lines).unwrap();
    let output = serving.wait_with_output().unwrap();
    assert!(output.status.success());
    let answers: Vec<Value> = output
        .stdout
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect();
    assert_eq!(
        (answers.len(), &answers[0]["hits"][0]["id"], &answers[2]["hits"][0]["id"]),
        (3, &"d0".into(), &"d15".into())
    );
    assert_eq!(
        (&answers[0]["trace"]["outcome"]["kind"], &answers[1]["code"]),
        (&"original".into(), &"argument".into())
    );
    let refused = tiny::run(home.path(), &["serve", "--stdio", "--listen", "127.0.0.1:1"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--listen"));
}

#[test]
fn every_command_shows_examples_and_shells_can_complete_them() {
    let home = home();
    let commands: [&[&str]; 15] = [
        &["demo"],
        &["train"],
        &["eval"],
        &["rewrite"],
        &["search"],
        &["serve"],
        &["tune"],
        &["completions"],
        &["model", "list"],
        &["model", "pull"],
        &["model", "info"],
        &["data", "list"],
        &["data", "pull"],
        &["data", "info"],
        &[],
    ];
    for command in commands {
        let help = tiny::ok(home.path(), &[command, &["--help"]].concat());
        assert!(help.contains("Examples"), "querywright {} --help shows no example:\n{help}", command.join(" "));
    }
    let script = tiny::ok(home.path(), &["completions", "bash"]);
    for word in ["_querywright", "eval", "--run-out", "--resume"] {
        assert!(script.contains(word), "the completions lack {word}");
    }
}

/// A line that a person reads in a log, and no more of them than a person wants.
fn must_be_quiet(stderr: &[u8]) {
    let text = String::from_utf8_lossy(stderr);
    assert!(!text.contains('\u{1b}') && !text.contains('\r'), "escape codes without a terminal: {text:?}");
    assert!(text.lines().count() <= 36, "{} lines: {text}", text.lines().count());
}

/// Trains for two steps and returns the run's folder.
fn trained(home: &Path) -> std::path::PathBuf {
    tiny::write_shop(&home.join("shop"));
    fs::write(home.join("run.toml"), tiny::config_text(&home.join("shop"), &home.join("run"), 2)).unwrap();
    let output = tiny::run(home, &["train", "run.toml", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    must_be_quiet(&output.stderr);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(keys(&object), ["outcome", "comparison", "shipped", "report", "changes", "headroom", "probes", "cost"]);
    assert_eq!(object["outcome"]["steps"], 2);
    // What is shipped is one of the systems once more, and no further comparison.
    let rows = object["comparison"]["measures"][0]["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["system"].as_str().unwrap()).collect();
    assert_eq!(names, ["raw", "rm3", "tuned", "zero-shot", "trained", "shipped"]);
    let shipped = rows.iter().find(|row| row["system"] == object["shipped"]["system"]).unwrap();
    assert_eq!((&rows[5]["same_as"], &rows[5]["against"]), (&shipped["system"], &shipped["against"]));
    let changes = &object["changes"];
    let count = |key: &str| changes[key].as_u64().unwrap();
    assert!(count("improved") + count("hurt") <= count("queries") && changes["against"] == "raw", "{changes}");
    let best = object["headroom"]["best"].as_f64().unwrap();
    assert!(best >= object["headroom"]["reached"].as_f64().unwrap(), "{object}");
    home.join("run")
}

#[test]
fn a_run_explains_itself_by_what_it_leaves() {
    let home = home();
    let run = trained(home.path());
    let names = tiny::names(&run);
    for name in ["best", "checkpoints", "completions.jsonl", "config.toml", "metrics.jsonl", "report", "run.json"] {
        assert!(names.iter().any(|n| n == name), "{name} is missing: {names:?}");
    }
    assert!(names.iter().any(|n| n.starts_with("events.out.tfevents")), "{names:?}");
    assert_eq!(tiny::names(&run.join("checkpoints")), ["step-00000001", "step-00000002"]);
    let best = ["adapter_config.json", "adapter_model.safetensors", "prompt.toml", "rewriter.toml"];
    assert_eq!(tiny::names(&run.join("best")), best);
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let metrics: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(metrics.iter().filter(|m| m.get("reward").is_some()).count(), 2);
    assert!(metrics.iter().any(|m| m.get("eval_nDCG@10").is_some()));
    let about: Value = serde_json::from_slice(&fs::read(run.join("run.json")).unwrap()).unwrap();
    for key in ["querywright", "model", "model_digest", "retriever", "train_queries", "threads"] {
        assert!(about.get(key).is_some(), "run.json lacks {key}");
    }
    let page = fs::read_to_string(run.join("report/index.html")).unwrap();
    for word in ["<svg", "zero-shot", "trained", "rm3", "tuned", "shipped = ", "Shipped: ", "What changed"] {
        assert!(page.contains(word), "the report lacks {word}");
    }
    assert!(fs::read_to_string(run.join("report/curves.svg")).unwrap().starts_with("<svg"));

    // A person reads first what is shipped, and the progress says against which base.
    let output = tiny::run(home.path(), &["train", "run.toml", "--output-dir", "told"]);
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.starts_with("Shipped: ") && said.contains("\nshipped = "), "{said}");
    assert!(told.contains("learning to gain nDCG@10 over the "), "{told}");
    assert!(told.lines().any(|line| line.starts_with("step 2/2  ") && line.contains(" nDCG@10 over the ")), "{told}");

    // The configuration that the run wrote starts the same run again.
    let again = ["train", "run/config.toml", "--no-eval", "--set", "train.output_dir=again"];
    tiny::ok(home.path(), &again);
    let adapter =
        |run: &str| fs::read(home.path().join(run).join("checkpoints/step-00000002/adapter_model.safetensors"));
    assert!(adapter("run").unwrap() == adapter("again").unwrap(), "the same configuration, the same weights");
}

#[test]
fn a_trained_adapter_serves_evaluates_and_rewrites() {
    let home = home();
    trained(home.path());
    let rewriter = format!("{}+run/best", tiny::MODEL);
    let object = tiny::json(home.path(), &["eval", "--data", "shop", "--rewriter", &rewriter, "--json"]);
    assert_eq!((&object["queries"], &object["rewriter"]), (&3.into(), &Value::from(rewriter.as_str())));
    let rewrite =
        tiny::json(home.path(), &["rewrite", "--data", "shop", "--rewriter", &rewriter, "--json", "dry tent"]);
    let search = ["search", "--data", "shop", "--rewriter", &rewriter, "--deadline", "5000", "--json", "dry tent"];
    let found = tiny::json(home.path(), &search);
    assert_eq!(found["answer"]["hits"][0]["title"], "tent dome");
    // After two steps the answer may still be broken. Both commands read it in the same way: the rewrite is what is
    // searched for, or its error is why the original query is.
    let trace = &found["answer"]["trace"];
    assert_eq!((&rewrite["query"], &trace["query"]), (&"dry tent".into(), &"dry tent".into()));
    assert_eq!(trace["rewriter"], rewriter);
    let outcome = &trace["outcome"];
    match rewrite["rewrite"].as_str() {
        Some(text) => {
            assert_eq!((&rewrite["error"], &outcome["kind"]), (&Value::Null, &"rewritten".into()), "{trace}");
            assert_eq!(trace["searched"]["text"], text);
        }
        None => {
            assert_eq!((&outcome["kind"], &outcome["code"]), (&"fell_back".into(), &rewrite["code"]), "{trace}");
            assert_eq!(trace["searched"]["text"], "dry tent");
        }
    }
}

#[test]
fn a_confidence_in_the_file_of_a_run_is_kept_when_it_serves_and_a_declined_rewrite_is_no_failure() {
    let home = home();
    let best = trained(home.path()).join("best");
    let write = |line: &str| {
        let text = format!("serve = \"trained\"\nmodel = {:?}\n{line}", tiny::MODEL);
        fs::write(best.join("rewriter.toml"), text).unwrap();
    };
    let search = ["search", "--data", "shop", "--rewriter", "run/best", "--json", "dry tent"];
    let trace = || tiny::json(home.path(), &search)["answer"]["trace"].clone();
    write("");
    let (every, code) = (trace(), |trace: &Value| trace["outcome"]["code"].clone());
    assert_ne!(every["outcome"]["kind"], "kept");
    write("confidence = 0.0\n");
    let none = trace();
    if every["outcome"]["kind"] == "rewritten" {
        assert_eq!((&none["outcome"]["kind"], code(&none)), (&"kept".into(), "low_confidence".into()), "{none}");
        assert!(none["searched"]["confidence"].as_f64().unwrap() < 0.0, "{none}");
    } else {
        assert_eq!(code(&none), code(&every), "an answer without a query is a failure, sure or not");
    }
    let summary = tiny::json(home.path(), &["eval", "--data", "shop", "--rewriter", "run/best", "--json"]);
    assert_eq!(summary["kept"].as_u64().unwrap() + summary["fallbacks"].as_u64().unwrap(), 3, "{summary}");
    write("confidence = 1.0\n");
    let refused = tiny::run(home.path(), &search);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("rewriter.toml: confidence: 1; give"), "{said}");
}

#[test]
fn reporting_commands_are_quiet_without_a_terminal() {
    let home = home();
    for arguments in [&["eval", "--data", "demo"][..], &["search", "--data", "demo", "lamp"], &["data", "info", "demo"]]
    {
        let output = tiny::run(home.path(), arguments);
        assert!(output.status.success());
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_run_that_ranks_by_a_plugin_learns_the_same_as_one_that_ranks_natively() {
    let home = home();
    tiny::write_shop(&home.path().join("shop"));
    let plugin = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins/bm25/dist/bm25.wasm");
    let adapter = |retriever: &str, run: &str| {
        let config = tiny::config_text(Path::new("shop"), Path::new(run), 2);
        std::fs::write(home.path().join("run.toml"), config).unwrap();
        let said = tiny::json(home.path(), &["train", "run.toml", "--retriever", retriever, "--json"]);
        assert!(said["comparison"].is_object(), "{said}");
        std::fs::read(home.path().join(run).join("checkpoints/step-00000002/adapter_model.safetensors")).unwrap()
    };
    assert!(adapter(plugin, "sandboxed") == adapter("bm25", "native"), "the same rankings, the same weights");
    let refused = tiny::run(home.path(), &["train", "run.toml", "--retriever", "bm52"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("a plugin's .wasm file"), "{said}");
}

#[test]
fn a_data_set_is_all_that_training_needs_and_what_is_printed_and_kept_gives_the_same_run() {
    let home = home();
    tiny::write_shop(&home.path().join("shop"));
    let short = ["--model", tiny::MODEL, "--set", "train.max_steps=2", "--set", "prompt.content='goods of a shop'"];
    let train = |more: &[&str]| tiny::ok(home.path(), &[&["train"], more].concat());
    let printed = train(&[&["--data", "shop", "--dry-run"], &short[..]].concat());
    assert!(!home.path().join("runs").exists(), "nothing is run");
    assert!(printed.contains("# as you set it") && printed.contains("[train]"), "{printed}");
    fs::write(home.path().join("my.toml"), &printed).unwrap();

    let said = train(&[&["--data", "shop", "--json"], &short[..]].concat());
    let said: Value = serde_json::from_str(&said).unwrap();
    let parts = ["outcome", "comparison", "shipped", "report", "changes", "headroom", "probes", "cost", "choices"];
    assert_eq!(keys(&said), parts);
    let choices = said["choices"].as_array().unwrap();
    let steps = choices.iter().find(|choice| choice["key"] == "train.max_steps").unwrap();
    assert_eq!((keys(steps), &steps["value"]), (vec!["key", "value", "why"], &2.into()));

    train(&["runs/shop/config.toml", "--output-dir", "kept", "--no-eval"]);
    train(&["my.toml", "--output-dir", "shown", "--no-eval"]);
    let completions = |run: &str| fs::read_to_string(home.path().join(run).join("completions.jsonl")).unwrap();
    assert_eq!(completions("runs/shop").lines().count(), 2 * 9 * 8, "as many prompts as there are queries");
    assert!(completions("kept") == completions("runs/shop") && completions("shown") == completions("runs/shop"));
    let resumed = tiny::json(home.path(), &["train", "--data", "shop", "--model", tiny::MODEL, "--resume", "--json"]);
    assert_eq!(resumed["outcome"]["steps"], 2, "a run that continues keeps its own configuration");
}

#[test]
fn splits_that_a_data_set_lacks_are_made_the_same_way_every_time_and_that_is_said() {
    let home = home();
    let shop = home.path().join("shop");
    tiny::write_shop(&shop);
    for name in ["train.txt", "dev.txt"] {
        fs::remove_file(shop.join(name)).unwrap();
    }
    let ids: String = (0..16).map(|i| format!("q{i}\n")).collect();
    fs::write(shop.join("test.txt"), ids).unwrap();
    let arguments = ["train", "--data", "shop", "--model", tiny::MODEL, "--set", "train.max_steps=1", "--json"];
    let shown = tiny::json(home.path(), &[&arguments[..], &["--dry-run"]].concat());
    assert_eq!(
        shown["config"]["data"]["resplit"],
        serde_json::json!({"from": "test", "train": 80, "dev": 10, "test": 10})
    );
    let output = tiny::run(home.path(), &arguments);
    let warned = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && warned.contains("the only split, test, becomes three"), "{warned}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let again = tiny::json(home.path(), &["train", "runs/shop/config.toml", "--output-dir", "again", "--json"]);
    assert_eq!(again["comparison"]["measures"], said["comparison"]["measures"], "the same queries are held out");
}

#[test]
fn what_cannot_be_trained_on_is_refused_with_what_would_be_right() {
    let home = home();
    let broken = |name: &str, change: &dyn Fn(&Path)| {
        tiny::write_shop(&home.path().join(name));
        change(&home.path().join(name));
    };
    broken("mute", &|shop| fs::remove_file(shop.join("queries.jsonl")).unwrap());
    broken("unjudged", &|shop| fs::remove_file(shop.join("qrels.tsv")).unwrap());
    broken("few", &|shop| fs::write(shop.join("train.txt"), "q0\nq1\n").unwrap());
    broken("shop", &|_| ());
    let table: [(&[&str], &str); 8] = [
        (&["--data", "mute"], "there are no queries: no queries.jsonl"),
        (&["--data", "unjudged"], "there are no judgements"),
        (&["--data", "few", "--model", tiny::MODEL], "at least 8 different ones"),
        (&["--data", "no-such-set"], "no-such-set"),
        (&["--data", "shop", "--set", "model.name=x"], "give it as --model"),
        (&["--data", "shop", "--set", "train.max_stps=1", "--model", tiny::MODEL], "did you mean `max_steps`"),
        (&["--data", "shop", "run.toml"], "cannot be used with"),
        (&[], "required"),
    ];
    for (arguments, expected) in table {
        let output = tiny::run(home.path(), &[&["train"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{arguments:?}: {said}");
    }
}
