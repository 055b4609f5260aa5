//! What a retriever answers, and what is known to be right.

use crate::Ordinal;

/// One ranked document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// The document.
    pub doc: Ordinal,
    /// The retriever's score; higher is better. Always finite.
    pub score: f32,
}

/// What a document is called.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct DocumentName {
    /// Its id.
    pub id: String,
    /// Its title; empty when it has none.
    pub title: String,
}

impl DocumentName {
    /// A document of this id and title; the title may be empty.
    pub fn new(id: impl Into<String>, title: impl Into<String>) -> Self {
        Self { id: id.into(), title: title.into() }
    }
}

/// Ranked documents, best first; every document at most once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ranking {
    /// The hits, best first.
    pub hits: Vec<Hit>,
}

impl Ranking {
    /// The best `k` of these hits, each document once among them, without those that the request excludes; of equal scores
    /// the lower ordinal goes first.
    pub fn best(hits: impl Iterator<Item = Hit>, request: &crate::Request) -> Self {
        let mut excluded = request.exclude.clone();
        excluded.sort_unstable();
        let mut hits: Vec<Hit> = hits.filter(|hit| excluded.binary_search(&hit.doc).is_err()).collect();
        let order = |a: &Hit, b: &Hit| b.score.total_cmp(&a.score).then(a.doc.cmp(&b.doc));
        if request.k < hits.len() {
            hits.select_nth_unstable_by(request.k, order);
            hits.truncate(request.k);
        }
        hits.sort_unstable_by(order);
        Self { hits }
    }
}

/// The relevance judgements of one query: (document, grade) sorted by document, every document once.
/// A grade above 0 is relevant; negative grades count as 0 gain, as in trec_eval.
///
/// Judgements of documents that the catalogue lacks are kept apart, by id. No ranking can hold such a document, and it
/// counts among the relevant ones and in the ideal ranking all the same, as in trec_eval.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judgements {
    grades: Vec<(Ordinal, i32)>,
    absent: Vec<(String, i32)>,
}

impl Judgements {
    /// Sorts by document; of equal documents the last one stays.
    pub fn new(mut grades: Vec<(Ordinal, i32)>) -> Self {
        grades.reverse();
        grades.sort_by_key(|g| g.0);
        grades.dedup_by_key(|g| g.0);
        Self { grades, absent: Vec::new() }
    }

    /// Adds the grades of documents that the catalogue lacks, by id. Sorts by id; of equal ids the last one stays.
    pub fn with_absent(mut self, mut absent: Vec<(String, i32)>) -> Self {
        absent.reverse();
        absent.sort_by(|a, b| a.0.cmp(&b.0));
        absent.dedup_by(|a, b| a.0 == b.0);
        self.absent = absent;
        self
    }

    /// The grade of a document, none when it was not judged.
    pub fn grade(&self, doc: Ordinal) -> Option<i32> {
        self.grades.binary_search_by_key(&doc, |g| g.0).ok().map(|i| self.grades[i].1)
    }

    /// The judgements of documents that the catalogue has, sorted by document.
    pub fn iter(&self) -> impl Iterator<Item = (Ordinal, i32)> + '_ {
        self.grades.iter().copied()
    }

    /// The judgements of documents that the catalogue lacks, sorted by id.
    pub fn absent(&self) -> impl ExactSizeIterator<Item = (&str, i32)> {
        self.absent.iter().map(|(id, grade)| (id.as_str(), *grade))
    }

    /// The grades of all documents, absent ones last.
    pub fn grades(&self) -> impl Iterator<Item = i32> + '_ {
        self.iter().map(|(_, grade)| grade).chain(self.absent().map(|(_, grade)| grade))
    }

    /// How many documents are relevant (grade above 0), absent ones included.
    pub fn relevant(&self) -> usize {
        self.grades().filter(|grade| *grade > 0).count()
    }

    /// How many relevant documents a ranking can hold: those that the catalogue has.
    pub fn findable(&self) -> usize {
        self.grades.iter().filter(|g| g.1 > 0).count()
    }

    /// How many documents are judged, absent ones included.
    pub fn len(&self) -> usize {
        self.grades.len() + self.absent.len()
    }

    /// Whether nothing is judged.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
