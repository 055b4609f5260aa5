//! A run that is interrupted at any moment and resumed ends as one that was never interrupted, bit for bit.

mod tiny;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use querywright::model::{Adapter, ModelSource};
use querywright::train::log::name;
use querywright::train::{Materials, SchedulerType, TrainConfig, Trainer};
use querywright::types::QueryLanguage;
use querywright_train::checkpoint::{self, RunState};
use rand::{Rng, SeedableRng};
use tiny::Watched;

/// What must not depend on how often a run was interrupted.
#[derive(PartialEq)]
struct RunFiles {
    best: Vec<u8>,
    adapter: Vec<u8>,
    optimizer: Vec<u8>,
    state: RunState,
    metrics: Vec<serde_json::Value>,
    completions: String,
}

impl RunFiles {
    fn of(run: &Path) -> Self {
        let (_, last) = checkpoint::list(run).unwrap().pop().expect("a checkpoint");
        let read = |path: std::path::PathBuf| fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut state: RunState = serde_json::from_slice(&read(last.join("state.json"))).unwrap();
        state.seconds = 0.0;
        let lines = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let timeless = |line: &str| {
            let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
            value.as_object_mut().unwrap().remove("step_time");
            value
        };
        Self {
            best: read(run.join("best/adapter_model.safetensors")),
            adapter: read(last.join("adapter_model.safetensors")),
            optimizer: read(last.join("optimizer.safetensors")),
            state,
            metrics: lines.lines().map(timeless).collect(),
            completions: fs::read_to_string(run.join("completions.jsonl")).unwrap(),
        }
    }

    /// Names the part that differs, rather than printing all bytes.
    fn must_equal(&self, other: &Self, when: &str) {
        assert_eq!(self.state, other.state, "{when}: the state");
        assert_eq!(self.metrics, other.metrics, "{when}: metrics.jsonl");
        assert!(self.completions == other.completions, "{when}: completions.jsonl");
        assert!(self.adapter == other.adapter, "{when}: the last adapter");
        assert!(self.optimizer == other.optimizer, "{when}: the optimiser");
        assert!(self.best == other.best, "{when}: the best adapter");
    }
}

fn train(config: &TrainConfig, materials: &Materials, resume: bool, watched: &mut Watched) -> querywright::Result<()> {
    Trainer::new(config, materials, resume, watched)?.run(watched).map(drop)
}

#[test]
fn a_run_interrupted_after_any_step_and_resumed_equals_one_that_was_not() {
    const STEPS: u64 = 6;
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("shop");
    tiny::write_shop(&data);
    let mut config = tiny::config(&data, &home.path().join("whole"), STEPS);
    let materials = tiny::materials(&config, &data);
    let mut watched = Watched::default();
    train(&config, &materials, false, &mut watched).unwrap();
    let whole = RunFiles::of(&config.train.output_dir);

    let sum = |name: &str| watched.steps.iter().filter_map(|m| m.get(name)).sum::<f64>();
    for switched_on in ["curriculum/injected_groups", "kl", "entropy_coef", "grad_norm"] {
        assert!(sum(switched_on) > 0.0, "the test must exercise {switched_on}");
    }
    assert!(whole.state.entropy.is_some() && whole.state.step == STEPS);

    for interrupted_at in 1..=STEPS {
        config.train.output_dir = home.path().join(format!("interrupted-{interrupted_at}"));
        // Two crashes: at this step, and again two steps further.
        for crash_at in [Some(interrupted_at), Some(interrupted_at + 2), None] {
            let mut watched = Watched { crash_at, ..Watched::default() };
            let done = catch_unwind(AssertUnwindSafe(|| train(&config, &materials, true, &mut watched)));
            assert_eq!(done.is_err(), crash_at.is_some_and(|step| step <= STEPS), "crash at {crash_at:?}");
            if let Ok(done) = done {
                done.unwrap();
            }
            if crash_at == Some(interrupted_at + 2) {
                assert_eq!(watched.resumed, (interrupted_at > 1).then_some(interrupted_at - 1));
            }
        }
        RunFiles::of(&config.train.output_dir).must_equal(&whole, &format!("interrupted in step {interrupted_at}"));
    }
}

