//! Relevance judgements.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::documents::Catalog;
use super::lines::{Line, Lines, quoted};
use querywright_types::{Error, Judgements, Ordinal, Result};

/// The judgements of all queries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Qrels {
    queries: BTreeMap<String, Judgements>,
}

/// How the lines of a file of judgements are laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// `query 0 document grade`, between white space.
    Trec,
    /// `query document grade`, between tabs, under a header.
    Beir,
}

const TREC_LINE: &str = "one judgement a line: query id, 0, document id, grade, with white space between";
const BEIR_LINE: &str = "the header query-id, corpus-id, score, then one judgement a line, with tabs between";

impl Qrels {
    /// Reads TREC qrels (`query 0 document grade`).
    ///
    /// # Errors
    /// When the file cannot be read, is empty, or holds a line with other columns, a document that is not in
    /// `catalog`, a grade that is not a whole number, or a pair that was judged before.
    pub fn read(path: impl AsRef<Path>, catalog: &Catalog) -> Result<Self> {
        Ok(read(path.as_ref(), Layout::Trec, catalog, |_| true)?.0)
    }

    /// Writes TREC qrels, sorted by query id, then by ordinal.
    ///
    /// # Errors
    /// When the file cannot be written, or an id holds white space, which the format cannot carry.
    pub fn write(&self, path: impl AsRef<Path>, catalog: &Catalog) -> Result<()> {
        let path = path.as_ref();
        let broken = |e| Error::write(path, e);
        let mut file = BufWriter::new(File::create(path).map_err(broken)?);
        for (query, judgements) in self.iter() {
            for (document, grade) in judgements.iter() {
                let (query, document) = (one_word(path, query)?, one_word(path, catalog.id(document))?);
                writeln!(file, "{query}\t0\t{document}\t{grade}").map_err(broken)?;
            }
        }
        file.flush().map_err(broken)
    }

    /// The judgements of one query; none when nothing was judged for it.
    pub fn get(&self, query: &str) -> Option<&Judgements> {
        self.queries.get(query)
    }

    /// Sets the judgements of one query; returns those that it had.
    pub fn insert(&mut self, query: impl Into<String>, judgements: Judgements) -> Option<Judgements> {
        self.queries.insert(query.into(), judgements)
    }

    /// All queries with their judgements, sorted by query id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Judgements)> {
        self.queries.iter().map(|(query, judgements)| (query.as_str(), judgements))
    }

    /// How many queries have judgements.
    pub fn len(&self) -> usize {
        self.queries.len()
    }

    /// Whether nothing was judged.
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }

    /// How many judgements there are over all queries.
    pub fn judgements(&self) -> usize {
        self.queries.values().map(Judgements::len).sum()
    }
}

impl<Q: Into<String>> FromIterator<(Q, Judgements)> for Qrels {
    fn from_iter<I: IntoIterator<Item = (Q, Judgements)>>(queries: I) -> Self {
        Self { queries: queries.into_iter().map(|(query, judgements)| (query.into(), judgements)).collect() }
    }
}

/// Reads a file of judgements. Returns the query ids in the order of the file too: in BEIR they make the split.
pub(super) fn read(
    path: &Path,
    layout: Layout,
    catalog: &Catalog,
    knows_query: impl Fn(&str) -> bool,
) -> Result<(Qrels, Vec<String>)> {
    let expected = if layout == Layout::Beir { BEIR_LINE } else { TREC_LINE };
    let mut lines = Lines::open(path, expected)?;
    let mut order: Vec<String> = Vec::new();
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    let mut grades: Vec<Vec<(Ordinal, i32)>> = Vec::new();
    let mut judged = HashSet::new();
    while let Some(line) = lines.next()? {
        let Some((query, document, grade)) = columns(&line, layout)? else { continue };
        let number = match numbers.get(query) {
            Some(number) => *number,
            None if !knows_query(query) => {
                return Err(line.refuse(
                    format!("the query {} is not among the queries", quoted(query)),
                    "add it to queries.jsonl, or remove the line",
                ));
            }
            None => {
                numbers.insert(query.to_owned(), order.len());
                order.push(query.to_owned());
                grades.push(Vec::new());
                order.len() - 1
            }
        };
        let Some(ordinal) = catalog.ordinal(document) else {
            return Err(line.refuse(
                format!("the document {} is not in the corpus", quoted(document)),
                "add it to the corpus, or remove the line",
            ));
        };
        let Ok(grade) = grade.parse::<i32>() else {
            return Err(line.refuse(
                format!("the grade is {}", quoted(grade)),
                "a grade is a whole number: 0 for not relevant, 1 or more for relevant",
            ));
        };
        if !judged.insert((number, ordinal)) {
            return Err(line.refuse(
                format!("document {} was judged for query {} before", quoted(document), quoted(query)),
                "keep one of the two lines",
            ));
        }
        grades[number].push((ordinal, grade));
    }
    let judgements = grades.into_iter().map(Judgements::new);
    let qrels = order.iter().cloned().zip(judgements).collect();
    Ok((qrels, order))
}

/// The query, document and grade of a line; none for the header.
fn columns<'a>(line: &Line<'a>, layout: Layout) -> Result<Option<(&'a str, &'a str, &'a str)>> {
    let wrong = |expected: &str, found: usize| {
        line.refuse(format!("found {found} columns in {}", quoted(line.text)), format!("expected {expected}"))
    };
    match layout {
        Layout::Trec => match line.text.split_whitespace().collect::<Vec<_>>()[..] {
            [query, _, document, grade] => Ok(Some((query, document, grade))),
            ref other => Err(wrong(TREC_LINE, other.len())),
        },
        Layout::Beir => match line.text.split('\t').map(str::trim).collect::<Vec<_>>()[..] {
            ["query-id", _, _] if line.number == 1 => Ok(None),
            [query, document, grade] => Ok(Some((query, document, grade))),
            ref other => Err(wrong(BEIR_LINE, other.len())),
        },
    }
}

/// An id that may stand in a TREC file, where white space separates.
pub(super) fn one_word<'a>(path: &Path, id: &'a str) -> Result<&'a str> {
    if id.is_empty() || id.contains(char::is_whitespace) {
        return Err(Error::data(
            path,
            None,
            format!("the id {} cannot be written to a TREC file", quoted(id)),
            "use ids without white space",
        ));
    }
    Ok(id)
}
