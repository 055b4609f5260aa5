//! Reading a configuration: TOML, with `key.path=value` settings over it.

use std::path::Path;

use super::{RENAMED, TrainConfig};
use querywright_types::{Error, Result};

impl TrainConfig {
    /// Reads a TOML file and applies `key.path=value` settings over it. A value is TOML; anything else is taken as text, and so
    /// is a number, date or truth value where the key wants a text.
    pub fn read(path: &Path, settings: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::read(path, e))?;
        let shown = path.display().to_string();
        let mut config = Self::parse(&text, settings, &shown)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        config.prompt.load(folder)?;
        let teachers = config.sft.teacher.iter_mut().filter_map(|teacher| teacher.prompt.as_mut());
        for prompt in teachers {
            prompt.load(folder)?;
        }
        Ok(config)
    }

    /// As [`read`](Self::read), from text; `shown` names the source in errors.
    pub fn parse(text: &str, settings: &[String], shown: &str) -> Result<Self> {
        let config: Self = if settings.is_empty() {
            toml::from_str(text).map_err(|e| refused(shown, &e))?
        } else {
            let table: toml::Table = toml::from_str(text).map_err(|e| refused(shown, &e))?;
            overlaid(&table, settings)?.map_err(|e| refused(&format!("{shown} with --set"), &e))?
        };
        config.validate()?;
        Ok(config)
    }
}

/// A table with settings over it, as a configuration. A key that wants a text gets it although it may look like a number.
fn overlaid(table: &toml::Table, settings: &[String]) -> Result<Result<TrainConfig, toml::de::Error>> {
    let mut texts = vec![false; settings.len()];
    loop {
        let mut table = table.clone();
        for (setting, text) in settings.iter().zip(&texts) {
            set(&mut table, setting, *text)?;
        }
        let found = table.try_into();
        let key = found.as_ref().err().and_then(wants_text);
        let is_cause =
            |setting: &String| setting.split_once('=').is_some_and(|(path, _)| Some(path.trim()) == key.as_deref());
        // The last of several settings of a key is the one that counts.
        match settings.iter().rposition(is_cause).filter(|at| !texts[*at]) {
            Some(at) => texts[at] = true,
            None => return Ok(found),
        }
    }
}

/// The key at which a value of another type stands where a text is wanted.
fn wants_text(error: &toml::de::Error) -> Option<String> {
    let (found, right) = error.message().strip_prefix("invalid type: ")?.rsplit_once(", expected ")?;
    let place = error.to_string();
    let (_, key) = place.trim_end().trim_end_matches('`').rsplit_once("in `")?;
    (!found.starts_with("string") && right.contains("string")).then(|| key.to_owned())
}

