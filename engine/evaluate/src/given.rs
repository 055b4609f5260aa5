//! Rewrites that stand in a file: other people's expansions, measured without running their code.

use std::collections::HashMap;
use std::path::Path;

use querywright_data::catalog::GivenRewrite;
use querywright_types::{Deadline, Error, Kept, Query, Result, Rewrite, Rewriter};

/// A rewriter that looks its answers up. A query is found by its id, else by its words. One without a rewrite is
/// searched for as it came, and counts as [kept](querywright_types::Rewrite::kept).
#[derive(Debug, Clone)]
pub struct GivenRewrites {
    name: String,
    by_name: HashMap<String, Rewrite>,
}

impl GivenRewrites {
    /// Reads [a file of rewrites](GivenRewrite); `name` is what tables call them.
    ///
    /// # Errors
    /// Those of [`GivenRewrite::read`]; a query with two different rewrites, by its lines.
    pub fn read(name: impl Into<String>, path: &Path) -> Result<Self> {
        let mut lines: HashMap<String, (u64, Rewrite)> = HashMap::new();
        for given in GivenRewrite::read(path)? {
            let rewrite = Rewrite::new(given.rewrite, given.language);
            for key in given.query.names() {
                match lines.get(key) {
                    Some((_, before)) if *before == rewrite => {}
                    // Queries with ids of their own may share their words; the id tells them apart.
                    Some(_) if given.query.id.as_deref().is_some_and(|id| id != key) => {}
                    Some((line, _)) => {
                        let found = format!("\"{key}\" has another rewrite in line {line}");
                        let remedy = "leave one rewrite for each query";
                        return Err(Error::data(path, Some(given.line), found, remedy));
                    }
                    None => drop(lines.insert(key.to_owned(), (given.line, rewrite.clone()))),
                }
            }
        }
        Ok(Self { name: name.into(), by_name: lines.into_iter().map(|(key, (_, rewrite))| (key, rewrite)).collect() })
    }

    /// Whether there is a rewrite for a query.
    pub fn has(&self, query: &Query) -> bool {
        self.find(query).is_some()
    }

    fn find(&self, query: &Query) -> Option<&Rewrite> {
        let by_id = Some(query.id.as_str()).filter(|id| !id.is_empty()).and_then(|id| self.by_name.get(id));
        by_id.or_else(|| self.by_name.get(query.text.trim()))
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
        assert_eq!(queries.each_ref().map(|query| given.has(query)), [true, true, false, false]);
        let boolean = read("{\"query\": \"tea\", \"rewrite\": \"pot OR cup\", \"language\": \"boolean\"}\n").unwrap();
        let found = boolean.rewrite(&[Query::text("tea")], Deadline::NONE).remove(0).unwrap();
        assert_eq!(found, Rewrite::new("pot OR cup", QueryLanguage::Boolean));
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
