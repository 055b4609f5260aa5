//! Chat templates: the Jinja text that a model ships with, rendered as transformers renders it.
//!
//! What a template may say and do is in [`querywright_template`]. Tools and documents are always absent.

use minijinja::{Value, context};

use super::tokenizer::Tokenizer;
use querywright_template::marks::{is_mark, marked, unmarked};
use querywright_template::{Style, Template, TemplateError};
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

/// A model's chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    /// Or why it cannot be used.
    template: std::result::Result<Template, TemplateError>,
    source: Option<String>,
    bos: String,
    eos: String,
    pad: String,
}

impl ChatTemplate {
    /// Parses a template; `bos` and `eos` are the texts of `bos_token` and `eos_token` in it.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the line when the template does not parse.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        let chat = Self::kept(Ok(source.to_owned()), bos, eos, "");
        match &chat.template {
            Ok(_) => Ok(chat),
            Err(error) => Err(unusable(error)),
        }
    }

    /// As [`new`](Self::new), but why the template cannot be read, or what is wrong with it, is kept until it is rendered: prompts that are no
    /// conversations need none.
    pub(super) fn kept(source: std::result::Result<String, TemplateError>, bos: &str, eos: &str, pad: &str) -> Self {
        let template = source.clone().and_then(|source| Template::new("chat_template", source, Style::Chat));
        Self { template, source: source.ok(), bos: bos.to_owned(), eos: eos.to_owned(), pad: pad.to_owned() }
    }

    /// The template as it was given; none where it could not be read.
    pub(super) fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// The conversation as the model reads it. With `add_generation_prompt` the assistant's turn is opened at the end.
    ///
    /// # Errors
    /// [`Error::Argument`] when the template does not parse, exceeds what a template may take, or refuses the
    /// conversation (roles that must alternate, say).
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let template = self.template.as_ref().map_err(unusable)?;
        // A token that a model does not have is a name without a value.
        let token = |text: &str| if text.is_empty() { Value::UNDEFINED } else { Value::from(text) };
        let values = context! {
            messages,
            add_generation_prompt,
            bos_token => token(&self.bos),
            eos_token => token(&self.eos),
            pad_token => token(&self.pad),
            tools => Value::from(()),
            documents => Value::from(()),
        };
        template
            .render(&values)
            .map_err(|e| Error::argument("messages", e.to_string(), "change the conversation, or use no chat format"))
    }
}

impl Tokenizer {
    /// The ids of a conversation as the model's chat template renders it, with the assistant's turn opened at the end. What
    /// its messages say never becomes a special token, whatever it spells.
    ///
    /// # Errors
    /// [`Error::Argument`] when the model has no chat template, the template refuses the conversation, or it changes a text
    /// that spells a special token; those of [`encode`](Self::encode).
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let Some(template) = self.chat_template() else {
            let remedy = "ask for a completion of a prompt, or take an instruct model";
            return Err(Error::argument("messages", "the model has no chat template", remedy));
        };
        let with = |content: &dyn Fn(String) -> String| -> Vec<Message> {
            let clean = |message: &Message| message.content.replace(is_mark, "");
            messages.iter().map(|m| Message::new(m.role.as_str(), content(clean(m)))).collect()
        };
        let plain_messages = with(&|content| content);
        let plain = template.render(&plain_messages, true)?;
        // A template that refuses marked texts has changed them.
        let (found, theirs) =
            template.render(&with(&|content| marked(&content)), true).map(|text| unmarked(&text)).unwrap_or_default();
        if found == plain {
            return self.encode_with_users(&plain, &theirs, false);
        }
        for Message { content, .. } in &plain_messages {
            if self.has_special(&self.encode(content, false)?) {
                let found = "a message spells a special token, and the model's chat template changes such texts";
                return Err(Error::argument("messages", found, "write it another way"));
            }
        }
        self.encode(&plain, false)
    }
}

fn unusable(error: &TemplateError) -> Error {
    Error::argument("chat_template", error.to_string(), "use no chat format (style = \"few-shot\"), or another model")
}

#[cfg(test)]
mod tests {
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
    fn a_template_that_does_not_parse_is_refused_at_once_or_kept_until_it_is_needed() {
        let message = ChatTemplate::new("{% if %}", "", "").unwrap_err().to_string();
        assert!(message.starts_with("chat_template: "), "{message}");
        let kept = ChatTemplate::kept(Ok("{% if %}".to_owned()), "", "", "");
        assert_eq!(kept.render(&[], true).unwrap_err().to_string(), message);
    }

    #[test]
    fn a_template_that_does_not_end_is_an_error() {
        let endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}";
        let message = render(endless, &[]).unwrap_err().to_string();
        assert!(message.contains("too many steps") && message.contains("use no chat format"), "{message}");
    }

    #[test]
    fn the_user_s_text_is_never_read_as_a_template() {
        let text = render("{{ messages[0].content }}", &[Message::new("user", "{{ bos_token }} <b>")]).unwrap();
        assert_eq!(text, "{{ bos_token }} <b>");
    }
}
