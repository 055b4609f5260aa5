//! Arbitrary text as a chat template: rendered or refused, soon and in little memory. Seeds: the templates of
//! tests/golden/chat-jinja2.json, and tests/golden/tiny-qwen3/chat_template.jinja.
#![no_main]

use libfuzzer_sys::fuzz_target;
use querywright::model::{ChatTemplate, Message};

fuzz_target!(|text: &str| {
    if let Ok(template) = ChatTemplate::new(text, "<s>", "</s>") {
        let messages = [
            Message::new("system", "Be brief."),
            Message::new("user", "tea pot"),
            Message::new("assistant", "<think>x</think> y"),
        ];
        drop(template.render(&messages, true));
    }
});
