use std::path::Path;

use super::super::Trainer;
use crate::checkpoint::RunState;
use crate::config::Method;
use crate::log::{StepMetrics, name};
use crate::rollout::fixture::{Fixture, Unobserved, left_behind};
use crate::schedule::SchedulerType;
use querywright_types::Judgements;

/// A run of the tiny model by this method, whose development queries are those that it learns from.
fn fixture(method: Method, mut fixture: Fixture) -> Fixture {
    fixture.materials.dev = fixture.materials.train.clone();
    let settings = &mut fixture.config;
    settings.train.method = method;
    settings.train.inject_feedback = false;
    settings.schedule.lr_scheduler_type = SchedulerType::Constant;
    settings.schedule.learning_rate = 1e-2;
    settings.curriculum.resample_rounds = 0;
    (settings.train.num_generations, settings.train.generation_batch_size) = (6, 18);
    (settings.train.eval_steps, settings.train.save_steps) = (4, 4);
    fixture
}

fn run(
    fixture: &mut Fixture,
    folder: &Path,
    steps: u64,
    resume: bool,
) -> querywright_types::Result<(RunState, Vec<StepMetrics>, String)> {
    fixture.config.train.output_dir = folder.to_path_buf();
    fixture.config.train.max_steps = steps;
    Trainer::new(&fixture.config, &fixture.materials, resume, &mut Unobserved)?.run(&mut Unobserved)?;
    Ok(left_behind(folder))
}

fn logged(metrics: &[StepMetrics], name: &str) -> Vec<f64> {
    metrics.iter().filter_map(|m| m.get(name)).collect()
}

/// A fixture of each method, with its files in `home`.
fn of_every_kind(home: &Path) -> Vec<(&'static str, Fixture)> {
    let write = |name: &str, text: &str| {
        std::fs::write(home.join(name), text).unwrap();
        Some(home.join(name))
    };
    let mut sft = fixture(Method::Sft, Fixture::new());
    sft.config.sft.pairs = write("pairs.tsv", "q0\tkettle\nsee at night\tlantern\nq2\tdome tent\n");
    sft.config.sft.batch_size = 2;
    let mut given = fixture(Method::Dpo, Fixture::new());
    given.config.dpo.pairs = write("preferences.tsv", "q0\tkettle\tzzz\nq1\tlantern\tboil\nq2\ttent\tnight\n");
    given.config.dpo.batch_size = 2;
    let words = || {
        let mut fixture = Fixture::restricted(&["kettle", "lantern", "tent"]);
        // One word is right for all: so small a model does not tell the queries apart.
        for (_, judgements) in &mut fixture.materials.train {
            *judgements = Judgements::new(vec![(0, 1)]);
        }
        fixture
    };
    let sampled = fixture(Method::Dpo, words());
    let mut rejection = fixture(Method::Rejection, words());
    rejection.config.rejection.round_steps = 3;
    rejection.config.rejection.batch_size = 2;
    vec![("sft", sft), ("dpo of a file", given), ("dpo of groups", sampled), ("rejection", rejection)]
}

#[test]
fn supervised_steps_make_the_rewrites_of_a_file_likelier() {
    let home = tempfile::tempdir().unwrap();
    let (_, mut sft) = of_every_kind(home.path()).swap_remove(0);
    let (state, metrics, completions) = run(&mut sft, &home.path().join("run"), 12, false).unwrap();
    let losses = logged(&metrics, name::LOSS);
    assert_eq!((losses.len(), state.step, completions.as_str()), (12, 12, ""));
    assert!((3.0..8.0).contains(&losses[0]), "a random model of bytes: ln 256 is 5.5, {losses:?}");
    assert!(losses[11] < losses[0] - 0.5, "{losses:?}");
    assert_eq!(logged(&metrics, "eval_nDCG@10").len(), 4, "before, every 4 steps");
}

#[test]
fn preferences_of_a_file_begin_at_the_reference_and_their_margin_rises() {
    let home = tempfile::tempdir().unwrap();
    let (_, mut dpo) = of_every_kind(home.path()).swap_remove(1);
    let (_, metrics, _) = run(&mut dpo, &home.path().join("run"), 12, false).unwrap();
    let [losses, margins, accuracies] =
        [name::LOSS, name::REWARDS_MARGINS, name::REWARDS_ACCURACIES].map(|name| logged(&metrics, name));
    assert!((losses[0] - std::f64::consts::LN_2).abs() < 1e-4 && margins[0].abs() < 1e-3, "{losses:?} {margins:?}");
    assert!(margins[11] > 0.1 && losses[11] < losses[0] - 0.05 && accuracies[11] == 1.0, "{margins:?} {losses:?}");
    let last = metrics.iter().rfind(|m| m.get(name::LOSS).is_some()).unwrap();
    let difference = last.get(name::REWARDS_CHOSEN).unwrap() - last.get(name::REWARDS_REJECTED).unwrap();
    assert!((difference - margins[11]).abs() < 1e-9 && last.get(name::LOGPS_CHOSEN).unwrap() < 0.0);
    assert!(!last.values.keys().any(|name| name.starts_with("clip_ratio")), "{last:?}");
}

