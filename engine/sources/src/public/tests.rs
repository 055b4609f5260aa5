use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use querywright_testing::fake_server::{FakeServer, Response};
use querywright_types::{Progress, Result};

use crate::tests::{NOBODY, OFFLINE, relisted, repository, sources};
use crate::{Kind, PullOptions, Sources, cache};

/// The digest of some bytes.
fn sha256_of(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    cache::sha256(file.path()).unwrap()
}

fn zipped(members: &[(&str, &str)]) -> Vec<u8> {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, text) in members {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn told(sources: &Sources, name: &str) -> (Result<PathBuf>, String) {
    let said = RefCell::new(String::new());
    let listen = |progress: Progress<'_>| *said.borrow_mut() += &format!("{}\n", progress.stage);
    let pulled = sources.pull(Kind::Data, name, &PullOptions { offline: false, observer: Some(&listen) });
    (pulled, said.into_inner())
}

#[test]
fn an_archive_without_a_published_digest_is_recorded_and_one_with_another_digest_is_refused() {
    let archive =
        zipped(&[("ml-latest-small/ratings.csv", "userId\n"), ("ml-latest-small/links.csv", "x"), ("other/evil", "x")]);
    let path = |name: &str| format!("/files.grouplens.org/datasets/movielens/{name}.zip");
    let answers = ["ml-latest-small", "ml-1m"].map(|name| (path(name), Response::ok(archive.clone())));
    let server = FakeServer::start(answers.into_iter().collect());
    let folder = tempfile::tempdir().unwrap();
    let sources = sources(folder.path(), &server.address, "no-such-client");
    let (pulled, said) = told(&sources, "ml-latest-small");
    let pulled = pulled.unwrap();
    assert_eq!(pulled, folder.path().join("cache/data/public-1/ml-latest-small"));
    assert_eq!(fs::read_to_string(pulled.join("ratings.csv")).unwrap(), "userId\n");
    assert!(pulled.join("links.csv").exists() && !pulled.join("evil").exists());
    let digest = sha256_of(&archive);
    assert!(said.contains("fetching ml-latest-small, 1.0 MB") && said.contains(&digest), "{said}");
    let note = fs::read_to_string(pulled.join("SOURCE.md")).unwrap();
    assert!(note.contains(&digest) && note.contains("recorded at this download"), "{note}");
    // What is in the cache needs no network.
    assert_eq!(
        Sources { mirror: Some(NOBODY.to_owned()), ..sources }.pull(Kind::Data, "ml-latest-small", &OFFLINE).unwrap(),
        pulled
    );

    let sources = crate::tests::sources(folder.path(), &server.address, "no-such-client");
    let error = sources.pull(Kind::Data, "ml-1m", &PullOptions::default()).unwrap_err().to_string();
    assert!(
        error.contains("has the md5") && error.contains("c4d9eecfca2ab87c1945afe126590906 is the right one"),
        "{error}"
    );
    assert!(!folder.path().join("cache/data/ml-1m").exists());
    assert_eq!(fs::read_dir(folder.path().join("cache/.staging")).unwrap().count(), 0);
}

#[test]
fn the_parts_of_amazon_c4_come_from_the_hub_held_to_its_listing() {
    let files: [(&str, &[u8]); 3] =
        [("test.csv", b"qid,query,item_id\n"), ("sampled_item_metadata_1M.jsonl", b"{}\n"), ("train.py", b"unwanted")];
    let of_the_hub = |altered: bool| {
        let answers = repository(&files).into_iter().map(|(path, mut answer)| {
            if altered && path.ends_with(".csv") {
                answer.body = b"qid,query,item_ID\n".to_vec();
            }
            let path = path.replace("/api/models/o/n/", "/api/datasets/McAuley-Lab/Amazon-C4/");
            (path.replace("/o/n/", "/datasets/McAuley-Lab/Amazon-C4/"), answer)
        });
        FakeServer::start(answers.collect())
    };
    let folder = tempfile::tempdir().unwrap();
    let server = of_the_hub(true);
    let error = sources(folder.path(), &server.address, "none").pull(Kind::Data, "amazon-c4", &PullOptions::default());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("test.csv: has the sha256") && error.contains("is the right one"), "{error}");
    assert!(!folder.path().join("cache/data").exists());
    let server = of_the_hub(false);
    let (pulled, said) = told(&sources(folder.path(), &server.address, "none"), "amazon-c4");
    let pulled = pulled.unwrap();
    assert_eq!(fs::read(pulled.join("test.csv")).unwrap(), files[0].1);
    assert_eq!(fs::read_dir(&pulled).unwrap().count(), 3, "two files and the note");
    assert!(said.contains("fetching amazon-c4, 0.0 MB"), "{said}");
}

