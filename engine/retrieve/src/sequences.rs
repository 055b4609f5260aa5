//! What training queries say of sequences: which item came after which.
//!
//! A query with a history is the beginning of a sequence, and its relevant items are what came next. Queries of one
//! user are often prefixes of one another, or windows of one sequence that is longer than a history may be. What is
//! counted here, is counted once: each relevant item after the history of its query, and each item inside a history
//! after those before it, unless another query asks for it there.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

use querywright_data::catalog::Catalog;
use querywright_types::{Error, Judgements, Ordinal, Query, Result, hex};
use sha2::{Digest, Sha256};

/// Training queries with their judgements, as [`Dataset::judged`](querywright_data::catalog::Dataset::judged) gives
/// them.
pub type Training<'a> = [(&'a Query, &'a Judgements)];

/// The findable items of these judgements whose grade is above 0.
pub(crate) fn relevant(judgements: &Judgements) -> impl Iterator<Item = Ordinal> + '_ {
    judgements.iter().filter(|(_, grade)| *grade > 0).map(|(item, _)| item)
}

/// An item of a sequence with those before it, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The items before it.
    pub before: &'a [Ordinal],
    /// The item.
    pub item: Ordinal,
    /// Whether an item may follow itself.
    pub repeats: bool,
}

/// Gives every event of the training queries to `visit`, once each.
pub fn events<'a>(training: &Training<'a>, mut visit: impl FnMut(Event<'a>)) {
    let asked = Asked::new(training);
    for (query, judgements) in training {
        let (history, repeats) = (query.history.as_slice(), query.repeats);
        for item in relevant(judgements) {
            visit(Event { before: history, item, repeats });
        }
        let known: Vec<bool> = prefixes(history).map(|key| asked.by.contains_key(&key)).collect();
        // Where the whole history is asked for, those who ask for it had its events.
        if known.last() == Some(&true) {
            continue;
        }
        for place in (1..history.len()).filter(|place| !known[*place]) {
            visit(Event { before: &history[..place], item: history[place], repeats });
        }
    }
}

/// Which part of `folds` each training query belongs to, so that queries that continue one another, and those of equal
/// histories, are in one part. What is learned from the other parts has not seen the query's own sequence: without
/// this, whatever counts training queries is nearly perfect on them, and its weight cannot be tuned there.
pub fn sequence_folds(training: &Training<'_>, folds: usize) -> Vec<usize> {
    let asked = Asked::new(training);
    let mut parents: Vec<usize> = (0..training.len()).collect();
    let root = |parents: &mut Vec<usize>, mut query: usize| {
        while parents[query] != query {
            parents[query] = parents[parents[query]];
            query = parents[query];
        }
        query
    };
    let mut join = |one: usize, other: usize| {
        let (one, other) = (root(&mut parents, one), root(&mut parents, other));
        parents[one.max(other)] = one.min(other);
    };
    let mut histories: HashMap<u64, usize> = HashMap::new();
    for (number, (query, judgements)) in training.iter().enumerate() {
        if !query.history.is_empty() {
            join(number, *histories.entry(history_key(&query.history)).or_insert(number));
        }
        for key in asked.keys(query, judgements) {
            join(number, asked.by[&key]);
        }
        for key in prefixes(&query.history).filter(|key| asked.by.contains_key(key)) {
            join(number, asked.by[&key]);
        }
    }
    let mut sequences = 0;
    let mut parts = vec![0; training.len()];
    for number in 0..training.len() {
        let first = root(&mut parents, number);
        if first == number {
            parts[number] = sequences % folds.max(1);
            sequences += 1;
        } else {
            // A root is the first of its sequence, so its part is known.
            parts[number] = parts[first];
        }
    }
    parts
}

/// The sequences that training queries ask for: history and relevant item, by their hash, with the first such query.
struct Asked {
    by: HashMap<u64, usize>,
    /// How many items a history has at most. One that is so long may have lost its first items.
    longest: usize,
}

impl Asked {
    fn new(training: &Training<'_>) -> Self {
        let longest = training.iter().map(|(query, _)| query.history.len()).max().unwrap_or(0);
        let mut asked = Self { by: HashMap::new(), longest };
        for (number, (query, judgements)) in training.iter().enumerate() {
            for key in asked.keys(query, judgements) {
                asked.by.entry(key).or_insert(number);
            }
        }
        asked
    }

    /// The sequences of one query: as it is, and without its first item where a history cannot be longer.
    fn keys(&self, query: &Query, judgements: &Judgements) -> Vec<u64> {
        let mut hashers = vec![hasher_of(&query.history)];
        if query.history.len() == self.longest && self.longest > 1 {
            hashers.push(hasher_of(&query.history[1..]));
        }
        let keys = relevant(judgements).flat_map(|item| {
            hashers.iter().map(move |hasher| {
                let mut hasher = hasher.clone();
                hasher.write_u32(item);
                hasher.finish()
            })
        });
        keys.collect()
    }
}

/// The hash of a history.
pub(crate) fn history_key(history: &[Ordinal]) -> u64 {
    hasher_of(history).finish()
}

fn hasher_of(items: &[Ordinal]) -> DefaultHasher {
    let mut hasher = DefaultHasher::new();
    items.iter().for_each(|item| hasher.write_u32(*item));
    hasher
}

