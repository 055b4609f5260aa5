//! The loop: choose queries, sample rewrites, retrieve, reward, learn; evaluate, log, save.

mod steps;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Instant;

use super::checkpoint::{self, Checkpoint, RunState};
use super::config::TrainConfig;
use super::curriculum::Curriculum;
use super::learner::{Learner, LearnerConfig, RolloutBatch, StepReport};
use super::log::{CompletionsLog, MetricsLog, StepMetrics, name};
use super::loss::LossType;
use super::materials::{Labelled, Materials};
use super::method::Method;
use super::method::examples::Examples;
use super::optimizer::AdamW;
use super::provenance;
use super::replay::Replay;
use super::resume;
use super::reward::{RewardCache, RewardFunction};
use super::rollout::{RelevanceFeedback, Sampler, StepRollouts};
use super::run_folder::RunFolder;
use super::schedule::EntropyControl;
use super::spending::{RunCost, Spending};
use super::warm_start::{Rates, WarmStart, WarmStartConfig};
use querywright_data::metrics::{Measure, trec_order};
use querywright_model::{Adapter, SamplingConfig};
use querywright_rewrite::LanguageModel;
use querywright_stack::rank_all;
use querywright_types::{Deadline, Error, Observe, Query, Request, Result, Rewrite, retrieve};

/// Is told about a run while it goes on; sentences for a person come by [`Observe::note`].
pub trait Observer: Observe {
    /// A step was made.
    fn step(&mut self, metrics: &StepMetrics, max_steps: u64);
    /// The development queries were measured after `step`; `best` when no earlier score was higher.
    fn evaluated(&mut self, step: u64, score: f64, best: bool);
    /// The run continues after this step.
    fn resumed(&mut self, step: u64);
}

/// The result of a run.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// Steps made.
    pub steps: u64,
    /// The best score on the development queries, and the step after which it was reached (0: before training).
    pub best_dev: f64,
    /// See `best_dev`.
    pub best_step: u64,
    /// The adapter that reached it.
    pub adapter: PathBuf,
    /// Seconds of training, over all sessions of the run.
    pub seconds: f64,
    /// Tokens of prompts and completions, as TRL counts them: the prompt once a completion.
    pub num_tokens: u64,
    /// What all of it cost, evaluations on the development queries included.
    pub cost: RunCost,
}

/// Rankings whose scores are cached.
const CACHE: usize = 1 << 18;
/// Development queries that are rewritten at once.
const DEV_BATCH: usize = 64;

/// A run in progress.
pub struct Trainer<'a> {
    config: &'a TrainConfig,
    materials: &'a Materials,
    reward: RewardFunction,
    cache: RewardCache,
    originals: Vec<Rewrite>,
    feedback: Option<RelevanceFeedback>,
    dev_measure: Measure,
    rates: Rates,
    /// The examples of the supervised steps; none where these are over.
    warm_start: Option<WarmStart>,
    /// What the file of the method gives; none where it learns from no file.
    examples: Option<Examples>,
    adapter: Adapter,
    optimizer: AdamW,
    state: RunState,
    metrics: MetricsLog,
    completions: CompletionsLog,
    spending: Spending,
    /// Nobody else trains in the run's folder as long as this is there.
    _folder: RunFolder,
}

impl std::fmt::Debug for Trainer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer")
            .field("materials", self.materials)
            .field("step", &self.state.step)
            .finish_non_exhaustive()
    }
}

