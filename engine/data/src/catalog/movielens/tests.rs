use crate::catalog::Dataset;

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, bytes)| std::fs::write(folder.path().join(name), bytes).unwrap());
    folder
}

// Invented; the first title is in Latin-1, as in GroupLens' own file.
const ITEM: &[u8] = b"1|Le d\xe9luge (1995)|01-Jan-1995||http://x/?Le%20d|0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n\
2|Quiet Harbour, The (1996)|01-Jan-1996||http://x|0|0|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0\n\
3|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n";
const DATA: &[u8] = b"7\t3\t4\t881250949\n7\t1\t3\t881250000\n8\t2\t5\t1\n8\t1\t1\t2\n7\t2\t1\t881250948\n";

const COLONS: [(&str, &[u8]); 2] = [
    (
        "movies.dat",
        b"1::Le d\xe9luge (1995)::Animation|Comedy\n2::Harbour: the Movie (1996)::Drama\n3::Third (1997)::Drama\n",
    ),
    ("ratings.dat", b"7::3::4::978300760\n7::1::3::978300000\n8::2::5::1\n8::1::1::2\n7::2::1::978300001\n"),
];
const COMMAS: [(&str, &[u8]); 2] = [
    (
        "movies.csv",
        "movieId,title,genres\n1,\"Le déluge, \"\"all of it\"\" (1995)\",Animation|Comedy\n2,Harbour (1996),(no genres listed)\n3,Third (1997),Drama\n"
            .as_bytes(),
    ),
    (
        "ratings.csv",
        b"userId,movieId,rating,timestamp\r\n7,3,4.5,1147880044\r\n7,1,3.0,1147868817\r\n8,2,5.0,1\r\n8,1,0.5,2\r\n7,2,1.0,1147868828\r\n",
    ),
];

#[test]
fn every_release_becomes_the_same_leave_one_out_task() {
    let releases = [[("u.item", ITEM), ("u.data", DATA)], COLONS, COMMAS];
    let titles = ["Le déluge (1995)", "Le déluge (1995)", "Le déluge, \"all of it\" (1995)"];
    let genres = ["Animation, Children's, Comedy", "Animation, Comedy", "Animation, Comedy"];
    for ((files, title), genre) in releases.iter().zip(titles).zip(genres) {
        let folder = folder(files);
        let data = Dataset::open(folder.path()).unwrap();
        let first = data.catalog.document(0);
        assert_eq!((first.title(), first.field("genres")), (title, Some(genre)));
        // User 7 had film 1, then 2, then 3; user 8 film 2, then 1.
        let splits = ["train", "dev", "test"].map(|split| data.split(split).map_or(0, |queries| queries.len()));
        assert_eq!((splits, data.warnings.len()), ([0, 1, 2], 0));
        let test = data.split("test").unwrap();
        assert_eq!((test[0].id.as_str(), &test[0].history[..]), ("7.test", &[0, 1][..]));
        assert_eq!(data.qrels.get("7.test").unwrap().grade(2), Some(1));
        assert_eq!(data.qrels.get("8.test").unwrap().grade(0), Some(1));
        assert!(!test[0].repeats, "the history is excluded");
    }
}

#[test]
fn ratings_below_the_least_are_no_interactions() {
    let folder = folder(&COMMAS);
    std::fs::write(folder.path().join("querywright.toml"), "least_rating = 3.0").unwrap();
    let data = Dataset::open(folder.path()).unwrap();
    let test = data.split("test").unwrap();
    assert_eq!((test.len(), &test[0].history[..], data.split("dev").is_err()), (1, &[0][..], true));
}

/// The files of a folder, the one that is wrong, what it holds, and what is said of it.
type Twin<'a> = (&'a [(&'a str, &'a [u8])], &'a str, &'a [u8], &'a str);

#[test]
fn malformed_twins_are_refused_with_file_line_and_remedy() {
    let table: [Twin<'_>; 9] = [
        (
            &[("u.item", ITEM), ("u.data", DATA)],
            "u.data",
            b"7\t3\t4\n",
            "u.data:1: found 3 columns in \"7\t3\t4\"; expected 4: user, item",
        ),
        (
            &[("u.item", ITEM), ("u.data", DATA)],
            "u.item",
            b"1|A\n",
            "u.item:1: found 2 parts in \"1|A\"; expected 5 parts or more",
        ),
        (
            &[("u.item", ITEM), ("u.data", DATA)],
            "u.item",
            b"1|A|||\n1|B|||\n",
            "u.item:2: the id \"1\" was given to document 1 before",
        ),
        (&COLONS, "ratings.dat", b"7::9::4::1\n", "ratings.dat:1: the film \"9\" is not among the films"),
        (
            &COLONS,
            "ratings.dat",
            b"7::1::4::noon\n7::1::x::1\n",
            "ratings.dat:1: the timestamp is \"noon\" (and 1 more line 2: the rating is \"x\")",
        ),
        (&COLONS, "movies.dat", b"1,A,Drama\n", "movies.dat:1: found 1 parts in \"1,A,Drama\"; expected 3 parts"),
        (
            &COMMAS,
            "ratings.csv",
            b"userId,movieId,rating\n7,1,3\n",
            "ratings.csv:1: there is no column timestamp among userId, movieId, rating",
        ),
        (&COMMAS, "movies.csv", b"movieId,title,genres\n1,A, B,Drama\n", "movies.csv:2: found 4 columns; expected 3"),
        (
            &COMMAS,
            "ratings.csv",
            b"userId,movieId,rating,timestamp\n7,1,3,1\n8,2,3,1\n",
            "no user has more than one interaction",
        ),
    ];
    for (good, name, bytes, words) in table {
        let folder = folder(good);
        Dataset::open(folder.path()).unwrap();
        std::fs::write(folder.path().join(name), bytes).unwrap();
        let error = Dataset::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(words), "{name}: {error}");
    }
    let folder = folder(&[("u.data", DATA)]);
    let error = Dataset::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("there is u.data, and no u.item"), "{error}");
}
