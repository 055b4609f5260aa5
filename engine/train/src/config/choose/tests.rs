use super::super::ResplitConfig;
use super::*;
use querywright_model::ModelConfig;

/// The shape of SmolLM2-135M.
pub(super) fn smollm2() -> ModelConfig {
    let text = r#"{"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": true,
        "max_position_embeddings": 8192}"#;
    ModelConfig::from_json("config.json".as_ref(), text).unwrap()
}

pub(super) fn machine(threads: usize, arithmetic: Arithmetic) -> MachineProfile {
    let memory = Some(24 << 30);
    MachineProfile { model_name: "smollm2-135m".into(), model: smollm2(), threads, arithmetic, memory }
}

/// Lay queries to medical abstracts, as a profile.
fn articles() -> DataProfile {
    DataProfile {
        name: "./articles".into(),
        short_name: "articles".into(),
        splits: SplitPlan { train: "train".into(), dev: "dev".into(), ..SplitPlan::default() },
        train_queries: 2563,
        dev_queries: 324,
        relevant: 37.6,
        histories: 0.0,
        conversations: 0.0,
        requests: Lengths { mean: 22.0, p95: 51 },
        titles: Lengths { mean: 70.0, p95: 120 },
        word_chars: 7.9,
        fields: vec!["title".into(), "text".into()],
        text_bytes: 5 << 20,
        language: Some(QueryLanguage::Plain),
        candidates: 0,
    }
}

/// Next products of histories of one target each.
fn histories() -> DataProfile {
    DataProfile { histories: 1.0, relevant: 1.0, requests: Lengths { mean: 250.0, p95: 500 }, ..articles() }
}

fn chosen(data: &DataProfile) -> TrainConfig {
    choose(data, &machine(2, Arithmetic::Avx512Bf16)).unwrap().config
}

#[test]
fn what_is_shown_is_a_configuration_that_gives_the_same_run() {
    let split = |data: DataProfile, from: Option<&str>| DataProfile {
        splits: SplitPlan {
            resplit: Some(ResplitConfig { from: from.map(str::to_owned), train: 80, dev: 10, test: 10 }),
            why: "the only split becomes three".into(),
            ..data.splits
        },
        ..data
    };
    let settings =
        ["reward.gains.P@5=0.5".to_owned(), "sampling.temperature=0.7".into(), "train.repair_words=3".into()];
    for data in [articles(), histories(), split(articles(), Some("test")), split(histories(), None)] {
        for settings in [&[][..], &settings] {
            let chosen = choose(&data, &machine(2, Arithmetic::Avx2)).unwrap().with_settings(settings).unwrap();
            let text = chosen.to_toml().unwrap();
            assert_eq!(TrainConfig::parse(&text, &[], "x.toml").unwrap(), chosen.config, "{text}");
            let whole = toml::to_string(&chosen.config).unwrap();
            assert_eq!(TrainConfig::parse(&whole, &[], "config.toml").unwrap(), chosen.config, "{whole}");
        }
    }
}

#[test]
fn every_key_that_is_not_the_default_has_a_reason_and_the_value_of_the_configuration() {
    for data in [articles(), histories()] {
        let chosen = choose(&data, &machine(2, Arithmetic::Avx2)).unwrap();
        let choices = chosen.choices().unwrap();
        assert!(choices.iter().all(|choice| choice.why.len() > 5), "{choices:?}");
        let bare = format!("[model]\nname = \"smollm2-135m\"\n[data]\nname = {:?}\n", data.name);
        let settings: Vec<String> = choices.iter().map(|choice| format!("{}={}", choice.key, choice.value)).collect();
        assert_eq!(TrainConfig::parse(&bare, &settings, "x.toml").unwrap(), chosen.config, "{settings:?}");
    }
    let choices = choose(&articles(), &machine(2, Arithmetic::Avx2)).unwrap().choices().unwrap();
    let temperature = choices.iter().find(|choice| choice.key == "sampling.temperature").unwrap();
    assert_eq!(serde_json::to_value(temperature).unwrap()["value"], 0.8);
}