#[test]
fn a_run_over_two_retrievers_takes_turns_and_an_interrupted_one_equals_one_that_was_not() {
    const STEPS: u64 = 6;
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("shop");
    tiny::write_shop(&data);
    let mut config = tiny::config(&data, &home.path().join("whole"), STEPS);
    config.train.replay = 2;
    let mut further = config.clone();
    further.retriever.bm25.language = QueryLanguage::Boolean;
    further.retriever.bm25.content = "household goods".into();
    let plain = tiny::materials(&config, &data);
    let boolean = Materials { decoder: plain.decoder.clone(), ..tiny::materials(&further, &data) };
    assert_ne!(plain.encoder.prefix(), boolean.encoder.prefix(), "each retriever has its own prompt");
    let materials = [plain, boolean];
    let train = |config: &TrainConfig, resume: bool, watched: &mut Watched| {
        Trainer::of_several(config, &materials, resume, watched)?.run(watched).map(drop)
    };
    let mut watched = Watched::default();
    train(&config, false, &mut watched).unwrap();
    let whole = RunFiles::of(&config.train.output_dir);
    let turns: Vec<_> = watched.steps.iter().map(|step| step.get(name::RETRIEVER).unwrap()).collect();
    assert_eq!(turns, [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
    assert!(watched.steps.iter().all(|step| step.get(name::GRAD_NORM).unwrap() > 0.0));
    assert_eq!(whole.state.also.len(), 1);
    let evaluated = whole.metrics.iter().rfind(|line| line.get("eval_nDCG@10").is_some()).unwrap();
    let score = |name: &str| evaluated[name].as_f64().unwrap();
    let each = [score("eval_nDCG@10/retriever-1"), score("eval_nDCG@10/retriever-2")];
    assert!((score("eval_nDCG@10") - each.iter().sum::<f64>() / 2.0).abs() < 1e-12);
    let prompt = |folder: &str| {
        let best = config.train.output_dir.join(folder).join("best");
        Adapter::load(&best, materials[0].decoder.config()).unwrap();
        fs::read(best.join("adapter_model.safetensors")).unwrap()
    };
    assert!(prompt("") == prompt("retriever-2"), "one adapter");

    for interrupted_at in [1, 4] {
        config.train.output_dir = home.path().join(format!("interrupted-{interrupted_at}"));
        let mut watched = Watched { crash_at: Some(interrupted_at), ..Watched::default() };
        assert!(catch_unwind(AssertUnwindSafe(|| train(&config, true, &mut watched))).is_err());
        train(&config, true, &mut Watched::default()).unwrap();
        RunFiles::of(&config.train.output_dir).must_equal(&whole, &format!("interrupted in step {interrupted_at}"));
    }
    let [plain, boolean] = materials;
    let refused = |config: &TrainConfig, materials: &[Materials]| {
        Trainer::of_several(config, materials, true, &mut Watched::default()).unwrap_err().to_string()
    };
    assert!(refused(&config, &[]).starts_with("materials: there are none"));
    let other = refused(&config, &[boolean, plain]);
    assert!(other.contains("was written under other settings"), "{other}");
    let apart = [tiny::materials(&config, &data), tiny::materials(&further, &data)];
    assert!(refused(&config, &apart).starts_with("materials: those of retriever 2 have another model"));
}

#[test]
fn a_run_interrupted_in_its_warm_start_or_after_it_equals_one_that_was_not() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("shop");
    tiny::write_shop(&data);
    // A word that is right for one request alone is not learned: each product of the training split gets a second one.
    let append = |file: &str, line: &dyn Fn(usize) -> String| {
        let text = fs::read_to_string(data.join(file)).unwrap() + &(0..9).map(line).collect::<String>();
        fs::write(data.join(file), text).unwrap();
    };
    append("queries.jsonl", &|i| format!("{{\"id\": \"again{i}\", \"text\": \"gift number {i}\"}}\n"));
    append("qrels.tsv", &|i| format!("again{i}\t0\td{i}\t1\n"));
    append("train.txt", &|i| format!("again{i}\n"));
    let mut config = tiny::config(&data, &home.path().join("whole"), 5);
    (config.warm_start.steps, config.warm_start.batch_size) = (3, 7);
    let materials = tiny::materials(&config, &data);
    let mut watched = Watched::default();
    train(&config, &materials, false, &mut watched).unwrap();
    let supervised: Vec<bool> = watched.steps.iter().map(|m| m.get("reward").is_none()).collect();
    assert_eq!(supervised, [true, true, true, false, false]);
    assert!(watched.steps.iter().all(|m| m.get("grad_norm") > Some(0.0)), "every step learns");
    let whole = RunFiles::of(&config.train.output_dir);
    let examples = fs::read_to_string(config.train.output_dir.join("warm_start.jsonl")).unwrap();
    assert!(examples.lines().count() >= 9 && examples.contains("kettle"), "{examples}");

    for interrupted_at in 1..=5 {
        config.train.output_dir = home.path().join(format!("interrupted-{interrupted_at}"));
        for crash_at in [Some(interrupted_at), None] {
            let mut watched = Watched { crash_at, ..Watched::default() };
            let done = catch_unwind(AssertUnwindSafe(|| train(&config, &materials, true, &mut watched)));
            assert_eq!(done.is_err(), crash_at.is_some());
        }
        RunFiles::of(&config.train.output_dir).must_equal(&whole, &format!("interrupted in step {interrupted_at}"));
    }
}

#[test]
fn a_checkpoint_moved_to_another_folder_resumes_there_to_the_same_end() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("shop");
    tiny::write_shop(&data);
    let mut config = tiny::config(&data, &home.path().join("whole"), 5);
    config.train.save_total_limit = 10;
    let materials = tiny::materials(&config, &data);
    train(&config, &materials, false, &mut Watched::default()).unwrap();
    let whole = config.train.output_dir.clone();
    // Neither the folder of a run nor how many checkpoints it keeps changes a number: neither is part of its digest.
    config.train.output_dir = home.path().join("moved");
    config.train.save_total_limit = 1;
    tiny::copy(&whole, &config.train.output_dir);
    for step in [4, 5] {
        fs::remove_dir_all(config.train.output_dir.join(format!("checkpoints/step-{step:08}"))).unwrap();
    }
    let mut watched = Watched::default();
    train(&config, &materials, true, &mut watched).unwrap();
    assert_eq!(watched.resumed, Some(3));
    assert_eq!(tiny::names(&config.train.output_dir.join("checkpoints")), ["step-00000005"]);
    RunFiles::of(&config.train.output_dir).must_equal(&RunFiles::of(&whole), "moved");
}

