//! What was chosen, for people and programs: each key with its value and the reason.

use std::fmt::Write as _;

use serde::Serialize;

use super::super::{RENAMED, RunConfig, TrainConfig};
use querywright_types::{Error, Result};

/// A value that was chosen.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Choice {
    /// The key, as `train.max_steps`.
    pub key: String,
    /// Its value.
    pub value: toml::Value,
    /// The reason.
    pub why: String,
}

/// Keys with the reason of each, in the order of the decisions.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Reasons(Vec<(String, String)>);

impl Reasons {
    pub(super) fn add(&mut self, key: impl Into<String>, why: impl Into<String>) {
        self.0.push((key.into(), why.into()));
    }

    /// A person has set a key: it, a key within it or one that holds it.
    fn set(&mut self, key: &str) {
        let why = "as you set it".to_owned();
        let holds = |outer: &str, inner: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'));
        self.0.retain(|(known, _)| !holds(key, known));
        match self.0.iter_mut().find(|(known, _)| known == key || holds(known, key)) {
            Some(reason) => reason.1 = why,
            None => self.0.push((key.to_owned(), why)),
        }
    }
}

/// A configuration with the reasons of its values.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The configuration.
    pub config: TrainConfig,
    /// What a person should know before using the result.
    pub warnings: Vec<String>,
    reasons: Reasons,
}

/// The value that a key is set to, the last time.
fn last<'s>(settings: &'s [String], key: &str) -> Option<&'s str> {
    settings.iter().rev().find_map(|setting| {
        let (name, value) = setting.split_once('=')?;
        (name.trim() == key).then(|| value.trim().trim_matches(['"', '\'']))
    })
}

impl Chosen {
    pub(super) fn new(config: TrainConfig, reasons: Reasons, warnings: Vec<String>) -> Self {
        Self { config, warnings, reasons }
    }

    /// With `key.path=value` settings over it, as over a file.
    ///
    /// # Errors
    /// What makes no run.
    pub fn with_settings(mut self, settings: &[String]) -> Result<Self> {
        self.fit_warm_start(settings);
        self.fit_injection(settings);
        self.fit_intervals(settings);
        let text = toml::to_string(&self.config).map_err(|e| bug(&e))?;
        self.config = TrainConfig::parse(&text, settings, "the configuration that was chosen")?;
        for (key, _) in settings.iter().filter_map(|setting| setting.split_once('=')) {
            let key = key.trim();
            let renamed = RENAMED.iter().find(|(old, _)| key.strip_prefix("train.") == Some(*old));
            let key = renamed.map_or_else(|| key.to_owned(), |(_, new)| format!("train.{new}"));
            self.reasons.set(&key);
        }
        Ok(self)
    }

    /// A warm start that was chosen gives way to what a person sets beside it.
    fn fit_warm_start(&mut self, settings: &[String]) {
        if self.config.warm_start.steps == 0 || settings.iter().any(|setting| setting.trim().starts_with("warm_start"))
        {
            return;
        }
        // Other forms of an answer may have none.
        let other = |key: &str, fit: &[&str]| last(settings, key).is_some_and(|value| !fit.contains(&value));
        let form = other("prompt.mode", &["expand", "rewrite", "keywords", "rerank"])
            || other("prompt.style", &["few-shot"])
            || other("prompt.vocabulary", &["free"])
            || other("prompt.task", &["search"])
            || other("train.method", &["grpo"]);
        let steps = last(settings, "train.max_steps").and_then(|value| value.parse().ok());
        let most = if form { 0 } else { steps.map_or(u64::MAX, super::warm_steps) };
        self.config.warm_start.steps = self.config.warm_start.steps.min(most);
        if self.config.warm_start.steps == 0 {
            self.config.warm_start = Default::default();
            self.reasons.0.retain(|(key, _)| !key.starts_with("warm_start."));
        }
    }

