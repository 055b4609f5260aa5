//! What makes no run is refused before anything is fetched or loaded.

use super::super::advantage::{Aggregation, Baseline, ScaleRewards};
use super::super::loss::ImportanceLevel;
use super::super::replay::Replay;
use super::super::reward::RewardFunction;
use super::super::schedule::{EntropyControl, Schedule};
#[cfg(feature = "dense")]
use super::DenseConfig;
use super::{DataConfig, Method, ResplitConfig, RetrieverConfig, RunConfig, TrainConfig};
use querywright_rewrite::{Mode, PromptStyle};
use querywright_types::{Error, Result};

impl TrainConfig {
    /// Refuses values that make no run. The message begins with the section and the key, as `train.max_steps`. What
    /// depends on the retriever or the model (query language, examples, template) is checked when these are there.
    ///
    /// # Errors
    /// [`Error::Argument`]: the key, what was found, what would be right.
    pub fn validate(&self) -> Result<()> {
        self.data.validate()?;
        self.train.validate()?;
        self.cost.validate()?;
        if self.train.inject_feedback && self.prompt.style != PromptStyle::FewShot {
            let remedy = "set prompt.style = \"few-shot\", or inject_feedback = false";
            return refuse("train.inject_feedback", "the prompt's answers are more than a list of words", remedy);
        }
        self.validate_method()?;
        self.validate_mode()?;
        self.validate_advantages()?;
        if self.sampling.temperature <= 0.0 {
            let remedy = "greedy completions of a prompt are all equal and have no learning signal; give 1.0";
            return refuse("sampling.temperature", format!("found {}", self.sampling.temperature), remedy);
        }
        if self.retriever.base.is_some() {
            return refuse("retriever.base", "the first retriever's stands elsewhere", "set it as prompt.base");
        }
        self.retriever.validate()?;
        self.validate_also()?;
        within("lora", self.lora.projections())?;
        within("reward", RewardFunction::new(&self.reward))?;
        within("sampling", self.sampling.validate())?;
        within("loss", self.loss.validate())?;
        within("optimizer", self.optimizer.validate())?;
        within("schedule", Schedule::new(&self.schedule, self.train.max_steps))?;
        within("curriculum", self.curriculum.validate())?;
        within("warm_start", self.warm_start.validate(self.train.max_steps))?;
        if self.warm_start.steps > 0 && self.prompt.style != PromptStyle::FewShot {
            let remedy = "set prompt.style = \"few-shot\", or warm_start.steps = 0";
            return refuse("warm_start.steps", "the prompt's answers are more than a list of words", remedy);
        }
        let entropy = self.entropy.map(|entropy| EntropyControl::new(entropy, self.loss.entropy_coef));
        within("entropy", entropy.transpose())
    }

    /// What an advantage cannot be made of.
    fn validate_advantages(&self) -> Result<()> {
        let run = &self.train;
        let ranked = run.scale_rewards == ScaleRewards::Rank;
        if run.baseline == Baseline::Base && (ranked || run.rank_credit) {
            let key = if ranked { "train.scale_rewards" } else { "train.rank_credit" };
            let found = "the baseline is the base, and what is compared here are the completions of a group";
            return refuse(key, found, "set train.baseline = \"group\", or leave this out");
        }
        if ranked && run.min_reward_std > 0.0 {
            let found = format!("found {}, and ranks differ by 1 whatever the rewards do", run.min_reward_std);
            return refuse("train.min_reward_std", found, "set train.min_group_range, or leave this out");
        }
        if run.rank_credit && (run.term_credit_coef > 0.0 || self.prompt.mode == Mode::Choose) {
            let (found, remedy) = match self.prompt.mode {
                Mode::Choose => ("in the mode choose an answer has no terms", "set it to false"),
                _ => ("term_credit_coef tells terms apart already", "set one of the two"),
            };
            return refuse("train.rank_credit", found, remedy);
        }
        if run.rank_credit && run.min_group_range > 0.0 {
            let found = format!("found {}, and what is compared are returns at one rank", run.min_group_range);
            return refuse("train.min_group_range", found, "set it to 0, or train.rank_credit = false");
        }
        if self.loss.importance_sampling_level == ImportanceLevel::Item && !run.rank_credit {
            let remedy = "set train.rank_credit = true, or another level";
            return refuse(
                "loss.importance_sampling_level",
                "item, and nothing tells a completion's terms apart",
                remedy,
            );
        }
        if run.multi_objective_aggregation == Aggregation::SumThenNormalize {
            return Ok(());
        }
        let key = "train.multi_objective_aggregation";
        let remedy = "leave one of the two out";
        if run.rank_credit || run.baseline == Baseline::Base || run.inject_over_base {
            let other = ["rank_credit", "baseline = \"base\"", "inject_over_base"];
            let other = other.iter().zip([run.rank_credit, run.baseline == Baseline::Base, true]).find(|(_, on)| *on);
            let other = other.map_or("", |(other, _)| other);
            return refuse(key, format!("objectives one by one, and train.{other} knows of one reward alone"), remedy);
        }
        if run.scale_rewards != ScaleRewards::Group {
            return refuse(
                key,
                "each objective is divided by the deviation of its group, whatever scale_rewards says",
                remedy,
            );
        }
        match self.reward.gains.is_empty() {
            true => Ok(()),
            false => {
                let found = "a gain is a measure less a constant of the query, and falls out within a group";
                refuse("reward.gains", found, "name the measure in reward.measures")
            }
        }
    }

