//! What the demonstration promises: fair splits, complete judgements, the same data everywhere.

use std::collections::{BTreeSet, HashMap, HashSet};

use frostem::{Algorithm, Stemmer};
use sha2::{Digest, Sha256};

use super::vocabulary::{ProductType, Split, Vocabulary};
use super::{SEED, demo, oracle_queries};
use querywright_types::hex;

/// A test phrase shares at most this part of its content words (Jaccard, stemmed) with a phrase of another split.
const OVERLAP: f64 = 1.0 / 3.0;

/// Words that carry no content.
const STOP: &str = "a an and are as at be but by for if in into is it no not of on or such that the their then there \
    these they this to was will with i my me our we you he she his her him has have had do does did can cannot am been \
    so from when what who how which where would should could than too very just them us its up out off over under \
    after before while because all any";

fn content(text: &str) -> BTreeSet<String> {
    let stemmer = Stemmer::new(Algorithm::English);
    let text = text.to_lowercase();
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| word.len() > 1 && !STOP.split_whitespace().any(|stop| stop == *word))
        .map(|word| stemmer.stem(word).into_owned())
        .collect()
}

fn jaccard(a: &str, b: &str) -> f64 {
    let (a, b) = (content(a), content(b));
    a.intersection(&b).count() as f64 / a.union(&b).count().max(1) as f64
}

/// All phrases of a kind, with their splits.
fn everything(words: &Vocabulary) -> Vec<(Split, &str)> {
    let mut all = Vec::new();
    for split in Split::ALL {
        let needs = words.types.iter().flat_map(|t| t.needs.of(split));
        let wishes = words.wishes.iter().flat_map(|w| w.clauses.of(split));
        let frames = words.frames.of(split);
        let phrases = needs.chain(wishes).chain(&frames.plain).chain(&frames.wish);
        all.extend(phrases.map(|phrase| (split, phrase.as_str())));
    }
    all
}

#[test]
fn the_numbers_are_those_that_the_documentation_states() {
    let data = demo(SEED).unwrap();
    let sizes = ["train", "dev", "test"].map(|split| data.split(split).unwrap().len());
    assert_eq!((data.catalog.len(), sizes), (1536, [576, 128, 192]));
    let words = Vocabulary::embedded().unwrap();
    assert_eq!(words.types.len(), 64);
    let shape = |t: &ProductType| Split::ALL.map(|split| t.needs.of(split).len());
    for t in &words.types {
        assert_eq!(shape(t), [9, 2, 3], "{}", t.name);
        assert_eq!(t.attributes.values().map(Vec::len).product::<usize>(), 27, "{}", t.name);
    }
}

#[test]
fn no_need_wish_or_frame_stands_twice_in_any_split() {
    let words = Vocabulary::embedded().unwrap();
    let mut seen = HashMap::new();
    for (split, phrase) in everything(&words) {
        let plain = phrase.to_lowercase();
        assert_eq!(seen.insert(plain, split), None, "\"{phrase}\" stands twice");
    }
}

