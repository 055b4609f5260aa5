//! The retriever: batches, exclusions, ordinals.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

use querywright_text::boolean;
use querywright_types::{
    Deadline, DocumentName, Fault, FaultKind, Hit, Ordinal, QueryLanguage, Ranking, Request, Result, Retriever,
    RetrieverCard, hex,
};

use crate::config::{ConnectConfig, EngineKind};
use crate::elastic::Elastic;
use crate::http::Failure;
use crate::names::Names;
use crate::postgres::Postgres;
use crate::solr::Solr;

/// A document that an engine found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) score: f32,
}

/// A request as an engine gets it.
#[derive(Debug, Clone)]
pub(crate) struct Asked<'a> {
    pub(crate) text: &'a str,
    /// The text as operators and words, where it is to be read so.
    pub(crate) query: Option<boolean::Group<'a>>,
    /// Hits to give, those that are taken out afterwards included.
    pub(crate) k: usize,
}

/// How one kind of engine is asked.
pub(crate) trait Engine: Send + Sync {
    /// Requests that one call asks for at most.
    fn at_once(&self) -> usize;

    /// What it finds for each request, best first.
    fn search(&self, asked: &[Asked<'_>], deadline: Deadline) -> Vec<Result<Vec<Found>, Failure>>;
}

/// A search engine elsewhere, as a retriever.
///
/// The hits' names are its own: a stack needs no catalogue. It reads [Boolean queries](querywright_text::boolean) and plain
/// words. Excluded documents are asked for beside the others and taken out here.
///
/// It is as deterministic as the engine. Train against an index that does not change, or say which state it is
/// ([`ConnectConfig::version`]).
pub struct Connected {
    engine: Box<dyn Engine>,
    card: RetrieverCard,
    names: Names,
    parallel: usize,
    turns: Turns,
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected").field("card", &self.card).finish_non_exhaustive()
    }
}

impl Connected {
    /// Checks the configuration. An engine over HTTP is asked nothing yet; PostgreSQL is connected to with the first request.
    ///
    /// # Errors
    /// [`Error::Argument`](querywright_types::Error::Argument) names the key that cannot be used.
    pub fn new(config: &ConnectConfig) -> Result<Self> {
        config.validate()?;
        let engine: Box<dyn Engine> = match config.kind {
            EngineKind::Solr => Box::new(Solr::new(config)?),
            EngineKind::Postgres => Box::new(Postgres::new(config)?),
            _ => Box::new(Elastic::new(config)?),
        };
        let card = RetrieverCard::new(config.kind.name(), hex(Sha256::digest(config.identity().as_bytes())))
            .with_version(config.version.as_str())
            .with_languages([QueryLanguage::Boolean, QueryLanguage::Plain])
            .with_fields(config.field_names())
            .with_content(config.content.as_str());
        Ok(Self {
            engine,
            card,
            names: Names::default(),
            parallel: config.parallel,
            turns: Turns::new(config.parallel),
        })
    }

    /// Gives the documents of a catalogue, by their ids, the ordinals that they have there: for judgements and histories. What
    /// is found and is none of these is a fault.
    pub fn with_ids(mut self, ids: impl IntoIterator<Item = String>) -> Self {
        self.names = Names::of(ids);
        self.card.documents = self.names.count();
        self
    }

    /// The ordinal of a document that a catalogue named or that was found.
    pub fn ordinal(&self, id: &str) -> Option<Ordinal> {
        self.names.ordinal(id)
    }