    /// So does an injection that was chosen, where an answer is no list of words or nothing is sampled in groups.
    fn fit_injection(&mut self, settings: &[String]) {
        let other = |key: &str, fit: &[&str]| last(settings, key).is_some_and(|value| !fit.contains(&value));
        let without = other("prompt.mode", &["expand", "rewrite", "keywords", "choose", "rerank"])
            || other("prompt.style", &["few-shot"])
            || other("train.method", &["grpo"]);
        let said = ["train.inject_feedback", "train.repair_groups"].iter().any(|key| last(settings, key).is_some());
        if without && !said {
            self.config.train.inject_feedback = false;
            self.config.train.inject_margin = RunConfig::default().inject_margin;
            self.reasons.0.retain(|(key, _)| !key.starts_with("train.inject_"));
        }
    }

    /// And so do the four evaluations of a run of another length.
    fn fit_intervals(&mut self, settings: &[String]) {
        let Some(steps) = last(settings, "train.max_steps").and_then(|value| value.parse::<u64>().ok()) else { return };
        for (key, interval) in [
            ("train.eval_steps", &mut self.config.train.eval_steps),
            ("train.save_steps", &mut self.config.train.save_steps),
        ] {
            if last(settings, key).is_none() {
                *interval = (steps / 4).max(1);
            }
        }
    }

    /// The values that were chosen or set; all others have their default.
    ///
    /// # Errors
    /// None that an input could cause.
    pub fn choices(&self) -> Result<Vec<Choice>> {
        let whole = toml::Value::try_from(&self.config).map_err(|e| bug(&e))?;
        let choice = |(key, why): &(String, String)| {
            // An absent value is one that has no default.
            let value = key.split('.').try_fold(&whole, |at, part| at.get(part))?;
            Some(Choice { key: key.clone(), value: shortened(value.clone()), why: why.clone() })
        };
        Ok(self.reasons.0.iter().filter_map(choice).collect())
    }

    /// The choices as a configuration, the reasons as comments: to read, and to run again.
    ///
    /// # Errors
    /// None that an input could cause.
    pub fn to_toml(&self) -> Result<String> {
        let mut tables: Vec<(&str, Vec<(String, &str)>)> = Vec::new();
        let choices = self.choices()?;
        for Choice { key, value, why } in &choices {
            let (table, key) = key.rsplit_once('.').unwrap_or(("", key));
            let line = (format!("{} = {value}", quoted(key)), why.as_str());
            match tables.iter_mut().find(|(known, _)| *known == table) {
                Some((_, lines)) => lines.push(line),
                None => tables.push((table, vec![line])),
            }
        }
        // Keys outside a table would belong to the one before.
        tables.sort_by_key(|(table, _)| !table.is_empty());
        let width = tables.iter().flat_map(|(_, lines)| lines).map(|(line, _)| line.chars().count());
        let width = width.max().unwrap_or(0).min(40);
        let mut text = String::new();
        for (table, lines) in tables {
            if !table.is_empty() {
                let gap = if text.is_empty() { "" } else { "\n" };
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{gap}[{table}]");
            }
            for (line, why) in lines {
                let _ = writeln!(text, "{line:width$}  # {why}");
            }
        }
        Ok(text)
    }
}

/// A key as TOML writes it.
fn quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if bare { key.to_owned() } else { toml::Value::String(key.to_owned()).to_string() }
}

/// Numbers of single precision with the digits that they were written with.
fn shortened(value: toml::Value) -> toml::Value {
    match value {
        toml::Value::Float(wide) if f64::from(wide as f32) == wide => {
            toml::Value::Float((wide as f32).to_string().parse().unwrap_or(wide))
        }
        toml::Value::Table(table) => {
            table.into_iter().map(|(key, value)| (key, shortened(value))).collect::<toml::Table>().into()
        }
        toml::Value::Array(values) => values.into_iter().map(shortened).collect::<Vec<_>>().into(),
        value => value,
    }
}

fn bug(error: &toml::ser::Error) -> Error {
    Error::bug("train::config::choose", error.to_string())
}
