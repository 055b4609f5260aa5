//! A frozen linear layer, alone or with a low-rank delta that is trained.

use std::sync::{Arc, OnceLock};

use candle_core::{Result, Tensor};

use super::lora::{LoraDelta, LoraGradient, PackedDelta};
use super::outer_product::add_outer_product;
use super::packed::{PackedMatrix, Precision};
use super::product::{Part, sum_of_products};
use super::rows::Rows;
use super::storage::with_values;

/// `y = x Wᵀ + b` with W frozen. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FrozenLinear {
    weight: Arc<Weight>,
}

#[derive(Debug)]
struct Weight {
    /// Input to output.
    forward: PackedMatrix,
    /// Output gradient to input gradient; packed at the first backward pass.
    backward: OnceLock<PackedMatrix>,
    bias: Option<Vec<f32>>,
}

/// A layer, its delta, and the first of its columns in rows that several layers share.
#[derive(Debug)]
pub struct Placed<'a> {
    /// The layer.
    pub layer: &'a FrozenLinear,
    /// What is added to it.
    pub delta: Option<&'a LoraDelta>,
    /// Its first column in the rows of outputs.
    pub column: usize,
}

impl FrozenLinear {
    /// Packs a weight of shape (output, input) as checkpoints hold it, and a bias of shape (output).
    ///
    /// # Errors
    /// A weight that is no matrix, a bias of another length than its output.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, precision: Precision) -> Result<Self> {
        let (output, input) = weight.dims2()?;
        let forward = with_values(weight, |w| PackedMatrix::pack(input, output, precision, |i, j| w[j * input + i]))?;
        let bias = bias.map(|b| with_values(b, <[f32]>::to_vec)).transpose()?;
        if let Some(bias) = bias.as_ref().filter(|bias| bias.len() != output) {
            candle_core::bail!("a bias of {} values for an output of {output}", bias.len());
        }
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

    /// Whether it multiplies in bf16.
    pub fn is_bf16(&self) -> bool {
        self.weight.forward.is_bf16()
    }

    /// The packed weight, input to output.
    pub(super) fn forward_matrix(&self) -> &PackedMatrix {
        &self.weight.forward
    }

    /// The packed weight, output to input.
    pub(super) fn backward_matrix(&self) -> &PackedMatrix {
        // Packed outside the cell: packing is parallel, and a thread that waits in it may be given work that comes here.
        match self.weight.backward.get() {
            Some(packed) => packed,
            None => {
                let packed = self.weight.forward.transposed();
                self.weight.backward.get_or_init(|| packed)
            }
        }
    }
}

