//! Beginnings of prompts that were read before: prefix caching, as vLLM has it.
//!
//! A prompt is read in blocks that end at fixed places, each with keys and values of its own, whether or not they were
//! computed before. So a completion depends neither on the requests beside it nor on those before it.

use std::collections::HashMap;
use std::sync::Arc;

use querywright_kernels::Cache;

/// Tokens of the first two blocks: the beginnings of short prompts are short.
const FIRST: usize = 16;
/// Tokens of those far behind. Every further block costs attention a product.
pub(super) const LONGEST: usize = 256;
/// Memory of kept blocks, in bytes.
const BYTES: usize = 256 << 20;

/// Where the block ends that begins at `from`.
pub(super) fn end_of_block(from: usize) -> usize {
    if from < LONGEST { FIRST.max(2 * from) } else { from + LONGEST }
}

/// What stands before a block: a number for each chain of blocks.
pub(super) type Parent = u64;

/// Blocks that were read, within a number of bytes; what was not used for longest goes first.
#[derive(Debug)]
pub(super) struct Blocks {
    most: usize,
    bytes: usize,
    /// By what stands before them and their tokens.
    blocks: HashMap<(Parent, Box<[u32]>), Block>,
    made: Parent,
    walks: u64,
}

#[derive(Debug)]
struct Block {
    /// What the blocks behind it have as their parent.
    number: Parent,
    cache: Option<Arc<Cache>>,
    bytes: usize,
    /// The last walk that came by, and how many blocks were before it.
    used: u64,
    depth: usize,
}

impl Default for Blocks {
    fn default() -> Self {
        Self { most: BYTES, bytes: 0, blocks: HashMap::new(), made: ROOT, walks: 0 }
    }
}

/// The parent of prefixes. They are looked up as one block, whatever their length.
const ROOT: Parent = 0;

/// How far a prompt was read in blocks.
#[derive(Debug)]
pub(super) struct Chain {
    parent: Parent,
    /// The prefix and the blocks that continue it.
    caches: Vec<Arc<Cache>>,
    depth: usize,
    walk: u64,
}

impl Chain {
    pub(super) fn caches(&self) -> &[Arc<Cache>] {
        &self.caches
    }

    pub(super) fn parent(&self) -> Parent {
        self.parent
    }
}

impl Block {
    /// What comes by goes on behind it. What a block continues was used as lately as the block, or later.
    fn pass(&mut self, chain: &mut Chain) {
        self.used = self.used.max(chain.walk);
        chain.parent = self.number;
        chain.depth += 1;
        chain.caches.extend(self.cache.clone());
    }
}

impl Blocks {
    /// Begins a prompt behind a prefix.
    pub(super) fn begin(&mut self, prefix: &[u32], cache: Option<&Arc<Cache>>) -> Chain {
        self.walks += 1;
        let mut chain = Chain { parent: ROOT, caches: Vec::new(), depth: 0, walk: self.walks };
        self.keep(&mut chain, prefix, cache.cloned());
        chain
    }

    /// Goes one block on where it is kept.
    pub(super) fn find(&mut self, chain: &mut Chain, tokens: &[u32]) -> bool {
        let block = self.blocks.get_mut(&(chain.parent, Box::from(tokens)));
        block.map(|block| block.pass(chain)).is_some()
    }

    /// Goes on by a block that was just read, and keeps it.
    pub(super) fn read(&mut self, chain: &mut Chain, tokens: &[u32], cache: Arc<Cache>) {
        self.keep(chain, tokens, Some(cache));
    }

    /// Keeps a block, where it is not kept already.
    fn keep(&mut self, chain: &mut Chain, tokens: &[u32], cache: Option<Arc<Cache>>) {
        let bytes = size_of_val(tokens) + cache.as_ref().map_or(0, |cache| cache.bytes());
        let block = self.blocks.entry((chain.parent, Box::from(tokens))).or_insert_with(|| {
            self.made += 1;
            self.bytes += bytes;
            Block { number: self.made, cache, bytes, used: 0, depth: chain.depth }
        });
        block.pass(chain);
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.bytes > self.most {
            let oldest = self.blocks.iter().min_by_key(|(_, block)| (block.used, std::cmp::Reverse(block.depth)));
            let Some(gone) = oldest.map(|(key, _)| key.clone()).and_then(|key| self.blocks.remove(&key)) else { break };
            self.bytes -= gone.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use querywright_kernels::Continuation;

    #[test]
    fn blocks_end_at_fixed_places() {
        let ends: Vec<usize> = std::iter::successors(Some(0), |from| Some(end_of_block(*from))).take(7).collect();
        assert_eq!(ends, [0, 16, 32, 64, 128, 256, 512]);
        assert_eq!((end_of_block(512), end_of_block(768)), (768, 1024));
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first_and_a_beginning_after_what_continues_it() {
        let tokens = |n: u32| [n; 64];
        let mut blocks = Blocks { most: 4 * size_of_val(&tokens(0)), ..Blocks::default() };
        let empty = || Arc::new(Continuation::new(Vec::new(), 1).into_cache());
        let walk = |blocks: &mut Blocks, path: &[u32]| {
            let mut chain = blocks.begin(&[], None);
            let found = path.iter().take_while(|n| blocks.find(&mut chain, &tokens(**n))).count();
            path[found..].iter().for_each(|n| blocks.read(&mut chain, &tokens(*n), empty()));
            (found, chain.caches().len())
        };
        assert_eq!(walk(&mut blocks, &[1, 2]), (0, 2));
        assert_eq!(walk(&mut blocks, &[1, 2]), (2, 2));
        assert_eq!(walk(&mut blocks, &[2, 1]), (0, 2), "a block is another one behind another");
        assert_eq!(walk(&mut blocks, &[1]), (1, 1));
        // A fifth drives out the one that ends the chain which was not used for longest.
        assert_eq!(walk(&mut blocks, &[3]), (0, 1));
        assert_eq!(blocks.bytes, blocks.most);
        assert_eq!(walk(&mut blocks, &[2]), (1, 1));
        assert_eq!(walk(&mut blocks, &[1]), (1, 1));
        assert_eq!(walk(&mut blocks, &[1, 2]).0, 1, "its end went before its beginning");
    }

    #[test]
    fn a_prompt_that_takes_more_than_all_may_is_read_all_the_same() {
        let mut blocks = Blocks { most: 10, ..Blocks::default() };
        let mut chain = blocks.begin(&[], None);
        for n in 0..3 {
            assert!(!blocks.find(&mut chain, &[n; 64]));
            blocks.read(&mut chain, &[n; 64], Arc::new(Continuation::new(Vec::new(), 1).into_cache()));
        }
        assert_eq!((chain.caches().len(), blocks.bytes, blocks.blocks.len()), (3, 0, 1));
    }
}
