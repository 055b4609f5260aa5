//! A configuration from the data and the machine: what `train --data` does without a file.
//!
//! [`choose`] is a pure function of two profiles. Each value that it sets has a reason, in words; what it leaves alone
//! has the default. Where a value is known to work from runs on several data sets, the reason says so; the rest follows
//! from lengths, counts and an estimate of memory and time ([`cost`]).

mod cost;
mod profile;
mod shown;
mod splits;

pub use profile::{Arithmetic, DataProfile, Lengths, MachineProfile};
pub use shown::{Choice, Chosen};
pub use splits::SplitPlan;

use super::{BaseModelConfig, DataConfig, RunConfig, TrainConfig};
use crate::schedule::SchedulerType;
use cost::{Memory, Step};
use querywright_rewrite::{Mode, Task, Vocabulary};
use querywright_types::{Error, QueryLanguage, Result};
use shown::Reasons;

/// Training queries without which there is no run: a step samples different ones, and fewer make no step.
const LEAST_QUERIES: usize = 8;
/// Training queries below which a run is said to be doubtful.
const FEW_QUERIES: usize = 200;
/// Seconds that training may take, evaluations on the development queries included.
const SECONDS: f64 = 420.0;
/// Steps at least and at most: fewer change little, and more were never seen to help.
const STEPS: (u64, u64) = (40, 320);
/// How often a query is sampled at most, on average: beyond it small sets are learned by heart.
const PASSES: f64 = 8.0;
/// Tokens of instruction and examples, without candidates.
const PREFIX: usize = 130;
/// Characters of a token, as a rule, and tokens of a prompt besides the request.
const TOKEN_CHARS: f64 = 4.0;
const FRAME_TOKENS: f64 = 8.0;
/// Titles of a history that are shown.
const HISTORY: usize = 5;
/// Parameters up to which the learning rate is one that was tried.
const SMALL_MODEL: u64 = 400_000_000;

/// Chooses the configuration of a run.
///
/// # Errors
/// When there are too few queries to train on or to choose by.
pub fn choose(data: &DataProfile, machine: &MachineProfile) -> Result<Chosen> {
    let warnings = check(data)?;
    let mut config = TrainConfig::of(&machine.model_name, &data.name);
    let mut reasons = Reasons::default();
    model_and_data(&mut config, data, machine, &mut reasons);
    let recommend = data.histories > 0.5;
    prompt(&mut config, data, machine, recommend, &mut reasons);
    let step = batch(&mut config, data, machine, &mut reasons);
    reward_and_sampling(&mut config, data, recommend, &mut reasons);
    rates(&mut config, machine, &mut reasons);
    let memory = memory(&mut config, data, machine, &step, &mut reasons);
    duration(&mut config, data, machine, (&step, memory.recorded), &mut reasons);
    warm_start(&mut config, data, machine, &mut reasons);
    let mut chosen = Chosen::new(config, reasons, warnings);
    if memory.peak() > memory.limit {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        chosen.warnings.push(format!(
            "about {:.1} GiB of memory will be taken, more than {:.1}: the model's weights leave no less; a smaller \
             model (--model) takes less",
            gib(memory.peak()),
            gib(memory.limit)
        ));
    }
    chosen.config.validate()?;
    Ok(chosen)
}

impl TrainConfig {
    /// All defaults for a model and a data set.
    fn of(model: &str, data: &str) -> Self {
        let model =
            BaseModelConfig { name: model.to_owned(), precision: Default::default(), device: Default::default() };
        let (train, dev) = (super::train_split(), super::dev_split());
        let data =
            DataConfig { name: data.to_owned(), train, dev, max_dev_queries: super::dev_queries(), resplit: None };
        Self {
            model,
            data,
            retriever: Default::default(),
            prompt: Default::default(),
            lora: Default::default(),
            reward: Default::default(),
            sampling: Default::default(),
            loss: Default::default(),
            optimizer: Default::default(),
            schedule: Default::default(),
            curriculum: Default::default(),
            entropy: None,
            warm_start: Default::default(),
            cost: Default::default(),
            sft: Default::default(),
            rejection: Default::default(),
            dpo: Default::default(),
            train: RunConfig::default(),
        }
    }
}

/// The weight of covisitation beside the titles of a history, chosen on the development split of industrial products.
const COVISITATION: f64 = 0.6;

