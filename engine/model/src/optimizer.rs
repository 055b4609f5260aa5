//! The state of AdamW (Loshchilov and Hutter 2019) for an adapter, and what both backends know of an update.
//!
//! A backend may keep values and moments where it computes (`cuda/optimizer.rs`). [`AdamWState::fetch`] brings them
//! back, so that a checkpoint holds plain vectors under the parameters' names.

use std::any::Any;
use std::collections::BTreeMap;

use querywright_types::{Error, Result};

/// The moments of one parameter, as long as the parameter.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct Moments {
    /// Running mean of the gradient.
    pub m: Vec<f32>,
    /// Running mean of its square.
    pub v: Vec<f32>,
}

/// The state of the optimiser. Two equal states give equal updates.
#[derive(Debug, Default)]
pub struct AdamWState {
    /// Updates made so far; skipped ones do not count.
    pub step: u64,
    /// The moments of each parameter that was ever updated, by name. Where a device holds newer ones, these are as old as
    /// the last [`fetch`](Self::fetch).
    pub moments: BTreeMap<String, Moments>,
    /// What a device holds of the state, where the last update was made there.
    pub(super) resident: Option<Box<dyn Resident>>,
}

/// The part of the state that a device holds.
pub(super) trait Resident: Any + std::fmt::Debug + Send + Sync {
    /// The moments by parameter.
    fn moments(&self) -> Result<Vec<(String, Moments)>>;
}

/// The numbers of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// The learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay: parameters shrink by `learning_rate * weight_decay`.
    pub weight_decay: f64,
    /// The gradient's norm at most; 0 never clips.
    pub max_grad_norm: f64,
}

/// What became of an update.
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use = "a skipped update must be counted and reported"]
#[non_exhaustive]
pub struct Updated {
    /// The gradient's norm before clipping.
    pub grad_norm: f64,
    /// Whether the gradient was not finite, so that nothing was changed.
    pub skipped: bool,
}

impl AdamWState {
    /// Brings the moments back from the device, if the last update was made there.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn fetch(&mut self) -> Result<()> {
        if let Some(on_device) = &self.resident {
            self.moments.extend(on_device.moments()?);
            self.resident = None;
        }
        Ok(())
    }

    /// Refuses state of another length than a parameter.
    pub(super) fn check(&self, name: &str, values: usize, gradient: usize) -> Result<()> {
        let known = self.moments.get(name);
        let lengths = [Some(gradient), known.map(|k| k.m.len()), known.map(|k| k.v.len())];
        match lengths.into_iter().flatten().find(|n| *n != values) {
            None => Ok(()),
            Some(other) => {
                let found = format!("{values} values, but {other} in its gradient or optimizer state");
                Err(Error::argument(name, found, "resume with the model that the state belongs to"))
            }
        }
    }
}

impl AdamWStep {
    /// What the running means of update number `count` (from 1) are divided by: `1 - beta^count`.
    pub(super) fn corrections(&self, count: u64) -> (f64, f64) {
        (1.0 - self.beta1.powf(count as f64), 1.0 - self.beta2.powf(count as f64))
    }

    /// What gradients of this norm are multiplied by, so that their norm is at most `max_grad_norm`; 1 where nothing is
    /// clipped.
    pub(super) fn clip_factor(&self, norm: f64) -> f64 {
        // PyTorch's guard, so that norms compare digit by digit.
        let factor = self.max_grad_norm / (norm + 1e-6);
        if self.max_grad_norm > 0.0 && norm.is_finite() && factor < 1.0 { factor } else { 1.0 }
    }
}
