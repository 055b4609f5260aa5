use super::*;
use crate::catalog::Dataset;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, text)| std::fs::write(folder.path().join(name), text).unwrap());
    folder
}

// Invented, with the keys of the authors' files.
const META: &str = r#"{"main_category":"All Beauty","title":"Rose soap","average_rating":4.8,"rating_number":10,"features":["Mild","No dye"],"description":["A bar."],"price":null,"images":[{"thumb":"https://x/1.jpg","variant":"MAIN"}],"videos":[],"store":"Harrow","categories":[],"details":{"UPC":"1"},"parent_asin":"B1","bought_together":null}
{"main_category":"All Beauty","title":"Pine comb","features":[],"description":[],"store":null,"categories":["Hair"],"details":{},"parent_asin":"B2"}
{"main_category":"All Beauty","title":"Never bought","features":[],"description":[],"store":null,"categories":[],"details":{},"parent_asin":"B9"}
{"main_category":"All Beauty","title":"Clay mask","features":[],"description":[],"store":"Ostrel","categories":[],"details":{},"parent_asin":"B3"}
"#;
const RATINGS: &str = "user_id,parent_asin,rating,timestamp\nU1,B1,5.0,100\nU1,B3,1.0,300\nU1,B2,4.0,200\nU2,B2,4.0,10\nU2,GONE,4.0,15\nU2,B1,5.0,20\n";

fn review(user: &str, item: &str, rating: f64, time: u64) -> String {
    format!(
        "{{\"rating\":{rating:.1},\"title\":\"t\",\"text\":\"said \\\"yes\\\"\",\"images\":[],\"asin\":\"X\",\"parent_asin\":\"{item}\",\
         \"user_id\":\"{user}\",\"timestamp\":{time},\"helpful_vote\":0,\"verified_purchase\":true}}\n"
    )
}

fn ids(data: &Dataset, split: &str) -> Vec<String> {
    data.split(split).map_or(Vec::new(), |queries| queries.into_iter().map(|query| query.id.clone()).collect())
}

#[test]
fn ratings_become_a_leave_one_out_task_over_items_that_somebody_had() {
    let headless = RATINGS.split_once('\n').unwrap().1;
    let reviews: String =
        [("U1", "B1", 5.0, 100), ("U1", "B3", 1.0, 300), ("U1", "B2", 4.0, 200), ("U2", "B2", 4.0, 10)]
            .into_iter()
            .chain([("U2", "GONE", 4.0, 15), ("U2", "B1", 5.0, 20)])
            .map(|(user, item, rating, time)| review(user, item, rating, time))
            .collect();
    for (name, text) in
        [("All_Beauty.csv", RATINGS), ("All_Beauty.csv", headless), ("All_Beauty.jsonl", reviews.as_str())]
    {
        let folder = folder(&[("meta_All_Beauty.jsonl", META), (name, text)]);
        let data = Dataset::open(folder.path()).unwrap();
        assert_eq!(data.catalog.documents().map(|item| item.id).collect::<Vec<_>>(), ["B1", "B2", "B3"]);
        let fields: Vec<_> = data.catalog.document(0).fields().collect();
        assert_eq!(
            fields,
            [("title", "Rose soap"), ("store", "Harrow"), ("features", "Mild No dye"), ("description", "A bar.")]
        );
        assert_eq!([ids(&data, "dev"), ids(&data, "test")], [vec!["U1.dev"], vec!["U1.test", "U2.test"]]);
        let test = data.split("test").unwrap()[0];
        assert_eq!((&test.history[..], test.text.as_str(), test.repeats), (&[0, 1][..], "Rose soap\nPine comb", false));
        assert_eq!(data.qrels.get("U2.test").unwrap().grade(0), Some(1));
        let counts: Vec<_> = data.warnings.iter().map(|w| (w.kind, w.count)).collect();
        assert_eq!(counts, [(WarningKind::ItemsWithoutText, 1)], "{name}");
    }
}

