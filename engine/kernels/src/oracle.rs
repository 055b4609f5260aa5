//! Oracles for the kernels' tests: seeded noise and finite differences.

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};

/// `n` seeded values in -1..1.
pub(crate) fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-1.0f32..1.0)).collect()
}

/// A seeded tensor with values in -1..1.
pub(crate) fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_vec(noise(shape.iter().product(), seed), shape, &Device::Cpu).unwrap()
}

/// A tensor's values, row by row.
pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference between two lists.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Checks `backward`, which gives the gradient of every input from the gradient of the output of `forward`, by central
/// differences of that output, summed with fixed random weights.
pub(crate) fn check_gradients(
    inputs: &[Tensor],
    forward: impl Fn(&[Tensor]) -> Vec<f32>,
    backward: impl Fn(&[Tensor], &[f32]) -> Vec<Vec<f32>>,
    tolerance: f32,
) {
    let weights = noise(forward(inputs).len(), 77);
    let objective = |inputs: &[Tensor]| -> f64 {
        forward(inputs).iter().zip(&weights).map(|(y, w)| f64::from(*y) * f64::from(*w)).sum()
    };
    let gradients = backward(inputs, &weights);
    assert_eq!(gradients.len(), inputs.len(), "every input has a gradient");
    for (index, grad) in gradients.iter().enumerate() {
        assert!(grad.iter().all(|g| g.is_finite()) && grad.iter().any(|g| *g != 0.0), "input {index}: {grad:?}");
        let value = values(&inputs[index]);
        assert_eq!(grad.len(), value.len(), "input {index}");
        let step = 1e-2f32;
        for i in (0..value.len()).step_by(1 + value.len() / 23) {
            let at = |delta: f32| {
                let mut moved = value.clone();
                moved[i] += delta;
                let mut all = inputs.to_vec();
                all[index] = Tensor::from_vec(moved, inputs[index].dims(), &Device::Cpu).unwrap();
                objective(&all)
            };
            let numeric = ((at(step) - at(-step)) / (2.0 * f64::from(step))) as f32;
            let error = (grad[i] - numeric).abs() / (1.0 + numeric.abs());
            assert!(error < tolerance, "input {index}, element {i}: gradient {} but differences {numeric}", grad[i]);
        }
    }
}
