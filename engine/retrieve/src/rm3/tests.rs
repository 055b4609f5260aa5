use super::super::Bm25Config;
use super::*;
use querywright_data::catalog::CatalogBuilder;

/// 60 documents of 12 topics; "common" is in half of them.
fn index() -> Arc<Bm25> {
    let topics = [
        "batman gotham joker",
        "sailing boats anchored",
        "curries spiced rice",
        "guitars strings amplifier",
        "planets orbiting moons",
        "gardens roses pruning",
        "trains railways stations",
        "chess openings gambits",
        "volcanoes lava erupting",
        "bread baking yeasts",
        "castles moats knights",
        "painting canvas brushes",
    ];
    let mut builder = CatalogBuilder::new();
    for n in 0..60 {
        let topic = topics[n % 12].split(' ').cycle();
        let mut text: Vec<String> = topic.skip(n % 5).take(2 + n % 7).map(str::to_owned).collect();
        text.extend((0..n % 3).map(|m| format!("detail{}", n / 2 + m)));
        if n % 2 == 0 {
            text.push("common".to_owned());
        }
        if n % 12 == 0 {
            text.push("Villain's lairs".to_owned());
        }
        builder.push(&n.to_string(), [("title", format!("Item {}", n / 9)), ("text", text.join(" "))]).unwrap();
    }
    Arc::new(Bm25::in_memory(Arc::new(builder.finish()), Bm25Config::default()).unwrap())
}

fn rm3(config: Rm3Config) -> Rm3 {
    Rm3::new(index(), config).unwrap()
}

fn rewrite(rm3: &Rm3, query: Query) -> Rewrite {
    rm3.rewrite(&[query], Deadline::NONE).remove(0).unwrap()
}

/// The rewrite as stem to weight.
fn weights(index: &Bm25, rewrite: &Rewrite) -> BTreeMap<String, f64> {
    let terms = rewrite.text.split(' ').map(|term| {
        let (word, weight) = term.rsplit_once('^').unwrap();
        let stems: Vec<_> = index.analyzer().tokens(word).map(|t| t.stem).collect();
        assert_eq!(stems.len(), 1, "{word}");
        (stems[0].clone(), weight.parse().unwrap())
    });
    terms.collect()
}

/// The definition, term by term over the whole vocabulary.
fn brute_force(index: &Bm25, text: &str, config: &Rm3Config) -> BTreeMap<String, f64> {
    let stems = |text: &str| index.analyzer().tokens(text).map(|t| t.stem).collect::<Vec<_>>();
    let documents: Vec<Vec<String>> =
        index.catalog().documents().map(|d| d.fields().flat_map(|(_, text)| stems(text)).collect()).collect();
    let times = |words: &[String], word: &String| words.iter().filter(|w| *w == word).count() as f64;
    let allowed = |word: &String| {
        let holding = documents.iter().filter(|d| d.contains(word)).count();
        word.len() >= 2 && 10 * holding <= documents.len()
    };
    let request = Request::new(&Query::text(text), &Rewrite::plain(text), config.fb_docs);
    let hits = index.search(&request).unwrap().hits;
    let scores: f64 = hits.iter().map(|h| f64::from(h.score)).sum();
    let mut totals: BTreeMap<String, f64> = BTreeMap::new();
    for hit in &hits {
        let words = &documents[hit.doc as usize];
        let mut kept: Vec<(f64, &String)> =
            words.iter().filter(|w| allowed(w)).map(|w| (-times(words, w), w)).collect();
        kept.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
        kept.dedup();
        kept.truncate(config.fb_terms);
        let length: f64 = kept.iter().map(|k| -k.0).sum();
        for (count, word) in kept {
            *totals.entry(word.clone()).or_default() += f64::from(hit.score) / scores * -count / length;
        }
    }
    let mut model: Vec<(String, f64)> = totals.into_iter().collect();
    model.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    model.truncate(config.fb_terms);
    let sum: f64 = model.iter().map(|m| m.1).sum();
    let query = stems(text);
    let lambda = config.original_query_weight;
    let mut mixed: BTreeMap<String, f64> =
        query.iter().map(|w| (w.clone(), lambda * times(&query, w) / query.len() as f64)).collect();
    for (word, p) in model {
        *mixed.entry(word).or_default() += (1.0 - lambda) * p / sum;
    }
    mixed
}

#[test]
fn the_rewrite_holds_the_weights_of_the_definition() {
    let defaults = Rm3Config::default();
    let small = Rm3Config { fb_docs: 3, fb_terms: 4, original_query_weight: 0.8 };
    let many = Rm3Config { fb_docs: 25, fb_terms: 50, original_query_weight: 0.1 };
    for config in [defaults, small, many] {
        let rm3 = rm3(config.clone());
        for text in ["villain joker", "sailing boats boat common", "spiced detail22", "anchored villains unheard"] {
            let rewrite = rewrite(&rm3, Query::text(text));
            assert_eq!(rewrite.language, QueryLanguage::Boolean);
            let (ours, expected) = (weights(&rm3.index, &rewrite), brute_force(&rm3.index, text, &config));
            assert_eq!(
                ours.keys().collect::<Vec<_>>(),
                expected.keys().collect::<Vec<_>>(),
                "{text}: {}",
                rewrite.text
            );
            assert!(ours.len() > 4, "{text}: {}", rewrite.text);
            for (word, weight) in expected {
                assert!((ours[&word] - weight).abs() < 1e-6, "{text}: {word} {weight}");
            }
        }
    }
}

