//! A sparse matrix in compressed rows. Each row is scaled to the sum 1 and then cut to its largest entries.

/// Compressed sparse rows.
#[derive(Default)]
pub struct Matrix {
    /// Where each row begins, and where the last one ends.
    starts: Vec<usize>,
    columns: Vec<u32>,
    shares: Vec<f32>,
}

impl Matrix {
    /// From entries of row, column and weight, in any order. Weights of equal places are summed, and the `most` largest
    /// entries of each row are kept.
    pub fn of(mut entries: Vec<(u32, u32, f64)>, most: usize) -> Self {
        // Sorted by weight too, so that sums are rounded the same in any order of the entries. (The bits of weights
        // that are not negative are in the order of the weights.)
        entries.sort_unstable_by_key(|(row, column, weight)| (*row, *column, weight.to_bits()));
        let mut matrix = Self { starts: vec![0], ..Self::default() };
        for row in entries.chunk_by(|a, b| a.0 == b.0) {
            matrix.starts.resize(row[0].0 as usize + 1, matrix.columns.len());
            let sum: f64 = row.iter().map(|entry| entry.2).sum();
            let sums = row.chunk_by(|a, b| a.1 == b.1).map(|same| (same[0].1, same.iter().map(|s| s.2).sum::<f64>()));
            let mut sums: Vec<(u32, f64)> = sums.collect();
            sums.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            // The weights of very old interactions may all be 0.
            for (column, weight) in sums.into_iter().take(most).filter(|_| sum > 0.0) {
                matrix.columns.push(column);
                matrix.shares.push((weight / sum) as f32);
            }
            matrix.starts.push(matrix.columns.len());
        }
        matrix
    }

    /// Columns and shares of a row.
    pub fn row(&self, row: u32) -> impl Iterator<Item = (u32, f32)> {
        let bound = |place: usize| self.starts.get(place).copied();
        let range = match (bound(row as usize), bound(row as usize + 1)) {
            (Some(from), Some(to)) => from..to,
            _ => 0..0,
        };
        range.filter_map(|place| Some((*self.columns.get(place)?, *self.shares.get(place)?)))
    }
}