/// Refuses too few queries; says where they are few.
fn check(data: &DataProfile) -> Result<Vec<String>> {
    let splits = &data.splits;
    if data.train_queries < LEAST_QUERIES {
        let found = format!(
            "{} of the queries of \"{}\" have a relevant document in the catalogue",
            data.train_queries, splits.train
        );
        let remedy = format!(
            "judge more queries: a step of training samples at least {LEAST_QUERIES} different ones, and what is \
             learned from a few hundred is doubtful already"
        );
        return Err(Error::argument("--data", found, remedy));
    }
    if data.dev_queries == 0 {
        let found = format!("no query of \"{}\" has a relevant document in the catalogue", splits.dev);
        return Err(Error::argument("--data", found, "judge some: they decide which adapter is kept"));
    }
    let mut warnings = Vec::new();
    if splits.resplit.as_ref().is_some_and(|made| made.test > 0) {
        warnings.push(format!(
            "{}; it is kept apart for this run alone: other commands read the splits of the data set as they are",
            splits.why
        ));
    }
    if data.train_queries < FEW_QUERIES {
        warnings.push(format!(
            "{} training queries are few: below {FEW_QUERIES} a model learns them by heart more than it learns to \
             rewrite; compare trained with raw in the table before you use it",
            data.train_queries
        ));
    }
    Ok(warnings)
}

fn model_and_data(config: &mut TrainConfig, data: &DataProfile, machine: &MachineProfile, reasons: &mut Reasons) {
    let parameters = machine.model.parameters() as f64 / 1e6;
    reasons.add("model.name", format!("{parameters:.0} million parameters; --model takes another"));
    reasons.add("data.name", "as given");
    config.data.train.clone_from(&data.splits.train);
    config.data.dev.clone_from(&data.splits.dev);
    config.data.resplit.clone_from(&data.splits.resplit);
    reasons.add("data.train", format!("{} queries with something to find", data.train_queries));
    reasons.add("data.dev", format!("{} queries choose the best adapter", data.dev_queries));
    if let Some(made) = &data.splits.resplit {
        if made.from.is_some() {
            reasons.add("data.resplit.from", data.splits.why.clone());
        }
        let of =
            if made.from.is_some() { "percent of them".to_owned() } else { format!("percent; {}", data.splits.why) };
        for split in ["train", "dev", "test"] {
            reasons.add(format!("data.resplit.{split}"), format!("{of}, by a hash of their ids"));
        }
    }
}

fn prompt(
    config: &mut TrainConfig,
    data: &DataProfile,
    machine: &MachineProfile,
    recommend: bool,
    reasons: &mut Reasons,
) {
    let prompt = &mut config.prompt;
    prompt.mode = Mode::Expand;
    reasons.add("prompt.mode", "the user's words stay, so that the start is near the raw query");
    if recommend {
        prompt.task = Task::Recommend;
        reasons.add("prompt.task", format!("{:.0}% of the queries are histories", 100.0 * data.histories));
        config.retriever.covisitation = Some(COVISITATION);
        config.retriever.tune_covisitation = true;
        reasons.add("retriever.covisitation", "what followed the items of others' histories, beside the titles");
        reasons.add("retriever.tune_covisitation", "the best weight depends on how much the histories share");
        prompt.vocabulary = Vocabulary::Feedback;
        let why = "words of the history's titles and of what followed in others': free words are noise";
        reasons.add("prompt.vocabulary", why);
        prompt.max_history = HISTORY;
        reasons.add("prompt.max_history", "the last items say most");
        prompt.max_title_chars = rounded(data.titles.p95, 10).clamp(30, 60);
        reasons.add("prompt.max_title_chars", "nineteen of twenty titles are not cut, within 30 to 60");
    } else {
        let turns = if data.conversations > 0.5 { prompt.conversation.max_tokens } else { 0 };
        if turns > 0 {
            prompt.task = Task::Conversation;
            let share = 100.0 * data.conversations;
            reasons.add("prompt.task", format!("{share:.0}% of the queries have turns of a conversation before them"));
        } else {
            prompt.task = Task::Search;
            reasons.add("prompt.task", "the queries are requests in words");
        }
        // A character is up to three tokens, and instruction and examples need room, too.
        let context = machine.model.max_position_embeddings.saturating_sub(512 + turns + 4 * data.candidates) / 3;
        prompt.max_request_chars = rounded(data.requests.p95, 50).clamp(100, 400.min(context.max(100)));
        let why = format!("nineteen of twenty requests have at most {} characters; 100 to 400", data.requests.p95);
        reasons.add("prompt.max_request_chars", why);
    }
    if let Some(language) = data.language {
        prompt.language = Some(language);
        let why = match language {
            QueryLanguage::Plain => "what the retriever prefers; added words without operators are what learned",
            _ => "what the retriever prefers",
        };
        reasons.add("prompt.language", why);
    }
    let (content, why) = content(&data.fields, recommend);
    prompt.content = Some(content);
    reasons.add("prompt.content", why);
    if data.candidates > 0 {
        prompt.candidates = data.candidates;
        reasons.add("prompt.candidates", "as you set it");
    }
    prompt.original_weight = 3.0;
    reasons.add("prompt.original_weight", "a wrong word then costs little; with 2, runs on new sets ended below raw");
}

