//! The readers end to end: good folders, bad folders, real folders.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use querywright_types::{Error, Hit, Judgements, Query, Ranking};

const CORPUS: &str = r#"{"id":"a", "title": "Hammer", "text": "drives nails", "year":1999, "tags": ["steel", "tool", 5]}
{"id": "b", "title": "Saw", "price": 12.5, "gone": null, "flag": true, "meta": {"x": 1}, "text": ""}
{"id": 7, "text": "a plane for wood"}
"#;
const QUERIES: &str = r#"{"id": "q1", "text": "nails"}
{"id": "q2", "history": ["b", "a"]}
{"id": "q3", "text": "wood", "history": null}
"#;
const QRELS: &str = "q1\t0\ta\t2\nq1 0 b -1\n\nq2\t0\t7\t1\n";

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    folder
}

fn data_folder() -> Vec<(&'static str, &'static str)> {
    vec![
        ("corpus.jsonl", CORPUS),
        ("queries.jsonl", QUERIES),
        ("qrels.tsv", QRELS),
        ("test.txt", "q2\nq1\n"),
        ("all.txt", "q1\nq2\nq3\n"),
        ("README.txt", "not a list"),
    ]
}

fn ids(queries: Vec<&Query>) -> Vec<&str> {
    queries.into_iter().map(|query| query.id.as_str()).collect()
}

#[test]
fn a_document_gives_back_its_fields_in_order_and_only_those_with_text() {
    let folder = folder(&data_folder());
    let catalog = Dataset::open(folder.path()).unwrap().catalog;
    assert_eq!(catalog.len(), 3);
    let first = catalog.document(0);
    let fields = [("title", "Hammer"), ("text", "drives nails"), ("year", "1999"), ("tags", "steel tool 5")];
    assert_eq!((first.id, first.title()), ("a", "Hammer"));
    assert_eq!(first.fields().collect::<Vec<_>>(), fields);
    assert_eq!(first.text_of_all_fields(), "Hammer\ndrives nails\n1999\nsteel tool 5");
    assert_eq!(catalog.document(1).fields().collect::<Vec<_>>(), [("title", "Saw"), ("price", "12.5"), ("meta", "1")]);
    assert_eq!((catalog.id(2), catalog.document(2).title(), catalog.document(2).field("year")), ("7", "", None));
    assert_eq!((catalog.ordinal("7"), catalog.ordinal("8")), (Some(2), None));
    assert_eq!(catalog.field_names(), ["title", "text", "year", "tags", "price", "meta"]);
    assert_eq!(catalog.documents().map(|document| document.id).collect::<Vec<_>>(), ["a", "b", "7"]);
}

#[test]
fn the_digest_tells_catalogues_apart_and_knows_the_same_one_again() {
    let digest = |documents: &[(&str, &[(&str, &str)])]| {
        let mut builder = CatalogBuilder::new();
        documents.iter().for_each(|(id, fields)| {
            builder.push(id, fields.iter().copied()).unwrap();
        });
        builder.finish().digest().to_owned()
    };
    let base = digest(&[("a", &[("t", "x y")]), ("b", &[])]);
    assert_eq!(base.len(), 64);
    assert_eq!(base, digest(&[("a", &[("t", "x y"), ("empty", "")]), ("b", &[])]));
    for other in [
        digest(&[("b", &[]), ("a", &[("t", "x y")])]),
        digest(&[("a", &[("t", "x"), ("t", "y")]), ("b", &[])]),
        digest(&[("a", &[("u", "x y")]), ("b", &[])]),
        digest(&[("a", &[("t", "x y"), ("b", "b")])]),
        digest(&[("a", &[("t", "x y")])]),
        digest(&[]),
    ] {
        assert_ne!(base, other);
    }
}

