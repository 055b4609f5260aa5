use std::collections::BTreeMap;

use querywright_testing::golden;
use serde_json::Value;

use super::*;
use crate::config::{Gru4recConfig, SasrecConfig};
use crate::layers::{ITEMS, values};

const MODELS: [SequenceModel; 2] = SequenceModel::ALL;

fn file() -> Value {
    serde_json::from_slice(&std::fs::read(golden("sequence.json")).unwrap()).unwrap()
}

fn doubles(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

/// A tiny model of the golden file in double precision, and what PyTorch says of it.
struct Tiny {
    model: SequenceModel,
    config: SequenceConfig,
    vars: BTreeMap<String, Var>,
    /// Histories of one length, and what came next.
    pieces: Vec<(Tensor, Tensor)>,
    expected: Value,
}

fn tiny(model: SequenceModel) -> Tiny {
    let file = file();
    let expected = file[model.name()].clone();
    let mut config =
        SequenceConfig { max_seq_length: file["max_seq_length"].as_u64().unwrap() as usize, ..Default::default() };
    match model {
        SequenceModel::Sasrec => config.sasrec = serde_json::from_value(expected["config"].clone()).unwrap(),
        SequenceModel::Gru4rec => config.gru4rec = serde_json::from_value(expected["config"].clone()).unwrap(),
    }
    let items = file["items"].as_u64().unwrap() as usize;
    let vars = weights(model, &config, items).into_iter().map(|(name, shape, _)| {
        let var = Var::from_vec(doubles(&expected["weights"][&name]["values"]), shape, &Device::Cpu).unwrap();
        (name, var)
    });
    let vars: BTreeMap<String, Var> = vars.collect();
    assert_eq!(
        vars.len(),
        expected["weights"].as_object().unwrap().len(),
        "every weight of RecBole's model is one of ours"
    );
    let histories: Vec<Vec<u32>> = serde_json::from_value(file["histories"].clone()).unwrap();
    let next: Vec<u32> = serde_json::from_value(file["next"].clone()).unwrap();
    let asked: Vec<(&Vec<u32>, &u32)> = histories.iter().zip(&next).collect();
    let piece = |same: &[(&Vec<u32>, &u32)]| {
        let histories: Vec<&[u32]> = same.iter().map(|pair| pair.0.as_slice()).collect();
        let next: Vec<u32> = same.iter().map(|pair| *pair.1).collect();
        (rows(&histories).unwrap(), Tensor::new(next, &Device::Cpu).unwrap())
    };
    let pieces = asked.chunk_by(|a, b| a.0.len() == b.0.len()).map(piece).collect();
    Tiny { model, config, vars, pieces, expected }
}

impl Tiny {
    fn network(&self) -> Network {
        let tracked = self.vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        Network::new(self.model, &self.config, &tracked).unwrap()
    }

    /// The loss of all pieces; with a seed dropout is at work.
    fn loss(&self, seed: Option<u64>) -> Tensor {
        let network = self.network();
        let losses = self.pieces.iter().zip(0..).map(|((histories, next), number)| {
            let mut dropout = seed.map_or_else(Dropout::none, |seed| Dropout::seeded(seed, number));
            network.loss(histories, next, &mut dropout).unwrap()
        });
        losses.reduce(|a, b| (a + b).unwrap()).unwrap()
    }

    fn gradients(&self, seed: Option<u64>) -> BTreeMap<String, Vec<f64>> {
        let found = self.loss(seed).backward().unwrap();
        let of = |var: &Var| found.get(var).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        self.vars.iter().map(|(name, var)| (name.clone(), of(var))).collect()
    }
}

#[test]
fn scores_loss_and_gradients_are_those_of_pytorch() {
    for model in MODELS {
        let tiny = tiny(model);
        let network = tiny.network();
        let mut scores = Vec::new();
        for (histories, _) in &tiny.pieces {
            scores.extend(network.scores(histories, &mut Dropout::none()).unwrap().to_vec2::<f64>().unwrap().concat());
        }
        let expected: Vec<f64> = tiny.expected["scores"].as_array().unwrap().iter().flat_map(doubles).collect();
        assert_eq!(scores.len(), expected.len());
        assert!(scores.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-9), "{scores:?}");
        let (loss, theirs) = (tiny.loss(None).to_scalar::<f64>().unwrap(), tiny.expected["loss"].as_f64().unwrap());
        assert!((loss - theirs).abs() < 1e-9, "{loss} {theirs}");
        for (name, ours) in tiny.gradients(None) {
            let theirs = doubles(&tiny.expected["weights"][&name]["gradient"]);
            assert_eq!(ours.len(), theirs.len(), "{name}");
            // candle's slope of GELU has a constant of six digits.
            let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-7 + 2e-6 * b.abs();
            assert!(ours.iter().zip(&theirs).all(near), "{name}: {ours:?} {theirs:?}");
            // A key's bias moves all scores of attention alike, which changes nothing.
            let still = theirs.iter().all(|gradient| gradient.abs() < 1e-8);
            assert_eq!(still, name.ends_with("key.bias"), "{name}");
        }
    }
}

