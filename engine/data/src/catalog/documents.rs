//! The documents of a catalogue.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::arena::Arena;
use super::ids::IdTable;
use super::lines::quoted;
use querywright_types::{DocumentName, Documents, Error, Ordinal, Result, hex};

/// Documents with ids and named text fields, in a fixed order, read-only once built.
///
/// Memory: the text (ids and field values) lies once, in blocks that are never moved. A document adds 17 bytes, a field
/// 6, whatever the length of the text. So a catalogue stays below twice the text held as soon as its documents hold 17
/// bytes and 6 more a field on average, which is a short title; see [`Catalog::text_bytes`] and
/// [`Catalog::memory_bytes`].
#[derive(Debug, Default)]
pub struct Catalog {
    store: Store,
    table: IdTable,
    digest: String,
}

/// What both a finished catalogue and its builder hold.
#[derive(Debug, Default)]
struct Store {
    arena: Arena,
    entries: Vec<Entry>,
    /// Where each field's value ends, in bytes after the beginning of its document, all documents after one another.
    ends: Vec<u32>,
    /// Which of `names` each field has; as long as `ends`.
    named: Vec<u16>,
    names: Vec<String>,
}

/// One document: its piece of the arena is the id, then the values of its fields.
#[derive(Debug, Clone, Copy)]
struct Entry {
    id_end: u32,
    /// The first of its fields in `ends` and `named`; the next document's first is the end.
    fields: u32,
}

impl Store {
    fn id(&self, ordinal: Ordinal) -> &str {
        self.arena.text(ordinal, 0, self.entries[ordinal as usize].id_end)
    }

    fn fields(&self, ordinal: Ordinal) -> impl Iterator<Item = (&str, &str)> {
        let entry = self.entries[ordinal as usize];
        let next = self.entries.get(ordinal as usize + 1).map_or(self.ends.len(), |next| next.fields as usize);
        let mut start = entry.id_end;
        (entry.fields as usize..next).map(move |field| {
            let end = self.ends[field];
            let value = self.arena.text(ordinal, std::mem::replace(&mut start, end), end);
            (self.names[self.named[field] as usize].as_str(), value)
        })
    }
}

impl Documents for Catalog {
    fn document(&self, document: Ordinal) -> Option<DocumentName> {
        let known = (document as usize) < self.len();
        known.then(|| DocumentName::new(self.id(document), self.document(document).title()))
    }
}

impl Catalog {
    /// How many documents.
    pub fn len(&self) -> usize {
        self.store.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The document at `ordinal`.
    ///
    /// # Panics
    /// When `ordinal` is not below [`len`](Self::len), as a slice does. Ordinals that come from outside (a plugin, a
    /// file) are checked where they come in.
    pub fn document(&self, ordinal: Ordinal) -> DocumentRef<'_> {
        DocumentRef { id: self.store.id(ordinal), ordinal, catalog: self }
    }

    /// All documents in order.
    pub fn documents(&self) -> impl ExactSizeIterator<Item = DocumentRef<'_>> {
        (0..self.len()).map(|ordinal| self.document(ordinal as Ordinal))
    }

    /// The ordinal of the document with this id.
    pub fn ordinal(&self, id: &str) -> Option<Ordinal> {
        self.table.find(id, |ordinal| self.store.id(ordinal))
    }

    /// The id of the document at `ordinal`.
    ///
    /// # Panics
    /// When `ordinal` is not below [`len`](Self::len).
    pub fn id(&self, ordinal: Ordinal) -> &str {
        self.store.id(ordinal)
    }

    /// The names of all fields that any document has, in the order in which they first came.
    pub fn field_names(&self) -> &[String] {
        &self.store.names
    }

    /// The SHA-256, in hexadecimal, of all ids and fields in their order: equal exactly for equal catalogues.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Bytes of text held: ids and values of fields.
    pub fn text_bytes(&self) -> usize {
        self.store.arena.len()
    }

    /// Bytes of memory allocated, text included.
    pub fn memory_bytes(&self) -> usize {
        let Store { arena, entries, ends, named, names } = &self.store;
        arena.allocated()
            + entries.capacity() * size_of::<Entry>()
            + ends.capacity() * size_of::<u32>()
            + named.capacity() * size_of::<u16>()
            + names.iter().map(|name| name.capacity() + size_of::<String>()).sum::<usize>()
            + self.table.allocated()
    }
}

/// One document of a [`Catalog`].
#[derive(Debug, Clone, Copy)]
pub struct DocumentRef<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its position in the catalogue.
    pub ordinal: Ordinal,
    catalog: &'a Catalog,
}

