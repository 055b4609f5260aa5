//! Bad input gets a sentence that says what was found, where, and what would be right; never a panic.

mod tiny;

use std::fs;
use std::path::Path;

/// What somebody does wrong: arguments, and the words that the message must hold.
struct Case {
    arguments: Vec<String>,
    says: &'static [&'static str],
}

fn case(arguments: &str, says: &'static [&'static str]) -> Case {
    let arguments = arguments.replace("MODEL", tiny::MODEL);
    Case { arguments: arguments.split(' ').map(str::to_owned).collect(), says }
}

/// Runs every case in `home` and reports all that fail, not the first alone.
fn refused(home: &Path, cases: &[Case]) {
    let mut failures = Vec::new();
    for Case { arguments, says } in cases {
        // No library's backtrace belongs into a sentence, whoever asks for backtraces.
        let output = tiny::program(home).env("RUST_BACKTRACE", "1").args(arguments).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        let missing: Vec<_> = says.iter().filter(|word| !message.contains(**word)).collect();
        if output.status.code().is_none_or(|code| code == 0 || code > 2)
            || message.contains("panicked")
            || message.contains("  0: ")
            || !missing.is_empty()
        {
            let shown = arguments.join(" ");
            failures.push(format!("querywright {shown}\n  {}\n  lacks {missing:?}: {message}", output.status));
        }
    }
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// A folder with a good shop in `shop` and a good run in `run.toml`.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    tiny::write_shop(&home.path().join("shop"));
    let text = tiny::config_text(&home.path().join("shop"), &home.path().join("run"), 1);
    fs::write(home.path().join("run.toml"), text).unwrap();
    home
}

/// A copy of the tiny model in which something is changed.
fn model(home: &Path, name: &str, change: impl FnOnce(&Path)) {
    tiny::copy(Path::new(tiny::MODEL), &home.join(name));
    change(&home.join(name));
}

/// Adds tokens to the tokenizer, one after another.
fn with_tokens(folder: &Path, count: usize) {
    let path = folder.join("tokenizer.json");
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    let pattern = added[0].clone();
    for i in 0..count {
        let mut token = pattern.clone();
        (token["id"], token["content"]) = ((264 + i).into(), format!("<|extra-{i}|>").into());
        added.push(token);
    }
    fs::write(path, tokenizer.to_string()).unwrap();
}

