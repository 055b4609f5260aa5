//! SHA-256 in hexadecimal: keys of caches, and digests that tell versions apart.

use querywright_types::hex;
use sha2::{Digest, Sha256};

/// The SHA-256 of some bytes, in hexadecimal.
pub fn sha256(bytes: impl AsRef<[u8]>) -> String {
    hex(Sha256::digest(bytes))
}

/// The SHA-256 of a list, in hexadecimal. Each part goes with its length before it, so that moving a boundary changes the
/// digest.
pub fn sha256_of(parts: &[impl AsRef<[u8]>]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        let part = part.as_ref();
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hex(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_lists_of_texts_have_one_digest() {
        assert_eq!(sha256_of(&[""; 0]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_ne!(sha256_of(&["ab", "c"]), sha256_of(&["a", "bc"]));
        assert_ne!(sha256_of(&["a", ""]), sha256_of(&["a"]));
    }
}
