//! Files over HTTP into the blobs of a cache: to a temporary name, checked, synced, renamed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::choose::{DigestKind, Promise};
use crate::cache::{sync_folder, unique};
use crate::options::PullOptions;
use querywright_types::{Progress, hex};

/// A connection that does not stand within this time is given up.
const CONNECT: Duration = Duration::from_secs(10);
/// An answer that does not begin within this time is given up.
const ANSWER: Duration = Duration::from_secs(30);
/// A file that comes slower than this is given up (after [`ANSWER`] in addition).
const SLOWEST_BYTES_PER_SECOND: u64 = 20_000;
/// A listing larger than this is refused.
const LARGEST_LISTING: u64 = 64 << 20;

/// A client for one pull.
pub(super) struct Http {
    agent: ureq::Agent,
    token: Option<String>,
}

impl Http {
    pub(super) fn new(token: Option<String>) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .http_status_as_error(false)
            .user_agent(concat!("querywright/", env!("CARGO_PKG_VERSION")));
        Self { agent: config.build().into(), token }
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
        let total = promise.size;
        let allowed = ANSWER + Duration::from_secs(total / SLOWEST_BYTES_PER_SECOND);
        let answer = self.get(address, allowed)?;
        let partial = Partial::beside(blob)?;
        let mut out = File::create(&partial.0).map_err(|e| cannot_write(&partial.0, &e))?;
        let mut reader = answer.into_body().into_reader();
        let mut digest = Running::of(promise);
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
            digest.update(bytes);
            done += n as u64;
            options.tell(Progress::new(name, done, total));
        }
        if done != total {
            return Err(format!("broke off after {done} of {total} bytes"));
        }
        digest.verify(promise)?;
        out.sync_all().map_err(|e| cannot_write(&partial.0, &e))?;
        partial.into_place(blob)
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
        let right = promise.digest;
        match right.eq_ignore_ascii_case(&found) {
            true => Ok(()),
            false => Err(format!("has the {kind} {found}, and {right} is the right one")),
        }
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
