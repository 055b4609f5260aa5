//! Elementary operations on rows, written so that the compiler vectorises them.

use super::isa::vectorised;

const LANES: usize = 16;

#[inline(always)]
fn dot_body(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "a scalar product of rows of different lengths");
    let mut lanes = [0f32; LANES];
    let ((a_blocks, a_rest), (b_blocks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

vectorised! {
    /// The scalar product of two rows of equal length.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 => dot_body
}

#[inline(always)]
fn add_scaled_body(to: &mut [f32], from: &[f32], scale: f32) {
    assert_eq!(to.len(), from.len(), "a row is added to one of another length");
    for (to, from) in to.iter_mut().zip(from) {
        *to += scale * from;
    }
}

vectorised! {
    /// `to += scale * from` for rows of equal length.
    pub(super) fn add_scaled(to: &mut [f32], from: &[f32], scale: f32) => add_scaled_body
}

#[inline(always)]
fn scaled_product_body(to: &mut [f32], a: &[f32], b: &[f32], scale: f32) {
    assert!(to.len() == a.len() && to.len() == b.len(), "a product of rows of different lengths");
    for ((to, a), b) in to.iter_mut().zip(a).zip(b) {
        *to = a * scale * b;
    }
}

vectorised! {
    /// `to = scale · a ∘ b` for rows of equal length.
    pub(super) fn scaled_product(to: &mut [f32], a: &[f32], b: &[f32], scale: f32) => scaled_product_body
}
