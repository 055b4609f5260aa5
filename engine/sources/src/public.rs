//! Data sets from where their authors publish them: the addresses, sizes and digests.
//!
//! Sizes and SHA-256 of ESCI are those of its repository's git-lfs pointers, MD5 of MovieLens those that GroupLens
//! publishes beside its archives, MD5 of BEIR those of its list of data sets. What comes from the hub is held to the
//! digests of its listing. For what has none the digest of the first download is recorded.

pub(super) mod fetch;

use querywright_types::{Error, Result};

/// A data set that is fetched file by file.
#[derive(Debug, Clone)]
pub(super) struct Public {
    /// The name to pull it by.
    pub name: String,
    pub description: String,
    pub licence: &'static str,
    /// Bytes to download; 0 where only the server knows.
    pub size: u64,
    pub parts: Vec<Part>,
}

impl Public {
    /// Where its parts are fetched from.
    pub fn sources(&self) -> Vec<String> {
        let from = |part: &Part| match &part.from {
            Home::Web { address, .. } => address.clone(),
            Home::Hub { repository, path } => format!("hf:{repository}/{path}"),
        };
        match self.parts.is_empty() {
            true => vec![format!("hf:{REVIEWS_REPOSITORY}")],
            false => self.parts.iter().map(from).collect(),
        }
    }
}

/// A file to fetch.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub from: Home,
    /// The file in the folder of the data set; of an archive, the folder in it that becomes this one.
    pub name: String,
    pub archive: bool,
}

