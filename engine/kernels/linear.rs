//! A frozen linear layer, alone or with a low-rank delta that learns.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor};

use super::packed::{PackedMatrix, Precision};
use super::storage::{values, with_values};

/// `y = x Wᵀ + b` with W frozen. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FrozenLinear {
    weight: Arc<Weight>,
}

#[derive(Debug)]
struct Weight {
    /// Input to output.
    forward: PackedMatrix,
    /// Output gradient to input gradient; packed when the first gradient asks for it.
    backward: OnceLock<PackedMatrix>,
    bias: Option<Vec<f32>>,
}

impl Weight {
    fn backward(&self) -> &PackedMatrix {
        // Packed outside the cell: packing is parallel, and a thread that waits in it may be given work that comes here.
        match self.backward.get() {
            Some(packed) => packed,
            None => {
                let packed = self.forward.transposed();
                self.backward.get_or_init(|| packed)
            }
        }
    }
}

/// A low-rank delta `scale · x Aᵀ Bᵀ` (LoRA, arXiv 2106.09685, eq. 3; `scale` is alpha / r).
#[derive(Debug, Clone)]
pub struct LoraDelta {
    a: Tensor,
    b: Tensor,
    packed: Arc<PackedDelta>,
}

#[derive(Debug)]
struct PackedDelta {
    /// Input to rank.
    down: PackedMatrix,
    /// Rank to output.
    up: PackedMatrix,
    scale: f32,
}

impl LoraDelta {
    /// From A of shape (rank, input) and B of shape (output, rank). Where they are variables, gradients reach them;
    /// the values are packed now, so a delta is made anew after each step of the optimiser.
    pub fn new(a: &Tensor, b: &Tensor, scale: f32) -> Result<Self> {
        let (rank, input) = a.dims2()?;
        let (output, rank_of_b) = b.dims2()?;
        if rank != rank_of_b {
            candle_core::bail!("A has rank {rank} and B has rank {rank_of_b}");
        }
        let down = with_values(a, |a| PackedMatrix::pack(input, rank, Precision::F32, |i, j| a[j * input + i]))?;
        let up = with_values(b, |b| PackedMatrix::pack(rank, output, Precision::F32, |i, j| b[j * rank + i]))?;
        Ok(Self { a: a.clone(), b: b.clone(), packed: Arc::new(PackedDelta { down, up, scale }) })
    }

    /// The same delta, cut from the graph: for generation.
    pub fn detached(&self) -> Self {
        Self { a: self.a.detach(), b: self.b.detach(), packed: self.packed.clone() }
    }
}

impl FrozenLinear {
    /// Packs a weight of shape (output, input) as checkpoints hold it, and a bias of shape (output).
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, precision: Precision) -> Result<Self> {
        let (output, input) = weight.dims2()?;
        let forward = with_values(weight, |w| PackedMatrix::pack(input, output, precision, |i, j| w[j * input + i]))?;
        let bias = bias.map(|b| with_values(b, <[f32]>::to_vec)).transpose()?;
        Ok(Self { weight: Arc::new(Weight { forward, backward: OnceLock::new(), bias }) })
    }

    /// Length of an input row.
    pub fn input(&self) -> usize {
        self.weight.forward.inner()
    }

    /// Length of an output row.
    pub fn output(&self) -> usize {
        self.weight.forward.outer()
    }

    /// The packed weight, input to output.
    pub(super) fn forward_matrix(&self) -> &PackedMatrix {
        &self.weight.forward
    }

    /// The packed weight, output to input.
    pub(super) fn backward_matrix(&self) -> &PackedMatrix {
        self.weight.backward()
    }

    /// Applies the layer to rows `x` of shape (rows, input); the result has shape (rows, output).
    pub fn apply(&self, x: &Tensor, delta: Option<&LoraDelta>) -> Result<Tensor> {
        let x = x.contiguous()?;
        match delta {
            None => x.apply_op1(Frozen(self.weight.clone())),
            Some(delta) => {
                let op = WithDelta { weight: self.weight.clone(), delta: delta.packed.clone() };
                x.apply_op3(&delta.a, &delta.b, op)
            }
        }
    }
}

struct Frozen(Arc<Weight>);

