//! Composing the text for the retriever from the query and what the model generated.

use std::collections::HashSet;

use super::config::Mode;
use super::joined::{folded, repeated, uncut, weighted};
use super::mode::{compose_document, written_keywords};
use super::query_terms::{QueryTerm, terms};
use querywright_text::boolean::escaped;
use querywright_types::{QueryLanguage, Rewrite};

/// Composes rewrites in one language of a retriever.
#[derive(Debug, Clone, PartialEq)]
pub struct Composer {
    /// What was generated, and whether the user's own words are kept.
    pub mode: Mode,
    /// The language to write in.
    pub language: QueryLanguage,
    /// The weight of an original word relative to a generated term, where the mode keeps both.
    pub original_weight: f32,
    /// The largest number of generated terms that are used; of words in [`Mode::Document`].
    pub max_terms: usize,
}

impl Composer {
    /// The text for the retriever. `original` is what the query is without a model: its own words, or what a
    /// [base](crate::BaseConfig) makes of them.
    ///
    /// | mode, language | text |
    /// |---|---|
    /// | rewrite | the first `max_terms` terms of `generated`, as they stand |
    /// | expand, Boolean | `(original words)^weight term "a phrase"` |
    /// | expand, plain | the original, `weight` (rounded) times, then the terms' words |
    /// | expand, natural | the original, a full stop, `generated` up to `max_terms` terms |
    /// | expand, a base | `(base)^weight term "a phrase"`, in the Boolean language |
    /// | keywords | as expand; each keyword a term, or in the natural language an entry of a list with commas |
    /// | document | as expand, with all words of the passage as they stand |
    /// | choose, rerank | the original: a name and a label are no words |
    ///
    /// In the modes expand and keywords a generated term that also occurs in the original counts once more, so the model
    /// can stress some of the user's words. Repeated and negated terms are left out. Where nothing was generated, the text
    /// is the original.
    ///
    /// A query has at most [`MOST_TERMS`](querywright_text::query::MOST_TERMS) terms, and what comes last is not searched for. Where there are more, what was
    /// generated comes first, and plain originals are repeated less often.
    pub fn compose(&self, original: &Rewrite, generated: &str) -> Rewrite {
        let own = folded(&original.text);
        let listed = match self.mode {
            Mode::Document => {
                return compose_document(self.language, self.original_weight, self.max_terms, original, generated);
            }
            Mode::Choose | Mode::Rerank => return original.clone(),
            Mode::Keywords => Some(written_keywords(generated, self.language, self.max_terms)),
            _ => None,
        };
        let generated = listed.as_deref().unwrap_or_else(|| self.bounded(generated));
        let alone = |text: &str| if text.is_empty() { original.clone() } else { self.written(text) };
        if self.mode == Mode::Rewrite || own.is_empty() {
            return alone(&folded(generated));
        }
        if original.language == QueryLanguage::Boolean {
            let added: Vec<String> = added(generated).iter().map(|term| self.in_boolean(term)).collect();
            let added = added.join(" ");
            return match added.trim() {
                "" => original.clone(),
                added => {
                    let weighted = format!("({own})^{}", self.original_weight);
                    Rewrite::new(uncut(&weighted, added), QueryLanguage::Boolean)
                }
            };
        }
        match self.language {
            QueryLanguage::Natural if generated.trim().is_empty() => Rewrite::plain(own),
            QueryLanguage::Natural => {
                let stop = if own.ends_with(['.', '!', '?']) { "" } else { "." };
                self.written(&format!("{own}{stop} {}", folded(generated)))
            }
            QueryLanguage::Boolean => {
                let added: Vec<String> = added(generated).into_iter().map(|term| term.text).collect();
                alone(&uncut(&weighted(&own, self.original_weight), &added.join(" ")))
            }
            _ => {
                let added: Vec<String> = added(generated).iter().map(QueryTerm::words).collect();
                self.written(&repeated(&own, self.original_weight, &added.join(" ")))
            }
        }
    }

    /// A generated term beside a base: as it stands where the policy writes the Boolean language, else its words alone.
    fn in_boolean(&self, term: &QueryTerm) -> String {
        match self.language {
            QueryLanguage::Boolean => term.text.clone(),
            _ => escaped(&term.words()),
        }
    }

