//! A stack for async code.

use std::sync::Arc;

use tokio::sync::Semaphore;

use querywright_stack::{Answer, SearchOptions, Stack};
use querywright_types::{Error, Query, Result};

/// A stack that async code can await. Searches block on tokio's threads for blocking work, so many at once; others wait for
/// their turn within their own time. Cheap to clone.
///
/// A search that nobody awaits any more goes on until its deadline: give stacks one.
#[derive(Debug, Clone)]
pub struct AsyncStack {
    stack: Arc<Stack>,
    turns: Arc<Semaphore>,
}

impl AsyncStack {
    /// At most `concurrent` searches at once.
    pub fn new(stack: Stack, concurrent: usize) -> Self {
        Self { stack: Arc::new(stack), turns: Arc::new(Semaphore::new(concurrent)) }
    }

    /// The stack itself.
    pub fn stack(&self) -> &Arc<Stack> {
        &self.stack
    }

    /// As [`Stack::search_with`]; a time of the options' own counts from now on, the wait for a turn included. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// Those of [`Stack::search_with`]; [`Error::Overloaded`] when no turn came within the time that the options allow.
    pub async fn search_with(&self, query: Query, mut options: SearchOptions) -> Result<Answer> {
        let asked = std::time::Instant::now();
        let turn = self.turns.clone().acquire_owned();
        let turn = match options.deadline {
            None => turn.await,
            Some(allowed) => match tokio::time::timeout(allowed, turn).await {
                Ok(turn) => turn,
                Err(_) => {
                    let found = format!("no turn came within {allowed:?}");
                    return Err(Error::overloaded("searching", found, "allow more searches at once, or send fewer"));
                }
            },
        };
        let turn = turn.map_err(|_| Error::bug("async stack", "its turns are closed"))?;
        options.deadline = options.deadline.map(|allowed| allowed.saturating_sub(asked.elapsed()));
        let stack = self.stack.clone();
        let searched = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            stack.search_with(&query, &options)
        });
        searched.await.unwrap_or_else(|panic| Err(Error::bug("async stack", format!("a search panicked: {panic}"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use querywright_types::{Deadline, Fault, Hit, Ranking, Request, Retriever, RetrieverCard};
    use std::time::Duration;

    /// Takes 50 milliseconds for everything.
    struct Slow(RetrieverCard);

    impl Retriever for Slow {
        fn card(&self) -> &RetrieverCard {
            &self.0
        }

        fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
            std::thread::sleep(Duration::from_millis(50));
            requests.iter().map(|_| Ok(Ranking { hits: vec![Hit { doc: 0, score: 1.0 }] })).collect()
        }

        fn document(&self, _: u32) -> Option<querywright_types::DocumentName> {
            Some(querywright_types::DocumentName::new("a", ""))
        }
    }

    #[test]
    fn searches_wait_for_their_turn_within_their_time() {
        let stack = Stack::builder().retriever(Slow(RetrieverCard::new("slow", "0"))).build().unwrap();
        let stack = AsyncStack::new(stack, 1);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
        let search = |ms| {
            let (stack, options) = (stack.clone(), SearchOptions::new(1).deadline(Duration::from_millis(ms)));
            runtime.spawn(async move { stack.search_with(Query::text("a"), options).await })
        };
        let patient: Vec<_> = (0..3).map(|_| search(5000)).collect();
        for one in patient {
            assert_eq!(runtime.block_on(one).unwrap().unwrap().hits[0].id, "a");
        }
        // While somebody has the one turn.
        let taken = stack.turns.clone().try_acquire_owned().unwrap();
        assert_eq!(runtime.block_on(search(20)).unwrap().unwrap_err().code(), "overloaded");
        drop(taken);
        assert!(runtime.block_on(search(5000)).unwrap().is_ok());
    }
}
