//! Seconds to encode texts, as documents and as single queries. `xtask/peers/encode.py` runs it beside sentence-transformers
//! and fastembed over the same folder and texts. Each measurement is a line of JSON.
//!
//!     cargo bench -p querywright-encode --bench encode -- ENCODER_DIR TEXTS.txt [REPETITIONS] [bf16]
//!
//! TEXTS.txt has a text a line. Without arguments it does nothing, so that `cargo bench` passes over it.

use std::path::Path;
use std::time::Instant;

use querywright_encode::{Encoder, EncoderConfig, EncoderPrecision, InputType};
use querywright_types::{Deadline, Error, Result};

/// Queries that are encoded one after the other.
const QUERIES: usize = 200;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let [folder, texts, rest @ ..] = arguments.as_slice() else { return Ok(()) };
    let repetitions = rest.first().and_then(|count| count.parse().ok()).unwrap_or(3);
    let path = Path::new(texts);
    let texts = std::fs::read_to_string(path).map_err(|e| Error::read(path, e))?;
    let texts: Vec<&str> = texts.lines().collect();
    let rounded = rest.get(1).is_some_and(|precision| precision == "bf16");
    let (who, precision) = match rounded {
        true => ("querywright in bf16", EncoderPrecision::Bf16),
        false => ("querywright", EncoderPrecision::F32),
    };
    let config = EncoderConfig { precision, ..EncoderConfig::default() };
    let encoder = Encoder::open(Path::new(folder), &config)?;
    let queries = &texts[..texts.len().min(QUERIES)];
    encoder.encode(queries, InputType::Document, Deadline::NONE, &())?;
    let (mut documents, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..repetitions {
        let start = Instant::now();
        encoder.encode(&texts, InputType::Document, Deadline::NONE, &())?;
        documents.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        for query in queries {
            encoder.encode(&[query], InputType::Query, Deadline::NONE, &())?;
        }
        alone.push(start.elapsed().as_secs_f64());
    }
    for (what, count, seconds) in [("documents", texts.len(), documents), ("queries", queries.len(), alone)] {
        println!("{{\"who\": \"{who}\", \"what\": \"{what}\", \"texts\": {count}, \"seconds\": {seconds:?}}}");
    }
    Ok(())
}
