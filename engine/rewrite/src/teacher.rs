//! A teacher's answers, fetched once and kept: what supervised steps learn from.
//!
//! A file has one JSON object a line, `{"query_id": …, "query": …, "rewrite": …, "teacher": …}`. Answers are appended as
//! they come, so that what was fetched is not asked for again, whatever ends the fetching.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::remote::Remote;
use querywright_types::{Deadline, Error, Observe, Progress, Query, Result, Rewriter};

/// Queries that are asked between two writes, for each concurrent request.
const BATCHES: usize = 8;

/// What became of the queries.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Fetched {
    /// Queries whose answers were there before.
    pub kept: usize,
    /// Queries that were asked and answered now.
    pub answered: usize,
    /// Queries without a usable answer; they are asked again the next time.
    pub failed: usize,
    /// Why the first of them has none.
    pub first_failure: Option<Error>,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Kept {
    query_id: String,
    query: String,
    rewrite: String,
    teacher: String,
}

/// Asks `teacher` for every query that `path` has no answer for, and appends the answers.
///
/// # Errors
/// When the file cannot be read or written, or was written by somebody else or by another teacher; when the server answers
/// none of the queries of one batch: what came before is kept.
pub fn fetch_answers(teacher: &Remote, queries: &[&Query], path: &Path, observer: &dyn Observe) -> Result<Fetched> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path);
    let mut file = file.map_err(|e| Error::write(path, e))?;
    // Whoever comes second would cut off a line that the first one is at.
    if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        let found = format!("{}: another process is fetching answers into it", path.display());
        return Err(Error::argument("sft.pairs", found, "wait for it, or name another file"));
    }
    let known = kept(teacher.name(), path)?;
    for query in queries {
        if let Some(text) = known.get(&query.id).filter(|text| **text != query.text) {
            let found = format!("the answer to {} is one to {text:?}, and the query is {:?} now", query.id, query.text);
            return Err(Error::data(path, None, found, "name another file in sft.pairs, or remove this one"));
        }
    }
    let missing: Vec<&Query> = queries.iter().filter(|query| !known.contains_key(&query.id)).copied().collect();
    let mut fetched = Fetched { kept: queries.len() - missing.len(), answered: 0, failed: 0, first_failure: None };
    if missing.is_empty() {
        return Ok(fetched);
    }
    for (done, batch) in missing.chunks(teacher.parallel() * BATCHES).enumerate() {
        let asked: Vec<Query> = batch.iter().map(|query| (*query).clone()).collect();
        let (mut lines, mut usable) = (String::new(), 0);
        let mut down = None;
        for (query, answer) in asked.iter().zip(teacher.answers(&asked, Deadline::NONE)) {
            match answer {
                Ok(answer) => {
                    let line = Kept {
                        query_id: query.id.clone(),
                        query: query.text.clone(),
                        // In one line, which every style of prompt can learn.
                        rewrite: answer.split_whitespace().collect::<Vec<_>>().join(" "),
                        teacher: teacher.name().to_owned(),
                    };
                    lines += &serde_json::to_string(&line).map_err(|e| Error::write(path, e.into()))?;
                    lines.push('\n');
                    usable += 1;
                }
                // A setting that cannot be used is wrong for all.
                Err(error @ Error::Argument { .. }) => return Err(error),
                Err(error) => {
                    fetched.failed += 1;
                    down = down.or_else(|| error.is_fault().then(|| error.clone()));
                    fetched.first_failure.get_or_insert(error);
                }
            }
        }
        file.write_all(lines.as_bytes()).and_then(|()| file.sync_data()).map_err(|e| Error::write(path, e))?;
        fetched.answered += usable;
        let done = done * teacher.parallel() * BATCHES + batch.len();
        observer.progress(Progress::new("asking the teacher", done as u64, missing.len() as u64));
        if let Some(error) = down.filter(|_| usable == 0) {
            return Err(error);
        }
    }
    Ok(fetched)
}

