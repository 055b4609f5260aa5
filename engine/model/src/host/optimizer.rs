//! AdamW on the processor. Values and moments are kept in single precision; one update is computed in double.

use super::{HostDecoder, HostGradients};
use crate::adapter::Adapter;
use crate::backend::{BackendGradients, Optimize};
use crate::optimizer::{AdamWState, AdamWStep, Moments, Updated};
use querywright_types::Result;

impl Optimize for HostDecoder {
    fn update(
        &self,
        state: &mut AdamWState,
        adapter: &mut Adapter,
        gradients: &HostGradients,
        step: &AdamWStep,
    ) -> Result<Updated> {
        let mut gradients = gradients.read(adapter)?;
        let mut values: Vec<(String, Vec<f32>)> =
            adapter.parameters().map(|(name, factor)| (name, factor.values().to_vec())).collect();
        let mut parameters: Vec<Parameter<'_>> = values
            .iter_mut()
            .zip(&mut gradients)
            .map(|((name, values), gradient)| Parameter { name, values, gradient })
            .collect();
        let updated = update(state, &mut parameters, step)?;
        // Without a gradient the norm is 0, and nothing was changed.
        if !updated.skipped && updated.grad_norm != 0.0 {
            adapter.set(values.into_iter().map(|(_, values)| values))?;
        }
        Ok(updated)
    }
}

/// One parameter and its gradient for an update.
struct Parameter<'a> {
    /// The key of its moments.
    name: &'a str,
    /// Its values, updated in place.
    values: &'a mut [f32],
    /// The gradient of the loss with respect to each value; clipped in place.
    gradient: &'a mut [f32],
}

