//! Prompts: rendered from the retriever's card, the task and a Jinja template.
//!
//! A template defines three macros. The style decides how their texts form a prompt:
//!
//! | macro | renders | few-shot | chat, think-answer |
//! |---|---|---|---|
//! | `instruction()` | the task | the first line | the system message |
//! | `request(query)` | one request, without its answer | the text up to the answer | a user message |
//! | `response(example)` | the answer of an example | the text after it | an assistant message |
//!
//! Examples and the query go through the same `request` macro, so they look alike. All macros see `task`, `mode`,
//! `language`, `candidates` (as in the configuration), `content` and `fields` (from the card), `choices` (the names, in the
//! mode `choose`), `labels` (of the candidates, in the mode `rerank`) and `label` (what the built-in few-shot template has
//! before an answer, with a colon: `Search`, `Entry`). A request has `text`, `history` (titles), `turns` (of a conversation) and
//! `candidates`. An example has `search` and `thought` as well.

mod conversation;
mod examples;
mod message;
mod render;
mod validate;

#[cfg(feature = "model")]
pub(super) use conversation::newest as newest_turns;
pub(super) use conversation::shown as shown_turns;
pub use message::{ChatMessage, Prompt, Role};
#[cfg(feature = "model")]
pub(super) use querywright_template::marks::{PLACEHOLDER, marked, unmarked};
pub(super) use render::{RequestValues, Template, sanitised, shown_candidates};

#[cfg(test)]
pub(super) use examples::examples;