/// What the catalogue holds, as far as the names of its fields say.
fn content(fields: &[String], recommend: bool) -> (String, &'static str) {
    const USUAL: [&str; 22] = [
        "title",
        "text",
        "id",
        "url",
        "body",
        "content",
        "contents",
        "name",
        "description",
        "abstract",
        "date",
        "year",
        "author",
        "authors",
        "bib",
        "language",
        "lang",
        "source",
        "timestamp",
        "doi",
        "price",
        "image",
    ];
    let telling: Vec<&str> = fields.iter().map(String::as_str).filter(|field| !USUAL.contains(field)).take(4).collect();
    let what = if recommend { "items" } else { "documents" };
    match telling.is_empty() {
        true => {
            (what.to_owned(), "nothing is known; a few words of yours are better: --set prompt.content='garden tools'")
        }
        false => (
            format!("{what} with {}", telling.join(", ")),
            "from the names of fields; a few words of yours are better: --set prompt.content='garden tools'",
        ),
    }
}

/// Prompts, groups and lengths of a step.
fn batch(config: &mut TrainConfig, data: &DataProfile, machine: &MachineProfile, reasons: &mut Reasons) -> Step {
    let one = data.relevant < 1.5;
    let (prompts, group, why) = if data.train_queries < FEW_QUERIES {
        (12, 8, format!("{} queries are few: variety comes from completions", data.train_queries))
    } else if one {
        (32, 4, "one relevant document a query: many groups carry no signal, so more of them".to_owned())
    } else {
        (24, 4, format!("{:.0} relevant documents a query: small groups of many queries learned best", data.relevant))
    };
    config.sampling.max_completion_length = completion(data.word_chars);
    let step = |prompts| Step {
        prompts,
        group,
        prefix: prefix_tokens(config),
        prompt: prompt_tokens(config, data),
        completion: config.sampling.max_completion_length,
    };
    let recorded = |prompts| cost::memory(machine, &config.lora, data.text_bytes, &step(prompts)).recorded;
    let in_time =
        |prompts: &usize| STEPS.0 as f64 * cost::step_seconds(machine, &step(*prompts), recorded(*prompts)) <= SECONDS;
    // Recording saves a forward pass, which is worth a third of the prompts; time is worth more.
    let wanted = prompts.min(data.train_queries);
    let whole = (wanted - wanted / 3..=wanted).rev().find(|prompts| recorded(*prompts) && in_time(prompts));
    let fitting = whole.or_else(|| (LEAST_QUERIES..=wanted).rev().find(in_time)).unwrap_or(LEAST_QUERIES.min(wanted));
    let step = step(fitting);
    config.train.num_generations = group;
    config.train.generation_batch_size = step.prompts * group;
    reasons.add("train.num_generations", why);
    let less = if fitting < wanted { ", as many as memory and time allow" } else { "" };
    reasons.add("train.generation_batch_size", format!("{} prompts of {group} completions{less}", step.prompts));
    step
}

/// Tokens of instruction and examples, with the candidates of three built-in ones: up to 12 words or 6 titles.
fn prefix_tokens(config: &TrainConfig) -> usize {
    let (most, tokens) = if config.prompt.task == Task::Recommend { (6, 7) } else { (12, 3) };
    PREFIX + 3 * tokens * config.prompt.candidates.min(most)
}