/// Applies layers that read the same rows `x` (rows, input): each writes its columns of `y`, rows of `stride` values,
/// or adds to them.
pub fn apply(layers: &[Placed<'_>], x: &[f32], y: &mut [f32], stride: usize, add: bool) {
    let x = Rows::new(x, common_input(layers));
    let mut add = add;
    if layers.iter().any(|l| l.layer.weight.bias.is_some()) {
        if !add {
            y.fill(0.0);
        }
        add = true;
        for row in y.chunks_exact_mut(stride) {
            for Placed { layer, column, .. } in layers {
                let bias = layer.weight.bias.iter().flatten();
                row[*column..].iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
    }
    let (low, ranks) = low_rank_inputs(layers, &x);
    let lows = low_rank_rows(layers, &low, ranks);
    let mut factors = Vec::with_capacity(layers.len());
    for (placed, low) in layers.iter().zip(&lows) {
        let mut sum = vec![(&x, placed.layer.forward_matrix().view())];
        if let (Some(low), Some(packed)) = (low, placed.packed()) {
            sum.push((low, packed.up.view()));
        }
        factors.push(sum);
    }
    let parts: Vec<Part<'_>> = layers.iter().zip(&factors).map(|(l, factors)| Part::whole(l.column, factors)).collect();
    sum_of_products(&parts, y, stride, add, true);
}

/// The backward pass of [`apply`]: from `dy`, laid out as `y` was, adds the gradients of the deltas to `gradients` (one
/// place for each layer, empty where it has no delta or the delta is not trained) and writes the gradient of `x`. `dx`
/// is none where the gradient is not needed.
///
/// With `l = x Aᵀ` and `g = s dy B`: dA = gᵀ x, dBᵀ = s lᵀ dy, dx = Σ over layers of dy W + g A.
pub fn apply_backward(
    layers: &[Placed<'_>],
    x: &[f32],
    dy: &[f32],
    stride: usize,
    gradients: &mut [Option<&mut LoraGradient>],
    dx: Option<&mut [f32]>,
) {
    let input = common_input(layers);
    assert_eq!(layers.len(), gradients.len(), "a gradient, or none, for each layer");
    let x = Rows::new(x, input);
    let dys: Vec<Rows<'_>> = layers.iter().map(|l| Rows::columns(dy, stride, l.column, l.layer.output())).collect();
    let each: Vec<&Rows<'_>> = dys.iter().collect();
    let (g, ranks) = low_rank_products(layers, &each, |packed| &packed.backward_down);
    let gs = low_rank_rows(layers, &g, ranks);
    if gradients.iter().any(Option::is_some) {
        let (mut low, ranks) = low_rank_inputs(layers, &x);
        let scales: Vec<f32> =
            layers.iter().flat_map(|l| l.delta.map(|d| vec![d.scale(); d.rank()])).flatten().collect();
        low.chunks_exact_mut(ranks.max(1)).for_each(|row| row.iter_mut().zip(&scales).for_each(|(l, s)| *l *= s));
        let lows = low_rank_rows(layers, &low, ranks);
        for (((gradient, dy), g), low) in gradients.iter_mut().zip(&dys).zip(&gs).zip(&lows) {
            let Some(gradient) = gradient else { continue };
            assert!(g.is_some() && low.is_some(), "a gradient for a layer without a delta");
            if let (Some(g), Some(low)) = (g, low) {
                add_outer_product(g, &x, &mut gradient.a);
                add_outer_product(low, dy, &mut gradient.b_transposed);
            }
        }
    }
    let Some(dx) = dx else { return };
    let mut sum = Vec::with_capacity(2 * layers.len());
    for ((placed, dy), g) in layers.iter().zip(&dys).zip(&gs) {
        sum.push((dy, placed.layer.backward_matrix().view()));
        if let (Some(g), Some(packed)) = (g, placed.packed()) {
            sum.push((g, packed.backward_up.view()));
        }
    }
    sum_of_products(&[Part::whole(0, &sum)], dx, input, false, true);
}

/// The length of the rows that all these layers read.
fn common_input(layers: &[Placed<'_>]) -> usize {
    let input = layers.first().map_or(0, |first| first.layer.input());
    assert!(input > 0 && layers.iter().all(|l| l.layer.input() == input), "layers that read the same rows");
    input
}

impl Placed<'_> {
    fn packed(&self) -> Option<&PackedDelta> {
        self.delta.map(|delta| delta.packed(self.layer.is_bf16()))
    }

    fn rank(&self) -> usize {
        self.delta.map_or(0, |delta| delta.rank())
    }
}

/// `x Aᵀ` of all layers side by side, and the number of columns.
fn low_rank_inputs(layers: &[Placed<'_>], x: &Rows<'_>) -> (Vec<f32>, usize) {
    low_rank_products(layers, &vec![x; layers.len()], |packed| &packed.down)
}

/// The products of each layer's rows with a factor of its delta, side by side, and the number of columns.
fn low_rank_products(
    layers: &[Placed<'_>],
    rows: &[&Rows<'_>],
    factor: fn(&PackedDelta) -> &PackedMatrix,
) -> (Vec<f32>, usize) {
    let ranks: usize = layers.iter().map(Placed::rank).sum();
    let mut product = vec![0.0; rows.first().map_or(0, |r| r.count()) * ranks];
    let factors: Vec<_> =
        layers.iter().zip(rows).map(|(l, rows)| l.packed().map(|p| [(*rows, factor(p).view())])).collect();
    let mut parts = Vec::with_capacity(layers.len());
    let mut column = 0;
    for (placed, factors) in layers.iter().zip(&factors) {
        parts.extend(factors.as_ref().map(|factors| Part::whole(column, factors)));
        column += placed.rank();
    }
    if ranks > 0 {
        sum_of_products(&parts, &mut product, ranks, false, true);
    }
    (product, ranks)
}

/// Each layer's columns of rows that hold those of all layers side by side.
fn low_rank_rows<'v>(layers: &[Placed<'_>], low: &'v [f32], ranks: usize) -> Vec<Option<Rows<'v>>> {
    let mut column = 0;
    let own = |placed: &Placed<'_>| {
        column += placed.rank();
        placed.delta.map(|delta| Rows::columns(low, ranks, column - placed.rank(), delta.rank()))
    };
    layers.iter().map(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::oracle::{check_gradients, distance, noise, tensor};

    fn placed<'a>(layers: &'a [FrozenLinear], deltas: &'a [Option<LoraDelta>]) -> Vec<Placed<'a>> {
        let mut column = 1;
        layers
            .iter()
            .zip(deltas)
            .map(|(layer, delta)| {
                let placed = Placed { layer, delta: delta.as_ref(), column };
                column += layer.output();
                placed
            })
            .collect()
    }

    #[test]
    fn layers_with_deltas_equal_their_composition_of_plain_operations() {
        let (w, bias) = (tensor(&[40, 24], 1), tensor(&[40], 2));
        let (x, a, b) = (tensor(&[13, 24], 3), tensor(&[4, 24], 4), tensor(&[40, 4], 5));
        let layer = FrozenLinear::new(&w, Some(&bias), Precision::F32).unwrap();
        let delta = LoraDelta::new(&a, &b, 0.5).unwrap();
        let low = x.matmul(&a.t().unwrap()).unwrap().matmul(&b.t().unwrap()).unwrap();
        let want = x.matmul(&w.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
        let want = (want + (low * 0.5).unwrap()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let x = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mut y = vec![1.0; 13 * 42];
        apply(&[Placed { layer: &layer, delta: Some(&delta), column: 1 }], &x, &mut y, 42, true);
        let got: Vec<f32> = y.chunks(42).flat_map(|row| &row[1..41]).map(|v| v - 1.0).collect();
        assert!(distance(&got, &want) < 1e-5, "{}", distance(&got, &want));
        assert!(y.chunks(42).all(|row| row[0] == 1.0 && row[41] == 1.0), "other columns are left alone");
    }

    #[test]
    fn gradients_reach_the_input_and_both_factors_of_every_layer() {
        let layers = [
            FrozenLinear::new(&tensor(&[20, 12], 1), Some(&tensor(&[20], 2)), Precision::F32).unwrap(),
            FrozenLinear::new(&tensor(&[7, 12], 9), None, Precision::F32).unwrap(),
        ];
        let deltas = |t: &[Tensor]| [Some(LoraDelta::new(&t[1], &t[2], 2.0).unwrap()), None];
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let forward = |t: &[Tensor]| {
            let mut y = vec![0.0; 5 * 28];
            apply(&placed(&layers, &deltas(t)), &values(&t[0]), &mut y, 28, false);
            y
        };
        let backward = |t: &[Tensor], dy: &[f32]| {
            let deltas = deltas(t);
            let mut gradients = [Some(LoraGradient::zeros(deltas[0].as_ref().unwrap())), None];
            let mut dx = vec![0.0; 60];
            apply_backward(
                &placed(&layers, &deltas),
                &values(&t[0]),
                dy,
                28,
                &mut gradients.each_mut().map(Option::as_mut),
                Some(&mut dx),
            );
            let gradient = gradients[0].clone().unwrap();
            vec![dx, gradient.a.clone(), gradient.b()]
        };
        check_gradients(&[tensor(&[5, 12], 3), tensor(&[3, 12], 4), tensor(&[20, 3], 5)], forward, backward, 2e-3);
    }

    #[test]
    fn bf16_gradients_stay_within_rounding_of_f32() {
        let (x, dy) = (noise(640, 3), noise(960, 9));
        let (a, b) = (tensor(&[4, 64], 4), tensor(&[96, 4], 5));
        let gradients = |precision| {
            let layer = FrozenLinear::new(&tensor(&[96, 64], 1), None, precision).unwrap();
            let delta = LoraDelta::new(&a, &b, 0.5).unwrap();
            let mut gradients = [Some(LoraGradient::zeros(&delta))];
            let mut dx = vec![0.0; 640];
            let layers = [Placed { layer: &layer, delta: Some(&delta), column: 0 }];
            apply_backward(&layers, &x, &dy, 96, &mut gradients.each_mut().map(Option::as_mut), Some(&mut dx));
            let gradient = gradients[0].clone().unwrap();
            [dx, gradient.a.clone(), gradient.b()]
        };
        for (exact, rounded) in gradients(Precision::F32).iter().zip(&gradients(Precision::Auto)) {
            assert!(distance(exact, rounded) < 0.15, "{}", distance(exact, rounded));
        }
    }
}