/// Applies `key.path=value`; as `text` the value is one whatever it looks like.
fn set(table: &mut toml::Table, setting: &str, text: bool) -> Result<()> {
    let Some((path, value)) = setting.split_once('=') else {
        return Err(Error::argument(
            "--set",
            format!("\"{setting}\" has no ="),
            "write key=value, as train.max_steps=50",
        ));
    };
    let parsed = toml::from_str::<toml::Table>(&format!("v = {value}")).ok().filter(|table| !text && table.len() == 1);
    let value = parsed.and_then(|mut t| t.remove("v")).unwrap_or_else(|| toml::Value::String(value.trim().to_owned()));
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys.pop().unwrap_or_default();
    let of_run = keys == ["train"];
    let mut at = table;
    for key in keys {
        let next = at.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = match next {
            toml::Value::Table(inner) => inner,
            _ => {
                return Err(Error::argument(
                    "--set",
                    format!("\"{key}\" in \"{path}\" is a value"),
                    "name a key inside a table",
                ));
            }
        };
    }
    // The file may spell the key the other way; both at once would be refused as a key given twice.
    for (old, new) in RENAMED.iter().filter(|(old, new)| of_run && [*old, *new].contains(&last)) {
        at.remove(*old);
        at.remove(*new);
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

fn refused(shown: &str, error: &toml::de::Error) -> Error {
    Error::configuration(shown, &error.to_string(), error.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "[model]\nname = \"smollm2-135m\"\n[data]\nname = \"demo\"\n";

    #[test]
    fn the_configurations_of_the_examples_are_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/configs");
        let mut read = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            // Beside them lie files that they name.
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            TrainConfig::read(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
            read += 1;
        }
        assert!(read >= 7, "{read}");
    }

    #[test]
    fn defaults_fill_what_a_small_file_leaves_out_and_settings_go_over_it() {
        let config = TrainConfig::parse(SMALL, &[], "x.toml").unwrap();
        assert_eq!((config.train.max_steps, config.prompts_per_step()), (100, 8));
        let settings = ["train.max_steps=7".to_owned(), "data.dev=validation".into(), "loss.beta=0.01".into()];
        let config = TrainConfig::parse(SMALL, &settings, "x.toml").unwrap();
        assert_eq!((config.train.max_steps, config.data.dev.as_str(), config.loss.beta), (7, "validation", 0.01));
    }

    #[test]
    fn a_setting_whose_key_wants_a_text_is_one_whatever_it_looks_like() {
        let parse = |settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
            TrainConfig::parse(SMALL, &settings, "x.toml").map_err(|e| e.to_string())
        };
        for text in ["2024", "1e5", "true", "2024-01-01", "1.0", "inf", "[1]", "runs/a"] {
            let setting = format!("train.output_dir={text}");
            let config = parse(&["train.seed=7", &setting, "data.max_dev_queries=5"]).unwrap();
            assert_eq!(config.train.output_dir.to_str(), Some(text));
            assert_eq!((config.train.seed, config.data.max_dev_queries), (7, 5));
        }
        // Several at once, of every sort of key: a name, a path that may be absent, one that is an enumeration.
        let all = parse(&["model.name=1", "data.name=2", "data.dev=3", "retriever.plugin=4", "loss.beta=0"]).unwrap();
        assert_eq!((all.model.name.as_str(), all.data.name.as_str(), all.data.dev.as_str()), ("1", "2", "3"));
        assert_eq!(all.retriever.plugin, Some("4".into()));
        assert_eq!(parse(&["train.output_dir=\"2024\""]).unwrap().train.output_dir.to_str(), Some("2024"));
        // A text where a number is wanted stays an error about that, and a broken number is not taken as a text.
        for setting in ["train.seed=many", "train.max_steps=1.5"] {
            let error = parse(&["train.output_dir=2024", setting]).unwrap_err();
            let value = setting.split_once('=').unwrap().1;
            assert!(error.contains(value) && !error.contains("2024"), "{error}");
        }
        assert!(parse(&["train.max_steps=1.5"]).unwrap_err().contains("floating point"));
        let in_file = TrainConfig::parse(&format!("{SMALL}[train]\noutput_dir = 2024\n"), &[], "x.toml").unwrap_err();
        assert!(in_file.to_string().contains("write the value in quotes"), "{in_file}");
        assert!(parse(&["train.output_dir="]).unwrap_err().contains("train.output_dir: found nothing"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_nearest_known_one() {
        let text = format!("{SMALL}[train]\nmax_step = 3\n");
        let error = TrainConfig::parse(&text, &[], "x.toml").unwrap_err().to_string();
        assert!(
            error.contains("x.toml") && error.contains("line 6") && error.contains("did you mean `max_steps`"),
            "{error}"
        );
        let error = TrainConfig::parse(SMALL, &["train.sed=1".into()], "x.toml").unwrap_err().to_string();
        assert!(error.contains("did you mean `seed`"), "{error}");
    }

    #[test]
    fn a_configuration_survives_being_written_and_read() {
        let config = TrainConfig::parse(SMALL, &["entropy.entropy_target=0.5".into()], "x.toml").unwrap();
        let text = toml::to_string(&config).unwrap();
        assert_eq!(TrainConfig::parse(&text, &[], "x.toml").unwrap(), config);
    }

    #[test]
    fn the_run_of_the_rec_r1_paper_is_a_configuration() {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/configs/rec-r1.toml"));
        let config = TrainConfig::parse(text, &[], "rec-r1.toml").unwrap();
        assert_eq!((config.prompts_per_step(), config.train.num_generations), (32, 12));
        let beauty = ["reward.measures={\"nDCG@5000\" = 1.0}".to_owned(), "prompt.task=recommend".into()];
        let config = TrainConfig::parse(text, &beauty, "rec-r1.toml").unwrap();
        assert_eq!(config.reward.measures.keys().collect::<Vec<_>>(), ["nDCG@5000"]);
        let prices = ["cost.cpu_hour=0.1".to_owned()];
        let error = TrainConfig::parse(text, &prices, "rec-r1.toml").unwrap_err().to_string();
        assert!(error.contains("cost.currency"), "{error}");
    }

    #[test]
    fn a_key_under_its_old_name_is_read_in_files_and_settings_alike() {
        let old = format!("{SMALL}[train]\nrepair_groups = true\nrepair_words = 7\nrepair_margin = 0.5\n");
        let new = format!("{SMALL}[train]\ninject_feedback = true\ninject_words = 7\ninject_margin = 0.5\n");
        let config = TrainConfig::parse(&new, &[], "x.toml").unwrap();
        assert_eq!(TrainConfig::parse(&old, &[], "x.toml").unwrap(), config);
        assert!(config.train.inject_feedback && config.train.inject_words == 7 && config.train.inject_margin == 0.5);
        for text in [&old, &new] {
            for key in ["repair_words", "inject_words"] {
                let config = TrainConfig::parse(text, &[format!("train.{key}=2")], "x.toml").unwrap();
                assert_eq!(config.train.inject_words, 2, "{key} over {text}");
            }
        }
    }
}
