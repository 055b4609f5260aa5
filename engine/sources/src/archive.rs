//! Wheels (zip) and source distributions (tar.gz): the wanted members, and nothing outside the target folder.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use super::registry::Form;

/// Unpacks `wanted` of the archive into the folder `into`: one member by its whole name, or, when `wanted` ends with a
/// slash, everything below it. The part of the name up to the last slash of `wanted` is left out.
pub(super) fn unpack(form: Form, archive: &Path, wanted: &str, into: &Path) -> Result<(), String> {
    let file = File::open(archive).map_err(|e| format!("cannot open {}: {e}", archive.display()))?;
    let count = match form {
        Form::Wheel => from_zip(file, wanted, into),
        Form::Sdist => from_tar(file, wanted, into),
    }
    .map_err(|e| format!("cannot unpack {}: {e}", archive.display()))?;
    if count == 0 {
        return Err(format!("{} holds no {wanted}", archive.display()));
    }
    Ok(())
}

fn from_zip(file: File, wanted: &str, into: &Path) -> io::Result<usize> {
    let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(io::Error::other)?;
    let mut count = 0;
    for index in 0..archive.len() {
        let mut member = archive.by_index(index).map_err(io::Error::other)?;
        let name = member.name().map_err(io::Error::other)?.into_owned();
        let target = target(&name, wanted, into)?;
        if let (true, Some(target)) = (member.is_file(), target) {
            write(&mut member, &target)?;
            count += 1;
        }
    }
    Ok(count)
}

fn from_tar(file: File, wanted: &str, into: &Path) -> io::Result<usize> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(BufReader::new(file)));
    let mut count = 0;
    for member in archive.entries()? {
        let mut member = member?;
        let name = member.path()?.to_string_lossy().into_owned();
        let target = target(&name, wanted, into)?;
        if let (true, Some(target)) = (member.header().entry_type().is_file(), target) {
            write(&mut member, &target)?;
            count += 1;
        }
    }
    Ok(count)
}

/// The file to write for a member; none when the member is not wanted.
fn target(name: &str, wanted: &str, into: &Path) -> io::Result<Option<PathBuf>> {
    let folder = wanted.rfind('/').map_or("", |slash| wanted.get(..=slash).unwrap_or(""));
    if name != wanted && !(wanted.ends_with('/') && name.starts_with(wanted)) {
        return Ok(None);
    }
    let Some(rest) = name.strip_prefix(folder).filter(|rest| !rest.is_empty()) else { return Ok(None) };
    if Path::new(rest).components().all(|part| matches!(part, Component::Normal(_))) {
        Ok(Some(into.join(rest)))
    } else {
        Err(io::Error::other(format!("member {name:?} points outside its folder")))
    }
}

fn write(member: &mut impl Read, target: &Path) -> io::Result<()> {
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = File::create(target)?;
    io::copy(member, &mut file)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn wheel(folder: &Path, members: &[(&str, &[u8])]) -> PathBuf {
        let path = folder.join("a.whl");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, bytes) in members {
            zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
        path
    }

    #[test]
    fn only_wanted_members_are_unpacked_and_folders_are_kept_below_the_prefix() {
        let folder = tempfile::tempdir().unwrap();
        let long = vec![b'a'; 100_000];
        let path = wheel(folder.path(), &[("p/m/x.json", b"{}"), ("p/m/s/y.bin", &long), ("p/other", b"no")]);
        let out = folder.path().join("out");
        unpack(Form::Wheel, &path, "p/m/", &out).unwrap();
        assert_eq!(fs::read(out.join("x.json")).unwrap(), b"{}");
        assert_eq!(fs::read(out.join("s/y.bin")).unwrap(), long);
        assert!(!out.join("other").exists());
        let one = folder.path().join("one");
        unpack(Form::Wheel, &path, "p/m/x.json", &one).unwrap();
        assert_eq!(fs::read_dir(&one).unwrap().count(), 1);
        assert!(unpack(Form::Wheel, &path, "q/", &one).unwrap_err().contains("holds no q/"));
    }

    #[test]
    fn a_member_that_points_outside_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = wheel(folder.path(), &[("p/../../evil", b"x")]);
        let out = folder.path().join("deep/out");
        assert!(unpack(Form::Wheel, &path, "p/", &out).unwrap_err().contains("points outside"));
        assert!(!folder.path().join("evil").exists());
    }

    #[test]
    fn a_truncated_archive_is_an_error_and_not_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = wheel(folder.path(), &[("p/x", &[7; 5000])]);
        let whole = fs::read(&path).unwrap();
        for cut in [0, 10, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(unpack(Form::Wheel, &path, "p/", &folder.path().join("o")).is_err(), "cut at {cut}");
            assert!(unpack(Form::Sdist, &path, "p/", &folder.path().join("o")).is_err(), "cut at {cut}");
        }
    }
}