    fn written(&self, text: &str) -> Rewrite {
        Rewrite::new(text, self.language)
    }

    /// The beginning of a text that holds its first `max_terms` terms; all of it where it has no more.
    fn bounded<'t>(&self, text: &'t str) -> &'t str {
        let terms = terms(text);
        if terms.len() <= self.max_terms {
            return text;
        }
        let end = self.max_terms.checked_sub(1).and_then(|last| terms.get(last)).map_or(0, |term| term.span.end);
        text.get(..end).unwrap_or(text)
    }
}

/// The generated terms without negated and repeated ones.
fn added(generated: &str) -> Vec<QueryTerm> {
    let mut seen: HashSet<String> = HashSet::new();
    let mut found = terms(generated);
    found.retain(|term| !term.negated && seen.insert(term.words().to_lowercase()) && !term.words().is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use querywright_text::analysis::Analyzer;

    fn composed(mode: Mode, language: QueryLanguage, query: &str, generated: &str) -> String {
        let composer = Composer { mode, language, original_weight: 2.0, max_terms: 4 };
        composer.compose(&Rewrite::plain(query), generated).text
    }

    #[test]
    fn rewriting_replaces_and_falls_back_to_the_original() {
        let rewrite = |generated| composed(Mode::Rewrite, QueryLanguage::Boolean, "calm a baby", generated);
        assert_eq!(rewrite(" lullaby OR \"cradle song\" "), "lullaby OR \"cradle song\"");
        assert_eq!(rewrite("  "), "calm a baby");
    }

    #[test]
    fn plain_expansion_repeats_the_original_and_adds_each_new_word_once() {
        let text =
            composed(Mode::Expand, QueryLanguage::Plain, "Calm a\nbaby", "lullaby, \"cradle song\" calm Lullaby -dog");
        assert_eq!(text, "Calm a baby Calm a baby lullaby cradle song calm", "the repeated word counts once more");
    }

    #[test]
    fn boolean_expansion_weighs_the_escaped_original_and_keeps_phrases() {
        let text = composed(Mode::Expand, QueryLanguage::Boolean, "wi-fi AND (title:x)\"", "router \"access point\"");
        assert_eq!(text, "(wi fi and title x)^2 router \"access point\"");
        assert_eq!(composed(Mode::Expand, QueryLanguage::Boolean, "wifi", "router"), "wifi^2 router");
        let text = composed(Mode::Expand, QueryLanguage::Boolean, "quiet harbour", "title:(quiet harbour) sea");
        assert_eq!(text, "(quiet harbour)^2 title:quiet title:harbour sea", "a field is kept with each of its words");
        assert_eq!(composed(Mode::Expand, QueryLanguage::Boolean, "\"()\"", ""), "\"()\"");
    }

    #[test]
    fn typographic_quotes_open_no_phrase_over_the_rest_of_the_text() {
        let boolean = |query: &str, generated: &str| composed(Mode::Expand, QueryLanguage::Boolean, query, generated);
        for quote in querywright_text::boolean::QUOTES {
            let query = format!("24{quote} steel kettle");
            assert_eq!(boolean(&query, "pot lid"), boolean("24\" steel kettle", "pot lid"));
            assert_eq!(boolean(&query, "pot lid"), "(24 steel kettle)^2 pot lid");
            assert_eq!(boolean("kettle", &format!("24{quote} pot")), "kettle^2 24 pot", "of the model's words too");
        }
        assert_eq!(boolean("kettle", "“tea pot” lid"), "kettle^2 “tea pot” lid");
    }

    #[test]
    fn what_is_generated_is_added_to_a_base_in_the_boolean_language() {
        let base = Rewrite::new("(calm baby) title:(calm baby)^0.5", QueryLanguage::Boolean);
        let composed = |mode, language, generated: &str| {
            Composer { mode, language, original_weight: 3.0, max_terms: 4 }.compose(&base, generated)
        };
        let plain = composed(Mode::Expand, QueryLanguage::Plain, "lullaby \"cradle: song\"");
        assert_eq!(plain.text, "((calm baby) title:(calm baby)^0.5)^3 lullaby cradle song");
        assert_eq!(plain.language, QueryLanguage::Boolean);
        let boolean = composed(Mode::Expand, QueryLanguage::Boolean, "\"cradle song\"");
        assert_eq!(boolean.text, "((calm baby) title:(calm baby)^0.5)^3 \"cradle song\"");
        assert_eq!(composed(Mode::Expand, QueryLanguage::Plain, " "), base);
        assert_eq!(composed(Mode::Rewrite, QueryLanguage::Plain, ""), base);
        assert_eq!(composed(Mode::Rewrite, QueryLanguage::Plain, "song"), Rewrite::plain("song"));
    }

    /// The terms that are searched for.
    fn searched(rewrite: &Rewrite) -> String {
        use querywright_text::{boolean::parse, query::Compiler};
        let analyzer = Analyzer::english();
        let mut compiler = Compiler::new(analyzer);
        let node = match rewrite.language {
            QueryLanguage::Boolean => compiler.group(&parse(&rewrite.text, &["title".to_owned()]), 1.0).unwrap(),
            _ => compiler.plain(analyzer.tokens(&rewrite.text)),
        };
        format!("{node:?}")
    }

    #[test]
    fn of_more_terms_than_a_query_may_have_those_that_were_generated_are_never_left_out() {
        let words = |count: usize| (0..count).map(|n| format!("w{n}")).collect::<Vec<_>>().join(" ");
        let fields = |line: &str| Rewrite::new(format!("({line}) title:({line})^0.5"), QueryLanguage::Boolean);
        for language in [QueryLanguage::Plain, QueryLanguage::Boolean] {
            for count in [300, 400, 600, 1100] {
                for original in [Rewrite::plain(words(count)), fields(&words(count))] {
                    let composer = Composer { mode: Mode::Expand, language, original_weight: 3.0, max_terms: 4 };
                    let found = composer.compose(&original, "wick lamp");
                    let terms = searched(&found);
                    assert!(terms.contains("\"wick\"") && terms.contains("\"lamp\""), "{count} {language:?}");
                    assert!(terms.contains("\"w0\"") && terms.contains("\"w299\""), "{count} {language:?}");
                }
            }
        }
        // Twice in place of three times: as often as all of it fits.
        let composer =
            Composer { mode: Mode::Expand, language: QueryLanguage::Plain, original_weight: 3.0, max_terms: 4 };
        let found = composer.compose(&Rewrite::plain(words(400)), "wick").text;
        assert_eq!(found, format!("{0} {0} wick", words(400)));
    }

    #[test]
    fn natural_expansion_is_two_sentences() {
        assert_eq!(composed(Mode::Expand, QueryLanguage::Natural, "why?", "because of it"), "why? because of it");
        assert_eq!(composed(Mode::Expand, QueryLanguage::Natural, "why", "because"), "why. because");
    }

    #[test]
    fn more_terms_than_allowed_are_cut() {
        assert_eq!(composed(Mode::Rewrite, QueryLanguage::Plain, "q", "a b c d e f"), "a b c d");
        assert_eq!(composed(Mode::Expand, QueryLanguage::Plain, "q", "a b c d e f"), "q q a b c d");
    }

    proptest! {
        #[test]
        fn composing_never_fails_and_is_bounded(query in "\\PC{0,60}", generated in "\\PC{0,200}", weight in 0.1_f32..10.0) {
            for mode in
                [Mode::Rewrite, Mode::Expand, Mode::Document, Mode::Keywords, Mode::Choose, Mode::Rerank]
            {
                for language in [QueryLanguage::Plain, QueryLanguage::Boolean, QueryLanguage::Natural] {
                    let composer = Composer { mode, language, original_weight: weight, max_terms: 8 };
                    let rewrite = composer.compose(&Rewrite::plain(query.as_str()), &generated);
                    let bound = (query.len() + 1) * 11 + 2 * generated.len() + 32;
                    prop_assert!(rewrite.text.len() <= bound, "{} > {bound}", rewrite.text.len());
                    prop_assert!(terms(&query).is_empty() || !rewrite.text.is_empty());
                    prop_assert!(!rewrite.text.contains('\n'));
                }
            }
        }
    }
}
