//! Asking a retriever, and holding its answers to the contract.

use crate::{Deadline, Fault, FaultKind, Ranking, Request, Retriever};

/// Ranks each request of a batch, and holds every answer to the contract of [`Retriever`]: one answer a request, at most
/// `k` hits, known documents, each once, none excluded, finite scores, best first. An answer that breaks it is a
/// [`FaultKind::Contract`] of its request; a wrong number of answers is a fault of every request, because nobody knows
/// which answer belongs to which. Nothing is cut, sorted or cleaned up: what the retriever meant is not known.
///
/// A request with an [order](Request::order) is sent without it, as deep as the order reaches, and the answer is put into
/// that order. Neighbours that differ by their order alone are sent once.
pub fn retrieve(retriever: &dyn Retriever, requests: &[Request], deadline: Deadline) -> Vec<Result<Ranking, Fault>> {
    if requests.iter().all(|request| request.order.is_none()) {
        return checked(retriever, requests, deadline);
    }
    let (mut asked, mut places): (Vec<Request>, Vec<usize>) = (Vec::new(), Vec::with_capacity(requests.len()));
    for request in requests {
        let unordered = request.unordered();
        if asked.last() != Some(&unordered) {
            asked.push(unordered);
        }
        places.push(asked.len() - 1);
    }
    let found = checked(retriever, &asked, deadline);
    let answers = requests.iter().zip(places).filter_map(|(request, place)| Some((request, found.get(place)?)));
    answers.map(|(request, found)| found.as_ref().map(|found| request.ordered(found)).map_err(Fault::clone)).collect()
}

fn checked(retriever: &dyn Retriever, requests: &[Request], deadline: Deadline) -> Vec<Result<Ranking, Fault>> {
    let mut answers = retriever.retrieve(requests, deadline);
    let card = retriever.card();
    let broken = |detail: String| Fault::new(card.name.as_str(), FaultKind::Contract, detail);
    if answers.len() != requests.len() {
        let detail = format!("it gave {} answers to {} requests", answers.len(), requests.len());
        return vec![Err(broken(detail)); requests.len()];
    }
    for (answer, request) in answers.iter_mut().zip(requests) {
        if let Ok(ranking) = answer
            && let Err(detail) = ranking.check(request, card.documents)
        {
            *answer = Err(broken(detail));
        }
    }
    answers
}