#[test]
fn the_text_of_the_rewrite_ranks_as_its_weights_say() {
    let rm3 = rm3(Rm3Config::default());
    let query = Query::text("villain joker");
    let rewrite = rewrite(&rm3, query.clone());
    let expected = weights(&rm3.index, &rewrite);
    let request = Request::new(&query, &rewrite, 40);
    let best = rm3.index.search(&request).unwrap().hits[0];
    let explanation = rm3.index.explain(&request, best.doc).unwrap();
    assert!(explanation.contributions.len() > 2);
    for part in explanation.contributions {
        let weight = expected[part.term.strip_prefix("contents:").unwrap()];
        assert!((f64::from(part.weight) - weight).abs() < 1e-6, "{} {weight}", part.term);
    }
}

#[test]
fn a_word_that_would_not_be_read_again_is_replaced_by_one_that_is() {
    let rm3 = rm3(Rm3Config::default());
    let words = BTreeMap::from([("say\"ing".to_owned(), 9), ("sailed".to_owned(), 1), ("sailing".to_owned(), 3)]);
    assert_eq!(rm3.word_for("sail", &words), Some("sailing"));
    assert_eq!(rm3.word_for("sai", &words), None);
}

#[test]
fn a_history_without_words_is_its_own_feedback() {
    let rm3 = rm3(Rm3Config::default());
    let query = Query::text("").with_history([1, 0, 12, 12, 999]);
    let rewrite = rewrite(&rm3, query.clone());
    assert!(rewrite.text.contains("villain"), "{}", rewrite.text);
    let hits = rm3.index.search(&Request::new(&query, &rewrite, 10)).unwrap().hits;
    assert!(!hits.is_empty() && hits.iter().all(|h| ![0, 1, 12].contains(&h.doc)));
}

#[test]
fn what_finds_nothing_stays_as_it_is() {
    let rm3 = rm3(Rm3Config::default());
    for text in ["", "the of", "unheard words"] {
        assert_eq!(rewrite(&rm3, Query::text(text)), Rewrite::plain(text));
    }
    let nothing = Rm3Config { fb_docs: 0, ..Rm3Config::default() };
    assert_eq!(rewrite(&self::rm3(nothing), Query::text("joker")), Rewrite::plain("joker"));
}

#[test]
fn a_late_rewrite_is_an_error_and_so_is_a_weight_beyond_one() {
    let rm3 = rm3(Rm3Config::default());
    let late = rm3.rewrite(&[Query::text("joker")], Deadline::after(std::time::Duration::ZERO));
    assert!(late[0].as_ref().is_err_and(Error::is_deadline));
    let config = Rm3Config { original_query_weight: 1.5, ..Rm3Config::default() };
    assert!(Rm3::new(index(), config).is_err_and(|e| e.to_string().starts_with("original_query_weight: 1.5")));
}

#[test]
fn those_that_share_their_first_searches_find_the_same_words() {
    let (index, searches) = (index(), FirstSearches::default());
    let config = |fb_docs, fb_terms| Rm3Config { fb_docs, fb_terms, ..Rm3Config::default() };
    for text in ["batman", "sailing gardens", "", "nothing-has-this"] {
        let query = Query::text(text).with_history([3, 4]);
        for (docs, terms) in [(10, 24), (10, 5), (3, 24)] {
            let alone = Rm3::new(index.clone(), config(docs, terms)).unwrap();
            let sharing = alone.clone().sharing(searches.clone());
            assert_eq!(sharing.terms(&query).unwrap(), alone.terms(&query).unwrap(), "{text} {docs} {terms}");
        }
    }
}

#[test]
fn the_words_of_the_best_documents_come_heaviest_first_and_are_those_of_the_rewrite() {
    let config = Rm3Config { original_query_weight: 0.0, ..Rm3Config::default() };
    let rm3 = rm3(config);
    for text in ["gotham", "roses pruning", "item"] {
        let words = rm3.words(&Query::text(text)).unwrap();
        let rewrite = rewrite(&rm3, Query::text(text));
        let of_rewrite: Vec<&str> = rewrite.text.split(' ').filter_map(|term| Some(term.rsplit_once('^')?.0)).collect();
        assert_eq!(words, of_rewrite, "{text}");
        assert!(words.len() > 1);
    }
    assert!(rm3.words(&Query::text("nothing-has-this")).unwrap().is_empty());
}
