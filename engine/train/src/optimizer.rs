//! AdamW (Loshchilov and Hutter 2019) over named flat parameters, and clipping of the gradient's norm.
//!
//! The state is plain vectors under the parameters' names, so that a checkpoint can hold it and a resumed run
//! continues bit for bit. Values and moments are kept in single precision; one update is computed in double.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::kernels::device::{Buffer, Device};

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

/// The moments of one parameter, as long as the parameter.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct Moments {
    /// Running mean of the gradient.
    pub m: Vec<f32>,
    /// Running mean of its square.
    pub v: Vec<f32>,
}

/// The optimiser and all of its state. Two equal states give equal updates. After updates on a device the moments are there:
/// [`fetch`](Self::fetch) brings them back, before they are read or saved.
#[derive(Debug)]
pub struct AdamW {
    /// The settings.
    pub config: AdamWConfig,
    /// Updates made so far; skipped ones do not count.
    pub step: u64,
    /// The moments of each parameter that was ever updated, by name; as they were at the last [`fetch`](Self::fetch) where a
    /// device holds newer ones.
    pub moments: BTreeMap<String, Moments>,
    /// What a device holds of the state, where the last update was made there; `moments` are then older.
    pub(super) resident: Option<Resident>,
}

/// Values and moments of all parameters on a device, one parameter behind the other.
#[derive(Debug)]
pub(super) struct Resident {
    pub(super) device: Device,
    /// The parameters' names and lengths.
    pub(super) parameters: Vec<(String, usize)>,
    pub(super) values: Buffer,
    pub(super) m: Buffer,
    pub(super) v: Buffer,
    /// The values as they were after the last update.
    pub(super) known: Vec<Vec<f32>>,
}

/// One parameter and its gradient for an update.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// Its name: the key of its moments.
    pub name: &'a str,
    /// Its values, updated in place.
    pub values: &'a mut [f32],
    /// The gradient of the loss with respect to each value.
    pub gradient: &'a [f32],
}

/// What became of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a skipped update must be counted and reported"]
pub enum Update {
    /// Every parameter was updated.
    Applied,
    /// This parameter's gradient is infinite or not a number; nothing was changed.
    SkippedNonFinite {
        /// The parameter.
        parameter: String,
    },
}

impl AdamW {
    /// An optimiser that has seen nothing yet.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, step: 0, moments: BTreeMap::new(), resident: None }
    }

    /// Brings the moments back from the device, if the last update was made there.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn fetch(&mut self) -> Result<()> {
        let Some(there) = &self.resident else { return Ok(()) };
        let count = there.parameters.iter().map(|p| p.1).sum();
        let (mut m, mut v) = (vec![0f32; count], vec![0f32; count]);
        there.device.read(there.m.view(), &mut m)?;
        there.device.read(there.v.view(), &mut v)?;
        let (mut m, mut v) = (m.into_iter(), v.into_iter());
        for (name, length) in &there.parameters {
            let moments = Moments { m: m.by_ref().take(*length).collect(), v: v.by_ref().take(*length).collect() };
            self.moments.insert(name.clone(), moments);
        }
        self.resident = None;
        Ok(())
    }

    /// Refuses state of another length than a parameter.
    pub(super) fn check(&self, name: &str, values: usize, gradient: usize) -> Result<()> {
        let known = self.moments.get(name);
        let lengths = [Some(gradient), known.map(|k| k.m.len()), known.map(|k| k.v.len())];
        match lengths.into_iter().flatten().find(|n| *n != values) {
            None => Ok(()),
            Some(other) => {
                let found = format!("{values} values, but {other} in its gradient or optimiser state");
                Err(Error::argument(name, found, "resume with the model that the state belongs to"))
            }
        }
    }

    /// One update with this learning rate. All or nothing: when any gradient is not finite, no parameter, no moment
    /// and no count changes.
    ///
    /// # Errors
    /// When a parameter, its gradient and its moments differ in length (a checkpoint of another model, say).
    pub fn update(&mut self, learning_rate: f64, parameters: &mut [Parameter<'_>]) -> Result<Update> {
        self.fetch()?;
        parameters.iter().try_for_each(|p| self.check(p.name, p.values.len(), p.gradient.len()))?;
        if let Some(bad) = parameters.iter().find(|p| p.gradient.iter().any(|g| !g.is_finite())) {
            return Ok(Update::SkippedNonFinite { parameter: bad.name.to_owned() });
        }
        self.step += 1;
        let AdamWConfig { beta1, beta2, epsilon, weight_decay } = self.config;
        let steps = self.step as f64;
        let (correct1, correct2) = (1.0 - beta1.powf(steps), 1.0 - beta2.powf(steps));
        for p in parameters {
            let zeros = || Moments { m: vec![0.0; p.values.len()], v: vec![0.0; p.values.len()] };
            let moments = self.moments.entry(p.name.to_owned()).or_insert_with(zeros);
            let state = moments.m.iter_mut().zip(&mut moments.v);
            for ((value, gradient), (m, v)) in p.values.iter_mut().zip(p.gradient).zip(state) {
                let g = f64::from(*gradient);
                *m = (beta1 * f64::from(*m) + (1.0 - beta1) * g) as f32;
                *v = (beta2 * f64::from(*v) + (1.0 - beta2) * g * g) as f32;
                let decayed = f64::from(*value) * (1.0 - learning_rate * weight_decay);
                let direction = (f64::from(*m) / correct1) / ((f64::from(*v) / correct2).sqrt() + epsilon);
                *value = (decayed - learning_rate * direction) as f32;
            }
        }
        Ok(Update::Applied)
    }
}

