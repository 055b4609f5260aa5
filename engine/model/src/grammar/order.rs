//! Orders: labels of which each may be written once.

use super::trie::Spelling;
use crate::tokenizer::Tokenizer;
use querywright_types::{Error, Result};

/// Labels of an order, at most: a walk remembers in one number which of them were written.
pub(super) const MOST_LABELS: usize = 128;

/// The labels of a list in the tokens of one model, each with a space before it.
#[derive(Debug, Clone)]
pub struct Labels {
    spelled: Vec<Vec<u32>>,
}

impl Labels {
    /// The labels of these names, as the tokenizer encodes them behind other text.
    ///
    /// # Errors
    /// [`Error::Argument`] for more than 128 names, for one that the model cannot write so that it is read again, for two
    /// that are the same, and where a label's first token also stands within one: then an order could be read in two ways.
    pub fn new<N: AsRef<str>>(tokenizer: &Tokenizer, names: &[N]) -> Result<Self> {
        let refused = |found: String| Err(Error::argument("grammar.labels", found, "let this model write freely"));
        if names.len() > MOST_LABELS {
            return refused(format!("{} of them, and {MOST_LABELS} are the most", names.len()));
        }
        let spelling = Spelling::new(tokenizer)?;
        let mut spelled = Vec::with_capacity(names.len());
        for name in names {
            let name = name.as_ref();
            match spelling.word(name)? {
                Some(tokens) if spelled.contains(&tokens) => return refused(format!("{name:?} stands twice")),
                Some(tokens) => spelled.push(tokens),
                None => return refused(format!("the model's tokenizer cannot write {name:?}")),
            }
        }
        let starts = |token: &u32| spelled.iter().any(|label| label.first() == Some(token));
        match spelled.iter().flat_map(|label| label.iter().skip(1)).find(|token| starts(token)) {
            Some(token) => refused(format!("the token {token} begins one of them and stands within one")),
            None => Ok(Self { spelled }),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.spelled.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spelled.is_empty()
    }

    /// The most tokens of one of them.
    pub fn longest(&self) -> usize {
        self.spelled.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// The tokens of all of them, one behind the other.
    pub fn tokens_of_all(&self) -> usize {
        self.spelled.iter().map(Vec::len).sum()
    }

    /// The first `count` labels.
    pub(super) fn first(&self, count: usize) -> Self {
        Self { spelled: self.spelled.iter().take(count).cloned().collect() }
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = u32> + '_ {
        self.spelled.iter().flatten().copied()
    }
}

/// An order: up to `most` of the labels, each once, and the stop.
#[derive(Debug)]
pub(super) struct Ordering {
    pub(super) labels: Labels,
    pub(super) most: usize,
}

/// Where a completion stands in an order.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    /// Labels that stand before the one that is being written, a bit each.
    written: u128,
    /// The tokens of the label that is being written.
    label: Vec<u32>,
    /// How many of these are a label by themselves; 0: none of them yet.
    whole: usize,
}

impl Ordering {
    /// The labels that may still be written, with their places.
    fn left(&self, written: u128) -> impl Iterator<Item = (usize, &Vec<u32>)> {
        let open = (written.count_ones() as usize) < self.most;
        self.labels.spelled.iter().enumerate().filter(move |(place, _)| open && written >> place & 1 == 0)
    }

    /// The labels that were written where the current one counts as one of them; none where it is no whole label.
    fn closed(&self, place: &Place) -> Option<u128> {
        if place.label.is_empty() {
            return Some(place.written);
        }
        let (at, _) = self.left(place.written).find(|(_, label)| **label == place.label)?;
        Some(place.written | 1 << at)
    }

    /// The tokens that may come next, in rising order.
    pub(super) fn allowed(&self, place: &Place, stop: u32) -> Vec<u32> {
        let inside = |(_, label): (usize, &Vec<u32>)| {
            label.starts_with(&place.label).then(|| label.get(place.label.len()).copied()).flatten()
        };
        let mut tokens: Vec<u32> = match place.label.is_empty() {
            true => Vec::new(),
            false => self.left(place.written).filter_map(inside).collect(),
        };
        if let Some(written) = self.closed(place) {
            tokens.extend(self.left(written).filter_map(|(_, label)| label.first().copied()));
            tokens.push(stop);
        }
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    /// Goes on by a token that is not the stop; false, without going anywhere, where it is not allowed.
    pub(super) fn advance(&self, place: &mut Place, token: u32) -> bool {
        let goes_on =
            |label: &Vec<u32>| label.starts_with(&place.label) && label.get(place.label.len()) == Some(&token);
        let next = if !place.label.is_empty() && self.left(place.written).any(|(_, label)| goes_on(label)) {
            let mut label = place.label.clone();
            label.push(token);
            Place { label, ..place.clone() }
        } else {
            // A label's first token stands within none, so a label that could go on does not begin another one.
            let Some(written) = self.closed(place) else { return false };
            if !self.left(written).any(|(_, label)| label.first() == Some(&token)) {
                return false;
            }
            Place { written, label: vec![token], whole: 0 }
        };
        *place = next;
        if self.closed(place).is_some() {
            place.whole = place.label.len();
        }
        true
    }

    /// Whether the stop may come.
    pub(super) fn may_stop(&self, place: &Place) -> bool {
        self.closed(place).is_some()
    }
}

impl Place {
    /// How many of the last tokens are the beginning of a label and no label.
    pub(super) fn unfinished(&self) -> usize {
        self.label.len() - self.whole
    }
}
