//! The settings of the engine, from the artifact `remote.json`.

use querywright_plugin::Fault;
use querywright_plugin::host::{Header, Method, Request};
use serde_json::Value;

/// The artifact that holds the settings.
pub const SETTINGS: &str = "remote.json";

/// Where the engine is and what it searches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// `http://HOST/INDEX/_search`.
    pub url: String,
    /// Fields to search, each with an optional boost (`title^2`). Empty: the engine's default fields.
    pub fields: Vec<String>,
    /// Headers of every request.
    pub headers: Vec<(String, String)>,
    /// Milliseconds to wait for a response. Default 1,000.
    pub timeout_ms: u32,
}

impl Settings {
    /// Parses the artifact.
    ///
    /// # Errors
    /// [`Fault::Unreadable`], which names the key and what would be right.
    pub fn parse(json: &[u8]) -> Result<Self, Fault> {
        let wrong = |why: &str| Fault::Unreadable(format!("artifact {SETTINGS}: {why}"));
        let Ok(Value::Object(object)) = serde_json::from_slice(json) else {
            return Err(wrong("it is not a JSON object"));
        };
        let mut settings = Self { timeout_ms: 1_000, ..Self::default() };
        for (key, value) in &object {
            match key.as_str() {
                "url" => settings.url = string(value).ok_or_else(|| wrong("url must be a string"))?,
                "fields" => {
                    let fields = value.as_array().and_then(|list| list.iter().map(string).collect());
                    settings.fields = fields.ok_or_else(|| wrong("fields must be a list of strings"))?;
                }
                "headers" => {
                    let named = |(name, value): (&String, &Value)| Some((name.clone(), string(value)?));
                    let headers = value.as_object().and_then(|object| object.iter().map(named).collect());
                    settings.headers = headers.ok_or_else(|| wrong("headers must be an object of strings"))?;
                }
                "timeout_ms" => {
                    let ms = value.as_u64().and_then(|ms| u32::try_from(ms).ok()).filter(|ms| *ms > 0);
                    settings.timeout_ms = ms.ok_or_else(|| wrong("timeout_ms must be a whole number above 0"))?;
                }
                other => {
                    let keys = "the keys are url, fields, headers, timeout_ms";
                    return Err(wrong(&format!("unknown key \"{other}\"; {keys}")));
                }
            }
        }
        if settings.url.is_empty() {
            return Err(wrong("url is missing, such as \"http://localhost:9200/films/_search\""));
        }
        Ok(settings)
    }

    /// A request with this body.
    pub(crate) fn post(&self, body: Vec<u8>) -> Request {
        let header = |(name, value): &(String, String)| Header { name: name.clone(), value: value.clone() };
        let json = Header { name: "Content-Type".into(), value: "application/json".into() };
        let headers = self.headers.iter().map(header).chain([json]).collect();
        Request { method: Method::Post, url: self.url.clone(), headers, body, timeout_ms: self.timeout_ms }
    }
}

fn string(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}
