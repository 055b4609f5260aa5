//! Retrievers that read histories and no text: `popularity`, `covisitation`, `sasrec`, `gru4rec`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use querywright::catalog::Dataset;
use querywright::retrieve::{Covisitation, CovisitationConfig, Popularity};
use querywright::sequence::{Recommender, SequenceConfig, SequenceModel, Sequences};
use querywright::sources;
use querywright::types::{Judgements, Observe, Progress, Query, Retriever};
use querywright::{Error, error::did_you_mean};

use crate::followed::sequences;
use crate::progress::Bar;
use crate::ranker::Ranker;

/// What a name asks for.
#[derive(Debug, PartialEq)]
pub enum Named {
    Popularity,
    Covisitation,
    Model(SequenceModel, Box<SequenceConfig>),
}

/// What a name on the command line asks for; none where it names another retriever: `popularity`, `covisitation`, `sasrec`,
/// `gru4rec:hidden_size=64,epochs=100`.
pub fn named(text: &str) -> Result<Option<Named>> {
    let (name, settings) = text.split_once(':').unwrap_or((text, ""));
    if let Some(model) = SequenceModel::ALL.into_iter().find(|model| model.name() == name) {
        return Ok(Some(Named::Model(model, Box::new(configured(model, settings)?))));
    }
    let named = match name {
        "popularity" => Named::Popularity,
        "covisitation" => Named::Covisitation,
        _ => return Ok(None),
    };
    if !settings.is_empty() {
        let found = format!("found the setting \"{settings}\"");
        return Err(Error::argument(format!("--retriever {name}"), found, "leave it out: there is none").into());
    }
    Ok(Some(named))
}

/// Refuses what reads no text where rewrites are learned from.
pub fn refuse(text: &str, option: &str) -> Result<()> {
    match named(text)? {
        None => Ok(()),
        Some(_) => {
            let found = format!("{text} reads histories and no text, so no rewrite changes its ranking");
            let remedy = "give bm25 or bm25+covisitation, and measure this one with `eval`, or with [retriever.sequence] in \
                          the table after training";
            Err(Error::argument(option, found, remedy).into())
        }
    }
}

/// The settings behind a model's name: keys of `[retriever.sequence]`, and of its section for this model.
fn configured(model: SequenceModel, settings: &str) -> Result<SequenceConfig> {
    let name = format!("--retriever {}", model.name());
    let usual = toml::Table::try_from(SequenceConfig::default())?;
    let keys =
        |table: &toml::Table| table.iter().filter(|(_, value)| !value.is_table()).map(|(key, _)| key.clone()).collect();
    let own: Vec<String> = usual.get(model.name()).and_then(toml::Value::as_table).map(keys).unwrap_or_default();
    let shared: Vec<String> = keys(&usual);
    let (mut table, mut section) = (toml::Table::new(), toml::Table::new());
    for setting in settings.split(',').filter(|setting| !setting.is_empty()) {
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        let number = value.parse().map(toml::Value::Integer).or_else(|_| value.parse().map(toml::Value::Float));
        let Ok(number) = number else {
            let found = format!("found \"{value}\"");
            return Err(Error::argument(format!("{name}:{key}"), found, "give a number, as epochs=100").into());
        };
        let key = key.to_owned();
        let into = match (own.contains(&key), shared.contains(&key)) {
            (true, _) => Some(&mut section),
            (_, true) => Some(&mut table),
            _ => None,
        };
        if let Some(into) = into {
            if into.insert(key.clone(), number).is_some() {
                let remedy = "leave one of the two out";
                return Err(Error::argument(format!("{name}:{key}"), "it is given twice", remedy).into());
            }
        } else {
            let known: Vec<&str> = own.iter().chain(&shared).map(String::as_str).collect();
            let hint = did_you_mean(&key, known.iter().copied());
            let remedy = format!("{hint}the settings are {}", known.join(", "));
            return Err(Error::argument(name, format!("unknown setting \"{key}\""), remedy).into());
        }
    }
    table.insert(model.name().to_owned(), toml::Value::Table(section));
    let config: SequenceConfig = table.try_into().map_err(|error: toml::de::Error| {
        Error::argument(name.as_str(), error.message().trim(), "give whole numbers where sizes are meant")
    })?;
    config.check()?;
    Ok(config)
}