#[test]
fn a_refused_document_leaves_the_catalogue_as_it_was() {
    let mut builder = CatalogBuilder::new();
    builder.push("a", [("t", "one")]).unwrap();
    assert!(builder.push("a", [("t", "two"), ("u", "three")]).unwrap_err().to_string().contains("\"a\" was given"));
    assert!(builder.push("", [("t", "two")]).unwrap_err().to_string().contains("id is empty"));
    builder.push("b", [("t", "four")]).unwrap();
    let catalog = builder.finish();
    assert_eq!((catalog.len(), catalog.field_names()), (2, &["t".to_owned()][..]));
    assert_eq!(catalog.document(1).fields().collect::<Vec<_>>(), [("t", "four")]);
}

#[test]
fn memory_stays_within_twice_the_text_held_even_for_short_documents() {
    for documents in [500, 40_000] {
        let mut builder = CatalogBuilder::new();
        for i in 0..documents {
            let title = format!("a product with a short title {i}");
            builder.push(&format!("id{i}"), [("title", title.as_str()), ("brand", "Brand"), ("year", "2020")]).unwrap();
        }
        let catalog = builder.finish();
        let factor = catalog.memory_bytes() as f64 / catalog.text_bytes() as f64;
        assert!(factor < 2.0, "{factor} for {documents} documents");
    }
}

#[test]
fn a_data_folder_opens_with_its_queries_judgements_and_lists() {
    let folder = folder(&data_folder());
    let data = Dataset::open(folder.path()).unwrap();
    assert_eq!(data.name, folder.path().file_name().unwrap().to_str().unwrap());
    assert_eq!(data.queries[1], Query::new("q2", "").with_history([1, 0]));
    assert_eq!(data.qrels.get("q1").unwrap().iter().collect::<Vec<_>>(), [(0, 2), (1, -1)]);
    assert_eq!((data.qrels.len(), data.qrels.judgements()), (2, 3));
    assert_eq!(data.qrels.get("q3"), None);
    assert_eq!(ids(data.split("test").unwrap()), ["q2", "q1"]);
    assert_eq!(data.split_names().collect::<Vec<_>>(), ["all", "test"]);
    let error = data.split("tets").unwrap_err().to_string();
    assert!(error.contains("did you mean test?") && error.contains("all, test"), "{error}");
}

#[test]
fn byte_order_marks_and_windows_line_ends_do_no_harm() {
    let windows = |text: &str| format!("\u{feff}{}", text.replace('\n', "\r\n"));
    let files = data_folder();
    let converted: Vec<(&str, String)> = files.iter().map(|(name, text)| (*name, windows(text))).collect();
    let converted: Vec<(&str, &str)> = converted.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let (plain, converted) = (folder(&files), folder(&converted));
    let (plain, converted) = (Dataset::open(plain.path()).unwrap(), Dataset::open(converted.path()).unwrap());
    assert_eq!(plain.catalog.digest(), converted.catalog.digest());
    assert_eq!((plain.queries, plain.qrels), (converted.queries, converted.qrels));
}

const BEIR: [(&str, &str); 4] = [
    (
        "corpus.jsonl",
        "{\"_id\": \"d1\", \"title\": \"T\", \"text\": \"x\", \"metadata\": {}}\n{\"_id\": \"d2\", \"text\": \"y\"}\n",
    ),
    ("queries.jsonl", "{\"_id\": \"1\", \"text\": \"one\", \"metadata\": {}}\n{\"_id\": \"2\", \"text\": \"two\"}\n"),
    ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n2\td1\t1\n2\td2\t0\n"),
    ("qrels/train.tsv", "query-id\tcorpus-id\tscore\n1\td2\t2\n"),
];

#[test]
fn a_beir_folder_opens_with_a_split_for_each_file_of_judgements() {
    let folder = folder(&BEIR);
    let data = Dataset::open(folder.path()).unwrap();
    assert_eq!((data.catalog.len(), data.queries.len(), data.qrels.judgements()), (2, 2, 3));
    assert_eq!(ids(data.split("train").unwrap()), ["1"]);
    assert_eq!(ids(data.split("test").unwrap()), ["2"]);
    assert_eq!(data.qrels.get("2").unwrap().iter().collect::<Vec<_>>(), [(0, 1), (1, 0)]);
}

