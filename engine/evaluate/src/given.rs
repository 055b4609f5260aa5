//! Rewrites that stand in a file: other people's expansions, measured without running their code.

use std::collections::HashMap;
use std::path::Path;

use querywright_data::catalog::{GivenQuery, GivenRewrite};
use querywright_types::{Deadline, Error, Kept, Query, Result, Rewrite, Rewriter};

/// A rewriter that looks its answers up. A query is found by its id, else by its words. One without a rewrite is
/// searched for as it came, and counts as [kept](querywright_types::Rewrite::kept).
#[derive(Debug, Clone)]
pub struct GivenRewrites {
    name: String,
    /// With the words that the file gives beside an id.
    by_id: HashMap<String, (Option<String>, Rewrite)>,
    by_text: HashMap<String, Rewrite>,
}

/// Rewrites with the lines that they stand in, and the words beside an id.
type Lines = HashMap<String, (u64, Option<String>, Rewrite)>;

impl GivenRewrites {
    /// Reads [a file of rewrites](GivenRewrite); `name` is what tables call them.
    ///
    /// # Errors
    /// Those of [`GivenRewrite::read`]; a query with two different rewrites, by its lines.
    pub fn read(name: impl Into<String>, path: &Path) -> Result<Self> {
        let (mut by_id, mut by_text) = (Lines::new(), Lines::new());
        for given in GivenRewrite::read(path)? {
            let rewrite = Rewrite::new(given.rewrite, given.language);
            let GivenQuery { id, text } = given.query;
            // Queries with ids of their own may share their words; the id tells them apart.
            let own_id = id.is_some() && id != text;
            let beside = text.clone().filter(|_| own_id);
            for (lines, key, shared) in [(&mut by_id, id, false), (&mut by_text, text, own_id)] {
                let Some(key) = key else { continue };
                match lines.get(&key) {
                    Some((.., before)) if *before == rewrite || shared => {}
                    Some((line, ..)) => {
                        let found = format!("\"{key}\" has another rewrite in line {line}");
                        let remedy = "leave one rewrite for each query";
                        return Err(Error::data(path, Some(given.line), found, remedy));
                    }
                    None => drop(lines.insert(key, (given.line, beside.clone(), rewrite.clone()))),
                }
            }
        }
        let by_id = by_id.into_iter().map(|(key, (_, text, rewrite))| (key, (text, rewrite))).collect();
        let by_text = by_text.into_iter().map(|(key, (.., rewrite))| (key, rewrite)).collect();
        Ok(Self { name: name.into(), by_id, by_text })
    }

    fn find(&self, query: &Query) -> Option<&Rewrite> {
        let by_id = Some(&query.id).filter(|id| !id.is_empty()).and_then(|id| self.by_id.get(id));
        // Rows that somebody numbered are no ids of ours: the words beside an id must be the query's.
        let own = |(text, _): &&(Option<String>, Rewrite)| text.as_ref().is_none_or(|text| text == query.text.trim());
        by_id.filter(own).map(|(_, rewrite)| rewrite).or_else(|| self.by_text.get(query.text.trim()))
    }
}

impl Rewriter for GivenRewrites {
    fn name(&self) -> &str {
        &self.name
    }

    fn rewrite(&self, queries: &[Query], _: Deadline) -> Vec<Result<Rewrite>> {
        let rewrite = |query: &Query| match self.find(query) {
            Some(rewrite) => rewrite.clone(),
            None => Rewrite::plain(query.text.clone()).with_kept(Kept::Nothing),
        };
        queries.iter().map(|query| Ok(rewrite(query))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use querywright_types::QueryLanguage;

    fn read(text: &str) -> Result<GivenRewrites> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        GivenRewrites::read("file:x", file.path())
    }

    fn texts(rewriter: &GivenRewrites, queries: &[Query]) -> Vec<String> {
        rewriter.rewrite(queries, Deadline::NONE).into_iter().map(|r| r.unwrap().text).collect()
    }

    #[test]
    fn a_query_is_found_by_its_id_else_by_its_words_and_one_without_a_rewrite_stays_and_counts_as_kept() {
        let given = read("q1\tteapot\ncold feet\twool socks\n").unwrap();
        let queries =
            [Query::new("q1", "cold feet"), Query::text(" cold feet "), Query::new("q2", "a hat"), Query::text("")];
        assert_eq!(texts(&given, &queries), ["teapot", "wool socks", "a hat", ""]);
        let kept: Vec<bool> =
            given.rewrite(&queries, Deadline::NONE).into_iter().map(|r| r.unwrap().kept.is_some()).collect();
        assert_eq!(kept, [false, false, true, true]);
        let boolean = read("{\"query\": \"tea\", \"rewrite\": \"pot OR cup\", \"language\": \"boolean\"}\n").unwrap();
        let found = boolean.rewrite(&[Query::text("tea")], Deadline::NONE).remove(0).unwrap();
        assert_eq!(found, Rewrite::new("pot OR cup", QueryLanguage::Boolean));
    }

    #[test]
    fn words_that_are_another_query_s_id_are_words_where_the_file_says_so() {
        let given =
            read("{\"query\": \"65\", \"rewrite\": \"a\"}\n{\"query_id\": \"300\", \"rewrite\": \"b\"}\n").unwrap();
        let queries =
            [Query::new("65", "tired eyes"), Query::new("9", "65"), Query::new("300", "x"), Query::text("300")];
        assert_eq!(texts(&given, &queries), ["tired eyes", "a", "b", "300"]);
        let both = read("65\ta\n").unwrap();
        assert_eq!(texts(&both, &[Query::new("65", "x"), Query::new("9", "65")]), ["a", "a"], "a column may be either");
    }

    #[test]
    fn an_id_beside_other_words_is_none_of_ours() {
        let line = |id: u8, text: &str, rewrite: &str| {
            format!("{{\"id\": {id}, \"query\": \"{text}\", \"rewrite\": \"{rewrite}\"}}\n")
        };
        let given = read(&(line(2, "tea goes cold", "teapot") + &line(1, "draft under door", "stopper"))).unwrap();
        let queries = [Query::new("1", "tea goes cold"), Query::new("2", "draft under door")];
        assert_eq!(texts(&given, &queries), ["teapot", "stopper"]);
    }

    #[test]
    fn two_rewrites_of_one_query_are_refused_by_their_lines_unless_they_are_the_same_or_ids_tell_them_apart() {
        let error = read("q1\ta\nq2\tb\nq1\tc\n").unwrap_err().to_string();
        assert!(error.contains(":3: \"q1\" has another rewrite in line 1; leave one"), "{error}");
        assert_eq!(texts(&read("q1\ta\nq1\ta\n").unwrap(), &[Query::new("q1", "x")]), ["a"]);
        let line = |id: &str, rewrite: &str| {
            format!("{{\"query_id\": \"{id}\", \"query\": \"same\", \"rewrite\": \"{rewrite}\"}}\n")
        };
        let given = read(&(line("q1", "a") + &line("q2", "b"))).unwrap();
        assert_eq!(texts(&given, &[Query::new("q1", "same"), Query::new("q2", "same")]), ["a", "b"]);
    }
}