#[test]
fn the_authors_splits_are_kept_with_and_without_their_histories() {
    let (header, history) = ("user_id,parent_asin,rating,timestamp", ",history");
    let parts =
        [("train", "U1,B1,5.0,100", ""), ("valid", "U1,B2,4.0,200", "B1"), ("test", "U1,B3,1.0,300", "B1 GONE B2")];
    for with in [false, true] {
        let files: Vec<(String, String)> = parts
            .iter()
            .map(|(part, row, before)| match with {
                true => (format!("All_Beauty.{part}.csv"), format!("{header}{history}\n{row},{before}\n")),
                false => (format!("All_Beauty.{part}.csv"), format!("{header}\n{row}\n")),
            })
            .collect();
        let mut files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        files.push(("meta_All_Beauty.jsonl", META));
        let data = Dataset::open(folder(&files).path()).unwrap();
        assert_eq!([ids(&data, "train").len(), ids(&data, "dev").len(), ids(&data, "test").len()], [0, 1, 1]);
        assert_eq!(data.split("test").unwrap()[0].history, [0, 1], "with histories: {with}");
        assert_eq!(data.qrels.get(&ids(&data, "dev")[0]).unwrap().grade(1), Some(1));
    }
}

#[test]
fn of_a_users_reviews_of_one_item_the_earliest_counts() {
    let reviews = [review("U1", "B2", 1.0, 5), review("U1", "B1", 5.0, 2), review("U1", "B2", 5.0, 1)].concat();
    let data = Dataset::open(folder(&[("meta_A.jsonl", META), ("A.jsonl", &reviews)]).path()).unwrap();
    let test = data.split("test").unwrap()[0];
    assert_eq!((&test.history[..], data.qrels.get("U1.test").unwrap().grade(0)), (&[1][..], Some(1)));
    assert_eq!(data.warnings.iter().map(|w| (w.kind, w.count)).collect::<Vec<_>>(), [(WarningKind::LaterReviews, 1)]);
}

#[test]
fn malformed_twins_are_refused_with_file_line_and_remedy() {
    let bad_history = "user_id,parent_asin,rating,timestamp,history\nU1,,5.0,1,B1\n";
    for (name, text, words) in [
        ("A.csv", "user_id,parent_asin,rating\nU1,B1,5\n", "A.csv:1: there is no column timestamp among"),
        (
            "A.csv",
            "user_id,parent_asin,rating,timestamp\nU1,B1,5,noon\nU1,B1\n",
            "A.csv:2: the timestamp is \"noon\" (and 1 more line 3: found 2 columns",
        ),
        ("A.csv", "user_id,parent_asin,rating,timestamp\nU1,,5,1\n", "A.csv:2: parent_asin is empty"),
        ("A.test.csv", bad_history, "A.test.csv:2: user_id or parent_asin is empty"),
        (
            "A.jsonl",
            "{\"user_id\":\"U1\",\"rating\":5.0,\"timestamp\":1}\n",
            "A.jsonl:1: missing field `parent_asin`; a review has",
        ),
        (
            "meta_A.jsonl",
            "{\"title\":\"x\"}\n{\"parent_asin\":7}\n[]\n",
            "meta_A.jsonl:1: there is no \"parent_asin\" (and 2 more lines 2: \"parent_asin\" is a number; 3: found a list)",
        ),
        ("meta_B.jsonl", META, "there are several files meta_NAME.jsonl"),
    ] {
        let mut good = vec![("meta_A.jsonl", META)];
        // Reviews are read where there are no ratings.
        if name != "A.jsonl" {
            good.push(("A.csv", RATINGS));
        }
        let folder = folder(&good);
        std::fs::write(folder.path().join(name), text).unwrap();
        let error = Dataset::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(words), "{name}: {error}");
    }
    let error = Dataset::open(folder(&[("meta_A.jsonl", META)]).path()).unwrap_err().to_string();
    assert!(error.contains("nothing that says who had these items") && error.contains("A.train.csv"), "{error}");
}
