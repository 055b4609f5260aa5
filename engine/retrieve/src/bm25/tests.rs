use std::collections::HashMap;
use std::fs;

use proptest::prelude::*;

use super::*;
use querywright_data::catalog::CatalogBuilder;
use querywright_text::query::MOST_TERMS;

const FILMS: [(&str, &str, &str); 6] = [
    ("The Dark Knight", "Batman fights the Joker in Gotham", "action crime"),
    ("Batman Begins", "A young Bruce Wayne becomes Batman", "action"),
    ("Knight of the Dark", "A horror film about knights", "horror"),
    ("Bank of America", "Two robbers and a bank", "crime comedy"),
    ("America", "A bank holiday comedy about a crime", "comedy"),
    ("Joker", "", "crime drama"),
];

fn catalog(rows: &[(&str, &str, &str)]) -> Arc<Catalog> {
    let mut builder = CatalogBuilder::new();
    for (n, (title, text, genres)) in rows.iter().enumerate() {
        builder.push(&format!("f{n}"), [("title", *title), ("text", *text), ("genres", *genres)]).unwrap();
    }
    Arc::new(builder.finish())
}

fn films() -> Bm25 {
    Bm25::in_memory(catalog(&FILMS), Bm25Config::default()).unwrap()
}

fn request(text: &str, language: QueryLanguage) -> Request {
    Request::plain(text, 100).with_language(language)
}

fn boolean(index: &Bm25, text: &str) -> Vec<Ordinal> {
    let mut found = documents(&index.search(&request(text, QueryLanguage::Boolean)).unwrap());
    found.sort_unstable();
    found
}

fn plain(index: &Bm25, text: &str) -> Vec<Ordinal> {
    documents(&index.search(&request(text, QueryLanguage::Plain)).unwrap())
}

fn documents(ranking: &Ranking) -> Vec<Ordinal> {
    ranking.hits.iter().map(|hit| hit.doc).collect()
}

#[derive(serde::Deserialize)]
struct Golden {
    documents: Vec<String>,
    queries: Vec<String>,
    settings: Vec<GoldenSetting>,
}

#[derive(serde::Deserialize)]
struct GoldenSetting {
    k1: f32,
    b: f32,
    scores: Vec<Vec<f64>>,
}

#[test]
fn scores_are_those_of_bm25s_for_any_k1_and_b() {
    let golden = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/bm25.json"));
    let golden: Golden = serde_json::from_str(golden).unwrap();
    let mut builder = CatalogBuilder::new();
    for (n, text) in golden.documents.iter().enumerate() {
        builder.push(&n.to_string(), [("text", text)]).unwrap();
    }
    let catalog = Arc::new(builder.finish());
    for setting in &golden.settings {
        let config = Bm25Config { k1: setting.k1, b: setting.b, ..Bm25Config::default() };
        let index = Bm25::in_memory(catalog.clone(), config).unwrap();
        for (query, scores) in golden.queries.iter().zip(&setting.scores) {
            let ranking = index.search(&request(query, QueryLanguage::Plain)).unwrap();
            let ours: HashMap<Ordinal, f32> = ranking.hits.iter().map(|h| (h.doc, h.score)).collect();
            for (doc, &theirs) in scores.iter().enumerate() {
                let ours = ours.get(&(doc as Ordinal)).map_or(0.0, |s| f64::from(*s));
                assert!((ours - theirs).abs() < 1e-5, "{query:?} k1 {} document {doc}: {ours}, {theirs}", setting.k1);
            }
        }
    }
}

