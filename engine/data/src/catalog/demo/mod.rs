//! The embedded demonstration: a shop of 1,536 products and 896 shoppers' requests with graded judgements.
//!
//! Products speak trade vocabulary ("Alderon Whisper-quiet 35 Pint Dehumidifier"); requests speak of a need in everyday
//! words ("my windows drip with condensation every morning, and we live in a tiny studio") and never of the product.
//! What joins the two is knowledge of the world, which a keyword index lacks and a language model has or learns.
//!
//! - 64 product types, 24 products each, every one another combination of three attributes.
//! - 14 needs a type: 9 for train, 2 for dev, 3 for test, each asked once. No need phrase, wish phrase or sentence
//!   frame is in two splits, no phrase holds a word of its product's name, and a held-out phrase shares at most a third
//!   of its content words with any phrase of the other splits for the same type. Tests hold all of this.
//! - About 3 requests in 10 carry a wish for an attribute ("it must not rust": stainless steel).
//! - Grades, for linear gain: 2 for a product of the right type when nothing is wished for; with a wish, 3 for the
//!   right type with the attribute and 1 without it. Products of other types are not relevant.
//!
//! The words stand in the TOML files beside this module; a seeded generator joins them, the same on every machine.

mod generator;
mod vocabulary;

use std::collections::BTreeMap;

use generator::Shop;
use vocabulary::{Split, Vocabulary};

use super::dataset::Dataset;
use super::documents::CatalogBuilder;
use super::qrels::Qrels;
use querywright_types::{Judgements, Ordinal, Query, Result};

/// The name of the data set, and of its place in the registry.
pub const NAME: &str = "demo";

/// The seed of the published figures.
pub const SEED: u64 = 0;

/// The demonstration as a data set with the splits train (576 requests), dev (128) and test (192). The seed decides
/// which attributes, brands and descriptions meet in a product, and which frame and wish a need is given; the needs of
/// each split are always the same. Documents have the fields `title`, `text`, `brand`, `category` and `attributes`.
///
/// # Errors
/// Never, unless the embedded tables were edited into something that cannot be read.
pub fn demo(seed: u64) -> Result<Dataset> {
    let Shop { products, requests } = generator::generate(&Vocabulary::embedded()?, seed);
    let mut catalog = CatalogBuilder::new();
    for product in &products {
        let attributes: Vec<String> =
            product.attributes.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let fields = [
            ("title", product.title.as_str()),
            ("text", &product.text),
            ("brand", &product.brand),
            ("category", &product.category),
            ("attributes", &attributes.join("; ")),
        ];
        catalog.push(&product.id, fields)?;
    }
    let mut qrels = Qrels::default();
    for request in &requests {
        let grades = request.grades.iter().map(|(product, grade)| (*product as Ordinal, *grade)).collect();
        qrels.insert(&request.id, Judgements::new(grades));
    }
    let members = |split| requests.iter().filter(|r| r.split == split).map(|r| r.id.clone()).collect();
    let splits = Split::ALL.map(|split| (split.name().to_owned(), members(split)));
    let query = |r: &generator::ShopperRequest| Query { id: r.id.clone(), ..Query::text(r.text.clone()) };
    Dataset::from_parts(NAME, catalog.finish(), requests.iter().map(query).collect(), qrels, splits)
}

/// For every request of [`demo`] with this seed, by its id, the query that a perfect rewriter would send: the trade
/// name and, where there is a wish, the attribute's trade word. It bounds what can be learned.
///
/// # Errors
/// As [`demo`].
pub fn oracle_queries(seed: u64) -> Result<BTreeMap<String, String>> {
    let shop = generator::generate(&Vocabulary::embedded()?, seed);
    Ok(shop.requests.into_iter().map(|r| (r.id, r.oracle)).collect())
}

#[cfg(test)]
mod tests;
