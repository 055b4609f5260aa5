//! Products of few rows against the same sums in double precision.

use querywright_kernels::device::{Device, FewRows, Format, Matrix, Normed, Then};

use super::turn;

/// Numbers in bf16 around zero.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| f32::from_bits(next().to_bits() & 0xffff_0000)).collect()
}

/// A shape: rows, columns of the result, columns of the rows, and how many of these are normalised.
type Shape = (usize, usize, usize, usize);

const SHAPES: [Shape; 6] =
    [(1, 24, 40, 0), (5, 20, 64, 48), (8, 8200, 32, 32), (16, 10, 608, 576), (9, 6, 8, 0), (3, 40, 1040, 1040)];

#[test]
fn products_of_few_rows_are_those_of_their_factors() {
    let Some(_turn) = turn() else { return };
    let device = Device::open(0).unwrap();
    for (rows, columns, inner, width) in SHAPES {
        for (then, scaled) in [(Then::Store, true), (Then::Store, false), (Then::Add, true), (Then::Swiglu, true)] {
            let what = format!("{rows} x {columns} x {inner}, {width} normalised, {then:?}, scaled: {scaled}");
            let found = on_device(&device, (rows, columns, inner, width), then, scaled);
            let expected = expected((rows, columns, inner, width), then, scaled);
            for (i, (found, (expected, size))) in found.iter().zip(&expected).enumerate() {
                // Normalised rows, gates and ups are rounded to bf16, whose steps are 2^-8 of a value.
                let most = 1e-2 * (1.0 + size);
                assert!((f64::from(*found) - expected).abs() < most, "{what}: value {i} is {found}, not {expected}");
            }
        }
    }
}

/// The factors: rows before a norm, its weights, the rows, the layer, and what is added to.
fn factors((rows, columns, inner, width): Shape) -> [Vec<f32>; 5] {
    let x: Vec<f32> = numbers(rows * width, 1).iter().map(|v| 4.0 * v).collect();
    [x, numbers(width, 2), numbers(rows * inner, 3), numbers(columns * inner, 4), numbers(rows * columns, 5)]
}

const EPS: f64 = 1e-5;

/// The results, and the size of what is rounded on the way to them.
fn expected(shape: Shape, then: Then, scaled: bool) -> Vec<(f64, f64)> {
    let (rows, columns, inner, width) = shape;
    let [x, norm, plain, weights, added] = factors(shape);
    let product = |row: usize, column: usize| {
        let x = &x[row * width..(row + 1) * width];
        let squares: f64 = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        let factor = if scaled && width > 0 { 1.0 / (squares / width as f64 + EPS).sqrt() } else { 1.0 };
        let value = |k: usize| match x.get(k) {
            Some(v) => f64::from(*v) * f64::from(norm[k]),
            None => f64::from(plain[row * inner + k]),
        };
        factor * (0..inner).map(|k| value(k) * f64::from(weights[column * inner + k])).sum::<f64>()
    };
    let kept = if then == Then::Swiglu { columns / 2 } else { columns };
    let places = (0..rows).flat_map(|row| (0..kept).map(move |column| (row, column)));
    let result = |(row, column): (usize, usize)| match then {
        Then::Store => (product(row, column), product(row, column).abs()),
        Then::Add => {
            let product = product(row, column);
            (product + f64::from(added[row * columns + column]), product.abs())
        }
        Then::Swiglu => {
            let gate = product(row, column);
            let value = gate / (1.0 + (-gate).exp()) * product(row, kept + column);
            (value, value.abs() * (1.0 + gate.abs()))
        }
    };
    places.map(result).collect()
}

fn on_device(device: &Device, shape: Shape, then: Then, scaled: bool) -> Vec<f32> {
    let (rows, columns, inner, width) = shape;
    let [x, norm, plain, weights, added] = factors(shape).map(|values| device.upload(&values).unwrap());
    // Rows that lie apart, as those of a group's input with its deltas do.
    let place = |from, rows: usize, columns: usize, stride: usize| {
        let to = device.allocate(2 * rows * stride).unwrap();
        let matrix = Matrix { stride, ..Matrix::new(to.view(), Format::Bf16, rows, columns) };
        device.place(Matrix::new(from, Format::F32, rows, columns), matrix, 1.0).unwrap();
        to
    };
    let (plain, weights) =
        (place(plain.view(), rows, inner, inner + 8), place(weights.view(), columns, inner, inner + 16));
    let plain = Matrix { stride: inner + 8, ..Matrix::new(plain.view(), Format::Bf16, rows, inner) };
    let weights = Matrix { stride: inner + 16, ..Matrix::new(weights.view(), Format::Bf16, columns, inner) };
    let normed = (width > 0).then(|| Normed { x: x.view(), weight: norm.view(), width, eps: EPS });
    let from = FewRows { normed, rows: plain, scaled };
    assert!(device.takes_few(Format::Bf16, rows, inner, inner + 8));
    match then {
        Then::Store | Then::Add => {
            let out = if then == Then::Add { added } else { device.allocate(4 * rows * columns).unwrap() };
            device.multiply_few(from, weights, Matrix::new(out.view(), Format::F32, rows, columns), then).unwrap();
            let mut values = vec![0f32; rows * columns];
            device.read(out.view(), &mut values).unwrap();
            values
        }
        Then::Swiglu => {
            // An even stride, so that rows can be read as words.
            let stride = (columns / 2).next_multiple_of(2);
            let out = device.zeros(2 * rows * stride).unwrap();
            let matrix = Matrix { stride, ..Matrix::new(out.view(), Format::Bf16, rows, columns / 2) };
            device.multiply_few(from, weights, matrix, then).unwrap();
            let mut words = vec![0u32; rows * stride / 2];
            device.read(out.view(), &mut words).unwrap();
            let halves = |word: u32| [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)];
            let all: Vec<f32> = words.into_iter().flat_map(halves).collect();
            all.chunks(stride).flat_map(|row| row[..columns / 2].to_vec()).collect()
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let Some(_turn) = turn() else { return };
    let device = Device::open(0).unwrap();
    let (rows, weights) = (device.zeros(2 * 16 * 16).unwrap(), device.zeros(2 * 8 * 16).unwrap());
    let from = |count, inner| FewRows {
        normed: None,
        rows: Matrix::new(rows.view(), Format::Bf16, count, inner),
        scaled: false,
    };
    let layer = |inner| Matrix::new(weights.view(), Format::Bf16, 8, inner);
    let out = device.zeros(4 * 17 * 8).unwrap();
    let result = |count| Matrix::new(out.view(), Format::F32, count, 8);
    assert!(device.multiply_few(from(16, 16), layer(16), result(16), Then::Store).is_ok());
    for (count, inner) in [(17, 16), (2, 12), (16, 24)] {
        let refused = device.multiply_few(from(count, inner), layer(inner), result(count), Then::Store);
        assert!(refused.is_err(), "{count} rows of {inner} values");
    }
    let half = Matrix::new(out.view(), Format::Bf16, 4, 8);
    assert!(device.multiply_few(from(4, 16), layer(16), half, Then::Add).is_err(), "added to bf16");
}