impl<'a> Trainer<'a> {
    /// Prepares a run in `config.train.output_dir`, which is this trainer's alone as long as it lives. With `resume`,
    /// continues from the newest checkpoint, if there is one; without, refuses a folder that already holds a run. A run may
    /// be resumed with another number of steps where the learning rates of those that were made are the same for both.
    pub fn new(
        config: &'a TrainConfig,
        materials: &'a Materials,
        resume: bool,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        config.validate()?;
        materials.require_usable()?;
        let folder = &config.train.output_dir;
        let reward = RewardFunction::new(&config.reward)?;
        let Some(dev_measure) = reward.main_measure() else {
            return Err(Error::bug("train::trainer", "a reward without a measure"));
        };
        let measure = (dev_measure, reward.depth());
        let digest = provenance::digest(config, materials)?;
        let examples = Examples::of(config, materials, observer)?;
        let claimed = RunFolder::claim(folder, resume)?;
        let rates = Rates::new(&config.warm_start, &config.schedule, config.train.max_steps)?;
        let originals = materials.originals()?;
        let found = if resume { resume::latest(config, materials, &digest)? } else { None };
        let from = found.as_ref().map(|found| found.state.step);
        let on_gpu = materials.decoder.device()?.is_some();
        let spending = Spending::open(folder, from.is_some(), &config.cost, on_gpu)?;
        let Checkpoint { state, adapter, optimizer } = match found {
            Some(found) => {
                observer.resumed(found.state.step);
                found
            }
            None => start(config, (materials, &originals), measure, digest, observer)?,
        };
        provenance::describe(folder, config, materials)?;
        let metrics = MetricsLog::open(folder, from)?;
        let warm = state.step < config.warm_start.steps;
        let feedback = (warm || config.train.inject_feedback).then(|| RelevanceFeedback::new(&materials.catalog));
        let search = |words| WarmStart::of(config, (materials, &originals), words, measure, from.is_some(), &*observer);
        let warm_start = feedback.as_ref().filter(|_| warm).map(search).transpose()?;
        Ok(Self {
            config,
            materials,
            reward,
            cache: RewardCache::new(CACHE),
            originals,
            feedback: feedback.filter(|_| config.train.inject_feedback),
            dev_measure,
            rates,
            warm_start,
            examples,
            adapter,
            optimizer,
            state,
            metrics,
            completions: CompletionsLog::open(folder.join("completions.jsonl"), from)?,
            spending,
            _folder: claimed,
        })
    }

