//! A web server for tests: fixed answers on a local port.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An answer: status, body, and how many bytes of it to send before breaking off.
#[derive(Clone)]
pub(crate) struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
    pub cut_at: Option<usize>,
    pub delay: Duration,
}

impl Reply {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), cut_at: None, delay: Duration::ZERO }
    }

    pub(crate) fn status(status: u16, body: &str) -> Self {
        Self { status, ..Self::ok(body) }
    }
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub path: String,
    pub headers: Vec<String>,
    pub body: String,
}

/// A server that runs until the test's process ends.
pub(crate) struct FakeServer {
    pub address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl FakeServer {
    /// Serves `answers` by path; other paths are 404.
    pub(crate) fn start(answers: HashMap<String, Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let answers = Arc::new(answers);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, log) = (Arc::clone(&answers), Arc::clone(&log));
                std::thread::spawn(move || serve(stream, &answers, &log));
            }
        });
        Self { address, seen }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, answers: &HashMap<String, Reply>, log: &Mutex<Vec<Seen>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let Some(path) = lines.first().and_then(|l| l.split(' ').nth(1)).map(str::to_owned) else { return };
    let length = lines.iter().find_map(|l| l.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    let _ = reader.read_exact(&mut body);
    log.lock().unwrap().push(Seen { path: path.clone(), headers: lines, body: String::from_utf8_lossy(&body).into() });
    let answer = answers.get(&path).cloned().unwrap_or_else(|| Reply::status(404, "not found"));
    std::thread::sleep(answer.delay);
    let head =
        format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", answer.status, answer.body.len());
    let sent = answer.cut_at.unwrap_or(answer.body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&answer.body[..sent]));
}
