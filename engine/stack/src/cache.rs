//! Rewrites that were made before.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use querywright_types::{Ordinal, Query, Rewrite};

/// Id, text, history and earlier turns: all that a rewrite depends on, the rewriter being the same. The id counts because a
/// judged query never speaks for itself in a base; queries of a serving system have none.
type Key = (String, String, Vec<Ordinal>, Vec<String>);

/// What an entry takes beside its texts: the key's place in the table and in the queue, and their counters.
const OVERHEAD: usize = 256;

/// The newest rewrites, oldest out first, within a number of entries and of bytes, for some time.
#[derive(Debug)]
pub(crate) struct RewriteCache {
    entries: usize,
    bytes: usize,
    time: Option<Duration>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// With the moments at which they were made.
    rewrites: HashMap<Arc<Key>, (Rewrite, Instant)>,
    order: VecDeque<Arc<Key>>,
    bytes: usize,
}

impl RewriteCache {
    pub(crate) fn new(entries: usize, bytes: usize, time: Option<Duration>) -> Self {
        Self { entries, bytes, time, held: Mutex::default() }
    }

    pub(crate) fn get(&self, query: &Query) -> Option<Rewrite> {
        if self.entries == 0 {
            return None;
        }
        let held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (rewrite, made) = held.rewrites.get(&key(query))?;
        let fresh = self.time.is_none_or(|time| made.elapsed() < time);
        fresh.then(|| rewrite.clone())
    }

    pub(crate) fn put(&self, query: &Query, rewrite: &Rewrite) {
        if self.entries == 0 {
            return;
        }
        let key = Arc::new(key(query));
        if size(&key, rewrite) > self.bytes {
            return;
        }
        let mut held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        held.bytes += size(&key, rewrite);
        match held.rewrites.insert(key.clone(), (rewrite.clone(), Instant::now())) {
            // It was too old, or two threads rewrote the same query at once. Its place in the queue stays.
            Some((replaced, _)) => held.bytes -= size(&key, &replaced),
            None => held.order.push_back(key),
        }
        while held.order.len() > self.entries || held.bytes > self.bytes {
            let Some(oldest) = held.order.pop_front() else { break };
            if let Some((gone, _)) = held.rewrites.remove(&oldest) {
                held.bytes -= size(&oldest, &gone);
            }
        }
    }
}

fn key(query: &Query) -> Key {
    (query.id.clone(), query.text.clone(), query.history.clone(), query.turns.clone())
}

/// The memory of an entry.
fn size((id, text, history, turns): &Key, rewrite: &Rewrite) -> usize {
    let turns: usize = turns.iter().map(|turn| turn.len() + size_of::<String>()).sum();
    let order = rewrite.order.as_ref().map_or(0, |order| size_of_val(order.first.as_slice()));
    id.len() + text.len() + size_of_val(history.as_slice()) + turns + rewrite.text.len() + order + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use querywright_types::Order;

    #[test]
    fn a_cache_is_bounded_by_entries_and_by_bytes_of_queries_histories_and_rewrites() {
        let rewrite = |bytes: usize| Rewrite::plain("r".repeat(bytes));
        let cache = RewriteCache::new(3, 1 << 20, None);
        (0..5).for_each(|n| cache.put(&Query::text(n.to_string()), &rewrite(1)));
        let held: Vec<bool> = (0..5).map(|n| cache.get(&Query::text(n.to_string())).is_some()).collect();
        assert_eq!(held, [false, false, true, true, true]);

        // Each of the parts alone fills it.
        let bytes = 4 * (OVERHEAD + 1000) + 100;
        for (text, history, turn, answer, order) in
            [(990, 0, 0, 0, 0), (0, 248, 0, 0, 0), (0, 0, 970, 0, 0), (0, 0, 0, 990, 0), (0, 0, 0, 0, 248)]
        {
            let cache = RewriteCache::new(1000, bytes, None);
            let query = |n: usize| {
                let query = Query::text(format!("{n:03}{}", "q".repeat(text))).with_history(vec![7; history]);
                query.with_turns((turn > 0).then(|| "t".repeat(turn)))
            };
            for n in 0..100 {
                cache.put(&query(n), &rewrite(answer).with_order(Order::new(vec![1; order], 0)));
                assert!(cache.held.lock().unwrap().bytes <= bytes);
            }
            assert_eq!(cache.held.lock().unwrap().order.len(), 4);
            assert!(cache.get(&query(99)).is_some() && cache.get(&query(95)).is_none());
        }
    }

    #[test]
    fn what_is_too_old_is_made_again_and_takes_its_own_place() {
        let (day, query) = (Duration::from_secs(86_400), Query::text("a"));
        for (time, found) in [(Some(Duration::ZERO), false), (Some(day), true), (None, true)] {
            let cache = RewriteCache::new(2, 10_000, time);
            (0..3).for_each(|_| cache.put(&query, &Rewrite::plain("b")));
            assert_eq!(cache.get(&query).is_some(), found, "{time:?}");
            let held = cache.held.lock().unwrap();
            assert_eq!((held.order.len(), held.bytes), (1, OVERHEAD + 2));
        }
    }

    #[test]
    fn what_alone_takes_more_than_all_may_is_not_remembered_and_drives_nothing_out() {
        let cache = RewriteCache::new(10, 2000, None);
        let kept = Query::text("kept");
        cache.put(&kept, &Rewrite::plain("a"));
        cache.put(&Query::text("q".repeat(2000)), &Rewrite::plain("b"));
        cache.put(&kept, &Rewrite::plain("c"));
        assert_eq!(cache.get(&kept), Some(Rewrite::plain("c")));
        assert_eq!(cache.get(&kept.with_turns(["before"])), None, "what was said before counts");
        let held = cache.held.lock().unwrap();
        assert_eq!((held.order.len(), held.rewrites.len(), held.bytes), (1, 1, OVERHEAD + 5));
    }
}
