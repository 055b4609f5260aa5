//! Where an engine is and how it is asked.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use querywright_types::{Error, Result};

/// What stands in the place of a query, a text and a number of hits in a body.
pub(crate) const PLACEHOLDERS: [&str; 3] = ["$query", "$text", "$k"];

/// What one call may be allowed at most.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum EngineKind {
    /// Elasticsearch, 7 or later.
    Elasticsearch,
    /// OpenSearch.
    Opensearch,
    /// Quickwit, by its Elasticsearch-compatible interface.
    Quickwit,
    /// Apache Solr.
    Solr,
    /// PostgreSQL's full text search.
    Postgres,
}

impl EngineKind {
    /// Its name in configurations and in the names of retrievers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Elasticsearch => "elasticsearch",
            Self::Opensearch => "opensearch",
            Self::Quickwit => "quickwit",
            Self::Solr => "solr",
            Self::Postgres => "postgres",
        }
    }
}

/// The address of an engine and the options of its requests. Unknown keys are refused.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectConfig {
    /// Which engine.
    pub kind: EngineKind,
    /// Its address: `http://HOST:9200`; for Solr up to `/solr`; for PostgreSQL a connection string, `postgres://USER@HOST/DATABASE`.
    pub url: String,
    /// The index, Solr's core or collection, or PostgreSQL's table.
    pub index: String,
    /// The fields that are searched, with the factors on their scores. They are what `field:word` may name. In PostgreSQL: columns
    /// of type `tsvector`.
    pub fields: BTreeMap<String, f64>,
    /// The field that holds a document's id. Default: `_id` in Elasticsearch and its kin, `id` elsewhere.
    #[serde(default)]
    pub id: Option<String>,
    /// The field that holds a document's title. Default: none.
    #[serde(default)]
    pub title: Option<String>,
    /// The body of a search in Elasticsearch and its kin, as JSON, in which `"$query"` stands for the query, `"$text"` for its text
    /// and `"$k"` for the number of hits. Default: the query alone.
    #[serde(default)]
    pub body: Option<String>,
    /// Further parameters of Solr's `select`.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// How PostgreSQL reads words. Default: `english`.
    #[serde(default = "english")]
    pub text_search: String,
    /// The environment variable that holds the value of the header `Authorization`, such as `ApiKey …` or `Basic …`; for
    /// PostgreSQL the password. Default: none.
    #[serde(default)]
    pub authorization_env: Option<String>,
    /// What it holds, in a few words for prompts. Default: "documents".
    #[serde(default = "documents")]
    pub content: String,
    /// Which state of the index it is: training keeps what it was answered under this name. Change it when the index changes.
    #[serde(default)]
    pub version: String,
    /// Seconds that one call may take where the deadline leaves more. Default 10.
    #[serde(default = "ten")]
    pub timeout_seconds: f64,
    /// Calls at once. Default 8.
    #[serde(default = "eight")]
    pub parallel: usize,
}

/// Without the user and the password of an address.
impl std::fmt::Debug for ConnectConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("ConnectConfig");
        shown.field("kind", &self.kind).field("url", &self.shown_url()).field("index", &self.index);
        shown.finish_non_exhaustive()
    }
}

fn english() -> String {
    "english".to_owned()
}

fn documents() -> String {
    "documents".to_owned()
}

fn ten() -> f64 {
    10.0
}

fn eight() -> usize {
    8
}

