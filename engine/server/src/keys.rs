//! Who may ask for what.

use std::fmt;
use std::path::Path;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use querywright_types::{Error, Result};

/// Letters of a secret at least.
const SHORTEST: usize = 16;
/// A file of keys has at most this many bytes.
const MAX_BYTES: u64 = 1 << 20;
const REMEDY: &str = "write a key a line: read or admin, a name, and a secret of at least 16 characters";

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    /// Nothing.
    Open,
    /// Some key.
    Read,
    /// A key of an administrator.
    Admin,
}

/// Keys of callers.
///
/// A file has one a line: `read NAME SECRET` or `admin NAME SECRET`, between white space; an administrator may read, too.
/// Empty lines and those that begin with `#` are skipped. Secrets are kept as digests.
#[derive(Clone)]
pub struct Keys(Vec<Key>);

#[derive(Clone)]
struct Key {
    access: Access,
    name: String,
    digest: [u8; 32],
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| (&key.name, key.access))).finish()
    }
}

impl Keys {
    /// Reads a file of keys.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read; [`Error::Data`] naming the line that is no key, whose secret is short, or
    /// whose name or secret stands there twice.
    pub fn read(path: &Path) -> Result<Self> {
        let refuse = |line, found: &str| Error::data(path, line, found, REMEDY);
        if std::fs::metadata(path).map_err(|e| Error::read(path, e))?.len() > MAX_BYTES {
            return Err(refuse(None, "it has more than 1 MiB"));
        }
        let text = std::fs::read_to_string(path).map_err(|e| Error::read(path, e))?;
        Self::parse(&text).map_err(|(line, found)| refuse(line, found))
    }

    fn parse(text: &str) -> std::result::Result<Self, (Option<u64>, &'static str)> {
        let mut keys: Vec<Key> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let refused = |found| Err((Some(number), found));
            let parts: Vec<&str> = line.split_whitespace().collect();
            let [access, name, secret] = parts.as_slice() else { return refused("it is no key") };
            let access = match *access {
                "read" => Access::Read,
                "admin" => Access::Admin,
                _ => return refused("its first word is neither read nor admin"),
            };
            if secret.chars().count() < SHORTEST {
                return refused("the secret is too short to be one");
            }
            let digest = digest(secret);
            if keys.iter().any(|key| key.name == *name || key.digest == digest) {
                return refused("its name or its secret stands in an earlier line");
            }
            keys.push(Key { access, name: (*name).to_owned(), digest });
        }
        if keys.is_empty() { Err((None, "it holds no key")) } else { Ok(Self(keys)) }
    }

    /// The name of the caller and what they may do, where the secret is one of ours. It takes the same time for every
    /// secret of a length.
    pub(crate) fn find(&self, secret: &str) -> Option<(&str, Access)> {
        let given = digest(secret);
        let mut found = None;
        for key in &self.0 {
            if bool::from(key.digest.ct_eq(&given)) {
                found = Some((key.name.as_str(), key.access));
            }
        }
        found
    }
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_key_a_line_and_a_line_that_is_none_is_named() {
        let text = "# ours\n\nread  shop  0123456789abcdef\nadmin ops fedcba9876543210\n";
        let keys = Keys::parse(text).unwrap();
        assert_eq!(keys.find("0123456789abcdef"), Some(("shop", Access::Read)));
        assert_eq!(keys.find("fedcba9876543210"), Some(("ops", Access::Admin)));
        for wrong in ["", "0123456789abcde", "0123456789ABCDEF", "shop"] {
            assert_eq!(keys.find(wrong), None);
        }
        assert!(!format!("{keys:?}").contains("0123"));
        let line = |text: &str| Keys::parse(text).unwrap_err().0;
        assert_eq!(line("read shop"), Some(1));
        assert_eq!(line("# a\nwrite shop 0123456789abcdef"), Some(2));
        assert_eq!(line("read shop 0123456789"), Some(1));
        assert_eq!(line("read a 0123456789abcdef\nread b 0123456789abcdef"), Some(2));
        assert_eq!(line("read a 0123456789abcdef\nadmin a 0123456789abcdeg"), Some(2));
        assert_eq!(line("# none"), None);
    }
}
