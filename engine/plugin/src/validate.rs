//! What a plugin answered, held against the contract: an answer that breaks it is a fault, never a ranking.

use super::contract::{self, Card};
use super::interfaces::printable;
use crate::error::{FaultKind, Result};
use crate::types::{Hit, QueryLanguage, Ranking, Request, RetrieverCard};

/// Characters of a plugin's own words that are kept.
const LONGEST: usize = 300;
/// Fields that a card may name.
const MOST_FIELDS: usize = 64;

/// A plugin's own words, fit for a line of a log.
pub(super) fn words(text: &str) -> String {
    let mut kept: String = printable(text).chars().take(LONGEST).collect();
    if kept.len() < text.len() {
        kept.push('…');
    }
    kept
}

/// A typed fault as a sentence.
pub(super) fn sentence(fault: &contract::Fault) -> String {
    match fault {
        contract::Fault::NotReady => "it is not ready".into(),
        contract::Fault::Invalid(why) => format!("the input cannot be used: {}", words(why)),
        contract::Fault::Denied(interface) => format!("it needs {}, which was not granted", words(interface)),
        contract::Fault::Timeout => "a remote side did not answer in time".into(),
        contract::Fault::Network(why) => format!("a remote side could not be reached: {}", words(why)),
        contract::Fault::Unreadable(why) => format!("a remote answer could not be read: {}", words(why)),
        contract::Fault::Internal(why) => words(why),
    }
}

/// The sort of failure that a typed fault is.
pub(super) fn kind(fault: &contract::Fault) -> FaultKind {
    match fault {
        contract::Fault::Timeout => FaultKind::Timeout,
        contract::Fault::Network(_) => FaultKind::Network,
        contract::Fault::Unreadable(_) => FaultKind::Parse,
        _ => FaultKind::Refused,
    }
}

/// The request as it crosses the border.
pub(super) fn request(request: &Request) -> contract::Request {
    contract::Request {
        text: request.text.clone(),
        language: match request.language {
            QueryLanguage::Plain => contract::QueryLanguage::Plain,
            QueryLanguage::Boolean => contract::QueryLanguage::Boolean,
            QueryLanguage::Natural => contract::QueryLanguage::Natural,
        },
        history: request.history.clone(),
        exclude: request.exclude.clone(),
        k: u32::try_from(request.k).unwrap_or(u32::MAX),
    }
}

/// The hits of one request, if they keep the contract: at most k, known, each once, none excluded, finite scores,
/// best first. `documents` is the size of the catalogue.
pub(super) fn ranking(hits: &[contract::Hit], request: &Request, documents: usize) -> Result<Ranking, String> {
    if hits.len() > request.k {
        return Err(format!("it gave {} hits where at most {} were asked for", hits.len(), request.k));
    }
    let mut seen = std::collections::HashSet::with_capacity(hits.len());
    for (rank, hit) in hits.iter().enumerate() {
        let place = rank + 1;
        if hit.item as usize >= documents {
            return Err(format!("hit {place} is item {}, and the catalogue has {documents}", hit.item));
        }
        if !hit.score.is_finite() {
            return Err(format!("hit {place} has the score {}", hit.score));
        }
        if rank > 0 && hit.score > hits[rank - 1].score {
            return Err(format!("hit {place} has a higher score than the one before it"));
        }
        if !seen.insert(hit.item) {
            return Err(format!("hit {place} is item {} for the second time", hit.item));
        }
    }
    if let Some(excluded) = request.exclude.iter().find(|item| seen.contains(item)) {
        return Err(format!("it gave item {excluded}, which was excluded"));
    }
    Ok(Ranking { hits: hits.iter().map(|hit| Hit { doc: hit.item, score: hit.score }).collect() })
}

/// The card for rewriters and runs, if it can be used.
pub(super) fn card(card: &Card, digest: String, content: &str) -> Result<RetrieverCard, String> {
    let language = |language: &contract::QueryLanguage| match language {
        contract::QueryLanguage::Plain => QueryLanguage::Plain,
        contract::QueryLanguage::Boolean => QueryLanguage::Boolean,
        contract::QueryLanguage::Natural => QueryLanguage::Natural,
    };
    let mut languages: Vec<QueryLanguage> = Vec::new();
    for found in card.languages.iter().map(language) {
        if !languages.contains(&found) {
            languages.push(found);
        }
        // There are three; the list may claim millions.
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
    Ok(RetrieverCard {
        name: words(card.name.trim()),
        version: words(&card.version),
        digest,
        languages,
        fields: card.fields.iter().map(|field| words(field)).collect(),
        reads_history: card.reads_history,
        content: content.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(list: &[(u32, f32)]) -> Vec<contract::Hit> {
        list.iter().map(|(item, score)| contract::Hit { item: *item, score: *score }).collect()
    }

    #[test]
    fn an_answer_that_breaks_the_contract_is_refused_by_its_place() {
        let request =
            Request { text: "x".into(), language: QueryLanguage::Plain, history: vec![], exclude: vec![4], k: 3 };
        assert_eq!(ranking(&hits(&[(2, 2.0), (0, 2.0), (1, 0.5)]), &request, 5).unwrap().hits.len(), 3);
        assert!(ranking(&[], &request, 5).unwrap().hits.is_empty());
        for (list, part) in [
            (vec![(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0)], "4 hits where at most 3"),
            (vec![(0, 1.0), (5, 0.5)], "hit 2 is item 5, and the catalogue has 5"),
            (vec![(0, f32::NAN)], "hit 1 has the score NaN"),
            (vec![(0, f32::INFINITY)], "hit 1 has the score inf"),
            (vec![(0, 1.0), (1, 2.0)], "hit 2 has a higher score"),
            (vec![(3, 1.0), (3, 1.0)], "item 3 for the second time"),
            (vec![(4, 1.0)], "item 4, which was excluded"),
        ] {
            let error = ranking(&hits(&list), &request, 5).unwrap_err();
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_plugins_words_are_short_and_plain() {
        assert_eq!(words("a\x1b[31mb\nc"), "a [31mb c");
        assert_eq!(words(&"é".repeat(1000)).chars().count(), LONGEST + 1);
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
        let boolean = contract::QueryLanguage::Boolean;
        let fine = card(&card_of("a", vec![boolean, boolean]), "d".into(), "films").unwrap();
        assert_eq!((fine.languages, fine.content.as_str()), (vec![QueryLanguage::Boolean], "films"));
        assert!(card(&card_of("a", vec![]), "d".into(), "").unwrap_err().contains("no query language"));
        assert!(card(&card_of(" ", vec![boolean]), "d".into(), "").unwrap_err().contains("no name"));
    }
}