#[test]
fn requests_are_expanded_and_histories_are_recommended_for() {
    let config = chosen(&articles());
    assert_eq!((config.prompt.task, config.prompt.language), (Task::Search, Some(QueryLanguage::Plain)));
    assert_eq!((config.prompt.max_request_chars, config.sampling.max_completion_length), (100, 14));
    assert_eq!((config.prompts_per_step(), config.train.num_generations), (24, 4));
    assert!(config.train.inject_feedback && config.reward.measures.contains_key("nDCG@10"));
    assert_eq!(config.prompt.content.as_deref(), Some("documents"));

    let config = chosen(&histories());
    assert_eq!((config.prompt.task, config.prompt.max_history), (Task::Recommend, 5));
    assert_eq!((config.prompt.max_title_chars, config.train.num_generations), (60, 4));
    let weights: Vec<(&str, f64)> =
        config.reward.measures.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
    assert_eq!(weights, [("LogRank@1000", 0.4), ("nDCG@10", 0.6)]);
    assert_eq!(config.reward.main_measure().unwrap().to_string(), "nDCG@10", "what is tuned for and shipped by");
    assert!(config.train.inject_feedback && config.prompt.vocabulary == Vocabulary::Feedback);
    assert!(config.retriever.covisitation.is_some() && config.retriever.tune_covisitation);
    let gpu = choose(&histories(), &machine(1, Arithmetic::Gpu)).unwrap().config;
    assert_eq!(gpu.prompt.vocabulary, Vocabulary::Feedback, "as on a processor");
    assert!(gpu.train.inject_feedback);

    let talks = chosen(&DataProfile { conversations: 0.8, ..articles() });
    assert_eq!(talks.prompt.task, Task::Conversation);
    let movies =
        DataProfile { fields: ["title", "year", "genres", "actors"].map(str::to_owned).to_vec(), ..articles() };
    assert_eq!(chosen(&movies).prompt.content.as_deref(), Some("documents with genres, actors"));
    let plugin = DataProfile { language: None, ..articles() };
    assert_eq!(chosen(&plugin).prompt.language, None, "a plugin says itself what it prefers");
}

#[test]
fn long_requests_are_cut_within_bounds_and_within_the_context_of_the_model() {
    let long = DataProfile { requests: Lengths { mean: 900.0, p95: 1500 }, ..articles() };
    assert_eq!(chosen(&long).prompt.max_request_chars, 400);
    let mut small = machine(2, Arithmetic::Avx2);
    small.model.max_position_embeddings = 512;
    assert_eq!(choose(&long, &small).unwrap().config.prompt.max_request_chars, 100);
}

#[test]
fn a_faster_machine_makes_more_steps_and_each_machine_between_the_least_and_the_most() {
    let steps =
        |threads, arithmetic| choose(&articles(), &machine(threads, arithmetic)).unwrap().config.train.max_steps;
    let found =
        [(1, Arithmetic::Portable), (2, Arithmetic::Avx2), (2, Arithmetic::Avx512Bf16), (64, Arithmetic::Avx512Bf16)];
    let found = found.map(|(threads, arithmetic)| steps(threads, arithmetic));
    assert!(found.is_sorted() && found[0] == 40 && found[3] == 320, "{found:?}");
    assert!((100..300).contains(&found[2]), "about as many as are known to learn: {found:?}");
    let config = choose(&articles(), &machine(1, Arithmetic::Gpu)).unwrap().config;
    assert_eq!((config.train.max_steps, config.train.tape_mib), (320, 4096));
}

#[test]
fn small_sets_are_not_learned_by_heart_and_too_small_ones_are_refused() {
    let data = |train_queries| DataProfile { train_queries, ..articles() };
    let few = choose(&data(50), &machine(64, Arithmetic::Avx512Bf16)).unwrap();
    assert_eq!((few.config.train.max_steps, few.config.train.num_generations), (40, 8));
    assert!(few.warnings[0].contains("50 training queries are few"), "{:?}", few.warnings);
    assert!(choose(&articles(), &machine(2, Arithmetic::Avx2)).unwrap().warnings.is_empty());
    let least = choose(&data(8), &machine(2, Arithmetic::Avx2)).unwrap().config;
    assert_eq!(least.prompts_per_step(), 8, "a step samples different queries");
    let error = choose(&data(7), &machine(2, Arithmetic::Avx2)).unwrap_err().to_string();
    assert!(error.contains("7 of the queries of \"train\"") && error.contains("at least 8"), "{error}");
    let mute = DataProfile { dev_queries: 0, ..articles() };
    assert!(choose(&mute, &machine(2, Arithmetic::Avx2)).unwrap_err().to_string().contains("no query of \"dev\""));
}

