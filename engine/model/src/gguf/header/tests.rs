use super::*;

/// The bytes of a header, of which a test may state any number falsely.
struct Forged(Vec<u8>);

impl Forged {
    /// Begins behind the magic bytes.
    fn new(version: u32, tensors: u64, entries: u64) -> Self {
        Self(Vec::new()).u32(version).u64(tensors).u64(entries)
    }

    fn u32(mut self, n: u32) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn u64(mut self, n: u64) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn text(self, text: &str) -> Self {
        let mut forged = self.u64(text.len() as u64);
        forged.0.extend(text.bytes());
        forged
    }

    fn tensor(self, name: &str, shape: &[u64], kind: u32, offset: u64) -> Self {
        let named = self.text(name).u32(shape.len() as u32);
        shape.iter().fold(named, |forged, n| forged.u64(*n)).u32(kind).u64(offset)
    }

    /// The flaw that is found in it, where 64 bytes follow.
    fn flaw(mut self) -> String {
        self.0.extend([0; 64]);
        let length = self.0.len() as u64 + 4;
        match Header::read(self.0.as_slice(), length) {
            Ok(header) => panic!("{header:?}"),
            Err(Flaw::Damaged(found)) => found,
            Err(flaw) => format!("{flaw:?}"),
        }
    }
}

#[test]
fn what_a_header_holds_is_read_with_its_types() {
    let list = Forged::new(3, 1, 5).text("a").u32(4).u32(7).text("b").u32(5).u32(u32::MAX).text("c").u32(6);
    let list = list.u32(0.5f32.to_bits()).text("d").u32(9).u32(8).u64(2).text("x").text("y\0");
    let list = list.text("e").u32(9).u32(5).u64(2).u32(1).u32(u32::MAX - 1).tensor("t", &[3, 2], 0, 64);
    let header = Header::read(list.0.as_slice(), 1000).unwrap();
    let value = |key: &str| &header.metadata[key];
    assert_eq!((value("a"), value("b"), value("c")), (&Value::Unsigned(7), &Value::Signed(-1), &Value::Float(0.5)));
    assert_eq!(value("d"), &Value::Texts(vec!["x".into(), "y".into()]));
    let Value::Numbers(numbers) = value("e") else { panic!("{:?}", value("e")) };
    assert_eq!(numbers.values().collect::<Vec<_>>(), [Value::Signed(1), Value::Signed(-2)]);
    assert_eq!((&header.tensors["t"].shape, header.tensors["t"].offset), (&vec![2, 3], 64));
    assert_eq!(header.data, (list.0.len() as u64 + 4).next_multiple_of(32));
}

#[test]
fn counts_and_lengths_are_held_against_the_file_before_anything_is_made_for_them() {
    let huge = u64::MAX;
    let key = || Forged::new(3, 0, 1).text("k");
    let table = [
        ("tensors", Forged::new(3, huge, 0), "tensors, where at most 65536"),
        ("as many tensors as are allowed", Forged::new(3, 1 << 16, 0), "65536 items where 72 bytes are left"),
        ("entries", Forged::new(3, 0, huge), "metadata entries, where at most 65536"),
        ("a key", Forged::new(3, 0, 1).u64(huge), "a key of 18446744073709551615 bytes"),
        ("a key beyond the file", Forged::new(3, 0, 1).u64(60_000), "60000 items where"),
        ("a text", key().u32(8).u64(huge), "k of 18446744073709551615 bytes"),
        ("a text beyond the file", key().u32(8).u64(1 << 26), "67108864 items where 64 bytes"),
        ("a list", key().u32(9).u32(4).u64(huge), "k, where at most"),
        ("a list beyond the file", key().u32(9).u32(12).u64(1 << 21), "2097152 items where 64 bytes"),
        ("a list of empty texts", key().u32(9).u32(8).u64(1 << 21), "2097152 items where 64 bytes"),
        ("lists in lists", key().u32(9).u32(9).u64(1).u32(9).u64(1), "a list of values of type 9"),
        ("a list of an unknown type", key().u32(9).u32(77).u64(1), "a list of values of type 77"),
        ("an unknown type", key().u32(77), "the unknown type 77"),
        ("no truth value", key().u32(7).u32(2), "neither true nor false"),
        ("a key twice", Forged::new(3, 0, 2).text("k").u32(4).u32(1).text("k").u32(4).u32(1), "the key k stands twice"),
        ("dimensions", Forged::new(3, 1, 0).text("t").u32(u32::MAX).u64(0).u64(0), "4294967295 dimensions"),
        ("a dimension", Forged::new(3, 1, 0).tensor("t", &[huge], 0, 0), "a dimension of 18446744073709551615"),
        ("a tensor's name", Forged::new(3, 1, 0).tensor(&"n".repeat(300), &[1], 0, 0), "a tensor's name of 300 bytes"),
        ("a tensor twice", Forged::new(3, 2, 0).tensor("t", &[1], 0, 0).tensor("t", &[1], 0, 0), "the tensor t stands"),
        ("no alignment", Forged::new(3, 0, 1).text("general.alignment").u32(4).u32(0), "make no sense"),
        ("an odd alignment", Forged::new(3, 0, 1).text("general.alignment").u32(4).u32(24), "make no sense"),
        ("half a text", Forged::new(3, 0, 1).u64(65), "65 items where 64 bytes are left"),
    ];
    for (what, forged, expected) in table {
        let flaw = forged.flaw();
        assert!(flaw.contains(expected), "{what}: {flaw}");
    }
}

#[test]
fn a_header_is_bounded_as_a_whole_whatever_the_file_is_long() {
    // A file of a terabyte: its length is no reason to read a text of a gigabyte into memory.
    let forged = Forged::new(3, 0, 1).text("k").u32(8).u64(HEADER_LIMIT - 10);
    match Header::read(forged.0.as_slice(), 1 << 40) {
        Err(Flaw::Damaged(found)) => assert!(found.contains("larger than 128 MiB"), "{found}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn other_byte_orders_versions_and_number_types_are_named() {
    assert_eq!(Forged::new(3u32.swap_bytes(), 0, 0).flaw(), "BigEndian");
    assert_eq!(Forged::new(9, 0, 0).flaw(), "Version(9)");
    for (kind, name) in [(9, "Q8_1"), (23, "IQ4_XS"), (39, "MXFP4"), (77, "the unknown type 77")] {
        let flaw = Forged::new(3, 1, 0).tensor("t", &[256], kind, 0).flaw();
        assert!(flaw.contains(&format!("tensor t is stored as {name}")), "{flaw}");
    }
}
