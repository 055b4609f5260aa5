//! A language model behind an OpenAI-compatible `chat/completions` address: a local server or a hosted one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::config::PromptConfig;
use super::prompt::{ChatMessage, Prompt, Role};
use super::prompter::Prompter;
use querywright_types::{Deadline, Error, Fault, FaultKind, Query, Result, RetrieverCard, Rewrite, Rewriter};

/// Characters of a server's error message that an error quotes, at most.
const QUOTED_CHARS: usize = 300;
/// Bytes of a response, at most.
const MAX_RESPONSE_BYTES: u64 = 4 << 20;

/// The address of the model and the options of a request. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RemoteConfig {
    /// The address up to `/v1`: `http://localhost:8000/v1`.
    pub url: String,
    /// The model's name on the server.
    pub model: String,
    /// The environment variable that holds the API key. Default: none, for servers without keys.
    pub api_key_env: Option<String>,
    /// Sampling temperature. Default: 0.
    pub temperature: f32,
    /// New tokens, at most. Default: 64; reasoning needs more.
    pub max_tokens: usize,
    /// Concurrent requests, at most. Default: 4.
    pub parallel: usize,
    /// Seconds that one request may take where the deadline leaves more. Default: 60.
    pub timeout_seconds: f64,
    /// How prompts are rendered and answers used.
    pub prompt: PromptConfig,
}

impl Default for RemoteConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            model: String::new(),
            api_key_env: None,
            temperature: 0.0,
            max_tokens: 64,
            parallel: 4,
            timeout_seconds: 60.0,
            prompt: PromptConfig::default(),
        }
    }
}

impl RemoteConfig {
    /// Checks every key but `prompt`, which [`Remote::new`] checks against the retriever's card.
    ///
    /// # Errors
    /// [`Error::Argument`] names the key (`remote.url`), its value and what would be right.
    pub fn validate(&self) -> Result<()> {
        if !self.url.starts_with("http://") && !self.url.starts_with("https://") {
            let remedy = "give http://HOST:PORT/v1 or https://HOST/v1";
            return Err(Error::argument("remote.url", format!("{:?}", self.url), remedy));
        }
        if self.model.is_empty() {
            let remedy = "give the model's name on the server";
            return Err(Error::argument("remote.model", "empty", remedy));
        }
        for (key, value) in [("remote.parallel", self.parallel), ("remote.max_tokens", self.max_tokens)] {
            if value == 0 {
                return Err(Error::argument(key, "0", "give at least 1"));
            }
        }
        self.timeout().map(drop)
    }

    fn timeout(&self) -> Result<Duration> {
        let timeout = Duration::try_from_secs_f64(self.timeout_seconds).ok().filter(|timeout| !timeout.is_zero());
        timeout.ok_or_else(|| {
            let found = self.timeout_seconds.to_string();
            Error::argument("remote.timeout_seconds", found, "give a number of seconds above 0")
        })
    }

    fn api_key(&self) -> Result<Option<String>> {
        let Some(variable) = &self.api_key_env else { return Ok(None) };
        let key = std::env::var(variable).map_err(|_| {
            let found = format!("the variable {variable} is not set");
            Error::argument("remote.api_key_env", found, "export it, or leave this key out")
        })?;
        Ok(Some(key))
    }
}

/// A rewriter that asks a remote model.
pub struct Remote {
    name: String,
    config: RemoteConfig,
    api_key: Option<String>,
    timeout: Duration,
    prompter: Prompter,
    agent: ureq::Agent,
}

/// Without the API key.
impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("name", &self.name).field("config", &self.config).finish_non_exhaustive()
    }
}

impl Remote {
    /// Checks the configuration. Sends nothing yet.
    ///
    /// # Errors
    /// [`Error::Argument`] names the key that cannot be used.
    pub fn new(config: RemoteConfig, card: &RetrieverCard) -> Result<Self> {
        config.validate()?;
        let (timeout, api_key) = (config.timeout()?, config.api_key()?);
        if !config.prompt.vocabulary.is_free() {
            let found = format!("{:?}, but nobody can restrict what a server's model writes", config.prompt.vocabulary);
            return Err(Error::argument("prompt.vocabulary", found, "set vocabulary = \"free\""));
        }
        let prompter = Prompter::new(config.prompt.clone(), card)?;
        let trusted = |found| Error::argument("certificates", found, "the model's server is not asked without them");
        let agent = querywright_http::client().map_err(trusted)?.build().into();
        Ok(Self { name: format!("remote:{}", config.model), config, api_key, timeout, prompter, agent })
    }

