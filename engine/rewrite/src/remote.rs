//! A language model behind an OpenAI-compatible `chat/completions` address: a local server or a hosted one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::prompt::{Prompt, PromptConfig, Prompter, Titles};
use crate::error::{Error, Fault, FaultKind, Result};
use crate::model::Message;
use crate::types::{Deadline, Query, RetrieverCard, Rewrite, Rewriter};

/// At most so many characters of a server's complaint go into an error.
const COMPLAINT_CHARS: usize = 300;
/// An answer larger than this is refused.
const LARGEST_ANSWER: u64 = 4 << 20;

/// How to reach and ask the model. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RemoteConfig {
    /// The address up to `/v1`: `http://localhost:8000/v1`.
    pub url: String,
    /// The model's name on the server.
    pub model: String,
    /// The environment variable that holds the key. Default: none, for servers that want no key.
    pub api_key_env: Option<String>,
    /// Sampling temperature. Default: 0.
    pub temperature: f32,
    /// New tokens at most. Default: 64; reasoning needs more.
    pub max_tokens: usize,
    /// Requests under way at a time. Default: 4.
    pub parallel: usize,
    /// Seconds that one request may take where the deadline leaves more. Default: 60.
    pub timeout_seconds: f64,
    /// How prompts are made and answers used.
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

/// The rewriter that asks a remote model.
pub struct Remote {
    name: String,
    config: RemoteConfig,
    key: Option<String>,
    timeout: Duration,
    prompter: Prompter,
    agent: ureq::Agent,
}

impl Remote {
    /// Checks the configuration; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Argument`] names the key that cannot be used.
    pub fn new(config: RemoteConfig, card: &RetrieverCard) -> Result<Self> {
        if !config.url.starts_with("http://") && !config.url.starts_with("https://") {
            return Err(Error::argument(
                "url",
                format!("{:?}", config.url),
                "give http://HOST:PORT/v1 or https://HOST/v1",
            ));
        }
        if config.model.is_empty() {
            return Err(Error::argument("model", "empty", "give the name that the server knows the model by"));
        }
        if config.parallel == 0 || config.max_tokens == 0 {
            return Err(Error::argument("parallel, max_tokens", "0", "give at least 1 of each"));
        }
        let timeout = Duration::try_from_secs_f64(config.timeout_seconds).ok().filter(|timeout| !timeout.is_zero());
        let timeout = timeout.ok_or_else(|| {
            Error::argument("timeout_seconds", config.timeout_seconds.to_string(), "give a number of seconds above 0")
        })?;
        let key = match &config.api_key_env {
            None => None,
            Some(name) => Some(std::env::var(name).map_err(|_| {
                Error::argument(
                    "api_key_env",
                    format!("the variable {name} is not set"),
                    "export it, or leave the key out",
                )
            })?),
        };
        let prompter = Prompter::new(config.prompt.clone(), card)?;
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("querywright/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Ok(Self { name: format!("remote:{}", config.model), config, key, timeout, prompter, agent })
    }

    /// With the titles of items, which the history of a query needs.
    pub fn with_titles(mut self, titles: Titles) -> Self {
        self.prompter = self.prompter.with_titles(titles);
        self
    }

    fn ask(&self, query: &Query, deadline: Deadline) -> Result<Rewrite> {
        deadline.check()?;
        let (messages, raw_text) = match self.prompter.prompt(query)? {
            Prompt::Completion { prefix, query } => (vec![Message::new("user", prefix + &query)], true),
            Prompt::Chat { messages } => (messages, false),
        };
        let mut body = Map::new();
        body.insert("model".into(), json!(self.config.model));
        body.insert("messages".into(), json!(messages));
        body.insert("temperature".into(), json!(self.config.temperature));
        body.insert("max_tokens".into(), json!(self.config.max_tokens));
        if raw_text {
            body.insert("stop".into(), json!(self.prompter.stop_strings()));
        }
        let completion = self.post(&Value::from(body), deadline)?;
        self.prompter.rewrite(query, &completion)
    }

    /// Sends a request; the text of the first choice.
    fn post(&self, body: &Value, deadline: Deadline) -> Result<String> {
        let url = format!("{}/chat/completions", self.config.url.trim_end_matches('/'));
        // The client takes a zero for "no limit".
        let left = deadline.left().map_or(self.timeout, |left| left.min(self.timeout)).max(Duration::from_millis(1));
        let mut request = self.agent.post(&url).header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let answer = request.config().timeout_global(Some(left)).build().send(body.to_string().as_bytes());
        let mut answer = answer.map_err(|e| self.broken_off(&e, deadline))?;
        let text = answer.body_mut().with_config().limit(LARGEST_ANSWER).read_to_vec();
        let text = text.map_err(|e| self.broken_off(&e, deadline))?;
        if !answer.status().is_success() {
            let said: String = String::from_utf8_lossy(&text).chars().take(COMPLAINT_CHARS).collect();
            return Err(self.fault(FaultKind::Network, format!("{url} answered {}: {said}", answer.status())));
        }
        first_choice(&text).map_err(|found| self.fault(FaultKind::Parse, format!("{url}: {found}")))
    }

    fn broken_off(&self, error: &ureq::Error, deadline: Deadline) -> Error {
        if let Err(late) = deadline.check() {
            return late;
        }
        let kind = match error {
            ureq::Error::Timeout(_) => FaultKind::Timeout,
            _ => FaultKind::Network,
        };
        self.fault(kind, format!("{}: {error}", self.config.url))
    }

    fn fault(&self, kind: FaultKind, detail: String) -> Error {
        Error::Fault(Fault { retriever: self.name.clone(), kind, detail })
    }
}

impl Rewriter for Remote {
    fn name(&self) -> &str {
        &self.name
    }

