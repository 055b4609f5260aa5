//! What identifies a run: the digest that a checkpoint is resumed by, and the files that explain it.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::config::{RENAMED, TrainConfig};
use super::materials::Materials;
use super::run_folder::MARK;
use querywright_data::catalog::Output;
use querywright_model::DeviceChoice;
use querywright_types::{Error, Result, hex};

/// A digest of all that decides the numbers of a run: configuration, model, retrievers, queries and judgements.
pub(super) fn digest(config: &TrainConfig, materials: &[Materials]) -> Result<String> {
    let mut hash = Sha256::new();
    let part = |hash: &mut Sha256, part: &str| {
        hash.update(part.as_bytes());
        hash.update([0]);
    };
    part(&mut hash, &deciding(config)?);
    for (number, here) in materials.iter().enumerate() {
        match number {
            0 => part(&mut hash, &here.model_digest),
            // The first one's prompts stand in the configuration.
            _ => part(&mut hash, &prompts(here)?),
        }
        part(&mut hash, &here.retriever.card().digest);
        hash_queries(&mut hash, here);
    }
    if let Some(pairs) = pairs_digest(config)? {
        hash.update(pairs.as_bytes());
    }
    Ok(hex(hash.finalize()))
}

/// A digest of the file that the run's method learns from; none where it learns from no file.
pub(super) fn pairs_digest(config: &TrainConfig) -> Result<Option<String>> {
    let Some(path) = config.pairs_file() else { return Ok(None) };
    let content = std::fs::read(&path).map_err(|e| Error::read(&path, e))?;
    Ok(Some(hex(Sha256::digest(content))))
}

/// A digest of the queries and their judgements.
pub(super) fn queries_digest(materials: &Materials) -> String {
    let mut hash = Sha256::new();
    hash_queries(&mut hash, materials);
    hex(hash.finalize())
}

fn hash_queries(hash: &mut Sha256, materials: &Materials) {
    for (query, judgements) in materials.train.iter().chain(&materials.dev) {
        hash.update(query.id.as_bytes());
        hash.update(query.text.as_bytes());
        // Queries of before had none, and have the same digest.
        for turn in &query.turns {
            hash.update((turn.len() as u64).to_le_bytes());
            hash.update(turn.as_bytes());
        }
        for (doc, grade) in judgements.iter() {
            hash.update(doc.to_le_bytes());
            hash.update(grade.to_le_bytes());
        }
        for (id, grade) in judgements.absent() {
            hash.update(id.as_bytes());
            hash.update(grade.to_le_bytes());
        }
        hash.update([0]);
    }
}

/// A configuration without the keys that decide no number of the run: where it is kept, how many checkpoints stay, where it
/// runs, what that costs, and what stands beside it in the table.
pub(super) fn without_place(config: &TrainConfig) -> TrainConfig {
    let mut config = config.clone();
    config.train.output_dir = PathBuf::new();
    config.train.save_total_limit = 0;
    config.model.device = DeviceChoice::Auto;
    config.without_pairs_file();
    #[cfg(feature = "sequence")]
    {
        config.retriever.sequence = None;
    }
    config.cost = Default::default();
    // What the default was on all devices, and still is on a processor.
    config.train.micro_batch_tokens.get_or_insert(4096);
    config
}

/// The part of the configuration that decides numbers, as TOML. Renamed keys stand under their old names, so that
/// checkpoints written before resume.
fn deciding(config: &TrainConfig) -> Result<String> {
    let text = to_toml(&without_place(config))?;
    Ok(RENAMED.iter().fold(text, |text, (old, new)| text.replace(&format!("\n{new} = "), &format!("\n{old} = "))))
}

fn to_toml(config: &TrainConfig) -> Result<String> {
    toml::to_string(config).map_err(|e| Error::bug("train::provenance", e.to_string()))
}

/// How a retriever's queries become prompts: its settings, and its card.
fn prompts(materials: &Materials) -> Result<String> {
    let told = (materials.encoder.prompter().config(), materials.retriever.card());
    serde_json::to_string(&told).map_err(|e| Error::bug("train::provenance", e.to_string()))
}

