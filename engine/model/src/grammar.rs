//! Restricted decoding: the words that a completion may consist of, as masks over tokens.
//!
//! A grammar allows any sequence of its words, each with a space before it, and then the stop; no word at all is a
//! sequence, too. One of [choices](Grammar::one_of) allows exactly one word, one of [orders](Grammar::order) each word
//! once. The words stand in one or more [`Trie`]s: a big one that many prompts share, a small one of a prompt's own; those of
//! an order are [`Labels`]. A [`Walk`] goes through them with a completion and says which tokens may come next.
//!
//! Probabilities are those of the allowed tokens alone, in sampler and trainer: what is not allowed has none, and its
//! logit has no gradient. Where one token is allowed, its log-probability and the entropy are exactly 0. The sums go over
//! the allowed tokens, not over the vocabulary, so a mask makes sampling cheaper.

mod order;
mod trie;

use std::sync::Arc;

use super::tokenizer::Tokenizer;
pub use order::Labels;
use order::{Ordering, Place};
use querywright_types::{Error, Result};
use trie::Spelling;
pub use trie::Trie;

/// The words that the completions of a prompt may consist of, and the token that ends them.
#[derive(Debug)]
pub struct Grammar {
    tries: Vec<Arc<Trie>>,
    stop: u32,
    /// The tokens that a word may begin with, and the stop where no word may be written; in rising order.
    starts: Arc<[u32]>,
    /// Whether a completion is one word, and neither none nor more.
    single: bool,
    /// In the place of the tries: labels that are each written once.
    order: Option<Ordering>,
}

impl Grammar {
    /// The words of all these tries, and a text that ends a completion.
    ///
    /// # Errors
    /// [`Error::Argument`] where the tokenizer has no token of its own for the stop.
    pub fn new(tokenizer: &Tokenizer, tries: Vec<Arc<Trie>>, stop: &str) -> Result<Self> {
        Self::with(tokenizer, tries, stop, false)
    }

    /// Exactly one of the words of a trie, and a text that ends a completion.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn one_of(tokenizer: &Tokenizer, words: Arc<Trie>, stop: &str) -> Result<Self> {
        Self::with(tokenizer, vec![words], stop, true)
    }

    /// An order: the first `count` labels, each at most once, and at most `most` of them; then a text that ends a completion.
    /// What is not named keeps its place behind them, so the beginning of a permutation is an answer, and none is one, too.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn order(tokenizer: &Tokenizer, labels: &Labels, count: usize, most: usize, stop: &str) -> Result<Self> {
        let order = Ordering { labels: labels.first(count), most };
        Ok(Self { order: Some(order), ..Self::with(tokenizer, Vec::new(), stop, false)? })
    }

    fn with(tokenizer: &Tokenizer, tries: Vec<Arc<Trie>>, stop: &str, single: bool) -> Result<Self> {
        let Some(&[stop]) = Spelling::new(tokenizer)?.text(stop)?.as_deref() else {
            let found = format!("the model's tokenizer has no token for {stop:?} alone");
            return Err(Error::argument("grammar.stop", found, "let this model write freely"));
        };
        let mut starts: Vec<u32> = (!single).then_some(stop).into_iter().collect();
        tries.iter().for_each(|trie| starts.extend(trie.following(Trie::ROOT)));
        starts.sort_unstable();
        starts.dedup();
        Ok(Self { tries, stop, starts: starts.into(), single, order: None })
    }

    /// The tokens of words with spaces between them, and of the stop; none where a word is not one of the grammar's.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn encode(self: &Arc<Self>, tokenizer: &Tokenizer, text: &str) -> Result<Option<Vec<u32>>> {
        let spelling = Spelling::new(tokenizer)?;
        let (mut walk, mut tokens) = (Walk::new(self.clone()), Vec::new());
        for word in text.split_whitespace() {
            let Some(spelled) = spelling.word(word)? else { return Ok(None) };
            if !spelled.iter().all(|token| walk.advance(*token)) || walk.unfinished() > 0 {
                return Ok(None);
            }
            tokens.extend(spelled);
        }
        tokens.push(self.stop);
        Ok(walk.advance(self.stop).then_some(tokens))
    }

    /// What was allowed in the place of each token of a completion; none where one of the tokens is not allowed.
    pub fn masks(self: &Arc<Self>, tokens: &[u32]) -> Option<Vec<Arc<[u32]>>> {
        let mut walk = Walk::new(self.clone());
        let allowed = |token: &u32| {
            let allowed = walk.allowed();
            walk.advance(*token).then_some(allowed)
        };
        tokens.iter().map(allowed).collect()
    }

    /// The largest token in it.
    pub fn largest(&self) -> u32 {
        let labels = self.order.iter().flat_map(|order| order.labels.tokens());
        self.tries.iter().map(|trie| trie.largest()).chain(labels).chain([self.stop]).max().unwrap_or_default()
    }
}

