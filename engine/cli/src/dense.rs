//! `dense` and `hybrid`: vectors of a sentence encoder, alone or beside BM25.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use querywright::catalog::Catalog;
use querywright::encode::{Dense, DenseConfig, Encoder, EncoderConfig, EncoderPrecision, Pooling, Similarity};
use querywright::encode::{VectorIndex, VectorPrecision};
use querywright::retrieve::Bm25Config;
use querywright::sources;
use querywright::{Error, error::did_you_mean};

use crate::first_pass::FirstPass;
use crate::hybrid::{self, Hybrid};
use crate::progress::Bar;
use crate::ranker::Ranker;
use crate::{bm25, weights};

/// The settings of `dense` behind a colon and its model.
const SETTINGS: [&str; 11] = [
    "query_prefix",
    "document_prefix",
    "pooling",
    "max_tokens",
    "similarity",
    "index",
    "m",
    "ef_construction",
    "ef_search",
    "precision",
    "encoder_precision",
];

/// What a name on the command line asks for; none where it names another retriever: `dense`, `dense:MODEL`,
/// `dense:MODEL,query_prefix=query: `, `hybrid:MODEL`, `hybrid-scores=0.5:MODEL`.
pub fn named(text: &str) -> Result<Option<DenseConfig>> {
    let (name, rest) = text.split_once(':').unwrap_or((text, ""));
    let alone = (name == "dense").then(DenseConfig::default);
    let Some(mut config) = alone.map_or_else(|| hybrid::named(name), |config| Ok(Some(config)))? else {
        return Ok(None);
    };
    // A path may have commas in it.
    if Path::new(rest).exists() {
        config.model = rest.to_owned();
        return Ok(Some(config));
    }
    let mut parts = parts(rest).peekable();
    if let Some(model) = parts.next_if(|part| !is_setting(part))
        && !model.is_empty()
    {
        config.model = model.to_owned();
    }
    let mut given = BTreeSet::new();
    parts.try_for_each(|setting| {
        let key = setting.split('=').next().unwrap_or(setting);
        if !given.insert(key) {
            let remedy = "leave one of the two out";
            return Err(Error::argument(format!("--retriever {name}:{key}"), "it is given twice", remedy).into());
        }
        set(&mut config, setting)
    })?;
    config.validate()?;
    Ok(Some(config))
}

fn is_setting(part: &str) -> bool {
    SETTINGS.iter().any(|key| part.strip_prefix(key).is_some_and(|rest| rest.starts_with('=')))
}

/// A model and its settings. A comma inside a prefix, before a blank, separates nothing.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let separates = |at: &usize| !text.get(at + 1..).is_some_and(|next| next.starts_with(' '));
        let comma = text.match_indices(',').map(|(at, _)| at).find(separates);
        let (part, after) = match comma {
            Some(at) => (text.get(..at)?, text.get(at + 1..)),
            None => (text, None),
        };
        rest = after;
        Some(part)
    })
}

fn set(config: &mut DenseConfig, setting: &str) -> Result<()> {
    let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
    let bad = |remedy: &str| Error::argument(format!("--retriever dense:{key}"), format!("found \"{value}\""), remedy);
    let number = || value.parse::<usize>().map_err(|_| bad(&format!("give a number, as {key}=200")));
    let encoder = &mut config.encoder;
    match key {
        "index" => {
            config.index = match value {
                "exact" => VectorIndex::Exact,
                "hnsw" => VectorIndex::Hnsw,
                _ => return Err(bad("give exact or hnsw").into()),
            };
        }
        "encoder_precision" => {
            encoder.precision = match value {
                "f32" => EncoderPrecision::F32,
                "bf16" => EncoderPrecision::Bf16,
                _ => return Err(bad("give f32 or bf16").into()),
            };
        }
        "m" => config.hnsw.m = number()?,
        "ef_construction" => config.hnsw.ef_construction = number()?,
        "ef_search" => config.hnsw.ef_search = number()?,
        "precision" => {
            config.precision = match value {
                "f32" => VectorPrecision::F32,
                "bf16" => VectorPrecision::Bf16,
                _ => return Err(bad("give f32 or bf16").into()),
            };
        }
        "query_prefix" => encoder.query_prefix = Some(value.to_owned()),
        "document_prefix" => encoder.document_prefix = Some(value.to_owned()),
        "pooling" => encoder.pooling = Some(Pooling::parse(value)?),
        "max_tokens" => {
            encoder.max_tokens = Some(value.parse().map_err(|_| bad("give a number of tokens, as max_tokens=256"))?);
        }
        "similarity" => {
            encoder.similarity = match value {
                "cosine" => Some(Similarity::Cosine),
                "dot" => Some(Similarity::Dot),
                _ => return Err(bad("give cosine or dot").into()),
            };
        }
        _ => {
            let hint = did_you_mean(key, SETTINGS);
            let remedy = format!("{hint}the settings are {}", SETTINGS.join(", "));
            return Err(Error::argument("--retriever", format!("unknown setting \"{key}\""), remedy).into());
        }
    }
    Ok(())
}