#[test]
fn recbole_interactions_become_a_leave_one_out_task_over_time() {
    // User u sees items 0..14, written in the wrong order; user v has two events at one time, user w a single one.
    let mut inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n".to_owned();
    (0..15).rev().for_each(|i| inter += &format!("u\ti{i}\t3\t{}\n", 1000 + i));
    inter += "v\ti3\t1\t5\nv\ti2\t1\t5\nw\ti1\t1\t1\n";
    let mut item = "item_id:token\trelease_year:token\tmovie_title:token_seq\n".to_owned();
    (0..15).for_each(|i| item += &format!("i{i}\t19{i:02}\tTitle {i}\n"));
    let folder = folder(&[("x.inter", &inter), ("x.item", &item)]);
    let data = Dataset::open(folder.path()).unwrap();
    assert_eq!(data.catalog.document(3).fields().collect::<Vec<_>>(), [("release_year", "1903"), ("title", "Title 3")]);
    assert_eq!(ids(data.split("test").unwrap()), ["u.test", "v.test"]);
    assert_eq!(ids(data.split("dev").unwrap()), ["u.dev"]);
    assert_eq!(data.split("train").unwrap().len(), 12);
    let test = data.split("test").unwrap();
    assert_eq!(test[0].history, (4..14).collect::<Vec<_>>());
    assert_eq!(test[0].text, "Title 9\nTitle 10\nTitle 11\nTitle 12\nTitle 13");
    assert_eq!(data.qrels.get("u.test").unwrap().iter().collect::<Vec<_>>(), [(14, 1)]);
    assert_eq!((test[1].history.as_slice(), data.qrels.get("v.test").unwrap().grade(2)), (&[3][..], Some(1)));
    let first = &data.split("train").unwrap()[0];
    assert_eq!((first.id.as_str(), first.history.as_slice(), first.text.as_str()), ("u.train1", &[0][..], "Title 0"));
}

/// Takes a good folder, replaces one file (or removes it) and expects a sentence that holds all the words.
fn refused(good: &[(&str, &str)], name: &str, content: Option<&[u8]>, words: &[&str]) {
    let folder = folder(good);
    Dataset::open(folder.path()).unwrap();
    match content {
        Some(content) => std::fs::write(folder.path().join(name), content).unwrap(),
        None => std::fs::remove_file(folder.path().join(name)).unwrap(),
    }
    let error = Dataset::open(folder.path()).unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "{name}: \"{error}\" should say \"{word}\"");
    }
}