    /// Several retrievers are for steps that take turns among them.
    fn validate_also(&self) -> Result<()> {
        match self.retriever.also.is_empty() || self.train.method == Method::Grpo {
            true => Ok(()),
            false => {
                let found = format!("{} further retrievers, and train.method is not grpo", self.retriever.also.len());
                refuse("retriever.also", found, "only grpo learns from several: leave them out")
            }
        }
    }

    /// What the mode of the prompt leaves no sense.
    fn validate_mode(&self) -> Result<()> {
        let (mode, coef) = (self.prompt.mode, self.train.term_credit_coef);
        if mode == Mode::Document && self.train.inject_feedback {
            let remedy = "set inject_feedback = false; the reward alone teaches what to write";
            return refuse("train.inject_feedback", "words alone are no passage, and the mode is document", remedy);
        }
        if matches!(mode, Mode::Choose | Mode::Rerank) && coef > 0.0 {
            let mode = if mode == Mode::Choose { "choose" } else { "rerank" };
            let found = format!("found {coef}, and in the mode {mode} an answer has no terms");
            return refuse("train.term_credit_coef", found, "set it to 0");
        }
        if matches!(mode, Mode::Document | Mode::Choose) && self.warm_start.steps > 0 {
            let found = match mode {
                Mode::Document => "found words are no passage, and the mode is document",
                _ => "a name is not made of words that are found, and the mode is choose",
            };
            return refuse("warm_start.steps", found, "set it to 0, or prompt.mode = \"expand\" or \"keywords\"");
        }
        Ok(())
    }
}

impl RetrieverConfig {
    /// Itself, and the further ones.
    fn validate(&self) -> Result<()> {
        if self.tune_covisitation && self.covisitation.is_none() {
            let remedy = "set retriever.covisitation = 0.6, where the search begins, or leave this out";
            return refuse("retriever.tune_covisitation", "there is no covisitation to tune", remedy);
        }
        if self.plugin.is_none() {
            within("retriever.bm25", self.bm25.validate())?;
        }
        if self.connect.is_some() && self.plugin.is_some() {
            let found = "a plugin ranks already (retriever.plugin)";
            return refuse("retriever.connect", found, "leave one of the two out");
        }
        #[cfg(feature = "dense")]
        self.validate_dense().and_then(|()| self.validate_embed())?;
        #[cfg(feature = "sequence")]
        self.sequence.as_ref().map_or(Ok(()), |sequence| sequence.check())?;
        self.also.iter().enumerate().try_for_each(|(place, further)| {
            further.validate_further().map_err(|error| match error {
                Error::Argument { name, found, remedy, .. } => {
                    let key = name.strip_prefix("retriever.").unwrap_or(&name);
                    Error::argument(format!("retriever.also[{place}].{key}"), found, remedy)
                }
                error => error,
            })
        })
    }

    fn validate_further(&self) -> Result<()> {
        if !self.also.is_empty() {
            return refuse("also", "a further retriever has further ones", "list all of them in retriever.also");
        }
        #[cfg(feature = "sequence")]
        if self.sequence.is_some() {
            let remedy = "set it in [retriever], where it stands beside the run";
            return refuse("sequence", "models over sequences decide no reward", remedy);
        }
        self.validate()
    }
}

