//! The words of a Boolean query, for an encoder: it reads texts, to which operators, boosts and brackets are noise.

use querywright_text::boolean::{Clause, Group, parse};

/// The words that a Boolean query looks for, in their order; `fields` are the names that `field:` may have. What it
/// forbids is left out, for a vector only draws nearer to what it names. A query that forbids alone is all its words, as
/// it is elsewhere.
pub(crate) fn words(query: &str, fields: &[String]) -> String {
    let parsed = parse(query, fields);
    let mut found = Vec::new();
    collect(&parsed, false, &mut found);
    if found.is_empty() {
        collect(&parsed, true, &mut found);
    }
    // All are parts of the one text: where they lie is their order.
    found.sort_by_key(|text| text.as_ptr());
    found.join(" ")
}

/// Adds the words of a bracket. It nests no deeper than the parser lets it.
fn collect<'q>(group: &Group<'q>, forbidden: bool, found: &mut Vec<&'q str>) {
    let others = group.must_not.iter().filter(|_| forbidden);
    for clause in group.must.iter().chain(&group.should).chain(others) {
        match clause {
            Clause::Words { text, .. } => found.extend(Some(text.trim()).filter(|text| !text.is_empty())),
            Clause::Group(inner) => collect(inner, forbidden, found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_boolean_query_are_left_and_nothing_of_its_syntax() {
        let fields = ["title".to_owned()];
        for (query, right) in [
            ("(tea kettle)^2 title:\"red pot\" word^0.31", "tea kettle red pot word"),
            ("a b AND c +d", "a b c d"),
            ("tea NOT kettle -pot", "tea"),
            ("NOT tea -\"red pot\"", "tea red pot"),
            ("title:(tea OR \u{201c}red pot\u{201d})", "tea red pot"),
            ("a-b other:c", "a-b other:c"),
            ("\"\" () ^2 AND", ""),
        ] {
            assert_eq!(words(query, &fields), right, "{query}");
        }
        let deep = format!("{}tea{}", "(".repeat(5000), ")".repeat(5000));
        assert_eq!(words(&deep, &fields), "tea");
    }
}
