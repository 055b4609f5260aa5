//! Data folders and BEIR's layout: `corpus.jsonl`, `queries.jsonl`, judgements and splits.

use std::collections::HashSet;
use std::path::Path;

use super::dataset::Dataset;
use super::lines::{Lines, NAMED, quoted};
use super::options::OpenOptions;
use super::paths::{files, find, name_of, stem};
use super::qrels::{self, Layout, Qrels};
use super::records;
use super::warning::Warnings;
use querywright_types::{Error, Result};

/// Opens a folder that holds `corpus.jsonl`.
pub(super) fn open(path: &Path, options: OpenOptions) -> Result<Dataset> {
    let mut warnings = Warnings::default();
    let mut file = |name: &str| find(path, name, &mut warnings).unwrap_or_else(|| path.join(name));
    let (corpus, queries) = (file("corpus.jsonl"), file("queries.jsonl"));
    if !queries.exists() {
        let remedy = "write one query a line, such as {\"id\": \"q1\", \"text\": \"…\"}";
        return Err(Error::data(path, None, "there are no queries: no queries.jsonl", remedy));
    }
    let catalog = records::read_corpus(&corpus, &mut warnings)?;
    let queries = records::read_queries(&queries, &catalog)?;
    let known: HashSet<&str> = queries.iter().map(|query| query.id.as_str()).collect();
    let read = |file: &Path, layout| qrels::read(file, layout, &catalog, |id| known.contains(id), options.strict);
    let (qrels, splits) = if let Some(file) = find(path, "qrels.tsv", &mut warnings) {
        (read(&file, Layout::Trec)?.0, read_lists(path, &known, &mut warnings)?)
    } else if path.join("qrels").is_dir() {
        let mut all = Qrels::default();
        let mut splits = Vec::new();
        for file in files(&path.join("qrels"), "tsv", &mut warnings)? {
            let (qrels, order) = read(&file, Layout::Beir)?;
            if let Some(query) = all.append(qrels) {
                return Err(Error::data(
                    &file,
                    None,
                    format!("the query {} is judged in another file of the folder too", quoted(&query)),
                    "a query belongs to one split: keep its judgements in one file",
                ));
            }
            splits.push((stem(&file), order));
        }
        (all, splits)
    } else {
        return Err(Error::data(
            path,
            None,
            "there are no judgements: neither qrels.tsv nor a folder qrels",
            "write qrels.tsv (query id, 0, document id, grade) or, as BEIR does, qrels/test.tsv",
        ));
    };
    drop(known);
    let made = Dataset::from_parts(name_of(path), catalog, queries, qrels, splits).map_err(|e| match e {
        Error::Argument { found, remedy, .. } => Error::data(path, None, found, remedy),
        other => other,
    })?;
    Ok(made.with_warnings(path, warnings.into_vec()))
}

