//! `train --data`: the configuration that the data and the machine call for.

use std::path::Path;

use anyhow::Result;
use querywright::Error;
use querywright::catalog::Dataset;
use querywright::encode::EmbedConfig;
use querywright::model::{DeviceChoice, ModelSource};
use querywright::retrieve::Bm25Config;
use querywright::train::{
    Chosen, DataProfile, MachineProfile, ResplitConfig, RetrieverConfig, SplitPlan, TrainConfig, choose,
};
use querywright::types::QueryLanguage;

use crate::open;
use crate::{terminal, weights};

/// The model that is trained where none is named: it learns on two cores.
const MODEL: &str = "smollm2-135m";

/// What a person asked for.
pub struct Wanted<'a> {
    pub data: &'a str,
    pub model: Option<&'a str>,
    pub output_dir: Option<&'a Path>,
    /// What ranks; none for BM25.
    pub retriever: Option<&'a str>,
    pub device: Option<DeviceChoice>,
    /// The encoder that is lent to a plugin.
    pub embed: Option<EmbedConfig>,
    /// The split that is measured in the end.
    pub split: &'a str,
    pub settings: &'a [String],
    /// Refuses judgements that else are warned about.
    pub strict: bool,
}

impl Wanted<'_> {
    /// Looks at the data, the model's shape and the machine, and chooses. Gives the data set, too, as its source has it.
    pub fn choose(&self) -> Result<(Chosen, Dataset)> {
        for (key, option) in [("model.name", "--model"), ("data.name", "--data")] {
            if self.set(key).is_some() {
                let found = format!("{key} decides what else is chosen");
                return Err(Error::argument("--set", found, format!("give it as {option}")).into());
            }
        }
        let mut retriever = RetrieverConfig::default();
        self.retriever.map_or(Ok(()), |text| open::set_retriever(text, &mut retriever))?;
        let source = crate::dataset::open(self.data, self.strict)?;
        let (train, dev) = (self.set("data.train"), self.set("data.dev"));
        let plan = SplitPlan::of(&source, train.as_deref(), dev.as_deref(), self.split)?;
        // A copy of the queries; the catalogue is shared.
        let deal = |made: &ResplitConfig| source.clone().deal(made.from.as_deref(), [made.train, made.dev, made.test]);
        let dealt = plan.resplit.as_ref().map(deal).transpose()?;
        let dataset = dealt.as_ref().unwrap_or(&source);
        // A plugin says what it prefers when it is loaded.
        let language = match &retriever.dense {
            Some(dense) if dense.hybrid.is_none() => Some(QueryLanguage::Natural),
            _ if retriever.connect.is_some() => Some(QueryLanguage::Boolean),
            _ => retriever.plugin.is_none().then(|| Bm25Config::default().language),
        };
        // What is no number is refused with the other settings.
        let candidates = self.set("prompt.candidates").and_then(|count| count.parse().ok()).unwrap_or(0);
        let data = DataProfile { candidates, ..DataProfile::of(self.data, dataset, plan, language)? };
        let model = self.model.unwrap_or(MODEL);
        let shape = ModelSource::open(&weights::path(model, false)?)?;
        let machine = MachineProfile::detect(model, shape.config(), self.device.unwrap_or_default());
        // The plan has these two: a split of that name may have been dealt into others.
        let planned = |key: &str| ["data.train", "data.dev"].contains(&key.trim());
        let others = |setting: &&String| !setting.split_once('=').is_some_and(|(key, _)| planned(key));
        let mut settings: Vec<String> = self.settings.iter().filter(others).cloned().collect();
        let text = |path: &Path| toml::Value::String(path.display().to_string());
        settings.extend(retriever.connect.iter().map(|path| format!("retriever.connect={}", text(path))));
        settings.extend(retriever.plugin.iter().map(|path| format!("retriever.plugin={}", text(path))));
        if let Some(weight) = retriever.covisitation {
            settings.push(format!("retriever.covisitation={weight:?}"));
            settings.push(format!("retriever.tune_covisitation={}", retriever.tune_covisitation));
        }
        if let Some(dense) = &retriever.dense {
            let table = toml::Value::try_from(dense)?;
            // First, so that a key of it that is set goes over it.
            settings.insert(0, format!("retriever.dense={table}"));
        }
        if let Some(encoder) = &self.embed {
            settings.insert(0, format!("retriever.embed={}", toml::Value::try_from(encoder)?));
        }
        settings.extend(self.output_dir.map(|path| format!("train.output_dir={}", text(path))));
        settings.extend(self.device.map(|device| format!("model.device=\"{device}\"")));
        Ok((choose(&data, &machine)?.with_settings(&settings)?, source))
    }

    /// The text that a key is set to.
    fn set(&self, key: &str) -> Option<String> {
        let pairs = self.settings.iter().rev().filter_map(|setting| setting.split_once('='));
        let mut values = pairs.filter(|(known, _)| known.trim() == key).map(|(_, value)| value.trim());
        values.next().map(|value| value.trim_matches(['"', '\'']).to_owned())
    }
}

/// The configuration of the run that lies in the folder of the one that was chosen: a run that continues keeps its own,
/// whatever machine it continues on.
pub fn kept(chosen: &TrainConfig, settings: &[String]) -> Result<Option<TrainConfig>> {
    let folder = &chosen.train.output_dir;
    let path = folder.join("config.toml");
    if !path.is_file() {
        return Ok(None);
    }
    let mut kept = TrainConfig::read(&path, settings)?;
    kept.train.output_dir.clone_from(folder);
    if kept.data.name != chosen.data.name {
        let found = format!("the run in {} is on {}", folder.display(), kept.data.name);
        return Err(Error::argument("--resume", found, "give that --data, or another --output-dir").into());
    }
    tell!("continuing with the configuration of the run: {}", path.display());
    Ok(Some(kept))
}

/// Says what is doubtful.
pub fn warn(chosen: &Chosen) {
    chosen.warnings.iter().for_each(|warning| tell!("warning: {warning}"));
}

/// Prints a configuration that is not run; that of a choice with its reasons.
pub fn show(config: &TrainConfig, chosen: Option<&Chosen>, json: bool) -> Result<()> {
    if json {
        let object = serde_json::json!({
            "config": config,
            "choices": chosen.map(Chosen::choices).transpose()?,
            "warnings": chosen.map(|chosen| &chosen.warnings),
        });
        return terminal::json(&object);
    }
    match chosen {
        Some(chosen) => terminal::lines(&chosen.to_toml()?),
        None => terminal::lines(&toml::to_string(config)?),
    }
}
