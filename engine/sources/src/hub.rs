//! The Hugging Face hub, in the cache layout that all its programs share.
//!
//! ```text
//! models--owner--name/refs/main                  the commit that the branch pointed to
//!                    /blobs/DIGEST               the bytes of a file
//!                    /snapshots/COMMIT/FILE      a link to them
//! ```
//! A file appears under its name only when all of its bytes are there, and weights come after everything else: a
//! snapshot with weights is complete. A snapshot in the cache is used as it is; newer commits of its branch are not
//! looked for. So a name is pinned to the commit that it was first fetched at, which `refs` and the folder's name record
//! ([`origin`] reads it); another one is asked for by its revision.

pub(super) mod choose;
pub(super) mod download;
pub(super) mod repository;

use std::fs;
use std::path::{Path, PathBuf};

use super::cache::{user_cache, variable};
use super::options::{Kind, Origin, PullOptions};
use choose::{FileInfo, Listing};
use download::Http;
use querywright_types::{Progress, Result};
use repository::{Repository, is_plain_path};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

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
        is_plain_path(&commit).then(|| choose::complete(repository, &folder.join("snapshots").join(commit)))?
    }

    /// What the hub says of a repository (`kind` in the plural) at a revision.
    pub(super) fn listing(&self, kind: &str, id: &str, revision: &str) -> Result<Listing, String> {
        let revision = revision.replace('/', "%2F");
        let http = Http::new(self.token.clone())?;
        let address = format!("{}/api/{kind}/{id}/revision/{revision}?blobs=true", self.endpoint);
        let listing: Listing = http.json(&address)?;
        match is_commit(&listing.sha) {
            true => Ok(listing),
            false => Err(format!("the commit {:?} is no commit", listing.sha)),
        }
    }

    fn fetch(&self, repository: &Repository, options: &PullOptions<'_>) -> Result<PathBuf, String> {
        let id = &repository.id;
        options.tell(Progress::begun(&format!("asking the Hugging Face hub for {id}")));
        let listing = self.listing(repository.plural(), id, &repository.revision)?;
        let commit = &listing.sha;
        if repository.revision.len() == COMMIT && is_commit(&repository.revision) && *commit != repository.revision {
            return Err(format!("asked for the commit {}, it answered with {commit}", repository.revision));
        }
        let files = choose::files(repository, &listing)?;
        let folder = self.cache.join(repository.cache_folder());
        let snapshot = folder.join("snapshots").join(&listing.sha);
        // The resolve addresses of models do not name their kind.
        let prefix = if repository.kind == Kind::Data { "datasets/" } else { "" };
        let http = Http::new(self.token.clone())?;
        let target = Target { http, blobs: folder.join("blobs"), snapshot: snapshot.clone(), options };
        for file in files {
            let address = format!("{}/{prefix}{id}/resolve/{}/{}", self.endpoint, listing.sha, encoded(&file.name));
            target.fetch(&address, file).map_err(|answer| format!("{}: {answer}", file.name))?;
        }
        if repository.revision != listing.sha {
            let reference = folder.join("refs").join(&repository.revision);
            download::write_whole(&reference, listing.sha.as_bytes())?;
        }
        if let Some(mark) = choose::mark(&snapshot).filter(|_| repository.file.is_none()) {
            download::write_whole(&mark, b"")?;
        }
        choose::complete(repository, &snapshot)
            .ok_or_else(|| "the repository has no weights or data that can be read".to_owned())
    }
}

/// Where the files of one snapshot go.
struct Target<'a> {
    http: Http,
    blobs: PathBuf,
    snapshot: PathBuf,
    options: &'a PullOptions<'a>,
}

impl Target<'_> {
    /// Fetches a file from `address` unless its bytes are in the cache already.
    fn fetch(&self, address: &str, file: &FileInfo) -> Result<(), String> {
        let promise = file.promise()?;
        let blob = self.blobs.join(promise.digest);
        // Another program may have left half of it.
        if !fs::metadata(&blob).is_ok_and(|blob| blob.len() == promise.size) {
            self.http.download(address, &file.name, promise, &blob, self.options)?;
        }
        download::link(&blob, &self.snapshot.join(&file.name), file.name.matches('/').count())
    }
}

/// The length of a commit's name.
const COMMIT: usize = 40;

fn is_commit(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Where a path inside a hub's cache was fetched from, by the layout above; none for any other path.
pub(super) fn origin(path: &Path) -> Option<Origin> {
    let names: Vec<&str> = path.iter().map(|name| name.to_str().unwrap_or_default()).collect();
    names.windows(3).rev().find_map(|window| {
        let [folder, "snapshots", commit] = window else { return None };
        let id = ["models--", "datasets--"].iter().find_map(|kind| folder.strip_prefix(kind))?;
        let repository = id.replacen("--", "/", 1);
        is_commit(commit).then(|| Origin { repository, revision: (*commit).to_owned() })
    })
}

/// A file name as part of an address.
pub(super) fn encoded(name: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => char::from(b).to_string(),
        other => format!("%{other:02X}"),
    };
    name.bytes().map(byte).collect()
}
