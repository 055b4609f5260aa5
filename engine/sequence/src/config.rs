//! What decides a model over sequences, under RecBole's names.

use std::ops::RangeInclusive;

use querywright_types::{Error, Result};
use serde::{Deserialize, Serialize};

/// Which model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SequenceModel {
    /// Self-attention over the items of a history.
    Sasrec,
    /// A recurrent network over the items of a history.
    Gru4rec,
}

impl SequenceModel {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Sasrec, Self::Gru4rec];

    /// The name of the retriever: "sasrec", "gru4rec".
    pub fn name(self) -> &'static str {
        match self {
            Self::Sasrec => "sasrec",
            Self::Gru4rec => "gru4rec",
        }
    }
}

/// How a model over sequences is built and trained: `[retriever.sequence]`. Names and defaults are RecBole's, whose
/// `MAX_ITEM_LIST_LENGTH` is called `max_seq_length` here, as in its models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SequenceConfig {
    /// Items of a history that are read, from its end. Default 50.
    pub max_seq_length: usize,
    /// The rate of Adam. Default 0.001.
    pub learning_rate: f64,
    /// Examples of a step: a history and what came next. Default 2,048.
    pub train_batch_size: usize,
    /// How often all examples are gone through, at most. Default 300.
    pub epochs: usize,
    /// Training ends when the development queries' nDCG@10 has not been reached again for more than so many epochs. The best
    /// epoch is kept. Default 10.
    pub stopping_step: usize,
    /// Training ends with the first step after so many minutes, and what is best by then is kept. Where this ends it, the
    /// model depends on the machine's speed. Default 30.
    pub max_minutes: f64,
    /// The seed of everything random. Default 2020.
    pub seed: u64,
    /// The shape of SASRec.
    pub sasrec: SasrecConfig,
    /// The shape of GRU4Rec.
    pub gru4rec: Gru4recConfig,
}

impl Default for SequenceConfig {
    fn default() -> Self {
        Self {
            max_seq_length: 50,
            learning_rate: 0.001,
            train_batch_size: 2048,
            epochs: 300,
            stopping_step: 10,
            max_minutes: 30.0,
            seed: 2020,
            sasrec: SasrecConfig::default(),
            gru4rec: Gru4recConfig::default(),
        }
    }
}

/// `[retriever.sequence.sasrec]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SasrecConfig {
    /// Layers. Default 2.
    pub n_layers: usize,
    /// Heads of attention, a divisor of `hidden_size`. Default 2.
    pub n_heads: usize,
    /// The width of items and of all between the layers. Default 64.
    pub hidden_size: usize,
    /// The width inside a layer's feed-forward network. Default 256.
    pub inner_size: usize,
    /// Share of what goes between layers that is dropped while training. Default 0.5.
    pub hidden_dropout_prob: f64,
    /// Share of the attention that is dropped while training. Default 0.5.
    pub attn_dropout_prob: f64,
}

impl Default for SasrecConfig {
    fn default() -> Self {
        Self {
            n_layers: 2,
            n_heads: 2,
            hidden_size: 64,
            inner_size: 256,
            hidden_dropout_prob: 0.5,
            attn_dropout_prob: 0.5,
        }
    }
}

/// `[retriever.sequence.gru4rec]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gru4recConfig {
    /// The width of items. Default 64.
    pub embedding_size: usize,
    /// The width of the recurrent state. Default 128.
    pub hidden_size: usize,
    /// Recurrent layers. Default 1.
    pub num_layers: usize,
    /// Share of the items' vectors that is dropped while training. Default 0.3.
    pub dropout_prob: f64,
}

impl Default for Gru4recConfig {
    fn default() -> Self {
        Self { embedding_size: 64, hidden_size: 128, num_layers: 1, dropout_prob: 0.3 }
    }
}

/// Bounds of counts. The widest model has some hundred million weights beside its items.
const WIDTH: RangeInclusive<usize> = 1..=4096;
const LAYERS: RangeInclusive<usize> = 1..=16;
const LENGTH: RangeInclusive<usize> = 1..=1000;
const ANY: RangeInclusive<usize> = 1..=1_000_000;