/// The formula over all terms of all fields, by scanning the texts.
fn brute_force(index: &Bm25, query: &str) -> Vec<f64> {
    let (k1, b) = (f64::from(index.config.k1), f64::from(index.config.b));
    let stems = |text: &str| index.analyzer.tokens(text).map(|t| t.stem).collect::<Vec<_>>();
    let texts: Vec<Vec<String>> = (0..index.catalog.len() as Ordinal)
        .map(|d| index.catalog.document(d).fields().flat_map(|(_, text)| stems(text)).collect())
        .collect();
    let filled = texts.iter().filter(|t| !t.is_empty()).count() as f64;
    let average = texts.iter().map(Vec::len).sum::<usize>() as f64 / filled;
    let mut scores = vec![0.0; texts.len()];
    for term in stems(query) {
        let holding = texts.iter().filter(|t| t.contains(&term)).count() as f64;
        let idf = (1.0 + (filled - holding + 0.5) / (holding + 0.5)).ln();
        for (score, text) in scores.iter_mut().zip(&texts) {
            let tf = text.iter().filter(|t| **t == term).count() as f64;
            *score += idf * tf / (tf + k1 * (1.0 - b + b * text.len() as f64 / average));
        }
    }
    scores
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn ranking_exclusion_and_ties_are_those_of_a_scan_over_all_documents(
        texts in prop::collection::vec("([abcdefg]{1,2}x ){0,12}", 1..150),
        query in "([abcdefg]{1,2}x ){1,6}",
        exclude in prop::collection::vec(0_u32..160, 0..20),
        k in 0_usize..160,
    ) {
        let mut builder = CatalogBuilder::new();
        for (n, text) in texts.iter().enumerate() {
            let (title, body) = text.split_at(text.len() / 2);
            builder.push(&n.to_string(), [("title", title), ("text", body)]).unwrap();
        }
        let index = Bm25::in_memory(Arc::new(builder.finish()), Bm25Config::default()).unwrap();
        let mut expected: Vec<(Ordinal, f32)> = brute_force(&index, &query)
            .into_iter()
            .enumerate()
            .map(|(d, s)| (d as Ordinal, s as f32))
            .filter(|(d, s)| *s > 0.0 && !exclude.contains(d))
            .collect();
        expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let found = index.search(&request(&query, QueryLanguage::Plain).with_exclude(exclude).with_k(k)).unwrap();
        prop_assert_eq!(found.hits.len(), expected.len().min(k));
        for (hit, expected) in found.hits.iter().zip(&expected) {
            prop_assert!((hit.score - expected.1).abs() < 1e-5);
        }
        for pair in found.hits.windows(2) {
            prop_assert!(pair[0].score > pair[1].score || (pair[0].score == pair[1].score && pair[0].doc < pair[1].doc));
        }
    }

    #[test]
    fn no_text_raises_an_error_in_any_language(text in "(\\PC|[()\"^:+ -]|AND |OR |NOT |title:|dark |\\^2){0,60}") {
        let index = films();
        for language in [QueryLanguage::Plain, QueryLanguage::Boolean, QueryLanguage::Natural] {
            let ranking = index.search(&request(&text, language)).unwrap();
            prop_assert!(ranking.hits.iter().all(|hit| hit.score.is_finite()));
            let explained = index.explain(&request(&text, language), 0).unwrap();
            let score = ranking.hits.iter().find(|hit| hit.doc == 0).map_or(0.0, |hit| hit.score);
            prop_assert!((explained.score - score).abs() <= 1e-4 * score.max(1.0), "{} {}", explained, score);
        }
    }
}

#[test]
fn boolean_operators_select_documents() {
    let index = films();
    assert_eq!(boolean(&index, "batman AND joker"), [0]);
    assert_eq!(boolean(&index, "batman joker"), [0, 1, 5]);
    assert_eq!(boolean(&index, "batman NOT joker"), [1]);
    assert_eq!(boolean(&index, "(batman OR bank) AND NOT (begins OR comedy)"), [0]);
    assert_eq!(boolean(&index, "+joker -batman"), [5]);
    assert_eq!(boolean(&index, "+joker batman"), [0, 5]);
    assert_eq!(boolean(&index, "batman AND xyzzy"), [] as [u32; 0]);
}

#[test]
fn phrases_need_their_words_in_order_and_within_one_field() {
    let index = films();
    assert_eq!(boolean(&index, "\"dark knight\""), [0]);
    assert_eq!(boolean(&index, "\"knight of the dark\""), [2]);
    assert_eq!(boolean(&index, "\"bank of america\""), [3]);
    assert_eq!(boolean(&index, "\"bank america\""), [] as [u32; 0], "the stop word between them keeps its place");
    assert_eq!(boolean(&index, "\"knight batman\""), [] as [u32; 0], "title and text do not run into each other");
}

#[test]
fn a_field_restricts_the_words_behind_it() {
    let index = films();
    assert_eq!(boolean(&index, "title:joker"), [5]);
    assert_eq!(boolean(&index, "GENRES:crime AND title:(dark america)"), [0, 3]);
    assert_eq!(boolean(&index, "contents:joker"), [0, 5]);
    assert_eq!(boolean(&index, "director:joker"), [0, 5], "an unknown field is a plain word");
}

