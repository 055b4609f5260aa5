//! Rewrites that were made before.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use querywright_types::{Ordinal, Rewrite};

/// Text and history: all that a rewrite depends on, the rewriter being the same.
type Key = (String, Vec<Ordinal>);

/// The newest rewrites, oldest out first.
#[derive(Debug)]
pub(crate) struct RewriteCache {
    entries: usize,
    held: Mutex<(HashMap<Key, Rewrite>, VecDeque<Key>)>,
}

impl RewriteCache {
    pub(crate) fn new(entries: usize) -> Self {
        Self { entries, held: Mutex::default() }
    }

    pub(crate) fn get(&self, text: &str, history: &[Ordinal]) -> Option<Rewrite> {
        if self.entries == 0 {
            return None;
        }
        let held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        held.0.get(&(text.to_owned(), history.to_vec())).cloned()
    }

    pub(crate) fn put(&self, text: &str, history: &[Ordinal], rewrite: &Rewrite) {
        if self.entries == 0 {
            return;
        }
        let mut held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (map, order) = &mut *held;
        let key = (text.to_owned(), history.to_vec());
        if map.insert(key.clone(), rewrite.clone()).is_none() {
            order.push_back(key);
        }
        while order.len() > self.entries {
            if let Some(oldest) = order.pop_front() {
                map.remove(&oldest);
            }
        }
    }
}
