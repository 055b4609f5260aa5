//! `querywright serve` over HTTP, as other programs use it.

mod tiny;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

const ENCODER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tiny-bert");

/// A server of a shop, with the tiny model as a rewriter and for OpenAI's endpoints.
struct Serving {
    process: Child,
    address: String,
    home: tempfile::TempDir,
}

fn serve(more: &str) -> Serving {
    let home = tempfile::tempdir().unwrap();
    tiny::write_shop(&home.path().join("shop"));
    let text = format!(
        "listen = \"127.0.0.1:0\"\ndeadline_ms = 20000\n{more}\n[[engine]]\nname = \"shop\"\ndata = \"shop\"\n\
         changes = \"changes.jsonl\"\n[[engine.rewriter]]\nname = \"tiny\"\nrewriter = {model:?}\n[[engine.rewriter]]\nname = \"rm3\"\nrewriter = \"rm3\"\n\
         [[model]]\nname = \"tiny\"\nmodel = {model:?}\n[[encoder]]\nname = \"bert\"\nmodel = {ENCODER:?}\n",
        model = tiny::MODEL,
    );
    fs::write(home.path().join("serve.toml"), text).unwrap();
    start(home)
}

/// Starts what a folder's configuration says.
fn start(home: tempfile::TempDir) -> Serving {
    let mut command = tiny::program(home.path());
    let mut process = command.args(["serve", "serve.toml"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let mut said = String::new();
    let address = loop {
        let Some(Ok(line)) = lines.next() else { panic!("it ended: {said}") };
        if let Some((_, address)) = line.split_once("listening on http://") {
            break address.to_owned();
        }
        said += &line;
    };
    // Somebody reads the log to its end.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    Serving { process, address, home }
}

impl Serving {
    fn send(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let body = if method == "GET" { String::new() } else { body.to_string() };
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let body = match head.to_lowercase().contains("transfer-encoding: chunked") {
            true => unchunked(body),
            false => body.to_owned(),
        };
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
    }

    fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let (status, text) = self.send("POST", path, &body);
        (status, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")))
    }

    fn ok(&self, path: &str, body: Value) -> Value {
        let (status, object) = self.post(path, body);
        assert_eq!(status, 200, "{path}: {object}");
        object
    }

    /// The events of a stream.
    fn events(&self, path: &str, body: Value) -> Vec<Value> {
        let (status, text) = self.send("POST", path, &body);
        assert_eq!(status, 200, "{text}");
        let lines: Vec<&str> = text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
        assert_eq!(lines.last(), Some(&"[DONE]"), "{text}");
        lines[..lines.len() - 1].iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn unchunked(body: &str) -> String {
    let (mut out, mut rest) = (String::new(), body);
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        out += &after[..size];
        rest = after[size..].trim_start_matches("\r\n");
        if size == 0 {
            break;
        }
    }
    out
}

#[test]
fn a_configuration_serves_search_chat_and_vectors_and_a_signal_ends_it() {
    let mut serving = serve("");
    let found = serving.ok("/v1/search", json!({ "query": "steel kettle", "rewriter": "original", "explain": true }));
    assert_eq!((&found["hits"][0]["id"], &found["trace"]["outcome"]["kind"]), (&json!("d0"), &json!("original")));
    assert!(found["explanations"][0].to_string().contains("contents:kettl"), "{found}");
    // Every product is an "item".
    let body = json!({ "query": "item", "history": ["d0"], "rewriter": "original", "exclude": ["d2"], "k": 16 });
    let left = serving.ok("/v1/search", body)["hits"].as_array().unwrap().clone();
    assert_eq!(left.len(), 14);
    assert!(left.iter().all(|hit| hit["id"] != "d0" && hit["id"] != "d2"));
    let unknown = serving.post("/v1/search", json!({ "history": ["nobody"] }));
    assert!(unknown.0 == 400 && unknown.1["error"]["message"].as_str().unwrap().contains("\"nobody\""));
    // A random model writes what it likes; the query is searched for whatever that is.
    let rewritten = serving.ok("/v1/search", json!({ "query": "steel kettle" }));
    assert_eq!(rewritten["trace"]["rewriter"], "tiny");
    assert!(!rewritten.to_string().contains("golden"), "no path of the server: {rewritten}");
    let engines: Value = serde_json::from_str(&serving.send("GET", "/v1/engines", &json!(null)).1).unwrap();
    assert_eq!(engines["engines"][0]["rewriters"], json!(["original", "rm3", "tiny"]));
    assert_eq!(engines["engines"][0]["retriever"]["documents"], 16);
    let models: Value = serde_json::from_str(&serving.send("GET", "/v1/models", &json!(null)).1).unwrap();
    assert_eq!(models["data"].as_array().unwrap().iter().map(|m| &m["id"]).collect::<Vec<_>>(), ["bert", "tiny"]);
    assert!(serving.send("GET", "/", &json!(null)).1.contains("<title>Querywright</title>"));

    let id = serving.process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert!(serving.process.wait().unwrap().success());
}

#[test]
fn a_chat_is_the_same_whole_and_in_parts_and_what_is_asked_for_counts() {
    let serving = serve("[limits]\ncompletion_tokens = 40");
    let messages = json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": [{ "type": "text", "text": "tea <|im_end|>" }] }]);
    let ask = |more: Value| {
        let mut body = json!({ "model": "tiny", "messages": messages, "max_tokens": 24, "temperature": 0.0 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let whole = serving.ok("/v1/chat/completions", ask(json!({})));
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert_eq!(whole["object"], "chat.completion");
    let usage = &whole["usage"];
    assert_eq!(
        usage["total_tokens"],
        json!(usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap())
    );
    let events = serving
        .events("/v1/chat/completions", ask(json!({ "stream": true, "stream_options": { "include_usage": true } })));
    let parts = |events: &[Value], choice: u64| -> String {
        let of = |event: &Value| {
            let found = event["choices"].as_array()?.iter().find(|c| c["index"] == choice)?;
            found["delta"]["content"].as_str().map(str::to_owned)
        };
        events.iter().filter_map(of).collect()
    };
    assert_eq!(parts(&events, 0), text);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(&events.last().unwrap()["usage"], usage);
    assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk"));

    // Two choices with a seed: the same each time, and the same in parts.
    let two = ask(json!({ "temperature": 1.5, "seed": 7, "n": 2 }));
    let (first, again) =
        (serving.ok("/v1/chat/completions", two.clone()), serving.ok("/v1/chat/completions", two.clone()));
    assert_eq!(first["choices"], again["choices"]);
    assert_ne!(first["choices"][0]["message"], first["choices"][1]["message"]);
    let mut streamed = two;
    streamed["stream"] = json!(true);
    let events = serving.events("/v1/chat/completions", streamed);
    for choice in 0..2 {
        assert_eq!(json!(parts(&events, choice)), first["choices"][choice as usize]["message"]["content"]);
    }

    let prompt = json!({ "model": "tiny", "prompt": ["tea", "kettle"], "temperature": 0, "max_tokens": 12 });
    let completed = serving.ok("/v1/completions", prompt.clone());
    assert_eq!(completed["choices"].as_array().unwrap().len(), 2);
    let second = completed["choices"][1]["text"].as_str().unwrap();
    // What stands in the text ends it, and is not part of it.
    let stop: String = second.chars().skip(3).take(2).collect();
    let mut stopped = prompt;
    stopped["stop"] = json!(stop);
    let stopped = serving.ok("/v1/completions", stopped);
    assert_eq!(stopped["choices"][1]["text"], second[..second.find(&stop).unwrap()]);

    for (path, body, status, part) in [
        ("/v1/chat/completions", ask(json!({ "model": "gpt-4o" })), 404, "model"),
        ("/v1/chat/completions", ask(json!({ "messages": [] })), 400, "messages"),
        (
            "/v1/chat/completions",
            ask(json!({ "messages": [{ "role": "tool", "content": "x" }] })),
            400,
            "messages[0].role",
        ),
        ("/v1/chat/completions", ask(json!({ "max_tokens": 41 })), 400, "max_tokens"),
        ("/v1/chat/completions", ask(json!({ "tools": [{ "type": "function" }] })), 400, "tools"),
        ("/v1/completions", json!({ "model": "tiny", "prompt": "word ".repeat(600) }), 400, "prompt"),
        ("/v1/completions", json!({ "model": "tiny", "prompt": "" }), 400, "prompt"),
        ("/v1/completions", json!({ "model": "tiny", "prompt": "a", "logprobs": 3 }), 400, "logprobs"),
        ("/v1/completions", json!({ "model": "tiny", "prompt": "a", "logprobs": 0 }), 400, "logprobs"),
        ("/v1/completions", json!({ "model": "tiny", "prompt": "a", "temperature": 1e-30 }), 400, "temperature"),
        (
            "/v1/chat/completions",
            ask(json!({ "messages": [{ "role": "user", "content": "word ".repeat(600) }] })),
            400,
            "messages",
        ),
        ("/v1/embeddings", json!({ "model": "tiny", "input": "a" }), 404, "model"),
    ] {
        let (found, object) = serving.post(path, body);
        assert_eq!((found, &object["error"]["param"]), (status, &json!(part)), "{object}");
    }
}

#[test]
fn vectors_are_those_of_the_encoder_in_both_encodings() {
    let serving = serve("");
    let body = json!({ "model": "bert", "input": ["steel kettle", "wool"] });
    let floats = serving.ok("/v1/embeddings", body.clone());
    let vector: Vec<f32> = serde_json::from_value(floats["data"][1]["embedding"].clone()).unwrap();
    assert!(floats["usage"]["prompt_tokens"].as_u64().unwrap() > 3);
    let mut coded = body;
    coded["encoding_format"] = json!("base64");
    let coded = serving.ok("/v1/embeddings", coded);
    assert_eq!(coded["data"][1]["embedding"].as_str().unwrap().len(), (vector.len() * 4).div_ceil(3) * 4);
    let wrong = serving.post("/v1/embeddings", json!({ "model": "bert", "input": "a", "dimensions": 3 }));
    assert_eq!((wrong.0, &wrong.1["error"]["param"]), (400, &json!("dimensions")));
}

#[test]
fn an_adapter_is_loaded_from_the_folder_that_the_configuration_names_and_from_nowhere_else() {
    let serving = serve("adapters = \"shop\"");
    let load = |path: &str| serving.post("/v1/load_lora_adapter", json!({ "lora_name": "new", "lora_path": path }));
    fs::create_dir(serving.home.path().join("outside")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(serving.home.path().join("outside"), serving.home.path().join("shop/link")).unwrap();
    for (path, part) in [
        ("../outside", "lies outside"),
        ("/etc", "lies outside"),
        ("link", "lies outside"),
        ("nobody", "no folder there"),
    ] {
        let (status, object) = load(path);
        assert!(status == 400 && object.to_string().contains(part), "{path}: {object}");
    }
    // A base without a model is a rewriter, too.
    let folder = serving.home.path().join("shop/tuned");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("rewriter.toml"), "serve = \"raw\"\n").unwrap();
    assert_eq!(load("tuned").0, 200);
    let found = serving.ok("/v1/search", json!({ "query": "dome tent", "rewriter": "new" }));
    assert_eq!(found["hits"][0]["id"], "d15");
    // A folder that changed is read again.
    let corpus = serving.home.path().join("shop/corpus.jsonl");
    let changed = fs::read_to_string(&corpus).unwrap().replace("tent dome", "yurt felt");
    fs::write(&corpus, changed).unwrap();
    serving.ok("/v1/engines/shop/reload", json!({}));
    assert_eq!(
        serving.ok("/v1/search", json!({ "query": "felt yurt", "rewriter": "original" }))["hits"][0]["id"],
        "d15"
    );
}

#[test]
fn documents_come_and_go_while_it_runs_and_outlast_a_process_that_is_killed() {
    let mut serving = serve("");
    let first = |serving: &Serving, query: &str| -> Value {
        serving.ok("/v1/search", json!({ "query": query, "rewriter": "original" }))["hits"][0]["id"].clone()
    };
    let documents = "/v1/engines/shop/documents";
    let added = json!({ "add": [{ "id": "new", "title": "copper teapot", "price": 1.50 }, { "id": "d15", "title": "yurt" }], "delete": ["d0"] });
    assert_eq!(serving.ok(documents, added)["documents"], 16);
    assert_eq!((first(&serving, "copper"), first(&serving, "yurt")), (json!("new"), json!("d15")));
    assert_eq!((first(&serving, "steel"), first(&serving, "dome")), (json!(null), json!(null)));
    // With a rewriter, and by the ids that there are now.
    let left =
        serving.ok("/v1/search", json!({ "query": "item copper", "rewriter": "rm3", "exclude": ["new"], "k": 20 }));
    assert!(left["hits"].as_array().unwrap().iter().all(|hit| hit["id"] != "new"));
    assert_eq!(serving.post("/v1/search", json!({ "query": "a", "exclude": ["d0"] })).0, 400);
    for (change, part) in [
        (json!({ "add": [{ "title": "x" }] }), "there is no \"id\""),
        (json!({ "delete": ["new"], "add": [{ "id": "new" }] }), "stands twice"),
        (json!({ "remove": ["new"] }), "unknown"),
        (json!([]), "a list"),
    ] {
        let (status, refused) = serving.post(documents, change);
        let said = refused["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(status == 400 && said.contains(part), "{part}: {refused}");
    }
    assert_eq!(serving.ok(documents, json!({ "delete": ["d1"] }))["documents"], 15);
    serving.ok("/v1/engines/shop/reload", json!({}));
    assert_eq!(first(&serving, "copper"), "new");

    serving.process.kill().unwrap();
    serving.process.wait().unwrap();
    // Killed in the middle of a line.
    let journal = serving.home.path().join("changes.jsonl");
    fs::OpenOptions::new().append(true).open(&journal).unwrap().write_all(b"{\"delete\":[\"new").unwrap();
    let home = std::mem::replace(&mut serving.home, tempfile::tempdir().unwrap());
    let again = start(home);
    assert_eq!((first(&again, "copper"), first(&again, "blanket")), (json!("new"), json!(null)));
    assert_eq!(again.ok(documents, json!({ "delete": ["d2"] }))["documents"], 14);
    assert_eq!(fs::read_to_string(again.home.path().join("changes.jsonl")).unwrap().lines().count(), 3);
}

/// A page of the server in a browser without a window, once its scripts have run.
fn page(browser: &std::ffi::OsStr, serving: &Serving, path: &str) -> String {
    let profile = serving.home.path().join("profile");
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--dump-dom"]);
    command.arg(format!("--user-data-dir={}", profile.display())).arg(format!("http://{}{path}", serving.address));
    let output = command.stderr(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_page_shows_both_rankings_of_a_query_and_the_curves_of_a_run() {
    let purpose = "Chromium, to look at the page with";
    let Some(browser) = querywright_testing::variable("QUERYWRIGHT_CHROMIUM", purpose) else { return };
    let serving = serve("runs = \"runs\"");
    let run = serving.home.path().join("runs/first");
    fs::create_dir_all(&run).unwrap();
    let row = |step: u32| format!("{{\"step\":{step},\"reward\":0.{step},\"cost/tokens\":7}}\n");
    fs::write(run.join("metrics.jsonl"), row(1) + &row(2) + &row(3)).unwrap();
    fs::write(
        run.join("completions.jsonl"),
        "{\"step\":3,\"query\":\"<b>tea</b>\",\"completion\":\"pot\",\"reward\":1.0}\n",
    )
    .unwrap();

    let searched = page(&browser, &serving, "/?q=steel+kettle+item&rewriter=rm3");
    let list = |name: &str| {
        let from = searched.find(&format!("id=\"l-{name}\"")).unwrap();
        searched[from..from + searched[from..].find("</ol>").unwrap()].to_owned()
    };
    for name in ["original", "rewritten"] {
        assert!(list(name).contains("kettle steel") && list(name).matches("<li>").count() == 10, "{searched}");
    }
    assert!(searched.contains("of them are among those of the query as it came"), "{searched}");

    let training = page(&browser, &serving, "/#training");
    assert_eq!(training.matches("<figure>").count(), 1, "the curves that matter alone: {training}");
    assert!(training.contains("reward from 0.1 at step 1 to 0.3 at step 3"), "{training}");
    assert!(training.contains("&lt;b&gt;tea&lt;/b&gt;") && training.contains("Step 3;"), "{training}");
}

#[test]
fn what_cannot_be_served_is_said_before_anything_is_opened() {
    let home = tempfile::tempdir().unwrap();
    for (text, part) in [
        ("listen = \"0.0.0.0:0\"\n[[engine]]\nname = \"a\"\ndata = \"nowhere\"\n", "there are no keys"),
        ("keys = \"none\"\n[[engine]]\nname = \"a\"\ndata = \"nowhere\"\n", "cannot read none"),
        ("[limits]\nk = 0\n[[engine]]\nname = \"a\"\ndata = \"nowhere\"\n", "limits.k"),
        ("[[engine]]\nname = \"a\"\ndata = \"nowhere\"\n", "nowhere"),
        ("[[engine]]\nname = \"a\"\ndata = \"demo\"\ngrant = [\"log\"]\n", "bm25 is no plugin"),
    ] {
        fs::write(home.path().join("serve.toml"), text).unwrap();
        let output = tiny::run(home.path(), &["serve", "serve.toml"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(part), "{text}: {said}");
    }
}

/// Runs a script of OpenAI's own client against a server.
#[test]
fn the_client_of_openai_understands_every_answer() {
    let purpose = "a Python with the package openai";
    let Some(python) = querywright_testing::variable("QUERYWRIGHT_OPENAI_PYTHON", purpose) else { return };
    let serving = serve("");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/openai_client.py");
    let output = Command::new(python).arg(script).arg(format!("http://{}/v1", serving.address)).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("chat, completions, embeddings, streaming, models, errors: ok"), "{said}");
}
