//! What was read in another way than it is written, and said.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// How many names a warning gives as examples.
const EXAMPLES: usize = 10;
/// How many characters of a name it gives.
const LONGEST_EXAMPLE: usize = 80;

/// Something in the files of a data set that does not stop its use and that its owner should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Warning {
    /// What it is about.
    pub kind: WarningKind,
    /// The file, or the folder where it is about several.
    pub path: PathBuf,
    /// How many there are.
    pub count: usize,
    /// The first ten names: of documents, fields or files.
    pub examples: Vec<String>,
}

/// What a [`Warning`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WarningKind {
    /// Judgements of documents that the corpus lacks. They count in the ideal ranking, as in trec_eval.
    AbsentDocuments,
    /// Judgements that stand twice with the same grade. They count once.
    RepeatedJudgements,
    /// Values of fields that are not searched: true and false, and what stands under BEIR's `metadata`.
    ValuesLeftOut,
    /// Relevant documents that are in the history of their own query, which is excluded from the ranking.
    UnreachableTargets,
    /// Interactions with an item that the user had before. Histories are then not excluded from the ranking.
    RepeatedItems,
    /// A compressed file beside the plain one, which is read.
    CompressedTwin,
    /// Interactions with items of which the file of items says nothing. They are left out, as the data sets' authors do.
    ItemsWithoutText,
    /// Items that stand twice in a file of items. The first record counts.
    RepeatedItemRecords,
    /// A user's later interactions with an item, in raw reviews. The earliest counts, as in their authors' own files.
    LaterReviews,
    /// Training queries of long sequences that are left out, so that there are not too many.
    TrainingLeftOut,
    /// Rows of dev and test without a history of items that are there. They make no query.
    WithoutHistory,
    /// Training queries whose text is that of a query of dev or test. They are left out.
    TestedText,
}

impl Warning {
    /// One case. What cannot be shown in a name is replaced, and a long name is cut.
    pub(super) fn new(kind: WarningKind, path: &Path, example: impl AsRef<str>) -> Self {
        let shown = example.as_ref().chars().take(LONGEST_EXAMPLE);
        let example = shown.map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        Self { kind, path: path.to_path_buf(), count: 1, examples: vec![example] }
    }

    /// So many cases, of which none stands for the others.
    pub(super) fn of(kind: WarningKind, path: &Path, count: usize) -> Self {
        Self { kind, path: path.to_path_buf(), count, examples: Vec::new() }
    }
}

impl fmt::Display for Warning {
    // Long: a sentence for each kind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, path, count, examples } = self;
        let plural = |one: &'static str, many: &'static str| if *count == 1 { one } else { many };
        let more = if *count > examples.len() && examples.len() >= EXAMPLES { ", …" } else { "" };
        let names = format!("{}{more}", examples.join(", "));
        write!(f, "{}: {count} ", path.display())?;
        match kind {
            WarningKind::AbsentDocuments => write!(
                f,
                "{} not in the corpus ({names}): no ranking can hold them, and they count in the ideal, as in \
                 trec_eval; --strict refuses them",
                plural("judgement is of a document that is", "judgements are of documents that are")
            ),
            WarningKind::RepeatedJudgements => write!(
                f,
                "{} written twice with the same grade ({names}) and {} once; --strict refuses them",
                plural("judgement is", "judgements are"),
                plural("counts", "count")
            ),
            WarningKind::ValuesLeftOut => write!(
                f,
                "{} not searched, being true, false or BEIR's metadata (fields {names}); write them as text to search \
                 them",
                plural("value is", "values are")
            ),
            WarningKind::UnreachableTargets => write!(
                f,
                "relevant {} in the history of {} own query ({names}), which is excluded from the ranking: {} never be \
                 found",
                plural("document is", "documents are"),
                plural("its", "their"),
                plural("it can", "they can")
            ),
            WarningKind::RepeatedItems => write!(
                f,
                "{} with an item that the user had before ({names}): such items are targets too, so histories are not \
                 excluded from the rankings, as in RecBole's sequential tasks",
                plural("interaction is", "interactions are")
            ),
            WarningKind::CompressedTwin => write!(
                f,
                "compressed {} beside the plain {} of the same name ({names}), which {} read",
                plural("file lies", "files lie"),
                plural("one", "ones"),
                plural("is", "are")
            ),
            WarningKind::ItemsWithoutText => write!(
                f,
                "{} with items of which there is no text ({names}), and left out",
                plural("interaction is", "interactions are")
            ),
            WarningKind::RepeatedItemRecords => write!(
                f,
                "{} under an id that was there before ({names}): the first one is read",
                plural("item stands", "items stand")
            ),
            WarningKind::LaterReviews => write!(
                f,
                "{} of an item that the user had reviewed before ({names}): the first one counts",
                plural("review is", "reviews are")
            ),
            WarningKind::TrainingLeftOut => write!(
                f,
                "training {} left out, of the users with the most: their latest stay",
                plural("query is", "queries are")
            ),
            WarningKind::WithoutHistory => write!(
                f,
                "{} of dev or test {} no history of items that are there ({names}), and {} no query",
                plural("row", "rows"),
                plural("has", "have"),
                plural("makes", "make")
            ),
            WarningKind::TestedText => write!(
                f,
                "training {} the text of a query of dev or test ({names}), and {} left out",
                plural("query has", "queries have"),
                plural("is", "are")
            ),
        }
    }
}

/// The warnings of a data set, one of each kind.
#[derive(Debug, Default)]
pub(super) struct Warnings(Vec<Warning>);

impl Warnings {
    /// Adds a case to the warning of its kind. Where that is about another file, it becomes one about the folder.
    pub(super) fn add(&mut self, new: Warning) {
        let Some(known) = self.0.iter_mut().find(|known| known.kind == new.kind) else {
            self.0.push(new);
            return;
        };
        if known.path != new.path && !new.path.starts_with(&known.path) {
            known.path = new.path.parent().unwrap_or(&new.path).to_path_buf();
        }
        known.count += new.count;
        for example in new.examples {
            if known.examples.len() < EXAMPLES && !known.examples.contains(&example) {
                known.examples.push(example);
            }
        }
    }

    /// Adds all warnings of a list.
    pub(super) fn extend(&mut self, list: Vec<Warning>) {
        list.into_iter().for_each(|warning| self.add(warning));
    }

    /// All of them, in the order in which their kinds first came.
    pub(super) fn into_vec(self) -> Vec<Warning> {
        self.0
    }
}
