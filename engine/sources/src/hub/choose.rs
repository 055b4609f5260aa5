//! Which files of a repository are wanted, and when a snapshot is complete.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::repository::{Repository, is_plain_path};
use crate::options::Kind;

/// The hub's answer on a revision.
#[derive(Deserialize)]
pub(crate) struct Listing {
    /// The commit.
    pub sha: String,
    #[serde(default)]
    siblings: Vec<FileInfo>,
}

impl Listing {
    /// A file by its path, plain or compressed by gzip.
    pub(crate) fn file(&self, path: &str) -> Option<&FileInfo> {
        let named = |name: &str| self.siblings.iter().find(|file| file.name == name);
        named(path).or_else(|| named(&format!("{path}.gz")))
    }
}

/// A file of a repository.
#[derive(Deserialize)]
pub(crate) struct FileInfo {
    #[serde(rename = "rfilename")]
    pub name: String,
    #[serde(default)]
    pub size: Option<u64>,
    #[serde(rename = "blobId", default)]
    blob: Option<String>,
    #[serde(default)]
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    sha256: String,
}

/// What a file's bytes are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Promise<'a> {
    pub size: u64,
    /// Of its kind, in hexadecimal; the blob's name in the cache.
    pub digest: &'a str,
    pub kind: DigestKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DigestKind {
    /// Of large files, which the hub keeps apart.
    Sha256,
    /// Of small files, which are in the repository itself.
    Git,
}

impl FileInfo {
    /// What the hub announces of the file. Without it nobody could tell whether it came whole: it is then not fetched.
    pub fn promise(&self) -> Result<Promise<'_>, String> {
        let size = self.size.ok_or("the hub announces no size for it")?;
        let (digest, kind, length) = match (&self.lfs, &self.blob) {
            (Some(large), _) => (large.sha256.as_str(), DigestKind::Sha256, 64),
            (None, Some(blob)) => (blob.as_str(), DigestKind::Git, 40),
            (None, None) => return Err("the hub announces no digest for it".into()),
        };
        if digest.len() != length || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("the digest {digest:?} that the hub announces for it is none"));
        }
        Ok(Promise { size, digest, kind })
    }
}

/// A data set with more bytes is a collection, of which nobody wants all at once.
const LARGEST_DATA: u64 = 50_000_000_000;
const INDEX: &str = "model.safetensors.index.json";

/// The files to fetch, weights last, so that a snapshot with weights is complete.
pub(super) fn files<'l>(repository: &Repository, listing: &'l Listing) -> Result<Vec<&'l FileInfo>, String> {
    let safe = || listing.siblings.iter().filter(|file| is_plain_path(&file.name));
    if let Some(wanted) = &repository.file {
        let file = safe().find(|file| &file.name == wanted);
        return file.map(|file| vec![file]).ok_or_else(|| format!("it has no file {wanted}"));
    }
    let mut chosen: Vec<&FileInfo> = match repository.kind {
        Kind::Data => safe().filter(|file| is_data(&file.name)).collect(),
        Kind::Model => {
            let has = |name: &str| safe().any(|file| file.name == name);
            let sharded = has(INDEX);
            let gguf: Vec<&str> = safe().map(|f| f.name.as_str()).filter(|name| name.ends_with(".gguf")).collect();
            let only_gguf = !sharded && !has("model.safetensors") && !has("adapter_model.safetensors");
            match gguf.as_slice() {
                [] | [_] => {}
                many if only_gguf => {
                    return Err(format!("it has several models, choose one file: {}", many.join(", ")));
                }
                _ => {}
            }
            let wanted = |name: &str| match weights(name) {
                Some(Weights::Gguf) => only_gguf,
                Some(Weights::Shard) => sharded,
                Some(Weights::Whole) => !sharded,
                Some(Weights::Adapter) => true,
                None => is_model_setting(name),
            };
            safe().filter(|file| wanted(&file.name)).collect()
        }
    };
    if !chosen.iter().any(|file| weights(&file.name).is_some() || is_rows(&file.name)) {
        let right = match repository.kind {
            Kind::Model => "safetensors or GGUF weights",
            Kind::Data => {
                "data that can be read here (corpus.jsonl and its companions, or a layout of docs/data-formats.md)"
            }
        };
        return Err(format!("it has no {right}"));
    }
    let bytes: u64 = chosen.iter().filter_map(|file| file.size).sum();
    if repository.kind == Kind::Data && bytes > LARGEST_DATA {
        return Err(format!(
            "it holds {} GB of data: name a part that `querywright data list` shows, or one file",
            bytes / 1_000_000_000
        ));
    }
    chosen.sort_by_key(|file| weights(&file.name).is_some());
    Ok(chosen)
}