    fn asked<'a>(&self, request: &'a Request) -> Asked<'a> {
        let boolean = request.language == QueryLanguage::Boolean;
        // Nothing but NOT has nothing to search with: its words are looked for.
        let query = boolean.then(|| boolean::parse(&request.text, &self.card.fields));
        let query = query.filter(|group| !group.must.is_empty() || !group.should.is_empty());
        Asked { text: &request.text, query, k: request.k.saturating_add(request.exclude.len()) }
    }

    fn ranking(&self, request: &Request, found: Vec<Found>) -> Result<Ranking, Failure> {
        let named = found.iter().map(|one| (one.id.as_str(), one.title.as_str()));
        let ordinals = self.names.ordinals(named).map_err(|id| {
            let why = match self.names.count() {
                Some(_) => "the data set lacks: index and corpus must hold the same documents",
                None => "is one more than can be remembered",
            };
            (FaultKind::Contract, format!("it found the document {id:?}, which {why}"))
        })?;
        let mut hits: Vec<Hit> = Vec::with_capacity(request.k.min(found.len()));
        for (doc, found) in ordinals.into_iter().zip(found) {
            if hits.len() < request.k && !request.exclude.contains(&doc) {
                hits.push(Hit { doc, score: found.score });
            }
        }
        Ok(Ranking { hits })
    }

    fn fault(&self, (kind, detail): Failure) -> Fault {
        Fault::new(self.card.name.as_str(), kind, detail)
    }
}

impl Retriever for Connected {
    fn card(&self) -> &RetrieverCard {
        &self.card
    }

    fn retrieve(&self, requests: &[Request], deadline: Deadline) -> Vec<Result<Ranking, Fault>> {
        let chunks: Vec<&[Request]> = requests.chunks(self.engine.at_once().max(1)).collect();
        let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(chunks.len())));
        let work = || {
            while let Some((place, chunk)) = take(&next, &chunks) {
                let asked: Vec<Asked<'_>> = chunk.iter().map(|request| self.asked(request)).collect();
                let mut answers = match self.turns.take(deadline) {
                    Some(_turn) => self.engine.search(&asked, deadline),
                    None => {
                        let busy =
                            || Err((FaultKind::Overloaded, "all its calls were taken up to the deadline".to_owned()));
                        asked.iter().map(|_| busy()).collect()
                    }
                };
                let missing = || Err((FaultKind::Contract, "an answer is missing".to_owned()));
                answers.resize_with(chunk.len(), missing);
                let ranked = |(request, answer): (&Request, Result<Vec<Found>, Failure>)| {
                    answer.and_then(|found| self.ranking(request, found)).map_err(|failure| self.fault(failure))
                };
                let rankings: Vec<_> = chunk.iter().zip(answers).map(ranked).collect();
                done.lock().unwrap_or_else(PoisonError::into_inner).push((place, rankings));
            }
        };
        std::thread::scope(|scope| {
            // The caller's thread is one of them.
            for _ in 1..self.parallel.min(chunks.len()) {
                scope.spawn(work);
            }
            work();
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(place, _)| *place);
        done.into_iter().flat_map(|(_, rankings)| rankings).collect()
    }

    fn document(&self, document: Ordinal) -> Option<DocumentName> {
        self.names.name(document)
    }
}

/// Calls that may be made at once, whoever makes them.
struct Turns {
    free: Mutex<usize>,
    given_back: Condvar,
}

/// A call's turn, given back when it is dropped.
struct Turn<'a>(&'a Turns);

impl Turns {
    fn new(count: usize) -> Self {
        Self { free: Mutex::new(count), given_back: Condvar::new() }
    }

    /// Waits for a turn; none where none came by the deadline.
    fn take(&self, deadline: Deadline) -> Option<Turn<'_>> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            let left = deadline.left().unwrap_or(Duration::from_secs(3600));
            if left.is_zero() {
                return None;
            }
            free = self.given_back.wait_timeout(free, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= 1;
        Some(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.given_back.notify_one();
    }
}

/// A factor on a score that every engine can read: nested boosts may be beyond what a number holds.
pub(crate) fn finite(boost: f64) -> f64 {
    if boost.is_finite() { boost.min(MOST_BOOST) } else { MOST_BOOST }
}

/// A boost at most.
const MOST_BOOST: f64 = 1e6;

/// The next chunk that nobody has taken.
fn take<'a, T>(next: &AtomicUsize, chunks: &[&'a [T]]) -> Option<(usize, &'a [T])> {
    let place = next.fetch_add(1, Ordering::Relaxed);
    chunks.get(place).map(|chunk| (place, *chunk))
}
