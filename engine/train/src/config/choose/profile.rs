//! What is looked at before anything is chosen: the data and the machine.

use querywright_data::catalog::{Catalog, Dataset};
use querywright_model::{DeviceChoice, ModelConfig};
use querywright_types::{Judgements, Query, QueryLanguage, Result};

use super::SplitPlan;

/// Lengths of some texts, in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Lengths {
    /// Their mean.
    pub mean: f64,
    /// Nineteen of twenty are at most as long.
    pub p95: usize,
}

/// What is known of a data set before training.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DataProfile {
    /// Where it lies, as `data.name`.
    pub name: String,
    /// A short name, for the folder of the run.
    pub short_name: String,
    /// The splits.
    pub splits: SplitPlan,
    /// Queries to train on: those with a relevant document in the catalogue.
    pub train_queries: usize,
    /// Queries to choose the best adapter by, counted the same way.
    pub dev_queries: usize,
    /// Mean number of relevant documents of a training query.
    pub relevant: f64,
    /// Share of the training queries that are a history alone: no words of their own but titles of its items.
    pub histories: f64,
    /// Share of the training queries that have turns of a conversation before them.
    pub conversations: f64,
    /// Lengths of training requests.
    pub requests: Lengths,
    /// Lengths of titles.
    pub titles: Lengths,
    /// Mean length of a word of the catalogue.
    pub word_chars: f64,
    /// The fields of the documents.
    pub fields: Vec<String>,
    /// Bytes of the catalogue's text.
    pub text_bytes: usize,
    /// The language that the retriever's card prefers; none where only a loaded plugin could say.
    pub language: Option<QueryLanguage>,
    /// Candidates that a person wants prompts to show: they take tokens. 0 where nobody asked for them.
    pub candidates: usize,
}

/// Documents whose titles and words are looked at, evenly over the catalogue.
const SAMPLE: usize = 2000;

impl DataProfile {
    /// Looks at a data set that has the splits of the plan. `name` is what it was opened by.
    ///
    /// # Errors
    /// When a split is not there, or none of its queries has judgements.
    pub fn of(name: &str, dataset: &Dataset, splits: SplitPlan, language: Option<QueryLanguage>) -> Result<Self> {
        let findable = |split: &str| -> Result<Vec<(&Query, &Judgements)>> {
            Ok(dataset.judged(split)?.into_iter().filter(|(_, judgements)| judgements.findable() > 0).collect())
        };
        let (train, dev) = (findable(&splits.train)?, findable(&splits.dev)?);
        let catalog = &dataset.catalog;
        let of_train = |value: &dyn Fn(&(&Query, &Judgements)) -> f64| {
            train.iter().map(value).sum::<f64>() / train.len().max(1) as f64
        };
        let step = catalog.len().div_ceil(SAMPLE).max(1);
        let sampled = || catalog.documents().step_by(step);
        let (mut words, mut letters) = (0, 0);
        for document in sampled() {
            for word in document.fields().flat_map(|(_, text)| text.split(|c: char| !c.is_alphanumeric())) {
                // Short ones are mostly function words, which are not what a rewriter adds.
                let chars = word.chars().count();
                if chars > 3 {
                    words += 1;
                    letters += chars;
                }
            }
        }
        Ok(Self {
            name: name.to_owned(),
            short_name: dataset.name.clone(),
            train_queries: train.len(),
            dev_queries: dev.len(),
            relevant: of_train(&|(_, judgements)| judgements.findable() as f64),
            histories: of_train(&|(query, _)| f64::from(u8::from(is_history(query, catalog)))),
            conversations: of_train(&|(query, _)| f64::from(u8::from(!query.turns.is_empty()))),
            requests: lengths(train.iter().map(|(query, _)| query.text.as_str())),
            titles: lengths(sampled().map(|document| document.title())),
            word_chars: letters as f64 / words.max(1) as f64,
            fields: catalog.field_names().to_vec(),
            text_bytes: catalog.text_bytes(),
            splits,
            language,
            candidates: 0,
        })
    }
}

/// Whether a query has a history and no words of its own: readers put the titles of its items into the text.
fn is_history(query: &Query, catalog: &Catalog) -> bool {
    let titles: Vec<&str> = query.history.iter().map(|item| catalog.document(*item).title().trim()).collect();
    !titles.is_empty() && query.text.lines().all(|line| titles.contains(&line.trim()))
}

