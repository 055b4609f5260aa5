use querywright_testing::golden;

use super::*;
use crate::catalog::OpenOptions;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

// Invented, in the layouts of Rec-R1's data.
const ITEMS: &str = "{\"item_id\": \"B1\", \"category\": \"Baby Products\", \"metadata\": \"Wool blanket. Keeps warm. \"}\n\
{\"item_id\": \"B2\", \"category\": \"Video_Games\", \"metadata\": \"Headset. \"}\n\
{\"item_id\": \"B3\", \"category\": \"Office\", \"metadata\": \"Stapler. \"}\n";
const TRAIN: &str = "[\n    {\n        \"query\": \"warm in bed\",\n        \"item_id\": [\n            \"B1\",\n            \"B1\"\n        ]\n    },\n    {\"query\": \"hear the enemy\", \"item_id\": [\"B2\"]},\n    {\"query\": \"Bind  Paper\", \"item_id\": [\"B3\"]}\n]";
const ESCI: [(&str, &str); 5] = [
    ("raw/sampled_item_metadata_esci.jsonl", ITEMS),
    ("test_subset/train.json", TRAIN),
    ("test_subset/Baby_Products.json", "[{\"query\": \"baby cover\", \"item_id\": [\"B1\", \"BX\"]}]"),
    ("test_subset/Video_Games.json", "[{\"query\": \"sound of steps\", \"item_id\": [\"B2\"]}]"),
    ("test_subset/Others.json", "[{\"query\": \"bind paper\", \"item_id\": [\"B3\"]}]"),
];

fn ids<'d>(data: &'d Dataset, split: &str) -> Vec<&'d str> {
    data.split(split).map_or(Vec::new(), |queries| queries.into_iter().map(|query| query.id.as_str()).collect())
}

#[test]
fn the_files_of_amazon_c4_are_one_split_and_its_categories() {
    let data = Dataset::open(golden("amazon-c4")).unwrap();
    assert_eq!(
        (data.catalog.len(), data.queries.len(), data.catalog.field_names()),
        (72, 20, &["text".to_owned()][..])
    );
    let quotes = data.queries.iter().find(|query| query.text.contains("The old one broke, \"for good\".")).unwrap();
    assert_eq!(data.qrels.get(&quotes.id).unwrap().relevant(), 1);
    let splits: Vec<&str> = data.split_names().collect();
    assert_eq!((splits, ids(&data, "test").len()), (vec!["baby", "games", "kitchen", "office", "sports", "test"], 20));
    let parts: usize =
        ["baby", "games", "kitchen", "office", "sports"].map(|split| ids(&data, split).len()).iter().sum();
    assert_eq!((parts, data.warnings.len(), data.queries[3].id.as_str()), (20, 0, "3"));
}

#[test]
fn rec_r1s_esci_is_tested_on_its_categories_but_others() {
    let data = Dataset::open(folder(&ESCI).path()).unwrap();
    assert_eq!(ids(&data, "test"), ["Baby_Products.1", "Video_Games.1"]);
    assert_eq!([ids(&data, "baby_products"), ids(&data, "others")], [vec!["Baby_Products.1"], vec!["Others.1"]]);
    let learned = [ids(&data, "train"), ids(&data, "dev")].concat();
    assert_eq!(learned.len(), 3, "what is asked in Others alone is tested nowhere: {learned:?}");
    assert_eq!((ids(&data, "dev").len(), data.qrels.get("train.1").unwrap().relevant()), (1, 1));
    let counts: Vec<_> = data.warnings.iter().map(|w| (w.kind, w.count)).collect();
    assert_eq!(counts, [(WarningKind::AbsentDocuments, 1), (WarningKind::RepeatedJudgements, 1)]);
    let strict = Dataset::open_with(folder(&ESCI).path(), OpenOptions::default().strict(true)).unwrap_err().to_string();
    assert!(strict.contains("Baby_Products.json:1: the document \"BX\" is not in the corpus"), "{strict}");
}

#[test]
fn a_query_of_train_that_is_tested_too_is_left_out() {
    let mut files = ESCI.to_vec();
    files.push(("test_subset/test.json", "[{\"query\": \"bind paper\", \"item_id\": \"B3\", \"qid\": 28}]"));
    let data = Dataset::open(folder(&files).path()).unwrap();
    assert_eq!(ids(&data, "test"), ["test.28"]);
    assert_eq!([ids(&data, "train").len(), ids(&data, "dev").len()], [1, 1]);
    assert!(data.warnings.iter().any(|w| (w.kind, w.count) == (WarningKind::TestedText, 1)));
}

#[test]
fn rows_of_one_query_are_one_query_with_all_its_items() {
    // As the authors of BLaIR write ESCI: one row an item.
    let test = "qid,query,item_id\n0,warm,B1\n1,warm,B2\n2,loud,B2\n";
    let data =
        Dataset::open(folder(&[("sampled_item_metadata_esci.jsonl", ITEMS), ("test.csv", test)]).path()).unwrap();
    assert_eq!(ids(&data, "test"), ["0", "2"]);
    assert_eq!(data.qrels.get("0").unwrap().relevant(), 2);
}

