//! Relevance judgements.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::Path;

use super::documents::Catalog;
use super::lines::{Line, Lines, NAMED, NAMED_STRICTLY, quoted};
use super::warning::{Warning, WarningKind, Warnings};
use querywright_types::{Error, Judgements, Ordinal, Output, Result};

/// The judgements of all queries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Qrels {
    queries: BTreeMap<String, Judgements>,
    warnings: Vec<Warning>,
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
    /// Reads TREC qrels (`query 0 document grade`). Documents that are not in `catalog` are kept by id, and a judgement
    /// that stands twice counts once, as in trec_eval; [`warnings`](Self::warnings) count both.
    ///
    /// # Errors
    /// When the file cannot be read, is empty, or holds lines with other columns, a grade that is not a whole number, or
    /// another grade than the pair had before. The error names the first ten of them.
    pub fn read(path: impl AsRef<Path>, catalog: &Catalog) -> Result<Self> {
        Ok(read(path.as_ref(), Layout::Trec, catalog, |_| true, false)?.0)
    }

    /// Writes TREC qrels, sorted by query id, then by ordinal, documents that the catalogue lacks last. The file is
    /// complete or as it was.
    ///
    /// # Errors
    /// When the file cannot be written, or an id holds white space, which the format cannot carry.
    pub fn write(&self, path: impl AsRef<Path>, catalog: &Catalog) -> Result<()> {
        let path = path.as_ref();
        let mut text = String::new();
        for (query, judgements) in self.iter() {
            let present = judgements.iter().map(|(document, grade)| (catalog.id(document), grade));
            for (document, grade) in present.chain(judgements.absent()) {
                let (query, document) = (one_word(path, query)?, one_word(path, document)?);
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{query}\t0\t{document}\t{grade}");
            }
        }
        Output::open(path)?.write(text.as_bytes())
    }

    /// What was read in another way than it is written: absent documents and repeated judgements.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Takes the judgements of a query out.
    pub(super) fn remove(&mut self, query: &str) {
        self.queries.remove(query);
    }

    /// Adds the judgements of other queries. Gives back a query that both have; then it may have added some.
    pub(super) fn append(&mut self, other: Self) -> Option<String> {
        for (query, judgements) in other.queries {
            if self.queries.contains_key(&query) {
                return Some(query);
            }
            self.queries.insert(query, judgements);
        }
        let mut warnings = Warnings::default();
        warnings.extend(std::mem::take(&mut self.warnings));
        warnings.extend(other.warnings);
        self.warnings = warnings.into_vec();
        None
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
        let queries = queries.into_iter().map(|(query, judgements)| (query.into(), judgements)).collect();
        Self { queries, warnings: Vec::new() }
    }
}

/// The judgements of one query while they are read: of documents of the catalogue, and of others by id.
#[derive(Default)]
struct Graded {
    present: HashMap<Ordinal, i32>,
    absent: HashMap<String, i32>,
}

impl Graded {
    /// Adds a grade; returns the one that the document had.
    fn insert(&mut self, document: &str, ordinal: Option<Ordinal>, grade: i32) -> Option<i32> {
        match ordinal {
            Some(ordinal) => {
                let before = self.present.get(&ordinal).copied();
                self.present.entry(ordinal).or_insert(grade);
                before
            }
            None => {
                let before = self.absent.get(document).copied();
                if before.is_none() {
                    self.absent.insert(document.to_owned(), grade);
                }
                before
            }
        }
    }
}

/// Judgements while a file is read.
pub(super) struct Judging<'a> {
    path: &'a Path,
    catalog: &'a Catalog,
    strict: bool,
    order: Vec<String>,
    numbers: HashMap<String, usize>,
    graded: Vec<Graded>,
    warnings: Warnings,
}

impl<'a> Judging<'a> {
    /// Of a file. `strict` refuses absent documents and repeated judgements.
    pub(super) fn new(path: &'a Path, catalog: &'a Catalog, strict: bool) -> Self {
        let (order, graded, warnings) = Default::default();
        Self { path, catalog, strict, order, numbers: HashMap::new(), graded, warnings }
    }

    /// Adds a judgement.
    pub(super) fn add(&mut self, line: &Line<'_>, query: &str, document: &str, grade: i32) -> Result<()> {
        let number = match self.numbers.get(query) {
            Some(number) => *number,
            None => {
                self.numbers.insert(query.to_owned(), self.order.len());
                self.order.push(query.to_owned());
                self.graded.push(Graded::default());
                self.order.len() - 1
            }
        };
        let ordinal = self.catalog.ordinal(document);
        let doubtful = match self.graded[number].insert(document, ordinal, grade) {
            Some(before) if before != grade => {
                let found =
                    format!("document {} was judged {before} for query {} before", quoted(document), quoted(query));
                return Err(line.refuse(found, "keep one of the two lines"));
            }
            Some(_) => Warning::new(WarningKind::RepeatedJudgements, self.path, format!("{query} {document}")),
            None if ordinal.is_none() => Warning::new(WarningKind::AbsentDocuments, self.path, document),
            None => return Ok(()),
        };
        if self.strict {
            return Err(refused(line, query, document, doubtful.kind));
        }
        self.warnings.add(doubtful);
        Ok(())
    }

    /// The judgements, and the query ids in the order in which they came.
    pub(super) fn finish(self) -> (Qrels, Vec<String>) {
        let judgements = self.graded.into_iter().map(|graded| {
            Judgements::new(graded.present.into_iter().collect()).with_absent(graded.absent.into_iter().collect())
        });
        let queries = self.order.iter().cloned().zip(judgements).collect();
        (Qrels { queries, warnings: self.warnings.into_vec() }, self.order)
    }
}

