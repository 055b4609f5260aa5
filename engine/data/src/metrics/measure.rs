//! Ranking measures under their ir_measures names.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use querywright_types::{Error, Judgements, Ordinal, Result, nearest};

/// What a measure looks at; with a cutoff it becomes a [`Measure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MeasureKind {
    /// `nDCG`: discounted gain over that of the ideal ranking (Järvelin and Kekäläinen 2002; linear gain).
    Ndcg,
    /// `R`: the share of the relevant documents that is found.
    Recall,
    /// `P`: the share of the first k places that holds relevant documents; missing places count as not relevant.
    Precision,
    /// `RR`: one over the rank of the first relevant document.
    ReciprocalRank,
    /// `AP`: the mean over all relevant documents of the precision at their rank, 0 for those not found.
    AveragePrecision,
    /// `HR`, which ir_measures calls `Success`: 1 when a relevant document is among the first k.
    HitRate,
    /// `LogRank`: 1 - ln(rank) / ln(k + 1) for the first relevant document at that rank, 0 beyond k. Ours, for rewards:
    /// each halving of the rank earns the same, so that a step from 400 to 200 counts as much as one from 4 to 2.
    LogRank,
    /// `Judged`: the share of the first k hits that carries any judgement; with fewer than k hits, the share of those.
    Judged,
}

impl MeasureKind {
    const ALL: [Self; 8] = [
        Self::Ndcg,
        Self::Recall,
        Self::Precision,
        Self::ReciprocalRank,
        Self::AveragePrecision,
        Self::HitRate,
        Self::LogRank,
        Self::Judged,
    ];

    /// The name without a cutoff.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ndcg => "nDCG",
            Self::Recall => "R",
            Self::Precision => "P",
            Self::ReciprocalRank => "RR",
            Self::AveragePrecision => "AP",
            Self::HitRate => "HR",
            Self::LogRank => "LogRank",
            Self::Judged => "Judged",
        }
    }

    /// Whether it means something over a whole ranking.
    fn may_lack_cutoff(self) -> bool {
        matches!(self, Self::Ndcg | Self::ReciprocalRank | Self::AveragePrecision)
    }
}

/// One ranking measure: a [`MeasureKind`] and, mostly, a cutoff. Parsed from and displayed as its ir_measures name:
/// `nDCG@10`, `R@100`, `P@5`, `RR`, `RR@10`, `AP`, `AP@100`, `HR@10` (or `Success@10`), `Judged@10`. `LogRank@1000` is
/// our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Measure {
    kind: MeasureKind,
    cutoff: Option<NonZeroUsize>,
}

impl Measure {
    /// nDCG over the first 10, the usual measure of search.
    pub const NDCG_10: Self = Self { kind: MeasureKind::Ndcg, cutoff: NonZeroUsize::new(10) };

    /// What it looks at.
    pub fn kind(&self) -> MeasureKind {
        self.kind
    }

    /// How many places it looks at; none when it looks at the whole ranking.
    pub fn cutoff(&self) -> Option<usize> {
        self.cutoff.map(NonZeroUsize::get)
    }

    /// The value for one query, from 0 to 1. `ranked` is best first (see [`trec_order`](super::trec_order)), every
    /// document once; a query without results is an empty slice and scores 0.
    pub fn score(&self, ranked: &[Ordinal], judgements: &Judgements) -> f64 {
        let depth = self.cutoff().unwrap_or(usize::MAX);
        let top = &ranked[..ranked.len().min(depth)];
        let relevant = |doc: &Ordinal| judgements.grade(*doc).is_some_and(|grade| grade > 0);
        let found = || top.iter().filter(|doc| relevant(doc)).count();
        match self.kind {
            MeasureKind::Ndcg => {
                let gained = discounted(top.iter().map(|doc| judgements.grade(*doc).unwrap_or(0)));
                let mut ideal: Vec<i32> = judgements.grades().filter(|grade| *grade > 0).collect();
                ideal.sort_unstable_by(|a, b| b.cmp(a));
                share(gained, discounted(ideal.into_iter().take(depth)))
            }
            MeasureKind::Recall => share(found() as f64, judgements.relevant() as f64),
            MeasureKind::Precision => share(found() as f64, depth as f64),
            MeasureKind::ReciprocalRank => top.iter().position(relevant).map_or(0.0, |place| 1.0 / (place + 1) as f64),
            MeasureKind::AveragePrecision => {
                let ranks = top.iter().enumerate().filter(|(_, doc)| relevant(doc)).map(|(place, _)| place + 1);
                let precisions: f64 = ranks.enumerate().map(|(before, rank)| (before + 1) as f64 / rank as f64).sum();
                share(precisions, judgements.relevant() as f64)
            }
            MeasureKind::HitRate => f64::from(u8::from(top.iter().any(relevant))),
            MeasureKind::LogRank => top.iter().position(relevant).map_or(0.0, |place| {
                // A cutoff is at least 1, so the whole is above 0.
                1.0 - ((place + 1) as f64).ln() / (depth.saturating_add(1) as f64).ln()
            }),
            MeasureKind::Judged => {
                let judged = top.iter().filter(|doc| judgements.grade(**doc).is_some()).count();
                share(judged as f64, top.len() as f64)
            }
        }
    }
}

