//! A trained model as a retriever.

use std::path::Path;

use rayon::prelude::*;

use crate::broken;
use crate::config::{SequenceConfig, SequenceModel};
use crate::dropout::Dropout;
use crate::examples::{Items, examples, questions};
use crate::layers::{Weight, Weights, values};
use crate::network::{self, Network};
use crate::store;
use crate::training::{Material, train};
use querywright_data::catalog::Catalog;
use querywright_data::digest::sha256_of;
use querywright_retrieve::{Popularity, Training, sequence_folds, training_digest};
use querywright_types::{
    Deadline, Error, Fault, FaultKind, Judgements, Observe, Ordinal, Query, QueryLanguage, Ranking, Request, Result,
    Retriever, RetrieverCard,
};

/// Of so many parts of the training sequences one is held back for early stopping, where there are no development queries.
const FOLDS: usize = 10;

/// Queries that a model over sequences learns from. Neither may hold a query that it is measured on.
#[derive(Debug, Clone, Copy)]
pub struct Sequences<'a> {
    /// Histories with what came next.
    pub training: &'a Training<'a>,
    /// The queries that say when training is to end. Where none has a history, a tenth of the training sequences is held back
    /// for that.
    pub development: &'a Training<'a>,
}

/// Ranks the items that training sequences have by how likely each comes next after those of the request's history. Its text
/// is not read. Items that no training sequence has are not found, and passed over in a history; a request whose history has
/// no other is answered by what is popular.
pub struct Recommender {
    network: Network,
    items: Items,
    /// Items of a history that are read.
    length: usize,
    popularity: Popularity,
    card: RetrieverCard,
}

impl std::fmt::Debug for Recommender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recommender")
            .field("items", &self.items.len())
            .field("card", &self.card)
            .finish_non_exhaustive()
    }
}

impl Recommender {
    /// Trains a model, and keeps it in memory alone.
    ///
    /// # Errors
    /// [`Error::Argument`] for a setting outside its range, for an item that the catalogue lacks, where no training query has
    /// a history, and where the loss ceases to be a number.
    pub fn learn(
        catalog: &Catalog,
        sequences: Sequences<'_>,
        model: SequenceModel,
        config: &SequenceConfig,
        observer: &dyn Observe,
    ) -> Result<Self> {
        Self::made(catalog, sequences, model, config, |_, _, make| make(observer))
    }

    /// Opens the model of these sequences and settings in `folder`, after training it there if it is missing.
    ///
    /// The folder may hold any number of models, each under the digest of all that shapes it. A file becomes visible in one
    /// step when it is complete; one that was cut off or damaged is trained anew (its digest is checked). They may be deleted
    /// at any time. Never use a folder that others can write to.
    ///
    /// # Errors
    /// Those of [`learn`](Self::learn), and a folder that cannot be read or written.
    pub fn open_or_learn(
        catalog: &Catalog,
        sequences: Sequences<'_>,
        model: SequenceModel,
        config: &SequenceConfig,
        folder: &Path,
        observer: &dyn Observe,
    ) -> Result<Self> {
        Self::made(catalog, sequences, model, config, |key, shapes, make| {
            store::open_or_make(folder, model.name(), key, shapes, || make(observer))
        })
    }

    /// A model with weights that `weights` gives: those of a key and of these shapes, or what it is given to make them.
    fn made(
        catalog: &Catalog,
        sequences: Sequences<'_>,
        model: SequenceModel,
        config: &SequenceConfig,
        weights: impl FnOnce(&str, &[Weight], &dyn Fn(&dyn Observe) -> Result<Weights>) -> Result<Weights>,
    ) -> Result<Self> {
        config.check()?;
        let Sequences { training, development } = sequences;
        // It looks whether the catalogue has all items.
        let popularity = Popularity::learn(catalog, training)?;
        let (learned, asked, held_back) = dealt(training, development);
        let items = Items::of(&learned);
        let examples = examples(&learned);
        if examples.is_empty() {
            let found = "no training query has a history that something else came after";
            return Err(Error::argument(model.name(), found, "leave it out: there is nothing to learn it from"));
        }
        let questions = questions(&asked, &items, config.max_seq_length);
        let material = Material { items: &items, examples, questions, held_back };
        let shapes = network::weights(model, config, items.len());
        let key = key(catalog, sequences, model, config)?;
        let weights = weights(&key, &shapes, &|observer| train(model, config, &material, observer))?;
        let network = Network::new(model, config, &weights).map_err(broken)?;
        // Two machines may train two models under one key.
        let digest = sha256_of(&["sequence", &key, &store::digest(&weights)?]);
        let card = RetrieverCard::new(model.name(), digest)
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_languages([QueryLanguage::Plain, QueryLanguage::Boolean, QueryLanguage::Natural])
            .with_text(false)
            .with_history(true)
            .with_documents(catalog.len());
        drop(material);
        Ok(Self { network, items, length: config.max_seq_length, popularity, card })
    }