/// Where a completion stands in its grammar.
#[derive(Debug, Clone)]
pub struct Walk {
    grammar: Arc<Grammar>,
    /// Beginnings of words that the completion may be in: tries and their nodes.
    inside: Vec<(u32, u32)>,
    /// Tokens behind the last place where a word ended, or where none had begun.
    unfinished: usize,
    /// Whether a token was taken.
    begun: bool,
    stopped: bool,
    /// Where it stands in an order.
    place: Place,
}

impl Walk {
    /// Before the first token.
    pub fn new(grammar: Arc<Grammar>) -> Self {
        let place = Place::default();
        Self { grammar, inside: Vec::new(), unfinished: 0, begun: false, stopped: false, place }
    }

    /// The tokens that may come next, in rising order: inside a word its continuations, at the end of a word the
    /// beginnings of all words and the stop, where both is possible both. None after the stop.
    pub fn allowed(&self) -> Arc<[u32]> {
        if self.stopped {
            return Arc::default();
        }
        if let Some(order) = &self.grammar.order {
            return order.allowed(&self.place, self.grammar.stop).into();
        }
        let after: &[u32] = match self.grammar.single && self.begun {
            true => std::slice::from_ref(&self.grammar.stop),
            false if self.inside.is_empty() => return self.grammar.starts.clone(),
            false => &self.grammar.starts,
        };
        let mut inner: Vec<u32> = Vec::new();
        self.places().for_each(|(trie, node)| inner.extend(trie.following(node)));
        if self.inside.len() > 1 {
            inner.sort_unstable();
            inner.dedup();
        }
        if self.unfinished > 0 { inner.into() } else { merged(&inner, after).into() }
    }

    /// Goes on by a token; false, without going anywhere, where it is not allowed.
    pub fn advance(&mut self, token: u32) -> bool {
        if let Some(order) = &self.grammar.order {
            let stops = token == self.grammar.stop && !self.stopped && order.may_stop(&self.place);
            if !stops && (self.stopped || !order.advance(&mut self.place, token)) {
                return false;
            }
            (self.stopped, self.unfinished) = (stops, self.place.unfinished());
            return true;
        }
        let at_end = self.unfinished == 0;
        let (may_stop, may_start) =
            if self.grammar.single { (at_end && self.begun, !self.begun) } else { (at_end, at_end) };
        if self.stopped {
            return false;
        }
        if may_stop && token == self.grammar.stop {
            self.inside.clear();
            self.stopped = true;
            return true;
        }
        let starts = may_start.then(|| (0..self.grammar.tries.len() as u32).map(|trie| (trie, Trie::ROOT)));
        let mut inside = Vec::new();
        let (mut found, mut ends) = (false, false);
        for (index, node) in self.inside.iter().copied().chain(starts.into_iter().flatten()) {
            let Some(trie) = self.grammar.tries.get(index as usize) else { continue };
            let Some(child) = trie.child(node, token) else { continue };
            found = true;
            ends |= trie.is_word(child);
            // A word that none goes on from is left.
            if !trie.following(child).is_empty() && !inside.contains(&(index, child)) {
                inside.push((index, child));
            }
        }
        if found {
            self.begun = true;
            self.inside = inside;
            self.unfinished = if ends { 0 } else { self.unfinished + 1 };
        }
        found
    }

    /// How many of the last tokens are the beginning of a word and no word.
    pub fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// Whether the stop was taken.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    fn places(&self) -> impl Iterator<Item = (&Trie, u32)> {
        self.inside.iter().filter_map(|(trie, node)| Some((self.grammar.tries.get(*trie as usize)?.as_ref(), *node)))
    }
}

/// The union of two lists in rising order, of which the first is short.
fn merged(few: &[u32], many: &[u32]) -> Vec<u32> {
    let (mut all, mut rest) = (Vec::with_capacity(few.len() + many.len()), many);
    for token in few {
        let (before, after) = rest.split_at(rest.partition_point(|other| other < token));
        all.extend_from_slice(before);
        if after.first() != Some(token) {
            all.push(*token);
        }
        rest = after;
    }
    all.extend_from_slice(rest);
    all
}

#[cfg(test)]
mod tests;
