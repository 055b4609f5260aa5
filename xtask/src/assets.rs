//! Copies of files that crates embed: what a crate embeds must lie inside it, or it could not be published.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// (where a file or the files of a folder lie, where their copies do). A `Cargo.toml` is copied as `manifest.toml`: cargo
/// takes a folder with a `Cargo.toml` for a package of its own and leaves it out.
const COPIES: [(&str, &str); 8] = [
    ("examples/configs/demo.toml", "engine/cli/assets/demo.toml"),
    ("examples/configs/rec-r1.toml", "engine/cli/assets/rec-r1.toml"),
    ("plugins/bm25/dist", "engine/cli/assets/bm25"),
    ("plugins/template", "engine/cli/assets/template"),
    ("plugins/template/src", "engine/cli/assets/template/src"),
    ("plugins/sdk", "engine/cli/assets/sdk"),
    ("plugins/sdk/src", "engine/cli/assets/sdk/src"),
    ("wit", "engine/plugin/wit"),
];

/// The contract has two more copies: the SDK's, and that of the SDK which `plugin new` writes.
const CONTRACT: [(&str, &str); 2] = [("wit", "plugins/sdk/wit"), ("wit", "engine/cli/assets/sdk/wit")];

/// Makes the copies anew; with `check` it only says which differ.
pub fn copy(root: &Path, check: bool) -> Result<()> {
    let mut stale = Vec::new();
    for (from, to) in CONTRACT.iter().chain(&COPIES) {
        for (from, to) in files(&root.join(from), &root.join(to))? {
            let bytes = std::fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            if std::fs::read(&to).is_ok_and(|copy| copy == bytes) {
                continue;
            }
            if check {
                stale.push(to.strip_prefix(root).unwrap_or(&to).display().to_string());
                continue;
            }
            std::fs::create_dir_all(to.parent().unwrap_or(root))?;
            std::fs::write(&to, bytes).with_context(|| format!("cannot write {}", to.display()))?;
            println!("{}", to.display());
        }
    }
    if !stale.is_empty() {
        bail!(
            "copies that differ from what they are copies of (`cargo xtask assets` makes them anew): {}",
            stale.join(", ")
        );
    }
    Ok(())
}

/// A file and its copy, or the files of a folder (not those of its folders) and theirs.
fn files(from: &Path, to: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    if from.is_file() {
        return Ok(vec![(from.to_owned(), to.to_owned())]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry?.path();
        if path.is_file() && path.file_name().is_some_and(|name| name != "Cargo.lock") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().replace("Cargo.toml", "manifest.toml");
            found.push((path, to.join(name)));
        }
    }
    found.sort();
    Ok(found)
}
