//! Judged queries that are like a request, and the words of what was relevant to them.
//!
//! What people called relevant to "is milk good for bones" says in which words documents speak of bones, and helps with
//! "weak bones" too. The words are learned once from training queries and kept in a file of their own, so that what serves
//! needs neither judgements nor catalogue:
//!
//! ```text
//! s(q, t) = cos(q, t)²                   q the request, t one of the NEAREST judged queries; stems by tf · idf over these
//! S(w)    = Σ_t s(q, t) · L(t, w)        L the words of t's relevant documents, as the file has them
//! share   = c · S(w) / Σ S               over the heaviest words; c = Σ_t s / (Σ_t s + PRIOR)
//! ```
//!
//! So a request that is like no judged query gets nothing, and one that is like a few gets little. This is the relevance
//! model of Lavrenko and Croft (2001) with true judgements of similar queries in the place of the first hits. A judged
//! query never speaks for itself: one with the request's own name is left out, so that training queries can be tuned and
//! trained on.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use querywright_text::analysis::Analyzer;
use querywright_types::{Error, Query, Result, hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Judged queries that count for a request, the nearest: more take time and change little.
const NEAREST: usize = 50;
/// What similar judged queries must weigh together for half of the weight.
const PRIOR: f64 = 0.5;
/// More is no file of words.
const MOST_BYTES: u64 = 256 << 20;
/// Characters of a word, at most.
const LONGEST_WORD: usize = 64;
/// What a file's name begins and ends with.
const NAME: (&str, &str) = ("neighbours-", ".jsonl");

/// Words of similar judged queries in a base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NeighboursConfig {
    /// The weight of all these words together, relative to the request's, where many judged queries are like it. Default
    /// 0: none.
    pub weight: f32,
    /// How many words. Default 20.
    pub terms: usize,
    /// The file that holds the judged queries, in the folder of the file that says this. Its name has the beginning of
    /// its SHA-256.
    pub file: String,
    /// What the file holds, once it is read.
    #[serde(skip)]
    pub known: Option<Arc<Neighbours>>,
}

impl Default for NeighboursConfig {
    fn default() -> Self {
        Self { weight: 0.0, terms: 20, file: String::new(), known: None }
    }
}

impl NeighboursConfig {
    /// With a weight and a number of words out of these queries.
    pub fn new(known: Arc<Neighbours>, weight: f32, terms: usize) -> Self {
        Self { weight, terms, file: known.file_name(), known: Some(known) }
    }

    /// Whether nothing is asked for.
    pub fn is_off(&self) -> bool {
        self.weight == 0.0
    }

    /// Reads the file where it has a weight and is not known yet. It is a file of `folder` itself.
    ///
    /// # Errors
    /// [`Error::Argument`] for a name that is none of such a file, or a content that is not the one that the name says;
    /// those of [`Neighbours::read`].
    pub fn load(&mut self, folder: &Path) -> Result<()> {
        if self.is_off() || self.known.is_some() {
            return Ok(());
        }
        let refused = |found: String| {
            let remedy = "give the file that `querywright tune` or `train` wrote beside the settings";
            Err(Error::argument("base.neighbours.file", found, remedy))
        };
        let digits = self.file.strip_prefix(NAME.0).and_then(|rest| rest.strip_suffix(NAME.1));
        if !digits.is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit())) {
            return refused(format!("\"{}\", which is no name of such a file", self.file));
        }
        let known = Neighbours::read(&folder.join(&self.file))?;
        if known.file_name() != self.file {
            return refused(format!("\"{}\" was changed: its content is another one's", self.file));
        }
        self.known = Some(Arc::new(known));
        Ok(())
    }

    /// The words for a request with their shares of the weight, the heaviest first. None without a weight.
    ///
    /// # Errors
    /// [`Error::Argument`] where there is a weight, and the file was never read.
    pub fn words(&self, query: &Query) -> Result<Vec<(String, f64)>> {
        Ok(self.read()?.map_or_else(Vec::new, |known| known.words(query, self.terms)))
    }

    /// What was read; none without a weight.
    ///
    /// # Errors
    /// As for [`words`](Self::words).
    pub(crate) fn read(&self) -> Result<Option<&Neighbours>> {
        match &self.known {
            _ if self.is_off() => Ok(None),
            Some(known) => Ok(Some(known)),
            None => {
                let remedy = "read the settings from their file, or set `known`";
                Err(Error::argument("base.neighbours.file", format!("\"{}\" is not read", self.file), remedy))
            }
        }
    }
}

/// A judged query: what people asked, and in which words what was relevant to it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgedWords {
    /// The query's name, by which it is left out for itself.
    pub id: String,
    /// What was asked.
    pub text: String,
    /// Words in lower case with a weight above 0, each once.
    pub words: Vec<(String, f32)>,
}

