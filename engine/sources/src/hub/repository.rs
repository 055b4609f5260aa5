//! The name of a repository.

use std::path::{Component, Path};

use crate::options::Kind;
use querywright_types::{Error, Result};

/// A repository of the hub, at a revision, and perhaps one file of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repository {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) revision: String,
    pub(crate) file: Option<String>,
}

impl Repository {
    /// Reads `owner/name`, then perhaps `/path/of/file`, then perhaps `@revision`.
    pub(crate) fn parse(kind: Kind, address: &str) -> Result<Self> {
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
    pub(super) fn plural(&self) -> &'static str {
        match self.kind {
            Kind::Model => "models",
            Kind::Data => "datasets",
        }
    }

    /// Its folder in the cache: `models--owner--name`.
    pub(super) fn cache_folder(&self) -> String {
        format!("{}--{}", self.plural(), self.id.replace('/', "--"))
    }
}

/// Whether a path stays where it is put: relative, without `..`.
pub(super) fn is_plain_path(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', '\0'])
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}
