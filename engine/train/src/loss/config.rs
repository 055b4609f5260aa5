//! The settings of the loss.

use querywright_types::{Error, Result};

/// How the losses of tokens are summed up: TRL's `loss_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LossType {
    /// Mean over each completion's tokens, then over completions (DeepSeekMath): short completions weigh more a token.
    Grpo,
    /// Sum over tokens / (completions x `max_completion_length`): no length bias (Dr. GRPO).
    DrGrpo,
    /// Mean over the tokens of the micro-batch.
    Bnpo,
    /// Mean over the tokens of the whole optimiser step (DAPO). TRL's default.
    #[default]
    Dapo,
}

/// What one importance weight stands for: TRL's `importance_sampling_level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ImportanceLevel {
    /// A ratio for each token.
    #[default]
    Token,
    /// One ratio for a completion, the geometric mean over its tokens (GSPO).
    Sequence,
}

/// The settings of the loss, under TRL's names.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// Default `dapo`.
    pub loss_type: LossType,
    /// Lower clip range of the ratio, and the upper one where `epsilon_high` is absent. Default 0.2.
    pub epsilon: f64,
    /// Upper clip range of the ratio; DAPO recommends 0.28. Default: `epsilon`.
    pub epsilon_high: Option<f64>,
    /// Upper bound of the unclipped ratio (two-sided clipping, INTELLECT-2); above `1 + epsilon_high`. Default: none.
    pub delta: Option<f64>,
    /// Weight of the KL divergence to the reference; 0 needs no reference. Default 0.
    pub beta: f64,
    /// Whether the KL estimate is multiplied by the importance ratio, which makes its gradient unbiased when the
    /// completions come from older weights. Default true.
    pub use_bias_correction_kl: bool,
    /// Default `token`.
    pub importance_sampling_level: ImportanceLevel,
    /// Weight of the entropy bonus: the mean entropy per token, times this, is subtracted from the loss. Below 0 it is a
    /// penalty. Default 0.
    pub entropy_coef: f64,
    /// Where above 0, policy shaping (LUFFY) of completions that the policy did not sample: a token weighs most where its
    /// probability is this. Default 0: they have ratio 1, as in a supervised step.
    #[serde(skip_serializing_if = "is_zero")]
    pub off_policy_gamma: f64,
    /// Whether completions that ran into the length limit are left out of the loss. Default false.
    pub mask_truncated_completions: bool,
    /// The length limit in tokens, the constant divisor of `dr_grpo`. Not a key of a configuration: the trainer takes
    /// it from the sampling settings.
    #[serde(skip)]
    pub max_completion_length: usize,
    /// Whether the completions stand in pairs, and the loss is [`preference_loss`](super::preference_loss). Not a key of a
    /// configuration: `train.method` says so.
    #[serde(skip)]
    pub preference: bool,
}

/// A default is not written: checkpoints from before the key resume.
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            loss_type: LossType::Dapo,
            epsilon: 0.2,
            epsilon_high: None,
            delta: None,
            beta: 0.0,
            use_bias_correction_kl: true,
            importance_sampling_level: ImportanceLevel::Token,
            entropy_coef: 0.0,
            off_policy_gamma: 0.0,
            mask_truncated_completions: false,
            max_completion_length: 512,
            preference: false,
        }
    }
}

impl LossConfig {
    /// Refuses values without meaning; the message names the key.
    pub fn validate(&self) -> Result<()> {
        let high = self.upper_epsilon();
        let checks = [
            ("epsilon", self.epsilon, self.epsilon > 0.0 && self.epsilon < 1.0, "a number between 0 and 1, as 0.2"),
            ("epsilon_high", high, high > 0.0, "a number above 0, as 0.28"),
            ("beta", self.beta, self.beta >= 0.0, "0 (no KL term) or a small number, as 0.001"),
            ("entropy_coef", self.entropy_coef, true, "a number, as 0 or 0.01"),
            (
                "off_policy_gamma",
                self.off_policy_gamma,
                self.off_policy_gamma >= 0.0,
                "0 (none) or a probability, as 0.1",
            ),
        ];
        for (name, value, ok, right) in checks {
            if !(ok && value.is_finite()) {
                return Err(Error::argument(name, format!("{value}"), format!("give {right}")));
            }
        }
        if let Some(delta) = self.delta.filter(|d| !d.is_finite() || *d <= 1.0 + high) {
            let right = format!("give a number above 1 + epsilon_high = {}, or leave it out", 1.0 + high);
            return Err(Error::argument("delta", format!("{delta}"), right));
        }
        if self.max_completion_length == 0 {
            return Err(Error::argument(
                "max_completion_length",
                "0",
                "give the number of tokens a completion may have",
            ));
        }
        Ok(())
    }

    pub(super) fn upper_epsilon(&self) -> f64 {
        self.epsilon_high.unwrap_or(self.epsilon)
    }
}
