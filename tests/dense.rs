//! Dense retrieval on the command line, with a tiny random encoder: what it ranks is held to golden values elsewhere.

mod tiny;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

/// A random BERT with two layers, with the files of sentence-transformers beside it.
const ENCODER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tiny-bert");

/// The hybrid plugin as it is committed, or as `QUERYWRIGHT_PLUGINS` has it.
fn plugin() -> String {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins");
    let root = std::env::var_os("QUERYWRIGHT_PLUGINS").map_or(committed, Into::into);
    root.join("dense/dist/dense.wasm").display().to_string()
}

/// A folder with a shop in it; nothing of the user's is seen.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    tiny::write_shop(&home.path().join("shop"));
    home
}

fn eval(home: &Path, retriever: &str, more: &[&str]) -> Value {
    let arguments = ["eval", "--data", "shop", "--measures", "nDCG@10", "--json", "--retriever", retriever];
    tiny::json(home, &[&arguments, more].concat())
}

#[test]
fn vectors_are_kept_in_the_cache_or_where_the_index_is_to_be() {
    let home = home();
    let dense = format!("dense:{ENCODER}");
    let first = eval(home.path(), &dense, &[]);
    assert_eq!((&first["retriever"], &first["faults"]), (&"dense".into(), &0.into()));
    let kept = home.path().join("cache/vectors");
    let vectors = |folder: &Path| tiny::names(folder).into_iter().filter(|n| n.ends_with(".vectors")).count();
    assert_eq!(vectors(&kept), 1);
    assert_eq!(eval(home.path(), &dense, &[])["measures"], first["measures"]);
    assert_eq!(eval(home.path(), &dense, &["--index", "index"])["measures"], first["measures"]);
    assert_eq!((vectors(&kept), vectors(&home.path().join("index"))), (1, 1));
    // Other settings of the documents are other vectors, those of queries are not.
    eval(home.path(), &format!("{dense},query_prefix=find: "), &[]);
    assert_eq!(vectors(&kept), 1);
    eval(home.path(), &format!("{dense},document_prefix=text: "), &[]);
    assert_eq!(vectors(&kept), 2);
}

#[test]
fn hybrid_fuses_with_bm25_and_its_weight_is_in_its_name() {
    let home = home();
    let names = [format!("hybrid:{ENCODER}"), format!("hybrid=0.5:{ENCODER}")];
    let [even, half] = names.each_ref().map(|name| eval(home.path(), name, &["--index", "index"]));
    assert_eq!((&even["retriever"], &half["retriever"]), (&"rrf(bm25,dense)".into(), &"rrf(bm25,dense^0.5)".into()));
    // Searched for by its own words, a product is found by both.
    let retriever = names[0].as_str();
    let found =
        tiny::json(home.path(), &["search", "--data", "shop", "--retriever", retriever, "--json", "kettle steel"]);
    assert_eq!(found["answer"]["hits"][0]["id"], "d0");
}

#[test]
fn a_plugin_ranks_by_the_encoder_that_it_is_lent_and_is_kept_under_its_digest() {
    let home = home();
    let lent = format!("embed={ENCODER}");
    let ranked = |grant: &str| eval(home.path(), &plugin(), &["--grant", grant]);
    let first = ranked(&lent);
    assert_eq!((&first["retriever"], &first["faults"]), (&"dense".into(), &0.into()));
    let native = eval(home.path(), &format!("hybrid:{ENCODER}"), &["--index", "index"]);
    assert_eq!(first["measures"], native["measures"], "words and vectors are the native ones, and so is the fusion");
    let kept =
        || tiny::names(&home.path().join("cache/plugins")).into_iter().filter(|n| n.ends_with(".compiled")).count();
    assert_eq!(kept(), 1);
    assert_eq!(ranked(&lent)["measures"], first["measures"], "from the cache");
    assert_eq!(kept(), 1);
    ranked(&format!("{lent},document_prefix=text: "));
    assert_eq!(kept(), 2, "other vectors are another memory");
}

