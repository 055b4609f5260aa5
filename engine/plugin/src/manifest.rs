//! `plugin.toml`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Capabilities, Grant, Limits, Wanted};
use crate::error::{Error, Result, nearest};

/// What a plugin says of itself before any of its code runs. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its name: lower-case letters, digits and dashes, with at most one slash: `attributes`, `acme/attributes`.
    pub id: String,
    /// Its version, `MAJOR.MINOR.PATCH`.
    pub version: String,
    /// SHA-256 of the component file, in lower-case hexadecimal digits.
    pub sha256: String,
    /// The host interfaces that it wants.
    #[serde(default)]
    pub capabilities: Wanted,
    /// How much it needs.
    #[serde(default)]
    pub limits: Limits,
}

impl Manifest {
    /// Reads a manifest file.
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, lacks a key, has an unknown one, or a value cannot be used.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::read(path, e))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// As [`read`](Self::read), from text; `shown` names the source in errors.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), without the file.
    pub fn parse(text: &str, shown: &str) -> Result<Self> {
        let mut manifest: Self = toml::from_str(text).map_err(|e| explain(shown, &e))?;
        let refuse = |key: &str, found: &str, remedy: &str| {
            Err(Error::argument(format!("{shown}: {key}"), format!("found \"{found}\""), remedy))
        };
        let word = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if manifest.id.split('/').count() > 2 || !manifest.id.split('/').all(word) {
            return refuse("id", &manifest.id, "write a name such as \"acme/attributes\": a-z, 0-9, -, one / at most");
        }
        if !is_version(&manifest.version) {
            return refuse("version", &manifest.version, "write MAJOR.MINOR.PATCH, such as \"1.0.0\"");
        }
        if manifest.sha256.len() != 64 || !manifest.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return refuse("sha256", &manifest.sha256, "write the 64 lower-case digits that `sha256sum` prints");
        }
        manifest.limits.validate()?;
        manifest.capabilities = manifest.capabilities.checked()?;
        Ok(manifest)
    }

    /// Checks that these bytes are the component that the manifest is about.
    ///
    /// # Errors
    /// When their digest is another.
    pub fn verify(&self, component: &[u8]) -> Result<()> {
        let digest = super::hex(&Sha256::digest(component));
        if digest == self.sha256 {
            return Ok(());
        }
        Err(Error::argument(
            format!("sha256 of {}", self.id),
            format!("the component has {digest}, the manifest says {}", self.sha256),
            "fetch the plugin again; if you built it yourself, write the new digest into plugin.toml",
        ))
    }

    /// What the plugin may do under a grant.
    pub fn grant(&self, grant: &Grant) -> Capabilities {
        self.capabilities.granted(&self.limits, grant)
    }
}

/// Three whole numbers, and after a dash or a plus whatever semantic versions may carry.
fn is_version(text: &str) -> bool {
    let (numbers, rest) = text.find(['-', '+']).map_or((text, None), |at| (&text[..at], Some(&text[at + 1..])));
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let plain = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-".contains(&b));
    numbers.split('.').count() == 3 && numbers.split('.').all(number) && rest.is_none_or(plain)
}

/// Serde's sentence with its line, and the nearest known key for an unknown one.
fn explain(shown: &str, error: &toml::de::Error) -> Error {
    let quoted: Vec<&str> = error.message().split('`').skip(1).step_by(2).collect();
    let remedy = match quoted.split_first() {
        Some((unknown, known)) if error.message().starts_with("unknown field") => {
            match nearest(unknown, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the keys here are {}", known.join(", ")),
            }
        }
        _ => "correct this line".into(),
    };
    Error::argument(shown, error.to_string().trim().to_owned(), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of "test".
    const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn parse(head: &str, tail: &str) -> Result<Manifest> {
        Manifest::parse(&format!("{head}\nversion = \"1.2.0\"\nsha256 = \"{DIGEST}\"\n{tail}"), "plugin.toml")
    }

    #[test]
    fn a_manifest_says_what_it_wants_and_the_rest_has_defaults() {
        let got =
            parse("id = \"acme/bm25\"", "[capabilities]\nhttp = [\"a.org\"]\n[limits]\nmemory_mib = 64\n").unwrap();
        assert_eq!((got.id.as_str(), got.limits.memory_mib, got.limits.instances), ("acme/bm25", 64, 8));
        assert!(got.capabilities.http.contains("a.org") && !got.capabilities.log);
        assert!(got.grant(&Grant::default()).http.is_empty());
    }

    #[test]
    fn the_digest_pins_the_component() {
        let manifest = parse("id = \"a\"", "").unwrap();
        manifest.verify(b"test").unwrap();
        let error = manifest.verify(b"tesT").unwrap_err().to_string();
        assert!(error.contains("fetch the plugin again") && error.contains(DIGEST), "{error}");
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_key() {
        for (head, tail, part) in [
            ("id = \"a\"", "[capabilities]\nhtpp = []", "did you mean `http`"),
            ("id = \"a\"\ncapabilites = {}", "", "did you mean `capabilities`"),
            ("id = \"Acme\"", "", "id: found \"Acme\""),
            ("id = \"a/b/c\"", "", "id: found"),
            ("", "", "missing field `id`"),
            ("id = \"a\"", "[limits]\ncall_ms = 0", "limits.call_ms"),
            ("id = \"a\"", "[limits]\nmemory_mib = -1", "line 5"),
            ("id = \"a\"", "[capabilities]\nhttp = [\"http://a.org\"]", "is not a host"),
        ] {
            let error = parse(head, tail).unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
        let wrong = |version: &str, digest: &str| {
            let text = format!("id = \"a\"\nversion = \"{version}\"\nsha256 = \"{digest}\"");
            Manifest::parse(&text, "plugin.toml").unwrap_err().to_string()
        };
        assert!(wrong("1.2", DIGEST).contains("MAJOR.MINOR.PATCH"));
        assert!(wrong("1.2.x", DIGEST).contains("MAJOR.MINOR.PATCH"));
        assert!(wrong("1.0.0", &DIGEST.to_uppercase()).contains("sha256sum"));
        assert!(is_version("1.0.0-rc.1+build5") && !is_version("1.0.0-"));
    }
}
