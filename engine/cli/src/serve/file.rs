//! The file that `serve` takes.

use std::path::{Path, PathBuf};

use querywright::serve::ServerConfig;
use querywright::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::grant::Grants;
use crate::stack::StackArgs;

/// What is served, and how.
#[derive(Debug, Clone)]
pub struct ServeFile {
    pub server: ServerConfig,
    /// The folder whose adapters may be loaded while it runs.
    pub adapters: Option<PathBuf>,
    /// What is searched; the first is the default.
    pub engines: Vec<EngineConfig>,
    /// Models for OpenAI's endpoints.
    pub models: Vec<ModelConfig>,
    /// Encoders for `/v1/embeddings`.
    pub encoders: Vec<EncoderConfig>,
}

/// What is searched under one name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    pub name: String,
    pub data: String,
    #[serde(default = "bm25")]
    pub retriever: String,
    pub index: Option<PathBuf>,
    /// A file for documents that are added and deleted while it runs; without one they cannot be.
    pub changes: Option<PathBuf>,
    /// Rewrites that are remembered, for each rewriter.
    #[serde(default = "cached")]
    pub cache: usize,
    /// Seconds for which they are. Absent: as long as there is room.
    pub cache_seconds: Option<u64>,
    #[serde(default)]
    pub fuse_original: bool,
    /// What its plugin may have, as `--grant`.
    #[serde(default, rename = "grant")]
    pub grants: Grants,
    /// The first is the default.
    #[serde(default, rename = "rewriter")]
    pub rewriters: Vec<RewriterConfig>,
}

/// A rewriter, as `--rewriter` names it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewriterConfig {
    pub name: String,
    pub rewriter: String,
    /// Names of others of the engine's whose rewrites are fused with its.
    #[serde(default)]
    pub also: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    pub name: String,
    pub model: String,
    pub adapter: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    pub name: String,
    pub model: String,
}

fn bm25() -> String {
    "bm25".to_owned()
}

fn cached() -> usize {
    10_000
}

impl ServeFile {
    /// One engine, of the command line's options.
    pub fn of(stack: &StackArgs) -> Self {
        let rewriter = (stack.rewriter != "identity").then(|| RewriterConfig {
            name: "default".to_owned(),
            rewriter: stack.rewriter.clone(),
            also: Vec::new(),
        });
        let engine = EngineConfig {
            name: "default".to_owned(),
            data: stack.data.clone(),
            retriever: stack.retriever.clone(),
            index: stack.index.clone(),
            changes: None,
            cache: cached(),
            cache_seconds: None,
            fuse_original: false,
            grants: stack.grants.clone(),
            rewriters: rewriter.into_iter().collect(),
        };
        let mut server = ServerConfig::default();
        server.deadline_ms = stack.deadline.unwrap_or(server.deadline_ms);
        server.k = stack.k;
        Self { server, adapters: None, engines: vec![engine], models: Vec::new(), encoders: Vec::new() }
    }

