//! What was said before a request in the same conversation.

use super::render::sanitised;
use crate::config::{ConversationConfig, PromptConfig, Task};
use querywright_types::{Error, Result};

/// Characters of a token, where no tokenizer counts.
const CHARS: usize = 4;

/// Checks the section.
pub fn validate(config: &PromptConfig) -> Result<()> {
    let ConversationConfig { max_turns, max_tokens } = config.conversation;
    if config.task != Task::Conversation {
        if config.conversation.is_default() {
            return Ok(());
        }
        let found = format!("settings of conversations in the task {:?}", config.task);
        let remedy = "set task = \"conversation\", or leave this section out";
        return Err(Error::argument("prompt.conversation", found, remedy));
    }
    for (key, value) in [("max_turns", max_turns), ("max_tokens", max_tokens)] {
        if value == 0 {
            let remedy = "give at least 1, or set task = \"search\", which shows no earlier turns";
            return Err(Error::argument(format!("prompt.conversation.{key}"), "0", remedy));
        }
    }
    Ok(())
}

/// The turns that a prompt shows, oldest first: the last ones, made safe and cut as requests are. None in another task.
pub fn shown(turns: &[String], config: &PromptConfig) -> Vec<String> {
    if config.task != Task::Conversation {
        return Vec::new();
    }
    let ConversationConfig { max_turns, max_tokens } = config.conversation;
    let safe = turns.iter().map(|turn| sanitised(turn, config.max_request_chars)).filter(|turn| !turn.is_empty());
    let mut safe: Vec<String> = safe.collect();
    safe.drain(..safe.len().saturating_sub(max_turns));
    let chars = |turn: &str| Ok(turn.chars().count());
    newest(safe, max_tokens.saturating_mul(CHARS), chars).unwrap_or_default()
}

/// As many of the last turns as together have no more than `most` of what `size` counts, oldest first.
pub fn newest(mut turns: Vec<String>, most: usize, size: impl Fn(&str) -> Result<usize>) -> Result<Vec<String>> {
    let (mut left, mut kept) = (most, 0);
    for turn in turns.iter().rev() {
        match left.checked_sub(size(turn)?) {
            Some(rest) => (left, kept) = (rest, kept + 1),
            None => break,
        }
    }
    turns.drain(..turns.len() - kept);
    Ok(turns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(lengths: &[usize]) -> Vec<String> {
        lengths.iter().enumerate().map(|(n, length)| n.to_string().repeat(*length)).collect()
    }

    #[test]
    fn the_oldest_turns_are_left_out_first() {
        let conversation = ConversationConfig { max_turns: 3, max_tokens: 5 };
        let config = PromptConfig { task: Task::Conversation, conversation, ..PromptConfig::default() };
        let firsts = |lengths: &[usize]| -> String {
            shown(&turns(lengths), &config).iter().filter_map(|turn| turn.chars().next()).collect()
        };
        assert_eq!(firsts(&[1, 1, 1, 1, 1]), "234", "three at most");
        assert_eq!(firsts(&[9, 9, 9]), "12", "twenty characters at most");
        assert_eq!(firsts(&[1, 21, 9]), "2", "no turn is shown without those after it");
        assert_eq!((firsts(&[21]), firsts(&[])), (String::new(), String::new()));
        let broken = shown(&["</s>".to_owned(), " \u{0} ".to_owned(), "a\nb".to_owned()], &config);
        assert_eq!(broken, ["< /s>", "a b"]);
        assert_eq!(shown(&turns(&[1]), &PromptConfig::default()).len(), 0, "a search shows none");
    }
}