#[test]
fn clauses_of_stop_words_are_ignored_and_a_query_of_nothing_but_not_is_taken_as_plain_words() {
    let index = films();
    assert_eq!(boolean(&index, "the AND joker"), [0, 5]);
    assert_eq!(boolean(&index, "joker AND (the OR \"of the\")"), [0, 5]);
    assert_eq!(boolean(&index, "NOT joker"), [0, 5]);
    assert_eq!(boolean(&index, "the NOT joker"), [0, 5]);
    for nothing in ["", "the of", "()", "NOT", "AND \"", "!!!"] {
        assert_eq!(boolean(&index, nothing), [] as [u32; 0], "{nothing:?}");
        assert_eq!(plain(&index, nothing), [] as [u32; 0], "{nothing:?}");
    }
}

#[test]
fn boosts_multiply_the_score_of_their_part() {
    let index = films();
    let score = |text: &str| index.search(&request(text, QueryLanguage::Boolean)).unwrap().hits[0].score;
    assert!((score("(title:joker^2)^3") / score("title:joker") - 6.0).abs() < 1e-5);
    assert!((score("joker joker") / score("joker^2") - 1.0).abs() < 1e-6);
    assert_eq!(boolean(&index, "joker^0 AND batman"), [0], "a boost of 0 still matches");
    assert!(score(&format!("{}joker{}", "(".repeat(30), ")^1000".repeat(30))).is_finite());
}

#[test]
fn plain_language_gives_operators_no_meaning() {
    let index = films();
    assert_eq!(plain(&index, "batman AND joker").len(), 3);
    assert_eq!(plain(&index, "\"dark knight\" -joker").len(), 3);
}

#[test]
fn excluded_items_never_appear_and_k_is_filled_from_the_others() {
    let index = films();
    let all = plain(&index, "batman joker crime");
    let request = request("batman joker crime", QueryLanguage::Plain).with_exclude([all[0], 77]).with_k(3);
    assert_eq!(documents(&index.search(&request).unwrap()), all[1..4]);
    let none = request.clone().with_k(0);
    assert_eq!(index.search(&none).unwrap(), Ranking::default());
    let endless = request.with_k(usize::MAX);
    assert_eq!(index.search(&endless).unwrap().hits.len(), all.len() - 1);
}

#[test]
fn a_batch_is_answered_in_order_and_like_single_requests() {
    let index = films();
    let requests: Vec<Request> =
        ["batman", "joker", "", "crime", "dark knight"].map(|t| request(t, QueryLanguage::Plain)).to_vec();
    let single: Vec<_> = requests.iter().map(|r| index.search(r)).collect();
    assert_eq!(index.retrieve(&requests, Deadline::NONE), single);
    assert_eq!(index.retrieve(&requests[..1], Deadline::NONE), single[..1]);
}

#[test]
fn terms_beyond_the_limit_are_not_searched_for() {
    let index = films();
    let filler = "filler ".repeat(MOST_TERMS - 1);
    assert_eq!(plain(&index, &format!("{filler} begins joker")), [1]);
    assert_eq!(boolean(&index, &format!("{filler} \"begins joker\" joker")), [1], "the phrase is cut to one word");
}

#[test]
fn an_explanation_adds_up_to_the_score() {
    let index = films();
    let request = request("title:(dark knight)^2 joker \"bruce wayne\" NOT bank", QueryLanguage::Boolean);
    let ranking = index.search(&request).unwrap();
    for hit in &ranking.hits {
        let explanation = index.explain(&request, hit.doc).unwrap();
        assert!((explanation.score - hit.score).abs() < 1e-5);
    }
    let explanation = index.explain(&request, 0).unwrap();
    let terms: Vec<&str> = explanation.contributions.iter().map(|c| c.term.as_str()).collect();
    assert_eq!(terms, ["title:dark", "title:knight", "contents:joker"]);
    assert!(explanation.to_string().contains("title:dark  (weight 2 * idf"), "{explanation}");
    let forbidden = index.explain(&request, 3).unwrap();
    assert!(!forbidden.matches && forbidden.contributions.is_empty() && forbidden.to_string().contains("no match"));
}