#[cfg(feature = "dense")]
impl RetrieverConfig {
    fn validate_dense(&self) -> Result<()> {
        let Some(dense) = &self.dense else { return Ok(()) };
        for (key, ranks) in [("plugin", self.plugin.is_some()), ("connect", self.connect.is_some())] {
            if ranks {
                let found = format!("something else ranks already (retriever.{key})");
                return refuse("retriever.dense", found, "leave one of the two out");
            }
        }
        if dense.model.is_empty() {
            return refuse("retriever.dense.model", "it is empty", "name an encoder, as all-minilm-l6-v2");
        }
        if dense.hybrid.is_none() {
            let remedy = "set retriever.dense.hybrid = 1, the weight of the vectors beside BM25, or leave this out";
            if dense.tune_hybrid {
                return refuse("retriever.dense.tune_hybrid", "there is no weight to tune", remedy);
            }
            if dense.fusion != DenseConfig::default().fusion {
                return refuse("retriever.dense.fusion", "vectors rank alone: there is nothing to fuse", remedy);
            }
        }
        within("retriever.dense", dense.validate())?;
        match dense.hybrid {
            Some(weight) if !(0.001..=1000.0).contains(&weight) => {
                refuse("retriever.dense.hybrid", format!("found {weight}"), "give a number from 0.001 to 1000, as 1")
            }
            _ => Ok(()),
        }
    }

    fn validate_embed(&self) -> Result<()> {
        let Some(lent) = &self.embed else { return Ok(()) };
        if self.plugin.is_none() {
            let remedy = "set retriever.plugin, or leave this out; vectors rank without a plugin by retriever.dense";
            return refuse("retriever.embed", "there is no plugin to lend an encoder to", remedy);
        }
        if lent.model.is_empty() {
            return refuse("retriever.embed.model", "it is empty", "name an encoder, as all-minilm-l6-v2");
        }
        Ok(())
    }
}

impl DataConfig {
    fn validate(&self) -> Result<()> {
        if self.train == self.dev {
            let found = format!("\"{}\" is the training split", self.dev);
            return refuse("data.dev", found, "choose queries that are not trained on");
        }
        if self.max_dev_queries == 0 {
            return refuse("data.max_dev_queries", "found 0", "allow at least 1, 100 or more are better");
        }
        self.resplit.as_ref().map_or(Ok(()), ResplitConfig::validate)
    }
}

impl RunConfig {
    fn validate(&self) -> Result<()> {
        for (key, value) in [("train.seed", self.seed), ("train.max_steps", self.max_steps)] {
            if i64::try_from(value).is_err() {
                return refuse(key, format!("found {value}"), "give a number below 2^63");
            }
        }
        if self.output_dir.as_os_str().is_empty() {
            return refuse("train.output_dir", "found nothing", "name a folder, as runs/first");
        }
        if self.max_steps == 0 {
            return refuse("train.max_steps", "found 0", "make at least 1 step");
        }
        if self.num_generations < 2 {
            let remedy = "a group needs at least 2 completions to compare, 8 is usual";
            return refuse("train.num_generations", format!("found {}", self.num_generations), remedy);
        }
        if self.generation_batch_size == 0 || !self.generation_batch_size.is_multiple_of(self.num_generations) {
            let (size, group) = (self.generation_batch_size, self.num_generations);
            let found = format!("{size} is not a multiple of num_generations = {group}");
            let remedy = "give prompts x num_generations, as 64 for 8 prompts x 8";
            return refuse("train.generation_batch_size", found, remedy);
        }
        if self.num_iterations == 0 {
            return refuse("train.num_iterations", "found 0", "make at least 1 update a step");
        }
        if !(self.term_credit_coef.is_finite() && self.term_credit_coef >= 0.0) {
            let found = format!("found {}", self.term_credit_coef);
            return refuse("train.term_credit_coef", found, "give 0 or a number such as 0.5");
        }
        for (key, value, example) in [
            ("train.min_group_range", self.min_group_range, "0.01"),
            ("train.min_reward_std", self.min_reward_std, "0.05"),
            ("train.replay_margin", self.replay_margin, "0.02"),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return refuse(key, format!("found {value}"), &format!("give 0 or a number such as {example}"));
            }
        }
        if !(0.0..=1.0).contains(&self.replay_share) {
            return refuse("train.replay_share", format!("found {}", self.replay_share), "give a share from 0 to 1");
        }
        if self.replay > Replay::MOST {
            let remedy = format!("keep at most {} completions a query; 1 or 2 are usual", Replay::MOST);
            return refuse("train.replay", format!("found {}", self.replay), &remedy);
        }
        if !(self.inject_margin.is_finite() && self.inject_margin >= 0.0) {
            let found = format!("found {}", self.inject_margin);
            return refuse("train.inject_margin", found, "give 0 or a number such as 0.02");
        }
        Ok(())
    }
}

