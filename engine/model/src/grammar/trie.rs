//! Words in the tokens of one model, as a trie.

use rayon::prelude::*;

use crate::tokenizer::Tokenizer;
use querywright_types::Result;

/// Words in the tokens of one model: a node for every beginning of a word.
///
/// It is built once and shared by all grammars that read it; thousands of words take about a tenth of a second.
pub struct Trie {
    nodes: Vec<Node>,
    /// The tokens that lead to other nodes, those of a node side by side and in rising order, and where each leads.
    tokens: Vec<u32>,
    targets: Vec<u32>,
    words: usize,
    largest: u32,
}

/// The beginning of a word.
#[derive(Debug, Clone, Copy, Default)]
struct Node {
    first: u32,
    count: u32,
    /// Whether it is a word by itself.
    ends: bool,
}

impl std::fmt::Debug for Trie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trie").field("words", &self.words).field("nodes", &self.nodes.len()).finish_non_exhaustive()
    }
}

impl Trie {
    /// The node of no token.
    pub(super) const ROOT: u32 = 0;

    /// The trie of words, each as the tokenizer encodes it behind other text, with a space before it.
    ///
    /// Left out are words with white space in them, and those that the model could not write so that they are read again
    /// (texts of special tokens, characters that the tokenizer does not know).
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn new<W: AsRef<str> + Sync>(tokenizer: &Tokenizer, words: &[W]) -> Result<Self> {
        let spelling = Spelling::new(tokenizer)?;
        let spelled: Vec<Option<Vec<u32>>> =
            words.par_iter().map(|word| spelling.word(word.as_ref())).collect::<Result<_>>()?;
        let mut spelled: Vec<Vec<u32>> = spelled.into_iter().flatten().collect();
        spelled.sort_unstable();
        spelled.dedup();
        Ok(Self::of_sorted(&spelled))
    }

    /// The trie of sequences of tokens that are sorted, distinct and not empty.
    fn of_sorted(sequences: &[Vec<u32>]) -> Self {
        let mut trie = Self {
            nodes: Vec::new(),
            tokens: Vec::new(),
            targets: Vec::new(),
            words: sequences.len(),
            largest: sequences.iter().flatten().copied().max().unwrap_or_default(),
        };
        // The sequences that begin as each node does, and the length of that beginning.
        let mut pending = vec![(sequences, 0)];
        let mut next = 0;
        while let Some((mut rest, depth)) = pending.get(next).copied() {
            let ends = rest.first().is_some_and(|shortest| shortest.len() == depth);
            if ends {
                rest = rest.get(1..).unwrap_or_default();
            }
            let first = trie.tokens.len() as u32;
            while let Some(token) = rest.first().and_then(|sequence| sequence.get(depth)).copied() {
                let count = rest.partition_point(|sequence| sequence.get(depth) == Some(&token));
                let (own, after) = rest.split_at(count);
                trie.tokens.push(token);
                trie.targets.push(pending.len() as u32);
                pending.push((own, depth + 1));
                rest = after;
            }
            trie.nodes.push(Node { first, count: trie.tokens.len() as u32 - first, ends });
            next += 1;
        }
        trie
    }

    /// How many words it has.
    pub fn words(&self) -> usize {
        self.words
    }

    /// The tokens that may follow a node, in rising order.
    pub(super) fn following(&self, node: u32) -> &[u32] {
        let Node { first, count, .. } = self.nodes.get(node as usize).copied().unwrap_or_default();
        self.tokens.get(first as usize..(first + count) as usize).unwrap_or_default()
    }

    /// The node behind a node and a token.
    pub(super) fn child(&self, node: u32, token: u32) -> Option<u32> {
        let at = self.following(node).binary_search(&token).ok()?;
        self.targets.get(self.nodes.get(node as usize)?.first as usize + at).copied()
    }

    /// Whether a node is a word.
    pub(super) fn is_word(&self, node: u32) -> bool {
        self.nodes.get(node as usize).is_some_and(|node| node.ends)
    }

    /// The largest token in it.
    pub(super) fn largest(&self) -> u32 {
        self.largest
    }
}

/// Encodes what stands behind other text.
pub(super) struct Spelling<'t> {
    tokenizer: &'t Tokenizer,
    before: Vec<u32>,
}

/// Some text that stands before: tokenizers encode the beginning of a text in a way of its own.
const BEFORE: &str = "a";

impl<'t> Spelling<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer) -> Result<Self> {
        Ok(Self { tokenizer, before: tokenizer.encode(BEFORE, false)? })
    }

    /// The tokens of a word and of the space before it; none where it is no word that the model can write.
    pub(super) fn word(&self, word: &str) -> Result<Option<Vec<u32>>> {
        if word.is_empty() || word.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Ok(None);
        }
        self.text(&format!(" {word}"))
    }

    /// The tokens of a text; none where they do not give the text back.
    pub(super) fn text(&self, text: &str) -> Result<Option<Vec<u32>>> {
        let whole = format!("{BEFORE}{text}");
        let mut tokens = self.tokenizer.encode(&whole, false)?;
        if !tokens.starts_with(&self.before) || tokens.len() == self.before.len() {
            // The two were joined in one token.
            tokens = [self.before.clone(), self.tokenizer.encode(text, false)?].concat();
        }
        if self.tokenizer.decode(&tokens)? != whole {
            return Ok(None);
        }
        Ok(Some(tokens.split_off(self.before.len())).filter(|own| !own.is_empty()))
    }
}