/// Reads a file of judgements. Returns the query ids in the order of the file too: in BEIR they make the split. `strict`
/// refuses absent documents and repeated judgements, naming all.
pub(super) fn read(
    path: &Path,
    layout: Layout,
    catalog: &Catalog,
    knows_query: impl Fn(&str) -> bool,
    strict: bool,
) -> Result<(Qrels, Vec<String>)> {
    let lines = Lines::open(path, if layout == Layout::Beir { BEIR_LINE } else { TREC_LINE })?;
    let mut judging = Judging::new(path, catalog, strict);
    lines.each(if strict { NAMED_STRICTLY } else { NAMED }, |line| {
        let Some((query, document, grade)) = columns(&line, layout)? else { return Ok(()) };
        if !knows_query(query) {
            return Err(line.refuse(
                format!("the query {} is not among the queries", quoted(query)),
                "add it to queries.jsonl, or remove the line",
            ));
        }
        let Ok(grade) = grade.parse::<i32>() else {
            return Err(line.refuse(
                format!("the grade is {}", quoted(grade)),
                "a grade is a whole number: 0 for not relevant, 1 or more for relevant",
            ));
        };
        judging.add(&line, query, document, grade)
    })?;
    Ok(judging.finish())
}

/// What is a warning elsewhere, as the error of strict reading.
fn refused(line: &Line, query: &str, document: &str, kind: WarningKind) -> Error {
    match kind {
        WarningKind::AbsentDocuments => line.refuse(
            format!("the document {} is not in the corpus", quoted(document)),
            "add it to the corpus, remove the line, or leave --strict out",
        ),
        _ => line.refuse(
            format!("document {} was judged for query {} before", quoted(document), quoted(query)),
            "keep one of the two lines, or leave --strict out",
        ),
    }
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
            ["", _, _] | [_, "", _] => {
                let found = format!("found an empty id in {}", quoted(line.text));
                Err(line.refuse(found, format!("expected {BEIR_LINE}")))
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::CatalogBuilder;
    use crate::metrics::Measure;

    fn catalog() -> Catalog {
        let mut builder = CatalogBuilder::new();
        for id in ["d1", "d2", "d3"] {
            builder.push(id, [("t", "x")]).unwrap();
        }
        builder.finish()
    }

    fn read_text(text: &str, strict: bool) -> Result<Qrels> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Ok(read(file.path(), Layout::Trec, &catalog(), |_| true, strict)?.0)
    }

    #[test]
    fn absent_documents_count_in_the_ideal_and_one_warning_counts_them() {
        let qrels = read_text("q1 0 d1 1\nq2 0 d2 1\nq1 0 dX 1\nq2 0 dY 1\nq2 0 dZ 0\n", false).unwrap();
        let [warning] = qrels.warnings() else { panic!("{:?}", qrels.warnings()) };
        assert_eq!((warning.kind, warning.count), (WarningKind::AbsentDocuments, 3));
        assert!(
            warning.to_string().contains("3 judgements") && warning.to_string().contains("(dX, dY, dZ)"),
            "{warning}"
        );
        let first = qrels.get("q1").unwrap();
        // trec_eval -m ndcg_cut.10: 1 / (1 + 1 / log2 3).
        assert!((Measure::NDCG_10.score(&[0], first) - 0.6131).abs() < 1e-4);
        assert_eq!("R@10".parse::<Measure>().unwrap().score(&[0], first), 0.5);
        assert_eq!((first.relevant(), first.findable(), first.len(), qrels.judgements()), (2, 1, 2, 5));
    }

    #[test]
    fn equal_judgements_count_once_and_contradicting_ones_are_refused() {
        let qrels = read_text("q1 0 d1 1\nq1 0 d1 1\nq1 0 dX 2\nq1 0 dX 2\n", false).unwrap();
        let counts: Vec<_> = qrels.warnings().iter().map(|warning| (warning.kind, warning.count)).collect();
        assert_eq!(counts, [(WarningKind::RepeatedJudgements, 2), (WarningKind::AbsentDocuments, 1)]);
        assert_eq!(qrels.judgements(), 2);
        for text in ["q1 0 d1 1\nq1 0 d1 0\n", "q1 0 dX 1\nq1 0 dX 2\n"] {
            let error = read_text(text, false).unwrap_err().to_string();
            assert!(error.contains(":2: ") && error.contains("was judged 1 for query \"q1\" before"), "{error}");
        }
    }

    #[test]
    fn strict_reading_refuses_both_and_names_all() {
        let absent: String = (0..12).map(|i| format!("q1 0 x{i} 1\n")).collect();
        let error = read_text(&format!("q1 0 d1 1\nq1 0 d1 1\n{absent}"), true).unwrap_err().to_string();
        assert!(error.contains(":2: document \"d1\" was judged for query \"q1\" before (and 12 more lines"), "{error}");
        assert!((0..12).all(|i| error.contains(&format!("\"x{i}\""))), "{error}");
    }

    #[test]
    fn without_strictness_the_first_ten_bad_lines_are_named_and_all_are_counted() {
        let bad: String = (0..30).map(|i| format!("q1 0 d1 bad{i}\n")).collect();
        let error = read_text(&bad, false).unwrap_err().to_string();
        assert!(error.contains(":1: the grade is \"bad0\" (and 29 more lines, the first of them 2: "), "{error}");
        assert!(error.contains("10: the grade is \"bad9\"") && !error.contains("bad10"), "{error}");
    }

    #[test]
    fn absent_documents_survive_being_written_and_read() {
        let qrels = read_text("q1 0 d1 1\nq1 0 dX 2\n", false).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        qrels.write(file.path(), &catalog()).unwrap();
        let again = Qrels::read(file.path(), &catalog()).unwrap();
        assert_eq!(again.get("q1"), qrels.get("q1"));
    }
}
