//! What happens when a retriever fails: fail closed, fail open, back off.
//!
//! A retriever alone fails closed: a request that it cannot answer ends in a [`Fault`]. A [`Guard`] in front of it lets it
//! rest after some faults in a row, twice as long each time that it fails again, so that a remote side that is down is not
//! asked a thousand times a second; and with a stand-in it fails open: what the first retriever cannot answer, the second
//! one does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use querywright_types::{
    Deadline, DocumentName, Fault, FaultKind, Ordinal, Ranking, Request, Result, Retriever, RetrieverCard, hex,
    retrieve,
};

/// When a retriever rests, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOffConfig {
    /// Faults in a row after which it rests; 0: it never does. Default 5.
    pub faults: u32,
    /// How long it rests first. Each time that it then fails again it is twice as long. Default one second.
    pub rest: Duration,
    /// How long it rests at most, a year at the longest. Default one minute.
    pub longest: Duration,
}

impl Default for BackOffConfig {
    fn default() -> Self {
        Self { faults: 5, rest: Duration::from_secs(1), longest: Duration::from_secs(60) }
    }
}

/// What became of the requests so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[non_exhaustive]
pub struct GuardCounts {
    /// Requests.
    pub requests: u64,
    /// Those that the retriever was asked and failed on.
    pub faults: u64,
    /// Those that it was not asked, because it rested.
    pub rested: u64,
    /// Those that the stand-in answered.
    pub stood_in: u64,
}

/// A retriever with a policy for its faults.
///
/// With a stand-in, which retriever answers depends on the moment. Serve with it; train and measure without.
pub struct Guard {
    retriever: Arc<dyn Retriever>,
    stand_in: Option<Arc<dyn Retriever>>,
    breaker: Mutex<Breaker>,
    card: RetrieverCard,
    requests: AtomicU64,
    faults: AtomicU64,
    rested: AtomicU64,
    stood_in: AtomicU64,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("card", &self.card).field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Guard {
    /// Lets a retriever rest when it fails again and again.
    pub fn new(retriever: Arc<dyn Retriever>, back_off: BackOffConfig) -> Self {
        let card = retriever.card().clone();
        let counter = || AtomicU64::new(0);
        Self {
            retriever,
            stand_in: None,
            breaker: Mutex::new(Breaker::new(back_off)),
            card,
            requests: counter(),
            faults: counter(),
            rested: counter(),
            stood_in: counter(),
        }
    }

    /// Has another retriever of the same catalogue answer what the first one cannot.
    pub fn with_stand_in(mut self, stand_in: Arc<dyn Retriever>) -> Self {
        let digests = [self.retriever.card().digest.as_str(), stand_in.card().digest.as_str()];
        self.card.digest = hex(Sha256::digest(digests.join("\n").as_bytes()));
        self.stand_in = Some(stand_in);
        self
    }

    /// What became of the requests so far.
    pub fn counts(&self) -> GuardCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GuardCounts {
            requests: read(&self.requests),
            faults: read(&self.faults),
            rested: read(&self.rested),
            stood_in: read(&self.stood_in),
        }
    }

    fn breaker<T>(&self, then: impl FnOnce(&mut Breaker) -> T) -> T {
        then(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the retriever itself says, or that it rests.
    fn first(&self, requests: &[Request], deadline: Deadline) -> Vec<Result<Ranking, Fault>> {
        let count = requests.len() as u64;
        self.requests.fetch_add(count, Ordering::Relaxed);
        let turn = match self.breaker(|breaker| breaker.ask(Instant::now())) {
            Ok(turn) => turn,
            Err(left) => {
                self.rested.fetch_add(count, Ordering::Relaxed);
                let (retriever, kind) = (self.card.name.clone(), FaultKind::Resting);
                let detail = format!("it failed again and again, and is asked again in {} ms", left.as_millis());
                return vec![Err(Fault::new(retriever, kind, detail)); requests.len()];
            }
        };
        let asked = Asked { guard: self, turn };
        let answers = retrieve(&self.retriever, requests, deadline);
        let failed = answers.iter().filter(|answer| answer.is_err()).count() as u64;
        self.faults.fetch_add(failed, Ordering::Relaxed);
        self.breaker(|breaker| {
            let now = Instant::now();
            answers.iter().for_each(|answer| breaker.heard(answer.is_ok(), turn, now));
        });
        drop(asked);
        answers
    }
}

impl Retriever for Guard {
    fn card(&self) -> &RetrieverCard {
        &self.card
    }

    fn retrieve(&self, requests: &[Request], deadline: Deadline) -> Vec<Result<Ranking, Fault>> {
        if requests.is_empty() {
            return Vec::new();
        }
        let mut answers = self.first(requests, deadline);
        let Some(stand_in) = &self.stand_in else { return answers };
        let unanswered: Vec<usize> =
            answers.iter().enumerate().filter(|(_, answer)| answer.is_err()).map(|(place, _)| place).collect();
        if unanswered.is_empty() {
            return answers;
        }
        let asked: Vec<Request> = unanswered.iter().filter_map(|&place| requests.get(place).cloned()).collect();
        for (place, second) in unanswered.into_iter().zip(retrieve(stand_in, &asked, deadline)) {
            if let (Some(answer), Ok(ranking)) = (answers.get_mut(place), second) {
                *answer = Ok(ranking);
                self.stood_in.fetch_add(1, Ordering::Relaxed);
            }
        }
        answers
    }

    fn document(&self, document: Ordinal) -> Option<DocumentName> {
        self.retriever.document(document)
    }
}

/// A call under way. However it ends, the next one may try.
struct Asked<'a> {
    guard: &'a Guard,
    turn: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.guard.breaker(|breaker| breaker.ended(self.turn));
    }
}