const BEAUTY: &str = "{\"item_id\": \"B1\", \"category\": \"All Beauty\", \"metadata\": \"Rose soap Mild. \", \"title\": \"Rose soap\"}\n\
{\"item_id\": \"B2\", \"category\": null, \"metadata\": \"Pine comb \", \"title\": \"Pine comb\"}\n\
{\"item_id\": \"B3\", \"metadata\": \"Clay mask \", \"title\": \"Clay mask\"}\n";

#[test]
fn rec_r1s_histories_are_a_sequential_task() {
    let row = |user: &str, history: &str, target: &str| {
        format!("[{{\"user_id\": \"{user}\", \"history_list\": [{history}], \"target\": {target}}}]")
    };
    let files = [
        ("All_Beauty_items_filtered.jsonl", BEAUTY.to_owned()),
        ("train.json", row("U1", "\"B1\"", "\"B2\"")),
        ("val.json", row("U2", "\"B1\", \"GONE\", \"B3\"", "\"B2\"")),
        // Reviews in place of ids, as in an older version.
        (
            "test.json",
            row(
                "U1",
                "{\"parent_asin\": \"B1\"}, {\"parent_asin\": \"B2\"}",
                "{\"parent_asin\": \"B3\", \"rating\": 5.0}",
            ),
        ),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let data = Dataset::open(folder(&files).path()).unwrap();
    assert_eq!(
        [ids(&data, "train"), ids(&data, "dev"), ids(&data, "test")],
        [["U1.train1"], ["U2.dev1"], ["U1.test1"]]
    );
    let dev = data.split("dev").unwrap()[0];
    assert_eq!((&dev.history[..], dev.text.as_str()), (&[0, 2][..], "Rose soap\nClay mask"));
    // The title stands once.
    assert_eq!(data.catalog.document(0).text_of_all_fields(), "Rose soap\nMild.");
    assert_eq!(data.qrels.get("U1.test1").unwrap().grade(2), Some(1));
}

#[test]
fn malformed_twins_are_refused_with_file_line_and_remedy() {
    let item = "sampled_item_metadata_1M.jsonl";
    let good = "qid,query,item_id\n0,warm,B1\n";
    for (name, text, words) in [
        (
            item,
            "{\"item_id\": \"B1\"}\n{\"metadata\": \"x\"}\n{\"item_id\": [], \"metadata\": \"x\"}\n",
            "1M.jsonl:1: there is no \"metadata\" (and 2 more lines 2: there is no \"item_id\"; 3: \"item_id\" is a list)",
        ),
        ("test.csv", "qid,query\n0,warm\n", "test.csv:1: there is no column item_id among qid, query"),
        (
            "test.csv",
            "qid,query,item_id\n0,,B1\n1,warm,\n",
            "test.csv:2: the query or the item_id is empty (and 1 more line 3",
        ),
        ("test.csv", "qid,query,item_id\n0,warm,B1\n0,loud,B2\n", "test.csv:3: the query id \"0\" was there before"),
        ("test.csv", "qid,query,item_id\n0,\"warm,B1\n", "test.csv:2: a quote is opened and not closed"),
        (
            "test.json",
            "{\"query\": \"warm\"}",
            "test.json:1: invalid type: map, expected a sequence; the file must be one JSON list",
        ),
        (
            "test.json",
            "[\n{\"query\": \"warm\"},\n{\"item_id\": \"B1\"}, 7\n]",
            "test.json:2: there is no \"item_id\" that is an id or a list of ids (and 2 more lines 3: there is no \"query\" that is a string; 3: found a number)",
        ),
        (
            "test.json",
            "[{\"user_id\": \"U\", \"target\": \"B1\"}]",
            "test.json:1: there is no \"history_list\" that is a list",
        ),
        ("test.json", "[{\"query\": \"warm\", \"item_id\": \"B1\"}", "test.json:1: EOF"),
        ("test.json", " \n", "test.json: the file is empty; expected a JSON list of objects"),
    ] {
        let folder = folder(&[(item, ITEMS), ("test.csv", good)]);
        std::fs::write(folder.path().join(name), text).unwrap();
        let error = Dataset::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(words), "{name}: {error}");
    }
    let error = Dataset::open(folder(&[(item, ITEMS)]).path()).unwrap_err().to_string();
    assert!(error.contains("there are items, and no queries"), "{error}");
    let two = [(item, ITEMS), ("raw/sampled_item_metadata_esci.jsonl", ITEMS), ("test.csv", good)];
    let error = Dataset::open(folder(&two).path()).unwrap_err().to_string();
    assert!(error.contains("there are 2 files of items") && error.contains("items = "), "{error}");
    let named = folder(&two);
    std::fs::write(named.path().join(FILE), format!("items = \"{item}\"")).unwrap();
    assert_eq!(Dataset::open(named.path()).unwrap().catalog.len(), 3);
}
