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
    /// The importance weight is bounded by `epsilon_high` and counts as a constant, so that every token has a gradient
    /// (MiniMax-M1, arXiv 2506.13585); summed up as `dapo`.
    Cispo,
    /// A smooth gate over the ratio in the place of the clip (arXiv 2511.20347); summed up as `grpo`.
    Sapo,
    /// The clipped loss summed over tokens, averaged over completions: a completion weighs as much as it is long (arXiv
    /// 2602.05261). At sequence level.
    Luspo,
    /// A smooth weight of the whole completion's probability ratio, which counts as a constant (arXiv 2602.10693); summed
    /// up as `dapo`.
    Vespo,
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
    /// One ratio for each term that a completion lists, the geometric mean over its tokens (Rank-GRPO, arXiv 2510.20150).
    /// Not in TRL; with `train.rank_credit` alone.
    Item,
}

/// The settings of the loss, under TRL's names.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// Default `dapo`.
    pub loss_type: LossType,
    /// Lower clip range of the ratio, and the upper one where `epsilon_high` is absent. Default 0.2.
    pub epsilon: f64,
    /// Upper clip range of the ratio; DAPO recommends 0.28. With `cispo` the bound of the ratio itself, and must be given;
    /// ScaleRL recommends 5. Default: `epsilon`.
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
    /// The share of tokens, those of the highest entropies, that the policy learns from (Beyond the 80/20 Rule, arXiv
    /// 2506.01939, recommends 0.2); the KL term keeps all. Found anew for each micro-batch. Default 1: all.
    #[serde(skip_serializing_if = "is_hundredths::<100>")]
    pub top_entropy_quantile: f64,
    /// Completions with a negative advantage are left out where the mean of `old_logp - logp` over their tokens is above
    /// this: the policy has left them behind (DeepSeek-V3.2, arXiv 2512.02556). It has an effect from the second of
    /// `train.num_iterations` on. Default: none is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off_policy_mask_threshold: Option<f64>,
    /// `sapo`: how steep the gate is for advantages of at most 0. Default 1.05.
    #[serde(skip_serializing_if = "is_hundredths::<105>")]
    pub sapo_temperature_neg: f64,
    /// `sapo`: how steep the gate is for positive advantages. Default 1.
    #[serde(skip_serializing_if = "is_hundredths::<100>")]
    pub sapo_temperature_pos: f64,
    /// `vespo`: how fast the weight falls below ratio 1, for advantages from 0 on. Default 2.
    #[serde(skip_serializing_if = "is_hundredths::<200>")]
    pub vespo_k_pos: f64,
    /// `vespo`: how fast the weight falls above ratio 1, for advantages from 0 on. Default 3.
    #[serde(skip_serializing_if = "is_hundredths::<300>")]
    pub vespo_lambda_pos: f64,
    /// `vespo`: how fast the weight falls below ratio 1, for negative advantages. Default 3.
    #[serde(skip_serializing_if = "is_hundredths::<300>")]
    pub vespo_k_neg: f64,
    /// `vespo`: how fast the weight falls above ratio 1, for negative advantages. Default 2.
    #[serde(skip_serializing_if = "is_hundredths::<200>")]
    pub vespo_lambda_neg: f64,
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

fn is_hundredths<const HUNDREDTHS: u32>(value: &f64) -> bool {
    *value == f64::from(HUNDREDTHS) / 100.0
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
            top_entropy_quantile: 1.0,
            off_policy_mask_threshold: None,
            sapo_temperature_neg: 1.05,
            sapo_temperature_pos: 1.0,
            vespo_k_pos: 2.0,
            vespo_lambda_pos: 3.0,
            vespo_k_neg: 3.0,
            vespo_lambda_neg: 2.0,
            mask_truncated_completions: false,
            max_completion_length: 512,
            preference: false,
        }
    }
}