    /// Runs to the last step.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<Outcome> {
        let run = &self.config.train;
        if self.state.step == 0 && self.state.best.is_none() {
            self.evaluate(observer)?;
        }
        self.skip_empty_warm_start(observer)?;
        while self.state.step < run.max_steps {
            let start = Instant::now();
            let mut metrics = match self.warm_start.take().filter(|_| self.state.step < self.config.warm_start.steps) {
                Some(examples) => {
                    let (batch, faults) = examples.batch(self.materials, self.state.step)?;
                    self.warm_start = Some(examples);
                    self.supervised_step(batch, faults)?
                }
                None => self.method_step()?,
            };
            let seconds = start.elapsed().as_secs_f64();
            self.state.seconds += seconds;
            metrics.set(name::STEP_TIME, seconds);
            self.spending.step(&metrics);
            let (step, last) = (self.state.step, self.state.step == run.max_steps);
            self.metrics.record(&metrics)?;
            observer.step(&metrics, run.max_steps);
            if step == self.config.warm_start.steps && !last {
                self.keep(WarmStartConfig::FOLDER)?;
            }
            let last = last || step == self.config.warm_start.steps;
            let due = |every: u64| last || (every > 0 && step.is_multiple_of(every));
            if due(run.eval_steps) {
                self.evaluate(observer)?;
            }
            if due(run.save_steps) {
                self.save()?;
            }
        }
        if self.state.best.is_none() {
            // The development queries never gave a score: the last adapter stands in.
            self.keep("best")?;
        }
        let cost = self.spending.write()?;
        let (best_dev, best_step) = self.state.best.unwrap_or((f64::NAN, self.state.step));
        Ok(Outcome {
            steps: self.state.step,
            best_dev,
            best_step,
            adapter: run.output_dir.join("best"),
            seconds: self.state.seconds,
            num_tokens: self.state.num_tokens,
            cost,
        })
    }

    /// Leaves out a warm start for which no rewrite was found, with its steps, and says so.
    fn skip_empty_warm_start(&mut self, observer: &mut dyn Observer) -> Result<()> {
        if !self.warm_start.as_ref().is_some_and(WarmStart::is_empty) {
            return Ok(());
        }
        let (steps, all) = (self.config.warm_start.steps, self.config.train.max_steps);
        if steps >= all {
            let found = format!("all {all} steps, and no better rewrite was found that holds");
            return Err(Error::argument("warm_start.steps", found, "give fewer, so that the method has some"));
        }
        observer.note(&format!(
            "no better rewrite was found that holds for more than one: there is no warm start, and the other {} of {all} \
             steps are made",
            all - steps
        ));
        self.state.step = self.state.step.max(steps);
        Ok(())
    }

    /// One step; its metrics under TRL's names.
    fn step(&mut self) -> Result<StepMetrics> {
        let step = self.state.step + 1;
        let mut rollouts = self.sample(step)?;
        let mut loss = self.config.loss.clone();
        // One length rules both: what is sampled is what the loss of `dr_grpo` divides by.
        loss.max_completion_length = self.config.sampling.max_completion_length;
        if let Some(control) = &self.state.entropy {
            loss.entropy_coef = control.applied();
        }
        let entropy_coef = loss.entropy_coef;
        let run = &self.config.train;
        let learner = LearnerConfig {
            temperature: self.config.sampling.temperature,
            num_iterations: run.num_iterations,
            term_credit_coef: run.term_credit_coef,
            rank_credit: run.rank_credit.then(|| self.config.advantages()),
            ..self.plain(loss)
        };
        let rate = self.rates.rate(step - 1);
        let report = self.learn(&learner, rate, rollouts.batches(&self.materials.decoder)?)?;
        // A step without a token in the loss measured no entropy.
        if let Some(control) = self.state.entropy.as_mut().filter(|_| report.loss.tokens > 0) {
            control.observe(report.loss.bonus_entropy);
        }
        self.account(step, &rollouts)?;
        let mut metrics = self.step_metrics(step, rate, &rollouts, &report);
        metrics.set(name::ENTROPY_COEF, entropy_coef);
        Ok(metrics)
    }

    /// Takes in what a step's groups say of their queries, and keeps their completions.
    fn account(&mut self, step: u64, rollouts: &StepRollouts) -> Result<()> {
        for group in &rollouts.groups {
            self.state.curriculum.observe(group.query, group.informative);
            let run = &self.config.train;
            if run.replay > 0 {
                let kept = group.to_replay(run.replay_margin);
                kept.for_each(|kept| self.state.replay.keep(group.query, kept, run.replay));
            }
        }
        for query in &rollouts.replaced {
            self.state.curriculum.observe(*query, false);
        }
        self.state.step = step;
        self.state.num_tokens += rollouts.tokens(self.materials.encoder.prefix().len()) as u64;
        self.completions.append(&rollouts.records(step, &self.materials.train)?)
    }

    /// An update of the adapter.
    fn learn(&mut self, config: &LearnerConfig, rate: f64, batches: Vec<RolloutBatch>) -> Result<StepReport> {
        let (decoder, prefix) = (&self.materials.decoder, self.materials.encoder.prefix());
        let report =
            Learner { decoder, prefix, config }.learn(&mut self.adapter, &mut self.optimizer, rate, batches)?;
        self.state.updates = self.optimizer.state.step;
        Ok(report)
    }

    fn sampler(&self) -> Sampler<'_> {
        Sampler {
            config: self.config,
            materials: self.materials,
            reward: &self.reward,
            cache: &self.cache,
            originals: &self.originals,
            feedback: self.feedback.as_ref(),
            replay: &self.state.replay,
        }
    }

    /// A step's groups; zero-variance groups are replaced for some rounds.
    fn sample(&self, step: u64) -> Result<StepRollouts> {
        let sampler = self.sampler();
        let wanted = self.config.prompts_per_step();
        let seed = self.config.train.seed;
        let mut taken = HashSet::new();
        let mut rollouts = StepRollouts::default();
        for round in 0..=self.config.curriculum.resample_rounds as u64 {
            let missing = wanted.saturating_sub(rollouts.groups.iter().filter(|g| g.informative).count());
            if missing == 0 {
                break;
            }
            let queries = self.state.curriculum.sample(missing, &taken, seed, step, round);
            if queries.is_empty() {
                break;
            }
            taken.extend(&queries);
            // Preferences have passes of their own, so there is nothing to record.
            let recorded = match self.config.train.method {
                Method::Dpo => usize::MAX,
                _ => rollouts.recorded(&self.materials.decoder),
            };
            rollouts.join(sampler.sample(&queries, &self.adapter, step, recorded)?, wanted, self.config)?;
        }
        Ok(rollouts)
    }

    fn step_metrics(&self, step: u64, rate: f64, rollouts: &StepRollouts, report: &StepReport) -> StepMetrics {
        let mut metrics = StepMetrics::new(step);
        let lengths: Vec<f64> = rollouts.samples().map(|s| s.tokens.len() as f64).collect();
        let truncated = rollouts.samples().filter(|s| s.truncated).count() as f64;
        let count = lengths.len().max(1) as f64;
        let (tokens, written) =
            (rollouts.tokens(self.materials.encoder.prefix().len()) as f64, lengths.iter().sum::<f64>());
        metrics
            .set(name::REWARD, rollouts.signal.reward)
            .set(name::REWARD_STD, rollouts.signal.reward_std)
            .set(name::FRAC_REWARD_ZERO_STD, rollouts.signal.frac_reward_zero_std)
            .set(name::LOSS, report.loss.loss)
            .set(name::GRAD_NORM, report.grad_norm)
            .set(name::LEARNING_RATE, rate)
            .set(name::ENTROPY, report.loss.entropy)
            .set(name::CLIP_LOW_MEAN, report.loss.clip_low_mean)
            .set(name::CLIP_HIGH_MEAN, report.loss.clip_high_mean)
            .set(name::CLIP_REGION_MEAN, report.loss.clip_region_mean)
            .set(name::CLIP_LOW_MIN, report.loss.clip_low_min)
            .set(name::CLIP_HIGH_MAX, report.loss.clip_high_max)
            .set(name::MEAN_LENGTH, written / count)
            .set(name::MIN_LENGTH, lengths.iter().copied().fold(f64::INFINITY, f64::min))
            .set(name::MAX_LENGTH, lengths.iter().copied().fold(0.0, f64::max))
            .set(name::CLIPPED_RATIO, truncated / count)
            .set(name::MEAN_TERMS, rollouts.generated() as f64 / count)
            .set(name::NUM_TOKENS, self.state.num_tokens as f64)
            .set(name::PROMPT_TOKENS, tokens - written)
            .set(name::COMPLETION_TOKENS, written)
            .set(name::LOGP_DIFFERENCE, report.logp_difference)
            .set("sampling/sampling_logp_difference/max", report.logp_difference_max)
            .set(name::RECORDED_ROWS, report.recorded_rows as f64)
            .set(name::FAULTS, rollouts.faults as f64)
            .set("completions/broken_format_ratio", rollouts.broken() as f64 / count)
            .set("curriculum/repaired_groups", rollouts.injected as f64)
            .set(name::REPLAYED_GROUPS, rollouts.replayed as f64)
            .set("curriculum/replaced_groups", rollouts.replaced.len() as f64)
            .set(name::SKIPPED_UPDATES, report.skipped_updates as f64);
        if let Some(kl) = report.loss.kl {
            metrics.set(name::KL, kl);
        }
        match self.config.loss.loss_type {
            LossType::Cispo => drop(metrics.set("cispo_clip_ratio", report.loss.clip_high_mean)),
            LossType::Vespo => drop(metrics.set("vespo/phi_seq_mean", report.loss.phi_mean)),
            _ => {}
        }
        if let Some(gain) = self.gain(rollouts) {
            metrics.set(name::GAIN, gain);
        }
        metrics
    }

    /// The mean of the main measure over what the same queries score without the model.
    fn gain(&self, rollouts: &StepRollouts) -> Option<f64> {
        let without = |query: usize| Some(1.0 - self.state.curriculum.headroom(query)?);
        rollouts.mean(|query, reward| self.reward.gain(reward, without(query)?))
    }

    /// Measures the development queries, greedily rewritten; keeps the adapter when it is the best so far.
    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let greedy = SamplingConfig::greedy(self.config.sampling.max_completion_length);
        let m = self.materials;
        let model = LanguageModel::new(
            m.model_name.clone(),
            m.decoder.clone(),
            m.tokenizer.clone(),
            m.encoder.clone(),
            Some(self.adapter.clone()),
            greedy,
        )?;
        let queries: Vec<&Query> = m.dev.iter().map(|(q, _)| q).collect();
        let ranked = rank_all(&model, m.retriever.as_ref(), &queries, self.reward.depth(), DEV_BATCH, &());
        let mut scores = Vec::with_capacity(ranked.len());
        for (ranked, (_, judgements)) in ranked.into_iter().zip(&m.dev) {
            if let Some(error @ Error::Device { .. }) = ranked.fallback {
                // The raw queries' score is not the adapter's.
                return Err(error);
            }
            // A fault of the model's own first search is no score of the model either.
            let faulty = ranked.fallback.as_ref().is_some_and(Error::is_fault);
            if let Some(ranking) = ranked.ranking.as_ref().ok().filter(|_| !faulty) {
                let docs = trec_order(ranking, |doc| m.catalog.id(doc));
                scores.push(self.dev_measure.score(&docs, judgements));
            }
        }
        let step = self.state.step;
        let failed = m.dev.len() - scores.len();
        if failed > 0 {
            // A mean over other queries than last time would not compare.
            observer.note(&format!("the retriever failed for {failed} development queries; no score this time"));
            return Ok(());
        }
        let score = scores.iter().sum::<f64>() / scores.len() as f64;
        let best = self.state.best.is_none_or(|(old, _)| score > old);
        let mut metrics = StepMetrics::new(step);
        metrics.set(format!("eval_{}", self.dev_measure), score);
        self.metrics.record(&metrics)?;
        if best {
            self.state.best = Some((score, step));
            self.keep("best")?;
        }
        observer.evaluated(step, score, best);
        Ok(())
    }

    /// Writes the adapter, with the prompt that belongs to it, into a folder of the run.
    fn keep(&self, name: &str) -> Result<()> {
        checkpoint::write_folder(&self.config.train.output_dir.join(name), |folder| {
            self.adapter.save(folder, &self.materials.model_name)?;
            self.config.serving_prompt().write(folder)
        })
    }

    fn save(&mut self) -> Result<()> {
        self.optimizer.fetch()?;
        let run = &self.config.train;
        let base = &self.materials.model_name;
        checkpoint::save(&run.output_dir, &self.state, &self.adapter, &self.optimizer, base, run.save_total_limit)?;
        self.spending.write().map(drop)
    }
}

