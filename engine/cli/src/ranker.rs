//! What ranks a catalogue, with its parts, whose weights tuning may change.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use querywright::catalog::{Catalog, Dataset};
use querywright::evaluate::FusionWeight;
use querywright::retrieve::{Bm25, Covisitation, CovisitationConfig, CrossFit, Followers};
use querywright::rewrite::{RewriterFile, Serve};
use querywright::types::Retriever;

use crate::first_pass::FirstPass;
use crate::followed::{self, Followed};
use crate::hybrid::{self, Hybrid};

/// Parts of the training queries, each answered by what was learned from the others.
const FOLDS: usize = 5;

/// What ranks a catalogue.
#[derive(Clone)]
pub struct Ranker {
    pub catalog: Arc<Catalog>,
    pub retriever: Arc<dyn Retriever>,
    /// The native index behind it; none for plugins and for vectors alone.
    pub bm25: Option<Arc<Bm25>>,
    /// BM25 and vectors, where both rank.
    pub hybrid: Option<Hybrid>,
    /// What followed in training sequences, where that is part of the ranking.
    pub followed: Option<Followed>,
    /// What is searched for before a model is asked.
    pub first: FirstPass,
}

impl Ranker {
    /// A retriever of texts, and the native index behind it.
    pub fn new(catalog: Arc<Catalog>, retriever: Arc<dyn Retriever>, bm25: Option<Arc<Bm25>>) -> Self {
        Self { catalog, retriever, bm25, hybrid: None, followed: None, first: FirstPass::default() }
    }

    /// A file that serves this to what ranks here, and says nothing else.
    pub fn rewriter_file(&self, serve: Serve) -> RewriterFile {
        let mut file = RewriterFile::new(serve);
        file.retriever = Some(self.retriever.card().name.clone());
        file.covisitation = self.followed.as_ref().map(|followed| followed.weight);
        self.hybrid.iter().for_each(|hybrid| hybrid.write(&mut file));
        file
    }

    /// The native index; built where something else ranks, for what needs one of its own (RM3).
    pub fn index(&self) -> Result<Arc<Bm25>> {
        match &self.bm25 {
            Some(index) => Ok(index.clone()),
            None => self.first.index(&self.catalog),
        }
    }

    /// Fused with covisitation that was learned from the training queries: for every query but those.
    pub fn with_covisitation(self, dataset: &Dataset, weight: f64) -> Result<Self> {
        let queries = followed::sequences(dataset, "train")?;
        let learned = Covisitation::learn(&dataset.catalog, &queries, CovisitationConfig::default())?;
        self.fused(Arc::new(learned), weight, false)
    }

    /// Fused with covisitation that answers a training query from the others. `tuned` says whether the weight may be.
    pub fn cross_fitted(self, dataset: &Dataset, split: &str, weight: f64, tuned: bool) -> Result<Self> {
        let queries = followed::sequences(dataset, split)?;
        let learned = CrossFit::learn(&dataset.catalog, &queries, CovisitationConfig::default(), FOLDS)?;
        self.fused(Arc::new(learned), weight, tuned)
    }

    fn fused<R: Retriever + Followers + 'static>(self, learned: Arc<R>, weight: f64, tuned: bool) -> Result<Self> {
        let followers: Arc<dyn Followers> = learned.clone();
        let followed = Followed { text: self.retriever.clone(), learned, followers, weight, tuned };
        Ok(Self { retriever: followed.fused()?, followed: Some(followed), ..self })
    }

    /// The weights that tuning may change.
    pub fn tunable(&self) -> Vec<FusionWeight> {
        let hybrid = self.hybrid.iter().filter_map(Hybrid::tunable);
        hybrid.chain(self.followed.iter().filter_map(Followed::tunable)).collect()
    }

    /// The same with other weights, by their keys. Those that are not named stay.
    pub fn with_weights(self, weights: &BTreeMap<String, f64>) -> querywright::Result<Self> {
        let Self { hybrid, followed, retriever, .. } = self;
        let hybrid = hybrid.map(|hybrid| match weights.get(hybrid::KEY) {
            Some(weight) => hybrid.with(*weight),
            None => hybrid,
        });
        let fused = hybrid.as_ref().map(Hybrid::fused).transpose()?;
        let Some(followed) = followed else {
            return Ok(Self { retriever: fused.unwrap_or(retriever), hybrid, followed: None, ..self });
        };
        let weight = weights.get(followed::KEY).copied().unwrap_or(followed.weight);
        let followed = Followed { text: fused.unwrap_or_else(|| followed.text.clone()), weight, ..followed };
        Ok(Self { retriever: followed.fused()?, hybrid, followed: Some(followed), ..self })
    }
}