#[test]
fn the_compatibility_mode_loses_the_first_word_and_ignores_operators() {
    let config = Bm25Config { rec_r1_contents_prefix: true, ..Bm25Config::default() };
    let index = Bm25::in_memory(catalog(&FILMS), config).unwrap();
    let boolean = |text: &str| documents(&index.search(&request(text, QueryLanguage::Boolean)).unwrap());
    assert_eq!(boolean("batman AND begins"), [1], "batman is lost, AND is a stop word");
    assert_eq!(boolean("joker"), [] as [u32; 0]);
    assert_eq!(boolean("(joker)"), [5, 0], "a bracket in front saves the word");
    let mut found = boolean("(batman NOT joker)");
    found.sort_unstable();
    assert_eq!(found, [0, 1, 5], "NOT forbids nothing");
}

#[test]
fn settings_without_meaning_are_refused_with_their_name() {
    let refused = |config: Bm25Config| Bm25::in_memory(catalog(&FILMS), config).unwrap_err().to_string();
    assert!(refused(Bm25Config { k1: f32::NAN, ..Bm25Config::default() }).starts_with("k1: NaN"));
    assert!(refused(Bm25Config { b: 1.5, ..Bm25Config::default() }).starts_with("b: 1.5"));
    let natural = Bm25Config { language: QueryLanguage::Natural, ..Bm25Config::default() };
    assert!(refused(natural).starts_with("language: natural"));
    assert!(serde_json::from_str::<Bm25Config>(r#"{"k2": 1}"#).is_err());
    for name in ["rec_r1_contents_prefix", "rec-r1-contents-prefix"] {
        let json = format!(r#"{{"k1": 0.9, "language": "boolean", "{name}": true}}"#);
        let config: Bm25Config = serde_json::from_str(&json).unwrap();
        assert!(config.rec_r1_contents_prefix && config.b == 0.75 && config.language == QueryLanguage::Boolean);
    }
    let written = serde_json::to_value(Bm25Config::default()).unwrap();
    assert_eq!(written["rec_r1_contents_prefix"], false);
}

#[test]
fn the_card_changes_its_digest_with_whatever_changes_rankings() {
    let card = |rows: &[(&str, &str, &str)], config: Bm25Config| Bm25::in_memory(catalog(rows), config).unwrap().card;
    let usual = card(&FILMS, Bm25Config::default());
    assert_eq!(usual.digest, card(&FILMS, Bm25Config::default()).digest);
    assert_ne!(usual.digest, card(&FILMS[..5], Bm25Config::default()).digest);
    assert_ne!(usual.digest, card(&FILMS, Bm25Config { b: 0.4, ..Bm25Config::default() }).digest);
    assert_eq!(usual.fields, ["title", "text", "genres"]);
    let boolean = Bm25Config { language: QueryLanguage::Boolean, ..Bm25Config::default() };
    assert_eq!(card(&FILMS, boolean).languages, [QueryLanguage::Boolean, QueryLanguage::Plain]);
}

#[test]
fn a_catalogue_without_documents_or_without_words_is_searched_in_vain() {
    for rows in [&[][..], &[("", "", ""), ("the", "!", "")]] {
        let index = Bm25::in_memory(catalog(rows), Bm25Config::default()).unwrap();
        assert_eq!(plain(&index, "joker"), [] as [u32; 0]);
        assert_eq!(boolean(&index, "title:joker OR \"a joker\""), [] as [u32; 0]);
    }
}

/// The one index folder in `folder`.
fn only_index(folder: &Path) -> std::path::PathBuf {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    names.retain(|name| !name.file_name().unwrap().to_string_lossy().starts_with(".lock-"));
    assert_eq!(names.len(), 1, "{names:?}");
    names[0].clone()
}

fn on_disk(folder: &Path) -> Bm25 {
    Bm25::open_or_build(catalog(&FILMS), Bm25Config::default(), folder).unwrap()
}

#[test]
fn an_index_on_disk_is_opened_again_without_building_it() {
    let folder = tempfile::tempdir().unwrap();
    let expected = films().search(&request("dark knight batman", QueryLanguage::Plain));
    let built = on_disk(folder.path());
    assert_eq!(built.search(&request("dark knight batman", QueryLanguage::Plain)), expected);
    let manifest = only_index(folder.path()).join("manifest.json");
    let written = fs::metadata(&manifest).unwrap().modified().unwrap();
    let other = Bm25Config { k1: 0.9, b: 0.4, ..Bm25Config::default() };
    Bm25::open_or_build(catalog(&FILMS), other, folder.path()).unwrap();
    let opened = on_disk(folder.path());
    assert_eq!(opened.search(&request("dark knight batman", QueryLanguage::Plain)), expected);
    assert_eq!(fs::metadata(&manifest).unwrap().modified().unwrap(), written);
    assert_eq!(opened.card().digest, films().card().digest);
}

#[test]
fn an_index_of_another_catalogue_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    on_disk(folder.path());
    let less = Bm25::open_or_build(catalog(&FILMS[..5]), Bm25Config::default(), folder.path()).unwrap();
    assert_eq!(plain(&less, "drama"), [] as [u32; 0]);
    assert_eq!(plain(&on_disk(folder.path()), "drama"), [5]);
}

/// The files of the one index. Tantivy gives them new random names with every build; their order stays.
fn index_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(only_index(folder)).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| !f.file_name().unwrap().to_string_lossy().starts_with('.'));
    files.sort_by_key(|f| (f.extension().map(|e| e.to_owned()), f.clone()));
    files
}