#[test]
fn a_model_that_cannot_be_used_is_refused() {
    let home = home();
    let path = home.path();
    let gguf = fs::read(tiny::GGUF).unwrap();
    fs::write(path.join("cut.gguf"), &gguf[..gguf.len() / 2]).unwrap();
    fs::write(path.join("head.gguf"), &gguf[..200]).unwrap();
    fs::write(path.join("empty.gguf"), "").unwrap();
    fs::write(path.join("text.gguf"), "This is the licence of a model, not a model.\n").unwrap();
    model(path, "unsharded", |m| {
        fs::remove_file(m.join("model.safetensors")).unwrap();
        let index = r#"{"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}"#;
        fs::write(m.join("model.safetensors.index.json"), index).unwrap();
        fs::copy(Path::new(tiny::MODEL).join("model.safetensors"), m.join("model-1-of-2.safetensors")).unwrap();
    });
    model(path, "weightless", |m| fs::remove_file(m.join("model.safetensors")).unwrap());
    model(path, "cut", |m| {
        let weights = fs::read(m.join("model.safetensors")).unwrap();
        fs::write(m.join("model.safetensors"), &weights[..weights.len() - 1000]).unwrap();
    });
    model(path, "wide", |m| with_tokens(m, 40));
    model(path, "wordless", |m| fs::remove_file(m.join("tokenizer.json")).unwrap());
    model(path, "garbled", |m| fs::write(m.join("tokenizer.json"), "{\"version\": ").unwrap());
    model(path, "misshapen", |m| {
        let config = fs::read_to_string(m.join("config.json")).unwrap();
        fs::write(m.join("config.json"), config.replace("\"hidden_size\": 64", "\"hidden_size\": 72")).unwrap();
    });
    model(path, "stranger", |m| {
        let config = fs::read_to_string(m.join("config.json")).unwrap();
        fs::write(m.join("config.json"), config.replace("\"qwen3\"", "\"mamba\"")).unwrap();
    });
    fs::create_dir(path.join("hollow")).unwrap();
    refused(
        path,
        &[
            case("model info cut.gguf", &["cut.gguf", "fetch it again"]),
            case("model info head.gguf", &["head.gguf", "cut off", "fetch it again"]),
            case("model info empty.gguf", &["empty.gguf"]),
            case("model info text.gguf", &["text.gguf", "GGUF"]),
            case(
                "model info unsharded",
                &["unsharded", "1 of 2 shards", "model-2-of-2.safetensors", "fetch the missing"],
            ),
            case("model info weightless", &["weightless", "neither model.safetensors nor", "fetch the weights"]),
            case("model info cut", &["model.safetensors", "promises", "fetch it again"]),
            case("model info misshapen", &["misshapen", "shape", "[264, 64]", "[264, 72]"]),
            case("model info stranger", &["config.json", "mamba", "qwen3"]),
            case("model info hollow", &["hollow", "neither config.json nor a GGUF file", "tokenizer.json"]),
            case("model info smollm-135m", &["smollm-135m", "did you mean smollm2-135m?"]),
            case("model info demo", &["demo", "neither a known model nor a path", "smollm2-135m", "hf:owner/name"]),
            case("rewrite --rewriter wide x", &["wide", "tokens over an embedding of 264 rows", "another model"]),
            case("rewrite --rewriter wordless x", &["tokenizer.json"]),
            case("rewrite --rewriter garbled x", &["garbled", "tokenizer.json"]),
            case("rewrite --rewriter no/such/model x", &["no/such/model", "neither a known model nor a path", "hf:"]),
        ],
    );
}