    /// Reads a file. Paths in it start at the folder from which the program was called.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Argument`] naming the line and key that cannot be used.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::read(path, e))?;
        let shown = path.display().to_string();
        let refused = |e: toml::de::Error| Error::configuration(&shown, &e.to_string(), e.message());
        let mut table: toml::Table = toml::from_str(&text).map_err(refused)?;
        let adapters = part::<Option<PathBuf>>(&mut table, "adapters", &shown)?;
        let file = Self {
            adapters,
            engines: part(&mut table, "engine", &shown)?,
            models: part(&mut table, "model", &shown)?,
            encoders: part(&mut table, "encoder", &shown)?,
            server: toml::Value::Table(table).try_into().map_err(refused)?,
        };
        file.validate(&shown)?;
        Ok(file)
    }

    fn validate(&self, shown: &str) -> Result<()> {
        let refused =
            |key: &str, found: String, remedy: &str| Err(Error::argument(format!("{shown}: {key}"), found, remedy));
        if self.engines.is_empty() && self.models.is_empty() && self.encoders.is_empty() {
            return refused("engine", "there is none".into(), "add [[engine]] with a name and data");
        }
        for engine in &self.engines {
            if engine.rewriters.iter().any(|rewriter| rewriter.name == "original") {
                let remedy = "the query as it came is called so; choose another name";
                return refused("engine.rewriter", "\"original\"".into(), remedy);
            }
            if engine.changes.is_some() && engine.retriever.starts_with("connect:") {
                let remedy = "change the documents there, and leave this out";
                return refused("engine.changes", "an engine elsewhere holds the documents".into(), remedy);
            }
            for rewriter in &engine.rewriters {
                let others = || engine.rewriters.iter().map(|other| &other.name).filter(|name| **name != rewriter.name);
                if let Some(unknown) = rewriter.also.iter().find(|name| !others().any(|other| other == *name)) {
                    let remedy = "name other rewriters of the same engine; fuse_original adds the query as it came";
                    return refused("engine.rewriter.also", format!("{unknown:?}"), remedy);
                }
            }
        }
        let names = |kind, names: Vec<&String>| -> Option<(&'static str, String)> {
            let twice = names.iter().enumerate().find(|(place, name)| names[..*place].contains(name));
            twice.map(|(_, name)| (kind, format!("the name {name:?} stands there twice")))
        };
        let twice = names("engine", self.engines.iter().map(|engine| &engine.name).collect())
            .or_else(|| {
                let models = self.models.iter().map(|model| &model.name);
                names("model", models.chain(self.encoders.iter().map(|encoder| &encoder.name)).collect())
            })
            .or_else(|| {
                let mut each = self.engines.iter().map(|engine| engine.rewriters.iter().map(|r| &r.name).collect());
                each.find_map(|rewriters| names("engine.rewriter", rewriters))
            });
        match twice {
            Some((key, found)) => refused(key, found, "give each its own name"),
            None => Ok(()),
        }
    }
}

/// A part of the file, taken out of the whole; empty where it is absent.
fn part<T: DeserializeOwned + Default>(table: &mut toml::Table, key: &str, shown: &str) -> Result<T> {
    match table.remove(key) {
        None => Ok(T::default()),
        Some(value) => value
            .try_into()
            .map_err(|e: toml::de::Error| Error::configuration(format!("{shown}: {key}"), &e.to_string(), e.message())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ServeFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serve.toml");
        std::fs::write(&path, text).unwrap();
        ServeFile::read(&path)
    }

    #[test]
    fn a_file_names_engines_models_and_settings_and_a_mistake_is_named() {
        let file = read(
            "listen = \"127.0.0.1:0\"\nadapters = \"runs\"\n[limits]\nk = 50\n[[engine]]\nname = \"shop\"\ndata = \"demo\"\n\
             [[engine.rewriter]]\nname = \"best\"\nrewriter = \"runs/demo/best\"\n[[model]]\nname = \"m\"\nmodel = \"x\"\n",
        )
        .unwrap();
        assert_eq!((file.server.limits.k, file.engines[0].retriever.as_str(), file.models.len()), (50, "bm25", 1));
        assert_eq!((file.engines[0].rewriters[0].name.as_str(), file.adapters), ("best", Some("runs".into())));
        let engine = "[[engine]]\nname = \"a\"\ndata = \"demo\"\n";
        for (text, part) in [
            ("".to_owned(), "[[engine]]"),
            (format!("lisen = \"x\"\n{engine}"), "did you mean `listen`"),
            (format!("{engine}retreiver = \"x\"\n"), "did you mean `retriever`"),
            (format!("{engine}{engine}"), "twice"),
            (format!("{engine}[[engine.rewriter]]\nname = \"original\"\nrewriter = \"rm3\"\n"), "as it came"),
            ("[[engine]]\nname = \"a\"\n".to_owned(), "data"),
            ("[[".to_owned(), "serve.toml"),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
