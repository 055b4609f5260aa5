//! Continuing a run: from its own settings, or with another number of steps where that changes none that was made.

use std::fs;
use std::path::Path;

use super::checkpoint::{self, Checkpoint, RunState};
use super::config::TrainConfig;
use super::materials::Materials;
use super::provenance::{self, queries_digest, without_place};
use super::run_folder::MARK;
use super::warm_start::Rates;
use querywright_types::{Error, Result};

/// Keys that a refusal names at most.
const NAMED: usize = 5;
/// Characters of a value that a refusal shows.
const LONGEST_VALUE: usize = 60;

/// The newest checkpoint of the run in `config.train.output_dir`, as one of this configuration, whose digest is `digest`;
/// none where there is no checkpoint yet.
///
/// # Errors
/// When it was written under other settings, naming what differs, or cannot be read.
pub(super) fn latest(config: &TrainConfig, materials: &[Materials], digest: &str) -> Result<Option<Checkpoint>> {
    let run = &config.train.output_dir;
    let Some((folder, mut state)) = checkpoint::latest(run)? else { return Ok(None) };
    let Some(first) = materials.first() else { return Err(Error::bug("train::resume", "a run without a retriever")) };
    if state.digest != digest {
        match planned_steps(config, materials, &state)? {
            Some(planned) => require_same_steps(config, planned, &state)?,
            None => return Err(difference(config, first, &folder)?),
        }
        state.digest = digest.to_owned();
    }
    state.max_steps = Some(config.train.max_steps);
    Ok(Some(checkpoint::load(&folder, state, first.decoder.config())?))
}

/// How many steps the run was planned for, where that is all that differs.
fn planned_steps(config: &TrainConfig, materials: &[Materials], state: &RunState) -> Result<Option<u64>> {
    let written = written(config).map(|config| config.train.max_steps);
    // A checkpoint of before this was kept is mostly that of a finished run.
    for planned in [state.max_steps, written, Some(state.step)].into_iter().flatten() {
        let mut other = config.clone();
        other.train.max_steps = planned;
        if provenance::digest(&other, materials)? == state.digest {
            return Ok(Some(planned));
        }
    }
    Ok(None)
}

/// Refuses another number of steps under which the steps that were made would have been others.
fn require_same_steps(config: &TrainConfig, planned: u64, state: &RunState) -> Result<()> {
    let (run, steps, made) = (config.train.output_dir.display(), config.train.max_steps, state.step);
    if steps < made {
        let found = format!("found {steps}, and the run in {run} has made {made} steps");
        return Err(Error::argument("train.max_steps", found, format!("give {made} or more")));
    }
    let [before, now] = [planned, steps].map(|steps| Rates::new(&config.warm_start, &config.schedule, steps));
    let (before, now) = (before?, now?);
    if (0..made).all(|step| before.rate(step).to_bits() == now.rate(step).to_bits()) {
        return Ok(());
    }
    let found = format!(
        "found {steps}, and the run in {run} was planned for {planned}: by its schedule the {made} steps that it has made \
         would have had other learning rates"
    );
    let remedy = format!(
        "resume with --set train.max_steps={planned}, or choose another output_dir; a run that can be made longer has \
         schedule.lr_scheduler_type = \"constant\", or \"constant_with_warmup\" with warmup_steps"
    );
    Err(Error::argument("train.max_steps", found, remedy))
}

/// The configuration that the run wrote into its folder, where this version reads it.
fn written(config: &TrainConfig) -> Option<TrainConfig> {
    let text = fs::read_to_string(config.train.output_dir.join("config.toml")).ok()?;
    TrainConfig::parse(&text, &[], "config.toml").ok()
}

