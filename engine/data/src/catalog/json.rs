//! A line of JSON, with numbers as they are written: `1.50` is a price and `3.10` a version, and neither is `1.5` nor `3.1`.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::lines::quoted;

/// Lists and objects within each other, at most; as many as serde_json reads.
const DEEPEST: usize = 127;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json {
    Null,
    Bool,
    /// As it is written.
    Number(String),
    Text(String),
    List(Vec<Json>),
    /// In the order of the line, each key once.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads a value; if it cannot, it says what was found instead, with the character (counted from 1).
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let raw = serde_json::from_str::<&RawValue>(text).map_err(|error| flaw(text, text, &error))?;
        read(raw, text, 0)
    }

    /// What kind of thing it is.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// It as an id: a text, or a whole number.
    pub(super) fn id(&self) -> Option<&str> {
        match self {
            Self::Text(id) => Some(id),
            Self::Number(id) if !id.contains(['.', 'e', 'E']) => Some(id),
            _ => None,
        }
    }
}

/// Reads a part of a line. Its parts are found before they are read, so that a line is gone through once for each level.
fn read(raw: &RawValue, line: &str, depth: usize) -> Result<Json, String> {
    let text = raw.get();
    let failed = |error: serde_json::Error| flaw(line, text, &error);
    let deeper = |part: &RawValue| match depth < DEEPEST {
        true => read(part, line, depth + 1),
        false => Err(format!("more than {DEEPEST} lists and objects within each other")),
    };
    Ok(match text.as_bytes().first() {
        Some(b'n') => Json::Null,
        Some(b't' | b'f') => Json::Bool,
        Some(b'"') => Json::Text(serde_json::from_str(text).map_err(failed)?),
        Some(b'[') => {
            let parts: Vec<&RawValue> = serde_json::from_str(text).map_err(failed)?;
            Json::List(parts.into_iter().map(deeper).collect::<Result<_, _>>()?)
        }
        Some(b'{') => {
            let parts: Parts<'_> = serde_json::from_str(text).map_err(failed)?;
            let mut keys = HashSet::with_capacity(parts.0.len());
            // Of two values one would be lost.
            if let Some((key, _)) = parts.0.iter().find(|(key, _)| !keys.insert(key.as_str())) {
                return Err(format!("the key {} stands twice", quoted(key)));
            }
            let value = |(key, part)| Ok((key, deeper(part)?));
            Json::Object(parts.0.into_iter().map(value).collect::<Result<_, String>>()?)
        }
        _ => Json::Number(text.to_owned()),
    })
}

fn flaw(line: &str, part: &str, error: &serde_json::Error) -> String {
    let before = (part.as_ptr() as usize).saturating_sub(line.as_ptr() as usize);
    // serde_json adds "at line 1 column …"; the line is named already.
    let message = error.to_string();
    format!(
        "not JSON at character {}: {}",
        before + error.column(),
        message.split(" at line ").next().unwrap_or_default()
    )
}

/// The parts of an object, none of which is read yet.
struct Parts<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Parts<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Parts<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = map.next_entry()? {
                    parts.push(part);
                }
                Ok(Parts(parts))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Json {
        Json::Number(text.to_owned())
    }

    #[test]
    fn numbers_are_what_is_written() {
        for text in ["1.50", "3.10", "1e3", "-0", "12345678901234567890123", "0.1000", "1E-7"] {
            assert_eq!(Json::parse(text), Ok(number(text)));
        }
        let nested = Json::parse(r#" {"a": [1.0, {"b": 2.50}], "c": "x\u00e9"} "#).unwrap();
        let inner = Json::Object(vec![("b".to_owned(), number("2.50"))]);
        let list = Json::List(vec![number("1.0"), inner]);
        assert_eq!(nested, Json::Object(vec![("a".to_owned(), list), ("c".to_owned(), Json::Text("xé".to_owned()))]));
    }

    #[test]
    fn ids_are_texts_and_whole_numbers_of_any_length() {
        let id = |text: &str| Json::parse(text).unwrap().id().map(str::to_owned);
        assert_eq!(id("12345678901234567890123").as_deref(), Some("12345678901234567890123"));
        assert_eq!(id("\"1.0\"").as_deref(), Some("1.0"));
        assert_eq!([id("1.0"), id("1e2"), id("true"), id("[1]")], [const { None }; 4]);
    }

    #[test]
    fn what_cannot_be_read_is_said_with_its_place_in_the_line() {
        for (text, said) in [
            (r#"{"a": 1, "a": 2}"#, "the key \"a\" stands twice"),
            (r#"{"x": [{"a": 1, "b": 0, "a": 2}]}"#, "the key \"a\" stands twice"),
            (r#"{"a": 01}"#, "not JSON at character 8: invalid number"),
            (r#"{"a": NaN}"#, "not JSON at character 7: expected value"),
            (r#"{"a": ["x", "\ud800"]}"#, "hex escape"),
            (r#"{"a": 1} {"a": 2}"#, "not JSON at character 10: trailing characters"),
            ("", "EOF"),
        ] {
            let flaw = Json::parse(text).unwrap_err();
            assert!(flaw.contains(said), "{text}: {flaw}");
        }
    }

    #[test]
    fn a_tower_of_brackets_is_refused() {
        let tower = |height: usize| "[".repeat(height) + &"]".repeat(height);
        assert!(Json::parse(&tower(100)).is_ok());
        for height in [200, 100_000] {
            assert!(Json::parse(&tower(height)).is_err(), "{height}");
        }
    }
}
