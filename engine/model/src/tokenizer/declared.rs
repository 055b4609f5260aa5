//! What a model declares beside the vocabulary.

use std::path::Path;

use serde_json::Value;

use super::load::bounded;
use crate::foreign::{not_json, without_mark};
use querywright_template::TemplateError;
use querywright_types::{Error, Result};

/// Bytes of a configuration or of a chat template, at most. A configuration with a template of its own has 60 KB, and
/// one that lists many added tokens 8 MB.
const MAX_BYTES: u64 = 64 << 20;

/// What a model declares beside the vocabulary.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    pub(crate) bos: Option<u32>,
    /// End tokens; the first is the one that templates know as `eos_token`.
    pub(crate) eos: Vec<u32>,
    pub(crate) pad: Option<u32>,
    /// Why it cannot be read, where that is so: it is said to who asks for a conversation.
    pub(crate) chat_template: Option<std::result::Result<String, TemplateError>>,
}

impl Declared {
    /// What the files beside a `tokenizer.json` declare.
    pub(super) fn beside(path: &Path, tokenizer: &tokenizers::Tokenizer) -> Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let settings = read_json(&folder.join("tokenizer_config.json"))?;
        // A token is written as its text, or as an object that holds it.
        let token = |key: &str| {
            let value = settings.get(key)?;
            tokenizer.token_to_id(value.as_str().or_else(|| value.get("content")?.as_str())?)
        };
        let mut eos: Vec<u32> = token("eos_token").into_iter().collect();
        for file in ["generation_config.json", "config.json"] {
            let json = read_json(&folder.join(file))?;
            let ids = match json.get("eos_token_id") {
                Some(Value::Array(ids)) => ids.as_slice(),
                Some(id) => std::slice::from_ref(id),
                None => continue,
            };
            for id in ids {
                match id {
                    Value::Null => {}
                    Value::Number(number) if number.is_i64() || number.is_u64() => {
                        // Minus one is no token.
                        eos.extend(number.as_u64().and_then(|id| u32::try_from(id).ok()));
                    }
                    other => {
                        let found = format!("eos_token_id holds {other}");
                        let remedy = "it must be a whole number or a list of them; fetch the file again";
                        return Err(Error::model(folder.join(file), found, remedy));
                    }
                }
            }
            break;
        }
        let template = folder.join("chat_template.jinja");
        let chat_template = if template.is_file() {
            // What is no UTF-8 is no template that could be rendered, and a few-shot prompt needs none.
            let text = bounded(&template, MAX_BYTES).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            Some(text.map_err(|error| TemplateError::new(error.to_string())))
        } else {
            settings.get("chat_template").and_then(template_text).map(Ok)
        };
        Ok(Self { bos: token("bos_token"), eos, pad: token("pad_token"), chat_template })
    }
}

/// One template, or the one named "default" of several.
pub(super) fn template_text(value: &Value) -> Option<String> {
    let named =
        |v: &Value| Some((v.get("name")?.as_str()? == "default").then(|| v.get("template"))??.as_str()?.to_owned());
    let of_list = || value.as_array()?.iter().find_map(named);
    value.as_str().or_else(|| value.get("default")?.as_str()).map(str::to_owned).or_else(of_list)
}

/// A JSON file; null when it does not exist.
fn read_json(path: &Path) -> Result<Value> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    let bytes = bounded(path, MAX_BYTES)?;
    let bytes = without_mark(&bytes);
    serde_json::from_slice(bytes).map_err(|e| not_json(path, bytes, e))
}