/// Judged queries by their words.
#[derive(Clone)]
pub struct Neighbours {
    analyzer: Analyzer,
    queries: Vec<JudgedWords>,
    /// For each stem the queries that have it, with its share of the query's vector of length 1.
    postings: HashMap<String, Vec<(u32, f32)>>,
    content: Arc<[u8]>,
    digest: String,
}

impl std::fmt::Debug for Neighbours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Neighbours").field("queries", &self.queries.len()).field("digest", &self.digest).finish()
    }
}

impl PartialEq for Neighbours {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Neighbours {
    /// From judged queries.
    ///
    /// # Errors
    /// [`Error::Argument`] names the query and the word that cannot be used.
    pub fn new(queries: Vec<JudgedWords>) -> Result<Self> {
        let mut content = Vec::new();
        for query in &queries {
            usable(query).map_err(|found| Error::argument(format!("judged query {:?}", query.id), found, REMEDY))?;
            serde_json::to_writer(&mut content, query).map_err(|e| Error::bug("rewrite::neighbours", e.to_string()))?;
            content.push(b'\n');
            if content.len() as u64 > MOST_BYTES {
                let found = format!("they take more than {MOST_BYTES} bytes");
                return Err(Error::argument("judged queries", found, "give fewer, or fewer words of each"));
            }
        }
        Ok(Self::of(queries, content))
    }

    /// From a file that [`file`](Self::file) gave.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Argument`] names its first line that cannot be used.
    pub fn read(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(|e| Error::read(path, e))?;
        let mut content = Vec::new();
        file.take(MOST_BYTES + 1).read_to_end(&mut content).map_err(|e| Error::read(path, e))?;
        let refused =
            |place: String, found: String| Error::argument(format!("{}{place}", path.display()), found, REMEDY);
        if content.len() as u64 > MOST_BYTES {
            return Err(refused(String::new(), format!("it has more than {MOST_BYTES} bytes")));
        }
        let mut queries = Vec::new();
        for (number, line) in content.lines().enumerate() {
            let at = || format!(": line {}", number + 1);
            let line = line.map_err(|e| refused(at(), e.to_string()))?;
            let query: JudgedWords = serde_json::from_str(&line).map_err(|e| refused(at(), e.to_string()))?;
            usable(&query).map_err(|found| refused(at(), found))?;
            queries.push(query);
        }
        Ok(Self::of(queries, content))
    }

    fn of(queries: Vec<JudgedWords>, content: Vec<u8>) -> Self {
        let analyzer = Analyzer::english();
        let stems: Vec<BTreeMap<String, u32>> = queries.iter().map(|query| stems(&analyzer, &query.text)).collect();
        let mut holding: HashMap<&str, u32> = HashMap::new();
        for stem in stems.iter().flat_map(BTreeMap::keys) {
            *holding.entry(stem).or_default() += 1;
        }
        let mut postings: HashMap<String, Vec<(u32, f32)>> = HashMap::new();
        for (place, stems) in (0u32..).zip(&stems) {
            let vector = vector(stems, |stem| idf(queries.len(), holding.get(stem).copied().unwrap_or(0)));
            for (stem, weight) in vector {
                postings.entry(stem.to_owned()).or_default().push((place, weight as f32));
            }
        }
        let digest = hex(Sha256::digest(&content));
        Self { analyzer, queries, postings, content: content.into(), digest }
    }

    /// Judged queries.
    pub fn len(&self) -> usize {
        self.queries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }

    /// The name of the file that holds these, with the beginning of its SHA-256.
    pub fn file_name(&self) -> String {
        format!("{}{}{}", NAME.0, self.digest.get(..16).unwrap_or(&self.digest), NAME.1)
    }

    /// The file: one judged query in JSON a line.
    pub fn file(&self) -> &[u8] {
        &self.content
    }

