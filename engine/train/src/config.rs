//! The configuration of a run: one TOML file, every key with a default but the model and the data.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::advantage::ScaleRewards;
use super::curriculum::CurriculumConfig;
use super::loss::LossConfig;
use super::optimizer::AdamWConfig;
use super::reward::RewardConfig;
use super::schedule::{EntropyControlConfig, ScheduleConfig};
use crate::error::{Error, Result, nearest};
use crate::model::Precision;
use crate::model::{DeviceChoice, LoraConfig, SamplingConfig};
use crate::retrieve::Bm25Config;
use crate::rewrite::{PromptConfig, PromptStyle};

/// A run. Unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Which model learns.
    pub model: ModelSection,
    /// What it learns from.
    pub data: DataSection,
    /// The retriever that it learns against.
    #[serde(default)]
    pub retriever: RetrieverSection,
    /// How it is asked.
    #[serde(default)]
    pub prompt: PromptConfig,
    /// Which layers learn.
    #[serde(default)]
    pub lora: LoraConfig,
    /// What is rewarded.
    #[serde(default)]
    pub reward: RewardConfig,
    /// How completions are drawn.
    #[serde(default)]
    pub sampling: SamplingConfig,
    /// The loss.
    #[serde(default)]
    pub loss: LossConfig,
    /// The optimiser.
    #[serde(default)]
    pub optimizer: AdamWConfig,
    /// The learning rate.
    #[serde(default)]
    pub schedule: ScheduleConfig,
    /// Which queries are learned from.
    #[serde(default)]
    pub curriculum: CurriculumConfig,
    /// Holds the entropy near a target. Absent: `loss.entropy_coef` stays as it is.
    #[serde(default)]
    pub entropy: Option<EntropyControlConfig>,
    /// Length and rhythm of the run.
    #[serde(default)]
    pub train: RunSection,
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// A registry name (`smollm2-135m`), `hf:owner/name`, or a path to a GGUF file or a Hugging Face folder.
    pub name: String,
    /// Default `auto`: bf16 where the machine multiplies it natively.
    #[serde(default)]
    pub precision: Precision,
    /// Where it runs: `auto` (the default: a GPU where there is one that this program can use), `cpu`, or `cuda:0`. A run
    /// may go on elsewhere; its numbers are then the same up to rounding.
    #[serde(default)]
    pub device: DeviceChoice,
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// A folder, a registry name, or `demo`.
    pub name: String,
    /// The split to learn from. Default `train`.
    #[serde(default = "train_split")]
    pub train: String,
    /// The split that chooses the best adapter; never the test split. Default `dev`.
    #[serde(default = "dev_split")]
    pub dev: String,
    /// Development queries at most, the first ones of the split. Default 200.
    #[serde(default = "dev_queries")]
    pub max_dev_queries: usize,
}

/// `[retriever]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetrieverSection {
    /// Parameters of BM25, and what the catalogue holds, for the prompt.
    pub bm25: Bm25Config,
    /// The file of a plugin that ranks in the place of BM25, with its `plugin.toml` beside it. Its calls are metered by
    /// fuel, so that a run gives the same rewards again. Default: none.
    pub plugin: Option<PathBuf>,
}

