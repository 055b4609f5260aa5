use super::*;
use crate::Precision;
use crate::oracle::noise;

fn naive(x: &[f32], w: &[f32], rows: usize, inner: usize, outer: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows * outer];
    for r in 0..rows {
        for j in 0..outer {
            out[r * outer + j] =
                (0..inner).map(|i| f64::from(x[r * inner + i]) * f64::from(w[i * outer + j])).sum::<f64>() as f32;
        }
    }
    out
}

#[test]
fn products_of_every_shape_and_precision_equal_the_naive_product() {
    for (rows, inner, outer) in [(1, 5, 3), (7, 64, 33), (12, 31, 64), (13, 128, 31), (200, 66, 100), (5, 4500, 40)] {
        let (x, w) = (noise(rows * inner, 1), noise(inner * outer, 2));
        let want = naive(&x, &w, rows, inner, outer);
        for (precision, tolerance) in
            [(Precision::F32, 1e-5), (Precision::Bf16, 2e-2), (Precision::Auto, 2e-2), (Precision::Int8, 2e-2)]
        {
            let packed = PackedMatrix::pack(inner, outer, precision, |i, j| w[i * outer + j]);
            let mut out = vec![9.0; rows * outer];
            packed.multiply(&x, &mut out);
            let scale = (inner as f32).sqrt();
            for (got, want) in out.iter().zip(&want) {
                assert!((got - want).abs() <= tolerance * scale, "{rows}x{inner}x{outer} {precision:?}: {got} {want}");
            }
            let negative: Vec<f32> = x.iter().map(|v| -v).collect();
            let negative = Rows::new(&negative, inner);
            let factors = [(&negative, packed.view())];
            sum_of_products(&[Part::whole(0, &factors)], &mut out, outer, true, false);
            assert!(out.iter().all(|v| v.abs() < 1e-4), "adding the negative product gives zero");
        }
    }
}

#[test]
fn parts_of_a_row_are_sums_of_products_of_columns() {
    let (rows, stride) = (29, 150);
    let (x, y) = (noise(rows * 50, 1), noise(rows * 7, 2));
    let (a, b, c) = (noise(40 * 70, 3), noise(7 * 70, 4), noise(50 * 33, 5));
    for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Auto, 0.1), (Precision::Int8, 0.1)] {
        let pack = |m: &[f32], inner, outer| PackedMatrix::pack(inner, outer, precision, |i, j| m[i * outer + j]);
        let (a_packed, b_packed, c_packed) = (pack(&a, 40, 70), pack(&b, 7, 70), pack(&c, 50, 33));
        let (left, low, whole) = (Rows::columns(&x, 50, 10, 40), Rows::new(&y, 7), Rows::new(&x, 50));
        let mut out = vec![1.0; rows * stride];
        let sum = [(&left, a_packed.view()), (&low, b_packed.view())];
        let third_alone = [(&whole, c_packed.view())];
        let parts = [Part::whole(5, &sum), Part::whole(90, &third_alone)];
        sum_of_products(&parts, &mut out, stride, true, true);
        let cut: Vec<f32> = x.chunks(50).flat_map(|row| &row[10..]).copied().collect();
        let first = naive(&cut, &a, rows, 40, 70);
        let second = naive(&y, &b, rows, 7, 70);
        let third = naive(&x, &c, rows, 50, 33);
        for r in 0..rows {
            for j in 0..stride {
                let want = 1.0
                    + match j {
                        5..75 => first[r * 70 + j - 5] + second[r * 70 + j - 5],
                        90..123 => third[r * 33 + j - 90],
                        _ => 0.0,
                    };
                assert!((out[r * stride + j] - want).abs() < tolerance, "{precision:?} {r} {j}");
            }
        }
    }
}

#[test]
fn a_row_gives_the_same_bits_whatever_batch_it_travels_in() {
    let (inner, outer) = (96, 70);
    let (x, w) = (noise(300 * inner, 3), noise(inner * outer, 4));
    for precision in [Precision::F32, Precision::Auto, Precision::Int8] {
        let packed = PackedMatrix::pack(inner, outer, precision, |i, j| w[i * outer + j]);
        let mut all = vec![0.0; 300 * outer];
        packed.multiply(&x, &mut all);
        for row in [0, 11, 12, 97, 299] {
            let mut alone = vec![0.0; outer];
            packed.multiply(&x[row * inner..(row + 1) * inner], &mut alone);
            assert_eq!(alone, all[row * outer..(row + 1) * outer], "row {row}");
        }
    }
}

#[test]
#[should_panic(expected = "parts share columns")]
fn parts_that_share_columns_are_refused() {
    let m = PackedMatrix::pack(2, 3, Precision::F32, |_, _| 1.0);
    let (x, mut out) = (Rows::new(&[1.0; 4], 2), [0.0; 10]);
    let factors = [(&x, m.view())];
    let parts = [Part::whole(0, &factors), Part::whole(2, &factors)];
    sum_of_products(&parts, &mut out, 5, false, true);
}

#[test]
#[should_panic(expected = "rows in bf16 for a matrix that is not")]
fn rows_in_bf16_alone_are_refused_by_a_matrix_in_f32() {
    let m = PackedMatrix::pack(2, 3, Precision::F32, |_, _| 1.0);
    let factors = [(&Rows::in_bf16(&[0; 4], 2), m.view())];
    sum_of_products(&[Part::whole(0, &factors)], &mut [0.0; 12], 3, false, false);
}
