use super::*;

/// Vectors of length 1 around a few directions, as those of texts are.
fn clustered(count: usize, width: usize) -> Vec<f32> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut noise = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let centres: Vec<f32> = (0..20 * width).map(|_| noise()).collect();
    let mut vectors = Vec::new();
    for n in 0..count {
        let centre = &centres[n % 20 * width..][..width];
        let row: Vec<f32> = centre.iter().map(|c| c + 0.7 * noise()).collect();
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        vectors.extend(row.iter().map(|x| x / length));
    }
    vectors
}

fn exact(vectors: Vectors<'_>, query: &[f32], k: usize, accept: impl Fn(u32) -> bool) -> Vec<Near> {
    let all = (0..vectors.count() as u32).filter(|node| accept(*node));
    let mut all: Vec<Near> = all.map(|node| Near { score: vectors.score(node, query), node }).collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    all.truncate(k);
    all
}

fn recall(vectors: Vectors<'_>, graph: &Graph, ef: usize) -> f64 {
    let (visits, mut found, mut wanted) = (Visits::default(), 0, 0);
    for node in (0..vectors.count() as u32).step_by(17) {
        let query = vectors.row(node);
        let near = graph.search(vectors, query, ef, &visits, |_| true);
        let right = exact(vectors, query, 10, |_| true);
        found += right.iter().filter(|right| near.iter().take(10).any(|near| near == *right)).count();
        wanted += right.len();
    }
    found as f64 / wanted as f64
}

#[test]
fn a_search_finds_nearly_all_of_the_nearest_with_the_scores_of_the_exact_one_and_more_with_a_larger_ef() {
    let values = clustered(3000, 24);
    let vectors = Vectors { values: &values, width: 24 };
    let graph = build(vectors, &HnswConfig { m: 8, ef_construction: 60, ..HnswConfig::default() }, &());
    assert!(graph.top() >= 2, "layers are used");
    let [little, usual, all] = [10, 100, 3000].map(|ef| recall(vectors, &graph, ef));
    assert!(little > 0.6 && usual > 0.97 && usual >= little, "{little} {usual}");
    assert!(all > 0.9999, "every node is reached: {all}");
}

#[test]
fn the_graph_is_the_same_on_any_number_of_threads_and_for_no_few_and_equal_vectors_too() {
    let config = HnswConfig { m: 6, ef_construction: 30, ef_search: 20 };
    let equal = vec![0.5; 8 * 100];
    for values in [clustered(700, 8), clustered(1, 8), clustered(2, 8), Vec::new(), equal] {
        let vectors = Vectors { values: &values, width: 8 };
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| build(vectors, &config, &()))
        };
        let graph = on(1);
        assert_eq!(graph, on(3));
        assert!(graph.is_whole());
        let words = graph.words();
        assert_eq!(Graph::of_words(&words, vectors.count(), 6), Some(graph.clone()));
        let query = [1.0, -0.5, 0.25, 0.0, 0.1, 0.2, -0.3, 0.4];
        let mut found = graph.search(vectors, &query, vectors.count().max(1), &Visits::default(), |_| true);
        found.truncate(10);
        assert_eq!(found, exact(vectors, &query, 10, |_| true), "ties go by ordinal");
    }
}

#[test]
fn what_is_excluded_is_gone_through_and_not_found() {
    let values = clustered(2000, 16);
    let vectors = Vectors { values: &values, width: 16 };
    let graph = build(vectors, &HnswConfig { m: 8, ef_construction: 50, ..HnswConfig::default() }, &());
    // Nearly all of the query's own cluster.
    let accept = |node: u32| node % 20 != 3 || node > 1900;
    let query = vectors.row(3);
    let found = graph.search(vectors, query, 80, &Visits::default(), accept);
    assert!(found.len() == 80 && found.iter().all(|near| accept(near.node)));
    let right = exact(vectors, query, 10, accept);
    let hits = right.iter().filter(|right| found.contains(right)).count();
    assert!(hits >= 9, "{hits}");
}

#[test]
fn words_of_another_graph_or_of_none_are_no_graph() {
    let values = clustered(60, 8);
    let vectors = Vectors { values: &values, width: 8 };
    let graph = build(vectors, &HnswConfig { m: 4, ef_construction: 20, ef_search: 20 }, &());
    let words = graph.words();
    let refused = |words: &[u32], nodes, m| assert_eq!(Graph::of_words(words, nodes, m), None);
    refused(&words, 61, 4);
    refused(&words, 60, 5);
    refused(&words[..words.len() - 1], 60, 4);
    refused(&[words.clone(), vec![0]].concat(), 60, 4);
    refused(&[], 60, 4);
    for (place, value) in [(1, 60), (3, 200), (63, 60), (2, 0)] {
        let mut other = words.clone();
        other[place] = value;
        refused(&other, 60, 4);
    }
}

#[test]
fn settings_that_make_no_graph_are_refused_by_their_key() {
    let usual = HnswConfig::default();
    assert_eq!((usual.m, usual.ef_construction), (32, 200));
    usual.validate().unwrap();
    for (config, key) in [
        (HnswConfig { m: 3, ..usual }, "hnsw.m"),
        (HnswConfig { m: 129, ..usual }, "hnsw.m"),
        (HnswConfig { ef_construction: 31, ..usual }, "hnsw.ef_construction"),
        (HnswConfig { ef_search: 0, ..usual }, "hnsw.ef_search"),
    ] {
        let refused = config.validate().unwrap_err().to_string();
        assert!(refused.contains(key), "{refused}");
    }
}
