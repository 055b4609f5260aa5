//! Digests in text.

/// Bytes in lower-case hexadecimal: how cards, manifests and cache keys write a digest.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_two_lower_case_digits_each() {
        assert_eq!(hex([0, 10, 255]), "000aff");
    }
}
