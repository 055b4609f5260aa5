//! The workload of the benches: SmolLM2-135M on the shapes of the scripts that measure TRL and llama.cpp
//! (`xtask/peers/`).
#![allow(dead_code, reason = "each bench is its own program and uses a part of this")]

use querywright::sources::{self, PullOptions};
use querywright::types::Deadline;
use querywright_model::Precision;
use querywright_model::{
    Adapter, Completion, Decoder, GenerateOptions, LoraConfig, ModelSource, PromptTokens, SamplingConfig, Tape,
    Tokenizer, generate, generate_recorded, prefix,
};
use querywright_train::learner::{Learner, LearnerConfig, Rollout, RolloutBatch, Sample};
use querywright_train::loss::LossConfig;
use querywright_train::optimizer::{AdamW, AdamWConfig};

/// A model with its tokenizer.
pub struct Model {
    pub decoder: Decoder,
    pub tokenizer: Tokenizer,
}

/// The shape of a GRPO step.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Prompts in a batch.
    pub prompts: usize,
    /// Completions of each prompt.
    pub completions: usize,
    /// Tokens of each completion. None ends early.
    pub length: usize,
    /// Tokens of each prompt.
    pub prompt: usize,
}

impl Shape {
    /// The shape of TRL's step in `xtask/peers/`: 8 prompts of about 48 tokens, 8 completions of 32 tokens each.
    pub const PEER: Self = Self { prompts: 8, completions: 8, length: 32, prompt: 48 };

    /// Tokens of prompts and completions in one teacher-forced pass.
    pub fn tokens(self) -> usize {
        self.prompts * (self.prompt + self.completions * self.length)
    }
}

impl Model {
    /// SmolLM2-135M from the cache, else fetched. [`Precision::Auto`] is bf16 where the processor has it;
    /// [`Precision::Int8`] serves a single stream.
    pub fn load(precision: Precision) -> anyhow::Result<Self> {
        let path = sources::model("smollm2-135m", &PullOptions::default())?;
        let source = ModelSource::open(&path)?;
        Ok(Self { decoder: Decoder::load(&source, precision, &())?, tokenizer: source.tokenizer()? })
    }

    /// `count` prompts of `tokens` tokens each. No two begin with the same token.
    pub fn prompts(&self, count: usize, tokens: usize) -> Vec<PromptTokens> {
        let vocabulary = self.decoder.config().vocab_size;
        let token = |prompt: usize, i: usize| ((1_000 + prompt * 131 + i * 17) % vocabulary) as u32;
        let prompt = |p| PromptTokens::free(p as u64, (0..tokens).map(|i| token(p, i)).collect());
        (0..count).map(prompt).collect()
    }

    /// The forward pass over a prompt of `tokens` tokens, and the logits after its last token.
    pub fn prefill(&self, tokens: usize) -> anyhow::Result<f32> {
        let prompt = &self.prompts(1, tokens)[0].tokens;
        let Some(decoder) = self.decoder.host() else { return Ok(0.0) };
        let mut sequence = [decoder.continuation(Vec::new())];
        let hidden = decoder.forward(prompt, &mut sequence, &[tokens], &[], None)?;
        Ok(decoder.logits(&hidden[hidden.len() - decoder.config().hidden_size..])[0])
    }

    /// `streams` completions of `length` tokens after one prompt of 64. None ends early.
    pub fn decode(&self, streams: usize, length: usize) -> anyhow::Result<usize> {
        let sampling = SamplingConfig { max_completion_length: length, ..SamplingConfig::default() };
        let options =
            GenerateOptions { sampling: &sampling, completions: streams, stop: &[], seed: 0, deadline: Deadline::NONE };
        let shared = prefix(&self.decoder, &[], &[])?;
        let all = generate(&self.decoder, &self.tokenizer, &shared, &self.prompts(1, 64), &[], &options)?;
        Ok(all.iter().flatten().map(|c| c.tokens.len()).sum())
    }
}

/// A GRPO step with the state that a run keeps between steps.
pub struct Step<'a> {
    model: &'a Model,
    adapter: Adapter,
    optimizer: AdamW,
    seed: u64,
    /// Tokens of a teacher-forced micro-batch at most.
    pub micro_batch_tokens: Option<usize>,
}

/// The completions of each prompt, and what was recorded of them.
type Sampled = (Vec<Vec<Completion>>, Option<Tape>);

impl<'a> Step<'a> {
    /// LoRA of rank 16 on all linear layers.
    pub fn new(model: &'a Model) -> anyhow::Result<Self> {
        let adapter = Adapter::new(model.decoder.config(), LoraConfig::default(), 0)?;
        Ok(Self { model, adapter, optimizer: AdamW::new(AdamWConfig::default()), seed: 0, micro_batch_tokens: None })
    }

    /// Samples, scores with an artificial reward and updates the adapter. Returns the number of sampled tokens.
    pub fn run(&mut self, shape: Shape) -> anyhow::Result<usize> {
        let (sampled, prompts) = self.sample(shape)?;
        let tokens = sampled.0.iter().flatten().map(|c| c.tokens.len()).sum();
        self.learn(sampled, prompts)?;
        Ok(tokens)
    }

    /// Samples the completions of a step.
    pub fn sample(&mut self, shape: Shape) -> anyhow::Result<(Sampled, Vec<PromptTokens>)> {
        self.seed += 1;
        let sampling = SamplingConfig { max_completion_length: shape.length, ..SamplingConfig::default() };
        let options = GenerateOptions {
            sampling: &sampling,
            completions: shape.completions,
            stop: &[],
            seed: self.seed,
            deadline: Deadline::NONE,
        };
        let prompts = self.model.prompts(shape.prompts, shape.prompt);
        let (decoder, tokenizer) = (&self.model.decoder, &self.model.tokenizer);
        let sampled = generate_recorded(decoder, tokenizer, &[], &prompts, self.adapter.deltas(), &options)?;
        Ok((sampled, prompts))
    }

    /// Scores completions with an artificial reward and updates the adapter.
    pub fn learn(&mut self, (groups, tape): Sampled, prompts: Vec<PromptTokens>) -> anyhow::Result<()> {
        let rollouts = groups.into_iter().zip(prompts).map(|(group, prompt)| {
            let sample = |c: Completion| Sample {
                advantage: (c.text.len() % 7) as f32 - 3.0,
                counterfactual: Default::default(),
                truncated: false,
                dropped: false,
                tokens: c.tokens,
                sampled_logp: c.log_probabilities,
                sampled_entropy: c.entropies,
            };
            Rollout { prompt: prompt.tokens, grammar: prompt.grammar, samples: group.into_iter().map(sample).collect() }
        });
        let batch = RolloutBatch { rollouts: rollouts.collect(), tape };
        let config = LearnerConfig {
            loss: LossConfig::default(),
            temperature: 1.0,
            max_grad_norm: 1.0,
            num_iterations: 1,
            term_credit_coef: 0.0,
            rank_credit: None,
            micro_batch_tokens: self.micro_batch_tokens,
        };
        let learner = Learner { decoder: &self.model.decoder, prefix: &[], config: &config };
        learner.learn(&mut self.adapter, &mut self.optimizer, 1e-4, vec![batch])?;
        Ok(())
    }
}
