//! Oracles for the kernels' tests: seeded noise and finite differences.

use candle_core::{Device, Tensor, Var};
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

/// Checks the gradient of `f` (summed with fixed random weights) with respect to every input by central differences.
pub(crate) fn check_gradients(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Tensor, tolerance: f32) {
    let weighted = |out: &Tensor| {
        let weights = tensor(out.dims(), 77);
        (out * weights).unwrap().sum_all().unwrap()
    };
    let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let grads = weighted(&f(&tensors)).backward().unwrap();
    for (index, var) in vars.iter().enumerate() {
        let grad = grads.get(var.as_tensor()).expect("every input has a gradient").flatten_all().unwrap();
        let grad = grad.to_vec1::<f32>().unwrap();
        assert!(grad.iter().all(|g| g.is_finite()) && grad.iter().any(|g| *g != 0.0), "input {index}: {grad:?}");
        let value = inputs[index].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let step = 1e-2f32;
        for i in (0..value.len()).step_by(1 + value.len() / 23) {
            let at = |delta: f32| {
                let mut moved = value.clone();
                moved[i] += delta;
                let mut all = inputs.to_vec();
                all[index] = Tensor::from_vec(moved, inputs[index].dims(), &Device::Cpu).unwrap();
                weighted(&f(&all)).to_scalar::<f32>().unwrap()
            };
            let numeric = (at(step) - at(-step)) / (2.0 * step);
            let error = (grad[i] - numeric).abs() / (1.0 + numeric.abs());
            assert!(error < tolerance, "input {index}, element {i}: gradient {} but differences {numeric}", grad[i]);
        }
    }
}