#[test]
fn an_index_with_a_byte_that_changed_anywhere_is_built_anew() {
    let folder = tempfile::tempdir().unwrap();
    on_disk(folder.path());
    for nth in 0..index_files(folder.path()).len() {
        let file = &index_files(folder.path())[nth];
        let mut bytes = fs::read(file).unwrap();
        let Some(middle) = bytes.len().checked_sub(1).map(|last| last / 2) else { continue };
        bytes[middle] ^= 0x10;
        fs::write(file, &bytes).unwrap();
        assert_eq!(plain(&on_disk(folder.path()), "drama"), [5], "{file:?}");
        assert_ne!(fs::read(file).ok(), Some(bytes), "{file:?} is used although it is damaged");
    }
}

#[test]
fn an_index_of_before_digests_were_kept_still_opens() {
    let folder = tempfile::tempdir().unwrap();
    on_disk(folder.path());
    let path = only_index(folder.path()).join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert!(!manifest.as_object_mut().unwrap().remove("sha256").unwrap().as_object().unwrap().is_empty());
    fs::write(&path, manifest.to_string()).unwrap();
    assert_eq!(plain(&on_disk(folder.path()), "drama"), [5]);
    assert_eq!(fs::read(&path).unwrap(), manifest.to_string().into_bytes());
}

#[test]
fn an_index_that_was_cut_off_anywhere_is_built_anew() {
    let folder = tempfile::tempdir().unwrap();
    on_disk(folder.path());
    let files = || index_files(folder.path());
    let count = files().len();
    assert!(count > 5, "{:?}", files());
    for nth in 0..count {
        let file = &files()[nth];
        let length = fs::metadata(file).unwrap().len();
        fs::OpenOptions::new().write(true).open(file).unwrap().set_len(length / 2).unwrap();
        assert_eq!(plain(&on_disk(folder.path()), "drama"), [5], "{file:?} cut in half");
        let file = &files()[nth];
        fs::remove_file(file).unwrap();
        assert_eq!(plain(&on_disk(folder.path()), "drama"), [5], "{file:?} missing");
        assert_eq!(files().len(), count);
    }
    only_index(folder.path());
}

#[test]
fn a_half_written_neighbour_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    on_disk(folder.path());
    let place = only_index(folder.path());
    let half = folder.path().join(".building-0123456789abcdef-1-0");
    fs::rename(&place, &half).unwrap();
    fs::remove_file(half.join("manifest.json")).unwrap();
    assert_eq!(plain(&on_disk(folder.path()), "drama"), [5]);
    assert!(half.exists(), "it may belong to a process that is still at work");
}

#[test]
fn many_that_build_at_once_all_get_a_whole_index() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..6 {
        std::thread::scope(|scope| {
            let builders: Vec<_> = (0..6).map(|_| scope.spawn(|| plain(&on_disk(folder.path()), "drama"))).collect();
            builders.into_iter().for_each(|b| assert_eq!(b.join().unwrap(), [5]));
        });
        // The next round begins with a damaged index instead of none.
        let manifest = only_index(folder.path()).join("manifest.json");
        fs::write(manifest, if round == 0 { "{}" } else { "" }).unwrap();
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_named_in_the_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let error = Bm25::open_or_build(catalog(&FILMS), Bm25Config::default(), &file).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("file"), "{error}");
}