#[test]
fn prompts_are_given_up_for_memory_and_time_and_a_model_that_is_too_large_is_said_to_be() {
    let longer = DataProfile { requests: Lengths { mean: 100.0, p95: 160 }, ..articles() };
    let config = choose(&longer, &machine(2, Arithmetic::Avx2)).unwrap().config;
    assert!((16..24).contains(&config.prompts_per_step()), "{}", config.prompts_per_step());
    let prompts = |arithmetic| choose(&histories(), &machine(2, arithmetic)).unwrap().config.prompts_per_step();
    assert_eq!(prompts(Arithmetic::Avx512Bf16), 32, "not recorded, and in time");
    assert!((8..20).contains(&prompts(Arithmetic::Avx2)), "{}", prompts(Arithmetic::Avx2));
    let mut large = machine(2, Arithmetic::Avx2);
    large.model.num_hidden_layers = 300;
    let warnings = choose(&articles(), &large).unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("GiB of memory will be taken")), "{warnings:?}");
}

#[test]
fn requests_begin_with_found_rewrites_and_what_a_person_sets_beside_them_goes_first() {
    let fast = machine(64, Arithmetic::Avx512Bf16);
    let chosen = || choose(&articles(), &fast).unwrap();
    let warm = chosen().config.warm_start;
    assert_eq!(warm.steps, 144.min(articles().train_queries as u64 / 16));
    assert_eq!(choose(&histories(), &fast).unwrap().config.warm_start.steps, 0, "nothing is found for one target");
    let few = DataProfile { train_queries: 199, ..articles() };
    assert_eq!(choose(&few, &fast).unwrap().config.warm_start.steps, 0);
    let steps = |settings: &[&str]| {
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        chosen().with_settings(&settings).unwrap().config.warm_start.steps
    };
    assert_eq!((steps(&["train.max_steps=20"]), steps(&["train.max_steps=1"])), (9, 0));
    assert_eq!((steps(&["warm_start.steps=3"]), steps(&["prompt.content=x"])), (3, warm.steps));
    for form in ["prompt.mode=document", "prompt.vocabulary=catalog", "prompt.style=chat"] {
        assert_eq!(steps(&[form]), 0, "{form}");
    }
    for same in ["prompt.mode=expand", "prompt.mode=\"keywords\"", "prompt.vocabulary=free"] {
        assert_eq!(steps(&[same]), warm.steps, "{same}");
    }
    let shorter = chosen().with_settings(&["train.max_steps=60".into()]).unwrap().config.train;
    assert_eq!((shorter.eval_steps, shorter.save_steps), (15, 15));
}

#[test]
fn what_a_person_sets_goes_over_what_was_chosen_and_is_shown_as_theirs() {
    let settings = ["train.max_steps=60".to_owned(), "prompt.content=films".into(), "reward.measures.P@5=1".into()];
    let chosen = choose(&articles(), &machine(2, Arithmetic::Avx2)).unwrap().with_settings(&settings).unwrap();
    assert_eq!((chosen.config.train.max_steps, chosen.config.prompt.content.as_deref()), (60, Some("films")));
    for key in ["train.max_steps", "prompt.content", "reward.measures"] {
        let choices = chosen.choices().unwrap();
        let own: Vec<_> = choices.iter().filter(|choice| choice.key.starts_with(key)).collect();
        assert!(own.len() == 1 && own[0].why == "as you set it", "{own:?}");
    }
    let wrong = choose(&articles(), &machine(2, Arithmetic::Avx2)).unwrap().with_settings(&["train.max_stps=1".into()]);
    assert!(wrong.unwrap_err().to_string().contains("did you mean `max_steps`"));
}

#[test]
fn candidates_in_the_prompt_count_in_lengths_and_memory() {
    for data in [articles(), histories()] {
        let with = DataProfile { candidates: 24, ..data.clone() };
        let (bare, more) = (chosen(&data), chosen(&with));
        assert_eq!((bare.prompt.candidates, more.prompt.candidates), (0, 24));
        let (few, many) = (prompt_tokens(&bare, &data), prompt_tokens(&more, &with));
        assert!(many.0 > few.0 + 48.0 && many.1 > few.1 + 48, "two tokens each at least: {few:?} {many:?}");
        assert!(prefix_tokens(&more) > prefix_tokens(&bare) && prefix_tokens(&bare) == PREFIX);
        let (few, many) = (bare.train.generation_batch_size, more.train.generation_batch_size);
        assert!(many <= few && (many < few || more.train.max_steps < bare.train.max_steps), "{few} {many}");
    }
}
