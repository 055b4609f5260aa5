//! What an adapter costs a model's general skills: instructions that a program can verify, perplexity on general text, and
//! the distance from the base on general requests.
//!
//! A rewriter that learned by imitation may have forgotten to follow any other instruction. The paper of Rec-R1 shows it
//! with IFEval, and so does this, with 200 requests and checkers of our own: before and after, paired by request.

mod constraint;
mod prompts;
mod written;

use std::collections::BTreeMap;

use serde::Serialize;

use self::prompts::Asked;
use querywright_data::metrics::rates::{mcnemar, wilson};
use querywright_data::metrics::significance::{Interval, bootstrap_mean, holm, randomisation_test};
use querywright_model::{Decoder, Deltas, Finish, GenerateOptions, Message, Prefix, PromptTokens, SamplingConfig};
use querywright_model::{Tape, Tokenizer, generate};
use querywright_types::{Deadline, Error, Observe, Progress, Result};

/// General text, written for this program: no model has been trained on it.
const PASSAGES: &str = include_str!("skills/passages.txt");
/// Tokens of a passage that are read, at most.
const PASSAGE_TOKENS: usize = 512;
/// Requests that the distance from the base is measured on, and tokens of its answers.
const KL: (usize, usize) = (50, 64);
/// Bootstrap samples, and sign patterns of the randomisation test.
const ROUNDS: usize = 10_000;
/// Answers that are shown of what was lost.
const EXAMPLES: usize = 3;

/// How the skills are measured.
#[derive(Debug, Clone, Copy)]
pub struct SkillsConfig {
    /// Requests with a constraint, of 200. All by default.
    pub requests: usize,
    /// Passages of general text, of 20. All by default.
    pub passages: usize,
    /// New tokens of an answer. Default 256.
    pub max_tokens: usize,
    /// Requests that are answered at once. Default 32.
    pub batch: usize,
    /// The seed of the answers that the distance from the base is measured on; the others are greedy.
    pub seed: u64,
}

impl Default for SkillsConfig {
    fn default() -> Self {
        Self { requests: 200, passages: 20, max_tokens: 256, batch: 32, seed: 0 }
    }
}

/// The skills of a model and of what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Skills {
    /// Requests with a constraint.
    pub requests: usize,
    /// Passages of general text.
    pub passages: usize,
    /// The base first.
    pub systems: Vec<SystemSkills>,
}

/// The skills of one system.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SystemSkills {
    /// Its name.
    pub system: String,
    /// The share of requests whose constraint was met, with Wilson's interval of 95%.
    pub followed: Interval,
    /// By kind of constraint: how many were met, of how many.
    pub kinds: BTreeMap<String, (usize, usize)>,
    /// Answers that were cut off at the most tokens allowed.
    pub cut_off: usize,
    /// Perplexity over all tokens of the passages.
    pub perplexity: f64,
    /// Against the base; none for the base itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<SkillsAgainst>,
}

/// A system against the base. P-values are two-sided, and corrected by Holm over all tests of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SkillsAgainst {
    /// Requests that only this system follows.
    pub gained: usize,
    /// Requests that only the base follows.
    pub lost: usize,
    /// McNemar's exact test of these two.
    pub followed_p: f64,
    /// Mean over passages of the difference of the mean negative log-likelihood of a token, in nats, with its bootstrap
    /// interval of 95%. Above 0: it knows general text less well.
    pub loss: Interval,
    /// Fisher's randomisation test of these differences.
    pub loss_p: f64,
    /// KL divergence of this system from the base in nats a token, on texts that the base writes (the estimator k3: never
    /// negative, unbiased), with its bootstrap interval of 95% over requests.
    pub kl: Interval,
    /// Some requests that only the base follows.
    pub examples: Vec<LostSkill>,
}

/// A request that the base follows and the system does not.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LostSkill {
    /// The request.
    pub request: String,
    /// The answer of the base.
    pub base: String,
    /// The answer of the system.
    pub system: String,
}

/// What one system answered and how well it reads, request by request.
struct Answers {
    texts: Vec<String>,
    met: Vec<bool>,
    cut_off: usize,
    /// Sum of negative log-likelihoods and number of tokens, of each passage.
    losses: Vec<(f64, usize)>,
}

/// A model, asked.
struct Exam<'a> {
    decoder: &'a Decoder,
    tokenizer: &'a Tokenizer,
    config: SkillsConfig,
    asked: Vec<Asked>,
    prompts: Vec<Vec<u32>>,
    passages: Vec<Vec<u32>>,
}