impl SequenceConfig {
    /// Checks ranges. Each error names the key.
    ///
    /// # Errors
    /// [`Error::Argument`] for a value outside its range, and for heads that do not divide the width.
    pub fn check(&self) -> Result<()> {
        let (sasrec, gru4rec) = (&self.sasrec, &self.gru4rec);
        let counts = [
            ("max_seq_length", self.max_seq_length, LENGTH),
            ("train_batch_size", self.train_batch_size, ANY),
            ("epochs", self.epochs, ANY),
            ("stopping_step", self.stopping_step, ANY),
            ("sasrec.n_layers", sasrec.n_layers, LAYERS),
            ("sasrec.n_heads", sasrec.n_heads, WIDTH),
            ("sasrec.hidden_size", sasrec.hidden_size, WIDTH),
            ("sasrec.inner_size", sasrec.inner_size, WIDTH),
            ("gru4rec.embedding_size", gru4rec.embedding_size, WIDTH),
            ("gru4rec.hidden_size", gru4rec.hidden_size, WIDTH),
            ("gru4rec.num_layers", gru4rec.num_layers, LAYERS),
        ];
        for (key, count, range) in counts {
            if !range.contains(&count) {
                let remedy = format!("give a number from {} to {}", range.start(), range.end());
                return refuse(key, format!("found {count}"), &remedy);
            }
        }
        let shares = [
            ("sasrec.hidden_dropout_prob", sasrec.hidden_dropout_prob),
            ("sasrec.attn_dropout_prob", sasrec.attn_dropout_prob),
            ("gru4rec.dropout_prob", gru4rec.dropout_prob),
        ];
        if let Some((key, share)) = shares.iter().find(|(_, share)| !(0.0..=0.99).contains(share)) {
            return refuse(key, format!("found {share}"), "give a number from 0 to 0.99");
        }
        if !sasrec.hidden_size.is_multiple_of(sasrec.n_heads) {
            let found = format!("{} heads do not divide a width of {}", sasrec.n_heads, sasrec.hidden_size);
            return refuse("sasrec.n_heads", found, "give a divisor of sasrec.hidden_size");
        }
        if !(self.learning_rate > 0.0 && self.learning_rate <= 1.0) {
            return refuse("learning_rate", format!("found {}", self.learning_rate), "give a number above 0, as 0.001");
        }
        // A week.
        if !(self.max_minutes > 0.0 && self.max_minutes <= 10_080.0) {
            return refuse("max_minutes", format!("found {}", self.max_minutes), "give a number above 0, as 30");
        }
        Ok(())
    }
}

fn refuse(key: &str, found: String, remedy: &str) -> Result<()> {
    Err(Error::argument(format!("retriever.sequence.{key}"), found, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outside_its_range_is_refused_by_its_key() {
        SequenceConfig::default().check().unwrap();
        let config = SequenceConfig::default;
        let (sasrec, gru4rec) = (SasrecConfig::default, Gru4recConfig::default);
        let wrong = [
            (SequenceConfig { max_seq_length: 0, ..config() }, "sequence.max_seq_length"),
            (SequenceConfig { epochs: 0, ..config() }, "sequence.epochs"),
            (SequenceConfig { learning_rate: f64::NAN, ..config() }, "sequence.learning_rate"),
            (SequenceConfig { max_minutes: -1.0, ..config() }, "sequence.max_minutes"),
            (SequenceConfig { sasrec: SasrecConfig { n_heads: 3, ..sasrec() }, ..config() }, "3 heads do not divide"),
            (SequenceConfig { sasrec: SasrecConfig { n_heads: 0, ..sasrec() }, ..config() }, "sasrec.n_heads"),
            (
                SequenceConfig { sasrec: SasrecConfig { attn_dropout_prob: 1.0, ..sasrec() }, ..config() },
                "attn_dropout",
            ),
            (
                SequenceConfig { gru4rec: Gru4recConfig { num_layers: 99, ..gru4rec() }, ..config() },
                "gru4rec.num_layers",
            ),
            (SequenceConfig { gru4rec: Gru4recConfig { dropout_prob: -0.1, ..gru4rec() }, ..config() }, "dropout_prob"),
        ];
        for (config, part) in wrong {
            let refused = config.check().unwrap_err().to_string();
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn the_defaults_are_those_of_recbole() {
        let written = serde_json::to_value(SequenceConfig::default()).unwrap();
        let known = [("train_batch_size", 2048), ("epochs", 300), ("stopping_step", 10), ("max_seq_length", 50)];
        assert!(known.iter().all(|(key, value)| written[key] == *value), "{written}");
        assert_eq!(
            (written["sasrec"]["hidden_size"].as_u64(), written["gru4rec"]["hidden_size"].as_u64()),
            (Some(64), Some(128))
        );
        assert!(serde_json::from_str::<SequenceConfig>("{\"dropout\": 0.1}").is_err(), "unknown keys are refused");
    }
}