fn refuse(key: &str, found: impl Into<String>, remedy: &str) -> Result<()> {
    Err(Error::argument(key, found, remedy))
}

/// Puts the section before the key of a refusal, where the section's own check names the key alone.
fn within<T>(section: &str, checked: Result<T>) -> Result<()> {
    match checked {
        Ok(_) => Ok(()),
        Err(Error::Argument { name, found, remedy, .. })
            if name != section && !name.starts_with(&format!("{section}.")) =>
        {
            Err(Error::argument(format!("{section}.{name}"), found, remedy))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(feature = "dense")]
    fn vectors_rank_with_a_weight_that_means_something_and_not_beside_a_plugin() {
        let text = "[model]\nname = \"smollm2-135m\"\n[data]\nname = \"demo\"\n";
        let parse = |settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
            let config = TrainConfig::parse(text, &settings, "x.toml")?;
            config.validate().map(|()| config)
        };
        let config = parse(&["retriever.dense.encoder.query_prefix=query: "]).unwrap();
        let dense = config.retriever.dense.as_ref().unwrap();
        assert_eq!(dense.model, "all-minilm-l6-v2");
        assert_eq!(TrainConfig::parse(&toml::to_string(&config).unwrap(), &[], "again").unwrap(), config);
        let hybrid = parse(&["retriever.dense.hybrid=1"]).unwrap();
        let written = toml::to_string(&hybrid).unwrap();
        assert!(!written.contains("fusion") && !written.contains("tune_hybrid"), "older runs resume: {written}");
        let scores = ["retriever.dense.hybrid=1", "retriever.dense.fusion=scores", "retriever.dense.tune_hybrid=true"];
        let scores = parse(&scores).unwrap();
        assert_eq!(TrainConfig::parse(&toml::to_string(&scores).unwrap(), &[], "again").unwrap(), scores);
        let plain = parse(&[]).unwrap();
        let plain = toml::to_string(&plain).unwrap();
        assert!(!plain.contains("dense") && !plain.contains("embed"), "the digest of older runs stays");
        let lent = ["retriever.plugin=a.wasm", "retriever.embed.model=minilm", "retriever.embed.encoder.max_tokens=64"];
        let lent = parse(&lent).unwrap();
        assert_eq!(TrainConfig::parse(&toml::to_string(&lent).unwrap(), &[], "again").unwrap(), lent);
        for (settings, key) in [
            (&["retriever.embed.model=minilm"][..], "retriever.embed: there is no plugin"),
            (&["retriever.embed.model=", "retriever.plugin=a.wasm"], "retriever.embed.model: "),
            (&["retriever.dense.hybrid=0"], "retriever.dense.hybrid: "),
            (&["retriever.dense.model="], "retriever.dense.model: "),
            (&["retriever.dense={}", "retriever.plugin=a.wasm"], "retriever.dense: "),
            (&["retriever.dense.weight=1"], "weight"),
            (&["retriever.dense.tune_hybrid=true"], "retriever.dense.tune_hybrid: "),
            (&["retriever.dense.fusion=scores"], "retriever.dense.fusion: "),
            (&["retriever.dense.index=hnsw", "retriever.dense.hnsw.m=2"], "retriever.dense.hnsw.m: "),
            (&["retriever.dense.hnsw.ef_search=9"], "retriever.dense.index: "),
            (&["retriever.dense.index=flat"], "flat"),
            (&["retriever.dense.hybrid=1", "retriever.dense.fusion=score"], "score"),
        ] {
            let refused = parse(settings).unwrap_err().to_string();
            assert!(refused.contains(key), "{settings:?}: {refused}");
        }
    }

    #[test]
    fn the_example_of_re_ranking_is_a_run() {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/configs/rerank.toml"));
        let config = TrainConfig::parse(text, &[], "rerank.toml").unwrap();
        let card = querywright_types::RetrieverCard::new("bm25", "0");
        assert!(config.validate().is_ok() && config.prompt.validate(&card).is_ok());
        assert_eq!((config.prompt.mode, config.prompt.candidates), (Mode::Rerank, 10));
    }

    #[test]
    #[cfg(feature = "sequence")]
    fn models_over_sequences_are_refused_before_a_run_by_their_keys() {
        let parse = |setting: &str| {
            let text = "[model]\nname = \"smollm2-135m\"\n[data]\nname = \"demo\"\n";
            let config = TrainConfig::parse(text, &[setting.to_owned()], "x.toml")?;
            config.validate().map(|()| config)
        };
        let config = parse("retriever.sequence.sasrec.hidden_size=32").unwrap();
        assert_eq!(config.retriever.sequence.as_ref().map(|sequence| sequence.sasrec.hidden_size), Some(32));
        assert_eq!(TrainConfig::parse(&toml::to_string(&config).unwrap(), &[], "again").unwrap(), config);
        assert!(!toml::to_string(&parse("train.seed=1").unwrap()).unwrap().contains("sequence"));
        for (setting, key) in [
            ("retriever.sequence.epochs=0", "retriever.sequence.epochs"),
            ("retriever.sequence.gru4rec.dropout_prob=1", "retriever.sequence.gru4rec.dropout_prob"),
            ("retriever.sequence.dropout=0.1", "dropout"),
        ] {
            let refused = parse(setting).unwrap_err().to_string();
            assert!(refused.contains(key), "{setting}: {refused}");
        }
    }

    #[test]
    fn further_retrievers_are_refused_by_their_place_and_for_other_methods() {
        let parse = |settings: &[&str]| {
            let text = "[model]\nname = \"m\"\n[data]\nname = \"d\"\n";
            let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
            TrainConfig::parse(text, &settings, "test").and_then(|config| config.validate().map(|()| config))
        };
        let config = parse(&["retriever.also=[{}, {bm25={k1=0.9}}]"]).unwrap();
        assert_eq!(config.retriever.also.iter().map(|also| also.bm25.k1).collect::<Vec<_>>(), [1.2, 0.9]);
        assert_eq!(config.folder_of(0), config.train.output_dir);
        assert_eq!(config.folder_of(2), config.train.output_dir.join("retriever-3"));
        for (settings, start) in [
            (&["retriever.also=[{}, {bm25={b=2.0}}]"][..], "retriever.also[1].bm25"),
            (&["retriever.also=[{tune_covisitation=true}]"], "retriever.also[0].tune_covisitation: "),
            (&["retriever.also=[{also=[{}]}]"], "retriever.also[0].also: "),
            (&["retriever.base={history=1}"], "retriever.base: "),
            (&["retriever.also=[{}]", "train.method=rejection"], "retriever.also: "),
        ] {
            let error = parse(settings).unwrap_err().to_string();
            assert!(error.starts_with(start), "{error}");
        }
    }

    #[test]
    fn a_refusal_begins_with_its_section_and_key() {
        let text = "[model]\nname = \"smollm2-135m\"\n[data]\nname = \"demo\"\n";
        for (setting, start) in [
            ("train.max_steps=0", "train.max_steps: "),
            ("train.num_generations=1", "train.num_generations: "),
            ("train.generation_batch_size=63", "train.generation_batch_size: "),
            ("train.inject_margin=-1", "train.inject_margin: "),
            ("train.min_group_range=-1", "train.min_group_range: "),
            ("train.min_reward_std=nan", "train.min_reward_std: "),
            ("train.replay=17", "train.replay: "),
            ("train.replay_share=2", "train.replay_share: "),
            ("train.replay_margin=-1", "train.replay_margin: "),
            ("loss.off_policy_gamma=-1", "loss.off_policy_gamma: "),
            ("entropy.entropy_ceiling=0.1", "entropy.entropy_ceiling: "),
            ("data.dev=train", "data.dev: "),
            ("data.resplit={train=80, dev=30}", "data.resplit: "),
            ("sampling.temperature=0", "sampling.temperature: "),
            ("sampling.top_p=2", "sampling.top_p: "),
            ("lora.target_modules=[\"q_prj\"]", "lora.target_modules: "),
            ("retriever.bm25.k1=-1", "retriever.bm25.k1: "),
            ("retriever.tune_covisitation=true", "retriever.tune_covisitation: "),
            ("reward.k=0", "reward.k: "),
            ("reward.measures={\"nDGC@10\"=1}", "reward.measures.nDGC@10: "),
            ("loss.epsilon=2", "loss.epsilon: "),
            ("optimizer.beta1=2", "optimizer.beta1: "),
            ("schedule.learning_rate=-1", "schedule.learning_rate: "),
            ("schedule.warmup_ratio=2", "schedule.warmup_ratio: "),
            ("curriculum.headroom_fraction=2", "curriculum.headroom_fraction: "),
            ("entropy.entropy_coef_min=2", "entropy.entropy_coef_min: "),
            ("warm_start.steps=101", "warm_start.steps: "),
            ("warm_start={steps=1, batch_size=0}", "warm_start.batch_size: "),
            ("warm_start.learning_rate=-1", "warm_start.learning_rate: "),
            ("warm_start.nothing=2", "warm_start.nothing: "),
        ] {
            let error = TrainConfig::parse(text, &[setting.into()], "x.toml").unwrap_err().to_string();
            assert!(error.starts_with(start), "{setting}: {error}");
        }
        for (settings, start) in [
            (["prompt.mode=document", "train.inject_feedback=true"], "train.inject_feedback: "),
            (["prompt.mode=choose", "train.term_credit_coef=0.5"], "train.term_credit_coef: found 0.5"),
            (["prompt.mode=document", "warm_start.steps=4"], "warm_start.steps: found words are no passage"),
            (["prompt.mode=choose", "warm_start.steps=4"], "warm_start.steps: a name is not"),
            (["prompt.mode=rerank", "train.term_credit_coef=0.5"], "train.term_credit_coef: found 0.5"),
            (["train.rank_credit=true", "train.term_credit_coef=0.5"], "train.rank_credit: term_credit_coef"),
            (["train.rank_credit=true", "prompt.mode=choose"], "train.rank_credit: in the mode choose"),
            (["train.scale_rewards=rank", "train.min_reward_std=0.1"], "train.min_reward_std: found 0.1"),
        ] {
            let error = TrainConfig::parse(text, &settings.map(str::to_owned), "x.toml").unwrap_err().to_string();
            assert!(error.starts_with(start) && error.contains("set"), "{error}");
        }
        let gdpo = "train.multi_objective_aggregation=normalize_then_sum";
        for (settings, start) in [
            ([gdpo, "train.baseline=base"], "train.multi_objective_aggregation: objectives one by one, and train.base"),
            ([gdpo, "train.inject_over_base=true"], "train.multi_objective_aggregation: objectives one by one, and tr"),
            ([gdpo, "train.rank_credit=true"], "train.multi_objective_aggregation: objectives one by one, and train.r"),
            ([gdpo, "train.scale_rewards=none"], "train.multi_objective_aggregation: each objective is divided"),
            ([gdpo, "reward.gains={\"nDCG@10\"=1}"], "reward.gains: a gain is"),
            (["train.baseline=base", "train.rank_credit=true"], "train.rank_credit: the baseline is"),
            (["train.baseline=base", "train.scale_rewards=rank"], "train.scale_rewards: the baseline is"),
            (["loss.importance_sampling_level=item", "train.seed=1"], "loss.importance_sampling_level: item, and"),
        ] {
            let error = TrainConfig::parse(text, &settings.map(str::to_owned), "x.toml").unwrap_err().to_string();
            assert!(error.starts_with(start), "{settings:?}: {error}");
        }
        for fine in [[gdpo, "train.seed=1"], ["train.rank_credit=true", "loss.importance_sampling_level=item"]] {
            TrainConfig::parse(text, &fine.map(str::to_owned), "x.toml").unwrap();
        }
        let error = TrainConfig::parse(text, &["lora.target_modules=[\"q_prj\"]".into()], "x.toml").unwrap_err();
        assert!(error.to_string().contains("did you mean q_proj"), "{error}");
    }
}
