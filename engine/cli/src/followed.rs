//! What followed the items of a history in training sequences (covisitation), beside the ranking of texts.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use querywright::Error;
use querywright::catalog::Dataset;
use querywright::evaluate::FusionWeight;
use querywright::retrieve::Followers;
use querywright::stack::{Fusion, FusionMethod};
use querywright::types::{Judgements, Query, Retriever};

/// The weight of covisitation where none is given. Chosen on the development split of industrial products.
pub const DEFAULT: f64 = 0.6;
/// The weights that tuning tries beside the one that it begins with.
const TRIED: [f64; 10] = [0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.4, 2.0, 4.0];
/// The key of the weight in a configuration.
pub const KEY: &str = "retriever.covisitation";
/// What stands behind a retriever's name.
const SUFFIX: &str = "+covisitation";

/// Covisitation in a ranking that is fused from it and a text's.
#[derive(Clone)]
pub struct Followed {
    pub text: Arc<dyn Retriever>,
    /// The ranking of what followed alone.
    pub learned: Arc<dyn Retriever>,
    /// What followed, without the text's ranking.
    pub followers: Arc<dyn Followers>,
    /// Its weight.
    pub weight: f64,
    /// Whether tuning may change the weight.
    pub tuned: bool,
}

impl Followed {
    /// One ranking of both.
    pub fn fused(&self) -> querywright::Result<Arc<dyn Retriever>> {
        let parts = vec![(self.text.clone(), 1.0), (self.learned.clone(), self.weight)];
        Ok(Arc::new(Fusion::weighted(parts, FusionMethod::Scores)?))
    }

    /// What tuning may try; none where it may not.
    pub fn tunable(&self) -> Option<FusionWeight> {
        let weight = FusionWeight { key: KEY.to_owned(), start: self.weight, values: TRIED.to_vec() };
        self.tuned.then_some(weight)
    }
}

/// The text's retriever of `bm25+covisitation=0.6`, and the weight of covisitation where it is asked for: none where no
/// number is given.
pub fn asked(text: &str) -> Result<(&str, Option<Option<f64>>)> {
    // A path that exists is a path.
    let named = text.rsplit_once(SUFFIX).filter(|_| !Path::new(text).exists());
    let Some((before, weight)) = named else { return Ok((text, None)) };
    match weight.strip_prefix('=') {
        None if weight.is_empty() => Ok((before, Some(None))),
        given => {
            let number = given.unwrap_or(weight).parse::<f64>().map_err(|_| {
                let remedy = "give a number, as bm25+covisitation=0.6";
                Error::argument("--retriever", format!("the weight of covisitation is \"{weight}\""), remedy)
            });
            Ok((before, Some(Some(number?))))
        }
    }
}

/// The judged queries of a split with a history.
pub fn sequences<'d>(dataset: &'d Dataset, split: &str) -> Result<Vec<(&'d Query, &'d Judgements)>> {
    let mut queries = dataset.judged(split)?;
    queries.retain(|(query, _)| !query.history.is_empty());
    if queries.is_empty() {
        let found = format!("no query of the split \"{split}\" has a history");
        let remedy = "what is learned from histories (popularity, covisitation, sasrec, gru4rec) must be left out";
        return Err(Error::argument("histories", found, remedy).into());
    }
    Ok(queries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_behind_covisitation_is_a_number_or_left_to_what_was_tuned() {
        assert_eq!(asked("bm25:k1=0.9").unwrap(), ("bm25:k1=0.9", None));
        assert_eq!(asked("bm25+covisitation").unwrap(), ("bm25", Some(None)));
        assert_eq!(asked("a.wasm+covisitation=0.25").unwrap(), ("a.wasm", Some(Some(0.25))));
        for text in ["bm25+covisitation=", "bm25+covisitation0.6x", "bm25+covisitations", "bm25+covisitation=high"] {
            assert!(asked(text).unwrap_err().to_string().contains("give a number"), "{text}");
        }
    }
}
