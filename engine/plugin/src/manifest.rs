//! The manifest of a plugin, `plugin.toml`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::capability::{Capabilities, Grant, Wanted};
use super::limits::Limits;
use querywright_data::digest;
use querywright_types::{Error, Result};

/// What a plugin declares before any of its code runs. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Manifest {
    /// Its id: lower-case letters, digits and dashes, with at most one slash: `attributes`, `acme/attributes`.
    pub id: String,
    /// Its version, `MAJOR.MINOR.PATCH`.
    pub version: String,
    /// SHA-256 of the component file, in lower-case hexadecimal digits.
    pub sha256: String,
    /// The host interfaces that it wants.
    #[serde(default)]
    pub capabilities: Wanted,
    /// How much it needs of each limited resource.
    #[serde(default)]
    pub limits: Limits,
}

impl Manifest {
    /// That of a component with this SHA-256, in lower-case hexadecimal, which asks for nothing.
    pub fn new(id: impl Into<String>, version: impl Into<String>, sha256: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            version: version.into(),
            sha256: sha256.into(),
            capabilities: Default::default(),
            limits: Limits::default(),
        }
    }

    /// Reads a manifest file.
    ///
    /// # Errors
    /// If the file cannot be read, is not TOML, lacks a key, has an unknown one, or has a value that cannot be used.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::read(path, e))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// The manifest of a component file: `plugin.toml` in the same folder. None if there is no such file.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn beside(component: &Path) -> Result<Option<Self>> {
        let path = component.with_file_name("plugin.toml");
        path.is_file().then(|| Self::read(&path)).transpose()
    }

    /// Parses the text of a manifest. `shown` names its source in errors.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), except for the file.
    pub fn parse(text: &str, shown: &str) -> Result<Self> {
        let mut manifest: Self = toml::from_str(text).map_err(|e| refused(shown, &e))?;
        manifest.validate_identity(shown)?;
        manifest.limits.validate()?;
        manifest.capabilities = manifest.capabilities.checked()?;
        Ok(manifest)
    }

    fn validate_identity(&self, shown: &str) -> Result<()> {
        let refuse = |key: &str, found: &str, remedy: &str| {
            Err(Error::argument(format!("{shown}: {key}"), format!("found \"{found}\""), remedy))
        };
        let word = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if self.id.split('/').count() > 2 || !self.id.split('/').all(word) {
            return refuse("id", &self.id, "write a name such as \"acme/attributes\": a-z, 0-9, -, one / at most");
        }
        if !is_version(&self.version) {
            return refuse("version", &self.version, "write MAJOR.MINOR.PATCH, such as \"1.0.0\"");
        }
        if self.sha256.len() != 64 || !self.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return refuse("sha256", &self.sha256, "write the 64 lower-case digits that `sha256sum` prints");
        }
        Ok(())
    }

    /// Checks that a component is the one that the manifest pins.
    ///
    /// # Errors
    /// If its digest differs.
    pub fn verify(&self, component: &[u8]) -> Result<()> {
        let digest = digest::sha256(component);
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

/// Three whole numbers, then optionally a dash or a plus and the suffix of a semantic version.
fn is_version(text: &str) -> bool {
    let (numbers, rest) = text.find(['-', '+']).map_or((text, None), |at| (&text[..at], Some(&text[at + 1..])));
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let plain = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-".contains(&b));
    numbers.split('.').count() == 3 && numbers.split('.').all(number) && rest.is_none_or(plain)
}

fn refused(shown: &str, error: &toml::de::Error) -> Error {
    Error::configuration(shown, &error.to_string(), error.message())
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
    fn keys_that_a_manifest_leaves_out_have_defaults() {
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
    fn a_value_that_cannot_be_used_is_refused_with_its_key() {
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
