//! How a run learns: by GRPO, or by one of the baselines that it is compared with.
//!
//! | `train.method` | learns from |
//! |---|---|
//! | `grpo` | the rewards of groups of completions |
//! | `sft` | rewrites that somebody wrote: a file of pairs, or a teacher's answers (`[sft]`) |
//! | `rejection` | the best of its own completions, in rounds (`[rejection]`) |
//! | `dpo` | pairs of which one is preferred: a group's best and worst completion, or a file of them (`[dpo]`) |
//!
//! All of them have the same prompts, schedule, evaluations, checkpoints and reports.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::TrainConfig;
use crate::advantage::{Aggregation, Baseline, ScaleRewards};
use crate::loss::LossConfig;
use querywright_rewrite::PromptConfig;
use querywright_types::{Error, Result};

/// `train.method`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Method {
    /// Policy gradients of groups of completions, by reward.
    #[default]
    Grpo,
    /// Supervised steps on rewrites that somebody wrote.
    Sft,
    /// Supervised steps on the best of the policy's own completions.
    Rejection,
    /// Preferences, without a reward model.
    Dpo,
}

impl Method {
    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpo => "grpo",
            Self::Sft => "sft",
            Self::Rejection => "rejection",
            Self::Dpo => "dpo",
        }
    }
}

/// `[sft]`: supervised steps on rewrites that somebody wrote. The loss is the mean negative log-likelihood over all
/// tokens of a step's completions, as in TRL's `SFTTrainer` with `completion_only_loss`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftConfig {
    /// A file of rewrites for training queries: JSON lines or columns between tabs
    /// ([`GivenRewrite`](querywright_data::catalog::GivenRewrite)). With a teacher it is where the answers are kept.
    /// Default: none; with a teacher `teacher.jsonl` in the folder of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<PathBuf>,
    /// A model whose answers are learned. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherConfig>,
    /// Rewrites of a step. Default 16.
    pub batch_size: usize,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self { pairs: None, teacher: None, batch_size: 16 }
    }
}

impl SftConfig {
    /// What a teacher's answers are kept in, in the folder of a run.
    pub const FILE: &str = "teacher.jsonl";
}

/// `[sft.teacher]`: a model behind an OpenAI-compatible server, asked once for every training query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TeacherConfig {
    /// The address up to `/v1`: `http://localhost:8000/v1`.
    pub url: String,
    /// The model's name on the server.
    pub model: String,
    /// The environment variable that holds the API key. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Sampling temperature. Default 0.
    pub temperature: f32,
    /// New tokens, at most. Default 64; reasoning needs more.
    pub max_tokens: usize,
    /// Concurrent requests, at most. Default 4.
    pub parallel: usize,
    /// Seconds that one request may take. Default 60.
    pub timeout_seconds: f64,
    /// How the teacher is asked. Default: the run's own `[prompt]` as a conversation of one-line answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptConfig>,
}

impl Default for TeacherConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            model: String::new(),
            api_key_env: None,
            temperature: 0.0,
            max_tokens: 64,
            parallel: 4,
            timeout_seconds: 60.0,
            prompt: None,
        }
    }
}

/// `[rejection]`: rejection-sampling fine-tuning (RAFT, arXiv 2304.06767). A round samples `train.num_generations`
/// completions for its queries, keeps of each query the best one if it earns enough, and makes supervised steps on these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RejectionConfig {
    /// Steps after which the next round begins. Default 20.
    pub round_steps: u64,
    /// Training queries that a round samples for; 0 takes all of them. Default 0.
    pub queries: usize,
    /// How much more than the query without a model a completion must earn. Default 0.02.
    pub margin: f32,
    /// Completions of a supervised step. Default 16.
    pub batch_size: usize,
}

impl Default for RejectionConfig {
    fn default() -> Self {
        Self { round_steps: 20, queries: 0, margin: 0.02, batch_size: 16 }
    }
}

/// `[dpo]`: direct preference optimisation (arXiv 2305.18290) with TRL's `sigmoid` loss. The reference is the base model
/// without its adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpoConfig {
    /// The weight of the implicit rewards: the larger, the nearer to the reference. Default 0.1.
    pub beta: f64,
    /// Without a file: how much more than a group's worst completion its best must earn to make a pair. Default 0.02.
    pub margin: f32,
    /// A file of preferences for training queries
    /// ([`GivenPreference`](querywright_data::catalog::GivenPreference)). Default: none, pairs are sampled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<PathBuf>,
    /// Pairs of a step, from a file. Default 16.
    pub batch_size: usize,
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self { beta: 0.1, margin: 0.02, pairs: None, batch_size: 16 }
    }
}

impl TrainConfig {
    /// The file that the method learns from, if there is one.
    pub fn pairs_file(&self) -> Option<PathBuf> {
        match self.train.method {
            Method::Sft => {
                let kept = self.sft.teacher.as_ref().map(|_| self.train.output_dir.join(SftConfig::FILE));
                self.sft.pairs.clone().or(kept)
            }
            Method::Dpo => self.dpo.pairs.clone(),
            _ => None,
        }
    }