/// The path to hand out when the snapshot is complete: the folder, or the one file.
pub(super) fn complete(repository: &Repository, snapshot: &Path) -> Option<PathBuf> {
    if let Some(file) = &repository.file {
        return Some(snapshot.join(file)).filter(|path| path.is_file());
    }
    let has = |name: &str| snapshot.join(name).is_file();
    match repository.kind {
        Kind::Data => {
            let documents = ["corpus.jsonl", "corpus.jsonl.gz"].into_iter().any(has);
            let interactions = [".inter", ".inter.gz"].iter().any(|ending| find(snapshot, ending).is_some());
            // Of other layouts no file says that the others are there.
            (documents || interactions || whole(snapshot)).then(|| snapshot.to_path_buf())
        }
        Kind::Model => {
            let sharded =
                has(INDEX) && shards(&snapshot.join(INDEX))?.iter().all(|shard| is_plain_path(shard) && has(shard));
            let single = has("model.safetensors") && has("config.json");
            let adapter = has("adapter_model.safetensors") && has("adapter_config.json");
            let folder = sharded || single || adapter;
            if folder { Some(snapshot.to_path_buf()) } else { find(snapshot, ".gguf") }
        }
    }
}

/// The mark of a snapshot of which all chosen files were fetched.
pub(super) fn mark(snapshot: &Path) -> Option<PathBuf> {
    Some(snapshot.parent()?.parent()?.join("complete").join(snapshot.file_name()?))
}

/// Whether all was fetched, and something of it can be read: in the folder, or in that of ESCI's repository.
fn whole(snapshot: &Path) -> bool {
    let endings = [".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet"];
    let folders = [snapshot.to_path_buf(), snapshot.join("shopping_queries_dataset")];
    let readable = folders.iter().any(|folder| endings.iter().any(|ending| find(folder, ending).is_some()));
    readable && mark(snapshot).is_some_and(|mark| mark.is_file())
}

enum Weights {
    Whole,
    Shard,
    Adapter,
    Gguf,
}

fn weights(name: &str) -> Option<Weights> {
    match name {
        "model.safetensors" => Some(Weights::Whole),
        "adapter_model.safetensors" => Some(Weights::Adapter),
        _ if name.starts_with("model-") && name.ends_with(".safetensors") => Some(Weights::Shard),
        _ if name.ends_with(".gguf") => Some(Weights::Gguf),
        _ => None,
    }
}

/// Configuration, tokenizer and templates: small files at the top, and the modules of sentence encoders.
fn is_model_setting(name: &str) -> bool {
    let top = !name.contains('/') && [".json", ".jinja", ".txt", ".model", ".md"].iter().any(|end| name.ends_with(end));
    top || is_module(name)
}

/// A file of a module of sentence-transformers: `1_Pooling/config.json`, `2_Dense/model.safetensors`.
fn is_module(name: &str) -> bool {
    let Some((folder, file)) = name.split_once('/') else { return false };
    let numbered = folder.split_once('_').is_some_and(|(number, kind)| {
        !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit())
            && kind.bytes().all(|b| b.is_ascii_alphabetic())
    });
    numbered && ["config.json", "model.safetensors"].contains(&file)
}

fn is_data(name: &str) -> bool {
    is_rows(name) || [".md", ".item", ".item.gz", ".user"].iter().any(|end| name.ends_with(end))
}

fn is_rows(name: &str) -> bool {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    // Other Parquet files hold copies that the hub makes of any data set.
    let esci = name.contains("shopping_queries_dataset_") && name.ends_with(".parquet");
    esci || [".jsonl", ".tsv", ".txt", ".inter", ".csv"].iter().any(|end| name.ends_with(end))
}

/// The first file of the folder with this ending.
fn find(folder: &Path, ending: &str) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.is_file() && path.to_string_lossy().ends_with(ending));
    found.sort();
    found.into_iter().next()
}

/// The shards that an index names.
fn shards(index: &Path) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(&fs::read(index).ok()?).ok()?;
    Some(index.weight_map.into_values().collect())
}