#[test]
fn a_plugin_without_its_encoder_is_refused_with_what_lends_one() {
    let home = home();
    let refused = |arguments: &[&str], parts: &[&str]| {
        let output = tiny::run(home.path(), arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && parts.iter().all(|part| said.contains(part)), "{arguments:?}: {said}");
    };
    let (plugin, advice) = (plugin(), "--grant embed=all-minilm-l6-v2");
    let search = ["search", "--data", "shop", "--retriever", &plugin, "kettle"];
    refused(&search, &["load returned a fault", "not granted: embed", advice]);
    refused(&["plugin", "check", &plugin, "--data", "shop"], &["not granted: embed", advice]);
    refused(&[&search[..], &["--grant", "embed"]].concat(), &["--grant embed", "names no encoder", "embed=all-minilm"]);
    refused(&[&search[..], &["--grant", "embed=absent"]].concat(), &["absent", "neither a known model"]);
    let generates = format!("embed={}", tiny::MODEL);
    refused(&[&search[..], &["--grant", &generates]].concat(), &["model_type", "qwen3", "bert"]);
    let lent = format!("embed={ENCODER}");
    let checked = tiny::json(home.path(), &["plugin", "check", &plugin, "--data", "shop", "--grant", &lent, "--json"]);
    assert_eq!(checked["passed"], true, "{checked}");
    let tight = [&search[..], &["--grant", &lent, "--grant", "limits.embed_texts=3"]].concat();
    refused(&tight, &["limits.embed_texts"]);
}

#[test]
fn a_run_keeps_the_encoder_that_its_plugin_is_lent() {
    let home = home();
    let config = tiny::config_text(&home.path().join("shop"), &home.path().join("run"), 2);
    fs::write(home.path().join("run.toml"), config).unwrap();
    let (plugin, lent) = (plugin(), format!("embed={ENCODER}"));
    tiny::ok(home.path(), &["train", "run.toml", "--retriever", &plugin, "--grant", &lent, "--no-eval"]);
    let kept = fs::read_to_string(home.path().join("run/config.toml")).unwrap();
    assert!(kept.contains("[retriever.embed]") && kept.contains("tiny-bert"), "{kept}");
    tiny::ok(home.path(), &["train", "run/config.toml", "--output-dir", "again", "--no-eval"]);
    let completions = |run: &str| fs::read_to_string(home.path().join(run).join("completions.jsonl")).unwrap();
    assert_eq!(completions("run"), completions("again"));
    // Another encoder gives other rewards.
    let other = format!("{lent},query_prefix=find: ");
    let again = ["train", "run.toml", "--retriever", &plugin, "--grant", &other, "--resume", "--no-eval"];
    assert!(!tiny::run(home.path(), &again).status.success(), "a checkpoint of another retriever is refused");
}

#[test]
fn the_weight_of_a_hybrid_is_taken_from_what_was_tuned_for_its_way_of_fusing_alone() {
    let home = home();
    fs::write(home.path().join("tuned.toml"), "serve = \"raw\"\nhybrid_scores = 500.0\n").unwrap();
    let of = |name: &str, rewriter: &str| {
        let retriever = format!("{name}:{ENCODER}");
        eval(home.path(), &retriever, &["--index", "index", "--rewriter", rewriter])["retriever"].clone()
    };
    assert_eq!(of("hybrid-scores", "tuned.toml"), "scores(bm25,dense^500)");
    assert_eq!(of("hybrid-scores", "identity"), "scores(bm25,dense)");
    assert_eq!(of("hybrid-scores=2", "tuned.toml"), "scores(bm25,dense^2)", "a weight that is given counts");
    assert_eq!(of("hybrid", "tuned.toml"), "rrf(bm25,dense)", "the weight of another way means nothing here");
    // What is served is searched with the weight, too.
    let retriever = format!("hybrid-scores:{ENCODER}");
    let hits = |retriever: &str, rewriter: &str| {
        let arguments = ["search", "--data", "shop", "--retriever", retriever, "--rewriter", rewriter, "--json", "tea"];
        tiny::json(home.path(), &arguments)["answer"]["hits"].clone()
    };
    let heavy = format!("hybrid-scores=500:{ENCODER}");
    assert_eq!(hits(&retriever, "tuned.toml"), hits(&heavy, "identity"));
    assert_ne!(hits(&retriever, "identity"), hits(&heavy, "identity"));
}

#[test]
fn a_graph_between_vectors_is_kept_beside_them_and_its_recall_is_told() {
    let home = home();
    let exact = eval(home.path(), &format!("dense:{ENCODER}"), &["--index", "index"]);
    let hnsw = format!("dense:{ENCODER},index=hnsw,m=8,ef_construction=40,ef_search=30");
    let arguments = ["eval", "--data", "shop", "--retriever", &hnsw, "--index", "index", "--measures", "nDCG@10"];
    let output = tiny::run(home.path(), &arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("of the 10 nearest are found"), "{said}");
    let names = tiny::names(&home.path().join("index"));
    let graphs = |names: &[String]| names.iter().filter(|name| name.ends_with(".hnsw")).count();
    assert_eq!((graphs(&names), names.iter().filter(|name| name.ends_with(".vectors")).count()), (1, 1), "{names:?}");
    // Of 16 products all are looked at.
    assert_eq!(eval(home.path(), &hnsw, &["--index", "index"])["measures"], exact["measures"]);
    assert_eq!(graphs(&tiny::names(&home.path().join("index"))), 1);
    let rounded = format!("dense:{ENCODER},precision=bf16");
    assert_eq!(eval(home.path(), &rounded, &["--index", "index"])["measures"], exact["measures"]);
}

