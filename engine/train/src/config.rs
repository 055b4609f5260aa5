//! The configuration of a run: one TOML file, every key with a default but the model and the data.

mod choose;
mod method;
mod read;
mod resplit;
mod validate;
mod warm_start;

pub use choose::{Arithmetic, Choice, Chosen, DataProfile, Lengths, MachineProfile, SplitPlan, choose};
pub use method::{DpoConfig, Method, RejectionConfig, SftConfig, TeacherConfig};
pub use resplit::ResplitConfig;
pub use warm_start::WarmStartConfig;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::advantage::{AdvantageConfig, Aggregation, Baseline, ScaleRewards};
use super::curriculum::CurriculumConfig;
use super::loss::LossConfig;
use super::optimizer::AdamWConfig;
use super::reward::RewardConfig;
use super::schedule::{EntropyControlConfig, ScheduleConfig};
use querywright_data::cost::CostConfig;
#[cfg(feature = "dense")]
use querywright_encode::{DenseConfig, EmbedConfig};
use querywright_model::{DeviceChoice, LoraConfig, Precision, SamplingConfig};
use querywright_retrieve::Bm25Config;
use querywright_rewrite::{BaseConfig, PromptConfig};
#[cfg(feature = "sequence")]
use querywright_sequence::SequenceConfig;

/// A run. Unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The model that is trained.
    pub model: BaseModelConfig,
    /// The queries that it is trained on.
    pub data: DataConfig,
    /// The retriever that gives the reward.
    #[serde(default)]
    pub retriever: RetrieverConfig,
    /// The prompt.
    #[serde(default)]
    pub prompt: PromptConfig,
    /// Which layers are trained.
    #[serde(default)]
    pub lora: LoraConfig,
    /// The reward.
    #[serde(default)]
    pub reward: RewardConfig,
    /// How completions are sampled.
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
    /// Which training queries a step samples.
    #[serde(default)]
    pub curriculum: CurriculumConfig,
    /// Holds the entropy near a target. Absent: `loss.entropy_coef` stays as it is.
    #[serde(default)]
    pub entropy: Option<EntropyControlConfig>,
    /// Supervised steps before GRPO. Default: none.
    #[serde(default, skip_serializing_if = "WarmStartConfig::is_default")]
    pub warm_start: WarmStartConfig,
    /// What `train.method = "sft"` learns from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sft: SftConfig,
    /// How `train.method = "rejection"` samples.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rejection: RejectionConfig,
    /// What `train.method = "dpo"` prefers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dpo: DpoConfig,
    /// Length, batch sizes and intervals of the run.
    #[serde(default)]
    pub train: RunConfig,
    /// What the user pays, for the cost of the run in money. Default: no prices, and no money.
    #[serde(default, skip_serializing_if = "CostConfig::is_empty")]
    pub cost: CostConfig,
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseModelConfig {
    /// A registry name (`smollm2-135m`), `hf:owner/name`, or a path to a GGUF file or a Hugging Face folder.
    pub name: String,
    /// Default `auto`: bf16 where the machine multiplies it natively.
    #[serde(default)]
    pub precision: Precision,
    /// Where it runs: `auto` (the default: a GPU where there is one that this program can use), `cpu`, or `cuda:0`. A run
    /// may be resumed on another device; its numbers are then the same up to rounding.
    #[serde(default)]
    pub device: DeviceChoice,
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// A folder, a registry name, or `demo`.
    pub name: String,
    /// The split to train on. Default `train`.
    #[serde(default = "train_split")]
    pub train: String,
    /// The split that chooses the best adapter; never the test split. Default `dev`.
    #[serde(default = "dev_split")]
    pub dev: String,
    /// Development queries at most, the first ones of the split. Default 200.
    #[serde(default = "dev_queries")]
    pub max_dev_queries: usize,
    /// Splits that are made from the queries of another one. Default: none.
    #[serde(default)]
    pub resplit: Option<ResplitConfig>,
}

