//! Rewrites that were made before.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use querywright_types::{Ordinal, Rewrite};

/// Text and history: all that a rewrite depends on, the rewriter being the same.
type Key = (String, Vec<Ordinal>);

/// What an entry takes beside its texts: the key's place in the table and in the queue, and their counters.
const OVERHEAD: usize = 256;

/// The newest rewrites, oldest out first, within a number of entries and of bytes.
#[derive(Debug)]
pub(crate) struct RewriteCache {
    entries: usize,
    bytes: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    rewrites: HashMap<Arc<Key>, Rewrite>,
    order: VecDeque<Arc<Key>>,
    bytes: usize,
}

impl RewriteCache {
    pub(crate) fn new(entries: usize, bytes: usize) -> Self {
        Self { entries, bytes, held: Mutex::default() }
    }

    pub(crate) fn get(&self, text: &str, history: &[Ordinal]) -> Option<Rewrite> {
        if self.entries == 0 {
            return None;
        }
        let held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        held.rewrites.get(&(text.to_owned(), history.to_vec())).cloned()
    }

    pub(crate) fn put(&self, text: &str, history: &[Ordinal], rewrite: &Rewrite) {
        let key = Arc::new((text.to_owned(), history.to_vec()));
        if self.entries == 0 || size(&key, rewrite) > self.bytes {
            return;
        }
        let mut held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        held.bytes += size(&key, rewrite);
        match held.rewrites.insert(key.clone(), rewrite.clone()) {
            // Two threads rewrote the same query at once; its place in the queue stays.
            Some(replaced) => held.bytes -= size(&key, &replaced),
            None => held.order.push_back(key),
        }
        while held.order.len() > self.entries || held.bytes > self.bytes {
            let Some(oldest) = held.order.pop_front() else { break };
            if let Some(gone) = held.rewrites.remove(&oldest) {
                held.bytes -= size(&oldest, &gone);
            }
        }
    }
}

/// The memory of an entry.
fn size(key: &Key, rewrite: &Rewrite) -> usize {
    key.0.len() + size_of_val(key.1.as_slice()) + rewrite.text.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_bounded_by_entries_and_by_bytes_of_queries_histories_and_rewrites() {
        let rewrite = |bytes: usize| Rewrite::plain("r".repeat(bytes));
        let cache = RewriteCache::new(3, 1 << 20);
        (0..5).for_each(|n| cache.put(&n.to_string(), &[], &rewrite(1)));
        let held: Vec<bool> = (0..5).map(|n| cache.get(&n.to_string(), &[]).is_some()).collect();
        assert_eq!(held, [false, false, true, true, true]);

        // Each of the three parts alone fills it.
        let bytes = 4 * (OVERHEAD + 1000) + 100;
        for (text, history, answer) in [(990, 0, 0), (0, 248, 0), (0, 0, 990)] {
            let cache = RewriteCache::new(1000, bytes);
            let name = |n: usize| format!("{n:03}{}", "q".repeat(text));
            let history = vec![7; history];
            for n in 0..100 {
                cache.put(&name(n), &history, &rewrite(answer));
                assert!(cache.held.lock().unwrap().bytes <= bytes);
            }
            assert_eq!(cache.held.lock().unwrap().order.len(), 4);
            assert!(cache.get(&name(99), &history).is_some() && cache.get(&name(95), &history).is_none());
        }
    }

    #[test]
    fn what_alone_takes_more_than_all_may_is_not_remembered_and_drives_nothing_out() {
        let cache = RewriteCache::new(10, 2000);
        cache.put("kept", &[], &Rewrite::plain("a"));
        cache.put(&"q".repeat(2000), &[], &Rewrite::plain("b"));
        cache.put("kept", &[], &Rewrite::plain("c"));
        assert_eq!(cache.get("kept", &[]), Some(Rewrite::plain("c")));
        let held = cache.held.lock().unwrap();
        assert_eq!((held.order.len(), held.rewrites.len(), held.bytes), (1, 1, OVERHEAD + 5));
    }
}