/// Every `NAME.txt` in lower case is a list of query ids; README.txt and LICENSE.txt are not.
fn read_lists(path: &Path, known: &HashSet<&str>, warnings: &mut Warnings) -> Result<Vec<(String, Vec<String>)>> {
    let mut splits = Vec::new();
    for file in files(path, "txt", warnings)?.into_iter().filter(|file| !stem(file).contains(char::is_uppercase)) {
        let mut ids = Vec::new();
        let mut listed = HashSet::new();
        Lines::open(&file, "one query id a line")?.each(NAMED, |line| {
            let id = line.text.trim();
            let Some(id) = known.get(id).copied() else {
                return Err(line.refuse(
                    format!("the query {} is not in queries.jsonl", quoted(id)),
                    "a split list holds one query id a line: add the query, or remove the line (name a file that is \
                     no list in capital letters, such as NOTES.txt)",
                ));
            };
            if !listed.insert(id) {
                return Err(line.refuse(format!("the query {} was listed before", quoted(id)), "remove the line"));
            }
            ids.push(id.to_owned());
            Ok(())
        })?;
        splits.push((stem(&file), ids));
    }
    Ok(splits)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::catalog::WarningKind;

    fn write(path: &Path, text: &str, compressed: bool) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = std::fs::File::create(path).unwrap();
        if compressed {
            // Two members, as `cat a.gz b.gz` makes them.
            let (first, second) = text.split_at(text.len() / 2);
            let mut file = file;
            for part in [first, second] {
                let mut gzip = flate2::write::GzEncoder::new(&mut file, flate2::Compression::default());
                gzip.write_all(part.as_bytes()).unwrap();
                gzip.finish().unwrap();
            }
        } else {
            write!(&file, "{text}").unwrap();
        }
    }

    const FILES: [(&str, &str); 3] = [
        ("corpus.jsonl", "{\"_id\":\"d1\",\"text\":\"steel kettle\"}\n{\"_id\":\"d2\",\"text\":\"wool\"}\n"),
        ("queries.jsonl", "{\"_id\":\"q1\",\"text\":\"kettle\"}\n"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\n"),
    ];

    #[test]
    fn compressed_files_are_read_under_either_name() {
        let folder = tempfile::tempdir().unwrap();
        FILES.iter().for_each(|(name, text)| write(&folder.path().join(name), text, false));
        let plain = Dataset::open(folder.path()).unwrap();
        for ending in [".gz", ""] {
            let folder = tempfile::tempdir().unwrap();
            FILES.iter().for_each(|(name, text)| write(&folder.path().join(format!("{name}{ending}")), text, true));
            let data = Dataset::open(folder.path()).unwrap();
            assert_eq!(data.catalog.digest(), plain.catalog.digest());
            assert_eq!((&data.queries, &data.qrels), (&plain.queries, &plain.qrels));
            assert_eq!(data.split("test").unwrap().len(), 1);
            assert_eq!(data.warnings, []);
        }
    }

    #[test]
    fn of_a_plain_and_a_compressed_file_the_plain_one_is_read_and_that_is_said() {
        let folder = tempfile::tempdir().unwrap();
        FILES.iter().for_each(|(name, text)| write(&folder.path().join(name), text, false));
        write(&folder.path().join("corpus.jsonl.gz"), "nonsense", true);
        let data = Dataset::open(folder.path()).unwrap();
        assert_eq!(
            data.warnings.iter().map(|w| (w.kind, w.count)).collect::<Vec<_>>(),
            [(WarningKind::CompressedTwin, 1)]
        );
        write(&folder.path().join("queries.jsonl.gz"), "plain text", false);
        std::fs::remove_file(folder.path().join("queries.jsonl")).unwrap();
        let error = Dataset::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("queries.jsonl.gz: the file is named .gz and is no gzip file"), "{error}");
    }

    #[test]
    fn judgements_of_several_files_make_one_warning_and_targets_in_a_history_another() {
        let folder = tempfile::tempdir().unwrap();
        FILES.iter().for_each(|(name, text)| write(&folder.path().join(name), text, false));
        let queries = "{\"_id\":\"q1\",\"text\":\"a\"}\n{\"_id\":\"q2\",\"history\":[\"d1\"]}\n";
        write(&folder.path().join("queries.jsonl"), queries, false);
        write(&folder.path().join("qrels/test.tsv"), "q1\tdX\t1\nq1\td1\t1\n", false);
        write(&folder.path().join("qrels/train.tsv"), "q2\tdY\t1\nq2\td1\t1\n", false);
        let data = Dataset::open(folder.path()).unwrap();
        let counts: Vec<_> = data.warnings.iter().map(|w| (w.kind, w.count)).collect();
        assert_eq!(counts, [(WarningKind::AbsentDocuments, 2), (WarningKind::UnreachableTargets, 1)]);
        assert_eq!(data.warnings[0].path, folder.path().join("qrels"));
        let error = Dataset::open_with(folder.path(), OpenOptions::default().strict(true)).unwrap_err().to_string();
        assert!(error.contains("test.tsv:1: the document \"dX\""), "{error}");
    }
}
