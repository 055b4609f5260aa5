//! What chat templates use of Python and of transformers' own environment.

mod clock;
mod json;
mod methods;

use std::sync::Arc;
use std::time::SystemTime;

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Value};

use crate::limits::Budget;

/// Puts Python's methods and transformers' functions, filter and test into an environment.
pub(crate) fn install(environment: &mut Environment<'static>, budget: &Arc<Budget>) {
    let b = Arc::clone(budget);
    environment.set_unknown_method_callback(move |state, value, name, arguments| {
        methods::call(&b, state, value, name, arguments)
    });
    let b = Arc::clone(budget);
    environment.add_filter("tojson", json::filter(b));
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |form: String| clock::strftime(&form, SystemTime::now()));
    // Python has no items in none, and takes a text for a sequence.
    environment.add_test("iterable", |value: &Value| {
        !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Plain)
    });
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::String | ValueKind::Map)
    });
    // Functions are plain objects; a class or a bound method cannot be a value here.
    environment.add_test("callable", |value: &Value| {
        let is_macro = value.as_object().is_some_and(|object| object.type_name().ends_with("::Macro"));
        is_macro || value.kind() == ValueKind::Plain
    });
}

/// Transformers marks the assistant's words with `{% generation %}`; the mark prints nothing and any block will do.
pub(crate) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag, after)) =
        rest.find("{%").and_then(|start| Some((rest.get(..start)?, rest.get(start..)?))).and_then(|(before, tail)| {
            let end = tail.find("%}")? + 2;
            Some((before, tail.get(..end)?, tail.get(end..)?))
        })
    {
        let word = tag.trim_matches(|c: char| "{%-+}".contains(c) || c.is_whitespace());
        out.push_str(before);
        match word {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use minijinja::{Value, context};

    use crate::{Style, Template};

    #[derive(serde::Deserialize)]
    struct Case {
        #[serde(default)]
        name: String,
        template: String,
        messages: Vec<serde_json::Map<String, serde_json::Value>>,
        text: String,
    }

    fn check(golden: &str) -> usize {
        let cases: Vec<Case> = serde_json::from_str(golden).unwrap();
        let mut wrong = Vec::new();
        for case in &cases {
            let name = if case.name.is_empty() { &case.template } else { &case.name };
            let values = context! {
                messages => case.messages,
                tools => Value::from(()),
                documents => Value::from(()),
                add_generation_prompt => true,
                bos_token => "<s>",
                eos_token => "</s>",
            };
            match Template::new("golden", &case.template, Style::Chat).and_then(|t| t.render(&values)) {
                Ok(text) if text == case.text => {}
                Ok(text) => wrong.push(format!("{name}:\n  {text:?}, not\n  {:?}", case.text)),
                Err(e) => wrong.push(format!("{name}: {e}")),
            }
        }
        assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
        cases.len()
    }

    #[test]
    fn what_jinja2_takes_renders_as_jinja2_does() {
        assert!(check(include_str!("../../../tests/golden/chat-jinja2.json")) > 50);
    }
}
