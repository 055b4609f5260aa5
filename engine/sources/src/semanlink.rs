//! Semanlink: one person's bookmarks and tags, as a data set in the catalogue's own layout.
//!
//! The package holds `docs.json` (bookmarks), `arxiv.json` (papers among them) and `tags.json`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use md5::{Digest, Md5};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use querywright_types::{Error, Result};

/// What [`tags`] does, for the note beside the data.
pub(super) const TAGS_CONVERSION: &str = "document = title (the paper's, where there is one) + comment and abstract, \
markup and addresses stripped, at most 3,000 characters; those with fewer than 4 characters are dropped. query = the \
first preferred label of a tag with 3 to 150 documents and at least one letter. split = md5(\"h3|\" + key) / 2^32, key \
= the sorted set of the label's English Snowball stems, so that reworded duplicates fall into one split (train below \
0.5, dev below 0.65, else test).";

/// What [`arxiv`] does, for the note beside the data.
pub(super) const ARXIV_CONVERSION: &str = "document = tag label + alternative labels, labels of broader tags and \
comment, markup and addresses stripped, at most 1,500 characters (tags of the papers, the tag arxiv_doc left out). \
query = title + abstract of a paper. split = md5(\"h3|\" + title) / 2^32 (train below 0.5, dev below 0.65, else test).";

/// Documents shorter than this hold no word worth finding.
const SHORTEST_DOCUMENT: usize = 4;
const LONGEST_DOCUMENT: usize = 3000;
const LONGEST_TAG: usize = 1500;
/// The tag of every paper says nothing.
const TAG_OF_ALL_PAPERS: &str = "arxiv_doc";

#[derive(Deserialize, Default)]
#[serde(default)]
struct Bookmark {
    document: String,
    tag: Vec<String>,
    title: String,
    comment: String,
    #[serde(rename = "creationDate")]
    date: String,
    arxiv_title: String,
    arxiv_summary: String,
}

