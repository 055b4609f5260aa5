//! Text in blocks that are never moved.

/// Pieces of text, numbered from 0. One growing string would be in memory twice each time it moves to a larger
/// allocation; here full blocks stay where they are, and an unfinished block is at most an eighth of the text before it. So
/// the peak while building stays near the text itself. A piece adds 4 bytes to its text.
#[derive(Debug, Default)]
pub(super) struct Arena {
    full: Vec<Box<str>>,
    open: String,
    /// The number of the first piece of each block, the open one last.
    firsts: Vec<u32>,
    /// Where each piece begins in its block.
    starts: Vec<u32>,
    length: usize,
}

const SMALLEST_BLOCK: usize = 4 << 10;
const LARGEST_BLOCK: usize = 1 << 20;

impl Arena {
    /// Adds a piece; none when it is longer than 4 GiB.
    pub(super) fn push(&mut self, text: &str) -> Option<()> {
        u32::try_from(text.len()).ok()?;
        let number = u32::try_from(self.starts.len()).ok()?;
        if self.firsts.is_empty() || self.open.capacity() - self.open.len() < text.len() {
            let size = (self.length / 8).clamp(SMALLEST_BLOCK, LARGEST_BLOCK).max(text.len());
            self.close(String::with_capacity(size));
            self.firsts.push(number);
        }
        self.starts.push(u32::try_from(self.open.len()).ok()?);
        self.open.push_str(text);
        self.length += text.len();
        Some(())
    }

    /// Gives back what is held in reserve; nothing more is added after this.
    pub(super) fn shrink(&mut self) {
        self.close(String::new());
        self.full.shrink_to_fit();
        self.firsts.shrink_to_fit();
        self.starts.shrink_to_fit();
    }

    fn close(&mut self, next: String) {
        let done = std::mem::replace(&mut self.open, next);
        if !self.firsts.is_empty() {
            self.full.push(done.into_boxed_str());
        }
    }

    /// Bytes `from` to `to` of a piece.
    pub(super) fn text(&self, piece: u32, from: u32, to: u32) -> &str {
        let block = self.firsts.partition_point(|first| *first <= piece) - 1;
        let block = self.full.get(block).map_or(self.open.as_str(), |block| block);
        let start = self.starts[piece as usize] as usize;
        &block[start + from as usize..start + to as usize]
    }

    /// Bytes of text held.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Bytes allocated.
    pub(super) fn allocated(&self) -> usize {
        let blocks: usize = self.full.iter().map(|block| block.len()).sum();
        let numbers = (self.firsts.capacity() + self.starts.capacity()) * size_of::<u32>();
        blocks + self.open.capacity() + self.full.capacity() * size_of::<Box<str>>() + numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_back_as_they_went_in_whatever_their_size() {
        let mut arena = Arena::default();
        let pieces: Vec<String> = (0..300).map(|i| "é".repeat(i * i % 7919)).collect();
        pieces.iter().for_each(|piece| arena.push(piece).unwrap());
        let check = |arena: &Arena| {
            for (number, piece) in (0..).zip(&pieces) {
                assert_eq!(arena.text(number, 0, piece.len() as u32), piece);
            }
        };
        check(&arena);
        assert!(arena.allocated() < arena.len() * 5 / 4, "{} for {}", arena.allocated(), arena.len());
        arena.shrink();
        check(&arena);
        assert_eq!(arena.len(), pieces.iter().map(String::len).sum::<usize>());
    }
}
