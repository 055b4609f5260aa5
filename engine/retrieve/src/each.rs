//! Work on each request of a batch.

use rayon::prelude::*;

/// Requests that are answered on their caller's thread.
const FEW: usize = 4;

/// The answer to each request, in order. A few are answered here: handing them to the pool costs more than many a search, and
/// where a language model is served its passes hold the pool for longer than a search may take.
pub(crate) fn each<A: Sync, B: Send>(requests: &[A], answer: impl Fn(&A) -> B + Send + Sync) -> Vec<B> {
    match requests.len() {
        ..=FEW => requests.iter().map(answer).collect(),
        _ => requests.par_iter().map(answer).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_answered_by_their_caller_and_many_in_order() {
        let here = std::thread::current().id();
        for count in 0..=FEW {
            let requests = vec![(); count];
            assert!(each(&requests, |()| std::thread::current().id()).iter().all(|thread| *thread == here));
        }
        let many: Vec<usize> = (0..100).collect();
        assert_eq!(each(&many, |n| n * 2), (0..100).map(|n| n * 2).collect::<Vec<_>>());
    }
}
