//! Ordinals for documents whose ids an engine knows.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use querywright_types::{DocumentName, Ordinal};

/// Documents that are remembered at most.
const MOST: usize = 50_000_000;

/// Ids with their ordinals: those of a catalogue, or, where there is none, in the order in which they were found. An ordinal
/// stays what it is.
#[derive(Debug, Default)]
pub(crate) struct Names {
    table: RwLock<Table>,
    /// Whether there are no others than those of a catalogue.
    closed: bool,
}

#[derive(Debug, Default)]
struct Table {
    ordinals: HashMap<String, Ordinal>,
    names: Vec<DocumentName>,
}

impl Names {
    /// With the ids of a catalogue, in the order of its ordinals.
    pub(crate) fn of(ids: impl IntoIterator<Item = String>) -> Self {
        let mut table = Table::default();
        for id in ids {
            table.add(id, "");
        }
        Self { table: RwLock::new(table), closed: true }
    }

    /// The ordinals of documents with their titles.
    ///
    /// # Errors
    /// The id that a catalogue lacks, or that is one too many.
    pub(crate) fn ordinals<'a>(
        &self,
        found: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Result<Vec<Ordinal>, &'a str> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let known = |(id, title): (&str, &str)| {
            let ordinal = *table.ordinals.get(id)?;
            let named = title.is_empty() || table.names.get(ordinal as usize).is_some_and(|name| name.title == title);
            named.then_some(ordinal)
        };
        if let Some(all) = found.clone().map(known).collect() {
            return Ok(all);
        }
        drop(table);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let add = |(id, title): (&'a str, &str)| {
            let strange = self.closed && !table.ordinals.contains_key(id);
            if strange { None } else { table.add(id.to_owned(), title) }.ok_or(id)
        };
        found.map(add).collect()
    }

    /// How many documents there are at most, where that is known.
    pub(crate) fn count(&self) -> Option<usize> {
        self.closed.then(|| self.table.read().unwrap_or_else(PoisonError::into_inner).names.len())
    }

    pub(crate) fn name(&self, document: Ordinal) -> Option<DocumentName> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).names.get(document as usize).cloned()
    }

    pub(crate) fn ordinal(&self, id: &str) -> Option<Ordinal> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).ordinals.get(id).copied()
    }
}

impl Table {
    /// The ordinal of an id. Its title is the last one that was told.
    fn add(&mut self, id: String, title: &str) -> Option<Ordinal> {
        if let Some(ordinal) = self.ordinals.get(&id).copied() {
            if !title.is_empty() {
                self.names[ordinal as usize] = DocumentName::new(id, title);
            }
            return Some(ordinal);
        }
        let ordinal = Ordinal::try_from(self.names.len()).ok().filter(|_| self.names.len() < MOST)?;
        self.names.push(DocumentName::new(id.clone(), title));
        self.ordinals.insert(id, ordinal);
        Some(ordinal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_stay_and_titles_are_learned() {
        let names = Names::default();
        let ask = |found: &[(&str, &str)]| names.ordinals(found.iter().copied()).unwrap();
        assert_eq!(ask(&[("a", ""), ("c", "Sea"), ("d", "")]), [0, 1, 2]);
        assert_eq!(ask(&[("a", "Bee"), ("c", "")]), [0, 1]);
        assert_eq!((names.name(1).unwrap().title.as_str(), names.name(0).unwrap().title.as_str()), ("Sea", "Bee"));
        assert_eq!((names.ordinal("d"), names.ordinal("x"), names.name(9)), (Some(2), None, None));
        let closed = Names::of(["a".to_owned(), "b".to_owned()]);
        assert_eq!(closed.ordinals([("b", "Bee"), ("a", "")].into_iter()), Ok(vec![1, 0]));
        assert_eq!(closed.ordinals([("b", ""), ("c", "")].into_iter()), Err("c"));
        assert_eq!((closed.count(), closed.ordinal("c"), names.count()), (Some(2), None, None));
    }
}
