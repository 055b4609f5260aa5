//! The order in which examples are gone through, epoch by epoch.

use rand::SeedableRng;
use rand::seq::SliceRandom;

/// Which of `count` examples a step has, counted from 0: the next ones of a permutation, which is another one each time
/// around.
pub(crate) fn places(step: u64, count: usize, batch_size: usize, seed: u64) -> Vec<usize> {
    let batch = batch_size.min(count);
    let first = step as usize * batch;
    let mut chosen = Vec::with_capacity(batch);
    let mut order: (usize, Vec<usize>) = (usize::MAX, Vec::new());
    for place in first..first + batch {
        let around = place / count;
        if order.0 != around {
            order = (around, permutation(count, seed, around as u64));
        }
        chosen.extend(order.1.get(place % count).copied());
    }
    chosen
}

/// The numbers below `count` in an order that seed and stream decide.
pub(crate) fn permutation(count: usize, seed: u64, stream: u64) -> Vec<usize> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut rng);
    order
}
