//! `plugin new`: a folder with a small recommender that works.

use std::path::Path;

use anyhow::Result;
use querywright::Error;

/// What a new plugin's folder holds: the template, and the SDK that it builds against.
const FILES: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../../assets/template/manifest.toml")),
    ("plugin.toml", include_str!("../../assets/template/plugin.toml")),
    ("README.md", include_str!("../../assets/template/README.md")),
    ("src/lib.rs", include_str!("../../assets/template/src/lib.rs")),
    (".gitignore", "/target\n"),
    ("sdk/Cargo.toml", include_str!("../../assets/sdk/manifest.toml")),
    ("sdk/src/lib.rs", include_str!("../../assets/sdk/src/lib.rs")),
    ("sdk/src/host.rs", include_str!("../../assets/sdk/src/host.rs")),
    ("sdk/src/testing.rs", include_str!("../../assets/sdk/src/testing.rs")),
    ("sdk/wit/artifact.wit", include_str!("../../assets/sdk/wit/artifact.wit")),
    ("sdk/wit/embed.wit", include_str!("../../assets/sdk/wit/embed.wit")),
    ("sdk/wit/http.wit", include_str!("../../assets/sdk/wit/http.wit")),
    ("sdk/wit/log.wit", include_str!("../../assets/sdk/wit/log.wit")),
    ("sdk/wit/recommender.wit", include_str!("../../assets/sdk/wit/recommender.wit")),
    ("sdk/wit/types.wit", include_str!("../../assets/sdk/wit/types.wit")),
    ("sdk/wit/world.wit", include_str!("../../assets/sdk/wit/world.wit")),
];

/// The name that the template has.
const PLACEHOLDER: &str = "my-plugin";

pub fn run(folder: &Path) -> Result<()> {
    let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let plain = !name.is_empty()
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !plain {
        let remedy = "begin with a lower-case letter; letters, digits and dashes after it, as hello-world";
        return Err(Error::argument("FOLDER", format!("\"{name}\" is no name of a plugin"), remedy).into());
    }
    if folder.exists() {
        let found = format!("{} exists", folder.display());
        return Err(Error::argument("FOLDER", found, "choose another name, or remove it").into());
    }
    // Beside it first: a folder of that name is whole.
    let draft = folder.with_file_name(format!(".{name}.{}.part", std::process::id()));
    let made = fill(&draft, &name).and_then(|()| std::fs::rename(&draft, folder).map_err(|e| Error::write(folder, e)));
    if let Err(error) = made {
        let _ = std::fs::remove_dir_all(&draft);
        return Err(error.into());
    }
    say!("{} is there. Next:", folder.display());
    say!("  cargo test --manifest-path {}        runs it natively", folder.join("Cargo.toml").display());
    say!("  querywright plugin build {}", folder.display());
    say!("  querywright plugin check {}", folder.join("dist").join(format!("{name}.wasm")).display());
    Ok(())
}

/// Writes the files of the plugin `name`.
fn fill(folder: &Path, name: &str) -> querywright::Result<()> {
    for (path, text) in FILES {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Error::write(parent, e))?;
        }
        let text = text.replace(PLACEHOLDER, name).replace(&PLACEHOLDER.replace('-', "_"), &name.replace('-', "_"));
        std::fs::write(&path, text).map_err(|e| Error::write(&path, e))?;
    }
    Ok(())
}