    /// The `count` heaviest words for a request with their shares, the heaviest first. The shares sum to at most 1, and to
    /// less the fewer judged queries are like the request.
    pub fn words(&self, query: &Query, count: usize) -> Vec<(String, f64)> {
        let stems = stems(&self.analyzer, &query.text);
        let holding = |stem: &str| self.postings.get(stem).map_or(0, |found| found.len() as u32);
        let mut cosines: HashMap<u32, f64> = HashMap::new();
        for (stem, weight) in vector(&stems, |stem| idf(self.queries.len(), holding(stem))) {
            for (place, other) in self.postings.get(stem).into_iter().flatten() {
                *cosines.entry(*place).or_default() += weight * f64::from(*other);
            }
        }
        let named = |place: u32| self.queries.get(place as usize).filter(|t| query.id.is_empty() || t.id != query.id);
        let mut nearest: Vec<(&JudgedWords, u32, f64)> =
            cosines.into_iter().filter_map(|(place, cosine)| Some((named(place)?, place, cosine))).collect();
        nearest.sort_unstable_by(|a, b| b.2.total_cmp(&a.2).then(a.1.cmp(&b.1)));
        nearest.truncate(NEAREST);
        let (mut alike, mut weights) = (0.0, HashMap::<&str, f64>::new());
        for (judged, _, cosine) in nearest {
            alike += cosine * cosine;
            for (word, weight) in &judged.words {
                *weights.entry(word).or_default() += cosine * cosine * f64::from(*weight);
            }
        }
        let mut best: Vec<(&str, f64)> = weights.into_iter().collect();
        best.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        best.truncate(count);
        let sum: f64 = best.iter().map(|word| word.1).sum();
        let scale = if sum > 0.0 { alike / (alike + PRIOR) / sum } else { 0.0 };
        best.into_iter().map(|(word, weight)| (word.to_owned(), weight * scale)).collect()
    }
}

/// What to do about a file that cannot be used.
const REMEDY: &str = "tune or train again: a line is {\"id\": …, \"text\": …, \"words\": [[WORD, WEIGHT], …]}";

/// Why a query's words cannot be used: they become part of a query in the Boolean language, where signs mean something.
fn usable(query: &JudgedWords) -> std::result::Result<(), String> {
    for (word, weight) in &query.words {
        let long = word.chars().nth(LONGEST_WORD).is_some();
        if word.is_empty() || long || !word.chars().all(char::is_alphanumeric) || word.to_lowercase() != *word {
            return Err(format!("{word:?} is no word in lower case"));
        }
        if !(weight.is_finite() && *weight > 0.0) {
            return Err(format!("the weight of {word:?} is {weight}, not a number above 0"));
        }
    }
    Ok(())
}

fn stems(analyzer: &Analyzer, text: &str) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for token in analyzer.tokens(text) {
        *counts.entry(token.stem).or_default() += 1;
    }
    counts
}

/// BM25's, of a stem that `holding` of `all` judged queries have.
fn idf(all: usize, holding: u32) -> f64 {
    let (all, holding) = (all as f64, f64::from(holding));
    (1.0 + (all - holding + 0.5) / (holding + 0.5)).ln()
}