    /// Takes out where the method's file lies and who was asked for it: what it holds decides.
    pub(crate) fn without_pairs_file(&mut self) {
        (self.sft.pairs, self.sft.teacher, self.dpo.pairs) = (None, None, None);
    }

    /// Refuses settings that the method has no use for, or cannot go without.
    pub(super) fn validate_method(&self) -> Result<()> {
        let method = self.train.method;
        let tables = [
            ("sft", Method::Sft, self.sft == SftConfig::default()),
            ("rejection", Method::Rejection, self.rejection == RejectionConfig::default()),
            ("dpo", Method::Dpo, self.dpo == DpoConfig::default()),
        ];
        if let Some((key, owner, _)) = tables.into_iter().find(|(_, owner, same)| !same && *owner != method) {
            let remedy = format!("set train.method = \"{}\", or leave the table out", owner.name());
            return Err(Error::argument(key, format!("train.method is \"{}\"", method.name()), remedy));
        }
        match method {
            Method::Grpo => return Ok(()),
            Method::Sft => self.validate_sft()?,
            Method::Rejection => self.validate_rejection()?,
            Method::Dpo => self.validate_dpo()?,
        }
        self.refuse_keys_of_grpo()
    }

    fn validate_sft(&self) -> Result<()> {
        let SftConfig { pairs, teacher, batch_size } = &self.sft;
        if pairs.is_none() && teacher.is_none() {
            let remedy = "name a file of rewrites, or a teacher under [sft.teacher]";
            return Err(Error::argument("sft.pairs", "there is nothing to learn from", remedy));
        }
        require_name("sft.pairs", pairs.as_deref())?;
        let lines = |path: &Path| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"));
        if teacher.is_some() && pairs.as_deref().is_some_and(|path| !lines(path)) {
            let found = "a teacher's answers are kept as JSON lines, and this is no name of such a file";
            return Err(Error::argument("sft.pairs", found, "end it in .jsonl, or leave it out"));
        }
        require_one("sft.batch_size", *batch_size)
    }

    fn validate_rejection(&self) -> Result<()> {
        let RejectionConfig { round_steps, margin, batch_size, .. } = self.rejection;
        require_one("rejection.round_steps", usize::try_from(round_steps).unwrap_or(usize::MAX))?;
        require_margin("rejection.margin", margin)?;
        require_one("rejection.batch_size", batch_size)
    }

    fn validate_dpo(&self) -> Result<()> {
        let DpoConfig { beta, margin, ref pairs, batch_size } = self.dpo;
        if !(beta.is_finite() && beta > 0.0) {
            return Err(Error::argument("dpo.beta", format!("found {beta}"), "give a number above 0, as 0.1"));
        }
        require_margin("dpo.margin", margin)?;
        require_name("dpo.pairs", pairs.as_deref())?;
        require_one("dpo.batch_size", batch_size)
    }

    fn refuse_keys_of_grpo(&self) -> Result<()> {
        let run = &self.train;
        let summed = run.multi_objective_aggregation == Aggregation::SumThenNormalize;
        let grouped = run.method == Method::Rejection || run.method == Method::Dpo && self.dpo.pairs.is_none();
        let keys = [
            ("train.inject_feedback", !run.inject_feedback, "set it to false"),
            ("train.replay", run.replay == 0, "set it to 0"),
            ("train.term_credit_coef", run.term_credit_coef == 0.0, "set it to 0"),
            ("train.num_iterations", run.num_iterations == 1, "set it to 1"),
            ("train.baseline", run.baseline == Baseline::Group, "leave it out"),
            ("train.rank_credit", !run.rank_credit, "set it to false"),
            ("train.inject_over_base", !run.inject_over_base, "set it to false"),
            ("train.scale_rewards", run.scale_rewards == ScaleRewards::Group, "leave it out"),
            ("train.min_reward_std", run.min_reward_std == 0.0, "set it to 0"),
            ("train.multi_objective_aggregation", summed, "leave it out"),
            // Pairs within groups know of it.
            ("train.min_group_range", run.min_group_range == 0.0 || grouped, "set it to 0"),
            ("loss", self.loss == LossConfig::default(), "leave the table out"),
            ("entropy", self.entropy.is_none(), "leave the table out"),
        ];
        match keys.into_iter().find(|(_, absent, _)| !absent) {
            None => Ok(()),
            Some((key, _, remedy)) => {
                let found = format!("train.method is \"{}\", and this is a setting of GRPO", run.method.name());
                Err(Error::argument(key, found, remedy))
            }
        }
    }
}

fn require_one(key: &str, count: usize) -> Result<()> {
    match count {
        0 => Err(Error::argument(key, "found 0", "give at least 1")),
        _ => Ok(()),
    }
}

fn require_margin(key: &str, margin: f32) -> Result<()> {
    match margin.is_finite() && margin >= 0.0 {
        true => Ok(()),
        false => Err(Error::argument(key, format!("found {margin}"), "give 0 or a number such as 0.02")),
    }
}

