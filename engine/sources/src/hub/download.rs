//! Files over HTTP into the blobs of a cache: to a temporary name, checked, synced, renamed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::choose::{DigestKind, Promise};
use crate::cache::{sync_folder, unique};
use crate::options::PullOptions;
use querywright_types::{Progress, hex};

/// A connection that does not stand within this time is given up.
const CONNECT: Duration = Duration::from_secs(10);
/// An answer that does not begin, or does not go on, within this time is given up.
const ANSWER: Duration = Duration::from_secs(30);
/// A file that comes slower than this is given up (after [`ANSWER`] in addition).
const SLOWEST_BYTES_PER_SECOND: u64 = 20_000;
/// A file of unknown size is given the time of one of this size.
const LARGEST_UNKNOWN: u64 = 2 << 30;
/// A listing larger than this is refused.
const LARGEST_LISTING: u64 = 64 << 20;

/// A client for one pull.
pub(crate) struct Http {
    agent: ureq::Agent,
    token: Option<String>,
}

impl Http {
    pub(crate) fn new(token: Option<String>) -> Result<Self, String> {
        let config = querywright_http::client()?
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .timeout_per_read(Some(ANSWER));
        Ok(Self { agent: config.build().into(), token })
    }

    fn get(&self, address: &str, body: Duration) -> Result<ureq::http::Response<ureq::Body>, String> {
        let mut request = self.agent.get(address);
        if let Some(token) = &self.token {
            // Redirects to other hosts do not carry it on.
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let answer = request.config().timeout_recv_body(Some(body)).build().call();
        let answer = answer.map_err(|e| format!("{address} could not be reached: {e}"))?;
        match answer.status().as_u16() {
            200..=299 => Ok(answer),
            401 | 403 => Err(format!(
                "{address} answered {}: there is no such repository, or it is closed (ask for access and set HF_TOKEN)",
                answer.status()
            )),
            404 => Err(format!("{address} answered 404: no such repository, revision or file")),
            _ => Err(format!("{address} answered {}", answer.status())),
        }
    }

    /// A JSON answer.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, address: &str) -> Result<T, String> {
        let mut answer = self.get(address, 2 * ANSWER)?;
        let text = answer.body_mut().with_config().limit(LARGEST_LISTING).read_to_vec();
        let text = text.map_err(|e| format!("{address} broke off: {e}"))?;
        serde_json::from_slice(&text).map_err(|e| format!("{address} answered something else than a listing: {e}"))
    }

    /// Downloads a file to the path `blob`; nothing is there unless all of it is, with the size and the digest promised.
    pub(super) fn download(
        &self,
        address: &str,
        name: &str,
        promise: Promise<'_>,
        blob: &Path,
        options: &PullOptions<'_>,
    ) -> Result<(), String> {
        let mut digest = Running::of(promise);
        let partial =
            self.receive(address, name, (Some(promise.size), blob), options, &mut |bytes| digest.update(bytes))?;
        digest.verify(promise)?;
        partial.into_place(blob)
    }

    /// Downloads a file to the path `to` as [`download`](Self::download) does; returns its SHA-256.
    pub(crate) fn fetch(
        &self,
        address: &str,
        name: &str,
        wanted: Wanted<'_>,
        to: &Path,
        options: &PullOptions<'_>,
    ) -> Result<String, String> {
        let mut sha256 = Sha256::new();
        let mut md5 = Md5::new();
        let mut promised = match wanted {
            Wanted::Promised(promise) => Some((Running::of(promise), promise)),
            _ => None,
        };
        let partial = self.receive(address, name, (wanted.size(), to), options, &mut |bytes| {
            sha256.update(bytes);
            match (&mut promised, wanted) {
                (Some((running, _)), _) => running.update(bytes),
                (None, Wanted::Md5(_)) => md5.update(bytes),
                _ => {}
            }
        })?;
        let found = hex(sha256.finalize());
        match (promised, wanted) {
            (Some((running, promise)), _) => running.verify(promise)?,
            (None, Wanted::Sha256(right)) => same("sha256", &found, right)?,
            (None, Wanted::Md5(right)) => same("md5", &hex(md5.finalize()), right)?,
            (None, _) => {}
        }
        partial.into_place(to)?;
        Ok(found)
    }

