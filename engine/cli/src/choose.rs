//! `train --data`: the configuration that the data and the machine call for.

use std::path::Path;

use anyhow::Result;
use querywright::Error;
use querywright::model::{DeviceChoice, ModelSource};
use querywright::retrieve::Bm25Config;
use querywright::train::{Chosen, DataProfile, MachineProfile, SplitPlan, TrainConfig, choose};

use crate::open;
use crate::terminal;

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
    /// The split that is measured in the end.
    pub split: &'a str,
    pub settings: &'a [String],
}

impl Wanted<'_> {
    /// Looks at the data, the model's shape and the machine, and chooses.
    pub fn choose(&self) -> Result<Chosen> {
        for (key, option) in [("model.name", "--model"), ("data.name", "--data")] {
            if self.set(key).is_some() {
                let found = format!("{key} decides what else is chosen");
                return Err(Error::argument("--set", found, format!("give it as {option}")).into());
            }
        }
        let plugin = self.retriever.map(open::plugin_path).transpose()?.flatten();
        let dataset = open::dataset(self.data)?;
        let (train, dev) = (self.set("data.train"), self.set("data.dev"));
        let plan = SplitPlan::of(&dataset, train.as_deref(), dev.as_deref(), self.split)?;
        let dataset = match &plan.resplit {
            Some(made) => dataset.deal(made.from.as_deref(), [made.train, made.dev, made.test])?,
            None => dataset,
        };
        // A plugin says what it prefers when it is loaded.
        let language = plugin.is_none().then(|| Bm25Config::default().language);
        let data = DataProfile::of(self.data, &dataset, plan, language)?;
        let model = self.model.unwrap_or(MODEL);
        let source = ModelSource::open(&open::model_path(model, false)?)?;
        let machine = MachineProfile::detect(model, source.config(), self.device.unwrap_or_default());
        // The plan has these two: a split of that name may have been dealt into others.
        let planned = |key: &str| ["data.train", "data.dev"].contains(&key.trim());
        let others = |setting: &&String| !setting.split_once('=').is_some_and(|(key, _)| planned(key));
        let mut settings: Vec<String> = self.settings.iter().filter(others).cloned().collect();
        let text = |path: &Path| toml::Value::String(path.display().to_string());
        settings.extend(plugin.iter().map(|path| format!("retriever.plugin={}", text(path))));
        settings.extend(self.output_dir.map(|path| format!("train.output_dir={}", text(path))));
        settings.extend(self.device.map(|device| format!("model.device=\"{device}\"")));
        Ok(choose(&data, &machine)?.with_settings(&settings)?)
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
