//! Training: Adam on the cross-entropy of the next item, until the development queries say that it is enough.
//!
//! An example is a history and what came next, as RecBole augments sequences, and each step takes so many at random. They
//! are computed in pieces of one length, which need no padding, on all threads, and their gradients are added up in one
//! order: neither the threads nor the pieces beside it change what is learned.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::broken;
use crate::config::{SequenceConfig, SequenceModel};
use crate::dropout::Dropout;
use crate::examples::{Example, Items, MEASURE, Question};
use crate::layers::{Weights, values};
use crate::network::{self, Network};
use querywright_types::{Error, Observe, Progress, Result};

/// Values of the largest tensor of a piece, at most, and its rows: a thread has about ten such tensors at once.
const VALUES: usize = 1 << 22;
const ROWS: usize = 256;

/// The stream of random numbers that deals examples to steps. Those of dropout count from 0.
const DEALING: u64 = u64::MAX;

/// What a model is trained on.
pub(crate) struct Material<'a> {
    pub(crate) items: &'a Items,
    pub(crate) examples: Vec<Example<'a>>,
    /// What early stopping looks at; with none the model of the last epoch is kept.
    pub(crate) questions: Vec<Question<'a>>,
    /// Whether those are training queries that are not learned from.
    pub(crate) held_back: bool,
}

/// Histories of one length and what came next, by number.
struct Piece {
    histories: Tensor,
    next: Tensor,
}

struct Trainer<'a> {
    model: SequenceModel,
    config: &'a SequenceConfig,
    material: &'a Material<'a>,
    vars: BTreeMap<String, Var>,
    /// Over the variables.
    network: Network,
    /// Over the same values, without what is needed for gradients.
    reader: Network,
    optimizer: AdamW,
    /// Pieces of all steps so far.
    pieces: u64,
}

/// Trains a model, and gives the weights of its best epoch.
pub(crate) fn train(
    model: SequenceModel,
    config: &SequenceConfig,
    material: &Material<'_>,
    observer: &dyn Observe,
) -> Result<Weights> {
    let (begun, limit) = (Instant::now(), Duration::from_secs_f64(60.0 * config.max_minutes));
    let mut trainer = Trainer::new(model, config, material)?;
    let mut random = ChaCha8Rng::seed_from_u64(config.seed);
    random.set_stream(DEALING);
    let mut order: Vec<usize> = (0..material.examples.len()).collect();
    let (mut best, mut epoch, mut late) = (Best::default(), 0, false);
    while epoch < config.epochs && !best.is_over(config.stopping_step) && !late {
        epoch += 1;
        order.shuffle(&mut random);
        for batch in order.chunks(config.train_batch_size) {
            let loss = trainer.step(batch)?;
            if !loss.is_finite() {
                let found = format!("the loss is {loss} in epoch {epoch}");
                return Err(Error::argument("retriever.sequence.learning_rate", found, "give a lower one"));
            }
            late = begun.elapsed() >= limit;
            if late {
                break;
            }
        }
        best.compare(epoch, trainer.score()?, || trainer.copy())?;
        observer.progress(Progress::new(model.name(), epoch as u64, config.epochs as u64));
    }
    let ended = if late { ", ended by max_minutes" } else { "" };
    let (name, kept, score) = (model.name(), best.epoch, best.score);
    let (examples, questions) = (material.examples.len(), material.questions.len());
    let asked = if material.held_back { "training queries held back" } else { "development queries" };
    observer.note(&format!(
        "{name}: {examples} examples of {} items, {epoch} epochs{ended}; kept is epoch {kept} with {MEASURE} {score:.4} on \
         {questions} {asked}",
        material.items.len()
    ));
    Ok(best.weights)
}

/// The best epoch so far.
#[derive(Default)]
struct Best {
    epoch: usize,
    score: f64,
    weights: Weights,
    /// Epochs since then.
    since: usize,
}

impl Best {
    /// Of equal epochs the later one stays, as in RecBole.
    fn compare(&mut self, epoch: usize, score: f64, weights: impl FnOnce() -> Result<Weights>) -> Result<()> {
        if self.epoch > 0 && score < self.score {
            self.since += 1;
        } else {
            *self = Self { epoch, score, weights: weights()?, since: 0 };
        }
        Ok(())
    }

    /// Whether it was not reached again for too long.
    fn is_over(&self, stopping_step: usize) -> bool {
        self.since > stopping_step
    }
}