/// The queries that the file has answers for: their words by their ids. A last line that was not written to its end is cut
/// off.
fn kept(teacher: &str, path: &Path) -> Result<HashMap<String, String>> {
    let text = fs::read(path).map_err(|e| Error::read(path, e))?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let (lines, rest) = text.split_at(whole);
    let mut known = HashMap::new();
    for (number, line) in lines.split(|byte| *byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let refuse = |found: String, remedy: &str| Error::data(path, Some(number as u64 + 1), found, remedy);
        let read: Kept = serde_json::from_slice(line).map_err(|e| {
            let remedy = "name another file in sft.pairs, or leave sft.teacher out to learn from this one as it is";
            refuse(format!("no teacher wrote this line: {e}"), remedy)
        })?;
        if read.teacher != teacher {
            let found = format!("the answer is {}'s, and the teacher is {teacher} now", read.teacher);
            return Err(refuse(found, "name another file in sft.pairs, or remove this one"));
        }
        known.insert(read.query_id, read.query);
    }
    if !rest.is_empty() {
        // Killed while it was written. A file of somebody else's is not cut: its lines were refused, or it has none.
        if known.is_empty() && !rest.starts_with(b"{\"query_id\":") {
            let remedy = "name another file in sft.pairs, or leave sft.teacher out to learn from this one as it is";
            return Err(Error::data(path, Some(1), "no teacher wrote this line", remedy));
        }
        let file = OpenOptions::new().write(true).open(path);
        file.and_then(|file: File| file.set_len(whole as u64)).map_err(|e| Error::write(path, e))?;
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PromptConfig, PromptStyle};
    use crate::remote::RemoteConfig;
    use querywright_testing::fake_server::{FakeServer, Response};
    use querywright_types::RetrieverCard;

    fn teacher(address: &str, model: &str) -> Remote {
        let prompt = PromptConfig { style: PromptStyle::Chat, ..PromptConfig::default() };
        let config =
            RemoteConfig { url: format!("{address}/v1"), model: model.into(), prompt, ..RemoteConfig::default() };
        Remote::new(config, &RetrieverCard::new("bm25", "d").with_version("1")).unwrap()
    }

    fn server(content: &str) -> FakeServer {
        let body = serde_json::json!({"choices": [{"message": {"role": "assistant", "content": content}}]});
        FakeServer::start([("/v1/chat/completions".to_owned(), Response::ok(body.to_string()))].into())
    }

    fn queries(count: usize) -> Vec<Query> {
        (0..count).map(|i| Query::new(format!("q{i}"), format!("soup {i}"))).collect()
    }

    fn fetch(teacher: &Remote, count: usize, path: &Path) -> Result<Fetched> {
        let queries = queries(count);
        fetch_answers(teacher, &queries.iter().collect::<Vec<_>>(), path, &())
    }

    #[test]
    fn every_query_is_asked_once_and_what_is_kept_is_not_asked_again_even_after_a_cut() {
        let (home, server) = (tempfile::tempdir().unwrap(), server("tomato broth"));
        let (path, teacher) = (home.path().join("run/teacher.jsonl"), teacher(&server.address, "m"));
        let found = fetch(&teacher, 3, &path).unwrap();
        assert_eq!((found.kept, found.answered, found.failed, server.seen().len()), (0, 3, 0, 3));
        let text = fs::read_to_string(&path).unwrap();
        let first =
            "{\"query_id\":\"q0\",\"query\":\"soup 0\",\"rewrite\":\"tomato broth\",\"teacher\":\"remote:m\"}\n";
        assert!(text.starts_with(first) && text.lines().count() == 3, "{text}");
        // Killed in the middle of a line.
        fs::write(&path, format!("{text}{{\"query_id\":\"q3\",\"qu")).unwrap();
        let found = fetch(&teacher, 5, &path).unwrap();
        assert_eq!((found.kept, found.answered, server.seen().len()), (3, 2, 5));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() == 5 && text.contains("\"q3\"") && text.contains("\"q4\""), "{text}");
        assert_eq!(fetch(&teacher, 5, &path).unwrap().kept, 5);
        assert_eq!(server.seen().len(), 5, "nobody is asked");
    }

    #[test]
    fn a_file_of_another_teacher_or_of_somebody_else_is_refused_by_its_line_and_left_as_it_is() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("teacher.jsonl");
        let (first, nobody) = (server("a"), "http://127.0.0.1:1");
        fetch(&teacher(&first.address, "m"), 1, &path).unwrap();
        let error = fetch(&teacher(nobody, "other"), 2, &path).unwrap_err().to_string();
        assert!(error.contains(":1: the answer is remote:m's, and the teacher is remote:other now"), "{error}");
        for text in ["{\"query_id\": \"q0\", \"rewrite\": \"x\"}\n", "q0\tx", "q0\tx\n"] {
            fs::write(&path, text).unwrap();
            let error = fetch(&teacher(nobody, "m"), 1, &path).unwrap_err().to_string();
            assert!(error.contains(":1: no teacher wrote this line"), "{text}: {error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn answers_to_other_queries_of_the_same_ids_are_refused_and_one_process_fetches_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("teacher.jsonl");
        let server = server("a");
        let teacher = teacher(&server.address, "m");
        fetch(&teacher, 2, &path).unwrap();
        let other = [Query::new("q0", "soup 0"), Query::new("q1", "bread")];
        let error = fetch_answers(&teacher, &other.iter().collect::<Vec<_>>(), &path, &()).unwrap_err().to_string();
        assert!(error.contains("the answer to q1 is one to \"soup 1\", and the query is \"bread\" now"), "{error}");
        let held = File::open(&path).unwrap();
        held.lock().unwrap();
        let error = fetch(&teacher, 2, &path).unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
        drop(held);
        assert_eq!(fetch(&teacher, 2, &path).unwrap().kept, 2);
    }

    #[test]
    fn answers_that_cannot_be_used_are_counted_and_a_server_that_is_down_ends_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("teacher.jsonl");
        let found = fetch(&teacher(&server("  ").address, "m"), 2, &path).unwrap();
        assert_eq!((found.answered, found.failed), (0, 2));
        assert!(found.first_failure.unwrap().to_string().contains("empty"));
        assert!(fetch(&teacher("http://127.0.0.1:1", "m"), 2, &path).unwrap_err().is_fault());
        assert_eq!(fs::read(&path).unwrap(), b"");
    }
}
