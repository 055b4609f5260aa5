//! From the vectors of a text's tokens to the one of the text: what sentence-transformers' modules behind the encoder do.

use querywright_types::{Error, Result};

/// How the vectors of a text's tokens become one. The names are those of sentence-transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Pooling {
    /// The first token's.
    Cls,
    /// The largest value of each dimension.
    Max,
    /// The mean.
    Mean,
    /// The sum over the square root of the number of tokens.
    #[serde(rename = "mean_sqrt_len_tokens")]
    MeanSqrtLen,
    /// The mean weighted by position: the first token counts once, the second twice.
    WeightedMean,
    /// The last token's.
    LastToken,
}

impl Pooling {
    pub(crate) const ALL: [(&'static str, Self); 6] = [
        ("cls", Self::Cls),
        ("max", Self::Max),
        ("mean", Self::Mean),
        ("mean_sqrt_len_tokens", Self::MeanSqrtLen),
        ("weightedmean", Self::WeightedMean),
        ("lasttoken", Self::LastToken),
    ];

    /// Its name in sentence-transformers.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }

    /// The mode of a name.
    ///
    /// # Errors
    /// [`Error::Argument`] for an unknown one, with those that are known.
    pub fn parse(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, mode)| *mode);
        found.ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|(name, _)| *name).collect();
            Error::argument("pooling", format!("\"{name}\" is unknown"), format!("give one of {}", known.join(", ")))
        })
    }

    /// Pools `tokens`, row by row of `width` values.
    fn of(self, tokens: &[f32], width: usize, pooled: &mut Vec<f32>) {
        let rows = tokens.chunks_exact(width);
        let count = rows.len();
        let mut sums = vec![0.0; width];
        let mut add = |row: &[f32], weight: f32| sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += weight * x);
        match self {
            Self::Cls => rows.take(1).for_each(|row| add(row, 1.0)),
            Self::LastToken => rows.rev().take(1).for_each(|row| add(row, 1.0)),
            Self::Mean | Self::MeanSqrtLen => {
                rows.for_each(|row| add(row, 1.0));
                let parts = if self == Self::Mean { count as f32 } else { (count as f32).sqrt() };
                sums.iter_mut().for_each(|sum| *sum /= parts.max(1e-9));
            }
            Self::WeightedMean => {
                rows.zip(1_u32..).for_each(|(row, position)| add(row, position as f32));
                let parts = (count * (count + 1) / 2) as f32;
                sums.iter_mut().for_each(|sum| *sum /= parts.max(1e-9));
            }
            Self::Max => {
                sums.fill(if count == 0 { 0.0 } else { f32::NEG_INFINITY });
                rows.for_each(|row| sums.iter_mut().zip(row).for_each(|(most, x)| *most = most.max(*x)));
            }
        }
        pooled.extend(sums);
    }
}

/// A step behind the encoder.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// The modes, one behind the other.
    Pool(Vec<Pooling>),
    Dense(Dense),
    /// To length 1.
    Normalize,
}

/// A linear layer with an activation.
#[derive(Debug, Clone)]
pub(crate) struct Dense {
    /// (output, input), row by row.
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) inputs: usize,
    pub(crate) activation: DenseActivation,
}

/// What follows a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DenseActivation {
    Identity,
    Tanh,
    Relu,
    Sigmoid,
}

impl Dense {
    fn of(&self, input: &[f32]) -> Vec<f32> {
        let sums = self.weight.chunks_exact(self.inputs).enumerate().map(|(at, row)| {
            let bias = self.bias.as_ref().and_then(|bias| bias.get(at)).copied().unwrap_or(0.0);
            row.iter().zip(input).map(|(w, x)| w * x).sum::<f32>() + bias
        });
        sums.map(|x| match self.activation {
            DenseActivation::Identity => x,
            DenseActivation::Tanh => x.tanh(),
            DenseActivation::Relu => x.max(0.0),
            DenseActivation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        })
        .collect()
    }

    pub(crate) fn outputs(&self) -> usize {
        self.weight.len() / self.inputs.max(1)
    }
}

/// The vector of a text from those of its tokens, `width` values each.
pub(crate) fn pooled(steps: &[Step], tokens: &[f32], width: usize) -> Vec<f32> {
    let mut vector = Vec::new();
    for step in steps {
        match step {
            Step::Pool(modes) => modes.iter().for_each(|mode| mode.of(tokens, width, &mut vector)),
            Step::Dense(dense) => vector = dense.of(&vector),
            Step::Normalize => normalize(&mut vector),
        }
    }
    vector
}

/// Makes the length 1; a vector of zeros stays one.
pub(crate) fn normalize(vector: &mut [f32]) {
    // As PyTorch's F.normalize.
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|x| *x /= length);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_pools_as_its_formula_says() {
        let tokens = [1.0, -2.0, 3.0, 4.0, 5.0, -6.0];
        let of = |modes: &[Pooling]| pooled(&[Step::Pool(modes.to_vec())], &tokens, 2);
        assert_eq!(of(&[Pooling::Cls]), [1.0, -2.0]);
        assert_eq!(of(&[Pooling::LastToken]), [5.0, -6.0]);
        assert_eq!(of(&[Pooling::Max]), [5.0, 4.0]);
        assert_eq!(of(&[Pooling::Mean]), [3.0, -4.0 / 3.0]);
        assert_eq!(of(&[Pooling::MeanSqrtLen]), [9.0 / 3_f32.sqrt(), -4.0 / 3_f32.sqrt()]);
        // (1 + 2 * 3 + 3 * 5) / 6 and (-2 + 2 * 4 - 3 * 6) / 6.
        assert_eq!(of(&[Pooling::WeightedMean]), [22.0 / 6.0, -12.0 / 6.0]);
        assert_eq!(of(&[Pooling::Cls, Pooling::Max]), [1.0, -2.0, 5.0, 4.0], "several stand one behind the other");
    }

    #[test]
    fn a_text_without_tokens_has_a_vector_of_zeros_in_every_mode() {
        for (name, mode) in Pooling::ALL {
            let steps = [Step::Pool(vec![mode]), Step::Normalize];
            assert_eq!(pooled(&steps, &[], 3), [0.0; 3], "{name}");
            assert_eq!(Pooling::parse(name).unwrap(), mode);
            assert_eq!(mode.name(), name);
        }
        assert!(Pooling::parse("median").unwrap_err().to_string().contains("weightedmean"));
    }

    #[test]
    fn a_linear_layer_adds_its_bias_before_its_activation() {
        let layer = |activation| Dense {
            weight: vec![1.0, 0.0, 0.0, -2.0, 1.0, 1.0],
            bias: Some(vec![0.5, 0.0, -7.0]),
            inputs: 2,
            activation,
        };
        let of = |activation| layer(activation).of(&[3.0, 4.0]);
        assert_eq!(of(DenseActivation::Identity), [3.5, -8.0, 0.0]);
        assert_eq!(of(DenseActivation::Relu), [3.5, 0.0, 0.0]);
        assert_eq!(of(DenseActivation::Tanh), [3.5_f32.tanh(), (-8_f32).tanh(), 0.0]);
        assert_eq!(layer(DenseActivation::Identity).outputs(), 3);
    }
}
