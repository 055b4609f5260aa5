//! What a caller asks of sampling, as OpenAI and vLLM name it.

use serde::Deserialize;
use serde_json::Value;

use querywright_model::SamplingConfig;

use crate::error::ApiError;
use crate::events;

/// Completions of a request at most.
const MOST_COMPLETIONS: usize = 16;
/// Below this temperature numbers end, and sampling is greedy anyway.
const COLDEST: f32 = 0.01;
/// Texts that end a completion at most, as with OpenAI, and their bytes.
const MOST_STOPS: (usize, usize) = (4, 256);

/// One text, or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamOptions {
    #[serde(default)]
    pub(super) include_usage: bool,
    #[serde(default)]
    #[expect(dead_code, reason = "padding of events, which a caller may ask for and does not need")]
    include_obfuscation: Option<bool>,
}

/// What is asked for beside the prompt, in both endpoints.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    pub(super) max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    repetition_penalty: Option<f32>,
    pub(super) n: Option<usize>,
    stop: Option<OneOrMany>,
    seed: Option<i64>,
    #[serde(default)]
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,
    /// Everything else: what is known to change nothing here is taken, the rest refused.
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

/// Fields that change nothing: who asks, and what is kept of it.
const IGNORED: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
    "prompt_cache_retention",
];

/// Fields that this server does not have, with the values under which they change nothing.
const ABSENT: [&str; 19] = [
    "verbosity",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "response_format",
    "modalities",
    "audio",
    "prediction",
    "reasoning_effort",
    "web_search_options",
    "suffix",
    "echo",
    "best_of",
];

/// What is asked for, checked.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) sampling: SamplingConfig,
    pub(super) completions: usize,
    pub(super) stop: Vec<String>,
    pub(super) seed: u64,
    /// The first choice's random stream.
    pub(super) stream_number: u64,
    pub(super) stream: bool,
    pub(super) usage: bool,
}

impl Asked {
    /// Checks everything. `longest` is what a completion may have; `default` where the caller says nothing.
    pub(super) fn settings(self, longest: usize, default: usize) -> Result<Settings, ApiError> {
        self.refuse_what_is_absent()?;
        let range =
            |name: &str, value: f32, low: f32, high: f32| match value.is_finite() && value >= low && value <= high {
                true => Ok(value),
                false => Err(ApiError::bad(name, format!("found {value}; give {low} to {high}"))),
            };
        let asked = self.max_completion_tokens.or(self.max_tokens);
        let length = asked.unwrap_or(default.min(longest));
        if length == 0 || length > longest {
            let message = format!("found {length}; 1 to {longest} are allowed");
            return Err(ApiError::bad("max_tokens", message));
        }
        let top_p = range("top_p", self.top_p.unwrap_or(1.0), 0.0, 1.0)?;
        if top_p == 0.0 {
            return Err(ApiError::bad("top_p", "found 0; give more, or temperature 0 for the likeliest tokens"));
        }
        let top_k = match self.top_k.unwrap_or(0) {
            -1 => 0,
            k => {
                usize::try_from(k).map_err(|_| ApiError::bad("top_k", format!("found {k}; give 0 for all, or more")))?
            }
        };
        let temperature = range("temperature", self.temperature.unwrap_or(1.0), 0.0, 2.0)?;
        if temperature > 0.0 && temperature < COLDEST {
            let message = format!("found {temperature}; give 0 for the likeliest tokens, or at least {COLDEST}");
            return Err(ApiError::bad("temperature", message));
        }
        let sampling = SamplingConfig {
            temperature,
            top_p,
            top_k,
            repetition_penalty: range("repetition_penalty", self.repetition_penalty.unwrap_or(1.0), 0.01, 10.0)?,
            max_completion_length: length,
        };
        let completions = self.n.unwrap_or(1);
        if completions == 0 || completions > MOST_COMPLETIONS {
            return Err(ApiError::bad("n", format!("found {completions}; 1 to {MOST_COMPLETIONS} are allowed")));
        }
        let stop: Vec<String> = self.stop.map(OneOrMany::into_vec).unwrap_or_default();
        if stop.len() > MOST_STOPS.0 || stop.iter().any(|text| text.is_empty() || text.len() > MOST_STOPS.1) {
            let message = format!("give at most {} texts of 1 to {} bytes", MOST_STOPS.0, MOST_STOPS.1);
            return Err(ApiError::bad("stop", message));
        }
        let stream = self.stream.unwrap_or(false);
        if self.stream_options.is_some() && !stream {
            return Err(ApiError::bad("stream_options", "it needs stream = true"));
        }
        let usage = self.stream_options.is_some_and(|options| options.include_usage);
        // Without a seed the numbers of random streams are random: requests of one seed can share a pass on any device.
        let (seed, stream_number) = self.seed.map_or_else(|| (0, events::random()), |seed| (seed as u64, 0));
        Ok(Settings { sampling, completions, stop, seed, stream_number, stream, usage })
    }

