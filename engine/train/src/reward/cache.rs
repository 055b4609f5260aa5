//! Cached scores of rankings: a policy writes the same rewrite many times.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use querywright_data::metrics::Measure;
use querywright_types::{Judgements, Request};

/// What a score depends on, as a SHA-256 of: the retriever's digest, the request (text, language, history, excluded
/// items, k, order), the judgements, and the measures.
pub(super) type Key = [u8; 32];

/// The scores of one ranking, one for each measure.
pub(super) type Scores = Arc<[f64]>;

/// A thread-safe cache of scores with a bounded number of entries. Entries live in two generations. When the
/// younger one is full, the older one is dropped; a hit in the older one moves the entry to the younger. So entries in
/// use stay, at constant cost.
#[derive(Debug)]
pub struct RewardCache {
    /// Entries of one generation.
    half: usize,
    generations: Mutex<Generations>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Key, Scores>,
    old: HashMap<Key, Scores>,
}

impl RewardCache {
    /// A cache of at most `entries` rankings' scores, about 100 bytes each; 0 caches nothing.
    pub fn new(entries: usize) -> Self {
        let generations = Mutex::default();
        Self { half: entries / 2, generations, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// Look-ups that were answered.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Look-ups that were not.
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    /// How many entries it holds.
    pub fn len(&self) -> usize {
        let generations = self.lock();
        generations.young.len() + generations.old.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn get(&self, key: &Key) -> Option<Scores> {
        let mut generations = self.lock();
        let found = match generations.young.get(key) {
            Some(scores) => Some(scores.clone()),
            None => generations.old.remove(key).inspect(|scores| self.insert(&mut generations, *key, scores.clone())),
        };
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    pub(super) fn put(&self, key: Key, scores: Scores) {
        self.insert(&mut self.lock(), key, scores);
    }

    fn insert(&self, generations: &mut Generations, key: Key, scores: Scores) {
        if self.half == 0 {
            return;
        }
        if generations.young.len() >= self.half {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(key, scores);
    }

    /// Every entry is whole whenever the lock is free, so a poisoned lock does no harm.
    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key of a request's scores.
pub(super) fn key(
    retriever_digest: &str,
    request: &Request,
    judgements: &Judgements,
    measures: impl Iterator<Item = Measure>,
) -> Key {
    let mut hash = Sha256::new();
    // Every part is preceded by its length, so that no two different lists of parts run together into the same bytes.
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(retriever_digest.as_bytes());
    part(request.text.as_bytes());
    part(request.language.name().as_bytes());
    let ordinals = |items: &[u32]| items.iter().flat_map(|o| o.to_le_bytes()).collect::<Vec<u8>>();
    part(&ordinals(&request.history));
    part(&ordinals(&request.exclude));
    part(&(request.k as u64).to_le_bytes());
    let order = request.order.as_ref().map(|order| (ordinals(&order.first), order.among as u64));
    part(&order.as_ref().map(|(first, _)| first.clone()).unwrap_or_default());
    part(&order.map(|(_, among)| among.to_le_bytes().to_vec()).unwrap_or_default());
    let grades = judgements.iter().flat_map(|(doc, grade)| [doc.to_le_bytes(), grade.to_le_bytes()].concat());
    part(&grades.collect::<Vec<u8>>());
    // Documents that the catalogue lacks count in the ideal by their grades alone.
    part(&judgements.absent().flat_map(|(_, grade)| grade.to_le_bytes()).collect::<Vec<u8>>());
    measures.for_each(|m| part(m.to_string().as_bytes()));
    hash.finalize().into()
}
