//! The optimiser of a run: AdamW's settings and its state.

use querywright_model::{AdamWState, AdamWStep};
use querywright_types::{Error, Result};

pub use querywright_model::Moments;

/// The settings of AdamW; the names are those of transformers' `TrainingArguments`, without the prefix `adam_`.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Decay of the first moment. Default 0.9.
    pub beta1: f64,
    /// Decay of the second moment. Default 0.999.
    pub beta2: f64,
    /// Added to the root of the second moment. Default 1e-8.
    pub epsilon: f64,
    /// Decoupled weight decay: parameters shrink by `learning_rate * weight_decay` a step. Default 0.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

impl AdamWConfig {
    /// Refuses values that do not optimise.
    pub fn validate(&self) -> Result<()> {
        let checks = [
            ("beta1", self.beta1, (0.0..1.0).contains(&self.beta1), "a number from 0 to below 1, as 0.9"),
            ("beta2", self.beta2, (0.0..1.0).contains(&self.beta2), "a number from 0 to below 1, as 0.999"),
            ("epsilon", self.epsilon, self.epsilon > 0.0, "a small number above 0, as 1e-8"),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0.0, "0 or a small number, as 0.01"),
        ];
        for (name, value, ok, right) in checks {
            if !(ok && value.is_finite()) {
                return Err(Error::argument(name, format!("{value}"), format!("give {right}")));
            }
        }
        Ok(())
    }
}

/// The optimiser and all of its state. Two equal ones give equal updates.
#[derive(Debug)]
pub struct AdamW {
    /// The settings.
    pub config: AdamWConfig,
    /// Moments and the count of updates.
    pub state: AdamWState,
}

impl AdamW {
    /// An optimiser that has seen nothing yet.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, state: AdamWState::default() }
    }

    /// Copies the moments to memory that can be read and saved; updates may leave newer ones on a device.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn fetch(&mut self) -> Result<()> {
        self.state.fetch()
    }

    /// The numbers of an update with this learning rate and this largest gradient norm (0 never clips).
    pub(super) fn step(&self, learning_rate: f64, max_grad_norm: f64) -> AdamWStep {
        let AdamWConfig { beta1, beta2, epsilon, weight_decay } = self.config;
        AdamWStep { learning_rate, beta1, beta2, epsilon, weight_decay, max_grad_norm }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_do_not_optimise_are_refused_by_name() {
        let wrong = AdamWConfig { beta2: 1.0, ..AdamWConfig::default() };
        assert_eq!(wrong.validate().unwrap_err().to_string(), "beta2: 1; give a number from 0 to below 1, as 0.999");
        assert!(AdamWConfig::default().validate().is_ok());
    }
}