/// Scales the gradients so that their norm taken together is at most `max`, and returns the norm they had before
/// (`grad_norm`). A norm that is not finite is returned as it is and nothing is scaled: the update will be skipped.
/// A `max` of 0 or less only measures.
pub fn clip_grad_norm(gradients: &mut [&mut [f32]], max: f64) -> f64 {
    let squares: f64 = gradients.iter().flat_map(|g| g.iter()).map(|g| f64::from(*g) * f64::from(*g)).sum();
    let norm = squares.sqrt();
    let factor = clip_factor(norm, max);
    if factor < 1.0 {
        gradients.iter_mut().flat_map(|g| g.iter_mut()).for_each(|g| *g = (f64::from(*g) * factor) as f32);
    }
    norm
}

/// What gradients of this norm are multiplied by, so that their norm is at most `max`; 1 where nothing is clipped.
pub(super) fn clip_factor(norm: f64, max: f64) -> f64 {
    // PyTorch's guard, so that norms compare digit by digit.
    let factor = max / (norm + 1e-6);
    if max > 0.0 && norm.is_finite() && factor < 1.0 { factor } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Golden {
        beta1: f64,
        beta2: f64,
        epsilon: f64,
        weight_decay: f64,
        max_grad_norm: f64,
        start: BTreeMap<String, Vec<f32>>,
        steps: Vec<Step>,
    }

    #[derive(serde::Deserialize)]
    struct Step {
        learning_rate: f64,
        gradients: BTreeMap<String, Vec<f32>>,
        grad_norm: f64,
        parameters: BTreeMap<String, Vec<f32>>,
    }

    fn golden() -> Golden {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/adamw.json"));
        serde_json::from_value(serde_json::from_str::<serde_json::Value>(text).unwrap()["adamw"].take()).unwrap()
    }

    fn update(optimizer: &mut AdamW, values: &mut BTreeMap<String, Vec<f32>>, step: &Step, max: f64) -> f64 {
        let mut gradients = step.gradients.clone();
        let mut slices: Vec<&mut [f32]> = gradients.values_mut().map(Vec::as_mut_slice).collect();
        let norm = clip_grad_norm(&mut slices, max);
        let mut parameters: Vec<Parameter<'_>> =
            values.iter_mut().map(|(name, values)| Parameter { name, values, gradient: &gradients[name] }).collect();
        assert_eq!(optimizer.update(step.learning_rate, &mut parameters).unwrap(), Update::Applied);
        norm
    }

    #[test]
    fn ten_steps_with_clipping_and_decay_equal_those_of_torch() {
        let golden = golden();
        let Golden { beta1, beta2, epsilon, weight_decay, .. } = golden;
        let mut optimizer = AdamW::new(AdamWConfig { beta1, beta2, epsilon, weight_decay });
        let mut values = golden.start;
        for (i, step) in golden.steps.iter().enumerate() {
            let norm = update(&mut optimizer, &mut values, step, golden.max_grad_norm);
            assert!((norm - step.grad_norm).abs() < 1e-5 * step.grad_norm, "step {i}: norm {norm}");
            for (name, right) in &step.parameters {
                for (found, right) in values[name].iter().zip(right) {
                    assert!((found - right).abs() < 1e-6, "step {i}, {name}: {found} is not {right}");
                }
            }
        }
        assert_eq!(optimizer.step, 10);
    }

    #[test]
    fn a_saved_and_read_state_continues_bit_for_bit() {
        let golden = golden();
        let mut straight = (AdamW::new(AdamWConfig::default()), golden.start.clone());
        let mut broken = (AdamW::new(AdamWConfig::default()), golden.start.clone());
        for (i, step) in golden.steps.iter().enumerate() {
            update(&mut straight.0, &mut straight.1, step, 1.0);
            if i == 4 {
                let moments = serde_json::to_string(&broken.0.moments).unwrap();
                broken.0 = AdamW { step: broken.0.step, ..AdamW::new(AdamWConfig::default()) };
                broken.0.moments = serde_json::from_str(&moments).unwrap();
            }
            update(&mut broken.0, &mut broken.1, step, 1.0);
        }
        let state = |(optimizer, values): &(AdamW, BTreeMap<String, Vec<f32>>)| {
            (optimizer.step, optimizer.moments.clone(), values.clone())
        };
        assert_eq!(state(&straight), state(&broken));
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing_and_is_named() {
        let mut optimizer = AdamW::new(AdamWConfig::default());
        let (mut a, mut b) = ([1.0f32, 2.0], [3.0f32]);
        let mut parameters = [
            Parameter { name: "a", values: &mut a, gradient: &[0.5, 0.5] },
            Parameter { name: "b", values: &mut b, gradient: &[f32::NAN] },
        ];
        let outcome = optimizer.update(0.1, &mut parameters).unwrap();
        assert_eq!(outcome, Update::SkippedNonFinite { parameter: "b".into() });
        assert_eq!((a, b), ([1.0, 2.0], [3.0]));
        assert_eq!((optimizer.step, optimizer.moments.len()), (0, 0));
    }

    #[test]
    fn clipping_scales_all_gradients_together_and_leaves_small_ones_alone() {
        let (mut a, mut b) = (vec![3.0f32], vec![0.0f32, 4.0]);
        assert_eq!(clip_grad_norm(&mut [&mut a, &mut b], 10.0), 5.0);
        assert_eq!(a, [3.0]);
        assert_eq!(clip_grad_norm(&mut [&mut a, &mut b], 1.0), 5.0);
        assert!((a[0] - 0.6).abs() < 1e-6 && (b[1] - 0.8).abs() < 1e-6);
        let mut infinite = vec![f32::INFINITY, 1.0];
        assert!(clip_grad_norm(&mut [&mut infinite], 1.0).is_infinite());
        assert_eq!(infinite[1], 1.0);
    }

    #[test]
    fn a_state_of_another_model_is_refused() {
        let mut optimizer = AdamW::new(AdamWConfig::default());
        optimizer.moments.insert("a".into(), Moments { m: vec![0.0; 3], v: vec![0.0; 3] });
        let mut a = [1.0f32, 2.0];
        let mut parameters = [Parameter { name: "a", values: &mut a, gradient: &[0.5, 0.5] }];
        assert!(optimizer.update(0.1, &mut parameters).unwrap_err().to_string().starts_with("a: 2 values, but 3"));
        assert!(AdamWConfig { beta2: 1.0, ..AdamWConfig::default() }.validate().is_err());
        assert!(AdamWConfig::default().validate().is_ok());
    }
}
