//! The Hugging Face hub, in the cache layout that all its programs share.
//!
//! ```text
//! models--owner--name/refs/main                  the commit that the branch pointed to
//!                    /blobs/DIGEST               the bytes of a file
//!                    /snapshots/COMMIT/FILE      a link to them
//! ```
//! A file appears under its name only when all of its bytes are there, and weights come after everything else: a
//! snapshot with weights is a whole one. A snapshot in the cache is used as it is; newer commits of its branch are not
//! looked for.

mod choose;
mod download;

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::cache::{user_cache, variable};
use super::{Kind, Progress, PullOptions};
use crate::error::{Error, Result};
use choose::{FileInfo, Listing};
use download::Http;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// A repository of the hub, at a revision, and perhaps one file of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repository {
    kind: Kind,
    id: String,
    revision: String,
    file: Option<String>,
}

impl Repository {
    /// Reads `owner/name`, then perhaps `/path/of/file`, then perhaps `@revision`.
    pub(super) fn parse(kind: Kind, address: &str) -> Result<Self> {
        let bad = |found: &str| {
            Error::argument(
                format!("hf:{address}"),
                found,
                "write hf:owner/name, hf:owner/name/file.gguf or hf:owner/name@revision",
            )
        };
        let (path, revision) = address.split_once('@').unwrap_or((address, "main"));
        let mut parts = path.splitn(3, '/');
        let (Some(owner), Some(name), file) = (parts.next(), parts.next(), parts.next()) else {
            return Err(bad("no owner and name"));
        };
        let word = |s: &str| {
            !s.is_empty() && !s.starts_with('.') && s.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        if !word(owner) || !word(name) {
            return Err(bad("the owner or the name has a character that names on the hub do not have"));
        }
        if !revision.split('/').all(word) {
            return Err(bad("the revision is not a branch, tag or commit"));
        }
        if file.is_some_and(|file| !is_plain_path(file)) {
            return Err(bad("the file is not a path inside the repository"));
        }
        Ok(Self { kind, id: format!("{owner}/{name}"), revision: revision.to_owned(), file: file.map(str::to_owned) })
    }

    /// "models" or "datasets".
    fn shelf(&self) -> &'static str {
        match self.kind {
            Kind::Model => "models",
            Kind::Data => "datasets",
        }
    }

    fn cache_folder(&self) -> String {
        format!("{}--{}", self.shelf(), self.id.replace('/', "--"))
    }
}

/// The hub and its cache.
pub(super) struct Hub {
    pub(super) endpoint: String,
    pub(super) cache: PathBuf,
    pub(super) token: Option<String>,
    pub(super) offline: bool,
}

impl Hub {
    pub(super) fn from_environment() -> Result<Self> {
        let text = |name| variable(name).map(|value| value.to_string_lossy().into_owned());
        let home = match variable("HF_HOME") {
            Some(home) => PathBuf::from(home),
            None => user_cache()?.join("huggingface"),
        };
        let cache = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE")).map(PathBuf::from);
        let saved_token = || fs::read_to_string(home.join("token")).ok();
        let token = text("HF_TOKEN").or_else(saved_token).map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: cache.unwrap_or_else(|| home.join("hub")),
            token,
            offline: text("HF_HUB_OFFLINE")
                .is_some_and(|v| matches!(v.to_lowercase().as_str(), "1" | "on" | "yes" | "true")),
        })
    }

    /// The snapshot folder, or the one file asked for, from the cache or the network. The error is what to tell.
    pub(super) fn pull(&self, repository: &Repository, options: &PullOptions<'_>) -> Result<PathBuf, String> {
        if let Some(path) = self.cached(repository) {
            return Ok(path);
        }
        let place = format!("Hugging Face hub, {}", repository.id);
        if options.offline || self.offline {
            return Err(format!("{place}: not in the cache {}", self.cache.display()));
        }
        self.fetch(repository, options).map_err(|answer| format!("{place}: {answer}"))
    }

    /// What the cache holds of it, when that is complete.
    pub(super) fn cached(&self, repository: &Repository) -> Option<PathBuf> {
        let folder = self.cache.join(repository.cache_folder());
        let commit = fs::read_to_string(folder.join("refs").join(&repository.revision));
        let commit = commit.map_or_else(|_| repository.revision.clone(), |commit| commit.trim().to_owned());
        // The file of a branch could hold anything; only a plain name may become part of a path.
        is_plain_path(&commit).then(|| choose::whole(repository, &folder.join("snapshots").join(commit)))?
    }

    fn fetch(&self, repository: &Repository, options: &PullOptions<'_>) -> Result<PathBuf, String> {
        let http = Http::new(self.token.clone());
        let (shelf, id) = (repository.shelf(), &repository.id);
        let revision = repository.revision.replace('/', "%2F");
        options.tell(Progress::Step(&format!("asking the Hugging Face hub for {id}")));
        let listing: Listing =
            http.json(&format!("{}/api/{shelf}/{id}/revision/{revision}?blobs=true", self.endpoint))?;
        if !is_plain_path(&listing.sha) || listing.sha.contains('/') {
            return Err(format!("the commit {:?} is no commit", listing.sha));
        }
        let files = choose::files(repository, &listing)?;
        let folder = self.cache.join(repository.cache_folder());
        let snapshot = folder.join("snapshots").join(&listing.sha);
        // The resolve addresses of models have no shelf.
        let prefix = if repository.kind == Kind::Data { "datasets/" } else { "" };
        for file in files {
            let address = format!("{}/{prefix}{id}/resolve/{}/{}", self.endpoint, listing.sha, encoded(&file.name));
            self.fetch_file(&http, &address, file, &folder, &snapshot, options)
                .map_err(|answer| format!("{}: {answer}", file.name))?;
        }
        let reference = folder.join("refs").join(&repository.revision);
        download::write_whole(&reference, listing.sha.as_bytes())?;
        choose::whole(repository, &snapshot)
            .ok_or_else(|| "the repository has no weights or data that can be read".to_owned())
    }

    fn fetch_file(
        &self,
        http: &Http,
        address: &str,
        file: &FileInfo,
        folder: &Path,
        snapshot: &Path,
        options: &PullOptions<'_>,
    ) -> Result<(), String> {
        let name = file.digest().filter(|digest| is_plain_path(digest) && !digest.contains('/'));
        let name = name.ok_or("the hub gave no digest for it")?;
        let blob = folder.join("blobs").join(name);
        if !blob.exists() {
            http.download(address, file, &blob, options)?;
        }
        download::link(&blob, &snapshot.join(&file.name), file.name.matches('/').count())
    }
}

/// Whether a path stays where it is put: relative, without `..`.
fn is_plain_path(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', '\0'])
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// A file name as part of an address.
fn encoded(name: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => char::from(b).to_string(),
        other => format!("%{other:02X}"),
    };
    name.bytes().map(byte).collect()
}
