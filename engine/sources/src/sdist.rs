//! Source distributions, fetched as they are. A Python client would run the build of one to learn what it needs; here
//! nothing of it is run: its address is looked up in the index, and its bytes are checked against the pinned digest.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::registry::Package;

/// Where packages are looked up, unless the user's client is set to another index.
pub(super) const PYPI: &str = "https://pypi.org/simple";
/// A larger page or archive is refused.
const LARGEST: u64 = 64 << 20;
/// A connection or an answer that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// An archive that takes longer is given up.
const WHOLE: Duration = Duration::from_secs(600);

/// Downloads the archive of a package into a folder. The caller checks its digest.
pub(super) fn download(package: &Package, index: &str, into: &Path) -> Result<PathBuf, String> {
    let name = format!("{}-{}.tar.gz", package.name, package.version);
    let page = format!("{}/{}/", index.trim_end_matches('/'), package.name);
    let config = querywright_http::client()?
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_global(Some(WHOLE));
    let agent: ureq::Agent = config.build().into();
    let listing = String::from_utf8_lossy(&get(&agent, &page)?).into_owned();
    let address = address(&listing, &page, &name).ok_or_else(|| format!("{} lists no {name}", shown(&page)))?;
    let archive = into.join(name);
    let bytes = get(&agent, &address)?;
    let written = File::create(&archive).and_then(|mut file| std::io::Write::write_all(&mut file, &bytes));
    written.map_err(|e| format!("cannot write {}: {e}", archive.display()))?;
    Ok(archive)
}

fn get(agent: &ureq::Agent, address: &str) -> Result<Vec<u8>, String> {
    let place = shown(address);
    let answer = agent.get(address).header("Accept", "text/html, */*;q=0.1").call();
    let answer = answer.map_err(|e| format!("{place} could not be reached: {e}"))?;
    if !answer.status().is_success() {
        return Err(format!("{place} answered {}", answer.status()));
    }
    let mut bytes = Vec::new();
    let read = answer.into_body().into_reader().take(LARGEST + 1).read_to_end(&mut bytes);
    read.map_err(|e| format!("{place} broke off: {e}"))?;
    if bytes.len() as u64 > LARGEST {
        return Err(format!("{place} is larger than {} MiB", LARGEST >> 20));
    }
    Ok(bytes)
}

/// An address without the name and password that it may hold.
fn shown(address: &str) -> String {
    match address.split_once("://").map(|(scheme, rest)| (scheme, rest.split_once('/').unwrap_or((rest, "")))) {
        Some((scheme, (host, path))) => format!("{scheme}://{}/{path}", host.rsplit('@').next().unwrap_or(host)),
        None => address.to_owned(),
    }
}

/// The address of a file on a page of links (PEP 503), which lies at `page`.
fn address(listing: &str, page: &str, name: &str) -> Option<String> {
    let links = listing.split("href=").skip(1).filter_map(|rest| {
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        rest.get(1..)?.split(quote).next()
    });
    let mut links = links.map(|link| link.split('#').next().unwrap_or(link).replace("&amp;", "&"));
    let link = links.find(|link| link.split('?').next().and_then(|path| path.rsplit('/').next()) == Some(name))?;
    if link.contains("://") {
        return Some(link);
    }
    let (scheme, rest) = page.split_once("://")?;
    if let Some(elsewhere) = link.strip_prefix("//") {
        return Some(format!("{scheme}://{elsewhere}"));
    }
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut parts: Vec<&str> = if link.starts_with('/') { Vec::new() } else { path.split('/').collect() };
    // What stands behind the last slash is the page itself.
    parts.pop();
    for part in link.trim_start_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Some(format!("{scheme}://{host}/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Form;
    use querywright_testing::fake_server::{FakeServer, Response};

    #[test]
    fn links_of_any_form_are_resolved() {
        let page = "https://me:secret@host/root/simple/x/";
        let find =
            |link: &str| address(&format!("<a href=\"y-1.tar.gz\">y</a><a href='{link}'>x</a>"), page, "x-1.tar.gz");
        for (link, right) in [
            ("https://files/x-1.tar.gz#sha256=00", "https://files/x-1.tar.gz"),
            ("//files/a/x-1.tar.gz", "https://files/a/x-1.tar.gz"),
            ("/a/x-1.tar.gz", "https://me:secret@host/a/x-1.tar.gz"),
            ("../../a/x-1.tar.gz?k=1&amp;l=2", "https://me:secret@host/root/a/x-1.tar.gz?k=1&l=2"),
            ("x-1.tar.gz", "https://me:secret@host/root/simple/x/x-1.tar.gz"),
        ] {
            assert_eq!(find(link).as_deref(), Some(right));
        }
        assert_eq!(find("x-2.tar.gz"), None);
        assert_eq!(shown(page), "https://host/root/simple/x/");
    }

    #[test]
    fn an_archive_is_fetched_by_its_address_and_nothing_is_run() {
        let page = "<a href=\"../../files/x-1.tar.gz#sha256=0\">x-1.tar.gz</a>";
        let answers = [("/simple/x/", Response::ok(page)), ("/files/x-1.tar.gz", Response::ok("bytes"))];
        let server = FakeServer::start(answers.into_iter().map(|(path, answer)| (path.to_owned(), answer)).collect());
        let folder = tempfile::tempdir().unwrap();
        let package = |version| Package { name: "x", version, form: Form::Sdist, sha256: "" };
        let index = format!("{}/simple", server.address);
        let archive = download(&package("1"), &index, folder.path()).unwrap();
        assert_eq!(std::fs::read_to_string(archive).unwrap(), "bytes");
        assert!(download(&package("2"), &index, folder.path()).unwrap_err().contains("lists no x-2.tar.gz"));
    }
}