fn require_name(key: &str, path: Option<&Path>) -> Result<()> {
    match path.is_some_and(|path| path.as_os_str().is_empty()) {
        true => Err(Error::argument(key, "found nothing", "name a file, or leave it out")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "[model]\nname = \"smollm2-135m\"\n[data]\nname = \"demo\"\n";

    fn parse(settings: &[&str]) -> Result<TrainConfig, String> {
        let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
        TrainConfig::parse(SMALL, &settings, "x.toml").map_err(|e| e.to_string())
    }

    #[test]
    fn every_method_is_a_configuration_that_comes_back_from_what_is_written_of_it() {
        for (settings, method) in [
            (&[][..], Method::Grpo),
            (&["train.method=sft", "sft.pairs=a.tsv"], Method::Sft),
            (&["train.method=sft", "sft.teacher={url=\"http://x/v1\", model=\"m\"}"], Method::Sft),
            (&["train.method=rejection", "rejection.round_steps=5"], Method::Rejection),
            (&["train.method=dpo", "dpo.beta=0.5", "warm_start.steps=2"], Method::Dpo),
        ] {
            let config = parse(settings).unwrap();
            assert_eq!((config.train.method, method.name()), (method, config.train.method.name()));
            let text = toml::to_string(&config).unwrap();
            assert_eq!(TrainConfig::parse(&text, &[], "again").unwrap(), config);
            for table in ["[sft", "[rejection", "[dpo", "method"] {
                let own = settings.iter().any(|s| s.contains(table.trim_start_matches('[')));
                assert_eq!(text.contains(table), own, "{table} in {text}: digests of older runs stay");
            }
        }
        let teacher = parse(&["train.method=sft", "sft.teacher.url=http://x/v1", "train.output_dir=runs/a"]).unwrap();
        assert_eq!(teacher.pairs_file().unwrap(), Path::new("runs/a/teacher.jsonl"));
        assert_eq!(parse(&["train.method=dpo"]).unwrap().pairs_file(), None);
    }

    #[test]
    fn what_a_method_has_no_use_for_or_cannot_go_without_is_refused_by_its_key() {
        for (settings, said) in [
            (&["dpo.beta=0.5"][..], "dpo: train.method is \"grpo\"; set train.method = \"dpo\""),
            (&["train.method=dpo", "sft.batch_size=2"], "sft: train.method is \"dpo\""),
            (&["train.method=ppo"], "ppo"),
            (&["train.method=sft"], "sft.pairs: there is nothing to learn from; name a file"),
            (&["train.method=sft", "sft.pairs="], "sft.pairs: found nothing"),
            (&["train.method=sft", "sft.pairs=a", "sft.batch_size=0"], "sft.batch_size: found 0"),
            (&["train.method=sft", "sft.pairs=a", "loss.beta=0.1"], "loss: train.method is \"sft\""),
            (&["train.method=sft", "sft.pairs=a", "sft.teacher.tempreature=1"], "tempreature"),
            (&["train.method=rejection", "rejection.round_steps=0"], "rejection.round_steps: found 0"),
            (&["train.method=rejection", "rejection.margin=-1"], "rejection.margin: found -1"),
            (&["train.method=rejection", "rejection.batch_size=0"], "rejection.batch_size: found 0"),
            (&["train.method=rejection", "train.inject_feedback=true"], "train.inject_feedback: train.method"),
            (&["train.method=rejection", "train.replay=1"], "train.replay: train.method"),
            (&["train.method=rejection", "train.baseline=base"], "train.baseline: train.method"),
            (&["train.method=dpo", "dpo.beta=0"], "dpo.beta: found 0"),
            (&["train.method=dpo", "dpo.margin=nan"], "dpo.margin: found NaN"),
            (&["train.method=dpo", "dpo.batch_size=0"], "dpo.batch_size: found 0"),
            (&["train.method=dpo", "train.num_iterations=2"], "train.num_iterations: train.method"),
            (&["train.method=dpo", "train.term_credit_coef=0.5"], "train.term_credit_coef: train.method"),
            (&["train.method=dpo", "entropy.entropy_target=0.5"], "entropy: train.method"),
        ] {
            let error = parse(settings).unwrap_err();
            assert!(error.contains(said), "{settings:?}: {error}");
        }
    }

    #[test]
    fn the_examples_of_each_method_are_configurations_and_the_rewrites_are_of_training_requests_of_the_demonstration() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/configs"));
        for method in [Method::Sft, Method::Rejection, Method::Dpo] {
            let config = TrainConfig::read(&folder.join(method.name()).with_extension("toml"), &[]).unwrap();
            assert_eq!((config.train.method, config.data.name.as_str()), (method, "demo"));
        }
        let demo = querywright_data::catalog::demo::demo(querywright_data::catalog::demo::SEED).unwrap();
        let train: Vec<&str> = demo.judged("train").unwrap().iter().map(|(query, _)| query.text.as_str()).collect();
        let given = querywright_data::catalog::GivenRewrite::read(&folder.join("demo-rewrites.tsv")).unwrap();
        assert_eq!(given.len(), 97);
        assert!(given.iter().all(|given| given.query.names().all(|name| train.contains(&name))));
    }
}
