//! The weights in what ranks that tuning may change.

use std::collections::BTreeMap;

use querywright::Result;
use querywright::evaluate::FusionWeight;

use crate::followed::{self, Followed};
use crate::hybrid::{self, Hybrid};
use crate::open::Ranker;

impl Ranker {
    /// The weights that tuning may change.
    pub fn tunable(&self) -> Vec<FusionWeight> {
        let hybrid = self.hybrid.iter().filter_map(Hybrid::tunable);
        hybrid.chain(self.followed.iter().filter_map(Followed::tunable)).collect()
    }

    /// The same with other weights, by their keys. Those that are not named stay.
    pub fn with_weights(self, weights: &BTreeMap<String, f64>) -> Result<Self> {
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