#[test]
fn bad_content_is_refused_with_file_line_and_remedy() {
    let table: &[(&str, &[u8], &[&str])] = &[
        ("corpus.jsonl", b"", &["corpus.jsonl: the file is empty", "one document a line"]),
        ("corpus.jsonl", b"\n \n", &["corpus.jsonl: the file is empty"]),
        (
            "corpus.jsonl",
            b"{\"id\": \"a\"}\n{\"id\": \"a\"}",
            &["corpus.jsonl:2", "\"a\" was given to document 1", "own"],
        ),
        (
            "corpus.jsonl",
            b"{\"id\": \"a\"}\n\n{\"id\": ",
            &["corpus.jsonl:3", "not JSON at character", "one JSON object"],
        ),
        ("corpus.jsonl", b"[1]\n", &["corpus.jsonl:1", "found a list", "one JSON object"]),
        ("corpus.jsonl", b"{\"title\": \"x\"}\n", &["corpus.jsonl:1", "no \"id\""]),
        ("corpus.jsonl", b"{\"id\": [1]}\n", &["corpus.jsonl:1", "\"id\" is a list", "a string or a whole number"]),
        ("corpus.jsonl", b"{\"id\": \"\"}\n", &["corpus.jsonl:1", "\"id\" is empty"]),
        ("corpus.jsonl", b"{\"id\": \"a\"}\n{\"id\": \"\xe9\"}", &["corpus.jsonl:2", "byte 9", "not UTF-8", "iconv"]),
        ("queries.jsonl", b"", &["queries.jsonl: the file is empty", "one query a line"]),
        ("queries.jsonl", b"{\"id\": \"q1\"}\n", &["queries.jsonl:1", "neither text nor history"]),
        ("queries.jsonl", b"{\"id\": \"q1\", \"text\": 3}\n", &["queries.jsonl:1", "\"text\" is a number"]),
        (
            "queries.jsonl",
            b"{\"id\": \"q1\", \"text\": \"x\"}\n{\"id\": \"q1\", \"text\": \"x\"}",
            &["queries.jsonl:2", "\"q1\" was there before"],
        ),
        (
            "queries.jsonl",
            b"{\"id\": \"q1\", \"history\": [\"zz\"]}",
            &["queries.jsonl:1", "item \"zz\"", "not in the corpus"],
        ),
        ("queries.jsonl", b"{\"id\": \"q1\", \"history\": \"a\"}", &["queries.jsonl:1", "list of item ids"]),
        ("queries.jsonl", b"{\"id\": \"q1\", \"history\": [null]}", &["queries.jsonl:1", "holds null"]),
        ("qrels.tsv", b"", &["qrels.tsv: the file is empty", "query id, 0, document id, grade"]),
        ("qrels.tsv", b"q9 0 a 1\n", &["qrels.tsv:1", "query \"q9\" is not among the queries"]),
        ("qrels.tsv", b"q1 0 a 1.5\n", &["qrels.tsv:1", "grade is \"1.5\"", "whole number"]),
        ("qrels.tsv", b"q1 0 a good\n", &["qrels.tsv:1", "grade is \"good\""]),
        ("qrels.tsv", b"q1 0 a 99999999999\n", &["qrels.tsv:1", "grade is"]),
        ("qrels.tsv", b"q1 a 1\n", &["qrels.tsv:1", "found 3 columns", "query id, 0, document id, grade"]),
        ("qrels.tsv", b"q1 0 a 1\nq1 0 a 0\n", &["qrels.tsv:2", "judged 1 for query \"q1\" before", "keep one"]),
        (
            "qrels.tsv",
            b"q1 0 a 1\nq9 0 a 1\nq1 a 1\nq1 0 b good\n",
            &[
                "qrels.tsv:2: the query \"q9\" is not among the queries (and 2 more lines 3: found 3 columns",
                "; 4: the grade",
            ],
        ),
        ("qrels.tsv", b"q1 0 \xff 1\n", &["qrels.tsv:1", "not UTF-8"]),
        (
            "qrels.tsv",
            b"q\x001\x00 \x000\x00",
            &["qrels.tsv: the file is text in UTF-16LE", "iconv -f UTF-16LE -t UTF-8"],
        ),
        (
            "corpus.jsonl",
            b"\xff\xfe{\0\"\0",
            &["corpus.jsonl: the file is text in UTF-16LE", "iconv -f UTF-16 -t UTF-8"],
        ),
        ("corpus.jsonl", b"\x1f\x8b\x08\0\0\0\0\0\0\x03abc", &["corpus.jsonl: the gzip file is cut off or damaged"]),
        ("test.txt", b"", &["test.txt: the file is empty", "one query id a line"]),
        ("test.txt", b"q1\nq8\n", &["test.txt:2", "\"q8\" is not in queries.jsonl"]),
        ("test.txt", b"q1\nq1\n", &["test.txt:2", "listed before"]),
        ("train.txt", b"q3\nq1\n", &["\"q1\" is in both train and test", "must not share"]),
    ];
    for (name, content, words) in table {
        refused(&data_folder(), name, Some(content), words);
    }
    refused(&data_folder(), "queries.jsonl", None, &["there are no queries", "queries.jsonl", "one query a line"]);
    refused(&data_folder(), "qrels.tsv", None, &["no judgements", "qrels/test.tsv"]);
    refused(&data_folder(), "corpus.jsonl", None, &["neither corpus.jsonl nor a .inter file", "RecBole folder holds"]);
    let error = Dataset::open("/nowhere/at/all").unwrap_err().to_string();
    assert!(error.contains("/nowhere/at/all") && error.contains("check the path"), "{error}");
}