impl Ranking {
    /// Whether this is an answer to `request` that keeps the contract of [`Retriever`]; `documents` bounds the ordinals
    /// where their number is known.
    ///
    /// # Errors
    /// The place where it is broken, in words: "hit 3 is document 9, and there are 5".
    pub fn check(&self, request: &Request, documents: Option<usize>) -> Result<(), String> {
        let hits = &self.hits;
        if hits.len() > request.k {
            return Err(format!("it gave {} hits where at most {} were asked for", hits.len(), request.k));
        }
        for (rank, hit) in hits.iter().enumerate() {
            let place = rank + 1;
            if let Some(documents) = documents.filter(|documents| hit.doc as usize >= *documents) {
                return Err(format!("hit {place} is document {}, and there are {documents}", hit.doc));
            }
            if !hit.score.is_finite() {
                return Err(format!("hit {place} has the score {}", hit.score));
            }
            if rank > 0 && hit.score > hits[rank - 1].score {
                return Err(format!("hit {place} has a higher score than the one before it"));
            }
        }
        let mut seen: Vec<u32> = hits.iter().map(|hit| hit.doc).collect();
        seen.sort_unstable();
        if let Some(twice) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("it gave document {} twice", twice[0]));
        }
        match request.exclude.iter().find(|item| seen.binary_search(item).is_ok()) {
            Some(excluded) => Err(format!("it gave document {excluded}, which was excluded")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hit, Order, Query, RetrieverCard, Rewrite};

    fn ranking(hits: &[(u32, f32)]) -> Ranking {
        Ranking { hits: hits.iter().map(|(doc, score)| Hit { doc: *doc, score: *score }).collect() }
    }

    fn request(exclude: &[u32]) -> Request {
        Request::plain("x", 3).with_exclude(exclude.to_vec())
    }

    /// Gives what it was told to give.
    struct Says(RetrieverCard, Vec<Result<Ranking, Fault>>);

    impl Retriever for Says {
        fn card(&self) -> &RetrieverCard {
            &self.0
        }

        fn retrieve(&self, _: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
            self.1.clone()
        }
    }

    #[test]
    fn an_answer_that_breaks_the_contract_is_named_by_its_place() {
        let check = |hits: &[(u32, f32)], exclude: &[u32]| ranking(hits).check(&request(exclude), Some(5));
        assert_eq!(check(&[(2, 2.0), (0, 2.0), (1, 0.5)], &[4]), Ok(()));
        assert_eq!(check(&[], &[]), Ok(()));
        for (hits, exclude, part) in [
            (&[(0, 4.0), (1, 3.0), (2, 2.0), (3, 1.0)][..], &[][..], "4 hits where at most 3"),
            (&[(0, 1.0), (5, 0.5)], &[], "hit 2 is document 5, and there are 5"),
            (&[(0, f32::NAN)], &[], "hit 1 has the score NaN"),
            (&[(0, f32::INFINITY)], &[], "hit 1 has the score inf"),
            (&[(0, 1.0), (1, 2.0)], &[], "hit 2 has a higher score"),
            (&[(3, 1.0), (1, 1.0), (3, 0.5)], &[], "document 3 twice"),
            (&[(3, 1.0), (1, 1.0)], &[7, 1], "document 1, which was excluded"),
        ] {
            let broken = check(hits, exclude).unwrap_err();
            assert!(broken.contains(part), "{broken}");
        }
        assert_eq!(ranking(&[(9, 1.0)]).check(&request(&[]), None), Ok(()), "nobody knows how many there are");
    }

    #[test]
    fn a_broken_answer_is_a_fault_of_its_request_and_a_missing_one_of_all() {
        let card = RetrieverCard::new("own", "0").with_documents(2);
        let fault = Fault::new("own", FaultKind::Network, "down");
        let answers = vec![Ok(ranking(&[(1, 1.0)])), Ok(ranking(&[(2, 1.0)])), Err(fault.clone())];
        let requests = vec![request(&[]); 3];
        let got = retrieve(&Says(card.clone(), answers.clone()), &requests, Deadline::NONE);
        assert_eq!((&got[0], &got[2]), (&answers[0], &Err(fault)));
        assert_eq!(got[1].as_ref().unwrap_err().kind, FaultKind::Contract);
        for given in [2, 4] {
            let says = Says(card.clone(), answers.iter().cycle().take(given).cloned().collect());
            let got = retrieve(&says, &requests, Deadline::NONE);
            assert_eq!(got.len(), 3);
            for answer in got {
                let fault = answer.unwrap_err();
                assert!(fault.kind == FaultKind::Contract && fault.detail.contains("answers to 3 requests"), "{fault}");
            }
        }
    }

    /// Finds documents 0, 1, 2, … of five, and counts what it is asked for.
    struct Five(RetrieverCard, std::sync::Mutex<Vec<usize>>);

    impl Retriever for Five {
        fn card(&self) -> &RetrieverCard {
            &self.0
        }

        fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
            let one = |request: &Request| {
                assert_eq!(request.order, None);
                self.1.lock().unwrap().push(request.k);
                let hits = (0..5).filter(|doc| !request.exclude.contains(doc)).take(request.k);
                Ok(Ranking { hits: hits.map(|doc| Hit { doc, score: -(doc as f32) }).collect() })
            };
            requests.iter().map(one).collect()
        }
    }

    #[test]
    fn an_order_is_kept_whatever_ranks_and_reaches_deeper_than_the_hits_that_are_wanted() {
        let five = Five(RetrieverCard::new("five", "0").with_documents(5), Default::default());
        let query = Query::text("x");
        let ordered = |first: &[u32]| Rewrite::plain("x").with_order(Order::new(first.to_vec(), 4));
        let rewrites = [ordered(&[3, 1]), ordered(&[2]), Rewrite::plain("x"), ordered(&[1])];
        let requests: Vec<Request> = rewrites.iter().map(|rewrite| Request::new(&query, rewrite, 3)).collect();
        let docs = |answers: Vec<Result<Ranking, Fault>>| -> Vec<Vec<u32>> {
            answers.into_iter().map(|answer| answer.unwrap().hits.iter().map(|hit| hit.doc).collect()).collect()
        };
        let got = docs(retrieve(&five, &requests, Deadline::NONE));
        assert_eq!(got, [[3, 1, 0], [2, 0, 1], [0, 1, 2], [1, 0, 2]]);
        assert_eq!(*five.1.lock().unwrap(), [4, 3, 4], "neighbours with the same text are one search");
        let excluding = requests[0].clone().with_exclude([3]);
        assert_eq!(docs(retrieve(&five, &[excluding], Deadline::NONE)), [[1, 0, 2]]);
    }
}