/// The hashes of the beginnings of a sequence, the shortest first.
fn prefixes(items: &[Ordinal]) -> impl Iterator<Item = u64> + '_ {
    items.iter().scan(DefaultHasher::new(), |hasher, item| {
        hasher.write_u32(*item);
        Some(hasher.finish())
    })
}

/// Whether all items of the training queries are in the catalogue.
pub(crate) fn check(catalog: &Catalog, training: &Training<'_>) -> Result<()> {
    for (query, judgements) in training {
        let mut items = query.history.iter().copied().chain(relevant(judgements));
        if let Some(item) = items.find(|item| *item as usize >= catalog.len()) {
            let found = format!("the query {:?} has the item {item}, and there are {}", query.id, catalog.len());
            return Err(Error::argument("training", found, "items are ordinals of the catalogue"));
        }
    }
    Ok(())
}

/// A digest of everything that is read of training queries.
pub fn training_digest(training: &Training<'_>) -> String {
    let mut hasher = Sha256::new();
    let mut list = |items: &[Ordinal]| {
        hasher.update((items.len() as u64).to_le_bytes());
        items.iter().for_each(|item| hasher.update(item.to_le_bytes()));
    };
    for (query, judgements) in training {
        list(&query.history);
        list(&relevant(judgements).collect::<Vec<_>>());
        list(&[Ordinal::from(query.repeats)]);
    }
    hex(hasher.finalize())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use querywright_data::catalog::CatalogBuilder;

    /// Queries of histories with one relevant item each.
    pub(crate) fn queries(of: &[(&[Ordinal], Ordinal)]) -> Vec<(Query, Judgements)> {
        let query = |(n, (history, item)): (usize, &(&[Ordinal], Ordinal))| {
            let query = Query::new(format!("q{n}"), "").with_history(history.iter().copied());
            (query, Judgements::new(vec![(*item, 1), (item + 1, 0)]))
        };
        of.iter().enumerate().map(query).collect()
    }

    pub(crate) fn borrowed(of: &[(Query, Judgements)]) -> Vec<(&Query, &Judgements)> {
        of.iter().map(|(query, judgements)| (query, judgements)).collect()
    }

    pub(crate) fn catalog(items: usize) -> Catalog {
        let mut builder = CatalogBuilder::new();
        for n in 0..items {
            builder.push(&format!("i{n}"), [("title", format!("item {n}"))]).unwrap();
        }
        builder.finish()
    }

    fn counted(of: &[(&[Ordinal], Ordinal)]) -> Vec<(Vec<Ordinal>, Ordinal)> {
        let training = queries(of);
        let mut seen = Vec::new();
        events(&borrowed(&training), |event| seen.push((event.before.to_vec(), event.item)));
        seen.sort_unstable();
        seen
    }

    #[test]
    fn an_event_that_several_queries_show_is_counted_once() {
        let all = [(vec![1], 2), (vec![1, 2], 3), (vec![1, 2, 3], 4)];
        assert_eq!(counted(&[(&[1], 2), (&[1, 2], 3), (&[1, 2, 3], 4)]), all);
        assert_eq!(counted(&[(&[1, 2, 3], 4)]), all, "the last query alone");
        assert_eq!(counted(&[(&[1, 2, 3], 4), (&[1], 2)]), all, "one between is missing");
        // Two users with the same beginning did it twice.
        assert_eq!(counted(&[(&[1], 2), (&[1], 2)]).len(), 2);
    }

    #[test]
    fn a_history_that_lost_its_first_items_is_not_counted_again() {
        let windows: [(&[Ordinal], Ordinal); 3] = [(&[1, 2, 3], 4), (&[2, 3, 4], 5), (&[3, 4, 5], 6)];
        let events: Vec<Ordinal> = counted(&windows).into_iter().map(|event| event.1).collect();
        assert_eq!(events, [2, 3, 4, 5, 6]);
        // [1, 2] is no window of the first: histories can be longer.
        assert_eq!(counted(&[(&[7, 1], 2), (&[1, 2], 4), (&[7, 1, 2], 3)]).len(), 5);
    }

    #[test]
    fn queries_that_continue_one_another_are_in_one_part() {
        let of: [(&[Ordinal], Ordinal); 6] =
            [(&[1], 2), (&[1, 2], 3), (&[9], 8), (&[1, 2, 3], 4), (&[2, 3, 4], 5), (&[6, 7], 8)];
        let training = queries(&of);
        assert_eq!(sequence_folds(&borrowed(&training), 2), [0, 0, 1, 0, 0, 0]);
        assert_eq!(sequence_folds(&borrowed(&training), 3), [0, 0, 1, 0, 0, 2]);
        assert_eq!(sequence_folds(&borrowed(&training), 0), [0; 6]);
        let equal: [(&[Ordinal], Ordinal); 4] = [(&[1], 2), (&[3], 2), (&[1], 4), (&[], 4)];
        assert_eq!(sequence_folds(&borrowed(&queries(&equal)), 9), [0, 1, 0, 2]);
        let circle: [(&[Ordinal], Ordinal); 2] = [(&[5, 5], 5), (&[5, 5], 5)];
        assert_eq!(sequence_folds(&borrowed(&queries(&circle)), 2), [0, 0]);
    }
}