#[test]
fn a_finished_run_that_is_resumed_stays_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("shop");
    tiny::write_shop(&data);
    let config = tiny::config(&data, &home.path().join("run"), 2);
    let materials = tiny::materials(&config, &data);
    train(&config, &materials, false, &mut Watched::default()).unwrap();
    let before = RunFiles::of(&config.train.output_dir);
    let mut watched = Watched::default();
    train(&config, &materials, true, &mut watched).unwrap();
    assert!(watched.steps.is_empty());
    RunFiles::of(&config.train.output_dir).must_equal(&before, "resumed at the end");
}

#[test]
fn a_finished_run_that_is_made_longer_equals_one_that_was_begun_so() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("shop");
    tiny::write_shop(&data);
    let mut config = tiny::config(&data, &home.path().join("whole"), 6);
    config.schedule.lr_scheduler_type = SchedulerType::ConstantWithWarmup;
    config.schedule.warmup_steps = 2;
    config.train.eval_steps = 3;
    let materials = tiny::materials(&config, &data);
    train(&config, &materials, false, &mut Watched::default()).unwrap();
    let whole = RunFiles::of(&config.train.output_dir);

    config.train.output_dir = home.path().join("longer");
    config.train.max_steps = 3;
    train(&config, &materials, false, &mut Watched::default()).unwrap();
    config.train.max_steps = 6;
    for (crash_at, resumed) in [(Some(5), Some(3)), (None, Some(4))] {
        let mut watched = Watched { crash_at, ..Watched::default() };
        let done = catch_unwind(AssertUnwindSafe(|| train(&config, &materials, true, &mut watched)));
        assert_eq!((done.is_err(), watched.resumed), (crash_at.is_some(), resumed));
        if let Ok(done) = done {
            done.unwrap();
        }
    }
    RunFiles::of(&config.train.output_dir).must_equal(&whole, "made longer");

    // With a rate that falls to 0 at the end the steps that were made would have been others.
    config.schedule.lr_scheduler_type = SchedulerType::Cosine;
    config.schedule.warmup_steps = 0;
    config.train.output_dir = home.path().join("cosine");
    config.train.max_steps = 3;
    train(&config, &materials, false, &mut Watched::default()).unwrap();
    let before = RunFiles::of(&config.train.output_dir);
    for (steps, part) in [(6, "was planned for 3"), (2, "has made 3 steps")] {
        config.train.max_steps = steps;
        let error = train(&config, &materials, true, &mut Watched::default()).unwrap_err().to_string();
        assert!(error.starts_with("train.max_steps: ") && error.contains(part), "{error}");
    }
    RunFiles::of(&config.train.output_dir).must_equal(&before, "refused");
}

