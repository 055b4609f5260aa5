//! What a file is that holds no UTF-8 text, by its first bytes.

/// How many bytes are looked at. Files of ids, tabs and JSON have ASCII characters among the first few in any language.
pub(super) const HEAD: usize = 64;
/// How gzip files begin.
pub(super) const GZIP: &[u8] = b"\x1f\x8b";
/// What git leaves where its large files are not fetched.
pub(super) const LFS: &[u8] = b"version https://git-lfs.github.com";

/// Beginnings of files that hold no lines, what they are, and what to do.
const FORMATS: [(&[u8], &str, &str); 10] = [
    (GZIP, "the file is compressed by gzip twice", "unpack it once: gunzip FILE.gz"),
    (b"\x28\xb5\x2f\xfd", "the file is compressed by zstd", "unpack it: zstd -d FILE"),
    (b"\xfd7zXZ", "the file is compressed by xz", "unpack it: xz -d FILE"),
    (b"BZh", "the file is compressed by bzip2", "unpack it: bzip2 -d FILE"),
    (b"PK\x03\x04", "the file is a zip archive", "unpack it: unzip FILE"),
    (b"7z\xbc\xaf\x27\x1c", "the file is a 7z archive", "unpack it: 7z x FILE"),
    (b"\x1f\x9d", "the file is compressed by compress", "unpack it: uncompress FILE"),
    (b"\x04\x22\x4d\x18", "the file is compressed by lz4", "unpack it: lz4 -d FILE"),
    (LFS, "the file is a pointer of git-lfs, not the file itself", "fetch it: git lfs pull"),
    (b"PAR1", "the file is in Parquet", "convert it to JSON lines: one JSON object a line"),
];

/// What is wrong with a file that begins so, and what to do; none where it may be UTF-8 text.
pub(super) fn foreign(head: &[u8]) -> Option<(String, String)> {
    if let Some((_, found, remedy)) = FORMATS.iter().find(|(magic, ..)| head.starts_with(magic)) {
        return Some(((*found).to_owned(), (*remedy).to_owned()));
    }
    let name = wide(head)?;
    let found = format!("the file is text in {name}, not in UTF-8");
    // With a byte order mark iconv takes it off where the name says no order.
    let marked = head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") || head.starts_with(b"\0\0\xfe\xff");
    let from = if marked { name.get(..6).unwrap_or(name) } else { name };
    Some((found, format!("convert it, such as with: iconv -f {from} -t UTF-8 FILE > NEW")))
}

/// The encoding of a text whose characters have two or four bytes, by its byte order mark or by where its zeros are.
fn wide(head: &[u8]) -> Option<&'static str> {
    match head {
        [0xff, 0xfe, 0, 0, ..] => return Some("UTF-32LE"),
        [0, 0, 0xfe, 0xff, ..] => return Some("UTF-32BE"),
        [0xff, 0xfe, ..] => return Some("UTF-16LE"),
        [0xfe, 0xff, ..] => return Some("UTF-16BE"),
        _ => {}
    }
    let zeros = |place: usize| head.iter().skip(place).step_by(4).filter(|byte| **byte == 0).count();
    let all = |place: usize| zeros(place) > 0 && zeros(place) == head.iter().skip(place).step_by(4).count();
    let [first, second, third, fourth] = [0, 1, 2, 3].map(zeros);
    match () {
        () if first + second + third + fourth < 2 => None,
        () if all(2) && all(3) => Some("UTF-32LE"),
        () if all(0) && all(1) => Some("UTF-32BE"),
        // Some characters of other scripts have a zero in their other byte.
        () if (first + third) * 4 < second + fourth => Some("UTF-16LE"),
        () if (second + fourth) * 4 < first + third => Some("UTF-16BE"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(head: &[u8]) -> String {
        foreign(head).map_or_else(String::new, |(found, remedy)| format!("{found}; {remedy}"))
    }

    #[test]
    fn wide_encodings_are_named_with_and_without_a_byte_order_mark() {
        for text in ["q1\t0\td1\t1\n", "{\"id\": \"1\", \"title\": \"钢一水壶\"}\n", "q\n"] {
            let [mut le16, mut be16, mut le32, mut be32] = <[Vec<u8>; 4]>::default();
            for unit in text.encode_utf16() {
                le16.extend(unit.to_le_bytes());
                be16.extend(unit.to_be_bytes());
            }
            for c in text.chars() {
                le32.extend(u32::from(c).to_le_bytes());
                be32.extend(u32::from(c).to_be_bytes());
            }
            for (bytes, name, mark) in [
                (le16, "UTF-16LE", &b"\xff\xfe"[..]),
                (be16, "UTF-16BE", b"\xfe\xff"),
                (le32, "UTF-32LE", b"\xff\xfe\0\0"),
                (be32, "UTF-32BE", b"\0\0\xfe\xff"),
            ] {
                assert!(named(&bytes).contains(name), "{text:?} {name}: {}", named(&bytes));
                assert!(named(&bytes).contains(&format!("iconv -f {name} ")), "{}", named(&bytes));
                let marked = named(&[mark, &bytes[..]].concat());
                assert!(marked.contains(name) && marked.contains(&format!("iconv -f {} ", &name[..6])), "{marked}");
            }
            assert_eq!(foreign(text.as_bytes()), None);
        }
        assert_eq!(foreign(b""), None);
        assert_eq!(foreign("\u{feff}q1".as_bytes()), None);
    }

    #[test]
    fn formats_that_hold_no_lines_are_named() {
        assert!(named(b"\x28\xb5\x2f\xfd....").contains("zstd -d"));
        assert!(named(b"BZh91AY&SY").contains("bzip2"));
        assert!(named(b"PAR1").contains("JSON lines"));
    }
}