impl Skills {
    /// Asks `base` (a model without an adapter) and then each of `systems`, a name and the deltas of its adapter.
    /// `observer` is told how many of the passes are done.
    ///
    /// # Errors
    /// A tokenizer or a chat template that cannot be used, a context that is too short for the requests, a device that
    /// fails.
    pub fn measure(
        (decoder, tokenizer): (&Decoder, &Tokenizer),
        base: &str,
        systems: &[(&str, &Deltas)],
        config: SkillsConfig,
        observer: &dyn Observe,
    ) -> Result<Self> {
        let exam = Exam::new(decoder, tokenizer, config)?;
        let passes = 2 * systems.len() as u64 + 2;
        let done = |count: usize| observer.progress(Progress::new("asking", count as u64, passes));
        let own = exam.answers(&[])?;
        done(1);
        let written = exam.written_by_base()?;
        done(2);
        let mut all = vec![exam.system(base, &own)?];
        for (number, (name, deltas)) in systems.iter().enumerate() {
            let answers = exam.answers(deltas)?;
            done(3 + 2 * number);
            let kl = exam.divergence(&written, deltas)?;
            done(4 + 2 * number);
            let against = Some(exam.against(&own, &answers, &kl)?);
            all.push(SystemSkills { against, ..exam.system(name, &answers)? });
        }
        correct(&mut all);
        Ok(Self { requests: exam.asked.len(), passages: exam.passages.len(), systems: all })
    }
}

impl<'a> Exam<'a> {
    fn new(decoder: &'a Decoder, tokenizer: &'a Tokenizer, config: SkillsConfig) -> Result<Self> {
        let mut asked = prompts::all();
        asked.truncate(config.requests);
        if asked.is_empty() || config.max_tokens == 0 || config.passages == 0 {
            let SkillsConfig { requests, passages, max_tokens, .. } = config;
            let found = format!("{requests} requests, {passages} passages, {max_tokens} tokens");
            return Err(Error::argument("skills", found, "ask at least one of each"));
        }
        let prompts = asked.iter().map(|asked| prompt(tokenizer, &asked.text)).collect::<Result<_>>()?;
        let most = PASSAGE_TOKENS.min(decoder.config().max_position_embeddings);
        let passages = PASSAGES.split("\n\n").take(config.passages).map(|passage| {
            let mut ids = tokenizer.encode(passage.trim(), true)?;
            ids.truncate(most);
            Ok(ids)
        });
        let passages = passages.filter(|ids| ids.as_ref().map_or(true, |ids| ids.len() > 1)).collect::<Result<_>>()?;
        Ok(Self { decoder, tokenizer, config, asked, prompts, passages })
    }

    /// Answers to all requests, and the likelihood of all passages.
    fn answers(&self, deltas: &Deltas) -> Result<Answers> {
        let sampling = SamplingConfig::greedy(self.config.max_tokens);
        let completions = self.completions(&self.prompts, deltas, &sampling)?;
        let cut_off = completions.iter().filter(|(_, _, finish)| *finish == Finish::Length).count();
        let texts: Vec<String> = completions.into_iter().map(|(_, text, _)| text).collect();
        let met = self.asked.iter().zip(&texts).map(|(asked, text)| asked.constraint.is_met(&asked.text, text));
        let met = met.collect();
        let mut losses = Vec::with_capacity(self.passages.len());
        for passage in &self.passages {
            let (first, rest) = passage.split_at(1);
            let found = self.log_probabilities(deltas, first, rest)?;
            losses.push((-found.iter().map(|p| f64::from(*p)).sum::<f64>(), found.len()));
        }
        Ok(Answers { texts, met, cut_off, losses })
    }

    /// One completion of each prompt: tokens, text, and why it ended.
    fn completions(
        &self,
        prompts: &[Vec<u32>],
        deltas: &Deltas,
        sampling: &SamplingConfig,
    ) -> Result<Vec<(Vec<u32>, String, Finish)>> {
        let mut all = Vec::with_capacity(prompts.len());
        for (number, part) in prompts.chunks(self.config.batch.max(1)).enumerate() {
            let stream = |place: usize| (number * self.config.batch.max(1) + place) as u64;
            let prompts: Vec<PromptTokens> =
                part.iter().enumerate().map(|(place, ids)| PromptTokens::free(stream(place), ids.clone())).collect();
            let (seed, deadline) = (self.config.seed, Deadline::NONE);
            let options = GenerateOptions { sampling, completions: 1, stop: &[], seed, deadline };
            let found = generate(self.decoder, self.tokenizer, &Prefix::NONE, &prompts, deltas, &options)?;
            all.extend(found.into_iter().flatten().map(|one| (one.tokens, one.text, one.finish)));
        }
        Ok(all)
    }

    /// The log-probability of each of some tokens after a beginning.
    fn log_probabilities(&self, deltas: &Deltas, beginning: &[u32], tokens: &[u32]) -> Result<Vec<f32>> {
        let tape = Tape::of(self.decoder, deltas, &[], &[(beginning, vec![tokens])])?;
        let predictions = tape.predictions(std::iter::once(vec![tokens]));
        let found = self.decoder.predicted(&tape, &predictions, 1.0)?;
        Ok(found.into_iter().map(|statistics| statistics.log_probability).collect())
    }

