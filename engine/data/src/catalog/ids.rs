//! From an id to its ordinal, without holding the ids a second time.

use std::hash::{BuildHasher, RandomState};

use querywright_types::Ordinal;

/// An open-addressed hash table of ordinals; the ids themselves stay with the documents and are asked for by ordinal.
/// It takes 4.6 bytes a document once shrunk, 11 at most before. The hash is keyed at random, so no list of ids can be
/// made to collide.
#[derive(Debug, Default)]
pub(super) struct IdTable {
    slots: Vec<Ordinal>,
    filled: usize,
    hasher: RandomState,
}

const FREE: Ordinal = Ordinal::MAX;

impl IdTable {
    /// The ordinal of `id`, if it is known.
    pub(super) fn find<'a>(&self, id: &str, id_of: impl Fn(Ordinal) -> &'a str) -> Option<Ordinal> {
        self.probe(id).find_map(|slot| match self.slots[slot] {
            FREE => Some(None),
            ordinal => (id_of(ordinal) == id).then_some(Some(ordinal)),
        })?
    }

    /// Adds an id that is not there yet.
    pub(super) fn insert<'a>(&mut self, id: &str, ordinal: Ordinal, id_of: impl Fn(Ordinal) -> &'a str) {
        if (self.filled + 1) * 4 > self.slots.len() * 3 {
            self.resize((self.slots.len() * 2).max(16), id_of);
        }
        self.place(id, ordinal);
        self.filled += 1;
    }

    /// Gives back what is held for further ids.
    pub(super) fn shrink<'a>(&mut self, id_of: impl Fn(Ordinal) -> &'a str) {
        self.resize((self.filled * 8).div_ceil(7), id_of);
    }

    fn resize<'a>(&mut self, slots: usize, id_of: impl Fn(Ordinal) -> &'a str) {
        let known = std::mem::replace(&mut self.slots, vec![FREE; slots]);
        known.into_iter().filter(|known| *known != FREE).for_each(|known| self.place(id_of(known), known));
    }

    /// A slot is always free: at least a quarter of them while ids are added, and one in eight after [`shrink`](Self::shrink).
    fn place(&mut self, id: &str, ordinal: Ordinal) {
        if let Some(slot) = self.probe(id).find(|slot| self.slots[*slot] == FREE) {
            self.slots[slot] = ordinal;
        }
    }

    /// The slots where `id` may be, in the order to look.
    fn probe(&self, id: &str) -> impl Iterator<Item = usize> + use<> {
        let slots = self.slots.len();
        let first = self.hasher.hash_one(id) as usize % slots.max(1);
        (first..slots).chain(0..first.min(slots))
    }

    /// Bytes allocated.
    pub(super) fn allocated(&self) -> usize {
        self.slots.capacity() * size_of::<Ordinal>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_found_and_no_other() {
        let ids: Vec<String> = (0..5000).map(|i| format!("id{i}")).collect();
        let id_of = |ordinal: Ordinal| ids[ordinal as usize].as_str();
        let mut table = IdTable::default();
        assert_eq!(table.find("id0", id_of), None);
        for (ordinal, id) in ids.iter().enumerate() {
            table.insert(id, ordinal as Ordinal, id_of);
        }
        table.shrink(id_of);
        assert!(table.allocated() < 5000 * 5);
        assert!(ids.iter().enumerate().all(|(ordinal, id)| table.find(id, id_of) == Some(ordinal as Ordinal)));
        assert_eq!(table.find("id5000", id_of), None);
        assert_eq!(table.find("", id_of), None);
    }
}
