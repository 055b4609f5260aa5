//! What followed a history in training sequences: items to show to a model, and the words that it may write of them.
//!
//! The ranking of covisitation says which items are likely next, and their titles say it in words. A word that many of
//! them share is one that a rewrite can ask for:
//!
//! ```text
//! W(w) = Σ over b whose title has w  score(b)          b one of the FOLLOWERS likeliest next items
//! ```
//!
//! There is no inverse document frequency in it. On industrial products the 24 best words then hold more of what the
//! next item's title says anew (8.2% of it by inverse document frequency, in place of 6.8%).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use querywright_data::catalog::Catalog;
use querywright_types::{Hit, Query};

/// Next items whose titles are read for words.
const FOLLOWERS: usize = 50;

/// Words in more than this share of the titles say nothing of an item.
const MOST_COMMON: f64 = 0.1;

/// How long a word may be, in characters.
const LENGTHS: std::ops::RangeInclusive<usize> = 3..=20;

/// Says what followed the items of a history in the sequences of others.
pub trait Followers: Send + Sync {
    /// The `count` likeliest next items with their scores, the best first. Items of the history are left out, unless the
    /// query [repeats](Query::repeats). None where no training sequence knows the history. What answers training queries
    /// ([`CrossFit`](crate::CrossFit)) leaves a query's own sequence out.
    fn followers(&self, query: &Query, count: usize) -> Vec<Hit>;
}

/// The words of the titles of next items.
pub struct FollowerWords {
    followers: Arc<dyn Followers>,
    catalog: Arc<Catalog>,
    /// The words that stand in at least two titles and in at most a tenth of them.
    telling: HashSet<String>,
}

impl std::fmt::Debug for FollowerWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FollowerWords").field("words", &self.telling.len()).finish_non_exhaustive()
    }
}

impl FollowerWords {
    /// Counts the words of all titles.
    pub fn new(followers: Arc<dyn Followers>, catalog: Arc<Catalog>) -> Self {
        let mut titles: HashMap<String, u32> = HashMap::new();
        for word in catalog.documents().flat_map(|document| words(document.title())) {
            *titles.entry(word).or_default() += 1;
        }
        // In two where a tenth is fewer: a word of a single title asks for that one item, and is learned for it alone.
        let most = (MOST_COMMON * catalog.len() as f64).max(2.0);
        let telling = titles.into_iter().filter(|(_, count)| *count > 1 && f64::from(*count) <= most);
        let telling = telling.map(|(word, _)| word).collect();
        Self { followers, catalog, telling }
    }

    /// The `count` heaviest words, the best first, each in lower case with its share of the weight of all. None where
    /// nothing followed.
    pub fn words(&self, query: &Query, count: usize) -> Vec<(String, f64)> {
        let next = self.followers.followers(query, FOLLOWERS);
        let mut weights: HashMap<String, f64> = HashMap::new();
        for hit in &next {
            let title = words(self.catalog.document(hit.doc).title());
            for word in title.into_iter().filter(|word| self.telling.contains(word)) {
                *weights.entry(word).or_default() += f64::from(hit.score);
            }
        }
        let mut best: Vec<(String, f64)> = weights.into_iter().collect();
        best.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let all: f64 = best.iter().map(|word| word.1).sum();
        best.truncate(count);
        if all > 0.0 {
            best.iter_mut().for_each(|word| word.1 /= all);
        }
        best
    }
}

/// The different lower-case words of a title that have a letter.
fn words(title: &str) -> HashSet<String> {
    let words = title.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase);
    words.filter(|word| LENGTHS.contains(&word.chars().count()) && word.chars().any(char::is_alphabetic)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequences::tests::{borrowed, queries};
    use crate::{Covisitation, CovisitationConfig, CrossFit};
    use querywright_data::catalog::CatalogBuilder;
    use querywright_types::Ordinal;

    fn catalog() -> Arc<Catalog> {
        let titles = ["tape", "Steel drill bits 5mm", "steel CUTTING bits", "cutting oil x9zz", "glue", "red oil", "x"];
        let mut builder = CatalogBuilder::new();
        for (number, title) in titles.into_iter().enumerate() {
            builder.push(&format!("i{number}"), [("title", title)]).unwrap();
        }
        Arc::new(builder.finish())
    }

    const OF: [(&[Ordinal], Ordinal); 4] = [(&[0], 1), (&[0], 2), (&[4], 3), (&[0, 4], 3)];

    fn found(followers: &impl Followers, query: &Query, count: usize) -> Vec<Ordinal> {
        followers.followers(query, count).iter().map(|hit| hit.doc).collect()
    }

    #[test]
    fn what_followed_a_history_is_given_without_the_history_and_by_cross_fitting_without_the_querys_own_sequence() {
        let training = queries(&OF);
        let config = CovisitationConfig { backward: 0.0, ..CovisitationConfig::default() };
        let whole = Covisitation::learn(&catalog(), &borrowed(&training), config.clone()).unwrap();
        let query = |history: &[Ordinal]| Query::text("").with_history(history.iter().copied());
        assert_eq!(found(&whole, &query(&[4]), 9), [3]);
        assert_eq!(found(&whole, &query(&[0]), 2).len(), 2);
        assert_eq!(found(&whole, &query(&[0, 4, 3]), 9), [1, 2], "3 is in the history");
        assert!(found(&whole, &query(&[0, 4, 3]).with_repeats(true), 9).contains(&3));
        assert!(found(&whole, &query(&[]), 9).is_empty() && found(&whole, &query(&[6]), 9).is_empty());
        let crossed = CrossFit::learn(&catalog(), &borrowed(&training), config, 4).unwrap();
        assert!(found(&crossed, &query(&[4]), 9).is_empty(), "3 comes from its own sequence, of which both know");
        assert!(!found(&crossed, &query(&[0]), 9).contains(&1), "1 and 2 come from queries of this history alone");
        assert_eq!(found(&crossed, &query(&[5, 0]), 9).len(), 4, "nobody's history: all is known");
    }

    #[test]
    fn words_that_several_next_titles_share_come_first_and_those_of_a_single_title_never() {
        struct Fixed(Vec<(Ordinal, f32)>);
        impl Followers for Fixed {
            fn followers(&self, _: &Query, count: usize) -> Vec<Hit> {
                self.0.iter().take(count).map(|(doc, score)| Hit { doc: *doc, score: *score }).collect()
            }
        }
        let words = |next: &[(Ordinal, f32)], count| {
            let words = FollowerWords::new(Arc::new(Fixed(next.to_vec())), catalog()).words(&Query::default(), count);
            words.into_iter().map(|word| word.0).collect::<Vec<_>>()
        };
        // Each of the four is in two titles. Steel and bits are in both followers.
        assert_eq!(words(&[(1, 1.0), (2, 0.5)], 9), ["bits", "steel", "cutting"]);
        assert_eq!(words(&[(1, 0.25), (3, 1.0)], 3), ["cutting", "oil", "bits"], "by the scores of their items");
        assert!(words(&[(4, 1.0)], 9).is_empty() && words(&[], 9).is_empty());
        let shares =
            FollowerWords::new(Arc::new(Fixed(vec![(1, 1.0), (2, 1.0)])), catalog()).words(&Query::default(), 9);
        assert!((shares.iter().map(|word| word.1).sum::<f64>() - 1.0).abs() < 1e-9, "{shares:?}");
    }
}