/// What a checkpoint was written under that is not so now.
fn difference(config: &TrainConfig, materials: &Materials, checkpoint: &Path) -> Result<Error> {
    let run = &config.train.output_dir;
    let keys = match written(config) {
        Some(written) => different_keys(&written, config)?,
        None => Vec::new(),
    };
    let about: serde_json::Value =
        fs::read(run.join(MARK)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let things = [
        ("the model's weights", about["model_digest"].as_str(), materials.model_digest.clone()),
        (
            "the retriever or its catalogue",
            about["retriever"]["digest"].as_str(),
            materials.retriever.card().digest.clone(),
        ),
        ("the queries or their judgements", about["queries_digest"].as_str(), queries_digest(materials)),
        (
            "the file that is learned from",
            about["pairs_digest"].as_str(),
            provenance::pairs_digest(config)?.unwrap_or_default(),
        ),
    ];
    let other = things.iter().filter(|(_, then, now)| then.is_some_and(|then| then != now)).map(|(thing, ..)| *thing);
    let mut said: Vec<String> =
        keys.iter().take(NAMED).map(|(key, then, now)| format!("{key} was {then} and is {now}")).collect();
    said.extend((keys.len() > NAMED).then(|| format!("{} more keys differ", keys.len() - NAMED)));
    said.extend(other.map(|thing| format!("{thing} changed")));
    if said.is_empty() {
        said.push("the configuration, the model, the data set or the retriever was another".into());
    }
    let found = format!("was written under other settings: {}", said.join(", "));
    let settable = !keys.is_empty() && keys.len() <= NAMED && keys.iter().all(|(_, then, _)| can_be_given(then));
    let remedy = match settable {
        true => {
            let back: Vec<String> = keys.iter().map(|(key, then, _)| format!("--set {key}={then}")).collect();
            format!("resume with {}, or choose another output_dir", back.join(" "))
        }
        false => "resume with what the run was begun with (its config.toml), or choose another output_dir".to_owned(),
    };
    Ok(Error::model(checkpoint, found, remedy))
}

const ABSENT: &str = "absent";
/// What stands for the rest of a long value.
const CUT: char = '…';

/// Whether a value as it is shown can stand in `--set`.
fn can_be_given(shown: &str) -> bool {
    shown != ABSENT && !shown.ends_with(CUT)
}

/// The keys that two configurations disagree on, with both values.
fn different_keys(then: &TrainConfig, now: &TrainConfig) -> Result<Vec<(String, String, String)>> {
    let table = |config: &TrainConfig| {
        let table = toml::Table::try_from(without_place(config));
        table.map(toml::Value::Table).map_err(|e| Error::bug("train::resume", e.to_string()))
    };
    let mut found = Vec::new();
    compare("", Some(&table(then)?), Some(&table(now)?), &mut found);
    Ok(found)
}

/// Compares two values at a key, and tables key by key.
fn compare(
    key: &str,
    then: Option<&toml::Value>,
    now: Option<&toml::Value>,
    found: &mut Vec<(String, String, String)>,
) {
    if then == now {
        return;
    }
    if let (Some(toml::Value::Table(then)), Some(toml::Value::Table(now))) = (then, now) {
        let more = now.keys().filter(|key| !then.contains_key(*key));
        for name in then.keys().chain(more) {
            let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            compare(&path, then.get(name), now.get(name), found);
        }
        return;
    }
    let show = |value: Option<&toml::Value>| match value.map(ToString::to_string) {
        None => ABSENT.to_owned(),
        // Of a text of several lines the first one is shown.
        Some(text) => match text.char_indices().enumerate().find(|(n, (_, c))| *n == LONGEST_VALUE || c.is_control()) {
            Some((_, (end, _))) => format!("{}{CUT}", &text[..end]),
            None => text,
        },
    };
    found.push((key.to_owned(), show(then), show(now)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(settings: &[&str]) -> TrainConfig {
        let text = "[model]\nname = \"m\"\n[data]\nname = \"d\"\n";
        TrainConfig::parse(text, &settings.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), "x.toml").unwrap()
    }

    fn state(step: u64) -> RunState {
        let curriculum = super::super::curriculum::Curriculum::new(Default::default(), &[]).unwrap();
        RunState {
            version: String::new(),
            digest: String::new(),
            max_steps: None,
            step,
            updates: 0,
            optimizer: Default::default(),
            entropy: None,
            curriculum,
            replay: Default::default(),
            also: Vec::new(),
            num_tokens: 0,
            seconds: 0.0,
            best: None,
        }
    }

    #[test]
    fn a_run_may_become_longer_where_the_steps_that_were_made_stay_the_same() {
        let allowed = |settings: &[&str], made: u64, planned: u64, steps: u64| {
            let mut config = config(settings);
            config.train.max_steps = steps;
            require_same_steps(&config, planned, &state(made)).map_err(|e| e.to_string())
        };
        let constant = ["schedule.lr_scheduler_type=constant"];
        assert!(allowed(&constant, 50, 50, 90).is_ok() && allowed(&constant, 30, 50, 40).is_ok());
        let warmed = ["schedule.lr_scheduler_type=constant_with_warmup", "schedule.warmup_steps=5"];
        assert!(allowed(&warmed, 50, 50, 90).is_ok());
        // A share of the steps is another number of them.
        let share = ["schedule.lr_scheduler_type=constant_with_warmup", "schedule.warmup_ratio=0.1"];
        assert!(allowed(&share, 50, 50, 90).is_err());
        assert!(allowed(&share, 50, 50, 49).unwrap_err().contains("has made 50 steps; give 50 or more"));
        for decaying in ["linear", "cosine"] {
            let settings = [format!("schedule.lr_scheduler_type={decaying}")];
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            let error = allowed(&settings, 50, 50, 90).unwrap_err();
            for part in ["train.max_steps: found 90", "planned for 50", "--set train.max_steps=50", "constant"] {
                assert!(error.contains(part), "{error}");
            }
            assert!(allowed(&settings, 1, 50, 90).is_ok(), "the first step has the highest rate in both");
        }
    }

    #[test]
    fn keys_that_differ_are_named_with_both_values_and_where_a_run_is_kept_is_none() {
        let then = config(&["train.seed=3", "prompt.style=chat", "train.output_dir=a"]);
        let now = config(&["train.seed=4", "entropy.entropy_target=0.5", "train.output_dir=b", "model.device=cpu"]);
        let found = different_keys(&then, &now).unwrap();
        let keys: Vec<(&str, &str, &str)> =
            found.iter().map(|(k, t, n)| (k.as_str(), t.as_str(), n.as_str())).collect();
        assert!(keys.contains(&("train.seed", "3", "4")) && keys.len() == 3, "{keys:?}");
        assert!(keys.contains(&("prompt.style", "\"chat\"", "\"few-shot\"")), "{keys:?}");
        let entropy = keys.iter().find(|(key, ..)| *key == "entropy").unwrap();
        assert!(entropy.1 == ABSENT && entropy.2.contains("entropy_coef_delta"), "{keys:?}");
        let long = config(&[&format!("prompt.content={}", "tools ".repeat(20))]);
        let found = different_keys(&long, &config(&[])).unwrap();
        assert!(found.iter().any(|(key, then, _)| key == "prompt.content" && !can_be_given(then)), "{found:?}");
        let lines = config(&["prompt.content=\"two\\nlines\""]);
        let found = different_keys(&lines, &config(&[])).unwrap();
        assert!(found.iter().any(|(key, then, _)| key == "prompt.content" && !can_be_given(then)), "{found:?}");
        assert!(can_be_given("3") && !can_be_given(ABSENT));
    }
}