/// Where a run without a checkpoint starts. `measure` is what the adapter is chosen by, with the retrieval depth.
fn start(
    config: &TrainConfig,
    (materials, originals): (&Materials, &[Rewrite]),
    measure: (Measure, usize),
    digest: String,
    observer: &mut dyn Observer,
) -> Result<Checkpoint> {
    let adapter = Adapter::new(materials.decoder.config(), config.lora.clone(), config.train.seed)?;
    let curriculum = Curriculum::new(config.curriculum.clone(), &original_scores(materials, originals, measure))?;
    let (queries, headroom) = (curriculum.len(), curriculum.mean_headroom());
    observer.note(&format!("{queries} training queries, mean headroom {headroom:.3} {}", measure.0));
    let entropy = config.entropy.map(|e| EntropyControl::new(e, config.loss.entropy_coef)).transpose()?;
    let state = RunState {
        version: env!("CARGO_PKG_VERSION").into(),
        digest,
        max_steps: Some(config.train.max_steps),
        step: 0,
        updates: 0,
        optimizer: config.optimizer,
        entropy,
        curriculum,
        replay: Replay::default(),
        num_tokens: 0,
        seconds: 0.0,
        best: None,
    };
    Ok(Checkpoint { state, adapter, optimizer: AdamW::new(config.optimizer) })
}

/// The measure of each training query without a model; none where the retriever failed.
fn original_scores(materials: &Materials, originals: &[Rewrite], (measure, k): (Measure, usize)) -> Vec<Option<f64>> {
    let request = |((query, _), original): (&Labelled, &Rewrite)| Request::new(query, original, k);
    let requests: Vec<Request> = materials.train.iter().zip(originals).map(request).collect();
    let rankings = retrieve(materials.retriever.as_ref(), &requests, Deadline::NONE);
    let score = |(ranking, (_, judgements)): (Result<querywright_types::Ranking, _>, &Labelled)| {
        let docs: Vec<u32> = ranking.ok()?.hits.iter().map(|h| h.doc).collect();
        Some(measure.score(&docs, judgements))
    };
    rankings.into_iter().zip(&materials.train).map(score).collect()
}
