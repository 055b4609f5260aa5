//! Dropout from a counted stream of random numbers, for candle's own cannot be seeded on a processor.

use candle_core::{Result, Tensor};
use rand::RngCore;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Drops values while training, and nothing else.
pub(crate) struct Dropout(Option<ChaCha8Rng>);

impl Dropout {
    /// Drops nothing: for ranking.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// The masks of one part of one step. Equal seeds and numbers give equal masks.
    pub(crate) fn seeded(seed: u64, number: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(number);
        Self(Some(random))
    }

    /// Sets this share of the values to 0, and divides the others by what is kept, so that their mean stays.
    pub(crate) fn apply(&mut self, values: Tensor, share: f64) -> Result<Tensor> {
        let Some(random) = self.0.as_mut().filter(|_| share > 0.0) else { return Ok(values) };
        // A share below 1 times 2^32 is below 2^32.
        let least = (share * 4_294_967_296.0) as u32;
        let kept = (1.0 / (1.0 - share)) as f32;
        let mask = (0..values.elem_count()).map(|_| if random.next_u32() >= least { kept } else { 0.0 });
        let mask = Tensor::from_vec(mask.collect::<Vec<f32>>(), values.shape(), values.device())?;
        values.mul(&mask.to_dtype(values.dtype())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_share_is_dropped_the_mean_stays_and_the_same_number_drops_the_same() {
        let ones = Tensor::ones(40_000, candle_core::DType::F32, &Device::Cpu).unwrap();
        let masks: Vec<Vec<f32>> = [(7, 1), (7, 1), (7, 2), (8, 1)]
            .map(|(seed, number)| Dropout::seeded(seed, number).apply(ones.clone(), 0.3).unwrap().to_vec1().unwrap())
            .into();
        assert!(masks[0] == masks[1] && masks[0] != masks[2] && masks[0] != masks[3]);
        let dropped = masks[0].iter().filter(|value| **value == 0.0).count();
        assert!((11_500..12_500).contains(&dropped), "{dropped}");
        assert!((masks[0].iter().sum::<f32>() / 40_000.0 - 1.0).abs() < 0.02);
        let kept: Vec<f32> = Dropout::none().apply(ones, 0.3).unwrap().to_vec1().unwrap();
        assert!(kept.iter().all(|value| *value == 1.0));
    }
}