/// The retriever over a catalogue. The vectors are kept in `index`, or else in the cache: to make them takes minutes.
pub fn ranker(
    config: &DenseConfig,
    words: &Bm25Config,
    catalog: &Arc<Catalog>,
    index: Option<&Path>,
) -> Result<Ranker> {
    let dense = opened(config, &words.content, catalog, index)?;
    if config.hybrid.is_none() {
        return Ok(Ranker { first: FirstPass::by(words.clone()), ..Ranker::new(catalog.clone(), dense, None) });
    }
    let words = bm25::index(catalog, words.clone(), index)?;
    let hybrid = Hybrid::new(words.clone(), dense, config);
    Ok(Ranker { hybrid: Some(hybrid.clone()), ..Ranker::new(catalog.clone(), hybrid.fused()?, Some(words)) })
}

/// An encoder by the name of its model, fetched when it must be.
pub fn encoder(model: &str, config: &EncoderConfig) -> Result<Encoder> {
    let encoder = Encoder::open(&weights::path(model, false)?, config)?;
    encoder.warnings().iter().for_each(|warning| tell!("warning: {warning}"));
    Ok(encoder)
}

fn opened(config: &DenseConfig, content: &str, catalog: &Arc<Catalog>, index: Option<&Path>) -> Result<Arc<Dense>> {
    let encoder = encoder(&config.model, &config.encoder)?;
    let folder = match index {
        Some(folder) => folder.to_owned(),
        None => sources::cache_folder()?.join("vectors"),
    };
    let bar = Bar::new(0, "encoding", "documents");
    let dense = Dense::open_or_build(catalog.clone(), Arc::new(encoder), content, &folder, &bar)?;
    bar.finish();
    if config.index == VectorIndex::Exact {
        return Ok(Arc::new(dense.with_search(config, None, &())?));
    }
    let bar = Bar::new(0, "linking vectors", "documents");
    let dense = dense.with_search(config, Some(&folder), &bar)?;
    bar.finish();
    if let Some(found) = dense.recall() {
        let ef = config.hnsw.ef_search;
        tell!(
            "hnsw: {:.1}% of the 10 nearest are found (ef_search {ef}, {} documents looked at; built in {:.1} s)",
            100.0 * found.at_10,
            found.sampled,
            found.build_seconds
        );
    }
    Ok(Arc::new(dense))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_model_weight_and_settings() {
        let of = |text: &str| named(text).unwrap().unwrap();
        assert_eq!(of("dense"), DenseConfig::default());
        assert_eq!((of("hybrid").hybrid, of("hybrid=0.5:minilm").hybrid), (Some(1.0), Some(0.5)));
        assert_eq!(of("dense:hf:intfloat/e5-small-v2").model, "hf:intfloat/e5-small-v2");
        let e5 =
            of("dense:hf:o/n,query_prefix=query: ,document_prefix=passage: ,pooling=cls,max_tokens=64,similarity=dot");
        assert_eq!(e5.model, "hf:o/n");
        assert_eq!(e5.encoder.query_prefix.as_deref(), Some("query: "));
        assert_eq!(e5.encoder.document_prefix.as_deref(), Some("passage: "));
        assert_eq!((e5.encoder.pooling, e5.encoder.max_tokens), (Some(Pooling::Cls), Some(64)));
        assert_eq!(e5.encoder.similarity, Some(Similarity::Dot));
        let asked = of("dense:minilm,query_prefix=Given a question, find passages: ,pooling=cls").encoder;
        assert_eq!(asked.query_prefix.as_deref(), Some("Given a question, find passages: "));
        assert_eq!(asked.pooling, Some(Pooling::Cls));
        assert_eq!(of("dense:pooling=cls").model, DenseConfig::default().model);
        let near = of("dense:minilm,index=hnsw,m=16,ef_construction=100,ef_search=400");
        assert_eq!((near.index, near.hnsw.m), (VectorIndex::Hnsw, 16));
        assert_eq!((near.hnsw.ef_construction, near.hnsw.ef_search), (100, 400));
        assert_eq!(of("hybrid-scores=2:precision=bf16").precision, VectorPrecision::Bf16);
        let rounded = of("dense:minilm,encoder_precision=bf16");
        assert_eq!((rounded.encoder.precision, rounded.precision), (EncoderPrecision::Bf16, VectorPrecision::F32));
        for other in ["bm25", "bm25:k1=1", "densely", "plugin.wasm", "bm25=2"] {
            assert_eq!(named(other).unwrap(), None, "{other}");
        }
    }

    #[test]
    fn a_wrong_setting_is_refused_with_what_would_be_right() {
        for (text, part) in [
            ("hybrid=:m", "hybrid=0.5"),
            ("hybrid=0", "0.001"),
            ("hybrid=inf", "0.001"),
            ("dense:m,pooling=median", "weightedmean"),
            ("dense:m,max_tokens=many", "max_tokens=256"),
            ("dense:m,similarity=l2", "cosine or dot"),
            ("dense:m,query_prefx=x", "did you mean query_prefix"),
            ("dense:m,index=faiss", "exact or hnsw"),
            ("dense:m,index=hnsw,ef_search=all", "ef_search=200"),
            ("dense:m,index=hnsw,m=1", "hnsw.m"),
            ("dense:m,ef_search=50", "index=hnsw"),
            ("dense:m,index=hnsw,precision=bf16", "precision"),
            ("dense:m,precision=int8", "f32 or bf16"),
        ] {
            let refused = named(text).unwrap_err().to_string();
            assert!(refused.contains(part), "{text}: {refused}");
        }
    }
}