/// Where a file comes from.
#[derive(Debug, Clone)]
pub(super) enum Home {
    /// An address, with the digest of its bytes.
    Web { address: String, digest: Digest },
    /// A file of a data set of the Hugging Face hub.
    Hub { repository: &'static str, path: String },
}

/// What the bytes of a file are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Digest {
    Sha256(&'static str),
    Md5(&'static str),
    /// Nobody publishes one: that of the first download is recorded.
    Recorded,
}

const ESCI: &str = "https://media.githubusercontent.com/media/amazon-science/esci-data/main/shopping_queries_dataset/";
const ESCI_FILES: [(&str, &str); 2] = [
    ("shopping_queries_dataset_examples.parquet", "4a735b693b4a424a6fc67f5be6e4c811495c488bbf66d02a602d308b2744263a"),
    ("shopping_queries_dataset_products.parquet", "25124442d064d64b26f74082d6fa09438d679efc0c183cf28d19064a2b65a265"),
];
const ESCI_BYTES: u64 = 51_286_808 + 1_108_857_465;

const GROUPLENS: &str = "https://files.grouplens.org/datasets/movielens/";
/// Name, folder of the archive, bytes, MD5.
const MOVIELENS: [(&str, &str, u64, Digest); 6] = [
    ("ml-100k", "ml-100k/", 4_924_029, Digest::Md5("0e33842e24a9c977be4e0107933c0723")),
    ("ml-1m", "ml-1m/", 5_917_549, Digest::Md5("c4d9eecfca2ab87c1945afe126590906")),
    ("ml-10m", "ml-10M100K/", 65_566_137, Digest::Md5("ce571fd55effeba0271552578f2648bd")),
    ("ml-20m", "ml-20m/", 198_702_078, Digest::Md5("cd245b17a1ae2cc31bb14903e1204af3")),
    ("ml-25m", "ml-25m/", 261_978_986, Digest::Md5("6b51fb2759a8657d3bfcbfc42b592ada")),
    // Is replaced now and then.
    ("ml-latest-small", "ml-latest-small/", 978_202, Digest::Recorded),
];

const BEIR: &str = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/";
/// The sets of one folder each, with the MD5 of their archives.
const BEIR_SETS: [(&str, &str); 13] = [
    ("arguana", "8ad3e3c2a5867cdced806d6503f29b99"),
    ("climate-fever", "8b66f0a9126c521bae2bde127b4dc99d"),
    ("dbpedia-entity", "c2a39eb420a3164af735795df012ac2c"),
    ("fever", "5a818580227bfb4b35bb6fa46d9b6c03"),
    ("fiqa", "17918ed23cd04fb15047f73e6c3bd9d9"),
    ("hotpotqa", "f412724f78b0d91183a0e86805e16114"),
    ("nfcorpus", "a89dba18a62ef92f7d323ec890a0d38d"),
    ("nq", "d4d3d2e48787a744b6f6e691ff534307"),
    ("quora", "18fb154900ba42a600f84b839c173167"),
    ("scidocs", "38121350fc3a4d2f48850f6aff52e4a9"),
    ("scifact", "5f7d1de60b170fc8027bb7898e2efca1"),
    ("trec-covid", "ce62140cb23feb9becf6270d0d1fe6d1"),
    ("webis-touche2020", "46f650ba5a527fc69e0a6521c5a23563"),
];

/// The name under which categories of Amazon Reviews stand.
const REVIEWS: &str = "amazon-reviews-2023";
const REVIEWS_REPOSITORY: &str = "McAuley-Lab/Amazon-Reviews-2023";
/// Which interactions are fetched unless others are named: those of Rec-R1.
const REVIEWS_SPLITS: &str = "0core/timestamp_w_his";
const CORES: [&str; 2] = ["0core", "5core"];
const SPLITS: [&str; 5] = ["rating_only", "last_out", "last_out_w_his", "timestamp", "timestamp_w_his"];

/// Every data set with a name of its own, and one row for the categories of Amazon Reviews.
pub(super) fn all() -> Vec<Public> {
    let mut all = vec![esci(), amazon_c4()];
    all.push(Public {
        name: format!("{REVIEWS}:CATEGORY"),
        description: "reviews and items of a category, as All_Beauty or Video_Games: sequential recommendation"
            .to_owned(),
        licence: REVIEWS_LICENCE,
        size: 0,
        parts: Vec::new(),
    });
    all.extend(MOVIELENS.iter().map(movielens));
    all.extend(BEIR_SETS.iter().map(beir));
    all
}

/// The data set of a name; none where the name is another's.
///
/// # Errors
/// When a category, or what of it, is written wrongly.
pub(super) fn named(name: &str) -> Result<Option<Public>> {
    match name.split_once(':') {
        Some((REVIEWS, category)) => reviews(name, category).map(Some),
        _ if name == REVIEWS => reviews(name, "").map(Some),
        _ => Ok(all().into_iter().find(|known| known.name == name && !known.parts.is_empty())),
    }
}

fn web(address: String, name: &str, digest: Digest, archive: bool) -> Part {
    Part { from: Home::Web { address, digest }, name: name.to_owned(), archive }
}

fn esci() -> Public {
    let part =
        |&(name, digest): &(&str, &'static str)| web(format!("{ESCI}{name}"), name, Digest::Sha256(digest), false);
    Public {
        name: "esci".to_owned(),
        description: "ESCI, shopping queries with graded products: 1.8 million products, 130,652 queries".to_owned(),
        licence: "Apache-2.0",
        size: ESCI_BYTES,
        parts: ESCI_FILES.iter().map(part).collect(),
    }
}

fn amazon_c4() -> Public {
    let part = |path: &str| Part {
        from: Home::Hub { repository: "McAuley-Lab/Amazon-C4", path: path.to_owned() },
        name: path.to_owned(),
        archive: false,
    };
    Public {
        name: "amazon-c4".to_owned(),
        description: "Amazon-C4, products by requests in whole sentences: 1,058,417 items, 21,223 queries".to_owned(),
        licence: "as its page on the hub says (McAuley-Lab/Amazon-C4)",
        size: 0,
        parts: ["test.csv", "sampled_item_metadata_1M.jsonl"].map(part).to_vec(),
    }
}

const REVIEWS_LICENCE: &str = "as its page on the hub says (McAuley-Lab/Amazon-Reviews-2023)";

/// `CATEGORY`, or `CATEGORY:5core/last_out`.
fn reviews(name: &str, category: &str) -> Result<Public> {
    let (category, splits) = category.split_once(':').unwrap_or((category, REVIEWS_SPLITS));
    let word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let known = splits.split_once('/').is_some_and(|(core, split)| CORES.contains(&core) && SPLITS.contains(&split));
    if !word(category) || !known {
        let found = if word(category) { format!("there is no {splits}") } else { "no category is named".to_owned() };
        let remedy = format!(
            "write {REVIEWS}:All_Beauty, or {REVIEWS}:Video_Games:5core/last_out ({}, and {})",
            CORES.join(" or "),
            SPLITS.join(", ")
        );
        return Err(Error::argument(name, found, remedy));
    }
    let mut files = vec![(format!("raw/meta_categories/meta_{category}.jsonl"), format!("meta_{category}.jsonl"))];
    let of = |name: String| (format!("benchmark/{splits}/{name}"), name);
    match splits.ends_with("rating_only") {
        true => files.push(of(format!("{category}.csv"))),
        false => files.extend(["train", "valid", "test"].map(|part| of(format!("{category}.{part}.csv")))),
    }
    let part = |(path, name)| Part { from: Home::Hub { repository: REVIEWS_REPOSITORY, path }, name, archive: false };
    Ok(Public {
        name: name.to_owned(),
        description: format!("{category} of Amazon Reviews 2023, {splits}"),
        licence: REVIEWS_LICENCE,
        size: 0,
        parts: files.into_iter().map(part).collect(),
    })
}

fn movielens(&(name, folder, size, digest): &(&str, &str, u64, Digest)) -> Public {
    Public {
        name: name.to_owned(),
        description: format!("MovieLens, ratings of films over time ({name})"),
        licence: "GroupLens' terms: research, no redistribution (README in the folder)",
        size,
        parts: vec![web(format!("{GROUPLENS}{name}.zip"), folder, digest, true)],
    }
}

fn beir(&(name, digest): &(&str, &'static str)) -> Public {
    Public {
        name: format!("beir-{name}"),
        description: format!("{name} of BEIR, ad-hoc retrieval"),
        licence: "that of the set's own authors (github.com/beir-cellar/beir)",
        size: 0,
        parts: vec![web(format!("{BEIR}{name}.zip"), &format!("{name}/"), Digest::Md5(digest), true)],
    }
}

#[cfg(test)]
mod tests;