    fn rewrite(&self, queries: &[Query], deadline: Deadline) -> Vec<Result<Rewrite>> {
        let next = AtomicUsize::new(0);
        let answers: Mutex<Vec<(usize, Result<Rewrite>)>> = Mutex::new(Vec::with_capacity(queries.len()));
        std::thread::scope(|scope| {
            for _ in 0..self.config.parallel.min(queries.len()) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(query) = queries.get(index) else { return };
                        let answer = self.ask(query, deadline);
                        answers.lock().unwrap_or_else(PoisonError::into_inner).push((index, answer));
                    }
                });
            }
        });
        let mut answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        answers.sort_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }
}

/// The text of the first choice of an answer.
fn first_choice(answer: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Answer {
        choices: Vec<Choice>,
    }
    #[derive(Deserialize)]
    struct Choice {
        message: Said,
    }
    #[derive(Deserialize)]
    struct Said {
        content: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(answer).map_err(|e| format!("not a chat completion: {e}"))?;
    let first = answer.choices.into_iter().next().ok_or("a chat completion without choices")?;
    Ok(first.message.content.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_server::{Answer, FakeServer};
    use crate::rewrite::compose::Mode;
    use crate::rewrite::prompt::PromptStyle;
    use crate::types::QueryLanguage;
    use std::time::Instant;

    fn card() -> RetrieverCard {
        RetrieverCard {
            name: "bm25".into(),
            version: "1".into(),
            digest: "d".into(),
            languages: vec![QueryLanguage::Plain],
            fields: Vec::new(),
            reads_history: false,
            content: "recipes".into(),
        }
    }

    fn remote(url: &str, style: PromptStyle) -> Remote {
        let prompt = PromptConfig { style, mode: Mode::Rewrite, ..PromptConfig::default() };
        let config = RemoteConfig { url: format!("{url}/v1"), model: "m".into(), prompt, ..RemoteConfig::default() };
        Remote::new(config, &card()).unwrap()
    }

    fn server(answer: Answer) -> FakeServer {
        FakeServer::start([("/v1/chat/completions".to_owned(), answer)].into())
    }

    fn said(content: &str) -> Answer {
        Answer::ok(json!({"choices": [{"message": {"role": "assistant", "content": content}}]}).to_string())
    }

    fn queries(n: usize) -> Vec<Query> {
        (0..n).map(|i| Query::text(format!("soup {i}"))).collect()
    }

    #[test]
    fn each_query_is_asked_for_and_answered() {
        let server = server(said("tomato broth\n"));
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
    fn a_completion_prompt_is_one_message_that_stops_at_the_line() {
        let server = server(said(" tomato broth"));
        let answer = remote(&server.address, PromptStyle::FewShot).rewrite(&queries(1), Deadline::NONE).remove(0);
        assert_eq!(answer.unwrap(), Rewrite::plain("tomato broth"));
        let body: Value = serde_json::from_str(&server.seen()[0].body).unwrap();
        assert_eq!(body["stop"], json!(["\n"]));
        assert!(body["messages"][0]["content"].as_str().unwrap().ends_with("Request: soup 0\nSearch:"));
    }

    #[test]
    fn what_goes_wrong_is_named_by_kind() {
        let kind =
            |url: &str, style| match remote(url, style).rewrite(&queries(1), Deadline::NONE).remove(0).unwrap_err() {
                Error::Fault(fault) => (fault.kind, fault.detail),
                other => panic!("{other}"),
            };
        let (found, detail) = kind(&server(Answer::status(503, "overloaded")).address, PromptStyle::Chat);
        assert!(found == FaultKind::Network && detail.contains("503") && detail.contains("overloaded"), "{detail}");
        assert_eq!(kind(&server(Answer::ok("<html>")).address, PromptStyle::Chat).0, FaultKind::Parse);
        assert_eq!(kind(&server(Answer::ok("{\"choices\": []}")).address, PromptStyle::Chat).0, FaultKind::Parse);
        assert_eq!(kind("http://127.0.0.1:1", PromptStyle::Chat).0, FaultKind::Network);
        let empty =
            remote(&server(said("  ")).address, PromptStyle::Chat).rewrite(&queries(1), Deadline::NONE).remove(0);
        assert!(matches!(empty, Err(Error::Format(_))));
    }

    #[test]
    fn a_slow_server_does_not_outlast_the_deadline() {
        let server = server(Answer { delay: Duration::from_secs(3), ..said("late") });
        let remote = remote(&server.address, PromptStyle::Chat);
        let start = Instant::now();
        let answers = remote.rewrite(&queries(6), Deadline::after(Duration::from_millis(200)));
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert!(answers.len() == 6 && answers.iter().all(|a| matches!(a, Err(Error::Deadline(_)))), "{answers:?}");
    }

    #[test]
    fn an_address_without_a_scheme_is_refused() {
        let config = RemoteConfig { url: "localhost:1".into(), model: "m".into(), ..RemoteConfig::default() };
        assert!(Remote::new(config, &card()).err().unwrap().to_string().contains("http://HOST:PORT/v1"));
    }
}