#[test]
fn bad_beir_judgements_are_refused_with_file_line_and_remedy() {
    let table: &[(&[u8], &[&str])] = &[
        (b"query\tdoc\tgrade\n2\td1\t1\n", &["test.tsv:1", "\"query\" is not among", "add it"]),
        (b"query-id\tcorpus-id\tscore\n2 0 d1 1\n", &["test.tsv:2", "found 1 columns", "query-id, corpus-id, score"]),
        (b"query-id\tcorpus-id\tscore\n2\td1\thigh\n", &["test.tsv:2", "grade is \"high\""]),
        (b"query-id\tcorpus-id\tscore\n1\td1\t1\n", &["train.tsv", "\"1\" is judged in another file"]),
    ];
    for (content, words) in table {
        refused(&BEIR, "qrels/test.tsv", Some(content), words);
    }
}

#[test]
fn bad_recbole_files_are_refused_with_file_line_and_remedy() {
    let good = [
        ("x.inter", "user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1\nu\tb\t2\n"),
        ("x.item", "item_id:token\ttitle:token_seq\na\tAlpha\nb\tBeta\n"),
    ];
    let table: &[(&str, &[u8], &[&str])] = &[
        ("x.inter", b"", &["x.inter: the file is empty", "a header such as"]),
        ("x.inter", b"user_id\titem_id\n", &["x.inter:1", "\"user_id\" has no type", "user_id:token"]),
        (
            "x.inter",
            b"user:token\titem_id:token\n",
            &["x.inter:1", "no column user_id among user, item_id", "user_id:token"],
        ),
        ("x.inter", b"user_id:token\titem_id:token\nu\ta\tb\n", &["x.inter:2", "found 3 columns", "expected 2"]),
        ("x.inter", b"user_id:token\titem_id:token\nu\tz\n", &["x.inter:2", "item \"z\" is not in the .item file"]),
        ("x.inter", b"user_id:token\titem_id:token\nu\ta\n", &["x.inter: no user has more than one"]),
        (
            "x.inter",
            b"user_id:token\titem_id:token\ttimestamp:float\nu\ta\tnoon\n",
            &["x.inter:2", "timestamp is \"noon\"", "a number"],
        ),
        ("x.item", b"item_id:token\ttitle:token_seq\na\tA\na\tB\n", &["x.item:3", "\"a\" was given to document 1"]),
        ("x.item", b"item_id:token\ttitle:token_seq\n\tA\n", &["x.item:2", "id is empty"]),
        ("x.item", b"item_id:token\tyear:float\na\t1\n", &["x.item:1", "no column among item_id, year names the item"]),
        ("x.item", b"item_id:token\titem_id:token\na\t1\n", &["x.item:1", "\"item_id\" stands twice"]),
        ("y.inter", b"", &["there are 2 .inter files", "keep one"]),
    ];
    for (name, content, words) in table {
        refused(&good, name, Some(content), words);
    }
    refused(&good, "x.item", None, &["x.item: the file is missing", "item_id:token, title:token_seq"]);
}

