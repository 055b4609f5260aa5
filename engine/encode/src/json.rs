//! The small JSON files of a model's folder: a key of the wrong type is refused with the file's name.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use querywright_types::{Error, Result};

/// Bytes of a file, at most. A configuration has kilobytes; a `tokenizer_config.json` that lists many tokens has 8 MB.
const MAX_BYTES: u64 = 64 << 20;

/// An object in a file, or one within it.
#[derive(Debug)]
pub(crate) struct Json {
    path: PathBuf,
    /// The keys that lead to it, as `sparse.`; empty for the file itself.
    within: String,
    object: Map<String, Value>,
}

impl Json {
    /// Reads a file; none where there is no such file.
    pub(crate) fn optional(path: &Path) -> Result<Option<Self>> {
        match text_of(path)? {
            None => Ok(None),
            Some(text) => match parsed(path, &text)? {
                Value::Object(object) => Ok(Some(Self { path: path.to_owned(), within: String::new(), object })),
                _ => Err(Error::model(path, "no JSON object", "fetch the model again")),
            },
        }
    }

    /// Reads a file that must be there.
    pub(crate) fn required(path: &Path) -> Result<Self> {
        let missing = || match path.with_file_name("adapter_config.json").is_file() {
            true => {
                let folder = path.parent().unwrap_or(path);
                let remedy = "name an encoder, as all-minilm-l6-v2, or a sentence encoder's folder";
                Error::model(folder, "an adapter of a language model, not an encoder", remedy)
            }
            false => Error::model(path, "it is missing", "fetch it into the model's folder"),
        };
        Self::optional(path)?.ok_or_else(missing)
    }

    /// Reads a file that holds a list of objects; none where there is no such file.
    pub(crate) fn list(path: &Path) -> Result<Option<Vec<Self>>> {
        let Some(text) = text_of(path)? else { return Ok(None) };
        let wrong = || Error::model(path, "no list of JSON objects", "fetch the model again");
        let Value::Array(items) = parsed(path, &text)? else { return Err(wrong()) };
        let object = |(at, item)| match item {
            Value::Object(object) => Ok(Self { path: path.to_owned(), within: format!("[{at}]."), object }),
            _ => Err(wrong()),
        };
        items.into_iter().enumerate().map(object).collect::<Result<_>>().map(Some)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The value of a key; none where it is absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// All keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &String> {
        self.object.keys()
    }

    /// Whether a key is there and null.
    pub(crate) fn is_null(&self, key: &str) -> bool {
        self.object.get(key).is_some_and(Value::is_null)
    }

    /// A whole number.
    pub(crate) fn whole(&self, key: &str) -> Result<Option<usize>> {
        let read = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
        self.typed(key, "a whole number", read)
    }

    /// A whole number that must be there.
    pub(crate) fn need(&self, key: &str) -> Result<usize> {
        self.whole(key)?.ok_or_else(|| {
            let found = format!("{}{key} is missing", self.within);
            Error::model(&self.path, found, "fetch the model again")
        })
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a text", Value::as_str)
    }

    /// An object.
    pub(crate) fn section(&self, key: &str) -> Result<Option<Self>> {
        let section = self.typed(key, "an object", Value::as_object)?;
        let within = format!("{}{key}.", self.within);
        Ok(section.map(|object| Self { path: self.path.clone(), within, object: object.clone() }))
    }

    fn typed<'j, T>(&'j self, key: &str, right: &str, read: impl Fn(&'j Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::model(
                &self.path,
                format!("{}{key} is {}", self.within, shown(value)),
                format!("it must be {right}; fetch the model again"),
            )),
        }
    }

    /// The refusal of a key's value.
    pub(crate) fn refused(&self, key: &str, remedy: impl Into<String>) -> Error {
        let value = self.object.get(key).map_or_else(|| "absent".to_owned(), shown);
        Error::model(&self.path, format!("{}{key} is {value}", self.within), remedy)
    }

    /// Whether a key says something: it is there and neither null, false, zero nor empty.
    pub(crate) fn says(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| match value {
            Value::Bool(yes) => *yes,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(items) => !items.is_empty(),
            Value::Null => false,
        })
    }
}

fn text_of(path: &Path) -> Result<Option<String>> {
    let length = match std::fs::metadata(path) {
        Ok(found) => found.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::read(path, e)),
    };
    if length > MAX_BYTES {
        let found = format!("{length} bytes where at most {MAX_BYTES} are read");
        return Err(Error::model(path, found, "this is another file under that name; fetch it again"));
    }
    let bytes = std::fs::read(path).map_err(|e| Error::read(path, e))?;
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| Error::model(path, "no text in UTF-8", "save the file as UTF-8"))
}

fn parsed(path: &Path, text: &str) -> Result<Value> {
    serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|e| Error::model(path, format!("not valid JSON ({e})"), "fetch the model again"))
}

/// A value as messages show it; a long one is cut.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