    /// Receives a file beside `to`, synced. Where its size is not known, the server's word is taken.
    fn receive(
        &self,
        address: &str,
        name: &str,
        (size, to): (Option<u64>, &Path),
        options: &PullOptions<'_>,
        update: &mut dyn FnMut(&[u8]),
    ) -> Result<Partial, String> {
        let allowed = ANSWER + Duration::from_secs(size.unwrap_or(LARGEST_UNKNOWN) / SLOWEST_BYTES_PER_SECOND);
        let answer = self.get(address, allowed)?;
        let announced = answer.headers().get("content-length");
        let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let total = size.or(announced).ok_or("the server does not say how long it is")?;
        if size.is_none() {
            let said = format!("{name}: {:.1} MB", total as f64 / 1e6);
            options.tell(Progress::begun(&said));
        }
        let partial = Partial::beside(to)?;
        let mut out = File::create(&partial.0).map_err(|e| cannot_write(&partial.0, &e))?;
        let mut reader = answer.into_body().into_reader();
        let (mut done, mut buffer) = (0_u64, vec![0; 1 << 16]);
        loop {
            let n = reader.read(&mut buffer).map_err(|e| format!("broke off after {done} of {total} bytes: {e}"))?;
            if n == 0 {
                break;
            }
            let bytes = &buffer[..n];
            if done + n as u64 > total {
                return Err(format!("is longer than the {total} bytes that were announced"));
            }
            out.write_all(bytes).map_err(|e| cannot_write(&partial.0, &e))?;
            update(bytes);
            done += n as u64;
            options.tell(Progress::new(name, done, total));
        }
        if done != total {
            return Err(format!("broke off after {done} of {total} bytes"));
        }
        out.sync_all().map_err(|e| cannot_write(&partial.0, &e))?;
        Ok(partial)
    }
}

/// What a file that is fetched by its address is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted<'a> {
    /// Size and digest of the hub's listing.
    Promised(Promise<'a>),
    Sha256(&'a str),
    Md5(&'a str),
    /// Its length alone.
    Anything,
}

impl Wanted<'_> {
    /// The bytes, where they are known before.
    pub(crate) fn size(&self) -> Option<u64> {
        match self {
            Self::Promised(promise) => Some(promise.size),
            _ => None,
        }
    }
}

fn same(kind: &str, found: &str, right: &str) -> Result<(), String> {
    match right.eq_ignore_ascii_case(found) {
        true => Ok(()),
        false => Err(format!("has the {kind} {found}, and {right} is the right one")),
    }
}

/// The digest of the bytes that came so far.
enum Running {
    Sha256(Sha256),
    Git(Sha1),
}

impl Running {
    fn of(promise: Promise<'_>) -> Self {
        match promise.kind {
            DigestKind::Sha256 => Self::Sha256(Sha256::new()),
            // Git's digest begins with the length.
            DigestKind::Git => Self::Git(Sha1::new_with_prefix(format!("blob {}\0", promise.size))),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(digest) => digest.update(bytes),
            Self::Git(digest) => digest.update(bytes),
        }
    }

    fn verify(self, promise: Promise<'_>) -> Result<(), String> {
        let (kind, found) = match self {
            Self::Sha256(digest) => ("sha256", hex(digest.finalize())),
            Self::Git(digest) => ("git digest", hex(digest.finalize())),
        };
        same(kind, &found, promise.digest)
    }
}

/// A file under a temporary name, removed unless it is put into place.
struct Partial(PathBuf);

impl Partial {
    fn beside(path: &Path) -> Result<Self, String> {
        let folder = path.parent().ok_or("no folder to write to")?;
        fs::create_dir_all(folder).map_err(|e| cannot_write(folder, &e))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self(folder.join(format!("{name}.{}.incomplete", unique()))))
    }

    fn into_place(self, path: &Path) -> Result<(), String> {
        match fs::rename(&self.0, path) {
            Ok(()) => sync_folder(path.parent().unwrap_or(path)).map_err(|e| e.to_string()),
            // Another process was faster, and on this system a rename does not replace.
            Err(_) if path.exists() => Ok(()),
            Err(e) => Err(cannot_write(path, &e)),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove.
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes a small file by way of a temporary one.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let partial = Partial::beside(path)?;
    let mut file = File::create(&partial.0).map_err(|e| cannot_write(&partial.0, &e))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| cannot_write(&partial.0, &e))?;
    partial.into_place(path)
}

/// Links `path` to the blob. `path` lies `depth` folders deep in its snapshot. The link is relative, so that the
/// cache can be moved; it is a copy where the system has no links.
pub(super) fn link(blob: &Path, path: &Path, depth: usize) -> Result<(), String> {
    if path.exists() {
        return Ok(());
    }
    let partial = Partial::beside(path)?;
    let name = blob.file_name().unwrap_or_default();
    // From a file of a snapshot: the snapshot's folder, `snapshots`, the repository's folder.
    let target: PathBuf = std::iter::repeat_n("..", depth + 2).collect::<PathBuf>().join("blobs").join(name);
    place(&target, blob, &partial.0).map_err(|e| cannot_write(path, &e))?;
    partial.into_place(path)
}

#[cfg(unix)]
fn place(target: &Path, _blob: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn place(_target: &Path, blob: &Path, copy: &Path) -> std::io::Result<()> {
    fs::copy(blob, copy).and_then(|_| File::open(copy)?.sync_all())
}

fn cannot_write(path: &Path, error: &std::io::Error) -> String {
    // Borrowed here, owned by the crate's error: only its sentence is needed.
    querywright_types::Error::write(path, std::io::Error::new(error.kind(), error.to_string())).to_string()
}