/// `[retriever]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetrieverConfig {
    /// Parameters of BM25, and what the catalogue holds, for the prompt.
    pub bm25: Bm25Config,
    /// The file of a plugin that ranks in the place of BM25, with its `plugin.toml` beside it. Its calls are metered by
    /// fuel, so that every run gives the same rewards. Default: none.
    pub plugin: Option<PathBuf>,
    /// The file of a search engine elsewhere that ranks in the place of BM25 (`docs/connect.md`). Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<PathBuf>,
    /// The weight, beside the text's ranking, of what followed the items of a history in the training split
    /// (covisitation), for next items. Default: none; 0.6 is a good one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub covisitation: Option<f64>,
    /// Whether tuning the base (`train.tune`) tunes this weight, too. Default false.
    #[serde(skip_serializing_if = "is_default")]
    pub tune_covisitation: bool,
    /// Dense retrieval in the place of BM25, or beside it. Default: none.
    #[cfg(feature = "dense")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense: Option<DenseConfig>,
    /// The text encoder that the plugin may use: it grants `embed`. Default: none.
    #[cfg(feature = "dense")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embed: Option<EmbedConfig>,
    /// Models over sequences (SASRec, GRU4Rec) that stand beside the run in the table after it, for next items. They decide
    /// no reward: they read histories and no text. Default: none.
    #[cfg(feature = "sequence")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<SequenceConfig>,
    /// Of a further retriever: what a query is in front of it without a model. `prompt.base` is that of the first. Default:
    /// what tuning finds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseConfig>,
    /// Further retrievers that the same adapter learns from, each with what this table has: steps take turns among all of
    /// them. With `train.method = "grpo"`. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<RetrieverConfig>,
}

/// Keys under an old name, and what they are called now. Files and `--set` may use either. The digest of a
/// run is taken over the old names, so that its checkpoints resume whichever way the configuration spells them.
pub(super) const RENAMED: [(&str, &str); 4] = [
    ("repair_groups", "inject_feedback"),
    ("repair_words", "inject_words"),
    ("repair_margin", "inject_margin"),
    ("rec-r1-contents-prefix", "rec_r1_contents_prefix"),
];

