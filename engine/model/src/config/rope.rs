//! Scalings of the rotary frequencies, with the formulas of transformers (`modeling_rope_utils.py`).

use std::f64::consts::TAU;

/// How rotary positions were stretched beyond the context that a model began with. Names are those of Hugging Face's
/// configurations.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// All positions are divided (`rope_type` "linear").
    Linear {
        /// By this.
        factor: f64,
    },
    /// Llama 3's (`rope_type` "llama3"): short wavelengths stay, long ones are stretched, those between in part.
    Llama3 {
        /// Long wavelengths are stretched by this factor.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are stretched in full.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` stay as they are.
        high_freq_factor: f64,
        /// The context that the model was trained with before scaling.
        original_max_position_embeddings: usize,
    },
    /// YaRN (arXiv 2309.00071, `rope_type` "yarn"): frequencies stay or are stretched by how often they turn in the
    /// original context, and attention is sharpened.
    Yarn {
        /// Slow frequencies are stretched by this factor.
        factor: f64,
        /// The context that the model was trained with before scaling.
        original_max_position_embeddings: usize,
        /// Frequencies that turn more often than this in the original context stay as they are.
        beta_fast: f64,
        /// Those that turn less often than this are stretched in full.
        beta_slow: f64,
        /// Whether the bounds between them are whole numbers of frequencies.
        truncate: bool,
        /// What queries and keys are multiplied by.
        attention_factor: f64,
    },
}

impl RopeScaling {
    /// What YaRN multiplies queries and keys by for a factor: `0.1 ln(factor) + 1`; `weight` is the `mscale` of some models.
    pub(crate) fn yarn_attention(factor: f64, weight: f64) -> f64 {
        if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 }
    }

    /// What queries and keys are multiplied by.
    pub(crate) fn attention_factor(&self) -> f64 {
        match self {
            Self::Yarn { attention_factor, .. } => *attention_factor,
            Self::Linear { .. } | Self::Llama3 { .. } => 1.0,
        }
    }

    /// The context before scaling, where the scaling names it.
    pub(super) fn original_context(&self) -> Option<usize> {
        match *self {
            Self::Linear { .. } => None,
            Self::Llama3 { original_max_position_embeddings: n, .. }
            | Self::Yarn { original_max_position_embeddings: n, .. } => Some(n),
        }
    }

    /// Whether its numbers can be computed with.
    pub(super) fn is_possible(&self) -> bool {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        match *self {
            Self::Linear { factor } => positive(factor),
            Self::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: n,
            } => positive(factor) && high > low && n > 0,
            Self::Yarn {
                factor, original_max_position_embeddings: n, beta_fast, beta_slow, attention_factor, ..
            } => {
                let all = [factor, beta_fast, beta_slow, attention_factor];
                all.into_iter().all(positive) && beta_fast >= beta_slow && n > 0
            }
        }
    }

    /// Its numbers, as messages show them.
    pub(super) fn shown(&self) -> String {
        match *self {
            Self::Linear { factor } => format!("linear with the factor {factor}"),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => format!(
                "llama3 with the factor {factor}, low_freq_factor {low_freq_factor}, high_freq_factor {high_freq_factor}, \
                 original_max_position_embeddings {original_max_position_embeddings}"
            ),
            Self::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, attention_factor, .. } => {
                format!(
                    "yarn with the factor {factor}, beta_fast {beta_fast}, beta_slow {beta_slow}, attention_factor \
                 {attention_factor}, original_max_position_embeddings {original_max_position_embeddings}"
                )
            }
        }
    }

    /// Scales the frequencies of a model (radians a position), `theta^(-2i / head_dim)` before.
    pub(super) fn apply(&self, frequencies: impl ExactSizeIterator<Item = f64>, theta: f64) -> Vec<f64> {
        match *self {
            Self::Linear { factor } => frequencies.map(|f| f / factor).collect(),
            Self::Llama3 { .. } => frequencies.map(|f| f / self.divisor(f)).collect(),
            Self::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, truncate, .. } => {
                let dim = 2.0 * frequencies.len() as f64;
                // The frequency that makes so many turns in the original context, by its number.
                let turns = |n: f64| {
                    let context = original_max_position_embeddings as f64;
                    dim * (context / (n * TAU)).ln() / (2.0 * theta.ln())
                };
                let (low, high) = (turns(beta_fast), turns(beta_slow));
                let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
                if low == high {
                    high += 0.001;
                }
                let stretched = |i: usize| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                frequencies.enumerate().map(|(i, f)| f / factor * stretched(i) + f * (1.0 - stretched(i))).collect()
            }
        }
    }

    /// Llama 3's divisor of one frequency: 1 for short wavelengths, `factor` for long ones, and between them 1 over a
    /// straight interpolation in cycles per original context. 1 for other scalings.
    pub(crate) fn divisor(&self, frequency: f64) -> f64 {
        let Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } = *self else {
            return 1.0;
        };
        let cycles = original_max_position_embeddings as f64 * frequency / TAU;
        if cycles < low_freq_factor {
            factor
        } else if cycles > high_freq_factor {
            1.0
        } else {
            let smooth = (cycles - low_freq_factor) / (high_freq_factor - low_freq_factor);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    }
}
