//! TREC run files.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::Path;

use super::documents::Catalog;
use super::lines::{Lines, NAMED, quoted};
use super::qrels::one_word;
use querywright_types::{Error, Hit, Output, Ranking, Result};

/// What one system answered to each query.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Run {
    /// The name of the system, the last column of a run file.
    pub tag: String,
    /// The rankings by query id.
    pub rankings: BTreeMap<String, Ranking>,
}

impl Run {
    /// A run without rankings.
    pub fn new(tag: impl Into<String>) -> Self {
        Self { tag: tag.into(), rankings: BTreeMap::new() }
    }

    /// Reads a TREC run (`query Q0 document rank score tag`). As in trec_eval the score decides the order, equal scores
    /// are ordered by document id descending, and the rank column counts for nothing.
    ///
    /// # Errors
    /// When the file cannot be read, is empty, or holds a line with other columns, a document that is not in `catalog`,
    /// a score that is not a finite number, or a document that the query had before. The error names the first ten
    /// bad lines.
    pub fn read(path: impl AsRef<Path>, catalog: &Catalog) -> Result<Self> {
        let expected = "one hit a line: query id, Q0, document id, rank, score, tag, with white space between";
        let lines = Lines::open(path.as_ref(), expected)?;
        let mut run = Self::default();
        let mut seen: BTreeMap<String, HashSet<u32>> = BTreeMap::new();
        lines.each(NAMED, |line| {
            let [query, _, document, _, score, tag] = line.text.split_whitespace().collect::<Vec<_>>()[..] else {
                return Err(line.refuse(format!("found {}", quoted(line.text)), format!("expected {expected}")));
            };
            let Some(doc) = catalog.ordinal(document) else {
                return Err(line.refuse(
                    format!("the document {} is not in the corpus", quoted(document)),
                    "use the corpus that the run was made on",
                ));
            };
            // Through f64, as pytrec_eval does it; trec_eval's own scores are f32 as well.
            let Some(score) = score.parse::<f64>().ok().map(|s| s as f32).filter(|s| s.is_finite()) else {
                return Err(line.refuse(format!("the score is {}", quoted(score)), "a score is a finite number"));
            };
            if !seen.entry(query.to_owned()).or_default().insert(doc) {
                return Err(line.refuse(
                    format!("document {} stands twice under query {}", quoted(document), quoted(query)),
                    "keep the better of the two lines",
                ));
            }
            if run.tag.is_empty() {
                run.tag = tag.to_owned();
            }
            run.rankings.entry(query.to_owned()).or_default().hits.push(Hit { doc, score });
            Ok(())
        })?;
        run.rankings.values_mut().for_each(|ranking| sort(&mut ranking.hits, catalog));
        Ok(run)
    }

    /// Writes a TREC run, sorted by query id, hits in trec_eval's order, ranks counted from 1. Scores are written in
    /// the shortest form that reads back as the same `f32`, so that sorting what was read gives this order again,
    /// and trec_eval's numbers are those of `metrics::trec_order`.
    ///
    /// # Errors
    /// When the file cannot be written, an id or the tag holds white space, or a score is not finite. What was in the
    /// file is then still there.
    pub fn write(&self, path: impl AsRef<Path>, catalog: &Catalog) -> Result<()> {
        let path = path.as_ref();
        let text = self.to_trec(path, catalog)?;
        Output::open(path)?.write(text.as_bytes())
    }

    /// The same text in a file that was opened before the work.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    pub fn write_to(&self, output: Output, catalog: &Catalog) -> Result<()> {
        let text = self.to_trec(output.path(), catalog)?;
        output.write(text.as_bytes())
    }

    /// Checks ids that a run is going to hold, before the work is done.
    ///
    /// # Errors
    /// When some are empty or hold white space, which the format cannot carry; the first ten are named.
    pub fn check_ids<'a>(path: &Path, ids: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let bad: Vec<&str> = ids.into_iter().filter(|id| one_word(path, id).is_err()).collect();
        if let [] | [_] = bad[..] {
            return bad.first().map_or(Ok(()), |only| one_word(path, only).map(drop));
        }
        let named: Vec<String> = bad.iter().take(NAMED).map(|id| quoted(id)).collect();
        let more = if bad.len() > named.len() { ", …" } else { "" };
        let found = format!("{} ids cannot be written to a TREC file: {}{more}", bad.len(), named.join(", "));
        Err(Error::data(path, None, found, "use ids without white space"))
    }

    /// The lines of the file; `path` is for errors.
    fn to_trec(&self, path: &Path, catalog: &Catalog) -> Result<String> {
        let tag = one_word(path, &self.tag)?;
        let mut text = String::new();
        for (query, ranking) in &self.rankings {
            let query = one_word(path, query)?;
            let mut hits = ranking.hits.clone();
            sort(&mut hits, catalog);
            for (place, Hit { doc, score }) in hits.into_iter().enumerate() {
                let document = one_word(path, catalog.id(doc))?;
                if !score.is_finite() {
                    return Err(Error::data(
                        path,
                        None,
                        format!("the score of document {} under query {} is {score}", quoted(document), quoted(query)),
                        "a retriever's scores must be finite numbers",
                    ));
                }
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{query} Q0 {document} {} {score:?} {tag}", place + 1);
            }
        }
        Ok(text)
    }
}

/// trec_eval's order. Adding 0 turns -0 into +0, which are equal to trec_eval.
fn sort(hits: &mut [Hit], catalog: &Catalog) {
    hits.sort_by(|a, b| {
        (b.score + 0.0).total_cmp(&(a.score + 0.0)).then_with(|| catalog.id(b.doc).cmp(catalog.id(a.doc)))
    });
}