/// A retriever of this kind, learned from the split train. Models are kept in `index`, or else in the cache: to train one
/// takes minutes.
pub fn ranker(named: &Named, dataset: &Dataset, index: Option<&Path>) -> Result<Ranker> {
    let (catalog, splits) = (&dataset.catalog, ["train", "dev"]);
    let retriever: Arc<dyn Retriever> = match named {
        Named::Popularity => Arc::new(Popularity::learn(catalog, &sequences(dataset, splits[0])?)?),
        Named::Covisitation => {
            Arc::new(Covisitation::learn(catalog, &sequences(dataset, splits[0])?, CovisitationConfig::default())?)
        }
        Named::Model(model, config) => Arc::new(opened(*model, config, dataset, splits, index)?),
    };
    Ok(Ranker::new(catalog.clone(), retriever, None))
}

/// A model over the sequences of a split, which those of another one tell when to end.
pub fn opened(
    model: SequenceModel,
    config: &SequenceConfig,
    dataset: &Dataset,
    [train, dev]: [&str; 2],
    index: Option<&Path>,
) -> Result<Recommender> {
    let training = sequences(dataset, train)?;
    let mut development: Vec<(&Query, &Judgements)> = Vec::new();
    // Without such a split a part of the training sequences is held back.
    if dataset.split_names().any(|name| name == dev) {
        development = dataset.judged(dev)?;
        development.retain(|(query, _)| !query.history.is_empty());
    }
    let folder: PathBuf = match index {
        Some(folder) => folder.to_owned(),
        None => sources::cache_folder()?.join("sequences"),
    };
    let watched = Watched(Bar::new(0, &format!("training {}", model.name()), "epochs"));
    let sequences = Sequences { training: &training, development: &development };
    let recommender = Recommender::open_or_learn(&dataset.catalog, sequences, model, config, &folder, &watched)?;
    watched.0.finish();
    Ok(recommender)
}

/// A bar over epochs, and the sentence on what training came to.
struct Watched(Bar);

impl Observe for Watched {
    fn progress(&self, progress: Progress<'_>) {
        self.0.progress(progress);
    }

    fn note(&self, text: &str) {
        tell!("{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_a_model_with_settings_of_its_own_and_shared_ones() {
        let of = |text: &str| named(text).unwrap().unwrap();
        assert_eq!(of("popularity"), Named::Popularity);
        assert_eq!(of("covisitation"), Named::Covisitation);
        assert_eq!(of("gru4rec"), Named::Model(SequenceModel::Gru4rec, Box::default()));
        let Named::Model(model, config) = of("sasrec:hidden_size=32,epochs=7,learning_rate=1e-2,hidden_dropout_prob=0")
        else {
            unreachable!("it names a model");
        };
        assert_eq!((model, config.sasrec.hidden_size, config.epochs), (SequenceModel::Sasrec, 32, 7));
        assert_eq!((config.learning_rate, config.sasrec.hidden_dropout_prob), (0.01, 0.0));
        assert_eq!(config.gru4rec, SequenceConfig::default().gru4rec, "a width of sasrec is none of gru4rec");
        for other in ["bm25", "dense", "sasrec.wasm", "bm25+covisitation", "sasrecs"] {
            assert_eq!(named(other).unwrap(), None, "{other}");
        }
    }

    #[test]
    fn a_wrong_setting_is_refused_with_what_would_be_right() {
        for (text, part) in [
            ("sasrec:epoch=3", "did you mean epochs"),
            ("sasrec:num_layers=3", "unknown setting \"num_layers\""),
            ("gru4rec:num_layers=many", "give a number"),
            ("gru4rec:epochs=1.5", "whole numbers"),
            ("sasrec:n_heads=5", "n_heads"),
            ("popularity:k=1", "there is none"),
        ] {
            let refused = named(text).unwrap_err().to_string();
            assert!(refused.contains(part), "{text}: {refused}");
        }
        assert!(refuse("sasrec:epochs=3", "--retriever").unwrap_err().to_string().contains("no rewrite changes"));
        refuse("bm25", "--retriever").unwrap();
    }
}