#[test]
fn gradients_are_the_slopes_of_the_loss_with_dropout_at_work() {
    const STEP: f64 = 1e-5;
    for model in MODELS {
        let mut tiny = tiny(model);
        tiny.config.sasrec = SasrecConfig { hidden_dropout_prob: 0.3, attn_dropout_prob: 0.2, ..tiny.config.sasrec };
        tiny.config.gru4rec = Gru4recConfig { dropout_prob: 0.3, ..tiny.config.gru4rec };
        let still = tiny.loss(None).to_scalar::<f64>().unwrap();
        assert_ne!(still, tiny.loss(Some(5)).to_scalar::<f64>().unwrap(), "dropout changes the loss");
        for (name, gradients) in tiny.gradients(Some(5)) {
            let var = tiny.vars[&name].clone();
            let (shape, values) = (var.dims().to_vec(), var.flatten_all().unwrap().to_vec1::<f64>().unwrap());
            for (at, gradient) in gradients.into_iter().enumerate() {
                let moved = |by: f64| {
                    let mut values = values.clone();
                    values[at] += by;
                    var.set(&Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).unwrap()).unwrap();
                    tiny.loss(Some(5)).to_scalar::<f64>().unwrap()
                };
                let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                assert!((slope - gradient).abs() < 1e-6 * (1.0 + slope.abs()), "{name}[{at}]: {slope} {gradient}");
            }
            var.set(&Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).unwrap()).unwrap();
        }
    }
}

#[test]
fn weights_begin_as_those_of_recbole_and_the_seed_decides_them() {
    let config = SequenceConfig::default();
    for model in MODELS {
        let weights = weights(model, &config, 500);
        let made = |seed| -> BTreeMap<String, Vec<f32>> {
            let vars = begin(&weights, seed).unwrap();
            vars.iter().map(|(name, var)| (name.clone(), values(var).unwrap())).collect()
        };
        let (one, other) = (made(1), made(2));
        assert!(one == made(1) && one != other);
        for (name, _, start) in &weights {
            let values = &one[name];
            let mean_square = values.iter().map(|v| f64::from(v * v)).sum::<f64>() / values.len() as f64;
            let expected = match start {
                Start::Constant(value) => value * value,
                Start::Normal(deviation) => deviation * deviation,
                Start::Uniform(bound) => bound * bound / 3.0,
            };
            assert!((mean_square - expected).abs() <= 0.3 * expected, "{name}: {mean_square} {expected}");
        }
    }
    let items = |model| weights(model, &config, 500).into_iter().find(|weight| weight.0 == ITEMS).unwrap().2;
    assert_eq!(items(SequenceModel::Sasrec), Start::Normal(0.02));
    // Xavier's: the root of 2 / (items + width).
    assert_eq!(items(SequenceModel::Gru4rec), Start::Normal((2.0_f64 / 564.0).sqrt()));
}
