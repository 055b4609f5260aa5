use querywright_testing::postgres::Postgres;

use super::*;

const SHOP: &str = "
    CREATE TABLE shop (id text PRIMARY KEY, name text, title tsvector, text tsvector);
    INSERT INTO shop SELECT id, name, to_tsvector('english', name), to_tsvector('english', description) FROM (VALUES
        ('d1', 'steel kettle', 'boils water for tea'),
        ('d2', 'wool blanket', 'warm feet in the night'),
        ('d3', 'tea pot', 'a pot of steel'),
        ('d4', 'solar lantern', 'light in the dark, and no kettle'),
        ('d5', 'it''s', 'null and void'),
        ('d6', NULL, 'a spatula and a whisk')) AS shop (id, name, description);
";

#[test]
fn a_real_server_finds_what_each_query_means_and_no_text_is_read_as_sql() {
    let Some(server) = Postgres::start() else { return };
    server.run(SHOP);
    let connected = Connected::new(&config("postgres", &server.url, "title = \"name\"")).unwrap();
    let ask = |request: Request| {
        let ranking = retrieve(&connected, &[request], Deadline::after(Duration::from_secs(20))).remove(0);
        ids(&connected, &ranking)
    };
    let plain = |text: &str| ask(Request::plain(text, 10));
    // A word of a title counts more than twice as much as one of a text.
    assert_eq!(plain("steel"), ["d1", "d3"]);
    assert_eq!(plain("the kettles"), ["d1", "d4"]);
    assert_eq!(plain("steel tea pot")[0], "d3");
    let find = |text: &str| {
        let mut found = ask(boolean(text, 10));
        found.sort();
        found.join(" ")
    };
    assert_eq!(find("steel AND tea"), "d1 d3");
    assert_eq!(find("steel AND NOT pot"), "d1");
    assert_eq!(find("the AND kettle"), "d1 d4", "what the text search leaves out asks nothing");
    assert_eq!(find("title:kettle"), "d1");
    assert_eq!(find("\"pot of steel\""), "d3");
    assert_eq!(find("\"steel pot\""), "");
    assert_eq!(find("(title:tea OR text:warm) AND NOT (wool lantern)"), "d3");
    assert_eq!(ask(boolean("lantern blanket^9", 10)), ["d2", "d4"]);
    assert_eq!(ask(boolean("lantern^9 blanket", 1)), ["d4"]);
    assert_eq!(find("the"), "");
    assert_eq!(find("kettle AND (the of)"), "d1 d4");
    // A column may be null: it matches nothing, and forbids nothing.
    assert_eq!((find("spatula"), find("whisk AND NOT kettle")), ("d6".to_owned(), "d6".to_owned()));
    let nested = "(".repeat(14) + "kettle" + &"^1000)".repeat(14);
    assert_eq!(find(&nested), "d1 d4");
    for text in ["'; DROP TABLE shop; --", "it's", "$1 %s \\ ' \" \0 & | ! <-> :*", "NOT", "a:b:c", "((("] {
        let _ = (plain(text), find(text));
    }
    assert_eq!(plain("kettle"), ["d1", "d4"]);
    assert_eq!(connected.document(connected.ordinal("d1").unwrap()).unwrap().title, "steel kettle");

    // Many at once, over connections that are kept; what is excluded is taken out.
    let steel = connected.ordinal("d1").unwrap();
    let requests: Vec<Request> = (0..200).map(|_| Request::plain("steel", 1).with_exclude([steel])).collect();
    for ranking in retrieve(&connected, &requests, Deadline::NONE) {
        assert_eq!(ids(&connected, &ranking), ["d3"]);
    }
    let late = retrieve(&connected, &requests[..1], Deadline::after(Duration::ZERO));
    assert_eq!(kind(&late[0]), FaultKind::Timeout);

    // Connections are dropped within a runtime of somebody else's.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let second = Connected::new(&config("postgres", &server.url, "")).unwrap();
    retrieve(&second, &requests[..40], Deadline::NONE);
    runtime.block_on(async move { drop(second) });

    // Those that are kept are closed by the server: asked again over new ones.
    server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'querywright'");
    assert_eq!(plain("kettle"), ["d1", "d4"]);

    // A table that is not there, and a server that is gone.
    let mut other = config("postgres", &server.url, "");
    other.index = "nothing".to_owned();
    let refused = retrieve(&Connected::new(&other).unwrap(), &requests[..1], Deadline::NONE).remove(0).unwrap_err();
    assert!(refused.kind == FaultKind::Refused && refused.detail.contains("nothing"), "{refused}");
    drop(server);
    let gone = retrieve(&connected, &requests[..2], Deadline::after(Duration::from_secs(5)));
    assert!(gone.iter().all(|ranking| kind(ranking) == FaultKind::Network), "{gone:?}");
}