#[test]
fn an_adapter_that_does_not_fit_is_refused() {
    let home = home();
    let path = home.path();
    let golden = Path::new(tiny::MODEL).parent().unwrap();
    tiny::copy(&golden.join("peft-llama"), &path.join("foreign"));
    tiny::copy(&golden.join("peft-qwen3"), &path.join("made/best"));
    tiny::copy(&golden.join("peft-qwen3"), &path.join("cut"));
    let weights = fs::read(path.join("cut/adapter_model.safetensors")).unwrap();
    fs::write(path.join("cut/adapter_model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    tiny::copy(&golden.join("peft-qwen3"), &path.join("dora"));
    let config = fs::read_to_string(path.join("dora/adapter_config.json")).unwrap();
    let dora = config.replace("\"use_dora\": false", "\"use_dora\": true");
    assert_ne!(config, dora);
    fs::write(path.join("dora/adapter_config.json"), dora).unwrap();
    refused(
        path,
        &[
            case("eval --data shop --rewriter MODEL+foreign", &["foreign", "proj", "this model", "trained on"]),
            case("eval --data shop --rewriter MODEL+absent", &["absent", "there is no such folder", "MODEL+DIR"]),
            case(
                "eval --data shop --rewriter MODEL+made",
                &["made holds no adapter_config.json", "it is a run", "made/best"],
            ),
            case("eval --data shop --rewriter MODEL+cut", &["cut/adapter_model.safetensors", "cut off"]),
            case("eval --data shop --rewriter MODEL+dora", &["dora/adapter_config.json", "use_dora", "plain LoRA"]),
        ],
    );
}

#[test]
fn a_configuration_that_makes_no_run_is_refused() {
    let home = home();
    let path = home.path();
    let good = fs::read_to_string(path.join("run.toml")).unwrap();
    fs::write(path.join("typo.toml"), good.replace("max_steps", "max_stepz")).unwrap();
    fs::write(path.join("cut.toml"), &good[..good.find("num_generations").unwrap() + 10]).unwrap();
    fs::write(path.join("latin.toml"), b"[model]\nname = \"caf\xe9\"\n").unwrap();
    fs::write(path.join("taken"), "a file").unwrap();
    fs::write(path.join("2024"), "a file").unwrap();
    fs::create_dir(path.join("mine")).unwrap();
    fs::write(path.join("mine/config.toml"), "a = 1").unwrap();
    fs::write(path.join("unquoted.toml"), good.replace("[data]\n", "[data]\ntrain = 3\n")).unwrap();
    let set = |setting: &str, says| case(&format!("train run.toml --set {setting}"), says);
    let cases = [
        case("train typo.toml", &["typo.toml", "max_stepz", "did you mean `max_steps`?"]),
        case("train cut.toml", &["cut.toml", "line"]),
        case("train latin.toml", &["latin.toml", "UTF-8"]),
        case("train absent.toml", &["absent.toml", "check the path"]),
        set("trian.max", &["--set", "has no =", "train.max_steps=50"]),
        set("train.sed=1", &["did you mean `seed`?"]),
        set("train.max.steps=1", &["max"]),
        set("model.name.x=1", &["--set", "name"]),
        set("loss.loss_type=grppo", &["grppo", "dr_grpo"]),
        set("train.output_dir=taken", &["cannot write taken"]),
        set("train.output_dir=2024", &["cannot write 2024"]),
        set("train.output_dir=taken/run", &["cannot write taken"]),
        set("train.output_dir=", &["train.output_dir", "found nothing"]),
        set(
            "train.output_dir=mine",
            &["train.output_dir", "mine holds config.toml", "which no run wrote", "another folder"],
        ),
        case("demo --output-dir mine", &["mine holds", "which no run wrote"]),
        case("train unquoted.toml", &["unquoted.toml", "line", "write the value in quotes"]),
        set("train.max_steps=0", &["train.max_steps", "found 0"]),
        set("train.max_steps=soon", &["max_steps", "soon"]),
        set("train.num_generations=1", &["num_generations", "at least 2"]),
        set("sampling.max_completion_length=0", &["max_completion_length", "at least 1"]),
        // The prompt with its answer is longer than the context.
        set("sampling.max_completion_length=600", &["512", "max_completion_length"]),
        set("schedule.learning_rate=-1", &["learning_rate", "-1"]),
        set("lora.target_modules=[\"q_prj\"]", &["q_prj", "did you mean q_proj?"]),
        set("train.seed=-1", &["seed", "-1"]),
        set("train.seed=many", &["seed", "many"]),
        set("retriever.bm25.k1=-1", &["k1", "-1"]),
        set("data.dev=train", &["data.dev", "not trained on"]),
        set("data.dev=valid", &["there is no split \"valid\"", "dev, test, train"]),
        set("reward.k=0", &["reward.k", "10"]),
        set("reward.measures={\"nDCG@0\"=1}", &["nDCG@0", "at least 1"]),
        set("curriculum.headroom_fraction=2", &["curriculum.headroom_fraction", "from 0"]),
        set("prompt.style=haiku", &["haiku", "few-shot"]),
        set("model.device=gpu", &["gpu", "auto, cpu, or cuda:0"]),
        set("model.device=cuda:4095", &["device cuda:4095", "--device cpu"]),
        case("train run.toml --split valid", &["there is no split \"valid\"", "dev, test, train"]),
        case("train run.toml --measures NDCG@10", &["NDCG@10", "nDCG@10"]),
    ];
    refused(path, &cases);
    assert_eq!(fs::read_to_string(path.join("mine/config.toml")).unwrap(), "a = 1");
}

#[test]
fn a_data_folder_with_a_mistake_is_refused_by_file_and_line() {
    let home = home();
    let path = home.path();
    let broken = |name: &str, file: &str, change: &dyn Fn(&str) -> Vec<u8>| {
        tiny::write_shop(&path.join(name));
        let target = path.join(name).join(file);
        let text = fs::read_to_string(&target).unwrap();
        fs::write(target, change(&text)).unwrap();
    };
    let third = |text: &str, line: &[u8]| -> Vec<u8> {
        let lines: Vec<&[u8]> =
            text.lines().enumerate().map(|(i, l)| if i == 2 { line } else { l.as_bytes() }).collect();
        lines.join(&b'\n')
    };
    broken("twice", "corpus.jsonl", &|t| third(t, br#"{"id": "d0", "title": "again"}"#));
    broken("json", "corpus.jsonl", &|t| third(t, br#"{"id": "d2", "title": "#));
    broken("bytes", "corpus.jsonl", &|t| third(t, b"{\"id\": \"d2\", \"title\": \"caf\xe9\"}"));
    broken("nameless", "corpus.jsonl", &|t| third(t, br#"{"title": "no id"}"#));
    broken("bare", "corpus.jsonl", &|_| Vec::new());
    broken("asked", "queries.jsonl", &|t| third(t, br#"{"id": "q0", "text": "again"}"#));
    broken("mute", "queries.jsonl", &|t| third(t, br#"{"id": "q2", "text": ""}"#));
    broken("unknown", "qrels.tsv", &|t| third(t, b"q2\t0\tdoc99\t1"));
    broken("grade", "qrels.tsv", &|t| third(t, b"q2\t0\td2\tgood"));
    broken("columns", "qrels.tsv", &|t| third(t, b"q2\td2"));
    broken("stray", "qrels.tsv", &|t| third(t, b"q99\t0\td2\t1"));
    broken("empty", "test.txt", &|_| Vec::new());
    broken("listed", "test.txt", &|t| third(t, b"q99"));
    broken("shared", "test.txt", &|t| third(t, b"q0"));
    fs::create_dir(path.join("nothing")).unwrap();
    tiny::write_shop(&path.join("unjudged"));
    fs::remove_file(path.join("unjudged/qrels.tsv")).unwrap();
    let eval = |data: &str, says| case(&format!("eval --data {data}"), says);
    refused(
        path,
        &[
            eval("twice", &["corpus.jsonl:3", "\"d0\""]),
            eval("json", &["corpus.jsonl:3", "not JSON", "one JSON object"]),
            eval("bytes", &["corpus.jsonl:3", "not UTF-8", "iconv"]),
            eval("nameless", &["corpus.jsonl:3", "no \"id\""]),
            eval("bare", &["corpus.jsonl", "empty", "one document a line"]),
            eval("asked", &["queries.jsonl:3", "\"q0\"", "id of its own"]),
            eval("mute", &["queries.jsonl:3", "neither text nor history"]),
            eval("unknown --strict", &["qrels.tsv:3", "\"doc99\"", "not in the corpus"]),
            eval("grade", &["qrels.tsv:3", "\"good\"", "whole number"]),
            eval("columns", &["qrels.tsv:3", "2 columns", "query id"]),
            eval("stray", &["qrels.tsv:3", "\"q99\"", "queries.jsonl"]),
            eval("empty", &["test.txt", "empty", "one query id a line"]),
            eval("listed", &["test.txt:3", "\"q99\"", "not in queries.jsonl"]),
            eval("shared", &["shared", "q0", "train and test", "must not share"]),
            eval("unjudged", &["unjudged", "no judgements", "qrels.tsv"]),
            eval("nothing", &["nothing", "neither corpus.jsonl nor", "queries.jsonl"]),
            eval("shop/corpus.jsonl", &["corpus.jsonl"]),
            eval("no-such-data", &["no-such-data", "neither a known data set nor a path"]),
            eval("shop --split valid", &["there is no split \"valid\"", "dev, test, train"]),
            eval("shop --split tset", &["did you mean test?"]),
        ],
    );
}

#[test]
fn an_argument_without_meaning_is_refused() {
    let home = home();
    let path = home.path();
    fs::write(path.join("a-file"), "").unwrap();
    let mut cases = vec![
        case("search --data shop -k 0 kettle", &["k", "found 0", "at least 1"]),
        case("search --data shop -k many kettle", &["-k", "many"]),
        case("eval --data shop --measures nDCG@0", &["nDCG@0", "at least 1"]),
        case("eval --data shop --measures nDCG@ten", &["ten", "whole number"]),
        case("eval --data shop --measures R", &["no cutoff", "R@10"]),
        case("eval --data shop --measures ,", &["--measures", "empty", "nDCG@10"]),
        case("eval --data shop --measures F1@10", &["unknown measure \"F1@10\"", "nDCG@k"]),
        case("eval --data shop --measures mrr@10", &["did you mean \"RR@10\"?"]),
        case("eval --data shop --retriever lucene", &["lucene", "bm25"]),
        case("eval --data shop --retriever bm25:k2=1", &["k2", "did you mean k1?"]),
        case("eval --data shop --retriever bm25:k1=much", &["k1", "much", "k1=1.2"]),
        case("eval --data shop --retriever bm25:b=7", &["b", "7"]),
        case("eval --data shop --rewriter identiti", &["identiti"]),
        case("eval --data shop --index a-file", &["a-file"]),
        case("eval --data shop --run-out no/such/folder/run", &["no/such/folder/run", "check the path"]),
        case("search --data shop --rewriter MODEL --precision f64 kettle", &["--precision", "f64", "bf16"]),
        case("search --data shop --rewriter MODEL --device gpu kettle", &["--device", "gpu", "auto, cpu, or cuda:0"]),
        case("search --data shop --rewriter MODEL --device cuda:4095 kettle", &["device cuda:4095", "--device cpu"]),
        case("evil", &["evil", "eval"]),
        case("completions tcsh", &["tcsh", "bash"]),
    ];
    if cfg!(target_os = "linux") {
        cases.push(case("eval --data demo --run-out /dev/full", &["/dev/full", "free some space"]));
    }
    refused(path, &cases);
}

#[test]
fn without_a_network_what_is_not_in_the_cache_is_refused_with_what_would_help() {
    let home = home();
    refused(
        home.path(),
        &[
            case(
                "model pull smollm2-135m --offline",
                &["smollm2-135m", "not in the cache", "pull it once with a network"],
            ),
            case("model pull smollm2-135 --offline", &["did you mean smollm2-135m?"]),
            case("model pull hf:owner/name --offline", &["hf:owner/name", "network"]),
            case("model pull movielens --offline", &["movielens"]),
            case("data pull semanlink-tag --offline", &["did you mean semanlink"]),
        ],
    );
    let left = tiny::names(home.path());
    assert_eq!(left, ["run.toml", "shop"], "a pull that failed leaves nothing");
}

#[test]
fn a_query_longer_than_the_context_is_searched_for_as_it_came() {
    let home = home();
    let long = "kettle ".repeat(2000);
    let output = tiny::run(home.path(), &["search", "--data", "shop", "--rewriter", tiny::MODEL, "--json", &long]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["answer"]["hits"][0]["title"], "kettle steel");
    let outcome = &found["answer"]["trace"]["outcome"];
    assert_eq!((&outcome["kind"], &outcome["code"]), (&"fell_back".into(), &"argument".into()), "{outcome}");
    // The answer has a fixed text, the log the reason, once.
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(!outcome["reason"].as_str().unwrap().contains("512"), "{outcome}");
    assert_eq!(log.matches("searched for as it came").count(), 1, "{log}");
    assert!(log.contains("512"), "{log}");
    // In an evaluation it counts as a query without a rewrite.
    let queries = home.path().join("shop/queries.jsonl");
    let text = fs::read_to_string(&queries).unwrap().replace("sleep outdoors dry", &long);
    fs::write(queries, text).unwrap();
    let counted = tiny::json(home.path(), &["eval", "--data", "shop", "--rewriter", tiny::MODEL, "--json"]);
    assert!(counted["fallbacks"].as_u64().unwrap() >= 1, "{counted}");
}

#[test]
fn a_tokenizer_with_fewer_tokens_than_the_model_serves_without_a_panic() {
    let home = home();
    // Rows of an embedding that no token has are usual (padding to a round number): the model may still sample them.
    model(home.path(), "narrow", |m| {
        let path = m.join("tokenizer.json");
        let mut tokenizer: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        tokenizer["added_tokens"].as_array_mut().unwrap().truncate(0);
        fs::write(path, tokenizer.to_string()).unwrap();
    });
    let output = tiny::run(home.path(), &["rewrite", "--data", "shop", "--rewriter", "narrow", "--json", "kettle"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["query"], "kettle");
    // What a model of random weights writes may be no query; then the reason is given in its place.
    let given = ["rewrite", "error"].map(|key| object[key].as_str().is_some_and(|text| !text.is_empty()));
    assert!(given[0] != given[1], "{object}");
}

/// A small file system, unmounted at the end. None where the tests may not mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .output();
        mounted.is_ok_and(|o| o.status.success()).then_some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).output();
    }
}

#[test]
fn a_disk_that_fills_up_while_saving_is_named_and_what_was_complete_stays() {
    let Some(disk) = SmallDisk::mount("700k") else {
        querywright_testing::skipped("this user may not mount a file system");
        return;
    };
    let home = home();
    let run = disk.0.path().join("run");
    // Every checkpoint is kept, so the disk is full after a few.
    let text = tiny::config_text(&home.path().join("shop"), &run, 40) + "save_total_limit = 40\n";
    fs::write(home.path().join("full.toml"), text).unwrap();
    refused(
        home.path(),
        &[case("train full.toml --no-eval", &["cannot write", "free some space", "nothing that was complete"])],
    );
    let kept = querywright_train::checkpoint::list(&run).unwrap();
    assert!(!kept.is_empty());
    for (step, folder) in &kept {
        assert_eq!(tiny::names(folder).len(), 4, "checkpoint {step} is complete");
    }
    // With space again it continues.
    fs::remove_dir_all(&kept[0].1).unwrap();
    let resume = ["train", "full.toml", "--no-eval", "--resume", "--set", "train.save_total_limit=1"];
    tiny::ok(home.path(), &resume);
}

#[test]
fn a_file_called_pip_beside_the_user_is_not_run() {
    let (home, caller) = (home(), tempfile::tempdir().unwrap());
    let (trap, marker) = (caller.path().join("pip.py"), caller.path().join("ran"));
    fs::write(&trap, format!("open({:?}, 'w').close()\n", marker.display().to_string())).unwrap();
    let python = std::process::Command::new("python3")
        .args(["-m", "pip"])
        .env_remove("PYTHONSAFEPATH")
        .current_dir(caller.path())
        .output();
    if python.is_err() {
        querywright_testing::skipped("there is no python3");
        return;
    }
    fs::remove_file(&marker).expect("it is a trap: Python itself runs the file");
    // No index and no hub can be reached, whatever the machine's network.
    let output = tiny::program(home.path())
        .current_dir(caller.path())
        .envs([("PIP_NO_INDEX", "1"), ("UV_OFFLINE", "1"), ("PIP_RETRIES", "0"), ("HF_ENDPOINT", "http://127.0.0.1:9")])
        .args(["model", "pull", "smollm2-135m"])
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && message.contains("smollm2-135m"), "{message}");
    assert!(!marker.exists(), "the file was run: {message}");
}