#[test]
fn broken_bytes_anywhere_never_bring_a_reader_down() {
    let recbole = [
        ("x.inter", "user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1\nu\tb\t2\n"),
        ("x.item", "item_id:token\ttitle:token_seq\na\tAlpha\nb\tBeta\n"),
    ];
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for good in [&data_folder()[..], &BEIR, &recbole] {
        let folder = folder(good);
        let mut refusals = 0;
        for _ in 0..300 {
            let (name, content) = good[random.random_range(0..good.len())];
            let mut bytes = content.as_bytes().to_vec();
            for _ in 0..random.random_range(1..4) {
                let place = random.random_range(0..bytes.len());
                match random.random_range(0..3) {
                    0 => bytes[place] = random.random(),
                    1 => bytes.truncate(place.max(1)),
                    _ => bytes.insert(place, *b"\t\n\"{}0\xff".get(random.random_range(0..7)).unwrap()),
                }
            }
            std::fs::write(folder.path().join(name), bytes).unwrap();
            if let Err(error) = Dataset::open(folder.path()) {
                assert!(matches!(error, Error::Data { .. }), "{error}");
                refusals += 1;
            }
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        assert!(refusals > 100, "{refusals}");
    }
}

#[test]
fn parts_that_do_not_fit_together_are_refused() {
    let catalog = || {
        let mut builder = CatalogBuilder::new();
        builder.push("a", [("t", "x")]).unwrap();
        builder.finish()
    };
    let query = |id: &str, history: &[u32]| Query::new(id, "x").with_history(history.to_vec());
    let judged = |query: &str, doc: u32| Qrels::from_iter([(query, Judgements::new(vec![(doc, 1)]))]);
    let split = |name: &str, id: &str| (name.to_owned(), vec![id.to_owned()]);
    let open = |queries, qrels, splits: Vec<_>| Dataset::from_parts("made", catalog(), queries, qrels, splits);
    for (error, words) in [
        (open(vec![query("q", &[]), query("q", &[])], Qrels::default(), vec![]), "\"q\" stands twice"),
        (open(vec![query("q", &[1])], Qrels::default(), vec![]), "holds item 1"),
        (open(vec![query("q", &[])], judged("r", 0), vec![]), "judgements for the query \"r\""),
        (open(vec![query("q", &[])], judged("q", 1), vec![]), "document 1 is judged"),
        (open(vec![query("q", &[])], judged("q", 0), vec![split("test", "r")]), "test lists the query \"r\""),
        (open(vec![query("q", &[])], judged("q", 0), vec![split("test", "q"), split("dev", "q")]), "both dev and test"),
    ] {
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("made: ") && error.contains(words), "{error}");
    }
    let splits = vec![split("test", "q"), ("dev".to_owned(), vec![])];
    let data = open(vec![query("q", &[])], judged("q", 0), splits).unwrap();
    assert_eq!(ids(data.split("test").unwrap()), ["q"]);
    assert!(data.split("dev").unwrap_err().to_string().contains("\"dev\" of made is empty"));
    let bare = open(vec![], Qrels::default(), vec![]).unwrap();
    assert!(bare.split("test").unwrap_err().to_string().contains("write one query id a line"));
}

fn letters(count: usize) -> Catalog {
    let mut builder = CatalogBuilder::new();
    for i in 0..count {
        builder.push(&format!("d{i}"), [("t", "x")]).unwrap();
    }
    builder.finish()
}

#[test]
fn judgements_survive_being_written_and_read() {
    let catalog = letters(50);
    let grades = |q: i32| (0..50).filter(|d| (d + q) % 3 == 0).map(|d| (d as u32, q - 2)).collect();
    let qrels: Qrels = (0..5).map(|q| (format!("q{q}"), Judgements::new(grades(q)))).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    qrels.write(file.path(), &catalog).unwrap();
    assert_eq!(Qrels::read(file.path(), &catalog).unwrap(), qrels);
}