/// A rest is never longer.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Counts faults and rests.
struct Breaker {
    back_off: BackOffConfig,
    in_a_row: u32,
    /// Rests since the last answer.
    rests: u32,
    until: Option<Instant>,
    /// Counts the rests. What was asked before a rest says nothing after it.
    turn: u64,
    /// Whether somebody tries after a rest; the others wait for what that one hears.
    trying: bool,
}

impl Breaker {
    fn new(back_off: BackOffConfig) -> Self {
        Self { back_off, in_a_row: 0, rests: 0, until: None, turn: 0, trying: false }
    }

    /// Whether the retriever may be asked now, and in which turn; else how long it still rests.
    fn ask(&mut self, now: Instant) -> Result<u64, Duration> {
        if let Some(until) = self.until {
            if now < until || self.trying {
                return Err(until.saturating_duration_since(now));
            }
            self.trying = true;
        }
        Ok(self.turn)
    }

    /// An answer or a fault of a turn.
    fn heard(&mut self, answered: bool, turn: u64, now: Instant) {
        if turn != self.turn {
            return;
        }
        if answered {
            (self.in_a_row, self.rests, self.until, self.trying) = (0, 0, None, false);
            return;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        // One fault after a rest is enough for the next one.
        if self.back_off.faults > 0 && (self.trying || self.in_a_row >= self.back_off.faults) {
            let BackOffConfig { rest, longest, .. } = self.back_off;
            let rest = rest.saturating_mul(1 << self.rests.min(20)).min(longest).min(YEAR);
            (self.until, self.trying, self.in_a_row) = (now.checked_add(rest), false, 0);
            self.rests = self.rests.saturating_add(1);
            self.turn += 1;
        }
    }

    /// A call of a turn is over, whatever was heard of it.
    fn ended(&mut self, turn: u64) {
        if turn == self.turn {
            self.trying = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use querywright_types::{Hit, Query, Rewrite};

    /// Fails where the text says so; otherwise finds one document.
    struct Moody(RetrieverCard, u32, AtomicU64);

    impl Moody {
        fn new(name: &str, finds: u32) -> Arc<Self> {
            let card = RetrieverCard::new(name, name);
            Arc::new(Self(card, finds, AtomicU64::new(0)))
        }
    }

    impl Retriever for Moody {
        fn card(&self) -> &RetrieverCard {
            &self.0
        }

        fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
            self.2.fetch_add(requests.len() as u64, Ordering::Relaxed);
            let fault = Fault::new(self.0.name.clone(), FaultKind::Network, "down");
            let hits = |text: &str| match text.contains("fail") {
                true => Err(fault.clone()),
                false => Ok(Ranking { hits: vec![Hit { doc: self.1, score: 1.0 }] }),
            };
            requests.iter().map(|request| hits(&request.text)).collect()
        }
    }

    fn request(text: &str) -> Request {
        Request::new(&Query::text(text), &Rewrite::plain(text), 10)
    }

    #[test]
    fn it_rests_after_faults_in_a_row_longer_each_time_and_wakes_with_an_answer() {
        let second = Duration::from_secs(1);
        let back_off = BackOffConfig { faults: 2, rest: second, longest: 3 * second };
        let mut breaker = Breaker::new(back_off);
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        breaker.heard(false, 0, at(0.0));
        breaker.heard(true, 0, at(0.0));
        breaker.heard(false, 0, at(0.0));
        assert_eq!(breaker.ask(at(0.0)), Ok(0), "two faults, but not in a row");
        // Many faults of one outage are one reason to rest.
        (0..20).for_each(|_| breaker.heard(false, 0, at(0.0)));
        assert_eq!(breaker.ask(at(0.25)), Err(Duration::from_millis(750)));
        assert_eq!(breaker.ask(at(1.0)), Ok(1));
        breaker.heard(true, 0, at(1.0));
        assert!(
            breaker.ask(at(5.0)).is_err(),
            "one tries, the others wait; what was asked before the rest does not count"
        );
        (0..20).for_each(|_| breaker.heard(false, 1, at(5.0)));
        assert_eq!(breaker.ask(at(5.0)), Err(2 * second), "twice as long");
        assert_eq!(breaker.ask(at(7.0)), Ok(2));
        breaker.ended(2);
        assert_eq!(breaker.ask(at(7.0)), Ok(2), "who broke off holds up nobody");
        breaker.heard(false, 2, at(7.0));
        assert_eq!(breaker.ask(at(7.0)), Err(3 * second), "but never longer than that");
        assert_eq!(breaker.ask(at(10.0)), Ok(3));
        breaker.heard(true, 3, at(10.0));
        breaker.heard(false, 3, at(10.0));
        assert_eq!(breaker.ask(at(10.0)), Ok(3), "an answer makes good all that was");
        let endless = BackOffConfig { faults: 1, rest: Duration::MAX, longest: Duration::MAX };
        let mut breaker = Breaker::new(endless);
        breaker.heard(false, 0, start);
        assert_eq!(breaker.ask(start), Err(YEAR));
    }

    #[test]
    fn without_a_stand_in_it_fails_closed_and_a_resting_retriever_is_not_asked() {
        let moody = Moody::new("moody", 7);
        let guard = Guard::new(moody.clone(), BackOffConfig { faults: 2, ..BackOffConfig::default() });
        let answers = guard.retrieve(&[request("fine"), request("fail"), request("fail")], Deadline::NONE);
        assert!(answers[0].is_ok() && answers[1].is_err() && answers[2].is_err());
        let resting = guard.retrieve(&[request("fine")], Deadline::NONE).remove(0).unwrap_err();
        assert_eq!(resting.kind, FaultKind::Resting);
        assert_eq!(moody.2.load(Ordering::Relaxed), 3, "it was not asked while it rested");
        assert_eq!(guard.counts(), GuardCounts { requests: 4, faults: 2, rested: 1, stood_in: 0 });
    }

    #[test]
    fn with_a_stand_in_each_request_gets_its_own_answer() {
        let (moody, steady) = (Moody::new("moody", 7), Moody::new("steady", 9));
        let guard =
            Guard::new(moody.clone(), BackOffConfig { faults: 0, ..BackOffConfig::default() }).with_stand_in(steady);
        assert_ne!(guard.card().digest, moody.card().digest, "what two answer is not what one answers");
        let found = |text: &str| guard.retrieve(&[request(text)], Deadline::NONE).remove(0).map(|r| r.hits[0].doc);
        assert_eq!(found("fine").unwrap(), 7);
        assert_eq!(found("fail").unwrap_err().retriever, "moody", "where both fail, the first one's fault is told");
        let other = Arc::new(Quiet(moody.card().clone()));
        let guard = Guard::new(moody, BackOffConfig { faults: 0, ..BackOffConfig::default() }).with_stand_in(other);
        let answers = guard.retrieve(&[request("fail"), request("fine"), request("fail")], Deadline::NONE);
        let sizes: Vec<usize> = answers.into_iter().map(|answer| answer.unwrap().hits.len()).collect();
        assert_eq!(sizes, [0, 1, 0], "the stand-in's empty rankings stand where they belong");
        assert_eq!(guard.counts(), GuardCounts { requests: 3, faults: 2, rested: 0, stood_in: 2 });
    }

    /// Finds nothing, and never fails.
    struct Quiet(RetrieverCard);

    impl Retriever for Quiet {
        fn card(&self) -> &RetrieverCard {
            &self.0
        }

        fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
            requests.iter().map(|_| Ok(Ranking::default())).collect()
        }
    }
}
