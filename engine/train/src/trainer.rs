//! The loop: choose queries, sample rewrites, retrieve, reward, learn; evaluate, log, save.

mod environment;
mod steps;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::checkpoint::{self, Checkpoint, RunState};
use super::config::{Method, TrainConfig, WarmStartConfig};
use super::examples::Examples;
use super::learner::{Learner, LearnerConfig, RolloutBatch, StepReport};
use super::log::{CompletionsLog, MetricsLog, StepMetrics, name};
use super::loss::LossType;
use super::materials::Materials;
use super::optimizer::AdamW;
use super::provenance;
use super::resume;
use super::reward::{RewardCache, RewardFunction};
use super::rollout::{RelevanceFeedback, Sampler, StepRollouts};
use super::run_folder::RunFolder;
use super::spending::{RunCost, Spending};
use super::warm_start::Rates;
use environment::Environment;
use querywright_data::metrics::Measure;
use querywright_model::{Adapter, SamplingConfig};
use querywright_types::{Error, Observe, Result};

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

/// A run in progress.
pub struct Trainer<'a> {
    config: &'a TrainConfig,
    /// The retrievers that it learns from, at least one.
    environments: Vec<Arc<Environment<'a>>>,
    reward: RewardFunction,
    cache: RewardCache,
    feedback: Option<RelevanceFeedback>,
    dev_measure: Measure,
    rates: Rates,
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
            .field("materials", &self.environments.iter().map(|here| here.materials).collect::<Vec<_>>())
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
        Self::of_several(config, std::slice::from_ref(materials), resume, observer)
    }

    /// As [`Self::new`], for one adapter that learns from several retrievers, with the prompts of each: steps take turns
    /// among them. They have one model and one catalogue. The adapter is chosen by the mean over them on the development
    /// queries. What belongs to one alone lies in the folder of the run for the first, in `retriever-2` there for the
    /// second, and so on.
    pub fn of_several(
        config: &'a TrainConfig,
        materials: &'a [Materials],
        resume: bool,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        config.validate()?;
        let mut environments = Environment::all(config, materials)?;
        let first = environment::first(materials)?;
        let folder = &config.train.output_dir;
        let reward = RewardFunction::new(&config.reward)?;
        let Some(dev_measure) = reward.main_measure() else {
            return Err(Error::bug("train::trainer", "a reward without a measure"));
        };
        let measure = (dev_measure, reward.depth());
        let digest = provenance::digest(config, materials)?;
        let examples = Examples::of(config, first, observer)?;
        let claimed = RunFolder::claim(folder, resume)?;
        let rates = Rates::new(&config.warm_start, &config.schedule, config.train.max_steps)?;
        environments.iter_mut().try_for_each(Environment::find_originals)?;
        let found = if resume { resume::latest(config, materials, &digest)? } else { None };
        let from = found.as_ref().map(|found| found.state.step);
        let on_gpu = first.decoder.device()?.is_some();
        let spending = Spending::open(folder, from.is_some(), &config.cost, on_gpu)?;
        let Checkpoint { state, adapter, optimizer } = match found {
            Some(found) => {
                observer.resumed(found.state.step);
                found
            }
            None => environment::start(config, &environments, measure, digest, observer)?,
        };
        provenance::describe(folder, config, materials)?;
        let metrics = MetricsLog::open(folder, from)?;
        let warm = state.step < config.warm_start.steps;
        let feedback = (warm || config.train.inject_feedback).then(|| RelevanceFeedback::new(&first.catalog));
        if let Some(words) = feedback.as_ref().filter(|_| warm) {
            let mut search =
                |here: &mut Environment<'_>| here.warm_up(config, words, measure, from.is_some(), &*observer);
            environments.iter_mut().try_for_each(&mut search)?;
        }
        Ok(Self {
            config,
            environments: environments.into_iter().map(Arc::new).collect(),
            reward,
            cache: RewardCache::new(CACHE),
            feedback: feedback.filter(|_| config.train.inject_feedback),
            dev_measure,
            rates,
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
            let (here, turn) = self.turn()?;
            let mut metrics = match here.warm_start.as_ref().filter(|_| self.is_warming_up()) {
                Some(examples) => {
                    let (batch, faults) = examples.batch(here.materials, turn)?;
                    self.supervised_step(&here, batch, faults)?
                }
                None => self.method_step(&here)?,
            };
            if self.environments.len() > 1 {
                metrics.set(name::RETRIEVER, (here.number + 1) as f64);
            }
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
        self.require_best()?;
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

    /// Puts the best adapter where it was, where somebody removed it and it is the last one.
    fn require_best(&self) -> Result<()> {
        let mut folders = self.environments.iter().map(|here| here.folder.join("best"));
        let Some(best) = folders.find(|best| !best.is_dir()) else { return Ok(()) };
        match self.state.best {
            Some((_, step)) if step != self.state.step => {
                let found = format!("it is gone; it was the adapter after step {step} of {}", self.state.step);
                let remedy =
                    "restore it, take the newest of checkpoints in its place, or train anew in another output_dir";
                Err(Error::model(best, found, remedy))
            }
            _ => self.keep("best"),
        }
    }

    /// Whether the next step is a supervised one before the method's own.
    fn is_warming_up(&self) -> bool {
        self.state.step < self.config.warm_start.steps
    }

    /// The environment of the next step, and how many steps it has had before in this phase. Those for which the warm start
    /// found nothing have no turn in it.
    fn turn(&self) -> Result<(Arc<Environment<'a>>, u64)> {
        let warm = self.is_warming_up();
        let able: Vec<_> = self.environments.iter().filter(|here| !warm || here.has_examples()).collect();
        let (step, count) = (self.state.step, able.len().max(1) as u64);
        match able.get((step % count) as usize) {
            Some(here) => Ok((Arc::clone(here), step / count)),
            None => Err(Error::bug("train::trainer", "a step without a retriever to learn from")),
        }
    }

    /// Leaves out a warm start for which no rewrite was found, with its steps, and says so.
    fn skip_empty_warm_start(&mut self, observer: &mut dyn Observer) -> Result<()> {
        if !self.is_warming_up() || self.environments.iter().any(|here| here.has_examples()) {
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
    fn step(&mut self, here: &Environment<'_>) -> Result<StepMetrics> {
        let step = self.state.step + 1;
        let mut rollouts = self.sample(here, step)?;
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
        let report = self.learn(here, &learner, rate, rollouts.batches(&here.materials.decoder)?)?;
        // A step without a token in the loss measured no entropy.
        if let Some(control) = self.state.entropy.as_mut().filter(|_| report.loss.tokens > 0) {
            control.observe(report.loss.bonus_entropy);
        }
        self.account(here, step, &rollouts)?;
        let mut metrics = self.step_metrics(here, (step, rate), &rollouts, &report)?;
        metrics.set(name::ENTROPY_COEF, entropy_coef);
        Ok(metrics)
    }

    /// Takes in what a step's groups say of their queries, and keeps their completions.
    fn account(&mut self, here: &Environment<'_>, step: u64, rollouts: &StepRollouts) -> Result<()> {
        let (curriculum, replay) = self.state.queries_mut(here.number)?;
        for group in &rollouts.groups {
            curriculum.observe(group.query, group.informative);
            let run = &self.config.train;
            if run.replay > 0 {
                let kept = group.to_replay(run.replay_margin);
                kept.for_each(|kept| replay.keep(group.query, kept, run.replay));
            }
        }
        for query in &rollouts.replaced {
            curriculum.observe(*query, false);
        }
        self.state.step = step;
        self.state.num_tokens += rollouts.tokens(here.prefix().len()) as u64;
        self.completions.append(&rollouts.records(step, &here.materials.train)?)
    }

    /// An update of the adapter.
    fn learn(
        &mut self,
        here: &Environment<'_>,
        config: &LearnerConfig,
        rate: f64,
        batches: Vec<RolloutBatch>,
    ) -> Result<StepReport> {
        let (decoder, prefix) = (&here.materials.decoder, here.prefix());
        let report =
            Learner { decoder, prefix, config }.learn(&mut self.adapter, &mut self.optimizer, rate, batches)?;
        self.state.updates = self.optimizer.state.step;
        Ok(report)
    }

    fn sampler<'s>(&'s self, here: &'s Environment<'_>) -> Result<Sampler<'s>> {
        Ok(Sampler {
            config: self.config,
            materials: here.materials,
            reward: &self.reward,
            cache: &self.cache,
            originals: &here.originals,
            feedback: self.feedback.as_ref(),
            replay: self.state.queries(here.number)?.1,
        })
    }

    /// A step's groups; zero-variance groups are replaced for some rounds.
    fn sample(&self, here: &Environment<'_>, step: u64) -> Result<StepRollouts> {
        let sampler = self.sampler(here)?;
        let wanted = self.config.prompts_per_step();
        let seed = self.config.train.seed;
        let (curriculum, _) = self.state.queries(here.number)?;
        let mut taken = HashSet::new();
        let mut rollouts = StepRollouts::default();
        for round in 0..=self.config.curriculum.resample_rounds as u64 {
            let missing = wanted.saturating_sub(rollouts.groups.iter().filter(|g| g.informative).count());
            if missing == 0 {
                break;
            }
            let queries = curriculum.sample(missing, &taken, seed, step, round);
            if queries.is_empty() {
                break;
            }
            taken.extend(&queries);
            // Preferences have passes of their own, so there is nothing to record.
            let recorded = match self.config.train.method {
                Method::Dpo => usize::MAX,
                _ => rollouts.recorded(&here.materials.decoder),
            };
            rollouts.join(sampler.sample(&queries, &self.adapter, step, recorded)?, wanted, self.config)?;
        }
        Ok(rollouts)
    }

    fn step_metrics(
        &self,
        here: &Environment<'_>,
        (step, rate): (u64, f64),
        rollouts: &StepRollouts,
        report: &StepReport,
    ) -> Result<StepMetrics> {
        let mut metrics = StepMetrics::new(step);
        let lengths: Vec<f64> = rollouts.samples().map(|s| s.tokens.len() as f64).collect();
        let truncated = rollouts.samples().filter(|s| s.truncated).count() as f64;
        let count = lengths.len().max(1) as f64;
        let (tokens, written) = (rollouts.tokens(here.prefix().len()) as f64, lengths.iter().sum::<f64>());
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
            .set("curriculum/injected_groups", rollouts.injected as f64)
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
        if let Some(gain) = self.gain(here, rollouts)? {
            metrics.set(name::GAIN, gain);
        }
        Ok(metrics)
    }

    /// The mean of the main measure over what the same queries score without the model.
    fn gain(&self, here: &Environment<'_>, rollouts: &StepRollouts) -> Result<Option<f64>> {
        let (curriculum, _) = self.state.queries(here.number)?;
        let without = |query: usize| Some(1.0 - curriculum.headroom(query)?);
        Ok(rollouts.mean(|query, reward| self.reward.gain(reward, without(query)?)))
    }

    /// Measures the development queries, greedily rewritten; keeps the adapter when it is the best so far, by the mean over
    /// the retrievers.
    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let greedy = SamplingConfig::greedy(self.config.sampling.max_completion_length);
        let measure = (self.dev_measure, self.reward.depth());
        let mut scores = Vec::with_capacity(self.environments.len());
        for here in &self.environments {
            match here.dev_score(&self.adapter, greedy.clone(), measure, observer)? {
                Some(score) => scores.push(score),
                None => return Ok(()),
            }
        }
        let step = self.state.step;
        let score = scores.iter().sum::<f64>() / scores.len() as f64;
        let best = self.state.best.is_none_or(|(old, _)| score > old);
        let mut metrics = StepMetrics::new(step);
        metrics.set(format!("eval_{}", self.dev_measure), score);
        if scores.len() > 1 {
            for (here, score) in self.environments.iter().zip(&scores) {
                metrics.set(format!("eval_{}/retriever-{}", self.dev_measure, here.number + 1), *score);
            }
        }
        self.metrics.record(&metrics)?;
        if best {
            self.state.best = Some((score, step));
            self.keep("best")?;
        }
        observer.evaluated(step, score, best);
        Ok(())
    }

    /// Writes the adapter, with the prompt that belongs to it, into a folder of the run, and of each further retriever.
    fn keep(&self, name: &str) -> Result<()> {
        self.environments.iter().try_for_each(|here| {
            checkpoint::write_folder(&here.folder.join(name), |folder| {
                self.adapter.save(folder, &here.materials.model_name)?;
                here.serving_prompt(self.config).write(folder)
            })
        })
    }

    fn save(&mut self) -> Result<()> {
        self.optimizer.fetch()?;
        let run = &self.config.train;
        let Some(first) = self.environments.first() else {
            return Err(Error::bug("train::trainer", "a run without a retriever"));
        };
        let base = &first.materials.model_name;
        checkpoint::save(&run.output_dir, &self.state, &self.adapter, &self.optimizer, base, run.save_total_limit)?;
        self.spending.write().map(drop)
    }
}