/// Clips and updates; see [`Decoder::update`](crate::Decoder::update).
fn update(state: &mut AdamWState, parameters: &mut [Parameter<'_>], step: &AdamWStep) -> Result<Updated> {
    let grad_norm = clip(parameters, step);
    // No gradient at all: nothing was learned, and momentum must not move the weights in its place.
    if grad_norm == 0.0 {
        return Ok(Updated { grad_norm, skipped: false });
    }
    state.fetch()?;
    parameters.iter().try_for_each(|p| state.check(p.name, p.values.len(), p.gradient.len()))?;
    if parameters.iter().any(|p| p.gradient.iter().any(|g| !g.is_finite())) {
        return Ok(Updated { grad_norm, skipped: true });
    }
    state.step += 1;
    let AdamWStep { learning_rate, beta1, beta2, epsilon, weight_decay, .. } = *step;
    let (correct1, correct2) = step.corrections(state.step);
    for p in parameters {
        let zeros = || Moments { m: vec![0.0; p.values.len()], v: vec![0.0; p.values.len()] };
        let moments = state.moments.entry(p.name.to_owned()).or_insert_with(zeros);
        let of_value = moments.m.iter_mut().zip(&mut moments.v);
        for ((value, gradient), (m, v)) in p.values.iter_mut().zip(&*p.gradient).zip(of_value) {
            let g = f64::from(*gradient);
            *m = (beta1 * f64::from(*m) + (1.0 - beta1) * g) as f32;
            *v = (beta2 * f64::from(*v) + (1.0 - beta2) * g * g) as f32;
            let decayed = f64::from(*value) * (1.0 - learning_rate * weight_decay);
            let direction = (f64::from(*m) / correct1) / ((f64::from(*v) / correct2).sqrt() + epsilon);
            *value = (decayed - learning_rate * direction) as f32;
        }
    }
    Ok(Updated { grad_norm, skipped: false })
}

/// Scales the gradients so that their norm taken together is at most the step's, and returns the norm they had before.
/// A norm that is not finite is returned as it is and nothing is scaled.
fn clip(parameters: &mut [Parameter<'_>], step: &AdamWStep) -> f64 {
    let all = parameters.iter().flat_map(|p| p.gradient.iter());
    let norm = all.map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt();
    let factor = step.clip_factor(norm);
    if factor < 1.0 {
        let all = parameters.iter_mut().flat_map(|p| p.gradient.iter_mut());
        all.for_each(|g| *g = (f64::from(*g) * factor) as f32);
    }
    norm
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Values = BTreeMap<String, Vec<f32>>;

    #[derive(serde::Deserialize)]
    struct Golden {
        beta1: f64,
        beta2: f64,
        epsilon: f64,
        weight_decay: f64,
        max_grad_norm: f64,
        start: Values,
        steps: Vec<Step>,
    }

    #[derive(serde::Deserialize)]
    struct Step {
        learning_rate: f64,
        gradients: Values,
        grad_norm: f64,
        parameters: Values,
    }

    fn golden() -> Golden {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/adamw.json"));
        serde_json::from_value(serde_json::from_str::<serde_json::Value>(text).unwrap()["adamw"].take()).unwrap()
    }

    const DEFAULTS: AdamWStep = AdamWStep {
        learning_rate: 0.1,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
        max_grad_norm: 1.0,
    };

    fn updated(state: &mut AdamWState, values: &mut Values, gradients: &Values, step: &AdamWStep) -> Updated {
        let mut gradients = gradients.clone();
        let mut parameters: Vec<Parameter<'_>> = values
            .iter_mut()
            .zip(gradients.values_mut())
            .map(|((name, values), gradient)| Parameter { name, values, gradient })
            .collect();
        update(state, &mut parameters, step).unwrap()
    }

    fn named(values: &[(&str, &[f32])]) -> Values {
        values.iter().map(|(name, values)| ((*name).to_owned(), values.to_vec())).collect()
    }

    #[test]
    fn ten_steps_with_clipping_and_decay_equal_those_of_torch() {
        let golden = golden();
        let Golden { beta1, beta2, epsilon, weight_decay, max_grad_norm, .. } = golden;
        let mut state = AdamWState::default();
        let mut values = golden.start;
        for (i, step) in golden.steps.iter().enumerate() {
            let learning_rate = step.learning_rate;
            let of_step = AdamWStep { learning_rate, beta1, beta2, epsilon, weight_decay, max_grad_norm };
            let Updated { grad_norm, skipped } = updated(&mut state, &mut values, &step.gradients, &of_step);
            assert!(!skipped);
            assert!((grad_norm - step.grad_norm).abs() < 1e-5 * step.grad_norm, "step {i}: norm {grad_norm}");
            for (name, right) in &step.parameters {
                for (found, right) in values[name].iter().zip(right) {
                    assert!((found - right).abs() < 1e-6, "step {i}, {name}: {found} is not {right}");
                }
            }
        }
        assert_eq!(state.step, 10);
    }

    #[test]
    fn a_saved_and_read_state_continues_bit_for_bit() {
        let golden = golden();
        let mut straight = (AdamWState::default(), golden.start.clone());
        let mut broken = (AdamWState::default(), golden.start.clone());
        for (i, step) in golden.steps.iter().enumerate() {
            let of_step = AdamWStep { learning_rate: step.learning_rate, ..DEFAULTS };
            let _ = updated(&mut straight.0, &mut straight.1, &step.gradients, &of_step);
            if i == 4 {
                let moments = serde_json::to_string(&broken.0.moments).unwrap();
                broken.0 = AdamWState { step: broken.0.step, ..AdamWState::default() };
                broken.0.moments = serde_json::from_str(&moments).unwrap();
            }
            let _ = updated(&mut broken.0, &mut broken.1, &step.gradients, &of_step);
        }
        let state = |(state, values): &(AdamWState, Values)| (state.step, state.moments.clone(), values.clone());
        assert_eq!(state(&straight), state(&broken));
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing() {
        let mut state = AdamWState::default();
        let start = named(&[("a", &[1.0, 2.0]), ("b", &[3.0])]);
        let mut values = start.clone();
        for bad in [f32::NAN, f32::INFINITY] {
            let gradients = named(&[("a", &[0.5, 0.5]), ("b", &[bad])]);
            let Updated { grad_norm, skipped } = updated(&mut state, &mut values, &gradients, &DEFAULTS);
            assert!(skipped && !grad_norm.is_finite());
            assert_eq!(values, start);
            assert_eq!((state.step, state.moments.len()), (0, 0));
        }
    }

    #[test]
    fn momentum_alone_moves_nothing() {
        let mut state = AdamWState::default();
        let mut values = named(&[("a", &[1.0, 2.0])]);
        let _ = updated(&mut state, &mut values, &named(&[("a", &[0.5, -0.5])]), &DEFAULTS);
        let before = values.clone();
        let none = updated(&mut state, &mut values, &named(&[("a", &[0.0, 0.0])]), &DEFAULTS);
        assert_eq!((none, state.step), (Updated { grad_norm: 0.0, skipped: false }, 1));
        assert_eq!(values, before);
    }

    #[test]
    fn clipping_scales_all_gradients_together_and_leaves_small_ones_alone() {
        let (mut a, mut b) = ([3.0f32], [0.0f32, 4.0]);
        let mut parameters = [
            Parameter { name: "a", values: &mut [0.0], gradient: &mut a },
            Parameter { name: "b", values: &mut [0.0, 0.0], gradient: &mut b },
        ];
        let to = |max_grad_norm| AdamWStep { max_grad_norm, ..DEFAULTS };
        assert_eq!(clip(&mut parameters, &to(10.0)), 5.0);
        assert_eq!(parameters[0].gradient, [3.0]);
        assert_eq!(clip(&mut parameters, &to(0.0)), 5.0);
        assert_eq!(parameters[0].gradient, [3.0]);
        assert_eq!(clip(&mut parameters, &to(1.0)), 5.0);
        assert!((a[0] - 0.6).abs() < 1e-6 && (b[1] - 0.8).abs() < 1e-6);
        let mut infinite = [f32::INFINITY, 1.0];
        let mut parameters = [Parameter { name: "a", values: &mut [0.0, 0.0], gradient: &mut infinite }];
        assert!(clip(&mut parameters, &to(1.0)).is_infinite());
        assert_eq!(infinite[1], 1.0);
    }

    #[test]
    fn a_state_of_another_model_is_refused() {
        let mut state = AdamWState::default();
        state.moments.insert("a".into(), Moments { m: vec![0.0; 3], v: vec![0.0; 3] });
        let (mut values, mut gradient) = ([1.0f32, 2.0], [0.5f32, 0.5]);
        let mut parameters = [Parameter { name: "a", values: &mut values, gradient: &mut gradient }];
        let error = update(&mut state, &mut parameters, &DEFAULTS).unwrap_err().to_string();
        assert!(error.starts_with("a: 2 values, but 3"), "{error}");
    }
}