/// Tokens of a prompt behind the prefix: as a rule, and a long one.
fn prompt_tokens(config: &TrainConfig, data: &DataProfile) -> (f64, usize) {
    let prompt = &config.prompt;
    let (mean, long) = if prompt.task == Task::Recommend {
        let shown = (prompt.max_history + prompt.candidates) as f64;
        let titles = |chars: f64| shown * (chars.min(prompt.max_title_chars as f64) + 2.0);
        (titles(data.titles.mean), titles(data.titles.p95 as f64))
    } else {
        let most = prompt.max_request_chars as f64;
        // A word and its comma.
        let words = prompt.candidates as f64 * (data.word_chars + TOKEN_CHARS);
        (data.requests.mean.min(most) + words, (data.requests.p95 as f64).min(most) + words)
    };
    (mean / TOKEN_CHARS + FRAME_TOKENS, (long / TOKEN_CHARS + FRAME_TOKENS).ceil() as usize)
}

/// Tokens of five words of the catalogue.
fn completion(word_chars: f64) -> usize {
    ((5.0 * (word_chars / TOKEN_CHARS + 0.75)).ceil() as usize).clamp(12, 24)
}

fn reward_and_sampling(config: &mut TrainConfig, data: &DataProfile, recommend: bool, reasons: &mut Reasons) {
    if recommend && data.relevant < 1.5 {
        let measures = [("nDCG@10", 0.6), ("LogRank@1000", 0.4)];
        config.reward.measures = measures.map(|(name, weight)| (name.to_owned(), weight)).into();
        reasons.add(
            "reward.measures",
            "one target a history is seldom among the first ten: coming nearer earns something wherever it stands",
        );
    } else {
        reasons.add("reward.measures", "the first ten hits are what a person sees");
    }
    config.sampling.temperature = 0.8;
    reasons.add("sampling.temperature", "at 1.0 a small model writes noise");
    let why = format!("room for five words of the catalogue, of {:.1} letters as a rule", data.word_chars);
    reasons.add("sampling.max_completion_length", why);
    config.curriculum.resample_rounds = 0;
    reasons.add("curriculum.resample_rounds", "a step takes one round of memory and time");
    config.train.inject_feedback = !recommend || config.prompt.vocabulary == Vocabulary::Feedback;
    if !config.train.inject_feedback {
        reasons.add("train.inject_feedback", "what is rare in the title of one target teaches nothing about others");
    } else {
        let why = match recommend {
            true => "words of the target's title that also followed others, where a group misses them",
            false => "words of relevant documents, where a group misses them: the model sees what is good",
        };
        reasons.add("train.inject_feedback", why);
        config.train.inject_margin = 0.01;
        reasons.add("train.inject_margin", "how much more they must earn, in the recipe that learned");
    }
}

fn rates(config: &mut TrainConfig, machine: &MachineProfile, reasons: &mut Reasons) {
    let small = machine.model.parameters() <= SMALL_MODEL;
    config.schedule.learning_rate = if small { 6e-4 } else { 2e-4 };
    let why = if small {
        "the rate at which this recipe learned"
    } else {
        "usual for adapters of larger models; not tried here"
    };
    reasons.add("schedule.learning_rate", why);
    config.schedule.lr_scheduler_type = SchedulerType::Cosine;
    reasons.add("schedule.lr_scheduler_type", "the last steps settle");
    config.schedule.warmup_steps = 5;
    reasons.add("schedule.warmup_steps", "the optimiser's moments are estimated first");
}

fn memory(
    config: &mut TrainConfig,
    data: &DataProfile,
    machine: &MachineProfile,
    step: &Step,
    reasons: &mut Reasons,
) -> Memory {
    let memory = cost::memory(machine, &config.lora, data.text_bytes, step);
    config.train.tape_mib = memory.tape_mib;
    config.train.micro_batch_tokens = memory.micro_batch_tokens;
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let why = match machine.arithmetic {
        Arithmetic::Gpu => "in the memory of the GPU".to_owned(),
        _ => format!(
            "{:.2} GiB for weights and program, {:.0} kB a token: {:.1} GiB at most in all",
            gib(memory.fixed),
            memory.row as f64 / 1e3,
            gib(memory.peak())
        ),
    };
    reasons.add("train.tape_mib", why);
    let need = step.rows();
    let why = match memory.recorded {
        _ if memory.micro_batch_tokens.is_none() => {
            "as many as half of the GPU's memory beside the weights holds".to_owned()
        }
        true => format!("a step has at most {need} tokens and is recorded whole; what is not, is cut so"),
        false => format!("a step has up to {need} tokens, too many to record at once"),
    };
    reasons.add("train.micro_batch_tokens", why);
    memory
}