#[test]
fn categories_of_amazon_reviews_are_named_and_what_is_written_wrongly_is_refused() {
    let part = |path: &str| {
        let body = path.as_bytes().to_vec();
        let listed = serde_json::json!({"rfilename": path, "size": body.len(), "lfs": {"sha256": sha256_of(&body)}});
        (listed, (format!("/datasets/McAuley-Lab/Amazon-Reviews-2023/resolve/c0ffee/{path}"), Response::ok(body)))
    };
    let paths = [
        "raw/meta_categories/meta_All_Beauty.jsonl",
        "benchmark/5core/last_out/All_Beauty.train.csv",
        "benchmark/5core/last_out/All_Beauty.valid.csv",
        "benchmark/5core/last_out/All_Beauty.test.csv",
    ];
    let (listed, mut answers): (Vec<_>, HashMap<_, _>) = paths.map(part).into_iter().unzip();
    let listing = serde_json::json!({"sha": "c0ffee", "siblings": listed});
    let address = "/api/datasets/McAuley-Lab/Amazon-Reviews-2023/revision/main?blobs=true";
    answers.insert(address.to_owned(), Response::ok(listing.to_string()));
    let server = FakeServer::start(answers);
    let folder = tempfile::tempdir().unwrap();
    let sources = sources(folder.path(), &server.address, "none");
    let pull = |name: &str| sources.pull(Kind::Data, name, &PullOptions::default());
    let pulled = pull("amazon-reviews-2023:All_Beauty:5core/last_out").unwrap();
    assert!(
        ["meta_All_Beauty.jsonl", "All_Beauty.train.csv", "All_Beauty.test.csv"]
            .iter()
            .all(|n| pulled.join(n).is_file())
    );
    let error = pull("amazon-reviews-2023:All_Beauty").unwrap_err().to_string();
    assert!(error.contains("has no file benchmark/0core/timestamp_w_his/All_Beauty.train.csv"), "{error}");
    for (name, words) in [
        ("amazon-reviews-2023", "no category is named"),
        ("amazon-reviews-2023:../x", "no category is named"),
        ("amazon-reviews-2023:Books:9core/last_out", "there is no 9core/last_out"),
    ] {
        let error = pull(name).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("amazon-reviews-2023:All_Beauty"), "{error}");
    }
    assert!(pull("beir-scifat").unwrap_err().to_string().contains("did you mean beir-scifact?"));
    let error = sources.pull(Kind::Model, "esci", &PullOptions::default()).unwrap_err().to_string();
    assert!(error.contains("esci: is a data set, not a model"), "{error}");
}

#[test]
fn a_collection_is_not_fetched_as_a_whole() {
    let mut answers = repository(&[("a.jsonl", b"{}")]);
    relisted(&mut answers, "main", |listing| listing["siblings"][0]["size"] = 60_000_000_000_u64.into());
    let answers = answers.into_iter().map(|(path, answer)| (path.replace("/api/models/", "/api/datasets/"), answer));
    let server = FakeServer::start(answers.collect());
    let folder = tempfile::tempdir().unwrap();
    let error = sources(folder.path(), &server.address, "none").pull(Kind::Data, "hf:o/n", &PullOptions::default());
    assert!(error.unwrap_err().to_string().contains("it holds 60 GB of data"));
}
