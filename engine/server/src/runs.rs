//! Runs of training as their files have them, while they are written: for the page.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use querywright_types::Error;

use crate::error::ApiError;
use crate::request::Call;

/// How long reading a run's files may take.
const READING: Duration = Duration::from_secs(10);
/// Bytes of a file that one answer holds.
const MOST: u64 = 1 << 20;
/// Samples that are shown: the last ones.
const SAMPLES: usize = 40;
const METRICS: &str = "metrics.jsonl";

/// The runs of the folder, the newest first.
pub(crate) async fn list(call: Call) -> Result<Response, ApiError> {
    let Some(folder) = call.service.config.runs.clone() else {
        return Ok(Json(json!({ "runs": [] })).into_response());
    };
    let read = move || -> std::io::Result<Vec<(u64, String)>> {
        let mut runs = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (name, metrics) = (entry.file_name().into_string(), entry.path().join(METRICS));
            if let (Ok(name), Ok(known)) = (name, fs::metadata(metrics)) {
                let since = known.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
                runs.push((since.as_secs(), name));
            }
        }
        runs.sort_by(|a, b| b.cmp(a));
        Ok(runs)
    };
    let runs = call.blocking(READING, read).await?.map_err(|error| inside("the folder of runs", error))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let run = |(changed, name): &(u64, String)| json!({ "name": name, "changed": changed, "age": now.saturating_sub(*changed) });
    Ok(Json(json!({ "runs": runs.iter().map(run).collect::<Vec<_>>() })).into_response())
}

/// The rows of `metrics.jsonl` behind a number of bytes, and how many bytes to ask behind next. Where the file is shorter, as
/// a run was resumed at an earlier step, it begins again at 0.
pub(crate) async fn metrics(call: Call) -> Result<Response, ApiError> {
    let (path, from) = (run(&call)?.join(METRICS), call.number("from")?);
    let read = move || -> std::io::Result<(u64, u64, Vec<Value>)> {
        let mut file = File::open(path)?;
        let from = if from > file.metadata()?.len() { 0 } else { from };
        let (text, whole) = lines(&mut file, from)?;
        Ok((from, from + whole, rows(&text)))
    };
    let (from, next, rows) = call.blocking(READING, read).await?.map_err(|error| inside(METRICS, error))?;
    Ok(Json(json!({ "from": from, "next": next, "rows": rows })).into_response())
}

/// The last samples, the newest first.
pub(crate) async fn samples(call: Call) -> Result<Response, ApiError> {
    const FILE: &str = "completions.jsonl";
    let path = run(&call)?.join(FILE);
    let read = move || -> std::io::Result<Vec<Value>> {
        let mut file = match File::open(path) {
            // A run that has not sampled yet, or does not.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let length = file.metadata()?.len();
        let text = lines(&mut file, length.saturating_sub(MOST / 4))?.0;
        let mut last: Vec<Value> = rows(&text).into_iter().rev().take(SAMPLES).collect();
        last.retain(Value::is_object);
        Ok(last)
    };
    let samples = call.blocking(READING, read).await?.map_err(|error| inside(FILE, error))?;
    Ok(Json(json!({ "samples": samples })).into_response())
}

/// The report of a run that has ended.
pub(crate) async fn report(call: Call) -> Result<Response, ApiError> {
    let path = run(&call)?.join("report").join("index.html");
    let page = call.blocking(READING, move || fs::read(path)).await?;
    let page = page.map_err(|_| ApiError::new(StatusCode::NOT_FOUND, "not_found", "this run has no report yet"))?;
    // What it quotes was written by others: it may show itself and do nothing.
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, page).into_response())
}

/// The folder of the run that a request names: one of the folder of runs, not one above it or elsewhere.
fn run(call: &Call) -> Result<PathBuf, ApiError> {
    let name = call.name_behind("/v1/runs/")?;
    let unknown = || ApiError::unknown("run", &name, "GET /v1/runs lists them");
    let folder = call.service.config.runs.as_deref().ok_or_else(unknown)?;
    let plain = Path::new(&name).components().eq([std::path::Component::Normal(name.as_ref())]);
    let path = folder.join(&name);
    if plain && path.join(METRICS).is_file() { Ok(path) } else { Err(unknown()) }
}

/// Whole lines from a place on, [`MOST`] bytes at most, and their length.
fn lines(file: &mut File, from: u64) -> std::io::Result<(Vec<u8>, u64)> {
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.take(MOST).read_to_end(&mut text)?;
    text.truncate(text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
    let whole = text.len() as u64;
    Ok((text, whole))
}

/// The lines that are JSON: the first may begin in its middle.
fn rows(text: &[u8]) -> Vec<Value> {
    text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

fn inside(what: &str, error: std::io::Error) -> ApiError {
    ApiError::of_inside(&Error::read(what, error))
}