#[test]
fn a_run_read_back_has_the_scores_and_the_order_that_were_written_ties_included() {
    let catalog = letters(200);
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let mut run = Run::new("bm25");
    for q in 0..40 {
        let docs = rand::seq::index::sample(&mut random, 200, 30);
        let score = |random: &mut ChaCha8Rng| match q % 4 {
            0 => f32::from_bits(random.random::<u32>() & 0x7eff_ffff),
            1 => random.random_range(0..4) as f32 / 3.0,
            2 => [0.0, -0.0][random.random_range(0..2)],
            _ => -random.random::<f32>(),
        };
        let hits = docs.iter().map(|doc| Hit { doc: doc as u32, score: score(&mut random) }).collect();
        run.rankings.insert(format!("q{q}"), Ranking { hits });
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    run.write(file.path(), &catalog).unwrap();
    let back = Run::read(file.path(), &catalog).unwrap();
    assert_eq!(back.tag, "bm25");
    for (query, ranking) in &run.rankings {
        let read = &back.rankings[query];
        // What a stable sort by score, ties by id descending, makes of it: written here without the code under test.
        let mut expected: Vec<(f32, &str)> = ranking.hits.iter().map(|h| (h.score, catalog.id(h.doc))).collect();
        expected.sort_by(|a, b| b.partial_cmp(a).unwrap());
        assert_eq!(read.hits.iter().map(|h| (h.score, catalog.id(h.doc))).collect::<Vec<_>>(), expected);
    }
    let text = std::fs::read_to_string(file.path()).unwrap();
    let mut rank = 0;
    for line in text.lines() {
        let columns: Vec<&str> = line.split(' ').collect();
        rank = if rank == 30 { 1 } else { rank + 1 };
        assert_eq!((columns.len(), columns[1], columns[3], columns[5]), (6, "Q0", rank.to_string().as_str(), "bm25"));
    }
}

#[test]
fn a_run_that_cannot_be_read_or_written_says_why() {
    let catalog = letters(3);
    let file = tempfile::NamedTempFile::new().unwrap();
    for (content, words) in [
        ("", "the file is empty"),
        ("q Q0 d1 1 2.0\n", ":1: found \"q Q0 d1 1 2.0\"; expected one hit a line"),
        ("q Q0 d9 1 2.0 t\n", ":1: the document \"d9\" is not in the corpus"),
        ("q Q0 d1 1 high t\n", ":1: the score is \"high\""),
        ("q Q0 d1 1 nan t\n", ":1: the score is \"nan\""),
        ("q Q0 d1 1 1e99 t\n", ":1: the score is \"1e99\""),
        ("q Q0 d1 1 2.0 t\nq Q0 d1 2 1.0 t\n", ":2: document \"d1\" stands twice"),
    ] {
        std::fs::write(file.path(), content).unwrap();
        let error = Run::read(file.path(), &catalog).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let write = |tag: &str, query: &str, score: f32| {
        let mut run = Run::new(tag);
        run.rankings.insert(query.to_owned(), Ranking { hits: vec![Hit { doc: 0, score }] });
        run.write(file.path(), &catalog)
    };
    write("t", "q", 1.0).unwrap();
    assert!(write("my run", "q", 1.0).unwrap_err().to_string().contains("\"my run\" cannot be written"));
    assert!(write("t", "q 1", 1.0).unwrap_err().to_string().contains("without white space"));
    assert!(write("t", "q", f32::NAN).unwrap_err().to_string().contains("must be finite"));
}

#[test]
fn the_real_data_sets_hold_what_their_description_says_in_less_than_twice_their_text() {
    let Some(path) = querywright_testing::data("") else { return };
    for (name, documents, queries, judgements, splits) in [
        ("msrd-movies", 9_750, 16_279, 384_381, &[("train", 11_650), ("dev", 1_638), ("test", 2_991)][..]),
        (
            "amazon-industrial",
            3_686,
            18_967,
            18_967,
            &[("train", 9_902), ("dev", 4_532), ("test", 4_533), ("test1000", 1_000)],
        ),
        ("semanlink-tags", 7_239, 1_594, 13_025, &[("train", 777), ("dev", 233), ("test", 584)]),
        ("semanlink-arxiv", 432, 313, 1_001, &[("train", 155), ("dev", 43), ("test", 115)]),
        ("scifact", 5_183, 1_109, 1_258, &[("train", 727), ("dev", 82), ("test", 300)]),
        ("vaswani-npl", 11_429, 93, 2_083, &[("train", 50), ("dev", 12), ("test", 31), ("all", 93)]),
        ("cranfield", 1_400, 225, 1_837, &[("train", 114), ("dev", 34), ("test", 77), ("all", 225)]),
    ] {
        let data = Dataset::open(path.join(name)).unwrap();
        assert_eq!(data.name, name);
        assert_eq!((data.catalog.len(), data.queries.len()), (documents, queries), "{name}");
        assert_eq!(data.qrels.judgements(), judgements, "{name}");
        assert_eq!(data.split_names().len(), splits.len(), "{name}");
        for (split, size) in splits {
            assert_eq!(data.split(split).unwrap().len(), *size, "{name} {split}");
        }
        let factor = data.catalog.memory_bytes() as f64 / data.catalog.text_bytes() as f64;
        println!("{name}: {} bytes of text, {factor:.3} times that in memory", data.catalog.text_bytes());
        assert!(factor < 2.0, "{name}: {factor}");
    }
}