    /// Answers that the base samples from all of its distribution, with their log-probabilities under it.
    fn written_by_base(&self) -> Result<Vec<(Vec<u32>, Vec<f32>)>> {
        let prompts: Vec<Vec<u32>> = self.prompts.iter().take(KL.0).cloned().collect();
        let sampling = SamplingConfig { max_completion_length: KL.1.min(self.config.max_tokens), ..Default::default() };
        let completions = self.completions(&prompts, &[], &sampling)?;
        let with = |(prompt, (tokens, _, _)): (&Vec<u32>, (Vec<u32>, String, Finish))| {
            let own = self.log_probabilities(&[], prompt, &tokens)?;
            Ok((tokens, own))
        };
        prompts.iter().zip(completions).map(with).collect()
    }

    /// The divergence from the base of each of its answers, in nats a token: the mean of `r - 1 - ln r` with r the
    /// probability under the system over that under the base (Schulman's k3).
    fn divergence(&self, written: &[(Vec<u32>, Vec<f32>)], deltas: &Deltas) -> Result<Vec<f64>> {
        let one = |(prompt, (tokens, own)): (&Vec<u32>, &(Vec<u32>, Vec<f32>))| {
            let new = self.log_probabilities(deltas, prompt, tokens)?;
            let k3 = |(new, own): (&f32, &f32)| {
                let log_ratio = f64::from(*new) - f64::from(*own);
                log_ratio.exp_m1() - log_ratio
            };
            Ok(new.iter().zip(own).map(k3).sum::<f64>() / tokens.len().max(1) as f64)
        };
        self.prompts.iter().zip(written).map(one).collect()
    }

    fn system(&self, name: &str, answers: &Answers) -> Result<SystemSkills> {
        let mut kinds: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (asked, met) in self.asked.iter().zip(&answers.met) {
            let (own, of) = kinds.entry(asked.constraint.kind().to_owned()).or_default();
            *own += usize::from(*met);
            *of += 1;
        }
        let (sum, tokens) = answers.losses.iter().fold((0.0, 0), |(sum, n), (loss, tokens)| (sum + loss, n + tokens));
        Ok(SystemSkills {
            system: name.to_owned(),
            followed: wilson(answers.met.iter().filter(|met| **met).count(), answers.met.len())?,
            kinds,
            cut_off: answers.cut_off,
            perplexity: (sum / tokens.max(1) as f64).exp(),
            against: None,
        })
    }

    fn against(&self, base: &Answers, own: &Answers, kl: &[f64]) -> Result<SkillsAgainst> {
        let pairs = || own.met.iter().zip(&base.met).enumerate();
        let gained = pairs().filter(|(_, (own, base))| **own && !**base).count();
        let lost: Vec<usize> = pairs().filter(|(_, (own, base))| !**own && **base).map(|(place, _)| place).collect();
        let mean = |losses: &[(f64, usize)]| -> Vec<f64> {
            losses.iter().map(|(loss, tokens)| loss / (*tokens).max(1) as f64).collect()
        };
        let (new, old) = (mean(&own.losses), mean(&base.losses));
        let differences: Vec<f64> = new.iter().zip(&old).map(|(new, old)| new - old).collect();
        let example = |place: &usize| {
            let text = |answers: &Answers| answers.texts.get(*place).cloned();
            let request = self.asked.get(*place)?.text.clone();
            Some(LostSkill { request, base: text(base)?, system: text(own)? })
        };
        Ok(SkillsAgainst {
            gained,
            lost: lost.len(),
            followed_p: mcnemar(gained, lost.len())?,
            loss: bootstrap_mean(&differences, 0.95, ROUNDS, 0)?,
            loss_p: randomisation_test(&new, &old, ROUNDS, 0)?,
            kl: bootstrap_mean(kl, 0.95, ROUNDS, 0)?,
            examples: lost.iter().take(EXAMPLES).filter_map(example).collect(),
        })
    }
}

/// A request as the model expects one: by its chat template, or as a text to complete where it has none.
fn prompt(tokenizer: &Tokenizer, request: &str) -> Result<Vec<u32>> {
    match tokenizer.chat_template() {
        Some(template) => tokenizer.encode(&template.render(&[Message::new("user", request)], true)?, false),
        None => tokenizer.encode(&format!("Request: {request}\nAnswer:"), true),
    }
}

/// Holm's correction over both tests of every system.
fn correct(systems: &mut [SystemSkills]) {
    let values: Vec<f64> =
        systems.iter().filter_map(|system| system.against.as_ref()).flat_map(|a| [a.followed_p, a.loss_p]).collect();
    let mut corrected = holm(&values).into_iter();
    for against in systems.iter_mut().filter_map(|system| system.against.as_mut()) {
        for p in [&mut against.followed_p, &mut against.loss_p] {
            *p = corrected.next().unwrap_or(*p);
        }
    }
}

#[cfg(test)]
mod tests;