#[test]
fn preferences_within_groups_raise_what_the_completions_earn() {
    let home = tempfile::tempdir().unwrap();
    let (_, mut dpo) = of_every_kind(home.path()).swap_remove(2);
    let (_, metrics, completions) = run(&mut dpo, &home.path().join("run"), 16, false).unwrap();
    let rewards = logged(&metrics, name::REWARD);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    assert!(mean(&rewards[12..]) > mean(&rewards[..4]) + 0.1, "{rewards:?}");
    assert!(logged(&metrics, name::PAIRS).iter().sum::<f64>() > 4.0);
    assert_eq!(completions.lines().count(), 16 * 18);
}

#[test]
fn rounds_of_rejection_sampling_raise_what_the_completions_earn() {
    let home = tempfile::tempdir().unwrap();
    let (_, mut rejection) = of_every_kind(home.path()).swap_remove(3);
    let (state, metrics, completions) = run(&mut rejection, &home.path().join("run"), 15, false).unwrap();
    let rewards = logged(&metrics, name::REWARD);
    assert_eq!(rewards.len(), 5, "one a round: {metrics:?}");
    assert!(rewards[4] > rewards[0] + 0.1, "{rewards:?}");
    let kept = logged(&metrics, name::KEPT_EXAMPLES);
    assert!(kept.len() == 15 && kept.iter().all(|kept| (1.0..=3.0).contains(kept)), "{kept:?}");
    assert_eq!(completions.lines().count(), 5 * 18, "three queries of six, a round");
    assert!(!state.replay.is_empty());
    // Nothing that earns so much can be sampled.
    rejection.config.rejection.margin = 2.0;
    let error = run(&mut rejection, &home.path().join("none"), 3, false).unwrap_err().to_string();
    assert!(error.starts_with("rejection.margin: none of the 18 completions of round 1 earned 2 more"), "{error}");
}

#[test]
fn a_run_of_any_method_that_goes_on_from_a_checkpoint_ends_as_one_that_was_not_interrupted() {
    let home = tempfile::tempdir().unwrap();
    for (kind, mut fixture) in of_every_kind(home.path()) {
        let (whole, halves) = (home.path().join(format!("{kind} whole")), home.path().join(format!("{kind} halves")));
        // In the middle of a round, and another one begins after it.
        (fixture.config.train.eval_steps, fixture.config.train.save_steps) = (2, 2);
        let right = run(&mut fixture, &whole, 4, false).unwrap();
        run(&mut fixture, &halves, 2, false).unwrap();
        let found = run(&mut fixture, &halves, 4, true).unwrap();
        assert_eq!(found.0, right.0, "{kind}: the state");
        assert_eq!(found.1, right.1, "{kind}: the metrics");
        assert!(found.2 == right.2, "{kind}: the completions");
        let adapter = |run: &Path| std::fs::read(run.join("best/adapter_model.safetensors")).unwrap();
        assert!(adapter(&whole) == adapter(&halves), "{kind}: the adapter");
    }
}

#[test]
fn a_run_resumes_wherever_its_file_lies_and_is_refused_where_that_holds_something_else() {
    let home = tempfile::tempdir().unwrap();
    let (_, mut sft) = of_every_kind(home.path()).swap_remove(0);
    let folder = home.path().join("run");
    run(&mut sft, &folder, 2, false).unwrap();
    let moved = home.path().join("moved.tsv");
    std::fs::rename(home.path().join("pairs.tsv"), &moved).unwrap();
    sft.config.sft.pairs = Some(moved.clone());
    run(&mut sft, &folder, 3, true).unwrap();
    std::fs::write(&moved, "q0\tanother\n").unwrap();
    let error = run(&mut sft, &folder, 4, true).unwrap_err().to_string();
    assert!(error.contains("the file that is learned from changed"), "{error}");
    std::fs::remove_file(&moved).unwrap();
    let error = run(&mut sft, &folder, 4, true).unwrap_err().to_string();
    assert!(error.contains("moved.tsv"), "{error}");
}