/// `[train]`. Names are TRL's where it has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSection {
    /// Where the run is kept. Default `runs/default`.
    pub output_dir: PathBuf,
    /// Steps. Default 100.
    pub max_steps: u64,
    /// Completions of each prompt (the group). Default 8.
    pub num_generations: usize,
    /// Completions of a step; a multiple of `num_generations`. Default 64.
    pub generation_batch_size: usize,
    /// Updates on the completions of a step. Default 1.
    pub num_iterations: usize,
    /// What advantages are divided by. Default `group`.
    pub scale_rewards: ScaleRewards,
    /// Weight of the counterfactual credit per term; 0 has none. Default 0.
    pub term_credit_coef: f64,
    /// Whether a group whose completions all fall short gets one completion from relevance feedback
    /// ([`guidance`](super::guidance)); few-shot prompts only. Default false.
    pub repair_groups: bool,
    /// Words of the documents that such a completion has at most. With 0, in the mode `rewrite`, it has those words of
    /// the query alone that the relevant documents hold: the policy is shown what to leave out. Default 4.
    pub repair_words: usize,
    /// What such a completion must earn more than the group's best, and a longer one than a shorter. With 0 it stands in
    /// where it earns as much, too: an example of what is good enough, in most groups. Default 0.02.
    pub repair_margin: f32,
    /// Gradient norm at most; 0 never clips. Default 1.
    pub max_grad_norm: f64,
    /// Steps between evaluations on the development queries; 0 evaluates at the end alone. Default 20.
    pub eval_steps: u64,
    /// Steps between checkpoints; 0 writes one at the end alone. Default 20.
    pub save_steps: u64,
    /// Checkpoints kept. Default 2.
    pub save_total_limit: usize,
    /// Times that a request is sent again after a fault of the retriever. Default 2.
    pub retries: usize,
    /// Memory for recording what is sampled, so that learning need not compute it again, in MiB. A draw that needs more
    /// is fed again, in micro-batches. Default 4096.
    pub tape_mib: usize,
    /// Tokens of a micro-batch that is fed at most; bounds memory. Default 4096.
    pub micro_batch_tokens: usize,
    /// The seed of everything random. Default 0.
    pub seed: u64,
}

impl Default for RunSection {
    fn default() -> Self {
        Self {
            output_dir: "runs/default".into(),
            max_steps: 100,
            num_generations: 8,
            generation_batch_size: 64,
            num_iterations: 1,
            scale_rewards: ScaleRewards::Group,
            term_credit_coef: 0.0,
            repair_groups: false,
            repair_words: 4,
            repair_margin: 0.02,
            max_grad_norm: 1.0,
            eval_steps: 20,
            save_steps: 20,
            save_total_limit: 2,
            retries: 2,
            tape_mib: 4096,
            micro_batch_tokens: 4096,
            seed: 0,
        }
    }
}

fn train_split() -> String {
    "train".into()
}

fn dev_split() -> String {
    "dev".into()
}

fn dev_queries() -> usize {
    200
}

impl TrainConfig {
    /// Reads a TOML file and applies `key.path=value` settings over it. A value is TOML; what is not is taken as text.
    pub fn read(path: &Path, settings: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::read(path, e))?;
        let shown = path.display().to_string();
        Self::parse(&text, settings, &shown)
    }

    /// As [`read`](Self::read), from text; `shown` names the source in errors.
    pub fn parse(text: &str, settings: &[String], shown: &str) -> Result<Self> {
        let config: Self = if settings.is_empty() {
            toml::from_str(text).map_err(|e| explain(shown, &e))?
        } else {
            let mut table: toml::Table = toml::from_str(text).map_err(|e| explain(shown, &e))?;
            for setting in settings {
                set(&mut table, setting)?;
            }
            table.try_into().map_err(|e| explain(&format!("{shown} with --set"), &e))?
        };
        config.validate()?;
        Ok(config)
    }

    /// Refuses values that make no run; the message names the key.
    pub fn validate(&self) -> Result<()> {
        let run = &self.train;
        let refuse = |key: &str, found: String, remedy: &str| Err(Error::argument(key, found, remedy));
        if self.data.train == self.data.dev {
            return refuse(
                "data.dev",
                format!("\"{}\" is the training split", self.data.dev),
                "choose queries that are not learned from",
            );
        }
        if self.data.max_dev_queries == 0 {
            return refuse("data.max_dev_queries", "found 0".into(), "allow at least 1, 100 or more are better");
        }
        for (key, value) in [("train.seed", run.seed), ("train.max_steps", run.max_steps)] {
            if i64::try_from(value).is_err() {
                return refuse(key, format!("found {value}"), "give a number below 2^63");
            }
        }
        if run.max_steps == 0 {
            return refuse("train.max_steps", "found 0".into(), "make at least 1 step");
        }
        if run.num_generations < 2 {
            let found = format!("found {}", run.num_generations);
            return refuse(
                "train.num_generations",
                found,
                "a group needs at least 2 completions to compare, 8 is usual",
            );
        }
        if run.generation_batch_size == 0 || !run.generation_batch_size.is_multiple_of(run.num_generations) {
            let found =
                format!("{} is not a multiple of num_generations = {}", run.generation_batch_size, run.num_generations);
            return refuse(
                "train.generation_batch_size",
                found,
                "give prompts x num_generations, as 64 for 8 prompts x 8",
            );
        }
        if run.num_iterations == 0 {
            return refuse("train.num_iterations", "found 0".into(), "make at least 1 update a step");
        }
        if !(run.term_credit_coef.is_finite() && run.term_credit_coef >= 0.0) {
            return refuse(
                "train.term_credit_coef",
                format!("found {}", run.term_credit_coef),
                "give 0 or a number such as 0.5",
            );
        }
        if !(run.repair_margin.is_finite() && run.repair_margin >= 0.0) {
            return refuse(
                "train.repair_margin",
                format!("found {}", run.repair_margin),
                "give 0 or a number such as 0.02",
            );
        }
        if run.repair_groups && self.prompt.style != PromptStyle::FewShot {
            let remedy = "set prompt.style = \"few-shot\", or repair_groups = false";
            return refuse("train.repair_groups", "the prompt's answers are more than a list of words".into(), remedy);
        }
        if self.sampling.temperature <= 0.0 {
            return refuse(
                "sampling.temperature",
                format!("found {}", self.sampling.temperature),
                "a policy that always says the same learns nothing; give 1.0",
            );
        }
        self.sampling.validate()?;
        self.lora.projections()?;
        self.loss.validate()?;
        self.optimizer.validate()
    }

    /// The prompt as the trained adapter is to be asked: answers as long as they were in training.
    pub fn serving_prompt(&self) -> PromptConfig {
        PromptConfig { max_answer_tokens: self.sampling.max_completion_length, ..self.prompt.clone() }
    }

    /// Prompts of a step.
    pub fn prompts_per_step(&self) -> usize {
        self.train.generation_batch_size / self.train.num_generations
    }
}

