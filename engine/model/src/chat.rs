//! Chat templates: the Jinja text that a model ships with, rendered as transformers renders it.
//!
//! Real templates call Python's string methods (`.strip()`, `.split()`), `raise_exception`, `strftime_now` and a
//! `tojson` that spaces like Python; all are provided. Whitespace settings are those of transformers (`trim_blocks`,
//! `lstrip_blocks`). Tools and documents are always absent.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind, context};

use querywright_types::{Error, Result};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// Who speaks: "system", "user" or "assistant".
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A chat template that parsed.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Parses a template; `bos` and `eos` are the texts of `bos_token` and `eos_token` in it.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the line when the template does not parse.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| strftime(&format, SystemTime::now()));
        environment.add_filter("tojson", python_json);
        let source = without_generation_tags(source);
        environment.template_from_str(&source).map_err(|e| {
            Error::argument("chat_template", explain(&e), "fetch the model again, or use no chat format")
        })?;
        Ok(Self { environment, source, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// The conversation as the model reads it. With `add_generation_prompt` the assistant's turn is opened at the end.
    ///
    /// # Errors
    /// [`Error::Argument`] when the template refuses the conversation (roles that must alternate, say).
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let values = context! {
            messages,
            add_generation_prompt,
            bos_token => self.bos,
            eos_token => self.eos,
            tools => Value::from(()),
            documents => Value::from(()),
        };
        self.environment
            .render_str(&self.source, values)
            .map_err(|e| Error::argument("messages", explain(&e), "change the conversation, or use no chat format"))
    }
}

fn explain(error: &minijinja::Error) -> String {
    let line = error.line().map_or(String::new(), |l| format!(" (line {l} of the template)"));
    format!("{}{line}", error.detail().map_or_else(|| error.kind().to_string(), str::to_owned))
}

/// Transformers marks the assistant's words with `{% generation %}`; the mark prints nothing and any block will do.
fn without_generation_tags(source: &str) -> String {
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

/// Python's `json.dumps`: a space after each comma and colon, no HTML escapes; `indent` gives one item a line.
fn python_json(value: &Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Python's other options keep their defaults in real templates.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent {
        Some(n) => {
            let indent = " ".repeat(n.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            serde::Serialize::serialize(value, &mut serde_json::Serializer::with_formatter(&mut out, formatter))
        }
        None => {
            serde::Serialize::serialize(value, &mut serde_json::Serializer::with_formatter(&mut out, PythonSpacing))
        }
    };
    let bad = |e: String| minijinja::Error::new(ErrorKind::BadSerialization, e);
    written.map_err(|e| bad(e.to_string()))?;
    String::from_utf8(out).map(Value::from_safe_string).map_err(|e| bad(e.to_string()))
}

struct PythonSpacing;

impl serde_json::ser::Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, w: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(b": ")
    }
}

/// The few directives that templates use, in UTC.
fn strftime(format: &str, now: SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day) = civil_date(seconds / 86_400);
    let name = MONTHS.get(month as usize - 1).copied().unwrap_or_default();
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    [
        ("%Y", format!("{year}")),
        ("%y", format!("{:02}", year % 100)),
        ("%m", format!("{month:02}")),
        ("%d", format!("{day:02}")),
        ("%B", name.to_owned()),
        ("%b", name.chars().take(3).collect()),
        ("%H", format!("{hour:02}")),
        ("%M", format!("{minute:02}")),
        ("%S", format!("{second:02}")),
    ]
    .iter()
    .fold(format.to_owned(), |text, (directive, value)| text.replace(directive, value))
}

/// Year, month and day of a count of days since 1970-01-01 (proleptic Gregorian calendar).
fn civil_date(days: u64) -> (u64, u64, u64) {
    let is_leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String> {
        ChatTemplate::new(source, "<s>", "</s>")?.render(messages, true)
    }

    #[test]
    fn smollm2_renders_as_transformers_does() {
        #[derive(serde::Deserialize)]
        struct Case {
            messages: Vec<Message>,
            add_generation_prompt: bool,
            text: String,
        }
        let golden = include_str!("../../../tests/golden/chat-smollm2.json");
        let template = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
            {{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face' }}\
            {{ '<|im_end|>\n' }}\
            {% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}\
            {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        let template = ChatTemplate::new(template, "<|im_start|>", "<|im_end|>").unwrap();
        let cases: Vec<Case> = serde_json::from_str(golden).unwrap();
        assert_eq!(cases.len(), 10);
        for case in cases {
            assert_eq!(template.render(&case.messages, case.add_generation_prompt).unwrap(), case.text);
        }
    }

    #[test]
    fn idioms_of_real_templates_render_as_transformers_does() {
        #[derive(serde::Deserialize)]
        struct Case {
            template: String,
            messages: Vec<Message>,
            text: String,
        }
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../../tests/golden/chat-idioms.json")).unwrap();
        assert!(cases.len() > 10);
        for case in cases {
            let text = render(&case.template, &case.messages).unwrap_or_else(|e| panic!("{}: {e}", case.template));
            assert_eq!(text, case.text, "{}", case.template);
        }
    }

    #[test]
    fn a_template_that_refuses_says_why() {
        let source = "{% if messages[0].role != 'user' %}\n{{ raise_exception('roles must alternate') }}{% endif %}";
        let message = render(source, &[Message::new("assistant", "x")]).unwrap_err().to_string();
        assert!(message.contains("roles must alternate") && message.contains("line 2"), "{message}");
        assert_eq!(render(source, &[Message::new("user", "x")]).unwrap(), "");
    }

    #[test]
    fn a_template_that_does_not_parse_is_refused_at_once() {
        let message = ChatTemplate::new("{% if %}", "", "").unwrap_err().to_string();
        assert!(message.starts_with("chat_template: "), "{message}");
    }

    #[test]
    fn the_user_s_text_is_never_read_as_a_template() {
        let text = render("{{ messages[0].content }}", &[Message::new("user", "{{ bos_token }} <b>")]).unwrap();
        assert_eq!(text, "{{ bos_token }} <b>");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(strftime("%d %b %Y", at(0)), "01 Jan 1970");
        assert_eq!(strftime("%Y-%m-%d %H:%M:%S", at(951_868_799)), "2000-02-29 23:59:59");
        assert_eq!(strftime("%d %B %y", at(1_735_689_599)), "31 December 24");
    }
}
