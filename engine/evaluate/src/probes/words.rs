//! The words of queries, rewrites and documents, as the probes compare them.

use querywright_text::boolean::{Clause, Group, parse};
use querywright_types::{QueryLanguage, Rewrite};

/// The words of a text in lower case: runs of letters and digits, and each character of a script without spaces.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        let single = is_without_spaces(c);
        if (single || !c.is_alphanumeric()) && !word.is_empty() {
            found.push(std::mem::take(&mut word));
        }
        if single {
            found.push(c.to_string());
        } else if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
    }
    found.extend((!word.is_empty()).then_some(word));
    found
}

/// The words of a rewrite in their order; operators, names of fields and boosts of a Boolean query are none.
pub(super) fn of_rewrite(rewrite: &Rewrite, fields: &[String]) -> Vec<String> {
    if rewrite.language != QueryLanguage::Boolean {
        return words(&rewrite.text);
    }
    let mut leaves = Vec::new();
    collect(&parse(&rewrite.text, fields), &mut leaves);
    // A group holds its clauses by what they demand; each is a piece of the text, which has their order.
    leaves.sort_by_key(|leaf| leaf.as_ptr() as usize);
    leaves.into_iter().flat_map(words).collect()
}

fn collect<'q>(group: &Group<'q>, leaves: &mut Vec<&'q str>) {
    for clause in group.must.iter().chain(&group.should).chain(&group.must_not) {
        match clause {
            Clause::Words { text, .. } => leaves.push(text),
            Clause::Group(inner) => collect(inner, leaves),
        }
    }
}

/// Han, kana, Thai, Lao, Khmer and Burmese: no space stands between words.
fn is_without_spaces(c: char) -> bool {
    matches!(c, '\u{0e01}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17d2}' | '\u{3040}'..='\u{30ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_boolean_rewrite_are_those_that_are_searched_for_in_their_order() {
        let fields = ["title".to_owned()];
        let text = r#"(Steel kettle)^2 AND title:("tea pot" NOT rust) brew^0.5 other:x"#;
        let boolean = Rewrite::new(text, QueryLanguage::Boolean);
        let expected = ["steel", "kettle", "tea", "pot", "rust", "brew", "other", "x"];
        assert_eq!(of_rewrite(&boolean, &fields), expected);
        assert_eq!(of_rewrite(&Rewrite::plain("Tea AND pot^2"), &fields), ["tea", "and", "pot", "2"]);
        assert_eq!(words("don't, 東京 USB-C"), ["don", "t", "東", "京", "usb", "c"]);
    }
}
