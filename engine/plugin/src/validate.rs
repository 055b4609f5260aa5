//! What a plugin answered, checked against the contract. An answer that breaks it is a fault, never a ranking.

use super::bindings::{self, Card};
use super::sanitize::excerpt;
use querywright_types::{Hit, QueryLanguage, Ranking, Request, RetrieverCard};

/// Fields that a card may name.
const MOST_FIELDS: usize = 64;

/// A request in the types of the contract.
pub(super) fn request(request: &Request) -> bindings::Request {
    bindings::Request {
        text: request.text.clone(),
        language: match request.language {
            QueryLanguage::Boolean => bindings::QueryLanguage::Boolean,
            QueryLanguage::Natural => bindings::QueryLanguage::Natural,
            _ => bindings::QueryLanguage::Plain,
        },
        history: request.history.clone(),
        exclude: request.exclude.clone(),
        k: u32::try_from(request.k).unwrap_or(u32::MAX),
    }
}

/// The ranking of one request, if its hits keep the contract: at most k, in the catalogue, each once, none excluded,
/// finite scores, best first. `documents` is the size of the catalogue.
pub(super) fn ranking(hits: &[bindings::Hit], request: &Request, documents: usize) -> Result<Ranking, String> {
    let ranking = Ranking { hits: hits.iter().map(|hit| Hit { doc: hit.item, score: hit.score }).collect() };
    ranking.check(request, Some(documents)).map(|()| ranking)
}

/// The card for rewriters and runs, if it can be used. `content` says what the catalogue holds.
pub(super) fn card(card: &Card, digest: String, content: &str) -> Result<RetrieverCard, String> {
    let language = |language: &bindings::QueryLanguage| match language {
        bindings::QueryLanguage::Plain => QueryLanguage::Plain,
        bindings::QueryLanguage::Boolean => QueryLanguage::Boolean,
        bindings::QueryLanguage::Natural => QueryLanguage::Natural,
    };
    let mut languages: Vec<QueryLanguage> = Vec::new();
    for found in card.languages.iter().map(language) {
        if !languages.contains(&found) {
            languages.push(found);
        }
        // There are three languages. The list may have millions of entries.
        if languages.len() == 3 {
            break;
        }
    }
    if languages.is_empty() {
        return Err("its card names no query language".into());
    }
    if card.name.trim().is_empty() {
        return Err("its card has no name".into());
    }
    if card.fields.len() > MOST_FIELDS {
        return Err(format!("its card names {} fields, and {MOST_FIELDS} are allowed", card.fields.len()));
    }
    Ok(RetrieverCard::new(excerpt(card.name.trim()), digest)
        .with_version(excerpt(&card.version))
        .with_languages(languages)
        .with_fields(card.fields.iter().map(|field| excerpt(field)))
        .with_history(card.reads_history)
        .with_content(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(list: &[(u32, f32)]) -> Vec<bindings::Hit> {
        list.iter().map(|(item, score)| bindings::Hit { item: *item, score: *score }).collect()
    }

    #[test]
    fn an_answer_that_breaks_the_contract_is_refused_with_the_hit_that_breaks_it() {
        let request = Request::plain("x", 3).with_exclude([4]);
        assert_eq!(ranking(&hits(&[(2, 2.0), (0, 2.0), (1, 0.5)]), &request, 5).unwrap().hits.len(), 3);
        assert!(ranking(&[], &request, 5).unwrap().hits.is_empty());
        for (list, part) in [
            (vec![(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0)], "4 hits where at most 3"),
            (vec![(0, 1.0), (5, 0.5)], "hit 2 is document 5, and there are 5"),
            (vec![(0, f32::NAN)], "hit 1 has the score NaN"),
            (vec![(0, f32::INFINITY)], "hit 1 has the score inf"),
            (vec![(0, 1.0), (1, 2.0)], "hit 2 has a higher score"),
            (vec![(3, 1.0), (3, 1.0)], "document 3 twice"),
            (vec![(4, 1.0)], "document 4, which was excluded"),
        ] {
            let error = ranking(&hits(&list), &request, 5).unwrap_err();
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_card_names_itself_and_a_language() {
        let card_of = |name: &str, languages| Card {
            name: name.into(),
            version: "1".into(),
            languages,
            fields: vec!["title".into()],
            reads_history: false,
        };
        let boolean = bindings::QueryLanguage::Boolean;
        let fine = card(&card_of("a", vec![boolean, boolean]), "d".into(), "films").unwrap();
        assert_eq!((fine.languages, fine.content.as_str()), (vec![QueryLanguage::Boolean], "films"));
        assert!(card(&card_of("a", vec![]), "d".into(), "").unwrap_err().contains("no query language"));
        assert!(card(&card_of(" ", vec![boolean]), "d".into(), "").unwrap_err().contains("no name"));
    }
}
