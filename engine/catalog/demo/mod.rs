//! The embedded demonstration.

mod generator;
mod vocabulary;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    #[test]
    fn dump() {
        let seed = 0;
        let d = generator::generate(&vocabulary::Vocabulary::embedded().unwrap(), seed);
        std::fs::create_dir_all("/tmp/h5/data").unwrap();
        let mut c = std::fs::File::create("/tmp/h5/data/corpus.jsonl").unwrap();
        for p in &d.products {
            writeln!(c, "{}", serde_json::json!({"id": p.id, "title": p.title, "text": p.text, "brand": p.brand, "category": p.category, "attributes": p.attributes, "kind": p.kind})).unwrap();
        }
        let mut q = std::fs::File::create("/tmp/h5/data/queries.jsonl").unwrap();
        for r in &d.requests {
            writeln!(q, "{}", serde_json::json!({"id": r.id, "text": r.text, "oracle": r.oracle, "split": r.split.name(), "grades": r.grades})).unwrap();
        }
    }
}
