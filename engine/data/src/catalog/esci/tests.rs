use querywright_testing::golden;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{EXAMPLES, PRODUCTS};
use crate::catalog::{Dataset, OpenOptions, WarningKind};

/// A copy of a golden folder, with these settings.
fn copy(name: &str, settings: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in [EXAMPLES, PRODUCTS] {
        std::fs::copy(golden(name).join(file), folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("querywright.toml"), settings).unwrap();
    folder
}

fn sizes(data: &Dataset) -> [usize; 3] {
    ["train", "dev", "test"].map(|split| data.split(split).map_or(0, |queries| queries.len()))
}

#[test]
fn the_ranking_task_is_read_with_grades_in_proportion_to_the_official_gains() {
    let data = Dataset::open(golden("esci")).unwrap();
    assert_eq!((data.catalog.len(), sizes(&data)), (72, [17, 1, 9]));
    let first = data.catalog.document(0);
    assert_eq!(data.catalog.field_names(), ["title", "text", "bullets", "color", "brand"]);
    assert!(first.id == "B000000000" && first.title().contains("kettle"), "{first:?}");
    let test = data.split("test").unwrap()[0];
    assert!(test.id == "1014" && test.text.contains("stroller"), "{test:?}");
    let grades: Vec<i32> = data.qrels.get("1014").unwrap().iter().map(|(_, grade)| grade).collect();
    assert!(grades.iter().all(|grade| [0, 1, 10, 100].contains(grade)) && grades.contains(&10), "{grades:?}");
    let counts: Vec<_> = data.warnings.iter().map(|w| (w.kind, w.count)).collect();
    // One judged product is sold no more, and one query of train is asked in test too.
    assert_eq!(counts, [(WarningKind::TestedText, 1), (WarningKind::AbsentDocuments, 1)]);
    let held: Vec<String> = data.split("test").unwrap().iter().map(|query| query.text.to_lowercase()).collect();
    assert!(data.split("train").unwrap().iter().all(|query| !held.contains(&query.text.to_lowercase())));
    let refused = Dataset::open_with(golden("esci"), OpenOptions::default().strict(true)).unwrap_err().to_string();
    assert!(refused.contains("the document \"B0GONE\" is not in the corpus"), "{refused}");
}

#[test]
fn settings_choose_locale_version_and_grades() {
    let data = Dataset::open(copy("esci", "locale = \"es\"").path()).unwrap();
    assert_eq!((data.catalog.len(), sizes(&data), data.queries[0].text.as_str()), (1, [0, 0, 1], "manta de lana"));
    let data = Dataset::open(copy("esci", "version = \"large\"").path()).unwrap();
    assert_eq!(sizes(&data), [18, 1, 10]);
    let data = Dataset::open(copy("esci", "grades = \"exact\"").path()).unwrap();
    let relevant = |id: &str| data.qrels.get(id).unwrap().relevant();
    assert!(
        data.queries.len() == 18 && data.queries.iter().all(|query| relevant(&query.id) > 0),
        "others are left out"
    );
    assert!(data.qrels.iter().all(|(_, judged)| judged.iter().all(|(_, grade)| [0, 1].contains(&grade))));
    for (settings, words) in [
        ("locale = \"de\"", "querywright.toml:1: unknown variant `de`, expected one of `us`, `es`, `jp`"),
        ("\nlocal = \"us\"", "querywright.toml:2: unknown field `local`"),
        ("least_rating = 3.0", "least_rating is set, and ESCI has nothing"),
    ] {
        let error = Dataset::open(copy("esci", settings).path()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_malformed_twin_is_refused_with_the_first_ten_rows_and_the_number_of_all() {
    let error = Dataset::open(golden("esci-malformed")).unwrap_err().to_string();
    assert!(
        error.contains("_examples.parquet:2: the esci_label is \"bad0\" (and 16 more lines, the first of them 3: "),
        "{error}"
    );
    assert!(error.contains("11: the esci_label is \"bad9\"") && !error.contains("bad10"), "{error}");
    assert!(error.contains("a label is E, S, C or I"), "{error}");
}

#[test]
fn a_copy_of_the_repository_is_read_and_a_file_that_is_missing_is_named() {
    let root = tempfile::tempdir().unwrap();
    let inner = root.path().join("shopping_queries_dataset");
    std::fs::create_dir(&inner).unwrap();
    std::fs::copy(golden("esci").join(EXAMPLES), inner.join(EXAMPLES)).unwrap();
    let error = Dataset::open(root.path()).unwrap_err().to_string();
    assert!(error.contains(PRODUCTS) && error.contains("the file is missing"), "{error}");
    std::fs::copy(golden("esci").join(PRODUCTS), inner.join(PRODUCTS)).unwrap();
    assert_eq!(sizes(&Dataset::open(root.path()).unwrap()), [17, 1, 9]);
    // What git leaves where its large files were not fetched.
    std::fs::write(
        inner.join(PRODUCTS),
        "version https://git-lfs.github.com/spec/v1\noid sha256:25124\nsize 1108857465\n",
    )
    .unwrap();
    let error = Dataset::open(root.path()).unwrap_err().to_string();
    assert!(error.contains("a pointer of git-lfs") && error.contains("git lfs pull"), "{error}");
}

#[test]
fn columns_that_are_missing_are_named() {
    let folder = copy("esci", "");
    std::fs::copy(golden("esci").join(PRODUCTS), folder.path().join(EXAMPLES)).unwrap();
    let error = Dataset::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("there is no column query_id among product_id, product_title"), "{error}");
}

#[test]
fn damaged_files_never_bring_the_reader_down() {
    let whole = std::fs::read(golden("esci").join(EXAMPLES)).unwrap();
    let folder = copy("esci", "");
    let open = |bytes: &[u8]| {
        std::fs::write(folder.path().join(EXAMPLES), bytes).unwrap();
        Dataset::open(folder.path()).map(drop).map_err(|error| error.to_string())
    };
    for cut in [0, 3, 100, whole.len() / 2, whole.len() - 1] {
        let error = open(&whole[..cut]).unwrap_err();
        assert!(error.contains("examples.parquet"), "{error}");
    }
    let mut random = ChaCha8Rng::seed_from_u64(11);
    for _ in 0..100 {
        let mut bytes = whole.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
        }
        drop(open(&bytes));
    }
}
