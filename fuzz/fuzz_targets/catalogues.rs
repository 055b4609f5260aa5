//! Arbitrary bytes as a file of a data set, in each of the layouts that are text; the first byte says which file. Each is read
//! or refused with an error. Seeds: the files that tests/cases/main.rs writes, with a byte before them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use querywright::catalog::{CatalogBuilder, Dataset, OpenOptions, Qrels, Run};

const BEIR: [(&str, &str); 3] = [
    ("corpus.jsonl", "{\"_id\":\"d1\",\"title\":\"steel kettle\",\"text\":\"boils water for tea\"}\n"),
    ("queries.jsonl", "{\"_id\":\"q1\",\"text\":\"boil water\"}\n"),
    ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\n"),
];
const RECBOLE: [(&str, &str); 2] = [
    ("x.inter", "user_id:token\titem_id:token\ttimestamp:float\nu1\ti1\t1\nu1\ti2\t2\nu1\ti1\t3\n"),
    ("x.item", "item_id:token\ttitle:token_seq\ni1\tkettle\ni2\tlantern\n"),
];

const SETTINGS: (&str, &str) = ("querywright.toml", "");
const ITEMS: [(&str, &str); 4] = [
    ("sampled_item_metadata_1M.jsonl", "{\"item_id\":\"B1\",\"category\":\"Baby\",\"metadata\":\"steel kettle\"}\n"),
    ("test.csv", "qid,query,item_id\n0,\"boil, water\",B1\n"),
    ("train.json", "[{\"query\":\"tea\",\"item_id\":[\"B1\"]}]"),
    SETTINGS,
];
const REVIEWS: [(&str, &str); 4] = [
    ("meta_A.jsonl", "{\"parent_asin\":\"B1\",\"title\":\"kettle\"}\n{\"parent_asin\":\"B2\",\"title\":\"pot\"}\n"),
    ("A.train.csv", "user_id,parent_asin,rating,timestamp,history\nu1,B2,5.0,2,B1\n"),
    ("A.csv", "user_id,parent_asin,rating,timestamp\nu1,B1,5.0,1\nu1,B2,5.0,2\n"),
    ("A.jsonl", "{\"user_id\":\"u1\",\"parent_asin\":\"B1\",\"rating\":5.0,\"timestamp\":1}\n"),
];
const MOVIELENS: [(&str, &str); 2] = [("u.item", "1|A|||\n2|B|||\n"), ("u.data", "7\t1\t3\t1\n7\t2\t3\t2\n")];
const COMMAS: [(&str, &str); 2] = [
    ("movies.csv", "movieId,title,genres\n1,A,x|y\n2,\"B, the\",z\n"),
    ("ratings.csv", "userId,movieId,rating,timestamp\n7,1,3.0,1\n7,2,3.5,2\n"),
];

/// A layout, and the place of the file that the byte says.
fn layout(which: usize) -> (&'static [(&'static str, &'static str)], usize) {
    let Some(mut place) = which.checked_sub(8) else {
        return if which <= 5 { (&BEIR, which % BEIR.len()) } else { (&RECBOLE, which % RECBOLE.len()) };
    };
    let layouts: [&[(&str, &str)]; 4] = [&ITEMS, &REVIEWS, &MOVIELENS, &COMMAS];
    place %= layouts.iter().map(|files| files.len()).sum::<usize>();
    for files in layouts {
        if place < files.len() {
            return (files, place);
        }
        place -= files.len();
    }
    (&BEIR, 0)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("qrels")).expect("a folder");
    let which = usize::from(*which);
    if which == 0 {
        let mut builder = CatalogBuilder::new();
        builder.push("d1", [("text", "kettle")]).expect("a document");
        let catalog = builder.finish();
        std::fs::write(at("lines"), bytes).expect("a written file");
        drop((Qrels::read(at("lines"), &catalog), Run::read(at("lines"), &catalog)));
        return;
    }
    let (files, chosen) = layout(which);
    for (index, (name, content)) in files.iter().enumerate() {
        let content = if index == chosen { bytes } else { content.as_bytes() };
        // Where one file goes before another, the chosen one is alone.
        let left_out = files == REVIEWS && index != 0 && index != chosen.max(1);
        if left_out || files == ITEMS && index == 2 && chosen != index {
            continue;
        }
        std::fs::write(at(name), content).expect("a written file");
    }
    // The same files, compressed, are found by what they hold.
    drop(Dataset::open(folder.path()));
    drop(Dataset::open_with(folder.path(), OpenOptions::default().strict(true)));
});
