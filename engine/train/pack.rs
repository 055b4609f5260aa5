//! Packs prompts and completions into one tree, so that nothing shared is computed twice.

use std::ops::Range;
use std::sync::Arc;

use crate::kernels::PackedTree;

/// One prompt and its completions, in tokens.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a> {
    /// The prompt after the shared prefix; at least one token.
    pub prompt: &'a [u32],
    /// The completions; each has at least one token.
    pub completions: &'a [&'a [u32]],
}

/// A packed micro-batch: prefix, prompts and completions, each once, and where to read predictions.
///
/// Only completion tokens are predicted: the hidden state before the first token of a completion is the prompt's last
/// row, and a completion's last token is never fed.
#[derive(Debug)]
pub struct Packed {
    /// The tokens that are fed, one a row of the tree.
    pub tokens: Vec<u32>,
    /// The shape of the sharing.
    pub tree: Arc<PackedTree>,
    /// For each completion token: the row whose hidden state predicts it.
    pub rows: Vec<u32>,
    /// For each completion token: itself.
    pub targets: Vec<u32>,
    /// The range of each completion in `rows` and `targets`, group by group.
    pub completions: Vec<Range<usize>>,
}

/// Packs groups that share a prefix (which may be empty).
pub fn pack(prefix: &[u32], groups: &[Group<'_>]) -> Packed {
    let mut tree = PackedTree::default();
    let mut tokens = prefix.to_vec();
    let root = (!prefix.is_empty()).then(|| tree.push(prefix.len(), None));
    let (mut rows, mut targets, mut completions) = (Vec::new(), Vec::new(), Vec::new());
    for group in groups {
        let prompt = tree.push(group.prompt.len(), root);
        tokens.extend_from_slice(group.prompt);
        let last = (tokens.len() - 1) as u32;
        for completion in group.completions {
            let fed = &completion[..completion.len().saturating_sub(1)];
            let first = tokens.len() as u32;
            tree.push(fed.len(), Some(prompt));
            tokens.extend_from_slice(fed);
            let start = rows.len();
            rows.push(last);
            rows.extend(first..first + fed.len() as u32);
            targets.extend_from_slice(completion);
            rows.truncate(targets.len());
            completions.push(start..targets.len());
        }
    }
    Packed { tokens, tree: Arc::new(tree), rows, targets, completions }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_are_predicted_from_the_row_before_each_of_their_tokens() {
        let groups = [
            Group { prompt: &[10, 11], completions: &[&[1, 2, 3], &[4]] },
            Group { prompt: &[12], completions: &[&[5, 6]] },
        ];
        let packed = pack(&[7, 8], &groups);
        assert_eq!(packed.tokens, [7, 8, 10, 11, 1, 2, 12, 5]);
        assert_eq!(packed.rows, [3, 4, 5, 3, 6, 7]);
        assert_eq!(packed.targets, [1, 2, 3, 4, 5, 6]);
        assert_eq!(packed.completions, [0..3, 3..4, 4..6]);
        assert_eq!(packed.tree.rows(), packed.tokens.len());
        assert_eq!(packed.tree.positions(), [0, 1, 2, 3, 4, 5, 2, 3]);
    }
}
