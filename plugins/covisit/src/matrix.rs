//! A sparse matrix by rows, each row scaled to the sum 1 and cut to its largest entries.

/// The rows one after the other.
#[derive(Default)]
pub struct Matrix {
    /// Where each row begins; one more than there are rows.
    starts: Vec<usize>,
    columns: Vec<u32>,
    shares: Vec<f32>,
}

impl Matrix {
    /// From row, column and weight in any order; equal places are summed.
    pub fn of(mut entries: Vec<(u32, u32, f64)>, most: usize) -> Self {
        // In place, since there may be many; by weight too, since sums go in this order: the same entries in any order
        // make the same matrix. (Weights are not negative, so their bits are in their order.)
        entries.sort_unstable_by_key(|(row, column, weight)| (*row, *column, weight.to_bits()));
        let mut matrix = Self { starts: vec![0], ..Self::default() };
        for row in entries.chunk_by(|a, b| a.0 == b.0) {
            matrix.starts.resize(row[0].0 as usize + 1, matrix.columns.len());
            let sum: f64 = row.iter().map(|entry| entry.2).sum();
            let sums = row.chunk_by(|a, b| a.1 == b.1).map(|same| (same[0].1, same.iter().map(|s| s.2).sum::<f64>()));
            let mut sums: Vec<(u32, f64)> = sums.collect();
            sums.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            // What is so old that nothing is left of its weight has no share.
            for (column, weight) in sums.into_iter().take(most).filter(|_| sum > 0.0) {
                matrix.columns.push(column);
                matrix.shares.push((weight / sum) as f32);
            }
            matrix.starts.push(matrix.columns.len());
        }
        matrix
    }

    /// Columns and shares of a row; none where it has no entry.
    pub fn row(&self, row: u32) -> impl Iterator<Item = (u32, f32)> {
        let bound = |place: usize| self.starts.get(place).copied();
        let range = match (bound(row as usize), bound(row as usize + 1)) {
            (Some(from), Some(to)) => from..to,
            _ => 0..0,
        };
        range.filter_map(|place| Some((*self.columns.get(place)?, *self.shares.get(place)?)))
    }
}