/// Steps and intervals: as long as the time allows, within what is known to help.
fn duration(
    config: &mut TrainConfig,
    data: &DataProfile,
    machine: &MachineProfile,
    (step, recorded): (&Step, bool),
    reasons: &mut Reasons,
) {
    let evaluation = |queries| cost::evaluation_seconds(machine, step, queries);
    // Five evaluations: before the first step and after every quarter. More queries where they cost little.
    let costs = |most: usize| 5.0 * evaluation(most.min(data.dev_queries)) / SECONDS;
    let most = [(400, 0.15), (200, 0.3)].into_iter().find(|(most, share)| costs(*most) <= *share);
    config.data.max_dev_queries = most.map_or(100, |(most, _)| most);
    let dev = config.data.max_dev_queries.min(data.dev_queries);
    let seconds = cost::step_seconds(machine, step, recorded);
    reasons.add("data.max_dev_queries", format!("an evaluation of {dev} takes about {:.0} s here", evaluation(dev)));
    let affordable = (SECONDS - 5.0 * evaluation(dev)).max(0.0) / seconds;
    let passes = PASSES * data.train_queries as f64 / step.prompts as f64;
    let (least, most) = STEPS;
    let steps = (affordable.min(passes).min(most as f64) as u64 / 20 * 20).max(least);
    config.train.max_steps = steps;
    let (one, all) = cost::speed(machine);
    let total = (steps as f64 * seconds + 5.0 * evaluation(dev)) / 60.0;
    let bound = match steps {
        _ if steps == least => "the least that is sensible".to_owned(),
        _ if steps == most => "the most that was tried".to_owned(),
        _ if passes < affordable => format!("each query {PASSES:.0} times"),
        _ => format!("for {:.0} minutes", SECONDS / 60.0),
    };
    let why = format!(
        "{bound}; about {seconds:.1} s a step, {total:.0} min in all: {all:.0} GFLOP/s ({} threads^0.75 x {one:.0}, \
         {})",
        machine.threads,
        machine.arithmetic.name()
    );
    reasons.add("train.max_steps", why);
    config.train.eval_steps = steps / 4;
    config.train.save_steps = steps / 4;
    reasons.add("train.eval_steps", "four times a run");
    reasons.add("train.save_steps", "four times a run");
    config.train.output_dir = std::path::Path::new("runs").join(folder(&data.short_name));
    reasons.add("train.output_dir", "the name of the data set; --output-dir takes another");
}

/// Supervised steps first, where a policy that may write anything would sample little that earns something.
fn warm_start(config: &mut TrainConfig, data: &DataProfile, machine: &MachineProfile, reasons: &mut Reasons) {
    if config.prompt.task != Task::Search || !config.prompt.vocabulary.is_free() || data.train_queries < FEW_QUERIES {
        return;
    }
    let warm = &mut config.warm_start;
    warm.steps = warm_steps(config.train.max_steps).min((data.train_queries / warm.batch_size) as u64);
    warm.learning_rate = if machine.model.parameters() <= SMALL_MODEL { 1.5e-3 } else { 5e-4 };
    let why =
        "on rewrites that a search finds, before a policy samples its own: once a query, and not half of the steps";
    reasons.add("warm_start.steps", why);
    reasons.add("warm_start.learning_rate", "the rate at which the demonstration learned most in as many steps");
}

/// The most supervised steps of a run of so many.
fn warm_steps(steps: u64) -> u64 {
    steps * 9 / 20
}

/// A name of a folder.
fn folder(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    match plain.trim_matches('.') {
        "" => "data".to_owned(),
        name => name.to_owned(),
    }
}

/// The next multiple.
fn rounded(value: usize, to: usize) -> usize {
    value.max(1).next_multiple_of(to)
}

#[cfg(test)]
mod tests;