impl Bookmark {
    /// The paper's own title where the bookmark is a paper.
    fn best_title(&self) -> &str {
        if self.arxiv_title.is_empty() { &self.title } else { &self.arxiv_title }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Tag {
    #[serde(rename = "prefLabel")]
    label: Vec<String>,
    #[serde(rename = "altLabel")]
    alternatives: Vec<String>,
    #[serde(rename = "broader_prefLabel")]
    broader: Vec<String>,
    comment: String,
}

/// Tag label to bookmarked documents, from the folder `from` into the folder `to`.
pub(super) fn tags(from: &Path, to: &Path) -> Result<()> {
    let bookmarks: Vec<Bookmark> = read(&from.join("docs.json"))?;
    let tags: BTreeMap<String, Tag> = read(&from.join("tags.json"))?;
    let mut files = Files::default();
    let mut tagged: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut count = 0;
    for bookmark in &bookmarks {
        let title = stripped(bookmark.best_title());
        let text = head(&stripped(&format!("{} {}", bookmark.comment, bookmark.arxiv_summary)), LONGEST_DOCUMENT);
        if format!("{title} {text}").trim().chars().count() < SHORTEST_DOCUMENT {
            continue;
        }
        count += 1;
        let id = format!("d{count:05}");
        let fields =
            [("title", title.as_str()), ("text", &text), ("url", &bookmark.document), ("date", &bookmark.date)];
        files.document(&id, &fields);
        for uri in &bookmark.tag {
            tagged.entry(short(uri)).or_default().insert(id.clone());
        }
    }
    let labels: BTreeMap<&str, String> =
        tags.iter().map(|(uri, tag)| (short(uri), folded(tag.label.first().map_or("", String::as_str)))).collect();
    for (id, documents) in tagged {
        let Some(label) = labels.get(id) else { continue };
        if (3..=150).contains(&documents.len()) && label.chars().any(char::is_alphabetic) {
            files.query(id, label, &stem_key(label), documents.iter().map(String::as_str));
        }
    }
    files.write(to)
}

/// Paper to tags, from the folder `from` into the folder `to`.
pub(super) fn arxiv(from: &Path, to: &Path) -> Result<()> {
    let papers: Vec<Bookmark> = read(&from.join("arxiv.json"))?;
    let tags: BTreeMap<String, Tag> = read(&from.join("tags.json"))?;
    let mut files = Files::default();
    let mut seen = HashSet::new();
    for (index, paper) in papers.iter().enumerate() {
        let wanted = |uri: &&String| short(uri) != TAG_OF_ALL_PAPERS && tags.contains_key(*uri);
        for uri in paper.tag.iter().filter(wanted) {
            if let (true, Some(tag)) = (seen.insert(uri), tags.get(uri)) {
                let parts = format!("{} {} {}", tag.alternatives.join(" ; "), tag.broader.join(" ; "), tag.comment);
                let text = head(&stripped(&parts), LONGEST_TAG);
                let label = stripped(tag.label.first().map_or("", String::as_str));
                files.document(short(uri), &[("title", &label), ("text", text.trim_end())]);
            }
        }
        let relevant: BTreeSet<&str> = paper.tag.iter().filter(wanted).map(|uri| short(uri)).collect();
        if relevant.is_empty() {
            continue;
        }
        let query = folded(&format!("{}. {}", paper.best_title(), paper.arxiv_summary));
        files.query(&format!("a{:03}", index + 1), &query, &stripped(paper.best_title()), relevant.into_iter());
    }
    files.write(to)
}

/// The files of a data folder while they are made.
#[derive(Default)]
struct Files {
    corpus: String,
    queries: String,
    qrels: String,
    train: String,
    dev: String,
    test: String,
}

impl Files {
    fn document(&mut self, id: &str, fields: &[(&str, &str)]) {
        let _ = write!(self.corpus, "{{\"id\": {}", json(id));
        for (name, value) in fields {
            let _ = write!(self.corpus, ", {}: {}", json(name), json(value));
        }
        self.corpus.push_str("}\n");
    }

    fn query<'a>(&mut self, id: &str, text: &str, split_key: &str, relevant: impl Iterator<Item = &'a str>) {
        let _ = writeln!(self.queries, "{{\"id\": {}, \"text\": {}}}", json(id), json(text));
        for document in relevant {
            let _ = writeln!(self.qrels, "{id}\t0\t{document}\t1");
        }
        let split = match share(split_key) {
            share if share < 0.5 => &mut self.train,
            share if share < 0.65 => &mut self.dev,
            _ => &mut self.test,
        };
        let _ = writeln!(split, "{id}");
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let files = [
            ("corpus.jsonl", &self.corpus),
            ("queries.jsonl", &self.queries),
            ("qrels.tsv", &self.qrels),
            ("train.txt", &self.train),
            ("dev.txt", &self.dev),
            ("test.txt", &self.test),
        ];
        for (name, content) in files {
            let path = folder.join(name);
            fs::write(&path, content).map_err(|e| Error::write(&path, e))?;
        }
        Ok(())
    }
}

/// A fixed number from 0 (included) to 1 (excluded) for a key.
fn share(key: &str) -> f64 {
    let digest = Md5::digest(format!("h3|{key}"));
    let head = digest.iter().take(4).fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    f64::from(head) / 4_294_967_296.0
}

/// The sorted set of English stems, so that "neural network" and "Neural Networks" have one key.
fn stem_key(label: &str) -> String {
    let stemmer = frostem::Stemmer::new(frostem::Algorithm::English);
    let label = label.to_lowercase();
    let words = label.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let stems: BTreeSet<String> = words.map(|word| stemmer.stem(word).into_owned()).collect();
    stems.into_iter().collect::<Vec<_>>().join(" ")
}

/// Without Markdown's marks and without addresses, white space folded.
fn stripped(text: &str) -> String {
    let unmarked = text.replace(['*', '_', '`', '#', '>', '[', ']'], " ");
    let words = unmarked.split_whitespace().map(|word| {
        let starts = ["http://", "https://"].into_iter().filter_map(|scheme| {
            let at = word.find(scheme)?;
            (word.len() > at + scheme.len()).then_some(at)
        });
        word.get(..starts.min().unwrap_or(word.len())).unwrap_or(word)
    });
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn folded(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn head(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

/// The last part of a tag's address is its id.
fn short(uri: &str) -> &str {
    uri.rsplit('/').next().unwrap_or(uri)
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).map_err(|e| Error::read(path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| {
        Error::data(path, Some(e.line() as u64), e.to_string(), "this needs the file of the pinned package")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_and_addresses_are_stripped_and_a_bare_scheme_stays() {
        assert_eq!(stripped("a **b** [c](https://x.y/z) (http://q) _d"), "a b c ( ( d");
        assert_eq!(stripped("see http:// ok"), "see http:// ok");
    }

    #[test]
    fn reworded_duplicates_share_a_split_key() {
        assert_eq!(stem_key("Neural networks"), stem_key("Networks, neural network"));
        assert_ne!(stem_key("Neural networks"), stem_key("Neurons"));
    }

    #[test]
    fn shares_are_md5_over_two_to_the_thirty_second() {
        // python3 -c "import hashlib; print(int(hashlib.md5(b'h3|abc').hexdigest()[:8], 16) / 2**32)"
        assert!((share("abc") - SHARE_OF_ABC).abs() < 1e-12);
    }
    const SHARE_OF_ABC: f64 = 0.24925478571094573;
}
