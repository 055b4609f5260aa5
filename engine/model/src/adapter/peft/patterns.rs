//! `rank_pattern` and `alpha_pattern`: ranks and scales of single modules, by regular expressions over their paths.

use regex::{Regex, RegexBuilder};
use serde_json::Value;

/// Expressions of one configuration, at most; plain names are not counted.
const MOST_EXPRESSIONS: usize = 1_000;
/// Bytes of a compiled expression, at most.
const MOST_BYTES: usize = 1 << 18;

/// Values by the modules that they are of, in the order of the file: the first one that matches counts, as in PEFT.
#[derive(Debug, Default)]
pub(super) struct Patterns(Vec<(Pattern, f64)>);

#[derive(Debug)]
enum Pattern {
    /// Letters, digits, underscores, and dots, which match anything, as they do in an expression.
    Name(String),
    Expression(Regex),
}

impl Patterns {
    /// Reads an object of numbers; otherwise says why it is none.
    pub(super) fn parse(value: &Value) -> Result<Self, String> {
        let items = match value {
            Value::Null => return Ok(Self::default()),
            Value::Object(items) => items,
            other => return Err(format!("is {other} where an object of numbers belongs")),
        };
        let mut patterns = Vec::with_capacity(items.len());
        for (key, value) in items {
            let number = value.as_f64().ok_or_else(|| format!("has {value} for {key:?}, which is no number"))?;
            patterns.push((Pattern::parse(key)?, number));
        }
        if patterns.iter().filter(|(pattern, _)| matches!(pattern, Pattern::Expression(_))).count() > MOST_EXPRESSIONS {
            return Err(format!("has more than {MOST_EXPRESSIONS} regular expressions"));
        }
        Ok(Self(patterns))
    }

    /// The value of a module.
    pub(super) fn of(&self, module: &str) -> Option<f64> {
        self.0.iter().find(|(pattern, _)| pattern.matches(module)).map(|(_, value)| *value)
    }

    /// All values.
    pub(super) fn values(&self) -> impl Iterator<Item = f64> {
        self.0.iter().map(|(_, value)| *value)
    }
}

impl Pattern {
    fn parse(key: &str) -> Result<Self, String> {
        if key.bytes().all(|c| c.is_ascii_alphanumeric() || b"_.".contains(&c)) {
            return Ok(Self::Name(key.to_owned()));
        }
        // PEFT's `re.match(rf"(.*\.)?({key})$", module)`.
        let expression = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{key})$")).size_limit(MOST_BYTES).build();
        expression.map(Self::Expression).map_err(|_| format!("has the expression {key:?}, which cannot be read"))
    }

    fn matches(&self, module: &str) -> bool {
        match self {
            Self::Expression(expression) => expression.is_match(module),
            Self::Name(name) => module.len().checked_sub(name.len()).is_some_and(|start| {
                let (before, end) = module.as_bytes().split_at(start);
                (before.is_empty() || before.ends_with(b"."))
                    && end.iter().zip(name.bytes()).all(|(module, name)| name == b'.' || *module == name)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pattern_that_matches_the_end_of_a_path_counts() {
        let patterns = Patterns::parse(&serde_json::json!({
            "model.layers.0.self_attn.q_proj": 1, "^model\\.layers\\.[12]\\..*k_proj": 2, "q_proj": 3, "k.proj": 4,
            "(gate|up)_proj": 5, "mlp.(?:down)_proj": 6, "roj": 7
        }));
        let patterns = patterns.unwrap();
        for (module, value) in [
            ("layers.0.self_attn.q_proj", Some(1.0)),
            ("layers.10.self_attn.q_proj", Some(3.0)),
            ("layers.1.self_attn.k_proj", Some(2.0)),
            ("layers.3.self_attn.k_proj", Some(4.0)),
            ("layers.3.mlp.up_proj", Some(5.0)),
            ("layers.3.mlp.down_proj", Some(6.0)),
            ("layers.3.self_attn.o_proj", None),
        ] {
            assert_eq!(patterns.of(&format!("model.{module}")), value, "{module}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_said() {
        for (value, said) in [
            (serde_json::json!(4), "is 4"),
            (serde_json::json!({"q_proj": "8"}), "\"8\" for \"q_proj\""),
            (serde_json::json!({"(q": 8}), "cannot be read"),
            (serde_json::json!({"(?=q)q_proj": 8}), "cannot be read"),
            (serde_json::json!({"((a{1000}){1000}){1000}": 8}), "cannot be read"),
        ] {
            assert!(Patterns::parse(&value).unwrap_err().contains(said), "{value}");
        }
    }
}