#[test]
fn a_held_out_phrase_shares_at_most_a_third_of_its_content_words_with_the_other_splits() {
    let words = Vocabulary::embedded().unwrap();
    let topics = words.types.iter().map(|t| &t.needs).chain(words.wishes.iter().map(|w| &w.clauses));
    let pairs = [(Split::Dev, Split::Train), (Split::Test, Split::Train), (Split::Test, Split::Dev)];
    let mut compared = 0;
    for phrases in topics {
        for (held_out, other) in pairs {
            for a in phrases.of(held_out) {
                for b in phrases.of(other) {
                    assert!(jaccard(a, b) <= OVERLAP, "{:.2}: \"{a}\" and \"{b}\"", jaccard(a, b));
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, 64 * (2 * 9 + 3 * 9 + 3 * 2) + 16 * (2 * 5 + 2 * 5 + 2 * 2));
}

#[test]
fn no_phrase_holds_a_word_of_what_it_stands_for() {
    let words = Vocabulary::embedded().unwrap();
    let needs = words.types.iter().map(|t| (&t.name, &t.needs));
    for (name, phrases) in needs.chain(words.wishes.iter().map(|w| (&w.value, &w.clauses))) {
        for phrase in Split::ALL.iter().flat_map(|split| phrases.of(*split)) {
            let told: Vec<String> = content(name).intersection(&content(phrase)).cloned().collect();
            assert!(told.is_empty(), "\"{phrase}\" gives away {told:?} of {name}");
        }
    }
}

#[test]
fn every_frame_has_its_slots_and_no_request_keeps_one() {
    let words = Vocabulary::embedded().unwrap();
    for split in Split::ALL {
        let frames = words.frames.of(split);
        for frame in frames.plain.iter().chain(&frames.wish) {
            assert_eq!(frame.matches("{need}").count() + frame.matches("{Need}").count(), 1, "{frame}");
        }
        assert!(frames.wish.iter().all(|f| f.matches("{wish}").count() == 1));
        assert!(!frames.plain.iter().any(|f| f.contains("{wish}")));
    }
    assert!(demo(SEED).unwrap().queries.iter().all(|q| !q.text.contains(['{', '}'])));
}

#[test]
fn every_wish_is_for_a_value_that_products_have_and_is_asked_for_in_training_and_test() {
    let words = Vocabulary::embedded().unwrap();
    let oracle = oracle_queries(SEED).unwrap();
    for wish in &words.wishes {
        assert!(
            words.types.iter().any(|t| t.attributes.values().flatten().any(|v| *v == wish.value)),
            "{}",
            wish.value
        );
        for split in ["train", "test"] {
            let asked = oracle.iter().any(|(id, query)| id.starts_with(split) && query.ends_with(&wish.value));
            assert!(asked, "{} in {split}", wish.value);
        }
    }
}

#[test]
fn every_request_has_at_least_five_products_of_the_top_grade_and_all_judged_are_of_one_type() {
    let data = demo(SEED).unwrap();
    let oracle = oracle_queries(SEED).unwrap();
    let mut wishes = 0;
    for query in &data.queries {
        let judged = data.qrels.get(&query.id).unwrap();
        let grades: HashSet<i32> = judged.iter().map(|j| j.1).collect();
        let wish = grades.contains(&3);
        assert_eq!(grades, if wish { HashSet::from([3, 1]) } else { HashSet::from([2]) }, "{}", query.id);
        let top = judged.iter().filter(|j| Some(&j.1) == grades.iter().max()).count();
        assert!(top >= 5 && judged.len() == 24, "{}: {top} of {}", query.id, judged.len());
        let categories: HashSet<_> = judged.iter().map(|j| data.catalog.document(j.0).field("category")).collect();
        assert_eq!(categories.len(), 1);
        for (doc, grade) in judged.iter() {
            let document = data.catalog.document(doc);
            let all = content(&document.text_of_all_fields());
            let met = content(&oracle[&query.id]).is_subset(&all);
            assert_eq!(met, grade >= 2, "{} for {}: {}", document.id, query.id, oracle[&query.id]);
        }
        wishes += usize::from(wish);
    }
    assert!((230..=310).contains(&wishes), "{wishes} of {} requests carry a wish", data.queries.len());
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_gives_others() {
    let digest = |seed| {
        let data = demo(seed).unwrap();
        let mut hash = Sha256::new();
        for query in &data.queries {
            hash.update(format!("{}\t{}\n", query.id, query.text));
            for (doc, grade) in data.qrels.get(&query.id).unwrap().iter() {
                hash.update(format!("{doc} {grade}\n"));
            }
        }
        (data.catalog.digest()[..16].to_owned(), hex(hash.finalize())[..16].to_owned())
    };
    // If a change of the words or of the generator is meant, the README's figures change with these.
    assert_eq!(digest(SEED), ("64d3ce3e80ad7d9c".to_owned(), "6178e58fba8a4196".to_owned()));
    assert_ne!(digest(SEED), digest(SEED + 1));
}