    fn search(&self, request: &Request) -> Result<Ranking, Fault> {
        let history = self.items.numbers(&request.history, self.length);
        if history.is_empty() {
            let popular = self.popularity.retrieve(std::slice::from_ref(request), Deadline::NONE).pop();
            let nothing = || Fault::new(&self.card.name, FaultKind::Contract, "a request without an answer");
            return popular.unwrap_or_else(|| Err(nothing()));
        }
        let scores = network::rows(&[&history])
            .and_then(|rows| self.network.scores(&rows, &mut Dropout::none()))
            .and_then(|scores| values(&scores))
            .map_err(|error| Fault::new(&self.card.name, FaultKind::Index, error.to_string()))?;
        Ok(self.items.ranking(&scores, request))
    }
}

impl Retriever for Recommender {
    fn card(&self) -> &RetrieverCard {
        &self.card
    }

    /// Each request by itself, so that its ranking depends on nothing that is asked beside it.
    fn retrieve(&self, requests: &[Request], deadline: Deadline) -> Vec<Result<Ranking, Fault>> {
        let search = |request: &Request| deadline.check_for(&self.card.name).and_then(|()| self.search(request));
        match requests {
            // Handing a single request to the pool costs more than it saves.
            [request] => vec![search(request)],
            _ => requests.par_iter().map(search).collect(),
        }
    }
}

type Pairs<'a> = Vec<(&'a Query, &'a Judgements)>;

/// What is learned from, what says when it is enough, and whether that is held back from the former.
fn dealt<'a>(training: &'a Training<'a>, development: &'a Training<'a>) -> (Pairs<'a>, Pairs<'a>, bool) {
    // Queries about items that training does not know say nothing of when to end.
    let items = Items::of(training);
    let known = |item: &Ordinal| items.number(*item).is_some();
    let tells = |(query, judgements): &(&Query, &Judgements)| {
        query.history.iter().any(known) && judgements.iter().any(|(item, grade)| grade > 0 && known(&item))
    };
    if development.iter().any(tells) {
        return (training.to_vec(), development.to_vec(), false);
    }
    let folds = sequence_folds(training, FOLDS);
    let part =
        |held: bool| training.iter().zip(&folds).filter(move |(_, fold)| (**fold == 0) == held).map(|(pair, _)| *pair);
    // A single sequence is learned from, and nothing says when it is enough.
    if folds.iter().all(|fold| *fold == 0) {
        return (training.to_vec(), Vec::new(), false);
    }
    (part(false).collect(), part(true).collect(), true)
}

/// The digest of all that shapes a model.
fn key(catalog: &Catalog, sequences: Sequences<'_>, model: SequenceModel, config: &SequenceConfig) -> Result<String> {
    // The other model's shape is as if it were the usual one.
    let mut own = SequenceConfig { sasrec: Default::default(), gru4rec: Default::default(), ..config.clone() };
    match model {
        SequenceModel::Sasrec => own.sasrec = config.sasrec.clone(),
        SequenceModel::Gru4rec => own.gru4rec = config.gru4rec.clone(),
    }
    let settings = serde_json::to_string(&own).map_err(|error| Error::bug("sequence", error.to_string()))?;
    let version = store::FORMAT_VERSION.to_string();
    let (training, development) = (training_digest(sequences.training), training_digest(sequences.development));
    Ok(sha256_of(&["sequence", &version, model.name(), catalog.digest(), &settings, &training, &development]))
}

#[cfg(test)]
mod tests;
