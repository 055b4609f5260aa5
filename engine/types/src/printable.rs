//! Text of strangers, made fit for a terminal, a log line or an error.

use std::ops::RangeInclusive;

/// Characters that show nothing and can hide, reorder or split the text around them, beside the control characters of
/// category Cc: bidirectional marks, embeddings, overrides and isolates, separators of lines and paragraphs, spaces and
/// joiners without a width, fillers, annotations and tags (categories Cf, Zl, Zp, and the Hangul fillers). The joiners
/// U+200C and U+200D stay, because Persian and emoji are spelled with them.
const INVISIBLE: [RangeInclusive<char>; 15] = [
    '\u{ad}'..='\u{ad}',
    '\u{61c}'..='\u{61c}',
    '\u{115f}'..='\u{1160}',
    '\u{180e}'..='\u{180e}',
    '\u{200b}'..='\u{200b}',
    '\u{200e}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{3164}'..='\u{3164}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff9}'..='\u{fffb}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e007f}',
];

/// Whether a character could rewrite a terminal, forge a line or disguise a name.
fn is_unprintable(c: char) -> bool {
    c.is_control() || INVISIBLE.iter().any(|range| range.contains(&c))
}

/// The text with a space in place of each character that could rewrite a terminal, forge a line or disguise a name.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_unprintable(c) { ' ' } else { c }).collect()
}

/// JSON that a terminal may show: each character of its strings that [`printable`] would replace, as `\uXXXX`. Without
/// this, JSON escapes those below U+0020 alone. It means the same to every reader of JSON.
pub fn printable_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        // White space between the values is not part of a string: within one it is escaped already.
        if is_unprintable(c) && !matches!(c, '\n' | '\r' | '\t') {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| shown.push_str(&format!("\\u{unit:04x}")));
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Category Cc, and the characters with the property Bidi_Control, of the Unicode Character Database 17.0.
    #[test]
    fn no_control_character_and_no_bidirectional_control_of_unicode_passes() {
        let bidirectional = ['\u{61c}', '\u{200e}', '\u{200f}']
            .into_iter()
            .chain('\u{202a}'..='\u{202e}')
            .chain('\u{2066}'..='\u{2069}');
        let controls = ('\0'..='\u{1f}').chain('\u{7f}'..='\u{9f}');
        let tags = '\u{e0000}'..='\u{e007f}';
        for c in controls.chain(bidirectional).chain(['\u{2028}', '\u{2029}', '\u{feff}', '\u{ad}']).chain(tags) {
            assert_eq!(printable(&format!("a{c}b")), "a b", "U+{:04X}", u32::from(c));
        }
    }

    #[test]
    fn every_other_character_of_unicode_stays_as_it_is() {
        let (mut replaced, mut text) = (0, String::new());
        for c in '\0'..=char::MAX {
            text.clear();
            text.push(c);
            match printable(&text).as_str() {
                kept if kept == text => {}
                " " => replaced += 1,
                other => panic!("U+{:04X} became {other:?}", u32::from(c)),
            }
        }
        let invisible: usize = INVISIBLE.iter().map(|range| range.clone().count()).sum();
        assert_eq!(replaced, 65 + invisible, "the 65 control characters and the table");
        assert_eq!(printable("می‌خواهم 👩‍🔬 e\u{301} ☃"), "می‌خواهم 👩‍🔬 e\u{301} ☃");
    }

    #[test]
    fn json_keeps_its_meaning_and_shows_no_control_character() {
        let all: String = ('\0'..=char::MAX).filter(|c| is_unprintable(*c)).chain("\"\\é☃".chars()).collect();
        let json = serde_json::to_string(&serde_json::json!({ "a": all })).unwrap();
        assert!(json.contains('\u{9b}') && json.contains('\u{202e}'), "JSON alone does not escape these");
        let shown = printable_json(&json);
        assert_eq!(printable(&shown), shown);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap()["a"], all.as_str());
        assert_eq!(printable_json("{\n\t\"a\": \"\u{7f}\"\n}"), "{\n\t\"a\": \"\\u007f\"\n}");
    }
}