#[test]
fn a_second_trainer_in_the_folder_is_refused_as_long_as_the_first_is_there() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("shop");
    tiny::write_shop(&data);
    fs::write(home.path().join("run.toml"), tiny::config_text(&data, &home.path().join("run"), 2)).unwrap();
    let config = tiny::config(&data, &home.path().join("run"), 2);
    let materials = tiny::materials(&config, &data);
    let mut watched = Watched::default();
    let first = Trainer::new(&config, &materials, false, &mut watched).unwrap();
    let resume = ["train", "run.toml", "--no-eval", "--resume"];
    let second = tiny::run(home.path(), &resume);
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("another trainer is at work"), "{said}");
    assert!(said.contains(&format!("process {}", std::process::id())), "{said}");
    drop(first);
    tiny::ok(home.path(), &resume);
}

/// Every folder that bears a checkpoint's name is complete, and the best adapter is there.
fn must_be_readable(run: &Path) {
    let model = ModelSource::open(Path::new(tiny::MODEL)).unwrap();
    for (step, folder) in checkpoint::list(run).unwrap() {
        let shown = folder.display();
        let state = fs::read(folder.join("state.json")).unwrap_or_else(|e| panic!("{shown}: {e}"));
        let state: RunState = serde_json::from_slice(&state).unwrap_or_else(|e| panic!("{shown}: {e}"));
        assert_eq!(state.step, step);
        Adapter::load(&folder, model.config()).unwrap_or_else(|e| panic!("{shown}: {e}"));
        let moments = fs::read(folder.join("optimizer.safetensors")).unwrap_or_else(|e| panic!("{shown}: {e}"));
        safetensors::SafeTensors::deserialize(&moments).unwrap_or_else(|e| panic!("{shown}: {e}"));
    }
    if checkpoint::list(run).unwrap().is_empty() {
        return;
    }
    // Where two folders cannot be exchanged in one step, the old one may lie under the name of what is set aside.
    let exchanges = cfg!(any(target_os = "linux", target_os = "macos"));
    let aside = |name: &str| !exchanges && name.starts_with(".best.") && name.ends_with(".old");
    let best = tiny::names(run).into_iter().find(|name| name == "best" || aside(name));
    let best = best.expect("no kill loses the best adapter, not even for a moment");
    Adapter::load(&run.join(best), model.config()).unwrap();
}

