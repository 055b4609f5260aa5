//! Calls over HTTP: connections that are kept, one deadline, and retries within a budget.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use querywright_types::{Deadline, Error, FaultKind, Result};

use crate::config::ConnectConfig;

/// Bytes of an answer at most.
const LONGEST_ANSWER: u64 = 64 << 20;
/// Times that a call is sent again at most.
const RETRIES: u32 = 2;
/// The wait before the first of them; each further one waits twice as long.
const WAIT: Duration = Duration::from_millis(50);
/// Calls that must succeed for one retry, so that an engine that is down is not asked three times as often.
const CALLS_A_RETRY: f64 = 10.0;
/// Retries that may be saved up.
const SAVED: f64 = 10.0;

/// A failure, before it has the retriever's name.
pub(crate) type Failure = (FaultKind, String);

/// A call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Behind the engine's address.
    pub(crate) path: String,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

/// The connections to one engine.
pub(crate) struct Http {
    url: String,
    authorization: Option<String>,
    timeout: Duration,
    agent: ureq::Agent,
    budget: Mutex<f64>,
}

impl Http {
    pub(crate) fn new(config: &ConnectConfig) -> Result<Self> {
        let trusted = |found| Error::argument("certificates", found, "the engine is not asked without them");
        let agent = querywright_http::client().map_err(trusted)?;
        let agent = agent.max_idle_connections_per_host(config.parallel).max_redirects(0).build().into();
        let url = config.url.trim_end_matches('/').to_owned();
        let (authorization, timeout) = (config.authorization()?, config.timeout()?);
        Ok(Self { url, authorization, timeout, agent, budget: Mutex::new(SAVED) })
    }

    /// The answer to a call whose status is 200. What may succeed the next time is sent again, while there is time.
    pub(crate) fn call(&self, call: &Call, deadline: Deadline) -> Result<Vec<u8>, Failure> {
        let mut wait = WAIT;
        for retry in 0.. {
            let (failure, after) = match self.once(call, deadline) {
                Ok(answer) => {
                    self.earn();
                    return Ok(answer);
                }
                Err(Attempt::Final(failure)) => return Err(failure),
                Err(Attempt::Again(failure, after)) => (failure, after.unwrap_or(wait)),
            };
            let in_time = after <= self.timeout && deadline.left().is_none_or(|left| after < left);
            if retry == RETRIES || !in_time || !self.spend() {
                return Err(failure);
            }
            std::thread::sleep(after);
            wait *= 2;
        }
        Err((FaultKind::Network, "it was not asked".to_owned()))
    }

    fn once(&self, call: &Call, deadline: Deadline) -> Result<Vec<u8>, Attempt> {
        let timeout = deadline.left().map_or(self.timeout, |left| left.min(self.timeout));
        if timeout.is_zero() {
            return Err(Attempt::Final((FaultKind::Timeout, "the deadline had passed".to_owned())));
        }
        let begun = Instant::now();
        let mut request = self.agent.post(format!("{}{}", self.url, call.path)).content_type(call.content_type);
        if let Some(value) = &self.authorization {
            request = request.header("authorization", value);
        }
        let sent = request.config().timeout_global(Some(timeout)).build().send(call.body.as_str());
        let mut response = match sent {
            Ok(response) => response,
            Err(ureq::Error::Timeout(_)) => return Err(Attempt::late(begun)),
            Err(error) => return Err(Attempt::Again((FaultKind::Network, error.to_string()), None)),
        };
        let status = response.status().as_u16();
        let after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let body = match response.body_mut().with_config().limit(LONGEST_ANSWER).read_to_vec() {
            Ok(body) => body,
            Err(ureq::Error::Timeout(_)) => return Err(Attempt::late(begun)),
            Err(error) => return Err(Attempt::Again((FaultKind::Network, error.to_string()), None)),
        };
        let said = || format!("status {status}: {}", quoted(&body));
        match status {
            200 => Ok(body),
            429 => Err(Attempt::Again((FaultKind::Overloaded, said()), after.map(Duration::from_secs))),
            502..=504 => Err(Attempt::Again((FaultKind::Network, said()), after.map(Duration::from_secs))),
            _ => Err(Attempt::Final((FaultKind::Refused, said()))),
        }
    }

    fn earn(&self) {
        let mut budget = self.budget.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *budget = (*budget + 1.0 / CALLS_A_RETRY).min(SAVED);
    }

    fn spend(&self) -> bool {
        let mut budget = self.budget.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let enough = *budget >= 1.0;
        if enough {
            *budget -= 1.0;
        }
        enough
    }
}

/// What came of sending a call once.
enum Attempt {
    Final(Failure),
    /// The next time it may succeed, after a while that the engine may have named.
    Again(Failure, Option<Duration>),
}

impl Attempt {
    fn late(begun: Instant) -> Self {
        Self::Final((FaultKind::Timeout, format!("no answer within {} ms", begun.elapsed().as_millis())))
    }
}

/// The beginning of an engine's words.
pub(crate) fn quoted(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(600)]).chars().take(300).collect()
}