impl Frozen {
    fn forward(weight: &Weight, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / weight.forward.inner();
        match &weight.bias {
            Some(bias) => {
                let mut y = bias.repeat(rows);
                weight.forward.multiply_add(x, 1.0, &mut y);
                y
            }
            None => {
                let mut y = vec![0.0; rows * weight.forward.outer()];
                weight.forward.multiply(x, &mut y);
                y
            }
        }
    }
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = Self::forward(&self.0, values(storage, layout)?);
        let shape = (layout.shape().dims2()?.0, self.0.forward.outer()).into();
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let back = self.0.backward();
        let mut dx = vec![0.0; x.elem_count()];
        with_values(grad, |grad| back.multiply(grad, &mut dx))?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

struct WithDelta {
    weight: Arc<Weight>,
    delta: Arc<PackedDelta>,
}

impl CustomOp3 for WithDelta {
    fn name(&self) -> &'static str {
        "frozen-linear-with-lora"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let rows = layout.shape().dims2()?.0;
        let mut y = Frozen::forward(&self.weight, x);
        let mut low = vec![0.0; rows * self.delta.down.outer()];
        self.delta.down.multiply(x, &mut low);
        self.delta.up.multiply_add(&low, self.delta.scale, &mut y);
        Ok((CpuStorage::F32(y), (rows, self.weight.forward.outer()).into()))
    }

    /// With `l = x Aᵀ` and `g = dy B`: dA = s gᵀ x, dB = s dyᵀ l, dx = dy W + s g A.
    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (x, a, b) = (x.detach(), a.detach(), b.detach());
        let grad = grad.contiguous()?;
        let scale = f64::from(self.delta.scale);
        let (rows, rank) = (x.dim(0)?, self.delta.down.outer());
        let mut low = vec![0.0; rows * rank];
        with_values(&x, |x| self.delta.down.multiply(x, &mut low))?;
        let low = Tensor::from_vec(low, (rows, rank), x.device())?;
        let inner = (grad.matmul(&b)? * scale)?;
        let da = inner.t()?.matmul(&x)?;
        let db = (grad.t()?.matmul(&low)? * scale)?;
        let mut dx = vec![0.0; x.elem_count()];
        with_values(&grad, |grad| self.weight.backward().multiply(grad, &mut dx))?;
        let up = with_values(&a, |a| {
            let input = self.delta.down.inner();
            PackedMatrix::pack(rank, input, Precision::F32, |i, j| a[i * input + j])
        })?;
        with_values(&inner, |inner| up.multiply_add(inner, 1.0, &mut dx))?;
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        Ok((Some(dx), Some(da), Some(db)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::oracle::{check_gradients, tensor};

    #[test]
    fn a_layer_with_a_delta_equals_its_composition_of_plain_operations() {
        let (w, bias) = (tensor(&[40, 24], 1), tensor(&[40], 2));
        let (x, a, b) = (tensor(&[13, 24], 3), tensor(&[4, 24], 4), tensor(&[40, 4], 5));
        let layer = FrozenLinear::new(&w, Some(&bias), Precision::F32).unwrap();
        let delta = LoraDelta::new(&a, &b, 0.5).unwrap();
        let got = layer.apply(&x, Some(&delta)).unwrap();
        let low = x.matmul(&a.t().unwrap()).unwrap().matmul(&b.t().unwrap()).unwrap();
        let want = x.matmul(&w.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
        let want = (want + (low * 0.5).unwrap()).unwrap();
        let error = (got - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(error < 1e-5, "{error}");
    }

    #[test]
    fn gradients_reach_the_input_and_both_factors() {
        let layer = FrozenLinear::new(&tensor(&[20, 12], 1), Some(&tensor(&[20], 2)), Precision::F32).unwrap();
        let inputs = [tensor(&[5, 12], 3), tensor(&[3, 12], 4), tensor(&[20, 3], 5)];
        check_gradients(
            &inputs,
            |t| layer.apply(&t[0], Some(&LoraDelta::new(&t[1], &t[2], 2.0).unwrap())).unwrap(),
            2e-3,
        );
        check_gradients(&inputs[..1], |t| layer.apply(&t[0], None).unwrap(), 2e-3);
    }

    #[test]
    fn bf16_gradients_stay_within_rounding_of_f32() {
        let w = tensor(&[96, 64], 1);
        let x = candle_core::Var::from_tensor(&tensor(&[10, 64], 3)).unwrap();
        let grad = |precision| {
            let layer = FrozenLinear::new(&w, None, precision).unwrap();
            let y = layer.apply(x.as_tensor(), None).unwrap();
            let loss = (y * tensor(&[10, 96], 9)).unwrap().sum_all().unwrap();
            loss.backward().unwrap().get(x.as_tensor()).unwrap().clone()
        };
        let (exact, rounded) = (grad(Precision::F32), grad(Precision::Bf16));
        let error = (exact - rounded).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(error < 0.1, "{error}");
    }
}
