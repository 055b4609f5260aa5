//! Searches with a remote engine over HTTP, through the `_search` endpoint of Elasticsearch or OpenSearch.
//!
//! The artifact `remote.json` has the settings. The embedder must grant the artifact and the host of the URL:
//!
//! ```json
//! {"url": "http://localhost:9200/films/_search", "fields": ["title^2", "text"], "timeout_ms": 800,
//!  "headers": {"Authorization": "ApiKey …"}}
//! ```
//!
//! `url` is required. Without `fields` the engine searches its default fields. The default of `timeout_ms` is 1,000.
//! Unknown keys are refused.
//!
//! Plain and natural queries become a `multi_match`, Boolean queries a `query_string`. A Boolean query that the engine
//! refuses (status 400) is sent again as plain words. A hit is the document of the catalogue whose id equals the
//! engine's `_id`. Hits that the catalogue does not have are ignored. The engine excludes the excluded items, so that
//! it still finds `k` others. A request asks for [`MOST_HITS`] hits at most, which is the default limit of an engine.
//!
//! An incomplete response (`timed_out`, failed shards) is a fault, not a shorter ranking: a reward must not come from
//! it.

mod settings;
mod wire;

use std::collections::HashMap;

use querywright_plugin::host::{self, ArtifactError, HttpError};
use querywright_plugin::{Card, Document, Fault, Hit, QueryLanguage, Recommender, Request, card, top};

pub use settings::{SETTINGS, Settings};

/// Hits that a request asks for at most: the default of `index.max_result_window`.
pub const MOST_HITS: usize = 10_000;

/// The HTTP client.
pub trait Send: Default {
    /// Sends a request and waits for the response.
    ///
    /// # Errors
    /// Why there is no response.
    fn send(&mut self, request: &host::Request) -> Result<host::Response, HttpError>;
}

/// The HTTP client of the host.
#[derive(Default)]
pub struct Host;

impl Send for Host {
    fn send(&mut self, request: &host::Request) -> Result<host::Response, HttpError> {
        host::send(request)
    }
}

/// A remote search engine.
#[derive(Default)]
pub struct Remote<S> {
    engine: S,
    settings: Settings,
    ids: Vec<String>,
    ordinals: HashMap<String, u32>,
}

impl<S: Send> Remote<S> {
    /// Reads the settings.
    ///
    /// # Errors
    /// Those of [`Settings::parse`].
    pub fn configure(&mut self, json: &[u8]) -> Result<(), Fault> {
        self.settings = Settings::parse(json)?;
        Ok(())
    }

    fn ask(&mut self, request: &Request, boolean: bool) -> Result<host::Response, Fault> {
        let excluded = request.exclude.iter().filter_map(|item| Some(self.ids.get(*item as usize)?.as_str()));
        let body = wire::search(&self.settings, request, boolean, excluded);
        self.engine.send(&self.settings.post(body)).map_err(|error| match error {
            HttpError::Denied => Fault::Denied("http".into()),
            HttpError::Timeout => Fault::Timeout,
            HttpError::Network(why) => Fault::Network(why),
            HttpError::InvalidUrl(why) => Fault::Internal(format!("{SETTINGS}: url: {why}")),
            HttpError::TooLarge => Fault::Internal("the response exceeds limits.host_bytes".into()),
        })
    }
}

impl<S: Send> Recommender for Remote<S> {
    fn card() -> Card {
        let languages = vec![QueryLanguage::Plain, QueryLanguage::Boolean, QueryLanguage::Natural];
        Card { languages, ..card("remote", env!("CARGO_PKG_VERSION"), QueryLanguage::Plain) }
    }

    fn load(&mut self, documents: Vec<Document>) -> Result<(), Fault> {
        for document in documents {
            let place = document.item as usize;
            if self.ids.len() <= place {
                self.ids.resize(place + 1, String::new());
            }
            if let Some(id) = self.ids.get_mut(place) {
                id.clone_from(&document.id);
            }
            self.ordinals.insert(document.id, document.item);
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Fault> {
        match host::artifact(SETTINGS) {
            Ok(json) => self.configure(&json),
            Err(ArtifactError::Unknown) => Err(Fault::Denied(format!("artifact {SETTINGS}"))),
            Err(error) => Err(Fault::Internal(format!("artifact {SETTINGS}: {error:?}"))),
        }
    }

    fn recommend(&mut self, request: &Request) -> Result<Vec<Hit>, Fault> {
        if request.text.trim().is_empty() {
            return Ok(Vec::new());
        }
        let boolean = matches!(request.language, QueryLanguage::Boolean);
        let mut answer = self.ask(request, boolean)?;
        if boolean && answer.status == 400 {
            answer = self.ask(request, false)?;
        }
        let mut scored: HashMap<u32, f32> = HashMap::new();
        for (id, score) in wire::answer(&answer)? {
            if let Some(item) = self.ordinals.get(&id) {
                scored.entry(*item).or_insert(score);
            }
        }
        Ok(top(scored, request))
    }
}

querywright_plugin::register!(Remote<Host>);
