//! `model merge`, `model skills`, probes and presets on the command line.

mod tiny;

use std::fs;
use std::path::Path;

const ADAPTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/peft-qwen3");

fn refusal(home: &Path, arguments: &[&str]) -> String {
    let output = tiny::run(home, arguments);
    assert!(!output.status.success(), "querywright {}", arguments.join(" "));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_merged_model_is_a_model_in_both_formats_and_nothing_is_written_over() {
    let home = tempfile::tempdir().unwrap();
    for (format, file) in [("safetensors", "model.safetensors"), ("gguf", "model.gguf")] {
        let arguments = ["model", "merge", tiny::GGUF, ADAPTER, "--out", format, "--format", format, "--json"];
        let merged = tiny::json(home.path(), &arguments);
        assert_eq!(merged["exported"]["dtype"], "f16", "the base is quantised");
        assert!(merged["exported"]["rounding"].as_f64().unwrap() > 0.0, "{merged}");
        assert!(merged["lm_eval"].as_str().unwrap().starts_with("lm_eval --model hf --model_args 'pretrained="));
        assert!(home.path().join(format).join(file).is_file());
        let info = tiny::json(home.path(), &["model", "info", format, "--json"]);
        assert_eq!((&info["family"], &info["format"]), (&"qwen3".into(), &format.into()));
        let before = fs::read(home.path().join(format).join(file)).unwrap();
        assert!(refusal(home.path(), &arguments).contains("holds files"));
        assert_eq!(fs::read(home.path().join(format).join(file)).unwrap(), before);
    }
    let folder = tiny::names(home.path());
    let left: Vec<&String> = folder.iter().filter(|name| name.starts_with('.')).collect();
    assert!(left.is_empty(), "{left:?}");
    // From a folder, its number type: nothing is rounded.
    let text = tiny::ok(home.path(), &["model", "merge", tiny::MODEL, ADAPTER, "--out", "whole"]);
    assert!(text.contains("(safetensors, F32,") && !text.contains("rounding"), "{text}");
}

#[test]
fn an_adapter_of_another_model_is_refused_unless_it_is_said_to_fit() {
    let home = tempfile::tempdir().unwrap();
    let other = home.path().join("adapter");
    tiny::copy(Path::new(ADAPTER), &other);
    let config = fs::read_to_string(other.join("adapter_config.json")).unwrap();
    let config =
        config.replace("\"base_model_name_or_path\": \"tiny-qwen3\"", "\"base_model_name_or_path\": \"x/another\"");
    assert!(config.contains("x/another"), "{config}");
    fs::write(other.join("adapter_config.json"), config).unwrap();
    let merge = ["model", "merge", tiny::MODEL, "adapter", "--out", "out", "--other-base"];
    let said = refusal(home.path(), &merge[..6]);
    assert!(said.contains("x/another") && said.contains("--other-base"), "{said}");
    assert!(!home.path().join("out").exists());
    tiny::ok(home.path(), &merge);
    // Another shape never fits.
    let llama = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tiny-llama.gguf");
    let said = refusal(home.path(), &["model", "merge", llama, "adapter", "--out", "no", "--other-base"]);
    assert!(said.contains("use the adapter with the model it was trained on"), "{said}");
}

#[test]
fn the_digest_that_a_run_kept_decides_whose_its_adapter_is() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("shop");
    tiny::write_shop(&data);
    let config = home.path().join("run.toml");
    fs::write(&config, tiny::config_text(&data, Path::new("run"), 1)).unwrap();
    tiny::ok(home.path(), &["train", "run.toml", "--no-eval"]);
    tiny::ok(home.path(), &["model", "merge", tiny::MODEL, "run/best", "--out", "own"]);
    // Of the same name and shape, and other weights.
    let said = refusal(home.path(), &["model", "merge", tiny::GGUF, "run/best", "--out", "quantised"]);
    assert!(said.contains("whose files are others") && said.contains("--other-base"), "{said}");
    let cost: serde_json::Value =
        serde_json::from_slice(&fs::read(home.path().join("run/cost.json")).unwrap()).unwrap();
    assert!(cost["spent"]["completion_tokens"].as_u64().unwrap() > 0 && cost["money"].is_null(), "{cost}");
}

#[test]
fn skills_are_measured_before_and_after() {
    let home = tempfile::tempdir().unwrap();
    let few = ["--requests", "3", "--max-tokens", "2"];
    let arguments = [&["model", "skills", tiny::GGUF, ADAPTER, "--json"][..], &few].concat();
    let skills = tiny::json(home.path(), &arguments);
    assert_eq!((&skills["requests"], skills["systems"].as_array().unwrap().len()), (&3.into(), 2));
    assert!(skills["systems"][0].get("against").is_none());
    assert!(skills["systems"][1]["against"]["kl"]["mean"].as_f64().unwrap() > 0.0, "{skills}");
    let text = tiny::ok(home.path(), &[&["model", "skills", tiny::GGUF][..], &few].concat());
    assert!(text.starts_with("skills: 3 requests with a constraint"), "{text}");
    assert!(refusal(home.path(), &["model", "skills", tiny::GGUF, "--requests", "0"]).contains("at least one"));
}

#[test]
fn an_evaluation_shows_its_probes_beside_a_baseline() {
    let home = tempfile::tempdir().unwrap();
    tiny::write_shop(&home.path().join("shop"));
    let rewriter = format!("{}+{ADAPTER}", tiny::MODEL);
    let arguments = ["eval", "--data", "shop", "--rewriter", &rewriter, "--baseline", tiny::MODEL, "--json"];
    let object = tiny::json(home.path(), &arguments);
    let systems = object["probes"]["systems"].as_array().unwrap();
    assert_eq!((systems.len(), &object["probes"]["against"]), (2, &"baseline".into()));
    assert!(systems[1]["rates"][0]["against"]["p"].is_number(), "{object}");
    let text = tiny::ok(home.path(), &["eval", "--data", "shop", "--rewriter", tiny::MODEL]);
    assert!(text.contains("probes for reward hacking") && text.contains("copies what is found"), "{text}");
    let text = tiny::ok(home.path(), &["eval", "--data", "shop"]);
    assert!(!text.contains("probes"), "the raw query pleases nobody: {text}");
}

#[test]
fn a_preset_is_a_run_s_configuration_for_any_data_set() {
    let home = tempfile::tempdir().unwrap();
    let arguments = ["train", "--preset", "rec-r1-beauty", "--data", "./shop", "--dry-run"];
    let text = tiny::ok(home.path(), &arguments);
    for part in
        ["name = \"hf:Qwen/Qwen2.5-3B-Instruct\"", "preset = \"rec-r1\"", "\"nDCG@5000\" = 1.0", "task = \"recommend\""]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let said = refusal(home.path(), &["train", "--preset", "rec-r2", "--data", "shop", "--dry-run"]);
    assert!(said.contains("did you mean rec-r1?"), "{said}");
    let said = refusal(home.path(), &["train", "--preset", "rec-r1"]);
    assert!(said.contains("--data"), "{said}");
}