/// Writes what explains the run: versions and digests (`run.json`), its configuration (`config.toml`). Each is whole, or what
/// was there before.
pub(super) fn describe(folder: &Path, config: &TrainConfig, materials: &[Materials]) -> Result<()> {
    let [materials, also @ ..] = materials else {
        return Err(Error::bug("train::provenance", "a run without a retriever"));
    };
    let mut about = serde_json::json!({
        "querywright": env!("CARGO_PKG_VERSION"),
        "model": materials.model_name,
        "model_digest": materials.model_digest,
        "retriever": materials.retriever.card(),
        "queries_digest": queries_digest(materials),
        "pairs_digest": pairs_digest(config)?,
        "train_queries": materials.train.len(),
        "dev_queries": materials.dev.len(),
        "threads": rayon::current_num_threads(),
        "architecture": std::env::consts::ARCH,
        "device": materials.decoder.device()?,
    });
    if !also.is_empty() {
        about["also"] = also.iter().map(|here| serde_json::json!(here.retriever.card())).collect();
    }
    let path = folder.join(MARK);
    let text = serde_json::to_string_pretty(&about).map_err(|e| Error::write(&path, e.into()))?;
    Output::open(path)?.write((text + "\n").as_bytes())?;
    config.prompt.write_files(folder)?;
    Output::open(folder.join("config.toml"))?.write(to_toml(config)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The SHA-256 of what a configuration puts into the digest of a run.
    fn fingerprint(text: &str) -> String {
        let config = TrainConfig::parse(text, &[], "x.toml").unwrap();
        hex(Sha256::digest(deciding(&config).unwrap()))
    }

    const SMALL: &str = "[model]\nname = \"smollm2-135m\"\n[data]\nname = \"demo\"\n";

    const DEMO: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/configs/demo.toml"));
    const TAGS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/configs/semanlink-tags.toml"));

    /// The golden values were taken before the keys of relevance feedback were renamed. Where they change, no checkpoint
    /// written so far resumes.
    #[test]
    fn checkpoints_written_before_keys_were_renamed_still_resume() {
        assert_eq!(fingerprint(SMALL), "19217dfcb22291b5a1f05e79c5820352164060ee73b848a96136e09dc4a26e51");
        // The demonstration of then had no warm start.
        let demo = DEMO.replace("[warm_start]\nsteps = 36\nlearning_rate = 1.5e-3\n", "");
        assert_ne!(fingerprint(&demo), fingerprint(DEMO));
        for (text, golden) in [
            (demo.as_str(), "7f063eda28989b1c2c7628a5522f92051ffa95a1bd4acb6f8c8d8157b1d1f167"),
            (TAGS, "1db0ea9461701d726ba4cdd5127faba70a1ced3283e8f59ef5072877f504c1c2"),
        ] {
            assert!(text.contains("inject_feedback"), "{text}");
            assert_eq!(fingerprint(text), golden);
            let old = RENAMED.iter().fold(text.to_owned(), |text, (old, new)| text.replace(new, old));
            assert_eq!(fingerprint(&old), golden, "the configuration as it was written then");
        }
    }

    #[test]
    fn where_and_how_a_run_is_kept_does_not_change_its_digest_and_a_number_does() {
        let priced = "[cost]\ncurrency = \"USD\"\ncpu_hour = 0.1\n";
        let moved = format!("{SMALL}[train]\noutput_dir = \"x\"\nsave_total_limit = 9\n{priced}");
        assert_eq!(fingerprint(&moved), fingerprint(SMALL));
        assert_ne!(fingerprint(&format!("{SMALL}[train]\ninject_words = 5\n")), fingerprint(SMALL));
        // What stands beside the run in the table after it.
        #[cfg(feature = "sequence")]
        assert_eq!(fingerprint(&format!("{SMALL}[retriever.sequence]\nepochs = 5\n")), fingerprint(SMALL));
    }
}