/// Sum of the positive grades, each divided by log2(rank + 1).
fn discounted(grades: impl Iterator<Item = i32>) -> f64 {
    // Not `sum`: that of nothing is -0.
    grades.enumerate().fold(0.0, |sum, (place, grade)| sum + f64::from(grade.max(0)) / ((place + 2) as f64).log2())
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cutoff {
            Some(k) => write!(f, "{}@{k}", self.kind.name()),
            None => f.write_str(self.kind.name()),
        }
    }
}

impl FromStr for Measure {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let refuse = |found: String, remedy: String| Err(Error::argument("measure", found, remedy));
        let (stem, cutoff) = match name.split_once('@') {
            Some((stem, cutoff)) => (stem, Some(cutoff)),
            None => (name, None),
        };
        let kind = MeasureKind::ALL.into_iter().find(|kind| kind.name() == stem);
        let Some(kind) = kind.or((stem == "Success").then_some(MeasureKind::HitRate)) else {
            let at = cutoff.map_or(String::new(), |k| format!("@{k}"));
            let hint = suggestion(stem).map_or(String::new(), |near| format!("did you mean \"{near}{at}\"? "));
            return refuse(
                format!("unknown measure \"{name}\""),
                format!(
                    "{hint}there are nDCG@k, R@k, P@k, RR@k, AP@k, HR@k, LogRank@k, Judged@k and, over all hits, nDCG, RR, AP"
                ),
            );
        };
        let cutoff = match cutoff.map(|k| (k, k.parse::<usize>())) {
            None if kind.may_lack_cutoff() => None,
            None => {
                return refuse(
                    format!("\"{name}\" has no cutoff"),
                    format!("say how many places it looks at, such as \"{stem}@10\""),
                );
            }
            Some((k, parsed)) => match parsed.ok().and_then(NonZeroUsize::new) {
                Some(k) => Some(k),
                None => {
                    return refuse(
                        format!("\"{name}\" has the cutoff \"{k}\""),
                        format!("a cutoff is a whole number of at least 1, such as \"{stem}@10\""),
                    );
                }
            },
        };
        Ok(Self { kind, cutoff })
    }
}

/// The name that was most likely meant by `stem`.
fn suggestion(stem: &str) -> Option<&'static str> {
    let lower = stem.to_lowercase();
    Some(match lower.as_str() {
        "mrr" | "recip_rank" => "RR",
        "map" => "AP",
        "dcg" | "ndcg_cut" => "nDCG",
        "recall" | "rec" => "R",
        "precision" | "prec" => "P",
        "hit" | "hits" | "hit_rate" | "hitrate" | "hitratio" | "success" => "HR",
        "judgement" | "judgments" => "Judged",
        "log_rank" | "log-rank" | "lr" => "LogRank",
        _ => {
            let near = nearest(&lower, ["ndcg", "r", "p", "rr", "ap", "hr", "logrank", "judged"])?;
            return MeasureKind::ALL.into_iter().map(MeasureKind::name).find(|name| name.eq_ignore_ascii_case(near));
        }
    })
}

impl TryFrom<String> for Measure {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<Measure> for String {
    fn from(measure: Measure) -> Self {
        measure.to_string()
    }
}