    /// Asks by these prompts, which have their sources: titles, candidates, feedback, documents to order. The prompts of
    /// [`new`](Self::new) have none.
    pub fn with_prompter(mut self, prompter: Prompter) -> Self {
        self.prompter = prompter;
        self
    }

    /// Concurrent requests, at most.
    pub(super) fn parallel(&self) -> usize {
        self.config.parallel
    }

    /// What the model answers to each query, without the frame of its format and before anything is composed: for learning
    /// from it. In the mode `choose` it is a name.
    pub fn answers(&self, queries: &[Query], deadline: Deadline) -> Vec<Result<String>> {
        self.each(queries, |query| {
            if self.prompter.settled(query, deadline)?.is_some() {
                return Err(Error::Format("no model is asked for such a query".into()));
            }
            let parsed = self.prompter.parse(&self.complete(query, deadline)?);
            match (parsed.query, parsed.broken) {
                // What a format was broken around is no example of it.
                (Some(answer), None) => Ok(answer),
                (_, Some(fault)) => Err(Error::Format(fault.to_string())),
                (None, None) => Err(Error::bug("remote", "a completion without a query and without a fault")),
            }
        })
    }

    fn rewrite_one(&self, query: &Query, deadline: Deadline) -> Result<Rewrite> {
        if query.is_empty() {
            return Ok(Rewrite::plain(String::new()));
        }
        deadline.check()?;
        if let Some(settled) = self.prompter.settled(query, deadline)? {
            return Ok(settled);
        }
        self.prompter.rewrite(query, &self.complete(query, deadline)?)
    }

    /// The completion of a query's prompt.
    fn complete(&self, query: &Query, deadline: Deadline) -> Result<String> {
        deadline.check()?;
        let (messages, stop) = match self.prompter.prompt_within(query, deadline)? {
            Prompt::Completion { prefix, query } => {
                (vec![ChatMessage::new(Role::User, prefix + &query)], Some(self.prompter.stop_strings()))
            }
            Prompt::Chat { messages } => (messages, None),
        };
        let mut body = Map::new();
        body.insert("model".into(), json!(self.config.model));
        body.insert("messages".into(), json!(messages));
        body.insert("temperature".into(), json!(self.config.temperature));
        body.insert("max_tokens".into(), json!(self.config.max_tokens));
        if let Some(stop) = stop {
            body.insert("stop".into(), json!(stop));
        }
        self.post(&Value::from(body), deadline)
    }

    /// Asks for every query, several at a time. The results are in their order.
    fn each<T: Send>(&self, queries: &[Query], ask: impl Fn(&Query) -> Result<T> + Sync) -> Vec<Result<T>> {
        let next = AtomicUsize::new(0);
        let answers: Mutex<Vec<(usize, Result<T>)>> = Mutex::new(Vec::with_capacity(queries.len()));
        std::thread::scope(|scope| {
            for _ in 0..self.config.parallel.min(queries.len()) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(query) = queries.get(index) else { return };
                        let answer = ask(query);
                        answers.lock().unwrap_or_else(PoisonError::into_inner).push((index, answer));
                    }
                });
            }
        });
        let mut answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        answers.sort_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// Sends a request and returns the text of the first choice.
    fn post(&self, body: &Value, deadline: Deadline) -> Result<String> {
        let url = format!("{}/chat/completions", self.config.url.trim_end_matches('/'));
        // To the HTTP client a zero means "no limit".
        let left = deadline.left().map_or(self.timeout, |left| left.min(self.timeout)).max(Duration::from_millis(1));
        let mut request = self.agent.post(&url).header("Content-Type", "application/json");
        if let Some(key) = &self.api_key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let response = request.config().timeout_global(Some(left)).build().send(body.to_string().as_bytes());
        let mut response = response.map_err(|e| self.transport_error(&e, deadline))?;
        let text = response.body_mut().with_config().limit(MAX_RESPONSE_BYTES).read_to_vec();
        let text = text.map_err(|e| self.transport_error(&e, deadline))?;
        if !response.status().is_success() {
            let quoted: String = String::from_utf8_lossy(&text).chars().take(QUOTED_CHARS).collect();
            return Err(self.fault(FaultKind::Network, format!("{url} answered {}: {quoted}", response.status())));
        }
        first_choice(&text).map_err(|found| self.fault(FaultKind::Parse, format!("{url}: {found}")))
    }

    fn transport_error(&self, error: &ureq::Error, deadline: Deadline) -> Error {
        if let Err(expired) = deadline.check() {
            return expired;
        }
        let kind = match error {
            ureq::Error::Timeout(_) => FaultKind::Timeout,
            _ => FaultKind::Network,
        };
        self.fault(kind, format!("{}: {error}", self.config.url))
    }

    fn fault(&self, kind: FaultKind, detail: String) -> Error {
        Error::Fault(Fault::new(self.name.clone(), kind, detail))
    }
}