/// `[train]`. Names are TRL's where it has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Where the run is kept. Default `runs/default`.
    pub output_dir: PathBuf,
    /// How the run learns. Default `grpo`.
    #[serde(skip_serializing_if = "is_default")]
    pub method: Method,
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
    /// Whether the measures, the format and the costs of the reward are summed up before they are normalised, or normalised
    /// one by one (GDPO). Default `sum_then_normalize`.
    #[serde(skip_serializing_if = "is_default")]
    pub multi_objective_aggregation: Aggregation,
    /// What rewards are compared with: the mean of the group, or the reward of what the query is without a model.
    /// Default `group`.
    #[serde(skip_serializing_if = "is_default")]
    pub baseline: Baseline,
    /// The range of a group's rewards below which it has no signal, as a group of equal rewards. Default 0.
    #[serde(skip_serializing_if = "is_default")]
    pub min_group_range: f32,
    /// The least that advantages are divided by, so that differences next to nothing are not blown up. Default 0.
    #[serde(skip_serializing_if = "is_default")]
    pub min_reward_std: f32,
    /// Weight of the counterfactual credit per term; 0 has none, and in the prompt's mode `choose` must. Default 0.
    pub term_credit_coef: f64,
    /// Whether each term of a completion has an advantage of its own over the terms that others of the group have at the
    /// same rank: what the completion earns from it on (Rank-GRPO). In the place of one advantage a completion. Default
    /// false.
    #[serde(skip_serializing_if = "is_default")]
    pub rank_credit: bool,
    /// Whether relevance feedback is injected: in a group whose completions all fall short, the best words of the
    /// relevant documents take the place of one completion, or in the mode `choose` the best choice; few-shot prompts only,
    /// and not in the mode `document`. Default false.
    #[serde(alias = "repair_groups")]
    pub inject_feedback: bool,
    /// Words of the documents that an injected completion has at most. With 0, in the mode `rewrite`, it has those words
    /// of the query alone that the relevant documents hold: the policy is shown what to leave out. Default 4.
    #[serde(alias = "repair_words")]
    pub inject_words: usize,
    /// How much more than the group's best completion an injected one must earn, and a longer one than a shorter. With 0
    /// it is injected where it earns as much, too: in most groups, an example of a rewrite that is good enough.
    /// Default 0.02.
    #[serde(alias = "repair_margin")]
    pub inject_margin: f32,
    /// Whether an injected completion must also earn `inject_margin` more than the query without a model. Where the
    /// vocabulary is restricted, writing nothing is injected instead where that earns more than the whole group. Default
    /// false.
    #[serde(skip_serializing_if = "is_default")]
    pub inject_over_base: bool,
    /// Completions of each query that are kept for replay, those that gained most over the query without a model. Where
    /// all of a group earn less, one takes the place of its last completion. Default 0: none.
    #[serde(skip_serializing_if = "is_default")]
    pub replay: usize,
    /// Share of the groups in which a completion may be replayed. Default 0.5.
    #[serde(skip_serializing_if = "is_half")]
    pub replay_share: f64,
    /// How much a completion must gain to be kept, and earn more than its group to be replayed. Default 0.02.
    #[serde(skip_serializing_if = "is_replay_margin")]
    pub replay_margin: f32,
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
    /// Memory for recording the forward pass of sampling, so that the learner need not compute it again, in MiB. A round
    /// of sampling that needs more is teacher-forced in micro-batches instead. Default 4096.
    pub tape_mib: usize,
    /// Tokens of a teacher-forced micro-batch at most; bounds memory. Default: 4096 on a processor, on a GPU as many as
    /// half of the memory that weights leave holds; 4096 for `bnpo`, whose value depends on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_tokens: Option<usize>,
    /// The seed of everything random. Default 0.
    pub seed: u64,
    /// Whether the base is tuned before training: weights of fields, phrases and feedback, found by a search over the
    /// training queries (`querywright tune`). In the mode `expand` what the model writes is added to it. Default true.
    #[serde(skip_serializing_if = "is_true")]
    pub tune: bool,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            output_dir: "runs/default".into(),
            method: Method::Grpo,
            max_steps: 100,
            num_generations: 8,
            generation_batch_size: 64,
            num_iterations: 1,
            scale_rewards: ScaleRewards::Group,
            multi_objective_aggregation: Aggregation::SumThenNormalize,
            baseline: Baseline::Group,
            min_group_range: 0.0,
            min_reward_std: 0.0,
            term_credit_coef: 0.0,
            rank_credit: false,
            inject_feedback: false,
            inject_words: 4,
            inject_margin: 0.02,
            inject_over_base: false,
            replay: 0,
            replay_share: 0.5,
            replay_margin: REPLAY_MARGIN,
            max_grad_norm: 1.0,
            eval_steps: 20,
            save_steps: 20,
            save_total_limit: 2,
            retries: 2,
            tape_mib: 4096,
            micro_batch_tokens: None,
            seed: 0,
            tune: true,
        }
    }
}

const REPLAY_MARGIN: f32 = 0.02;

/// A default is not written: checkpoints from before the key resume. So with the functions below.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_half(value: &f64) -> bool {
    *value == 0.5
}

fn is_replay_margin(value: &f32) -> bool {
    *value == REPLAY_MARGIN
}

fn is_true(value: &bool) -> bool {
    *value
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
    /// The prompt as the trained adapter is to be asked: answers as long as they were in training.
    pub fn serving_prompt(&self) -> PromptConfig {
        PromptConfig { max_answer_tokens: self.sampling.max_completion_length, ..self.prompt.clone() }
    }

    /// Where a run keeps what belongs to one of its retrievers alone, counted from 0.
    pub fn folder_of(&self, retriever: usize) -> PathBuf {
        match retriever {
            0 => self.train.output_dir.clone(),
            further => self.train.output_dir.join(format!("retriever-{}", further + 1)),
        }
    }

    /// How a step's rewards become advantages.
    pub fn advantages(&self) -> AdvantageConfig {
        let RunConfig { baseline, scale_rewards, min_group_range, min_reward_std, .. } = self.train;
        AdvantageConfig { baseline, scale_rewards, min_group_range, min_reward_std }
    }

    /// Whether a step must know what its queries earn without a model.
    pub(super) fn needs_base(&self) -> bool {
        let run = &self.train;
        let kept = run.replay > 0 || run.method == Method::Rejection;
        kept || run.baseline == Baseline::Base || run.inject_over_base || run.rank_credit
    }

    /// Prompts of a step.
    pub fn prompts_per_step(&self) -> usize {
        self.train.generation_batch_size / self.train.num_generations
    }
}