impl LossConfig {
    /// Refuses values without meaning; the message names the key.
    ///
    /// # Errors
    /// [`Error::Argument`]: the key, what was found, what would be right.
    pub fn validate(&self) -> Result<()> {
        let high = self.upper_epsilon();
        let above = |value: f64| value > 0.0;
        let share = (0.0..=1.0).contains(&self.top_entropy_quantile);
        let checks = [
            ("epsilon", self.epsilon, self.epsilon > 0.0 && self.epsilon < 1.0, "a number between 0 and 1, as 0.2"),
            ("epsilon_high", high, above(high), "a number above 0, as 0.28"),
            ("beta", self.beta, self.beta >= 0.0, "0 (no KL term) or a small number, as 0.001"),
            ("entropy_coef", self.entropy_coef, true, "a number, as 0 or 0.01"),
            (
                "off_policy_gamma",
                self.off_policy_gamma,
                self.off_policy_gamma >= 0.0,
                "0 (none) or a probability, as 0.1",
            ),
            ("top_entropy_quantile", self.top_entropy_quantile, share, "a share of the tokens from 0 to 1, as 0.2"),
            (
                "sapo_temperature_neg",
                self.sapo_temperature_neg,
                above(self.sapo_temperature_neg),
                "one above 0, as 1.05",
            ),
            ("sapo_temperature_pos", self.sapo_temperature_pos, above(self.sapo_temperature_pos), "one above 0, as 1"),
            ("vespo_k_pos", self.vespo_k_pos, self.vespo_k_pos >= 0.0, "0 or more, as 2"),
            ("vespo_lambda_pos", self.vespo_lambda_pos, self.vespo_lambda_pos >= 0.0, "0 or more, as 3"),
            ("vespo_k_neg", self.vespo_k_neg, self.vespo_k_neg >= 0.0, "0 or more, as 3"),
            ("vespo_lambda_neg", self.vespo_lambda_neg, self.vespo_lambda_neg >= 0.0, "0 or more, as 2"),
        ];
        for (name, value, ok, right) in checks {
            if !(ok && value.is_finite()) {
                return Err(Error::argument(name, format!("{value}"), format!("give {right}")));
            }
        }
        if let Some(threshold) = self.off_policy_mask_threshold.filter(|t| !(t.is_finite() && above(*t))) {
            let remedy = "give a number above 0, as 0.5, or leave it out";
            return Err(Error::argument("off_policy_mask_threshold", threshold.to_string(), remedy));
        }
        if self.max_completion_length == 0 {
            let remedy = "give the number of tokens a completion may have";
            return Err(Error::argument("max_completion_length", "0", remedy));
        }
        self.validate_type()
    }

    /// Refuses what does not fit the type of the loss.
    fn validate_type(&self) -> Result<()> {
        let (loss_type, level) = (self.loss_type, self.importance_sampling_level);
        let clips = !matches!(loss_type, LossType::Cispo | LossType::Sapo | LossType::Vespo);
        let high = self.upper_epsilon();
        match self.delta {
            Some(delta) if !clips => {
                let found = format!("{delta}, and this loss type has no clip that it could widen");
                return Err(Error::argument("delta", found, "leave it out"));
            }
            Some(delta) if !delta.is_finite() || delta <= 1.0 + high => {
                let right = format!("give a number above 1 + epsilon_high = {}, or leave it out", 1.0 + high);
                return Err(Error::argument("delta", format!("{delta}"), right));
            }
            _ => {}
        }
        let unused = match loss_type {
            _ if !clips && self.epsilon != Self::default().epsilon => Some("epsilon"),
            LossType::Sapo | LossType::Vespo if self.epsilon_high.is_some() => Some("epsilon_high"),
            _ => None,
        };
        if let Some(key) = unused {
            let found = format!("it is set, and {loss_type:?} has no such clip");
            return Err(Error::argument(key, found, "leave it out"));
        }
        if loss_type == LossType::Cispo && self.epsilon_high.is_none() {
            let found = "absent, and cispo bounds the ratio itself by it";
            return Err(Error::argument("epsilon_high", found, "give 5.0, as ScaleRL recommends"));
        }
        let right = match (loss_type, level) {
            (LossType::Luspo, ImportanceLevel::Sequence) | (LossType::Vespo, ImportanceLevel::Token) => return Ok(()),
            (LossType::Luspo, _) => "sequence",
            (LossType::Vespo, _) => "token",
            _ => return Ok(()),
        };
        let found = format!("{level:?} with the loss type {loss_type:?}");
        Err(Error::argument("importance_sampling_level", found, format!("set \"{right}\", or another loss_type")))
    }

    pub(super) fn upper_epsilon(&self) -> f64 {
        self.epsilon_high.unwrap_or(self.epsilon)
    }
}