impl<'a> Trainer<'a> {
    fn new(model: SequenceModel, config: &'a SequenceConfig, material: &'a Material<'a>) -> Result<Self> {
        let weights = network::weights(model, config, material.items.len());
        let vars = network::begin(&weights, config.seed).map_err(broken)?;
        let tracked: Weights = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let plain: Weights = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().detach())).collect();
        let parameters = ParamsAdamW { lr: config.learning_rate, weight_decay: 0.0, ..ParamsAdamW::default() };
        let optimizer = AdamW::new(vars.values().cloned().collect(), parameters).map_err(broken)?;
        let network = Network::new(model, config, &tracked).map_err(broken)?;
        let reader = Network::new(model, config, &plain).map_err(broken)?;
        Ok(Self { model, config, material, vars, network, reader, optimizer, pieces: 0 })
    }

    fn copy(&self) -> Result<Weights> {
        let copy = |(name, var): (&String, &Var)| Ok((name.clone(), var.as_tensor().copy()?.detach()));
        self.vars.iter().map(copy).collect::<candle_core::Result<_>>().map_err(broken)
    }

    /// One update. Gives the mean loss before it.
    fn step(&mut self, batch: &[usize]) -> Result<f64> {
        let pieces = self.cut(batch)?;
        let (mut loss, mut gradients) = (0.0, None::<GradStore>);
        // As many at once as there are threads: the gradients of a piece are as large as the model.
        for together in pieces.chunks(rayon::current_num_threads().max(1)) {
            let numbered: Vec<(u64, &Piece)> = (self.pieces..).zip(together).collect();
            self.pieces += together.len() as u64;
            let found = numbered.into_par_iter().map(|(number, piece)| self.differentiated(number, piece, batch.len()));
            for (more, others) in found.collect::<candle_core::Result<Vec<_>>>().map_err(broken)? {
                loss += more;
                match &mut gradients {
                    Some(sum) => sum.extend(others).map_err(broken)?,
                    none => *none = Some(others),
                }
            }
        }
        if let Some(gradients) = gradients.filter(|_| loss.is_finite()) {
            self.optimizer.step(&gradients).map_err(broken)?;
        }
        Ok(loss)
    }

    /// A piece's share of the mean loss of a step, and its gradients.
    fn differentiated(&self, number: u64, piece: &Piece, batch: usize) -> candle_core::Result<(f64, GradStore)> {
        let mut dropout = Dropout::seeded(self.config.seed, number);
        let loss = (self.network.loss(&piece.histories, &piece.next, &mut dropout)? / batch as f64)?;
        Ok((f64::from(loss.to_scalar::<f32>()?), loss.backward()?))
    }

    /// The examples of a step in pieces of one length, the shortest first.
    fn cut(&self, batch: &[usize]) -> Result<Vec<Piece>> {
        let longest = self.config.max_seq_length;
        let examples = batch.iter().filter_map(|at| self.material.examples.get(*at));
        let numbered = examples.map(|example| {
            let next = self.material.items.number(example.next);
            let next = next.ok_or_else(|| Error::bug("sequence", format!("item {} has no number", example.next)))?;
            Ok((self.material.items.numbers(example.before, longest), next))
        });
        let mut numbered = numbered.collect::<Result<Vec<(Vec<u32>, u32)>>>()?;
        // Stable: in the order of the batch otherwise.
        numbered.sort_by_key(|(history, _)| history.len());
        let equal = numbered.chunk_by(|a, b| a.0.len() == b.0.len());
        let pieces =
            equal.flat_map(|same| same.chunks(self.rows(same.first().map_or(1, |(history, _)| history.len()))));
        let piece = |examples: &[(Vec<u32>, u32)]| {
            let histories: Vec<&[u32]> = examples.iter().map(|(history, _)| history.as_slice()).collect();
            let next: Vec<u32> = examples.iter().map(|(_, next)| *next).collect();
            let count = next.len();
            Ok(Piece { histories: network::rows(&histories)?, next: Tensor::from_vec(next, count, &Device::Cpu)? })
        };
        pieces.map(piece).collect::<candle_core::Result<_>>().map_err(broken)
    }

    /// Rows of a piece, so that scores, attention and what is widest between stay within bounds.
    fn rows(&self, length: usize) -> usize {
        let (sasrec, gru4rec) = (&self.config.sasrec, &self.config.gru4rec);
        let widest = match self.model {
            SequenceModel::Sasrec => length * (length * sasrec.n_heads).max(sasrec.inner_size).max(sasrec.hidden_size),
            SequenceModel::Gru4rec => length * (3 * gru4rec.hidden_size).max(gru4rec.embedding_size),
        };
        (VALUES / widest.max(self.material.items.len()).max(1)).clamp(1, ROWS)
    }

    /// The mean of the measure over the development queries; 0 without any.
    fn score(&self) -> Result<f64> {
        let questions = &self.material.questions;
        if questions.is_empty() {
            return Ok(0.0);
        }
        let equal = questions.chunk_by(|a, b| a.history.len() == b.history.len());
        let pieces: Vec<&[Question<'_>]> =
            equal.flat_map(|same| same.chunks(self.rows(same.first().map_or(1, |one| one.history.len())))).collect();
        let scored = |piece: &&[Question<'_>]| -> candle_core::Result<Vec<f64>> {
            let histories: Vec<&[u32]> = piece.iter().map(|question| question.history.as_slice()).collect();
            let scores = values(&self.reader.scores(&network::rows(&histories)?, &mut Dropout::none())?)?;
            let rows = scores.chunks(self.material.items.len());
            Ok(piece.iter().zip(rows).map(|(question, row)| question.score(self.material.items, row)).collect())
        };
        let scores = pieces.par_iter().map(scored).collect::<candle_core::Result<Vec<_>>>().map_err(broken)?;
        Ok(scores.concat().iter().sum::<f64>() / questions.len().max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_epoch_is_kept_the_later_of_equal_ones_and_training_is_over_when_it_is_not_reached_again() {
        let (mut best, mut ended) = (Best::default(), None);
        let weights = |epoch: usize| {
            let tensor = Tensor::new(&[epoch as u32], &Device::Cpu).map_err(broken)?;
            Ok(Weights::from([("epoch".to_owned(), tensor)]))
        };
        for (epoch, score) in (1..).zip([0.0, 0.2, 0.1, 0.2, 0.1, 0.1, 0.15, 0.3]) {
            best.compare(epoch, score, || weights(epoch)).unwrap();
            if best.is_over(2) {
                ended = Some(epoch);
                break;
            }
        }
        assert_eq!((ended, best.epoch, best.score), (Some(7), 4, 0.2));
        assert_eq!(best.weights["epoch"].to_vec1::<u32>().unwrap(), [4]);
    }
}
