//! Configurations with a name: the runs of the Rec-R1 paper.

use anyhow::Result;
use querywright::Error;
use querywright::error::did_you_mean;
use querywright::train::TrainConfig;

/// The paper's run for product search; `docs/rec-r1.md` says what in it is the paper's.
const REC_R1: &str = include_str!("../assets/rec-r1.toml");

/// Its tasks, by what they change: the depth of the measure, the language that the model writes, the retriever.
const PRESETS: [(&str, &[&str]); 4] = [
    ("rec-r1", &[]),
    ("rec-r1-c4", &[]),
    (
        "rec-r1-c4-dense",
        &[
            "reward.measures={\"nDCG@3000\" = 1.0}",
            "prompt.language=natural",
            "retriever.dense={model = \"hf:hyp1231/blair-roberta-base\"}",
        ],
    ),
    (
        "rec-r1-beauty",
        &[
            "reward.measures={\"nDCG@5000\" = 1.0}",
            "prompt.task=recommend",
            "prompt.max_history=10",
            "prompt.max_title_chars=200",
        ],
    ),
];

/// The configuration of a preset for a data set. Settings of the user go over it.
pub fn config(name: &str, data: &str, settings: &[String]) -> Result<TrainConfig> {
    let Some((_, own)) = PRESETS.iter().find(|(known, _)| *known == name) else {
        let names = PRESETS.map(|(known, _)| known);
        let hint = did_you_mean(name, names);
        let remedy = format!("{hint}the presets are {}", names.join(", "));
        return Err(Error::argument("--preset", format!("\"{name}\" is unknown"), remedy).into());
    };
    let run = data.trim_end_matches(['/', '\\']).rsplit(['/', '\\', ':']).next().unwrap_or(data);
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let placed =
        [format!("data.name={}", quoted(data)), format!("train.output_dir={}", quoted(&format!("runs/{name}-{run}")))];
    let own = own.iter().map(|setting| (*setting).to_owned());
    let all: Vec<String> = placed.into_iter().chain(own).chain(settings.iter().cloned()).collect();
    Ok(TrainConfig::parse(REC_R1, &all, &format!("the preset {name}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use querywright::rewrite::{Mode, PromptStyle};
    use querywright::train::RewardPreset;
    use querywright::types::QueryLanguage;

    #[test]
    fn every_preset_is_a_configuration_with_the_paper_s_figures() {
        for (name, _) in PRESETS {
            let config = config(name, "./data/esci games/", &[]).unwrap();
            assert_eq!((config.prompt.style, config.prompt.mode), (PromptStyle::ThinkAnswer, Mode::Rewrite), "{name}");
            assert_eq!((config.prompts_per_step(), config.train.num_generations), (32, 12), "{name}");
            assert_eq!((config.sampling.temperature, config.sampling.top_p), (0.6, 0.95));
            assert_eq!((config.loss.epsilon, config.loss.beta, config.train.max_grad_norm), (0.2, 0.001, 1.0));
            assert_eq!(config.reward.preset, RewardPreset::RecR1);
            assert_eq!(config.data.name, "./data/esci games/");
            assert_eq!(config.train.output_dir.to_str(), Some(&*format!("runs/{name}-esci games")));
            assert!(!config.retriever.bm25.rec_r1_contents_prefix, "the bug is asked for, or it is not there");
        }
        let measures = |name: &str| config(name, "x", &[]).unwrap().reward.measures.into_keys().collect::<Vec<_>>();
        assert_eq!(
            (measures("rec-r1"), measures("rec-r1-c4-dense")),
            (vec!["nDCG@1000".into()], vec!["nDCG@3000".into()])
        );
        assert_eq!(measures("rec-r1-beauty"), ["nDCG@5000"]);
        let dense = config("rec-r1-c4-dense", "x", &[]).unwrap();
        assert_eq!(dense.prompt.language, Some(QueryLanguage::Natural));
        assert!(dense.retriever.dense.is_some());
    }

    #[test]
    fn settings_go_over_a_preset_and_an_unknown_one_is_refused() {
        let bug = ["retriever.bm25.rec_r1_contents_prefix=true".to_owned(), "data.name=demo".into()];
        let config = config("rec-r1", "x", &bug).unwrap();
        assert!(config.retriever.bm25.rec_r1_contents_prefix);
        assert_eq!(config.data.name, "demo");
        let error = super::config("rec-r2", "x", &[]).unwrap_err().to_string();
        assert!(error.contains("did you mean rec-r1?") && error.contains("rec-r1-beauty"), "{error}");
    }
}