fn lengths<'a>(texts: impl Iterator<Item = &'a str>) -> Lengths {
    let mut chars: Vec<usize> = texts.map(|text| text.chars().count()).collect();
    chars.sort_unstable();
    let mean = chars.iter().sum::<usize>() as f64 / chars.len().max(1) as f64;
    let p95 = (chars.len() * 19).div_ceil(20).checked_sub(1).and_then(|at| chars.get(at)).copied();
    Lengths { mean, p95: p95.unwrap_or(0) }
}

/// The instructions that products of matrices use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Arithmetic {
    /// A GPU.
    Gpu,
    /// AVX-512 with bf16 dot products.
    Avx512Bf16,
    /// AVX-512.
    Avx512,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// Anything else.
    Portable,
}

/// What is known of the machine and the model that is to be trained on it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MachineProfile {
    /// The model, as `model.name`.
    pub model_name: String,
    /// Its shape.
    pub model: ModelConfig,
    /// Threads that compute at once.
    pub threads: usize,
    /// The instructions that they use.
    pub arithmetic: Arithmetic,
    /// Bytes of memory, where the system says so.
    pub memory: Option<u64>,
}

impl MachineProfile {
    /// This machine, with a model.
    pub fn detect(model_name: &str, model: &ModelConfig, device: DeviceChoice) -> Self {
        Self {
            model_name: model_name.to_owned(),
            model: model.clone(),
            threads: rayon::current_num_threads(),
            arithmetic: if device.is_gpu() { Arithmetic::Gpu } else { Arithmetic::detect() },
            memory: memory(),
        }
    }
}

impl Arithmetic {
    /// What this processor can do.
    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                let bf16 = is_x86_feature_detected!("avx512bf16");
                return if bf16 { Self::Avx512Bf16 } else { Self::Avx512 };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Its name, for a sentence.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gpu => "a GPU",
            Self::Avx512Bf16 => "AVX-512 with bf16",
            Self::Avx512 => "AVX-512",
            Self::Avx2 => "AVX2",
            Self::Portable => "no vector instructions that are known",
        }
    }
}

/// Bytes of memory, as Linux says it.
fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use querywright_data::catalog::CatalogBuilder;

    #[test]
    fn a_profile_counts_what_can_be_found_and_tells_histories_from_requests() {
        let mut catalog = CatalogBuilder::new();
        for (id, title) in [("a", "steel kettle"), ("b", "wool blanket")] {
            catalog.push(id, [("title", title), ("maker", "us")]).unwrap();
        }
        let queries = vec![
            Query::new("t1", "steel kettle").with_history([0]),
            Query::new("t2", "something warm").with_history([0]),
            Query::new("t3", "nothing to find"),
            Query::new("d1", "blanket"),
        ];
        let found = |doc, grade| Judgements::new(vec![(doc, grade)]);
        let qrels = [("t1", found(1, 1)), ("t2", found(1, 2)), ("t3", found(1, 0)), ("d1", found(1, 1))];
        let splits = [("train", &["t1", "t2", "t3"][..]), ("dev", &["d1"])];
        let splits = splits.map(|(name, ids)| (name.to_owned(), ids.iter().map(|id| (*id).to_owned()).collect()));
        let dataset = Dataset::from_parts("x", catalog.finish(), queries, qrels.into_iter().collect(), splits).unwrap();
        let plan = SplitPlan { train: "train".into(), dev: "dev".into(), ..SplitPlan::default() };
        let profile = DataProfile::of("x", &dataset, plan, None).unwrap();
        assert_eq!((profile.train_queries, profile.dev_queries, profile.relevant), (2, 1, 1.0));
        assert_eq!((profile.histories, profile.requests), (0.5, Lengths { mean: 13.0, p95: 14 }));
        assert_eq!((profile.titles, profile.word_chars), (Lengths { mean: 12.0, p95: 12 }, 5.5));
        assert_eq!(profile.fields, ["title", "maker"]);
    }

    #[test]
    fn of_a_hundred_lengths_the_ninety_fifth_counts() {
        let texts: Vec<String> = (1..=100).map(|length| "x".repeat(length)).collect();
        assert_eq!(lengths(texts.iter().map(String::as_str)), Lengths { mean: 50.5, p95: 95 });
        assert_eq!(lengths(std::iter::empty()), Lengths::default());
    }
}