/// Applies `key.path=value`.
fn set(table: &mut toml::Table, setting: &str) -> Result<()> {
    let Some((path, value)) = setting.split_once('=') else {
        return Err(Error::argument(
            "--set",
            format!("\"{setting}\" has no ="),
            "write key=value, as train.max_steps=50",
        ));
    };
    let value = toml::from_str::<toml::Table>(&format!("v = {value}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.trim().to_owned()));
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys.pop().unwrap_or_default();
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
    at.insert(last.to_owned(), value);
    Ok(())
}

/// Serde's sentence, with the nearest known key for an unknown one.
fn explain(shown: &str, error: &toml::de::Error) -> Error {
    let text = error.to_string();
    let message = error.message().to_owned();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let remedy = match quoted.split_first() {
        Some((unknown, known)) if message.starts_with("unknown field") => match nearest(unknown, known.iter().copied())
        {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the keys here are {}", known.join(", ")),
        },
        _ => "correct this line".into(),
    };
    Error::argument(shown, text.trim().to_owned(), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "[model]\nname = \"smollm2-135m\"\n[data]\nname = \"demo\"\n";

    #[test]
    fn defaults_fill_what_a_small_file_leaves_out_and_settings_go_over_it() {
        let config = TrainConfig::parse(SMALL, &[], "x.toml").unwrap();
        assert_eq!((config.train.max_steps, config.prompts_per_step()), (100, 8));
        let settings = ["train.max_steps=7".to_owned(), "data.dev=validation".into(), "loss.beta=0.01".into()];
        let config = TrainConfig::parse(SMALL, &settings, "x.toml").unwrap();
        assert_eq!((config.train.max_steps, config.data.dev.as_str(), config.loss.beta), (7, "validation", 0.01));
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
    fn values_that_make_no_run_are_refused_by_key() {
        for (setting, key) in [
            ("train.max_steps=0", "train.max_steps"),
            ("train.num_generations=1", "train.num_generations"),
            ("train.generation_batch_size=63", "train.generation_batch_size"),
            ("data.dev=train", "data.dev"),
            ("sampling.temperature=0", "sampling.temperature"),
            ("lora.target_modules=[\"q_prj\"]", "did you mean q_proj"),
        ] {
            let error = TrainConfig::parse(SMALL, &[setting.into()], "x.toml").unwrap_err().to_string();
            assert!(error.contains(key), "{setting}: {error}");
        }
    }
}