impl ConnectConfig {
    /// Checks every key.
    ///
    /// # Errors
    /// [`Error::Argument`] names the key (`connect.url`), what was found and what would be right.
    pub fn validate(&self) -> Result<()> {
        let refused =
            |key: &str, found: String, remedy: &str| Err(Error::argument(format!("connect.{key}"), found, remedy));
        let schemes: &[&str] = match self.kind {
            EngineKind::Postgres => &["postgres://", "postgresql://"],
            _ => &["http://", "https://"],
        };
        if !schemes.iter().any(|scheme| self.url.starts_with(scheme)) {
            return refused(
                "url",
                format!("{:?}", self.shown_url()),
                &format!("begin it with {}", schemes.join(" or ")),
            );
        }
        let postgres = self.kind == EngineKind::Postgres;
        if !postgres && self.url.contains(['?', '#']) {
            return refused(
                "url",
                format!("{:?} has parameters", self.shown_url()),
                "end it before them: paths follow",
            );
        }
        // In an address they would name something else; PostgreSQL's tables are quoted.
        let strange = self.index.contains(['/', '?', '#', '*', ',']) || self.index.starts_with(['_', '-']);
        if self.index.is_empty() || strange && !postgres {
            return refused("index", format!("{:?}", self.index), "give the name of one index");
        }
        if self.fields.is_empty() {
            return refused(
                "fields",
                "there are none".into(),
                "name what is searched, as fields = { title = 2.0, text = 1.0 }",
            );
        }
        if let Some((field, weight)) = self.fields.iter().find(|(_, w)| !(w.is_finite() && **w > 0.0 && **w <= 1e6)) {
            return refused("fields", format!("{field} = {weight}"), "give a factor above 0, at most 1000000");
        }
        if self.parallel == 0 || self.parallel > 256 {
            return refused("parallel", self.parallel.to_string(), "give 1 to 256");
        }
        let elastic = !matches!(self.kind, EngineKind::Solr | EngineKind::Postgres);
        if self.body.is_some() && !elastic {
            return refused("body", format!("{} has none", self.kind.name()), "leave it out");
        }
        if !self.parameters.is_empty() && self.kind != EngineKind::Solr {
            return refused("parameters", format!("{} has none", self.kind.name()), "leave them out");
        }
        if self.text_search != english() && !postgres {
            return refused("text_search", format!("{} has none", self.kind.name()), "leave it out");
        }
        self.timeout().map(drop)
    }

    /// The address without a user and a password.
    fn shown_url(&self) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("", &self.url));
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        let behind = host.rfind('@').map_or(0, |at| at + 1);
        let (rest, parameters) = rest[behind..].split_once('?').unwrap_or((&rest[behind..], ""));
        let mut shown = if scheme.is_empty() { rest.to_owned() } else { format!("{scheme}://{rest}") };
        // They may say which database it is, and one may be a password.
        let secret = |pair: &&str| ["password", "user"].iter().any(|key| pair.to_lowercase().contains(key));
        let told = parameters.split('&').filter(|pair| !pair.is_empty() && !secret(pair));
        told.enumerate().for_each(|(place, pair)| {
            shown.push(if place == 0 { '?' } else { '&' });
            shown.push_str(pair);
        });
        shown
    }

    /// What decides the answers, as nobody knows the index's own digest: where it is, how it is asked, and what the user calls
    /// its state. No secret is part of it.
    pub(crate) fn identity(&self) -> String {
        let Self { kind, index, fields, id, title, body, parameters, text_search, version, .. } = self;
        let asked = (kind.name(), self.shown_url(), index, fields, id, title, body, parameters, text_search, version);
        format!("{asked:?}")
    }

    pub(crate) fn timeout(&self) -> Result<Duration> {
        let timeout = Duration::try_from_secs_f64(self.timeout_seconds).ok();
        let timeout = timeout.filter(|timeout| !timeout.is_zero() && *timeout <= LONGEST_TIMEOUT);
        timeout.ok_or_else(|| {
            let found = self.timeout_seconds.to_string();
            Error::argument("connect.timeout_seconds", found, "give a number of seconds above 0, at most 3600")
        })
    }

    pub(crate) fn authorization(&self) -> Result<Option<String>> {
        let Some(variable) = &self.authorization_env else { return Ok(None) };
        let value = std::env::var(variable).map_err(|_| {
            let found = format!("the variable {variable} is not set");
            Error::argument("connect.authorization_env", found, "export it, or leave this key out")
        })?;
        Ok(Some(value))
    }

    /// The fields' names, in the order of the card.
    pub(crate) fn field_names(&self) -> Vec<String> {
        self.fields.keys().cloned().collect()
    }
}