impl Rewriter for Remote {
    fn name(&self) -> &str {
        &self.name
    }

    fn rewrite(&self, queries: &[Query], deadline: Deadline) -> Vec<Result<Rewrite>> {
        self.each(queries, |query| self.rewrite_one(query, deadline))
    }
}

/// The text of the first choice of a response.
fn first_choice(response: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct ChatCompletion {
        choices: Vec<Choice>,
    }
    #[derive(Deserialize)]
    struct Choice {
        message: AssistantMessage,
    }
    #[derive(Deserialize)]
    struct AssistantMessage {
        content: Option<String>,
    }
    let completion: ChatCompletion =
        serde_json::from_slice(response).map_err(|e| format!("not a chat completion: {e}"))?;
    let first = completion.choices.into_iter().next().ok_or("a chat completion without choices")?;
    Ok(first.message.content.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Mode, PromptStyle};
    use querywright_testing::fake_server::{FakeServer, Response};
    use std::time::Instant;

    fn card() -> RetrieverCard {
        RetrieverCard::new("bm25", "d").with_version("1").with_content("recipes")
    }

    fn remote(url: &str, style: PromptStyle) -> Remote {
        let prompt = PromptConfig { style, mode: Mode::Rewrite, ..PromptConfig::default() };
        let config = RemoteConfig { url: format!("{url}/v1"), model: "m".into(), prompt, ..RemoteConfig::default() };
        Remote::new(config, &card()).unwrap()
    }

    fn server(answer: Response) -> FakeServer {
        FakeServer::start([("/v1/chat/completions".to_owned(), answer)].into())
    }

    fn completion(content: &str) -> Response {
        Response::ok(json!({"choices": [{"message": {"role": "assistant", "content": content}}]}).to_string())
    }

    fn queries(n: usize) -> Vec<Query> {
        (0..n).map(|i| Query::text(format!("soup {i}"))).collect()
    }

    #[test]
    fn each_query_is_one_request_and_one_rewrite() {
        let server = server(completion("tomato broth\n"));
        let remote = remote(&server.address, PromptStyle::Chat);
        let answers = remote.rewrite(&queries(9), Deadline::NONE);
        assert_eq!(answers.len(), 9);
        assert!(answers.into_iter().all(|a| a.unwrap() == Rewrite::plain("tomato broth")));
        let mut asked: Vec<String> = server.seen().into_iter().map(|s| s.body).collect();
        asked.sort();
        assert_eq!(asked.len(), 9);
        let first: Value = serde_json::from_str(&asked[0]).unwrap();
        assert_eq!(first["messages"].as_array().unwrap().last().unwrap()["content"], "Request: soup 0");
        assert_eq!((&first["model"], &first["max_tokens"], first.get("stop")), (&json!("m"), &json!(64), None));
    }

    #[test]
    fn an_answer_to_learn_from_is_what_the_model_wrote_and_a_broken_format_is_none() {
        let server = server(completion("tomato broth\n"));
        let prompt = PromptConfig { style: PromptStyle::Chat, ..PromptConfig::default() };
        let url = format!("{}/v1", server.address);
        let config = RemoteConfig { url, model: "m".into(), prompt, ..RemoteConfig::default() };
        let remote = Remote::new(config, &card()).unwrap();
        let answers = remote.answers(&queries(5), Deadline::NONE);
        let right = |answer: &Result<String>| answer.as_ref().is_ok_and(|answer| answer == "tomato broth");
        assert!(answers.len() == 5 && answers.iter().all(right), "before it is composed: {answers:?}");
        let composed = remote.rewrite(&queries(1), Deadline::NONE).remove(0).unwrap();
        assert!(composed.text.contains("soup") && composed.text.contains("broth"), "{composed:?}");
        let empty = self::server(completion("  "));
        let answer = self::remote(&empty.address, PromptStyle::Chat).answers(&queries(1), Deadline::NONE).remove(0);
        assert!(matches!(answer, Err(Error::Format(_))), "{answer:?}");
    }

    #[test]
    fn a_completion_prompt_is_one_message_that_stops_at_the_end_of_the_line() {
        let server = server(completion(" tomato broth"));
        let answer = remote(&server.address, PromptStyle::FewShot).rewrite(&queries(1), Deadline::NONE).remove(0);
        assert_eq!(answer.unwrap(), Rewrite::plain("tomato broth"));
        let body: Value = serde_json::from_str(&server.seen()[0].body).unwrap();
        assert_eq!(body["stop"], json!(["\n"]));
        assert!(body["messages"][0]["content"].as_str().unwrap().ends_with("Request: soup 0\nSearch:"));
    }

    #[test]
    fn candidates_stand_in_the_prompt_of_a_server_and_without_their_source_each_query_says_so() {
        let server = server(completion("tomato broth"));
        let prompt = PromptConfig { style: PromptStyle::Chat, candidates: 2, ..PromptConfig::default() };
        let url = format!("{}/v1", server.address);
        let config = RemoteConfig { url, model: "m".into(), prompt, ..RemoteConfig::default() };
        let remote = || Remote::new(config.clone(), &card()).unwrap();
        let error = remote().rewrite(&queries(1), Deadline::NONE).remove(0).unwrap_err();
        assert!(error.to_string().starts_with("prompt.candidates: 2"), "{error}");
        let words = |_: &Query| Ok(["broth", "<|im_end|>", "never"].map(str::to_owned).to_vec());
        let prompter = Prompter::new(config.prompt.clone(), &card()).unwrap().with_candidates(Arc::new(words));
        let remote = remote().with_prompter(prompter);
        assert!(remote.rewrite(&queries(1), Deadline::NONE).remove(0).is_ok());
        let body: Value = serde_json::from_str(&server.seen()[0].body).unwrap();
        let said = &body["messages"].as_array().unwrap().last().unwrap()["content"];
        assert_eq!(said, "Request: soup 0\nWords: broth, < |im_end|>");
    }

    #[test]
    fn each_failure_has_its_kind() {
        let kind =
            |url: &str, style| match remote(url, style).rewrite(&queries(1), Deadline::NONE).remove(0).unwrap_err() {
                Error::Fault(fault) => (fault.kind, fault.detail),
                other => panic!("{other}"),
            };
        let (found, detail) = kind(&server(Response::status(503, "overloaded")).address, PromptStyle::Chat);
        assert!(found == FaultKind::Network && detail.contains("503") && detail.contains("overloaded"), "{detail}");
        assert_eq!(kind(&server(Response::ok("<html>")).address, PromptStyle::Chat).0, FaultKind::Parse);
        assert_eq!(kind(&server(Response::ok("{\"choices\": []}")).address, PromptStyle::Chat).0, FaultKind::Parse);
        assert_eq!(kind("http://127.0.0.1:1", PromptStyle::Chat).0, FaultKind::Network);
        let empty =
            remote(&server(completion("  ")).address, PromptStyle::Chat).rewrite(&queries(1), Deadline::NONE).remove(0);
        assert!(matches!(empty, Err(Error::Format(_))));
    }

    #[test]
    fn a_slow_server_does_not_outlast_the_deadline() {
        let server = server(Response { delay: Duration::from_secs(3), ..completion("late") });
        let remote = remote(&server.address, PromptStyle::Chat);
        let start = Instant::now();
        let answers = remote.rewrite(&queries(6), Deadline::after(Duration::from_millis(200)));
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert!(answers.len() == 6 && answers.iter().all(|a| matches!(a, Err(Error::Deadline(_)))), "{answers:?}");
    }

    #[test]
    fn a_key_that_cannot_be_used_is_named_with_its_section() {
        let good =
            || RemoteConfig { url: "http://localhost:1/v1".into(), model: "m".into(), ..RemoteConfig::default() };
        let error = |config: RemoteConfig| Remote::new(config, &card()).err().unwrap().to_string();
        let message = error(RemoteConfig { url: "localhost:1".into(), ..good() });
        assert!(message.starts_with("remote.url: ") && message.contains("http://HOST:PORT/v1"), "{message}");
        assert!(error(RemoteConfig { model: String::new(), ..good() }).starts_with("remote.model: "));
        assert!(error(RemoteConfig { parallel: 0, ..good() }).starts_with("remote.parallel: 0"));
        assert!(error(RemoteConfig { max_tokens: 0, ..good() }).starts_with("remote.max_tokens: 0"));
        assert!(error(RemoteConfig { timeout_seconds: f64::NAN, ..good() }).starts_with("remote.timeout_seconds: NaN"));
        let unset = Some("QUERYWRIGHT_TEST_UNSET_KEY".to_owned());
        assert!(error(RemoteConfig { api_key_env: unset, ..good() }).starts_with("remote.api_key_env: "));
        let prompt = PromptConfig { vocabulary: crate::Vocabulary::Catalog, ..PromptConfig::default() };
        assert!(error(RemoteConfig { prompt, ..good() }).starts_with("prompt.vocabulary: Catalog"));
        assert!(Remote::new(good(), &card()).is_ok());
    }
}