#[test]
fn a_run_killed_again_and_again_ends_as_if_it_had_not_been() {
    const STEPS: u64 = 60;
    const KILLS: usize = 12;
    let home = tempfile::tempdir().unwrap();
    tiny::write_shop(&home.path().join("shop"));
    let write = |name: &str| {
        let text = tiny::config_text(&home.path().join("shop"), &home.path().join(name), STEPS);
        fs::write(home.path().join(format!("{name}.toml")), text).unwrap();
    };
    write("whole");
    write("killed");
    let start = Instant::now();
    tiny::ok(home.path(), &["train", "whole.toml", "--no-eval"]);
    let whole_run = start.elapsed();

    let run = home.path().join("killed");
    let resume = ["train", "killed.toml", "--no-eval", "--resume"];
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let mut interrupted = 0;
    for _ in 0..KILLS {
        let mut process =
            tiny::program(home.path()).args(resume).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Between a moment after its start and a sixth of the run: most kills fall into training and saving.
        std::thread::sleep(Duration::from_millis(5) + whole_run.mul_f64(rng.random_range(0.0..0.16)));
        interrupted += usize::from(process.try_wait().unwrap().is_none());
        process.kill().unwrap();
        process.wait().unwrap();
        if run.exists() {
            must_be_readable(&run);
        }
    }
    assert!(interrupted >= KILLS / 2, "only {interrupted} kills met a process that was at work");
    tiny::ok(home.path(), &resume);
    must_be_readable(&run);
    RunFiles::of(&run).must_equal(&RunFiles::of(&home.path().join("whole")), "killed");
    for folder in [run.clone(), run.join("checkpoints")] {
        let left: Vec<String> = tiny::names(&folder).into_iter().filter(|name| name.starts_with('.')).collect();
        assert!(left.is_empty(), "killed writers left {left:?}");
    }
}

#[test]
fn a_folder_with_a_run_is_refused_without_resume_and_with_another_configuration() {
    let home = tempfile::tempdir().unwrap();
    tiny::write_shop(&home.path().join("shop"));
    let text = tiny::config_text(&home.path().join("shop"), &home.path().join("run"), 1);
    fs::write(home.path().join("run.toml"), text).unwrap();
    let refused = |arguments: &[&str]| {
        let output = tiny::run(home.path(), arguments);
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    tiny::ok(home.path(), &["train", "run.toml", "--no-eval"]);
    let before = RunFiles::of(&home.path().join("run"));
    let again = refused(&["train", "run.toml", "--no-eval"]);
    assert!(again.contains("already holds a run") && again.contains("--resume"), "{again}");
    let other = refused(&["train", "run.toml", "--no-eval", "--resume", "--set", "train.seed=9", "--set", "lora.r=2"]);
    for part in
        ["other settings", "train.seed was 0 and is 9", "lora.r was 4 and is 2", "--set train.seed=0", "output_dir"]
    {
        assert!(other.contains(part), "{part}: {other}");
    }
    let shop = home.path().join("shop/corpus.jsonl");
    fs::write(&shop, fs::read_to_string(&shop).unwrap().replace("steel item", "steel thing")).unwrap();
    let changed = refused(&["train", "run.toml", "--no-eval", "--resume"]);
    assert!(changed.contains("the retriever or its catalogue changed"), "{changed}");
    RunFiles::of(&home.path().join("run")).must_equal(&before, "refused");
}

#[test]
fn a_best_adapter_that_was_removed_is_put_back_where_it_is_the_last_and_else_missed_aloud() {
    let home = tempfile::tempdir().unwrap();
    tiny::write_shop(&home.path().join("shop"));
    let text = tiny::config_text(&home.path().join("shop"), &home.path().join("run"), 2);
    fs::write(home.path().join("run.toml"), text).unwrap();
    let resume = ["train", "run.toml", "--no-eval", "--resume"];
    tiny::ok(home.path(), &resume);
    let run = home.path().join("run");
    let (_, last) = checkpoint::list(&run).unwrap().pop().unwrap();
    let adapter = fs::read(last.join("adapter_model.safetensors")).unwrap();
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(last.join("state.json")).unwrap()).unwrap();
    for best_step in [2, 0] {
        state["best"][1] = best_step.into();
        fs::write(last.join("state.json"), state.to_string()).unwrap();
        fs::remove_dir_all(run.join("best")).unwrap();
        let output = tiny::run(home.path(), &resume);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), best_step == 2, "{said}");
        match best_step {
            2 => assert!(fs::read(run.join("best/adapter_model.safetensors")).unwrap() == adapter),
            _ => assert!(said.contains("it is gone; it was the adapter after step 0 of 2"), "{said}"),
        }
    }
}
