//! SHA-256 in hexadecimal: keys of caches, and digests that tell versions apart.

use sha2::{Digest, Sha256};

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of a list of texts, in hexadecimal. Each goes with its length before it, so that no two lists give the
/// same bytes.
pub fn sha256_of(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hex(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_two_lower_case_digits_each() {
        assert_eq!(hex([0, 10, 255]), "000aff");
    }

    #[test]
    fn no_two_lists_of_texts_have_one_digest() {
        assert_eq!(sha256_of(&[]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_ne!(sha256_of(&["ab", "c"]), sha256_of(&["a", "bc"]));
        assert_ne!(sha256_of(&["a", ""]), sha256_of(&["a"]));
    }
}