    fn refuse_what_is_absent(&self) -> Result<(), ApiError> {
        for (name, value) in &self.rest {
            if IGNORED.contains(&name.as_str()) || value.is_null() {
                continue;
            }
            if !ABSENT.contains(&name.as_str()) {
                return Err(ApiError::bad(name, "this field is not known here; leave it out"));
            }
            let changes_nothing = match (name.as_str(), value) {
                ("response_format", format) => format["type"] == "text",
                ("tool_choice" | "function_call", choice) => choice == "none",
                ("best_of", one) => *one == 1,
                // OpenAI's completions have 0 for the sampled tokens alone.
                ("logprobs", Value::Number(_)) => false,
                ("modalities", list) => *list == serde_json::json!(["text"]),
                (_, Value::Bool(on)) => !on,
                (_, Value::Number(number)) => number.as_f64() == Some(0.0),
                (_, Value::Array(list)) => list.is_empty(),
                (_, Value::Object(map)) => map.is_empty(),
                (_, Value::String(text)) => text.is_empty(),
                (_, Value::Null) => true,
            };
            if !changes_nothing {
                return Err(ApiError::bad(name, "this server does not have it; leave it out"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(object: Value) -> Result<Settings, ApiError> {
        serde_json::from_value::<Asked>(object).unwrap().settings(100, 16)
    }

    #[test]
    fn defaults_are_those_of_openai_and_what_is_wrong_is_refused_by_name() {
        let plain = settings(json!({})).unwrap();
        assert_eq!((plain.sampling.temperature, plain.sampling.top_p, plain.completions), (1.0, 1.0, 1));
        assert_eq!((plain.sampling.max_completion_length, plain.stream), (16, false));
        let same = json!({ "logprobs": false, "tools": [], "presence_penalty": 0.0, "user": "x", "stop": "\n",
            "response_format": { "type": "text" }, "best_of": 1, "logit_bias": {}, "suffix": null, "top_k": -1 });
        assert_eq!(settings(same).unwrap().stop, ["\n"]);
        for (name, value) in [
            ("temperature", json!(-0.1)),
            ("temperature", json!(2.5)),
            ("top_p", json!(0.0)),
            ("top_p", json!(1.01)),
            ("top_k", json!(-2)),
            ("n", json!(0)),
            ("n", json!(17)),
            ("max_tokens", json!(0)),
            ("max_tokens", json!(101)),
            ("stop", json!(["a", "b", "c", "d", "e"])),
            ("stop", json!("")),
            ("logprobs", json!(true)),
            ("logprobs", json!(0)),
            ("temperature", json!(1e-39)),
            ("tools", json!([{}])),
            ("response_format", json!({ "type": "json_object" })),
            ("frequency_penalty", json!(0.5)),
            ("best_of", json!(2)),
            ("guided_json", json!({})),
            ("stream_options", json!({ "include_usage": true })),
        ] {
            let error = settings(json!({ name: value })).unwrap_err();
            assert_eq!(error.body()["error"]["param"], name, "{name}");
        }
    }
}
