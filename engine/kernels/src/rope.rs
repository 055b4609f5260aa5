//! Rotary position embedding (arXiv 2104.09864), in the form of the Llama family: value i of a head is rotated
//! with value i + half.

use rayon::prelude::*;

/// The frequencies of a model.
#[derive(Debug, Clone)]
pub struct RopeTable {
    frequencies: Vec<f64>,
}

/// (cos, sin) for each row and frequency.
pub type Angles = Vec<(f32, f32)>;

impl RopeTable {
    /// One frequency for each pair of values of a head.
    pub fn new(frequencies: Vec<f64>) -> Self {
        Self { frequencies }
    }

    /// The angles of rows at these positions.
    pub fn angles(&self, positions: &[usize]) -> Angles {
        positions
            .iter()
            .flat_map(|p| {
                self.frequencies.iter().map(move |f| {
                    let (sin, cos) = (*p as f64 * f).sin_cos();
                    (cos as f32, sin as f32)
                })
            })
            .collect()
    }

    /// Rotates the first `columns` values of rows of `stride` values, head by head, in place.
    pub fn rotate(&self, values: &mut [f32], stride: usize, columns: usize, angles: &Angles) {
        self.rotate_by(values, stride, columns, angles, 1.0);
    }

    /// The inverse of [`rotate`](Self::rotate), which is its backward pass.
    pub fn rotate_back(&self, values: &mut [f32], stride: usize, columns: usize, angles: &Angles) {
        self.rotate_by(values, stride, columns, angles, -1.0);
    }

    fn rotate_by(&self, values: &mut [f32], stride: usize, columns: usize, angles: &Angles, sign: f32) {
        let half = self.frequencies.len();
        assert!(
            stride > 0
                && half > 0
                && values.len() / stride * half == angles.len()
                && values.len().is_multiple_of(stride),
            "{} values in rows of {stride} for {} angles of {half} frequencies",
            values.len(),
            angles.len()
        );
        assert!(
            columns <= stride && columns.is_multiple_of(2 * half),
            "{columns} columns are not heads of {}",
            2 * half
        );
        let rows = values.par_chunks_exact_mut(stride).zip(angles.par_chunks_exact(half)).with_min_len(16);
        rows.for_each(|(row, angles)| {
            for head in row[..columns].chunks_exact_mut(2 * half) {
                let (low, high) = head.split_at_mut(half);
                for ((low, high), (cos, sin)) in low.iter_mut().zip(high).zip(angles) {
                    let (a, b, sin) = (*low, *high, sin * sign);
                    *low = a * cos - b * sin;
                    *high = b * cos + a * sin;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{distance, noise};

    #[test]
    fn a_rotation_keeps_lengths_and_depends_on_the_distance_alone() {
        let table = RopeTable::new(vec![1.0, 0.1]);
        let (q, k) = (noise(4, 1), noise(4, 2));
        let rotated = |x: &[f32], p: usize| {
            let mut x = x.to_vec();
            table.rotate(&mut x, 4, 4, &table.angles(&[p]));
            x
        };
        let score = |p, r| rotated(&q, p).iter().zip(rotated(&k, r)).map(|(a, b)| a * b).sum::<f32>();
        assert!((score(7, 3) - score(14, 10)).abs() < 1e-5);
        assert!((score(7, 3) - score(7, 4)).abs() > 1e-3);
    }

    #[test]
    fn the_backward_pass_undoes_a_rotation_and_leaves_other_columns_alone() {
        let table = RopeTable::new(vec![1.0, 0.1]);
        let (values, angles) = (noise(3 * 11, 1), table.angles(&[0, 5, 9]));
        let mut rotated = values.clone();
        table.rotate(&mut rotated, 11, 8, &angles);
        assert!(distance(&rotated, &values) > 0.1);
        assert!(rotated.chunks(11).zip(values.chunks(11)).all(|(a, b)| a[8..] == b[8..]));
        // A rotation's gradient is its inverse, since the inverse of an orthogonal matrix is its transpose.
        table.rotate_back(&mut rotated, 11, 8, &angles);
        assert!(distance(&rotated, &values) < 1e-5);
    }
}
