//! Attention: causal with grouped keys, over trees of shared segments of tokens, and both ways, for encoders.
//!
//! Many completions share a prompt, and many prompts share a prefix. Each segment of tokens is computed once and its
//! keys and values are kept in a [`Cache`] under all that continues it; a token attends to the caches before it and to
//! what precedes it in its own [`Continuation`]. The backward pass goes over the [`Tree`] of segments
//! ([`attend_backward`]).
//!
//! Rows hold queries, keys and values side by side: `queries` heads, `keys` heads, `keys` heads of `dim` values.

mod backward;
mod bidirectional;
mod cache;
mod forward;
mod heads;

pub use backward::{Attended, Node, Tree, attend_backward};
pub use bidirectional::attend_both_ways;
pub use cache::{Cache, Continuation};
pub use forward::{AttentionRows, attend};
pub use heads::Heads;

#[cfg(test)]
mod tests;
