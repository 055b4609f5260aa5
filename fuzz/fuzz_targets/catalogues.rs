//! Arbitrary bytes as a file of a data set, in each of the layouts; the first byte says which file. Each is read or refused
//! with an error. Seeds: the files that tests/cases/main.rs writes, with a byte before them.
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

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("qrels")).expect("a folder");
    let which = usize::from(*which);
    if which.is_multiple_of(8) {
        let mut builder = CatalogBuilder::new();
        builder.push("d1", [("text", "kettle")]).expect("a document");
        let catalog = builder.finish();
        std::fs::write(at("lines"), bytes).expect("a written file");
        drop((Qrels::read(at("lines"), &catalog), Run::read(at("lines"), &catalog)));
        return;
    }
    let files: &[(&str, &str)] = if which % 8 <= 5 { &BEIR } else { &RECBOLE };
    for (index, (name, content)) in files.iter().enumerate() {
        let content = if index == which % files.len() { bytes } else { content.as_bytes() };
        std::fs::write(at(name), content).expect("a written file");
    }
    // The same files, compressed, are found by what they hold.
    drop(Dataset::open(folder.path()));
    drop(Dataset::open_with(folder.path(), OpenOptions::default().strict(true)));
});