/// tf · idf, scaled to a Euclidean length of 1.
fn vector(stems: &BTreeMap<String, u32>, idf: impl Fn(&str) -> f64) -> Vec<(&str, f64)> {
    let mut vector: Vec<(&str, f64)> =
        stems.iter().map(|(stem, count)| (stem.as_str(), f64::from(*count) * idf(stem))).collect();
    let length = vector.iter().map(|part| part.1 * part.1).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|part| part.1 /= length);
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(id: &str, text: &str, words: &[(&str, f32)]) -> JudgedWords {
        let words = words.iter().map(|(word, weight)| ((*word).to_owned(), *weight)).collect();
        JudgedWords { id: id.into(), text: text.into(), words }
    }

    fn neighbours() -> Neighbours {
        Neighbours::new(vec![
            judged("q1", "weak bones", &[("osteoporosis", 2.0), ("calcium", 1.0)]),
            judged("q2", "milk and bones", &[("calcium", 1.0), ("dairy", 1.0)]),
            judged("q3", "tired eyes", &[("fatigue", 1.0)]),
        ])
        .unwrap()
    }

    #[test]
    fn words_come_from_the_judged_queries_that_are_like_a_request_and_weigh_by_how_like_they_are() {
        let found = neighbours().words(&Query::text("Are weak BONES bad?"), 9);
        let words: Vec<&str> = found.iter().map(|word| word.0.as_str()).collect();
        assert_eq!(words, ["osteoporosis", "calcium", "dairy"]);
        // By hand: each stem in one of three queries but "bone", which is in two; "bad" in none.
        let (once, twice, none) = ((1.0f64 + 2.5 / 1.5).ln(), (1.0f64 + 1.5 / 2.5).ln(), (1.0f64 + 3.5 / 0.5).ln());
        let length = |parts: &[f64]| parts.iter().map(|p| p * p).sum::<f64>().sqrt();
        let request = length(&[once, twice, none]);
        let first = ((once * once + twice * twice) / (request * length(&[once, twice]))).powi(2);
        let second = (twice * twice / (request * length(&[once, twice]))).powi(2);
        let sums = [2.0 * first, first + second, second];
        let scale = (first + second) / (first + second + PRIOR) / sums.iter().sum::<f64>();
        for ((word, share), sum) in found.iter().zip(sums) {
            assert!((share - sum * scale).abs() < 1e-6, "{word}: {share}, not {}", sum * scale);
        }
        assert_eq!(neighbours().words(&Query::text("weak bones"), 1).len(), 1);
    }

    #[test]
    fn the_nearest_judged_queries_count_and_no_others() {
        let near = |n: usize| judged(&format!("n{n}"), "weak bones", &[("near", 1.0)]);
        let far = |n: usize| judged(&format!("f{n}"), "weak eyes", &[("far", 9.0)]);
        let ask = |near_ones: usize| {
            let all = (0..20).map(far).chain((0..near_ones).map(near)).collect();
            let found = Neighbours::new(all).unwrap().words(&Query::text("weak bones"), 9);
            found.into_iter().map(|word| word.0).collect::<Vec<_>>()
        };
        assert_eq!(ask(NEAREST), ["near"]);
        assert!(ask(NEAREST - 1).contains(&"far".to_owned()));
    }

    #[test]
    fn a_request_like_no_judged_query_gets_nothing_and_a_judged_query_never_speaks_for_itself() {
        assert!(neighbours().words(&Query::text("garden hose"), 9).is_empty());
        assert!(neighbours().words(&Query::text(""), 9).is_empty());
        assert!(neighbours().words(&Query::new("q3", "tired eyes"), 9).is_empty());
        assert_eq!(
            neighbours().words(&Query::new("q4", "tired eyes"), 9)[0].0,
            "fatigue",
            "another one may ask the same"
        );
        assert_eq!(neighbours().words(&Query::text("tired eyes"), 9)[0].0, "fatigue");
        assert!(!neighbours().words(&Query::new("q1", "weak bones"), 9).iter().any(|word| word.0 == "osteoporosis"));
    }

    #[test]
    fn what_is_written_is_read_back_and_a_file_that_was_changed_or_moved_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let known = Arc::new(neighbours());
        let mut config = NeighboursConfig::new(known.clone(), 0.5, 7);
        std::fs::write(folder.path().join(&config.file), known.file()).unwrap();
        let mut read: NeighboursConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert!(read.words(&Query::text("eyes")).unwrap_err().to_string().contains("is not read"));
        read.load(folder.path()).unwrap();
        assert_eq!(read, config);
        assert_eq!(read.words(&Query::text("eyes")).unwrap(), config.words(&Query::text("eyes")).unwrap());

        let mut other = known.file().to_vec();
        other.extend(b"{\"id\":\"q4\",\"text\":\"x\",\"words\":[]}\n");
        std::fs::write(folder.path().join(&config.file), other).unwrap();
        config.known = None;
        assert!(config.load(folder.path()).unwrap_err().to_string().contains("was changed"));
        for file in ["../x.jsonl", "", "neighbours-0123456789abcdeX.jsonl", "neighbours-../../../../ab.jsonl"] {
            let mut config = NeighboursConfig { file: file.into(), ..config.clone() };
            assert!(config.load(folder.path()).unwrap_err().to_string().contains("no name of such a file"), "{file}");
        }
        config.file = "neighbours-0123456789abcdef.jsonl".into();
        assert!(matches!(config.load(folder.path()).unwrap_err(), Error::Io { .. }));
        NeighboursConfig { weight: 0.0, ..config }.load(folder.path()).unwrap();
    }

    #[test]
    fn words_with_signs_of_a_query_language_and_weights_that_are_none_are_refused_by_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n.jsonl");
        for (bad, why) in [
            (r#"{"id":"a","text":"b","words":[["x OR y",1.0]]}"#, "no word"),
            (r#"{"id":"a","text":"b","words":[["title:x",1.0]]}"#, "no word"),
            (r#"{"id":"a","text":"b","words":[["NOT",1.0]]}"#, "no word"),
            (r#"{"id":"a","text":"b","words":[["",1.0]]}"#, "no word"),
            (r#"{"id":"a","text":"b","words":[["x",-1.0]]}"#, "above 0"),
            (r#"{"id":"a","text":"b","words":[["x",1e99]]}"#, "line 2"),
            (r#"{"id":"a","text":"b","words":[["x"]]}"#, "line 2"),
            (r#"{"id":"a","text":"b","words":[],"more":1}"#, "more"),
            ("", "line 2"),
        ] {
            std::fs::write(&path, format!("{{\"id\":\"a\",\"text\":\"b\",\"words\":[]}}\n{bad}\n")).unwrap();
            let said = Neighbours::read(&path).unwrap_err().to_string();
            assert!(said.contains("line 2") && said.contains(why), "{bad}: {said}");
        }
        assert!(Neighbours::new(vec![judged("q", "x", &[("a^2", 1.0)])]).is_err());
    }
}