impl<'a> DocumentRef<'a> {
    /// The fields as (name, text), in the order of the source. Only fields that hold text are there.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.catalog.store.fields(self.ordinal)
    }

    /// The text of one field; none when the document lacks it.
    pub fn field(&self, name: &str) -> Option<&'a str> {
        self.fields().find_map(|(known, text)| (known == name).then_some(text))
    }

    /// The text of the field `title`, empty when there is none.
    pub fn title(&self) -> &'a str {
        self.field("title").unwrap_or_default()
    }

    /// The text of all fields in their order, joined by line ends (so that no sentence runs into the next).
    pub fn text_of_all_fields(&self) -> String {
        self.fields().map(|(_, text)| text).collect::<Vec<_>>().join("\n")
    }
}

/// The most names of fields that a catalogue may have, as in other search engines: what has more has values for names.
pub const MOST_FIELD_NAMES: usize = 1000;

/// Takes documents one by one and becomes a [`Catalog`].
#[derive(Debug, Default)]
pub struct CatalogBuilder {
    store: Store,
    /// The position of each of the store's names.
    numbers: HashMap<String, u16>,
    table: IdTable,
    hasher: Sha256,
    /// The text of the document that is being added.
    text: String,
}

impl CatalogBuilder {
    /// Without documents.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a document and returns its ordinal. Fields without text count as absent.
    ///
    /// # Errors
    /// When the id is empty or was there before, or there are more than [`MOST_FIELD_NAMES`] names of fields. The document
    /// is then not added.
    pub fn push<N: AsRef<str>, T: AsRef<str>>(
        &mut self,
        id: &str,
        fields: impl IntoIterator<Item = (N, T)>,
    ) -> Result<Ordinal> {
        if id.is_empty() {
            return Err(Error::argument("id", "the document's id is empty", "give every document an id of its own"));
        }
        if let Some(first) = self.table.find(id, |ordinal| self.store.id(ordinal)) {
            return Err(Error::argument(
                "id",
                format!("the id \"{id}\" was given to document {} before", first + 1),
                "give every document an id of its own, or remove the repetition",
            ));
        }
        let too_much = |what: &str| {
            Error::argument("documents", format!("too many {what} for one catalogue"), "split it into several")
        };
        let ordinal = Ordinal::try_from(self.store.entries.len()).map_err(|_| too_much("documents"))?;
        let before = (self.store.ends.len(), self.store.names.len());
        let fields_start = u32::try_from(before.0).map_err(|_| too_much("fields"))?;
        self.text.clear();
        self.text.push_str(id);
        for (name, value) in fields.into_iter().filter(|(_, value)| !value.as_ref().is_empty()) {
            self.text.push_str(value.as_ref());
            let Some(named) = self.name(name.as_ref()) else {
                self.forget(before);
                return Err(Error::argument(
                    "fields",
                    format!("the field {} is one more than {MOST_FIELD_NAMES} different names", quoted(name.as_ref())),
                    "keep names of fields few: put what varies into the text of one field",
                ));
            };
            let Ok(end) = u32::try_from(self.text.len()) else {
                self.forget(before);
                return Err(too_much("bytes in one document"));
            };
            self.store.ends.push(end);
            self.store.named.push(named);
        }
        if self.store.arena.push(&self.text).is_none() {
            self.forget(before);
            return Err(too_much("bytes"));
        }
        self.store.entries.push(Entry { id_end: id.len() as u32, fields: fields_start });
        self.table.insert(id, ordinal, |ordinal| self.store.id(ordinal));
        self.hash(ordinal);
        Ok(ordinal)
    }

    /// The catalogue of what was added.
    pub fn finish(mut self) -> Catalog {
        self.store.arena.shrink();
        self.table.shrink(|ordinal| self.store.id(ordinal));
        self.store.entries.shrink_to_fit();
        self.store.ends.shrink_to_fit();
        self.store.named.shrink_to_fit();
        Catalog { store: self.store, table: self.table, digest: hex(self.hasher.finalize()) }
    }

    /// The number of a field's name; none when there are too many names.
    fn name(&mut self, name: &str) -> Option<u16> {
        if let Some(number) = self.numbers.get(name) {
            return Some(*number);
        }
        let number = u16::try_from(self.store.names.len()).ok().filter(|n| usize::from(*n) < MOST_FIELD_NAMES)?;
        self.store.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        Some(number)
    }

    /// Takes back fields and names that came after these numbers of them.
    fn forget(&mut self, (fields, names): (usize, usize)) {
        self.store.ends.truncate(fields);
        self.store.named.truncate(fields);
        self.store.names.truncate(names);
        self.numbers.retain(|_, number| usize::from(*number) < names);
    }

    /// Lengths go before texts, so that no two different catalogues hash the same bytes.
    fn hash(&mut self, ordinal: Ordinal) {
        let hasher = &mut self.hasher;
        let mut update = |text: &str| {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        update(self.store.id(ordinal));
        for (name, value) in self.store.fields(ordinal) {
            update(name);
            update(value);
        }
        self.hasher.update(u64::MAX.to_le_bytes());
    }
}