#[test]
fn search_and_serve_rank_by_vectors_and_scores_are_not_explained() {
    let home = home();
    let dense = format!("dense:{ENCODER}");
    let arguments = ["search", "--data", "shop", "--retriever", &dense, "-k", "3", "--json", "kettle steel"];
    let answer = tiny::json(home.path(), &arguments);
    let hits = answer["answer"]["hits"].as_array().unwrap();
    assert_eq!(hits.len(), 3);
    let scores: Vec<f64> = hits.iter().map(|hit| hit["score"].as_f64().unwrap()).collect();
    assert!(scores.windows(2).all(|pair| pair[0] >= pair[1]) && scores[0] <= 1.0 + 1e-5, "{scores:?}");
    let refused = tiny::run(home.path(), &["search", "--data", "shop", "--retriever", &dense, "--explain", "kettle"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("--explain"), "{said}");

    let mut command = tiny::program(home.path());
    command.args(["serve", "--stdio", "--data", "shop", "--retriever", &dense, "-k", "3"]);
    let mut serving = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    serving.stdin.take().unwrap().write_all(b"{\"query\": \"kettle steel\"}\n").unwrap();
    let output = serving.wait_with_output().unwrap();
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(line["hits"], answer["answer"]["hits"]);
}

#[test]
fn a_run_learns_from_vectors_and_its_configuration_gives_it_again() {
    let home = home();
    let config = tiny::config_text(&home.path().join("shop"), &home.path().join("run"), 2);
    fs::write(home.path().join("run.toml"), config).unwrap();
    let dense = format!("dense:{ENCODER}");
    let train = |more: &[&str]| tiny::ok(home.path(), &[&["train"], more, &["--no-eval"]].concat());
    train(&["run.toml", "--retriever", &dense]);
    let kept = fs::read_to_string(home.path().join("run/config.toml")).unwrap();
    assert!(kept.contains("[retriever.dense]") && kept.contains("tiny-bert"), "{kept}");
    let about: Value = serde_json::from_slice(&fs::read(home.path().join("run/run.json")).unwrap()).unwrap();
    assert_eq!(
        (&about["retriever"]["name"], &about["retriever"]["languages"][0]),
        (&"dense".into(), &"natural".into())
    );
    train(&["run/config.toml", "--output-dir", "again"]);
    let completions = |run: &str| fs::read_to_string(home.path().join(run).join("completions.jsonl")).unwrap();
    assert_eq!(completions("run"), completions("again"));
    // A run that was begun with other vectors is another one.
    let other = format!("{dense},query_prefix=find: ");
    let refused = tiny::run(home.path(), &["train", "run.toml", "--retriever", &other, "--resume", "--no-eval"]);
    assert!(!refused.status.success(), "a checkpoint of another retriever is refused");
}

#[test]
fn a_chosen_configuration_holds_the_encoder_and_what_cannot_rank_is_refused() {
    let home = home();
    let hybrid = format!("hybrid=0.5:{ENCODER},pooling=cls");
    let arguments = ["train", "--data", "shop", "--model", tiny::MODEL, "--retriever", &hybrid, "--dry-run"];
    let printed = tiny::ok(home.path(), &arguments);
    assert!(printed.contains("hybrid") && printed.contains("0.5") && printed.contains("cls"), "{printed}");
    let refused = |arguments: &[&str], parts: &[&str]| {
        let output = tiny::run(home.path(), arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && parts.iter().all(|part| said.contains(part)), "{arguments:?}: {said}");
    };
    refused(&["eval", "--data", "shop", "--retriever", "dense:absent"], &["absent", "neither a known model"]);
    let generates = format!("dense:{}", tiny::MODEL);
    refused(&["eval", "--data", "shop", "--retriever", &generates], &["model_type", "qwen3", "bert"]);
    refused(&["eval", "--data", "shop", "--retriever", "hybrid=none:x"], &["weight", "hybrid=0.5"]);
    refused(&["eval", "--data", "shop", "--retriever", "dens"], &["\"dens\" is unknown", "dense"]);
}
