//! Zero-shot baselines that a rewriter's name asks for: a model with the prompt and the composition of a paper.

use std::path::Path;

use querywright::rewrite::PromptConfig;

/// The model of a baseline that names none.
const MODEL: &str = "smollm2-135m";

/// The model and the prompt of a baseline, as `hyde`, `rerank` or `hyde:MODEL`; none where `text` names something else. A path that
/// exists is a path.
pub fn at(text: &str) -> Option<(&str, PromptConfig)> {
    let (name, model) = text.split_once(':').unwrap_or((text, MODEL));
    let prompt = match name {
        _ if Path::new(text).exists() => return None,
        "hyde" => PromptConfig::hyde(),
        "query2doc" => PromptConfig::query2doc(),
        "rerank" => PromptConfig::rerank(),
        _ => return None,
    };
    Some((if model.is_empty() { MODEL } else { model }, prompt))
}

#[cfg(test)]
mod tests {
    use super::*;
    use querywright::rewrite::Mode;

    #[test]
    fn a_baseline_has_the_usual_model_or_the_one_behind_the_colon() {
        for (text, model) in [
            ("hyde", MODEL),
            ("query2doc:", MODEL),
            ("hyde:hf:Qwen/Qwen2.5-0.5B-Instruct", "hf:Qwen/Qwen2.5-0.5B-Instruct"),
            ("query2doc:a/model.gguf", "a/model.gguf"),
        ] {
            let (found, prompt) = at(text).unwrap();
            assert_eq!((found, prompt.mode), (model, Mode::Document), "{text}");
        }
        assert_ne!(at("hyde").unwrap().1, at("query2doc").unwrap().1);
        let (model, prompt) = at("rerank:a/model.gguf").unwrap();
        assert_eq!((model, prompt.mode, prompt.candidates), ("a/model.gguf", Mode::Rerank, 10));
        for other in ["smollm2-135m", "hyde+adapter", "hf:hyde", "identity", ""] {
            assert!(at(other).is_none(), "{other}");
        }
    }
}
