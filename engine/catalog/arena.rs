//! Text in blocks that are never moved.

/// Text that only grows. One growing string would stand twice in memory each time it moves to a larger place; here
/// full blocks stay where they are, and an unfinished block is at most an eighth of the text before it. So the peak
/// while building stays near the text itself.
#[derive(Debug, Default)]
pub(super) struct Arena {
    full: Vec<Box<str>>,
    open: String,
    length: usize,
}

/// Where a piece of text lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    block: u32,
    start: u32,
}

const SMALLEST_BLOCK: usize = 4 << 10;
const LARGEST_BLOCK: usize = 1 << 20;

impl Arena {
    /// Adds `text` in one piece; none when it is longer than 4 GiB.
    pub(super) fn push(&mut self, text: &str) -> Option<Place> {
        u32::try_from(text.len()).ok()?;
        if self.open.capacity() - self.open.len() < text.len() {
            let size = (self.length / 8).clamp(SMALLEST_BLOCK, LARGEST_BLOCK).max(text.len());
            self.close(String::with_capacity(size));
        }
        let place = Place { block: u32::try_from(self.full.len()).ok()?, start: u32::try_from(self.open.len()).ok()? };
        self.open.push_str(text);
        self.length += text.len();
        Some(place)
    }

    /// Gives back what the unfinished block holds in reserve.
    pub(super) fn shrink(&mut self) {
        self.close(String::new());
        self.full.shrink_to_fit();
    }

    fn close(&mut self, next: String) {
        let done = std::mem::replace(&mut self.open, next);
        if !done.is_empty() {
            self.full.push(done.into_boxed_str());
        }
    }

    /// The text from `from` to `to` bytes after `place`.
    pub(super) fn text(&self, place: Place, from: u32, to: u32) -> &str {
        let block = self.full.get(place.block as usize).map_or(self.open.as_str(), |block| block);
        &block[place.start as usize + from as usize..place.start as usize + to as usize]
    }

    /// Bytes of text held.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Bytes allocated.
    pub(super) fn allocated(&self) -> usize {
        let blocks: usize = self.full.iter().map(|block| block.len()).sum();
        blocks + self.open.capacity() + self.full.capacity() * size_of::<Box<str>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_back_as_they_went_in_whatever_their_size() {
        let mut arena = Arena::default();
        let pieces: Vec<String> = (0..300).map(|i| "é".repeat(i * i % 7919)).collect();
        let places: Vec<Place> = pieces.iter().map(|piece| arena.push(piece).unwrap()).collect();
        let check = |arena: &Arena| {
            for (piece, place) in pieces.iter().zip(&places) {
                assert_eq!(arena.text(*place, 0, piece.len() as u32), piece);
            }
        };
        check(&arena);
        assert!(arena.allocated() < arena.len() * 5 / 4, "{} for {}", arena.allocated(), arena.len());
        arena.shrink();
        check(&arena);
        assert_eq!(arena.len(), pieces.iter().map(String::len).sum::<usize>());
    }
}
